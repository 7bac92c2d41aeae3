//! Bounds: what a node keeps follows from the sizes that it was told, however long it has run.
//!
//! Looked at in the end, when no fault can be the reason for more. In memory: entries that no snapshot
//! stands for, and those that are kept for peers that are behind. On the disk: segments that hold
//! something of use, a few to be used next, one snapshot or two, and nothing that was begun and left.
//! While a run goes on: what clients wait for, at each node.

use super::*;
use crate::node::{RECYCLED_SEGMENTS, Running};
use raft::Entry;

const CHECK: &str = "memory and log stay bounded";

/// How many commands may come while a snapshot is written.
const MEANWHILE: u64 = 100;

/// Segments that are in use though not full: where the log begins, where it ends, and the next one.
const BEGUN_SEGMENTS: u64 = 3;

/// One snapshot that the log on the disk begins after, one that it is about to, and one in the making.
const SNAPSHOTS_MAX: usize = 3;

impl<W: Workload> World<'_, W> {
    /// Looks at what healthy nodes keep, when all is quiet.
    pub(super) fn bounds(&self) -> Result<(), Violation> {
        let swarm = &self.plan.swarm;
        let command_bytes = u64::from(swarm.padding_bytes) + 200;
        let meanwhile_bytes = MEANWHILE * command_bytes;
        for (id, running) in self.healthy() {
            let host = &self.hosts[id];
            let broken = |what: &str, bytes: u64, most: u64| {
                let detail = format!("node {id}: {what}: {bytes} bytes, at most {most}");
                violation(CHECK, detail)
            };
            let live: u64 = host.shadow.entries.iter().map(cost_bytes).sum();
            // A snapshot that failed is tried again only after as much once more.
            let most = 2 * u64::from(swarm.snapshot_bytes) + meanwhile_bytes;
            if live > most {
                return broken("entries after the snapshot", live, most);
            }
            let (kept, most) = (retained_bytes(running), u64::from(swarm.retained_bytes));
            if kept > most {
                return broken("entries kept for peers that are behind", kept, most);
            }
            let segment_bytes = u64::from(swarm.segment_bytes);
            // What does not fit into the rest of a segment leaves it empty, and is longer than it.
            let most =
                2 * host.needed_bytes() + (BEGUN_SEGMENTS + RECYCLED_SEGMENTS) * segment_bytes;
            let used = running.log.usage().bytes;
            if used > most {
                return broken("the log on the disk", used, most);
            }
            let paths = host.disk.paths();
            let snapshots: Vec<_> = paths.iter().filter(|p| p.starts_with("snapshots/")).collect();
            if snapshots.len() > SNAPSHOTS_MAX {
                return violation(CHECK, format!("node {id} keeps {snapshots:?}"));
            }
            let segments = paths.iter().filter(|path| path.starts_with("log/")).count() as u64;
            let most = used / segment_bytes.max(1) + 1;
            if segments > most {
                let detail = format!("node {id}: {segments} files of the log, at most {most}");
                return violation(CHECK, detail);
            }
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
