//! The loop that owns the core: takes input, passes it to the core, and carries out its actions.
//!
//! One turn drains everything that is ready, within limits. Receipts and messages are passed to the
//! core before a tick. So a node that was stalled itself does not mistake the delay for silence of
//! its peers. Missed ticks are not made up for. Then the core is polled until it returns no more
//! actions.

mod commands;
mod input;
mod output;
mod standing;
mod ticks;

use crate::cleaning::Cleaning;
use crate::error::{AttemptError, StopReason};
use crate::events::Events;
use crate::inbox::InboxReceiver;
use crate::messages::{CoreCall, MachineCall, MachineOrder, RECEIPTS_MAX, Receipt, SnapshotOrder};
use crate::pending::{Pending, Reply};
use crate::preflight::Preflight;
use crate::readiness::Readiness;
use crate::reads::Reads;
use crate::shared::Shared;
use crate::snapshot_store::SnapshotStore;
use crate::status::{add, count};
use crate::{Clock, Inspect, Transport};
use raft::{Index, LogId, Membership, Message, RawNode, Write};
use standing::Leadership;
use std::collections::BTreeMap;
use std::future::poll_fn;
use std::sync::Arc;
use std::task::Poll;
use std::time::Duration;
use ticks::Ticks;
use tokio::sync::mpsc;

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

pub(crate) struct CoreLoop {
    pub node: RawNode,
    pub clock: Arc<dyn Clock>,
    pub transport: Arc<dyn Transport>,
    pub store: Arc<dyn SnapshotStore>,
    pub tick: Duration,
    pub election_timeout: Duration,
    /// A follower is not ready if its leader is neither connected nor heard from for longer.
    pub leader_absence_max: Duration,
    pub shared: Arc<Shared>,
    pub calls: mpsc::Receiver<CoreCall>,
    pub inbox_receiver: InboxReceiver,
    pub receipts: mpsc::Receiver<Receipt>,
    pub writes: mpsc::Sender<Write>,
    pub machine_orders: mpsc::Sender<MachineOrder>,
    pub machine_calls: mpsc::Sender<MachineCall>,
    pub snapshot_orders: mpsc::Sender<SnapshotOrder>,
    pub state: State,
    pub inspect: Arc<dyn Inspect>,
}

/// The state that the loop keeps between turns.
pub(crate) struct State {
    pending: Pending,
    /// Callers of commands that were forwarded to the leader, by the number from the core.
    forwarded: BTreeMap<u64, Reply<AttemptError>>,
    /// The last index that the state machine has been ordered to apply or restore.
    ordered: Index,
    reads: Reads,
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

impl State {
    /// `base`: the snapshot that the log on disk begins after.
    pub fn new(base: LogId) -> Self {
        State {
            pending: Pending::default(),
            forwarded: BTreeMap::new(),
            ordered: Index(0),
            reads: Reads::new(),
            preflight: Preflight::default(),
            cleaning: Cleaning::new(base),
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

impl CoreLoop {
    pub async fn run(mut self) {
        let mut receipts = Vec::with_capacity(RECEIPTS_MAX);
        let mut messages = Vec::with_capacity(MESSAGES_PER_TURN);
        let mut calls = Vec::with_capacity(CALLS_PER_TURN);
        let mut offers = Vec::new();
        let mut ticks = Ticks::new(self.tick, self.clock.now().monotonic_ns);
        let mut sleep = self.clock.sleep(self.tick);
        let shared = self.shared.clone();
        let mut stopped = std::pin::pin!(shared.stopped());
        let mut shutdown = std::pin::pin!(shared.shutdown_asked());
        self.hand_out();
        self.publish();
        loop {
            let mut slept = false;
            let calls_max = self.calls_max();
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
                _ = self.calls.recv_many(&mut calls, calls_max),
                    if calls_max > 0 && (!self.calls.is_closed() || !self.calls.is_empty()) => {}
                () = &mut sleep => slept = true,
            }
            if !slept {
                give_way_to_tasks().await;
                self.clock.give_way();
            }
            count(&self.shared.metrics.turns);
            fill(&mut self.receipts, &mut receipts, RECEIPTS_MAX);
            fill(&mut self.inbox_receiver.messages, &mut messages, MESSAGES_PER_TURN);
            fill(&mut self.calls, &mut calls, calls_max);

            // After everything was taken: a lease that holds at this reading confirms reads that
            // have arrived before it.
            let now = self.clock.now();
            let idled = ticks.take_idle(now.monotonic_ns);
            (0..idled).for_each(|_| self.node.tick(now));
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
            let is_due = ticks.take(now.monotonic_ns);
            if is_due {
                self.node.tick(now);
                self.inspect.look(&self.node);
            }
            let tick = is_due || idled > 0;
            if tick {
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
            let idle = if self.is_at_rest() { self.node.idle_ticks() } else { 0 };
            if let Some(length) = ticks.sleep(idle, slept, now.monotonic_ns) {
                sleep = self.clock.sleep(length);
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
}

/// Lets the other tasks of this runtime that are ready run, once.
async fn give_way_to_tasks() {
    let mut has_given_way = false;
    poll_fn(|context| match std::mem::replace(&mut has_given_way, true) {
        true => Poll::Ready(()),
        false => {
            context.waker().wake_by_ref();
            Poll::Pending
        }
    })
    .await;
}

/// Takes further items that are ready, until `into` has `max` items.
fn fill<M>(from: &mut mpsc::Receiver<M>, into: &mut Vec<M>, max: usize) {
    while into.len() < max {
        let Ok(next) = from.try_recv() else { return };
        into.push(next);
    }
}
