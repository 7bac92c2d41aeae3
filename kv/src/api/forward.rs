//! Passing a request on to the leader.

use bytes::Bytes;
use hyper::header::{CONNECTION, CONTENT_LENGTH, HOST, TRANSFER_ENCODING};
use hyper::{HeaderMap, Method, Request, Response, Uri};
use std::future::Future;
use std::pin::Pin;
use std::time::Duration;

/// Marks a request that another node has passed on: it is not passed on again, so that two nodes
/// that take each other for the leader do not send it round and round.
pub const FORWARDED: &str = "raft-kv-forwarded";

/// Names the node that answers. It is on every answer, so that a client can tell a node from
/// another server that happens to listen there.
pub const NODE: &str = "raft-kv-node";

/// Marks the answer to a request that was passed on to a node that does not lead. Nothing was done;
/// the node that passed it on looks for the leader again.
pub const NOT_LEADER: &str = "raft-kv-not-leader";

/// How many milliseconds a write may wait for a leader, if that is less than the node would let it:
/// a client that gives up before the node does would not learn that nothing was done.
pub const WAIT_MS: &str = "raft-kv-wait-ms";

/// The answer of the leader, on its way.
pub type Answer = Pin<Box<dyn Future<Output = Result<Response<Bytes>, ForwardError>> + Send>>;

/// Sends a request to another node.
pub trait Forward: Send + Sync + 'static {
    /// Sends it, once, and waits for the whole answer, at most for `timeout`.
    fn forward(&self, request: Request<Bytes>, timeout: Duration) -> Answer;
}

/// Why there is no answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ForwardError {
    /// It was never sent. It has not been done.
    #[error("the leader cannot be reached")]
    NotSent,
    /// It was not sent, because too many others are under way. It has not been done.
    #[error("this node passes as many requests on as it can; try again later, or ask the leader")]
    Busy,
    /// It may have arrived.
    #[error("the leader's answer was lost")]
    Lost,
}

/// What must be known of a request to pass it on.
#[derive(Debug)]
pub struct Incoming {
    /// Its method.
    pub method: Method,
    /// Its path and query.
    pub uri: Uri,
    /// Its headers.
    pub headers: HeaderMap,
    /// Its body.
    pub body: Bytes,
}

impl Incoming {
    /// Whether another node has passed it on.
    pub fn was_forwarded(&self) -> bool {
        self.headers.contains_key(FORWARDED)
    }

    /// How long the client wants its write to wait for a leader, if it says so.
    pub fn wait(&self) -> Option<Duration> {
        let text = self.headers.get(WAIT_MS)?.to_str().ok()?;
        text.parse().ok().map(Duration::from_millis)
    }

    /// The request, for the node at `address`. `None`: the address is none.
    pub fn to(&self, address: &str, by: raft::NodeId) -> Option<Request<Bytes>> {
        let mut request = Request::new(self.body.clone());
        *request.method_mut() = self.method.clone();
        *request.uri_mut() = self.location(address)?.parse().ok()?;
        let headers = request.headers_mut();
        for (name, value) in &self.headers {
            let own = [HOST, CONNECTION, CONTENT_LENGTH, TRANSFER_ENCODING].contains(name);
            // The origin has been found to be a page of this node, which the leader cannot know.
            if !own && name != hyper::header::ORIGIN && name != hyper::header::EXPECT {
                headers.append(name.clone(), value.clone());
            }
        }
        headers.insert(FORWARDED, by.0.into());
        Some(request)
    }

    /// Where it would be at `address`.
    pub fn location(&self, address: &str) -> Option<String> {
        Some(format!("http://{address}{}", self.uri.path_and_query()?))
    }
}
