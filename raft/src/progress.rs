//! What a leader knows of one peer, and what it may send to it (§3.5, §10.2.1).
//!
//! Appends are not queued: from this the next one is built whenever there is room for it.

use crate::{Index, LogId, Round};
use std::collections::VecDeque;

/// Invariants: `matched < next`; what is in flight lies above `matched`.
#[derive(Clone, Debug)]
pub(crate) struct Progress {
    /// Up to here the peer's durable log is known to agree with the leader's.
    pub matched: Index,
    /// The next entry to send.
    pub next: Index,
    /// How entries are sent.
    pub state: State,
    /// The latest round that the peer has acknowledged.
    pub round: Round,
    /// The leader's latest round when `matched` was last raised. A reply to a later round was sent
    /// after the acknowledgement.
    pub matched_round: Round,
    /// Replies to earlier rounds count no longer: the peer has lost entries since it sent them.
    pub ignore_before: Round,
    /// How many times the peer has lost entries that it had acknowledged.
    pub losses: u64,
    /// Whether what the peer has applied is what the leader has, as of its last report.
    pub agrees: Option<bool>,
    /// The peer does not know what it has applied: it cannot be compared.
    pub incomparable: bool,
    /// The latest index at which it did, and the one at which it differs now.
    pub agreed_at: Index,
    pub differs_at: Index,
    /// Ticks since the peer last answered.
    pub silent_ticks: u32,
    /// The peer was heard since the leader last looked whether it has a quorum.
    pub active: bool,
    /// The peer is to be sent something in this round, be it empty.
    pub heartbeat_due: bool,
    /// The peer is to be told how far the log is committed, though there are no entries to send.
    pub commit_due: bool,
    /// The commit index that the peer was told last.
    pub told_commit: Index,
    /// What is under way.
    pub inflight: Inflight,
    /// Transfers of a snapshot that failed, one after another.
    snapshot_failures: u32,
    /// Ticks until a snapshot may be offered again.
    snapshot_wait: u32,
}

/// After this many failures the pause between two transfers of a snapshot no longer doubles.
const SNAPSHOT_DOUBLINGS_MAX: u32 = 6;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum State {
    /// It is not known where the logs agree: one append at a time, and the next one after a reply or
    /// a heartbeat interval.
    Probe {
        /// The one append is under way.
        asked: bool,
    },
    /// The logs agree below `next`: appends follow one another without waiting.
    Replicate,
    /// The peer needs entries that are gone; this snapshot is under way.
    Snapshot(LogId),
}

impl Progress {
    /// Nothing is known; the first guess is that the peer has all.
    pub fn new(next: Index) -> Self {
        Progress {
            matched: Index(0),
            next,
            state: State::Probe { asked: false },
            round: Round(0),
            matched_round: Round(0),
            ignore_before: Round(0),
            losses: 0,
            agrees: None,
            incomparable: false,
            agreed_at: Index(0),
            differs_at: Index(0),
            silent_ticks: 0,
            active: false,
            heartbeat_due: false,
            commit_due: false,
            told_commit: Index(0),
            inflight: Inflight::default(),
            snapshot_failures: 0,
            snapshot_wait: 0,
        }
    }

    /// One tick of the leader's clock has passed.
    pub fn tick(&mut self) {
        self.silent_ticks = self.silent_ticks.saturating_add(1);
        self.snapshot_wait = self.snapshot_wait.saturating_sub(1);
    }

    /// Back to probing from `next`, or from what is known to agree, whichever is later.
    ///
    /// A probe from another place goes out at once. The same question again would get the same answer,
    /// so it waits for the next heartbeat: otherwise a peer that rejects what it has acknowledged
    /// would be asked as fast as it answers.
    pub fn probe(&mut self, next: Index) {
        let next = next.max(self.matched.next());
        let again = matches!(self.state, State::Probe { .. }) && next == self.next;
        self.state = State::Probe { asked: again };
        self.next = next;
        self.inflight.clear();
    }

    /// The peer has lost entries that it had acknowledged. Nothing that it sent before `round` counts
    /// any more.
    pub fn forget(&mut self, round: Round) {
        self.matched = Index(0);
        self.matched_round = round;
        self.ignore_before = round;
        self.losses += 1;
    }

    /// Whether the peer answers, and needs an entry that is gone: one at or below `before`. After a
    /// snapshot that did not arrive it does so only from the next heartbeat on.
    pub fn wants_snapshot(&self, before: Index) -> bool {
        let idle = matches!(self.state, State::Probe { asked: false } | State::Replicate);
        idle && self.active && self.next <= before && self.snapshot_wait == 0
    }

    /// A transfer of a snapshot has ended. After each failure in a row the next one waits twice as
    /// long, from `pause_ticks` on: a receiver with a full disk is not offered it all the time.
    pub fn snapshot_ended(&mut self, delivered: bool, pause_ticks: u32) {
        if delivered {
            self.snapshot_failures = 0;
            self.snapshot_wait = 0;
            return;
        }
        let doublings = self.snapshot_failures.min(SNAPSHOT_DOUBLINGS_MAX);
        self.snapshot_wait = pause_ticks.saturating_mul(1 << doublings);
        self.snapshot_failures = self.snapshot_failures.saturating_add(1);
    }

    /// The last entry that this peer is known to have or is receiving: what follows should stay in
    /// the leader's log, or the peer needs another snapshot. `None` if nothing is known, or if the
    /// peer has not answered for `silent_ticks_max`.
    pub fn position(&self, silent_ticks_max: u32) -> Option<Index> {
        match self.state {
            State::Snapshot(snapshot) => Some(snapshot.index),
            _ if self.silent_ticks > silent_ticks_max => None,
            _ => Some(self.matched).filter(|matched| matched.0 > 0),
        }
    }

    /// What the peer needs is gone: it is to be sent this snapshot.
    pub fn await_snapshot(&mut self, snapshot: LogId) {
        self.inflight.clear();
        self.state = State::Snapshot(snapshot);
    }

    /// The peer acknowledged its log up to `matched`. `latest` is the leader's latest round.
    pub fn acknowledge(&mut self, matched: Index, latest: Round) {
        if matched > self.matched {
            self.matched = matched;
            self.matched_round = latest;
        }
        self.next = self.next.max(self.matched.next());
        self.inflight.free(self.matched);
        match self.state {
            // What the peer has on disk ends before the place that it was asked about: the answer is
            // an old one, or its disk is behind. To go back for it would send what it has again.
            State::Probe { .. } if self.matched.next() < self.next => {}
            State::Probe { .. } => self.state = State::Replicate,
            State::Replicate => {}
            // Whatever it has now, by the snapshot or otherwise, is where to go on.
            State::Snapshot(snapshot) if self.matched >= snapshot.index => {
                self.state = State::Replicate;
                self.next = self.matched.next();
            }
            State::Snapshot(_) => {}
        }
    }

    /// An append up to `last` is under way.
    pub fn sent(&mut self, last: Index, bytes: usize) {
        self.next = last.next();
        self.inflight.add(last, bytes);
    }
}

/// The appends with entries that are under way to a peer: their last index, and their bytes. Bounded
/// by `inflight_messages_max` and `inflight_bytes_max`.
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
        progress.await_snapshot(LogId::new(7, 1));
        progress.acknowledge(Index(2), Round(1));
        assert_eq!(progress.state, State::Snapshot(LogId::new(7, 1)));
        progress.acknowledge(Index(7), Round(1));
        assert_eq!((progress.state, progress.next), (State::Replicate, Index(8)));
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
