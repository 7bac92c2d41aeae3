//! How a node goes down, and what survives on its disk.

use crate::app::App;
use crate::cluster::Cluster;
use crate::store;
use crate::time::{now_us, sleep_us};
use crate::world::{Host, World};
use madsim::runtime::Handle as Executor;
use simulator::What;
use simulator::checks::{Check, LogChange, Violation, violation};
use simulator::faults::{self, BEGUN_PPM};
use storage::LogStore;

/// One node in this many that go down restarts at another address, in the runs that have that.
const MOVES_ONE_IN: u64 = 3;
/// The time limit for a clean shutdown, stalls of the disk included, for a node that is not paused.
const STOP_US: u64 = 30_000_000;
/// The time limit for a node to shut down when nothing is left to do.
const SHUTDOWN_US: u64 = 10_000_000;
/// The longest time that a task may outlive its node: a snapshot transfer to a peer that does not
/// answer.
const LINGER_US: u64 = 70_000_000;
/// The interval at which it is checked whether those have ended.
const LINGER_LOOK_US: u64 = 200_000;
/// The interval at which that is checked.
const LOOK_US: u64 = 1_000;

impl<A: App> Cluster<A> {
    /// The power fails. An outstanding write may be on the disk, in part or whole.
    pub(crate) fn crash(&self, node: usize, down_us: u64, mark: &'static str) {
        self.world().marks.hit(mark);
        self.cut_off(node);
        self.power_fails(node, down_us);
    }

    /// Interrupts an outstanding write: it is written and not synced, or not begun.
    pub(crate) fn cut_off(&self, node: usize) {
        let mut world = self.world();
        let begun = world.disks[node].chance(BEGUN_PPM);
        let host = &mut world.hosts[node];
        let Some(up) = &host.up else { return };
        let mut slot = store::lock(&up.slot);
        let Some(write) = slot.out.take() else { return };
        if !begun {
            return;
        }
        host.maybe = Some(LogChange::of(&write));
        faults::fail_syncs(&host.disk);
        if let Some(log) = &mut slot.log {
            let _ = log.persist(write);
        }
        drop(slot);
        world.marks.hit("a crash met a write");
    }

    pub(crate) fn power_fails(&self, node: usize, down_us: u64) {
        if self.goes_down(node, down_us) {
            self.world().lose_unsynced(node);
        }
    }

    pub(crate) fn process_ends(&self, node: usize, down_us: u64) {
        self.cut_off(node);
        if self.goes_down(node, down_us) {
            let mut world = self.world();
            world.hosts[node].disk.kill();
            world.marks.hit("a process ended");
        }
    }

    /// Tells a node to hand leadership over, while clients send requests and other work goes on.
    pub(crate) fn transfers(&self, node: usize, amount: u64) {
        let (handle, to) = {
            let world = self.world();
            let Some(up) = &world.hosts[node].up else { return };
            (up.handle.clone(), amount % world.plan.nodes)
        };
        let to = (to != node as u64).then_some(raft::NodeId(to));
        let cluster = self.clone();
        self.shared.outside.spawn(async move {
            if handle.transfer(to).await.is_ok() {
                cluster.mark("a leader handed over");
            }
        });
    }

    /// Requests a clean shutdown while clients send requests and other work goes on. It succeeds
    /// unless another fault strikes the node meanwhile.
    pub(crate) fn stops(&self, node: usize, down_us: u64) {
        let (handle, number, slot) = {
            let world = self.world();
            let Some(up) = &world.hosts[node].up else { return };
            (up.handle.clone(), up.number, up.slot.clone())
        };
        let cluster = self.clone();
        self.shared.outside.spawn(async move {
            let told_us = now_us();
            let mut awake_us = 0;
            let mut told = Some(Box::pin(async move { handle.shutdown().await }));
            loop {
                if let Some(shutdown) = &mut told {
                    tokio::select! {
                        biased;
                        () = shutdown => told = None,
                        () = sleep_us(LOOK_US) => {}
                    }
                } else {
                    sleep_us(LOOK_US).await;
                }
                if cluster.world().runs(node, number).is_none() {
                    return;
                }
                let closed = store::lock(&slot).log.is_none();
                if told.is_none() && closed {
                    cluster.mark("a node stopped cleanly");
                    break;
                }
                if cluster.world().hosts[node].paused == 0 {
                    awake_us += LOOK_US;
                }
                if awake_us > STOP_US {
                    let detail = format!("node {node}, told {} µs ago", now_us() - told_us);
                    let broken = Some(Violation::new(Check::NodeEndsWhenItIsToldTo, node, detail));
                    return cluster.broken(broken);
                }
            }
            cluster.process_ends(node, down_us);
        });
    }

    /// The power fails, and a byte of the log is damaged when the node comes back.
    pub(crate) fn rots(&self, node: usize, down_us: u64) {
        let Some(rotting) = self.world().hosts[node].rotting.take() else { return };
        self.crash(node, down_us, "a node crashed");
        let mut world = self.world();
        let host = &mut world.hosts[node];
        // The file may have been freed or recycled meanwhile.
        let content = host.disk.read(&rotting.path).unwrap_or_default();
        if content.starts_with(&rotting.found) {
            let byte = content[rotting.offset as usize] ^ rotting.mask;
            host.disk.damage(&rotting.path, rotting.offset, &[byte]);
            (host.rotten, host.damaged) = (true, true);
            world.marks.hit("a log rotted");
        }
    }

    /// Checks that every node shuts down on request and leaves no task behind.
    pub(crate) async fn shut_down(&self) -> Result<(), Violation> {
        let ups: Vec<_> = {
            let world = self.world();
            let hosts = world.hosts.iter().enumerate();
            hosts.filter_map(|(id, host)| Some((id, host.up.as_ref()?.handle.clone()))).collect()
        };
        for (id, handle) in ups {
            let ended = tokio::select! {
                biased;
                () = handle.shutdown() => true,
                () = sleep_us(SHUTDOWN_US) => false,
            };
            if !ended {
                return violation(Check::NodeEndsWhenItIsToldTo, id, format!("node {id}"));
            }
        }
        let names: Vec<String> = {
            let mut world = self.world();
            let numbers: Vec<u64> = world.hosts.iter().map(|host| host.lives).collect();
            // Drops everything that the node holds.
            for node in 0..numbers.len() {
                if world.hosts[node].up.take().is_some() {
                    world.show(node, What::Down);
                }
            }
            numbers.iter().enumerate().map(|(id, number)| format!("{id}.{number}")).collect()
        };
        // A timer that was started on a slow clock keeps its length when the clock is right again.
        let until_us = now_us() + LINGER_US * 1_000 / self.plan().slowest_clock();
        loop {
            let tasks = Executor::current().metrics().num_tasks_by_node();
            let left: Vec<_> = tasks
                .into_iter()
                .filter(|(name, tasks)| names.contains(name) && *tasks > 0)
                .collect();
            if left.is_empty() {
                break;
            }
            if now_us() >= until_us {
                return violation(Check::NothingIsLeftOfANode, (), format!("tasks: {left:?}"));
            }
            sleep_us(LINGER_LOOK_US).await;
        }
        let world = self.world();
        (0..world.hosts.len()).try_for_each(|node| world.audit(node))
    }

    /// Takes a node down: its tasks are dropped at whichever await point they have reached. Returns
    /// whether it was running.
    fn goes_down(&self, node: usize, down_us: u64) -> bool {
        let mut world = self.world();
        let host = &mut world.hosts[node];
        let Some(up) = host.up.take() else { return false };
        up.life.end();
        host.disk.clear_faults();
        host.failing = false;
        host.crash_due_us = None;
        let log = store::lock(&up.slot).log.take();
        world.note(6, node, down_us);
        world.show(node, What::Down);
        let (moves, wipe) = (world.moves(node), world.hosts[node].wipes);
        drop(world);
        Executor::current().kill(up.machine.id());
        // Not under the lock: destructors may take it.
        drop((log, up));
        if moves {
            self.mark("a node restarted at another address");
            self.shared.outside.spawn(self.clone().declare_address(node, wipe));
        }
        self.start_after(node, down_us);
        true
    }
}

impl<A: App> World<A> {
    /// Draws whether a node that is down will restart at another address. Two that have moved find
    /// each other without a third only if their configurations list their peers; otherwise one node
    /// at a time moves.
    fn moves(&mut self, node: usize) -> bool {
        let is_lost = |host: &Host<A>| host.is_elsewhere && !self.has_lists;
        let mut all = self.hosts.iter();
        let is_settled = !all.any(|host| is_lost(host) || host.is_leaving || host.is_rejoining);
        let Some(draw) = &mut self.moves else { return false };
        let moves = is_settled && !self.over && draw.below(MOVES_ONE_IN) == 0;
        let host = &mut self.hosts[node];
        if let (true, Some(moved)) = (moves, host.moves.checked_add(1)) {
            (host.moves, host.is_elsewhere) = (moved, true);
        }
        let elsewhere = self.hosts.iter().filter(|host| host.is_elsewhere).count();
        if moves && elsewhere > 1 {
            self.marks.hit("several nodes were at other addresses");
        }
        moves && self.hosts[node].is_elsewhere
    }

    /// Each unsynced sector is lost, kept or torn.
    pub(crate) fn lose_unsynced(&mut self, node: usize) {
        let (disk, draw) = (&self.hosts[node].disk, &mut self.disks[node]);
        if faults::lose_unsynced(disk, &self.plan.swarm, draw) {
            self.marks.hit("a write was torn");
        }
    }
}
