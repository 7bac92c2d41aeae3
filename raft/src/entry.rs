//! Entries of the log, and the place where a log begins.

use crate::{CommandNumber, LogId, LogTime, Membership};
use bytes::Bytes;
use serde::{Deserialize, Serialize};

/// One entry of the log.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Entry {
    /// Where it stands and who made it.
    pub id: LogId,
    /// The log's time when it was made (see the module `log_time`), never less than that of the entry
    /// before.
    pub time: LogTime,
    /// How many client commands stand before this entry: the number of the command, if this is one,
    /// and otherwise the number that the next command takes.
    pub number: CommandNumber,
    /// What it says.
    pub payload: Payload,
}

/// What an entry says.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Payload {
    /// Nothing: the entry with which a term begins, so that the entries of earlier terms can be
    /// committed (§3.6.2).
    Blank,
    /// A client's command, opaque to the protocol. It alone takes a [`CommandNumber`].
    Command(Bytes),
    /// A command of the driver (sessions, clock), opaque to the protocol; it takes no number.
    System(Bytes),
    /// The membership from this entry on. It acts as soon as it is in the log (§4.1).
    Membership(Membership),
    /// Nothing but its time: a leader appends one now and then while nobody proposes, so that the
    /// state machine's time goes on.
    Clock,
}

impl Payload {
    /// The client's command, if it is one.
    pub fn command(&self) -> Option<&Bytes> {
        match self {
            Payload::Command(command) => Some(command),
            Payload::Blank | Payload::System(_) | Payload::Membership(_) | Payload::Clock => None,
        }
    }
}

impl Entry {
    /// The number that the first client command after this entry takes.
    pub fn number_after(&self) -> CommandNumber {
        match self.payload {
            Payload::Command(_) => self.number.next(),
            Payload::Blank | Payload::System(_) | Payload::Membership(_) | Payload::Clock => {
                self.number
            }
        }
    }

    /// How many bytes the entry counts as, in every limit that is given in bytes: its payload and
    /// [`Entry::OVERHEAD_BYTES`].
    pub fn cost_bytes(&self) -> usize {
        Self::OVERHEAD_BYTES
            + match &self.payload {
                Payload::Blank | Payload::Clock => 0,
                Payload::Command(bytes) | Payload::System(bytes) => bytes.len(),
                Payload::Membership(membership) => membership.cost_bytes(),
            }
    }

    /// What an entry costs beside its payload.
    pub const OVERHEAD_BYTES: usize = 40;
}

/// Describes a snapshot: everything the protocol must know about the log up to `last`, which the
/// snapshot stands for. The state machine's own bytes are beside it, in the snapshot store.
///
/// A snapshot is identified by `last`: two snapshots of one cluster at the same [`LogId`] hold the
/// same state. The log of a new cluster begins with a snapshot at [`LogId::ZERO`] that holds the
/// first membership and no state.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Snapshot {
    /// The last entry whose effect it contains.
    pub last: LogId,
    /// The log time of that entry.
    pub time: LogTime,
    /// The number that the first client command after it takes.
    pub number: CommandNumber,
    /// The membership as of that entry, both halves if it is joint.
    pub membership: Membership,
    /// The rolling hash of what was applied up to that entry (see [`StateHash`](crate::StateHash)), if
    /// it is known.
    pub hash: Option<u64>,
}

impl Snapshot {
    /// The beginning of a log whose cluster starts with `membership`.
    pub fn initial(membership: Membership) -> Self {
        Snapshot {
            last: LogId::ZERO,
            time: LogTime::default(),
            number: CommandNumber::default(),
            membership,
            hash: Some(0),
        }
    }
}
