//! Messages to send. The outbox holds back every message that promises something until the promise
//! is durable.
//!
//! | message | what must be on this node's disk first |
//! |---|---|
//! | a vote request | the term, the vote for itself, and the log that the request names |
//! | a granted vote | the term and the vote |
//! | an acknowledgement of entries | the term, and the entries |
//! | an acknowledgement of a heartbeat | the term |
//! | entries and heartbeats of a leader | nothing: its term is durable since it requested votes |
//! | all others (see below) | nothing: they promise nothing |
//!
//! The others are pre-votes, rejections, read indexes, forwarded commands and their replies, and
//! messages that reject a node as a non-member.
//!
//! The driver only receives messages that are safe to send. Vote requests and grants wait here.
//! Acknowledgements need no queue: `Follower::acknowledgement` builds them from what is durable at
//! that moment, under the same rule ([`Outbox::may_acknowledge`]).

use crate::{Body, HardState, Index, Message, Term};
use std::collections::VecDeque;

/// The most messages held back. At most one is held for each peer and term, so only a flood of
/// requests under made-up ids can reach the limit. The newest message is then dropped, as if the
/// network had lost it.
const HELD_MESSAGES_MAX: usize = 256;

#[derive(Clone, Debug, Default)]
pub(crate) struct Outbox {
    ready: VecDeque<Message>,
    held: Vec<Held>,
}

#[derive(Clone, Debug)]
struct Held {
    message: Message,
    /// The log must be durable up to here before the message may leave.
    log: Index,
}

impl Outbox {
    /// Whether no message is ready or held back.
    pub fn is_empty(&self) -> bool {
        self.ready.is_empty() && self.held.is_empty()
    }

    /// Queues a message that promises nothing.
    pub fn send(&mut self, message: Message) {
        debug_assert!(!promises(&message.body), "a promise must be held: {message:?}");
        self.ready.push_back(message);
    }

    /// Holds a vote request or a grant until the hard state that it rests on is durable, and the
    /// log up to `log`. It replaces a held message of the same kind to the same peer.
    pub fn hold(&mut self, message: Message, log: Index) {
        let same = |held: &Held| {
            held.message.to == message.to
                && std::mem::discriminant(&held.message.body)
                    == std::mem::discriminant(&message.body)
        };
        self.held.retain(|held| !same(held));
        if self.held.len() < HELD_MESSAGES_MAX {
            self.held.push(Held { message, log });
        }
    }

    /// Whether an acknowledgement in `term` may leave: it may once the term is durable.
    pub fn may_acknowledge(durable: &HardState, term: Term) -> bool {
        durable.term == term
    }

    /// The next message that may leave, given what is durable.
    pub fn next(&mut self, durable: &HardState, durable_log: Index) -> Option<Message> {
        if let Some(message) = self.ready.pop_front() {
            return Some(message);
        }
        // Messages of a term earlier than the durable one are obsolete.
        self.held.retain(|held| held.message.term >= durable.term);
        let at = self.held.iter().position(|held| {
            let vote = match held.message.body {
                Body::Vote { .. } => Some(held.message.from),
                _ => Some(held.message.to),
            };
            held.message.term == durable.term && durable.vote == vote && held.log <= durable_log
        })?;
        Some(self.held.remove(at).message)
    }

    /// Drops held vote requests: this node is no longer a candidate. Its log may change from now
    /// on, and the requests name the log as it was.
    pub fn forget_requests(&mut self) {
        self.held.retain(|held| !matches!(held.message.body, Body::Vote { .. }));
    }

    /// Drops all held messages: their term is over.
    pub fn forget_held(&mut self) {
        self.held.clear();
    }
}

fn promises(body: &Body) -> bool {
    matches!(
        body,
        Body::Vote { .. } | Body::VoteReply { granted: true, .. } | Body::Appended { .. }
    )
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Incarnation, LogId, NodeId, Reading};

    const ME: NodeId = NodeId(1);
    const PEER: NodeId = NodeId(2);

    fn message(to: NodeId, term: u64, body: Body) -> Message {
        Message { from: ME, to, term: Term(term), incarnation: Incarnation(7), body }
    }

    fn hard(term: u64, vote: Option<NodeId>) -> HardState {
        HardState { term: Term(term), vote, lost: None, promise_ms: 0 }
    }

    /// A vote in term 3.
    fn grant_to(candidate: NodeId) -> Message {
        let body =
            Body::VoteReply { granted: true, clock: Reading::default(), candidate: Incarnation(1) };
        message(candidate, 3, body)
    }

    #[test]
    fn a_promise_waits_for_what_it_rests_on() {
        let grant = || grant_to(PEER);
        let last = LogId::new(5, 2);
        let request = || message(PEER, 3, Body::Vote { last, transfer: false });
        let cases = [
            // Message and the log it rests on; what is durable; whether it leaves.
            (grant(), 0, hard(3, Some(PEER)), 0, true),
            (grant(), 0, hard(3, None), 0, false),
            (grant(), 0, hard(3, Some(ME)), 0, false),
            (grant(), 0, hard(2, Some(PEER)), 0, false),
            (request(), 5, hard(3, Some(ME)), 5, true),
            (request(), 5, hard(3, Some(ME)), 4, false),
            (request(), 5, hard(3, Some(PEER)), 5, false),
            (request(), 5, hard(2, Some(ME)), 5, false),
        ];
        for (message, log, durable, durable_log, leaves) in cases {
            let mut outbox = Outbox::default();
            outbox.hold(message.clone(), Index(log));
            let sent = outbox.next(&durable, Index(durable_log));
            assert_eq!(sent.is_some(), leaves, "{message:?} {durable:?} {durable_log}");
            assert_eq!(outbox.next(&hard(4, None), Index(9)), None, "its term is over");
        }
    }

    #[test]
    fn a_promise_that_is_made_again_is_held_once() {
        let mut outbox = Outbox::default();
        for _ in 0..3 {
            outbox.hold(grant_to(PEER), Index(0));
        }
        let durable = hard(3, Some(PEER));
        assert!(outbox.next(&durable, Index(0)).is_some());
        assert_eq!(outbox.next(&durable, Index(0)), None);
    }

    #[test]
    fn a_flood_is_held_within_the_limit() {
        let mut outbox = Outbox::default();
        for id in 0..2 * HELD_MESSAGES_MAX as u64 {
            outbox.hold(grant_to(NodeId(id)), Index(0));
        }
        assert_eq!(outbox.held.len(), HELD_MESSAGES_MAX);
    }
}
