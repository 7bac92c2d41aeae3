//! The state that all roles share: the log, the hard state, the commit and applied indexes, and the
//! pending work orders. Roles borrow it; it does not depend on them.

use crate::digest::Hashes;
use crate::lease::Promise;
use crate::log::Log;
use crate::log_time::{self, LogClock, Reading};
use crate::outbox::Outbox;
use crate::probation::Probation;
use crate::snapshot_schedule::SnapshotSchedule;
use crate::work::Ticket;
use crate::{
    Action, Applied, Apply, Body, Config, Counters, Durable, Entry, Forwarded, HardState,
    Incarnation, Index, LogId, LogStart, LogTime, Membership, Message, NodeId, Now, Payload,
    ReadId, ReceiveSnapshot, Request, Restore, Snapshot, SnapshotDurable, SnapshotOffer,
    SnapshotReceived, StateHash, TakeSnapshot, Term, Write,
};
use rand_pcg::Pcg32;
use rand_pcg::rand_core::{Rng, SeedableRng};
use std::collections::{BTreeMap, BTreeSet, VecDeque};

/// A disk counts as stalled when a write has been pending for this many election timeouts.
const STALL_ELECTIONS: u32 = 2;

/// A forwarded command without a reply yet.
#[derive(Clone, Debug)]
struct Awaited {
    leader: NodeId,
    /// How long it has waited.
    ticks: u32,
    /// Whether the driver may propose it again.
    repeatable: bool,
}

/// The most entries removed from memory in one tick.
const TRIM_ENTRIES: usize = 4096;

/// Invariants: `applied ≤ commit ≤ log.last().index`; `hard.term` is at least the log's last
/// term; `durable` is an earlier or the current value of `hard`.
#[derive(Debug)]
#[cfg_attr(feature = "clone-work", derive(Clone))]
pub(crate) struct Core {
    pub config: Config,
    now: Now,
    /// The reading of the monotonic clock at the latest tick.
    ticked_ns: u64,
    /// How often the monotonic clock has gone back, or stood from one tick to the next.
    pub clock_failures: u64,
    /// This node's promise to grant no vote.
    pub promise: Promise,
    pub probation: Probation,
    pub log: Log,
    /// Term and vote in memory. `durable` is what is on disk.
    hard: HardState,
    durable: HardState,
    pub commit: Index,
    pub applied: Index,
    pub outbox: Outbox,
    pub counters: Counters,
    /// Set when a peer has rejected our incarnation: that peer's commit index at the time.
    not_a_member: Option<Index>,
    /// The leader has rejected this node's incarnation.
    expelled: bool,
    /// Members that were sent `NotAMember` since the last tick.
    pub corrected: BTreeSet<NodeId>,
    rng: Pcg32,
    /// The number of the latest work order.
    orders: u64,
    /// The number of the pending write, and the hard state that it makes durable.
    write_out: Option<(u64, HardState)>,
    /// Ticks that the write has been pending.
    write_ticks: u32,
    /// A change of the start of the log, to be part of the next write.
    log_start: Option<LogStart>,
    apply_out: Option<u64>,
    /// When the next snapshot is due, and whether one is pending.
    pub snapshots: SnapshotSchedule,
    /// Rolling hashes of the applied entries, for comparison between nodes.
    pub hashes: Hashes,
    /// This node's state is wrong, and its log has been reset.
    diverged: bool,
    clock: LogClock,
    /// A snapshot to restore into the state machine, once the log on disk begins after it.
    restore: Option<Snapshot>,
    next_read: ReadId,
    /// The number of the latest forwarded command.
    next_forward: u64,
    /// Commands forwarded to a leader without a reply, by their number.
    forwards: BTreeMap<u64, Awaited>,
    /// Reads whose index is confirmed but not applied yet.
    reads: BTreeSet<(Index, ReadId)>,
    /// Outcomes of reads and forwarded commands, to be returned by `poll`.
    answers: VecDeque<Action>,
}

/// The promise that follows from a node's settings; 0 without leases.
fn own_promise_ms(config: &Config) -> u32 {
    config.lease.map_or(0, |lease| lease.promise_ms(config.election_ticks))
}

impl Core {
    /// The caller has checked `config`, and that the log and the hard state fit together.
    pub fn new(config: Config, hard: HardState, log: Log) -> Self {
        let base = log.base().last.index;
        let hashes = Hashes::starting(base, log.base().hash);
        let durable = hard;
        let mut hard = hard;
        // On the disk before the first promise is stated. It is lowered after the wait.
        let promise_ms = own_promise_ms(&config);
        hard.promise_ms = hard.promise_ms.max(promise_ms);
        // After a loss, the length that an earlier start has written may be lost too. It is unknown
        // then; as long as the settings stay the same, it is that of this start.
        let inherited_ms = match hard.lost {
            Some(_) => hard.promise_ms,
            None => durable.promise_ms,
        };
        // The crash may have come after the repair but before a write that records it.
        if hard.lost.is_some_and(|lost| log.durable_last() >= lost) {
            hard.lost = None;
        }
        Core {
            rng: Pcg32::seed_from_u64(config.seed),
            now: Now::default(),
            ticked_ns: 0,
            clock_failures: 0,
            promise: Promise::inherited(inherited_ms),
            probation: Probation::default(),
            hard,
            durable,
            commit: base,
            applied: base,
            outbox: Outbox::default(),
            counters: Counters::default(),
            not_a_member: None,
            expelled: false,
            corrected: BTreeSet::new(),
            orders: 0,
            write_out: None,
            write_ticks: 0,
            log_start: None,
            apply_out: None,
            snapshots: SnapshotSchedule::new(base, log.len()),
            hashes,
            diverged: false,
            clock: LogClock::default(),
            restore: None,
            next_forward: 0,
            forwards: BTreeMap::new(),
            // A late reply to a read of an earlier start must not match a read of this start.
            next_read: ReadId(config.start_nonce.rotate_left(32)),
            reads: BTreeSet::new(),
            answers: VecDeque::new(),
            log,
            config,
        }
    }

    pub fn id(&self) -> NodeId {
        self.config.id
    }

    pub fn term(&self) -> Term {
        self.hard.term
    }

    pub fn hard_state(&self) -> &HardState {
        &self.hard
    }

    pub fn durable_hard_state(&self) -> &HardState {
        &self.durable
    }

    pub fn message(&self, to: NodeId, body: Body) -> Message {
        Message {
            from: self.config.id,
            to,
            term: self.hard.term,
            incarnation: self.config.incarnation,
            body,
        }
    }

    /// The latest reading of the clocks.
    pub fn now(&self) -> Now {
        self.now
    }

    /// Takes a reading of the clocks, before each event.
    pub fn set_now(&mut self, now: Now) {
        self.now = now;
        if self.promise.see(now.monotonic_ns) {
            self.clock_failures += 1;
        }
    }

    /// For how long this node promises to grant no vote when it hears from a leader.
    pub fn promise_ms(&self) -> u32 {
        own_promise_ms(&self.config)
    }

    /// The promise that a reply may state: none before the disk has its length, since a restarted
    /// node could break it.
    pub fn may_state_promise_ms(&self) -> u32 {
        let promise_ms = self.promise_ms();
        if self.durable.promise_ms >= promise_ms { promise_ms } else { 0 }
    }

    /// The priority that this node states: 0 for a while after it has failed as a leader.
    pub fn priority(&self) -> u8 {
        self.probation.priority(self.config.priority)
    }

    /// One tick of the clock has passed.
    pub fn tick(&mut self, leader: Option<NodeId>) {
        if self.config.lease.is_some() && self.now.monotonic_ns <= self.ticked_ns {
            self.clock_failures += 1;
        }
        self.ticked_ns = self.now.monotonic_ns;
        // Earlier starts may have promised for longer. Until that is over, the disk keeps it.
        if !self.promise.is_inherited() {
            self.hard.promise_ms = self.promise_ms();
        }
        let leads = leader == Some(self.config.id);
        self.probation.tick(leads, self.config.election_ticks);
        self.corrected.clear();
        if self.write_out.is_some() {
            self.write_ticks = self.write_ticks.saturating_add(1);
        }
        self.snapshots.tick();
        self.tick_forwards(leader);
    }

    /// Whether a write has been pending so that this node should not lead: its disk is full, hangs,
    /// or is very slow.
    pub fn is_disk_stalled(&self) -> bool {
        self.write_out.is_some() && self.write_ticks >= self.stall_ticks()
    }

    /// A write that has been pending for this many ticks shows a stalled disk.
    pub fn stall_ticks(&self) -> u32 {
        STALL_ELECTIONS.saturating_mul(self.config.election_ticks)
    }

    /// An election timeout in ticks, drawn at random each time (§3.4): from the shortest one to
    /// half as much again. A wider range would only delay the election: a split vote costs little
    /// (see [`Core::split_vote_timeout`]).
    pub fn election_timeout(&mut self) -> u32 {
        let least = self.config.election_ticks;
        least + self.rng.next_u32() % (least / 2).max(1)
    }

    /// For how many ticks a candidate still waits once it knows that the votes are split: long
    /// enough for the other candidate to win after all, and different at each candidate.
    pub fn split_vote_timeout(&mut self) -> u32 {
        let least = (self.config.election_ticks / 4).max(1);
        least + self.rng.next_u32() % (2 * least)
    }

    /// For how many ticks this node lets others campaign first after the process of the leader has
    /// ended. All voters learn of it at about the same time, so they take turns, in the order of
    /// their ids, beginning after the leader's. Most elections are won before the second turn.
    pub fn turn_after(&self, leader: NodeId) -> u32 {
        let (own, membership) = (self.config.id, self.log.membership());
        let is_before = |id: NodeId| match own > leader {
            true => leader < id && id < own,
            false => id > leader || id < own,
        };
        let voters = membership.members.keys().filter(|id| membership.is_voter(**id));
        let turn = u32::try_from(voters.filter(|id| is_before(**id)).count()).unwrap_or(u32::MAX);
        let step = (self.config.election_ticks / 10).max(1);
        turn.saturating_mul(step).min(self.config.election_ticks)
    }

    /// Enters a later term, in which this node has not voted yet.
    pub fn enter_term(&mut self, term: Term) {
        assert!(term > self.hard.term, "terms only grow");
        self.hard.term = term;
        self.hard.vote = None;
        self.outbox.forget_held();
    }

    /// Enters the next term and votes for itself in it.
    pub fn enter_own_term(&mut self) {
        self.enter_term(self.hard.term.next());
        self.hard.vote = Some(self.config.id);
    }

    /// Whether this node may start an election: it is a voter, has lost no log, its disk is not
    /// stalled, its state is not known to be wrong, and no peer has rejected it as a non-member.
    ///
    /// As long as the latest membership is not known to be committed, a voter of the committed one,
    /// or of one between them, may campaign too (§4.2.2). It may be the only node whose log is long
    /// enough. A voter with this id and another incarnation is another node: one that had the id
    /// before.
    pub fn may_campaign(&self) -> bool {
        let Config { id, incarnation, .. } = self.config;
        let votes = |membership: &Membership| {
            let own = membership.members.get(&id);
            membership.is_voter(id) && own.is_some_and(|own| own.incarnation == incarnation)
        };
        self.log.memberships_from(self.commit).any(votes)
            && self.hard.lost.is_none()
            && !self.is_disk_stalled()
            && !self.diverged
            && !self.is_not_a_member()
    }

    /// A node that may not campaign asks nobody for votes, so no peer would tell it that it was
    /// removed. It asks for pre-votes instead, which change nothing at a member, and does not count
    /// them. It may be a learner, or a voter that has lost log or whose disk is full: it could not
    /// even store the entry that removes it.
    pub fn ask_whether_removed(&mut self) {
        if self.diverged || self.is_not_a_member() {
            return;
        }
        let (next, last) = (self.hard.term.next(), self.log.last());
        let peers: Vec<NodeId> = self.log.membership().members.keys().copied().collect();
        for peer in peers.into_iter().filter(|peer| *peer != self.config.id) {
            let message = self.message(peer, Body::PreVote { next, last });
            self.outbox.send(message);
        }
    }

    /// Whether a candidate whose log ends with `last` is up to date enough for this node's vote
    /// (§3.6.1). A node that has lost acknowledged entries cannot decide that, and never grants.
    fn is_up_to_date(&self, last: LogId) -> bool {
        self.hard.lost.is_none() && last >= self.log.last()
    }

    /// Replies to a vote request in the current term. Returns whether the vote is granted.
    pub fn answer_vote(&mut self, candidate: NodeId, last: LogId) -> bool {
        let free = self.hard.vote.is_none_or(|vote| vote == candidate);
        let granted = free && self.is_up_to_date(last);
        let reply = self.message(candidate, Body::VoteReply { granted, clock: self.reading() });
        if granted {
            self.hard.vote = Some(candidate);
            self.outbox.hold(reply, Index(0));
        } else {
            self.outbox.send(reply);
        }
        granted
    }

    /// Replies to a pre-vote for term `next` (§9.6). It is rejected while the disk is stalled,
    /// since the vote could not be made durable.
    pub fn answer_pre_vote(&mut self, candidate: NodeId, next: Term, last: LogId) {
        let could = !self.is_disk_stalled();
        let granted = could && next > self.hard.term && self.is_up_to_date(last);
        let reply = self.message(candidate, Body::PreVoteReply { next, granted });
        self.outbox.send(reply);
    }

    /// Replies to a message of an earlier term, so that its sender learns the current term.
    /// Messages whose sender does not depend on a reply get none.
    pub fn correct_stale(&mut self, message: &Message) {
        let body = match message.body {
            Body::Append { ref prev, .. } => Body::Rejected {
                prev: prev.index,
                hint: self.log.last(),
                lost: false,
                round: crate::Round(0),
            },
            Body::Vote { .. } => Body::VoteReply { granted: false, clock: self.reading() },
            Body::PreVote { next, last } => {
                return self.answer_pre_vote(message.from, next, last);
            }
            _ => return,
        };
        let reply = self.message(message.from, body);
        self.outbox.send(reply);
    }

    /// A peer has rejected our incarnation: its membership has no member with it.
    /// A rejection by the leader of this term is final: its log has all that is committed. But a
    /// late one may have been sent before this node was added.
    pub fn leave_the_membership(&mut self, commit: Index, refused: Incarnation, by_leader: bool) {
        if refused == self.config.incarnation {
            let is_late = self.listed_at().is_some_and(|listed_at| commit < listed_at);
            self.expelled |= by_leader && !is_late;
            self.not_a_member = Some(commit);
        }
    }

    /// The index of the membership in force, if it lists this node. 0 if it comes from no entry.
    fn listed_at(&self) -> Option<Index> {
        let own = self.log.membership().members.get(&self.config.id)?;
        (own.incarnation == self.config.incarnation).then(|| self.log.membership_index())
    }

    /// Whether the latest known membership, ours or a peer's, excludes us. A peer that had
    /// committed less than we have, or less than the entry that lists us, does not count against a
    /// membership that lists us.
    pub fn is_not_a_member(&self) -> bool {
        let listed_at = self.listed_at();
        let is_told = self.not_a_member.is_some_and(|told_at| {
            listed_at.is_none_or(|listed_at| told_at > self.commit && told_at >= listed_at)
        });
        is_told || self.is_removed()
    }

    /// Whether a committed membership has removed this node.
    pub fn is_removed(&self) -> bool {
        self.expelled || self.has_removed(self.config.id, self.config.incarnation)
    }

    /// Whether a committed membership has removed the node. That a node is in no membership proves
    /// nothing: ours may be older than it (§4.1).
    pub fn has_removed(&self, node: NodeId, incarnation: Incarnation) -> bool {
        let committed = self.log.logged_membership(self.commit);
        committed.is_some_and(|membership| membership.removed.get(&node) == Some(&incarnation))
    }

    /// Raises the commit index, at most to the end of the log. It never decreases.
    pub fn commit_to(&mut self, index: Index) {
        let index = index.min(self.log.last().index);
        self.commit = self.commit.max(index);
    }

    /// Appends an entry of the current term to the log.
    pub fn append(&mut self, payload: Payload) -> LogId {
        let id = LogId { term: self.hard.term, index: self.log.last().index.next() };
        let (time, number) = (self.log_time(), self.log.next_number());
        self.log.append(Entry { id, time, number, payload });
        id
    }

    // Log time, see `log_time.rs`.

    /// The log time now, as far as this node knows it. Never before that of the last entry.
    pub fn log_time(&self) -> LogTime {
        self.clock.time(self.now).unwrap_or_default().max(self.log.last_time())
    }

    /// Takes over the log time from a leader's message.
    pub fn hear_time(&mut self, time: LogTime) {
        self.clock.hear(time, self.now);
    }

    /// This node's log clock, for a vote reply.
    pub fn reading(&self) -> Reading {
        self.clock.reading(self.now)
    }

    /// Starts the log time of a new leader from its voters' clocks.
    pub fn start_time(&mut self, readings: &BTreeMap<NodeId, Reading>) {
        let start =
            log_time::start(self.log.membership(), readings, self.log.last_time(), self.now);
        self.clock.hear(start, self.now);
    }

    // Forwarded commands.

    /// Sends a request to the leader. Returns its number.
    pub fn forward(&mut self, leader: NodeId, request: Request) -> u64 {
        self.next_forward += 1;
        let number = self.next_forward;
        let repeatable = !matches!(request, Request::Command(_));
        self.forwards.insert(number, Awaited { leader, ticks: 0, repeatable });
        let start = self.config.start_nonce;
        let message = self.message(leader, Body::Forward { start, number, request });
        self.outbox.send(message);
        number
    }

    /// A node has replied to a forwarded command. A leader that has handed leadership over, or lost
    /// it, still knows what became of the command, so its reply counts in later terms too.
    pub fn forward_answered(&mut self, from: NodeId, start: u64, number: u64, outcome: Forwarded) {
        let is_awaited = self.forwards.get(&number).is_some_and(|it| it.leader == from);
        if is_awaited && start == self.config.start_nonce {
            self.forwards.remove(&number);
            self.forwarded(number, outcome);
        }
    }

    /// Reports commands as lost that have had no reply for too long. They may have been appended,
    /// so the core never sends them again. A driver may repeat a command of a session, and open
    /// another session, so such a request is reported as soon as there is another leader.
    fn tick_forwards(&mut self, leader: Option<NodeId>) {
        let patience = 2 * self.config.election_ticks;
        let mut lost = Vec::new();
        for (number, awaited) in &mut self.forwards {
            awaited.ticks += 1;
            let has_moved = leader.is_some_and(|leader| leader != awaited.leader);
            if awaited.ticks > patience || (awaited.repeatable && has_moved) {
                lost.push(*number);
            }
        }
        for number in lost {
            self.forwards.remove(&number);
            self.forwarded(number, Forwarded::Lost);
        }
    }

    /// Replies to a follower with the outcome of a command that it forwarded.
    pub fn answer_forward(&mut self, to: NodeId, start: u64, number: u64, outcome: Forwarded) {
        let reply = self.message(to, Body::ForwardReply { start, number, outcome });
        self.outbox.send(reply);
    }

    // Reads.

    pub fn new_read(&mut self) -> ReadId {
        self.next_read = ReadId(self.next_read.0.wrapping_add(1));
        self.next_read
    }

    /// Serves the read once `index` is applied.
    pub fn confirm_read(&mut self, read: ReadId, index: Index) {
        if index <= self.applied {
            self.answers.push_back(Action::Serve(read));
        } else {
            self.reads.insert((index, read));
        }
    }

    /// Queues the outcome of a forwarded command for the driver.
    fn forwarded(&mut self, number: u64, outcome: Forwarded) {
        self.answers.push_back(Action::Forwarded { number, outcome });
    }

    pub fn refuse_read(&mut self, read: ReadId) {
        self.answers.push_back(Action::Refuse(read));
    }

    /// The number of reads that wait for an apply or for `poll`.
    pub fn reads_waiting(&self) -> usize {
        self.reads.len() + self.answers.len()
    }

    // Work orders.

    fn ticket(&mut self) -> Ticket {
        self.orders += 1;
        Ticket { node: self.config.id, start_nonce: self.config.start_nonce, number: self.orders }
    }

    /// Whether a receipt is for the pending order. Others are counted as stale.
    fn is_due(&mut self, ticket: Ticket, out: Option<u64>) -> bool {
        let due = ticket.node == self.config.id
            && ticket.start_nonce == self.config.start_nonce
            && out == Some(ticket.number);
        if !due {
            self.counters.stale_receipts += 1;
        }
        due
    }

    #[cfg(feature = "clone-work")]
    pub fn has_write_out(&self) -> bool {
        self.write_out.is_some()
    }

    /// The next write, if there is anything to write and no write is pending.
    pub fn next_write(&mut self) -> Option<Write> {
        if self.write_out.is_some() {
            return None;
        }
        let written = !self.log.has_unwritten() && self.hard == self.durable;
        if written && self.log_start.is_none() {
            return None;
        }
        let ticket = self.ticket();
        let entries = self.log.fill_write(self.config.write_bytes_max);
        self.write_out = Some((ticket.number, self.hard));
        self.write_ticks = 0;
        self.snapshots.wrote();
        Some(Write { ticket, hard_state: self.hard, log_start: self.log_start.take(), entries })
    }

    /// The order to receive the snapshot of an offer.
    pub fn receive_snapshot(&mut self, offer: SnapshotOffer) -> ReceiveSnapshot {
        ReceiveSnapshot { ticket: self.ticket(), offer }
    }

    /// Whether the receipt is for an order of this start. There is one receipt for each order, and
    /// several orders may be out, so the number does not matter.
    pub fn is_received(&mut self, done: &SnapshotReceived) -> bool {
        self.is_due(done.ticket, Some(done.ticket.number))
    }

    /// A write is durable. Returns whether it was the pending one.
    pub fn persisted(&mut self, done: Durable) -> bool {
        if !self.is_due(done.ticket, self.write_out.map(|(number, _)| number)) {
            return false;
        }
        let Some((_, hard)) = self.write_out.take() else { return false };
        self.durable = hard;
        self.log.written();
        if self.hard.lost.is_some_and(|lost| self.log.durable_last() >= lost) {
            self.hard.lost = None;
        }
        true
    }

    /// The next order for the state machine, if one is due and none is pending.
    pub fn next_machine_order(&mut self) -> Option<Action> {
        if self.apply_out.is_some() || self.diverged {
            return None;
        }
        if let Some(snapshot) = &self.restore {
            // The log on disk must begin after the snapshot before the state machine's state does.
            if self.log.durable() < snapshot.last.index {
                return None;
            }
            let snapshot = self.restore.take()?;
            let ticket = self.ticket();
            self.apply_out = Some(ticket.number);
            return Some(Action::Restore(Restore { ticket, snapshot }));
        }
        let place = self.snapshots.place(&self.config, self.applied);
        if place.is_some_and(|place| place <= self.applied)
            && let Some(order) = self.snapshot_order()
        {
            return Some(Action::TakeSnapshot(order));
        }
        let mut to = self.commit.min(self.log.durable());
        if let Some(place) = place.filter(|place| *place > self.applied) {
            to = to.min(place);
        }
        if self.applied >= to {
            return None;
        }
        let bytes_max = self.config.apply_bytes_max;
        let (entries, bytes) = self.log.share(self.applied.next(), to, bytes_max);
        self.snapshots.applied(bytes);
        let ticket = self.ticket();
        self.apply_out = Some(ticket.number);
        Some(Action::Apply(Apply { ticket, entries }))
    }

    fn snapshot_order(&mut self) -> Option<TakeSnapshot> {
        self.snapshots.begins(self.applied);
        let base = self.log.base();
        if self.applied == base.last.index && self.snapshots.is_base_unreadable() {
            // Take the same snapshot again: it replaces the unreadable one.
            let snapshot = base.clone();
            let ticket = self.ticket();
            self.snapshots.ordered(ticket.number);
            return Some(TakeSnapshot { ticket, snapshot });
        }
        if self.applied <= base.last.index {
            return None;
        }
        let entry = self.log.entry(self.applied)?;
        let (membership_index, membership) = self.log.membership_at(self.applied);
        let snapshot = Snapshot {
            last: entry.id,
            time: entry.time,
            number: entry.number_after(),
            membership: Box::new(membership.clone()),
            membership_index,
            hash: self.hashes.at(self.applied),
        };
        let ticket = self.ticket();
        self.snapshots.ordered(ticket.number);
        Some(TakeSnapshot { ticket, snapshot })
    }

    /// The state machine has applied a batch or restored a snapshot.
    pub fn applied(&mut self, done: Applied) {
        if !self.is_due(done.ticket, self.apply_out) {
            return;
        }
        self.apply_out = None;
        self.applied = self.applied.max(done.to);
        if done.to == self.log.base().last.index && done.hashes.is_empty() {
            self.hashes = Hashes::starting(done.to, self.log.base().hash);
        } else {
            self.hashes.applied(done.to, &done.hashes);
        }
        while self.reads.first().is_some_and(|(index, _)| *index <= self.applied) {
            if let Some((_, read)) = self.reads.pop_first() {
                self.answers.push_back(Action::Serve(read));
            }
        }
    }

    /// A snapshot of the state machine is durable, or could not be written.
    pub fn compact(&mut self, done: SnapshotDurable) {
        if !self.is_due(done.ticket, self.snapshots.out()) {
            return;
        }
        let Some(snapshot) = done.snapshot else { return self.snapshots.failed(&self.config) };
        self.snapshots.done();
        if snapshot.last == self.log.base().last {
            self.snapshots.base_is_readable();
        }
        // A snapshot from the leader may have replaced the log meanwhile.
        if snapshot.last.index > self.log.base().last.index && self.log.contains(snapshot.last) {
            self.log.compact(snapshot.clone());
            self.log_start = Some(LogStart::Compact(snapshot));
            self.snapshots.base_is_readable();
        }
    }

    /// This node's state is wrong, and its log and snapshots may be wrong too. It resets its log
    /// and records the loss in the hard state. Its peers repair it after a restart.
    pub fn diverge(&mut self, state: StateHash) {
        // The state has been restored since the report: the verdict does not apply to it.
        if self.diverged || self.hashes.at(state.index) != Some(state.hash) {
            return;
        }
        self.diverged = true;
        self.hard.lost = self.hard.lost.max(Some(self.log.last()));
        let initial = Snapshot::initial(self.log.membership().clone());
        self.log.reset(initial.clone());
        (self.commit, self.applied) = (Index(0), Index(0));
        self.log_start = Some(LogStart::Reset(initial));
        (self.apply_out, self.restore) = (None, None);
        self.snapshots.forget_order();
        self.outbox.forget_held();
        for (_, read) in std::mem::take(&mut self.reads) {
            self.answers.push_back(Action::Refuse(read));
        }
    }

    pub fn is_diverged(&self) -> bool {
        self.diverged
    }

    /// Whether this node's state was found to be wrong, and its disk records that. The hard state
    /// alone does not tell: an earlier loss may have set it already.
    pub fn has_given_up(&self) -> bool {
        self.diverged
            && self.log_start.is_none()
            && self.write_out.is_none()
            && self.durable == self.hard
    }

    /// Removes entries that a snapshot covers from memory, a limited number per call.
    pub fn trim(&mut self, needed_after: Option<Index>) {
        let Config { retained_bytes, catch_up_bytes_max, .. } = self.config;
        self.log.trim(retained_bytes, needed_after, catch_up_bytes_max, TRIM_ENTRIES);
    }

    /// Records that the snapshot that the log begins after is unreadable, and makes another one
    /// due.
    pub fn base_unreadable(&mut self, snapshot: LogId) {
        if snapshot == self.log.base().last && snapshot != LogId::ZERO {
            self.snapshots.base_is_unreadable();
        }
    }

    /// Replaces the log by a leader's snapshot, which is durable.
    pub fn replace_log(&mut self, snapshot: Snapshot) {
        self.commit = snapshot.last.index;
        self.log.reset(snapshot.clone());
        self.snapshots.begins(snapshot.last.index);
        self.snapshots.base_is_readable();
        self.log_start = Some(LogStart::Reset(snapshot.clone()));
        self.restore = Some(snapshot);
    }

    /// The next outcome of a read or of a forwarded command.
    pub fn next_answer(&mut self) -> Option<Action> {
        self.answers.pop_front()
    }

    /// The first invariant that does not hold, if any. Checked after every event in debug builds.
    pub fn broken_invariant(&self) -> Option<&'static str> {
        let rules = [
            ("more is applied than committed", self.applied <= self.commit),
            ("more is committed than there is", self.commit <= self.log.last().index),
            ("the log is of a later term", self.log.last().term <= self.hard.term),
            ("a term later than the current one is durable", self.durable.term <= self.hard.term),
        ];
        let broken = rules.into_iter().find(|(_, holds)| !holds).map(|(name, _)| name);
        broken.or_else(|| self.log.broken_invariant())
    }
}
