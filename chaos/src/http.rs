//! A client of one node that tells what was certainly not sent from what is unknown.
//!
//! It repeats nothing: a client that repeats would hide what the histories are about.

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

/// An answer, whole.
#[derive(Clone, Debug)]
pub struct Answer {
    /// The status.
    pub status: u16,
    /// The version in the `ETag`.
    pub version: Option<String>,
    /// The body.
    pub body: Bytes,
}

impl Answer {
    /// The body as JSON; null if it is none.
    pub fn json(&self) -> serde_json::Value {
        serde_json::from_slice(&self.body).unwrap_or_default()
    }

    /// The body as text, cut for a message.
    pub fn text(&self) -> String {
        String::from_utf8_lossy(&self.body).chars().take(200).collect()
    }
}

/// Why there is no answer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Failed {
    /// There was no connection: the request was certainly not sent.
    NotSent,
    /// It was sent, at least in part.
    Unknown,
}

/// A kept connection to one node.
pub struct Connection {
    address: SocketAddr,
    sender: Option<SendRequest<Full<Bytes>>>,
}

impl Connection {
    /// To this node, from the first request on.
    pub fn new(address: SocketAddr) -> Self {
        Connection { address, sender: None }
    }

    /// Sends a request and reads the answer within `limit`.
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
        // The paths and headers here are constants and digits.
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

    /// `GET path`.
    pub async fn get(&mut self, path: &str, limit: Duration) -> Result<Answer, Failed> {
        self.ask(Method::GET, path, &[], Bytes::new(), limit).await
    }
}

async fn connect(address: SocketAddr) -> Result<SendRequest<Full<Bytes>>, Failed> {
    let stream = TcpStream::connect(address).await.map_err(|_| Failed::NotSent)?;
    // Latency is measured here; a refusal changes nothing else.
    let _ = stream.set_nodelay(true);
    let (sender, connection) =
        handshake(TokioIo::new(stream)).await.map_err(|_| Failed::NotSent)?;
    // It ends with the connection, which ends when the sender is dropped.
    tokio::spawn(connection);
    Ok(sender)
}
