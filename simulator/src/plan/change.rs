//! The changes of the membership that a plan declares.

use super::Plan;
use super::fault::{MEMBERS_FORCED, MEMBERS_HURRIED};
use raft::{Change, Membership, NodeId};
use std::collections::BTreeSet;

/// The fewest voters if a node may lose what it has stored: without it there is a quorum.
const VOTERS_LEAST: usize = 3;

impl Plan {
    /// The change of a membership that an amount of
    /// [`FaultKind::Members`](super::FaultKind::Members) stands for: all members stay, and others
    /// vote.
    pub fn declared(&self, known: &Membership, amount: u64) -> Change {
        let members = known.members.clone();
        let mut voters: BTreeSet<NodeId> =
            members.keys().copied().filter(|id| amount >> id.0 & 1 == 1).collect();
        let may_lose = self.faults.iter().any(|fault| fault.kind.forgets());
        let least = if may_lose { VOTERS_LEAST } else { 1 };
        let mut others = members.keys().copied();
        while voters.len() < least
            && let Some(other) = others.next()
        {
            voters.insert(other);
        }
        let mut change = Change::to(members, voters);
        change.force = amount & MEMBERS_FORCED > 0;
        if amount & MEMBERS_HURRIED > 0 {
            change.catch_up_ms = (self.election_us() / 1_000).max(1);
        }
        change
    }
}
