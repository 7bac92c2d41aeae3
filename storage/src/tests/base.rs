//! The loss of the snapshot that the log begins after: one test for each line of the table in
//! `base.rs`.

use super::*;
use crate::recovery::Case;
use crate::testing::{DiskOperation, DiskVerdict, SectorFate};
use crate::{BaseError, Snapshots};
use std::io::Write;

const OLD: LogId = LogId { term: Term(1), index: raft::Index(3) };
const NEW: LogId = LogId { term: Term(2), index: raft::Index(6) };

fn path(id: LogId) -> String {
    format!("snapshots/{:016x}-{:016x}.snap", id.index.0, id.term.0)
}

fn save(disk: &MemDisk, id: LogId) {
    let mut writer = Snapshots::new(disk.clone()).unwrap().create(&snapshot(id)).unwrap();
    writer.write_all(&[7; 100_000]).unwrap();
    writer.finish().unwrap();
}

/// A log that begins after the snapshot `OLD` and ends with `last` of term 2. The directory has the
/// snapshots `saved`.
fn begun_after(saved: &[LogId], last: u64) -> MemDisk {
    let disk = MemDisk::new();
    saved.iter().for_each(|id| save(&disk, *id));
    let mut log = begun(&disk);
    write(&mut log, hard(1, Some(2)), &entries(1, 3, 1));
    log_start(&mut log, hard(2, None), &LogStart::Compact(snapshot(OLD)), &entries(4, last, 2));
    disk
}

type Checked = Result<(Restored, Option<Case>), BaseError>;

fn check(disk: &MemDisk) -> Checked {
    let (mut log, found) = reopen(disk);
    let snapshots = Snapshots::new(disk.clone()).unwrap();
    log.check_base(&snapshots, NODE, found.restored.unwrap(), |_| false)
}

/// Later starts restore the same state, and report nothing.
fn assert_settled(disk: &MemDisk, expected: &Restored) {
    for _ in 0..3 {
        disk.crash(|_| SectorFate::Lost);
        let (restored, case) = check(disk).unwrap();
        assert_eq!(case, None);
        assert_eq!(restored.snapshot, expected.snapshot);
        assert_eq!(restored.entries, expected.entries);
        assert_eq!(restored.hard_state, expected.hard_state);
    }
}

#[test]
fn a_whole_snapshot_changes_nothing() {
    let disk = begun_after(&[OLD, NEW], 8);
    let (restored, case) = check(&disk).unwrap();
    assert_eq!((restored.snapshot.last, case), (OLD, None));
    assert_eq!(restored.entries.len(), 5);
}

#[test]
fn at_most_one_later_snapshot_stays_at_a_start_and_it_is_intact() {
    let all = [(4, 1), (5, 2), (6, 2), (7, 2)].map(|(index, term)| LogId::new(index, term));
    // The one that stays, if another one is damaged or none.
    for (damaged, kept) in [(None, all[3]), (Some(all[3]), all[2])] {
        let disk = begun_after(&[&[OLD][..], &all].concat(), 8);
        if let Some(damaged) = damaged {
            disk.damage(&path(damaged), 50_000, &[9]);
        }
        check(&disk).unwrap();
        assert_eq!(Snapshots::new(disk).unwrap().list().unwrap(), [OLD, kept]);
    }
    // A log that begins with its first entry.
    let disk = MemDisk::new();
    all.iter().for_each(|id| save(&disk, *id));
    write(&mut begun(&disk), hard(1, Some(2)), &entries(1, 8, 1));
    check(&disk).unwrap();
    assert_eq!(Snapshots::new(disk).unwrap().list().unwrap(), [all[3]]);
}

#[test]
fn a_later_snapshot_takes_the_place_of_one_that_is_lost() {
    // The log ends after the later snapshot, with it, or before it.
    for (last, left) in [(8, 2), (6, 0), (5, 0)] {
        for damaged in [true, false] {
            let disk = begun_after(if damaged { &[OLD, NEW] } else { &[NEW] }, last);
            if damaged {
                disk.damage(&path(OLD), 50_000, &[9]);
            }
            let (restored, case) = check(&disk).unwrap();
            assert_eq!(case, Some(Case::NewerSnapshot { lost: OLD, snapshot: NEW }));
            assert_eq!((restored.snapshot.last, restored.entries.len()), (NEW, left));
            assert_eq!(restored.hard_state, hard(2, None), "nothing is lost");
            assert_settled(&disk, &restored);
        }
    }
}

#[test]
fn a_log_in_which_the_later_snapshot_does_not_fit_begins_anew_after_it() {
    let disk = begun_after(&[LogId::new(6, 3)], 8);
    let (restored, _) = check(&disk).unwrap();
    assert_eq!((restored.snapshot.last, restored.entries.len()), (LogId::new(6, 3), 0));
    assert_eq!(restored.hard_state, hard(3, None), "the term of what is committed");
    assert_settled(&disk, &restored);
}

#[test]
fn a_lost_snapshot_is_a_loss_that_the_peers_repair() {
    let disk = begun_after(&[OLD, NEW], 8);
    disk.damage(&path(OLD), 10, &[0xff]);
    disk.damage(&path(NEW), 99_000, &[0xff]);
    let (restored, case) = check(&disk).unwrap();
    assert_eq!(case, Some(Case::SnapshotLost { snapshot: OLD }));
    assert!(case.is_some_and(|case| case.is_loss()));
    assert_eq!((restored.snapshot.last, restored.entries.len()), (LogId::ZERO, 0));
    assert_eq!(*restored.snapshot.membership, membership());
    assert_eq!(restored.hard_state.lost, Some(LogId::new(8, 2)));
    assert_eq!(restored.hard_state.term, Term(2));
    assert_settled(&disk, &restored);
}

#[test]
fn a_snapshot_that_cannot_be_read_at_the_moment_is_not_given_up() {
    let disk = begun_after(&[OLD, NEW], 8);
    let (mut log, found) = reopen(&disk);
    let snapshots = Snapshots::new(disk.clone()).unwrap();
    disk.set_faults(Box::new(|_| DiskVerdict::Fails {
        kind: std::io::ErrorKind::PermissionDenied,
        done_bytes: 0,
    }));
    let checked = log.check_base(&snapshots, NODE, found.restored.unwrap(), |_| false);
    assert!(matches!(checked, Err(BaseError::Unreadable(_))));
    disk.clear_faults();
    let (restored, case) = check(&disk).unwrap();
    assert_eq!((restored.snapshot.last, case), (OLD, None));
}

/// A disk that is reached over a network may fail for a moment, for all nodes at once.
#[test]
fn a_snapshot_on_which_the_disk_reports_an_error_is_read_again() {
    for recovers in [true, false] {
        let disk = begun_after(&[OLD], 8);
        let (mut log, found) = reopen(&disk);
        let snapshots = Snapshots::new(disk.clone()).unwrap();
        disk.set_faults(Box::new(|operation| match operation {
            // Like EIO, which the disk in memory does not have: its kind counts as a loss.
            DiskOperation::Read { path, .. } if path.contains("snapshots/") => {
                DiskVerdict::Fails { kind: std::io::ErrorKind::InvalidData, done_bytes: 0 }
            }
            _ => DiskVerdict::Done,
        }));
        let mut tries = 0;
        let again = |_: &crate::SnapshotError| {
            tries += 1;
            if recovers {
                disk.clear_faults();
            }
            tries < 3
        };
        let (_, case) = log.check_base(&snapshots, NODE, found.restored.unwrap(), again).unwrap();
        let lost = Some(Case::SnapshotLost { snapshot: OLD });
        assert_eq!((case, tries), if recovers { (None, 1) } else { (lost, 3) });
    }
}

#[test]
fn the_only_voter_is_told_that_nobody_can_repair_it() {
    let disk = MemDisk::new();
    let mut log = begun(&disk);
    let mut alone = snapshot(OLD);
    alone.membership.members.retain(|id, _| *id == NODE);
    alone.membership.voters.retain(|id| *id == NODE);
    write(&mut log, hard(1, None), &entries(1, 3, 1));
    log_start(&mut log, hard(1, None), &LogStart::Compact(alone), &[]);
    assert!(matches!(check(&disk), Err(BaseError::NoPeers(_))));
}

#[test]
fn a_power_failure_while_a_loss_is_noted_leaves_it_to_the_next_start() {
    for operations in 0..12 {
        let disk = begun_after(&[], 8);
        let (mut log, found) = reopen(&disk);
        let snapshots = Snapshots::new(disk.clone()).unwrap();
        let mut left = operations;
        disk.set_faults(Box::new(move |_| {
            left -= 1;
            match left {
                0.. => DiskVerdict::Done,
                _ => DiskVerdict::Fails { kind: std::io::ErrorKind::Other, done_bytes: 2_000 },
            }
        }));
        let _ = log.check_base(&snapshots, NODE, found.restored.unwrap(), |_| false);
        drop(log);
        disk.clear_faults();
        disk.crash(|_| SectorFate::Lost);
        let (restored, _) = check(&disk).unwrap();
        assert_eq!(restored.hard_state.lost, Some(LogId::new(8, 2)), "after {operations}");
        assert_settled(&disk, &restored);
    }
}
