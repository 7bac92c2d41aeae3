//! The conformance kit for log stores: ours passes, and each planted mistake is found.

use crate::testing::conformance::{self, Start, log_store};
use crate::testing::{DiskOperation, DiskVerdict, MemDisk, SectorFate};
use crate::{ClusterId, Directory, Log, LogConfig, LogStore, PersistError};
use raft::{Durable, Entry, HardState, Incarnation, LogStart, NodeId, Restored, Snapshot, Write};
use std::io;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::{Arc, Mutex};

/// Opens the log of this crate as the kit asks. `disk` is the one of the story.
fn open_log(disk: &mut MemDisk, start: Start, config: LogConfig) -> (Log<MemDisk>, Restored) {
    match start {
        Start::New => *disk = MemDisk::new(),
        _ => disk.crash(|_| SectorFate::Lost),
    }
    disk.clear_faults();
    let member = match Directory::open(disk.clone(), config).unwrap().0 {
        Directory::Member(member) => member,
        Directory::Unclaimed(unclaimed) => unclaimed
            .announce(NodeId(1), Incarnation(1), &[1, 2, 3].map(NodeId))
            .unwrap()
            .join(ClusterId(1), conformance::membership())
            .unwrap(),
    };
    if start == Start::SyncFails {
        let mut failed = false;
        disk.set_faults(Box::new(move |operation| match operation {
            DiskOperation::Sync { .. } if !failed => {
                failed = true;
                DiskVerdict::FailsAndForgets
            }
            _ => DiskVerdict::Done,
        }));
    }
    member.into_log()
}

#[test]
fn the_log_conforms() {
    let small = LogConfig { segment_bytes: 4 * 4096, ..super::config() };
    let large = LogConfig { segment_bytes: 1 << 20, ..super::config() };
    for config in [small, large] {
        let mut disk = MemDisk::new();
        log_store(|start| open_log(&mut disk, start, config.clone()));
    }
}

/// A mistake of a log store.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Mistake {
    None,
    /// It never syncs.
    SyncForgotten,
    /// It syncs entries, and hard states at the next write only.
    HardStateOfAnEarlierWrite,
    /// It does not store for whom it voted.
    VoteForgotten,
    /// It writes the hard state only together with entries.
    HardStateOnlyWithEntries,
    /// It overwrites the entries that a write has, and keeps those behind them.
    OldTailKept,
    /// It skips an entry whose index it has already.
    FirstEntryWins,
    /// A compaction removes the entries after the snapshot too.
    CompactionRemovesAll,
    /// A compaction keeps the entries that the snapshot covers.
    CompactionKeepsAll,
    /// A reset keeps entries that were there before.
    ResetKeepsEntries,
    /// It appends first, and changes the start of the log after that.
    LogStartComesLast,
    /// Of a snapshot it stores the last entry and the membership.
    SnapshotTimeForgotten,
    /// It stores payloads, but not when an entry was made.
    EntryTimeForgotten,
    /// It takes an empty command for a no-op.
    EmptyCommandLost,
    /// Of a large entry it stores the beginning.
    LargeEntryCutOff,
    /// After a failed sync it goes on.
    FailedSyncRetried,
    /// It reports a failed sync as a lack of space.
    FailedSyncIsFull,
    /// It ignores that a sync failed.
    FailedSyncIgnored,
    /// A write whose sync failed is there in part.
    HalfAWrite,
}

/// The state of a naive store: what a start restores.
#[derive(Clone, Debug)]
struct Medium {
    hard_state: HardState,
    snapshot: Snapshot,
    entries: Vec<Entry>,
}

/// Keeps everything in memory. `durable` is what a power failure leaves.
struct Naive {
    mistake: Mistake,
    volatile: Medium,
    durable: Arc<Mutex<Medium>>,
    sync_fails: bool,
    failed: bool,
}

impl Naive {
    fn write(&mut self, write: &Write) {
        let mistake = self.mistake;
        let state = &mut self.volatile;
        if mistake != Mistake::HardStateOnlyWithEntries || !write.entries.is_empty() {
            state.hard_state = write.hard_state;
        }
        if mistake == Mistake::VoteForgotten {
            state.hard_state.vote = None;
        }
        let start = |state: &mut Medium| {
            let Some(log_start) = &write.log_start else { return };
            state.snapshot = log_start.snapshot().clone();
            if mistake == Mistake::SnapshotTimeForgotten {
                state.snapshot.time = Default::default();
            }
            let last = state.snapshot.last;
            let keep = |entry: &Entry| match log_start {
                LogStart::Compact(_) if mistake == Mistake::CompactionRemovesAll => false,
                LogStart::Compact(_) if mistake == Mistake::CompactionKeepsAll => true,
                LogStart::Reset(_) if mistake != Mistake::ResetKeepsEntries => false,
                _ => entry.id.index > last.index,
            };
            state.entries.retain(keep);
        };
        if mistake != Mistake::LogStartComesLast {
            start(state);
        }
        for entry in &write.entries {
            let at = state.entries.iter().position(|old| old.id.index >= entry.id.index);
            let mut entry = entry.clone();
            match (mistake, &entry.payload) {
                (Mistake::EntryTimeForgotten, _) => entry.time = Default::default(),
                (Mistake::EmptyCommandLost, raft::Payload::Command(command)) => {
                    if command.is_empty() {
                        entry.payload = raft::Payload::NoOp;
                    }
                }
                (Mistake::LargeEntryCutOff, raft::Payload::Command(command)) => {
                    entry.payload =
                        raft::Payload::Command(command.slice(..command.len().min(9_999)));
                }
                _ => {}
            }
            match (at, mistake) {
                (None, _) => state.entries.push(entry),
                (Some(_), Mistake::FirstEntryWins) => {}
                (Some(at), Mistake::OldTailKept) => state.entries[at] = entry,
                (Some(at), _) => {
                    state.entries.truncate(at);
                    state.entries.push(entry);
                }
            }
        }
        if mistake == Mistake::LogStartComesLast {
            start(state);
        }
    }

    fn sync(&mut self) -> io::Result<()> {
        let mut durable = self.durable.lock().unwrap();
        if std::mem::take(&mut self.sync_fails) {
            if self.mistake == Mistake::HalfAWrite {
                *durable = self.volatile.clone();
                durable.entries.pop();
            }
            return Err(io::Error::other("the sync failed"));
        }
        let hard_state = durable.hard_state;
        if self.mistake != Mistake::SyncForgotten {
            *durable = self.volatile.clone();
        }
        if self.mistake == Mistake::HardStateOfAnEarlierWrite {
            durable.hard_state.term = hard_state.term.max(durable.snapshot.last.term);
            durable.hard_state.vote = hard_state.vote;
        }
        Ok(())
    }
}

impl LogStore for Naive {
    fn persist(&mut self, write: Write) -> Result<Durable, PersistError> {
        if self.failed {
            return Err(PersistError::Failed { source: io::Error::other("it has failed") });
        }
        self.write(&write);
        match self.sync() {
            Err(_) if self.mistake == Mistake::FailedSyncIgnored => Ok(write.durable()),
            Err(source) if self.mistake == Mistake::FailedSyncIsFull => {
                Err(PersistError::Full { write: Box::new(write), source })
            }
            Err(source) => {
                self.failed = self.mistake != Mistake::FailedSyncRetried;
                Err(PersistError::Failed { source })
            }
            Ok(()) => Ok(write.durable()),
        }
    }
}

/// Runs the kit on a naive store. Returns the message with which it fails.
fn run(mistake: Mistake) -> Option<String> {
    let initial = || {
        let restored = Restored::initial(Snapshot::initial(conformance::membership()));
        let Restored { hard_state, snapshot, entries } = restored;
        Arc::new(Mutex::new(Medium { hard_state, snapshot, entries }))
    };
    let mut durable = initial();
    let open = |start| {
        if start == Start::New {
            durable = initial();
        }
        let volatile = durable.lock().unwrap().clone();
        let Medium { hard_state, snapshot, entries } = volatile.clone();
        let (sync_fails, failed) = (start == Start::SyncFails, false);
        let store = Naive { mistake, volatile, durable: durable.clone(), sync_fails, failed };
        (store, Restored { hard_state, snapshot, entries })
    };
    let panic = catch_unwind(AssertUnwindSafe(|| log_store(open))).err()?;
    Some(panic.downcast_ref::<String>().cloned().unwrap_or_default())
}

#[test]
fn a_naive_store_without_a_mistake_conforms() {
    assert_eq!(run(Mistake::None), None);
}

#[test]
fn every_planted_mistake_is_found_in_the_story_of_its_kind() {
    let expected = [
        (Mistake::SyncForgotten, "votes"),
        (Mistake::HardStateOfAnEarlierWrite, "votes"),
        (Mistake::VoteForgotten, "votes"),
        (Mistake::HardStateOnlyWithEntries, "votes"),
        (Mistake::OldTailKept, "a tail that is replaced"),
        (Mistake::FirstEntryWins, "a tail that is replaced"),
        (Mistake::CompactionRemovesAll, "a compaction"),
        (Mistake::CompactionKeepsAll, "a compaction"),
        (Mistake::ResetKeepsEntries, "a log that a snapshot replaces"),
        (Mistake::LogStartComesLast, "a log that a snapshot replaces"),
        (Mistake::SnapshotTimeForgotten, "a compaction"),
        (Mistake::EntryTimeForgotten, "appends"),
        (Mistake::EmptyCommandLost, "appends"),
        (Mistake::LargeEntryCutOff, "appends"),
        (Mistake::FailedSyncRetried, "a sync that fails"),
        (Mistake::FailedSyncIsFull, "a sync that fails"),
        (Mistake::FailedSyncIgnored, "a sync that fails"),
        (Mistake::HalfAWrite, "a sync that fails"),
    ];
    for (mistake, story) in expected {
        let found = run(mistake).unwrap_or_else(|| panic!("{mistake:?} is not found"));
        let of_story = format!("in the story of {story}: ");
        assert!(found.contains(&of_story), "{mistake:?}: {found}");
    }
}
