//! What a user brings: a state machine, what answers requests in front of it, and clients.

use crate::{Cluster, SimClock};
use driver::Handle;
use raft::NodeId;
use simulator::checks::Violation;
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;

/// A future on the heap.
pub type Task<T> = Pin<Box<dyn Future<Output = T> + Send>>;

/// Answers the requests that reach a node. Each answer is a task of the node: it ends with the node,
/// and it is dropped wherever it waits when whoever asked has gone away.
pub type Service<Q, R> = Arc<dyn Fn(Q) -> Task<R> + Send + Sync>;

/// A node that has started.
pub struct Started<A: App> {
    /// Which node.
    pub id: NodeId,
    /// For calls to it.
    pub handle: Handle<A::Machine>,
    /// Its clock.
    pub clock: Arc<SimClock>,
    /// The cluster that it is one of.
    pub cluster: Cluster<A>,
}

/// Makes what answers the requests to a node that has started.
pub type Boot<A> =
    Box<dyn FnOnce(Started<A>) -> Service<<A as App>::Request, <A as App>::Response> + Send>;

/// What is simulated.
pub trait App: Send + Sync + Sized + 'static {
    /// The state machine.
    type Machine: driver::StateMachine;
    /// What is asked of a node.
    type Request: Send + 'static;
    /// What it answers.
    type Response: Send + 'static;

    /// A node is about to start: its state machine, as a new node has it, and what will answer its
    /// requests.
    fn boot(&self) -> (Self::Machine, Boot<Self>);

    /// A request in a few words, for whoever looks at a picture of the run: `read …` or `command …`.
    fn asks(&self, _request: &Self::Request) -> String {
        String::new()
    }

    /// Whether an answer says `done`, `not done` or `unknown`, and the answer in a few words.
    fn answers(&self, _response: &Self::Response) -> (&'static str, String) {
        ("done", String::new())
    }

    /// What a client does, until [`Cluster::think`] says that it is over.
    fn client(self: Arc<Self>, cluster: Cluster<Self>, number: u64) -> Task<()>;

    /// The most requests that a client has at once.
    fn requests_at_once(&self) -> usize {
        1
    }

    /// What must hold of the state after every command, on every node.
    fn invariant(&self, _machine: &Self::Machine) -> Result<(), String> {
        Ok(())
    }

    /// Checks what the clients have seen, when all is quiet and every node is up.
    fn verdict(self: Arc<Self>, _cluster: Cluster<Self>) -> Task<Result<(), Violation>> {
        Box::pin(std::future::ready(Ok(())))
    }
}
