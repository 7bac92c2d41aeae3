//! A running node.

use crate::members::{self, Admission, Members, SetMembersError};
use crate::threads::OwnThread;
use crate::{Builder, Consistency, ExecuteError, Leader, execute};
use bytes::Bytes;
use driver::{
    Changes, Clock, DriverStatus, Handle, Proposal, ProposeError, ReadError, SessionId,
    SessionNumber, StateMachine, StopReason, TokioClock, TransferError,
};
use raft::{Index, NodeId};
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;
use storage::ClusterId;
use transport_http::{HttpTransport, PeerServer, TransportFigures};

/// A node of a cluster. [`Node::shutdown`] stops it cleanly and returns when it has stopped.
/// Dropping it stops it soon, as if the process had been killed, and then frees its address and its
/// directory.
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

    /// The id of this node.
    pub fn id(&self) -> NodeId {
        self.id
    }

    /// The id of the cluster, which was set when it was bootstrapped.
    pub fn cluster(&self) -> ClusterId {
        self.cluster
    }

    /// The address on which it listens for its peers.
    pub fn peer_addr(&self) -> SocketAddr {
        self.peers.local_addr()
    }

    /// Executes a command on any node of the cluster and returns the reply of the state machine. By
    /// then the command is on the disks of a majority, and this node has applied it. A follower
    /// forwards the command to the leader over the peers' connection. It learns the outcome from
    /// its own log, even if the leader fails.
    ///
    /// While there is no leader, the command waits, for at most
    /// [`Builder::leader_wait`](crate::Builder::leader_wait). Then one attempt takes at most
    /// [`Builder::timeout`](crate::Builder::timeout). So the call takes at most the sum of both,
    /// 10 s by default. A follower forwards commands in a session of its own, so it may repeat one
    /// whose outcome it does not know; any other command that may have been done is never sent
    /// again: see [`ExecuteError::Unknown`](crate::ExecuteError::Unknown). Dropping the future does
    /// not cancel the command.
    pub async fn execute(&self, command: impl Into<Bytes>) -> Result<Bytes, ExecuteError> {
        execute::execute(&self.handle, &*self.clock, command.into(), self.leader_wait).await
    }

    /// Opens a session, in which a command is executed once however often it is repeated. Give its
    /// id to a client of your service: the client numbers its commands, and repeats one with the
    /// same number, through any node, until it has a reply. A session that is not used ends by
    /// itself: see [`SessionLimits`](crate::SessionLimits).
    pub async fn open_session(&self) -> Result<SessionId, ExecuteError> {
        let open = || self.handle.open_session(self.handle.timeout());
        execute::patiently(&self.handle, &*self.clock, self.leader_wait, open).await
    }

    /// Executes a command of a session once. If the command with this number was executed before,
    /// this is its first reply, byte for byte.
    ///
    /// While there is no leader, or the outcome of an attempt is unknown, the command is tried
    /// again, for at most as long as [`Node::execute`] takes. An error other than
    /// [`ExecuteError::Unknown`](crate::ExecuteError::Unknown) speaks of this call only: if an
    /// earlier one has ended with `Unknown`, the command may still be executed by that one.
    ///
    /// ```no_run
    /// # async fn example<S: quorate::StateMachine>(node: &quorate::Node<S>)
    /// # -> Result<(), quorate::ExecuteError> {
    /// use quorate::SessionNumber;
    /// let session = node.open_session().await?;
    /// // Replies to commands below `repeats_from` need not be kept.
    /// let first = SessionNumber { session, number: 1, repeats_from: 1 };
    /// let reply = node.execute_in_session(first, "add 5").await?;
    /// assert_eq!(node.execute_in_session(first, "add 5").await?, reply);
    /// # Ok(())
    /// # }
    /// ```
    ///
    /// Numbers begin at 1. A [`TypedNode`](crate::TypedNode) has a call of its own, which takes a
    /// command of its machine's type.
    pub async fn execute_in_session(
        &self,
        number: SessionNumber,
        command: impl Into<Bytes>,
    ) -> Result<Bytes, ExecuteError> {
        let (command, timeout) = (command.into(), self.handle.timeout());
        let once = || self.handle.execute_in_session(number, command.clone(), timeout);
        execute::patiently(&self.handle, &*self.clock, self.leader_wait, once).await
    }

    /// Ends a session. Returns whether there was one.
    pub async fn close_session(&self, session: SessionId) -> Result<bool, ExecuteError> {
        let close = || self.handle.close_session(session, self.handle.timeout());
        execute::patiently(&self.handle, &*self.clock, self.leader_wait, close).await
    }

    /// Queries the state machine on any node. `consistency` sets how fresh the state must be. A
    /// read that no leader confirms is repeated for the time of
    /// [`Builder::timeout`](crate::Builder::timeout), 5 s by default; then it ends
    /// with [`ReadError::Timeout`], or [`ReadError::NoLeader`] if none is known. `Busy`: too many
    /// reads wait. All errors mean that nothing was read.
    pub async fn read(
        &self,
        query: impl Into<Bytes>,
        consistency: Consistency,
    ) -> Result<Bytes, ReadError> {
        self.handle.read(query.into(), consistency).await
    }

    /// Appends a command to the log and returns without waiting for its outcome. Works only on the
    /// leader. For clients that send many commands before they wait for a reply. An error means
    /// that the command was not appended. [`Proposal::done`] ends within
    /// [`Builder::timeout`](crate::Builder::timeout), 5 s by default.
    pub async fn propose(&self, command: impl Into<Bytes>) -> Result<Proposal, ProposeError> {
        self.handle.propose(command.into()).await
    }

    /// Hands leadership over to another voter: `to`, or the one with the highest priority of those
    /// that keep up, or else the one with the longest log. For a node that is about to stop, or a
    /// preferred leader. [`Node::shutdown`] does it too.
    ///
    /// Returns the new leader. Commands wait meanwhile, usually a few milliseconds. If the target
    /// does not take over within two election timeouts, this node goes on as the leader. If the
    /// target's disk hangs and no write has shown that yet, there is no leader for an election
    /// timeout.
    ///
    /// On the leader only: another node returns [`TransferError::Refused`] with the leader that
    /// it knows.
    pub async fn transfer(&self, to: Option<NodeId>) -> Result<NodeId, TransferError> {
        self.handle.transfer(to).await
    }

    /// The members that this node knows, or those that a change in progress leads to. Declare the
    /// next ones from these.
    pub fn members(&self) -> Members {
        Members::of(&self.handle.status().raft.membership)
    }

    /// Changes the members of the cluster to exactly these, from whatever they are now. Works on
    /// the leader. Returns once the change is in force, with its version.
    ///
    /// ```no_run
    /// # async fn replace<S: quorate::StateMachine>(node: &quorate::Node<S>)
    /// # -> Result<(), quorate::SetMembersError> {
    /// // Node 4 takes the place of node 2, which is lost.
    /// let members = node.members().without(2).voter(4, "10.0.0.4:9001", "");
    /// node.set_members(members).await?;
    /// # Ok(())
    /// # }
    /// ```
    ///
    /// A new voter first receives the log as a learner, and votes once it has caught up. If that
    /// takes more than ten minutes, the change is given up. The cluster goes on serving meanwhile,
    /// and a change goes on when the leader fails or this future is dropped. A change is rejected
    /// if fewer than a majority of the new voters answer now, or if another one is in progress. A
    /// leader that is not among the new members hands leadership over and then stops.
    pub async fn set_members(&self, members: Members) -> Result<Index, SetMembersError> {
        members::set_members(&self.handle, &self.admission(), &members).await
    }

    /// Prepares changes of the membership for a program that sends them itself, see
    /// [`Handle::set_members`].
    pub fn admission(&self) -> Admission {
        Admission::new(self.peers.bootstrap_service().clone(), self.clock())
    }

    /// Waits until the node is ready: until it has a leader, and has applied what was committed.
    /// See [`DriverStatus::ready`]. Waits without a limit; an error says that the node has stopped.
    pub async fn ready(&self) -> Result<(), StopReason> {
        loop {
            let status = self.status();
            if let Some(reason) = &status.stopped {
                return Err(reason.clone());
            }
            if status.ready().is_ok() {
                return Ok(());
            }
            self.clock.sleep(status.tick).await;
        }
    }

    /// The leader, if this node knows one.
    pub fn leader(&self) -> Option<Leader> {
        execute::leader(&self.handle.status())
    }

    /// The state of the node as it was last published. Changes of term and leader are published at
    /// once, the others at the next tick in which anything is due, at most two heartbeats later.
    /// Waits for nothing.
    pub fn status(&self) -> Arc<DriverStatus> {
        self.handle.status()
    }

    /// Follows the changes of leader, term, serving and membership as this node sees them. See
    /// [`Changes`].
    pub fn changes(&self) -> Changes {
        self.handle.changes()
    }

    /// The handle of the driver, which can freeze the state, wait for a command and read counters.
    pub fn handle(&self) -> &Handle<S> {
        &self.handle
    }

    /// The counters of the transport, since its start.
    pub fn transport_figures(&self) -> TransportFigures {
        self.transport.figures()
    }

    /// The transport. A test can use it to cut links.
    pub fn transport(&self) -> &Arc<HttpTransport> {
        &self.transport
    }

    /// The clock that the node uses.
    pub fn clock(&self) -> Arc<dyn Clock> {
        self.clock.clone()
    }

    /// Waits until the node has stopped, by itself or on request, and returns the reason. Await it
    /// in your program, next to your own work: a node that has stopped does not start again. After
    /// any reason but [`StopReason::Shutdown`], let the process exit, and start it again by a
    /// supervisor:
    ///
    /// - [`StopReason::Diverged`] and [`StopReason::SnapshotUnreadable`]: start it at once, so that
    ///   its peers repair it.
    /// - [`StopReason::Store`]: check the disk first.
    /// - [`StopReason::NotAMember`]: do not start it again with this data directory.
    /// - [`StopReason::StateMachine`] and [`StopReason::Restore`]: do not start the same program
    ///   again, since the same is likely to happen.
    pub async fn stopped(&self) -> StopReason {
        self.handle.stopped().await
    }

    /// Stops the node cleanly: a leader hands over, no further commands are accepted, commands in
    /// flight may take up to half a second, and the log is synced. A disk that hangs delays it for
    /// as long, so limit the time. Returns the reason why the node
    /// has stopped. If the node had already stopped, this is the earlier reason and not
    /// [`StopReason::Shutdown`].
    pub async fn shutdown(self) -> StopReason {
        let Node { handle, peers, core, .. } = self;
        handle.shutdown().await;
        drop(peers);
        core.stop().await;
        handle.stopped().await
    }
}
