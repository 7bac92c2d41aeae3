//! A simulated node: the real core, the real log and snapshots on a simulated disk, and a state
//! machine.
//!
//! This file has what belongs to the node whether it runs or not: its disk, its clock, and what the
//! simulation knows of both.

mod damage;
mod recovery;
mod running;
mod settings;

pub(crate) use damage::{EndBatch, Losing, Rotting, RottingEnd};
pub(crate) use recovery::{MISSING, Restoration, restore};
pub(crate) use running::{Running, command_begins_at};
pub(crate) use settings::log_config;

use crate::bounds::Needed;
use crate::log::{OpenStore, Store};
use crate::plan::Swarm;
use crate::shadow::{LogChange, Shadow};
use crate::violation::Violation;
use driver::StateMachine;
use raft::{Incarnation, Index, Membership, NodeId, Snapshot};
use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use storage::testing::{DiskOperation, DiskVerdict, MemDisk};
use storage::{Case, ClusterId, Directory, Log};

/// A member of the cluster, running or down.
pub(crate) struct Host<M> {
    /// The log store of a user, if there is one.
    pub store: Option<Store>,
    pub disk: MemDisk,
    pub shadow: Shadow,
    /// The write that was outstanding when it went down. It may or may not be on the disk.
    pub maybe: Option<LogChange>,
    pub incarnation: Incarnation,
    /// Incremented at every start and every stop. Events for an earlier life are ignored.
    pub life: u64,
    pub up: Option<Running<M>>,
    /// The node processes no event before this time.
    pub paused_until_us: u64,
    pub clock_per_mille: u64,
    /// Simulated time at which the clock last changed its rate, and the clock's reading then.
    clock_since_us: u64,
    /// When it was last started.
    pub started_us: u64,
    clock_us: u64,
    /// By how much its monotonic clock has gone back in all. Its wall clock has not.
    back_us: u64,
    /// The reading of its monotonic clock at its latest tick, or when it went back since.
    pub ticked_us: u64,
    /// Offset of its wall clock from its monotonic clock, which `WallJump` changes.
    pub wall_offset_ms: i64,
    /// Number of durable writes.
    pub writes: u64,
    /// The writes that its log still needs.
    pub needed: Needed,
    /// Planned damage to the log. It takes effect once [`Rotting::at_write`] writes are durable.
    pub rotting: Option<Rotting>,
    /// Set if its next write will be lost after it was reported durable.
    pub losing: Option<Losing>,
    /// Set if its last synced batch will be damaged when the power fails within the next write.
    pub rotting_end: Option<RottingEnd>,
    /// Its data has been damaged at some time: it may know less than before, if it reports the
    /// loss.
    pub rotten: bool,
    /// Its log has been damaged since its last start. Until it has recovered, the contents of its
    /// log are uncertain.
    pub damaged: bool,
    /// Damage has undone a move of the log's base. The snapshot at the previous base may be gone.
    lost_base: bool,
    /// A start failed on a disk error while the log was restarted without its damaged snapshot. The
    /// record of the loss may be durable already.
    base_loss_noted: bool,
    /// A bit of the next command that it applies will flip.
    pub flips: bool,
    /// Its state differs from that of the others after a bit flip: its answers are not used.
    pub flipped: bool,
    /// The entry that it applied wrongly. Snapshots that it takes later are wrong too.
    pub flipped_at: Index,
    /// How it recovered, if the snapshot that its log begins after was lost.
    pub found_base_lost: Option<Case>,
    /// One of its snapshots has been damaged since its last start.
    pub snapshot_rotten: bool,
    /// File and offset that its disk cannot read any more.
    pub unreadable: Option<(String, u64)>,
    /// It was shut down cleanly and has not started since.
    pub closed: bool,
    /// Its disk returns errors.
    pub failing: bool,
    /// Number of disk operations that had failed when it last began to start.
    pub failed_before: u64,
    /// Its disk is full.
    pub full: bool,
    /// Its disk completes no write before the first of these times, and is slow until the second.
    pub stalled_until_us: u64,
    pub slow_until_us: u64,
    /// For how many ticks in a row its outstanding write has been behind the commit index.
    pub write_ticks: u64,
    /// The full disk refused a write, which will be retried.
    pub tries_again: bool,
    /// Set once the power has failed within an operation of the disk.
    dark: Option<Arc<AtomicBool>>,
    /// Its disk was wiped, and it is no member yet.
    pub waits: bool,
    /// A lasting fault keeps it down, cut off or with a failed disk after the other faults stop.
    pub gone: bool,
    /// It never starts again: damage made it refuse to start, or a lasting fault keeps it down.
    pub dead: bool,
}

/// A disk with an empty log of the library's own that begins with this membership.
fn founded(
    id: u64,
    swarm: &Swarm,
    incarnation: Incarnation,
    membership: Membership,
) -> (MemDisk, Shadow) {
    let disk = MemDisk::new();
    let (directory, _) =
        Directory::open(disk.clone(), log_config(swarm)).expect("an empty disk without faults");
    let Directory::Unclaimed(unclaimed) = directory else { unreachable!("it is empty") };
    let founders: Vec<NodeId> = membership.members.keys().copied().collect();
    let begun = unclaimed
        .announce(NodeId(id), incarnation, &founders)
        .map_err(|error| error.to_string())
        .and_then(|announced| {
            announced.join(ClusterId(1), membership).map_err(|error| error.to_string())
        });
    let member = begun.expect("a disk without faults takes it");
    let (log, restored) = member.into_log();
    drop(log);
    disk.kill();
    (disk, Shadow::new(&restored))
}

impl<M: StateMachine> Host<M> {
    /// Number of disk operations that have failed since it last began to start. Any of them may
    /// have been the removal of a file.
    pub fn refused(&self) -> u64 {
        self.disk.failed_operations().saturating_sub(self.failed_before)
    }

    /// A host with an empty disk, whose log begins with this membership.
    pub fn new(
        id: u64,
        swarm: &Swarm,
        incarnation: Incarnation,
        membership: Membership,
        open: Option<OpenStore>,
    ) -> Self {
        let store = open.map(|open| Store { open, first: Snapshot::initial(membership.clone()) });
        let (disk, shadow) = match &store {
            Some(store) => (MemDisk::new(), Shadow::new(&store.empty())),
            None => founded(id, swarm, incarnation, membership),
        };
        Host {
            store,
            shadow,
            disk,
            maybe: None,
            incarnation,
            life: 0,
            up: None,
            paused_until_us: 0,
            clock_per_mille: 1_000,
            clock_since_us: 0,
            started_us: 0,
            clock_us: 0,
            back_us: 0,
            ticked_us: 0,
            wall_offset_ms: 0,
            writes: 0,
            needed: Needed::default(),
            rotting: None,
            losing: None,
            rotting_end: None,
            rotten: false,
            damaged: false,
            flips: false,
            flipped: false,
            flipped_at: Index(0),
            found_base_lost: None,
            snapshot_rotten: false,
            unreadable: None,
            closed: false,
            failing: false,
            failed_before: 0,
            lost_base: false,
            base_loss_noted: false,
            full: false,
            stalled_until_us: 0,
            slow_until_us: 0,
            write_ticks: 0,
            tries_again: false,
            dark: None,
            waits: false,
            gone: false,
            dead: false,
        }
    }

    /// The reading of its monotonic clock at this simulated time. A change of its rate does not set
    /// it back; only [`set_back`](Host::set_back) does.
    pub fn monotonic_us(&self, now_us: u64) -> u64 {
        self.clock_us(now_us) - self.back_us
    }

    /// The time that has passed by its clock, as its wall clock counts it.
    pub fn clock_us(&self, now_us: u64) -> u64 {
        self.clock_us + (now_us - self.clock_since_us) * self.clock_per_mille / 1_000
    }

    /// Its monotonic clock goes back to this earlier reading. Returns by how much.
    pub fn set_back(&mut self, now_us: u64, to_us: u64) -> u64 {
        let back_us = self.monotonic_us(now_us) - to_us;
        self.back_us += back_us;
        self.ticked_us = to_us;
        back_us
    }

    /// Sets the rate of its clock from now on, in per mille of simulated time.
    pub fn set_clock_rate(&mut self, now_us: u64, per_mille: u64) {
        self.clock_us = self.clock_us(now_us);
        self.clock_since_us = now_us;
        self.clock_per_mille = per_mille;
    }

    /// Makes the power fail within this operation of the disk, counted from now without reads. Of a
    /// write, `done_bytes` bytes are done.
    pub fn darken_at(&mut self, mut operations: u64, done_bytes: usize) {
        let dark = Arc::new(AtomicBool::new(false));
        self.dark = Some(dark.clone());
        self.failing = true;
        self.disk.set_faults(Box::new(move |operation| {
            if matches!(operation, DiskOperation::Read { .. }) {
                return DiskVerdict::Done;
            }
            if operations > 0 {
                operations -= 1;
                return DiskVerdict::Done;
            }
            let first = !dark.swap(true, Ordering::Relaxed);
            let done_bytes = if first { done_bytes } else { 0 };
            DiskVerdict::Fails { kind: io::ErrorKind::Other, done_bytes }
        }));
    }

    /// A write has become durable, and is in the shadow.
    pub fn written(&mut self, change: &LogChange) {
        self.writes += 1;
        self.needed.add(change, self.shadow.base.last.index);
    }

    /// Whether no damage is planned.
    pub fn is_whole(&self) -> bool {
        self.rotting.is_none() && self.losing.is_none() && self.rotting_end.is_none()
    }

    /// Whether the power has failed within an operation of the disk.
    pub fn is_dark(&self) -> bool {
        self.dark.as_ref().is_some_and(|dark| dark.load(Ordering::Relaxed))
    }

    /// Ends the faults of the disk, except that an unreadable sector stays unreadable.
    pub fn restore_disk(&mut self) {
        self.dark = None;
        self.failing = false;
        self.disk.clear_faults();
        let Some((file, at)) = self.unreadable.clone() else { return };
        self.disk.set_faults(Box::new(move |operation| match operation {
            DiskOperation::Read { path, offset, len }
                if path == file && offset <= at && at < offset + len as u64 =>
            {
                DiskVerdict::Fails { kind: io::ErrorKind::Other, done_bytes: 0 }
            }
            _ => DiskVerdict::Done,
        }));
    }

    /// Checks that a power failure at this moment would leave everything that was reported durable.
    /// Copies the disk, drops everything unsynced from the copy, and reads the log from it.
    pub fn audit(&self, id: u64, swarm: &Swarm) -> Result<(), Violation> {
        if self.damaged || self.rotting.is_some() || self.snapshot_rotten || self.is_dark() {
            return Ok(());
        }
        match &self.store {
            Some(store) => self.shadow.is_durable_as(id as usize, &self.disk, |copy| {
                store.open(copy).map(|(_, restored)| Some(restored))
            }),
            None => self.shadow.is_durable(id as usize, &self.disk, log_config(swarm)),
        }
    }

    /// Whether the log would still be recovered in full after this damage to the disk.
    pub fn is_whole_with(&self, swarm: &Swarm, damage: impl FnOnce(&MemDisk)) -> bool {
        let copy = self.disk.fork();
        damage(&copy);
        let opened = Log::open(copy, log_config(swarm));
        let restored = opened.ok().and_then(|(_, recovery)| recovery.restored);
        restored.is_some_and(|restored| self.shadow.difference(&restored).is_none())
    }
}
