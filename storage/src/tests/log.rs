//! The log without faults, and with errors that the disk reports.

use super::*;
use crate::log::AppendError;
use crate::testing::{DiskOperation, DiskVerdict};
use crate::{LockError, OpenError, RealDisk, Snapshots};
use crate::{disk, segment};
use std::sync::{Arc, Mutex};

#[test]
fn what_was_written_is_there_after_a_restart_on_a_real_disk() {
    let directory = tempfile::tempdir().unwrap();
    let config = LogConfig { segment_bytes: 64 << 10, ..LogConfig::default() };
    let open = || Log::open(RealDisk::new(directory.path()), config.clone()).unwrap();
    let (mut log, found) = open();
    assert!(found.identity.is_none() && found.restored.is_none());
    log.identify(identity()).unwrap();
    log.begin(snapshot(LogId::ZERO)).unwrap();
    for index in 1..=200 {
        write(&mut log, hard(3, Some(2)), &[entry(index, 3, 1000)]);
    }
    drop(log);
    for _ in 0..2 {
        let (log, found) = open();
        let restored = found.restored.unwrap();
        assert_eq!(found.identity, Some(identity()));
        assert_eq!(restored.hard_state, hard(3, Some(2)));
        assert_eq!(restored.snapshot, snapshot(LogId::ZERO));
        assert_eq!(restored.entries, (1..=200).map(|i| entry(i, 3, 1000)).collect::<Vec<_>>());
        log.close().unwrap();
    }
}

#[test]
fn what_the_tree_does_not_allow_is_named_with_its_path() {
    let directory = tempfile::tempdir().unwrap();
    std::fs::write(directory.path().join("a"), "a file").unwrap();
    let disk = RealDisk::new(directory.path());
    let errors = [disk.list("a"), disk.open("a/b").map(|_| Vec::new())];
    for (error, what) in errors.into_iter().zip(["cannot list", "cannot open"]) {
        let error = error.unwrap_err();
        assert_eq!(error.kind(), std::io::ErrorKind::NotADirectory);
        let said = error.to_string();
        assert!(said.contains(what) && said.contains("/a"), "{said}");
    }
}

#[test]
fn a_directory_in_use_is_refused_by_name() {
    let directory = tempfile::tempdir().unwrap();
    let open = || Log::open(RealDisk::new(directory.path()), config());
    let held = open().unwrap_or_else(|error| panic!("{error}"));
    let error = open().err().unwrap();
    assert!(matches!(&error, OpenError::Lock(LockError::Held { .. })));
    let message = error.to_string();
    assert!(message.contains(directory.path().to_str().unwrap()), "{message}");
    assert!(message.contains("another process holds this data directory"), "{message}");
    // Not even if somebody takes LOCK for a leftover.
    std::fs::remove_file(directory.path().join("LOCK")).unwrap();
    assert!(matches!(open().err(), Some(OpenError::Lock(LockError::Held { .. }))));
    drop(held);
    assert!(open().is_ok());
}

#[test]
fn a_new_log_takes_little_room_and_its_segments_grow() {
    let (disk, config) = (MemDisk::new(), || LogConfig { background: false, ..Default::default() });
    let (mut log, _) = Log::open(disk.clone(), config()).unwrap();
    log.identify(identity()).unwrap();
    log.begin(snapshot(LogId::ZERO)).unwrap();
    assert!(disk.used_bytes() <= 8 << 20, "{}", disk.used_bytes());
    let sizes = |disk: &MemDisk| -> Vec<u64> {
        let segments = disk.paths().into_iter().filter(|path| path.ends_with(".seg"));
        segments.map(|path| disk.read(&path).unwrap().len() as u64 >> 20).collect()
    };
    assert_eq!(sizes(&disk), [2]);
    let megabytes = |log: &mut Log<MemDisk>, indexes: std::ops::RangeInclusive<u64>| {
        indexes.for_each(|index| write(log, hard(1, None), &[entry(index, 1, 1_000_000)]));
    };
    megabytes(&mut log, 1..=40);
    assert_eq!(sizes(&disk), [2, 4, 8, 16, 16]);
    drop(log);
    disk.kill();
    // They are found again, and only those of the standard size are reused.
    let (mut log, found) = Log::open(disk.clone(), config()).unwrap();
    assert_eq!(found.restored.unwrap().entries.len(), 40);
    let base = LogStart::Compact(snapshot(LogId::new(40, 1)));
    let batch = BatchRef { hard_state: hard(1, None), log_start: Some(&base), entries: &[] };
    log.append(batch).unwrap();
    let left = sizes(&disk);
    assert!(!left.is_empty() && left.iter().all(|size| *size == 16), "{left:?}");
}

/// A log on a real disk is written, then `change` changes its directory, and it is written again.
fn written_after(change: impl FnOnce(&std::path::Path)) -> Result<(), String> {
    let scratch = tempfile::tempdir().unwrap();
    let directory = scratch.path().join("data");
    let (mut log, _) = Log::open(RealDisk::new(&directory), config()).unwrap();
    log.identify(identity()).unwrap();
    log.begin(snapshot(LogId::ZERO)).unwrap();
    write(&mut log, hard(3, Some(2)), &[entry(1, 3, 100)]);
    change(&directory);
    let next = [entry(2, 3, 100)];
    let batch = BatchRef { hard_state: hard(3, Some(2)), log_start: None, entries: &[&next] };
    let written = log.append(batch).map_err(|error| error.into_io().to_string());
    let again = log.append(batch).map_err(|error| error.into_io().to_string());
    assert_eq!(written.is_ok(), again.is_ok(), "the failure is final: {written:?} {again:?}");
    written
}

#[test]
fn a_directory_that_is_removed_or_replaced_under_a_log_acknowledges_nothing() {
    use std::fs;
    written_after(|_| ()).unwrap();
    let aside = |directory: &std::path::Path| {
        fs::rename(directory, directory.with_extension("aside")).unwrap();
    };
    for (what, error) in [
        ("removed", written_after(|directory| fs::remove_dir_all(directory).unwrap())),
        ("removed", written_after(aside)),
        ("removed", written_after(|directory| fs::remove_file(directory.join("LOCK")).unwrap())),
        (
            "replaced",
            written_after(|directory| {
                aside(directory);
                fs::create_dir(directory).unwrap();
                fs::write(directory.join("LOCK"), "").unwrap();
            }),
        ),
        ("removed", written_after(|directory| fs::remove_dir_all(directory.join("log")).unwrap())),
    ] {
        let error = error.expect_err(what);
        assert!(error.contains(what) && error.contains("while the node was running"), "{error}");
    }
}

#[test]
fn a_mark_that_is_removed_under_a_log_is_made_again() {
    let directory = tempfile::tempdir().unwrap();
    let (mut log, _) = Log::open(RealDisk::new(directory.path()), config()).unwrap();
    log.identify(identity()).unwrap();
    log.begin(snapshot(LogId::ZERO)).unwrap();
    let mark = directory.path().join("MARK");
    std::fs::remove_file(&mark).unwrap();
    for index in 1..=200 {
        write(&mut log, hard(3, Some(2)), &[entry(index, 3, 10)]);
    }
    assert!(mark.exists());
}

fn full_disk(disk: &MemDisk) {
    disk.set_capacity(Some(disk.used_bytes()));
}

#[test]
fn a_full_disk_refuses_a_write_and_takes_the_same_one_later() {
    let disk = MemDisk::new();
    let mut log = begun(&disk);
    full_disk(&disk);
    let mut written = 0;
    let refused = loop {
        let next = entries(written + 1, written + 1, 1);
        let batch = BatchRef { hard_state: hard(1, None), log_start: None, entries: &[&next] };
        match log.append(batch) {
            Ok(()) => written += 1,
            Err(AppendError::Full(_)) => break next,
            Err(AppendError::Failed(error)) => panic!("{error}"),
        }
    };
    assert_eq!(written, 3, "what was reserved can be used");
    let batch = BatchRef { hard_state: hard(1, None), log_start: None, entries: &[&refused] };
    assert!(matches!(log.append(batch), Err(AppendError::Full(_))));
    // A restart finds everything acknowledged but has no room to start: it reports that.
    let full = disk.fork();
    let message = Log::open(full.clone(), config()).err().unwrap().to_string();
    assert!(message.contains("no room for the next log segment"), "{message}");
    full.set_capacity(None);
    assert_eq!(reopen(&full).1.restored.unwrap().entries, entries(1, 3, 1));
    // Here the disk gets room while the log is open.
    disk.set_capacity(None);
    log.append(batch).unwrap();
    write(&mut log, hard(1, None), &entries(5, 5, 1));
    assert_eq!(reopen(&disk).1.restored.unwrap().entries, entries(1, 5, 1));
}

#[test]
fn a_disk_without_room_for_a_segment_is_not_written_to_and_the_error_says_what_is_missing() {
    let disk = MemDisk::new();
    let mut log = begun(&disk);
    disk.set_capacity(Some(disk.used_bytes() + config().segment_bytes - 1));
    let mut index = 0;
    let refused = loop {
        index += 1;
        let next = entries(index, index, 1);
        let batch = BatchRef { hard_state: hard(1, None), log_start: None, entries: &[&next] };
        if log.append(batch).is_err() {
            break next;
        }
    };
    let changes = Arc::new(Mutex::new(0));
    let counted = changes.clone();
    disk.set_faults(Box::new(move |operation| {
        if matches!(operation, DiskOperation::Write { .. } | DiskOperation::Create { .. }) {
            *counted.lock().unwrap() += 1;
        }
        DiskVerdict::Done
    }));
    for _ in 0..10 {
        let batch = BatchRef { hard_state: hard(1, None), log_start: None, entries: &[&refused] };
        let Err(AppendError::Full(error)) = log.append(batch) else { panic!("there is no room") };
        let message = error.to_string();
        assert!(message.contains("no room for the next log segment (log/next.tmp)"), "{message}");
        assert!(message.contains("16 KiB are needed and 15 KiB are free"), "{message}");
    }
    assert_eq!(*changes.lock().unwrap(), 0);
    disk.set_capacity(None);
    write(&mut log, hard(1, None), &refused);
}

#[test]
fn a_write_cut_short_for_want_of_room_is_tried_again_at_the_same_place() {
    let disk = MemDisk::new();
    let mut log = begun(&disk);
    // Larger than a segment, so the write extends the file.
    let large = [entry(1, 1, 40_000)];
    let batch = BatchRef { hard_state: hard(1, None), log_start: None, entries: &[&large] };
    disk.set_capacity(Some(disk.used_bytes() + config().segment_bytes + 5_000));
    assert!(matches!(log.append(batch), Err(AppendError::Full(_))));
    disk.set_capacity(None);
    log.append(batch).unwrap();
    assert_eq!(reopen(&disk).1.restored.unwrap().entries, large);
}

#[test]
fn the_bound_on_disk_use_holds() {
    let disk = MemDisk::new();
    let bounded = LogConfig { bytes_max: 3 * 4 * 4096, ..config() };
    let (mut log, _) = Log::open(disk.clone(), bounded).unwrap();
    log.identify(identity()).unwrap();
    log.begin(snapshot(LogId::ZERO)).unwrap();
    for index in 1.. {
        let next = entries(index, index, 1);
        let batch = BatchRef { hard_state: hard(1, None), log_start: None, entries: &[&next] };
        match log.append(batch) {
            Ok(()) => assert!(log.usage().bytes <= log.usage().bytes_max),
            Err(AppendError::Full(error)) => {
                assert_eq!(index, 8);
                assert!(error.to_string().contains("bound of 49152 bytes"), "{error}");
                break;
            }
            Err(AppendError::Failed(error)) => panic!("{error}"),
        }
    }
    // An election needs no room for commands: a vote, and the entry that begins a term.
    log.append(BatchRef { hard_state: hard(2, Some(1)), log_start: None, entries: &[] }).unwrap();
    let begins = [Entry { payload: Payload::NoOp, ..entry(8, 2, 0) }];
    fn batch<'a>(start: Option<&'a LogStart>, entries: &'a [&'a [Entry]]) -> BatchRef<'a> {
        BatchRef { hard_state: hard(2, Some(1)), log_start: start, entries }
    }
    log.append(batch(None, &[&begins])).unwrap();
    // A snapshot frees room, also if the commands that have none wait with it.
    let (compact, held_up) = (LogStart::Compact(snapshot(LogId::new(7, 1))), entries(9, 9, 2));
    assert!(matches!(log.append(batch(None, &[&held_up])), Err(AppendError::Full(_))));
    log.append(batch(Some(&compact), &[&held_up])).unwrap();
    for index in 10..13 {
        log.append(batch(None, &[&entries(index, index, 2)])).unwrap();
    }
    assert!(log.usage().bytes <= log.usage().bytes_max);
}

#[test]
fn a_bound_without_room_for_the_log_is_refused() {
    let narrow = LogConfig { bytes_max: config().segment_bytes * 2 - 1, ..config() };
    let error = Log::open(MemDisk::new(), narrow).unwrap_err();
    assert!(error.to_string().contains("at least two segments"), "{error}");
}

#[test]
fn a_disk_that_has_failed_is_never_trusted_again() {
    for failing_sync in [true, false] {
        let disk = MemDisk::new();
        let mut log = begun(&disk);
        disk.set_faults(Box::new(move |operation| match operation {
            DiskOperation::Sync { .. } if failing_sync => DiskVerdict::FailsAndForgets,
            DiskOperation::Write { .. } if !failing_sync => {
                DiskVerdict::Fails { kind: std::io::ErrorKind::Other, done_bytes: 512 }
            }
            _ => DiskVerdict::Done,
        }));
        let next = entries(1, 1, 1);
        let batch = BatchRef { hard_state: hard(1, None), log_start: None, entries: &[&next] };
        assert!(matches!(log.append(batch), Err(AppendError::Failed(_))));
        disk.clear_faults();
        for _ in 0..3 {
            assert!(matches!(log.append(batch), Err(AppendError::Failed(_))));
        }
    }
}

#[test]
fn a_write_costs_one_write_and_one_sync() {
    let disk = MemDisk::new();
    let mut log = begun(&disk);
    let seen = Arc::new(Mutex::new(Vec::new()));
    let record = Arc::clone(&seen);
    disk.set_faults(Box::new(move |operation| {
        record.lock().unwrap().push(match operation {
            DiskOperation::Write { offset, len, .. } => format!("write {len} at {offset}"),
            DiskOperation::Sync { .. } => "sync".to_owned(),
            other => format!("{other:?}"),
        });
        DiskVerdict::Done
    }));
    write(&mut log, hard(1, None), &entries(1, 10, 1));
    assert_eq!(*seen.lock().unwrap(), ["write 4096 at 4096", "sync"]);
    seen.lock().unwrap().clear();
    write(&mut log, hard(1, None), &entries(11, 60, 1));
    assert_eq!(*seen.lock().unwrap(), ["write 8192 at 8192", "sync"]);
}

#[test]
fn every_kind_of_entry_comes_back_as_it_went() {
    let disk = MemDisk::new();
    let mut log = begun(&disk);
    let payloads = [
        Payload::NoOp,
        Payload::Command(Bytes::new()),
        Payload::System(Bytes::from_static(b"clock")),
        Payload::Membership(Box::new(membership())),
        Payload::Command(Bytes::from(vec![0; 10_000])),
    ];
    let written: Vec<Entry> = (1..)
        .zip(payloads)
        .map(|(index, payload)| Entry { payload, ..entry(index, 1, 0) })
        .collect();
    write(&mut log, hard(1, None), &written);
    assert_eq!(reopen(&disk).1.restored.unwrap().entries, written);
}

#[test]
fn a_payload_that_looks_like_a_batch_is_none() {
    let disk = MemDisk::new();
    let mut log = begun(&disk);
    write(&mut log, hard(1, None), &entries(1, 1, 1));
    // A client proposes exactly the bytes of the segment, repeatedly, at every offset.
    let image = disk.read("log/0000000000000001.seg").unwrap()[..2 * 4096].to_vec();
    for shift in (0..4096).step_by(61) {
        let command = [vec![0; shift], image.clone()].concat();
        let payload = Payload::Command(Bytes::from(command));
        let index = 2 + shift as u64 / 61;
        write(&mut log, hard(1, None), &[Entry { payload, ..entry(index, 1, 0) }]);
    }
    let (_, found) = reopen(&disk);
    assert_eq!(found.cases, [crate::Case::Clean]);
    assert_eq!(found.restored.unwrap().entries.len(), 1 + 4096usize.div_ceil(61));
}

#[test]
fn a_node_that_ends_again_and_again_does_not_fill_its_disk() {
    let disk = MemDisk::new();
    let mut log = begun(&disk);
    // The repeated batch follows an entry that is needed, so no earlier segment can be freed.
    write(&mut log, hard(1, None), &entries(1, 1, 1));
    write(&mut log, hard(1, None), &[entry(2, 1, 3 * 4096)]);
    drop(log);
    let mut taken = Vec::new();
    for _ in 0..20 {
        // Each start follows a kill, and finds nothing new.
        let (log, found) = reopen(&disk);
        assert_eq!(found.restored.unwrap().entries.len(), 2);
        taken.push(log.usage().bytes);
    }
    assert_eq!(taken[2], taken[19], "{taken:?}");
}

#[test]
fn want_of_descriptors_or_memory_is_no_failure_of_the_disk() {
    for (error, is_full) in [(12, true), (23, true), (24, true), (5, false)] {
        let of = AppendError::of(std::io::Error::from_raw_os_error(error));
        assert_eq!(matches!(of, AppendError::Full(_)), is_full, "{of:?}");
    }
}

#[test]
fn an_error_that_names_its_file_keeps_the_number_of_the_system() {
    let disk = MemDisk::new();
    for named in [disk::named, |disk: &MemDisk, _: &str, error| segment::unprepared(disk, 1, error)]
    {
        let error = named(&disk, "log/7", std::io::Error::from_raw_os_error(5));
        assert!(error.to_string().contains("log/"), "{error}");
        let source = std::error::Error::source(&error).and_then(|error| error.downcast_ref());
        assert_eq!(source.and_then(std::io::Error::raw_os_error), Some(5), "{error:?}");
    }
}

#[test]
fn a_write_for_which_there_is_no_memory_is_made_again_over_its_written_part() {
    let disk = MemDisk::new();
    let mut log = begun(&disk);
    write(&mut log, hard(1, None), &entries(1, 2, 1));
    disk.set_faults(Box::new(|operation| match operation {
        DiskOperation::Write { .. } => {
            DiskVerdict::Fails { kind: std::io::ErrorKind::OutOfMemory, done_bytes: 2048 }
        }
        _ => DiskVerdict::Done,
    }));
    let batch = entries(3, 5, 1);
    let refused =
        log.append(BatchRef { hard_state: hard(1, None), log_start: None, entries: &[&batch] });
    assert!(matches!(refused, Err(AppendError::Full(_))), "{refused:?}");
    disk.clear_faults();
    write(&mut log, hard(1, None), &batch);
    drop(log);
    let (_log, found) = reopen(&disk);
    assert_eq!(found.restored.unwrap().entries.len(), 5);
}

#[test]
fn a_sync_for_which_there_is_no_memory_is_final() {
    let disk = MemDisk::new();
    let mut log = begun(&disk);
    disk.set_faults(Box::new(|operation| match operation {
        DiskOperation::Sync { .. } => {
            DiskVerdict::Fails { kind: std::io::ErrorKind::OutOfMemory, done_bytes: 0 }
        }
        _ => DiskVerdict::Done,
    }));
    let batch = entries(1, 1, 1);
    let batch = BatchRef { hard_state: hard(1, None), log_start: None, entries: &[&batch] };
    assert!(matches!(log.append(batch), Err(AppendError::Failed(_))));
    disk.clear_faults();
    assert!(matches!(log.append(batch), Err(AppendError::Failed(_))), "it stays so");
}

#[test]
fn a_disk_without_inodes_is_reported_as_that_and_not_as_one_without_bytes() {
    let disk = MemDisk::new();
    let mut log = begun(&disk);
    disk.set_files_max(Some(disk.paths().len()));
    let refused = (1..100).find_map(|index| {
        let next = entries(index, index, 1);
        let batch = BatchRef { hard_state: hard(1, None), log_start: None, entries: &[&next] };
        log.append(batch).err()
    });
    let message = refused.expect("a segment is needed").into_io().to_string();
    assert!(message.contains("inodes") && message.contains("log/next.tmp"), "{message}");
    assert!(!message.contains("are needed"), "{message}");
    let message = Snapshots::new(disk.clone()).unwrap().create(&snapshot(LogId::new(1, 1))).err();
    let message = message.expect("there are no inodes").to_string();
    assert!(message.contains("inodes") && message.contains("snapshots/0.tmp"), "{message}");
}

#[test]
fn only_the_user_of_the_node_may_read_its_files() {
    use std::os::unix::fs::PermissionsExt;
    let scratch = tempfile::tempdir().unwrap();
    let directory = scratch.path().join("node");
    let (mut log, _) = Log::open(RealDisk::new(&directory), config()).unwrap();
    log.identify(identity()).unwrap();
    log.begin(snapshot(LogId::ZERO)).unwrap();
    let snapshots = Snapshots::new(RealDisk::new(&directory)).unwrap();
    snapshots.create(&snapshot(LogId::new(1, 1))).unwrap().finish().unwrap();
    let mode = |path: &std::path::Path| path.metadata().unwrap().permissions().mode() & 0o777;
    let (mut files, mut directories) = (0, vec![directory]);
    while let Some(directory) = directories.pop() {
        assert_eq!(mode(&directory), 0o700, "{}", directory.display());
        for entry in std::fs::read_dir(&directory).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                directories.push(path);
                continue;
            }
            assert_eq!(mode(&path), 0o600, "{}", path.display());
            files += 1;
        }
    }
    assert!(files >= 4, "lock, identity, segment, snapshot");
}

#[test]
fn a_segment_is_used_once_its_name_is_durable_whichever_thread_prepares_it() {
    for background in [false, true] {
        let disk = MemDisk::new();
        let (mut log, _) = Log::open(disk.clone(), LogConfig { background, ..config() }).unwrap();
        log.identify(identity()).unwrap();
        log.begin(snapshot(LogId::ZERO)).unwrap();
        disk.set_faults(Box::new(|operation| match operation {
            DiskOperation::SyncDir { .. } => {
                DiskVerdict::Fails { kind: std::io::ErrorKind::Other, done_bytes: 0 }
            }
            _ => DiskVerdict::Done,
        }));
        // The segments that are prepared already are used up first.
        let has_failed = (1..40).any(|index| {
            let next = entries(index, index, 1);
            let batch = BatchRef { hard_state: hard(1, None), log_start: None, entries: &[&next] };
            log.append(batch).is_err()
        });
        assert!(has_failed, "with a thread: {background}");
    }
}
