//! The transitions between roles.

use crate::{NodeId, Term};

/// The transition that follows from an event. Roles do not know one another: each returns a `Next`,
/// and `RawNode::enter` carries it out.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Next {
    /// The role does not change.
    Stay,
    /// Follow `leader`, or wait for one, in this term or a later one.
    Follower { term: Term, leader: Option<NodeId> },
    /// Start a pre-vote (§9.6).
    PreCandidate,
    /// Enter the next term and request votes (§3.4).
    Candidate { transfer: bool },
    /// A quorum has granted its vote: become leader.
    Leader,
}
