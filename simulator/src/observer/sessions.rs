//! Checks that a command of a session is executed once, and that its repeats get the first reply.
//!
//! It knows nothing of how sessions are kept: it counts what the reference machine executes.

use crate::checks::Check;
use crate::violation::{Violation, violation};
use bytes::Bytes;
use driver::{
    Answer, ApplyContext, RestoreError, SessionError, SessionId, SessionLimits, SessionNumber,
    StateMachine,
};
use raft::{LogId, LogTime};
use std::collections::{BTreeMap, BTreeSet};
use std::io::Read;

/// A state machine that counts what it executes.
#[derive(Debug)]
pub(crate) struct Counted<M> {
    pub inner: M,
    pub executed: u64,
}

impl<M: StateMachine> StateMachine for Counted<M> {
    type Frozen = M::Frozen;

    fn apply(&mut self, at: ApplyContext, command: Bytes) -> Bytes {
        self.executed += 1;
        self.inner.apply(at, command)
    }

    fn skip(&mut self, at: ApplyContext) {
        self.inner.skip(at);
    }

    fn query(&self, time: LogTime, query: &[u8]) -> Bytes {
        self.inner.query(time, query)
    }

    fn freeze(&self) -> M::Frozen {
        self.inner.freeze()
    }

    fn restore(&mut self, from: &mut dyn Read) -> Result<(), RestoreError> {
        self.inner.restore(from)
    }
}

/// What became of the commands of sessions.
#[derive(Debug, Default)]
pub(crate) struct Once {
    /// The limits of all sessions, if they have the same.
    limits: Option<SessionLimits>,
    /// How long a session lives without a use, in milliseconds of log time. `None` if it may end
    /// earlier, and lose replies, because of small limits.
    ttl_ms: Option<u64>,
    known: BTreeMap<SessionId, Known>,
    /// Sessions that their clients have asked to close.
    may_be_closed: BTreeSet<SessionId>,
    /// The time of the last entry, and the time without a leader while there were sessions.
    latest: LogTime,
    leaderless_ms: u64,
}

/// The commands of a session so far, and when it was used.
#[derive(Debug)]
struct Known {
    /// The first reply to each number.
    replies: BTreeMap<u64, Bytes>,
    /// When it was used last, by log time.
    used: LogTime,
    /// Lower numbers will not be repeated, as its client has said with a command that was executed.
    repeats_from: u64,
    has_ended: bool,
}

impl Once {
    /// Checks sessions of these limits. Unless they are `large`, a session may end, and lose
    /// replies, at any time.
    pub fn with_limits(limits: SessionLimits, large: bool) -> Self {
        let ttl_ms = large.then_some(limits.ttl.as_millis() as u64);
        Once { limits: Some(limits), ttl_ms, ..Once::default() }
    }

    /// An entry is about to be applied. Time before the beginning of a term was without a leader.
    pub fn time(&mut self, time: LogTime, begins_term: bool) {
        let before = std::mem::replace(&mut self.latest, time);
        if begins_term {
            self.leaderless_ms += time.0.saturating_sub(before.0);
        }
    }

    /// A session was opened.
    pub fn opened(&mut self, id: SessionId, time: LogTime) {
        let time = LogTime(time.0 - self.leaderless_ms);
        let known =
            Known { replies: BTreeMap::new(), used: time, repeats_from: 0, has_ended: false };
        self.known.insert(id, known);
    }

    /// A client asks to close its session. From now on it may end at any time.
    pub fn may_be_closed(&mut self, id: SessionId) {
        self.may_be_closed.insert(id);
    }

    /// A client was told that its session is closed.
    pub fn closed(&mut self, id: SessionId) {
        if let Some(known) = self.known.get_mut(&id) {
            known.has_ended = true;
        }
    }

    /// A command of a session was applied. `executed` says how often.
    pub fn applied(
        &mut self,
        (id, time): (LogId, LogTime),
        number: SessionNumber,
        executed: u64,
        answer: &Answer,
    ) -> Result<(), Violation> {
        let time = LogTime(time.0 - self.leaderless_ms);
        let told = format!("{id}, number {} of session {}", number.number, number.session);
        let broken = |why: &str| {
            let detail = format!("{told}, was executed {executed} times, answer {answer:?}: {why}");
            violation(Check::RepeatsGetTheFirstReply, id, detail)
        };
        let Some(known) = self.known.get_mut(&number.session) else {
            return match (executed, answer) {
                (0, Err(SessionError::Ended)) => Ok(()),
                _ => broken("there is no such session"),
            };
        };
        let unused_ms = time.0.saturating_sub(known.used.0);
        if let Err(SessionError::Ended) = answer {
            let may_end = self.ttl_ms.is_none_or(|ttl_ms| unused_ms > ttl_ms);
            known.has_ended |= may_end || self.may_be_closed.contains(&number.session);
            return match (known.has_ended, executed) {
                (true, 0) => Ok(()),
                (true, _) => broken("it has ended"),
                (false, _) => broken(&format!("it was used {unused_ms} ms before")),
            };
        }
        if known.has_ended {
            return broken("it had ended before");
        }
        if self.ttl_ms.is_some_and(|ttl_ms| unused_ms > ttl_ms + ttl_ms / 16) {
            return broken(&format!("it was used {unused_ms} ms before"));
        }
        let highest = known.replies.last_key_value().map_or(0, |(number, _)| *number);
        let first = known.replies.get(&number.number);
        let window = self.limits.map(|limits| u64::from(limits.window));
        let below = window.map_or(0, |window| (highest + 1).saturating_sub(window));
        let lowest = below.max(known.repeats_from);
        let above = highest.saturating_add(window.unwrap_or(u64::MAX));
        let is_right = match (first, executed, answer) {
            (None, 1, Ok(reply)) => {
                known.replies.insert(number.number, reply.clone());
                known.repeats_from = known.repeats_from.max(number.repeats_from.min(number.number));
                (lowest..=above).contains(&number.number)
            }
            (Some(first), 0, Ok(reply)) => first == reply,
            (Some(_), 0, Err(SessionError::Forgotten)) => self.ttl_ms.is_none(),
            (_, 0, Err(SessionError::TooLow)) => window.is_none() || number.number < lowest,
            (None, 0, Err(SessionError::Gap { highest: told })) => {
                *told == highest && (window.is_none() || number.number > above)
            }
            _ => false,
        };
        if !is_right {
            return broken("it should be executed once, and get the first reply to that number");
        }
        known.used = time;
        Ok(())
    }
}
