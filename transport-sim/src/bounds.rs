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
use raft::Entry;
use simulator::bounds::{
    log_files, log_is_small, nothing_waits, snapshot_due_bytes, snapshots_are_few, within,
};
use simulator::checks::{Check, Violation};
use simulator::plan::Swarm;

/// All waits must have ended this long after the last request. The longest is a call that ends when
/// its connection has been silent.
const EMPTY_US: u64 = 10_000_000;
/// The interval between two checks.
const LOOK_US: u64 = 20_000;
/// The most snapshots that a node keeps: the one that the log begins after, and the one before it
/// until the move of the base is durable.
const SNAPSHOTS_MAX: u64 = 2;

impl<A: App> Host<A> {
    /// The cost of the entries in its log, and the most that is allowed. A snapshot is due when
    /// [`snapshot_due_bytes`] are applied, and covers everything applied by then. If one fails, the
    /// next is due after as many bytes again, plus the batch that was applied with the last of
    /// them.
    fn entry_bytes(&self, swarm: &Swarm, failed: u64) -> (u64, u64) {
        let costs = self.shadow.entries.iter().map(Entry::cost_bytes);
        let largest = costs.clone().max().unwrap_or_default() as u64;
        let due = snapshot_due_bytes(swarm, &self.disk);
        let most = due + failed * (due + u64::from(swarm.apply_bytes) + largest);
        (costs.sum::<usize>() as u64, most)
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
            let count = load.proposals.max(load.reads).max(load.waiters) as u64;
            let what = "requests of a kind that wait";
            within(Check::WhatWaitsIsWhatClientsAskFor, node, what, count, most as u64).map_err(
                |broken| Violation { detail: format!("{}: {load:?}", broken.detail), ..broken },
            )?;
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
        // A leader keeps what it has offered to a node that is away.
        let healthy = self.healthy().len();
        let load = handle.status().load.named();
        nothing_waits(node, load.into_iter().map(|(name, _, count)| (name, count)))?;
        let world = self.world();
        let (host, swarm) = (&world.hosts[node], &world.plan.swarm);
        let away = (world.hosts.len() - healthy) as u64;
        let requests = host.up.as_ref().map_or(0, |up| up.requests.count());
        nothing_waits(node, [("requests", requests)])?;
        let failed = handle.metrics().snapshots_failed;
        let (bytes, most) = host.entry_bytes(swarm, failed);
        let what = "bytes of entries that no snapshot covers";
        within(Check::SnapshotsKeepTheLogShort, node, what, bytes, most)?;
        let refused = host.refused();
        // The sizes of files that a failing disk did not remove are unknown.
        if refused == 0 {
            let (_, bytes) = log_files(&host.disk);
            log_is_small(node, bytes, host.needed.log_bytes_max(swarm, RECYCLED_SEGMENTS))?;
        }
        snapshots_are_few(node, &host.disk, SNAPSHOTS_MAX + away, refused)
    }
}
