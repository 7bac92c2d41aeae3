//! The first frame of a stream: it names the sender and the receiver.

use raft::{Incarnation, NodeId};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use storage::{ClusterId, codec};

/// The version of the peer protocol. It changes with the frames, the messages and their encoding.
pub const PROTOCOL_VERSION: u16 = 7;

/// The first bytes of a stream. They distinguish a stray client from a peer of another version.
const MAGIC: &[u8; 4] = b"raft";

/// The content of the first frame. In the frame, the magic and the version (two bytes,
/// little-endian) precede it, and a CRC-32C of all bytes before follows. Magic and version never
/// move, so another version is recognised whatever follows them.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Hello {
    /// The cluster of the sender.
    pub cluster: ClusterId,
    /// The id of the sender.
    pub from: NodeId,
    /// The incarnation of the sender's data directory: a random number, drawn for each new one.
    pub incarnation: Incarnation,
    /// The sender's process: a random number, drawn at each start.
    pub process: u64,
    /// The node that the sender dials.
    pub to: NodeId,
    /// The address of the sender for its peers, as `host:port`. A receiver that does not know the
    /// sender as a member answers there. May be empty.
    pub address: String,
    /// The sender's election timeout, in milliseconds. 0: unknown. All nodes should have the same.
    pub election_timeout_ms: u32,
    /// The time between two heartbeats of the sender as a leader, in milliseconds. 0: unknown.
    pub heartbeat_ms: u32,
}

/// Why a stream is rejected. The text is sent to the peer, for its operator.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum Refusal {
    /// The bytes do not begin with a hello: the client is not a raft peer.
    #[error("this is not a raft peer's stream")]
    NoHello,
    /// The peer has a newer version: this node has to be upgraded.
    #[error(
        "this node speaks version {ours} of the peer protocol and you version {theirs}; \
         upgrade this node"
    )]
    NewerVersion {
        /// The version of this node.
        ours: u16,
        /// The version of the peer.
        theirs: u16,
    },
    /// The peer has an older version: the peer has to be upgraded.
    #[error(
        "this node speaks version {ours} of the peer protocol and you version {theirs}; \
         upgrade your node"
    )]
    OlderVersion {
        /// The version of this node.
        ours: u16,
        /// The version of the peer.
        theirs: u16,
    },
    /// The checksum of the first frame does not match.
    #[error("the first frame is damaged: its checksum does not match")]
    Damaged,
    /// The peer belongs to another cluster: an address or a data directory is wrong.
    /// The text does not name this node's own cluster: only its members need to know it.
    #[error(
        "this node does not belong to cluster {theirs} but to another one; check the addresses of the \
         peers"
    )]
    OtherCluster {
        /// The cluster of this node.
        ours: ClusterId,
        /// The cluster of the peer.
        theirs: ClusterId,
    },
    /// The peer has dialled another node: an address is wrong.
    #[error("this is node {ours} and you dialled node {theirs}; check the addresses of the peers")]
    OtherNode {
        /// This node.
        ours: NodeId,
        /// The node that the peer has dialled.
        theirs: NodeId,
    },
}

impl Hello {
    /// Encodes it as the content of a first frame, with magic, version and checksum.
    pub fn encode(&self) -> Vec<u8> {
        seal(self)
    }

    /// Decodes a peer's first frame. Rejects it unless it is of the cluster of `own` and for the
    /// node `own.from`.
    pub fn check(bytes: &[u8], own: &Hello) -> Result<Hello, Refusal> {
        let hello: Hello = open(bytes)?;
        if hello.cluster != own.cluster {
            return Err(Refusal::OtherCluster { ours: own.cluster, theirs: hello.cluster });
        }
        if hello.to != own.from {
            return Err(Refusal::OtherNode { ours: own.from, theirs: hello.to });
        }
        Ok(hello)
    }
}

/// Encodes the magic, the version and `value`, and appends a checksum of all of them.
pub(crate) fn seal<T: Serialize>(value: &T) -> Vec<u8> {
    let mut bytes = MAGIC.to_vec();
    bytes.extend(PROTOCOL_VERSION.to_le_bytes());
    codec::encode(value, &mut bytes);
    let checksum = crc32c::crc32c(&bytes);
    bytes.extend(checksum.to_le_bytes());
    bytes
}

/// Decodes what [`seal`] has encoded on a node of the same version.
pub(crate) fn open<T: DeserializeOwned>(bytes: &[u8]) -> Result<T, Refusal> {
    let rest = bytes.strip_prefix(MAGIC).ok_or(Refusal::NoHello)?;
    let (version, rest) = rest.split_first_chunk::<2>().ok_or(Refusal::NoHello)?;
    let (ours, theirs) = (PROTOCOL_VERSION, u16::from_le_bytes(*version));
    if theirs > ours {
        return Err(Refusal::NewerVersion { ours, theirs });
    }
    if theirs < ours {
        return Err(Refusal::OlderVersion { ours, theirs });
    }
    let (value, checksum) = rest.split_last_chunk::<4>().ok_or(Refusal::NoHello)?;
    if crc32c::crc32c(&bytes[..bytes.len() - 4]) != u32::from_le_bytes(*checksum) {
        return Err(Refusal::Damaged);
    }
    codec::decode(value).map_err(|_| Refusal::NoHello)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn hello(cluster: u64, from: u64, to: u64) -> Hello {
        Hello {
            cluster: ClusterId(cluster),
            from: NodeId(from),
            incarnation: Incarnation(9),
            to: NodeId(to),
            address: String::new(),
            election_timeout_ms: 300,
            heartbeat_ms: 50,
            process: 7,
        }
    }

    #[test]
    fn a_peer_of_this_cluster_that_means_this_node_is_let_in() {
        let theirs = hello(1, 2, 3);
        assert_eq!(Hello::check(&theirs.encode(), &hello(1, 3, 0)), Ok(theirs));
    }

    #[test]
    fn strangers_are_refused_with_a_reason() {
        let own = hello(1, 3, 0);
        let refused = |theirs: Hello| Hello::check(&theirs.encode(), &own).unwrap_err();
        assert!(matches!(refused(hello(2, 2, 3)), Refusal::OtherCluster { .. }));
        assert!(matches!(refused(hello(1, 2, 4)), Refusal::OtherNode { .. }));
        assert_eq!(Hello::check(b"raft\x07\x00nonsense", &own), Err(Refusal::Damaged));
        assert_eq!(Hello::check(b"GET / HTTP/1.1", &own), Err(Refusal::NoHello));
    }

    #[test]
    fn another_version_is_told_from_junk_whatever_it_says() {
        let own = hello(1, 3, 0);
        let newer = Hello::check(b"raft\x08\x00something new", &own).unwrap_err();
        assert_eq!(newer, Refusal::NewerVersion { ours: 7, theirs: 8 });
        let older = Hello::check(b"raft\x01\x00something old", &own).unwrap_err();
        assert_eq!(older, Refusal::OlderVersion { ours: 7, theirs: 1 });
        assert!(older.to_string().contains("version 1"), "{older}");
    }

    #[test]
    fn a_flipped_bit_in_any_byte_is_refused() {
        let (intact, own) = (hello(1, 2, 3).encode(), hello(1, 3, 0));
        for at in 0..intact.len() {
            for bit in 0..8 {
                let mut bytes = intact.clone();
                bytes[at] ^= 1 << bit;
                assert!(Hello::check(&bytes, &own).is_err(), "byte {at}, bit {bit}");
            }
        }
        for len in 0..intact.len() {
            assert!(Hello::check(&intact[..len], &own).is_err(), "{len} bytes");
        }
    }
}
