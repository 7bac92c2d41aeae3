//! What is bounded and what is left: a node that goes on for long must need no more memory and no more
//! disk than what it works on, and when nobody asks for anything, nothing waits in it.
//!
//! While the faults last little can be said of that: whoever is cut off has calls that wait, and a disk
//! that was full has snapshots that failed. So it is looked when they are over.
//!
//! What it is not: a check of the limits that queues have by their making.

use crate::app::App;
use crate::cluster::Cluster;
use crate::time::{now_us, sleep_us};
use crate::world::{Host, RECYCLED_SEGMENTS};
use driver::Handle;
use raft::{Entry, Index, Write};
use simulator::checks::{Check, Violation, violation};
use simulator::plan::Swarm;
use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

/// All that waited for something has ended so long after the last request: the longest is a call that
/// is given up when a connection has been silent.
const EMPTY_US: u64 = 10_000_000;
/// How often it is looked.
const LOOK_US: u64 = 20_000;
/// The log writes in blocks of this size, and each write begins a new one.
const BLOCK_BYTES: u64 = 4_096;
/// What a block holds beside what frames it.
const BLOCK_CONTENT_BYTES: u64 = 4_064;
/// What frames a write, at most, and each entry of it.
const FRAME_BYTES: u64 = 128;
/// Snapshots that are kept: the one that the log begins after, and the one before it, until the log on
/// the disk begins after the later.
const SNAPSHOTS_MAX: usize = 2;

/// The writes that the segments of a log hold, as far as something in or before them is still needed.
#[derive(Debug, Default)]
pub(crate) struct Written {
    /// The last entry of each, and the bytes that it took.
    writes: VecDeque<(Index, u64)>,
    bytes: u64,
    /// The highest entry so far: a segment is needed until the base stands for all that is in it.
    highest: Index,
}

impl Written {
    /// A write became durable.
    pub fn add(&mut self, write: &Write) {
        let entries = write.entries.iter().map(|entry| entry.cost_bytes() as u64 + FRAME_BYTES);
        let content = FRAME_BYTES + entries.sum::<u64>();
        let last = write.entries.last().map_or(Index(0), |entry| entry.id.index);
        self.push(last, content.div_ceil(BLOCK_CONTENT_BYTES) * BLOCK_BYTES);
        if let Some(log_start) = &write.log_start {
            self.begins_after(log_start.snapshot().last.index);
        }
    }

    /// A start may leave a segment half full, and write what it finds once more.
    pub fn starts(&mut self, log: u64, segment_bytes: u64) {
        self.push(Index(0), segment_bytes + log + 2 * BLOCK_BYTES);
    }

    fn push(&mut self, last: Index, bytes: u64) {
        self.highest = self.highest.max(last);
        self.writes.push_back((self.highest, bytes));
        self.bytes += bytes;
    }

    /// The log begins after this now.
    fn begins_after(&mut self, base: Index) {
        while let Some((last, bytes)) = self.writes.front().copied()
            && last <= base
        {
            self.writes.pop_front();
            self.bytes -= bytes;
        }
    }
}

impl<A: App> Host<A> {
    /// Bytes of the files of its log, and the most that there may be: what the writes took, twice, since
    /// a write that does not fit leaves the rest of a segment unused; the segments that are kept for use
    /// again; one that is prepared, one that is begun and one that is not yet free; and two small files.
    fn log_bytes(&self, swarm: &Swarm) -> (u64, u64) {
        let files = self.disk.paths().into_iter().filter(|path| path.starts_with("log/"));
        let bytes = files.filter_map(|path| self.disk.read(&path)).map(|file| file.len() as u64);
        let spare = (RECYCLED_SEGMENTS + 3) * u64::from(swarm.segment_bytes);
        (bytes.sum(), 2 * self.written.bytes + spare + 8 * BLOCK_BYTES)
    }

    /// What the entries cost that its log holds, and the most that may be: a snapshot is due when so
    /// many bytes are applied, and is of all that is applied then. If one fails, it is due again after
    /// as many, whatever was applied at once with the last of them.
    fn entry_bytes(&self, swarm: &Swarm, failed: u64) -> (u64, u64) {
        let costs = self.shadow.entries.iter().map(Entry::cost_bytes);
        let largest = costs.clone().max().unwrap_or_default() as u64;
        let due = u64::from(swarm.snapshot_bytes);
        let most = due + failed * (due + u64::from(swarm.apply_bytes) + largest);
        (costs.sum::<usize>() as u64, most)
    }

    /// Files of snapshots, finished or not.
    fn snapshot_files(&self) -> usize {
        self.disk.paths().iter().filter(|path| path.starts_with("snap")).count()
    }
}

impl<A: App> Cluster<A> {
    /// Faults are over and clients go on: no more waits than they have asked for.
    pub(crate) fn few_wait(&self) -> Result<(), Violation> {
        let clients = u64::from(self.world().plan.swarm.clients) as usize;
        let most = clients * self.shared.app.requests_at_once();
        for (node, handle) in self.healthy() {
            let load = handle.status().load;
            if load.proposals.max(load.reads).max(load.waiters) > most {
                let detail = format!("node {node}, of {most} requests at most: {load:?}");
                return violation(Check::WhatWaitsIsWhatClientsAskFor, detail);
            }
        }
        Ok(())
    }

    /// Nobody asks any more: nothing waits, and nothing is kept that is not needed.
    pub(crate) async fn nothing_is_left(&self) -> Result<(), Violation> {
        let until_us = now_us() + EMPTY_US;
        for (node, handle) in self.healthy() {
            while let Err(left) = self.is_empty(node, &handle) {
                if now_us() >= until_us {
                    return Err(left);
                }
                sleep_us(LOOK_US).await;
            }
        }
        Ok(())
    }

    fn is_empty(&self, node: usize, handle: &Handle<A::Machine>) -> Result<(), Violation> {
        let waiting = handle.status().load.named().into_iter().filter(|(_, _, count)| *count > 0);
        let waiting: Vec<_> = waiting.collect();
        if !waiting.is_empty() {
            return violation(Check::NothingWaitsInTheEnd, format!("node {node}: {waiting:?}"));
        }
        let world = self.world();
        let (host, swarm) = (&world.hosts[node], &world.plan.swarm);
        let requests = host.up.as_ref().map_or(0, |up| up.requests.count());
        if requests > 0 {
            let detail = format!("node {node}: {requests} requests");
            return violation(Check::NothingWaitsInTheEnd, detail);
        }
        let failed = handle.metrics().snapshots_failed;
        let (bytes, bytes_max) = host.entry_bytes(swarm, failed);
        if bytes > bytes_max {
            let detail = format!("node {node}: entries of {bytes} bytes, of {bytes_max} at most");
            return violation(Check::SnapshotsKeepTheLogShort, detail);
        }
        let (bytes, bytes_max) = host.log_bytes(swarm);
        if bytes > bytes_max {
            let detail = format!("node {node}: a log of {bytes} bytes, of {bytes_max} at most");
            return violation(Check::LogTakesNoMoreRoomThanItNeeds, detail);
        }
        let files = host.snapshot_files();
        if files > SNAPSHOTS_MAX {
            let detail = format!("node {node}: {files} snapshots");
            return violation(Check::OldSnapshotsAreRemoved, detail);
        }
        Ok(())
    }
}

/// Counts the requests that a node works on.
#[derive(Clone, Debug, Default)]
pub(crate) struct Requests(Arc<AtomicUsize>);

impl Requests {
    /// One more, until what is returned is dropped.
    pub fn begin(&self) -> Request {
        self.0.fetch_add(1, Ordering::Relaxed);
        Request(self.clone())
    }

    pub fn count(&self) -> usize {
        self.0.load(Ordering::Relaxed)
    }
}

/// One of them.
pub(crate) struct Request(Requests);

impl Drop for Request {
    fn drop(&mut self) {
        self.0.0.fetch_sub(1, Ordering::Relaxed);
    }
}
