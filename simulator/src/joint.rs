//! Checks of a change of the membership at the moment when it becomes joint. It cannot be given up
//! after that, so the nodes that it then depends on must be there.
//!
//! Times are in ticks of the leader.

use crate::checks::Check;
use crate::observer::Observed;
use crate::plan::Swarm;
use crate::violation::{Violation, violation};
use raft::{Index, LogId, Membership, NodeId, RawNode, Term};
use std::collections::VecDeque;

/// A quorum of the target has entries on disk that were appended within this many election
/// timeouts.
const RECENT_ELECTIONS: u64 = 2;

#[derive(Debug)]
pub(crate) struct JointChanges {
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

impl JointChanges {
    pub fn new(nodes: u64, swarm: &Swarm) -> Self {
        JointChanges {
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
        node: &RawNode,
        in_force: (LogId, &Membership),
        disks: &[Observed<'_>],
        silent_ticks: impl Fn(NodeId) -> u64,
    ) -> Result<(), Violation> {
        let watched = &mut self.nodes[at];
        let leads = node.is_leader().then_some(node.term());
        let (id, membership) = in_force;
        let mut result = Ok(());
        if leads.is_some() && leads == watched.leads {
            // The entry changes too when a snapshot covers it.
            let becomes_joint = !watched.in_force.1.is_joint() && membership.is_joint();
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
            disks
                .get(voter.0 as usize)
                .is_some_and(|disk| disk.has_forgotten(voter, joint) || disk.shadow.holds(entry))
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::shadow::Shadow;
    use bytes::Bytes;
    use raft::{CommandNumber, Entry, Incarnation, LogTime, Member, Payload, Restored, Snapshot};

    fn members(ids: impl Iterator<Item = u64>) -> Membership {
        let member = |id| Member {
            incarnation: Incarnation(id),
            peer_address: String::new(),
            client_address: String::new(),
        };
        Membership::of_voters(ids.map(|id| (NodeId(id), member(id))).collect())
    }

    /// The promise that is broken if a change to three voters, of which node 2 is new, becomes
    /// joint when the disks end with these entries.
    fn broken(ends: [u64; 3], silent: Option<u64>) -> Option<Check> {
        let id = |index| LogId::new(index, 1);
        let disk = |last| {
            let mut shadow = Shadow::new(&Restored::initial(Snapshot::initial(members(0..3))));
            shadow.entries.extend((1..=last).map(|index| Entry {
                id: id(index),
                time: LogTime(0),
                number: CommandNumber(0),
                payload: Payload::Command(Bytes::new()),
            }));
            shadow
        };
        let shadows = ends.map(disk);
        let disks =
            shadows.each_ref().map(|shadow| Observed { shadow, forgot: false, incarnation: None });
        let watched = Watched {
            in_force: (id(1), members(0..2)),
            appended: VecDeque::from([(7, id(5), id(6))]),
            before: Some(id(4)),
            ..Watched::default()
        };
        let is_there = |id: NodeId| Some(id.0) != silent;
        let joined = watched.joins(0, (id(7), &members(0..3)), &disks, is_there);
        joined.err().map(|broken| broken.check)
    }

    #[test]
    fn a_majority_of_the_target_replies_and_has_something_recent() {
        assert_eq!(broken([6, 5, 5], None), None);
        assert_eq!(broken([6, 5, 4], Some(2)), None);
        let stores = Some(Check::JointMembershipHasAQuorumThatStores);
        assert_eq!(broken([6, 4, 4], None), stores);
        assert_eq!(broken([6, 5, 4], Some(1)), stores);
    }

    #[test]
    fn a_new_voter_has_what_the_log_held_before() {
        assert_eq!(broken([6, 5, 4], None), None);
        assert_eq!(broken([6, 5, 3], None), Some(Check::NewVoterHasCaughtUp));
    }
}
