//! Why a cluster could not be bootstrapped, for an operator.

use raft::NodeId;

/// Why a cluster could not be bootstrapped.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum BootstrapError {
    /// A peer knows this node with another incarnation: its disk was wiped, or this is the wrong
    /// directory.
    #[error(
        "this data directory is empty, but node {node} is already a member of a cluster, as node \
         {peer} at {peer_address} knows: its disk was wiped, or this is the wrong directory, or the \
         id was given twice. If it is the wrong directory, name the right one. Never put an older \
         copy in its place: what it acknowledged since would be lost. If the disk was wiped, remove \
         node {node} from the cluster, start it again as a node that joins, and add it. If this is \
         another node, give it an id of its own"
    )]
    Wiped {
        /// This node.
        node: NodeId,
        /// The peer that knows the other incarnation.
        peer: NodeId,
        /// The `host:port` of that peer.
        peer_address: String,
    },
    /// The addition of this node was given up, or it was removed, before it knew that it was added.
    #[error(
        "this node is not a member of its cluster any more, as node {peer} at {peer_address} knows: \
         the change that added node {node} was given up, or it was removed again, before it had \
         joined. To add it again, start it with an empty data directory, as a node that joins"
    )]
    Removed {
        /// This node.
        node: NodeId,
        /// The peer that knows it.
        peer: NodeId,
        /// The `host:port` of that peer.
        peer_address: String,
    },
    /// A peer belongs to a cluster of which this node is not a member.
    #[error(
        "node {peer} at {peer_address} belongs to a cluster of which node {node} is no member: this \
         node has the members {ours}, and that cluster has {theirs}. To add node {node} to that \
         cluster, start it as a node that joins"
    )]
    Stranger {
        /// This node.
        node: NodeId,
        /// The peer that belongs to that cluster.
        peer: NodeId,
        /// The `host:port` of that peer.
        peer_address: String,
        /// This node's list of founders, as `id=client address/peer address`.
        ours: String,
        /// The members, as far as the peer discloses them.
        theirs: String,
    },
    /// The founders were given different lists.
    #[error(
        "node {peer} at {peer_address} has another list of members than this node: this node has \
         {ours}; node {peer} has {theirs}. Give all founders the same list"
    )]
    OtherList {
        /// The founder with the other list.
        peer: NodeId,
        /// The `host:port` of that peer.
        peer_address: String,
        /// This node's list of founders, as `id=client address/peer address`.
        ours: String,
        /// The other list, as far as the peer discloses it.
        theirs: String,
    },
    /// A peer has the same list, but one of the two was started to found a cluster and the other to
    /// join one.
    #[error(
        "node {peer} at {peer_address} has the same list of members as this node, {list}, but one of \
         the two was started to found the cluster, and the other to join it. Start all nodes of a \
         new cluster to found it; a node that joins is added to a cluster that runs"
    )]
    OtherWay {
        /// The peer that was started in the other way.
        peer: NodeId,
        /// The `host:port` of that peer.
        peer_address: String,
        /// The list of founders, as `id=client address/peer address`.
        list: String,
    },
    /// A peer rejects this node without details, usually because this node's list has another
    /// address for that peer.
    #[error(
        "node {peer} at {peer_address} does not know this node as a founder: this node has the members \
         {ours}; the log of node {peer} shows both lists. Give all founders the same list"
    )]
    NotAFounder {
        /// The peer that rejects this node.
        peer: NodeId,
        /// The `host:port` of that peer.
        peer_address: String,
        /// This node's list of founders, as `id=client address/peer address`.
        ours: String,
    },
    /// Another node answers where a peer should be.
    #[error("another node than {peer} answers at {peer_address}; check the list of members")]
    WrongNode {
        /// The node that was expected there.
        peer: NodeId,
        /// The `host:port` that was dialled.
        peer_address: String,
    },
    /// A peer has another version of the protocol, or rejects the question as invalid.
    #[error("node {peer} at {peer_address} refuses this node: {why}")]
    OtherVersion {
        /// The peer that rejects the question.
        peer: NodeId,
        /// The `host:port` of that peer.
        peer_address: String,
        /// The peer's reason, such as the two versions.
        why: String,
    },
}
