//! Damage to the last synced batch of a log, when the power fails within the write after it.
//!
//! The simulation does not know the format of the log. It compares the files before and after a
//! write.

use super::faults::segments;
use super::*;
use crate::faults;
use crate::node::{EndBatch, RottingEnd};
use storage::testing::{DiskOperation, DiskVerdict, MemDisk, Unsynced};

/// The log is written in units of this size.
const BLOCK_BYTES: usize = 4_096;
const SECTOR_BYTES: usize = 512;

/// The probability that a block of the interrupted write stays whole. Otherwise each of its sectors
/// is kept or lost like any other.
const BLOCK_STAYS_PPM: u32 = 500_000;

/// The files of a log, by path.
type Files = BTreeMap<String, Vec<u8>>;

impl World<'_> {
    /// The files of the log and of the mark before a write, if its batch is to be damaged.
    pub(super) fn before_write(&self, node: usize) -> Option<(Files, Vec<u8>)> {
        let host = &self.hosts[node];
        let is_due = host.rotting_end.as_ref().is_some_and(|rotting| rotting.batch.is_none());
        is_due.then(|| (segments(host), mark(host)))
    }

    /// Finds the batch that has just been synced.
    pub(super) fn finds_end(&mut self, node: usize, (files, mark_before): (Files, Vec<u8>)) {
        let host = &mut self.hosts[node];
        let (now, mark) = (segments(host), mark(host));
        let blocks = written(&files, &now);
        let (Some((path, first)), Some((_, last))) = (blocks.first(), blocks.last()) else {
            return;
        };
        let content = &now[path];
        let bytes = content[*first..content.len().min(last + BLOCK_BYTES)].to_vec();
        // The mark is moved after the sync, so it covers the batch then.
        let mark = (mark != mark_before).then_some(mark);
        if let Some(rotting) = &mut host.rotting_end {
            rotting.batch = Some(EndBatch { path: path.clone(), offset: *first, bytes, mark });
        }
    }

    /// If the last synced batch is to be damaged, makes the power fail within the outstanding write
    /// and does the damage. Returns whether the power has failed.
    pub(super) fn rots_within_write(&mut self, node: usize) -> bool {
        let rotting = self.hosts[node].rotting_end.take_if(|rotting| rotting.batch.is_some());
        let Some(RottingEnd { down_us, batch: Some(batch) }) = rotting else { return false };
        let host = &mut self.hosts[node];
        let before = segments(host);
        let Some(running) = &mut host.up else { return false };
        let Some(write) = running.write.take() else { return false };
        host.maybe = Some(LogChange::of(&write));
        fail_syncs_of_batches(&host.disk);
        let _ = running.log.persist(write);
        let after = segments(host);
        let blocks = written(&before, &after);
        if self.goes_down(node, down_us).is_none() {
            return true;
        }
        let (host, draw) = (&mut self.hosts[node], &mut self.disks[node]);
        let kept = (!blocks.is_empty() && draw.chance(BLOCK_STAYS_PPM))
            .then(|| &blocks[draw.below(blocks.len() as u64) as usize]);
        let torn = faults::lose_unsynced_but(&host.disk, &self.plan.swarm, draw, |unsynced| {
            kept.is_some_and(|(kept, at)| match unsynced {
                Unsynced::Sector { path, sector } => {
                    let offset = sector as usize * SECTOR_BYTES;
                    path == kept && (*at..at + BLOCK_BYTES).contains(&offset)
                }
                _ => false,
            })
        });
        if torn {
            self.marks.hit("a write was torn");
        }
        let is_left = |(path, at): &(String, usize)| {
            let content = host.disk.read(path).unwrap_or_default();
            block(&content, *at) == block(&after[path], *at)
        };
        let is_marked = batch.mark.as_ref().is_some_and(|covers| mark(host) == *covers);
        let is_proven = blocks.iter().any(is_left);
        let content = host.disk.read(&batch.path).unwrap_or_default();
        let to = batch.offset + batch.bytes.len();
        if content.get(batch.offset..to) != Some(&*batch.bytes) || !(is_marked || is_proven) {
            return true;
        }
        let used = batch.bytes.iter().rposition(|byte| *byte != 0).unwrap_or(0) as u64 + 1;
        let at = draw.below(used);
        let byte = batch.bytes[at as usize] ^ 1 << draw.below(8);
        host.disk.damage(&batch.path, batch.offset as u64 + at, &[byte]);
        (host.rotten, host.damaged) = (true, true);
        self.marks.hit("the last batch rotted in a crash");
        if !is_marked {
            self.marks.hit("a torn write proved that the batch before it had rotted");
        }
        true
    }
}

/// Lets a batch be written, and its sync fail. A new segment is prepared under another name.
fn fail_syncs_of_batches(disk: &MemDisk) {
    disk.set_faults(Box::new(|operation| match operation {
        DiskOperation::Sync { path } if path.ends_with(".seg") => {
            DiskVerdict::Fails { kind: std::io::ErrorKind::Other, done_bytes: 0 }
        }
        _ => DiskVerdict::Done,
    }));
}

/// The content of the file of the durable mark; empty if there is none.
fn mark<M>(host: &Host<M>) -> Vec<u8> {
    host.disk.read("MARK").unwrap_or_default()
}

/// The blocks that a write has changed, by path and offset. A batch is in one file.
fn written(before: &Files, now: &Files) -> Vec<(String, usize)> {
    let changed = |path: &String, content: &Vec<u8>| match before.get(path) {
        Some(before) => changed(before, content),
        // The file is new, or it was another one that is not needed any more.
        None => before
            .iter()
            .filter(|(old, before)| !now.contains_key(*old) && before.len() == content.len())
            .map(|(_, before)| changed(before, content))
            .chain([changed(&[], content)])
            .min_by_key(Vec::len)
            .unwrap_or_default(),
    };
    let of_files = now.iter().map(|(path, content)| (path, changed(path, content)));
    let Some((path, blocks)) = of_files.rev().find(|(_, blocks)| !blocks.is_empty()) else {
        return Vec::new();
    };
    blocks.into_iter().map(|at| (path.clone(), at)).collect()
}

/// The offsets of the blocks in which two contents differ.
fn changed(before: &[u8], now: &[u8]) -> Vec<usize> {
    (0..now.len()).step_by(BLOCK_BYTES).filter(|at| block(before, *at) != block(now, *at)).collect()
}

/// The block at an offset, without the zeros at its end.
fn block(content: &[u8], at: usize) -> &[u8] {
    let block = &content[at.min(content.len())..content.len().min(at + BLOCK_BYTES)];
    &block[..block.iter().rposition(|byte| *byte != 0).map_or(0, |last| last + 1)]
}
