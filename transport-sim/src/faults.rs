//! Faults of the plan: when they strike, and what those do that only whole nodes can suffer. The
//! others are in [`simulator::faults`].

use crate::app::App;
use crate::cluster::Cluster;
use crate::time::{now_us, sleep_us};
use crate::world::{Host, World};
use madsim::runtime::Handle as Executor;
use raft::{Incarnation, Membership};
use simulator::What;
use simulator::faults::{self, Drive, Faulty, Struck};
use simulator::network::Network;
use simulator::plan::{Fault, FaultKind};
use std::collections::BTreeMap;
use storage::testing::MemDisk;

/// The largest jump of a wall clock, in milliseconds.
const JUMP_MS: u64 = 3_600_000;

/// Number of bytes that a disk operation does before it fails.
const DONE_BYTES: usize = 100;

impl<A: App> Faulty for World<A> {
    fn now_us(&self) -> u64 {
        now_us()
    }

    fn network(&mut self) -> &mut Network {
        &mut self.network
    }

    fn drive(&mut self, node: usize) -> Drive<'_> {
        let Host { disk, failing, full, stalled_until_us, slow_until_us, .. } =
            &mut self.hosts[node];
        Drive { disk, failing, full, stalled_until_us, slow_until_us }
    }

    fn armed(&mut self) -> &mut BTreeMap<(usize, FaultKind), u64> {
        &mut self.armed
    }

    fn done_bytes(&mut self, _node: usize) -> usize {
        DONE_BYTES
    }
}

impl<A: App> Cluster<A> {
    /// Makes all faults of the plan strike, each at its time.
    pub(crate) async fn strike_all(self) {
        let plan = self.plan();
        let mut faults = plan.faults.clone();
        faults.sort_by_key(|fault| fault.at_us);
        for fault in faults {
            let at_us = self.world().begun_us + fault.at_us;
            let wait_us = at_us.saturating_sub(now_us());
            if wait_us > 0 {
                sleep_us(wait_us).await;
            }
            self.strike(fault);
        }
    }

    fn strike(&self, fault: Fault) {
        let (fault, node, struck) = {
            let mut world = self.world();
            if world.calm {
                return;
            }
            let fault = fault.resolved(world.observer.latest_leader().map(|(_, node)| node));
            let node = (fault.node % world.plan.nodes) as usize;
            world.note(9, node, fault.kind as u64);
            world.show(node, What::Fault(fault));
            let struck = faults::strike(&mut *world, node, &fault);
            if struck == Struck::Lasts && fault.kind != FaultKind::Full {
                world.marks.hit("links were cut");
            }
            (fault, node, struck)
        };
        match struck {
            Struck::Done => {}
            Struck::Lasts => self.lift_after(node, fault),
            Struck::NotYet => self.strike_here(node, fault),
        }
    }

    fn strike_here(&self, node: usize, fault: Fault) {
        let down_us = fault.amount;
        match fault.kind {
            FaultKind::Crash => self.crash(node, down_us, "a node crashed"),
            FaultKind::Kill => self.process_ends(node, down_us),
            FaultKind::Stop => self.stops(node, down_us),
            FaultKind::CrashAt => {
                // Layer 1 writes log and snapshots in the same way and covers single operations.
                // Here the fault strikes a whole write.
                self.world().armed.insert((node, FaultKind::CrashWriting), down_us);
            }
            FaultKind::Pause => self.pause(node, down_us),
            FaultKind::Clock => {
                let mut world = self.world();
                world.pass_time();
                let by_ms = world.clocks.below(2 * JUMP_MS) as i64 - JUMP_MS as i64;
                let per_mille = world.plan.swarm.clock_rate(fault.amount);
                world.hosts[node].clock.set_rate(per_mille);
                world.hosts[node].clock.jump(by_ms);
            }
            FaultKind::WallJump => {
                let sign = if fault.amount % 2 == 1 { -1 } else { 1 };
                let mut world = self.world();
                world.pass_time();
                world.hosts[node].clock.jump(sign * fault.amount as i64);
            }
            // Layer 1 covers all kinds of damage to a log. Here each kind is damage to one byte.
            FaultKind::Rot
            | FaultKind::RotEnd
            | FaultKind::RotWriting
            | FaultKind::Misdirect
            | FaultKind::LostWrite
            | FaultKind::Unreadable
            | FaultKind::SnapshotRot => self.arm_rot(node, down_us),
            // The state machine on a node belongs to the user, and the simulation cannot flip a bit
            // in it.
            FaultKind::Flip => {}
            FaultKind::Wipe => self.wipe(node, down_us),
            FaultKind::Transfer => self.transfers(node, fault.amount),
            FaultKind::Replace => self.replaces(node),
            FaultKind::Members => self.declares(fault.amount),
            // Layer 1 covers it.
            FaultKind::ClockBack => {}
            FaultKind::CrashWriting
            | FaultKind::CrashSending
            | FaultKind::Isolate
            | FaultKind::Deaf
            | FaultKind::Mute
            | FaultKind::Split
            | FaultKind::Bridge
            | FaultKind::Ring
            | FaultKind::Clog
            | FaultKind::SyncError
            | FaultKind::IoError
            | FaultKind::Full
            | FaultKind::Stall
            | FaultKind::Slow => unreachable!("`faults::strike` does these"),
        }
    }

    /// Ends all faults, and starts all nodes that are down.
    pub(crate) fn calm_down(&self) {
        let mut world = self.world();
        world.calm = true;
        let nodes = world.hosts.len();
        faults::lift_all(&mut *world, nodes);
        world.note(11, 0, 0);
        world.show_to_all(What::Calm);
        for host in &mut world.hosts {
            host.rotting = None;
            host.crash_due_us = None;
            host.disk.clear_faults();
            host.failing = false;
            host.clock.set_rate(1_000);
            host.paused = host.paused.min(1);
        }
        drop(world);
        for node in 0..nodes {
            let number = self.world().hosts[node].lives;
            self.resume(node, number);
            self.start(node);
        }
    }

    fn lift_after(&self, node: usize, fault: Fault) {
        let cluster = self.clone();
        self.shared.outside.spawn(async move {
            sleep_us(fault.amount).await;
            let mut world = cluster.world();
            if world.calm {
                return;
            }
            world.show_to_all(What::Lifted(fault));
            faults::lift(&mut *world, node, &fault);
        });
    }

    /// Suspends a node for a while; then it continues.
    fn pause(&self, node: usize, for_us: u64) {
        let mut world = self.world();
        let Some(up) = &world.hosts[node].up else { return };
        let (id, number) = (up.machine.id(), up.number);
        world.hosts[node].paused += 1;
        world.marks.hit("a node was paused");
        drop(world);
        Executor::current().pause(id);
        let cluster = self.clone();
        self.shared.outside.spawn(async move {
            sleep_us(for_us).await;
            cluster.resume(node, number);
        });
    }

    pub(crate) fn resume(&self, node: usize, number: u64) {
        let mut world = self.world();
        let Some(up) = world.runs(node, number) else { return };
        let id = up.machine.id();
        let host = &mut world.hosts[node];
        host.paused = host.paused.saturating_sub(1);
        if host.paused == 0 {
            drop(world);
            Executor::current().resume(id);
        }
    }

    /// Lets an operator declare other voters, unless he is about to do so.
    fn declares(&self, amount: u64) {
        if !std::mem::replace(&mut self.world().declares_voters, true) {
            self.shared.outside.spawn(self.clone().declare_voters(amount));
        }
    }

    /// Lets an operator replace a member that is well, if nodes join here at all. If one node may
    /// lose data, the others are needed, and it is that one.
    fn replaces(&self, node: usize) {
        let mut world = self.world();
        let losing = world.plan.faults.iter().find(|fault| fault.kind.forgets());
        let node = losing.map_or(node, |fault| (fault.node % world.plan.nodes) as usize);
        let can = world.sockets && world.plan.nodes >= 3;
        let is_busy = world.hosts.iter().any(|host| host.is_leaving || host.is_rejoining);
        let host = &mut world.hosts[node];
        let is_well = host.up.is_some() && !host.is_elsewhere && !host.is_stranger;
        if !can || is_busy || !is_well {
            return;
        }
        (host.is_leaving, host.is_stranger) = (true, true);
        drop(world);
        self.shared.outside.spawn(self.clone().replace(node));
    }

    /// The node loses its disk.
    fn wipe(&self, node: usize, down_us: u64) {
        let ran = self.world().hosts[node].up.is_some();
        if ran {
            self.crash(node, down_us, "a node crashed");
        }
        let is_replaced = {
            let world = self.world();
            world.hosts[node].is_leaving || world.hosts[node].is_rejoining
        };
        if !is_replaced {
            self.empties(node);
        }
    }

    /// Replaces the disk by an empty one. The node comes back under its id, but is not a member.
    pub(crate) fn empties(&self, node: usize) {
        if self.world().hosts[node].up.is_some() {
            self.crash(node, 1, "a node crashed");
        }
        let mut world = self.world();
        let swarm = world.plan.swarm.clone();
        let host = &mut world.hosts[node];
        let incarnation = Incarnation(host.incarnation.0.wrapping_add(1_000));
        let mut fresh = Host::new(node as u64, &swarm, incarnation, Membership::default());
        fresh.lives = host.lives;
        fresh.clock = host.clock.clone();
        fresh.wipes = host.wipes + 1;
        fresh.moves = host.moves;
        fresh.rotten = true;
        fresh.is_stranger = true;
        *host = fresh;
        world.marks.hit("a disk was wiped");
        if !world.sockets {
            return;
        }
        // An operator removes the member and adds it again.
        let host = &mut world.hosts[node];
        host.disk = MemDisk::new();
        (host.dead, host.is_rejoining) = (true, true);
        drop(world);
        self.shared.outside.spawn(self.clone().rejoin(node));
    }
}
