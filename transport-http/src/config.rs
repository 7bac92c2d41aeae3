//! The settings of a transport.

use raft::{Incarnation, NodeId};
use std::collections::BTreeMap;
use std::time::Duration;
use storage::ClusterId;

/// The settings of a transport. Make them with [`TransportConfig::new`] and change the fields.
///
/// The memory of a transport: up to 256 messages wait for each peer, and share the memory of the
/// entries in them; frames that are not complete take at most 128 MiB together; a snapshot that is
/// sent takes about 1.5 MiB.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct TransportConfig {
    /// The cluster of this node. Streams of other clusters are rejected.
    pub cluster: ClusterId,
    /// The id of this node.
    pub node: NodeId,
    /// The incarnation of this node's data directory, sent at the start of each stream.
    pub incarnation: Incarnation,
    /// Where peers reach this node, as `host:port`. It is sent at the start of each stream, so that
    /// a peer that does not know this node as a member, or knows another address of it, can answer.
    /// Empty by default: peers use the address in the membership.
    pub peer_address: String,
    /// Where this node's configuration says that peers are. A member that is not reached at the
    /// address that it gave, nor at that in the membership, is dialled there too. Two members that
    /// have both moved find each other only so. Empty by default.
    pub listed: BTreeMap<NodeId, String>,
    /// The election timeout of this node, which is sent at the start of each stream: peers warn if
    /// theirs differs. Zero by default: unknown.
    pub election_timeout: Duration,
    /// The time between two heartbeats, which is sent and compared too.
    pub heartbeat: Duration,
    /// A stream on which no byte arrives for this long is closed. Where nothing else was sent for a
    /// quarter of it, a keep-alive is. Default: 1 s.
    pub silence: Duration,
    /// The most bytes per second at which a snapshot is sent. Default: 64 MiB/s. Less than 1 MiB/s
    /// counts as 1 MiB/s.
    pub snapshot_bytes_per_second: u64,
}

impl TransportConfig {
    /// The default settings: 1 s of silence, 64 MiB/s.
    pub fn new(cluster: ClusterId, node: NodeId, incarnation: Incarnation) -> Self {
        TransportConfig {
            cluster,
            node,
            incarnation,
            peer_address: String::new(),
            listed: BTreeMap::new(),
            election_timeout: Duration::ZERO,
            heartbeat: Duration::ZERO,
            silence: Duration::from_secs(1),
            snapshot_bytes_per_second: 64 << 20,
        }
    }
}
