//! Tests of the snapshot store.

use super::*;
use crate::testing::{DiskOperation, DiskVerdict, SectorFate};
use crate::{SnapshotError, Snapshots};
use std::io::{Read, Write};

fn state(len: usize) -> Vec<u8> {
    (0..len).map(|at| (at * 31 % 251) as u8).collect()
}

fn store(disk: &MemDisk) -> Snapshots<MemDisk> {
    Snapshots::new(disk.clone()).unwrap()
}

fn save(disk: &MemDisk, id: LogId, len: usize) {
    let mut writer = store(disk).create(&snapshot(id)).unwrap();
    writer.write_all(&state(len)).unwrap();
    writer.finish().unwrap();
}

fn path(id: LogId) -> String {
    format!("snapshots/{:016x}-{:016x}.snap", id.index.0, id.term.0)
}

#[test]
fn a_finished_snapshot_survives_a_power_failure() {
    for len in [0, 1, 65_535, 65_536, 65_537, 300_000] {
        let disk = MemDisk::new();
        save(&disk, LogId::new(7, 4), len);
        disk.crash(|_| SectorFate::Lost);
        let mut reader = store(&disk).open(LogId::new(7, 4)).unwrap();
        assert_eq!(reader.snapshot(), &snapshot(LogId::new(7, 4)));
        assert_eq!(reader.state_bytes(), len as u64);
        let mut read = Vec::new();
        reader.read_to_end(&mut read).unwrap();
        assert!(read == state(len));
        assert_eq!(reader.read(&mut [0; 10]).unwrap(), 0);
    }
}

#[test]
fn an_unfinished_snapshot_leaves_nothing_behind() {
    let disk = MemDisk::new();
    let mut writer = store(&disk).create(&snapshot(LogId::new(7, 4))).unwrap();
    writer.write_all(&state(100_000)).unwrap();
    drop(writer);
    assert_eq!(disk.paths(), [""; 0]);
    // Neither does a snapshot whose writing was cut off by a power failure.
    let mut writer = store(&disk).create(&snapshot(LogId::new(7, 4))).unwrap();
    writer.write_all(&state(100_000)).unwrap();
    disk.crash(|_| SectorFate::Kept);
    assert_eq!(disk.paths().len(), 1);
    assert!(store(&disk).list().unwrap().is_empty());
    assert_eq!(disk.paths(), [""; 0]);
}

#[test]
fn a_snapshot_that_could_not_be_synced_is_none() {
    let disk = MemDisk::new();
    let mut writer = store(&disk).create(&snapshot(LogId::new(7, 4))).unwrap();
    writer.write_all(&state(10)).unwrap();
    disk.set_faults(Box::new(|operation| match operation {
        DiskOperation::Sync { .. } => DiskVerdict::FailsAndForgets,
        _ => DiskVerdict::Done,
    }));
    writer.finish().unwrap_err();
    assert!(matches!(store(&disk).open(LogId::new(7, 4)), Err(SnapshotError::Missing { .. })));
}

#[test]
fn no_byte_of_a_damaged_chunk_is_given_out() {
    let len = 200_000;
    let disk = MemDisk::new();
    let id = LogId::new(7, 4);
    save(&disk, id, len);
    let whole = disk.read(&path(id)).unwrap();
    for at in (0..whole.len()).step_by(997).chain(whole.len() - 20..whole.len()) {
        let mut damaged = whole.clone();
        damaged[at] ^= 0x10;
        disk.install(&path(id), &damaged);
        let Ok(mut reader) = store(&disk).open(id) else { continue };
        let mut read = Vec::new();
        let error = reader.read_to_end(&mut read).expect_err("damage is found");
        assert_eq!(error.kind(), std::io::ErrorKind::InvalidData);
        assert!(read == state(len)[..read.len()], "damage at {at} was given out");
        assert!(reader.read(&mut [0; 10]).is_err(), "and it stays an error");
    }
    for cut in [0, 10, 500, whole.len() / 2, whole.len() - 1] {
        disk.install(&path(id), &whole[..cut]);
        let read = store(&disk).open(id).map(|mut reader| {
            let mut read = Vec::new();
            reader.read_to_end(&mut read).is_ok()
        });
        assert!(!matches!(read, Ok(true)), "cut to {cut} bytes it passes for whole");
    }
}

#[test]
fn a_snapshot_of_another_version_is_refused() {
    let disk = MemDisk::new();
    let id = LogId::new(7, 4);
    save(&disk, id, 10);
    let mut content = disk.read(&path(id)).unwrap();
    content[8] = 9;
    disk.install(&path(id), &content);
    let error = store(&disk).open(id).unwrap_err();
    assert!(matches!(error, SnapshotError::Damaged { .. }), "the checksum does not vouch: {error}");
    let length = u32::from_le_bytes(content[9..13].try_into().unwrap()) as usize;
    let checksum = crc32c::crc32c(&content[..13 + length]);
    content[13 + length..17 + length].copy_from_slice(&checksum.to_le_bytes());
    disk.install(&path(id), &content);
    let error = store(&disk).open(id).unwrap_err();
    assert!(matches!(error, SnapshotError::OtherVersion { version: 9, .. }), "{error}");
    assert!(!error.is_loss());
}

#[test]
fn a_snapshot_under_another_name_is_refused() {
    let disk = MemDisk::new();
    save(&disk, LogId::new(7, 4), 10);
    let content = disk.read(&path(LogId::new(7, 4))).unwrap();
    disk.install(&path(LogId::new(8, 4)), &content);
    assert!(store(&disk).open(LogId::new(8, 4)).is_err());
}

#[test]
fn only_the_snapshots_that_are_needed_stay() {
    let disk = MemDisk::new();
    let all = [LogId::new(5, 1), LogId::new(7, 4), LogId::new(9, 4)];
    all.iter().for_each(|id| save(&disk, *id, 10));
    disk.install("snapshots/notes.txt", b"");
    let store = store(&disk);
    assert_eq!(store.list().unwrap(), all);
    save(&disk, LogId::new(7, 3), 10);
    save(&disk, LogId::new(6, 3), 10);
    store.remove_before(all[1], &[LogId::new(6, 3)]).unwrap();
    assert_eq!(store.list().unwrap(), [&[LogId::new(6, 3)], &all[1..]].concat());
    store.remove_before(all[1], &[]).unwrap();
    assert_eq!(store.list().unwrap(), all[1..]);
    assert!(disk.read("snapshots/notes.txt").is_some());
}

#[test]
fn a_snapshot_that_is_finished_while_older_ones_are_removed_stays() {
    use std::sync::atomic::{AtomicU64, Ordering};
    const LAST: u64 = 300;
    let (disk, latest) = (MemDisk::new(), AtomicU64::new(0));
    let snapshots = store(&disk);
    std::thread::scope(|scope| {
        scope.spawn(|| {
            loop {
                let base = latest.load(Ordering::Acquire);
                snapshots.remove_before(LogId::new(base, 1), &[]).unwrap();
                if base == LAST {
                    break;
                }
            }
        });
        for index in 1..=LAST {
            let id = LogId::new(index, 1);
            let mut writer = snapshots.create(&snapshot(id)).unwrap();
            writer.write_all(&state(10)).unwrap();
            writer.finish().unwrap();
            // The removal may be running now, with an older base.
            assert!(snapshots.verify(id).is_ok(), "snapshot {id} was removed");
            latest.store(index, Ordering::Release);
        }
    });
    assert_eq!(snapshots.list().unwrap(), [LogId::new(LAST, 1)]);
}

/// Writes part of a snapshot from a peer, as a process that ends meanwhile.
fn receive_part(disk: &MemDisk, id: LogId, len: usize) {
    let mut writer = store(disk).receive(&snapshot(id)).unwrap();
    writer.write_all(&state(len)).unwrap();
    std::mem::forget(writer);
}

#[test]
fn what_was_received_of_a_snapshot_is_there_after_a_restart() {
    let id = LogId::new(7, 4);
    for (len, intact) in [(10, 0), (70_000, 65_536), (200_000, 196_608)] {
        let disk = MemDisk::new();
        receive_part(&disk, id, len);
        let mut part = store(&disk).unfinished().unwrap().unwrap();
        assert_eq!((part.snapshot, part.bytes), (snapshot(id), intact));
        assert_eq!(part.checksum, crc32c::crc32c(&state(intact as usize)));
        assert!(matches!(store(&disk).open(id), Err(SnapshotError::Missing { .. })));
        part.writer.write_all(&state(300_000)[intact as usize..]).unwrap();
        part.writer.finish().unwrap();
        disk.crash(|_| SectorFate::Lost);
        let mut read = Vec::new();
        store(&disk).open(id).unwrap().read_to_end(&mut read).unwrap();
        assert!(read == state(300_000));
        assert_eq!(disk.paths(), [path(id)]);
    }
}

#[test]
fn no_damaged_part_of_a_snapshot_is_continued() {
    let (disk, id) = (MemDisk::new(), LogId::new(7, 4));
    receive_part(&disk, id, 200_000);
    let path = disk.paths().remove(0);
    let whole = disk.read(&path).unwrap();
    for at in (0..whole.len()).step_by(997) {
        let mut damaged = whole.clone();
        damaged[at] ^= 0x10;
        disk.install(&path, &damaged);
        let Some(part) = store(&disk).unfinished().unwrap() else { continue };
        let bytes = part.bytes as usize;
        assert!(bytes <= at && part.checksum == crc32c::crc32c(&state(bytes)), "damage at {at}");
        let length = disk.read(&path).unwrap().len();
        assert!(length <= at, "the damage at {at} stays in the file");
    }
}

#[test]
fn the_part_of_a_snapshot_is_removed_when_it_is_of_no_use() {
    let disk = MemDisk::new();
    receive_part(&disk, LogId::new(7, 4), 100_000);
    // By the reception of another one, by a log that has it, and on order.
    receive_part(&disk, LogId::new(9, 4), 100_000);
    assert_eq!(disk.paths(), ["snapshots/0000000000000009-0000000000000004.part"]);
    store(&disk).remove_before(LogId::new(8, 4), &[]).unwrap();
    assert_eq!(disk.paths().len(), 1);
    store(&disk).remove_before(LogId::new(9, 4), &[]).unwrap();
    assert_eq!(disk.paths(), [""; 0]);
    receive_part(&disk, LogId::new(9, 4), 100_000);
    store(&disk).unfinished().unwrap().unwrap().writer.discard();
    assert_eq!(disk.paths(), [""; 0]);
    assert!(store(&disk).unfinished().unwrap().is_none());
}

#[test]
fn an_error_of_the_medium_is_damage_to_those_who_send_a_snapshot() {
    let kind = |number: i32| {
        let source = std::io::Error::from_raw_os_error(number);
        std::io::Error::from(SnapshotError::Io { id: LogId::new(1, 1), source }).kind()
    };
    let (eio, emfile) = (5, 24);
    // The leader offers it no more, and takes another one.
    assert_eq!(kind(eio), std::io::ErrorKind::InvalidData);
    assert_ne!(kind(emfile), std::io::ErrorKind::InvalidData);
}
