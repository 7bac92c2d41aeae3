//! The snapshots that nodes have finished: taken by themselves, or received from a peer.
//!
//! A snapshot counts as finished once its file has its final name. The node may never need it, for
//! instance because the log went on meanwhile. But the log of a later start may begin after it.

use crate::app::App;
use crate::cluster::Cluster;
use crate::disk::NameChange;
use driver::Prefix;
use raft::LogId;
use simulator::checks::{Check, Violation, read};
use std::collections::BTreeMap;
use storage::Snapshots;
use storage::testing::MemDisk;

/// The most snapshots that are remembered. Later ones replace the earliest.
const SNAPSHOTS_MAX: usize = 64;
/// The folder of snapshots.
const DIR: &str = "snapshots/";
/// The ending of the name of a snapshot that is finished.
const ENDING: &str = ".snap";

/// Length and checksum of the state of each snapshot, and the node that has finished it first.
#[derive(Debug, Default)]
pub(crate) struct Finished(BTreeMap<LogId, (Prefix, usize)>);

impl Finished {
    /// Compares the state in a snapshot of a node with that of others.
    fn compare(&mut self, node: usize, id: LogId, state: &[u8]) -> Option<Violation> {
        let mut whole = Prefix::default();
        whole.add(state);
        let (known, first) = *self.0.entry(id).or_insert((whole, node));
        while self.0.len() > SNAPSHOTS_MAX {
            self.0.pop_first();
        }
        if known == whole {
            return None;
        }
        let detail = format!("{id} is {whole:?} at node {node}, and {known:?} at node {first}");
        Some(Violation::new(Check::SnapshotsOfOneEntryAreEqual, ([first, node], id), detail))
    }
}

impl<A: App> Cluster<A> {
    /// A node has renamed or removed a file: checks it if it is a snapshot that is finished.
    pub(crate) fn name_changed(&self, node: usize, change: NameChange, path: &str) {
        if !path.starts_with(DIR) || !path.ends_with(ENDING) {
            return;
        }
        match change {
            NameChange::Renamed => self.is_finished(node, path),
            NameChange::Removed => self.is_removed(node, path),
        }
    }

    /// Checks that a snapshot which is removed is not one that the node may have to send again.
    fn is_removed(&self, node: usize, path: &str) {
        let world = self.world();
        let Some(up) = &world.hosts[node].up else { return };
        let is_it =
            |id: &&LogId| path == format!("{DIR}{:016x}-{:016x}{ENDING}", id.index.0, id.term.0);
        let Some(offered) = up.offered.iter().find(is_it).copied() else { return };
        drop(world);
        let detail = format!("node {node} has removed {offered}");
        let check = Check::OfferedSnapshotIsKept;
        self.broken(Some(Violation::new(check, (node, offered), detail)));
    }

    fn is_finished(&self, node: usize, path: &str) {
        let mut world = self.world();
        let Some(content) = world.hosts[node].disk.read(path) else { return };
        let copy = MemDisk::new();
        copy.install(path, &content);
        let read = Snapshots::new(copy).map_err(|error| error.to_string()).and_then(|snapshots| {
            let id = snapshots.list().ok().and_then(|list| list.first().copied());
            let id = id.ok_or_else(|| "it has no name of a snapshot".to_owned())?;
            Ok((id, read(&snapshots, id)?))
        });
        let broken = match read {
            Ok((id, state)) => world.finished.compare(node, id, &state),
            Err(error) => {
                let detail = format!("{path} of node {node}: {error}");
                Some(Violation::new(Check::SnapshotsOfOneEntryAreEqual, node, detail))
            }
        };
        drop(world);
        self.broken(broken);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn two_snapshots_of_one_entry_are_compared() {
        let mut finished = Finished::default();
        let id = LogId::new(7, 2);
        assert_eq!(finished.compare(0, id, b"state"), None);
        assert_eq!(finished.compare(1, id, b"state"), None);
        assert_eq!(finished.compare(1, LogId::new(8, 2), b"later"), None);
        let broken = finished.compare(2, id, b"stale").expect("another state");
        assert_eq!(broken.check, Check::SnapshotsOfOneEntryAreEqual);
    }
}
