//! The leader's view of one peer, and what it may send to that peer (§3.5, §10.2.2).
//!
//! Appends are not queued: the next one is built from this state when there is room for it.

use crate::lease::Relied;
use crate::{Index, LogId, Round, Snapshot, SnapshotStatus, StateHash};
use std::collections::VecDeque;

/// Invariants: `matched < next`; everything in flight is above `matched`.
#[derive(Clone, Debug)]
pub(crate) struct Progress {
    /// The peer's durable log is known to agree with the leader's up to here.
    pub matched: Index,
    /// The next entry to send.
    pub next: Index,
    /// Whether the leader probes, replicates or sends a snapshot.
    pub state: State,
    /// A probe from `next` has carried entries, which may be on their way. Further ones carry none:
    /// repeated with each heartbeat, entries could come faster than a slow connection takes them,
    /// and what the peer says would always be about the past.
    pub bare: bool,
    /// The latest round that the peer has acknowledged.
    pub round: Round,
    /// The leader's latest round when `matched` was last raised. A reply to a later round was sent
    /// after that acknowledgement.
    pub matched_round: Round,
    /// Replies to earlier rounds are void: the peer has lost entries since it sent them.
    pub ignore_before: Round,
    /// How many times the peer has lost entries that it had acknowledged.
    pub losses: u64,
    /// Whether the peer's state agrees with the leader's, as of its last report.
    pub agrees: Option<bool>,
    /// The peer reports no state hash, so it cannot be compared.
    pub incomparable: bool,
    /// Its latest report, if that differs from the leader's state.
    pub other: Option<StateHash>,
    /// The latest index at which it agreed, and the index at which it was first found to differ
    /// since then; 0: it was not.
    pub agreed_at: Index,
    pub differs_at: Index,
    /// The latest index at which the peer has reported a state.
    pub reported_at: Index,
    /// Ticks during which the peer could have confirmed the state that the leader's log begins
    /// after, and has reported no later state. A peer whose disk hangs may send messages all the
    /// time and never report one.
    pub unconfirmed_ticks: u32,
    /// Ticks since the peer last reported a state at all.
    pub unreported_ticks: u32,
    /// Ticks since the peer last answered.
    pub silent_ticks: u32,
    /// The peer has replied since the leader last checked for a quorum.
    pub active: bool,
    /// An append is due to the peer in this round, even an empty one.
    pub heartbeat_due: bool,
    /// The peer must receive the commit index even if there are no entries to send.
    pub commit_due: bool,
    /// The last entry that this peer has forwarded. Its client waits: the peer is sent the commit
    /// index as soon as the entry is committed.
    pub forwarded: Index,
    /// The commit index that was last sent to the peer.
    pub sent_commit: Index,
    /// The appends with entries that are in flight.
    pub inflight: Inflight,
    /// The peer's priority, as of its latest reply; 0 while it could not lead, or has lately failed
    /// to.
    pub priority: u8,
    /// Ticks for which the peer has been preferred to the leader, and healthy.
    pub preferred_ticks: u32,
    /// An earlier end of the leader's log, and for how many ticks the peer has not reached it.
    pub chased: Index,
    pub chase_ticks: u32,
    /// Until when the leader may rely on the peer's promise to grant no vote.
    pub relied: Relied,
    /// The snapshot that was offered to the peer and that it does not have yet. If its transfer
    /// fails, the same one is offered again, so that it continues where it stopped. Until the peer
    /// has acknowledged it, the leader keeps the entries after it.
    pub offered: Option<Snapshot>,
    /// Consecutive transfers of a snapshot that failed and delivered nothing of it.
    snapshot_failures: u32,
    /// Where the latest transfer of the offered snapshot continued, in bytes.
    snapshot_resumed_at: u64,
    /// Ticks until a snapshot may be offered again.
    snapshot_wait: u32,
}

/// After this many failures the pause between two snapshot transfers stops doubling.
const SNAPSHOT_DOUBLINGS_MAX: u32 = 6;
/// After this many election timeouts of silence, the snapshot that was offered to a peer is not
/// kept for it any more.
const OFFER_ELECTIONS: u32 = 64;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum State {
    /// It is not known where the logs agree. One append is sent at a time; the next one follows a
    /// reply or a heartbeat interval.
    Probe {
        /// The append is in flight.
        asked: bool,
    },
    /// The logs agree below `next`. Appends follow each other without waiting for replies.
    Replicate,
    /// The peer needs entries that are no longer in the log. This snapshot is being sent.
    Snapshot(LogId),
}

impl Progress {
    /// A peer about which nothing is known. The first guess is that its log is complete.
    pub fn new(next: Index) -> Self {
        Progress {
            matched: Index(0),
            next,
            state: State::Probe { asked: false },
            bare: false,
            round: Round(0),
            matched_round: Round(0),
            ignore_before: Round(0),
            losses: 0,
            agrees: None,
            incomparable: false,
            other: None,
            agreed_at: Index(0),
            differs_at: Index(0),
            reported_at: Index(0),
            unconfirmed_ticks: 0,
            unreported_ticks: 0,
            silent_ticks: 0,
            active: false,
            heartbeat_due: false,
            commit_due: false,
            forwarded: Index(0),
            sent_commit: Index(0),
            inflight: Inflight::default(),
            priority: 0,
            preferred_ticks: 0,
            chased: next,
            chase_ticks: 0,
            relied: Relied::default(),
            offered: None,
            snapshot_failures: 0,
            snapshot_resumed_at: 0,
            snapshot_wait: 0,
        }
    }

    /// One tick of the clock of the leader, whose log begins after `base`, has passed.
    pub fn tick(&mut self, base: Index, election_ticks: u32) {
        self.silent_ticks = self.silent_ticks.saturating_add(1);
        if self.silent_ticks > OFFER_ELECTIONS.saturating_mul(election_ticks) {
            self.offered = None;
        }
        self.unconfirmed_ticks = match self.confirms(base) {
            true => 0,
            false => self.unconfirmed_ticks.saturating_add(1),
        };
        self.unreported_ticks = self.unreported_ticks.saturating_add(1);
        self.snapshot_wait = self.snapshot_wait.saturating_sub(1);
    }

    /// Whether no tick before the next heartbeat does anything for the peer, in the eyes of a
    /// leader that has committed up to `commit` and has this priority.
    pub fn is_at_rest(&self, commit: Index, priority: u8) -> bool {
        let has_all = match self.state {
            State::Replicate => self.sent_commit >= commit,
            State::Probe { .. } => true,
            State::Snapshot(_) => false,
        };
        let is_due = self.heartbeat_due || self.commit_due || self.snapshot_wait > 0;
        has_all && !is_due && self.priority <= priority
    }

    /// The peer has reported its state at `index`.
    pub fn reported(&mut self, index: Index) {
        self.unreported_ticks = 0;
        if index > self.reported_at {
            (self.reported_at, self.unconfirmed_ticks) = (index, 0);
        }
    }

    /// Whether the peer has confirmed the leader's state at `base` or later.
    pub fn confirms(&self, base: Index) -> bool {
        self.agrees == Some(true) && self.agreed_at >= base
    }

    /// One tick in which the leader's log ends with `last`.
    pub fn chase(&mut self, last: Index) {
        self.chase_ticks = self.chase_ticks.saturating_add(1);
        if self.matched >= self.chased {
            (self.chased, self.chase_ticks) = (last, 0);
        }
    }

    /// Returns to probing from `next`, or from right after `matched` if that is later.
    ///
    /// A probe at another position is sent at once. A repeated probe would get the same reply, so
    /// it waits for the next heartbeat. Otherwise a peer that rejects what it has acknowledged
    /// would be probed as fast as it replies.
    pub fn probe(&mut self, next: Index) {
        let next = next.max(self.matched.next());
        let again = matches!(self.state, State::Probe { .. }) && next == self.next;
        self.state = State::Probe { asked: again };
        self.bare &= again;
        self.next = next;
        self.inflight.clear();
    }

    /// The peer has lost entries that it had acknowledged. Its replies to rounds before `round` are
    /// void.
    pub fn forget(&mut self, round: Round) {
        self.matched = Index(0);
        self.matched_round = round;
        self.ignore_before = round;
        self.losses += 1;
    }

    /// Whether the peer replies and needs an entry that is no longer in the log: one at or below
    /// `before`. False until the pause after a failed transfer is over.
    pub fn wants_snapshot(&self, before: Index) -> bool {
        let idle = matches!(self.state, State::Probe { asked: false } | State::Replicate);
        idle && self.active && self.next <= before && self.snapshot_wait == 0
    }

    /// A snapshot transfer has ended. The pause before the next one starts at `pause_ticks` and
    /// doubles with each consecutive failure. So a receiver with a full disk is not offered a
    /// snapshot all the time. A transfer that continues further on than the one before it proves
    /// that the network only breaks connections: the pauses start anew.
    pub fn snapshot_ended(&mut self, status: SnapshotStatus, pause_ticks: u32) {
        let SnapshotStatus::Failed { resumed_at } = status else {
            self.snapshot_failures = 0;
            self.snapshot_wait = 0;
            return;
        };
        if resumed_at > self.snapshot_resumed_at {
            self.snapshot_failures = 0;
        }
        self.snapshot_resumed_at = resumed_at;
        let doublings = self.snapshot_failures.min(SNAPSHOT_DOUBLINGS_MAX);
        self.snapshot_wait = pause_ticks.saturating_mul(1 << doublings);
        self.snapshot_failures = self.snapshot_failures.saturating_add(1);
    }

    /// The last entry that this peer is known to have or is receiving. The entries after it should
    /// stay in the leader's log, or the peer needs another snapshot. `None` if nothing is known, or
    /// if the peer has not replied for more than `silent_ticks_max`.
    pub fn position(&self, silent_ticks_max: u32) -> Option<Index> {
        match (self.state, &self.offered) {
            (State::Snapshot(snapshot), _) => Some(snapshot.index),
            (_, Some(offered)) => Some(offered.last.index),
            _ if self.silent_ticks > silent_ticks_max => None,
            _ => Some(self.matched).filter(|matched| matched.0 > 0),
        }
    }

    /// The entries that the peer needs are no longer in the log: the returned snapshot is to be
    /// sent. It is the one that was offered before, if the log still has the entries after it.
    /// Otherwise it is `base`, after which the log begins. `before` is the last entry that is not
    /// in memory.
    pub fn offer(&mut self, before: Index, base: &Snapshot) -> Snapshot {
        let again = self.offered.take().filter(|offered| offered.last.index >= before);
        let snapshot = again.unwrap_or_else(|| {
            self.snapshot_resumed_at = 0;
            base.clone()
        });
        self.offered = Some(snapshot.clone());
        self.inflight.clear();
        self.state = State::Snapshot(snapshot.last);
        snapshot
    }

    /// The snapshot cannot be read any more.
    pub fn forget_offer(&mut self, snapshot: LogId) {
        self.offered.take_if(|offered| offered.last == snapshot);
    }

    /// The peer has acknowledged its log up to `matched`. `latest` is the leader's latest round.
    pub fn acknowledge(&mut self, matched: Index, latest: Round) {
        if matched > self.matched {
            self.matched = matched;
            self.matched_round = latest;
        }
        self.next = self.next.max(self.matched.next());
        self.inflight.free(self.matched);
        self.offered.take_if(|offered| offered.last.index <= matched);
        match self.state {
            // The peer's durable log ends before the probed position: the reply is old, or its disk
            // is behind. Moving back would send entries again that it already has.
            State::Probe { .. } if self.matched.next() < self.next => {}
            State::Probe { .. } => self.state = State::Replicate,
            State::Replicate => {}
            // The peer has caught up, through the snapshot or through entries: continue from there.
            State::Snapshot(snapshot) if self.matched >= snapshot.index => {
                self.state = State::Replicate;
                self.next = self.matched.next();
            }
            State::Snapshot(_) => {}
        }
    }

    /// An append up to `last` is in flight.
    pub fn sent(&mut self, last: Index, bytes: usize) {
        self.next = last.next();
        self.inflight.add(last, bytes);
    }
}

/// The appends with entries that are in flight to a peer: the last index and the bytes of each.
/// Bounded by `inflight_messages_max` and `inflight_bytes_max`.
#[derive(Clone, Debug, Default)]
pub(crate) struct Inflight {
    appends: VecDeque<(Index, usize)>,
    bytes: usize,
}

impl Inflight {
    pub fn is_full(&self, messages_max: usize, bytes_max: usize) -> bool {
        self.appends.len() >= messages_max || self.bytes >= bytes_max
    }

    fn add(&mut self, last: Index, bytes: usize) {
        self.appends.push_back((last, bytes));
        self.bytes += bytes;
    }

    fn free(&mut self, matched: Index) {
        while let Some((last, bytes)) = self.appends.front() {
            if *last > matched {
                break;
            }
            self.bytes -= bytes;
            self.appends.pop_front();
        }
    }

    fn clear(&mut self) {
        self.appends.clear();
        self.bytes = 0;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn probing(matched: u64, next: u64) -> Progress {
        Progress { matched: Index(matched), ..Progress::new(Index(next)) }
    }

    #[test]
    fn a_probe_ends_when_the_logs_agree_at_the_place_that_was_asked_about() {
        // (matched so far, next, acknowledged; next then, whether entries flow)
        let cases = [
            (0, 1, 0, 1, true),
            (0, 9, 8, 9, true),
            (0, 9, 12, 13, true),
            (0, 9, 5, 9, false),
            (5, 9, 3, 9, false),
        ];
        for (matched, next, acknowledged, then, flows) in cases {
            let mut progress = probing(matched, next);
            progress.acknowledge(Index(acknowledged), Round(1));
            let flowing = progress.state == State::Replicate;
            assert_eq!((progress.next, flowing), (Index(then), flows), "{next} {acknowledged}");
            assert_eq!(progress.matched, Index(matched.max(acknowledged)));
        }
    }

    #[test]
    fn a_snapshot_ends_when_the_peer_has_as_much() {
        let mut progress = probing(0, 3);
        progress.state = State::Snapshot(LogId::new(7, 1));
        progress.acknowledge(Index(2), Round(1));
        assert_eq!(progress.state, State::Snapshot(LogId::new(7, 1)));
        progress.acknowledge(Index(7), Round(1));
        assert_eq!((progress.state, progress.next), (State::Replicate, Index(8)));
    }

    fn base(index: u64) -> Snapshot {
        Snapshot { last: LogId::new(index, 1), ..Snapshot::initial(crate::Membership::default()) }
    }

    #[test]
    fn a_snapshot_is_offered_again_as_long_as_the_log_follows_it() {
        let mut progress = probing(0, 3);
        assert_eq!(progress.offer(Index(7), &base(7)), base(7));
        // The transfer fails, and a newer snapshot is taken meanwhile.
        progress.snapshot_ended(SnapshotStatus::Failed { resumed_at: 0 }, 1);
        progress.probe(Index(1));
        assert_eq!(progress.position(0), Some(Index(7)), "the entries after it are kept");
        assert_eq!(progress.offer(Index(7), &base(9)), base(7));
        // Too much was written meanwhile.
        assert_eq!(progress.offer(Index(8), &base(9)), base(9));
        progress.forget_offer(LogId::new(9, 1));
        assert_eq!(progress.offer(Index(8), &base(12)), base(12));
        // It has caught up, or is silent for ever.
        progress.acknowledge(Index(12), Round(1));
        assert_eq!(progress.offered, None);
        progress.offer(Index(8), &base(12));
        (0..=64 * 10).for_each(|_| progress.tick(Index(12), 10));
        assert_eq!(progress.offered, None);
    }

    #[test]
    fn the_pauses_double_until_a_transfer_continues_further_on() {
        let mut progress = probing(0, 3);
        let mut pauses = |snapshot, resumed: &[u64]| -> Vec<u32> {
            let ended = resumed.iter().map(|&resumed_at| {
                progress.offer(Index(snapshot), &base(snapshot));
                progress.snapshot_ended(SnapshotStatus::Failed { resumed_at }, 10);
                progress.snapshot_wait
            });
            ended.collect()
        };
        assert_eq!(pauses(7, &[0, 0, 0]), [10, 20, 40]);
        assert_eq!(pauses(7, &[5, 9, 10, 10, 10, 11]), [10, 10, 10, 20, 40, 10]);
        // The peer has lost it. Then it gets on again.
        assert_eq!(pauses(7, &[0, 2, 2]), [20, 10, 20]);
        // The bytes of another snapshot do not count for this one, of which the peer has less.
        assert_eq!(pauses(8, &[1, 1, 1]), [10, 20, 40]);
        progress.snapshot_ended(SnapshotStatus::Delivered, 10);
        assert_eq!(progress.snapshot_wait, 0);
        progress.snapshot_ended(SnapshotStatus::Failed { resumed_at: 0 }, 10);
        assert_eq!(progress.snapshot_wait, 10);
    }

    #[test]
    fn only_an_idle_peer_that_answers_is_sent_a_snapshot() {
        let cases = [
            (State::Probe { asked: false }, true, 5, true),
            (State::Replicate, true, 5, true),
            (State::Probe { asked: true }, true, 5, false),
            (State::Probe { asked: false }, false, 5, false),
            (State::Probe { asked: false }, true, 4, false),
            (State::Snapshot(LogId::new(5, 1)), true, 5, false),
        ];
        for (state, active, before, wants) in cases {
            let progress = Progress { state, active, ..Progress::new(Index(5)) };
            assert_eq!(
                progress.wants_snapshot(Index(before)),
                wants,
                "{state:?} {active} {before}"
            );
        }
    }

    #[test]
    fn an_acknowledgement_frees_all_that_it_covers() {
        let mut progress = probing(0, 1);
        progress.acknowledge(Index(0), Round(1));
        for last in 1..=3 {
            progress.sent(Index(last), 10);
        }
        assert!(progress.inflight.is_full(3, 100) && progress.inflight.is_full(9, 30));
        progress.acknowledge(Index(2), Round(1));
        assert!(!progress.inflight.is_full(2, 11), "one of ten bytes is left");
        progress.probe(Index(1));
        assert!(!progress.inflight.is_full(1, 1));
        assert_eq!(progress.next, Index(3), "never below what is acknowledged");
    }
}
