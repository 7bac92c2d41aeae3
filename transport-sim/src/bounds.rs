//! Bounds and leaks: however long a node runs, its memory and disk usage must be bounded by its
//! current work. When no client sends requests, nothing may wait in it.
//!
//! During the faults little can be checked: a partitioned node has calls that wait, and a full disk
//! makes snapshots fail. So the checks run after the faults.
//!
//! The capacities of the queues themselves are not checked here.

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

/// All waits must have ended this long after the last request. The longest is a call that ends when
/// its connection has been silent.
const EMPTY_US: u64 = 10_000_000;
/// The interval between two checks.
const LOOK_US: u64 = 20_000;
/// The log writes in blocks of this size, and each write begins a new one.
const BLOCK_BYTES: u64 = 4_096;
/// The content bytes of a block, without its framing.
const BLOCK_CONTENT_BYTES: u64 = 4_064;
/// The most bytes that frame a write, and each of its entries.
const FRAME_BYTES: u64 = 128;
/// The most snapshots that a node keeps: the one that the log begins after, and the one before it
/// until the move of the base is durable.
const SNAPSHOTS_MAX: usize = 2;

/// The writes in the segments of a log, from the first that is still needed.
#[derive(Debug, Default)]
pub(crate) struct Written {
    /// For each write, the highest entry up to there, and the bytes that the write took.
    writes: VecDeque<(Index, u64)>,
    bytes: u64,
    /// The highest entry so far: a segment is needed until the base covers everything in it.
    highest: Index,
}

impl Written {
    /// Adds a write that became durable.
    pub fn add(&mut self, write: &Write) {
        let entries = write.entries.iter().map(|entry| entry.cost_bytes() as u64 + FRAME_BYTES);
        let content = FRAME_BYTES + entries.sum::<u64>();
        let last = write.entries.last().map_or(Index(0), |entry| entry.id.index);
        self.push(last, content.div_ceil(BLOCK_CONTENT_BYTES) * BLOCK_BYTES);
        if let Some(log_start) = &write.log_start {
            self.begins_after(log_start.snapshot().last.index);
        }
    }

    /// Accounts for a start, which may leave a segment partly empty and write the recovered log
    /// once more.
    pub fn starts(&mut self, log: u64, segment_bytes: u64) {
        self.push(Index(0), segment_bytes + log + 2 * BLOCK_BYTES);
    }

    fn push(&mut self, last: Index, bytes: u64) {
        self.highest = self.highest.max(last);
        self.writes.push_back((self.highest, bytes));
        self.bytes += bytes;
    }

    /// The log now begins after `base`: drops the writes that it covers.
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
    /// Bytes of the files of its log, and the most that are allowed:
    ///
    /// - twice what the writes took, since a write that does not fit leaves the rest of a segment
    ///   unused;
    /// - the segments that are kept for reuse;
    /// - one segment that is prepared, one that is begun and one that is not yet free;
    /// - two small files.
    fn log_bytes(&self, swarm: &Swarm) -> (u64, u64) {
        let files = self.disk.paths().into_iter().filter(|path| path.starts_with("log/"));
        let bytes = files.filter_map(|path| self.disk.read(&path)).map(|file| file.len() as u64);
        let spare = (RECYCLED_SEGMENTS + 3) * u64::from(swarm.segment_bytes);
        (bytes.sum(), 2 * self.written.bytes + spare + 8 * BLOCK_BYTES)
    }

    /// The cost of the entries in its log, and the most that is allowed. A snapshot is due when
    /// `snapshot_bytes` are applied, and covers everything applied by then. If one fails, the next
    /// is due after as many bytes again, plus the batch that was applied with the last of them.
    fn entry_bytes(&self, swarm: &Swarm, failed: u64) -> (u64, u64) {
        let costs = self.shadow.entries.iter().map(Entry::cost_bytes);
        let largest = costs.clone().max().unwrap_or_default() as u64;
        let due = u64::from(swarm.snapshot_bytes);
        let most = due + failed * (due + u64::from(swarm.apply_bytes) + largest);
        (costs.sum::<usize>() as u64, most)
    }

    /// Number of snapshot files, finished or not.
    fn snapshot_files(&self) -> usize {
        self.disk.paths().iter().filter(|path| path.starts_with("snap")).count()
    }
}

impl<A: App> Cluster<A> {
    /// Checks, after the faults and while clients continue, that no more requests wait than the
    /// clients have open.
    pub(crate) fn few_wait(&self) -> Result<(), Violation> {
        let clients = u64::from(self.world().plan.swarm.clients) as usize;
        let most = clients * self.shared.app.requests_at_once();
        for (node, handle) in self.healthy() {
            let load = handle.status().load;
            if load.proposals.max(load.reads).max(load.waiters) > most {
                let detail = format!("node {node}, of {most} requests at most: {load:?}");
                return violation(Check::WhatWaitsIsWhatClientsAskFor, node, detail);
            }
        }
        Ok(())
    }

    /// Checks, after the last request, that nothing waits and that nothing unneeded is kept.
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
            return violation(
                Check::NothingWaitsInTheEnd,
                node,
                format!("node {node}: {waiting:?}"),
            );
        }
        let world = self.world();
        let (host, swarm) = (&world.hosts[node], &world.plan.swarm);
        let requests = host.up.as_ref().map_or(0, |up| up.requests.count());
        if requests > 0 {
            let detail = format!("node {node}: {requests} requests");
            return violation(Check::NothingWaitsInTheEnd, node, detail);
        }
        let failed = handle.metrics().snapshots_failed;
        let (bytes, bytes_max) = host.entry_bytes(swarm, failed);
        if bytes > bytes_max {
            let detail = format!("node {node}: entries of {bytes} bytes, of {bytes_max} at most");
            return violation(Check::SnapshotsKeepTheLogShort, node, detail);
        }
        let (bytes, bytes_max) = host.log_bytes(swarm);
        if bytes > bytes_max {
            let detail = format!("node {node}: a log of {bytes} bytes, of {bytes_max} at most");
            return violation(Check::LogTakesNoMoreRoomThanItNeeds, node, detail);
        }
        let files = host.snapshot_files();
        if files > SNAPSHOTS_MAX {
            let detail = format!("node {node}: {files} snapshots");
            return violation(Check::OldSnapshotsAreRemoved, node, detail);
        }
        Ok(())
    }
}

/// Counts the requests that a node works on.
#[derive(Clone, Debug, Default)]
pub(crate) struct Requests(Arc<AtomicUsize>);

impl Requests {
    /// Counts one more request, until the returned guard is dropped.
    pub fn begin(&self) -> Request {
        self.0.fetch_add(1, Ordering::Relaxed);
        Request(self.clone())
    }

    pub fn count(&self) -> usize {
        self.0.load(Ordering::Relaxed)
    }
}

/// A guard for one request that a node works on.
pub(crate) struct Request(Requests);

impl Drop for Request {
    fn drop(&mut self) {
        self.0.0.fetch_sub(1, Ordering::Relaxed);
    }
}
