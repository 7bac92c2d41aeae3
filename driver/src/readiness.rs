//! Whether a node is ready to serve. A load balancer checks this before it sends requests there.
//!
//! Ready means that a request to this node is likely to succeed and that its reads are fresh. The
//! node runs, its disk responds, and it knows a leader, which is connected or has sent something
//! lately. It has applied everything up to a commit
//! index that a quorum confirmed after the node's start. And it is at most [`BEHIND_MAX`] behind
//! the leader.
//!
//! The lag is measured in time. Samples of the leader's commit index are taken, and the time until
//! that index is applied here is measured. A number of entries means nothing without their rate.

use crate::{NotReady, StopReason};
use raft::{Index, NodeId, Now, ReadId, RoleKind, Status, Term};
use std::sync::Arc;
use std::time::Duration;

/// A node whose lag is greater than this is not ready.
pub(crate) const BEHIND_MAX: Duration = Duration::from_secs(2);

/// The state that is kept between ticks.
#[derive(Debug, Default)]
pub(crate) struct Readiness {
    /// The state contains everything that was committed at some time after the start.
    confirmed: bool,
    /// The pending read that will confirm it.
    confirming: Option<ReadId>,
    /// A commit index of the leader that is not applied here yet, and its time in nanoseconds.
    sample: Option<(Index, u64)>,
    /// The term of the sample. What a leader of another term has reported counts no longer.
    sampled_in: Term,
    /// Everything that the leader had committed at this time is applied here.
    fresh_at_ns: u64,
    /// While this node leads: the end of the log at some time, in nanoseconds, if that is not
    /// committed yet.
    uncommitted: Option<(Index, u64)>,
    /// The leader, and when something was received from it, or it was connected, for the last time.
    leader_seen: Option<(NodeId, u64)>,
}

impl Readiness {
    /// Whether a read should be requested to confirm the commit index.
    pub fn wants_confirmation(&self) -> bool {
        !self.confirmed && self.confirming.is_none()
    }

    /// That read is pending.
    pub fn asked(&mut self, read: ReadId) {
        self.confirming = Some(read);
    }

    /// The core has served or refused a read. Returns whether it was the read for confirmation.
    pub fn answered(&mut self, read: ReadId, served: bool) -> bool {
        if self.confirming != Some(read) {
            return false;
        }
        self.confirming = None;
        self.confirmed |= served;
        true
    }

    /// Records at a turn whether the leader was `seen`: it has sent a message or is connected. A
    /// new leader counts as seen.
    pub fn leader(&mut self, leader: Option<NodeId>, seen: bool, now: Now) {
        match (leader, self.leader_seen) {
            (Some(leader), Some((known, _))) if leader == known && !seen => {}
            (leader, _) => self.leader_seen = leader.map(|leader| (leader, now.monotonic_ns)),
        }
    }

    /// A tick has passed: measures the lag.
    pub fn tick(&mut self, status: &Status, now: Now) {
        if self.sampled_in != status.term {
            self.sampled_in = status.term;
            self.sample = None;
        }
        let (last, leads) = (status.last.index, status.role == RoleKind::Leader);
        self.uncommitted = self.uncommitted.filter(|(at, _)| leads && status.commit < *at);
        if self.uncommitted.is_none() && leads && status.commit < last {
            self.uncommitted = Some((last, now.monotonic_ns));
        }
        let (at, now_ns) = self.sample.unwrap_or((status.leader_commit, now.monotonic_ns));
        if status.leader.is_none() {
            return;
        }
        if status.applied >= at {
            self.fresh_at_ns = now_ns;
            self.sample = None;
        } else {
            self.sample = Some((at, now_ns));
        }
    }

    /// Why the node is not ready, if it is not. `not_stored`: why the last snapshot of a leader
    /// could not be stored.
    pub fn obstacle(
        &self,
        status: &Status,
        read_only: Option<&Arc<str>>,
        not_stored: Option<&Arc<str>>,
        absence_max: Duration,
        now: Now,
    ) -> Option<NotReady> {
        if status.diverged {
            return Some(NotReady::Stopped(StopReason::Diverged));
        }
        if status.not_a_member {
            return Some(NotReady::NotAMember);
        }
        if let Some(reason) = read_only {
            return Some(NotReady::DiskFull { reason: reason.clone() });
        }
        if status.disk_stalled {
            return Some(NotReady::DiskStalled);
        }
        let since = |at_ns| Duration::from_nanos(now.monotonic_ns.saturating_sub(at_ns));
        let behind = since(self.fresh_at_ns);
        let has_all = status.lost.is_none() && self.confirmed && behind <= BEHIND_MAX;
        if let Some(reason) = not_stored.filter(|_| !has_all) {
            return Some(NotReady::SnapshotNotStored { reason: reason.clone() });
        }
        if status.lost.is_some() {
            return Some(NotReady::Repairing);
        }
        if status.leader.is_none() {
            return Some(NotReady::NoLeader);
        }
        let seen_ns = self.leader_seen.map_or(now.monotonic_ns, |(_, at_ns)| at_ns);
        if Duration::from_nanos(now.monotonic_ns.saturating_sub(seen_ns)) > absence_max {
            return Some(NotReady::LeaderNotConnected);
        }
        let waiting = self.uncommitted.map(|(_, at_ns)| since(at_ns)).unwrap_or_default();
        if waiting > BEHIND_MAX {
            return Some(NotReady::NotCommitting { waiting });
        }
        if !self.confirmed {
            return Some(NotReady::CatchingUp);
        }
        (behind > BEHIND_MAX).then_some(NotReady::Behind { behind })
    }
}
