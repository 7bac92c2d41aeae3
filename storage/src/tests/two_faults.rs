//! The last synced batch is damaged, and the power fails within the next write. Any readable block
//! of the next batch proves how far the log went, so the node knows what it must be repaired to.

use super::crash::{Numbers, crashes, fail_from};
use super::*;
use crate::recovery::Case;
use crate::segment;
use crate::testing::{DiskOperation, DiskVerdict, SectorFate};
use std::io;

const BLOCK: u64 = 4096;

/// Damages a block of a segment.
fn rot(disk: &MemDisk, (generation, position): (u64, u64)) {
    disk.damage(&segment::path(generation), position * BLOCK + 200, &[0xee; 7]);
}

/// A segment that is being prepared has another name, and can be synced.
fn fail_syncs_of_segments(disk: &MemDisk) {
    disk.set_faults(Box::new(|operation| match operation {
        DiskOperation::Sync { path } if path.ends_with(".seg") => {
            DiskVerdict::Fails { kind: io::ErrorKind::Other, done_bytes: 0 }
        }
        _ => DiskVerdict::Done,
    }));
}

/// A write of two blocks that is not acknowledged: its sync fails.
fn begin_two_blocks(disk: &MemDisk, log: &mut Log<MemDisk>, hard_state: HardState, index: u64) {
    fail_syncs_of_segments(disk);
    let entries = [entry(index, hard_state.term.0, 5000)];
    let batch = BatchRef { hard_state, log_start: None, entries: &[&entries] };
    log.append(batch).expect_err("its sync fails");
    disk.clear_faults();
}

/// The positions of the blocks of batch `number`.
fn blocks_of(disk: &MemDisk, number: u64) -> Vec<(u64, u64)> {
    let mut found = Vec::new();
    for path in disk.paths() {
        let Some(generation) = path.strip_prefix("log/").and_then(segment::parse) else { continue };
        let content = disk.read(&path).unwrap();
        for (position, block) in (0..).zip(content.chunks_exact(BLOCK as usize)) {
            let is_ours = crate::block::u64_at(block, 8) == generation;
            if is_ours && crate::block::u64_at(block, 16) == number {
                found.push((generation, position));
            }
        }
    }
    found
}

/// Whether the core would count the node as repaired at once.
fn is_repaired(restored: &Restored) -> bool {
    let last = restored.entries.last().map_or(restored.snapshot.last, |entry| entry.id);
    restored.hard_state.lost.is_none_or(|lost| last >= lost)
}

/// Damages the batches `rotten` and one block of the two of `torn`, each in turn. Returns what a
/// start restores, which is the same for both, and what all further starts restore.
fn restore(disk: &MemDisk, rotten: &[u64], torn: u64) -> Restored {
    let mut outcomes = Vec::new();
    let torn = blocks_of(disk, torn);
    assert_eq!(torn.len(), 2);
    for torn in torn {
        let disk = disk.fork();
        let of_rotten = rotten.iter().flat_map(|number| blocks_of(&disk, *number));
        for place in of_rotten.collect::<Vec<_>>() {
            rot(&disk, place);
        }
        rot(&disk, torn);
        outcomes.push(restore_again_and_again(&disk, rotten[0]));
    }
    assert_eq!(outcomes[0].hard_state, outcomes[1].hard_state);
    assert_eq!(ids(&outcomes[0]), ids(&outcomes[1]));
    outcomes.remove(0)
}

fn restore_again_and_again(disk: &MemDisk, first_missing: u64) -> Restored {
    let (_, found) = reopen(disk);
    assert!(found.cases.contains(&Case::RottenEnd { batch: first_missing }), "{:?}", found.cases);
    let restored = found.restored.unwrap();
    for _ in 0..3 {
        disk.crash(|_| SectorFate::Lost);
        let (_, again) = reopen(disk);
        let again = again.restored.unwrap();
        assert_eq!(again.hard_state, restored.hard_state);
        assert_eq!(again.snapshot, restored.snapshot);
        assert_eq!(again.entries, restored.entries);
    }
    restored
}

/// Batch n + 1 holds entry n of term 1, in block n % 4 of segment 1 + n / 4.
fn of_single_entries(disk: &MemDisk, count: u64) -> Log<MemDisk> {
    let mut log = begun(disk);
    for index in 1..=count {
        write(&mut log, hard(1, Some(2)), &entries(index, index, 1));
    }
    log
}

#[test]
fn a_node_is_not_repaired_before_it_has_the_last_entry_that_it_acknowledged() {
    // In the last case each of the two batches is in a segment of its own.
    for count in [1, 4, 3] {
        let disk = MemDisk::new();
        let mut log = of_single_entries(&disk, count);
        begin_two_blocks(&disk, &mut log, hard(1, Some(2)), count + 1);
        let restored = restore(&disk, &[count + 1], count + 2);
        assert_eq!(restored.entries, entries(1, count - 1, 1));
        assert_eq!(restored.hard_state.lost, Some(LogId::new(count, 1)));
        assert!(!is_repaired(&restored));
    }
}

#[test]
fn the_two_last_batches_rot() {
    for count in [2, 4, 3] {
        let disk = MemDisk::new();
        let mut log = of_single_entries(&disk, count);
        begin_two_blocks(&disk, &mut log, hard(1, Some(2)), count + 1);
        let restored = restore(&disk, &[count, count + 1], count + 2);
        assert_eq!(restored.entries, entries(1, count - 2, 1));
        assert_eq!(restored.hard_state.lost, Some(LogId::new(count, 1)));
    }
}

#[test]
fn the_proof_is_a_part_of_a_block_at_the_end_of_a_file() {
    let disk = MemDisk::new();
    let mut log = of_single_entries(&disk, 3);
    fail_syncs_of_segments(&disk);
    // Five blocks, which extend a new segment of four. The last block is not full.
    let large = [entry(4, 1, 17_000)];
    let batch = BatchRef { hard_state: hard(1, Some(2)), log_start: None, entries: &[&large] };
    log.append(batch).expect_err("its sync fails");
    disk.clear_faults();
    let torn = blocks_of(&disk, 5);
    assert_eq!(torn.len(), 5);
    rot(&disk, blocks_of(&disk, 4)[0]);
    torn[..4].iter().for_each(|place| rot(&disk, *place));
    let path = segment::path(torn[4].0);
    let content = disk.read(&path).unwrap();
    disk.install(&path, &content[..content.len() - 1_000]);
    let restored = restore_again_and_again(&disk, 4);
    assert_eq!(restored.entries, entries(1, 2, 1));
    assert_eq!(restored.hard_state.lost, Some(LogId::new(3, 1)));
}

#[test]
fn a_vote_that_is_lost_is_not_given_again() {
    let disk = MemDisk::new();
    let mut log = of_single_entries(&disk, 2);
    write(&mut log, hard(7, Some(3)), &[]); // Batch 4.
    begin_two_blocks(&disk, &mut log, hard(8, None), 3);
    let restored = restore(&disk, &[4], 5);
    // No entry is lost, and in term 7 the node counts as having voted for itself.
    let lost = Some(LogId::new(2, 1));
    assert_eq!(restored.hard_state, HardState { lost, ..hard(7, Some(NODE.0)) });
    assert_eq!(restored.entries, entries(1, 2, 1));
}

/// A leader of term 3 has replaced the last two entries by three of term 1.
fn replaced(disk: &MemDisk) -> Log<MemDisk> {
    let mut log = of_single_entries(disk, 2);
    write(&mut log, hard(2, None), &entries(3, 4, 2)); // Batch 4.
    write(&mut log, hard(3, None), &entries(3, 5, 1)); // Batch 5.
    log
}

#[test]
fn entries_that_the_lost_batch_had_replaced_do_not_pass_for_a_repair() {
    let disk = MemDisk::new();
    let mut log = replaced(&disk);
    begin_two_blocks(&disk, &mut log, hard(3, None), 6);
    let restored = restore(&disk, &[5], 6);
    assert_eq!(restored.hard_state.lost, Some(LogId::new(5, 1)));
    assert_eq!(ids(&restored), ["1@1", "2@1"]);

    // The same, proven by the mark.
    let disk = MemDisk::new();
    replaced(&disk).close().unwrap();
    blocks_of(&disk, 5).into_iter().for_each(|place| rot(&disk, place));
    let restored = restore_again_and_again(&disk, 5);
    assert_eq!(restored.hard_state.lost, Some(LogId::new(5, 1)));
    assert_eq!(ids(&restored), ["1@1", "2@1"]);
}

#[test]
fn a_write_that_would_have_shortened_the_log_does_not_shorten_what_is_lost() {
    let disk = MemDisk::new();
    let mut log = of_single_entries(&disk, 4);
    begin_two_blocks(&disk, &mut log, hard(2, None), 2);
    let restored = restore(&disk, &[5], 6);
    assert_eq!(restored.hard_state.lost, Some(LogId::new(4, 1)));
    assert_eq!(restored.hard_state.term, Term(1));
    assert_eq!(restored.entries, entries(1, 3, 1));
}

#[test]
fn the_lost_batch_had_moved_the_base() {
    let disk = MemDisk::new();
    let mut log = of_single_entries(&disk, 4);
    let base = LogStart::Compact(snapshot(LogId::new(2, 1)));
    log_start(&mut log, hard(2, None), &base, &entries(5, 6, 2)); // Batch 6.
    begin_two_blocks(&disk, &mut log, hard(2, None), 7);
    let restored = restore(&disk, &[6], 7);
    assert_eq!(restored.hard_state.lost, Some(LogId::new(6, 2)));
    assert_eq!(restored.hard_state.term, Term(2));
    assert_eq!(restored.snapshot.last, LogId::ZERO);
    assert_eq!(restored.entries, entries(1, 4, 1));
}

/// The node gives up its copy: the log is empty, and records how far it went.
fn given_up(disk: &MemDisk) -> Log<MemDisk> {
    let mut log = of_single_entries(disk, 4);
    let hard_state = HardState { lost: Some(LogId::new(4, 1)), ..hard(1, Some(2)) };
    let anew = LogStart::Reset(snapshot(LogId::ZERO));
    log_start(&mut log, hard_state, &anew, &[]); // Batch 6.
    write(&mut log, hard_state, &entries(1, 2, 1)); // Batch 7.
    log
}

#[test]
fn an_earlier_loss_is_remembered() {
    let disk = MemDisk::new();
    let mut log = given_up(&disk);
    begin_two_blocks(&disk, &mut log, hard(1, Some(2)), 3);
    let restored = restore(&disk, &[7], 8);
    assert_eq!(restored.hard_state.lost, Some(LogId::new(4, 1)));
    assert_eq!(ids(&restored), [""; 0]);
    // The record of the earlier loss is lost too.
    let restored = restore(&disk, &[6, 7], 8);
    assert_eq!(restored.hard_state.lost, Some(LogId::new(4, 1)));

    let disk = MemDisk::new();
    given_up(&disk).close().unwrap();
    for number in [5, 6, 7] {
        blocks_of(&disk, number).into_iter().for_each(|place| rot(&disk, place));
    }
    let restored = restore_again_and_again(&disk, 5);
    assert_eq!(restored.hard_state.lost, Some(LogId::new(4, 1)));
    assert!(!is_repaired(&restored));
}

/// The process ends within a write, and the next start reads the batch from the system's cache and
/// repeats it. A repetition does not prove that the batch before it was synced.
#[test]
fn a_repetition_that_is_cut_off_proves_nothing_of_what_it_repeats() {
    for count in [0, 1, 2, 3] {
        let disk = MemDisk::new();
        let mut log = of_single_entries(&disk, count);
        begin_two_blocks(&disk, &mut log, hard(1, Some(2)), count + 1);
        drop(log);
        disk.kill();
        fail_syncs_of_segments(&disk);
        Log::open(disk.clone(), config()).expect_err("the repetition is not synced");
        disk.clear_faults();
        let repeated = blocks_of(&disk, count + 2);
        let repetition = blocks_of(&disk, count + 3);
        assert_eq!((repeated.len(), repetition.len()), (2, 2));
        for torn in repetition {
            let disk = disk.fork();
            repeated.iter().for_each(|place| rot(&disk, *place));
            rot(&disk, torn);
            let (_, found) = reopen(&disk);
            assert!(!found.cases.iter().any(Case::is_loss), "{:?}", found.cases);
            let restored = found.restored.unwrap();
            assert_eq!(restored.entries, entries(1, count, 1));
            assert_eq!(restored.hard_state.lost, None);
        }
    }
}

#[test]
fn the_very_first_batch_and_its_repetition_are_cut_off() {
    let disk = MemDisk::new();
    let (mut log, _) = open(&disk);
    log.identify(identity()).unwrap();
    fail_syncs_of_segments(&disk);
    log.begin(snapshot(LogId::ZERO)).unwrap_err();
    drop(log);
    disk.kill();
    Log::open(disk.clone(), config()).expect_err("the repetition is not synced");
    disk.clear_faults();
    rot(&disk, blocks_of(&disk, 1)[0]);
    let whole = disk.fork();
    // The repetition is intact, or cut off too.
    assert!(reopen(&whole).1.restored.is_some());
    rot(&disk, blocks_of(&disk, 2)[0]);
    let (mut log, found) = reopen(&disk);
    assert_eq!(found.cases, [Case::NotBegun]);
    log.begin(snapshot(LogId::ZERO)).unwrap();
}

/// After the damage, the power fails at every operation of the next start, and of the one after it.
#[test]
fn power_failures_within_the_start_after_the_damage_take_nothing_from_what_is_known() {
    let mut numbers = Numbers(7);
    let disk = MemDisk::new();
    let mut log = of_single_entries(&disk, 6);
    write(&mut log, hard(4, Some(3)), &entries(7, 8, 4)); // Batch 8.
    begin_two_blocks(&disk, &mut log, hard(4, Some(3)), 9);
    drop(log);
    blocks_of(&disk, 8).into_iter().for_each(|place| rot(&disk, place));
    rot(&disk, blocks_of(&disk, 9)[0]);
    disk.crash(|_| SectorFate::Kept);
    let expected = reopen(&disk.fork()).1.restored.unwrap();
    assert_eq!(expected.hard_state.lost, Some(LogId::new(8, 4)));
    let is_expected = |disk: &MemDisk| {
        let (_, found) = reopen(disk);
        let restored = found.restored.unwrap();
        assert_eq!(restored.hard_state, expected.hard_state, "{:?}", found.cases);
        assert_eq!(ids(&restored), ids(&expected), "{:?}", found.cases);
    };
    for fail_at in 0.. {
        let first = disk.fork();
        fail_from(&first, fail_at);
        let done = Log::open(first.clone(), config()).is_ok();
        first.clear_faults();
        for crashed in crashes(&first, &mut numbers) {
            let second = crashed.fork();
            is_expected(&crashed);
            fail_from(&second, numbers.below(12));
            drop(Log::open(second.clone(), config()));
            second.clear_faults();
            for crashed in crashes(&second, &mut numbers) {
                is_expected(&crashed);
            }
        }
        if done {
            break;
        }
    }
}
