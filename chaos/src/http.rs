//! A client of one node. It distinguishes a request that was certainly not sent from one whose
//! outcome is unknown.
//!
//! It never retries: retries would hide the outcomes that the histories record.

use crate::bounds::ANSWER_BYTES_MAX;
use bytes::Bytes;
use http_body_util::{BodyExt, Full, Limited};
use hyper::client::conn::http1::{SendRequest, handshake};
use hyper::header::{ETAG, HOST};
use hyper::{Method, Request};
use hyper_util::rt::TokioIo;
use std::net::SocketAddr;
use std::time::Duration;
use tokio::net::TcpStream;

/// A complete response.
#[derive(Clone, Debug)]
pub struct Answer {
    /// The HTTP status.
    pub status: u16,
    /// The version in the `ETag`.
    pub version: Option<String>,
    /// The body.
    pub body: Bytes,
}

impl Answer {
    /// The body as JSON; null if it is not JSON.
    pub fn json(&self) -> serde_json::Value {
        serde_json::from_slice(&self.body).unwrap_or_default()
    }

    /// The body as text, cut to 200 characters for a message.
    pub fn text(&self) -> String {
        String::from_utf8_lossy(&self.body).chars().take(200).collect()
    }
}

/// Why there is no answer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Failed {
    /// There was no connection: the request was certainly not sent.
    NotSent,
    /// It may have been sent, at least in part.
    Unknown,
}

/// A connection to one node, which is kept for further requests.
pub struct Connection {
    address: SocketAddr,
    sender: Option<SendRequest<Full<Bytes>>>,
}

impl Connection {
    /// A connection to this node, which the first request opens.
    pub fn new(address: SocketAddr) -> Self {
        Connection { address, sender: None }
    }

    /// Sends a request and reads the response, both within `limit`.
    pub async fn ask(
        &mut self,
        method: Method,
        path: &str,
        headers: &[(&str, &str)],
        body: impl Into<Bytes>,
        limit: Duration,
    ) -> Result<Answer, Failed> {
        let mut request = Request::builder().method(method).uri(path);
        request = request.header(HOST, self.address.to_string());
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        // This cannot fail: the paths and headers here are constants and digits.
        let request = request.body(Full::new(body.into())).map_err(|_| Failed::NotSent)?;
        let mut connected = false;
        let asked = tokio::time::timeout(limit, async {
            let mut sender = match self.sender.take() {
                Some(sender) if !sender.is_closed() => sender,
                _ => connect(self.address).await?,
            };
            connected = true;
            let answer = sender.send_request(request).await.map_err(|_| Failed::Unknown)?;
            let (parts, body) = answer.into_parts();
            let body = Limited::new(body, ANSWER_BYTES_MAX).collect().await;
            let body = body.map_err(|_| Failed::Unknown)?.to_bytes();
            self.sender = Some(sender);
            let version = parts.headers.get(ETAG).and_then(|tag| tag.to_str().ok());
            let version = version.map(str::to_owned);
            Ok(Answer { status: parts.status.as_u16(), version, body })
        });
        match asked.await {
            Ok(answer) => answer,
            Err(_) if connected => Err(Failed::Unknown),
            Err(_) => Err(Failed::NotSent),
        }
    }

    /// Sends `GET path`.
    pub async fn get(&mut self, path: &str, limit: Duration) -> Result<Answer, Failed> {
        self.ask(Method::GET, path, &[], Bytes::new(), limit).await
    }
}

async fn connect(address: SocketAddr) -> Result<SendRequest<Full<Bytes>>, Failed> {
    let stream = TcpStream::connect(address).await.map_err(|_| Failed::NotSent)?;
    // Latency is measured here. A failure only makes it worse.
    let _ = stream.set_nodelay(true);
    let (sender, connection) =
        handshake(TokioIo::new(stream)).await.map_err(|_| Failed::NotSent)?;
    // The task ends with the connection, which ends when the sender is dropped.
    tokio::spawn(connection);
    Ok(sender)
}
