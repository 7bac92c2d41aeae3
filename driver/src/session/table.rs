//! The open sessions, as a part of the replicated state.
//!
//! It changes only by entries of the log, in their order, and depends on nothing else. It shares
//! structure between clones, so that a snapshot costs nothing to begin.

use super::{SessionError, SessionId, SessionLimits, SessionNumber};
use crate::RestoreError;
use bytes::Bytes;
use imbl::{OrdMap, OrdSet};
use raft::{LogTime, bytes_hash};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::io::{self, Read, Write};
use std::sync::Arc;
use storage::codec;

/// The bytes that a session counts for in [`SessionLimits::bytes_max`]: an entry in each of the two
/// maps, and the first node of the map of its numbers.
const SESSION_BYTES: u64 = 768;
/// The bytes that a number counts for, in addition to its reply: an entry in a node of the map that
/// may be half full, and the allocation of the reply.
const NUMBER_BYTES: u64 = 160;
/// The most sessions that one entry ends because their time is over. Further ones are ended by the
/// next entries, so that no entry takes long.
const EXPIRED_MAX: usize = 1_000;
/// A use is noted only if this part of the time to live has passed since the last one that was, so
/// that most commands do not move their session.
const USE_NOTED_PART: u64 = 16;

/// The open sessions of a cluster.
///
/// Invariants: `by_use` has each session once, with the time of its last noted use; `bytes` is the
/// sum of the sessions' costs.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Sessions {
    limits: SessionLimits,
    /// The time without a leader, in milliseconds of log time, while there were sessions. It does
    /// not count for their time to live, since nobody could use them.
    leaderless_ms: u64,
    by_id: OrdMap<SessionId, Arc<Session>>,
    by_use: OrdSet<(LogTime, SessionId)>,
    bytes: u64,
}

/// Invariants: every number in `replies` is from `floor` to `highest`; `floor` is more than
/// `highest - window`; no number below `kept_from` has a reply.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
struct Session {
    window: u32,
    reply_bytes_max: u64,
    /// The last noted use, by [`Sessions::clock`].
    used: LogTime,
    /// The highest number that was executed.
    highest: u64,
    /// The lowest number that is known. Lower ones may have been executed.
    floor: u64,
    /// The numbers that were executed.
    replies: BTreeMap<u64, Kept>,
    reply_bytes: u64,
    /// The lowest number whose reply may still be kept, so that dropping the next one needs no
    /// search.
    kept_from: u64,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
struct Kept {
    /// The hash of the command.
    command: u64,
    /// `None` if it was dropped for its size.
    reply: Option<Bytes>,
}

/// What to do with a command of a session.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Verdict {
    /// Execute it, and pass the reply to [`Sessions::executed`] before anything else is applied.
    Execute,
    /// It was executed before, with this reply.
    Repeat(Bytes),
    Refuse(SessionError),
}

impl Session {
    fn cost(&self) -> u64 {
        SESSION_BYTES + NUMBER_BYTES * self.replies.len() as u64 + self.reply_bytes
    }

    /// Forgets all numbers below `floor`.
    fn raise_floor(&mut self, floor: u64) {
        if floor <= self.floor {
            return;
        }
        self.floor = floor;
        while let Some(first) = self.replies.first_entry().filter(|first| *first.key() < floor) {
            let reply = first.remove().reply;
            self.reply_bytes -= reply.map_or(0, |reply| reply.len() as u64);
        }
    }

    fn add(&mut self, number: u64, kept: Kept) {
        self.highest = self.highest.max(number);
        self.reply_bytes += kept.reply.as_ref().map_or(0, |reply| reply.len() as u64);
        self.replies.insert(number, kept);
        self.raise_floor((self.highest + 1).saturating_sub(u64::from(self.window)));
        let from = self.kept_from.min(number);
        self.kept_from = number;
        for (known, kept) in self.replies.range_mut(from..) {
            if self.reply_bytes <= self.reply_bytes_max {
                self.kept_from = number.min(*known);
                break;
            }
            // The new reply is kept in any case.
            if *known != number
                && let Some(reply) = kept.reply.take()
            {
                self.reply_bytes -= reply.len() as u64;
            }
        }
    }
}

impl Sessions {
    /// The number of open sessions. Those whose time is over count until an entry of a session or
    /// of the clock ends them.
    pub fn len(&self) -> usize {
        self.by_id.len()
    }

    /// Whether there is no session.
    pub fn is_empty(&self) -> bool {
        self.by_id.is_empty()
    }

    /// Their size, as [`SessionLimits::bytes_max`] counts it.
    pub fn bytes(&self) -> u64 {
        self.bytes
    }

    /// A term has begun, this long after the last entry of the log before it.
    pub(crate) fn term_begins(&mut self, after_ms: u64) {
        // The time of the first entries of all depends on when a node has joined.
        if !self.is_empty() {
            self.leaderless_ms += after_ms;
        }
    }

    /// The time by which sessions end.
    fn clock(&self, time: LogTime) -> LogTime {
        LogTime(time.0.saturating_sub(self.leaderless_ms))
    }

    /// Opens a session. `id` must be new.
    pub(crate) fn open(&mut self, time: LogTime, id: SessionId, limits: SessionLimits) {
        self.limits = limits.in_range();
        let time = self.clock(time);
        self.end_unused(time);
        let session = Session {
            window: self.limits.window,
            reply_bytes_max: self.limits.reply_bytes_max,
            used: time,
            highest: 0,
            floor: 1,
            replies: BTreeMap::new(),
            reply_bytes: 0,
            kept_from: 1,
        };
        self.bytes += session.cost();
        self.by_use.insert((time, id));
        self.by_id.insert(id, Arc::new(session));
        self.evict(id);
    }

    /// Ends a session. Returns whether there was one.
    pub(crate) fn close(&mut self, time: LogTime, id: SessionId) -> bool {
        let time = self.clock(time);
        self.end_unused(time);
        let is_over = self.by_id.get(&id).is_some_and(|it| self.is_over(it.used, time));
        self.remove(id) && !is_over
    }

    /// Decides about a command.
    pub(crate) fn judge(&mut self, time: LogTime, at: SessionNumber, command: &[u8]) -> Verdict {
        let time = self.clock(time);
        self.end_unused(time);
        if self.by_id.get(&at.session).is_some_and(|it| self.is_over(it.used, time)) {
            self.remove(at.session);
        }
        let Some(session) = self.by_id.get_mut(&at.session) else {
            return Verdict::Refuse(SessionError::Ended);
        };
        let noted_ms = self.limits.ttl.as_millis() as u64 / USE_NOTED_PART;
        if time.0 > session.used.0 + noted_ms {
            self.by_use.remove(&(session.used, at.session));
            self.by_use.insert((time, at.session));
            Arc::make_mut(session).used = time;
        }
        if at.number > 0 && at.number < session.floor {
            return Verdict::Refuse(SessionError::TooLow);
        }
        if at.number == 0 || at.number > session.highest + u64::from(session.window) {
            return Verdict::Refuse(SessionError::Gap { highest: session.highest });
        }
        match session.replies.get(&at.number) {
            None => Verdict::Execute,
            Some(kept) if kept.command != bytes_hash(command) => {
                Verdict::Refuse(SessionError::Reused)
            }
            Some(Kept { reply: Some(reply), .. }) => Verdict::Repeat(reply.clone()),
            Some(Kept { reply: None, .. }) => Verdict::Refuse(SessionError::Forgotten),
        }
    }

    /// A command has been executed with this reply.
    pub(crate) fn executed(&mut self, at: SessionNumber, command: &[u8], reply: Bytes) {
        let Some(session) = self.by_id.get_mut(&at.session) else { return };
        let session = Arc::make_mut(session);
        let before = session.cost();
        let kept = Kept { command: bytes_hash(command), reply: Some(reply) };
        session.add(at.number, kept);
        session.raise_floor(at.repeats_from.min(at.number));
        self.bytes = self.bytes - before + session.cost();
        self.evict(at.session);
        debug_assert_eq!(self.broken_invariant(), None);
    }

    /// Whether a session that was used last at `used` has ended at `time`.
    fn is_over(&self, used: LogTime, time: LogTime) -> bool {
        let ttl_ms = self.limits.ttl.as_millis() as u64;
        // A session that was used last right before a use would have been noted lives for its time.
        used.0.saturating_add(ttl_ms + ttl_ms / USE_NOTED_PART) < time.0
    }

    /// Ends sessions whose time is over at `time`, the longest unused first, but not too many.
    pub(crate) fn expire(&mut self, time: LogTime) {
        self.end_unused(self.clock(time));
    }

    fn end_unused(&mut self, time: LogTime) {
        for _ in 0..EXPIRED_MAX {
            let Some((used, id)) = self.by_use.get_min().copied() else { return };
            if !self.is_over(used, time) {
                return;
            }
            self.remove(id);
        }
    }

    /// Ends the sessions that were not used for the longest time, until the others are within the
    /// limits. `keep` stays.
    fn evict(&mut self, keep: SessionId) {
        while self.by_id.len() > self.limits.sessions_max as usize
            || self.bytes > self.limits.bytes_max
        {
            let oldest = self.by_use.iter().map(|(_, id)| *id).find(|id| *id != keep);
            let Some(oldest) = oldest else { return };
            self.remove(oldest);
        }
    }

    fn remove(&mut self, id: SessionId) -> bool {
        let Some(session) = self.by_id.remove(&id) else { return false };
        self.by_use.remove(&(session.used, id));
        self.bytes -= session.cost();
        true
    }

    /// The first invariant that does not hold, if any. Checked after every command in debug builds
    /// while there are few sessions.
    fn broken_invariant(&self) -> Option<&'static str> {
        const CHECKED_MAX: usize = 16;
        let few = self.by_id.len() <= CHECKED_MAX;
        let sessions = || self.by_id.iter().take(if few { CHECKED_MAX } else { 0 });
        let known = |session: &Session| {
            session.replies.keys().all(|it| (session.floor..=session.highest).contains(it))
        };
        let is_dropped = |session: &Session| {
            session.replies.range(..session.kept_from).all(|(_, kept)| kept.reply.is_none())
        };
        let rules = [
            ("a session is not in the order of uses", self.by_id.len() == self.by_use.len()),
            (
                "the time of a use is wrong",
                sessions().all(|(id, it)| self.by_use.contains(&(it.used, *id))),
            ),
            (
                "the bytes are wrong",
                !few || sessions().map(|(_, it)| it.cost()).sum::<u64>() == self.bytes,
            ),
            ("a number is outside of its window", sessions().all(|(_, it)| known(it))),
            ("a reply was missed", sessions().all(|(_, it)| is_dropped(it))),
            (
                "a window is too long",
                sessions().all(|(_, it)| it.floor + u64::from(it.window) > it.highest),
            ),
        ];
        rules.into_iter().find(|(_, holds)| !holds).map(|(name, _)| name)
    }

    /// Writes all sessions.
    pub(crate) fn write(&self, to: &mut dyn Write) -> io::Result<()> {
        let mut buffer = Vec::new();
        let head = (self.limits, self.leaderless_ms, self.by_id.len() as u64);
        put(&head, &mut buffer, to)?;
        for (id, session) in &self.by_id {
            put(&(*id, &**session), &mut buffer, to)?;
        }
        Ok(())
    }

    /// Reads what [`Sessions::write`] has written, and nothing beyond it.
    pub(crate) fn read(from: &mut dyn Read) -> Result<Self, RestoreError> {
        let (limits, leaderless_ms, count): (SessionLimits, u64, u64) = take(from)?;
        let limits = limits.in_range();
        let mut sessions = Sessions { limits, leaderless_ms, ..Sessions::default() };
        for _ in 0..count {
            let (id, session): (SessionId, Session) = take(from)?;
            sessions.bytes += session.cost();
            sessions.by_use.insert((session.used, id));
            sessions.by_id.insert(id, Arc::new(session));
        }
        match sessions.broken_invariant() {
            None => Ok(sessions),
            Some(broken) => Err(RestoreError::Malformed(format!("sessions: {broken}"))),
        }
    }
}

fn put<T: Serialize>(value: &T, buffer: &mut Vec<u8>, to: &mut dyn Write) -> io::Result<()> {
    buffer.clear();
    codec::encode(value, buffer);
    let length = u32::try_from(buffer.len()).map_err(io::Error::other)?;
    to.write_all(&length.to_le_bytes())?;
    to.write_all(buffer)
}

/// The snapshot's checksums have been checked, so a length is one that [`put`] has written.
fn take<T: serde::de::DeserializeOwned>(from: &mut dyn Read) -> Result<T, RestoreError> {
    let mut length = [0; 4];
    from.read_exact(&mut length)?;
    let mut value = Vec::new();
    from.take(u64::from(u32::from_le_bytes(length))).read_to_end(&mut value)?;
    let value = codec::decode_unlimited(&value);
    value.map_err(|error| RestoreError::Malformed(format!("sessions: {error}")))
}
