//! Who has heard whom, and when, in ticks of the one who hears: what elections rest on.
//!
//! Three promises are checked. Nobody consents to an election while it hears a leader (§4.2.3, §9.6).
//! A node enters a term of its own only with the consent of a quorum, given since it last heard a
//! leader; so a node that is cut off does not disturb the others when it comes back. And a leader that
//! hears no quorum leads no longer than two election timeouts (§6.2).

use crate::observer::{Violation, violation};
use raft::{Body, Message, Node, NodeId, Term};
use std::collections::BTreeSet;

const CONSENT: &str = "nobody consents to an election while it hears a leader";

#[derive(Debug)]
pub(crate) struct Contact {
    election_ticks: u64,
    nodes: Vec<Ear>,
}

/// What one node has heard since it started.
#[derive(Clone, Debug, Default)]
struct Ear {
    ticks: u64,
    term: Term,
    leads: bool,
    /// When it last heard the leader of this term.
    leader: Option<(Term, u64)>,
    /// Who consents to its election in this term.
    consents: (Term, BTreeSet<NodeId>),
    /// A leader has told it to campaign.
    told: bool,
    /// It was just asked for its vote by somebody whom no leader told to ask.
    asked: bool,
    /// When it last heard each node, for a leader.
    peers: Vec<u64>,
}

impl Contact {
    pub fn new(nodes: u64, election_ticks: u32) -> Self {
        let ear = Ear { peers: vec![0; nodes as usize], ..Ear::default() };
        Contact { election_ticks: u64::from(election_ticks), nodes: vec![ear; nodes as usize] }
    }

    pub fn started(&mut self, at: usize, node: &Node) {
        let peers = vec![0; self.nodes.len()];
        self.nodes[at] = Ear { term: node.term(), peers, ..Ear::default() };
    }

    /// A message is about to be given to a node.
    pub fn arrives(&mut self, at: usize, message: &Message) {
        let ear = &mut self.nodes[at];
        if let Some(heard) = ear.peers.get_mut(message.from.0 as usize) {
            *heard = ear.ticks;
        }
        match &message.body {
            // Late ones, of a life before its disk was wiped even, are about other terms.
            Body::PreVoteReply { next, granted: true } if *next == ear.term.next() => {
                if ear.consents.0 != *next {
                    ear.consents = (*next, BTreeSet::new());
                }
                ear.consents.1.insert(message.from);
            }
            Body::TimeoutNow => ear.told = true,
            _ => {}
        }
        ear.asked = matches!(message.body, Body::Vote { transfer: false, .. });
    }

    /// A node has taken a message, and follows its sender.
    pub fn heard_leader(&mut self, at: usize, node: &Node) {
        let ear = &mut self.nodes[at];
        ear.leader = Some((node.term(), ear.ticks));
        ear.consents.1.clear();
    }

    /// A message leaves a node.
    pub fn said(&self, at: usize, message: &Message) -> Result<(), Violation> {
        if matches!(message.body, Body::PreVoteReply { granted: true, .. })
            && let Some(ago) = self.hears_a_leader_of(at, message.term)
        {
            let detail = format!("node {at} heard one {ago} ticks ago: {:?}", message.body);
            return violation(CONSENT, detail);
        }
        Ok(())
    }

    /// How many ticks ago it heard the leader of this term, if that is less than any election takes.
    fn hears_a_leader_of(&self, at: usize, term: Term) -> Option<u64> {
        let ear = &self.nodes[at];
        let (_, heard) = ear.leader.filter(|(of, _)| *of == term)?;
        Some(ear.ticks - heard).filter(|ago| *ago < self.election_ticks)
    }

    /// Looks at a node after an event.
    pub fn look(&mut self, at: usize, node: &Node) -> Result<(), Violation> {
        let before = self.nodes[at].term;
        if node.term() > before
            && self.nodes[at].asked
            && let Some(ago) = self.hears_a_leader_of(at, before)
        {
            let detail = format!("node {at} heard one {ago} ticks ago and leaves term {before}");
            return violation(CONSENT, detail);
        }
        let ear = &mut self.nodes[at];
        ear.asked = false;
        let own = node.hard_state().vote == Some(NodeId(at as u64));
        if node.term() > ear.term && own && !std::mem::take(&mut ear.told) {
            let (next, consents) = &ear.consents;
            let consented =
                |id: NodeId| id.0 == at as u64 || (*next == node.term() && consents.contains(&id));
            if !node.base().membership.is_quorum(consented) {
                let detail =
                    format!("node {at} enters term {} with {consents:?} for {next}", node.term());
                return violation("a term is entered with the consent of a quorum", detail);
            }
        }
        ear.term = node.term();
        let leads = node.is_leader();
        if leads && !ear.leads {
            ear.peers.fill(ear.ticks);
        }
        ear.leads = leads;
        Ok(())
    }

    /// A node has ticked.
    pub fn ticked(&mut self, at: usize, node: &Node) -> Result<(), Violation> {
        let ear = &mut self.nodes[at];
        ear.ticks += 1;
        if !ear.leads {
            return Ok(());
        }
        let patience = 2 * self.election_ticks + 1;
        let heard = |id: NodeId| {
            let last = ear.peers.get(id.0 as usize);
            id.0 == at as u64 || last.is_some_and(|last| ear.ticks - last <= patience)
        };
        if !node.base().membership.is_quorum(heard) {
            let detail = format!("node {at} in term {}, for {patience} ticks", node.term());
            return violation("a leader hears a quorum or leads no more", detail);
        }
        Ok(())
    }
}
