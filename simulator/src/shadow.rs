//! The required contents of a node's disk: every write that was reported durable, applied to an
//! ideal disk.
//!
//! Recovery is compared with it, and so is every promise in a message that a node sends: what the
//! node promises must be in here first.

use crate::checks::{Check, Violation, violation};
use raft::{Entries, Entry, HardState, Index, LogId, LogStart, Restored, Snapshot, Write};
use std::collections::VecDeque;
use std::io::Read;
use storage::testing::{MemDisk, SectorFate};
use storage::{Log, LogConfig, Snapshots};

/// Size of a block of the log, and the least number of content bytes in it.
const BLOCK_BYTES: u64 = 4_096;
const CONTENT_BYTES: u64 = 4_000;
/// The most bytes in a batch of the log apart from its entries, in a cluster of a few members.
const HEAD_BYTES_MAX: usize = 1_000;

/// The changes that a write makes to the disk.
#[derive(Clone, Debug)]
pub struct LogChange {
    hard_state: HardState,
    log_start: Option<LogStart>,
    entries: Entries,
}

impl LogChange {
    /// The most bytes that it takes on a disk, in whole blocks, and the index of its last entry; 0
    /// if it has no entries.
    pub(crate) fn footprint(&self) -> (u64, Index) {
        let entries: usize = self.entries.iter().map(Entry::cost_bytes).sum();
        let blocks = (entries + HEAD_BYTES_MAX) as u64 / CONTENT_BYTES + 1;
        let last = self.entries.last().map_or(Index(0), |entry| entry.id.index);
        (blocks * BLOCK_BYTES, last)
    }

    /// Whether it moves the base of the log.
    pub(crate) fn rebases(&self) -> bool {
        self.log_start.is_some()
    }

    /// The changes that `write` makes.
    pub fn of(write: &Write) -> Self {
        LogChange {
            hard_state: write.hard_state,
            log_start: write.log_start.clone(),
            entries: write.entries.clone(),
        }
    }
}

/// An ideal disk.
#[derive(Clone, Debug)]
pub struct Shadow {
    /// Term and vote.
    pub hard_state: HardState,
    /// The snapshot that the log begins after.
    pub base: Snapshot,
    /// The log.
    pub entries: VecDeque<Entry>,
}

impl Shadow {
    /// The disk from which `restored` was read.
    pub fn new(restored: &Restored) -> Self {
        Shadow {
            hard_state: restored.hard_state,
            base: restored.snapshot.clone(),
            entries: restored.entries.iter().cloned().collect(),
        }
    }

    /// Applies a write that has become durable.
    pub fn apply(&mut self, change: &LogChange) {
        self.hard_state = change.hard_state;
        match &change.log_start {
            Some(LogStart::Compact(snapshot)) => {
                while self.entries.front().is_some_and(|e| e.id.index <= snapshot.last.index) {
                    self.entries.pop_front();
                }
                self.base = snapshot.clone();
            }
            Some(LogStart::Reset(snapshot)) => {
                self.entries.clear();
                self.base = snapshot.clone();
            }
            None => {}
        }
        if let Some(first) = change.entries.first() {
            while self.entries.back().is_some_and(|e| e.id.index >= first.id.index) {
                self.entries.pop_back();
            }
            self.entries.extend(change.entries.iter().cloned());
        }
    }

    /// Whether the change reverts the term, or a vote of the same term.
    pub fn is_taken_back(&self, change: &LogChange) -> bool {
        let (before, after) = (&self.hard_state, &change.hard_state);
        after.term < before.term
            || (after.term == before.term && before.vote.is_some() && after.vote != before.vote)
    }

    /// Checks a change that empties the log of a node that gives up: it records the end of the log.
    pub fn records_its_loss(&self, node: usize, change: &LogChange) -> Result<(), Violation> {
        let (last, lost) = (self.last(), change.hard_state.lost);
        let gives_up =
            matches!(&change.log_start, Some(LogStart::Reset(s)) if s.last == LogId::ZERO);
        if !gives_up || last == LogId::ZERO || lost >= Some(last) {
            return Ok(());
        }
        let detail = format!("node {node}: the log ended with {last}, recorded is {lost:?}");
        violation(Check::LossIsRecordedWhole, (node, last), detail)
    }

    /// The end of the log.
    pub fn last(&self) -> LogId {
        self.entries.back().map_or(self.base.last, |entry| entry.id)
    }

    /// The id at `index`; `None` beyond the end of the log or before the end of the snapshot.
    pub fn id_at(&self, index: Index) -> Option<LogId> {
        if index == self.base.last.index {
            return Some(self.base.last);
        }
        let offset = index.0.checked_sub(self.base.last.index.0 + 1)?;
        self.entries.get(offset as usize).map(|entry| entry.id)
    }

    /// Whether it holds this entry, in the log or covered by the snapshot.
    pub fn holds(&self, id: LogId) -> bool {
        id.index < self.base.last.index || self.id_at(id.index) == Some(id)
    }

    /// The first difference between this disk and what was recovered, if any.
    pub fn difference(&self, restored: &Restored) -> Option<String> {
        if restored.hard_state != self.hard_state {
            return Some(format!(
                "term and vote are {:?} and were {:?}",
                restored.hard_state, self.hard_state
            ));
        }
        if restored.snapshot != self.base {
            return Some(format!(
                "the log begins after {} and began after {}",
                restored.snapshot.last, self.base.last
            ));
        }
        if !restored.entries.iter().eq(self.entries.iter()) {
            let last = restored.entries.last().map_or(restored.snapshot.last, |entry| entry.id);
            return Some(format!("the log ends with {last} and ended with {}", self.last()));
        }
        None
    }

    /// Whether what was recovered is less than this and records the loss. Its tail may be one that
    /// the damaged writes had overwritten: then it is a log that a follower may have, and does not
    /// reach the end that is recorded as lost.
    pub fn is_known_loss(&self, restored: &Restored) -> bool {
        let last = restored.entries.last().map_or(restored.snapshot.last, |entry| entry.id);
        let lost = restored.hard_state.lost;
        // The lost write may be the one that moved the base of the log, or restarted the log.
        let anew = self.base.last == LogId::ZERO && self.hard_state.lost.is_some();
        (anew || restored.snapshot == self.base || restored.snapshot.last < self.base.last)
            && lost.is_some_and(|lost| lost >= self.last() && last <= lost)
            // At that end the node counts as repaired, so it must have all that it had. If it had
            // given its log up, that is the end of the earlier log.
            && (anew || lost > Some(last) || self.holds(last))
    }

    /// Checks what a node has recovered from this disk: exactly that, with or without `maybe`, the
    /// write that was outstanding. It may be less, and the loss recorded, after damage or
    /// (`may_lose`) for another reason. Remembers what was recovered. Returns whether something was
    /// lost for such a reason.
    pub fn recovers(
        &mut self,
        node: usize,
        maybe: Option<&LogChange>,
        (is_damaged, may_lose): (bool, bool),
        restored: &Restored,
    ) -> Result<bool, Violation> {
        let Some(difference) = self.difference(restored) else { return Ok(false) };
        if let Some(change) = maybe {
            let mut with = self.clone();
            with.apply(change);
            if with.difference(restored).is_none() {
                *self = with;
                return Ok(false);
            }
            if is_damaged && with.is_known_loss(restored) {
                *self = Shadow::new(restored);
                return Ok(false);
            }
        }
        if (is_damaged || may_lose) && self.is_known_loss(restored) {
            *self = Shadow::new(restored);
            return Ok(true);
        }
        let last = restored.entries.last().map_or(restored.snapshot.last, |entry| entry.id);
        let detail = format!(
            "node {node}{}: {difference}; recovered ({}, {last}], was ({}, {}]",
            if is_damaged { " (damaged)" } else { "" },
            restored.snapshot.last,
            self.base.last,
            self.last(),
        );
        violation(Check::RecoveryIsExact, (node, [last, self.last()]), detail)
    }

    /// Checks that a power failure at this moment would leave everything that was reported durable.
    /// Copies the disk, drops everything unsynced from the copy, and reads the log from it.
    pub fn is_durable(
        &self,
        node: usize,
        disk: &MemDisk,
        config: LogConfig,
    ) -> Result<(), Violation> {
        self.is_durable_as(node, disk, |copy| match Log::open(copy, config) {
            Ok((_, recovery)) => Ok(recovery.restored),
            Err(error) => Err(error.to_string()),
        })
    }

    /// Like [`is_durable`](Shadow::is_durable), for any log. `open` restores it.
    pub(crate) fn is_durable_as(
        &self,
        node: usize,
        disk: &MemDisk,
        open: impl FnOnce(MemDisk) -> Result<Option<Restored>, String>,
    ) -> Result<(), Violation> {
        let broken = |why: String| violation(Check::DurableMeansDurable, node, why);
        let copy = disk.fork();
        copy.set_capacity(None);
        copy.crash(|_| SectorFate::Lost);
        let left = match open(copy.clone()) {
            Ok(left) => left,
            Err(error) => return broken(format!("node {node}: {error}")),
        };
        let difference = match &left {
            Some(left) => self.difference(left),
            None => Some("nothing is left".to_owned()),
        };
        if let Some(difference) = difference {
            return broken(format!("node {node}: {difference}"));
        }
        if self.base.last == LogId::ZERO {
            return Ok(());
        }
        let state = Snapshots::new(copy).map_err(|error| error.to_string());
        match state.and_then(|snapshots| read(&snapshots, self.base.last)) {
            Ok(_) => Ok(()),
            Err(why) => broken(format!("node {node}: {why}")),
        }
    }
}

/// The bytes of the state in a snapshot.
pub fn read(snapshots: &Snapshots<MemDisk>, id: LogId) -> Result<Vec<u8>, String> {
    let mut reader = snapshots.open(id).map_err(|error| error.to_string())?;
    let mut state = Vec::new();
    reader.read_to_end(&mut state).map_err(|error| error.to_string())?;
    Ok(state)
}
