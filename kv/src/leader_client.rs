//! Passes requests on to the leader over pooled connections.

use crate::api::{Forward, ForwardError};
use bytes::Bytes;
use http_body_util::{BodyExt, Full, Limited};
use hyper::{Request, Response};
use hyper_util::client::legacy::Client;
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::rt::{TokioExecutor, TokioTimer};
use std::future::Future;
use std::pin::Pin;
use std::time::Duration;

/// Longer, and the leader counts as gone.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(1);
/// Less than the time after which the other side closes an idle connection.
const IDLE_TIMEOUT: Duration = Duration::from_secs(15);
/// Connections that are kept for the next requests.
const IDLE_MAX: usize = 256;
/// The most bytes of an answer: none of those that are passed on is nearly as large.
const ANSWER_BYTES_MAX: usize = 16 << 20;

/// Connections to the other nodes' client ports.
#[derive(Clone, Debug)]
pub(crate) struct LeaderClient {
    client: Client<HttpConnector, Full<Bytes>>,
}

impl LeaderClient {
    /// Without any connection yet.
    pub fn new() -> Self {
        let mut connector = HttpConnector::new();
        connector.set_nodelay(true);
        connector.set_connect_timeout(Some(CONNECT_TIMEOUT));
        // A request that never left on a connection found closed is sent on another one. That is the
        // only case in which the client sends anything again.
        let client = Client::builder(TokioExecutor::new())
            .pool_timer(TokioTimer::new())
            .pool_idle_timeout(IDLE_TIMEOUT)
            .pool_max_idle_per_host(IDLE_MAX)
            .build(connector);
        LeaderClient { client }
    }
}

impl Forward for LeaderClient {
    fn forward(
        &self,
        request: Request<Bytes>,
        timeout: Duration,
    ) -> Pin<Box<dyn Future<Output = Result<Response<Bytes>, ForwardError>> + Send>> {
        let answer = self.client.request(request.map(Full::new));
        Box::pin(async move {
            let exchange = async {
                let response = answer.await.map_err(|error| {
                    if error.is_connect() { ForwardError::NotSent } else { ForwardError::Lost }
                })?;
                let (parts, body) = response.into_parts();
                let body = Limited::new(body, ANSWER_BYTES_MAX).collect().await;
                let body = body.map_err(|_| ForwardError::Lost)?.to_bytes();
                Ok(Response::from_parts(parts, body))
            };
            tokio::time::timeout(timeout, exchange).await.unwrap_or(Err(ForwardError::Lost))
        })
    }
}
