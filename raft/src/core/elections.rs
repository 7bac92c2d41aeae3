//! Elections, as all roles see them: how long a node waits before it campaigns, whether it may, and
//! whom it gives its vote.
//!
//! The roles decide when to ask; nothing here changes a role.

use super::{Core, own_promise_ms};
use crate::{Body, Config, Incarnation, Index, LogId, Membership, NodeId, Term};
use rand_pcg::rand_core::Rng;

/// A disk counts as stalled when a write has been pending for this many election timeouts.
const STALL_ELECTIONS: u32 = 2;

impl Core {
    /// For how long this node promises to grant no vote when it hears from a leader.
    pub fn promise_ms(&self) -> u32 {
        own_promise_ms(&self.config)
    }

    /// The promise that a reply may state: none before the disk has its length, since a restarted
    /// node could break it.
    pub fn may_state_promise_ms(&self) -> u32 {
        let promise_ms = self.promise_ms();
        if self.durable.promise_ms >= promise_ms { promise_ms } else { 0 }
    }

    /// The priority that this node states: 0 for a while after it has failed as a leader.
    pub fn priority(&self) -> u8 {
        self.probation.priority(self.config.priority)
    }

    /// Whether a write has been pending so that this node should not lead: its disk is full, hangs,
    /// or is very slow.
    pub fn is_disk_stalled(&self) -> bool {
        self.write_out.is_some() && self.write_ticks >= self.stall_ticks()
    }

    /// A write that has been pending for this many ticks shows a stalled disk.
    pub fn stall_ticks(&self) -> u32 {
        STALL_ELECTIONS.saturating_mul(self.config.election_ticks)
    }

    /// An election timeout in ticks, drawn at random each time (§3.4): from the shortest one to
    /// half as much again. A wider range would only delay the election: a split vote costs little
    /// (see [`Core::split_vote_timeout`]). There are always two lengths at least: with one, two
    /// nodes whose ticks coincide would split the votes for ever.
    pub fn election_timeout(&mut self) -> u32 {
        let least = self.config.election_ticks;
        least + self.rng.next_u32() % (least / 2).max(2)
    }

    /// For how many ticks a candidate still waits once it knows that the votes are split: long
    /// enough for the other candidate to win after all, and different at each candidate.
    pub fn split_vote_timeout(&mut self) -> u32 {
        let least = (self.config.election_ticks / 4).max(1);
        least + self.rng.next_u32() % (2 * least)
    }

    /// For how many ticks this node lets others campaign first after the process of the leader has
    /// ended. All voters learn of it at about the same time, so they take turns, in the order of
    /// their ids, beginning after the leader's. Most elections are won before the second turn.
    pub fn turn_after(&self, leader: NodeId) -> u32 {
        let (own, membership) = (self.config.id, self.log.membership());
        let is_before = |id: NodeId| match own > leader {
            true => leader < id && id < own,
            false => id > leader || id < own,
        };
        let voters = membership.members.keys().filter(|id| membership.is_voter(**id));
        let turn = u32::try_from(voters.filter(|id| is_before(**id)).count()).unwrap_or(u32::MAX);
        let step = (self.config.election_ticks / 10).max(1);
        turn.saturating_mul(step).min(self.config.election_ticks)
    }

    /// Whether this node may start an election: it is a voter, has lost no log, its disk is not
    /// stalled, its state is not known to be wrong, and no peer has rejected it as a non-member.
    ///
    /// As long as the latest membership is not known to be committed, a voter of the committed one,
    /// or of one between them, may campaign too (§4.2.2). It may be the only node whose log is long
    /// enough. A voter with this id and another incarnation is another node: one that had the id
    /// before.
    ///
    /// Nor may a learner keep the others from electing one. A candidate counts on its vote, if its
    /// log says that the learner has become a voter, and the learner cannot give it, since its own
    /// log is more up to date. So it campaigns itself. As a leader that does not vote it hands
    /// over.
    pub fn may_campaign(&self) -> bool {
        let may = |(_, membership): (Index, &Membership)| {
            self.votes_in(membership) || (self.is_counted_on && self.is_listed_in(membership))
        };
        self.log.memberships_from(self.commit).any(may)
            && self.hard.lost.is_none()
            && !self.is_disk_stalled()
            && !self.diverged
            && !self.is_not_a_member()
    }

    /// Whether a membership lists this node: its id, with its incarnation.
    pub fn is_listed_in(&self, membership: &Membership) -> bool {
        let Config { id, incarnation, .. } = self.config;
        membership.members.get(&id).is_some_and(|own| own.incarnation == incarnation)
    }

    /// Whether this node votes in a membership. In one that lists another node under its id,
    /// neither its vote counts, nor its disk, nor that it is there.
    pub(super) fn votes_in(&self, membership: &Membership) -> bool {
        membership.is_voter(self.config.id) && self.is_listed_in(membership)
    }

    /// Whether this node votes in the membership in force.
    pub fn votes(&self) -> bool {
        self.votes_in(self.log.membership())
    }

    /// Whether a candidate whose log ends with `last` is up to date enough for this node's vote
    /// (§3.6.1). A node that has lost acknowledged entries cannot decide that, and never grants.
    fn is_up_to_date(&self, last: LogId) -> bool {
        self.hard.lost.is_none() && last >= self.log.last()
    }

    /// Replies to a vote request in the current term. Returns whether the vote is granted.
    pub fn answer_vote(&mut self, candidate: (NodeId, Incarnation), last: LogId) -> bool {
        let (candidate, incarnation) = candidate;
        let free = self.hard.vote.is_none_or(|vote| vote == candidate);
        let granted = free && self.is_up_to_date(last);
        let clock = self.reading();
        let body = Body::VoteReply { granted, clock, candidate: incarnation };
        let reply = self.message(candidate, body);
        if granted {
            self.hard.vote = Some(candidate);
            self.outbox.hold(reply, Index(0));
        } else {
            self.outbox.send(reply);
        }
        granted
    }

    /// Replies to a pre-vote for term `next` (§9.6). It is rejected while the disk is stalled,
    /// since the vote could not be made durable.
    pub fn answer_pre_vote(&mut self, candidate: (NodeId, Incarnation), next: Term, last: LogId) {
        let (candidate, incarnation) = candidate;
        let could = !self.is_disk_stalled();
        let granted = could && next > self.hard.term && self.is_up_to_date(last);
        // Its log has a membership that is not known to be committed here.
        self.is_counted_on |= last < self.log.last() && last.index > self.commit;
        let reply =
            self.message(candidate, Body::PreVoteReply { next, granted, candidate: incarnation });
        self.outbox.send(reply);
    }
}

#[cfg(test)]
mod tests {
    use crate::core::Core;
    use crate::log::Log;
    use crate::{Config, HardState, Incarnation, Membership, NodeId, Snapshot};
    use std::collections::BTreeSet;

    #[test]
    fn timeouts_differ_however_short_they_are() {
        for election_ticks in [2, 3, 4, 5, 30] {
            let config = Config {
                heartbeat_ticks: 1,
                election_ticks,
                ..Config::new(NodeId(1), Incarnation(1), 1)
            };
            let log = Log::new(Snapshot::initial(Membership::default()), Vec::new());
            let mut core = Core::new(config, HardState::default(), log);
            let drawn: BTreeSet<u32> = (0..100).map(|_| core.election_timeout()).collect();
            assert!(drawn.len() >= 2, "{election_ticks}: {drawn:?}");
            assert_eq!(drawn.first(), Some(&election_ticks));
            assert!(drawn.iter().all(|ticks| *ticks < 2 * election_ticks), "{drawn:?}");
        }
    }
}
