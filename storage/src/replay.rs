//! Replays the batches of a log, oldest first, into the resulting state. Batches may be missing.
//!
//! The oldest batches are missing after segments were freed, and damage makes holes anywhere. Both
//! are treated alike: at a hole the entries so far are set aside, and the later ones are gathered
//! separately. The gathered entries are *complete* if they reach from the base to the end of the
//! log, both of which every batch carries. So a hole is harmless exactly if nothing in it is needed
//! any more.
//!
//! A batch is applied only when the next one is known, which records the checksum of its
//! predecessor. An intact batch with another checksum is an outdated one, left there by a lost
//! write. It counts as a hole.

use crate::batch::Batch;
use crate::mark::Mark;
use raft::{Entry, HardState, Index, LogId, Snapshot};

/// The log after some batch.
#[derive(Clone, Debug)]
pub(crate) struct State {
    pub hard_state: HardState,
    pub base: Snapshot,
    pub entries: Vec<Entry>,
    pub last: LogId,
}

/// The latest batch that was applied.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Latest {
    pub number: u64,
    pub checksum: u32,
    pub reset: bool,
    /// The end of the log that was synced before it, see [`Batch::synced`].
    pub synced: Mark,
    /// The number of its entries. They are the last ones of the state.
    pub entries: usize,
}

#[derive(Debug, Default)]
pub(crate) struct Replay {
    state: Option<State>,
    /// The last complete state before a hole after which no state was complete.
    before_hole: Option<State>,
    /// The first hole since the state was last complete.
    hole: Option<u64>,
    /// Batches after the latest one are missing. The end of the log after them.
    end_after_hole: Option<LogId>,
    pending: Option<(Batch, usize)>,
    latest: Option<Latest>,
    /// For each segment, the highest index of an entry in it that a later batch has not replaced.
    highest: Vec<Index>,
    /// Batches applied.
    pub batches: u64,
    /// Holes in which nothing needed is missing, by batch number.
    pub harmless: Vec<u64>,
    /// Damaged batches that a later one repeats, by batch number.
    pub repeated: Vec<u64>,
}

/// The result of replaying all batches.
#[derive(Debug)]
pub(crate) struct Replayed {
    pub state: State,
    pub latest: Latest,
    /// If set, entries are lost: the state has those from before this missing batch. 0 means that
    /// the oldest batches are missing.
    pub hole: Option<u64>,
    /// The end of the log after the latest batch that was synced, lost entries included.
    pub last: LogId,
    pub highest: Vec<Index>,
}

impl Replay {
    /// The number of the latest batch so far; 0 if there is none.
    pub fn number(&self) -> u64 {
        self.pending.as_ref().map_or(0, |(batch, _)| batch.number)
    }

    /// Adds the next batch, from the segment with index `segment`. The caller has checked that its
    /// number is greater than that of the previous one.
    pub fn push(&mut self, batch: Batch, segment: usize) {
        self.highest.resize(segment + 1, Index(0));
        let Some((before, its_segment)) = self.pending.take() else {
            self.pending = Some((batch, segment));
            return;
        };
        let follows = batch.number == before.number + 1;
        let refuted = follows && batch.previous != before.checksum;
        if !refuted {
            self.apply(before, its_segment);
        }
        if refuted || !follows {
            let missing = self.first_missing();
            if missing > batch.synced.batch {
                self.repeated.extend(missing..batch.number);
            } else {
                self.open_hole(missing);
            }
        }
        self.pending = Some((batch, segment));
    }

    /// The highest batches are missing: after the latest one, only the end of the log is known.
    pub fn end_in_hole(&mut self, end: LogId) {
        self.apply_pending();
        self.open_hole(self.first_missing());
        self.end_after_hole = Some(end);
    }

    /// The resulting state, or `None` if there were no batches; then the harmless holes and the
    /// repeated batches.
    pub fn finish(mut self) -> (Option<Replayed>, Vec<u64>, Vec<u64>) {
        self.apply_pending();
        let (Some(state), Some(latest)) = (self.state.take(), self.latest) else {
            return (None, self.harmless, self.repeated);
        };
        let last = self.end_after_hole.unwrap_or(state.last);
        if state.is_complete() && self.end_after_hole.is_none() {
            self.harmless.extend(self.hole);
            let replayed = Replayed { state, latest, hole: None, last, highest: self.highest };
            return (Some(replayed), self.harmless, self.repeated);
        }
        // Hard state and base are the latest readable ones. The entries are those from before the
        // hole that still follow the base and can have been in the log that ended with `last`.
        // Terms never decrease along that log, so entries of a later term were overwritten in the
        // hole.
        let mut entries = self.before_hole.take().map(|before| before.entries).unwrap_or_default();
        let kept = |entry: &Entry| entry.id.index <= last.index && entry.id.term <= last.term;
        entries.truncate(entries.partition_point(kept));
        let mut earlier = State { entries, ..state };
        earlier.log_start();
        earlier.last = earlier.entries.last().map_or(earlier.base.last, |entry| entry.id);
        // If there was no hole in between, the oldest batches are missing.
        let hole = self.hole.or(Some(0));
        let replayed = Replayed { state: earlier, latest, hole, last, highest: self.highest };
        (Some(replayed), self.harmless, self.repeated)
    }

    fn apply_pending(&mut self) {
        if let Some((batch, segment)) = self.pending.take() {
            self.apply(batch, segment);
        }
    }

    fn apply(&mut self, batch: Batch, segment: usize) {
        self.batches += 1;
        self.latest = Some(Latest {
            number: batch.number,
            checksum: batch.checksum,
            reset: batch.reset,
            synced: batch.synced,
            entries: batch.entries.len(),
        });
        if batch.reset {
            self.highest.fill(Index(0));
        }
        if let (Some(first), Some(last)) = (batch.entries.first(), batch.entries.last()) {
            let kept = first.id.index.0.saturating_sub(1);
            for highest in &mut self.highest {
                *highest = (*highest).min(Index(kept));
            }
            self.highest[segment] = last.id.index;
        }
        match &mut self.state {
            Some(state) => state.apply(batch),
            None => {
                let mut state = State {
                    hard_state: batch.hard_state,
                    base: batch.base.clone(),
                    entries: Vec::new(),
                    last: batch.last,
                };
                state.apply(batch);
                self.state = Some(state);
            }
        }
    }

    /// The number after that of the latest applied batch.
    fn first_missing(&self) -> u64 {
        self.latest.map_or(1, |latest| latest.number + 1)
    }

    fn open_hole(&mut self, missing: u64) {
        let Some(state) = &mut self.state else {
            self.hole = self.hole.or(Some(missing));
            return;
        };
        let entries = std::mem::take(&mut state.entries);
        let whole = State { entries, ..state.clone() };
        if whole.is_complete() {
            self.harmless.extend(self.hole.take());
            self.before_hole = Some(whole);
        }
        self.hole = self.hole.or(Some(missing));
    }
}

impl State {
    fn apply(&mut self, batch: Batch) {
        self.hard_state = batch.hard_state;
        self.base = batch.base;
        self.last = batch.last;
        if batch.reset {
            self.entries.clear();
        }
        self.log_start();
        let Some(first) = batch.entries.first() else { return };
        let first = first.id.index;
        let follows = (self.entries.first()).is_some_and(|entry| entry.id.index < first);
        if follows {
            let kept = (first.0 - self.entries[0].id.index.0) as usize;
            if kept > self.entries.len() {
                // Entries in between are missing.
                self.entries.clear();
            }
            self.entries.truncate(kept);
        } else {
            self.entries.clear();
        }
        self.entries.extend(batch.entries);
    }

    /// Removes the entries that the base covers. If they do not lead up to the base, removes all
    /// entries.
    fn log_start(&mut self) {
        let base = self.base.last;
        let Some(first) = self.entries.first().map(|entry| entry.id.index) else { return };
        if first > base.index {
            return;
        }
        let covered = (base.index.0 - first.0 + 1) as usize;
        if self.entries.get(covered - 1).is_some_and(|entry| entry.id == base) {
            self.entries.drain(..covered);
        } else {
            self.entries.clear();
        }
    }

    /// Whether no entry between the base and the end of the log is missing.
    fn is_complete(&self) -> bool {
        match (self.entries.first(), self.entries.last()) {
            (Some(first), Some(last)) => {
                first.id.index.0 == self.base.last.index.0 + 1 && last.id == self.last
            }
            _ => self.last == self.base.last,
        }
    }
}
