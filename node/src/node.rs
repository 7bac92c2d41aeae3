//! A node that runs.

use crate::threads::OwnThread;
use crate::{Builder, Consistency, ExecuteError, Leader, execute};
use bytes::Bytes;
use driver::{
    Clock, DriverStatus, Handle, Proposal, ProposeError, ReadError, StateMachine, StopReason,
    TokioClock,
};
use raft::NodeId;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;
use storage::ClusterId;
use transport_http::{HttpTransport, PeerServer, TransportFigures};

/// A node of a cluster. Dropped, it ends soon, as if the process had been killed, and gives its
/// address and its directory back then; [`Node::shutdown`] ends it in good order, and returns when
/// it has ended.
pub struct Node<S: StateMachine> {
    pub(crate) id: NodeId,
    pub(crate) cluster: ClusterId,
    pub(crate) handle: Handle<S>,
    pub(crate) clock: Arc<TokioClock>,
    pub(crate) transport: Arc<HttpTransport>,
    pub(crate) peers: PeerServer,
    pub(crate) core: OwnThread,
    pub(crate) leader_wait: Duration,
}

impl<S: StateMachine> std::fmt::Debug for Node<S> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Node")
            .field("id", &self.id)
            .field("cluster", &self.cluster)
            .field("peer_addr", &self.peer_addr())
            .finish_non_exhaustive()
    }
}

impl<S: StateMachine> Node<S> {
    /// The settings of a node with this state machine, in its initial state.
    pub fn builder(machine: S) -> Builder<S> {
        Builder::new(machine)
    }

    /// The number of this node.
    pub fn id(&self) -> NodeId {
        self.id
    }

    /// The cluster, by the name that its bootstrap gave it.
    pub fn cluster(&self) -> ClusterId {
        self.cluster
    }

    /// Where it listens for its peers.
    pub fn peer_addr(&self) -> SocketAddr {
        self.peers.local_addr()
    }

    /// Executes a command, on any node of the cluster, and returns the answer of the state machine:
    /// then the command is on the disks of a majority, and this node has applied it. A node that
    /// does not lead forwards it to the leader over the peers' connection, and learns from its own
    /// log what becomes of it, even if the leader fails.
    ///
    /// While there is no leader it waits, for 5 s or ten election timeouts, whichever is longer. A
    /// command that may have been done is never sent again: see
    /// [`ExecuteError::Unknown`](crate::ExecuteError::Unknown).
    pub async fn execute(&self, command: impl Into<Bytes>) -> Result<Bytes, ExecuteError> {
        execute::execute(&self.handle, &*self.clock, command.into(), self.leader_wait).await
    }

    /// Asks the state machine, on any node. `consistency` says how fresh the state must be.
    pub async fn read(
        &self,
        query: impl Into<Bytes>,
        consistency: Consistency,
    ) -> Result<Bytes, ReadError> {
        self.handle.read(consistency, query.into()).await
    }

    /// Appends a command to the log, on the leader, and returns without waiting for what becomes of
    /// it: for clients that send many commands before they wait for an answer.
    pub async fn propose(&self, command: impl Into<Bytes>) -> Result<Proposal, ProposeError> {
        self.handle.propose(command.into()).await
    }

    /// The leader, if this node knows one.
    pub fn leader(&self) -> Option<Leader> {
        execute::leader(&self.handle.status())
    }

    /// The state of the node as it was last published, at most a tick ago. Waits for nothing.
    pub fn status(&self) -> Arc<DriverStatus> {
        self.handle.status()
    }

    /// The handle of the driver: freezing the state, waiting for a command, counters.
    pub fn handle(&self) -> &Handle<S> {
        &self.handle
    }

    /// What the transport has counted since the start.
    pub fn transport_figures(&self) -> TransportFigures {
        self.transport.figures()
    }

    /// The transport, for instance to cut links on purpose in a test.
    pub fn transport(&self) -> &Arc<HttpTransport> {
        &self.transport
    }

    /// The clock that the node uses.
    pub fn clock(&self) -> Arc<dyn Clock> {
        self.clock.clone()
    }

    /// Returns when the node has stopped, by itself or because it was told to, with the reason.
    pub async fn stopped(&self) -> StopReason {
        self.handle.stopped().await
    }

    /// Ends the node in good order: takes no more commands, answers those under way if that takes
    /// no longer than half a second, syncs the log. Returns the reason why the node has stopped,
    /// which is another one than [`StopReason::Shutdown`] if it had stopped before.
    pub async fn shutdown(self) -> StopReason {
        let Node { handle, peers, core, .. } = self;
        handle.shutdown().await;
        drop(peers);
        core.stop().await;
        handle.stopped().await
    }
}
