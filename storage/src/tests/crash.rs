//! Power failures at every operation of the disk. Every prefix and many subsets of the unsynced
//! writes survive, some of them with changed bytes.
//!
//! After each failure everything acknowledged is there, exactly. In addition there may only be the
//! whole write that was in progress. A second start restores the same state. Later writes are not
//! mixed up with content that was dropped.

use super::model::{Model, Op};
use super::*;
use crate::recovery::Case;
use crate::testing::{DiskOperation, DiskVerdict, SectorFate, Unsynced};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

/// A sequence of numbers determined by its seed (splitmix64).
pub(super) struct Numbers(pub u64);

impl Numbers {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    pub fn below(&mut self, limit: u64) -> u64 {
        self.next() % limit
    }
}

/// From the operation with this number on, everything that changes the disk fails. Returns the
/// counter of operations.
pub(super) fn fail_from(disk: &MemDisk, number: u64) -> Arc<AtomicU64> {
    let count = Arc::new(AtomicU64::new(0));
    let counter = Arc::clone(&count);
    disk.set_faults(Box::new(move |operation| {
        if matches!(operation, DiskOperation::Read { .. }) {
            return DiskVerdict::Done;
        }
        let fails = counter.fetch_add(1, Ordering::Relaxed) >= number;
        // A write that is cut off is passed to the disk completely. The crash decides which of its
        // sectors survive.
        let done_bytes = if counter.load(Ordering::Relaxed) == number + 1 { usize::MAX } else { 0 };
        if fails {
            DiskVerdict::Fails { kind: std::io::ErrorKind::Other, done_bytes }
        } else {
            DiskVerdict::Done
        }
    }));
    count
}

/// All cases of which unsynced writes survive: all, none, each prefix, and some subsets.
pub(super) fn crashes(disk: &MemDisk, numbers: &mut Numbers) -> Vec<MemDisk> {
    let mut unsynced = 0;
    disk.fork().crash(|_| {
        unsynced += 1;
        SectorFate::Kept
    });
    let mut outcomes = Vec::new();
    let mut with = |fate: &mut dyn FnMut(u64) -> SectorFate| {
        let crashed = disk.fork();
        let mut at = 0;
        crashed.crash(|_: Unsynced<'_>| {
            at += 1;
            fate(at - 1)
        });
        outcomes.push(crashed);
    };
    for kept in 0..=unsynced {
        with(&mut |at| if at < kept { SectorFate::Kept } else { SectorFate::Lost });
    }
    for round in 0..if unsynced > 0 { 8 } else { 0 } {
        with(&mut |_| match numbers.below(if round % 2 == 0 { 2 } else { 8 }) {
            0 => SectorFate::Lost,
            1 if round >= 4 => {
                let (at, mask) = (numbers.next() as usize % 512, 1 << numbers.below(8));
                SectorFate::Flipped { at, mask }
            }
            _ => SectorFate::Kept,
        });
    }
    outcomes
}

fn story(numbers: &mut Numbers, steps: usize) -> Vec<Op> {
    let op = |_| match numbers.below(10) {
        0 => Op::Vote { vote: Some(2) },
        1 | 2 => Op::Compact { kept: numbers.below(4), count: numbers.below(3) },
        3 => Op::Reset { ahead: numbers.below(5), count: numbers.below(2) },
        4 | 5 => Op::Write { replaced: numbers.below(5), count: 1 + numbers.below(3), len: 2500 },
        6 => Op::Write { replaced: 0, count: 1, len: 20_000 },
        _ => Op::Write { replaced: 0, count: 1 + numbers.below(4), len: 900 },
    };
    (0..steps).map(op).collect()
}

/// Checks a disk that crashed during the write from `acknowledged` to `under_way`.
fn check(disk: &MemDisk, acknowledged: &Model, under_way: &Model, numbers: &mut Numbers) {
    let (_, found) = reopen(disk);
    assert!(!found.cases.iter().any(Case::is_loss), "nothing synced is lost: {:?}", found.cases);
    let restored = found.restored.expect("the log has begun");
    let mut model = match acknowledged.differs_from(&restored) {
        None => acknowledged.clone(),
        Some(difference) => {
            assert!(under_way.differs_from(&restored).is_none(), "{difference}");
            under_way.clone()
        }
    };
    // A second start, after a power failure at some operation of the first.
    let second = disk.fork();
    fail_from(&second, numbers.below(6));
    drop(Log::open(second.clone(), config()));
    second.clear_faults();
    for disk in [disk.clone(), second] {
        disk.crash(|_| if numbers.below(2) == 0 { SectorFate::Lost } else { SectorFate::Kept });
        let (mut log, found) = reopen(&disk);
        assert_eq!(model.differs_from(&found.restored.unwrap()), None, "{:?}", found.cases);
        assert!(!found.cases.iter().any(Case::is_loss), "{:?}", found.cases);
        // The next write is shorter than the content that may have been dropped.
        let before = model.clone();
        for op in [Op::Vote { vote: None }, Op::Write { replaced: 1, count: 1, len: 10 }] {
            let planned = model.plan(&op);
            planned.append_to(&mut log).unwrap();
            model.apply(&planned);
        }
        let (_, found) = reopen(&disk);
        assert_eq!(model.differs_from(&found.restored.unwrap()), None, "{:?}", found.cases);
        model = before;
    }
}

#[test]
fn a_power_failure_at_any_operation_loses_nothing_acknowledged_and_invents_nothing() {
    let mut failures = 0;
    for seed in 0..6 {
        let mut numbers = Numbers(seed);
        let ops = story(&mut numbers, 14);
        for steps in 0..ops.len() {
            for fail_at in 0.. {
                let disk = MemDisk::new();
                let (mut log, mut model) = (begun(&disk), Model::new());
                for op in &ops[..steps] {
                    let planned = model.plan(op);
                    planned.append_to(&mut log).unwrap();
                    model.apply(&planned);
                }
                let planned = model.plan(&ops[steps]);
                let mut under_way = model.clone();
                under_way.apply(&planned);
                fail_from(&disk, fail_at);
                let done = planned.append_to(&mut log).is_ok();
                disk.clear_faults();
                if done {
                    model = under_way.clone();
                } else {
                    let again = planned.append_to(&mut log);
                    assert!(again.is_err(), "a disk that failed is not trusted again");
                }
                for crashed in crashes(&disk, &mut numbers) {
                    check(&crashed, &model, &under_way, &mut numbers);
                    failures += 1;
                }
                if done {
                    break;
                }
            }
        }
    }
    assert!(failures > 3_000, "only {failures} failures were tried");
}

#[test]
fn a_power_failure_while_a_log_begins_leaves_one_that_has_begun_or_not() {
    let mut numbers = Numbers(99);
    for fail_at in 0.. {
        let disk = MemDisk::new();
        let (mut log, _) = open(&disk);
        log.identify(identity()).unwrap();
        fail_from(&disk, fail_at);
        let done = log.begin(snapshot(LogId::ZERO)).is_ok();
        disk.clear_faults();
        for crashed in crashes(&disk, &mut numbers) {
            let (mut log, found) = reopen(&crashed);
            assert_eq!(found.identity, Some(identity()));
            match found.restored {
                Some(restored) => assert_eq!(Model::new().differs_from(&restored), None),
                None => {
                    assert!(!done);
                    log.begin(snapshot(LogId::ZERO)).unwrap();
                    write(&mut log, hard(1, None), &entries(1, 2, 1));
                    let (_, found) = reopen(&crashed);
                    assert_eq!(ids(&found.restored.unwrap()), ["1@1", "2@1"]);
                }
            }
        }
        if done {
            break;
        }
    }
}

#[test]
fn a_batch_whose_sync_failed_and_was_forgotten_is_written_again_before_it_is_built_upon() {
    let disk = MemDisk::new();
    let mut log = begun(&disk);
    write(&mut log, hard(1, None), &entries(1, 1, 1));
    disk.set_faults(Box::new(|operation| match operation {
        DiskOperation::Sync { .. } => DiskVerdict::FailsAndForgets,
        _ => DiskVerdict::Done,
    }));
    let batch =
        BatchRef { hard_state: hard(1, None), log_start: None, entries: &[&entries(2, 2, 1)] };
    assert!(log.append(batch).is_err());
    disk.clear_faults();
    // The process restarts, reads the batch from the system's cache, and continues.
    let (mut log, found) = reopen(&disk);
    assert_eq!(ids(&found.restored.unwrap()), ["1@1", "2@1"]);
    write(&mut log, hard(1, None), &entries(3, 3, 1));
    // Only now does it show that the batch never reached the disk.
    disk.crash(|_| SectorFate::Lost);
    let (_, found) = reopen(&disk);
    assert_eq!(ids(&found.restored.unwrap()), ["1@1", "2@1", "3@1"]);
    assert!(found.cases.iter().any(|case| matches!(case, Case::Repeated { .. })));
}

#[test]
fn repetitions_whose_syncs_failed_are_no_loss_once_one_is_durable() {
    let disk = MemDisk::new();
    // One segment holds everything: this test is not about segments.
    let config = || LogConfig { segment_bytes: 64 * 4096, ..config() };
    let open = || Log::open(disk.clone(), config());
    let (mut log, _) = open().unwrap();
    log.identify(identity()).unwrap();
    log.begin(snapshot(LogId::ZERO)).unwrap();
    write(&mut log, hard(1, None), &entries(1, 1, 1));
    write(&mut log, hard(1, None), &entries(2, 2, 1));
    drop(log);
    disk.kill();
    // Two starts fail, because the disk fails.
    for _ in 0..2 {
        disk.set_faults(Box::new(|operation| match operation {
            DiskOperation::Sync { .. } => DiskVerdict::FailsAndForgets,
            _ => DiskVerdict::Done,
        }));
        assert!(open().is_err());
        disk.clear_faults();
        disk.kill();
    }
    let (mut log, _) = open().unwrap();
    write(&mut log, hard(1, None), &entries(3, 3, 1));
    disk.crash(|_| SectorFate::Lost);
    let (_, found) = open().unwrap();
    let restored = found.restored.unwrap();
    assert_eq!(ids(&restored), ["1@1", "2@1", "3@1"]);
    assert_eq!(restored.hard_state.lost, None, "nothing is missing");
}

/// The process ends while a write is only in the system's cache. At the next start the sync fails,
/// or the power does. Everything acknowledged before is still there, whatever that start has
/// removed.
#[test]
fn a_start_frees_nothing_on_the_word_of_a_batch_that_may_yet_be_lost() {
    let config = || LogConfig { segment_bytes: 4096, ..config() };
    let at = |disk: &MemDisk| Log::open(disk.clone(), config());
    // A segment holds one block, so every write begins a new segment.
    for (count, compacts, good_syncs) in
        [(0, false, 0), (0, false, 1), (1, false, 0), (1, false, 1), (1, true, 0), (1, true, 1)]
    {
        let case = format!("entries: {count}, compacts: {compacts}, good syncs: {good_syncs}");
        let disk = MemDisk::new();
        let (mut log, _) = at(&disk).unwrap();
        log.identify(identity()).unwrap();
        log.begin(snapshot(LogId::ZERO)).unwrap();
        if count > 0 {
            write(&mut log, hard(1, None), &entries(1, count, 1));
        }
        let before = at(&disk.fork()).unwrap().1.restored.unwrap();

        // The next write is not synced: all of it is in the cache when the process ends. (The sync
        // before it is of the new segment.)
        fail_syncs_after(&disk, 1);
        let base = LogStart::Compact(snapshot(LogId::new(1, 1)));
        let log_start = compacts.then_some(&base);
        let change = BatchRef { hard_state: hard(2, None), log_start, entries: &[] };
        log.append(change).expect_err("its sync fails");
        drop(log);

        // Some starts repeat it, and the sync of the repetition fails too.
        for _ in 0..3 {
            disk.kill();
            fail_syncs_after(&disk, good_syncs);
            assert!(at(&disk).is_err(), "{case}");
        }
        disk.clear_faults();
        disk.crash(|_| SectorFate::Lost);
        let (_, found) = at(&disk).unwrap_or_else(|error| panic!("{case}: {error}"));
        let found = found.restored.unwrap();
        assert_eq!(found.hard_state, before.hard_state, "{case}");
        assert_eq!(found.snapshot, before.snapshot, "{case}");
        assert_eq!(ids(&found), ids(&before), "{case}");
    }
}

/// After `good` syncs of files, every sync fails, and the unsynced content counts as clean.
fn fail_syncs_after(disk: &MemDisk, good: u32) {
    let mut syncs = 0;
    disk.set_faults(Box::new(move |operation| match operation {
        DiskOperation::Sync { .. } => {
            syncs += 1;
            if syncs > good { DiskVerdict::FailsAndForgets } else { DiskVerdict::Done }
        }
        _ => DiskVerdict::Done,
    }));
}
