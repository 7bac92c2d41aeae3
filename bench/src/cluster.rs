//! What the nodes of the benchmarks have in common.

use raft::{Config, Incarnation, Member, Membership, NodeId};
use std::time::Duration;

/// The nodes of a cluster. The first one leads.
pub const IDS: [NodeId; 3] = [NodeId(1), NodeId(2), NodeId(3)];

/// The length of a tick.
pub const TICK: Duration = Duration::from_millis(10);

/// The membership of a cluster of three.
pub fn membership() -> Membership {
    of(&IDS)
}

/// The membership of a cluster of these nodes.
pub fn of(ids: &[NodeId]) -> Membership {
    let member = |id: &NodeId| {
        let (peer_address, client_address) = (String::new(), String::new());
        (*id, Member { incarnation: Incarnation(id.0), peer_address, client_address })
    };
    Membership::of_voters(ids.iter().map(member).collect())
}

/// The default settings for a node.
pub fn config(id: NodeId) -> Config {
    Config::new(id, Incarnation(id.0), id.0)
}
