//! Asks the leader for its view of the cluster, over pooled connections.

use crate::api::AskLeader;
use bytes::Bytes;
use http_body_util::{BodyExt, Empty, Limited};
use hyper::{StatusCode, Uri};
use hyper_util::client::legacy::Client;
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::rt::{TokioExecutor, TokioTimer};
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::Semaphore;

/// A leader that takes longer than this to accept a connection counts as unreachable.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(1);
/// Idle connections are closed after this time. Shorter than the idle timeout of the other side.
const IDLE_TIMEOUT: Duration = Duration::from_secs(15);
/// The most bytes of an answer. A longer one is discarded.
const ANSWER_BYTES_MAX: usize = 1 << 20;

/// Connections to the other nodes' client ports.
#[derive(Clone, Debug)]
pub(crate) struct LeaderClient {
    client: Client<HttpConnector, Empty<Bytes>>,
    /// Permits for requests in progress, each of which uses one connection.
    places: Arc<Semaphore>,
}

impl LeaderClient {
    /// A client without connections yet. It never has more than `connections_max` requests at once.
    pub fn new(connections_max: usize) -> Self {
        let mut connector = HttpConnector::new();
        connector.set_nodelay(true);
        connector.set_connect_timeout(Some(CONNECT_TIMEOUT));
        let client = Client::builder(TokioExecutor::new())
            .pool_timer(TokioTimer::new())
            .pool_idle_timeout(IDLE_TIMEOUT)
            .pool_max_idle_per_host(connections_max)
            .build(connector);
        LeaderClient { client, places: Arc::new(Semaphore::new(connections_max)) }
    }
}

impl AskLeader for LeaderClient {
    fn cluster(
        &self,
        address: String,
        timeout: Duration,
    ) -> Pin<Box<dyn Future<Output = Option<Bytes>> + Send>> {
        let this = self.clone();
        Box::pin(async move {
            let _place = this.places.try_acquire().ok()?;
            let uri: Uri = format!("http://{address}/v1/cluster?local=true").parse().ok()?;
            let exchange = async {
                let response = this.client.get(uri).await.ok()?;
                if response.status() != StatusCode::OK {
                    return None;
                }
                let body = Limited::new(response.into_body(), ANSWER_BYTES_MAX).collect().await;
                Some(body.ok()?.to_bytes())
            };
            tokio::time::timeout(timeout, exchange).await.ok()?
        })
    }
}
