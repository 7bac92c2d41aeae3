//! The state that all roles share: the log, the hard state, the commit and applied indexes, and the
//! pending work orders. Roles borrow it; it does not depend on them.

mod elections;
mod exclusion;
mod idle;
mod orders;
mod requests;

use self::exclusion::Rejected;
use crate::digest::Hashes;
use crate::lease::Promise;
use crate::log::Log;
use crate::log_time::{self, LogClock, Reading};
use crate::outbox::Outbox;
use crate::probation::Probation;
use crate::snapshot_schedule::SnapshotSchedule;
use crate::{
    Action, Body, Config, Counters, Entry, HardState, Index, LogId, LogStart, LogTime, Message,
    NodeId, Now, Payload, ReadId, Snapshot, Term,
};
use rand_pcg::Pcg32;
use rand_pcg::rand_core::SeedableRng;
use std::collections::{BTreeMap, BTreeSet, VecDeque};

/// A forwarded command without a reply yet.
#[derive(Clone, Debug)]
struct Awaited {
    leader: NodeId,
    /// How long it has waited.
    ticks: u32,
    /// Whether the driver may propose it again.
    repeatable: bool,
}

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
    /// Set when a leader that this node followed has rejected its incarnation: the highest commit
    /// index of such a leader at the time.
    expelled: Option<Index>,
    /// While leaders that this node follows go on rejecting it.
    rejected: Option<Rejected>,
    /// Since it last heard from a leader, a candidate whose log is less up to date has asked this
    /// node for its vote.
    pub is_counted_on: bool,
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
            expelled: None,
            rejected: None,
            is_counted_on: false,
            corrected: BTreeSet::new(),
            orders: 0,
            write_out: None,
            write_ticks: 0,
            log_start: None,
            apply_out: None,
            snapshots: SnapshotSchedule::new(base, log.last().index),
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
        self.clock.see(now);
        if self.promise.see(now.monotonic_ns) {
            self.clock_failures += 1;
        }
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
        self.tick_rejected();
        if self.write_out.is_some() {
            self.write_ticks = self.write_ticks.saturating_add(1);
        }
        self.snapshots.tick();
        self.tick_forwards(leader);
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
            Body::Vote { .. } => Body::VoteReply {
                granted: false,
                clock: self.reading(),
                candidate: message.incarnation,
            },
            Body::PreVote { next, last } => {
                return self.answer_pre_vote((message.from, message.incarnation), next, last);
            }
            _ => return,
        };
        let reply = self.message(message.from, body);
        self.outbox.send(reply);
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
    pub fn observe_time(&mut self, time: LogTime) {
        self.clock.observe(time, self.now);
    }

    /// This node's log clock, for a vote reply.
    pub fn reading(&self) -> Reading {
        self.clock.reading(self.now)
    }

    /// Starts the log time of a new leader from its voters' clocks.
    pub fn start_time(&mut self, readings: &BTreeMap<NodeId, Reading>) {
        let start =
            log_time::start(self.log.membership(), readings, self.log.last_time(), self.now);
        self.clock.observe(start, self.now);
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
