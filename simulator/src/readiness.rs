//! Checks of a change of the membership at the moment when it becomes joint. It cannot be given up
//! after that, so the nodes that it then depends on must be there.
//!
//! Times are in ticks of the leader.

use crate::checks::Check;
use crate::observer::Observed;
use crate::plan::Swarm;
use crate::violation::{Violation, violation};
use raft::{Index, LogId, Membership, Node, NodeId, Term};
use std::collections::VecDeque;

/// What a quorum of the target has on disk must have been appended within this many election
/// timeouts.
const RECENT_ELECTIONS: u64 = 2;

#[derive(Debug)]
pub(crate) struct Readiness {
    election_ticks: u64,
    nodes: Vec<Watched>,
}

/// A node, and what it has appended lately as a leader.
#[derive(Clone, Debug, Default)]
struct Watched {
    ticks: u64,
    /// The term that it leads.
    leads: Option<Term>,
    last: Index,
    /// The entry of the membership in force, and that membership.
    in_force: (LogId, Membership),
    /// For each event in which its log has grown, with its tick: the first new entry and the last.
    appended: VecDeque<(u64, LogId, LogId)>,
    /// The end of its log one election timeout ago, if it has led for as long.
    before: Option<LogId>,
}

impl Readiness {
    pub fn new(nodes: u64, swarm: &Swarm) -> Self {
        Readiness {
            election_ticks: swarm.election_ticks.into(),
            nodes: vec![Watched::default(); nodes as usize],
        }
    }

    pub fn started(&mut self, at: usize) {
        self.nodes[at] = Watched::default();
    }

    /// A tick of a node's clock begins.
    pub fn tick(&mut self, at: usize) {
        let watched = &mut self.nodes[at];
        watched.ticks += 1;
        let (ticks, election_ticks) = (watched.ticks, self.election_ticks);
        let then = watched.appended.iter().rev().find(|(at, ..)| at + election_ticks <= ticks);
        watched.before = then.map(|(_, _, last)| *last).or(watched.before);
        let is_old = |at: u64| at + RECENT_ELECTIONS * election_ticks + 1 < ticks;
        while watched.appended.front().is_some_and(|(at, ..)| is_old(*at)) {
            watched.appended.pop_front();
        }
    }

    /// Looks at a node after an event. `in_force` is the membership in force, and its entry;
    /// `silent_ticks` is for how long the node has received nothing from another one.
    pub fn look(
        &mut self,
        at: usize,
        node: &Node,
        in_force: (LogId, &Membership),
        disks: &[Observed<'_>],
        silent_ticks: impl Fn(NodeId) -> u64,
    ) -> Result<(), Violation> {
        let watched = &mut self.nodes[at];
        let leads = node.is_leader().then_some(node.term());
        let (id, membership) = in_force;
        let mut result = Ok(());
        if leads.is_some() && leads == watched.leads {
            let becomes_joint = id != watched.in_force.0 && membership.is_joint();
            if becomes_joint {
                let is_there = |id: NodeId| silent_ticks(id) <= self.election_ticks;
                result = watched.joins(at, (id, membership), disks, is_there);
            }
        } else {
            watched.appended.clear();
            watched.before = None;
        }
        let last = node.last();
        if leads.is_some() && (last.index > watched.last || leads != watched.leads) {
            let first = node.entry(watched.last.next()).map_or(last, |entry| entry.id);
            // A new leader appends the entry that begins its term.
            let first = if leads == watched.leads { first } else { last };
            watched.appended.push_back((watched.ticks, first, last));
        }
        (watched.leads, watched.last) = (leads, last.index);
        if id != watched.in_force.0 {
            watched.in_force = (id, membership.clone());
        }
        result
    }
}

impl Watched {
    /// Checks a joint membership that this leader appends.
    fn joins(
        &self,
        at: usize,
        (id, joint): (LogId, &Membership),
        disks: &[Observed<'_>],
        is_there: impl Fn(NodeId) -> bool,
    ) -> Result<(), Violation> {
        let has = |voter: NodeId, entry: LogId| {
            disks.get(voter.0 as usize).is_some_and(|disk| {
                disk.has_forgotten(voter, joint) || disk.shadow.holds(entry)
            })
        };
        let recent = self.appended.front().map(|(_, first, _)| *first);
        let takes_part = |voter: &NodeId| {
            (voter.0 == at as u64 || is_there(*voter))
                && recent.is_some_and(|recent| has(*voter, recent))
        };
        let taking_part = joint.voters.iter().filter(|voter| takes_part(voter)).count();
        if taking_part <= joint.voters.len() / 2 {
            let detail = format!(
                "node {at} appends {id} with voters {:?}; {taking_part} of them reply and have \
                 {recent:?}",
                joint.voters
            );
            return violation(Check::JointMembershipHasAQuorumThatStores, (at, id), detail);
        }
        let Some(before) = self.before else { return Ok(()) };
        let is_new = |voter: &&NodeId| !self.in_force.1.voters.contains(voter);
        let behind = joint.voters.iter().filter(is_new).find(|voter| !has(**voter, before));
        match behind {
            None => Ok(()),
            Some(voter) => {
                let detail = format!("node {at} appends {id}; new voter {voter} lacks {before}");
                violation(Check::NewVoterHasCaughtUp, ([*voter, NodeId(at as u64)], id), detail)
            }
        }
    }
}
