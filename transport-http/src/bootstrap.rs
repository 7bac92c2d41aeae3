//! How a node finds its cluster: founders bootstrap one, and a node that joins is added to one.
//!
//! Founders exchange their identities until each of them knows all others, or another one is a
//! member already.
//!
//! A founder makes its incarnation durable before it sends it to the others. So all founders agree
//! on the first membership. If the disk of a founder is wiped later, its peers know another
//! incarnation of it. They reject it, so it cannot vote a second time. All founders must be up
//! once, at the same time.
//!
//! All founders must be given the same list of founders; with different lists there could be two
//! clusters. Each question carries the sender's list, and a founder sends its identity only if the
//! lists agree. A node with another list learns at most which of the entries that it sent are
//! right, and how many entries it does not have.
//!
//! Only an answer to a question of this node, from an address on its list, ends a bootstrap.
//! Anybody can send a question, so a question with another list is logged and ends nothing.
//!
//! A node that joins has an empty data directory. It makes its incarnation durable, and asks the
//! nodes on its list for its membership until one of them reports that it is a member. A member
//! that is about to add it asks it for its incarnation ([`identity_of`]). It gets it only if a node
//! on the list belongs to the same cluster: that node is in the membership that the question
//! contains, or says so itself. So a mistake in an address does not move a node to another cluster.

mod admission;
mod asking;
mod error;
mod question;
mod service;

pub use admission::{AdmitError, identity_of, identity_of_on};
pub use error::BootstrapError;
pub(crate) use question::{PATH, QUESTION_BYTES_MAX};
pub use service::BootstrapService;

use crate::founders::{Founder, Listed};
use crate::net::{Net, TokioNet};
use asking::Asking;
use question::{Answer, Asked, Purpose};
use raft::{Member, Membership, NodeId};
use std::collections::BTreeMap;
use std::time::Duration;
use storage::ClusterId;

/// The pause between two rounds of questions to the founders that have not answered.
const ASK_AGAIN: Duration = Duration::from_millis(50);
/// How long to wait for a question from a founder that has rejected this node. The question carries
/// that founder's list, which the error message then shows. The answer is what ends that founder's
/// bootstrap. A round of its questions may take a while if another founder is silent.
const SHOWN_WITHIN: Duration = Duration::from_secs(3);
/// How long a node that was rejected stays up after that question, so that its answer is sent.
const SENT_WITHIN: Duration = Duration::from_millis(250);
/// A node that joins is rejected once all members that answer have known another directory of it
/// for this long.
const WIPED_FOR: Duration = Duration::from_secs(2);

/// A cluster that was bootstrapped or joined.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Bootstrapped {
    /// Its id, derived from the ids and incarnations of the founders.
    pub cluster: ClusterId,
    /// Its membership: all founders as voters, or what a peer reports that is a member already.
    pub membership: Membership,
}

/// Bootstraps a cluster: asks all founders for their identity until all have answered. `list`
/// contains all founders, `own` included; `service` answers the founders that ask this node. If a
/// founder is a member of a cluster already, returns that cluster. Waits without a limit: only a
/// rejection ends it with an error.
pub async fn bootstrap(
    service: &BootstrapService,
    own: &Founder,
    list: &[Listed],
) -> Result<Bootstrapped, BootstrapError> {
    bootstrap_on(&TokioNet::current(), service, own, list).await
}

/// Like [`bootstrap`], with a given [`Net`].
pub async fn bootstrap_on<N: Net>(
    net: &N,
    service: &BootstrapService,
    own: &Founder,
    list: &[Listed],
) -> Result<Bootstrapped, BootstrapError> {
    let asking = Asking::new(net, own, list, Purpose::Bootstrap);
    let others: Vec<Listed> = list.iter().filter(|o| o.node != own.node).cloned().collect();
    let mut founders = BTreeMap::from([(own.node, own.clone())]);
    loop {
        let mut silent = Vec::new();
        for (peer, asked) in asking.round(&others).await {
            match asked {
                // One that was a founder may have founded the cluster meanwhile, with another that
                // has answered it and not this node, and is gone since.
                Asked::Answer(Answer::Member(cluster, membership)) => {
                    return Ok(Bootstrapped { cluster, membership });
                }
                // Its first answer counts: it is part of what others may have founded.
                _ if founders.contains_key(&peer.node) => {}
                Asked::Answer(Answer::Founder(founder)) if founder.listed() == peer => {
                    founders.insert(peer.node, founder);
                }
                Asked::Nothing(why) => silent.push((peer, why)),
                asked => {
                    wait_for_list(net, service, &peer, &asked).await;
                    return Err(asking.refused(service, peer, asked));
                }
            }
        }
        if founders.len() == list.len() {
            break;
        }
        asking.report(&silent, "all founders must be up once, together");
        net.sleep(ASK_AGAIN).await;
    }
    let cluster = name(&founders);
    let member = |founder: Founder| Member {
        incarnation: founder.incarnation,
        peer_address: founder.peer_address,
        client_address: founder.client_address,
    };
    let members = founders.into_iter().map(|(node, founder)| (node, member(founder))).collect();
    Ok(Bootstrapped { cluster, membership: Membership::of_voters(members) })
}

/// Waits a moment for the question of a founder with another list, because it carries that list. So
/// both founders can report both lists, whichever of them started first. The other founder is
/// answered meanwhile.
async fn wait_for_list<N: Net>(net: &N, service: &BootstrapService, peer: &Listed, asked: &Asked) {
    let shows = match asked {
        Asked::Answer(Answer::Other(difference)) => !difference.of_members(),
        _ => false,
    };
    let until = net.now() + SHOWN_WITHIN;
    while shows && service.other_list_of(peer.node).is_none() && net.now() < until {
        net.sleep(ASK_AGAIN).await;
    }
    if shows {
        net.sleep(SENT_WITHIN).await;
    }
}

/// Waits until this node was added to the cluster of the nodes on `list`, and returns that cluster
/// with its membership. `service` tells the identity of this node to a member that adds it. Waits
/// without a limit. A node whose id is a member with another data directory is rejected, and one
/// that was removed meanwhile.
pub async fn join(
    service: &BootstrapService,
    own: &Founder,
    list: &[Listed],
) -> Result<Bootstrapped, BootstrapError> {
    join_on(&TokioNet::current(), service, own, list).await
}

/// Like [`join`], with a given [`Net`].
pub async fn join_on<N: Net>(
    net: &N,
    service: &BootstrapService,
    own: &Founder,
    list: &[Listed],
) -> Result<Bootstrapped, BootstrapError> {
    service.answer_as_joiner(own.clone(), list.to_vec());
    let asking = Asking::new(net, own, list, Purpose::Join(None));
    let mut wiped_since = None;
    loop {
        let mut silent = Vec::new();
        let mut wiped = None;
        let mut is_unknown = false;
        // The nodes on the list may have left the cluster. The member that adds this node has not.
        let mut others: Vec<Listed> = list.iter().cloned().chain(service.admitters()).collect();
        others.retain(|listed| listed.node != own.node);
        others.sort();
        others.dedup();
        for (peer, asked) in asking.round_for(&others, Purpose::Join(service.offer())).await {
            match asked {
                Asked::Answer(Answer::Member(cluster, membership)) => {
                    return Ok(Bootstrapped { cluster, membership });
                }
                Asked::Answer(Answer::Ours(cluster)) => {
                    is_unknown = true;
                    service.confirm(cluster);
                }
                Asked::Nothing(why) => silent.push((peer, why)),
                Asked::Wiped => {
                    let why = "this id is a member there, with another data directory";
                    silent.push((peer.clone(), why.to_owned()));
                    wiped = Some(peer);
                }
                Asked::OtherVersion(_) | Asked::Answer(Answer::Removed) => {
                    return Err(asking.refused(service, peer, asked));
                }
                Asked::Misdirected => silent.push((peer, "another node answers there".to_owned())),
                Asked::Refused | Asked::Answer(_) => {
                    is_unknown = true;
                    silent.push((peer, "this node is no member there yet".to_owned()));
                }
            }
        }
        // A member may not have seen yet that the old directory was removed.
        match wiped.filter(|_| !is_unknown) {
            Some(peer) => {
                let since = *wiped_since.get_or_insert_with(|| net.now());
                if net.now().duration_since(since) >= WIPED_FOR {
                    return Err(asking.refused(service, peer, Asked::Wiped));
                }
            }
            None => wiped_since = None,
        }
        asking.report(&silent, "this node waits until it is added to the cluster");
        net.sleep(ASK_AGAIN).await;
    }
}

/// The cluster's id is a hash (FNV-1a) of the ids and incarnations of its founders, so all founders
/// compute the same one.
fn name(founders: &BTreeMap<NodeId, Founder>) -> ClusterId {
    let mut hash = 0xcbf2_9ce4_8422_2325_u64;
    for founder in founders.values() {
        for byte in [founder.node.0, founder.incarnation.0].iter().flat_map(|n| n.to_le_bytes()) {
            hash = (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3);
        }
    }
    ClusterId(hash)
}
