//! A snapshot that is received has a work order, and its receipt counts at the start that made it.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use raft::{
    Body, Config, Incarnation, LogId, Member, Membership, Message, NodeId, Now, RawNode, Restored,
    Snapshot, SnapshotOffer, Term,
};

const NODE: NodeId = NodeId(1);
const LEADER: NodeId = NodeId(2);

fn membership() -> Membership {
    let member = |id| Member {
        incarnation: Incarnation(id),
        peer_address: String::new(),
        client_address: String::new(),
    };
    Membership::of_voters((1..=3).map(|id| (NodeId(id), member(id))).collect())
}

fn start(start_nonce: u64) -> RawNode {
    let config = Config::new(NODE, Incarnation(1), start_nonce);
    RawNode::new(config, Restored::initial(Snapshot::initial(membership()))).unwrap()
}

fn offer(term: u64) -> SnapshotOffer {
    SnapshotOffer {
        from: LEADER,
        to: NODE,
        term: Term(term),
        incarnation: Incarnation(2),
        snapshot: Snapshot { last: LogId::new(10, 2), ..Snapshot::initial(membership()) },
    }
}

#[test]
fn a_snapshot_received_for_an_earlier_start_is_not_installed() {
    let order = start(1).accept(offer(2)).expect("it is needed");
    let mut node = start(2);
    node.install(Now::default(), order.durable());
    assert_eq!(node.status().commit, raft::Index(0));
    assert_eq!(node.status().counters.stale_receipts, 1);
    let order = node.accept(offer(2)).expect("it is needed");
    node.install(Now::default(), order.durable());
    assert_eq!(node.status().commit, raft::Index(10));
    assert_eq!(node.status().counters.stale_receipts, 1);
}

#[test]
fn an_offer_that_no_leader_made_to_this_node_gives_no_order_and_is_counted() {
    let mut node = start(1);
    assert!(node.accept(SnapshotOffer { to: NodeId(3), ..offer(2) }).is_none());
    assert!(node.accept(SnapshotOffer { from: NODE, ..offer(2) }).is_none());
    assert_eq!(node.status().counters.misaddressed, 2);
    // The snapshot is of a later term than its leader; the term leaps.
    assert!(node.accept(offer(1)).is_none());
    assert!(node.accept(offer(1 << 40)).is_none());
    assert_eq!(node.status().counters.invalid_messages, 2);
}

#[test]
fn a_term_has_one_leader_that_offers_snapshots() {
    let mut node = start(1);
    let (leader, other) =
        (offer(2).from, SnapshotOffer { from: NodeId(3), incarnation: Incarnation(3), ..offer(2) });
    assert_ne!(leader, other.from);
    assert!(node.accept(other.clone()).is_some(), "it may lead, as far as this node knows");
    let body = Body::Append {
        prev: LogId::ZERO,
        entries: Vec::new().into(),
        commit: raft::Index(0),
        round: raft::Round(1),
        time: raft::LogTime(0),
    };
    let incarnation = offer(2).incarnation;
    let heartbeat = Message { from: leader, to: NODE, term: raft::Term(2), incarnation, body };
    node.step(Now::default(), heartbeat);
    assert_eq!(node.leader(), Some(leader));
    assert!(node.accept(other).is_none());
    assert!(node.accept(offer(2)).is_some());
}

#[test]
fn a_transfer_that_was_given_up_may_still_finish_under_another_order() {
    let mut node = start(1);
    let given_up = node.accept(offer(2)).expect("it is needed");
    let next = node.accept(offer(3)).expect("it is still needed");
    node.install(Now::default(), given_up.durable());
    assert_eq!(node.status().commit, raft::Index(10));
    // The same snapshot again changes nothing.
    node.install(Now::default(), next.durable());
    assert_eq!(node.status().commit, raft::Index(10));
    assert_eq!(node.status().counters.stale_receipts, 0);
}
