//! Checks of elections, leadership and reads, based on which node has received a message from which
//! other node, and when. Times are in ticks of the receiver.
//!
//! The promises:
//!
//! - A node grants no pre-vote, and joins no election, while it is in contact with a leader
//!   (§4.2.3, §9.6).
//! - A node enters a term of its own only with the pre-votes of a quorum, granted since it last
//!   received an append from a leader. So a partitioned node does not disturb the others when it
//!   comes back.
//! - A node that receives a later term enters it (§3.3).
//! - A node that receives an append of an earlier term tells its sender the later term (§3.3).
//! - A leader that receives nothing from a quorum steps down within two election timeouts (§6.2).
//! - A read is served only when a quorum has received an append that a leader sent after the read
//!   was requested: earlier messages do not prove which node leads now (§6.4).

use crate::checks::Check;
use crate::shadow::Shadow;
use crate::violation::{Violation, violation};
use raft::{Body, Index, Membership, Message, NodeId, RawNode, Term};
use std::collections::{BTreeSet, VecDeque};

const CONSENT: Check = Check::NobodyConsentsToAnElectionWhileItHearsALeader;

#[derive(Debug)]
pub(crate) struct Contact {
    election_ticks: u64,
    nodes: Vec<Ear>,
    /// For each node and each leader: the event at which the leader sent the latest append that the
    /// node has received. A restart does not reset it.
    led: Vec<Vec<u64>>,
    /// For each node: its latest memberships, with the event at which each came into force.
    in_force: Vec<VecDeque<(u64, Membership)>>,
}

/// Number of memberships of a node that are kept, for reads that wait meanwhile.
const MEMBERSHIPS_MAX: usize = 32;

/// The messages that one node has received since it started.
#[derive(Clone, Debug, Default)]
struct Ear {
    ticks: u64,
    term: Term,
    leads: bool,
    /// The latest tick at which it received an append from the leader of this term.
    leader: Option<(Term, u64)>,
    /// The nodes that have granted it a pre-vote for this term.
    consents: (Term, BTreeSet<NodeId>),
    /// It has received `TimeoutNow` from a leader.
    told: bool,
    /// The message just received is a request for its vote, not for a leadership transfer.
    asked: bool,
    /// The message just received is an append of an earlier term, which this sender must be told.
    corrects: Option<NodeId>,
    /// The later term that the message just received makes it enter.
    due: Option<Term>,
    /// For a leader: the tick at which it last received a message from each node.
    peers: Vec<u64>,
    /// For how many ticks it has led although it does not vote any more.
    votes_no_more: u64,
}

impl Contact {
    pub fn new(nodes: u64, election_ticks: u32) -> Self {
        let nodes = nodes as usize;
        let ear = Ear { peers: vec![0; nodes], ..Ear::default() };
        Contact {
            election_ticks: u64::from(election_ticks),
            nodes: vec![ear; nodes],
            led: vec![vec![0; nodes]; nodes],
            in_force: vec![VecDeque::new(); nodes],
        }
    }

    pub fn started(&mut self, at: usize, node: &RawNode) {
        let peers = vec![0; self.nodes.len()];
        self.nodes[at] = Ear { term: node.term(), peers, ..Ear::default() };
    }

    /// This membership is in force at a node at this event.
    fn governs(&mut self, at: usize, membership: &Membership, event: u64) {
        let known = &mut self.in_force[at];
        if known.back().is_none_or(|(_, latest)| latest != membership) {
            known.push_back((event, membership.clone()));
            if known.len() > MEMBERSHIPS_MAX {
                known.pop_front();
            }
        }
    }

    /// The memberships that were in force at a node at or after an event.
    fn in_force_since(&self, at: usize, event: u64) -> impl Iterator<Item = &Membership> {
        let known = &self.in_force[at];
        let ends = known.iter().skip(1).map(|(from, _)| *from).chain([u64::MAX]);
        let with_ends = known.iter().zip(ends);
        with_ends.filter(move |(_, end)| *end >= event).map(|((_, membership), _)| membership)
    }

    /// A node is about to receive a message that was sent at event `sent_at`.
    pub fn arrives(
        &mut self,
        at: usize,
        (node, membership): (&RawNode, &Membership),
        message: &Message,
        sent_at: u64,
    ) {
        let member = membership.members.get(&message.from);
        let is_member = member.is_some_and(|member| member.incarnation == message.incarnation);
        if matches!(message.body, Body::Append { .. }) && message.term >= node.term() {
            let led = &mut self.led[at][message.from.0 as usize];
            *led = sent_at.max(*led);
        }
        let ear = &mut self.nodes[at];
        ear.due = is_member.then(|| spread_term(node, message)).flatten();
        if let Some(heard) = ear.peers.get_mut(message.from.0 as usize) {
            *heard = ear.ticks;
        }
        match &message.body {
            // Late replies, even from before its disk was wiped, are for other terms.
            Body::PreVoteReply { next, granted: true, .. }
                if *next == ear.term.next() && is_member =>
            {
                if ear.consents.0 != *next {
                    ear.consents = (*next, BTreeSet::new());
                }
                ear.consents.1.insert(message.from);
            }
            Body::TimeoutNow => ear.told = true,
            _ => {}
        }
        ear.asked = matches!(message.body, Body::Vote { transfer: false, .. });
        let is_stale = matches!(message.body, Body::Append { .. }) && message.term < node.term();
        ear.corrects = (is_stale && is_member).then_some(message.from);
    }

    /// A node has processed an append and follows its sender.
    pub fn heard_leader(&mut self, at: usize, node: &RawNode) {
        let ear = &mut self.nodes[at];
        ear.leader = Some((node.term(), ear.ticks));
        ear.consents.1.clear();
    }

    /// A node learns that the process of a peer has ended. If that is its leader, it waits for it
    /// no longer. Returns whether it is.
    pub fn gone(&mut self, at: usize, node: &RawNode, peer: usize) -> bool {
        let is_leader = node.leader() == Some(NodeId(peer as u64));
        if is_leader {
            self.nodes[at].leader = None;
        }
        is_leader
    }

    /// Checks a read that is served: it must have been confirmed since event `asked_at`, when it
    /// was requested.
    pub fn served(&self, at: usize, node: &RawNode, asked_at: u64) -> Result<(), Violation> {
        let confirms = |leader: usize| {
            let heard = |id: NodeId| {
                let id = id.0 as usize;
                id == leader || self.led.get(id).is_some_and(|led| led[leader] >= asked_at)
            };
            // The leader may have changed the membership since it confirmed the read, or a moment
            // ago; that one is compared with its log after this event.
            let own = (leader == at).then(|| node.membership());
            self.in_force_since(leader, asked_at).chain(own).any(|one| one.is_quorum(heard))
        };
        if (0..self.nodes.len()).any(confirms) {
            return Ok(());
        }
        let detail = format!("node {at} in term {}: asked for at event {asked_at}", node.term());
        violation(Check::ReadIsConfirmedSinceItWasAskedFor, (at, node.term()), detail)
    }

    /// Checks a message that a node sends, given the contents of its disk.
    pub fn said(&mut self, at: usize, message: &Message, disk: &Shadow) -> Result<(), Violation> {
        // A request for a pre-vote only asks. It also shows whether the node was removed.
        let has_a_say = matches!(
            message.body,
            Body::PreVoteReply { granted: true, .. }
                | Body::Vote { .. }
                | Body::VoteReply { granted: true, .. }
        );
        if has_a_say
            && let Some(lost) = disk.hard_state.lost
            && disk.last() < lost
        {
            let detail = format!("node {at}, which lacks {lost}: {:?}", message.body);
            return violation(Check::WhoHasLostWhatItAcknowledgedHasNoSay, (at, lost), detail);
        }
        if matches!(message.body, Body::PreVoteReply { granted: true, .. })
            && let Some(ago) = self.hears_a_leader_of(at, message.term)
        {
            let detail = format!("node {at} heard one {ago} ticks ago: {:?}", message.body);
            return violation(CONSENT, (at, message.term), detail);
        }
        if matches!(message.body, Body::Rejected { .. }) {
            self.nodes[at].corrects.take_if(|sender| *sender == message.to);
        }
        if matches!(message.body, Body::ForwardReply { .. }) && !self.nodes[at].leads {
            let detail = format!("node {at} does not lead: {:?}", message.body);
            let about = (at, message.term);
            return violation(Check::OnlyALeaderRepliesToForwardedCommands, about, detail);
        }
        Ok(())
    }

    /// How many ticks ago it received an append from the leader of this term, if that is less than
    /// the shortest election timeout.
    fn hears_a_leader_of(&self, at: usize, term: Term) -> Option<u64> {
        let ear = &self.nodes[at];
        let (_, heard) = ear.leader.filter(|(of, _)| *of == term)?;
        Some(ear.ticks - heard).filter(|ago| *ago < self.election_ticks)
    }

    /// For how many ticks a node has received nothing from another one; as a leader, since it was
    /// elected.
    pub fn silent_ticks(&self, at: usize, other: NodeId) -> u64 {
        let ear = &self.nodes[at];
        ear.peers.get(other.0 as usize).map_or(u64::MAX, |last| ear.ticks - last)
    }

    /// Checks a node after an event, with this membership in force.
    pub fn look(
        &mut self,
        at: usize,
        node: &RawNode,
        membership: &Membership,
        event: u64,
    ) -> Result<(), Violation> {
        self.governs(at, membership, event);
        let corrects = self.nodes[at].corrects.take();
        if node.is_diverged() {
            // It processes nothing any more, and stops once its disk has recorded that.
            self.nodes[at].leads = false;
            return Ok(());
        }
        if let Some(sender) = corrects {
            let detail = format!("node {at} says nothing to node {sender}");
            return violation(Check::LeaderOfAnEarlierTermIsTold, (at, sender), detail);
        }
        let before = self.nodes[at].term;
        if node.term() > before
            && self.nodes[at].asked
            && let Some(ago) = self.hears_a_leader_of(at, before)
        {
            let detail = format!("node {at} heard one {ago} ticks ago and leaves term {before}");
            return violation(CONSENT, (at, before), detail);
        }
        let ear = &mut self.nodes[at];
        if let Some(due) = ear.due.take()
            && node.term() < due
        {
            let detail = format!("node {at} was told of term {due} and stays in {}", node.term());
            return violation(
                Check::LaterTermIsEnteredWhenItIsHeardOf,
                (at, [due, node.term()]),
                detail,
            );
        }
        ear.asked = false;
        let own = node.hard_state().vote == Some(NodeId(at as u64));
        if node.term() > ear.term && own && !std::mem::take(&mut ear.told) {
            let (next, consents) = &ear.consents;
            let consented =
                |id: NodeId| id.0 == at as u64 || (*next == node.term() && consents.contains(&id));
            if !membership.is_quorum(consented) {
                let detail =
                    format!("node {at} enters term {} with {consents:?} for {next}", node.term());
                return violation(
                    Check::TermIsEnteredWithTheConsentOfAQuorum,
                    (at, node.term()),
                    detail,
                );
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

    /// Checks a node after a tick. `in_force_at` is the index of the membership that is in force.
    pub fn ticked(
        &mut self,
        at: usize,
        node: &RawNode,
        membership: &Membership,
        in_force_at: Index,
    ) -> Result<(), Violation> {
        let ear = &mut self.nodes[at];
        ear.ticks += 1;
        let votes = membership.is_voter(NodeId(at as u64)) || node.commit() < in_force_at;
        ear.votes_no_more = if ear.leads && !votes { ear.votes_no_more + 1 } else { 0 };
        if !ear.leads {
            return Ok(());
        }
        // As long as a transfer may take, one that was in progress before included.
        let patience = 4 * self.election_ticks + 2;
        if ear.votes_no_more > patience {
            let detail = format!("node {at} in term {}, for {patience} ticks", node.term());
            return violation(Check::LeaderThatDoesNotVoteLeadsNoMore, (at, node.term()), detail);
        }
        let patience = 2 * self.election_ticks + 1;
        let heard = |id: NodeId| {
            let last = ear.peers.get(id.0 as usize);
            id.0 == at as u64 || last.is_some_and(|last| ear.ticks - last <= patience)
        };
        if !membership.is_quorum(heard) {
            let detail = format!("node {at} in term {}, for {patience} ticks", node.term());
            return violation(Check::LeaderHearsAQuorumOrLeadsNoMore, (at, node.term()), detail);
        }
        Ok(())
    }
}

/// The term of a message, if it is later than that of the node and the node must enter it. Requests
/// for votes are ignored while there is a leader, and a pre-vote changes no term.
fn spread_term(node: &RawNode, message: &Message) -> Option<Term> {
    let spreads = !matches!(
        message.body,
        Body::PreVote { .. }
            | Body::PreVoteReply { granted: true, .. }
            | Body::Vote { .. }
            | Body::NotAMember { .. }
    );
    let is_for_it =
        message.body.meant_for().is_none_or(|incarnation| incarnation == node.incarnation());
    (spreads && is_for_it && message.term > node.term()).then_some(message.term)
}
