//! The session of a node itself, for commands of its callers that it forwards to the leader.
//!
//! With it a forwarded command whose outcome is unknown can be repeated: at the next leader, or by
//! this node if it leads by then.

use super::{SessionId, SessionNumber};
use std::collections::BTreeSet;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

/// How many numbers the session of a node knows. This many forwarded commands can be in flight
/// within it; further ones are forwarded without a session.
pub(crate) const OWN_WINDOW: u32 = 16_384;

/// The bytes of replies that it keeps: those of commands in flight.
pub(crate) const OWN_REPLY_BYTES_MAX: u64 = 16 << 20;

/// Another session is opened when this part of the time to live has passed without a use.
const UNUSED_PART: u32 = 2;

/// The session of a node, opened when it is first needed.
pub(crate) struct OwnSession {
    /// Identifies this start of the node.
    start_nonce: u64,
    /// The most bytes of a command, with its number in the session.
    command_bytes_max: usize,
    /// How many sessions were opened through this node.
    opened: AtomicU64,
    current: Mutex<Option<Numbers>>,
    /// Held by the caller that opens a session.
    pub opening: tokio::sync::Mutex<()>,
}

/// Invariant: every number in `in_flight` is below `next`.
struct Numbers {
    session: SessionId,
    next: u64,
    in_flight: BTreeSet<u64>,
    /// When the session was opened, or a command in it was last answered: monotonic, in
    /// nanoseconds.
    used_ns: u64,
}

/// What [`OwnSession::begin`] gives.
pub(crate) enum Begun<'a> {
    Number(InFlight<'a>),
    /// There is no session: open one.
    NoSession,
    /// Too many commands are in flight.
    Full,
}

impl OwnSession {
    pub fn new(start_nonce: u64, command_bytes_max: usize) -> Self {
        OwnSession {
            start_nonce,
            command_bytes_max,
            opened: AtomicU64::new(0),
            current: Mutex::default(),
            opening: tokio::sync::Mutex::default(),
        }
    }

    /// Whether a command with its number is not too large for the log.
    pub fn fits(&self, command: &[u8]) -> bool {
        command.len() + SessionNumber::BYTES <= self.command_bytes_max
    }

    /// A random number for the next session that is opened through this node.
    pub fn salt(&self) -> u32 {
        let number = self.opened.fetch_add(1, Ordering::Relaxed);
        let seed = [self.start_nonce.to_le_bytes(), number.to_le_bytes()].concat();
        raft::bytes_hash(&seed) as u32
    }

    fn lock(&self) -> MutexGuard<'_, Option<Numbers>> {
        self.current.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A number for a new command. A session that was not used for a part of its time to live may
    /// end before the command is repeated for the last time, and then its outcome would be unknown.
    /// Another one is opened in time.
    pub fn begin(&self, now_ns: u64, ttl: Duration) -> Begun<'_> {
        let mut current = self.lock();
        let Some(numbers) = &mut *current else { return Begun::NoSession };
        let unused_ns = now_ns.saturating_sub(numbers.used_ns);
        if Duration::from_nanos(unused_ns) > ttl / UNUSED_PART && numbers.in_flight.is_empty() {
            return Begun::NoSession;
        }
        let number = numbers.next;
        let first = numbers.in_flight.first().copied().unwrap_or(number);
        if number - first >= u64::from(OWN_WINDOW) {
            return Begun::Full;
        }
        numbers.next += 1;
        numbers.in_flight.insert(number);
        let at = SessionNumber { session: numbers.session, number, repeats_from: first };
        Begun::Number(InFlight { own: self, at })
    }

    pub fn opened(&self, session: SessionId, now_ns: u64) {
        let in_flight = BTreeSet::new();
        *self.lock() = Some(Numbers { session, next: 1, in_flight, used_ns: now_ns });
    }

    /// A command in the session was answered.
    pub fn used(&self, session: SessionId, now_ns: u64) {
        if let Some(numbers) = &mut *self.lock()
            && numbers.session == session
        {
            numbers.used_ns = now_ns;
        }
    }

    /// The session has ended: the next command opens another.
    pub fn ended(&self, session: SessionId) {
        let mut current = self.lock();
        if current.as_ref().is_some_and(|numbers| numbers.session == session) {
            *current = None;
        }
    }
}

/// A command in flight. It is never repeated after this is dropped.
pub(crate) struct InFlight<'a> {
    own: &'a OwnSession,
    pub at: SessionNumber,
}

impl Drop for InFlight<'_> {
    fn drop(&mut self) {
        if let Some(numbers) = &mut *self.own.lock()
            && numbers.session == self.at.session
        {
            numbers.in_flight.remove(&self.at.number);
        }
    }
}
