//! How a leader compares the copies of the state, and what it does when two differ.
//!
//! A peer reports the hash of its state with each reply to a round, see [`crate::digest`]. A peer
//! that differs from a quorum is ordered to give its state up. A leader that differs from a quorum
//! gives up its own. As long as neither is proven, no snapshot is offered to peers.

use crate::core::Core;
use crate::leader::Leader;
use crate::progress::Progress;
use crate::{Body, Index, NodeId, StateHash};

/// A snapshot is not offered until a peer has confirmed its state. A peer is no longer waited for
/// after this many election timeouts in which it has reported no later state than before. If it has
/// reported none at all during that time, what it said before does not count any more. That it
/// sends something else proves nothing: while its disk hangs, it still sends reads and rejections.
const CONFIRM_ELECTIONS: u32 = 10;

impl Leader {
    /// Compares a peer's state hash with this node's at the same index. If this node is the one
    /// that is wrong, it diverges and this returns true.
    pub(crate) fn compare(&mut self, core: &mut Core, from: NodeId, state: StateHash) -> bool {
        let Some(progress) = self.progress.get_mut(&from) else { return false };
        progress.reported(state.index);
        let Some(own) = core.hashes.at(state.index) else {
            // The peer has applied more than this leader knows to be committed. To commit that, the
            // leader may need the very peer that waits for the snapshot.
            progress.incomparable |= state.index > core.commit;
            return false;
        };
        let agrees = own == state.hash;
        progress.incomparable = false;
        let known = progress.agrees.replace(agrees);
        progress.other = (!agrees).then_some(state);
        if agrees {
            progress.agreed_at = progress.agreed_at.max(state.index);
            progress.differs_at = Index(0);
            return false;
        }
        if known != Some(false) {
            core.counters.states_differ += 1;
        }
        // A peer that has given up its copy reports none for a while.
        if progress.differs_at == Index(0) {
            progress.differs_at = state.index;
        }
        if self.has_agreement(core, state.index) {
            let message = core.message(from, Body::Diverged { state });
            core.outbox.send(message);
            return false;
        }
        // Peers that differ from each other too do not prove that this node is wrong.
        let same = |id: NodeId| self.progress.get(&id).is_some_and(|p| p.other == Some(state));
        let alone = core.log.membership().is_quorum(same);
        if alone {
            core.diverge(StateHash { index: state.index, hash: own });
        }
        alone
    }

    /// Whether the snapshot that the log begins after may be offered to peers. It must be readable,
    /// no difference may be undecided, and a peer must have confirmed the same state, if there is a
    /// peer that can.
    ///
    /// A difference is undecided as long as no quorum has agreed with one of the two: the snapshot
    /// may be the wrong one then, and nodes that need one wait. What a peer said that has reported
    /// no state for long, because it is down or was wiped, does not count against a peer that
    /// agrees.
    pub(crate) fn may_offer_base(&self, core: &Core) -> bool {
        let base = core.log.base().last.index;
        let patience = CONFIRM_ELECTIONS.saturating_mul(core.config.election_ticks);
        let could =
            |p: &Progress| p.unconfirmed_ticks < patience && p.next > base && !p.incomparable;
        let mut peers = self.progress.values();
        let is_confirmed = peers.clone().any(|p| p.confirms(base));
        let differs = |p: &&Progress| {
            p.agrees == Some(false) && !(is_confirmed && p.unreported_ticks >= patience)
        };
        let differs_at = peers.clone().filter(differs).map(|p| p.differs_at).max();
        let is_disputed = differs_at.is_some_and(|at| !self.has_agreement(core, at));
        let may_be_right = is_confirmed || !peers.any(could);
        may_be_right && !is_disputed && !core.snapshots.is_base_unreadable()
    }

    /// Whether a quorum, this node included, has reported the same state at `at` or a later index,
    /// and at least one peer. A lone voter is a quorum, but its word stands against that of a
    /// learner: if the voter is wrong, all learners would give up what they replay from the log.
    fn has_agreement(&self, core: &Core, at: Index) -> bool {
        let own = core.id();
        let agrees = |p: &Progress| p.agrees == Some(true) && p.agreed_at >= at;
        let is_quorum =
            core.log.membership().is_quorum(|id| self.progress.get(&id).map_or(id == own, agrees));
        is_quorum && self.progress.values().any(agrees)
    }
}
