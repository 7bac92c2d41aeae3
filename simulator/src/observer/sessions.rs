//! Checks that a command of a session is executed once, and that its repeats get the first reply.
//!
//! It knows nothing of how sessions are kept: it counts what the reference machine executes.

use crate::checks::Check;
use crate::violation::{Violation, violation};
use bytes::Bytes;
use driver::{
    Answer, ApplyContext, RestoreError, SessionError, SessionId, SessionNumber, StateMachine,
};
use raft::{LogId, LogTime};
use std::collections::BTreeMap;
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
    /// How long a session lives without a use, in milliseconds of log time. `None` if it may end
    /// earlier because of small limits.
    pub ttl_ms: Option<u64>,
    /// The first reply to each number.
    replies: BTreeMap<(SessionId, u64), Bytes>,
    /// When each session was used last, by log time.
    used: BTreeMap<SessionId, LogTime>,
}

impl Once {
    /// A session was opened.
    pub fn opened(&mut self, id: LogId, time: LogTime) {
        self.used.insert(SessionId(id.index.0), time);
    }

    /// A command of a session was applied. `executed` says how often.
    pub fn applied(
        &mut self,
        (id, time): (LogId, LogTime),
        number: SessionNumber,
        executed: u64,
        answer: &Answer,
    ) -> Result<(), Violation> {
        let unused_ms = self.used.get(&number.session).map(|used| time.0.saturating_sub(used.0));
        let is_ended = matches!(answer, Err(SessionError::Ended));
        if let (Some(ttl_ms), Some(unused_ms)) = (self.ttl_ms, unused_ms)
            && (if is_ended { unused_ms <= ttl_ms } else { unused_ms > ttl_ms + ttl_ms / 16 })
        {
            let detail = format!(
                "{id}: session {} was not used for {unused_ms} ms, may be so for {ttl_ms} ms, and \
                 the answer is {answer:?}",
                number.session
            );
            return violation(Check::RepeatsGetTheFirstReply, id, detail);
        }
        if is_ended {
            return Ok(());
        }
        let place = (number.session, number.number);
        let first = self.replies.get(&place);
        let told = format!("{id}, number {} of session {}", number.number, number.session);
        match (first, executed, answer) {
            (None, 1, Ok(reply)) => {
                self.replies.insert(place, reply.clone());
            }
            (Some(first), 0, Ok(reply)) if first == reply => {}
            (_, 0, Err(SessionError::Forgotten)) => {}
            // The client has given up the numbers before it, and none of them was executed.
            (None, 0, Err(SessionError::Gap { .. })) => {}
            (first, _, answer) => {
                let detail = format!(
                    "{told}, was executed {executed} times with the answer {answer:?}; the first \
                     reply is {first:?}"
                );
                return violation(Check::RepeatsGetTheFirstReply, id, detail);
            }
        }
        self.used.insert(number.session, time);
        Ok(())
    }
}
