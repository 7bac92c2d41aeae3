//! A connection that is reused: the next request is sent when the last one is answered.

use crate::cli::http::{self, Failure, Request, Response};
use bytes::Bytes;
use http_body_util::{BodyExt, Full};
use hyper::client::conn::http1::{SendRequest, handshake};
use hyper::header::HeaderValue;
use hyper_util::rt::TokioIo;
use std::time::Duration;
use tokio::time::{Instant, timeout};

/// The timeout of connecting, including the name look-up.
const CONNECT_TIME: Duration = Duration::from_secs(5);

/// A connection to one node. After a failure it must not be used again.
pub struct Connection {
    sender: SendRequest<Full<Bytes>>,
    host: HeaderValue,
}

impl Connection {
    /// Connects to the node at `address`.
    pub async fn open(address: &str) -> Result<Self, Failure> {
        let not_sent = |why: String| Failure::NotSent(format!("{address}: {why}"));
        let stream = http::connect(address, Instant::now() + CONNECT_TIME).await?;
        let (sender, connection) =
            handshake(TokioIo::new(stream)).await.map_err(|error| not_sent(error.to_string()))?;
        let host = HeaderValue::from_str(address).map_err(|error| not_sent(error.to_string()))?;
        // The task ends with the connection, and the sender then returns the error.
        tokio::spawn(connection);
        Ok(Connection { sender, host })
    }

    /// Sends a request and waits for the whole answer.
    pub async fn exchange(
        &mut self,
        request: &Request,
        within: Duration,
    ) -> Result<Response, Failure> {
        let request = request.build(&self.host).map_err(Failure::NotSent)?;
        self.sender.ready().await.map_err(|error| Failure::NotSent(error.to_string()))?;
        let answer = async {
            let (parts, body) = self.sender.send_request(request).await?.into_parts();
            let body = body.collect().await?.to_bytes();
            Ok::<_, hyper::Error>(Response { status: parts.status, headers: parts.headers, body })
        };
        timeout(within, answer)
            .await
            .map_err(|_| Failure::Lost("no answer in time".into()))?
            .map_err(|_| Failure::Lost("connection lost".into()))
    }
}
