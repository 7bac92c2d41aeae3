//! One test for each line of the decision table, on directories made for it.

use super::*;
use crate::block;
use crate::log::spare_bytes_max;
use crate::recovery::Case;
use crate::segment;
use crate::testing::{DiskOperation, DiskVerdict, SectorFate};
use crate::{ClusterId, IdentityError, OpenError};

const BLOCK: u64 = 4096;

/// The path of the segment with this generation.
fn path(generation: u64) -> String {
    segment::path(generation)
}

/// Damages the block at `position` of a segment.
fn rot(disk: &MemDisk, generation: u64, position: u64) {
    disk.damage(&path(generation), position * BLOCK + 100, &[0xee; 7]);
}

fn refusal(disk: &MemDisk) -> OpenError {
    disk.kill();
    Log::open(disk.clone(), config()).expect_err("it is refused")
}

/// Batch 1 begins the log; batch n + 1 holds entry n of term 1. Each takes one block, so batch b is
/// in block (b - 1) % 4 of segment 1 + (b - 1) / 4.
fn of_single_entries(disk: &MemDisk, count: u64) -> Log<MemDisk> {
    let mut log = begun(disk);
    for index in 1..=count {
        write(&mut log, hard(1, Some(2)), &entries(index, index, 1));
    }
    log
}

/// After a loss, repeated starts restore the same state, with a power failure before each.
fn assert_settled(disk: &MemDisk, expected: &Restored) {
    for _ in 0..3 {
        disk.crash(|_| SectorFate::Lost);
        let (_, found) = reopen(disk);
        let restored = found.restored.unwrap();
        assert_eq!(restored.hard_state, expected.hard_state);
        assert_eq!(restored.snapshot, expected.snapshot);
        assert_eq!(restored.entries, expected.entries);
        assert_eq!(found.cases, [Case::Clean]);
    }
}

/// The findings of a start, without the files to which they point.
fn losses(cases: &[Case]) -> Vec<Case> {
    let is_other = |case: &&Case| !matches!(case, Case::LossFiles { .. });
    cases.iter().filter(is_other).cloned().collect()
}

#[test]
fn an_empty_directory_restores_nothing() {
    let (_, found) = open(&MemDisk::new());
    assert!(found.identity.is_none() && found.restored.is_none());
    assert_eq!(found.cases, [Case::Empty]);
}

#[test]
fn an_identity_without_a_log_is_a_log_not_begun() {
    let disk = MemDisk::new();
    open(&disk).0.identify(identity()).unwrap();
    let (_, found) = reopen(&disk);
    assert_eq!(found.identity, Some(identity()));
    assert!(found.restored.is_none());
    assert_eq!(found.cases, [Case::NotBegun]);
}

#[test]
fn the_remains_of_the_very_first_batch_are_a_log_not_begun() {
    let disk = MemDisk::new();
    let (mut log, _) = open(&disk);
    log.identify(identity()).unwrap();
    fail_syncs_of(&disk, &path(1));
    log.begin(snapshot(LogId::ZERO)).unwrap_err();
    disk.clear_faults();
    rot(&disk, 1, 0);
    let (mut log, found) = reopen(&disk);
    assert!(found.restored.is_none());
    assert_eq!(found.cases, [Case::NotBegun]);
    log.begin(snapshot(LogId::ZERO)).unwrap();
    assert!(reopen(&disk).1.restored.is_some());
}

fn fail_syncs_of(disk: &MemDisk, path: &str) {
    let path = path.to_owned();
    disk.set_faults(Box::new(move |operation| match operation {
        DiskOperation::Sync { path: synced } if synced == path => {
            DiskVerdict::Fails { kind: std::io::ErrorKind::Other, done_bytes: 0 }
        }
        _ => DiskVerdict::Done,
    }));
}

#[test]
fn a_log_without_an_identity_is_refused() {
    let disk = MemDisk::new();
    of_single_entries(&disk, 2);
    disk.lose("IDENTITY");
    assert!(matches!(refusal(&disk), OpenError::IdentityMissing));
    // Only the mark proves that there was a log.
    disk.lose(&path(1));
    assert!(matches!(refusal(&disk), OpenError::IdentityMissing));
}

#[test]
fn a_damaged_identity_is_refused() {
    let disk = MemDisk::new();
    of_single_entries(&disk, 2);
    disk.damage("IDENTITY", 15, &[0xee]);
    let error = refusal(&disk);
    assert!(matches!(error, OpenError::Identity(IdentityError::Damaged)), "{error}");
}

#[test]
fn an_identity_of_a_later_version_is_refused() {
    let disk = MemDisk::new();
    of_single_entries(&disk, 2);
    let mut content = disk.read("IDENTITY").unwrap();
    content[8] = 9;
    let checksum = crc32c::crc32c_append(9, &content[13..]);
    content[9..13].copy_from_slice(&checksum.to_le_bytes());
    disk.install("IDENTITY", &content);
    let error = refusal(&disk);
    assert!(
        matches!(error, OpenError::Identity(IdentityError::OtherVersion { version: 9 })),
        "{error}"
    );
}

#[test]
fn a_log_that_is_gone_is_refused() {
    let disk = MemDisk::new();
    of_single_entries(&disk, 2);
    disk.lose(&path(1));
    let error = refusal(&disk);
    assert!(matches!(error, OpenError::LogGone), "{error}");
    // The same if the file exists and nothing in it can be read.
    let disk = MemDisk::new();
    of_single_entries(&disk, 2);
    (0..4).for_each(|position| rot(&disk, 1, position));
    assert!(matches!(refusal(&disk), OpenError::LogGone));
}

#[test]
fn a_block_of_another_version_is_refused() {
    for version in [block::VERSION - 2, block::VERSION - 1, block::VERSION + 1] {
        let disk = MemDisk::new();
        of_single_entries(&disk, 2);
        let mut content = disk.read(&path(1)).unwrap();
        let block = &mut content[2 * BLOCK as usize..3 * BLOCK as usize];
        block[7] = version;
        let seed = crc32c::crc32c(&identity().incarnation.0.to_le_bytes());
        let checksum = crc32c::crc32c_append(seed, &block[4..]);
        block[..4].copy_from_slice(&checksum.to_le_bytes());
        disk.install(&path(1), &content);
        let error = refusal(&disk);
        assert!(matches!(&error, OpenError::OtherVersion { version: v, .. } if *v == version));
        assert!(error.to_string().contains("run the version that wrote it"), "{error}");
        refused_for_its_checksum(&disk);
    }
}

fn refused_for_its_checksum(disk: &MemDisk) {
    // A version without a correct checksum is damage.
    rot(disk, 1, 2);
    disk.kill();
    assert!(Log::open(disk.clone(), config()).is_ok());
}

#[test]
fn a_whole_log_is_clean() {
    let disk = MemDisk::new();
    of_single_entries(&disk, 9);
    let (_, found) = reopen(&disk);
    assert_eq!(found.restored.unwrap().entries, entries(1, 9, 1));
    assert_eq!(found.cases, [Case::Clean]);
}

#[test]
fn blocks_left_over_in_a_recycled_segment_say_who_they_are() {
    let disk = MemDisk::new();
    let mut log = of_single_entries(&disk, 9);
    let compact = LogStart::Compact(snapshot(LogId::new(9, 1)));
    log_start(&mut log, hard(1, Some(2)), &compact, &[]);
    for index in 10..=15 {
        write(&mut log, hard(1, Some(2)), &entries(index, index, 1));
    }
    // Segment 1 was recycled as segment 5: one new batch, then three batches of its earlier use.
    assert!(disk.read(&path(1)).is_none());
    assert!(disk.read(&path(5)).unwrap()[BLOCK as usize..].iter().any(|byte| *byte != 0));
    let (_, found) = reopen(&disk);
    let restored = found.restored.unwrap();
    assert_eq!(restored.snapshot.last, LogId::new(9, 1));
    assert_eq!(restored.entries, entries(10, 15, 1));
    assert_eq!(found.cases, [Case::Clean]);
}

/// The spare segments on a disk.
fn spares(disk: &MemDisk) -> Vec<String> {
    disk.paths().into_iter().filter(|path| path.ends_with(".spare")).collect()
}

#[test]
fn a_start_keeps_spare_segments_and_does_not_read_them() {
    let disk = MemDisk::new();
    let mut log = of_single_entries(&disk, 9);
    let compact = LogStart::Compact(snapshot(LogId::new(9, 1)));
    log_start(&mut log, hard(1, Some(2)), &compact, &[]);
    // The latest segment that is not needed, the second, stays as it is.
    assert_eq!(spares(&disk), [segment::spare_path(1)]);
    disk.set_faults(Box::new(|operation| match operation {
        DiskOperation::Read { path, .. } if path.ends_with(".spare") => {
            panic!("{path} is not needed")
        }
        _ => DiskVerdict::Done,
    }));
    let (mut log, found) = reopen(&disk);
    disk.clear_faults();
    assert_eq!(found.cases, [Case::Clean]);
    assert_eq!(spares(&disk), [segment::spare_path(1)]);
    // A new segment never has the generation of one whose blocks it may hold.
    disk.install(&segment::spare_path(40), &[0; 4 * BLOCK as usize]);
    disk.lose(&segment::spare_path(1));
    drop(log);
    log = reopen(&disk).0;
    for index in 10..=19 {
        write(&mut log, hard(1, Some(2)), &entries(index, index, 1));
    }
    assert!(disk.read(&path(41)).is_some());
    assert_eq!(spares(&disk), [] as [String; 0]);
    assert_eq!(reopen(&disk).1.restored.unwrap().entries, entries(10, 19, 1));
}

#[test]
fn spare_segments_leave_room_for_others() {
    let gib = |count: u64| count << 30;
    for (free, most) in [(0, 256 << 20), (gib(1), 256 << 20), (gib(4), gib(1)), (gib(8), gib(2))] {
        assert_eq!(spare_bytes_max(Some(free)), most, "{free} bytes are free");
    }
    assert_eq!(spare_bytes_max(None), u64::MAX);
}

#[test]
fn a_spare_segment_is_not_taken_for_one_that_an_earlier_version_has_made_since() {
    let disk = MemDisk::new();
    let log = of_single_entries(&disk, 5);
    drop(log);
    disk.install(&segment::spare_path(2), &[0; 4 * BLOCK as usize]);
    let (mut log, found) = reopen(&disk);
    assert_eq!(found.cases, [Case::Clean]);
    assert_eq!(spares(&disk), [] as [String; 0]);
    for index in 6..=15 {
        write(&mut log, hard(1, Some(2)), &entries(index, index, 1));
    }
    assert_eq!(reopen(&disk).1.restored.unwrap().entries, entries(1, 15, 1));
}

#[test]
fn a_log_whose_spare_segment_was_removed_goes_on() {
    let disk = MemDisk::new();
    let mut log = of_single_entries(&disk, 9);
    let compact = LogStart::Compact(snapshot(LogId::new(9, 1)));
    log_start(&mut log, hard(1, Some(2)), &compact, &[]);
    disk.lose(&segment::spare_path(1));
    for index in 10..=19 {
        write(&mut log, hard(1, Some(2)), &entries(index, index, 1));
    }
    assert_eq!(reopen(&disk).1.restored.unwrap().entries, entries(10, 19, 1));
}

#[test]
fn a_torn_tail_is_dropped_and_never_comes_back() {
    let disk = MemDisk::new();
    let mut log = of_single_entries(&disk, 1);
    // A batch of two blocks whose second block did not reach the disk.
    fail_syncs_of(&disk, &path(1));
    let large = [entry(2, 1, 5000)];
    let batch = BatchRef { hard_state: hard(1, Some(2)), log_start: None, entries: &[&large] };
    assert!(log.append(batch).is_err());
    disk.clear_faults();
    let second_block =
        disk.read(&path(1)).unwrap()[3 * BLOCK as usize..4 * BLOCK as usize].to_vec();
    disk.damage(&path(1), 3 * BLOCK, &[0; BLOCK as usize]);

    let (_, found) = reopen(&disk);
    assert_eq!(found.restored.unwrap().entries, entries(1, 1, 1));
    assert_eq!(found.cases, [Case::TornTail { batch: 3 }]);
    // The latest batch is repeated where the torn one began. Even if the missing block turns up
    // again, it belongs to no batch.
    disk.damage(&path(1), 3 * BLOCK, &second_block);
    let (_, found) = reopen(&disk);
    assert_eq!(found.restored.unwrap().entries, entries(1, 1, 1));
    let mut log = reopen(&disk).0;
    write(&mut log, hard(2, None), &entries(2, 2, 2));
    let (_, found) = reopen(&disk);
    assert_eq!(ids(&found.restored.unwrap()), ["1@1", "2@2"]);
}

#[test]
fn the_remains_of_a_torn_tail_are_erased() {
    let disk = MemDisk::new();
    let mut log = begun(&disk);
    fail_syncs_of(&disk, &path(1));
    let large = [entry(1, 1, 9000)]; // Three blocks.
    let batch = BatchRef { hard_state: hard(1, None), log_start: None, entries: &[&large] };
    assert!(log.append(batch).is_err());
    disk.clear_faults();
    rot(&disk, 1, 2);
    let (_, found) = reopen(&disk);
    assert_eq!(found.cases, [Case::TornTail { batch: 2 }]);
    // The mark covers batch 1, so it is not repeated.
    let content = disk.read(&path(1)).unwrap();
    assert!(content[BLOCK as usize..].iter().all(|byte| *byte == 0));
    disk.crash(|_| SectorFate::Lost);
    assert_eq!(reopen(&disk).1.cases, [Case::Clean]);
}

#[test]
fn a_directory_that_names_its_cluster_and_has_no_log_has_lost_it() {
    let disk = MemDisk::new();
    let mut log = begun(&disk);
    log.identify(Identity { cluster: Some(ClusterId(5)), ..identity() }).unwrap();
    drop(log);
    disk.kill();
    for path in disk.paths().into_iter().filter(|path| path.starts_with("log/") || path == "MARK") {
        disk.lose(&path);
    }
    assert!(matches!(Log::open(disk.clone(), config()), Err(OpenError::LogGone)));
}

#[test]
fn damage_in_what_the_base_stands_for_is_harmless() {
    let disk = MemDisk::new();
    let mut log = of_single_entries(&disk, 5);
    log_start(&mut log, hard(1, Some(2)), &LogStart::Compact(snapshot(LogId::new(4, 1))), &[]);
    rot(&disk, 1, 2);
    let (_, found) = reopen(&disk);
    let restored = found.restored.unwrap();
    assert_eq!(restored.hard_state, hard(1, Some(2)));
    assert_eq!(ids(&restored), ["5@1"]);
    assert_eq!(found.cases, [Case::HarmlessDamage { batch: 3 }, Case::Clean]);
}

#[test]
fn a_damaged_batch_that_the_next_one_repeats_is_not_missed() {
    let disk = MemDisk::new();
    of_single_entries(&disk, 2);
    drop(reopen(&disk)); // Repeats batch 3 as batch 4.
    rot(&disk, 1, 2);
    let (_, found) = reopen(&disk);
    assert_eq!(found.restored.unwrap().entries, entries(1, 2, 1));
    assert_eq!(found.cases, [Case::Repeated { batch: 3 }, Case::Clean]);
}

#[test]
fn rot_below_an_intact_batch_leaves_the_prefix_and_the_note_that_more_was_there() {
    let disk = MemDisk::new();
    of_single_entries(&disk, 9);
    rot(&disk, 2, 0); // Batch 5, entry 4.
    let (_, found) = reopen(&disk);
    let restored = found.restored.unwrap();
    assert_eq!(restored.entries, entries(1, 3, 1));
    let lost = HardState { lost: Some(LogId::new(9, 1)), ..hard(1, Some(2)) };
    assert_eq!(restored.hard_state, lost);
    assert_eq!(losses(&found.cases), [Case::Rotten { batch: 5 }]);
    assert_settled(&disk, &Restored { hard_state: lost, ..restored });
}

#[test]
fn a_tail_that_cannot_have_been_in_the_log_that_is_lost_is_not_restored() {
    let disk = MemDisk::new();
    let mut log = of_single_entries(&disk, 2);
    write(&mut log, hard(2, None), &entries(3, 4, 2)); // Batch 4.
    // A leader of term 3 replaces the entries from 5 on with entries of term 1.
    write(&mut log, hard(3, None), &entries(3, 5, 1)); // Batch 5.
    write(&mut log, hard(3, None), &entries(6, 6, 1));
    rot(&disk, 2, 0); // Batch 5.
    let (_, found) = reopen(&disk);
    let restored = found.restored.unwrap();
    assert_eq!(ids(&restored), ["1@1", "2@1"]);
    // If the log ended with 4@2, which is later than 6@1, the node would conclude that it is
    // repaired.
    assert_eq!(restored.hard_state.lost, Some(LogId::new(6, 1)));
    assert_settled(&disk, &restored);
}

#[test]
fn rot_takes_hard_state_and_base_from_the_latest_intact_batch() {
    let disk = MemDisk::new();
    let mut log = of_single_entries(&disk, 6);
    log_start(&mut log, hard(4, Some(3)), &LogStart::Compact(snapshot(LogId::new(2, 1))), &[]);
    rot(&disk, 2, 1); // Batch 6, entry 5.
    let restored = reopen(&disk).1.restored.unwrap();
    assert_eq!(restored.snapshot.last, LogId::new(2, 1));
    assert_eq!(ids(&restored), ["3@1", "4@1"]);
    let lost = HardState { lost: Some(LogId::new(6, 1)), ..hard(4, Some(3)) };
    assert_eq!(restored.hard_state, lost);
}

#[test]
fn rot_in_what_a_later_base_builds_upon_leaves_the_base_alone() {
    let disk = MemDisk::new();
    let mut log = of_single_entries(&disk, 6);
    log_start(&mut log, hard(1, None), &LogStart::Compact(snapshot(LogId::new(5, 1))), &[]);
    rot(&disk, 1, 2); // Batch 3, entry 2: below the base.
    rot(&disk, 2, 2); // Batch 7, entry 6: above it.
    let (_, found) = reopen(&disk);
    let restored = found.restored.unwrap();
    assert_eq!(restored.snapshot.last, LogId::new(5, 1));
    assert!(restored.entries.is_empty());
    assert_eq!(restored.hard_state.lost, Some(LogId::new(6, 1)));
}

#[test]
fn the_files_in_which_something_is_lost_are_named() {
    let disk = MemDisk::new();
    of_single_entries(&disk, 12);
    let gone = disk.fork();
    rot(&disk, 2, 0);
    let case = reopen(&disk).1.cases.pop().unwrap();
    assert_eq!(case, Case::LossFiles { damaged: vec![path(2)], absent: vec![] });
    gone.lose(&path(2));
    let case = reopen(&gone).1.cases.pop().unwrap();
    assert!(case.to_string().contains(&format!("perhaps missing: {}", path(2))), "{case}");
}

#[test]
fn a_missing_segment_in_the_middle_is_rot() {
    let disk = MemDisk::new();
    of_single_entries(&disk, 12);
    disk.lose(&path(2)); // Batches 5 to 8.
    let (_, found) = reopen(&disk);
    let restored = found.restored.unwrap();
    assert_eq!(restored.entries, entries(1, 3, 1));
    assert_eq!(restored.hard_state.lost, Some(LogId::new(12, 1)));
    assert_eq!(losses(&found.cases), [Case::Rotten { batch: 5 }]);
    assert_settled(&disk, &restored);
}

#[test]
fn a_missing_first_segment_is_rot() {
    let disk = MemDisk::new();
    of_single_entries(&disk, 9);
    disk.lose(&path(1));
    let (_, found) = reopen(&disk);
    let restored = found.restored.unwrap();
    assert!(restored.entries.is_empty());
    assert_eq!(restored.hard_state.lost, Some(LogId::new(9, 1)));
    assert_eq!(losses(&found.cases), [Case::Rotten { batch: 0 }]);
    assert_settled(&disk, &restored);
}

#[test]
fn a_reset_needs_nothing_of_what_was_before() {
    let disk = MemDisk::new();
    let mut log = of_single_entries(&disk, 2);
    log_start(&mut log, hard(3, None), &LogStart::Reset(snapshot(LogId::new(20, 2))), &[]);
    (0..3).for_each(|position| rot(&disk, 1, position));
    let restored = reopen(&disk).1.restored.unwrap();
    assert_eq!(restored.snapshot.last, LogId::new(20, 2));
    assert_eq!(restored.hard_state, hard(3, None));
    assert!(restored.entries.is_empty());
}

#[test]
fn a_write_that_the_disk_has_lost_counts_as_rot() {
    let disk = MemDisk::new();
    of_single_entries(&disk, 1);
    let image = disk.fork();
    let mut log = reopen(&disk).0;
    write(&mut log, hard(2, None), &entries(2, 2, 2));
    write(&mut log, hard(2, None), &entries(3, 3, 2));
    // On another disk, another batch of the same number was written to the same place.
    let mut log = reopen(&image).0;
    write(&mut log, hard(5, None), &entries(2, 2, 5));
    let imposter = image.read(&path(1)).unwrap()[3 * BLOCK as usize..].to_vec();
    disk.damage(&path(1), 3 * BLOCK, &imposter);
    let (_, found) = reopen(&disk);
    let restored = found.restored.unwrap();
    assert_eq!(ids(&restored), ["1@1"]);
    assert_eq!(restored.hard_state, HardState { lost: Some(LogId::new(3, 2)), ..hard(2, None) });
    assert_eq!(losses(&found.cases), [Case::Rotten { batch: 4 }]);
}

#[test]
fn a_misdirected_write_counts_as_damage() {
    let disk = MemDisk::new();
    of_single_entries(&disk, 9);
    let content = disk.read(&path(1)).unwrap();
    // Batch 2 again, at the position of batch 6.
    disk.damage(&path(2), BLOCK, &content[BLOCK as usize..2 * BLOCK as usize]);
    let (_, found) = reopen(&disk);
    assert_eq!(ids(&found.restored.unwrap()), ["1@1", "2@1", "3@1", "4@1"]);
    assert_eq!(losses(&found.cases), [Case::Rotten { batch: 6 }]);
}

#[test]
fn a_sector_that_cannot_be_read_counts_as_damage() {
    let disk = MemDisk::new();
    of_single_entries(&disk, 9);
    let bad = path(2);
    disk.set_faults(Box::new(move |operation| match operation {
        DiskOperation::Read { path, offset, len }
            if path == bad && (offset..offset + len as u64).contains(&BLOCK) =>
        {
            DiskVerdict::Fails { kind: std::io::ErrorKind::Other, done_bytes: 0 }
        }
        _ => DiskVerdict::Done,
    }));
    let (_, found) = reopen(&disk);
    assert_eq!(ids(&found.restored.unwrap()), ["1@1", "2@1", "3@1", "4@1"]);
    assert_eq!(losses(&found.cases), [Case::Rotten { batch: 6 }]);
}

#[test]
fn a_marked_batch_that_is_damaged_is_no_torn_tail() {
    let disk = MemDisk::new();
    let mut log = of_single_entries(&disk, 5);
    write(&mut log, hard(2, Some(3)), &[]);
    log.close().unwrap();
    rot(&disk, 2, 2); // Batch 7: the vote for 3 in term 2.
    let (_, found) = reopen(&disk);
    let restored = found.restored.unwrap();
    assert_eq!(restored.entries, entries(1, 5, 1));
    // The vote in term 2 is unknown. It counts as one for itself, so the node grants no vote.
    let lost = HardState { lost: Some(LogId::new(5, 1)), ..hard(2, Some(NODE.0)) };
    assert_eq!(restored.hard_state, lost);
    assert_eq!(losses(&found.cases), [Case::RottenEnd { batch: 7 }]);
    assert_settled(&disk, &restored);
}

#[test]
fn a_marked_batch_that_is_missing_without_a_trace_is_no_torn_tail() {
    let disk = MemDisk::new();
    of_single_entries(&disk, 5).close().unwrap();
    disk.lose(&path(2)); // Batches 5 and 6.
    let (_, found) = reopen(&disk);
    let restored = found.restored.unwrap();
    assert_eq!(restored.entries, entries(1, 3, 1));
    assert_eq!(restored.hard_state, HardState { lost: Some(LogId::new(5, 1)), ..hard(1, Some(2)) });
    assert_eq!(losses(&found.cases), [Case::RottenEnd { batch: 5 }]);
    assert_settled(&disk, &restored);
}

#[test]
fn a_block_of_the_batch_after_it_proves_that_a_damaged_batch_was_synced() {
    let disk = MemDisk::new();
    let mut log = of_single_entries(&disk, 4);
    let large = [entry(5, 1, 5000)];
    write(&mut log, hard(1, None), &large); // Batch 6: blocks 1 and 2 of segment 2.
    rot(&disk, 2, 0); // Batch 5.
    rot(&disk, 2, 2); // The end of batch 6.
    let (_, found) = reopen(&disk);
    let restored = found.restored.unwrap();
    assert_eq!(restored.entries, entries(1, 3, 1));
    assert_eq!(restored.hard_state.vote, Some(NodeId(2)));
    assert!(restored.hard_state.lost.is_some());
    assert_eq!(losses(&found.cases), [Case::RottenEnd { batch: 5 }]);
    assert_settled(&disk, &restored);
}

#[test]
fn a_loss_is_remembered_until_the_core_says_that_it_is_repaired() {
    let disk = MemDisk::new();
    of_single_entries(&disk, 9);
    rot(&disk, 2, 0);
    let (mut log, found) = reopen(&disk);
    let hard_state = found.restored.unwrap().hard_state;
    write(&mut log, hard_state, &entries(4, 4, 1));
    // The log is half repaired, and the disk is damaged again.
    let generation = segment::parse(disk.paths().last().unwrap().rsplit('/').next().unwrap());
    let (mut log, found) = reopen(&disk);
    assert_eq!(found.restored.unwrap().hard_state.lost, Some(LogId::new(9, 1)));
    rot(&disk, generation.unwrap(), 1);
    rot(&disk, generation.unwrap(), 2);
    write(&mut log, hard_state, &entries(5, 5, 1));
    let (mut log, found) = reopen(&disk);
    let restored = found.restored.unwrap();
    assert_eq!(restored.hard_state.lost, Some(LogId::new(9, 1)));
    assert_eq!(ids(&restored), ["1@1", "2@1", "3@1"]);
    write(&mut log, hard(1, Some(2)), &entries(4, 9, 1));
    let restored = reopen(&disk).1.restored.unwrap();
    assert_eq!(restored.hard_state, hard(1, Some(2)));
    assert_eq!(restored.entries, entries(1, 9, 1));
}

#[test]
fn a_foreign_file_is_left_alone_and_named() {
    let disk = MemDisk::new();
    of_single_entries(&disk, 2);
    disk.install("log/notes.txt", b"do not delete");
    disk.install("log/1.seg", b"nor this");
    let (_, found) = reopen(&disk);
    assert_eq!(found.restored.unwrap().entries, entries(1, 2, 1));
    let foreign = |name: &str| Case::ForeignFile { name: name.to_owned() };
    assert_eq!(found.cases, [foreign("1.seg"), foreign("notes.txt"), Case::Clean]);
    assert_eq!(disk.read("log/notes.txt").unwrap(), b"do not delete");
}

#[test]
fn a_log_of_another_node_is_no_log() {
    let disk = MemDisk::new();
    of_single_entries(&disk, 2);
    let other = Identity { incarnation: Incarnation(78), ..identity() };
    other.write(&disk).unwrap();
    disk.lose("MARK");
    let error = refusal_or_nothing(&disk);
    assert!(error, "the blocks of another life count for nothing");
}

/// Whether no state is restored from the directory.
fn refusal_or_nothing(disk: &MemDisk) -> bool {
    disk.kill();
    match Log::open(disk.clone(), config()) {
        Ok((_, found)) => found.restored.is_none(),
        Err(_) => true,
    }
}
