//! Who has heard whom, and when, in ticks of the one who hears: what elections rest on.
//!
//! These promises are checked. Nobody consents to an election while it hears a leader (§4.2.3, §9.6).
//! A node enters a term of its own only with the consent of a quorum, given since it last heard a
//! leader; so a node that is cut off does not disturb the others when it comes back. A node that hears
//! of a later term enters it (§3.3). A leader that hears no quorum leads no longer than two election
//! timeouts (§6.2). And a read is served only when a quorum has heard a leader since it was asked: what
//! was said before proves nothing about who leads now (§6.4).

use crate::checks::Check;
use crate::observer::{Violation, violation};
use crate::shadow::Shadow;
use raft::{Body, Message, Node, NodeId, Term};
use std::collections::BTreeSet;

const CONSENT: Check = Check::NobodyConsentsToAnElectionWhileItHearsALeader;

#[derive(Debug)]
pub(crate) struct Contact {
    election_ticks: u64,
    nodes: Vec<Ear>,
    /// For each node, when each leader said what the node heard from it last, counted in events. A
    /// restart does not undo that.
    led: Vec<Vec<u64>>,
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
    /// It was just told of this later term by another member.
    due: Option<Term>,
    /// When it last heard each node, for a leader.
    peers: Vec<u64>,
}

impl Contact {
    pub fn new(nodes: u64, election_ticks: u32) -> Self {
        let nodes = nodes as usize;
        let ear = Ear { peers: vec![0; nodes], ..Ear::default() };
        Contact {
            election_ticks: u64::from(election_ticks),
            nodes: vec![ear; nodes],
            led: vec![vec![0; nodes]; nodes],
        }
    }

    pub fn started(&mut self, at: usize, node: &Node) {
        let peers = vec![0; self.nodes.len()];
        self.nodes[at] = Ear { term: node.term(), peers, ..Ear::default() };
    }

    /// A message that was sent at this event is about to be given to a node.
    pub fn arrives(&mut self, at: usize, node: &Node, message: &Message, sent_at: u64) {
        if matches!(message.body, Body::Append { .. }) && message.term >= node.term() {
            let led = &mut self.led[at][message.from.0 as usize];
            *led = sent_at.max(*led);
        }
        let ear = &mut self.nodes[at];
        ear.due = spread_term(node, message);
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

    /// A read is served that was asked for at this event: it must have been confirmed since.
    pub fn served(&self, at: usize, node: &Node, asked_at: u64) -> Result<(), Violation> {
        let confirms = |leader: usize| {
            let heard = |id: NodeId| {
                let id = id.0 as usize;
                id == leader || self.led.get(id).is_some_and(|led| led[leader] >= asked_at)
            };
            node.base().membership.is_quorum(heard)
        };
        if (0..self.nodes.len()).any(confirms) {
            return Ok(());
        }
        let detail = format!("node {at} in term {}: asked for at event {asked_at}", node.term());
        violation(Check::ReadIsConfirmedSinceItWasAskedFor, detail)
    }

    /// A message leaves a node, whose disk holds this.
    pub fn said(&self, at: usize, message: &Message, disk: &Shadow) -> Result<(), Violation> {
        let has_a_say = matches!(
            message.body,
            Body::PreVote { .. }
                | Body::PreVoteReply { granted: true, .. }
                | Body::Vote { .. }
                | Body::VoteReply { granted: true, .. }
        );
        if has_a_say
            && let Some(lost) = disk.hard_state.lost
            && disk.last() < lost
        {
            let detail = format!("node {at}, which lacks {lost}: {:?}", message.body);
            return violation(Check::WhoHasLostWhatItAcknowledgedHasNoSay, detail);
        }
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
        if node.is_diverged() {
            // It takes nothing in any more, and stops.
            return Ok(());
        }
        let before = self.nodes[at].term;
        if node.term() > before
            && self.nodes[at].asked
            && let Some(ago) = self.hears_a_leader_of(at, before)
        {
            let detail = format!("node {at} heard one {ago} ticks ago and leaves term {before}");
            return violation(CONSENT, detail);
        }
        let ear = &mut self.nodes[at];
        if let Some(due) = ear.due.take()
            && node.term() < due
        {
            let detail = format!("node {at} was told of term {due} and stays in {}", node.term());
            return violation(Check::LaterTermIsEnteredWhenItIsHeardOf, detail);
        }
        ear.asked = false;
        let own = node.hard_state().vote == Some(NodeId(at as u64));
        if node.term() > ear.term && own && !std::mem::take(&mut ear.told) {
            let (next, consents) = &ear.consents;
            let consented =
                |id: NodeId| id.0 == at as u64 || (*next == node.term() && consents.contains(&id));
            if !node.base().membership.is_quorum(consented) {
                let detail =
                    format!("node {at} enters term {} with {consents:?} for {next}", node.term());
                return violation(Check::TermIsEnteredWithTheConsentOfAQuorum, detail);
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
            return violation(Check::LeaderHearsAQuorumOrLeadsNoMore, detail);
        }
        Ok(())
    }
}

/// The later term that a message tells this node of, if it has to enter it. Who asks for votes is not
/// heard while there is a leader, and a pre-vote changes nothing. Only what members say is looked at.
fn spread_term(node: &Node, message: &Message) -> Option<Term> {
    let spreads = !matches!(
        message.body,
        Body::PreVote { .. }
            | Body::PreVoteReply { granted: true, .. }
            | Body::Vote { .. }
            | Body::NotAMember { .. }
    );
    let member = node.base().membership.members.get(&message.from);
    let known = member.is_some_and(|member| member.incarnation == message.incarnation);
    (spreads && known && message.term > node.term()).then_some(message.term)
}
