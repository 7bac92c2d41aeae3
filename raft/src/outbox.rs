//! No promise before it is durable: the one rule that holds messages back.
//!
//! | what is said | what must be on this node's disk first |
//! |---|---|
//! | a request for votes | the term, the vote for itself, and the log that the request advertises |
//! | a granted vote | the term and the vote |
//! | an acknowledgement of entries | the term, and the entries |
//! | an acknowledgement of a heartbeat | the term |
//! | entries and heartbeats of a leader | nothing: a leader's term is durable since it asked for votes in it |
//! | pre-votes, rejections, read indexes, outcasts | nothing: they promise nothing |
//!
//! The driver never sees a message that is not safe to send. Requests for votes and grants wait here;
//! acknowledgements need no queue, since they are made from what is durable when they are asked for
//! (see `Follower::acknowledgement`), under the same rule: [`Outbox::may_acknowledge`].

use crate::{Body, HardState, Index, Message, Term};
use std::collections::VecDeque;

/// The most messages held back. There is at most one to each peer of a term, so only a flood of
/// requests under made-up ids can reach it; then the newest is dropped, which is as if the network
/// had lost it.
const HELD_MESSAGES_MAX: usize = 256;

#[derive(Clone, Debug, Default)]
pub(crate) struct Outbox {
    ready: VecDeque<Message>,
    held: Vec<Held>,
}

#[derive(Clone, Debug)]
struct Held {
    message: Message,
    /// The log that it advertises ends here.
    log: Index,
}

impl Outbox {
    /// Sends what promises nothing.
    pub fn send(&mut self, message: Message) {
        debug_assert!(!promises(&message.body), "a promise must be held: {message:?}");
        self.ready.push_back(message);
    }

    /// Sends a request for votes or a grant once the hard state that it rests on is durable, and the
    /// log up to `log`.
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

    /// Whether an acknowledgement in `term` may leave: the term is durable.
    pub fn may_acknowledge(durable: &HardState, term: Term) -> bool {
        durable.term == term
    }

    /// The next message that may leave, given what is durable.
    pub fn next(&mut self, durable: &HardState, durable_log: Index) -> Option<Message> {
        if let Some(message) = self.ready.pop_front() {
            return Some(message);
        }
        // Of an earlier term than the durable one, nobody cares any more.
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

    /// Drops the requests for votes that are held back: this node campaigns no more. Its log may
    /// change now, and the requests advertise the log as it was.
    pub fn forget_requests(&mut self) {
        self.held.retain(|held| !matches!(held.message.body, Body::Vote { .. }));
    }

    /// Drops what was held back: the term it was said in is over.
    pub fn forget_held(&mut self) {
        self.held.clear();
    }
}

fn promises(body: &Body) -> bool {
    matches!(body, Body::Vote { .. } | Body::VoteReply { granted: true } | Body::Appended { .. })
}
