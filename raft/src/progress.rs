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
    /// Replies to earlier rounds count no longer: the peer has lost entries since it sent them.
    pub ignore_before: Round,
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
}

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
            ignore_before: Round(0),
            active: false,
            heartbeat_due: false,
            commit_due: false,
            told_commit: Index(0),
            inflight: Inflight::default(),
        }
    }

    /// Back to probing from `next`, or from what is known to agree, whichever is later.
    pub fn probe(&mut self, next: Index) {
        self.state = State::Probe { asked: false };
        self.next = next.max(self.matched.next());
        self.inflight.clear();
    }

    /// Whether the peer answers, and needs an entry that is gone: one at or below `before`. After a
    /// snapshot that did not arrive it does so only from the next heartbeat on.
    pub fn wants_snapshot(&self, before: Index) -> bool {
        let idle = matches!(self.state, State::Probe { asked: false } | State::Replicate);
        idle && self.active && self.next <= before
    }

    /// What the peer needs is gone: it is to be sent this snapshot.
    pub fn await_snapshot(&mut self, snapshot: LogId) {
        self.inflight.clear();
        self.state = State::Snapshot(snapshot);
    }

    /// The peer acknowledged its log up to `matched`.
    pub fn acknowledge(&mut self, matched: Index) {
        if matched > self.matched {
            self.matched = matched;
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
