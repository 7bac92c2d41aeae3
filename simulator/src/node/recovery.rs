//! The start of a node from its disk, and the check of what it has recovered.
//!
//! It must recover exactly what was reported durable. After damage it may recover less at one
//! start, and must report the loss.

use super::settings::{config, log_config};
use super::{Host, Running};
use crate::checks::Check;
use crate::copies;
use crate::log::AnyLog;
use crate::plan::Swarm;
use crate::shadow::{Shadow, read};
use crate::violation::{Violation, violation};
use driver::{Replica, StateMachine};
use raft::{LogId, NodeId, RawNode, Restored, Snapshot};
use std::collections::{BTreeMap, BTreeSet};
use storage::testing::MemDisk;
use storage::{BaseError, Case, Directory, OpenError, Snapshots};

/// A log that was opened, what it has restored, and the snapshots.
type Recovered = (AnyLog, Restored, Snapshots<MemDisk>);

impl<M: StateMachine> Host<M> {
    /// Starts the node from its disk. It must recover exactly what was reported durable, with or
    /// without the write that was outstanding. It may recover less only if the disk was damaged,
    /// and must then report the loss. Returns whether the node runs.
    pub fn start(
        &mut self,
        id: u64,
        swarm: &Swarm,
        seed: u64,
        machine: M,
    ) -> Result<bool, Violation> {
        self.failed_before = self.disk.failed_operations();
        let Some((log, restored, snapshots)) = self.open_log(id, swarm)? else {
            return Ok(false);
        };
        let base = restored.snapshot.last;
        let mut replica = Replica::new(machine);
        let mut snapshot_bytes = 0;
        if base != LogId::ZERO {
            match restore(id, &snapshots, &restored.snapshot, &mut replica)? {
                Restoration::Done { bytes } => snapshot_bytes = bytes,
                Restoration::Unreadable(_) if self.failing => return Ok(false),
                Restoration::Unreadable(detail) => return violation(MISSING, NodeId(id), detail),
            }
        }
        if snapshots.remove_before(base, &[]).is_err() && self.failing {
            return Ok(false);
        }
        self.life += 1;
        self.closed = false;
        // An unreadable sector stays unreadable, whatever is written there, until its file is
        // removed.
        let paths = self.disk.paths();
        self.unreadable.take_if(|(file, _)| !paths.contains(file));
        self.damaged = self.unreadable.is_some();
        // The snapshot at the base has just been read, and no other one will be.
        (self.lost_base, self.snapshot_rotten) = (false, false);
        self.base_loss_noted = false;
        self.maybe = None;
        self.needed.starts(log.used_bytes().unwrap_or(0), self.shadow.last().index);
        let config = config(id, swarm, self.incarnation, self.life, seed ^ self.life << 8);
        let mut node = RawNode::new(config, restored).map_err(|error| {
            Violation::new(Check::NodeStartsAgain, NodeId(id), error.to_string())
        })?;
        node.set_snapshot_bytes(snapshot_bytes);
        self.up = Some(Running {
            node,
            log,
            snapshots,
            replica,
            machine_at: base.index,
            write: None,
            apply: None,
            snapshot: None,
            ordered: None,
            proposals: BTreeMap::new(),
            reads: BTreeMap::new(),
            forwards: BTreeMap::new(),
            unreadable: BTreeSet::new(),
        });
        Ok(true)
    }

    /// Opens its log and its snapshots, and checks what was recovered. `None` if it cannot start
    /// now for a reason that is not the log's.
    fn open_log(&mut self, id: u64, swarm: &Swarm) -> Result<Option<Recovered>, Violation> {
        if let Some(store) = self.store.clone() {
            let (log, restored) = match store.open(self.disk.clone()) {
                Ok(opened) => opened,
                Err(_) if self.failing || self.full => return Ok(None),
                Err(error) => {
                    let detail = format!("node {id}: {error}");
                    return violation(Check::NodeStartsAgain, NodeId(id), detail);
                }
            };
            self.compare(id, &restored)?;
            let snapshots = self.open_snapshots(id)?;
            return Ok(snapshots.map(|snapshots| (AnyLog::Users(log), restored, snapshots)));
        }
        let directory = match Directory::open(self.disk.clone(), log_config(swarm)) {
            Ok((directory, _)) => directory,
            // The disk still fails: the operator sees the error and starts the node again.
            Err(_) if self.failing || self.full => return Ok(None),
            // After damage a start may fail if all of the log is gone, or if the disk cannot read
            // the block where the latest batch may be. Other damage to a part of the log must not
            // prevent a start.
            Err(OpenError::LogGone) if self.damaged => {
                self.dead = true;
                return Ok(None);
            }
            Err(OpenError::Unreadable { .. }) if self.unreadable.is_some() => {
                self.dead = true;
                return Ok(None);
            }
            Err(error) => {
                return violation(
                    Check::NodeStartsAgain,
                    NodeId(id),
                    format!("node {id}: {error}"),
                );
            }
        };
        let Directory::Member(mut member) = directory else {
            if self.damaged {
                self.dead = true;
                return Ok(None);
            }
            return violation(
                Check::RecoveryIsExact,
                NodeId(id),
                format!("node {id}: nothing is left"),
            );
        };
        let meant = self.shadow.base.last;
        self.compare(id, member.restored())?;
        self.lost_base |= self.damaged && member.restored().snapshot.last != meant;
        let Some(snapshots) = self.open_snapshots(id)? else { return Ok(None) };
        let case = match member.check_base(&snapshots) {
            Ok(case) => case,
            Err(_) if self.failing || self.full => {
                self.base_loss_noted |= self.snapshot_rotten || self.lost_base;
                return Ok(None);
            }
            Err(BaseError::NoPeers(_)) if self.snapshot_rotten => {
                self.dead = true;
                return Ok(None);
            }
            Err(error) => {
                return violation(
                    Check::NodeStartsAgain,
                    NodeId(id),
                    format!("node {id}: {error}"),
                );
            }
        };
        let (log, restored) = member.into_log();
        self.base_case(id, case, &restored)?;
        Ok(Some((AnyLog::Own(Box::new(log)), restored, snapshots)))
    }

    fn open_snapshots(&self, id: u64) -> Result<Option<Snapshots<MemDisk>>, Violation> {
        match Snapshots::new(self.disk.clone()) {
            Ok(snapshots) => Ok(Some(snapshots)),
            Err(_) if self.failing => Ok(None),
            Err(error) => {
                violation(Check::NodeStartsAgain, NodeId(id), format!("node {id}: {error}"))
            }
        }
    }

    /// Checks a node that reports the snapshot at its base as lost: there must have been damage,
    /// and the log must not lose more than is reported. Its disk must hold the recovered state from
    /// now on.
    fn base_case(
        &mut self,
        id: u64,
        case: Option<Case>,
        restored: &Restored,
    ) -> Result<(), Violation> {
        let Some(case) = case else { return Ok(()) };
        if !self.snapshot_rotten && !self.lost_base {
            return violation(MISSING, NodeId(id), format!("node {id}: {case}"));
        }
        let last = restored.entries.last().map_or(restored.snapshot.last, |entry| entry.id);
        // A later snapshot covers everything that the log before it held.
        let known = restored.hard_state.lost.is_some_and(|lost| lost >= self.shadow.last());
        if last < self.shadow.last() && !known {
            let detail = format!("node {id}: {case}; ends with {last}");
            return violation(Check::RecoveryIsExact, NodeId(id), detail);
        }
        if last < self.shadow.last() {
            self.rotten = true;
        }
        self.found_base_lost = Some(case);
        self.shadow = Shadow::new(restored);
        Ok(())
    }

    fn compare(&mut self, id: u64, restored: &Restored) -> Result<(), Violation> {
        let may_lose = (self.damaged, self.base_loss_noted);
        let lost = self.shadow.recovers(id as usize, self.maybe.as_ref(), may_lose, restored)?;
        self.rotten |= lost && self.base_loss_noted;
        Ok(())
    }
}

/// The check that fails if a needed snapshot cannot be read.
pub(crate) const MISSING: Check = Check::SnapshotThatTheLogBeginsAfterIsThere;

/// The result of restoring a state machine.
pub(crate) enum Restoration {
    /// The machine has the state of the snapshot, which has this size.
    Done { bytes: u64 },
    /// The snapshot cannot be read.
    Unreadable(String),
}

/// Restores a state machine from a snapshot, and checks that a snapshot of it is the same again.
pub(crate) fn restore<M: StateMachine>(
    id: u64,
    snapshots: &Snapshots<MemDisk>,
    snapshot: &Snapshot,
    replica: &mut Replica<M>,
) -> Result<Restoration, Violation> {
    let state = match read(snapshots, snapshot.last) {
        Ok(state) => state,
        Err(detail) => return Ok(Restoration::Unreadable(format!("node {id}: {detail}"))),
    };
    if let Err(error) = replica.restore(snapshot.time, &mut state.as_slice()) {
        return violation(Check::SnapshotIsRestored, NodeId(id), format!("node {id}: {error}"));
    }
    let again = copies::bytes_of(&replica.freeze());
    if again != state {
        let detail = format!(
            "node {id}: the state restored from {} differs from the snapshot: {}; {}",
            snapshot.last,
            copies::difference(&again, &state),
            copies::CAUSES
        );
        return violation(Check::SnapshotIsTheState, NodeId(id), detail);
    }
    Ok(Restoration::Done { bytes: state.len() as u64 })
}
