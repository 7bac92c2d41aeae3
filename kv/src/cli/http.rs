//! One HTTP request on a connection of its own, for the commands that send few.
//!
//! What matters to the caller of a store is whether a request that failed may have been executed:
//! [`Failure`] tells the two cases apart. The benchmark keeps its connections (`bench/connection.rs`).

use bytes::Bytes;
use http_body_util::{BodyExt, Full};
use hyper::header::{HOST, HeaderMap, HeaderName, HeaderValue};
use hyper::{Method, StatusCode};
use hyper_util::rt::TokioIo;
use std::time::Duration;
use tokio::net::TcpStream;
use tokio::time::{Instant, timeout_at};

/// How long a connection may take to be made. Longer, and the node counts as down.
pub const CONNECT_TIMEOUT: Duration = Duration::from_secs(2);

/// What to ask.
#[derive(Clone)]
pub struct Request {
    /// GET, PUT, ...
    pub method: Method,
    /// Path and query, percent-encoded.
    pub path: String,
    /// Headers beyond `Host`.
    pub headers: Vec<(HeaderName, HeaderValue)>,
    /// The body; empty for none.
    pub body: Bytes,
}

impl Request {
    /// A request without headers and body.
    pub fn new(method: Method, path: impl Into<String>) -> Self {
        Request { method, path: path.into(), headers: Vec::new(), body: Bytes::new() }
    }

    /// With this body.
    pub fn body(mut self, body: impl Into<Bytes>) -> Self {
        self.body = body.into();
        self
    }

    /// The request as hyper takes it, for the node at `host`.
    pub fn build(&self, host: &HeaderValue) -> Result<hyper::Request<Full<Bytes>>, String> {
        let mut request = hyper::Request::new(Full::new(self.body.clone()));
        *request.method_mut() = self.method.clone();
        *request.uri_mut() =
            self.path.parse().map_err(|error| format!("bad path {}: {error}", self.path))?;
        request.headers_mut().insert(HOST, host.clone());
        for (name, value) in &self.headers {
            request.headers_mut().insert(name.clone(), value.clone());
        }
        Ok(request)
    }
}

/// What was answered.
pub struct Response {
    /// The status.
    pub status: StatusCode,
    /// The headers.
    pub headers: HeaderMap,
    /// The whole body.
    pub body: Bytes,
}

impl Response {
    /// The body as JSON; null where it is none.
    pub fn json(&self) -> serde_json::Value {
        serde_json::from_slice(&self.body).unwrap_or(serde_json::Value::Null)
    }
}

/// Why there is no answer.
#[derive(Debug, thiserror::Error)]
pub enum Failure {
    /// The request never left: it was not executed.
    #[error("{0}")]
    NotSent(String),
    /// The request may have been executed.
    #[error("{0}")]
    Lost(String),
}

/// Sends `request` to the node at `address` (`host:port`) and waits for the whole answer.
pub async fn exchange(
    address: &str,
    request: &Request,
    timeout: Duration,
) -> Result<Response, Failure> {
    let deadline = Instant::now() + timeout;
    let not_sent = |what: String| Failure::NotSent(format!("{address}: {what}"));
    let lost = |what: String| Failure::Lost(format!("{address}: {what}"));

    let host = HeaderValue::from_str(address).map_err(|error| not_sent(error.to_string()))?;
    let built = request.build(&host).map_err(not_sent)?;
    let connect_deadline = deadline.min(Instant::now() + CONNECT_TIMEOUT);
    let stream = timeout_at(connect_deadline, TcpStream::connect(address))
        .await
        .map_err(|_| not_sent("no connection in time".into()))?
        .map_err(|error| not_sent(error.to_string()))?;
    // A failure only makes the exchange slower.
    let _ = stream.set_nodelay(true);
    let (mut sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(stream))
        .await
        .map_err(|error| not_sent(error.to_string()))?;

    let answer = async {
        let response = sender.send_request(built).await?;
        let (parts, body) = response.into_parts();
        let body = body.collect().await?.to_bytes();
        Ok::<_, hyper::Error>(Response { status: parts.status, headers: parts.headers, body })
    };
    tokio::pin!(answer, connection);
    let both = async {
        tokio::select! {
            biased;
            answer = &mut answer => answer,
            // The connection ended first: what the answer knows of it is final.
            _ = &mut connection => answer.await,
        }
    };
    timeout_at(deadline, both)
        .await
        .map_err(|_| lost(format!("no answer within {} ms", timeout.as_millis())))?
        .map_err(|error| lost(format!("connection lost: {error}")))
}

/// The `host:port` of a server as people write it: with or without `http://` and a last slash.
pub fn address_of(server: &str) -> Result<String, String> {
    let rest = match server.split_once("://") {
        None => server,
        Some(("http", rest)) => rest,
        Some((scheme, _)) => return Err(format!("{server}: {scheme} is not spoken, use http")),
    };
    let address = rest.trim_end_matches('/');
    if address.is_empty() || address.contains('/') {
        return Err(format!("{server}: expected http://host:port"));
    }
    // A bracketed IPv6 address has colons of its own.
    let has_port = address.rsplit_once(':').is_some_and(|(host, port)| {
        port.parse::<u16>().is_ok() && (!host.contains(':') || host.ends_with(']'))
    });
    Ok(if has_port { address.to_owned() } else { format!("{address}:80") })
}

#[cfg(test)]
mod tests {
    use super::address_of;

    #[test]
    fn a_server_may_be_written_as_url_or_address() {
        assert_eq!(address_of("http://127.0.0.1:8080/").unwrap(), "127.0.0.1:8080");
        assert_eq!(address_of("localhost:8081").unwrap(), "localhost:8081");
        assert_eq!(address_of("http://[::1]:8080").unwrap(), "[::1]:8080");
        assert_eq!(address_of("example.org").unwrap(), "example.org:80");
    }

    #[test]
    fn what_is_no_plain_http_server_is_refused() {
        assert!(address_of("https://localhost:8080").unwrap_err().contains("https"));
        assert!(address_of("http://").is_err());
        assert!(address_of("http://localhost/v1/kv").is_err());
    }
}
