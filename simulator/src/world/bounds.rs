//! Bounds: the configured sizes limit the memory and disk usage of a node, however long it has run.
//!
//! Checked at the end, when no fault can be the reason for more:
//!
//! - In memory: entries that no snapshot covers, and entries that are kept for lagging peers.
//! - On the disk: segments that are needed, a few that are kept for reuse, the latest snapshots,
//!   and no unfinished files.
//!
//! Checked during the run too: the files of the log, and the requests that wait at each node.

use super::*;
use crate::bounds::{log_files, log_is_small, snapshot_due_bytes, snapshots_are_few, within};
use crate::checks::Check;
use crate::node::Running;
use raft::Entry;

const CHECK: Check = Check::MemoryAndLogStayBounded;

/// How many commands may arrive while one batch is applied, at the low request rate after the
/// faults.
const MEANWHILE: u64 = 100;

/// The snapshot that the log on the disk begins after, the one of an outstanding write that moves
/// the base, and the one for the write after that.
const SNAPSHOTS_MAX: u64 = 3;

impl World<'_> {
    /// Checks the memory and disk usage of healthy nodes, when all is quiet.
    pub(super) fn bounds(&self) -> Result<(), Violation> {
        let swarm = &self.plan.swarm;
        for (id, running) in self.healthy() {
            // The next snapshot is ordered that many bytes after the last order, even if that one
            // failed.
            let (live, largest) = live_bytes(running);
            let due = snapshot_due_bytes(swarm, &self.hosts[id].disk);
            let most = due + MEANWHILE * largest;
            let what = "bytes of entries that no snapshot covers";
            within(Check::SnapshotsKeepTheLogShort, id, what, live, most)?;
            // A leader keeps more for a lagging peer, and drops it some time later.
            let most = u64::from(swarm.retained_bytes.max(swarm.catch_up_bytes));
            let what = "bytes of entries kept for peers that are behind";
            within(CHECK, id, what, retained_bytes(running), most)?;
            self.log_bounds(id, running)?;
            let host = &self.hosts[id];
            let offered = running.node.offered_snapshots().len() as u64;
            snapshots_are_few(id, &host.disk, SNAPSHOTS_MAX + offered, host.refused())?;
        }
        Ok(())
    }

    /// Checks the files of a node's log. In every situation their size is bounded by the writes
    /// that are still needed.
    pub(super) fn log_bounds(
        &self,
        id: usize,
        running: &Running<ErasedMachine>,
    ) -> Result<(), Violation> {
        let (host, swarm) = (&self.hosts[id], &self.plan.swarm);
        let segment_bytes = u64::from(swarm.segment_bytes).max(1);
        let most = host.needed.log_bytes_max(swarm, swarm.recycled_segments.into());
        let Some(used) = running.log.used_bytes() else { return Ok(()) };
        log_is_small(id, used, most)?;
        let (files, bytes) = log_files(&host.disk);
        // The sizes of files that a failing disk did not remove are unknown.
        if host.refused() == 0 {
            log_is_small(id, bytes, most)?;
        }
        let files_max = used / segment_bytes + 1 + host.refused();
        within(Check::LogTakesNoMoreRoomThanItNeeds, id, "files of the log", files, files_max)
    }

    /// Checks the requests that wait at a node after it has accepted one.
    pub(super) fn waiting(&self, at: usize) -> Result<(), Violation> {
        let Some(running) = &self.hosts[at].up else { return Ok(()) };
        let swarm = &self.plan.swarm;
        if swarm.reads_max > 0 {
            let reads = running.reads.len() as u64;
            within(CHECK, at, "reads that wait", reads, swarm.reads_max.into())?;
        }
        if !running.node.is_leader() {
            return Ok(());
        }
        let commit = running.node.commit();
        let waiting = || {
            let ids = running.proposals.keys().filter(|id| id.index > commit);
            ids.filter(|id| id.term == running.node.term())
                .filter_map(|id| running.node.entry(id.index))
        };
        if swarm.log_bytes > 0 {
            let most = swarm.uncommitted_entries_of_a_bounded_log() as u64;
            within(CHECK, at, "entries that wait for commit", waiting().count() as u64, most)?;
        }
        let most = u64::from(swarm.uncommitted_bytes);
        if most == 0 {
            return Ok(());
        }
        // The last one may exceed the bound, since a node accepts one until the bound is reached.
        let last = waiting().next_back().map_or(0, cost_bytes);
        let bytes = waiting().map(cost_bytes).sum::<u64>() - last;
        if bytes >= most && last > 0 {
            let detail =
                format!("node {at}: {bytes} bytes and more wait for commit, at most {most}");
            return violation(CHECK, at, detail);
        }
        Ok(())
    }
}

fn cost_bytes(entry: &Entry) -> u64 {
    entry.cost_bytes() as u64
}

/// Bytes of the entries in memory after the latest ordered snapshot, and of the largest of them.
fn live_bytes<M>(running: &Running<M>) -> (u64, u64) {
    let mut index = running.ordered.unwrap_or_default().max(running.node.base().last.index).next();
    let (mut bytes, mut largest) = (0, 0);
    while let Some(entry) = running.node.entry(index) {
        bytes += cost_bytes(entry);
        largest = cost_bytes(entry).max(largest);
        index = index.next();
    }
    (bytes, largest)
}

/// Bytes of the entries in memory that the node's snapshot covers.
fn retained_bytes<M>(running: &Running<M>) -> u64 {
    let mut index = running.node.base().last.index;
    let mut bytes = 0;
    while let Some(entry) = running.node.entry(index) {
        bytes += cost_bytes(entry);
        index = index.before();
    }
    bytes
}
