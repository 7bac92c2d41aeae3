//! HTTP requests on one connection each, for commands that send few requests.
//!
//! The caller has to know whether a failed request may have been executed: [`Failure`]
//! distinguishes the cases. The benchmark reuses its connections instead (`bench/connection.rs`).

use http_body_util::BodyExt;
use hyper::header::HeaderValue;
use hyper_util::rt::TokioIo;
pub use kv::client::{Exchange, Failure, Request, Response};
use raft::check_address;
use std::io;
use std::time::Duration;
use tokio::net::TcpStream;
use tokio::time::{Instant, timeout_at};
use transport_http::net::not_itself;

/// The timeout of connecting to one address of a node. A node that takes longer counts as down.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(2);
/// The timeout of a name look-up. Generous, because resolvers try their servers one after another.
const LOOKUP_TIMEOUT: Duration = Duration::from_secs(5);

/// An [`Exchange`] that opens a new connection for each request.
pub struct Sockets;

impl Exchange for Sockets {
    async fn exchange(
        &self,
        address: &str,
        request: &Request,
        timeout: Duration,
    ) -> Result<Response, Failure> {
        exchange(address, request, timeout).await
    }
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
    let stream = connect(address, deadline).await?;
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
            // The connection has ended, so the answer is complete or fails now.
            _ = &mut connection => answer.await,
        }
    };
    timeout_at(deadline, both)
        .await
        .map_err(|_| lost(format!("no answer within {} ms", timeout.as_millis())))?
        .map_err(|error| lost(format!("connection lost: {error}")))
}

/// Connects to the node at `address`. Tries the addresses of its name in turn.
pub async fn connect(address: &str, deadline: Instant) -> Result<TcpStream, Failure> {
    let not_sent = |what: &str| Failure::NotSent(format!("{address}: {what}"));
    let nobody = |what: String| Failure::Nobody(format!("{address}: {what}"));
    let lookup_deadline = deadline.min(Instant::now() + LOOKUP_TIMEOUT);
    let found = timeout_at(lookup_deadline, tokio::net::lookup_host(address))
        .await
        .map_err(|_| not_sent("the name look-up took too long"))?
        .map_err(|error| nobody(format!("the name look-up failed: {error}")))?;
    let mut failure = nobody("the name has no address".into());
    for address in found {
        let connect_deadline = deadline.min(Instant::now() + CONNECT_TIMEOUT);
        let connected = async { not_itself(TcpStream::connect(address).await?) };
        match timeout_at(connect_deadline, connected).await {
            Ok(Ok(stream)) => {
                // Without this option the exchange is only slower.
                let _ = stream.set_nodelay(true);
                return Ok(stream);
            }
            Ok(Err(error)) if error.kind() == io::ErrorKind::ConnectionRefused => {
                // Keep an earlier failure of another kind: that address may have been only slow.
                if matches!(failure, Failure::Nobody(_)) {
                    failure = nobody("nothing listens there (connection refused)".into());
                }
            }
            Ok(Err(error)) => failure = not_sent(&error.to_string()),
            Err(_) => failure = not_sent("no connection in time"),
        }
    }
    Err(failure)
}

/// The `host:port` of a server argument. `http://` and a trailing slash are optional. A URL without
/// a port has port 80, as everywhere; anything else has to name its port.
pub fn address_of(server: &str) -> Result<String, String> {
    let (is_url, rest) = match server.split_once("://") {
        None => (false, server),
        Some(("http", rest)) => (true, rest),
        Some((scheme, _)) => return Err(format!("{scheme} is not supported, use http")),
    };
    let address = rest.trim_end_matches('/');
    if address.is_empty() || address.contains(|c: char| c == '/' || c.is_whitespace()) {
        return Err("expected http://host:port".to_owned());
    }
    if address.contains('@') {
        return Err("a server has no user name and no password".to_owned());
    }
    check_address(address).map_err(|why| format!("it {why}"))?;
    // An IPv6 address in brackets contains colons too.
    let port_at = address.rfind(':').filter(|at| !address[*at..].contains(']'));
    let (host, port) = match port_at {
        Some(at) => (&address[..at], Some(&address[at + 1..])),
        None => (address, None),
    };
    if host.contains(':') && !(host.starts_with('[') && host.ends_with(']')) {
        return Err("put an IPv6 address in brackets: http://[::1]:8080".to_owned());
    }
    match port.map(str::parse::<u16>) {
        _ if host.is_empty() => Err("it has no host: expected http://host:port".to_owned()),
        Some(Ok(0)) | Some(Err(_)) => Err("its port is no number from 1 to 65535".to_owned()),
        Some(Ok(_)) => Ok(address.to_owned()),
        None if is_url => Ok(format!("{address}:80")),
        None => Err("it has no port: expected http://host:port".to_owned()),
    }
}

#[cfg(test)]
mod tests {
    use super::address_of;

    #[test]
    fn a_server_may_be_written_as_url_or_address() {
        assert_eq!(address_of("http://127.0.0.1:8080/").unwrap(), "127.0.0.1:8080");
        assert_eq!(address_of("localhost:8081").unwrap(), "localhost:8081");
        assert_eq!(address_of("http://[::1]:8080").unwrap(), "[::1]:8080");
        assert_eq!(address_of("http://example.org").unwrap(), "example.org:80");
        assert_eq!(address_of("http://[::1]/").unwrap(), "[::1]:80");
    }

    #[test]
    fn what_is_no_plain_http_server_is_refused() {
        assert!(address_of("https://localhost:8080").unwrap_err().contains("https"));
        assert!(address_of("http://").is_err());
        assert!(address_of("http://localhost/v1/kv").is_err());
        for (server, why) in [
            ("127.0.0.1", "no port"),
            ("[::1]", "no port"),
            ("::1:8080", "brackets"),
            ("http://::1", "brackets"),
            ("http://:8080", "no host"),
            ("localhost:80800", "1 to 65535"),
            ("localhost:", "1 to 65535"),
            ("http://a\x1b[2Jb:8080", "contains '\\u{1b}'"),
            (&format!("{}:8080", "a".repeat(257)), "at most 261"),
            ("http://admin:secret@localhost:8080", "no password"),
        ] {
            let error = address_of(server).unwrap_err();
            assert!(error.contains(why) && !error.contains("secret"), "{server}: {error}");
        }
    }
}
