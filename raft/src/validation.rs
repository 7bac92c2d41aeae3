//! Which messages the core takes at all: those that a correct peer could have sent, to this node,
//! as a member. The others are counted.
//!
//! A check here needs one message and what stands in this node's core. What depends on a role is
//! the role's own. No peer may panic a node, so these checks come before any arithmetic on what a
//! message says.

use crate::core::Core;
use crate::{Body, Forwarded, Incarnation, LogId, Message, NodeId, Payload, SnapshotOffer, Term};

/// No correct peer sends larger terms or indexes. Messages with them are ignored before any
/// arithmetic. At a million entries per second it takes 146,000 years to reach it.
pub(crate) const NUMBER_MAX: u64 = 1 << 62;

/// No correct peer sends a term that is ahead of ours by more than this. Each election raises the
/// term by one and takes an election timeout, so with one of 300 ms this is 58 days of constant
/// elections, and nodes that cannot win one do not begin any (§9.6). A later term is made durable
/// and spreads: without this limit one bad message could stop the cluster for good.
const TERM_LEAP_MAX: u64 = 1 << 24;

impl Core {
    /// Whether the message is for this node and could come from a correct peer. Others are counted.
    pub fn admits(&mut self, message: &Message) -> bool {
        if message.to != self.config.id || message.from == self.config.id {
            self.counters.misaddressed += 1;
            return false;
        }
        let next = match message.body {
            Body::PreVote { next, .. } | Body::PreVoteReply { next, .. } => next,
            _ => message.term,
        };
        if !is_sane(message) || !self.is_plausible(next.max(message.term)) {
            self.counters.invalid_messages += 1;
            return false;
        }
        if message
            .body
            .meant_for()
            .is_some_and(|incarnation| incarnation != self.config.incarnation)
        {
            self.counters.misaddressed += 1;
            return false;
        }
        let counts = !matches!(
            message.body,
            Body::Append { .. }
                | Body::ReadIndexReply { .. }
                | Body::ForwardReply { .. }
                | Body::TimeoutNow
                | Body::NotAMember { .. }
        );
        let member = self.log.membership().members.get(&message.from);
        let is_other = member.is_some_and(|member| member.incarnation != message.incarnation);
        if counts && (is_other || self.has_removed(message.from, message.incarnation)) {
            self.counters.wrong_incarnation += u64::from(is_other);
            // The answer goes to the member, which may not have sent the message. Once a tick is
            // enough.
            if self.corrected.insert(message.from) {
                let body = Body::NotAMember { commit: self.commit, refused: message.incarnation };
                let reply = self.message(message.from, body);
                self.outbox.send(reply);
            }
            return false;
        }
        true
    }

    /// Whether the offer is for this node and could come from a correct leader. Others are counted.
    pub fn admits_offer(&mut self, offer: &SnapshotOffer) -> bool {
        if offer.to != self.config.id || offer.from == self.config.id {
            self.counters.misaddressed += 1;
            return false;
        }
        if !is_sane_offer(offer) || !self.is_plausible(offer.term) {
            self.counters.invalid_messages += 1;
            return false;
        }
        true
    }

    /// Whether no member has this id and incarnation, as far as this node knows a membership.
    pub fn is_stranger(&self, node: NodeId, incarnation: Incarnation) -> bool {
        let members = &self.log.membership().members;
        let known = members.get(&node).is_some_and(|member| member.incarnation == incarnation);
        !members.is_empty() && !known
    }

    /// Whether a correct peer can have reached this term.
    pub fn is_plausible(&self, term: Term) -> bool {
        term.0 <= self.term().0.saturating_add(TERM_LEAP_MAX)
    }
}

/// Whether a correct peer could have sent this message.
fn is_sane(message: &Message) -> bool {
    let small = |id: LogId| id.term.0 <= NUMBER_MAX && id.index.0 <= NUMBER_MAX;
    if message.term.0 > NUMBER_MAX {
        return false;
    }
    match &message.body {
        Body::PreVote { next, last } => next.0 <= NUMBER_MAX && small(*last),
        Body::Vote { last, .. } => small(*last) && last.term < message.term,
        Body::Append { prev, entries, commit, round, time } => {
            let mut before = *prev;
            small(*prev)
                && prev.term <= message.term
                && commit.0 <= NUMBER_MAX
                && round.0 <= NUMBER_MAX
                && time.0 <= NUMBER_MAX
                && entries.iter().all(|entry| {
                    let follows = entry.id.index == before.index.next()
                        && entry.id.term >= before.term
                        && entry.id.term <= message.term
                        && entry.number.0 <= NUMBER_MAX
                        && entry.time.0 <= NUMBER_MAX
                        && is_sound(&entry.payload);
                    before = entry.id;
                    follows
                })
        }
        Body::Diverged { state } => state.index.0 <= NUMBER_MAX,
        Body::Appended { matched, round, .. } => matched.0 <= NUMBER_MAX && round.0 <= NUMBER_MAX,
        Body::Rejected { prev, hint, round, .. } => {
            prev.0 <= NUMBER_MAX && small(*hint) && round.0 <= NUMBER_MAX
        }
        Body::ReadIndexReply { index, .. } => index.is_none_or(|index| index.0 <= NUMBER_MAX),
        Body::PreVoteReply { next, .. } => next.0 <= NUMBER_MAX,
        Body::VoteReply { clock, .. } => clock.time().0 <= NUMBER_MAX,
        Body::ReadIndex { .. } | Body::TimeoutNow | Body::Forward { .. } => true,
        Body::ForwardReply { outcome, .. } => match outcome {
            Forwarded::Appended { id, number } => {
                small(*id) && id.term == message.term && number.0 <= NUMBER_MAX
            }
            Forwarded::Busy | Forwarded::TooLarge { .. } | Forwarded::NotTaken => true,
            Forwarded::Lost => false,
        },
        Body::NotAMember { commit, .. } => commit.0 <= NUMBER_MAX,
    }
}

/// Whether a correct leader could have made this offer.
fn is_sane_offer(offer: &SnapshotOffer) -> bool {
    let snapshot = &offer.snapshot;
    offer.term.0 <= NUMBER_MAX
        && snapshot.last.term <= offer.term
        && snapshot.last.index.0 <= NUMBER_MAX
        && snapshot.number.0 <= NUMBER_MAX
        && snapshot.time.0 <= NUMBER_MAX
        && snapshot.membership.is_sound()
        && snapshot.membership_index <= snapshot.last.index
}

/// Whether a correct leader could have proposed it.
fn is_sound(payload: &Payload) -> bool {
    match payload {
        Payload::Membership(membership) => membership.is_sound(),
        Payload::NoOp
        | Payload::Command(_)
        | Payload::SessionCommand(_)
        | Payload::System(_)
        | Payload::Clock => true,
    }
}
