//! The user's part of a simulation: a state machine, a service in front of it, and clients.

use crate::{Cluster, SimClock};
use driver::Handle;
use raft::NodeId;
use simulator::Plan;
use simulator::checks::Violation;
use simulator::timeline::Ended;
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;

/// A future on the heap.
pub type Task<T> = Pin<Box<dyn Future<Output = T> + Send>>;

/// Answers the requests that reach a node. Each request is a task of the node and ends with the
/// node. When its client gives up, the task is dropped at whichever await point it has reached.
pub type Service<Q, R> = Arc<dyn Fn(Q) -> Task<R> + Send + Sync>;

/// A node that has started.
pub struct Started<A: App> {
    /// The id of the node.
    pub id: NodeId,
    /// The handle for calls to the node.
    pub handle: Handle<A::Machine>,
    /// Its clock.
    pub clock: Arc<SimClock>,
    /// The cluster that the node belongs to.
    pub cluster: Cluster<A>,
}

/// Creates the service of a node that has started.
pub type Boot<A> =
    Box<dyn FnOnce(Started<A>) -> Service<<A as App>::Request, <A as App>::Response> + Send>;

/// A state machine, its service and its clients, to be simulated.
pub trait App: Send + Sync + Sized + 'static {
    /// The state machine.
    type Machine: driver::StateMachine;
    /// A request to a node.
    type Request: Send + 'static;
    /// The answer of a node.
    type Response: Send + 'static;

    /// Called when a node is about to start. Returns a state machine in its initial state, and the
    /// constructor of the service.
    fn boot(&self) -> (Self::Machine, Boot<Self>);

    /// Whether a request is a read, and the request in a few words, for the page of the run.
    fn asks(&self, _request: &Self::Request) -> (bool, String) {
        (false, String::new())
    }

    /// The outcome that an answer reports, and the answer in a few words.
    fn answers(&self, _response: &Self::Response) -> (Ended, String) {
        (Ended::Done, String::new())
    }

    /// Runs a client until [`Cluster::think`] returns false.
    fn client(self: Arc<Self>, cluster: Cluster<Self>, number: u64) -> Task<()>;

    /// The maximum number of requests that a client has open at once.
    fn requests_at_once(&self) -> usize {
        1
    }

    /// The size of the largest command of a plan, in bytes. A connection must carry one within a
    /// part of the election timeout, or a leader that is well would be replaced; for the same
    /// reason, a bound of the log holds several of them.
    fn command_bytes_max(&self, plan: &Plan) -> usize {
        plan.swarm.padding_bytes as usize
    }

    /// An invariant of the state, checked on every node after it applies commands.
    fn invariant(&self, _machine: &Self::Machine) -> Result<(), String> {
        Ok(())
    }

    /// Checks the observations of the clients, when all is quiet and every node is up.
    fn verdict(self: Arc<Self>, _cluster: Cluster<Self>) -> Task<Result<(), Violation>> {
        Box::pin(std::future::ready(Ok(())))
    }
}
