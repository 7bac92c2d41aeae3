//! Client sessions: a command of a session is executed once, however often it is proposed
//! (§6.3).
//!
//! A proposal whose outcome is unknown cannot be repeated safely: it may be in the log already. In
//! a session it can. The client numbers its commands. Each state machine keeps, next to the user's
//! state, the numbers that were executed and their replies. A repeat is not executed; it gets the
//! first reply, byte for byte.
//!
//! A session is opened through the log, and its id is made from the index of that entry. So the
//! sessions are the same on every node, are part of each snapshot, and survive a restart of the
//! whole cluster. They end by log time, which all nodes share; time without a leader does not
//! count. A command of a session that has ended is never executed.
//!
//! Everything is bounded, see [`SessionLimits`]. The limits travel with the entry that opens a
//! session, so nodes with different settings keep the same sessions.

pub(crate) mod own;
mod table;

pub use table::Sessions;
pub(crate) use table::Verdict;

use bytes::{BufMut, Bytes, BytesMut};
use raft::{Index, Request};
use serde::{Deserialize, Serialize};
use std::time::Duration;
use storage::codec;

/// Identifies a session. It is never given to another session of the cluster.
///
/// The low 44 bits are the index of the entry that opened it. The high 20 bits are a random number
/// that the opener chose: if a cluster is set back to a backup, it opens sessions at the same
/// indexes again, and a client of before must not find one of them under its id.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct SessionId(pub u64);

impl std::fmt::Display for SessionId {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        self.0.fmt(f)
    }
}

/// The limits of sessions. Start from [`SessionLimits::default`] and change its fields.
///
/// `window` and `reply_bytes_max` belong to a session. The others belong to the whole cluster:
/// those of the session that was opened last are in force.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct SessionLimits {
    /// A session ends when it has not been used for this long, by log time and without the time in
    /// which there was no leader. 60 s by default. It may end up to a sixteenth later. At most a
    /// day.
    ///
    /// It is removed by a later entry of a session, or of the clock, which a leader appends now and
    /// then while nobody writes.
    pub ttl: Duration,
    /// How many numbers of a session are known, counted back from the highest: 128 by default, at
    /// most 65,536. A lower number is never executed.
    pub window: u32,
    /// The bytes of replies that a session keeps, 1 MiB by default. Beyond it the replies of the
    /// lowest numbers are dropped; the newest one is always kept.
    pub reply_bytes_max: u64,
    /// The most sessions, 100,000 by default. To open one more ends the one that was not used for
    /// the longest time. A use is only noted if a sixteenth of `ttl` has passed since the last one
    /// that was.
    pub sessions_max: u32,
    /// The bytes of all sessions, 256 MiB by default: 768 for each session, 160 for each number
    /// that it knows, and the replies. Beyond it the sessions end that were not used for the
    /// longest time.
    pub bytes_max: u64,
}

impl Default for SessionLimits {
    fn default() -> Self {
        SessionLimits {
            ttl: Duration::from_secs(60),
            window: 128,
            reply_bytes_max: 1 << 20,
            sessions_max: 100_000,
            bytes_max: 256 << 20,
        }
    }
}

impl SessionLimits {
    /// The request that opens a session with these limits. `salt` should be random; its low 20 bits
    /// become a part of the id. See [`SessionId::of_reply`].
    pub fn request(self, salt: u32) -> Request {
        Request::System(SystemCommand::Open { limits: self, salt }.encode())
    }

    /// The limits with each clamped.
    pub(crate) fn in_range(self) -> Self {
        SessionLimits {
            ttl: self.ttl.clamp(Duration::from_millis(1), Duration::from_secs(86_400)),
            window: self.window.clamp(1, 1 << 16),
            sessions_max: self.sessions_max.max(1),
            ..self
        }
    }
}

/// Why a command of a session has no reply.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum SessionError {
    /// The session has ended, or there was none with this id. The command was not executed by this
    /// call and never will be. An earlier call with the same number may have executed it.
    #[error("the session has ended")]
    Ended,
    /// An earlier call with this number has executed the command, and the reply is no longer kept.
    #[error("the command was executed before, and the session does not keep its reply any more")]
    Forgotten,
    /// The number is below the window, so the session does not know whether it was executed. An
    /// earlier call with it may have executed the command; this one has not and never will.
    #[error("the number is lower than the numbers that the session still knows")]
    TooLow,
    /// The number was used for another command before. This command was not executed and never will
    /// be.
    #[error("the number was used for another command of this session")]
    Reused,
    /// The number is 0, or more than a window above the highest that was used. The command was not
    /// executed and never will be by this call.
    #[error(
        "numbers begin at 1, and this one is 0 or more than a window above the highest that was \
         used, {highest}"
    )]
    Gap {
        /// The highest number that the session has executed.
        highest: u64,
    },
}

impl SessionError {
    /// Stands for the reply in the hash of what was applied.
    pub(crate) fn hashed(self) -> Bytes {
        Bytes::from_static(match self {
            SessionError::Ended => b"ended",
            SessionError::Forgotten => b"forgotten",
            SessionError::TooLow => b"too low",
            SessionError::Reused => b"reused",
            SessionError::Gap { .. } => b"gap",
        })
    }
}

/// The place of a command in its session.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SessionNumber {
    /// The session.
    pub session: SessionId,
    /// The number of the command, from 1. It has to be new for each command, and the same for each
    /// repeat.
    pub number: u64,
    /// No command with a lower number is under way or will be sent again, so their replies need not
    /// be kept. 0 if the client does not say. A lower number that arrives later all the same is not
    /// executed.
    pub repeats_from: u64,
}

impl SessionNumber {
    /// The bytes that it takes before the command.
    pub const BYTES: usize = 24;

    /// The bytes for the log: this and the command.
    pub fn encode(self, command: &[u8]) -> Bytes {
        let mut bytes = BytesMut::with_capacity(Self::BYTES + command.len());
        bytes.put_u64_le(self.session.0);
        bytes.put_u64_le(self.number);
        bytes.put_u64_le(self.repeats_from);
        bytes.put_slice(command);
        bytes.freeze()
    }

    /// The number and the command. `None` for bytes that [`SessionNumber::encode`] has not made. No
    /// bytes are copied.
    pub fn decode(bytes: &Bytes) -> Option<(SessionNumber, Bytes)> {
        let word = |at: usize| {
            let bytes = bytes.get(at..at + 8)?;
            Some(u64::from_le_bytes(bytes.try_into().ok()?))
        };
        let (session, number, repeats_from) = (SessionId(word(0)?), word(8)?, word(16)?);
        let number = SessionNumber { session, number, repeats_from };
        Some((number, bytes.slice(Self::BYTES..)))
    }
}

/// A command of the driver itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) enum SystemCommand {
    /// Opens a session. Its id is the reply.
    Open { limits: SessionLimits, salt: u32 },
    /// Ends a session. The reply is one byte: 1 if there was such a session.
    Close(SessionId),
}

impl SystemCommand {
    pub fn encode(&self) -> Bytes {
        let mut bytes = Vec::new();
        codec::encode(self, &mut bytes);
        bytes.into()
    }

    /// `None` if it is not such a command. It then changes nothing, on every node.
    pub fn decode(bytes: &[u8]) -> Option<Self> {
        codec::decode(bytes).ok()
    }
}

impl SessionId {
    const INDEX_BITS: u32 = 44;

    /// The id of the session that the entry at `index` opens.
    pub(crate) fn new(salt: u32, index: Index) -> Self {
        SessionId(index.0 ^ u64::from(salt) << Self::INDEX_BITS)
    }

    pub(crate) fn encode(self) -> Bytes {
        Bytes::copy_from_slice(&self.0.to_le_bytes())
    }

    /// The request that ends the session. The reply is one byte: 1 if there was one.
    pub fn close_request(self) -> Request {
        Request::System(SystemCommand::Close(self).encode())
    }

    /// The id in the reply to [`SessionLimits::request`].
    pub fn of_reply(reply: &[u8]) -> Option<Self> {
        Some(SessionId(u64::from_le_bytes(reply.try_into().ok()?)))
    }
}
