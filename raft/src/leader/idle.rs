//! Which tick of a leader is the next to do something.

use super::Leader;
use crate::core::Core;

impl Leader {
    /// The number of ticks that only count: see
    /// [`RawNode::idle_ticks`](crate::RawNode::idle_ticks).
    pub fn idle_ticks(&self, core: &Core) -> u32 {
        let membership = core.log.membership();
        let is_steady = self.is_serving(core)
            && self.transfer.is_none()
            && !self.retiring
            && !membership.is_changing()
            && core.votes();
        let is_read = self.reads.is_empty() && self.confirming.is_empty();
        let has_sent = core.commit == core.log.last().index
            && self.progress.values().all(|p| p.is_at_rest(core.commit, core.config.priority));
        // How long entries are kept for a peer that is behind, and when it may be sent a snapshot
        // instead, depends on how long it and others have been silent.
        let base = core.log.base().last.index;
        let is_one_behind = self.progress.values().any(|p| p.active && p.next <= base);
        if !(is_steady && is_read && has_sent) || is_one_behind {
            return 0;
        }
        let round = core.config.heartbeat_ticks.saturating_sub(self.ticks_since_round);
        let quorum = core.config.election_ticks.saturating_sub(self.ticks_since_quorum);
        let clock = core.config.clock_ticks.saturating_sub(self.ticks_since_entry);
        round.min(quorum).min(clock).saturating_sub(1)
    }
}
