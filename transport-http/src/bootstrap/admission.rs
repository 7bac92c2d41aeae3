//! Asks a node that is to be added to a cluster for its identity.
//!
//! A membership names the incarnation of each member, which the new node draws itself and makes
//! durable. So it must be up before it is added.

use super::question::{Answer, Asked, Purpose, Question, ask};
use super::service::BootstrapService;
use crate::dial::Names;
use crate::founders::{Founder, Listed, Lists};
use crate::net::{Net, TokioNet};
use raft::{AddressError, NodeId};

/// Why a node cannot be added to this cluster. Nothing has changed.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum AdmitError {
    /// An address that is declared for the node is too long, or has characters that no address has.
    #[error("an address of node {node} {why}")]
    Address {
        /// The node.
        node: NodeId,
        /// The fault of the address.
        why: AddressError,
    },
    /// The node does not answer. It may answer later.
    #[error(
        "node {node} does not answer at {address} ({why}): start it with an empty data directory, as \
         a node that joins"
    )]
    Silent {
        /// The node.
        node: NodeId,
        /// Its address for peers.
        address: String,
        /// The cause.
        why: String,
    },
    /// The node is a member of another cluster, bootstraps one, or has other addresses.
    #[error(
        "node {node} at {address} does not wait to be added as {listed}: start it with an empty data \
         directory, as a node that joins, and with the same addresses"
    )]
    NotWaiting {
        /// The node.
        node: NodeId,
        /// Its address for peers.
        address: String,
        /// The entry that it was to be added with.
        listed: String,
    },
    /// The node waits to be added to another cluster.
    #[error(
        "node {node} at {address} waits to be added to the cluster of {named}, and none of these nodes \
         is a member of this cluster: to add it here, start it with an empty data directory, as a \
         node that joins, with a member of this cluster on its list"
    )]
    OtherCluster {
        /// The node.
        node: NodeId,
        /// Its address for peers.
        address: String,
        /// The nodes whose cluster it waits for.
        named: String,
    },
    /// A member does not answer at the addresses that are declared for it.
    #[error(
        "node {node} is a member and does not answer as {listed} ({why}): start it with these \
         addresses first, then declare them"
    )]
    NotMoved {
        /// The node.
        node: NodeId,
        /// The entry that was declared for it.
        listed: String,
        /// The cause.
        why: String,
    },
    /// Another node answers there.
    #[error("another node than {node} answers at {address}")]
    OtherNode {
        /// The node.
        node: NodeId,
        /// The address that was dialled.
        address: String,
    },
    /// The node has another version.
    #[error("node {node} at {address} cannot be added: {why}")]
    OtherVersion {
        /// The node.
        node: NodeId,
        /// Its address for peers.
        address: String,
        /// The two versions.
        why: String,
    },
    /// This node has no cluster yet.
    #[error("this node is starting")]
    Starting,
}

/// Asks the node with this entry for its identity, once. `service` is that of a running node.
pub async fn identity_of(
    service: &BootstrapService,
    listed: &Listed,
) -> Result<Founder, AdmitError> {
    identity_of_on(&TokioNet::current(), service, listed).await
}

/// Like [`identity_of`], with a given [`Net`].
pub async fn identity_of_on<N: Net>(
    net: &N,
    service: &BootstrapService,
    listed: &Listed,
) -> Result<Founder, AdmitError> {
    let Some((own, Some(cluster), members)) = service.own() else {
        return Err(AdmitError::Starting);
    };
    let (node, address) = (listed.node, listed.peer_address.clone());
    let purpose = Purpose::Admit(cluster);
    let list = std::iter::once(listed.clone()).chain(members).collect();
    let question = Question { from: own, to: node, list, purpose };
    match ask(&Names::new(net.clone()), &address, &question).await {
        Asked::Answer(Answer::Founder(founder)) if founder.listed() == *listed => Ok(founder),
        Asked::Nothing(why) => Err(AdmitError::Silent { node, address, why }),
        Asked::Misdirected => Err(AdmitError::OtherNode { node, address }),
        Asked::OtherVersion(why) => Err(AdmitError::OtherVersion { node, address, why }),
        Asked::Answer(Answer::Elsewhere(named)) => {
            let named = Lists(&named).to_string();
            Err(AdmitError::OtherCluster { node, address, named })
        }
        Asked::Refused | Asked::Wiped | Asked::Answer(_) => {
            Err(AdmitError::NotWaiting { node, address, listed: listed.to_string() })
        }
    }
}
