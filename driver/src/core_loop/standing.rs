//! Where the node stands: the status that it publishes, and whether it is about to stop.
//!
//! Clients and operators see only what was published. New leaders and terms are published in the
//! turn in which they appear, the rest at the next tick in which anything is due. Nothing here
//! changes what the core does, except that a node which is not a member any more shuts down.

use super::{CoreLoop, SHUTDOWN_GRACE_TICKS, State};
use crate::error::StopReason;
use crate::events::Conditions;
use crate::report::report;
use crate::{DriverStatus, Load, NotReady};
use raft::{LogId, NodeId, Term};
use std::sync::atomic::Ordering;

/// The part of the published status that may change between ticks.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) struct Leadership {
    term: Term,
    leader: Option<NodeId>,
    serving_from: Option<LogId>,
}

impl CoreLoop {
    pub(super) fn leadership_changed(&mut self) -> bool {
        let leads = self.node.is_leader();
        // A leader begins to serve when it has applied the first entry of its term.
        let applied = if leads && !self.state.was_serving {
            Some(LogId { term: self.node.term(), index: self.node.applied_index() })
        } else {
            None
        };
        let leadership = Leadership {
            term: self.node.term(),
            leader: self.node.leader(),
            serving_from: applied,
        };
        let changed = self.state.published != Some(leadership);
        self.state.published = Some(leadership);
        changed
    }

    pub(super) fn publish(&mut self) {
        let raft = self.node.status();
        self.state.was_serving = raft.serving;
        if raft.membership != self.state.membership {
            self.transport.set_members(&raft.membership);
            self.state.membership = raft.membership.clone();
        }
        let read_only = self.state.read_only.clone();
        let load = self.load();
        let now = self.clock.now();
        let failures = self.inbox_receiver.receptions.failures();
        self.shared.metrics.snapshots_not_stored.store(failures.count, Ordering::Relaxed);
        let readiness = &mut self.state.readiness;
        readiness.tick(&raft, now);
        // A node is always connected to itself.
        let is_connected = |leader| leader == raft.id || self.transport.is_connected(leader);
        readiness.leader(raft.leader, raft.leader.is_some_and(is_connected), now);
        let not_ready = match self.state.shutdown_ticks {
            Some(_) if self.state.leaves => Some(NotReady::NotAMember),
            Some(_) => Some(NotReady::Stopped(StopReason::Shutdown)),
            None => {
                let not_stored = failures.latest.as_ref();
                readiness.obstacle(
                    &raft,
                    read_only.as_ref(),
                    not_stored,
                    self.leader_absence_max,
                    now,
                )
            }
        };
        if not_ready.is_none() && failures.latest.is_some() {
            self.inbox_receiver.receptions.forget_failure();
        }
        let conditions = Conditions {
            disk_full: read_only.is_some(),
            not_ready: not_ready.as_ref(),
            election_timeout: self.election_timeout,
            tick: self.tick,
            now,
        };
        let events = self.state.events.since(&raft, conditions);
        let tick = self.tick;
        let status = DriverStatus {
            raft,
            read_only,
            load,
            sessions: self.shared.sessions.load(Ordering::Relaxed),
            session_bytes: self.shared.session_bytes.load(Ordering::Relaxed),
            stopped: None,
            not_ready,
            tick,
        };
        self.shared.publish(status);
        // Publishing comes first: a log line may take time.
        events.into_iter().for_each(|event| report(|| event.log()));
    }

    /// Shuts the node down if it is not a member any more. That its own log says so is proof. What
    /// a peer says counts once it has stood for an election timeout without a leader: the peer may
    /// be behind, and know an earlier member with this id.
    pub(super) fn leave_if_excluded(&mut self) {
        let status = self.shared.status.load();
        let is_told = status.raft.not_a_member && status.raft.leader.is_none();
        self.state.excluded_ticks = if is_told { self.state.excluded_ticks + 1 } else { 0 };
        let timeout = self.election_timeout.as_nanos() / self.tick.as_nanos().max(1);
        let is_over = u128::from(self.state.excluded_ticks) > timeout;
        if (status.raft.removed || is_over) && self.state.shutdown_ticks.is_none() {
            self.state.shutdown_ticks = Some(SHUTDOWN_GRACE_TICKS);
            self.state.leaves = true;
        }
    }

    pub(super) fn load(&self) -> Load {
        let State { pending, reads, .. } = &self.state;
        Load {
            calls: self.calls.len(),
            messages: self.inbox_receiver.messages.len(),
            proposals: pending.len() + self.state.forwarded.len(),
            reads: reads.len(),
            questions: self.machine_calls.max_capacity() - self.machine_calls.capacity(),
            waiters: self.shared.waiters.load(Ordering::Relaxed),
        }
    }

    /// Whether nothing in the driver needs a tick.
    pub(super) fn is_at_rest(&self) -> bool {
        let State { pending, forwarded, reads, preflight, full, shutdown_ticks, .. } = &self.state;
        pending.len() + forwarded.len() + reads.len() == 0
            && preflight.is_empty()
            && full.is_none()
            && shutdown_ticks.is_none()
            && self.state.excluded_ticks == 0
            && !self.state.readiness.wants_confirmation()
    }

    pub(super) fn is_finished(&self) -> bool {
        match self.state.shutdown_ticks {
            Some(0) => true,
            Some(_) => {
                let waiting = self.state.pending.len() + self.state.forwarded.len();
                let hands_over = self.node.transferring().is_some();
                waiting == 0 && !self.state.reads.any_asked() && !hands_over
            }
            None => false,
        }
    }
}
