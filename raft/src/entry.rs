//! Log entries, and the snapshot that a log begins after.

use crate::{CommandNumber, Index, LogId, LogTime, Membership, Request};
use bytes::Bytes;
use serde::{Deserialize, Serialize};

/// One entry of the log.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Entry {
    /// Its index, and the term of the leader that made it.
    pub id: LogId,
    /// The log time when it was made. Never less than that of the previous entry.
    pub time: LogTime,
    /// The number of client commands before this entry. If the entry is a command, this is its own
    /// number; otherwise it is the number that the next command takes.
    pub number: CommandNumber,
    /// Its content.
    pub payload: Payload,
}

/// The content of an entry.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Payload {
    /// A no-op. A leader begins its term with one, so that entries of earlier terms can be
    /// committed (§3.6.2).
    NoOp,
    /// A client's command, opaque to the protocol. Only commands take a [`CommandNumber`].
    Command(Bytes),
    /// A client's command in a session. The bytes begin with a header of the driver, which executes
    /// the command once however often it is proposed. Opaque to the protocol. Takes a number like
    /// any command, also if it is a repeat.
    SessionCommand(Bytes),
    /// A command of the driver itself, opaque to the protocol: it opens and closes sessions. Takes
    /// no number.
    System(Bytes),
    /// The membership from this entry on. It is in force as soon as it is in the log (§4.1).
    /// Boxed, because it is rare and would double the size of every entry.
    Membership(Box<Membership>),
    /// Holds only its log time. A leader appends one at intervals while there are no proposals, so
    /// that the state machine's time advances.
    Clock,
}

impl Payload {
    /// Whether it is a client's command, which takes a [`CommandNumber`].
    pub fn is_command(&self) -> bool {
        match self {
            Payload::Command(_) | Payload::SessionCommand(_) => true,
            Payload::NoOp | Payload::System(_) | Payload::Membership(_) | Payload::Clock => false,
        }
    }
}

impl From<Request> for Payload {
    fn from(request: Request) -> Self {
        match request {
            Request::Command(bytes) => Payload::Command(bytes),
            Request::SessionCommand(bytes) => Payload::SessionCommand(bytes),
            Request::System(bytes) => Payload::System(bytes),
        }
    }
}

impl Entry {
    /// The number that the first client command after this entry takes.
    pub fn number_after(&self) -> CommandNumber {
        if self.payload.is_command() { self.number.next() } else { self.number }
    }

    /// The number of bytes that the entry counts for in every limit given in bytes: its payload
    /// plus [`Entry::OVERHEAD_BYTES`].
    pub fn cost_bytes(&self) -> usize {
        Self::OVERHEAD_BYTES
            + match &self.payload {
                Payload::NoOp | Payload::Clock => 0,
                Payload::Command(bytes)
                | Payload::SessionCommand(bytes)
                | Payload::System(bytes) => bytes.len(),
                Payload::Membership(membership) => membership.cost_bytes(),
            }
    }

    /// The bytes that an entry counts for in addition to its payload.
    pub const OVERHEAD_BYTES: usize = 40;
}

/// Describes a snapshot: everything the protocol must know about the log up to `last`, which the
/// snapshot replaces. The state machine's own bytes are in the snapshot store.
///
/// A snapshot is identified by `last`: two snapshots of one cluster at the same [`LogId`] hold the
/// same state. The log of a new cluster begins with a snapshot at [`LogId::ZERO`] that holds the
/// first membership and no state.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Snapshot {
    /// The last entry that the snapshot contains.
    pub last: LogId,
    /// The log time of that entry.
    pub time: LogTime,
    /// The number that the first client command after it takes.
    pub number: CommandNumber,
    /// The membership as of that entry, both halves if it is joint. Boxed, because it would double
    /// the size of every order, and few orders have a snapshot.
    pub membership: Box<Membership>,
    /// The index of the entry that holds this membership. 0 if it is that of the beginning.
    pub membership_index: Index,
    /// The rolling hash of what was applied up to that entry (see [`StateHash`](crate::StateHash)).
    /// `None` if it is not known.
    pub hash: Option<u64>,
}

impl Snapshot {
    /// The snapshot that the log of a new cluster begins after.
    pub fn initial(membership: Membership) -> Self {
        Snapshot {
            last: LogId::ZERO,
            time: LogTime::default(),
            number: CommandNumber::default(),
            membership: Box::new(membership),
            membership_index: Index(0),
            hash: Some(0),
        }
    }
}

#[cfg(test)]
impl Entry {
    /// A command with the number 0, for the tests of this crate.
    pub(crate) fn test_command(index: u64, term: u64, command: &'static [u8]) -> Entry {
        Entry {
            id: LogId::new(index, term),
            time: LogTime(0),
            number: CommandNumber(0),
            payload: Payload::Command(Bytes::from_static(command)),
        }
    }
}
