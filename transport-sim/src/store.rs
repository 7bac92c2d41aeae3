//! The store of a node, where its writes become durable: time passes, the real log writes, and the
//! shadow of the disk is updated.

use crate::app::App;
use crate::cluster::Cluster;
use crate::disk::SimDisk;
use crate::time::{now_us, sleep_us};
use crate::world::{World, log_config};
use driver::StorePort;
use raft::{Durable, Write};
use simulator::checks::{Check, LogChange, Violation};
use simulator::plan::FaultKind;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use storage::{Log, LogStore, PersistError};

/// One write in this many is followed by an audit of what a power failure at that moment would
/// leave.
const AUDIT_ONE_IN: u64 = 61;

/// The log of a running node, and the outstanding write. A crash takes both out.
pub(crate) struct Slot {
    pub log: Option<Log<SimDisk>>,
    pub out: Option<Write>,
}

pub(crate) fn lock(slot: &Mutex<Slot>) -> MutexGuard<'_, Slot> {
    slot.lock().unwrap_or_else(PoisonError::into_inner)
}

/// The interval at which a stalled write checks whether the faults are over.
const STALL_STEP_US: u64 = 20_000;

/// Makes writes durable until the node ends.
pub(crate) async fn run<A: App>(
    cluster: Cluster<A>,
    node: usize,
    number: u64,
    mut port: StorePort,
    slot: Arc<Mutex<Slot>>,
) {
    while let Some(write) = port.next().await {
        lock(&slot).out = Some(write);
        let (sync_us, stall_us, crash) = {
            let mut world = cluster.world();
            let crash = world.armed.remove(&(node, FaultKind::CrashWriting));
            let (swarm, calm) = (world.plan.swarm.clone(), world.calm);
            let election_us = world.plan.election_us();
            let draw = &mut world.disks[node];
            let stalls = draw.chance(swarm.stall_ppm) && !calm;
            let mut stall_us = if stalls { draw.below(u64::from(swarm.stall_us) + 1) } else { 0 };
            let slow_us = draw.below(election_us + 1);
            let host = &world.hosts[node];
            stall_us += host.stalled_until_us.saturating_sub(now_us());
            stall_us += if host.slow_until_us > now_us() { slow_us } else { 0 };
            let draw = &mut world.disks[node];
            (1 + draw.below(2 * u64::from(swarm.sync_us)), stall_us, crash)
        };
        if let Some(down_us) = crash {
            cluster.crash(node, down_us, "a node crashed at an awkward moment");
            return;
        }
        sleep_us(sync_us).await;
        stall(&cluster, stall_us).await;
        let Some(write) = lock(&slot).out.take() else { return };
        let mut store = Checked { cluster: &cluster, node, number, slot: &slot };
        if !port.persist(&mut store, write).await {
            break;
        }
        let due = cluster.world().hosts[node].crash_due_us.take();
        if let Some(down_us) = due {
            cluster.rots(node, down_us);
            return;
        }
    }
    // The node has ended, or its store has failed: the log is closed either way, as
    // `driver::spawn` does.
    let Some(log) = lock(&slot).log.take() else { return };
    if let Err(error) = log.close() {
        let world = cluster.world();
        let host = &world.hosts[node];
        let excused = host.failing || host.full;
        drop(world);
        if !excused {
            let detail = format!("node {node}: {error}");
            cluster.broken(Some(Violation::new(Check::NodeStopsCleanly, node, detail)));
        }
    }
}

/// Stalls a write for a time, at most until the faults are over.
async fn stall<A: App>(cluster: &Cluster<A>, mut for_us: u64) {
    while for_us > 0 && !cluster.is_calm() {
        let step_us = for_us.min(STALL_STEP_US);
        sleep_us(step_us).await;
        for_us -= step_us;
    }
}

/// The log, checked against a shadow of the disk.
struct Checked<'a, A: App> {
    cluster: &'a Cluster<A>,
    node: usize,
    number: u64,
    slot: &'a Mutex<Slot>,
}

impl<A: App> LogStore for Checked<'_, A> {
    fn persist(&mut self, write: Write) -> Result<Durable, PersistError> {
        let change = LogChange::of(&write);
        let result = match &mut lock(self.slot).log {
            Some(log) => log.persist(write),
            None => Err(PersistError::Failed { source: std::io::Error::other("gone") }),
        };
        let mut world = self.cluster.world();
        if world.runs(self.node, self.number).is_none() {
            return result;
        }
        match &result {
            Ok(_) => {
                let host = &mut world.hosts[self.node];
                let taken_back = host.shadow.is_taken_back(&change) && !host.rotten;
                let loss = host.shadow.records_its_loss(self.node, &change).err();
                host.shadow.apply(&change);
                host.writes += 1;
                host.needed.add(&change, host.shadow.base.last.index);
                let last = host.shadow.last().index.0;
                if host.rotting.as_ref().is_some_and(|rotting| host.writes >= rotting.at_write) {
                    host.crash_due_us = host.rotting.as_ref().map(|rotting| rotting.down_us);
                }
                let audit = host.writes.is_multiple_of(AUDIT_ONE_IN);
                world.note(5, self.node, last);
                if world.shown().is_some() {
                    let World { timeline, hosts, .. } = &mut *world;
                    timeline.durable(self.node, &hosts[self.node].shadow);
                }
                let mut broken = None;
                if taken_back {
                    let detail = format!("node {}", self.node);
                    broken = Some(Violation::new(Check::OneVoteATerm, self.node, detail));
                }
                broken = broken.or(loss);
                if audit {
                    broken = broken.or(world.audit(self.node).err());
                }
                drop(world);
                self.cluster.broken(broken);
            }
            Err(PersistError::Full { .. }) => {
                let full = world.hosts[self.node].full;
                world.marks.hit(if full { "a disk was full" } else { "a log reached its bound" });
            }
            Err(_) => {
                world.hosts[self.node].maybe = Some(change);
                world.marks.hit("a sync failed and the node stopped");
            }
        }
        result
    }
}

impl<A: App> World<A> {
    /// Checks that a power failure at this moment would leave everything that was reported durable,
    /// unless damage is planned or done.
    pub fn audit(&self, node: usize) -> Result<(), Violation> {
        let host = &self.hosts[node];
        if host.damaged || host.rotting.is_some() || host.is_rejoining {
            return Ok(());
        }
        host.shadow.is_durable(node, &host.disk, log_config(&self.plan.swarm))
    }
}
