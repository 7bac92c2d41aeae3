//! Whether a node is ready to serve: what a load balancer asks before it sends requests there.
//!
//! Ready means that a request sent to this node has a good chance, and that what it reads is fresh: the
//! node runs, its disk answers, it knows a leader, it has applied everything up to a commit index that a
//! quorum confirmed since this node started, and since then it has never been further behind the leader
//! than [`BEHIND_MAX`].
//!
//! How far it is behind is measured in time: now and then the leader's commit index is noted, and how long
//! it takes until that is applied here. A count of entries says nothing without their rate.

use crate::{NotReady, StopReason};
use raft::{Index, Now, ReadId, Status};
use std::sync::Arc;
use std::time::Duration;

/// A node that is further behind its leader than this is not ready.
pub(crate) const BEHIND_MAX: Duration = Duration::from_secs(2);

/// What is noted between ticks.
#[derive(Debug, Default)]
pub(crate) struct Readiness {
    /// The state contains what a quorum had committed at some time since the start.
    confirmed: bool,
    /// The read that is to confirm it.
    confirming: Option<ReadId>,
    /// What the leader had committed at this time, and is not applied here yet.
    sample: Option<(Index, u64)>,
    /// What the leader had committed by then is applied here.
    fresh_at_ns: u64,
}

impl Readiness {
    /// Whether a read is to be asked of the core, to confirm how far the log is committed.
    pub fn wants_confirmation(&self) -> bool {
        !self.confirmed && self.confirming.is_none()
    }

    /// That read is under way.
    pub fn asked(&mut self, read: ReadId) {
        self.confirming = Some(read);
    }

    /// The core serves a read, or refuses it. Returns whether it is the one asked for here.
    pub fn answered(&mut self, read: ReadId, served: bool) -> bool {
        if self.confirming != Some(read) {
            return false;
        }
        self.confirming = None;
        self.confirmed |= served;
        true
    }

    /// One tick has passed.
    pub fn tick(&mut self, status: &Status, now: Now) {
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

    /// Why the node is not ready, if it is not.
    pub fn obstacle(
        &self,
        status: &Status,
        read_only: Option<&Arc<str>>,
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
        if status.lost.is_some() {
            return Some(NotReady::Repairing);
        }
        if status.leader.is_none() {
            return Some(NotReady::NoLeader);
        }
        if !self.confirmed {
            return Some(NotReady::CatchingUp);
        }
        let behind = Duration::from_nanos(now.monotonic_ns.saturating_sub(self.fresh_at_ns));
        (behind > BEHIND_MAX).then_some(NotReady::Behind { behind })
    }
}
