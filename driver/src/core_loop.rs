//! The loop that owns the core: takes input, passes it to the core, and carries out its actions.
//!
//! One turn drains everything that is ready, within limits. Receipts and messages are passed to the
//! core before a tick. So a node that was stalled itself does not mistake the delay for silence of
//! its peers. Missed ticks are not made up for. Then the core is polled until it returns no more
//! actions.

use crate::cleaning::Cleaning;
use crate::error::{ExecuteError, ProposeError, StopReason};
use crate::events::Events;
use crate::inbox::InboxReceiver;
use crate::messages::{
    CoreCall, MachineCall, MachineOrder, PeerSnapshot, RECEIPTS_MAX, Receipt, SnapshotOrder,
};
use crate::pending::{Caller, Pending, Reply};
use crate::preflight::Preflight;
use crate::readiness::Readiness;
use crate::reads::Reads;
use crate::report::report;
use crate::shared::Shared;
use crate::snapshots::{OpenedLater, SnapshotStore};
use crate::status::{add, count};
use crate::{Clock, DriverStatus, FrozenReplica, Inspect, Load, NotReady, StateMachine, Transport};
use raft::{
    Action, Forwarded, Index, LogId, LogStart, Membership, Message, Node, NodeId, Now, Proposed,
    ReadId, ReadMode, Request, Term, Write,
};
use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;
use tokio::sync::mpsc;
use tokio::sync::mpsc::error::TrySendError;

/// The most client calls taken in one turn.
const CALLS_PER_TURN: usize = 1024;
/// The most messages taken in one turn.
const MESSAGES_PER_TURN: usize = 256;
/// A write for which the disk has no room is retried after this many ticks at first. Each further
/// pause is twice as long.
const FULL_RETRY_TICKS: u32 = 20;
/// The longest such pause in ticks. With ticks of 10 ms the node writes again at most 1.6 s after
/// there is room.
const FULL_RETRY_TICKS_MAX: u32 = 160;
/// The most ticks for which a node that shuts down waits for pending calls.
const SHUTDOWN_GRACE_TICKS: u32 = 50;

/// The part of the published status that may change between ticks.
#[derive(Clone, Copy, PartialEq, Eq)]
struct Leadership {
    term: Term,
    leader: Option<NodeId>,
    serving_from: Option<LogId>,
}

fn refused_by_core(error: raft::ProposeError) -> ProposeError {
    match error {
        raft::ProposeError::NotLeader { leader } => ProposeError::NotLeader { leader },
        raft::ProposeError::TooLarge { limit_bytes } => ProposeError::TooLarge { limit_bytes },
        // Any further variant also means that the command was not appended.
        _ => ProposeError::Busy,
    }
}

pub(crate) struct CoreLoop<S: StateMachine, T, C, I> {
    pub node: Node,
    pub clock: Arc<C>,
    pub transport: Arc<T>,
    pub store: Arc<dyn SnapshotStore>,
    pub tick: Duration,
    pub election_timeout: Duration,
    /// A follower is not ready if its leader is neither connected nor heard from for longer.
    pub leader_absence_max: Duration,
    pub shared: Arc<Shared>,
    pub calls: mpsc::Receiver<CoreCall<S>>,
    pub inbox_receiver: InboxReceiver,
    pub receipts: mpsc::Receiver<Receipt>,
    pub writes: mpsc::Sender<Write>,
    pub machine_orders: mpsc::Sender<MachineOrder>,
    pub machine_calls: mpsc::Sender<MachineCall<S>>,
    pub snapshot_orders: mpsc::Sender<SnapshotOrder<FrozenReplica<S::Frozen>>>,
    pub state: State<S>,
    pub inspect: I,
}

/// The state that the loop keeps between turns.
pub(crate) struct State<S: StateMachine> {
    pending: Pending,
    /// Callers of commands that were forwarded to the leader, by the number from the core.
    forwarded: BTreeMap<u64, Reply<ExecuteError>>,
    /// The last index that the state machine has been ordered to apply or restore.
    ordered: Index,
    reads: Reads<S>,
    preflight: Preflight,
    cleaning: Cleaning,
    /// A write for which the disk had no room, and the ticks until its retry.
    full: Option<(Box<Write>, u32)>,
    /// The pause before the retry of the next write for which there is no room.
    full_retry_ticks: u32,
    read_only: Option<Arc<str>>,
    membership: Membership,
    published: Option<Leadership>,
    was_serving: bool,
    shutdown_ticks: Option<u32>,
    /// The node shuts down because it is not a member any more.
    leaves: bool,
    /// The ticks since a peer reported that this node is not a member, without any leader.
    excluded_ticks: u32,
    readiness: Readiness,
    events: Events,
}

impl<S: StateMachine> State<S> {
    pub fn new() -> Self {
        State {
            pending: Pending::default(),
            forwarded: BTreeMap::new(),
            ordered: Index(0),
            reads: Reads::new(),
            preflight: Preflight::default(),
            cleaning: Cleaning::new(),
            full: None,
            full_retry_ticks: FULL_RETRY_TICKS,
            read_only: None,
            membership: Membership::default(),
            published: None,
            was_serving: false,
            shutdown_ticks: None,
            leaves: false,
            excluded_ticks: 0,
            readiness: Readiness::default(),
            events: Events::default(),
        }
    }
}

impl<S: StateMachine, T: Transport, C: Clock, I: Inspect<S>> CoreLoop<S, T, C, I> {
    pub async fn run(mut self) {
        let mut receipts = Vec::with_capacity(RECEIPTS_MAX);
        let mut messages = Vec::with_capacity(MESSAGES_PER_TURN);
        let mut calls = Vec::with_capacity(CALLS_PER_TURN);
        let mut offers = Vec::new();
        let tick_ns = self.tick.as_nanos() as u64;
        let mut next_tick_ns = self.clock.now().monotonic_ns + tick_ns;
        let mut sleep = self.clock.sleep(self.tick);
        let shared = self.shared.clone();
        let mut stopped = std::pin::pin!(shared.stopped());
        let mut shutdown = std::pin::pin!(shared.shutdown_asked());
        self.hand_out();
        self.publish();
        loop {
            let mut slept = false;
            tokio::select! {
                biased;
                _ = &mut stopped => return,
                () = &mut shutdown, if self.state.shutdown_ticks.is_none() => {
                    self.state.shutdown_ticks = Some(SHUTDOWN_GRACE_TICKS);
                    // A leader hands over, so that the others need no election timeout. If it
                    // cannot, it ends all the same.
                    let _ = self.node.transfer(self.clock.now(), None);
                }
                // The other parts hold the senders. When those are dropped, the node has been
                // stopped by the parts' guards.
                _ = self.receipts.recv_many(&mut receipts, RECEIPTS_MAX) => {}
                _ = self.inbox_receiver.messages.recv_many(&mut messages, MESSAGES_PER_TURN),
                    if !self.inbox_receiver.messages.is_closed() || !self.inbox_receiver.messages.is_empty() => {}
                () = self.inbox_receiver.reports.notify.notified() => {}
                Some(offer) = self.inbox_receiver.offers.recv() => offers.push(offer),
                _ = self.calls.recv_many(&mut calls, CALLS_PER_TURN),
                    if !self.calls.is_closed() || !self.calls.is_empty() => {}
                () = &mut sleep => slept = true,
            }
            if !slept {
                self.clock.give_way();
            }
            count(&self.shared.metrics.turns);
            fill(&mut self.receipts, &mut receipts, RECEIPTS_MAX);
            fill(&mut self.inbox_receiver.messages, &mut messages, MESSAGES_PER_TURN);
            fill(&mut self.calls, &mut calls, CALLS_PER_TURN);

            // After everything was taken: a lease that holds at this reading confirms reads that
            // have arrived before it.
            let now = self.clock.now();
            receipts.drain(..).for_each(|receipt| self.take_receipt(now, receipt));
            self.take_reports();
            self.inspect.look(&self.node);
            add(&self.shared.metrics.messages_received, messages.len());
            let leader = self.node.leader();
            let leader_sends = messages.iter().any(|message| Some(message.from) == leader);
            self.state.readiness.leader(leader, leader_sends, now);
            messages.drain(..).for_each(|message: Message| {
                self.node.step(now, message);
                self.inspect.look(&self.node);
            });
            offers.drain(..).for_each(|offer| self.take_offer(now, offer));
            calls.drain(..).for_each(|call| self.take_call(now, call));
            let tick = now.monotonic_ns >= next_tick_ns;
            if slept && !tick {
                // The sleep was slightly short, or the clock was set back or slowed down.
                let left_ns = next_tick_ns - now.monotonic_ns;
                sleep = self.clock.sleep(Duration::from_nanos(left_ns));
            }
            if tick {
                next_tick_ns = now.monotonic_ns + tick_ns;
                sleep = self.clock.sleep(self.tick);
                self.node.tick(now);
                self.inspect.look(&self.node);
                self.after_tick(now);
            }
            self.state.preflight.try_all(&mut self.node, now);
            self.ask_reads(now);
            self.inspect.look(&self.node);
            self.hand_out();
            if tick || self.leadership_changed() {
                self.publish();
            }
            if tick {
                self.leave_if_excluded();
            }
            if self.node.has_given_up() {
                self.shared.stop(StopReason::Diverged);
                return;
            }
            if self.is_finished() {
                self.shared.stop(match self.state.leaves {
                    true => StopReason::NotAMember,
                    false => StopReason::Shutdown,
                });
                return;
            }
        }
    }

    // Input.

    fn take_receipt(&mut self, now: Now, receipt: Receipt) {
        match receipt {
            Receipt::Durable(done) => {
                let had_no_room = self.state.read_only.take().is_some();
                self.state.full_retry_ticks = FULL_RETRY_TICKS;
                if had_no_room {
                    self.state.published = None;
                }
                self.node.persisted(now, done);
                self.state.cleaning.moved();
                self.clean();
                if had_no_room {
                    report(|| tracing::info!("there is room for the log again"));
                }
            }
            Receipt::StoreFull { write, reason } => {
                count(&self.shared.metrics.store_full);
                let before = self.state.read_only.replace(reason.clone());
                let pause = self.state.full_retry_ticks;
                self.state.full = Some((write, pause));
                self.state.full_retry_ticks = (pause * 2).min(FULL_RETRY_TICKS_MAX);
                self.state.published = None;
                if before.is_none() {
                    report(|| {
                        tracing::error!(%reason, "no room for the log: read-only until there is");
                    });
                }
            }
            Receipt::StoreFailed(reason) => self.shared.stop(reason),
            Receipt::Applied(done) => {
                // The machine task may have restored a snapshot.
                self.know_snapshot_size();
                self.node.applied(now, done);
                self.state.cleaning.restored();
                self.clean();
            }
            Receipt::Snapshot(done) => {
                self.know_snapshot_size();
                self.node.compact(now, done);
            }
        }
    }

    fn know_snapshot_size(&mut self) {
        self.node.set_snapshot_bytes(self.shared.snapshot_bytes.load(Ordering::Relaxed));
    }

    fn clean(&mut self) {
        if let Some((base, kept)) = self.state.cleaning.take(self.node.offered_snapshots())
            && let Err(TrySendError::Full(_)) =
                self.snapshot_orders.try_send(SnapshotOrder::Clean { base, kept })
        {
            self.state.cleaning.put_off(base);
        }
    }

    /// Removes what was left of a snapshot that this node has not needed after all.
    fn discard_reception(&self) {
        let Ok(room) = self.snapshot_orders.try_reserve() else { return };
        if let Some(part) = self.inbox_receiver.receptions.unneeded(self.node.commit()) {
            room.send(SnapshotOrder::Discard(part));
        }
    }

    fn take_reports(&mut self) {
        let reports = self.inbox_receiver.reports.take();
        for peer in reports.unreachable {
            count(&self.shared.metrics.peers_unreachable);
            self.node.unreachable(peer);
        }
        for peer in reports.gone {
            self.node.gone(peer);
        }
        for ((to, snapshot), delivered) in reports.snapshots_sent {
            self.node.snapshot_sent(to, snapshot, delivered);
        }
        for snapshot in reports.unreadable {
            self.node.snapshot_unreadable(snapshot);
        }
    }

    fn take_offer(&mut self, now: Now, event: PeerSnapshot) {
        match event {
            PeerSnapshot::Offered { offer, reply } => {
                let order = self.node.accept(*offer).map(Box::new);
                // The transport may have given the transfer up.
                let _ = reply.send(order);
            }
            PeerSnapshot::Received(done) => {
                count(&self.shared.metrics.snapshots_received);
                self.node.install(now, *done);
            }
        }
    }

    fn take_call(&mut self, now: Now, call: CoreCall<S>) {
        match call {
            CoreCall::Propose { command, taken, done } => {
                let proposed = self.propose(now, command.into());
                match &proposed {
                    Ok(proposed) => {
                        count(&self.shared.metrics.proposals);
                        self.state.pending.push(proposed.id, Caller::Propose(done));
                    }
                    Err(_) => count(&self.shared.metrics.proposals_refused),
                }
                let _ = taken.send(proposed);
            }
            CoreCall::Execute { request, done } => self.execute(now, request, done),
            CoreCall::Read { mode, read } => self.state.reads.add(mode, read),
            CoreCall::Campaign => self.node.campaign(now),
            CoreCall::Transfer { to, begun } => {
                let _ = begun.send(self.node.transfer(now, to));
            }
            CoreCall::SetMembers { change, begun } => {
                self.state.preflight.add(
                    &mut self.node,
                    now,
                    self.election_timeout,
                    *change,
                    begun,
                );
            }
        }
    }

    /// Gets a request appended: by this node if it leads, else by the leader.
    fn execute(&mut self, now: Now, request: Request, done: Reply<ExecuteError>) {
        let forwards = !self.node.is_leader() && self.state.shutdown_ticks.is_none();
        let waiting = self.state.pending.len() + self.state.forwarded.len();
        let refused = if !forwards {
            match self.propose(now, request) {
                Ok(proposed) => {
                    count(&self.shared.metrics.proposals);
                    return self.state.pending.push(proposed.id, Caller::Execute(done));
                }
                Err(error) => error,
            }
        } else if waiting >= self.shared.limits.proposals_max {
            ProposeError::Busy
        } else if !self.node.leader().is_some_and(|leader| self.transport.is_connected(leader)) {
            ProposeError::NotLeader { leader: self.node.leader() }
        } else {
            match self.node.forward(now, request) {
                Ok(number) => {
                    count(&self.shared.metrics.proposals);
                    self.state.forwarded.insert(number, done);
                    return;
                }
                Err(error) => refused_by_core(error),
            }
        };
        count(&self.shared.metrics.proposals_refused);
        let _ = done.send(Err(ExecuteError::Refused(refused)));
    }

    /// The leader has replied to a forwarded command, or has been lost.
    fn forwarded(&mut self, number: u64, outcome: Forwarded) {
        let Some(done) = self.state.forwarded.remove(&number) else { return };
        let error = match outcome {
            // It has been applied or skipped by a snapshot already: the answer is lost.
            Forwarded::Appended { id, .. } if id.index <= self.state.ordered => {
                ExecuteError::Unknown
            }
            Forwarded::Appended { id, .. } => {
                return self.state.pending.push(id, Caller::Execute(done));
            }
            Forwarded::Busy => ExecuteError::Refused(ProposeError::Busy),
            Forwarded::TooLarge { limit_bytes } => {
                let limit_bytes = usize::try_from(limit_bytes).unwrap_or(usize::MAX);
                ExecuteError::Refused(ProposeError::TooLarge { limit_bytes })
            }
            Forwarded::Lost => ExecuteError::Unknown,
            Forwarded::NotTaken => ExecuteError::Refused(ProposeError::NotLeader { leader: None }),
        };
        let _ = done.send(Err(error));
    }

    fn propose(&mut self, now: Now, request: Request) -> Result<Proposed, ProposeError> {
        if self.state.shutdown_ticks.is_some() {
            return Err(ProposeError::Stopped);
        }
        // A follower forwards the command to the leader, whose disk may have room.
        if let Some(reason) = self.state.read_only.as_ref().filter(|_| self.node.is_leader()) {
            return Err(ProposeError::ReadOnly { reason: reason.clone() });
        }
        if self.state.pending.len() >= self.shared.limits.proposals_max {
            return Err(ProposeError::Busy);
        }
        self.node.propose(now, request).map_err(refused_by_core)
    }

    fn after_tick(&mut self, now: Now) {
        self.clean();
        self.discard_reception();
        self.confirm_readiness(now);
        self.state.pending.forget_abandoned();
        self.state.forwarded.retain(|_, done| !done.is_closed());
        self.state.reads.retry();
        if let Some((write, ticks)) = self.state.full.take() {
            if ticks > 0 {
                self.state.full = Some((write, ticks - 1));
            } else {
                self.persist(*write);
            }
        }
        if let Some(ticks) = &mut self.state.shutdown_ticks {
            *ticks = ticks.saturating_sub(1);
        }
    }

    /// After the start, reads the commit index until a quorum has confirmed it.
    fn confirm_readiness(&mut self, now: Now) {
        if self.state.readiness.wants_confirmation()
            && let Ok(read) = self.node.read(now, ReadMode::Linearizable)
        {
            self.state.readiness.asked(read);
        }
    }

    /// Requests one read of the core for all reads of this turn that have the same mode. The clock
    /// was read after they arrived: a lease that holds then confirms them.
    fn ask_reads(&mut self, now: Now) {
        while let Some(batch) = self.state.reads.next(now) {
            count(&self.shared.metrics.read_rounds);
            match self.node.read(now, batch.mode) {
                Ok(id) => self.state.reads.asked(id, batch),
                Err(_) => self.state.reads.refused(batch.reads),
            }
        }
    }

    // Output.

    fn hand_out(&mut self) {
        while let Some(action) = self.node.poll() {
            match action {
                Action::Persist(write) => self.persist(write),
                Action::Send(message) => {
                    count(&self.shared.metrics.messages_sent);
                    self.transport.send(message);
                }
                Action::Apply(apply) => {
                    let last = apply.entries.last().map(|entry| entry.id).unwrap_or_default();
                    let decided = self.state.pending.decided_by(last);
                    self.state.ordered = self.state.ordered.max(last.index);
                    self.order(MachineOrder::Apply { apply, decided });
                }
                Action::Restore(restore) => {
                    let last = restore.snapshot.last;
                    let decided = self.state.pending.decided_by(last);
                    self.state.ordered = self.state.ordered.max(last.index);
                    self.state.cleaning.restores();
                    self.order(MachineOrder::Restore { restore, decided });
                }
                Action::TakeSnapshot(order) => self.order(MachineOrder::TakeSnapshot(order)),
                Action::Serve(id) => self.serve(id),
                Action::Forwarded { number, outcome } => self.forwarded(number, outcome),
                Action::Refuse(id) => {
                    if self.state.readiness.answered(id, false) {
                        continue;
                    }
                    if let Some(batch) = self.state.reads.take(id) {
                        self.state.reads.refused(batch.reads);
                    }
                }
                Action::SendSnapshot(offer) => {
                    count(&self.shared.metrics.snapshots_sent);
                    let id = offer.snapshot.last;
                    let (store, reports) =
                        (self.store.clone(), self.inbox_receiver.reports.clone());
                    let state = OpenedLater { store, id, reader: None, reports };
                    self.transport.send_snapshot(offer, Box::new(state));
                }
            }
        }
    }

    fn persist(&mut self, write: Write) {
        if let Some(log_start) = write.log_start.as_ref().map(LogStart::snapshot) {
            self.state.cleaning.moves(log_start.last);
        }
        match self.writes.try_send(write) {
            // If the store is gone, its guard has stopped the node.
            Ok(()) | Err(TrySendError::Closed(_)) => {}
            Err(TrySendError::Full(_)) => unreachable!("the core has one write out at most"),
        }
    }

    fn order(&mut self, order: MachineOrder) {
        match self.machine_orders.try_send(order) {
            // If the machine task is gone, its guard has stopped the node.
            Ok(()) | Err(TrySendError::Closed(_)) => {}
            Err(TrySendError::Full(_)) => {
                unreachable!("the core has one of each order out at most")
            }
        }
    }

    fn serve(&mut self, id: ReadId) {
        if self.state.readiness.answered(id, true) {
            return;
        }
        let Some(batch) = self.state.reads.take(id) else { return };
        match self.machine_calls.try_send(MachineCall::Reads(batch.reads)) {
            Ok(()) => self.shared.fresh_at_ns.store(batch.asked_ns, Ordering::Relaxed),
            // The state machine is far behind: the reads are retried.
            Err(TrySendError::Full(MachineCall::Reads(reads))) => self.state.reads.refused(reads),
            Err(_) => {}
        }
    }

    // Status and shutdown.

    fn leadership_changed(&mut self) -> bool {
        let leads = self.node.is_leader();
        // A leader begins to serve when it has applied the first entry of its term.
        let applied = if leads && !self.state.was_serving {
            Some(LogId { term: self.node.term(), index: self.node.applied_index() })
        } else {
            None
        };
        let leadership = Leadership {
            term: self.node.term(),
            leader: self.node.leader(),
            serving_from: applied,
        };
        let changed = self.state.published != Some(leadership);
        self.state.published = Some(leadership);
        changed
    }

    fn publish(&mut self) {
        let raft = self.node.status();
        self.state.was_serving = raft.serving;
        if raft.membership != self.state.membership {
            self.transport.set_members(&raft.membership);
            self.state.membership = raft.membership.clone();
        }
        let read_only = self.state.read_only.clone();
        let load = self.load();
        let now = self.clock.now();
        let readiness = &mut self.state.readiness;
        readiness.tick(&raft, now);
        // A node is always connected to itself.
        let is_connected = |leader| leader == raft.id || self.transport.is_connected(leader);
        readiness.leader(raft.leader, raft.leader.is_some_and(is_connected), now);
        let not_ready = match self.state.shutdown_ticks {
            Some(_) if self.state.leaves => Some(NotReady::NotAMember),
            Some(_) => Some(NotReady::Stopped(StopReason::Shutdown)),
            None => readiness.obstacle(&raft, read_only.as_ref(), self.leader_absence_max, now),
        };
        let events =
            self.state.events.since(&raft, read_only.is_some(), self.election_timeout, self.tick);
        let tick = self.tick;
        let status = DriverStatus {
            raft,
            read_only,
            load,
            sessions: self.shared.sessions.load(Ordering::Relaxed),
            session_bytes: self.shared.session_bytes.load(Ordering::Relaxed),
            stopped: None,
            not_ready,
            tick,
        };
        self.shared.publish(status);
        // Publishing comes first: a log line may take time.
        events.into_iter().for_each(|event| report(|| event.log()));
    }

    /// Shuts the node down if it is not a member any more. That its own log says so is proof. What
    /// a peer says counts once it has stood for an election timeout without a leader: the peer may
    /// be behind, and know an earlier member with this id.
    fn leave_if_excluded(&mut self) {
        let status = self.shared.status.load();
        let is_told = status.raft.not_a_member && status.raft.leader.is_none();
        self.state.excluded_ticks = if is_told { self.state.excluded_ticks + 1 } else { 0 };
        let timeout = self.election_timeout.as_nanos() / self.tick.as_nanos().max(1);
        let is_over = u128::from(self.state.excluded_ticks) > timeout;
        if (status.raft.removed || is_over) && self.state.shutdown_ticks.is_none() {
            self.state.shutdown_ticks = Some(SHUTDOWN_GRACE_TICKS);
            self.state.leaves = true;
        }
    }

    fn load(&self) -> Load {
        let State { pending, reads, .. } = &self.state;
        Load {
            calls: self.calls.len(),
            messages: self.inbox_receiver.messages.len(),
            proposals: pending.len() + self.state.forwarded.len(),
            reads: reads.len(),
            questions: self.machine_calls.max_capacity() - self.machine_calls.capacity(),
            waiters: self.shared.waiters.load(Ordering::Relaxed),
        }
    }

    fn is_finished(&self) -> bool {
        match self.state.shutdown_ticks {
            Some(0) => true,
            Some(_) => {
                let waiting = self.state.pending.len() + self.state.forwarded.len();
                let hands_over = self.node.transferring().is_some();
                waiting == 0 && !self.state.reads.any_asked() && !hands_over
            }
            None => false,
        }
    }
}

/// Takes further items that are ready, until `into` has `max` items.
fn fill<M>(from: &mut mpsc::Receiver<M>, into: &mut Vec<M>, max: usize) {
    while into.len() < max {
        let Ok(next) = from.try_recv() else { return };
        into.push(next);
    }
}
