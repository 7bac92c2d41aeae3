//! Faults of the plan: how they strike and are lifted.

use crate::app::App;
use crate::cluster::Cluster;
use crate::time::{now_us, sleep_us};
use crate::world::Host;
use madsim::runtime::Handle as Executor;
use raft::{Incarnation, Membership};
use simulator::What;
use simulator::plan::{Fault, FaultKind};
use std::io::ErrorKind;
use storage::testing::{MemDisk, Operation, Verdict};

/// The largest jump of a wall clock, in milliseconds.
const JUMP_MS: u64 = 3_600_000;

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
        let (fault, node, down_us) = {
            let mut world = self.world();
            if world.calm {
                return;
            }
            let fault = fault.resolved(world.observer.latest_leader().map(|(_, node)| node));
            let node = (fault.node % world.plan.nodes) as usize;
            world.note(9, node, fault.kind as u64);
            world.show(node, What::Fault(fault));
            (fault, node, fault.amount)
        };
        match fault.kind {
            FaultKind::Crash => self.crash(node, down_us, "a node crashed"),
            FaultKind::Kill => self.process_ends(node, down_us),
            FaultKind::Stop => self.stops(node, down_us),
            FaultKind::CrashAt => {
                // Layer 1 writes log and snapshots in the same way and covers single operations.
                // Here the fault strikes a whole write.
                self.world().armed.insert((node, FaultKind::CrashWriting), down_us);
            }
            FaultKind::CrashWriting | FaultKind::CrashSending => {
                self.world().armed.insert((node, fault.kind), down_us);
            }
            FaultKind::Pause => self.pause(node, down_us),
            FaultKind::Isolate
            | FaultKind::Deaf
            | FaultKind::Mute
            | FaultKind::Split
            | FaultKind::Bridge
            | FaultKind::Ring => {
                let mut world = self.world();
                world.network.cut(&fault, true);
                world.marks.hit("links were cut");
                drop(world);
                self.lift_after(fault);
            }
            FaultKind::Clock => {
                let mut world = self.world();
                world.pass_time();
                let by_ms = world.clocks.below(2 * JUMP_MS) as i64 - JUMP_MS as i64;
                world.hosts[node].clock.set_rate(fault.amount);
                world.hosts[node].clock.jump(by_ms);
            }
            FaultKind::Clog => self.world().network.clog(node as u64, now_us() + down_us),
            FaultKind::WallJump => {
                let sign = if fault.amount % 2 == 1 { -1 } else { 1 };
                let mut world = self.world();
                world.pass_time();
                world.hosts[node].clock.jump(sign * fault.amount as i64);
            }
            FaultKind::IoError => {
                let mut world = self.world();
                let host = &mut world.hosts[node];
                host.failing = true;
                let mut left = fault.amount % 32;
                host.disk.set_faults(Box::new(move |_| {
                    left = left.wrapping_sub(1);
                    match left {
                        u64::MAX => Verdict::Fails { kind: ErrorKind::Other, done_bytes: 100 },
                        _ => Verdict::Done,
                    }
                }));
            }
            FaultKind::SyncError => {
                let mut world = self.world();
                let host = &mut world.hosts[node];
                host.failing = true;
                host.disk.set_faults(Box::new(|operation| match operation {
                    Operation::Sync { .. } => Verdict::FailsAndForgets,
                    _ => Verdict::Done,
                }));
            }
            FaultKind::Full => {
                let mut world = self.world();
                let host = &mut world.hosts[node];
                host.full = true;
                host.disk.set_capacity(Some(host.disk.used_bytes()));
                drop(world);
                self.lift_after(fault);
            }
            FaultKind::Stall => {
                self.world().hosts[node].stalled_until_us = now_us() + down_us;
            }
            FaultKind::Slow => self.world().hosts[node].slow_until_us = now_us() + down_us,
            // Layer 1 covers all kinds of damage to a log. Here each kind is damage to one byte.
            FaultKind::Rot
            | FaultKind::RotEnd
            | FaultKind::Misdirect
            | FaultKind::LostWrite
            | FaultKind::Unreadable
            | FaultKind::SnapshotRot => self.arm_rot(node, down_us),
            // The state machine on a node belongs to the user, and the simulation cannot flip a bit
            // in it.
            FaultKind::Flip => {}
            FaultKind::Wipe => self.wipe(node, down_us),
        }
    }

    fn lift_after(&self, fault: Fault) {
        let cluster = self.clone();
        self.shared.outside.spawn(async move {
            sleep_us(fault.amount).await;
            let mut world = cluster.world();
            if world.calm {
                return;
            }
            world.show_to_all(What::Lifted(fault));
            if fault.kind == FaultKind::Full {
                let node = (fault.node % world.plan.nodes) as usize;
                world.hosts[node].disk.set_capacity(None);
                world.hosts[node].full = false;
            } else {
                world.network.cut(&fault, false);
            }
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

    /// Replaces the disk by an empty one. The node comes back under its id, but is not a member.
    fn wipe(&self, node: usize, down_us: u64) {
        let ran = self.world().hosts[node].up.is_some();
        if ran {
            self.crash(node, down_us, "a node crashed");
        }
        let mut world = self.world();
        let swarm = world.plan.swarm.clone();
        let host = &mut world.hosts[node];
        let rejoins = host.is_rejoining;
        if rejoins {
            return;
        }
        let incarnation = Incarnation(host.incarnation.0.wrapping_add(1_000));
        let mut fresh = Host::new(node as u64, &swarm, incarnation, Membership::default());
        fresh.lives = host.lives;
        fresh.clock = host.clock.clone();
        fresh.rotten = true;
        fresh.is_stranger = true;
        *host = fresh;
        world.marks.hit("a disk was wiped");
        if !world.sockets {
            return;
        }
        // The node becomes a member again by itself, and then starts.
        let host = &mut world.hosts[node];
        host.disk = MemDisk::new();
        (host.dead, host.is_rejoining) = (true, true);
        drop(world);
        self.shared.outside.spawn(self.clone().rejoin(node));
    }
}
