//! The end of a run, which is the same in all simulations. The faults stop, the cluster recovers,
//! nothing changes for a while although clients continue, and when they have stopped all nodes come
//! to rest with the same state.
//!
//! A simulation reports what it sees of its nodes ([`Ending`]), and waits in its own way. What must
//! hold, and within which time, is here.

use crate::checks::{Check, Observer, Violation, violation};
use crate::copies::{CAUSES, difference};
use crate::plan::Plan;
use driver::StateMachine;
use raft::{Index, NodeId, Term};
use std::collections::BTreeMap;

/// Number of events after which the faults stop, even before `faults_until_us`.
pub const FAULTY_EVENTS: u64 = 50_000;

/// The time limit for the cluster to recover after the faults, in longest election timeouts.
pub const CONVERGE_TIMEOUTS: u64 = 40;

/// After recovery the leader must not change for this many of the longest election timeouts.
pub const QUIET_TIMEOUTS: u64 = 10;

/// After the faults, the mean time between two requests of all clients together.
pub const CALM_THINK_US: u64 = 50_000;

/// How many entries a node may be behind after recovery, since clients continue.
const BEHIND_MAX: u64 = 100;

/// The state of a node, as a simulation sees it.
#[derive(Clone, Debug, Default)]
pub struct Seen {
    /// Its disk was wiped: it is not a member any more.
    pub is_stranger: bool,
    /// It never starts again.
    pub is_dead: bool,
    /// A fault that lasts keeps it out of the cluster.
    pub is_gone: bool,
    /// It processes nothing at the moment.
    pub is_paused: bool,
    /// Its state is known to differ from the others'.
    pub differs: bool,
    /// Its state, if it runs.
    pub up: Option<Up>,
}

/// A running node.
#[derive(Clone, Debug)]
pub struct Up {
    /// Whether it leads and serves requests.
    pub serves: bool,
    /// Whether it is about to hand its leadership over. A command to do so that came in a pause is
    /// obeyed after it.
    pub hands_over: bool,
    /// Whether it lacks entries that it has acknowledged.
    pub has_lost: bool,
    /// The last index that its state machine has applied.
    pub applied: Index,
    /// The end of its log.
    pub last: Index,
}

/// A simulation whose faults are over.
pub trait Ending {
    /// The state machine.
    type Machine: StateMachine;

    /// The plan of the run.
    fn plan(&self) -> &Plan;

    /// The observer of the run.
    fn observer(&self) -> &Observer<Self::Machine>;

    /// All nodes, by id.
    fn nodes(&self) -> Vec<Seen>;

    /// The longest election timeout, in microseconds.
    fn timeout_us(&self) -> u64 {
        let swarm = &self.plan().swarm;
        2 * u64::from(swarm.election_ticks) * u64::from(swarm.tick_us)
    }

    /// Whether a quorum of each membership that may be in force can serve. Nodes that are dead or
    /// whose disk was wiped do not count. A node that has lost entries counts only if there is a
    /// leader to repair it.
    fn is_able(&self) -> bool {
        let nodes = self.nodes();
        let has_leader = healthy(&nodes).any(|(_, _, up)| up.serves);
        let is_able = |id: NodeId| {
            nodes.get(id.0 as usize).is_some_and(|node| {
                let has_lost = node.up.as_ref().is_some_and(|up| up.has_lost);
                !node.is_dead && !node.is_stranger && (has_leader || !has_lost)
            })
        };
        self.observer().possible_memberships().all(|membership| membership.is_quorum(is_able))
    }

    /// Checks that every node runs, that one leader serves and that all others follow it.
    fn recovered(&self) -> Result<(), Violation> {
        let nodes = self.nodes();
        let is_away = |node: &Seen| {
            let is_excused = node.is_dead || node.is_gone || node.is_stranger;
            (node.up.is_none() || node.is_paused) && !is_excused
        };
        if let Some(node) = nodes.iter().position(is_away) {
            return violation(Check::EveryNodeIsBackInTheEnd, node, format!("node {node} is not"));
        }
        let serving = healthy(&nodes).filter(|(_, _, up)| up.serves);
        let leaders: Vec<usize> = serving.map(|(id, ..)| id).collect();
        // One that was paused does not know at first that another node has led since.
        let latest = self.observer().latest_leader().map(|(_, id)| id as usize);
        if leaders.len() != 1 || latest.is_some_and(|latest| leaders != [latest]) {
            let detail = format!("nodes {leaders:?} serve, long after the faults have stopped");
            return violation(Check::OneLeaderServesInTheEnd, leaders.as_slice(), detail);
        }
        if let Some((id, ..)) = healthy(&nodes).find(|(_, _, up)| up.hands_over) {
            let detail = format!("node {id} still hands its leadership over");
            return violation(Check::OneLeaderServesInTheEnd, id, detail);
        }
        let committed = self.observer().committed_index();
        for (id, node, up) in healthy(&nodes) {
            let behind = committed.0.saturating_sub(up.applied.0);
            if behind > BEHIND_MAX {
                let detail = format!("node {id} is {behind} entries behind");
                return violation(Check::EveryNodeCatchesUpInTheEnd, id, detail);
            }
            if node.differs {
                let detail = format!("node {id} goes on with a copy that differs");
                return violation(Check::CopyThatDiffersIsFoundOut, id, detail);
            }
            if up.has_lost {
                return violation(Check::WhatWasLostIsRepairedInTheEnd, id, format!("node {id}"));
            }
        }
        Ok(())
    }

    /// Checks that the leader has not changed since it was this one. One whose log is full steps
    /// down, if it takes longer than an election timeout until a snapshot is written and the log
    /// is freed.
    fn leads_still(&self, leader: Option<(Term, u64)>) -> Result<(), Violation> {
        let now = self.observer().latest_leader();
        if now == leader || self.plan().swarm.log_may_fill() {
            return Ok(());
        }
        let about = [leader, now].map(|leads| leads.map(|(term, id)| (id as usize, term)));
        let detail = format!("{leader:?}, then {now:?}");
        violation(Check::NoLeaderChangesWithoutAFault, about, detail)
    }

    /// Checks that every healthy node has applied everything that is committed, and that no log
    /// goes on after that.
    fn settled(&self) -> Result<(), Violation> {
        let committed = self.observer().committed_index();
        for (id, _, Up { applied, last, .. }) in healthy(&self.nodes()) {
            if *applied != committed || *last != committed {
                let detail =
                    format!("node {id} ends with {last}, applied {applied} of {committed}");
                return violation(Check::EveryNodeCatchesUpInTheEnd, (id, committed), detail);
            }
        }
        Ok(())
    }

    /// Whether the run has seen more than a few elections.
    fn leaders_changed(&self) -> bool {
        self.observer().elections() > 3
    }
}

/// The running nodes that must serve, with their ids.
fn healthy(nodes: &[Seen]) -> impl Iterator<Item = (usize, &Seen, &Up)> {
    let nodes = nodes.iter().enumerate().filter(|(_, node)| !node.is_stranger && !node.is_gone);
    nodes.filter_map(|(id, node)| Some((id, node, node.up.as_ref()?)))
}

/// Checks that nodes which have applied the same log have the same state. Takes each node with the
/// last index that it has applied and its state.
pub fn states_are_equal(
    states: impl IntoIterator<Item = (usize, Index, Vec<u8>)>,
) -> Result<(), Violation> {
    let mut known: BTreeMap<Index, (usize, Vec<u8>)> = BTreeMap::new();
    for (node, applied, state) in states {
        let (first, expected) = known.entry(applied).or_insert_with(|| (node, state.clone()));
        if *expected != state {
            let difference = difference(expected, &state);
            let detail = format!("nodes {first} and {node} at {applied}: {difference}; {CAUSES}");
            return violation(Check::EqualLogsMakeEqualStates, ([*first, node], applied), detail);
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Registers;
    use raft::{Config, Incarnation, Member, Membership, RawNode, Restored, Snapshot};

    struct World(Plan, Observer<Registers>, Vec<Seen>);

    impl Ending for World {
        type Machine = Registers;

        fn plan(&self) -> &Plan {
            &self.0
        }

        fn observer(&self) -> &Observer<Registers> {
            &self.1
        }

        fn nodes(&self) -> Vec<Seen> {
            self.2.clone()
        }
    }

    /// Three healthy nodes, the first of which leads, after a change.
    fn world(change: impl FnOnce(&mut [Seen; 3])) -> World {
        let up = |serves| Up {
            serves,
            hands_over: false,
            has_lost: false,
            applied: Index(0),
            last: Index(0),
        };
        let seen = |serves| Seen { up: Some(up(serves)), ..Seen::default() };
        let mut nodes = [seen(true), seen(false), seen(false)];
        change(&mut nodes);
        let member = |id| Member {
            incarnation: Incarnation(id),
            peer_address: String::new(),
            client_address: String::new(),
        };
        let members = (0..3).map(|id| (NodeId(id), member(id))).collect();
        let founded = Restored::initial(Snapshot::initial(Membership::of_voters(members)));
        let config = Config::new(NodeId(0), Incarnation(0), 0);
        let node = RawNode::new(config, founded).expect("a sound configuration");
        let mut observer = Observer::new(3, Registers::default());
        observer.started(0, &node);
        World(Plan::from_seed(1), observer, nodes.into())
    }

    fn broken(result: Result<(), Violation>) -> Option<Check> {
        result.err().map(|violation| violation.check)
    }

    fn of(node: &mut Seen) -> &mut Up {
        node.up.as_mut().expect("it is up")
    }

    #[test]
    fn what_a_recovered_cluster_lacks_is_noticed() {
        let recovered = |change: fn(&mut [Seen; 3])| broken(world(change).recovered());
        assert_eq!(recovered(|_| {}), None);
        assert_eq!(recovered(|nodes| nodes[2].up = None), Some(Check::EveryNodeIsBackInTheEnd));
        assert_eq!(recovered(|n| n[2].is_paused = true), Some(Check::EveryNodeIsBackInTheEnd));
        let hands_over = recovered(|nodes| of(&mut nodes[0]).hands_over = true);
        assert_eq!(hands_over, Some(Check::OneLeaderServesInTheEnd));
        let no_leader = recovered(|nodes| of(&mut nodes[0]).serves = false);
        assert_eq!(no_leader, Some(Check::OneLeaderServesInTheEnd));
        let two_leaders = recovered(|nodes| of(&mut nodes[1]).serves = true);
        assert_eq!(two_leaders, Some(Check::OneLeaderServesInTheEnd));
        assert_eq!(recovered(|n| n[1].differs = true), Some(Check::CopyThatDiffersIsFoundOut));
        let has_lost = recovered(|nodes| of(&mut nodes[1]).has_lost = true);
        assert_eq!(has_lost, Some(Check::WhatWasLostIsRepairedInTheEnd));
        for excuse in [
            |node: &mut Seen| node.is_dead = true,
            |node: &mut Seen| node.is_gone = true,
            |node: &mut Seen| node.is_stranger = true,
        ] {
            let excused = world(|nodes| {
                nodes[2].up = None;
                excuse(&mut nodes[2]);
            });
            assert_eq!(broken(excused.recovered()), None);
        }
    }

    #[test]
    fn a_quorum_of_members_that_live_is_able() {
        let is_able = |change: fn(&mut [Seen; 3])| world(change).is_able();
        assert!(is_able(|nodes| (nodes[0].is_dead, nodes[0].up) = (true, None)));
        assert!(!is_able(|nodes| (nodes[0].is_dead, nodes[1].is_stranger) = (true, true)));
        // Without a leader nobody repairs what a voter has lost.
        let lost = |nodes: &mut [Seen; 3]| {
            (nodes[2].is_dead, nodes[2].up) = (true, None);
            of(&mut nodes[1]).has_lost = true;
        };
        assert!(world(lost).is_able());
        let without_leader = world(|nodes| {
            lost(nodes);
            of(&mut nodes[0]).serves = false;
        });
        assert!(!without_leader.is_able());
    }

    #[test]
    fn what_is_not_at_rest_is_noticed() {
        assert_eq!(broken(world(|_| {}).settled()), None);
        let catches_up = Some(Check::EveryNodeCatchesUpInTheEnd);
        let longer = world(|nodes| of(&mut nodes[1]).last = Index(1));
        assert_eq!(broken(longer.settled()), catches_up);
        let ahead = world(|nodes| of(&mut nodes[1]).applied = Index(1));
        assert_eq!(broken(ahead.settled()), catches_up);
        let leader = Some((Term(3), 0));
        let changed = broken(world(|_| {}).leads_still(leader));
        assert_eq!(changed, Some(Check::NoLeaderChangesWithoutAFault));
        assert_eq!(broken(world(|_| {}).leads_still(None)), None);
    }

    #[test]
    fn states_at_the_same_index_are_compared() {
        let states = |last: (u64, u8)| {
            let first = (0, Index(7), vec![1]);
            states_are_equal([first, (1, Index(6), vec![2]), (2, Index(last.0), vec![last.1])])
        };
        assert_eq!(broken(states((7, 1))), None);
        assert_eq!(broken(states((7, 9))), Some(Check::EqualLogsMakeEqualStates));
        assert_eq!(broken(states((6, 9))), Some(Check::EqualLogsMakeEqualStates));
    }
}
