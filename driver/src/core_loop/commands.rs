//! The way of a command into the log: appended here if this node leads, else forwarded to the
//! leader.
//!
//! A command that is certainly not appended is refused with the reason. One whose fate is not known
//! gets [`AttemptError::Unknown`], and is never sent again by this file: whether it may be repeated
//! is for the caller to say (`execute.rs`).

use super::{CALLS_PER_TURN, CoreLoop};
use crate::error::{AttemptError, ProposeError};
use crate::pending::{Caller, Reply};
use crate::status::count;
use raft::{Forwarded, Now, Proposed, Request};
use std::sync::Arc;

impl CoreLoop {
    /// Gets a request appended: by this node if it leads, else by the leader.
    pub(super) fn execute(&mut self, now: Now, request: Request, done: Reply<AttemptError>) {
        let forwards = !self.node.is_leader() && self.state.shutdown_ticks.is_none();
        let waiting = self.state.pending.len() + self.state.forwarded.len();
        let refused = if !forwards {
            match self.propose(now, request) {
                Ok(proposed) => {
                    count(&self.shared.metrics.proposals);
                    return self.state.pending.push(proposed.id, Caller::Execute(done));
                }
                Err(error) => error,
            }
        } else if waiting >= self.shared.limits.proposals_max {
            ProposeError::Busy
        } else if !self.node.leader().is_some_and(|leader| self.transport.is_connected(leader)) {
            ProposeError::NotLeader { leader: self.node.leader() }
        } else if let Some(reason) = self.why_not_stored() {
            ProposeError::ReadOnly { reason }
        } else {
            match self.node.forward(now, request) {
                Ok(number) => {
                    count(&self.shared.metrics.proposals);
                    self.state.forwarded.insert(number, done);
                    return;
                }
                Err(error) => refused_by_core(error),
            }
        };
        count(&self.shared.metrics.proposals_refused);
        let _ = done.send(Err(AttemptError::Refused(refused)));
    }

    /// Why this node stores nothing at present. It cannot apply then either, so the caller of a
    /// command that it forwards would get no answer, although the leader has done it.
    fn why_not_stored(&self) -> Option<Arc<str>> {
        let is_stalled = self.node.is_disk_stalled();
        let stalled = || is_stalled.then(|| "the disk does not answer".into());
        self.state.read_only.clone().or_else(stalled)
    }

    /// How many calls this turn may take. A node that does not lead sends a message to the leader
    /// for each command, and gets one back; what a transport drops has an unknown fate. So the
    /// commands without a reply fill half of a queue at most, here and at the leader. Further calls
    /// wait for the next turn, which comes with the next message or tick.
    pub(super) fn calls_max(&self) -> usize {
        match self.node.leader() {
            Some(leader) if !self.node.is_leader() && self.transport.is_connected(leader) => {
                let unanswered = self.state.forwarded.len();
                let window = (self.transport.queue_messages_max() / 2).saturating_sub(unanswered);
                CALLS_PER_TURN.min(window).min(self.transport.room(leader) / 4 * 3)
            }
            _ => CALLS_PER_TURN,
        }
    }

    /// The leader has replied to a forwarded command, or has been lost.
    pub(super) fn forwarded(&mut self, number: u64, outcome: Forwarded) {
        let Some(done) = self.state.forwarded.remove(&number) else { return };
        let error = match outcome {
            // It has been applied or skipped by a snapshot already: the answer is lost.
            Forwarded::Appended { id, .. } if id.index <= self.state.ordered => {
                AttemptError::Unknown
            }
            Forwarded::Appended { id, .. } => {
                return self.state.pending.push(id, Caller::Execute(done));
            }
            Forwarded::Busy => AttemptError::Refused(ProposeError::Busy),
            Forwarded::TooLarge { limit_bytes } => {
                let limit_bytes = usize::try_from(limit_bytes).unwrap_or(usize::MAX);
                AttemptError::Refused(ProposeError::TooLarge { limit_bytes })
            }
            Forwarded::Lost => AttemptError::Unknown,
            Forwarded::NotTaken => AttemptError::Refused(ProposeError::NotLeader { leader: None }),
        };
        let _ = done.send(Err(error));
    }

    pub(super) fn propose(&mut self, now: Now, request: Request) -> Result<Proposed, ProposeError> {
        if self.state.shutdown_ticks.is_some() {
            return Err(ProposeError::Stopped);
        }
        if let Some(reason) = self.state.read_only.as_ref().filter(|_| self.node.is_leader()) {
            return Err(ProposeError::ReadOnly { reason: reason.clone() });
        }
        if self.state.pending.len() >= self.shared.limits.proposals_max {
            return Err(ProposeError::Busy);
        }
        self.node.propose(now, request).map_err(refused_by_core)
    }
}

fn refused_by_core(error: raft::ProposeRefused) -> ProposeError {
    match error {
        raft::ProposeRefused::NotLeader { leader } => ProposeError::NotLeader { leader },
        raft::ProposeRefused::TooLarge { limit_bytes } => ProposeError::TooLarge { limit_bytes },
        // Any further variant also means that the command was not appended.
        _ => ProposeError::Busy,
    }
}
