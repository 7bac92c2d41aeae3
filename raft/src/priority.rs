//! Priorities: a leader hands leadership over to a voter that is preferred to it.
//!
//! Each node has a priority of its own ([`Config::priority`](crate::Config::priority)), and states
//! it in its replies while it could lead. Leadership moves only to a strictly higher priority, and
//! only to a voter that has been healthy for some election timeouts: it replies, each entry reaches
//! its disk soon, and its copy does not differ. So two nodes never hand leadership to each other in
//! turn, and a node that comes and goes does not disturb. A node that has failed as a leader has
//! priority 0 for a while (see `probation.rs`), also in its own eyes while it leads.

use crate::core::Core;
use crate::leader::Leader;
use crate::progress::Progress;
use crate::transfer::silence_max;

/// A preferred voter must have been healthy for this many election timeouts. The next attempt after
/// a failed one comes after as many.
const HEALTHY_ELECTIONS: u32 = 4;

impl Leader {
    /// One tick of the preferred voters. Begins to hand over to the one with the highest priority
    /// once it has been healthy for long enough.
    pub(crate) fn tick_priorities(&mut self, core: &mut Core) {
        let membership = core.log.membership();
        let may_move = self.transfer.is_none()
            && !self.retiring
            && self.is_serving(core)
            && !membership.is_changing();
        let (own, last) = (core.priority(), core.log.last().index);
        let late_ticks_max = silence_max(core);
        let is_healthy = |p: &Progress| {
            p.priority > own
                && p.chase_ticks < late_ticks_max
                && p.silent_ticks < late_ticks_max
                && p.agrees != Some(false)
        };
        for (id, progress) in &mut self.progress {
            progress.chase(last);
            let is_preferred = may_move && membership.is_voter(*id) && is_healthy(progress);
            progress.preferred_ticks =
                if is_preferred { progress.preferred_ticks.saturating_add(1) } else { 0 };
        }
        let wait = HEALTHY_ELECTIONS.saturating_mul(core.config.election_ticks);
        let ready = self.progress.iter().filter(|(_, p)| p.preferred_ticks >= wait);
        let Some((to, _)) = ready.max_by_key(|(_, p)| p.priority) else { return };
        let to = *to;
        if self.transfer(core, Some(to)).is_ok() {
            core.counters.gave_way += 1;
        }
    }
}
