//! Which role a node has, and which one it takes next.

use crate::candidate::Candidate;
use crate::follower::Follower;
use crate::leader::Leader;
use crate::{NodeId, Term};

#[derive(Debug)]
#[cfg_attr(feature = "clone-work", derive(Clone))]
pub(crate) enum Role {
    Follower(Follower),
    /// Pre-candidates too.
    Candidate(Candidate),
    Leader(Leader),
}

/// What a role's turn leads to. Roles do not know one another: they say what comes next, and
/// `Node::enter` makes it so.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Next {
    /// The role goes on.
    Stay,
    /// Follow `leader`, or wait for one, in this term or a later one.
    Follower { term: Term, leader: Option<NodeId> },
    /// Ask who would vote for this node.
    PreCandidate,
    /// Enter the next term and ask for votes.
    Candidate { transfer: bool },
    /// The votes are there.
    Leader,
}
