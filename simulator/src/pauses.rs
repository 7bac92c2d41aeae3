//! Checks of the pause of a node that has failed as a leader, in ticks of that node.
//!
//! The promise, see [`raft::Config::priority`]: a node that loses leadership without handing it
//! over, or is not elected although a leader has ordered that, states priority 0 for 16 election
//! timeouts. The pause doubles each time, up to 1,024, until the node has led for that long or
//! starts again. Then it states the priority that it was given.
//!
//! The pause is computed from elections and transfers alone. Within one tick, a leader may begin or
//! give up a transfer and step down; whether it has failed does not show then. So each node has
//! two pauses: the shortest one that the events allow, and the longest one.

use crate::checks::Check;
use crate::plan::Swarm;
use crate::violation::{Violation, violation};
use raft::{Body, Membership, Message, NodeId, RawNode, RoleKind, Term};

/// The first pause, in election timeouts.
const FIRST_ELECTIONS: u64 = 16;
/// The longest pause. A node that has led for as long begins with the first one again.
const LONGEST_ELECTIONS: u64 = 1_024;

#[derive(Debug)]
pub(crate) struct Pauses {
    election_ticks: u64,
    /// The priority that each node was given.
    priorities: Vec<u8>,
    nodes: Vec<Watched>,
}

/// A node, as of the latest look at it.
#[derive(Clone, Debug, Default)]
struct Watched {
    term: Term,
    leads: bool,
    /// It leads, and hands leadership over.
    hands_over: bool,
    /// It votes in the membership in force.
    votes: bool,
    /// How often it has begun to hand over to a preferred voter.
    gave_way: u64,
    /// The event is a tick of its clock.
    ticks: bool,
    /// The message just received is an order to campaign.
    told: bool,
    /// The term of an election that a leader has ordered, and that has not ended.
    ordered: Option<Term>,
    least: Pause,
    most: Pause,
}

/// How a node is paused, if it has failed as often as this says.
#[derive(Clone, Copy, Debug, Default)]
struct Pause {
    left_ticks: u64,
    failures: u32,
    led_ticks: u64,
}

impl Pause {
    fn tick(&mut self, leads: bool, election_ticks: u64) {
        self.left_ticks = self.left_ticks.saturating_sub(1);
        self.led_ticks = if leads { self.led_ticks + 1 } else { 0 };
        if self.led_ticks >= LONGEST_ELECTIONS * election_ticks {
            self.failures = 0;
        }
    }

    fn begin(&mut self, election_ticks: u64) {
        let elections = (FIRST_ELECTIONS << self.failures).min(LONGEST_ELECTIONS);
        self.left_ticks = elections * election_ticks;
        self.failures += u32::from(elections < LONGEST_ELECTIONS);
    }
}

impl Pauses {
    pub fn new(nodes: u64, swarm: &Swarm) -> Self {
        Pauses {
            election_ticks: swarm.election_ticks.into(),
            priorities: (0..nodes).map(|id| swarm.priority(id)).collect(),
            nodes: vec![Watched::default(); nodes as usize],
        }
    }

    /// A node has started: it has forgotten its failures.
    pub fn started(&mut self, at: usize, node: &RawNode) {
        self.nodes[at] = Watched { term: node.term(), ..Watched::default() };
    }

    /// A tick of a node's clock begins.
    pub fn tick(&mut self, at: usize) {
        let election_ticks = self.election_ticks;
        let watched = &mut self.nodes[at];
        watched.ticks = true;
        for pause in [&mut watched.least, &mut watched.most] {
            pause.tick(watched.leads, election_ticks);
        }
    }

    /// A node is about to receive a message.
    pub fn arrives(&mut self, at: usize, message: &Message) {
        self.nodes[at].told = matches!(message.body, Body::TimeoutNow);
    }

    /// Checks the priority that a node states.
    pub fn said(&self, at: usize, message: &Message) -> Result<(), Violation> {
        let Body::Appended { priority, .. } = message.body else { return Ok(()) };
        let left = self.nodes[at].least.left_ticks;
        if priority == 0 || left == 0 {
            return Ok(());
        }
        let detail = format!("node {at} states {priority}, and its pause goes on for {left} ticks");
        violation(Check::NodeThatFailedAsALeaderPauses, (at, message.term), detail)
    }

    /// Looks at a node after an event, with this membership in force.
    pub fn look(
        &mut self,
        at: usize,
        node: &RawNode,
        membership: &Membership,
    ) -> Result<(), Violation> {
        let election_ticks = self.election_ticks;
        let watched = &mut self.nodes[at];
        let (ticks, told) = (std::mem::take(&mut watched.ticks), std::mem::take(&mut watched.told));
        let (leads, term) = (node.is_leader(), node.term());
        let gave_way = node.counters().gave_way;
        let lost_it = watched.leads && !(leads && term == watched.term);
        if lost_it && (ticks || !watched.hands_over) {
            let is_unclear = ticks && (watched.hands_over || gave_way > watched.gave_way);
            // A leader that does not vote any more steps down.
            watched.fails(watched.votes && !is_unclear, election_ticks);
        }
        if let Some(ordered) = watched.ordered
            && !(term == ordered && node.status().role == RoleKind::Candidate)
        {
            watched.ordered = None;
            if !(leads && term == ordered) {
                watched.fails(true, election_ticks);
            }
        }
        let own = node.hard_state().vote == Some(NodeId(at as u64));
        if told && own && term > watched.term && !leads {
            watched.ordered = Some(term);
        }
        (watched.term, watched.leads, watched.gave_way) = (term, leads, gave_way);
        watched.hands_over = leads && node.transferring().is_some();
        watched.votes = membership.is_voter(NodeId(at as u64));
        if node.is_diverged() || !ticks || watched.most.left_ticks > 0 {
            return Ok(());
        }
        let (stated, given) = (node.stated_priority(), self.priorities[at]);
        if stated == given {
            return Ok(());
        }
        let detail = format!("node {at} states {stated} instead of {given}, without a pause");
        violation(Check::PauseOfANodeEnds, (at, term), detail)
    }
}

impl Watched {
    /// It has failed as a leader, for sure or perhaps.
    fn fails(&mut self, is_sure: bool, election_ticks: u64) {
        self.most.begin(election_ticks);
        if is_sure {
            self.least.begin(election_ticks);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use raft::{Incarnation, Index, Round};

    fn pauses() -> Pauses {
        let swarm = Swarm { election_ticks: 10, priorities: 3, ..Swarm::default() };
        Pauses::new(1, &swarm)
    }

    fn states(pauses: &Pauses, priority: u8) -> Option<Check> {
        let body = Body::Appended {
            matched: Index(0),
            round: Round(0),
            state: None,
            promise_ms: 0,
            priority,
        };
        let (from, to, term) = (NodeId(0), NodeId(1), Term(1));
        let message = Message { from, to, term, incarnation: Incarnation(0), body };
        pauses.said(0, &message).err().map(|broken| broken.check)
    }

    #[test]
    fn a_node_that_has_failed_states_no_priority_until_its_pause_is_over() {
        let mut pauses = pauses();
        assert_eq!(states(&pauses, 3), None);
        for ticks in [160, 320] {
            pauses.nodes[0].fails(true, 10);
            (1..ticks).for_each(|_| pauses.tick(0));
            assert_eq!(states(&pauses, 3), Some(Check::NodeThatFailedAsALeaderPauses));
            assert_eq!(states(&pauses, 0), None);
            pauses.tick(0);
            assert_eq!(states(&pauses, 3), None);
        }
    }

    #[test]
    fn a_failure_that_is_not_sure_binds_nobody() {
        let mut pauses = pauses();
        pauses.nodes[0].fails(false, 10);
        assert_eq!(states(&pauses, 3), None);
        assert_eq!(pauses.nodes[0].most.left_ticks, 160);
    }
}
