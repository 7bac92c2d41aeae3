//! Bootstraps a cluster: its founders exchange their identities until each of them knows all
//! others.
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

use crate::dial::Names;
use crate::founders::{Difference, Founder, Listed, Lists, listed};
use crate::hello::{Refusal, open, seal};
use crate::net::{Net, TokioNet};
use crate::repeats::Repeats;
use crate::server::post;
use bytes::Bytes;
use driver::report;
use futures_util::future::join_all;
use hyper::StatusCode;
use raft::{Member, Membership, NodeId};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};
use storage::ClusterId;

/// The pause between two rounds of questions to the founders that have not answered.
const ASK_AGAIN: Duration = Duration::from_millis(50);
/// How long to wait for a question from a founder that has rejected this node. The question carries
/// that founder's list, which the error message then shows.
const SHOWN_WITHIN: Duration = Duration::from_secs(1);
/// Missing founders are reported once this much time has passed since the first question.
const PATIENCE: Duration = Duration::from_secs(5);

/// The request of a founder, or of a node that waits to join a cluster.
#[derive(Clone, Debug, Serialize, Deserialize)]
struct Question {
    from: Founder,
    to: NodeId,
    /// The list of founders that the sender was given.
    list: Vec<Listed>,
    /// Whether the sender joins an existing cluster instead of bootstrapping one.
    joins: bool,
}

/// The response to a [`Question`].
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
enum Answer {
    /// The responder bootstraps, too: its identity.
    Founder(Founder),
    /// The responder belongs to a cluster of which the sender is a member. The membership is empty
    /// for a node that joins and whose incarnation is not in it yet.
    Member(ClusterId, Membership),
    /// The responder has another list of founders, or is in a cluster with other members.
    Other(Difference),
}

/// Answers the bootstrap requests of other nodes. The [`PeerServer`](crate::PeerServer) serves it
/// on the peer port.
#[derive(Debug, Default)]
pub struct BootstrapService(Mutex<State>);

#[derive(Debug, Default)]
struct State {
    own: Option<Own>,
    /// Whether this node's incarnation was sent to a founder.
    has_told: bool,
    /// The lists of the founders whose list differs from this node's. At most one for each entry of
    /// this node's list.
    others: BTreeMap<NodeId, Vec<Listed>>,
    reported: Repeats,
}

#[derive(Clone, Debug)]
struct Own {
    founder: Founder,
    list: Vec<Listed>,
    cluster: Option<(ClusterId, Membership)>,
}

impl BootstrapService {
    /// A desk without an identity. It answers questions with status 503 until
    /// [`BootstrapService::sit`] or [`BootstrapService::belong`] is called.
    pub fn new() -> Self {
        BootstrapService::default()
    }

    /// Starts to answer as a founder of a cluster of all nodes on `list`, which includes this node.
    /// The incarnation in `founder` is durable already (see [`Founder`]).
    pub fn sit(&self, founder: Founder, list: Vec<Listed>) {
        self.lock().own = Some(Own { founder, list: sorted(list), cluster: None });
    }

    /// Starts to answer as a member of `cluster` with this membership.
    pub fn belong(&self, founder: Founder, cluster: ClusterId, membership: Membership) {
        let list = listed(&membership);
        self.lock().own = Some(Own { founder, list, cluster: Some((cluster, membership)) });
    }

    /// Whether this node's incarnation was sent to a founder. If so, this node may be part of a
    /// cluster already.
    pub fn has_told(&self) -> bool {
        self.lock().has_told
    }

    /// Returns the status and the body of the response to an encoded question.
    pub(crate) fn answer(&self, question: &[u8]) -> (StatusCode, Vec<u8>) {
        let mut state = self.lock();
        let question: Question = match open(question) {
            Ok(question) => question,
            Err(refusal @ (Refusal::NewerVersion { .. } | Refusal::OlderVersion { .. })) => {
                if state.reported.is_news(&refusal.to_string()) {
                    report(|| tracing::warn!("refused a founder: {refusal}"));
                }
                return (StatusCode::BAD_REQUEST, refusal.to_string().into());
            }
            Err(_) => return (StatusCode::FORBIDDEN, Vec::new()),
        };
        if !question.list.iter().all(Listed::is_plain) || !question.from.listed().is_plain() {
            return (StatusCode::BAD_REQUEST, b"an address is too long or no plain text".to_vec());
        }
        let Some(own) = state.own.clone() else {
            return (StatusCode::SERVICE_UNAVAILABLE, Vec::new());
        };
        if question.to != own.founder.node {
            return (StatusCode::MISDIRECTED_REQUEST, Vec::new());
        }
        let from = &question.from;
        if let Some((cluster, membership)) = &own.cluster {
            let known = membership.members.get(&from.node);
            let is_listed = known.is_some() && own.list.contains(&from.listed());
            return match known {
                Some(known) if known.incarnation == from.incarnation => {
                    (StatusCode::OK, seal(&Answer::Member(*cluster, membership.clone())))
                }
                // It learns the id of its cluster, but not the incarnations of the other members.
                Some(_) if is_listed && question.joins => {
                    (StatusCode::OK, seal(&Answer::Member(*cluster, Membership::default())))
                }
                Some(_) if is_listed => (StatusCode::CONFLICT, Vec::new()),
                _ => state.refuse(&own, question),
            };
        }
        if question.joins || sorted(question.list.clone()) != own.list {
            return state.refuse(&own, question);
        }
        if !own.list.contains(&from.listed()) {
            return (StatusCode::FORBIDDEN, Vec::new());
        }
        state.has_told = true;
        (StatusCode::OK, seal(&Answer::Founder(own.founder)))
    }

    /// A founder with another list than this node, and that list.
    fn other_list(&self) -> Option<(NodeId, Vec<Listed>)> {
        self.lock().others.first_key_value().map(|(node, list)| (*node, list.clone()))
    }

    fn other_list_of(&self, node: NodeId) -> Option<Vec<Listed>> {
        self.lock().others.get(&node).cloned()
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl State {
    /// Rejects a question: the lists differ, or the sender is not a member. The response contains
    /// the difference only if the sender's list has this node's exact entry.
    fn refuse(&mut self, own: &Own, question: Question) -> (StatusCode, Vec<u8>) {
        let node = question.from.node;
        let kind = match own.list.iter().any(|listed| listed.node == node) {
            true => format!("{node} {}", Lists(&question.list)),
            false => "a node that is not on the list".to_owned(),
        };
        if !question.joins && self.reported.is_news(&kind) {
            report(|| {
                tracing::error!(
                    "node {node} founds a cluster with other --peers than this node's: it has {}; \
                     this node has {}",
                    Lists(&question.list),
                    Lists(&own.list)
                );
            });
        }
        let names_this_node = question.list.contains(&own.founder.listed());
        let difference = Difference::between(&question.list, &own.list, own.cluster.is_some());
        let is_ours = own.list.iter().any(|listed| listed.node == node);
        if is_ours && !question.joins && own.cluster.is_none() && node != own.founder.node {
            self.others.insert(node, question.list);
        }
        match names_this_node {
            true => (StatusCode::FORBIDDEN, seal(&Answer::Other(difference))),
            false => (StatusCode::FORBIDDEN, Vec::new()),
        }
    }
}

fn sorted(mut list: Vec<Listed>) -> Vec<Listed> {
    list.sort();
    list
}

/// A cluster that was bootstrapped.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Bootstrapped {
    /// Its id, derived from the ids and incarnations of the founders.
    pub cluster: ClusterId,
    /// Its membership: all founders as voters, or what a peer reports that is a member already.
    pub membership: Membership,
}

/// Why a cluster could not be bootstrapped.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum BootstrapError {
    /// A peer knows this node with another incarnation: its disk was wiped, or this is the wrong
    /// directory.
    #[error(
        "this data directory is empty, but node {node} is already a member of a cluster, as node \
         {peer} at {peer_address} knows: its disk was wiped, or this is the wrong directory. \
         If it is the wrong directory, name the right one. Never put an older copy in its place: \
         what it acknowledged since would be lost. If the disk was wiped, this member is lost: the \
         cluster goes on while a majority of the members is up. This version cannot remove node {node} \
         and add it again, started with --join: that is being built"
    )]
    Wiped {
        /// This node.
        node: NodeId,
        /// The peer that knows the other incarnation.
        peer: NodeId,
        /// The `host:port` of that peer.
        peer_address: String,
    },
    /// A peer belongs to a cluster of which this node is not a member.
    #[error(
        "node {peer} at {peer_address} belongs to a cluster of which node {node} is no member: this \
         node has --peers {ours}; the members are {theirs}. Add this node there, started with --join \
         instead of --bootstrap"
    )]
    Stranger {
        /// This node.
        node: NodeId,
        /// The peer that belongs to that cluster.
        peer: NodeId,
        /// The `host:port` of that peer.
        peer_address: String,
        /// This node's list of founders, in the format of `--peers`.
        ours: String,
        /// The members, as far as the peer discloses them.
        theirs: String,
    },
    /// The founders were given different lists.
    #[error(
        "node {peer} at {peer_address} has other --peers than this node: this node has {ours}; node \
         {peer} has {theirs}. Give all founders the same --peers"
    )]
    OtherList {
        /// The founder with the other list.
        peer: NodeId,
        /// The `host:port` of that peer.
        peer_address: String,
        /// This node's list of founders, in the format of `--peers`.
        ours: String,
        /// The other list, as far as the peer discloses it.
        theirs: String,
    },
    /// A peer rejects this node without details, usually because this node's list has another
    /// address for that peer.
    #[error(
        "node {peer} at {peer_address} does not know this node as a founder: this node has --peers \
         {ours}; the log of node {peer} shows both lists. Give all founders the same --peers"
    )]
    NotAFounder {
        /// The peer that rejects this node.
        peer: NodeId,
        /// The `host:port` of that peer.
        peer_address: String,
        /// This node's list of founders, in the format of `--peers`.
        ours: String,
    },
    /// Another node answers where a peer should be.
    #[error("another node than {peer} answers at {peer_address}; check --peers")]
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

/// Bootstraps a cluster: asks all founders for their identity until all have answered. `list`
/// contains all founders, `own` included; `desk` answers the founders that ask this node. If a
/// founder is a member of a cluster already, returns that cluster. Waits without a limit: only a
/// rejection, or a founder with another list, ends it with an error.
pub async fn bootstrap(
    desk: &BootstrapService,
    own: &Founder,
    list: &[Listed],
) -> Result<Bootstrapped, BootstrapError> {
    bootstrap_on(&TokioNet::current(), desk, own, list).await
}

/// Like [`bootstrap`], with a given [`Net`].
pub async fn bootstrap_on<N: Net>(
    net: &N,
    desk: &BootstrapService,
    own: &Founder,
    list: &[Listed],
) -> Result<Bootstrapped, BootstrapError> {
    let asking = Asking::new(net, own, list, false);
    let mut founders = BTreeMap::from([(own.node, own.clone())]);
    loop {
        let missing = list.iter().filter(|listed| !founders.contains_key(&listed.node));
        let missing: Vec<Listed> = missing.cloned().collect();
        let mut silent = Vec::new();
        for (peer, asked) in asking.round(&missing).await {
            match asked {
                Asked::Answer(Answer::Founder(founder)) if founder.listed() == peer => {
                    founders.insert(peer.node, founder);
                }
                Asked::Answer(Answer::Member(cluster, membership)) => {
                    return Ok(Bootstrapped { cluster, membership });
                }
                Asked::Nothing(why) => silent.push((peer, why)),
                asked => {
                    wait_for_list(net, desk, &peer, &asked).await;
                    return Err(asking.refused(desk, peer, asked));
                }
            }
        }
        if founders.len() == list.len() {
            break;
        }
        // A founder with another list has sent a question: a cluster with it is impossible.
        if let Some((node, theirs)) = desk.other_list() {
            return Err(asking.other_list(node, Lists(&theirs).to_string()));
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
/// both founders can report both lists, whichever of them started first.
async fn wait_for_list<N: Net>(net: &N, desk: &BootstrapService, peer: &Listed, asked: &Asked) {
    let shows = match asked {
        Asked::Answer(Answer::Other(difference)) => !difference.of_members(),
        _ => false,
    };
    let until = net.now() + SHOWN_WITHIN;
    while shows && desk.other_list_of(peer.node).is_none() && net.now() < until {
        net.sleep(ASK_AGAIN).await;
    }
}

/// Returns the cluster of the nodes on `list`, for a node that joins it. Waits without a limit
/// until this node was added to the cluster and one of those nodes reports it.
pub async fn cluster_of(own: &Founder, list: &[Listed]) -> ClusterId {
    cluster_of_on(&TokioNet::current(), own, list).await
}

/// Like [`cluster_of`], with a given [`Net`].
pub async fn cluster_of_on<N: Net>(net: &N, own: &Founder, list: &[Listed]) -> ClusterId {
    let asking = Asking::new(net, own, list, true);
    let others: Vec<Listed> =
        list.iter().filter(|listed| listed.node != own.node).cloned().collect();
    loop {
        let mut silent = Vec::new();
        for (peer, asked) in asking.round(&others).await {
            match asked {
                Asked::Answer(Answer::Member(cluster, _)) => return cluster,
                Asked::Nothing(why) => silent.push((peer, why)),
                _ => silent.push((peer, "this node is not a member there yet".to_owned())),
            }
        }
        asking.report(&silent, "a member must know this node");
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

/// The outcome of a question.
#[derive(Debug)]
enum Asked {
    Answer(Answer),
    Refused,
    Wiped,
    Misdirected,
    OtherVersion(String),
    /// No usable answer yet, and why.
    Nothing(String),
}

/// Sends questions to founders, one round after the other.
struct Asking<'a, N> {
    own: &'a Founder,
    list: &'a [Listed],
    joins: bool,
    names: Names<N>,
    begun: Instant,
    reported: Mutex<Repeats>,
}

impl<'a, N: Net> Asking<'a, N> {
    fn new(net: &N, own: &'a Founder, list: &'a [Listed], joins: bool) -> Self {
        let (names, begun) = (Names::new(net.clone()), net.now());
        Asking { own, list, joins, names, begun, reported: Mutex::default() }
    }

    /// Sends a question to each of `peers`, all at the same time.
    async fn round(&self, peers: &[Listed]) -> Vec<(Listed, Asked)> {
        let ask = async |peer: Listed| {
            let question = Question {
                from: self.own.clone(),
                to: peer.node,
                list: self.list.to_vec(),
                joins: self.joins,
            };
            let asked = ask(&self.names, &peer.peer_address, &question).await;
            (peer, asked)
        };
        let mut asked = join_all(peers.iter().cloned().map(ask)).await;
        asked.sort_by(|(a, _), (b, _)| a.cmp(b));
        asked
    }

    fn refused(&self, desk: &BootstrapService, peer: Listed, asked: Asked) -> BootstrapError {
        let ours = Lists(self.list).to_string();
        let (node, Listed { node: peer, peer_address, .. }) = (self.own.node, peer);
        match asked {
            Asked::Wiped => BootstrapError::Wiped { node, peer, peer_address },
            Asked::OtherVersion(why) => BootstrapError::OtherVersion { peer, peer_address, why },
            Asked::Answer(Answer::Other(difference)) => {
                let theirs = match desk.other_list_of(peer) {
                    Some(list) => Lists(&list).to_string(),
                    None => difference.describe(self.list),
                };
                match difference.of_members() {
                    true => BootstrapError::Stranger { node, peer, peer_address, ours, theirs },
                    false => BootstrapError::OtherList { peer, peer_address, ours, theirs },
                }
            }
            Asked::Refused => match desk.other_list_of(peer) {
                Some(list) => self.other_list(peer, Lists(&list).to_string()),
                None => BootstrapError::NotAFounder { peer, peer_address, ours },
            },
            Asked::Misdirected | Asked::Answer(_) | Asked::Nothing(_) => {
                BootstrapError::WrongNode { peer, peer_address }
            }
        }
    }

    fn other_list(&self, peer: NodeId, theirs: String) -> BootstrapError {
        let listed = self.list.iter().find(|listed| listed.node == peer);
        let peer_address = listed.map(|listed| listed.peer_address.clone()).unwrap_or_default();
        BootstrapError::OtherList { peer, peer_address, ours: Lists(self.list).to_string(), theirs }
    }

    /// Logs which peers have not answered: first after [`PATIENCE`], then when the list or a reason
    /// changes.
    fn report(&self, silent: &[(Listed, String)], why: &str) {
        if self.names.net().now().duration_since(self.begun) < PATIENCE || silent.is_empty() {
            return;
        }
        let text: Vec<String> = (silent.iter())
            .map(|(peer, why)| format!("node {} at {} ({why})", peer.node, peer.peer_address))
            .collect();
        let text = text.join(", ");
        if self.reported.lock().unwrap_or_else(PoisonError::into_inner).is_news(&text) {
            report(|| tracing::warn!("waiting for {text}; {why}"));
        }
    }
}

async fn ask<N: Net>(names: &Names<N>, peer_address: &str, question: &Question) -> Asked {
    let question = Bytes::from(seal(question));
    let (status, body) = match post(names, peer_address, "/raft/v1/bootstrap", question).await {
        Ok(answered) => answered,
        Err(why) => return Asked::Nothing(why),
    };
    match (status, open::<Answer>(&body)) {
        (StatusCode::OK | StatusCode::FORBIDDEN, Ok(answer)) => Asked::Answer(answer),
        (StatusCode::FORBIDDEN, Err(_)) => Asked::Refused,
        (StatusCode::CONFLICT, _) => Asked::Wiped,
        (StatusCode::MISDIRECTED_REQUEST, _) => Asked::Misdirected,
        (StatusCode::BAD_REQUEST, _) => {
            Asked::OtherVersion(String::from_utf8_lossy(&body).into_owned())
        }
        (StatusCode::SERVICE_UNAVAILABLE, _) => Asked::Nothing("it is starting".to_owned()),
        (
            StatusCode::OK,
            Err(refusal @ (Refusal::NewerVersion { .. } | Refusal::OlderVersion { .. })),
        ) => Asked::OtherVersion(refusal.to_string()),
        (status, _) => Asked::Nothing(format!("it answers with {status}, as no raft-kv node does")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use raft::Incarnation;

    fn founder(node: u64) -> Founder {
        Founder {
            node: NodeId(node),
            incarnation: Incarnation(100 + node),
            peer_address: format!("peer{node}:9080"),
            client_address: format!("client{node}:8080"),
        }
    }

    fn list(nodes: &[u64]) -> Vec<Listed> {
        nodes.iter().map(|node| founder(*node).listed()).collect()
    }

    fn asked(
        desk: &BootstrapService,
        from: Founder,
        nodes: &[u64],
        joins: bool,
    ) -> (u16, Option<Answer>) {
        let question = Question { from, to: NodeId(0), list: list(nodes), joins };
        let (status, body) = desk.answer(&seal(&question));
        (status.as_u16(), open(&body).ok())
    }

    fn sitting(nodes: &[u64]) -> BootstrapService {
        let desk = BootstrapService::new();
        desk.sit(founder(0), list(nodes));
        desk
    }

    #[test]
    fn a_founder_with_the_same_list_is_answered_whatever_its_order() {
        let desk = sitting(&[0, 1, 2]);
        assert!(!desk.has_told());
        let answer = asked(&desk, founder(1), &[2, 1, 0], false);
        assert_eq!(answer, (200, Some(Answer::Founder(founder(0)))));
        assert!(desk.has_told());
    }

    #[test]
    fn nobody_else_is_told_anything() {
        let desk = sitting(&[0, 1, 2]);
        // Senders that are not on the list, lists without this node's entry, and an empty list.
        for (from, nodes) in [(9, &[0, 1, 2][..]), (9, &[9]), (1, &[1, 2]), (2, &[])] {
            let (status, answer) = asked(&desk, founder(from), nodes, false);
            assert_eq!((status, answer), (403, None), "{from} {nodes:?}");
        }
        let elsewhere = Founder { peer_address: "evil:9080".to_owned(), ..founder(1) };
        assert_eq!(asked(&desk, elsewhere, &[0, 1, 2], false), (403, None));
        for junk in [&b""[..], b"hello", b"raft", b"raft\x02\x00"] {
            assert_eq!(desk.answer(junk), (StatusCode::FORBIDDEN, Vec::new()));
        }
        assert!(!desk.has_told());
    }

    #[test]
    fn a_founder_that_knows_this_one_learns_which_of_its_entries_are_right() {
        let desk = sitting(&[0, 1]);
        let (status, answer) = asked(&desk, founder(2), &[0, 1, 2], false);
        let Some(Answer::Other(difference)) = answer else { panic!("{answer:?}") };
        assert_eq!(status, 403);
        let text = difference.describe(&list(&[0, 1, 2]));
        assert!(text.contains("0=client0:8080/peer0:9080,1=client1:8080/peer1:9080"), "{text}");
        assert!(text.contains("but not 2=client2:8080/peer2:9080"), "{text}");
        assert_eq!(desk.other_list(), None, "it is no founder here");
    }

    #[test]
    fn a_founder_that_has_another_list_is_remembered_with_it() {
        let desk = sitting(&[0, 1, 2]);
        asked(&desk, founder(1), &[1], false);
        assert_eq!(desk.other_list(), Some((NodeId(1), list(&[1]))));
    }

    #[test]
    fn a_member_tells_its_cluster_to_members_only() {
        let desk = BootstrapService::new();
        let members: BTreeMap<NodeId, Founder> =
            [0, 1].map(|node| (NodeId(node), founder(node))).into();
        let cluster = name(&members);
        let member = |founder: Founder| Member {
            incarnation: founder.incarnation,
            peer_address: founder.peer_address,
            client_address: founder.client_address,
        };
        let members = members.into_iter().map(|(node, founder)| (node, member(founder)));
        desk.belong(founder(0), cluster, Membership::of_voters(members.collect()));
        let (status, answer) = asked(&desk, founder(1), &[0, 1], false);
        assert!(status == 200 && matches!(answer, Some(Answer::Member(_, _))));
        let wiped = Founder { incarnation: Incarnation(1), ..founder(1) };
        assert_eq!(asked(&desk, wiped, &[0, 1], false), (409, None));
        let (status, answer) = asked(&desk, founder(2), &[0, 1, 2], false);
        assert!(status == 403 && matches!(answer, Some(Answer::Other(_))), "{answer:?}");
        assert_eq!(asked(&desk, founder(2), &[2], true), (403, None), "not added yet");
    }

    #[test]
    fn a_flipped_bit_in_a_question_is_refused() {
        let desk = sitting(&[0, 1]);
        let question =
            Question { from: founder(1), to: NodeId(0), list: list(&[0, 1]), joins: false };
        let intact = seal(&question);
        for at in 0..intact.len() {
            let mut bytes = intact.clone();
            bytes[at] ^= 0x10;
            assert_ne!(desk.answer(&bytes).0, StatusCode::OK, "byte {at}");
        }
        assert_eq!(desk.answer(&intact).0, StatusCode::OK);
    }
}
