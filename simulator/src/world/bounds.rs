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
use crate::checks::Check;
use crate::node::Running;
use raft::Entry;

const CHECK: Check = Check::MemoryAndLogStayBounded;

/// How many commands may arrive while one batch is applied, at the low request rate after the
/// faults.
const MEANWHILE: u64 = 100;

/// Segments that are in use without being full: the first, the last and the next one.
const BEGUN_SEGMENTS: u64 = 3;

/// The snapshot that the log on the disk begins after, the one of an outstanding write that moves
/// the base, and the one for the write after that.
const SNAPSHOTS_MAX: u64 = 3;

impl<W: Workload> World<'_, W> {
    /// Checks the memory and disk usage of healthy nodes, when all is quiet.
    pub(super) fn bounds(&self) -> Result<(), Violation> {
        let swarm = &self.plan.swarm;
        for (id, running) in self.healthy() {
            let broken = |what: &str, bytes: u64, most: u64| {
                let detail = format!("node {id}: {what}: {bytes} bytes, at most {most}");
                violation(CHECK, id, detail)
            };
            // The next snapshot is ordered `snapshot_bytes` after the last order, even if that one
            // failed.
            let (live, largest) = live_bytes(running);
            let most = u64::from(swarm.snapshot_bytes) + MEANWHILE * largest;
            if live > most {
                return broken("entries that no snapshot stands for", live, most);
            }
            // A leader keeps more for a lagging peer, and drops it some time later.
            let most = u64::from(swarm.retained_bytes.max(swarm.catch_up_bytes));
            let kept = retained_bytes(running);
            if kept > most {
                return broken("entries kept for peers that are behind", kept, most);
            }
            self.log_bounds(id, running)?;
            let paths = self.hosts[id].disk.paths();
            let snapshots: Vec<_> = paths.iter().filter(|p| p.starts_with("snapshots/")).collect();
            // Files that a failing disk did not remove are removed at the next start.
            let left = self.hosts[id].refused;
            let begun = snapshots.iter().filter(|path| path.ends_with(".tmp")).count() as u64;
            if snapshots.len() as u64 > SNAPSHOTS_MAX + left || begun > left {
                return violation(CHECK, id, format!("node {id} keeps {snapshots:?}"));
            }
        }
        Ok(())
    }

    /// Checks the files of a node's log. In every situation their size is bounded by the writes
    /// that are still needed.
    pub(super) fn log_bounds(
        &self,
        id: usize,
        running: &Running<W::Machine>,
    ) -> Result<(), Violation> {
        let (host, swarm) = (&self.hosts[id], &self.plan.swarm);
        let segment_bytes = u64::from(swarm.segment_bytes);
        // A write that does not fit into the rest of a segment leaves the rest unused, and is
        // longer than it. This at most doubles the size.
        let most = 2 * host.needed_bytes()
            + (BEGUN_SEGMENTS + u64::from(swarm.recycled_segments)) * segment_bytes;
        let used = running.log.usage().bytes;
        let files: Vec<usize> = host
            .disk
            .paths()
            .into_iter()
            .filter(|path| path.starts_with("log/"))
            .filter_map(|path| host.disk.read(&path).map(|content| content.len()))
            .collect();
        let bytes = files.iter().sum::<usize>() as u64;
        // The sizes of files that a failing disk did not remove are unknown.
        if used > most || (host.refused == 0 && bytes > most) {
            let detail = format!("node {id}: {used} bytes of log in {bytes}, at most {most}");
            return violation(CHECK, id, detail);
        }
        let files_max = used / segment_bytes.max(1) + 1 + host.refused;
        if files.len() as u64 > files_max {
            let detail =
                format!("node {id}: {} files of the log, at most {files_max}", files.len());
            return violation(CHECK, id, detail);
        }
        Ok(())
    }

    /// Checks the requests that wait at a node after it has accepted one.
    pub(super) fn waiting(&self, at: usize) -> Result<(), Violation> {
        let Some(running) = &self.hosts[at].up else { return Ok(()) };
        let swarm = &self.plan.swarm;
        let (reads, most) = (running.reads.len(), swarm.reads_max);
        if most > 0 && reads > most as usize {
            return violation(CHECK, at, format!("node {at}: {reads} reads wait, at most {most}"));
        }
        let most = u64::from(swarm.uncommitted_bytes);
        if most == 0 || !running.node.is_leader() {
            return Ok(());
        }
        let commit = running.node.commit();
        let waiting = || {
            let ids = running.proposals.keys().filter(|id| id.index > commit);
            ids.filter(|id| id.term == running.node.term())
                .filter_map(|id| running.node.entry(id.index))
        };
        // The last one may exceed the bound, since a node accepts one until the bound is reached.
        let last = waiting().last().map_or(0, cost_bytes);
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
