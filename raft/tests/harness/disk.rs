//! The content of a node's disk after a power failure.

use raft::{Entry, HardState, Incarnation, Index, LogId, LogStart, Restored, Snapshot, Write};

/// Changed only when a script syncs a write. A restarted node starts from it.
#[derive(Clone)]
pub struct Disk {
    pub incarnation: Incarnation,
    pub hard_state: HardState,
    pub snapshot: Snapshot,
    pub entries: Vec<Entry>,
}

impl Disk {
    pub fn new(incarnation: Incarnation, snapshot: Snapshot) -> Self {
        Disk { incarnation, hard_state: HardState::default(), snapshot, entries: Vec::new() }
    }

    /// Applies a write to the disk: the new start of the log first, then its entries. The first
    /// entry may be at or below the end of the log.
    pub fn write(&mut self, write: &Write) {
        let (old, new) = (self.hard_state, write.hard_state);
        assert!(new.term >= old.term, "the term on disk falls");
        assert!(
            new.term > old.term || old.vote.is_none() || new.vote == old.vote,
            "a vote changes"
        );
        self.hard_state = new;
        match &write.log_start {
            Some(LogStart::Compact(snapshot)) => {
                assert_eq!(self.id_at(snapshot.last.index), Some(snapshot.last), "not a prefix");
                self.entries.retain(|entry| entry.id.index > snapshot.last.index);
                self.snapshot = snapshot.clone();
            }
            Some(LogStart::Reset(snapshot)) => {
                self.entries.clear();
                self.snapshot = snapshot.clone();
            }
            None => {}
        }
        if let Some(first) = write.entries.first() {
            self.entries.retain(|entry| entry.id.index < first.id.index);
            for entry in &write.entries {
                assert_eq!(entry.id.index, self.last().index.next(), "a gap on disk");
                self.entries.push(entry.clone());
            }
        }
    }

    /// Damage: the entries from `index` on are unreadable. Recovery records the loss.
    pub fn lose_from(&mut self, index: Index, silent: bool) {
        let end = self.last().max(self.hard_state.lost.unwrap_or(LogId::ZERO));
        self.entries.retain(|entry| entry.id.index < index);
        // A loss that looks like a torn write is not recorded.
        if !silent {
            self.hard_state.lost = Some(end);
        }
    }

    pub fn last(&self) -> LogId {
        self.entries.last().map_or(self.snapshot.last, |entry| entry.id)
    }

    /// The id of the entry at `index`, if it is still known.
    pub fn id_at(&self, index: Index) -> Option<LogId> {
        if index == self.snapshot.last.index {
            return Some(self.snapshot.last);
        }
        self.entries.iter().map(|entry| entry.id).find(|id| id.index == index)
    }

    /// Whether this committed entry is on the disk, or in its snapshot.
    pub fn has(&self, id: LogId) -> bool {
        id.index < self.snapshot.last.index || self.id_at(id.index) == Some(id)
    }

    pub fn restored(&self) -> Restored {
        Restored {
            hard_state: self.hard_state,
            snapshot: self.snapshot.clone(),
            entries: self.entries.clone(),
        }
    }
}
