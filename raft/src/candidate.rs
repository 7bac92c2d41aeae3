//! A candidate. It first runs a pre-vote (§9.6), which changes no node's state. Only if that
//! succeeds does it enter a new term and request votes (§3.4).
//!
//! Its own vote counts like any other: only once it is durable.

use crate::core::Core;
use crate::role::Next;
use crate::{Body, Message, NodeId, Reading};
use std::collections::BTreeMap;

#[derive(Clone, Debug)]
pub(crate) struct Candidate {
    /// Whether this is a pre-vote.
    pub pre: bool,
    /// The leader ordered the election (§3.10).
    transfer: bool,
    /// The replies so far, its own vote included: whether each voter grants.
    votes: BTreeMap<NodeId, bool>,
    /// The log clocks of the voters that granted their vote.
    readings: BTreeMap<NodeId, Reading>,
    elapsed: u32,
    timeout: u32,
}

impl Candidate {
    /// Starts a pre-vote for the next term.
    pub fn pre(core: &mut Core) -> Self {
        let votes = core.votes().then(|| (core.id(), true)).into_iter().collect();
        let timeout = core.election_timeout();
        let readings = BTreeMap::new();
        let candidate =
            Candidate { pre: true, transfer: false, votes, readings, elapsed: 0, timeout };
        candidate.ask(core);
        candidate
    }

    /// Requests votes in the term that it has just entered.
    pub fn real(core: &mut Core, transfer: bool) -> Self {
        core.counters.campaigns += 1;
        let timeout = core.election_timeout();
        let (votes, readings) = (BTreeMap::new(), BTreeMap::new());
        let candidate = Candidate { pre: false, transfer, votes, readings, elapsed: 0, timeout };
        candidate.ask(core);
        candidate
    }

    /// Sends the request to all voters that have not replied yet.
    fn ask(&self, core: &mut Core) {
        let membership = core.log.membership();
        let silent: Vec<NodeId> = (membership.members.keys())
            .filter(|id| {
                **id != core.id() && membership.is_voter(**id) && !self.votes.contains_key(id)
            })
            .copied()
            .collect();
        let last = core.log.last();
        for to in silent {
            if self.pre {
                let question = core.message(to, Body::PreVote { next: core.term().next(), last });
                core.outbox.send(question);
            } else {
                let body = Body::Vote { last, transfer: self.transfer };
                let question = core.message(to, body);
                core.outbox.hold(question, last.index);
            }
        }
    }

    pub fn tick(&mut self, core: &mut Core) -> Next {
        self.elapsed += 1;
        if self.elapsed >= self.timeout {
            return match core.may_campaign() {
                true if core.promise.holds() => Next::Stay,
                true => Next::PreCandidate,
                false => Next::Follower { term: core.term(), leader: None },
            };
        }
        // A request or its reply may be lost, or a peer may have just started: request again.
        if self.elapsed.is_multiple_of(core.config.heartbeat_ticks) {
            self.ask(core);
        }
        Next::Stay
    }

    pub fn step(&mut self, core: &mut Core, message: Message) -> Next {
        let voter = core.log.membership().is_voter(message.from);
        match message.body {
            Body::PreVoteReply { next, granted, .. }
                if voter && self.pre && next == core.term().next() =>
            {
                self.votes.insert(message.from, granted);
                self.outcome(core)
            }
            Body::VoteReply { granted, clock, .. } if voter && !self.pre => {
                self.votes.insert(message.from, granted);
                if granted {
                    self.readings.insert(message.from, clock);
                } else {
                    // It granted its pre-vote, or its vote for another: there is another candidate.
                    let timeout = self.elapsed + core.split_vote_timeout();
                    self.timeout = self.timeout.min(timeout);
                }
                self.outcome(core)
            }
            Body::Vote { last, .. } => {
                match core.answer_vote((message.from, message.incarnation), last) {
                    true => Next::Follower { term: core.term(), leader: None },
                    false => Next::Stay,
                }
            }
            Body::PreVote { next, last } => {
                core.answer_pre_vote((message.from, message.incarnation), next, last);
                Next::Stay
            }
            Body::ReadIndex { read, .. } => {
                let reply = core.message(message.from, Body::ReadIndexReply { read, index: None });
                core.outbox.send(reply);
                Next::Stay
            }
            _ => Next::Stay,
        }
    }

    /// A write is durable. If it contains the own vote and the log that the requests name, the own
    /// vote counts from now on.
    pub fn persisted(&mut self, core: &Core) -> Next {
        let durable = core.durable_hard_state();
        let voted = durable.term == core.term()
            && durable.vote == Some(core.id())
            && core.log.durable() == core.log.last().index;
        if self.pre || !voted {
            return Next::Stay;
        }
        if core.votes() {
            self.votes.insert(core.id(), true);
        }
        self.readings.insert(core.id(), core.reading());
        self.outcome(core)
    }

    /// The clocks of those who have granted their vote.
    pub fn readings(&self) -> &BTreeMap<NodeId, Reading> {
        &self.readings
    }

    /// The transition that follows from the votes so far. A cluster of one needs no reply, so this
    /// is checked right after the start of a pre-vote too.
    pub fn outcome(&self, core: &Core) -> Next {
        let membership = core.log.membership();
        let answered = |id: NodeId, wanted: bool| self.votes.get(&id) == Some(&wanted);
        if membership.is_quorum(|id| answered(id, true)) {
            return match self.pre {
                true => Next::Candidate { transfer: false },
                false => Next::Leader,
            };
        }
        if membership.is_lost(|id| answered(id, false)) {
            return Next::Follower { term: core.term(), leader: None };
        }
        Next::Stay
    }

    /// This node is a candidate no longer.
    pub fn end(&self, core: &mut Core, next: Next) {
        core.outbox.forget_requests();
        if self.transfer && next != Next::Leader {
            core.probation.begin(core.config.election_ticks);
        }
    }

    /// The invariant that does not hold, if any.
    pub fn broken_invariant(&self, core: &Core) -> Option<&'static str> {
        let own = core.hard_state().vote == Some(core.id());
        (!self.pre && !own).then_some("a candidate has not voted for itself")
    }
}
