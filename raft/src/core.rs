//! What all roles share: the log, the hard state, how far things are committed and applied, and the
//! orders that are out. Roles borrow it; it knows none of them.

use crate::digest::Hashes;
use crate::log::Log;
use crate::log_time::{self, LogClock, Reading};
use crate::outbox::Outbox;
use crate::work::Ticket;
use crate::{
    Action, Applied, Apply, Body, Config, Counters, Durable, Entry, Forwarded, HardState, Index,
    LogId, LogTime, Message, NodeId, Now, Offer, Payload, ReadId, Rebase, Restore, Snapshot,
    SnapshotDurable, StateHash, TakeSnapshot, Term, Write,
};
use rand_pcg::Pcg32;
use rand_pcg::rand_core::{Rng, SeedableRng};
use std::collections::{BTreeMap, BTreeSet, VecDeque};

/// Terms and indexes beyond this come from no correct peer, and are ignored before anything is
/// computed with them. At a million a second it is reached in 146,000 years.
const NUMBER_MAX: u64 = 1 << 62;

/// A message whose term is later than ours by more than this comes from no correct peer. Terms rise by
/// one an election, which takes an election timeout: it would take years of nothing but elections. A
/// later term is durable and spreads, so that one bad message could stop the cluster for good.
const TERM_LEAP_MAX: u64 = 1 << 24;

/// A disk counts as stalled when a write has been out for so many election timeouts.
const STALL_ELECTIONS: u32 = 2;

/// A snapshot that could not be written is tried again after an election timeout, and after twice as
/// long each time, doubled at most so often.
const SNAPSHOT_DOUBLINGS_MAX: u32 = 7;

/// Entries that are let go of in one tick.
const TRIM_ENTRIES: usize = 4096;

/// Invariants: `applied ≤ commit ≤ log.last().index`; `hard.term` is at least the log's last term;
/// what `durable` says was `hard` at some time.
#[derive(Debug)]
#[cfg_attr(feature = "clone-work", derive(Clone))]
pub(crate) struct Core {
    pub config: Config,
    pub now: Now,
    pub log: Log,
    /// Term and vote as they are now; on disk, as `durable` says.
    hard: HardState,
    durable: HardState,
    pub commit: Index,
    pub applied: Index,
    pub outbox: Outbox,
    pub counters: Counters,
    /// If set, a peer has refused this life of our disk; its commit index then.
    outcast: Option<Index>,
    rng: Pcg32,
    /// Numbers the work orders.
    orders: u64,
    /// The number of the write that is out, and the hard state that it makes durable.
    write_out: Option<(u64, HardState)>,
    /// For how many ticks it has been out.
    write_ticks: u32,
    write_buffer: Vec<Entry>,
    /// A change of where the log begins, to go into the next write.
    rebase: Option<Rebase>,
    apply_out: Option<u64>,
    apply_buffer: Vec<Entry>,
    snapshot_out: Option<u64>,
    /// Snapshots that could not be written, one after another, and the ticks until the next attempt.
    snapshot_failures: u32,
    snapshot_wait: u32,
    /// The snapshot that the log begins after cannot be read.
    base_unreadable: bool,
    /// What is applied, in numbers that copies can compare.
    pub hashes: Hashes,
    /// This node's copy is wrong, and its log is forgotten.
    diverged: bool,
    clock: LogClock,
    /// A snapshot that replaces the state machine's state, once the log on disk begins after it.
    restore: Option<Snapshot>,
    /// Bytes of entries applied since a snapshot was last asked for.
    applied_bytes: usize,
    next_read: ReadId,
    /// The number of the latest command that was forwarded.
    next_forward: u64,
    /// Reads whose index is confirmed and not applied yet.
    reads: BTreeSet<(Index, ReadId)>,
    /// Reads to serve or to refuse.
    answers: VecDeque<Action>,
}

impl Core {
    /// The caller has checked the settings and what was restored.
    pub fn new(config: Config, hard: HardState, log: Log) -> Self {
        let base = log.base().last.index;
        let hashes = Hashes::starting(base, log.base().hash);
        let durable = hard;
        let mut hard = hard;
        // The crash may have come after the repair and before the note of it.
        if hard.lost.is_some_and(|lost| log.durable_last() >= lost) {
            hard.lost = None;
        }
        Core {
            rng: Pcg32::seed_from_u64(config.seed),
            now: Now::default(),
            hard,
            durable,
            commit: base,
            applied: base,
            outbox: Outbox::default(),
            counters: Counters::default(),
            outcast: None,
            orders: 0,
            write_out: None,
            write_ticks: 0,
            write_buffer: Vec::new(),
            rebase: None,
            apply_out: None,
            apply_buffer: Vec::new(),
            snapshot_out: None,
            snapshot_failures: 0,
            snapshot_wait: 0,
            base_unreadable: false,
            hashes,
            diverged: false,
            clock: LogClock::default(),
            restore: None,
            applied_bytes: 0,
            // A late answer to a read of an earlier start must not pass for one to a read of this.
            next_forward: 0,
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

    /// One tick of the clock has passed.
    pub fn tick(&mut self) {
        if self.write_out.is_some() {
            self.write_ticks = self.write_ticks.saturating_add(1);
        }
        if self.snapshot_wait > 0 {
            self.snapshot_wait -= 1;
            if self.snapshot_wait == 0 {
                self.applied_bytes = self.applied_bytes.max(self.config.snapshot_log_bytes);
            }
        }
    }

    /// Whether a write has been out for so long that this node should not lead: its disk is full, hangs,
    /// or is very slow.
    pub fn is_disk_stalled(&self) -> bool {
        self.write_out.is_some()
            && self.write_ticks >= STALL_ELECTIONS.saturating_mul(self.config.election_ticks)
    }

    /// Whether a message of a correct peer can be of this term.
    pub fn is_plausible(&self, term: Term) -> bool {
        term.0 <= self.hard.term.0.saturating_add(TERM_LEAP_MAX)
    }

    /// A wait before an election, drawn anew each time (§3.4).
    pub fn election_timeout(&mut self) -> u32 {
        let least = self.config.election_ticks;
        least + self.rng.next_u32() % least
    }

    /// Enters a later term, in which nobody has this node's vote yet.
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

    /// Whether this node may ask for votes: it votes itself, has lost nothing, its disk answers, and
    /// nobody has told it that it is no member.
    pub fn may_campaign(&self) -> bool {
        self.log.membership().is_voter(self.config.id)
            && self.hard.lost.is_none()
            && !self.is_disk_stalled()
            && !self.diverged
            && !self.is_outcast()
    }

    /// Whether a candidate whose log ends with `last` may have this node's vote, as far as the logs
    /// go (§3.6.1). A node that has lost entries that it had acknowledged cannot tell.
    fn is_up_to_date(&self, last: LogId) -> bool {
        self.hard.lost.is_none() && last >= self.log.last()
    }

    /// Answers a request for this node's vote in the current term. Returns whether it is granted.
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

    /// Answers whether this node would vote for the candidate in term `next` (§9.6). While its disk is
    /// stalled it could not.
    pub fn answer_pre_vote(&mut self, candidate: NodeId, next: Term, last: LogId) {
        let could = !self.is_disk_stalled();
        let granted = could && next > self.hard.term && self.is_up_to_date(last);
        let reply = self.message(candidate, Body::PreVoteReply { next, granted });
        self.outbox.send(reply);
    }

    /// Answers a message of an earlier term, so that its sender learns the current one, where it
    /// would go on in the earlier one otherwise.
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

    /// Whether the message can be meant for this node and come from a correct peer. What does not
    /// fit is counted.
    pub fn admits(&mut self, message: &Message) -> bool {
        if message.to != self.config.id || message.from == self.config.id {
            self.counters.misaddressed += 1;
            return false;
        }
        let next = match message.body {
            Body::PreVote { next, .. } | Body::PreVoteReply { next, .. } => next,
            _ => message.term,
        };
        if !is_sane(message) || !self.is_plausible(next.max(message.term)) {
            self.counters.nonsense += 1;
            return false;
        }
        let counts = !matches!(
            message.body,
            Body::Append { .. }
                | Body::ReadIndexReply { .. }
                | Body::ForwardReply { .. }
                | Body::TimeoutNow
                | Body::Outcast { .. }
        );
        let member = self.log.membership().members.get(&message.from);
        if counts && member.is_some_and(|member| member.incarnation != message.incarnation) {
            self.counters.wrong_incarnation += 1;
            let body = Body::Outcast { commit: self.commit, refused: message.incarnation };
            let reply = self.message(message.from, body);
            self.outbox.send(reply);
            return false;
        }
        true
    }

    /// A peer says that this life of our disk is not the member it knows.
    pub fn cast_out(&mut self, commit: Index, refused: crate::Incarnation) {
        if refused == self.config.incarnation {
            self.outcast = Some(commit);
        }
    }

    /// Whether the latest word on our membership, ours or a peer's, is that we are none. A peer with
    /// a log shorter than what we know to be committed does not have the latest word.
    pub fn is_outcast(&self) -> bool {
        let ours = self.log.membership().members.get(&self.config.id);
        let listed = ours.is_some_and(|own| own.incarnation == self.config.incarnation);
        self.outcast.is_some_and(|told_at| !listed || told_at > self.commit)
    }

    /// Raises the commit index. Only what is in the log can be committed here.
    pub fn commit_to(&mut self, index: Index) {
        let index = index.min(self.log.last().index);
        self.commit = self.commit.max(index);
    }

    /// Puts an entry at the end of the log.
    pub fn append(&mut self, payload: Payload) -> LogId {
        let id = LogId { term: self.hard.term, index: self.log.last().index.next() };
        let (time, number) = (self.log_time(), self.log.next_number());
        self.log.append(Entry { id, time, number, payload });
        id
    }

    // The log's time, see `log_time.rs`.

    /// The log's time at this moment, as far as this node can tell: never before its last entry's.
    pub fn log_time(&self) -> LogTime {
        self.clock.time(self.now).unwrap_or_default().max(self.log.last_time())
    }

    /// The leader has told its time.
    pub fn hear_time(&mut self, time: LogTime) {
        self.clock.hear(time, self.now);
    }

    /// This node's clock, for a candidate.
    pub fn reading(&self) -> Reading {
        self.clock.reading(self.now)
    }

    /// This node leads: the log's time goes on from what the clocks of its voters say.
    pub fn start_time(&mut self, readings: &BTreeMap<NodeId, Reading>) {
        let start = log_time::start(self.log.membership(), readings, self.log.last_time());
        self.clock.hear(start, self.now);
    }

    // Commands that are forwarded.

    pub fn new_forward(&mut self) -> u64 {
        self.next_forward += 1;
        self.next_forward
    }

    /// Tells a follower what became of a command that it has forwarded.
    pub fn answer_forward(&mut self, to: NodeId, start: u64, number: u64, outcome: Forwarded) {
        let reply = self.message(to, Body::ForwardReply { start, number, outcome });
        self.outbox.send(reply);
    }

    // Reads.

    pub fn new_read(&mut self) -> ReadId {
        self.next_read = ReadId(self.next_read.0.wrapping_add(1));
        self.next_read
    }

    /// The read may be served once `index` is applied.
    pub fn confirm_read(&mut self, read: ReadId, index: Index) {
        if index <= self.applied {
            self.answers.push_back(Action::Serve(read));
        } else {
            self.reads.insert((index, read));
        }
    }

    /// What became of a command that was forwarded.
    pub fn forwarded(&mut self, number: u64, outcome: Forwarded) {
        self.answers.push_back(Action::Forwarded { number, outcome });
    }

    pub fn refuse_read(&mut self, read: ReadId) {
        self.answers.push_back(Action::Refuse(read));
    }

    /// How many reads wait to be applied or handed out.
    pub fn reads_waiting(&self) -> usize {
        self.reads.len() + self.answers.len()
    }

    // Orders.

    fn ticket(&mut self) -> Ticket {
        self.orders += 1;
        Ticket { node: self.config.id, start_nonce: self.config.start_nonce, number: self.orders }
    }

    /// Whether a receipt is for the order that is out.
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

    /// The next write, if there is something to write and none is out.
    pub fn next_write(&mut self) -> Option<Write> {
        let written = self.hard == self.durable && !self.log.has_unwritten();
        if self.write_out.is_some() || (written && self.rebase.is_none()) {
            return None;
        }
        let ticket = self.ticket();
        let mut entries = std::mem::take(&mut self.write_buffer);
        self.log.fill_write(self.config.write_bytes_max, &mut entries);
        self.write_out = Some((ticket.number, self.hard));
        self.write_ticks = 0;
        Some(Write { ticket, hard_state: self.hard, rebase: self.rebase.take(), entries })
    }

    /// A write is durable. Returns whether it is one that was out.
    pub fn persisted(&mut self, done: Durable) -> bool {
        if !self.is_due(done.ticket, self.write_out.map(|(number, _)| number)) {
            return false;
        }
        let Some((_, hard)) = self.write_out.take() else { return false };
        self.write_buffer = done.buffer;
        self.durable = hard;
        self.log.written();
        if self.hard.lost.is_some_and(|lost| self.log.durable_last() >= lost) {
            self.hard.lost = None;
        }
        true
    }

    /// The next order for the state machine or for a snapshot of it, if one is due and none is out.
    pub fn next_machine_order(&mut self) -> Option<Action> {
        if self.apply_out.is_some() || self.diverged {
            return None;
        }
        if let Some(snapshot) = &self.restore {
            // The log on disk must begin after the snapshot before the state machine does.
            if self.log.durable() < snapshot.last.index {
                return None;
            }
            let snapshot = self.restore.take()?;
            let ticket = self.ticket();
            self.apply_out = Some(ticket.number);
            return Some(Action::Restore(Restore { ticket, snapshot }));
        }
        let snapshot_due = self.applied_bytes >= self.config.snapshot_log_bytes;
        if snapshot_due
            && self.snapshot_out.is_none()
            && let Some(order) = self.snapshot_order()
        {
            return Some(Action::TakeSnapshot(order));
        }
        let to = self.commit.min(self.log.durable());
        if self.applied >= to {
            return None;
        }
        let mut entries = std::mem::take(&mut self.apply_buffer);
        let bytes_max = self.config.apply_bytes_max;
        let bytes = self.log.copy(self.applied.next(), to, bytes_max, &mut entries);
        self.applied_bytes += bytes;
        let ticket = self.ticket();
        self.apply_out = Some(ticket.number);
        Some(Action::Apply(Apply { ticket, entries }))
    }

    fn snapshot_order(&mut self) -> Option<TakeSnapshot> {
        self.applied_bytes = 0;
        self.snapshot_wait = 0;
        let base = self.log.base();
        if self.applied == base.last.index && self.base_unreadable {
            // The same again, in the place of the one that cannot be read.
            let snapshot = base.clone();
            let ticket = self.ticket();
            self.snapshot_out = Some(ticket.number);
            return Some(TakeSnapshot { ticket, snapshot });
        }
        if self.applied <= base.last.index {
            return None;
        }
        let entry = self.log.entry(self.applied)?;
        let snapshot = Snapshot {
            last: entry.id,
            time: entry.time,
            number: entry.number_after(),
            membership: self.log.membership_at(self.applied).clone(),
            hash: self.hashes.at(self.applied),
        };
        let ticket = self.ticket();
        self.snapshot_out = Some(ticket.number);
        Some(TakeSnapshot { ticket, snapshot })
    }

    /// The state machine has done what it was told.
    pub fn applied(&mut self, done: Applied) {
        if !self.is_due(done.ticket, self.apply_out) {
            return;
        }
        self.apply_out = None;
        if done.buffer.capacity() > self.apply_buffer.capacity() {
            self.apply_buffer = done.buffer;
        }
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
        if !self.is_due(done.ticket, self.snapshot_out) {
            return;
        }
        self.snapshot_out = None;
        let Some(snapshot) = done.snapshot else {
            let doublings = self.snapshot_failures.min(SNAPSHOT_DOUBLINGS_MAX);
            self.snapshot_wait = self.config.election_ticks.saturating_mul(1 << doublings);
            self.snapshot_failures = self.snapshot_failures.saturating_add(1);
            return;
        };
        self.snapshot_failures = 0;
        if snapshot.last == self.log.base().last {
            self.base_unreadable = false;
        }
        // A snapshot from the leader may have overtaken it.
        if snapshot.last.index > self.log.base().last.index && self.log.contains(snapshot.last) {
            self.log.compact(snapshot.clone());
            self.rebase = Some(Rebase::Compact(snapshot));
            self.base_unreadable = false;
        }
    }

    /// This node's copy is wrong: as its log may be, and as a snapshot of it would be. It forgets the log,
    /// and notes that it has lost it: the others repair it when it starts again.
    pub fn diverge(&mut self, state: StateHash) {
        // A verdict on a copy that was restored since is none on this one.
        if self.diverged || self.hashes.at(state.index) != Some(state.hash) {
            return;
        }
        self.diverged = true;
        self.hard.lost = self.hard.lost.max(Some(self.log.last()));
        let initial = Snapshot::initial(self.log.membership().clone());
        self.log.reset(initial.clone());
        (self.commit, self.applied) = (Index(0), Index(0));
        self.rebase = Some(Rebase::Reset(initial));
        (self.apply_out, self.snapshot_out, self.restore) = (None, None, None);
        self.outbox.forget_held();
        for (_, read) in std::mem::take(&mut self.reads) {
            self.answers.push_back(Action::Refuse(read));
        }
    }

    pub fn is_diverged(&self) -> bool {
        self.diverged
    }

    /// Lets go of entries that a snapshot stands for, some at a time.
    pub fn trim(&mut self, needed_after: Option<Index>) {
        let Config { retained_bytes, catch_up_bytes_max, .. } = self.config;
        self.log.trim(retained_bytes, needed_after, catch_up_bytes_max, TRIM_ENTRIES);
    }

    /// The snapshot that the log begins after cannot be read.
    pub fn base_unreadable(&mut self, snapshot: LogId) {
        if snapshot == self.log.base().last && !self.base_unreadable && snapshot != LogId::ZERO {
            self.base_unreadable = true;
            self.applied_bytes = self.applied_bytes.max(self.config.snapshot_log_bytes);
        }
    }

    pub fn is_base_unreadable(&self) -> bool {
        self.base_unreadable
    }

    /// Puts a leader's snapshot, which is durable, in the place of the log.
    pub fn replace_log(&mut self, snapshot: Snapshot) {
        self.commit = snapshot.last.index;
        self.log.reset(snapshot.clone());
        self.base_unreadable = false;
        self.rebase = Some(Rebase::Reset(snapshot.clone()));
        self.restore = Some(snapshot);
    }

    /// The next answer to a read.
    pub fn next_answer(&mut self) -> Option<Action> {
        self.answers.pop_front()
    }

    /// What does not hold, if anything. Checked after every event in debug builds.
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

/// Whether a correct peer could have sent this.
fn is_sane(message: &Message) -> bool {
    let small = |id: LogId| id.term.0 <= NUMBER_MAX && id.index.0 <= NUMBER_MAX;
    if message.term.0 > NUMBER_MAX {
        return false;
    }
    match &message.body {
        Body::PreVote { next, last } => next.0 <= NUMBER_MAX && small(*last),
        Body::Vote { last, .. } => small(*last) && last.term < message.term,
        Body::Append { prev, entries, commit, round, time } => {
            let mut before = *prev;
            small(*prev)
                && prev.term <= message.term
                && commit.0 <= NUMBER_MAX
                && round.0 <= NUMBER_MAX
                && time.0 <= NUMBER_MAX
                && entries.iter().all(|entry| {
                    let follows = entry.id.index == before.index.next()
                        && entry.id.term >= before.term
                        && entry.id.term <= message.term
                        && entry.number.0 <= NUMBER_MAX
                        && entry.time.0 <= NUMBER_MAX;
                    before = entry.id;
                    follows
                })
        }
        Body::Diverged { state } => state.index.0 <= NUMBER_MAX,
        Body::Appended { matched, round, .. } => matched.0 <= NUMBER_MAX && round.0 <= NUMBER_MAX,
        Body::Rejected { prev, hint, round, .. } => {
            prev.0 <= NUMBER_MAX && small(*hint) && round.0 <= NUMBER_MAX
        }
        Body::ReadIndexReply { index, .. } => index.is_none_or(|index| index.0 <= NUMBER_MAX),
        Body::PreVoteReply { next, .. } => next.0 <= NUMBER_MAX,
        Body::VoteReply { clock, .. } => clock.time().0 <= NUMBER_MAX,
        Body::ReadIndex { .. } | Body::TimeoutNow | Body::Forward { .. } => true,
        Body::ForwardReply { outcome, .. } => match outcome {
            Forwarded::Appended { id, number } => {
                small(*id) && id.term == message.term && number.0 <= NUMBER_MAX
            }
            Forwarded::Busy | Forwarded::TooLarge { .. } => true,
            Forwarded::Lost => false,
        },
        Body::Outcast { commit, .. } => commit.0 <= NUMBER_MAX,
    }
}

/// Whether a correct leader could have offered this.
pub(crate) fn is_sane_offer(offer: &Offer) -> bool {
    let snapshot = &offer.snapshot;
    offer.term.0 <= NUMBER_MAX
        && snapshot.last.term <= offer.term
        && snapshot.last.index.0 <= NUMBER_MAX
        && snapshot.number.0 <= NUMBER_MAX
        && snapshot.time.0 <= NUMBER_MAX
        // A state comes from a cluster, and a cluster has voters.
        && !snapshot.membership.members.is_empty()
}
