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
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::Semaphore;

/// Longer, and the leader counts as gone.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(1);
/// Less than the time after which the other side closes an idle connection.
const IDLE_TIMEOUT: Duration = Duration::from_secs(15);
/// The most bytes of an answer: none of those that are passed on is as large. Values are not.
const ANSWER_BYTES_MAX: usize = 1 << 20;

/// Connections to the other nodes' client ports.
#[derive(Clone, Debug)]
pub(crate) struct LeaderClient {
    client: Client<HttpConnector, Full<Bytes>>,
    /// Requests that may be under way, each on a connection of its own.
    places: Arc<Semaphore>,
}

impl LeaderClient {
    /// Without any connection yet, and at no time with more than `connections_max`.
    pub fn new(connections_max: usize) -> Self {
        let mut connector = HttpConnector::new();
        connector.set_nodelay(true);
        connector.set_connect_timeout(Some(CONNECT_TIMEOUT));
        // A request that never left on a connection found closed is sent on another one. That is the
        // only case in which the client sends anything again.
        let client = Client::builder(TokioExecutor::new())
            .pool_timer(TokioTimer::new())
            .pool_idle_timeout(IDLE_TIMEOUT)
            .pool_max_idle_per_host(connections_max)
            .build(connector);
        LeaderClient { client, places: Arc::new(Semaphore::new(connections_max)) }
    }
}

impl Forward for LeaderClient {
    fn forward(
        &self,
        request: Request<Bytes>,
        timeout: Duration,
    ) -> Pin<Box<dyn Future<Output = Result<Response<Bytes>, ForwardError>> + Send>> {
        let Ok(place) = self.places.clone().try_acquire_owned() else {
            return Box::pin(std::future::ready(Err(ForwardError::Busy)));
        };
        let answer = self.client.request(request.map(Full::new));
        Box::pin(async move {
            let _place = place;
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
