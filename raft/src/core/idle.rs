//! When ticks do nothing, so that a driver need not wake up for each of them.
//!
//! A node is at rest if its disk and its state machine have done all that was ordered, and nobody
//! waits for it. Then only its role decides which tick is the next to do something: a leader's
//! next heartbeat, a follower's election timeout. With leases a node is never at rest, since each
//! tick also watches the clock.

use super::Core;

impl Core {
    /// Whether nothing but the role of this node needs ticks.
    pub fn is_at_rest(&self) -> bool {
        let orders_done = self.write_out.is_none()
            && self.log_start.is_none()
            && self.apply_out.is_none()
            && self.restore.is_none()
            && self.snapshots.is_at_rest();
        let has_answered = self.forwards.is_empty()
            && self.reads.is_empty()
            && self.answers.is_empty()
            && self.corrected.is_empty()
            && self.outbox.is_empty();
        let is_durable = self.hard == self.durable && self.log.durable() == self.log.last().index;
        let is_normal = !self.diverged && self.expelled.is_none() && self.not_a_member.is_none();
        // A promise of an earlier start is lowered, on disk too, at the tick after its end.
        let has_lowered = self.hard.promise_ms == self.promise_ms();
        orders_done
            && has_answered
            && is_durable
            && is_normal
            && has_lowered
            && self.applied == self.commit
            && self.config.lease.is_none()
    }
}
