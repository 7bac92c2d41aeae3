//! Watches a node while it works: runs the observer's checks after each input to its core and each
//! entry that its state machine applies.

use crate::app::App;
use crate::cluster::Cluster;
use driver::{Answer, Decision, ErasedMachine, Frozen, Inspect, Replica};
use raft::{Entry, Index, LogId, RawNode, Snapshot};
use simulator::What;
use simulator::checks::{Check, Violation, has_answer};

pub(crate) struct Watch<A: App> {
    pub cluster: Cluster<A>,
    pub node: usize,
    pub number: u64,
}

impl<A: App> Inspect for Watch<A> {
    fn started(&self, node: &RawNode) {
        let mut world = self.cluster.world();
        world.observer.started(self.node, node);
        if let Some(timeline) = world.shown() {
            timeline.started(self.node, node, Index(0));
        }
    }

    fn look(&self, node: &RawNode) {
        let mut world = self.cluster.world();
        if world.runs(self.node, self.number).is_none() {
            return;
        }
        let broken = world.look(self.node, node).err();
        drop(world);
        self.cluster.broken(broken);
    }

    fn applied(&self, entry: &Entry, answer: &Answer, replica: &Replica<ErasedMachine>) {
        let own = replica.machine().downcast_ref().expect("the app has made it");
        if let Err(detail) = self.cluster.shared.app.invariant(own) {
            let check = Check::InvariantOfTheStateMachine;
            self.cluster.broken(Some(Violation::new(check, (self.node, entry.id), detail)));
        }
        let mut world = self.cluster.world();
        let Some(up) = world.runs(self.node, self.number) else { return };
        let before = std::mem::replace(&mut up.applied, entry.id.index);
        if let Some(timeline) = world.shown() {
            timeline.applied(self.node, entry.id.index);
        }
        let answer = has_answer(&entry.payload).then_some(answer);
        let broken = world.observer.applied(self.node, before, entry, answer).err();
        world.note(7, self.node, entry.id.index.0);
        drop(world);
        self.cluster.broken(broken);
    }

    fn decided(&self, id: LogId, outcome: &Decision) {
        let mut world = self.cluster.world();
        if world.runs(self.node, self.number).is_none() {
            return;
        }
        let broken = world.decided(self.node, id, outcome).err();
        drop(world);
        self.cluster.broken(broken);
    }

    fn restored(&self, snapshot: &Snapshot, replica: &Replica<ErasedMachine>) {
        let mut world = self.cluster.world();
        let last = snapshot.last;
        let id = world.observer.id_at(last.index);
        let Some(up) = world.runs(self.node, self.number) else { return };
        let first = up.applied == Index(0);
        up.applied = last.index;
        if last.index == Index(0) {
            return;
        }
        world.marks.hit(match first {
            true => "a node restarted from a snapshot",
            false => "a snapshot was installed",
        });
        world.note(8, self.node, last.index.0);
        if !first {
            world.show(self.node, What::Installed(last));
        }
        let mut broken = None;
        if id != Some(last) {
            let detail = format!("node {}: {last}", self.node);
            broken =
                Some(Violation::new(Check::RestoredSnapshotIsCommitted, (self.node, last), detail));
        }
        drop(world);
        self.cluster.broken(broken.or_else(|| self.compare(snapshot, replica)));
    }
}

impl<A: App> Watch<A> {
    /// Checks that a snapshot of the restored state equals the one it was restored from.
    fn compare(&self, snapshot: &Snapshot, replica: &Replica<ErasedMachine>) -> Option<Violation> {
        let state = bytes_of(&replica.freeze());
        let kept = self.cluster.snapshot_bytes(self.node, snapshot.last)?;
        if kept == state {
            return None;
        }
        let detail =
            format!("node {}: the state restored from {} differs", self.node, snapshot.last);
        Some(Violation::new(Check::SnapshotIsTheState, (self.node, snapshot.last), detail))
    }
}

/// A state, as encoded in a snapshot.
pub(crate) fn bytes_of(frozen: &impl Frozen) -> Vec<u8> {
    let mut bytes = Vec::new();
    frozen.write(&mut bytes).expect("memory takes it");
    bytes
}
