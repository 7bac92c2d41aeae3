//! Want of room, spare segments, and interruptions at the awkward moments between: whatever
//! happens, a start finds what was acknowledged. At the end, random sequences of all of it.

use super::*;
use crate::Usage;
use crate::log::AppendError;
use crate::recovery::Case;
use crate::segment;
use crate::testing::{DiskOperation, DiskVerdict, SectorFate};
use std::io;

const BLOCK: u64 = 4096;

fn bounded(bytes_max: u64) -> LogConfig {
    LogConfig { bytes_max, ..config() }
}

fn begun_with(disk: &MemDisk, config: LogConfig) -> Log<MemDisk> {
    let (mut log, _) = Log::open(disk.clone(), config).unwrap();
    log.identify(identity()).unwrap();
    log.begin(snapshot(LogId::ZERO)).unwrap();
    log
}

fn vote<D: Disk>(log: &mut Log<D>, term: u64) -> Result<(), AppendError> {
    log.append(BatchRef { hard_state: hard(term, Some(2)), log_start: None, entries: &[] })
}

/// Segment 1 is full, its last batch moves the base to the end of the log.
fn one_full_segment(disk: &MemDisk, config: LogConfig) -> Log<MemDisk> {
    let mut log = begun_with(disk, config);
    for index in 1..=2 {
        write(&mut log, hard(1, Some(2)), &entries(index, index, 1));
    }
    let compact = LogStart::Compact(snapshot(LogId::new(2, 1)));
    log_start(&mut log, hard(1, Some(2)), &compact, &[]);
    log
}

fn fail_syncs_of(disk: &MemDisk, path: &str) {
    let path = path.to_owned();
    disk.set_faults(Box::new(move |operation| match operation {
        DiskOperation::Sync { path: synced } if synced == path => {
            DiskVerdict::Fails { kind: io::ErrorKind::Other, done_bytes: 0 }
        }
        DiskOperation::Write { path: written, .. } if written == path => {
            DiskVerdict::Fails { kind: io::ErrorKind::Other, done_bytes: 0 }
        }
        _ => DiskVerdict::Done,
    }));
}

fn state(found: &Recovery) -> String {
    format!("{:?} {:?}", found.restored, found.cases)
}

#[test]
fn a_process_killed_at_the_first_batch_of_a_segment_at_the_bound_loses_nothing() {
    let disk = MemDisk::new();
    let small = || bounded(8 * BLOCK);
    let mut log = one_full_segment(&disk, small());
    fail_syncs_of(&disk, &segment::path(2));
    assert!(matches!(vote(&mut log, 2), Err(AppendError::Failed(_))));
    disk.clear_faults();
    drop(log);
    disk.kill();
    let (_, found) = Log::open(disk.clone(), small()).unwrap_or_else(|error| panic!("{error}"));
    assert_eq!(found.restored.as_ref().unwrap().hard_state.term, Term(1), "{}", state(&found));
}

#[test]
fn a_power_failure_at_the_first_batch_of_a_segment_at_the_bound_loses_nothing() {
    let disk = MemDisk::new();
    let small = || bounded(8 * BLOCK);
    let mut log = one_full_segment(&disk, small());
    fail_syncs_of(&disk, &segment::path(2));
    let _ = vote(&mut log, 2);
    disk.clear_faults();
    drop(log);
    disk.crash(|_| SectorFate::Kept);
    let (_, found) = Log::open(disk.clone(), small()).unwrap_or_else(|error| panic!("{error}"));
    assert_eq!(found.restored.as_ref().unwrap().hard_state.term, Term(1), "{}", state(&found));
}

#[test]
fn a_process_killed_at_the_first_batch_of_a_segment_on_a_full_disk_loses_nothing() {
    let disk = MemDisk::new();
    let mut log = one_full_segment(&disk, config());
    // Room for segment 2 and no more.
    disk.set_capacity(Some(disk.used_bytes() + 4 * BLOCK + 100));
    fail_syncs_of(&disk, &segment::path(2));
    assert!(matches!(vote(&mut log, 2), Err(AppendError::Failed(_))));
    disk.clear_faults();
    drop(log);
    disk.kill();
    let (_, found) = Log::open(disk.clone(), config()).unwrap_or_else(|error| panic!("{error}"));
    assert_eq!(found.restored.as_ref().unwrap().hard_state.term, Term(1), "{}", state(&found));
}

/// No crash and no error of the disk but want of room: an oversized write, refused, then an
/// orderly stop.
#[test]
fn a_large_write_refused_on_a_full_disk_and_a_stop_lose_nothing() {
    let disk = MemDisk::new();
    let mut log = one_full_segment(&disk, config());
    disk.set_capacity(Some(disk.used_bytes() + 4 * BLOCK + 100));
    let large = [entry(3, 1, 80_000)];
    let batch = BatchRef { hard_state: hard(1, Some(2)), log_start: None, entries: &[&large] };
    assert!(matches!(log.append(batch), Err(AppendError::Full(_))));
    log.close().unwrap();
    disk.kill();
    disk.set_capacity(None);
    let (_, found) = Log::open(disk.clone(), config()).unwrap_or_else(|error| panic!("{error}"));
    assert_eq!(found.restored.as_ref().unwrap().hard_state.term, Term(1), "{}", state(&found));
}

/// The same within the repetition of a start.
#[test]
fn a_start_killed_while_it_repeats_into_a_new_segment_loses_nothing() {
    let disk = MemDisk::new();
    let small = || bounded(8 * BLOCK);
    drop(one_full_segment(&disk, small()));
    disk.kill();
    fail_syncs_of(&disk, &segment::path(2));
    assert!(Log::open(disk.clone(), small()).is_err());
    disk.clear_faults();
    disk.kill();
    let (_, found) = Log::open(disk.clone(), small()).unwrap_or_else(|error| panic!("{error}"));
    assert_eq!(found.restored.as_ref().unwrap().hard_state.term, Term(1), "{}", state(&found));
}

/// Two full segments, of which the first is not needed, and a disk on which `limit` lets no file be
/// created any more. The log writes on in its own segments.
fn assert_goes_round(limit: impl Fn(&MemDisk)) {
    let disk = MemDisk::new();
    let mut log = one_full_segment(&disk, config());
    write(&mut log, hard(1, Some(2)), &entries(3, 3, 1));
    let compact = LogStart::Compact(snapshot(LogId::new(3, 1)));
    log_start(&mut log, hard(1, Some(2)), &compact, &[]);
    limit(&disk);
    // Two blocks are left in segment 2, and four in the first one, once it is used again. The
    // segment that was ordered before is refused first.
    for term in 3..=8 {
        let is_written = vote(&mut log, term).is_ok() || vote(&mut log, term).is_ok();
        assert!(is_written, "term {term}: {:?}", disk.paths());
    }
}

fn fail_creation(disk: &MemDisk, kind: io::ErrorKind) {
    disk.set_faults(Box::new(move |operation| match operation {
        DiskOperation::Create { .. } => DiskVerdict::Fails { kind, done_bytes: 0 },
        _ => DiskVerdict::Done,
    }));
}

#[test]
fn a_log_without_inodes_goes_round() {
    assert_goes_round(|disk| disk.set_files_max(Some(disk.paths().len())));
}

#[test]
fn a_log_without_quota_goes_round() {
    assert_goes_round(|disk| fail_creation(disk, io::ErrorKind::QuotaExceeded));
}

#[test]
fn a_log_on_a_full_disk_goes_round_though_others_take_what_is_freed() {
    assert_goes_round(|disk| {
        disk.set_capacity(Some(disk.used_bytes()));
        fail_creation(disk, io::ErrorKind::StorageFull);
    });
}

/// The start has to repeat the latest batch, and its segment has no room for it.
#[test]
fn a_start_on_a_full_disk_uses_the_prepared_segment() {
    let disk = MemDisk::new();
    let mut log = begun(&disk);
    for index in 1..=3 {
        write(&mut log, hard(1, Some(2)), &entries(index, index, 1));
    }
    drop(log);
    // The segment that the background thread had prepared.
    disk.install(&segment::path(2), &[0; 4 * BLOCK as usize]);
    disk.set_capacity(Some(disk.used_bytes()));
    disk.kill();
    disk.set_faults(Box::new(|operation| match operation {
        DiskOperation::Create { path: "log/next.tmp" } => {
            DiskVerdict::Fails { kind: io::ErrorKind::StorageFull, done_bytes: 0 }
        }
        _ => DiskVerdict::Done,
    }));
    let found = Log::open(disk.clone(), config()).map(|(_, found)| found.cases);
    assert!(found.is_ok(), "{} {:?}", found.unwrap_err(), disk.paths());
}

#[test]
fn a_bad_sector_in_a_spare_segment_refuses_no_start() {
    let disk = MemDisk::new();
    let mut log = begun(&disk);
    for index in 1..=9 {
        write(&mut log, hard(1, Some(2)), &entries(index, index, 1));
    }
    let compact = LogStart::Compact(snapshot(LogId::new(9, 1)));
    log_start(&mut log, hard(1, Some(2)), &compact, &[]);
    // Block 1 of the oldest segment, wherever it is called by now, is unreadable until written.
    let oldest: String = disk.paths().into_iter().find(|path| path.starts_with("log/")).unwrap();
    let oldest = std::sync::Mutex::new((oldest, true));
    disk.set_faults(Box::new(move |operation| {
        let mut oldest = oldest.lock().unwrap();
        match operation {
            DiskOperation::Rename { from, to } if from == oldest.0 => oldest.0 = to.to_owned(),
            DiskOperation::Remove { path } if path == oldest.0 => oldest.1 = false,
            DiskOperation::Write { path, offset, len }
                if path == oldest.0 && offset <= BLOCK && offset + len as u64 >= 2 * BLOCK =>
            {
                oldest.1 = false;
            }
            DiskOperation::Read { path, offset, len }
                if oldest.1
                    && path == oldest.0
                    && offset < 2 * BLOCK
                    && offset + len as u64 > BLOCK =>
            {
                return DiskVerdict::Fails { kind: io::ErrorKind::Other, done_bytes: 0 };
            }
            _ => {}
        }
        DiskVerdict::Done
    }));
    drop(log);
    // A restart does not read that segment.
    let mut log = reopen(&disk).0;
    // At one of these starts, the segment that was reused is the current one with one batch.
    for index in 10..40 {
        write(&mut log, hard(1, Some(2)), &entries(index, index, 1));
        drop(log);
        disk.kill();
        let opened = Log::open(disk.clone(), config());
        log = opened.unwrap_or_else(|error| panic!("{error}; {:?}", disk.paths())).0;
    }
    assert_eq!(reopen(&disk).1.restored.unwrap().entries, entries(10, 39, 1));
}

#[test]
fn a_log_at_its_bound_stores_votes_whatever_segments_are_spare() {
    for large in [0, 25_000] {
        let disk = MemDisk::new();
        let mut log = begun_with(&disk, bounded(15 * BLOCK));
        let first = [entry(1, 1, large)];
        write(&mut log, hard(1, Some(2)), &first);
        // Fill the segment, then compact in the next one.
        let mut index = 2;
        let compact = LogStart::Compact(snapshot(LogId::new(1, 1)));
        let mut written = 0;
        loop {
            let next = entries(index, index, 1);
            let start = (written == 4).then_some(&compact);
            let batch =
                BatchRef { hard_state: hard(1, Some(2)), log_start: start, entries: &[&next] };
            match log.append(batch) {
                Ok(()) => (index, written) = (index + 1, written + 1),
                Err(AppendError::Full(_)) => break,
                Err(AppendError::Failed(error)) => panic!("{error}"),
            }
        }
        let mut votes = 0;
        while votes < 40 && vote(&mut log, 2 + votes).is_ok() {
            votes += 1;
        }
        assert_eq!(votes, 40, "large {large}: {:?}", disk.paths());
    }
}

/// A start repeats a batch that moves the base and was never synced. It needs a new segment, the
/// log is at its bound, and the repetition is not synced either.
#[test]
fn a_start_at_the_bound_frees_nothing_before_its_repetition_is_durable() {
    let config = || LogConfig { segment_bytes: BLOCK, bytes_max: 3 * BLOCK, ..config() };
    let disk = MemDisk::new();
    let mut log = begun_with(&disk, config());
    let first = [Entry { payload: Payload::NoOp, ..entry(1, 1, 0) }];
    write(&mut log, hard(1, Some(2)), &first);
    let fails = |disk: &MemDisk| {
        disk.set_faults(Box::new(|operation| match operation {
            DiskOperation::Sync { path } if path.ends_with(".seg") => DiskVerdict::FailsAndForgets,
            _ => DiskVerdict::Done,
        }));
    };
    fails(&disk);
    let compact = LogStart::Compact(snapshot(LogId::new(1, 1)));
    let batch = BatchRef { hard_state: hard(1, Some(2)), log_start: Some(&compact), entries: &[] };
    assert!(matches!(log.append(batch), Err(AppendError::Failed(_))));
    drop(log);
    disk.kill();
    fails(&disk);
    assert!(Log::open(disk.clone(), config()).is_err(), "the repetition is not synced");
    disk.clear_faults();
    disk.crash(|what| match what {
        crate::testing::Unsynced::Name { .. } => SectorFate::Kept,
        crate::testing::Unsynced::Sector { .. } => SectorFate::Lost,
    });
    let wide = LogConfig { bytes_max: 1 << 20, ..config() };
    let (_, found) = Log::open(disk.clone(), wide).unwrap_or_else(|error| panic!("{error}"));
    assert_eq!(ids(found.restored.as_ref().unwrap()), ["1@1"], "{}", state(&found));
}

/// Writes entries of this length, from this index on, until the log has no room. Returns the index
/// of the first that found none.
fn fill(log: &mut Log<MemDisk>, from: u64, len: usize) -> u64 {
    for index in from.. {
        let next = [entry(index, 1, len)];
        let batch = BatchRef { hard_state: hard(1, Some(2)), log_start: None, entries: &[&next] };
        match log.append(batch) {
            Ok(()) => {}
            Err(AppendError::Full(_)) => return index,
            Err(AppendError::Failed(error)) => panic!("{error}"),
        }
    }
    unreachable!("there is a bound")
}

/// A start repeats the last batch, which may be longer than what the bound has left.
#[test]
fn a_log_at_its_bound_starts_and_frees_room_once_a_snapshot_is_taken() {
    for blocks in 1..=9 {
        for segments in 2..=5 {
            let config = || bounded(segments * 4 * BLOCK);
            let disk = MemDisk::new();
            let mut log = begun_with(&disk, config());
            let len = (blocks * BLOCK) as usize - 600;
            let mut index = 1;
            for _ in 0..4 {
                index = fill(&mut log, index, len);
                drop(log);
                disk.kill();
                log = Log::open(disk.clone(), config())
                    .unwrap_or_else(|error| panic!("{blocks} blocks: {error}"))
                    .0;
                vote(&mut log, 1).unwrap();
                let snapshot = snapshot(LogId::new(index - 1, 1));
                log_start(&mut log, hard(1, Some(2)), &LogStart::Compact(snapshot), &[]);
                let Usage { bytes, bytes_max } = log.usage();
                assert!(bytes <= bytes_max + (4 + blocks) * BLOCK, "{bytes} of {bytes_max}");
            }
        }
    }
}

use super::crash::{Numbers, fail_from};
use super::model::{Model, Op};

fn story_op(numbers: &mut Numbers, large: bool) -> Op {
    match numbers.below(12) {
        0 | 1 => Op::Vote { vote: Some(2) },
        2 | 3 => Op::Compact { kept: numbers.below(4), count: numbers.below(3) },
        4 => Op::Reset { ahead: numbers.below(5), count: numbers.below(2) },
        5 => Op::Write { replaced: numbers.below(5), count: 1 + numbers.below(3), len: 500 },
        6 if large => Op::Write { replaced: 0, count: 1, len: 20_000 },
        _ => Op::Write { replaced: 0, count: 1 + numbers.below(3), len: 900 },
    }
}

fn random_config(numbers: &mut Numbers, blocks: u64) -> LogConfig {
    let segment = blocks * BLOCK;
    let bytes_max = if numbers.below(3) == 0 { 1 << 30 } else { (2 + numbers.below(5)) * segment };
    LogConfig {
        segment_bytes: segment,
        bytes_max,
        recycled_bytes_max: numbers.below(6) * segment,
        background: false,
    }
}

fn on_disk(disk: &MemDisk) -> u64 {
    let files = disk.paths().into_iter().filter(|path| path.starts_with("log/"));
    files.map(|path| disk.read(&path).unwrap().len() as u64).sum()
}

fn fuzz_once(seed: u64) {
    let mut numbers = Numbers(seed);
    let large = numbers.below(4) == 0;
    let changes_size = numbers.below(4) == 0;
    let mut blocks = [1, 2, 4][numbers.below(3) as usize];
    let mut config = random_config(&mut numbers, blocks);
    let disk = MemDisk::new();
    let mut log = begun_with(&disk, config.clone());
    let mut model = Model::new();
    let mut trace = Vec::new();
    for step in 0..80 {
        match numbers.below(12) {
            0 => disk.set_capacity(Some(disk.used_bytes() + numbers.below(30) * BLOCK)),
            1 => disk.set_capacity(None),
            2 => disk.set_files_max(Some(disk.paths().len() + numbers.below(2) as usize)),
            3 => disk.set_files_max(None),
            _ => {}
        }
        let op = story_op(&mut numbers, large);
        trace.push(format!("{op:?}"));
        let planned = model.plan(&op);
        let mut under_way = model.clone();
        under_way.apply(&planned);
        let ends = numbers.below(4) == 0;
        let fault_at = numbers.below(9);
        if ends && numbers.below(3) > 0 {
            fail_from(&disk, fault_at);
        }
        let result = planned.append_to(&mut log);
        disk.clear_faults();
        match &result {
            Ok(()) => model = under_way.clone(),
            Err(error) => trace.push(format!("{error:?}")),
        }
        if !changes_size && !large {
            let usage = log.usage();
            assert!(on_disk(&disk) <= usage.bytes || ends, "seed {seed}, step {step}: {usage:?}");
        }
        let failed = matches!(result, Err(AppendError::Failed(_)));
        assert!(!failed || ends, "seed {seed}, step {step}: {result:?}\n{trace:#?}");
        if !ends && !failed {
            continue;
        }
        drop(log);
        if numbers.below(2) == 0 {
            trace.push("kill".into());
            disk.kill();
        } else {
            trace.push("crash".into());
            let names = numbers.below(4);
            disk.crash(|what| match what {
                crate::testing::Unsynced::Name { .. } if names == 0 => SectorFate::Kept,
                _ if numbers.below(3) == 0 => SectorFate::Lost,
                _ => SectorFate::Kept,
            });
        }
        if changes_size && numbers.below(3) == 0 {
            blocks = [1, 2, 4][numbers.below(3) as usize];
        }
        if numbers.below(3) == 0 || config.segment_bytes != blocks * BLOCK {
            config = random_config(&mut numbers, blocks);
        }
        let mut opened = Log::open(disk.clone(), config.clone());
        for _ in 0..numbers.below(3) {
            // Some starts fail half way.
            drop(opened);
            disk.kill();
            fail_from(&disk, numbers.below(6));
            drop(Log::open(disk.clone(), config.clone()));
            disk.clear_faults();
            if numbers.below(2) == 0 {
                disk.crash(
                    |_| if numbers.below(2) == 0 { SectorFate::Lost } else { SectorFate::Kept },
                );
            } else {
                disk.kill();
            }
            opened = Log::open(disk.clone(), config.clone());
        }
        if opened.is_err() {
            disk.set_capacity(None);
            disk.set_files_max(None);
            config.bytes_max = 1 << 30;
            disk.kill();
            opened = Log::open(disk.clone(), config.clone());
        }
        let (again, found) = opened.unwrap_or_else(|error| {
            panic!("seed {seed}, step {step}: {error} {:?}\n{trace:#?}", disk.paths())
        });
        log = again;
        assert!(
            !found.cases.iter().any(Case::is_loss),
            "seed {seed}, step {step}: {:?}\n{trace:#?}",
            found.cases
        );
        let restored = found.restored.expect("it has begun");
        trace.push(format!("start: {:?}", disk.paths()));
        if let Some(difference) = model.differs_from(&restored) {
            assert!(
                under_way.differs_from(&restored).is_none(),
                "seed {seed}, step {step}: {difference}\n{trace:#?}"
            );
            model = under_way;
        }
    }
}

#[test]
fn random_sequences_lose_nothing() {
    for seed in 0..400 {
        let run = std::panic::catch_unwind(|| fuzz_once(seed));
        assert!(run.is_ok(), "seed {seed}");
    }
}
