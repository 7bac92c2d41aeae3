//! One connection that is kept: the next request goes out on it when the last one is answered.

use crate::cli::http::{self, Failure, Request, Response};
use bytes::Bytes;
use http_body_util::{BodyExt, Full};
use hyper::client::conn::http1::{SendRequest, handshake};
use hyper::header::HeaderValue;
use hyper_util::rt::TokioIo;
use std::time::Duration;
use tokio::time::{Instant, timeout};

/// How long a connection may take to be made, look-up and all.
const CONNECT_TIME: Duration = Duration::from_secs(5);

/// A connection to one node. After a failure it is of no more use.
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
        // It ends with the connection, and the sender hears why.
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
