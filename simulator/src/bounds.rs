//! Bounds on the memory and disk usage of a node, which its configuration sets, however long it has
//! run. They are the same in all simulations.

use crate::checks::{Check, LogChange, Violation, violation};
use crate::plan::Swarm;
use raft::Index;
use std::collections::VecDeque;
use storage::testing::MemDisk;

/// Segments that are in use without being full: the first, the last and the next one.
const BEGUN_SEGMENTS: u64 = 3;

/// Checks that a node has at most this much of something.
pub fn within(
    check: Check,
    node: usize,
    what: &str,
    amount: u64,
    most: u64,
) -> Result<(), Violation> {
    if amount <= most {
        return Ok(());
    }
    violation(check, node, format!("node {node}: {amount} {what}, at most {most}"))
}

/// Checks that no request is left at a node. Takes the kinds of requests and their numbers.
pub fn nothing_waits<'a>(
    node: usize,
    requests: impl IntoIterator<Item = (&'a str, usize)>,
) -> Result<(), Violation> {
    let mut requests = requests.into_iter();
    requests.try_for_each(|(kind, count)| {
        within(Check::NothingWaitsInTheEnd, node, kind, count as u64, 0)
    })
}

/// The writes that a log still needs.
#[derive(Debug, Default)]
pub struct Needed {
    /// For each durable write from the first that is still needed: the most bytes that it takes on
    /// the disk, and the index of its last entry.
    writes: VecDeque<(u64, Index)>,
    /// The most bytes that a write of this node has taken.
    largest: u64,
}

impl Needed {
    /// The node has started, and its log has this size. Everything in the log may be needed until a
    /// snapshot covers it.
    pub fn starts(&mut self, log_bytes: u64, last: Index) {
        self.writes = [(log_bytes, last)].into();
    }

    /// A write has become durable. The log begins after `base` now.
    pub fn add(&mut self, change: &LogChange, base: Index) {
        let footprint = change.footprint();
        self.largest = self.largest.max(footprint.0);
        self.writes.push_back(footprint);
        // Segments are freed only when the base of the log moves.
        while change.rebases() && self.writes.front().is_some_and(|(_, last)| *last <= base) {
            self.writes.pop_front();
        }
    }

    /// The most bytes that these writes take on the disk.
    fn bytes(&self) -> u64 {
        self.writes.iter().map(|(bytes, _)| bytes).sum()
    }

    /// The most bytes that the files of the log may have, with this many segments kept for reuse.
    pub fn log_bytes_max(&self, swarm: &Swarm, recycled: u64) -> u64 {
        // A write that does not fit into the rest of a segment leaves the rest unused, and is
        // longer than it. This at most doubles the size.
        // The last segment may be longer than others, even if nothing in it is needed any more.
        let begun = (BEGUN_SEGMENTS + recycled) * u64::from(swarm.segment_bytes) + self.largest;
        let needed = 2 * self.bytes() + begun;
        match u64::from(swarm.log_bytes) {
            0 => needed,
            // It is twice as large after a start. Beyond it go what elections write, what moves the
            // start of the log, and the rest of a write that is longer than a segment.
            bound => needed.min(3 * bound + u64::from(swarm.segment_bytes) + self.largest),
        }
    }
}

/// The number of files of a log, and their bytes.
pub fn log_files(disk: &MemDisk) -> (u64, u64) {
    let paths = disk.paths().into_iter().filter(|path| path.starts_with("log/"));
    let bytes = paths.filter_map(|path| disk.read(&path)).map(|content| content.len() as u64);
    bytes.fold((0, 0), |(files, all), bytes| (files + 1, all + bytes))
}

/// Checks the files of a log: their bytes, as [`log_files`] counts them.
pub fn log_is_small(node: usize, bytes: u64, most: u64) -> Result<(), Violation> {
    within(Check::LogTakesNoMoreRoomThanItNeeds, node, "bytes of log", bytes, most)
}

/// How many bytes of entries a node applies until it takes a snapshot: in proportion to the last
/// one, if the plan has it so.
pub fn snapshot_due_bytes(swarm: &Swarm, disk: &MemDisk) -> u64 {
    let paths = disk.paths().into_iter().filter(|path| path.ends_with(".snap"));
    let largest = paths.filter_map(|path| disk.read(&path)).map(|state| state.len() as u64).max();
    let most = u64::from(swarm.snapshot_bytes_max);
    let due = u64::from(swarm.snapshot_bytes).max(largest.unwrap_or_default().min(most));
    // It may wait for a round index.
    due + due / 4
}

/// Checks the snapshots that a node keeps, finished or not, except for files that its disk has
/// refused to remove: they are removed at the next start.
pub fn snapshots_are_few(
    node: usize,
    disk: &MemDisk,
    most: u64,
    refused: u64,
) -> Result<(), Violation> {
    let paths = disk.paths().into_iter().filter(|path| path.starts_with("snapshots/"));
    let paths: Vec<String> = paths.collect();
    let begun = paths.iter().filter(|path| path.ends_with(".tmp")).count() as u64;
    if paths.len() as u64 > most + refused || begun > refused {
        let detail = format!("node {node} keeps {paths:?}, at most {most}");
        return violation(Check::OldSnapshotsAreRemoved, node, detail);
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use storage::Disk;

    #[test]
    fn what_is_over_a_bound_is_noticed() {
        let check = Check::MemoryAndLogStayBounded;
        assert_eq!(within(check, 2, "bytes", 7, 7), Ok(()));
        let broken = within(check, 2, "bytes", 8, 7).expect_err("it is over");
        assert_eq!(broken.detail, "node 2: 8 bytes, at most 7");
        assert_eq!(nothing_waits(0, [("reads", 0), ("waits", 0)]), Ok(()));
        assert!(nothing_waits(0, [("reads", 0), ("waits", 1)]).is_err());
    }

    #[test]
    fn snapshots_that_are_too_many_or_unfinished_are_noticed() {
        let disk = MemDisk::new();
        let few = |most, refused| snapshots_are_few(0, &disk, most, refused).is_ok();
        let create = |path: &str| drop(disk.create(path).expect("there is room"));
        disk.create_dir("snapshots").expect("there is room");
        create("snapshots/1.snap");
        create("snapshots/2.snap");
        assert!(few(2, 0) && !few(1, 0) && few(1, 1));
        create("snapshots/3.tmp");
        assert!(!few(3, 0) && few(3, 1));
    }
}
