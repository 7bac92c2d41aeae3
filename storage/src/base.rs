//! The snapshot that the log begins after: whether it is there and whole, and what follows if it is not.
//!
//! The log names it, and the state machine is restored from it, so a log without it is of no use. It may be
//! gone or damaged all the same: a disk rots; or the batch with which the log began after a later snapshot
//! has rotted, and the one before was removed by then.
//!
//! | what is found | what follows |
//! |---|---|
//! | the snapshot is whole | nothing |
//! | it is lost, and a later one is whole | the log begins after that one: [`Case::NewerSnapshot`] |
//! | it is lost, and so are all later ones | the log begins anew, without any entry, and `hard_state.lost` says how far it went: [`Case::SnapshotLost`] |
//! | the same, and this node is the only voter | refused: nobody could repair it |
//! | it cannot be read at the moment (no descriptor left, no permission) | refused; nothing is changed |
//! | it was written by another version of this software | refused; nothing is changed |
//!
//! Whatever follows is made durable before the node starts, so that no later start knows less.

use crate::log::BatchRef;
use crate::recovery::Case;
use crate::{Disk, Log, SnapshotError, Snapshots, is_damage};
use raft::{HardState, LogId, Membership, NodeId, Payload, Rebase, Restored, Snapshot};
use std::io;

/// Why a log cannot be used though it is whole.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum BaseError {
    /// The snapshot is lost, and no other node could send it.
    #[error(
        "{0}; this node is the only voter, so no other node can repair it: restore the snapshot, or \
         the whole directory, from a backup"
    )]
    NoPeers(SnapshotError),
    /// It is there and cannot be read: see the cause.
    #[error("{0}")]
    Unreadable(SnapshotError),
    /// What follows from the loss could not be made durable.
    #[error("the loss of a snapshot cannot be noted: {0}")]
    Io(#[from] io::Error),
}

impl<D: Disk> Log<D> {
    /// Reads the snapshot that the log begins after, all of it, and puts the log right if it is lost.
    /// `restored` is what the log has kept. Returns what a start is to begin with, and what was found if
    /// it was not the snapshot.
    pub fn check_base(
        &mut self,
        snapshots: &Snapshots<D>,
        node: NodeId,
        restored: Restored,
    ) -> Result<(Restored, Option<Case>), BaseError> {
        let base = restored.snapshot.last;
        if base == LogId::ZERO {
            return Ok((restored, None));
        }
        let error = match snapshots.verify(base) {
            Ok(_) => return Ok((restored, None)),
            Err(error) if !error.is_loss() => return Err(BaseError::Unreadable(error)),
            Err(error) => error,
        };
        if let Some(newer) = later(snapshots, base)? {
            let case = Case::NewerSnapshot { lost: base, snapshot: newer.last };
            return Ok((self.begin_after(newer, restored)?, Some(case)));
        }
        let membership = latest_membership(&restored);
        if !membership.members.keys().any(|id| *id != node) {
            return Err(BaseError::NoPeers(error));
        }
        let case = Case::SnapshotLost { snapshot: base };
        Ok((self.begin_empty(membership, restored)?, Some(case)))
    }

    /// The log begins after `snapshot`, which is whole and later than the one that is lost.
    fn begin_after(&mut self, snapshot: Snapshot, restored: Restored) -> io::Result<Restored> {
        let Restored { mut hard_state, mut entries, .. } = restored;
        let last = snapshot.last;
        // What a snapshot stands for is committed. A log without its last entry ends before it, or is
        // another one.
        let rebase = match entries.iter().position(|entry| entry.id == last) {
            Some(at) => {
                entries.drain(..=at);
                Rebase::Compact(snapshot.clone())
            }
            None => {
                entries.clear();
                Rebase::Reset(snapshot.clone())
            }
        };
        if hard_state.term < last.term {
            hard_state = HardState { term: last.term, vote: None, ..hard_state };
        }
        self.note(hard_state, &rebase)?;
        Ok(Restored { hard_state, snapshot, entries })
    }

    /// The log begins anew, and is repaired by the other members.
    fn begin_empty(&mut self, membership: Membership, restored: Restored) -> io::Result<Restored> {
        let last = restored.entries.last().map_or(restored.snapshot.last, |entry| entry.id);
        let mut hard_state = restored.hard_state;
        hard_state.lost = hard_state.lost.max(Some(last));
        let snapshot = Snapshot::initial(membership);
        self.note(hard_state, &Rebase::Reset(snapshot.clone()))?;
        Ok(Restored { hard_state, snapshot, entries: Vec::new() })
    }

    fn note(&mut self, hard_state: HardState, rebase: &Rebase) -> io::Result<()> {
        let batch = BatchRef { hard_state, rebase: Some(rebase), entries: &[] };
        self.append(batch).map_err(crate::log::AppendError::into_io)
    }
}

/// The latest snapshot after `base` that is whole.
fn later<D: Disk>(snapshots: &Snapshots<D>, base: LogId) -> Result<Option<Snapshot>, BaseError> {
    let mut ids = snapshots.list()?;
    ids.sort_unstable_by_key(|id| std::cmp::Reverse(id.index));
    for id in ids.into_iter().filter(|id| id.index > base.index) {
        match snapshots.verify(id) {
            Ok(snapshot) => return Ok(Some(snapshot)),
            Err(error) if error.is_loss() => {}
            Err(error) => return Err(BaseError::Unreadable(error)),
        }
    }
    Ok(None)
}

fn latest_membership(restored: &Restored) -> Membership {
    let latest = restored.entries.iter().rev().find_map(|entry| match &entry.payload {
        Payload::Membership(membership) => Some(membership),
        _ => None,
    });
    latest.unwrap_or(&restored.snapshot.membership).clone()
}

impl SnapshotError {
    /// Whether the snapshot is lost for good: see [`is_damage`].
    pub fn is_loss(&self) -> bool {
        match self {
            SnapshotError::Missing { .. } | SnapshotError::Damaged { .. } => true,
            SnapshotError::OtherVersion { .. } => false,
            SnapshotError::Io { source, .. } => is_damage(source),
        }
    }
}
