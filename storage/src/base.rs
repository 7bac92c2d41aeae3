//! The check of the snapshot that the log begins after (the base), and the repair if it is lost.
//!
//! The log refers to its base, and the state machine is restored from it, so a log without it is
//! useless. It can be missing or damaged: by damage to the disk, or because the batch that made a
//! later snapshot the base was damaged after the earlier snapshot had been removed.
//!
//! | finding | result |
//! |---|---|
//! | the base is intact | at most one later snapshot is kept |
//! | it is lost, and a later snapshot is intact | [`Case::NewerSnapshot`] |
//! | it is lost, and so are all later ones | [`Case::SnapshotLost`] |
//! | the same, and this node is the only member | error [`BaseError::NoPeers`] |
//! | the disk reports an error while it is read | it is read again, as often as the caller says |
//! | it cannot be read now (no file descriptor, no permission) | error, nothing is changed |
//! | it was written by another version of this software | error, nothing is changed |
//!
//! After `NewerSnapshot` the log begins after the later snapshot. After `SnapshotLost` the log is
//! empty, and `hard_state.lost` records how far it went. The change is durable before the node
//! starts, so no later start knows less.

use crate::log::BatchRef;
use crate::recovery::Case;
use crate::{Disk, Log, SnapshotError, Snapshots, is_damage};
use raft::{HardState, LogId, LogStart, Membership, NodeId, Payload, Restored, Snapshot};
use std::io;

/// Why the snapshot that the log begins after cannot be used.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum BaseError {
    /// The base is lost, and this node is the only member, so no other node could send it. Put back
    /// the file of the snapshot. Instead of the whole directory, a complete copy may be used that
    /// was made while the node was stopped and since which nothing was acknowledged.
    #[error(
        "{0}; this node is the only member, so no other node can repair it: restore the snapshot, or \
         the whole directory, from a backup"
    )]
    NoPeers(SnapshotError),
    /// The base exists but cannot be read. See the cause.
    #[error("{0}")]
    Unreadable(#[source] SnapshotError),
    /// The repaired state could not be made durable.
    #[error("the loss of a snapshot cannot be noted: {0}")]
    Io(#[from] io::Error),
}

impl<D: Disk> Log<D> {
    /// Reads the whole snapshot that the log begins after, and repairs the log if that snapshot is
    /// lost. `restored` is the state that the log has kept. Returns the state to start with, and
    /// the case of the table if the snapshot was lost.
    ///
    /// If the disk reports an error, `again` may wait and have the snapshot read again: the network
    /// to a disk fails for a moment, and then on all nodes that use it.
    pub(crate) fn check_base(
        &mut self,
        snapshots: &Snapshots<D>,
        node: NodeId,
        restored: Restored,
        mut again: impl FnMut(&SnapshotError) -> bool,
    ) -> Result<(Restored, Option<Case>), BaseError> {
        let base = restored.snapshot.last;
        if base == LogId::ZERO {
            keep_one_after(snapshots, base);
            return Ok((restored, None));
        }
        let mut verified = snapshots.verify(base);
        while let Err(error @ SnapshotError::Io { .. }) = &verified
            && error.is_loss()
            && again(error)
        {
            verified = snapshots.verify(base);
        }
        let error = match verified {
            Ok(_) => {
                keep_one_after(snapshots, base);
                return Ok((restored, None));
            }
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

    /// Makes the log begin after `snapshot`, which is intact and later than the lost one.
    fn begin_after(&mut self, snapshot: Snapshot, restored: Restored) -> io::Result<Restored> {
        let Restored { mut hard_state, mut entries, .. } = restored;
        let last = snapshot.last;
        // The content of a snapshot is committed. A log without its last entry either ends before
        // it or diverges from it.
        let log_start = match entries.iter().position(|entry| entry.id == last) {
            Some(at) => {
                entries.drain(..=at);
                LogStart::Compact(snapshot.clone())
            }
            None => {
                entries.clear();
                LogStart::Reset(snapshot.clone())
            }
        };
        if hard_state.term < last.term {
            hard_state = HardState { term: last.term, vote: None, ..hard_state };
        }
        self.note(hard_state, &log_start)?;
        Ok(Restored { hard_state, snapshot, entries })
    }

    /// Resets the log to empty. The other members repair it.
    fn begin_empty(&mut self, membership: Membership, restored: Restored) -> io::Result<Restored> {
        let last = restored.entries.last().map_or(restored.snapshot.last, |entry| entry.id);
        let mut hard_state = restored.hard_state;
        hard_state.lost = hard_state.lost.max(Some(last));
        let snapshot = Snapshot::initial(membership);
        self.note(hard_state, &LogStart::Reset(snapshot.clone()))?;
        Ok(Restored { hard_state, snapshot, entries: Vec::new() })
    }

    fn note(&mut self, hard_state: HardState, log_start: &LogStart) -> io::Result<()> {
        let batch = BatchRef { hard_state, log_start: Some(log_start), entries: &[] };
        self.append(batch).map_err(crate::log::AppendError::into_io)
    }
}

/// The latest intact snapshot after `base`.
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

/// Removes the snapshots after `base` except for the latest intact one. There are several if the
/// node ended again and again before its log began after the next one: on a full disk, say. What
/// cannot be removed now is left to the next start.
fn keep_one_after<D: Disk>(snapshots: &Snapshots<D>, base: LogId) {
    let Ok(ids) = snapshots.list() else { return };
    let after: Vec<LogId> = ids.into_iter().filter(|id| id.index > base.index).collect();
    if after.len() > 1
        && let Ok(Some(kept)) = later(snapshots, base)
    {
        for id in after.into_iter().filter(|id| *id != kept.last) {
            let _ = snapshots.remove(id);
        }
    }
}

fn latest_membership(restored: &Restored) -> Membership {
    let latest = restored.entries.iter().rev().find_map(|entry| match &entry.payload {
        Payload::Membership(membership) => Some(&**membership),
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
