//! Faults that strike all simulations in the same way: those of links, and of a disk's operations.
//!
//! How a node goes down, how its clock moves and how its data is damaged depends on the simulation.

use crate::network::Network;
use crate::plan::{Fault, FaultKind, Swarm};
use crate::random::Stream;
use std::collections::BTreeMap;
use std::io::ErrorKind;
use storage::testing::{DiskOperation, DiskVerdict, MemDisk, SectorFate, Unsynced};

/// Delay before a node is started again whose disk failed at the start.
pub const START_RETRY_US: u64 = 50_000;

/// The chance that the power fails too when a process ends on a disk error.
pub const POWER_FAILS_TOO_PPM: u32 = 500_000;

/// The chance that a write which a crash interrupts was begun.
pub const BEGUN_PPM: u32 = 700_000;

/// Planned damage takes effect after this many further writes.
pub const ROT_WRITES: u64 = 2;

/// The disk of a node, and the faults that it has.
pub struct Drive<'a> {
    /// The disk.
    pub disk: &'a MemDisk,
    /// It returns errors.
    pub failing: &'a mut bool,
    /// It is full.
    pub full: &'a mut bool,
    /// It completes no write before this time.
    pub stalled_until_us: &'a mut u64,
    /// It is slow until this time.
    pub slow_until_us: &'a mut u64,
}

/// A simulation that faults can strike.
pub trait Faulty {
    /// The simulated time, in microseconds.
    fn now_us(&self) -> u64;

    /// The links between nodes.
    fn network(&mut self) -> &mut Network;

    /// The disk of a node.
    fn drive(&mut self, node: usize) -> Drive<'_>;

    /// Nodes that crash at their next write or message, and how long they stay down.
    fn armed(&mut self) -> &mut BTreeMap<(usize, FaultKind), u64>;

    /// Number of bytes that an operation of this node's disk does before it fails.
    fn done_bytes(&mut self, node: usize) -> usize;
}

/// The work that is left after [`strike`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Struck {
    /// Nothing.
    Done,
    /// The fault must be lifted after its duration, see [`lift`].
    Lasts,
    /// Everything: only the simulation can do it.
    NotYet,
}

/// Makes a fault strike a node.
pub fn strike(world: &mut impl Faulty, node: usize, fault: &Fault) -> Struck {
    let until_us = world.now_us() + fault.amount;
    match fault.kind {
        FaultKind::CrashWriting | FaultKind::CrashSending => {
            world.armed().insert((node, fault.kind), fault.amount);
        }
        FaultKind::Isolate
        | FaultKind::Deaf
        | FaultKind::Mute
        | FaultKind::Split
        | FaultKind::Bridge
        | FaultKind::Ring => {
            world.network().cut(fault, true);
            return Struck::Lasts;
        }
        FaultKind::Clog => world.network().clog(node as u64, until_us),
        FaultKind::SyncError => fail_next_sync(&mut world.drive(node)),
        FaultKind::IoError => {
            let done_bytes = world.done_bytes(node);
            fail_operation(&mut world.drive(node), fault.amount % 32, done_bytes);
        }
        FaultKind::Full => {
            fill(&mut world.drive(node));
            return Struck::Lasts;
        }
        FaultKind::Stall => {
            let stalled_until_us = world.drive(node).stalled_until_us;
            *stalled_until_us = until_us.max(*stalled_until_us);
        }
        FaultKind::Slow => {
            let slow_until_us = world.drive(node).slow_until_us;
            *slow_until_us = until_us.max(*slow_until_us);
        }
        _ => return Struck::NotYet,
    }
    Struck::Done
}

/// Ends a fault that lasts.
pub fn lift(world: &mut impl Faulty, node: usize, fault: &Fault) {
    match fault.kind {
        FaultKind::Full => empty(&mut world.drive(node)),
        _ => world.network().cut(fault, false),
    }
}

/// Ends all faults of links and disks, and forgets those that are armed. What the operations of a
/// disk do wrong is left to the simulation.
pub fn lift_all(world: &mut impl Faulty, nodes: usize) {
    world.armed().clear();
    world.network().lift_all();
    for node in 0..nodes {
        let mut drive = world.drive(node);
        empty(&mut drive);
        (*drive.stalled_until_us, *drive.slow_until_us) = (0, 0);
    }
}

/// Fills a disk.
pub fn fill(drive: &mut Drive<'_>) {
    *drive.full = true;
    drive.disk.set_capacity(Some(drive.disk.used_bytes()));
}

fn empty(drive: &mut Drive<'_>) {
    *drive.full = false;
    drive.disk.set_capacity(None);
}

/// Only the next sync fails: a retry would succeed although the data is gone.
fn fail_next_sync(drive: &mut Drive<'_>) {
    *drive.failing = true;
    let mut failed = false;
    drive.disk.set_faults(Box::new(move |operation| match operation {
        DiskOperation::Sync { .. } if !std::mem::replace(&mut failed, true) => {
            DiskVerdict::FailsAndForgets
        }
        _ => DiskVerdict::Done,
    }));
}

fn fail_operation(drive: &mut Drive<'_>, mut operations: u64, done_bytes: usize) {
    *drive.failing = true;
    drive.disk.set_faults(Box::new(move |_| {
        operations = operations.wrapping_sub(1);
        match operations {
            u64::MAX => DiskVerdict::Fails { kind: ErrorKind::Other, done_bytes },
            _ => DiskVerdict::Done,
        }
    }));
}

/// Makes every sync fail, as for a write that a crash interrupts before it is synced.
pub fn fail_syncs(disk: &MemDisk) {
    disk.set_faults(Box::new(|operation| match operation {
        DiskOperation::Sync { .. } | DiskOperation::SyncDir { .. } => {
            DiskVerdict::Fails { kind: ErrorKind::Other, done_bytes: 0 }
        }
        _ => DiskVerdict::Done,
    }));
}

/// The power of a disk fails: each unsynced sector is lost, kept or torn. Returns whether some were
/// kept and some not, so that a write was torn.
pub fn lose_unsynced(disk: &MemDisk, swarm: &Swarm, draw: &mut Stream) -> bool {
    lose_unsynced_but(disk, swarm, draw, |_| false)
}

/// Like [`lose_unsynced`], but what `stays` names is kept.
pub fn lose_unsynced_but(
    disk: &MemDisk,
    swarm: &Swarm,
    draw: &mut Stream,
    stays: impl Fn(Unsynced<'_>) -> bool,
) -> bool {
    let (mut kept, mut lost) = (false, false);
    disk.crash(|unsynced| {
        if stays(unsynced) {
            kept = true;
            return SectorFate::Kept;
        }
        if draw.chance(swarm.keep_ppm) {
            kept = true;
            if draw.chance(swarm.tear_ppm) {
                lost = true;
                let (at, mask) = (draw.below(512) as usize, 1 << draw.below(8));
                return SectorFate::Flipped { at, mask };
            }
            return SectorFate::Kept;
        }
        lost = true;
        SectorFate::Lost
    });
    kept && lost
}
