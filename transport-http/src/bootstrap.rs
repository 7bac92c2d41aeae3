//! How a cluster is founded: the founders tell one another who they are until each knows all.
//!
//! A founder makes its own incarnation durable before it tells anybody. So the first membership is
//! the same everywhere, and a founder whose disk was wiped later meets peers that know another
//! incarnation of it: it is refused, and cannot vote a second time. All founders must be up once,
//! together.

use crate::server::post;
use bytes::Bytes;
use driver::report;
use raft::{Incarnation, Member, Membership, NodeId};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;
use storage::{ClusterId, codec};

/// The pause between two rounds of questions to the founders that have not answered.
const ASK_AGAIN: Duration = Duration::from_millis(50);
/// After so many rounds without all answers the operator is told whom it waits for.
const ROUNDS_UNTIL_TOLD: u32 = 40;

/// A founder, as it tells the others of itself.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Founder {
    /// Who it is.
    pub node: NodeId,
    /// The life of its disk. Durable there.
    pub incarnation: Incarnation,
    /// Where its peers reach it.
    pub peer_address: String,
    /// Where its clients reach it.
    pub client_address: String,
}

/// The answer to a founder.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
struct Answer {
    founder: Founder,
    /// The cluster that it belongs to already, if it does.
    cluster: Option<(ClusterId, Membership)>,
}

/// What a node answers founders. Shared with the [`PeerServer`](crate::PeerServer).
#[derive(Debug, Default)]
pub struct Desk {
    answer: Mutex<Option<Answer>>,
}

impl Desk {
    /// A desk that nobody sits at yet.
    pub fn new() -> Self {
        Desk::default()
    }

    /// This node founds a cluster, and this is what it says of itself. It is durable.
    pub fn sit(&self, founder: Founder) {
        *self.lock() = Some(Answer { founder, cluster: None });
    }

    /// This node belongs to a cluster with this membership.
    pub fn belong(&self, founder: Founder, cluster: ClusterId, membership: Membership) {
        *self.lock() = Some(Answer { founder, cluster: Some((cluster, membership)) });
    }

    /// The bytes of the answer; `None` if there is none yet.
    pub(crate) fn answer(&self) -> Option<Vec<u8>> {
        let answer = self.lock().clone()?;
        let mut bytes = Vec::new();
        codec::encode(&answer, &mut bytes);
        Some(bytes)
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Option<Answer>> {
        self.answer.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The cluster that was founded.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Founded {
    /// Its name.
    pub cluster: ClusterId,
    /// Its first membership.
    pub membership: Membership,
}

/// Why no cluster could be founded.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum FoundError {
    /// A peer knows another life of this node: its disk was wiped, or this is the wrong directory.
    #[error(
        "this data directory is empty, but node {node} is already a member of a cluster, as node \
         {peer} at {peer_address} knows: its disk was wiped, or this is the wrong directory. \
         Restore the directory; or remove node {node} from the cluster and add it again, started \
         with --join"
    )]
    Wiped {
        /// This node.
        node: NodeId,
        /// Who knows it.
        peer: NodeId,
        /// Where that is.
        peer_address: String,
    },
    /// The cluster of a peer does not know this node.
    #[error(
        "node {peer} at {peer_address} belongs to a cluster of which node {node} is no member; \
         add this node there, started with --join instead of --bootstrap"
    )]
    Stranger {
        /// This node.
        node: NodeId,
        /// Who belongs to that cluster.
        peer: NodeId,
        /// Where that is.
        peer_address: String,
    },
    /// Another node answers where a peer should be.
    #[error("node {found} answers at {peer_address}, where node {peer} should be; check --peers")]
    WrongNode {
        /// Who should be there.
        peer: NodeId,
        /// Who is.
        found: NodeId,
        /// Where.
        peer_address: String,
    },
}

/// Asks all founders who they are, until all have answered. `peers` are the others and where they
/// listen for peers. Only a wrong answer ends it otherwise: it waits as long as it takes.
pub async fn found(own: &Founder, peers: &[(NodeId, String)]) -> Result<Founded, FoundError> {
    let mut founders = BTreeMap::from([(own.node, own.clone())]);
    let mut round = 0_u32;
    while founders.len() <= peers.len() {
        for (peer, peer_address) in peers {
            if founders.contains_key(peer) {
                continue;
            }
            let Some(answer) = ask(peer_address, own).await else { continue };
            let found = answer.founder.node;
            let (node, peer, peer_address) = (own.node, *peer, peer_address.clone());
            if found != peer {
                return Err(FoundError::WrongNode { peer, found, peer_address });
            }
            if let Some((cluster, membership)) = answer.cluster {
                return match membership.members.get(&node) {
                    Some(known) if known.incarnation == own.incarnation => {
                        Ok(Founded { cluster, membership })
                    }
                    Some(_) => Err(FoundError::Wiped { node, peer, peer_address }),
                    None => Err(FoundError::Stranger { node, peer, peer_address }),
                };
            }
            founders.insert(peer, answer.founder);
        }
        round += 1;
        if round == ROUNDS_UNTIL_TOLD {
            let missing: Vec<&String> = (peers.iter())
                .filter(|(peer, _)| !founders.contains_key(peer))
                .map(|(_, address)| address)
                .collect();
            report(|| {
                tracing::warn!(
                    ?missing,
                    "waiting for peers: all must be up once to found a cluster"
                );
            });
        }
        if founders.len() <= peers.len() {
            tokio::time::sleep(ASK_AGAIN).await;
        }
    }
    let cluster = name(&founders);
    let member = |founder: Founder| Member {
        incarnation: founder.incarnation,
        peer_address: founder.peer_address,
        client_address: founder.client_address,
    };
    let members = founders.into_iter().map(|(node, founder)| (node, member(founder))).collect();
    Ok(Founded { cluster, membership: Membership::of_voters(members) })
}

/// The cluster that the peers belong to: for a node that is to join it. It waits until one of them
/// tells.
pub async fn cluster_of(own: &Founder, peers: &[(NodeId, String)]) -> ClusterId {
    for round in 0_u32.. {
        for (_, peer_address) in peers {
            if let Some(Answer { cluster: Some((cluster, _)), .. }) = ask(peer_address, own).await {
                return cluster;
            }
        }
        if round == ROUNDS_UNTIL_TOLD {
            report(|| tracing::warn!("waiting for a peer that belongs to a cluster"));
        }
        tokio::time::sleep(ASK_AGAIN).await;
    }
    unreachable!("the loop above has no end of its own")
}

/// A cluster is named after its founders, so that all of them give it the same name.
fn name(founders: &BTreeMap<NodeId, Founder>) -> ClusterId {
    let mut hash = 0xcbf2_9ce4_8422_2325_u64;
    for founder in founders.values() {
        for byte in [founder.node.0, founder.incarnation.0].iter().flat_map(|n| n.to_le_bytes()) {
            hash = (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3);
        }
    }
    ClusterId(hash)
}

async fn ask(peer_address: &str, own: &Founder) -> Option<Answer> {
    let mut question = Vec::new();
    codec::encode(own, &mut question);
    let answer = post(peer_address, "/raft/v1/bootstrap", Bytes::from(question)).await?;
    codec::decode(&answer).ok()
}
