//! Answers the questions of other nodes: of founders, of nodes that join, and of a member that is
//! about to add this node to its cluster.

use super::question::{Answer, Purpose, Question};
use crate::founders::{Difference, Founder, Listed, Lists, listed};
use crate::hello::{Refusal, open, seal};
use crate::repeats::Repeats;
use driver::report;
use hyper::StatusCode;
use raft::{Membership, NodeId};
use std::collections::{BTreeMap, VecDeque};
use std::sync::{Mutex, MutexGuard, PoisonError};
use storage::ClusterId;

/// The most members that a node remembers of those that were about to add it.
const ADMITTERS_MAX: usize = 8;

/// Answers the bootstrap requests of other nodes. The [`PeerServer`](crate::PeerServer) serves it
/// on the peer port.
#[derive(Debug, Default)]
pub struct BootstrapService(Mutex<State>);

#[derive(Debug, Default)]
struct State {
    own: Option<Own>,
    /// Whether this node's incarnation was sent to a founder.
    has_sent_incarnation: bool,
    /// The lists of the founders whose list differs from this node's. At most one for each entry of
    /// this node's list.
    others: BTreeMap<NodeId, Vec<Listed>>,
    /// The members that were about to add this node, the latest last. At most [`ADMITTERS_MAX`].
    /// Each is of a cluster that this node was told to join.
    admitters: VecDeque<Listed>,
    /// The cluster of the latest member that was about to add this node, and of which it is not
    /// known whether this node was told to join it.
    offer: Option<ClusterId>,
    /// A cluster of which a node on the list of this node says that it is a member.
    confirmed: Option<ClusterId>,
    reported: Repeats,
}

#[derive(Clone, Debug)]
struct Own {
    founder: Founder,
    /// The founders, the members of the cluster, or the nodes that this node was given.
    list: Vec<Listed>,
    stage: Stage,
}

impl Own {
    /// The other nodes on the list.
    fn named(&self) -> impl Iterator<Item = &Listed> {
        self.list.iter().filter(|listed| listed.node != self.founder.node)
    }
}

#[derive(Clone, Debug)]
enum Stage {
    Founds,
    /// Waits to be added to a cluster.
    Waits,
    Belongs(ClusterId, Membership),
}

impl BootstrapService {
    /// A service without an identity. It answers questions with status 503 until
    /// [`BootstrapService::answer_as_founder`] or [`BootstrapService::answer_as_member`] is called.
    pub fn new() -> Self {
        BootstrapService::default()
    }

    /// Starts to answer as a founder of a cluster of all nodes on `list`, which includes this node.
    /// The incarnation in `founder` is durable already (see [`Founder`]).
    pub fn answer_as_founder(&self, founder: Founder, list: Vec<Listed>) {
        self.enter(founder, sorted(list), Stage::Founds);
    }

    /// Starts to answer as a node that waits to be added to a cluster. A member of it may ask for
    /// the identity of this node. The incarnation in `founder` is durable already.
    pub fn answer_as_joiner(&self, founder: Founder, list: Vec<Listed>) {
        self.enter(founder, sorted(list), Stage::Waits);
    }

    /// Starts to answer as a node of `cluster` with this membership. Call it again for each later
    /// membership.
    pub fn answer_as_member(&self, founder: Founder, cluster: ClusterId, membership: Membership) {
        let list = listed(&membership);
        self.enter(founder, list, Stage::Belongs(cluster, membership));
    }

    fn enter(&self, founder: Founder, list: Vec<Listed>, stage: Stage) {
        self.lock().own = Some(Own { founder, list, stage });
    }

    /// The identity of this node, once it has one, its cluster, and the list of its members.
    pub(super) fn own(&self) -> Option<(Founder, Option<ClusterId>, Vec<Listed>)> {
        let own = self.lock().own.clone()?;
        let cluster = match own.stage {
            Stage::Belongs(cluster, _) => Some(cluster),
            Stage::Founds | Stage::Waits => None,
        };
        Some((own.founder, cluster, own.list))
    }

    /// Stops answering as a founder, unless this node's incarnation was sent to one: then this node
    /// may be part of a cluster already. Returns whether it has stopped.
    pub fn withdraw(&self) -> bool {
        let mut state = self.lock();
        if !state.has_sent_incarnation {
            state.own = None;
        }
        !state.has_sent_incarnation
    }

    /// Returns the status and the body of the response to an encoded question.
    pub(crate) fn answer(&self, question: &[u8]) -> (StatusCode, Vec<u8>) {
        let mut state = self.lock();
        let question: Question = match open(question) {
            Ok(question) => question,
            Err(refusal @ (Refusal::NewerVersion { .. } | Refusal::OlderVersion { .. })) => {
                // Anybody can name any version, so a kind has one report.
                let kind = match refusal {
                    Refusal::NewerVersion { .. } => "newer",
                    _ => "older",
                };
                if state.reported.is_news(kind) {
                    report(|| tracing::warn!("refused a founder: {refusal}"));
                }
                return (StatusCode::BAD_REQUEST, refusal.to_string().into());
            }
            // Not a rejection: a founder whose question was damaged on its way asks again.
            Err(_) => return (StatusCode::UNPROCESSABLE_ENTITY, Vec::new()),
        };
        let from = question.from.listed();
        let faulty = question.list.iter().chain([&from]).find_map(|listed| {
            listed.check().err().map(|why| format!("an address of node {} {why}", listed.node))
        });
        if let Some(why) = faulty {
            return (StatusCode::BAD_REQUEST, why.into());
        }
        let Some(own) = state.own.clone() else {
            return (StatusCode::SERVICE_UNAVAILABLE, Vec::new());
        };
        if question.to != own.founder.node {
            return (StatusCode::MISDIRECTED_REQUEST, Vec::new());
        }
        match (question.purpose, &own.stage) {
            (Purpose::Admit(cluster), _) => state.admit(&own, &question, cluster),
            (_, Stage::Belongs(cluster, membership)) => {
                let from = &question.from;
                let known = membership.members.get(&from.node);
                match known {
                    // It was removed before it knew that it was added, and is never added again.
                    None if membership.removed.get(&from.node) == Some(&from.incarnation) => {
                        (StatusCode::FORBIDDEN, seal(&Answer::Removed))
                    }
                    Some(known) if known.incarnation == from.incarnation => {
                        (StatusCode::OK, seal(&Answer::Member(*cluster, membership.clone())))
                    }
                    // The disk was lost, or the id was given to a second node. It joins at any
                    // address, and learns it if it knows this member.
                    Some(_) if own.list.contains(&from.listed()) || joins_here(&question, &own) => {
                        (StatusCode::CONFLICT, Vec::new())
                    }
                    _ if question.purpose == Purpose::Join(Some(*cluster)) => {
                        (StatusCode::OK, seal(&Answer::Ours(*cluster)))
                    }
                    _ => state.refuse(&own, question),
                }
            }
            (Purpose::Join(_), _) | (Purpose::Bootstrap, Stage::Waits) => {
                state.refuse(&own, question)
            }
            (Purpose::Bootstrap, Stage::Founds) if sorted(question.list.clone()) != own.list => {
                state.refuse(&own, question)
            }
            (Purpose::Bootstrap, Stage::Founds) => {
                if !own.list.contains(&question.from.listed()) {
                    return (StatusCode::FORBIDDEN, Vec::new());
                }
                state.has_sent_incarnation = true;
                (StatusCode::OK, seal(&Answer::Founder(own.founder)))
            }
        }
    }

    /// The list that the latest question from this founder had, if it is another one than this
    /// node's. Anybody may have sent it: it is only shown.
    pub(super) fn other_list_of(&self, node: NodeId) -> Option<Vec<Listed>> {
        self.lock().others.get(&node).cloned()
    }

    /// The cluster that is about to add this node, while it is not known whether that is the one of
    /// the nodes on this node's list.
    pub(super) fn offer(&self) -> Option<ClusterId> {
        self.lock().offer
    }

    /// A node on the list of this node says that it is a member of `cluster`.
    pub(super) fn confirm(&self, cluster: ClusterId) {
        let mut state = self.lock();
        state.confirmed = Some(cluster);
        state.offer = state.offer.filter(|offer| *offer != cluster);
    }

    /// The members that have asked for the identity of this node, to add it.
    pub(super) fn admitters(&self) -> Vec<Listed> {
        self.lock().admitters.iter().cloned().collect()
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl State {
    /// Answers a member of `cluster` that is about to add this node. Its question names this node,
    /// then all members.
    fn admit(
        &mut self,
        own: &Own,
        question: &Question,
        cluster: ClusterId,
    ) -> (StatusCode, Vec<u8>) {
        let is_meant = question.list.first() == Some(&own.founder.listed());
        // A node that has joined may have been dropped from the membership before it was a member
        // for good: it is added again.
        let may_be_added = match &own.stage {
            Stage::Waits => true,
            Stage::Belongs(own, _) => *own == cluster,
            Stage::Founds => false,
        };
        if !may_be_added || !is_meant {
            return self.turn_away(own, question);
        }
        if matches!(own.stage, Stage::Waits) && !self.is_told_to_join(own, question, cluster) {
            return self.wait_elsewhere(own, question, cluster);
        }
        let admitter = question.from.listed();
        self.admitters.retain(|known| known.node != admitter.node);
        self.admitters.push_back(admitter);
        if self.admitters.len() > ADMITTERS_MAX {
            self.admitters.pop_front();
        }
        (StatusCode::OK, seal(&Answer::Founder(own.founder.clone())))
    }

    /// Whether a cluster is the one that this node is to join: a node on its list is a member, or
    /// has said so. The list may write its address in another way than the membership does.
    fn is_told_to_join(&self, own: &Own, question: &Question, cluster: ClusterId) -> bool {
        let is_member = |named: &Listed| {
            let mut members = question.list.iter().skip(1);
            members.any(|m| (m.node, &m.peer_address) == (named.node, &named.peer_address))
        };
        self.confirmed == Some(cluster) || own.named().any(is_member)
    }

    /// Rejects a member of a cluster that this node was not told to join, as far as it knows.
    fn wait_elsewhere(
        &mut self,
        own: &Own,
        question: &Question,
        cluster: ClusterId,
    ) -> (StatusCode, Vec<u8>) {
        let named: Vec<Listed> = own.named().cloned().collect();
        self.offer = Some(cluster);
        if self.reported.is_news(&format!("offer of {cluster}")) {
            let admitter = question.from.listed();
            report(|| {
                tracing::warn!(
                    "{admitter} is about to add this node to cluster {cluster}; this node waits to \
                     be added to the cluster of {}, and does not know any of them as a member of \
                     cluster {cluster}. It is not added. If it belongs there, start it with a \
                     member of that cluster on its list",
                    Lists(&named)
                );
            });
        }
        (StatusCode::FORBIDDEN, seal(&Answer::Elsewhere(named)))
    }

    /// Rejects a member that would add this node to its cluster: it means another address, or this
    /// node does not wait.
    fn turn_away(&mut self, own: &Own, question: &Question) -> (StatusCode, Vec<u8>) {
        let meant = Lists(question.list.get(..1).unwrap_or_default()).to_string();
        if self.reported.is_news(&format!("admit {meant}")) {
            let is = own.founder.listed();
            report(|| match own.stage {
                Stage::Waits => {
                    tracing::warn!("a cluster is about to add {meant}, but this node is {is}");
                }
                _ => {
                    tracing::warn!("a cluster is about to add {meant}, which does not wait for it")
                }
            });
        }
        (StatusCode::FORBIDDEN, Vec::new())
    }

    /// Rejects a question: the lists differ, or the sender is not a member. The response contains
    /// the difference only if the sender's list has this node's exact entry.
    fn refuse(&mut self, own: &Own, question: Question) -> (StatusCode, Vec<u8>) {
        let node = question.from.node;
        // Not by their lists, which anybody can vary: a flood of kinds would silence other reports.
        let kind = match own.list.iter().any(|listed| listed.node == node) {
            true => format!("{node} founds with another list"),
            false => "a node that is not on the list".to_owned(),
        };
        let founds = question.purpose == Purpose::Bootstrap;
        if founds && self.reported.is_news(&kind) {
            report(|| {
                tracing::error!(
                    "node {node} founds a cluster with another list of members: it has {}; this \
                     node has {}",
                    Lists(&question.list),
                    Lists(&own.list)
                );
            });
        }
        let is_member = matches!(own.stage, Stage::Belongs(..));
        let names_this_node = question.list.contains(&own.founder.listed());
        let difference = Difference::between(&question.list, &own.list, is_member);
        let is_ours = own.list.iter().any(|listed| listed.node == node);
        if is_ours && founds && !is_member && node != own.founder.node {
            self.others.insert(node, question.list);
        }
        match names_this_node {
            true => (StatusCode::FORBIDDEN, seal(&Answer::Other(difference))),
            false => (StatusCode::FORBIDDEN, Vec::new()),
        }
    }
}

/// Whether the sender waits to be added, and its list has this node's exact entry.
fn joins_here(question: &Question, own: &Own) -> bool {
    matches!(question.purpose, Purpose::Join(_)) && question.list.contains(&own.founder.listed())
}

fn sorted(mut list: Vec<Listed>) -> Vec<Listed> {
    list.sort();
    list
}

#[cfg(test)]
mod tests {
    use super::*;
    use Purpose::{Admit, Bootstrap, Join};
    use raft::{Incarnation, Member};

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
        service: &BootstrapService,
        from: Founder,
        nodes: &[u64],
        purpose: Purpose,
    ) -> (u16, Option<Answer>) {
        let question = Question { from, to: NodeId(0), list: list(nodes), purpose };
        let (status, body) = service.answer(&seal(&question));
        (status.as_u16(), open(&body).ok())
    }

    fn founding(nodes: &[u64]) -> BootstrapService {
        let service = BootstrapService::new();
        service.answer_as_founder(founder(0), list(nodes));
        service
    }

    #[test]
    fn a_founder_with_the_same_list_is_answered_whatever_its_order() {
        let service = founding(&[0, 1, 2]);
        assert!(!service.lock().has_sent_incarnation);
        let answer = asked(&service, founder(1), &[2, 1, 0], Bootstrap);
        assert_eq!(answer, (200, Some(Answer::Founder(founder(0)))));
        assert!(service.lock().has_sent_incarnation);
    }

    #[test]
    fn a_founder_that_has_withdrawn_gives_its_incarnation_to_nobody() {
        let service = founding(&[0, 1]);
        assert!(service.withdraw());
        assert_eq!(asked(&service, founder(1), &[0, 1], Bootstrap), (503, None));
        let service = founding(&[0, 1]);
        let given = asked(&service, founder(1), &[0, 1], Bootstrap);
        assert!(!service.withdraw(), "a founder counts on it");
        assert_eq!(asked(&service, founder(1), &[0, 1], Bootstrap), given);
    }

    #[test]
    fn nobody_else_is_told_anything() {
        let service = founding(&[0, 1, 2]);
        // Senders that are not on the list, lists without this node's entry, and an empty list.
        for (from, nodes) in [(9, &[0, 1, 2][..]), (9, &[9]), (1, &[1, 2]), (2, &[])] {
            let (status, answer) = asked(&service, founder(from), nodes, Bootstrap);
            assert_eq!((status, answer), (403, None), "{from} {nodes:?}");
        }
        let elsewhere = Founder { peer_address: "evil:9080".to_owned(), ..founder(1) };
        assert_eq!(asked(&service, elsewhere, &[0, 1, 2], Bootstrap), (403, None));
        for junk in [&b""[..], b"hello", b"raft", b"raft\x07\x00"] {
            assert_eq!(service.answer(junk), (StatusCode::UNPROCESSABLE_ENTITY, Vec::new()));
        }
        assert!(!service.lock().has_sent_incarnation);
    }

    #[test]
    fn a_founder_that_knows_this_one_learns_which_of_its_entries_are_right() {
        let service = founding(&[0, 1]);
        let (status, answer) = asked(&service, founder(2), &[0, 1, 2], Bootstrap);
        let Some(Answer::Other(difference)) = answer else { panic!("{answer:?}") };
        assert_eq!(status, 403);
        let text = difference.describe(&list(&[0, 1, 2]));
        assert!(text.contains("0=client0:8080/peer0:9080,1=client1:8080/peer1:9080"), "{text}");
        assert!(text.contains("but not 2=client2:8080/peer2:9080"), "{text}");
        assert_eq!(service.other_list_of(NodeId(2)), None, "it is no founder here");
    }

    #[test]
    fn a_founder_that_has_another_list_is_remembered_with_it() {
        let service = founding(&[0, 1, 2]);
        asked(&service, founder(1), &[1], Bootstrap);
        assert_eq!(service.other_list_of(NodeId(1)), Some(list(&[1])));
    }

    #[test]
    fn a_member_tells_its_cluster_to_members_only() {
        let service = BootstrapService::new();
        let members: BTreeMap<NodeId, Founder> =
            [0, 1].map(|node| (NodeId(node), founder(node))).into();
        let cluster = ClusterId(7);
        let member = |founder: Founder| Member {
            incarnation: founder.incarnation,
            peer_address: founder.peer_address,
            client_address: founder.client_address,
        };
        let members = members.into_iter().map(|(node, founder)| (node, member(founder)));
        service.answer_as_member(founder(0), cluster, Membership::of_voters(members.collect()));
        let (status, answer) = asked(&service, founder(1), &[0, 1], Bootstrap);
        assert!(status == 200 && matches!(answer, Some(Answer::Member(_, _))));
        let wiped = Founder { incarnation: Incarnation(1), ..founder(1) };
        assert_eq!(asked(&service, wiped.clone(), &[0, 1], Bootstrap), (409, None));
        let (status, answer) = asked(&service, founder(2), &[0, 1, 2], Bootstrap);
        assert!(status == 403 && matches!(answer, Some(Answer::Other(_))), "{answer:?}");
        assert_eq!(asked(&service, founder(2), &[2], Join(None)), (403, None), "not added yet");
        assert_eq!(asked(&service, wiped.clone(), &[0, 1], Join(None)), (409, None));
        let moved = Founder { peer_address: "new:9080".to_owned(), ..wiped };
        assert_eq!(asked(&service, moved.clone(), &[0, 1], Join(None)), (409, None));
        assert_eq!(asked(&service, moved.clone(), &[1], Join(None)), (403, None), "a stranger");
        let (status, answer) = asked(&service, moved, &[0, 1], Bootstrap);
        assert!(status == 403 && matches!(answer, Some(Answer::Other(_))), "{answer:?}");
    }

    #[test]
    fn a_node_that_was_removed_before_it_joined_is_told_so() {
        let service = BootstrapService::new();
        let mut membership = Membership::default();
        membership.removed.insert(NodeId(1), Incarnation(101));
        service.answer_as_member(founder(0), ClusterId(7), membership);
        for purpose in [Join(None), Join(Some(ClusterId(7))), Bootstrap] {
            let answer = asked(&service, founder(1), &[0, 1], purpose);
            assert_eq!(answer, (403, Some(Answer::Removed)));
        }
        let with_a_new_directory = Founder { incarnation: Incarnation(5), ..founder(1) };
        let (status, answer) = asked(&service, with_a_new_directory, &[0, 1], Join(None));
        assert!(status == 403 && matches!(answer, Some(Answer::Other(_))), "{answer:?}");
    }

    #[test]
    fn a_node_that_waits_tells_its_identity_to_a_member_that_names_it_exactly() {
        let service = BootstrapService::new();
        service.answer_as_joiner(founder(0), list(&[0, 1]));
        let admits = Admit(ClusterId(7));
        let answer = asked(&service, founder(1), &[0, 1], admits);
        assert_eq!(answer, (200, Some(Answer::Founder(founder(0)))));
        assert_eq!(asked(&service, founder(1), &[1], admits), (403, None), "another address");
        assert_eq!(asked(&service, founder(1), &[0, 1], Bootstrap).0, 403);
        assert_eq!(asked(&service, founder(1), &[0, 1], Join(None)).0, 403, "both wait");
        assert!(!service.lock().has_sent_incarnation);

        service.answer_as_member(founder(0), ClusterId(7), Membership::default());
        let answer = asked(&service, founder(1), &[0], admits);
        assert_eq!(answer, (200, Some(Answer::Founder(founder(0)))), "it was never a member");
        let others = Admit(ClusterId(8));
        assert_eq!(asked(&service, founder(1), &[0], others), (403, None), "of another cluster");
    }

    #[test]
    fn a_node_that_waits_is_added_only_to_the_cluster_of_the_nodes_that_it_names() {
        let service = BootstrapService::new();
        service.answer_as_joiner(founder(0), list(&[0, 1]));
        let (other, named) = (ClusterId(8), || Some(Answer::Elsewhere(list(&[1]))));
        // Nodes 5 and 6 are the members of another cluster.
        assert_eq!(asked(&service, founder(5), &[0, 5, 6], Admit(other)), (403, named()));
        assert_eq!(service.admitters(), [], "it is not asked for its membership");
        assert_eq!(service.offer(), Some(other), "it may be theirs under other addresses");
        // A member of that name lives elsewhere.
        let elsewhere = Listed { peer_address: "far:9080".to_owned(), ..founder(1).listed() };
        let question = Question {
            from: founder(5),
            to: NodeId(0),
            list: vec![founder(0).listed(), elsewhere],
            purpose: Admit(other),
        };
        assert_eq!(open(&service.answer(&seal(&question)).1).ok(), named());
        service.confirm(ClusterId(7));
        assert_eq!(asked(&service, founder(5), &[0, 5, 6], Admit(other)), (403, named()));
        // Node 1 is a member of it and has said so.
        service.confirm(other);
        assert_eq!(service.offer(), None);
        let answer = asked(&service, founder(5), &[0, 5, 6], Admit(other));
        assert_eq!(answer, (200, Some(Answer::Founder(founder(0)))));
        assert_eq!(service.admitters(), list(&[5]));
    }

    #[test]
    fn a_member_says_whether_a_cluster_is_its_own_and_does_not_name_it() {
        let service = BootstrapService::new();
        service.answer_as_member(founder(0), ClusterId(7), Membership::default());
        let ours = asked(&service, founder(1), &[1], Join(Some(ClusterId(7))));
        assert_eq!(ours, (200, Some(Answer::Ours(ClusterId(7)))));
        assert_eq!(asked(&service, founder(1), &[1], Join(Some(ClusterId(8)))), (403, None));
    }

    #[test]
    fn an_address_that_could_not_be_printed_is_refused_with_the_reason() {
        let service = BootstrapService::new();
        service.answer_as_joiner(founder(0), list(&[0, 1]));
        let ask = |from: Founder, list: Vec<Listed>| {
            let purpose = Admit(ClusterId(7));
            let (status, body) =
                service.answer(&seal(&Question { from, to: NodeId(0), list, purpose }));
            (status.as_u16(), String::from_utf8(body).unwrap_or_default())
        };
        let long = Founder { peer_address: format!("{}:80", "a".repeat(300)), ..founder(1) };
        let escapes = Founder { client_address: "a\x1b[2J:80".to_owned(), ..founder(1) };
        for (given, why) in [(long, "at most 261"), (escapes, "contains '\\u{1b}'")] {
            for (from, list) in [
                (given.clone(), list(&[0, 1])),
                (founder(1), vec![founder(0).listed(), given.listed()]),
            ] {
                let (status, text) = ask(from, list);
                assert_eq!(status, 400);
                assert!(text.starts_with("an address of node 1 ") && text.contains(why), "{text}");
            }
        }
        assert_eq!(ask(founder(1), list(&[0, 1])).0, 200);
    }

    #[test]
    fn a_flipped_bit_in_a_question_is_refused() {
        let service = founding(&[0, 1]);
        let question =
            Question { from: founder(1), to: NodeId(0), list: list(&[0, 1]), purpose: Bootstrap };
        let intact = seal(&question);
        for at in 0..intact.len() {
            let mut bytes = intact.clone();
            bytes[at] ^= 0x10;
            assert_ne!(service.answer(&bytes).0, StatusCode::OK, "byte {at}");
        }
        assert_eq!(service.answer(&intact).0, StatusCode::OK);
    }
}
