//! Blocks that the disk cannot read. A read that fails is no proof that nothing was there.

use super::*;
use crate::recovery::Case;
use crate::segment;
use crate::testing::{DiskOperation, DiskVerdict};
use crate::{ClusterId, Directory, OpenError};
use std::io;
use std::ops::Range;

const BLOCK: u64 = 4096;

/// Reads of these bytes fail. If `done_bytes` is given, each write fails after as many bytes.
fn fail_reads(disk: &MemDisk, path: &str, bytes: Range<u64>, done_bytes: Option<usize>) {
    let path = path.to_owned();
    disk.set_faults(Box::new(move |operation| match operation {
        DiskOperation::Read { path: read, offset, len }
            if read == path && offset < bytes.end && bytes.start < offset + len as u64 =>
        {
            DiskVerdict::Fails { kind: io::ErrorKind::Other, done_bytes: 0 }
        }
        DiskOperation::Write { .. } => match done_bytes {
            Some(done_bytes) => DiskVerdict::Fails { kind: io::ErrorKind::Other, done_bytes },
            None => DiskVerdict::Done,
        },
        _ => DiskVerdict::Done,
    }));
}

/// A log of which no mark covers the last batch: batch 4, in block 3 of segment 1.
fn of_three_entries(disk: &MemDisk) {
    let mut log = begun(disk);
    for index in 1..=3 {
        write(&mut log, hard(1, Some(2)), &entries(index, index, 1));
    }
}

#[test]
fn a_last_batch_that_cannot_be_read_is_not_forgotten() {
    let disk = MemDisk::new();
    of_three_entries(&disk);
    let path = segment::path(1);
    let before = disk.read(&path);
    disk.kill();
    fail_reads(&disk, &path, 3 * BLOCK..4 * BLOCK, Some(3_238));
    let error = Log::open(disk.clone(), config()).expect_err("the batch may be acknowledged");
    assert!(matches!(error, OpenError::Unreadable { offset, .. } if offset == 3 * BLOCK));
    assert!(error.to_string().starts_with(&path), "{error}");
    disk.clear_faults();
    assert_eq!(disk.read(&path), before, "nothing was erased");
    let (_, found) = reopen(&disk);
    assert_eq!(found.restored.unwrap().entries, entries(1, 3, 1));
    assert_eq!(found.cases, [Case::Clean]);
}

/// It may be all that tells a lost batch from one that was never synced.
#[test]
fn a_mark_that_cannot_be_read_is_not_forgotten() {
    let disk = MemDisk::new();
    of_three_entries(&disk);
    reopen(&disk).0.close().unwrap();
    for slot in 0..2 {
        disk.kill();
        let bytes = slot * BLOCK..(slot + 1) * BLOCK;
        fail_reads(&disk, "MARK", bytes, None);
        let error = Log::open(disk.clone(), config()).expect_err("it may prove a batch");
        assert!(matches!(error, OpenError::MarkUnreadable { .. }), "{error}");
        disk.clear_faults();
    }
    disk.kill();
    assert_eq!(reopen(&disk).1.restored.unwrap().entries, entries(1, 3, 1));
    // What the error says as the last way out.
    disk.kill();
    disk.remove("MARK").unwrap();
    assert_eq!(reopen(&disk).1.restored.unwrap().entries, entries(1, 3, 1));
}

#[test]
fn a_log_of_which_nothing_can_be_read_is_not_gone() {
    let disk = MemDisk::new();
    of_three_entries(&disk);
    disk.kill();
    fail_reads(&disk, &segment::path(1), 0..4 * BLOCK, None);
    let error = Log::open(disk.clone(), config()).expect_err("nothing can be read");
    assert!(matches!(error, OpenError::Unreadable { offset: 0, .. }), "{error}");
    disk.clear_faults();
    assert_eq!(reopen(&disk).1.restored.unwrap().entries, entries(1, 3, 1));
}

#[test]
fn a_part_of_the_last_batch_that_cannot_be_read_is_not_forgotten() {
    for position in 1..=3 {
        let disk = MemDisk::new();
        let mut log = begun(&disk);
        write(&mut log, hard(1, None), &[entry(1, 1, 9000)]); // Blocks 1 to 3.
        drop(log);
        disk.kill();
        fail_reads(&disk, &segment::path(1), position * BLOCK..(position + 1) * BLOCK, None);
        let error = Log::open(disk.clone(), config()).expect_err("the batch may be acknowledged");
        assert!(matches!(error, OpenError::Unreadable { .. }), "{error}");
    }
}

#[test]
fn a_block_that_cannot_be_read_elsewhere_prevents_no_start() {
    let disk = MemDisk::new();
    let mut log = begun(&disk);
    write(&mut log, hard(1, Some(2)), &entries(1, 1, 1));
    log.close().unwrap();
    disk.kill();
    // Block 2 was never written, so the batch that would begin there was not begun.
    fail_reads(&disk, &segment::path(1), 3 * BLOCK..4 * BLOCK, None);
    let (_, found) = open(&disk);
    assert_eq!(found.restored.unwrap().entries, entries(1, 1, 1));
    assert_eq!(found.cases, [Case::TornTail { batch: 3 }]);
}

#[test]
fn a_last_batch_that_the_mark_covers_and_that_cannot_be_read_is_a_loss() {
    let disk = MemDisk::new();
    let mut log = begun(&disk);
    write(&mut log, hard(1, Some(2)), &entries(1, 1, 1));
    write(&mut log, hard(1, Some(2)), &entries(2, 2, 1));
    log.close().unwrap();
    disk.kill();
    fail_reads(&disk, &segment::path(1), 2 * BLOCK..3 * BLOCK, None);
    let (_, found) = open(&disk);
    let restored = found.restored.unwrap();
    assert_eq!(restored.entries, entries(1, 1, 1));
    assert_eq!(restored.hard_state.lost, Some(LogId::new(2, 1)));
    assert!(found.cases.contains(&Case::RottenEnd { batch: 3 }));
}

/// A founder has begun its log and not yet named its cluster. At the next start the disk reads
/// nothing.
#[test]
fn a_founder_that_cannot_read_its_log_does_not_erase_it() {
    let disk = MemDisk::new();
    drop(begun(&disk));
    disk.kill();
    let before: Vec<_> = disk.paths().iter().map(|path| disk.read(path)).collect();
    disk.set_faults(Box::new(|operation| match operation {
        DiskOperation::Read { path: "IDENTITY", .. } | DiskOperation::SyncDir { .. } => {
            DiskVerdict::Done
        }
        _ => DiskVerdict::Fails { kind: io::ErrorKind::Other, done_bytes: 3_238 },
    }));
    let error = Directory::open(disk.clone(), config()).expect_err("nothing can be read");
    assert!(matches!(error, OpenError::MarkUnreadable { .. }), "{error}");
    disk.clear_faults();
    disk.kill();
    let after: Vec<_> = disk.paths().iter().map(|path| disk.read(path)).collect();
    assert_eq!(before, after);
    let (Directory::Unclaimed(unclaimed), _) = Directory::open(disk.clone(), config()).unwrap()
    else {
        panic!("it names no cluster");
    };
    let announced = unclaimed.announce(NODE, Incarnation(1), &[]).unwrap();
    assert_eq!(announced.who().incarnation(), Incarnation(77));
    announced.join(ClusterId(4), membership()).unwrap();
}
