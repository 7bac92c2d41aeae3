//! Bounds: what a node keeps follows from the sizes that it was told, however long it has run.
//!
//! Looked at in the end, when no fault can be the reason for more, the files of the log meanwhile too. In
//! memory: entries that no snapshot
//! stands for, and those that are kept for peers that are behind. On the disk: segments that hold
//! something of use, a few to be used next, the latest snapshots, and nothing that was begun and left.
//! While a run goes on: what clients wait for, at each node.

use super::*;
use crate::checks::Check;
use crate::node::Running;
use raft::Entry;

const CHECK: Check = Check::MemoryAndLogStayBounded;

/// How many commands may come while one batch is applied, when clients ask seldom.
const MEANWHILE: u64 = 100;

/// Segments that are in use though not full: where the log begins, where it ends, and the next one.
const BEGUN_SEGMENTS: u64 = 3;

/// One snapshot that the log on the disk begins after, one that a write which is out makes it begin
/// after, and one for the write after that.
const SNAPSHOTS_MAX: u64 = 3;

impl<W: Workload> World<'_, W> {
    /// Looks at what healthy nodes keep, when all is quiet.
    pub(super) fn bounds(&self) -> Result<(), Violation> {
        let swarm = &self.plan.swarm;
        for (id, running) in self.healthy() {
            let broken = |what: &str, bytes: u64, most: u64| {
                let detail = format!("node {id}: {what}: {bytes} bytes, at most {most}");
                violation(CHECK, detail)
            };
            // The next snapshot is ordered when so much has been applied since the last order, whatever
            // became of that.
            let (live, largest) = live_bytes(running);
            let most = u64::from(swarm.snapshot_bytes) + MEANWHILE * largest;
            if live > most {
                return broken("entries that no snapshot stands for", live, most);
            }
            // A leader keeps more for a peer that is behind, and lets go of it some time later.
            let most = u64::from(swarm.retained_bytes.max(swarm.catch_up_bytes));
            let kept = retained_bytes(running);
            if kept > most {
                return broken("entries kept for peers that are behind", kept, most);
            }
            self.log_bounds(id, running)?;
            let paths = self.hosts[id].disk.paths();
            let snapshots: Vec<_> = paths.iter().filter(|p| p.starts_with("snapshots/")).collect();
            // What a failing disk refused to remove is removed when the node starts again.
            let left = self.hosts[id].refused;
            let begun = snapshots.iter().filter(|path| path.ends_with(".tmp")).count() as u64;
            if snapshots.len() as u64 > SNAPSHOTS_MAX + left || begun > left {
                return violation(CHECK, format!("node {id} keeps {snapshots:?}"));
            }
        }
        Ok(())
    }

    /// Looks at the files of a node's log. Whatever happens, they follow from what it has written and
    /// still needs.
    pub(super) fn log_bounds(
        &self,
        id: usize,
        running: &Running<W::Machine>,
    ) -> Result<(), Violation> {
        let (host, swarm) = (&self.hosts[id], &self.plan.swarm);
        let segment_bytes = u64::from(swarm.segment_bytes);
        // What does not fit into the rest of a segment leaves it empty, and is longer than it.
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
        // Of each that a failing disk refused to remove, nothing is known.
        if used > most || (host.refused == 0 && bytes > most) {
            let detail = format!("node {id}: {used} bytes of log in {bytes}, at most {most}");
            return violation(CHECK, detail);
        }
        let files_max = used / segment_bytes.max(1) + 1 + host.refused;
        if files.len() as u64 > files_max {
            let detail =
                format!("node {id}: {} files of the log, at most {files_max}", files.len());
            return violation(CHECK, detail);
        }
        Ok(())
    }

    /// A node has taken a request: what waits there is bounded too.
    pub(super) fn waiting(&self, at: usize) -> Result<(), Violation> {
        let Some(running) = &self.hosts[at].up else { return Ok(()) };
        let swarm = &self.plan.swarm;
        let (reads, most) = (running.reads.len(), swarm.reads_max);
        if most > 0 && reads > most as usize {
            return violation(CHECK, format!("node {at}: {reads} reads wait, at most {most}"));
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
        // The last one may pass the bound, for there is room as long as it is not reached.
        let last = waiting().last().map_or(0, cost_bytes);
        let bytes = waiting().map(cost_bytes).sum::<u64>() - last;
        if bytes >= most && last > 0 {
            let detail =
                format!("node {at}: {bytes} bytes and more wait for commit, at most {most}");
            return violation(CHECK, detail);
        }
        Ok(())
    }
}

fn cost_bytes(entry: &Entry) -> u64 {
    entry.cost_bytes() as u64
}

/// What a node has in memory after the latest snapshot that was ordered, and the largest entry of it.
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

/// What a node has in memory though its snapshot stands for it.
fn retained_bytes<M>(running: &Running<M>) -> u64 {
    let mut index = running.node.base().last.index;
    let mut bytes = 0;
    while let Some(entry) = running.node.entry(index) {
        bytes += cost_bytes(entry);
        index = index.before();
    }
    bytes
}
