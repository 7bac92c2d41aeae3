//! The handle through which clients use a node.

use crate::changes::Changes;
use crate::clock::Sleep;
use crate::error::{
    MembersError, Outcome, ProposeError, ReadError, StopReason, TransferError, WaitError,
};
use crate::messages::{CoreCall, MachineCall, Read};
use crate::shared::Shared;
use crate::status::count;
use crate::{Clock, DriverStatus, ErasedMachine, MetricsReading, SessionLimits, StateMachine};
use bytes::Bytes;
use raft::{Change, CommandNumber, Index, LogId, NodeId, Term};
use std::future::Future;
use std::marker::PhantomData;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::task::{Context, Poll};
use std::time::Duration;
use tokio::sync::mpsc::error::TrySendError;
use tokio::sync::{mpsc, oneshot};

/// How fresh the state that answers a read must be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Consistency {
    /// The state contains everything that was done before the read was requested, confirmed by a
    /// quorum (§6.4).
    Linearizable,
    /// Like `Linearizable`, but confirmed by the leader's lease, without a round of messages to a
    /// quorum (§6.4.1). That holds if the clocks of the nodes drift no more than
    /// [`LeaseConfig::drift_ppm`](raft::LeaseConfig::drift_ppm). Without a lease, as when leases
    /// are off, it is a linearizable read.
    Lease,
    /// The state contains everything that was done up to `max_age` ago. A node that knows that its
    /// state is that fresh answers at once; otherwise the read becomes a linearizable one. Only a
    /// confirmed linearizable read refreshes that knowledge, a heartbeat does not. So about one
    /// read in each `max_age` costs a round. With `Duration::MAX` any state is fresh enough.
    Stale {
        /// The greatest age of the state.
        max_age: Duration,
    },
}

/// A client's handle to a node. A clone is another handle to the same node. Every call may be made
/// on any node, but [`Handle::propose`], [`Handle::transfer`] and [`Handle::set_members`] succeed
/// only on the leader.
pub struct Handle<S: StateMachine> {
    pub(crate) calls: mpsc::Sender<CoreCall>,
    pub(crate) machine_calls: mpsc::Sender<MachineCall>,
    pub(crate) shared: Arc<Shared>,
    pub(crate) clock: Arc<dyn Clock>,
    pub(crate) timeout: Duration,
    pub(crate) machine: PhantomData<fn() -> S>,
}

/// A proposal that the leader has appended to its log.
#[derive(Debug)]
pub struct Proposal {
    /// The entry that holds it.
    pub id: LogId,
    /// Its number among the commands.
    pub number: CommandNumber,
    /// Its outcome.
    pub done: Done,
}

/// The outcome of a proposal: the state machine's answer once it is applied, or an [`Outcome`]. It
/// ends with [`Outcome::Unknown`] when the timeout is over; the timeout starts at the first poll.
pub struct Done {
    reply: oneshot::Receiver<Result<Bytes, Outcome>>,
    clock: Arc<dyn Clock>,
    timeout: Duration,
    sleep: Option<Sleep>,
}

impl std::fmt::Debug for Done {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Done").field("timeout", &self.timeout).finish_non_exhaustive()
    }
}

impl Future for Done {
    type Output = Result<Bytes, Outcome>;

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Self::Output> {
        if let Poll::Ready(reply) = Pin::new(&mut self.reply).poll(context) {
            // The sender was dropped: the node has stopped.
            return Poll::Ready(reply.unwrap_or(Err(Outcome::Unknown)));
        }
        let this = &mut *self;
        let sleep = this.sleep.get_or_insert_with(|| this.clock.sleep(this.timeout));
        sleep.as_mut().poll(context).map(|()| Err(Outcome::Unknown))
    }
}

impl<S: StateMachine> Handle<S> {
    /// Passes a command of this size to the core loop.
    pub(crate) fn send_command(&self, bytes: usize, call: CoreCall) -> Result<(), ProposeError> {
        let waiting = &self.shared.calls_bytes;
        let before = waiting.fetch_add(bytes, Ordering::Relaxed);
        let sent = if before > 0 && before + bytes > self.shared.limits.calls_bytes_max {
            Err(ProposeError::Busy)
        } else {
            self.calls.try_send(call).map_err(|error| match error {
                TrySendError::Full(_) => ProposeError::Busy,
                TrySendError::Closed(_) => ProposeError::Stopped,
            })
        };
        if sent.is_err() {
            waiting.fetch_sub(bytes, Ordering::Relaxed);
        }
        sent
    }

    /// Proposes a command, on the leader. Returns as soon as the leader has appended it.
    /// [`Proposal::done`] returns the outcome, within the default timeout.
    pub async fn propose(&self, command: Bytes) -> Result<Proposal, ProposeError> {
        self.propose_within(command, self.timeout).await
    }

    /// Like [`Handle::propose`], with a timeout for the outcome.
    pub async fn propose_within(
        &self,
        command: Bytes,
        timeout: Duration,
    ) -> Result<Proposal, ProposeError> {
        let (taken, proposed) = oneshot::channel();
        let (done, reply) = oneshot::channel();
        self.send_command(command.len(), CoreCall::Propose { command, taken, done })?;
        // The core loop takes the call in one of its next turns. If the loop ends before that, the
        // command has not been proposed.
        let proposed = proposed.await.map_err(|_| ProposeError::Stopped)??;
        let done = Done { reply, clock: self.clock.clone(), timeout, sleep: None };
        Ok(Proposal { id: proposed.id, number: proposed.number, done })
    }

    /// The limits of the sessions that this node opens.
    pub fn session_limits(&self) -> SessionLimits {
        self.shared.session_limits
    }

    /// The timeout of calls that specify none.
    pub fn timeout(&self) -> Duration {
        self.timeout
    }

    /// Reads from the state machine, with the default timeout.
    pub async fn read(&self, query: Bytes, consistency: Consistency) -> Result<Bytes, ReadError> {
        self.read_within(query, consistency, self.timeout).await
    }

    /// Reads from the state machine, with a timeout. Until then a read that no leader confirms is
    /// retried.
    pub async fn read_within(
        &self,
        query: Bytes,
        consistency: Consistency,
        timeout: Duration,
    ) -> Result<Bytes, ReadError> {
        let (reply, answer) = oneshot::channel();
        self.ask(consistency, Read::Query { query, reply }, answer, timeout).await
    }

    /// Returns the whole state at one moment, with the default timeout. Use it for an export or a
    /// long listing: write or read it on a thread of your own, while the node goes on.
    /// It costs one [`StateMachine::freeze`], and the memory in which it differs from the current
    /// state until it is dropped.
    pub async fn freeze(&self, consistency: Consistency) -> Result<S::Frozen, ReadError> {
        self.freeze_within(consistency, self.timeout).await
    }

    /// Like [`Handle::freeze`], with a timeout.
    pub async fn freeze_within(
        &self,
        consistency: Consistency,
        timeout: Duration,
    ) -> Result<S::Frozen, ReadError> {
        let (reply, answer) = oneshot::channel();
        let frozen = self.ask(consistency, Read::Freeze { reply }, answer, timeout).await?;
        Ok(frozen.downcast().expect("the node runs a machine of this type"))
    }

    async fn ask<A>(
        &self,
        consistency: Consistency,
        read: Read,
        answer: oneshot::Receiver<A>,
        timeout: Duration,
    ) -> Result<A, ReadError> {
        let metrics = &self.shared.metrics;
        let _waiting = self.wait_for_read()?;
        let proof = match consistency {
            Consistency::Stale { max_age } if self.is_fresher_than(max_age) => None,
            Consistency::Linearizable | Consistency::Stale { .. } => {
                Some(raft::ReadProof::Linearizable)
            }
            Consistency::Lease => Some(raft::ReadProof::Lease),
        };
        match proof {
            None => {
                count(&metrics.stale_reads);
                self.machine_calls.try_send(MachineCall::Read(read)).map_err(refused)?;
            }
            Some(_) if self.falls_behind() => return Err(ReadError::ReadOnly),
            Some(proof) => {
                count(&metrics.reads);
                self.calls.try_send(CoreCall::Read { proof, read }).map_err(refused)?;
            }
        }
        let mut sleep = self.clock.sleep(timeout);
        tokio::select! {
            biased;
            // A node that has not stopped drops reads only if its state falls behind.
            answer = answer => answer.map_err(|_| match self.has_ended() {
                true => ReadError::Stopped,
                false => ReadError::ReadOnly,
            }),
            () = &mut sleep => Err(match self.status().raft.leader {
                Some(_) => ReadError::Timeout,
                None => ReadError::NoLeader,
            }),
        }
    }

    fn falls_behind(&self) -> bool {
        let status = self.shared.status.load();
        status.stopped.is_none() && status.falls_behind()
    }

    fn has_ended(&self) -> bool {
        self.shared.status.load().stopped.is_some() || self.calls.is_closed()
    }

    fn wait_for_read(&self) -> Result<ReadWaiting<'_>, ReadError> {
        let waiting = self.shared.reads_waiting.fetch_add(1, Ordering::Relaxed);
        let guard = ReadWaiting(&self.shared);
        if waiting < self.shared.limits.reads_waiting_max {
            Ok(guard)
        } else {
            Err(ReadError::Busy)
        }
    }

    fn is_fresher_than(&self, max_age: Duration) -> bool {
        let now_ns = self.clock.now().monotonic_ns;
        match self.shared.fresh_at_ns.load(Ordering::Relaxed) {
            _ if max_age == Duration::MAX => true,
            0 => false,
            fresh_at => u128::from(now_ns.saturating_sub(fresh_at)) <= max_age.as_nanos(),
        }
    }

    /// Waits until the command with this number is applied on this node. With a term, only a
    /// command made in that term counts: the wait also ends when it is known that it never will be
    /// applied. A number that was applied before the call counts in any term; the caller compares
    /// it with the state machine's history. If this node receives a snapshot meanwhile, all numbers
    /// that the snapshot contains count as applied, in any term.
    ///
    /// To limit the time, drop the future.
    pub async fn wait_applied(
        &self,
        number: CommandNumber,
        term: Option<Term>,
    ) -> Result<(), WaitError> {
        let (reply, answer) = oneshot::channel();
        self.machine_calls.try_send(MachineCall::Wait { number, term, reply }).map_err(
            |error| match error {
                TrySendError::Full(_) => WaitError::Busy,
                TrySendError::Closed(_) => WaitError::Stopped,
            },
        )?;
        let mut forget = Forget { handle: self, number: Some(number) };
        let answer = answer.await;
        forget.number = None;
        answer.map_err(|_| WaitError::Stopped)?
    }

    /// Starts a pre-vote at once instead of after an election timeout. A live leader is not
    /// disturbed. Returns false if the queue is full or the node has stopped.
    pub fn campaign(&self) -> bool {
        self.calls.try_send(CoreCall::Campaign).is_ok()
    }

    /// Hands leadership over to a voter: `to`, or the one with the highest priority of those that
    /// keep up, or else the one with the longest log. Returns the new leader once this node knows
    /// it. Proposals are rejected as `NotLeader` meanwhile, usually for a few milliseconds, and may
    /// be repeated. If the target does not take over within two election timeouts, this node goes
    /// on. If the target's disk hangs and no write has shown that yet, there is no leader until an
    /// election timeout is over. The call ends with [`TransferError::NotTaken`] after the default
    /// timeout, if this node knows no leader by then.
    pub async fn transfer(&self, to: Option<NodeId>) -> Result<NodeId, TransferError> {
        let (begun, answer) = oneshot::channel();
        let call = CoreCall::Transfer { to, begun };
        self.calls.try_send(call).map_err(|error| match error {
            TrySendError::Full(_) => TransferError::Busy,
            TrySendError::Closed(_) => TransferError::Stopped,
        })?;
        let to = answer.await.map_err(|_| TransferError::Stopped)??;
        let until_ns = self.until_ns(self.timeout);
        while self.clock.now().monotonic_ns < until_ns {
            let status = self.status();
            if status.stopped.is_some() {
                return Err(TransferError::Stopped);
            }
            match status.raft.leader {
                Some(leader) if leader == to => return Ok(to),
                // The published status may be from before the transfer.
                Some(leader) if leader == status.raft.id => {}
                Some(_) => break,
                None => {}
            }
            self.clock.sleep(status.tick).await;
            let now = self.status();
            if now.raft.leader == Some(now.raft.id) && now.raft.transferring.is_none() {
                break;
            }
        }
        Err(TransferError::NotTaken { to })
    }

    /// Begins a change of the membership, on the leader. Returns the index of its first entry. See
    /// [`Handle::members_set`] for its end.
    pub async fn set_members(&self, change: Change) -> Result<Index, MembersError> {
        let (begun, answer) = oneshot::channel();
        let call = CoreCall::SetMembers { change: Box::new(change), begun };
        self.calls.try_send(call).map_err(|error| match error {
            TrySendError::Full(_) => MembersError::Busy,
            TrySendError::Closed(_) => MembersError::Stopped,
        })?;
        answer.await.map_err(|_| MembersError::Stopped)?
    }

    /// Waits until the change that began at `begun` is done: the membership with these members and
    /// voters is in force and committed. Returns its index. Works on every node that is a member
    /// before and after the change, and on one that it removes. Waits without a limit; to limit
    /// the time, drop the future. The change goes on all the same. If another change follows at
    /// once, the outcome of this one may be unknown ([`MembersError::Superseded`]).
    pub async fn members_set(&self, begun: Index, change: &Change) -> Result<Index, MembersError> {
        loop {
            let status = self.status();
            if let Some(end) = end_of_change(&status.raft, begun, change) {
                return end;
            }
            if status.stopped.is_some() {
                return Err(MembersError::Stopped);
            }
            self.clock.sleep(status.tick).await;
        }
    }

    /// The status as last published. Never blocks.
    pub fn status(&self) -> Arc<DriverStatus> {
        self.shared.status.load_full()
    }

    /// Follows the changes of leader, term, serving and membership as this node sees them. Each
    /// call returns a follower of its own, whose first view is the present one.
    pub fn changes(&self) -> Changes {
        Changes::new(self.shared.clone())
    }

    /// The counters of the node.
    pub fn metrics(&self) -> MetricsReading {
        self.shared.metrics.read()
    }

    /// Shuts the node down. No more commands are taken. Pending calls may finish for up to 50 ticks
    /// (half a second by default), and then all parts end. Returns when they have ended. A leader
    /// hands over. [`Handle::stopped`] has the reason.
    pub async fn shutdown(&self) {
        self.shared.ask_shutdown();
        self.shared.ended().await;
    }

    /// Waits until the node stops. Returns the reason.
    pub async fn stopped(&self) -> StopReason {
        self.shared.stopped().await
    }
}

/// How the change that began at `begun` has ended, as the node's status shows it. `None` while it,
/// or a later one, is in progress.
fn end_of_change(
    raft: &raft::Status,
    begun: Index,
    change: &Change,
) -> Option<Result<Index, MembersError>> {
    let (membership, index) = (&raft.membership, raft.membership_index);
    if raft.commit < begun || raft.commit < index || membership.is_changing() {
        return None;
    }
    let is_declared = membership.members == change.members && membership.voters == change.voters;
    if is_declared && index >= begun {
        return Some(Ok(index));
    }
    // Either the change is not in the log, or the next membership after its first one has ended it.
    let is_given_up = index <= begun || raft.given_up == Some(begun);
    Some(Err(if is_given_up { MembersError::GivenUp } else { MembersError::Superseded }))
}

impl<S: StateMachine> Clone for Handle<S> {
    fn clone(&self) -> Self {
        Handle {
            calls: self.calls.clone(),
            machine_calls: self.machine_calls.clone(),
            shared: self.shared.clone(),
            clock: self.clock.clone(),
            timeout: self.timeout,
            machine: PhantomData,
        }
    }
}

impl Handle<ErasedMachine> {
    /// The handle to the same node, whose state machine has this type.
    pub(crate) fn of_machine<S: StateMachine>(self) -> Handle<S> {
        let Handle { calls, machine_calls, shared, clock, timeout, machine: PhantomData } = self;
        Handle { calls, machine_calls, shared, clock, timeout, machine: PhantomData }
    }
}

fn refused<M>(error: TrySendError<M>) -> ReadError {
    match error {
        TrySendError::Full(_) => ReadError::Busy,
        TrySendError::Closed(_) => ReadError::Stopped,
    }
}

/// Removes the waiter if its caller stops waiting: the command may never be applied.
struct Forget<'a, S: StateMachine> {
    handle: &'a Handle<S>,
    number: Option<CommandNumber>,
}

impl<S: StateMachine> Drop for Forget<'_, S> {
    fn drop(&mut self) {
        let Some(number) = self.number else { return };
        if let Err(TrySendError::Full(_)) =
            self.handle.machine_calls.try_send(MachineCall::Forget(number))
        {
            self.handle.shared.give_up();
        }
    }
}

/// Counts a read as waiting until it is dropped.
struct ReadWaiting<'a>(&'a Shared);

impl Drop for ReadWaiting<'_> {
    fn drop(&mut self) {
        self.0.reads_waiting.fetch_sub(1, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use raft::{Config, Incarnation, Member, Membership, RawNode, Restored, Snapshot};

    #[test]
    fn a_change_is_done_once_its_last_entry_is_committed() {
        let member = |id| Member {
            incarnation: Incarnation(id),
            peer_address: String::new(),
            client_address: String::new(),
        };
        let members = [1, 2].map(|id| (NodeId(id), member(id)));
        let entered = Membership::of_voters(members.into());
        let change = Change::to(entered.members.clone(), entered.voters.clone());
        let restored = Restored::initial(Snapshot::initial(entered));
        let config = Config::new(NodeId(1), Incarnation(1), 1);
        let mut status = RawNode::new(config, restored).unwrap().status();
        // `planned` is entry 5, `joint` entry 6, `entered` entry 7.
        (status.membership_index, status.commit) = (Index(7), Index(6));
        assert_eq!(end_of_change(&status, Index(5), &change), None);
        status.commit = Index(7);
        assert_eq!(end_of_change(&status, Index(5), &change), Some(Ok(Index(7))));
    }
}
