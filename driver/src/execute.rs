//! Executes commands on any node, in sessions and without.

use crate::error::{AttemptError, ProposeError};
use crate::messages::CoreCall;
use crate::session::own::{Begun, OWN_REPLY_BYTES_MAX, OWN_WINDOW};
use crate::session::{SessionError, SessionId, SessionLimits, SessionNumber};
use crate::status::count;
use crate::{Handle, StateMachine};
use bytes::Bytes;
use raft::Request;
use std::time::Duration;
use tokio::sync::oneshot;

/// The pause before a command of a session is proposed again.
const REPEAT_AFTER: Duration = Duration::from_millis(20);

impl<S: StateMachine> Handle<S> {
    /// Executes a command, on any node. A follower gets the leader to append it, and returns the
    /// answer when it has applied the command itself. It does so in a session of its own, so the
    /// command is executed once, also if the leader fails and the next one is asked. Ends with
    /// [`AttemptError::Unknown`] after the default timeout.
    pub async fn execute(&self, command: Bytes) -> Result<Bytes, AttemptError> {
        self.execute_within(command, self.timeout).await
    }

    /// Like [`Handle::execute`], with a timeout.
    pub async fn execute_within(
        &self,
        command: Bytes,
        timeout: Duration,
    ) -> Result<Bytes, AttemptError> {
        let until_ns = self.until_ns(timeout);
        loop {
            let raft = &self.status().raft;
            // A command that only fits without the bytes of a session is sent without one.
            let needs_none = raft.leader.is_none_or(|leader| leader == raft.id);
            if needs_none || !self.shared.own_session.fits(&command) {
                return self.attempt(Request::Command(command), until_ns).await;
            }
            let own = &self.shared.own_session;
            let ttl = self.shared.session_limits.ttl;
            let number = match own.begin(self.clock.now().monotonic_ns, ttl) {
                Begun::Number(number) => number,
                Begun::Full => return self.attempt(Request::Command(command), until_ns).await,
                Begun::NoSession => {
                    self.open_own_session(until_ns).await?;
                    continue;
                }
            };
            match self.repeat(number.at, &command, until_ns).await {
                // The session was not used for too long, or too many commands before this one were
                // not done, so its number is too high. Nothing was executed.
                Err(AttemptError::Session(SessionError::Ended | SessionError::Gap { .. })) => {
                    own.ended(number.at.session);
                }
                // No reply is kept for a number that is not in flight, but this one is.
                Err(AttemptError::Session(_)) => return Err(AttemptError::Unknown),
                Ok(reply) => {
                    own.used(number.at.session, self.clock.now().monotonic_ns);
                    return Ok(reply);
                }
                Err(error) => return Err(error),
            }
        }
    }

    /// Opens a session, on any node, with the limits of this node's settings. See [`SessionId`].
    pub async fn open_session(&self, timeout: Duration) -> Result<SessionId, AttemptError> {
        self.open(self.shared.session_limits, self.until_ns(timeout)).await
    }

    /// Ends a session, on any node. Returns whether there was one. It would end by itself when it
    /// has not been used for a while.
    pub async fn close_session(
        &self,
        session: SessionId,
        timeout: Duration,
    ) -> Result<bool, AttemptError> {
        let until_ns = self.until_ns(timeout);
        let request = session.close_request();
        // To close it twice does no harm, but the answer to the second call is another.
        Ok(self.attempt(request, until_ns).await? == [1][..])
    }

    /// Executes a command of a session, on any node, once. While the outcome of an attempt is
    /// unknown, it is tried again until the timeout. If it ends with [`AttemptError::Unknown`],
    /// call it again with the same number and command, on any node. Another error speaks of this
    /// call only: if an earlier one has ended with `Unknown`, that outcome is still unknown.
    ///
    /// It does not wait for a leader: without one it ends at once with
    /// [`ProposeError::NotLeader`](crate::ProposeError::NotLeader), and the command may be tried
    /// again here. `Node::execute_in_session` of the crate `quorate` does that.
    pub async fn execute_in_session(
        &self,
        number: SessionNumber,
        command: Bytes,
        timeout: Duration,
    ) -> Result<Bytes, AttemptError> {
        self.repeat(number, &command, self.until_ns(timeout)).await
    }

    /// Proposes a command of a session. If the outcome is unknown, proposes it again until it is
    /// known.
    async fn repeat(
        &self,
        number: SessionNumber,
        command: &[u8],
        until_ns: u64,
    ) -> Result<Bytes, AttemptError> {
        let bytes = number.encode(command);
        // Whether an earlier attempt may have been appended.
        let mut may_be_done = false;
        loop {
            match self.attempt(Request::SessionCommand(bytes.clone()), until_ns).await {
                Ok(reply) => return Ok(reply),
                // The session ended after an attempt of unknown outcome.
                Err(AttemptError::Session(_)) if may_be_done => return Err(AttemptError::Unknown),
                Err(AttemptError::Unknown) => may_be_done = true,
                Err(error) if may_be_done => tracing::trace!(%error, "a command is tried again"),
                Err(error) => return Err(error),
            }
            let left_ns = until_ns.saturating_sub(self.clock.now().monotonic_ns);
            if left_ns <= REPEAT_AFTER.as_nanos() as u64 || self.status().stopped.is_some() {
                return Err(AttemptError::Unknown);
            }
            self.clock.sleep(REPEAT_AFTER).await;
            count(&self.shared.metrics.proposals_repeated);
        }
    }

    /// Opens the session of this node, unless another caller does.
    async fn open_own_session(&self, until_ns: u64) -> Result<(), AttemptError> {
        let own = &self.shared.own_session;
        let mut sleep = self
            .clock
            .sleep(Duration::from_nanos(until_ns.saturating_sub(self.clock.now().monotonic_ns)));
        // The command has not been proposed yet, so it is not done.
        let not_done = || AttemptError::Refused(ProposeError::NotLeader { leader: None });
        let _opening = tokio::select! {
            biased;
            opening = own.opening.lock() => opening,
            () = &mut sleep => return Err(not_done()),
        };
        let now_ns = self.clock.now().monotonic_ns;
        if !matches!(own.begin(now_ns, self.shared.session_limits.ttl), Begun::NoSession) {
            return Ok(());
        }
        let limits = SessionLimits {
            window: OWN_WINDOW,
            reply_bytes_max: OWN_REPLY_BYTES_MAX,
            ..self.shared.session_limits
        };
        match self.open(limits, until_ns).await {
            Ok(session) => {
                own.opened(session, self.clock.now().monotonic_ns);
                Ok(())
            }
            Err(AttemptError::Unknown) => Err(not_done()),
            Err(error) => Err(error),
        }
    }

    /// Opens a session. If the outcome of an attempt is unknown, another session is opened: one
    /// that is not used ends by itself.
    async fn open(&self, limits: SessionLimits, until_ns: u64) -> Result<SessionId, AttemptError> {
        let request = limits.request(self.shared.own_session.salt());
        loop {
            match self.attempt(request.clone(), until_ns).await {
                Ok(reply) => return SessionId::of_reply(&reply).ok_or(AttemptError::Unknown),
                Err(AttemptError::Unknown) if self.clock.now().monotonic_ns < until_ns => {
                    self.clock.sleep(REPEAT_AFTER).await;
                }
                Err(error) => return Err(error),
            }
        }
    }

    pub(crate) fn until_ns(&self, timeout: Duration) -> u64 {
        let timeout_ns = u64::try_from(timeout.as_nanos()).unwrap_or(u64::MAX);
        self.clock.now().monotonic_ns.saturating_add(timeout_ns)
    }

    /// Gets a request appended once, and waits for its outcome.
    async fn attempt(&self, request: Request, until_ns: u64) -> Result<Bytes, AttemptError> {
        let (done, answer) = oneshot::channel();
        self.send_command(request.len(), CoreCall::Execute { request, done })
            .map_err(AttemptError::Refused)?;
        let left_ns = until_ns.saturating_sub(self.clock.now().monotonic_ns);
        let mut sleep = self.clock.sleep(Duration::from_nanos(left_ns));
        tokio::select! {
            biased;
            // The sender was dropped: the node has stopped.
            answer = answer => answer.unwrap_or(Err(AttemptError::Unknown)),
            () = &mut sleep => Err(AttemptError::Unknown),
        }
    }
}
