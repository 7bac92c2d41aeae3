//! The requests of a client, and the reasons for which a node rejects them.

use crate::{CommandNumber, LogId, NodeId};
use bytes::Bytes;
use serde::{Deserialize, Serialize};

/// A request to append an entry. Opaque to the protocol. Bytes convert into a command.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Request {
    /// See [`Payload::Command`](crate::Payload::Command).
    Command(Bytes),
    /// See [`Payload::SessionCommand`](crate::Payload::SessionCommand).
    SessionCommand(Bytes),
    /// See [`Payload::System`](crate::Payload::System).
    System(Bytes),
}

impl Request {
    /// Its size in bytes.
    pub fn len(&self) -> usize {
        let (Request::Command(bytes) | Request::SessionCommand(bytes) | Request::System(bytes)) =
            self;
        bytes.len()
    }

    /// Whether it has no bytes.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
}

impl From<Bytes> for Request {
    fn from(command: Bytes) -> Self {
        Request::Command(command)
    }
}

/// An accepted proposal: its entry is in the leader's log and may or may not be committed later. It
/// is committed once an entry with exactly this id is applied. It is lost once another entry is
/// applied at its index, or an entry of a later term is applied at a lower index.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Proposed {
    /// The entry that holds it.
    pub id: LogId,
    /// Its number among the client commands.
    pub number: CommandNumber,
}

/// Why a proposal was rejected. It was not appended and will never be applied.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum ProposeRefused {
    /// Only a leader takes proposals. Retry at the leader.
    #[error("this node does not lead")]
    NotLeader {
        /// The leader, if this node knows it.
        leader: Option<NodeId>,
    },
    /// The leader has too many uncommitted entries, or too many bytes of them. Retry later.
    #[error("too much is waiting to be committed")]
    Busy,
    /// The command is larger than [`Config::command_bytes_max`](crate::Config::command_bytes_max).
    #[error("the command is larger than {limit_bytes} bytes")]
    TooLarge {
        /// The limit in bytes.
        limit_bytes: usize,
    },
}

/// How a read is confirmed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ReadProof {
    /// By a round of heartbeats to a quorum (§6.4). The read sees every write that completed
    /// before it was requested.
    Linearizable,
    /// By the leader's lease (§6.4.1), at once. A leader without a lease confirms the read like a
    /// linearizable one. The read sees every write that completed before it was requested, if the
    /// clocks of the nodes keep within [`LeaseConfig::drift_ppm`](crate::LeaseConfig::drift_ppm).
    Lease,
}

/// Why a read was rejected.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum ReadRefused {
    /// This node knows no leader that could confirm the read. Retry later or at another node.
    #[error("no leader is known")]
    NoLeader,
    /// [`Config::reads_max`](crate::Config::reads_max) reads are waiting. Retry later.
    #[error("too many reads are waiting")]
    Busy,
}
