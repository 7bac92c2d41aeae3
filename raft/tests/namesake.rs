//! A node whose log lists another node under its id: with its vote, its disk and its replies it
//! does not stand for that one.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use raft::{
    Action, Body, CommandNumber, Config, Entry, HardState, Incarnation, Index, LeaseConfig, LogId,
    LogTime, Member, Membership, Message, NodeId, Now, Payload, RawNode, ReadProof, Restored,
    RoleKind, Round, Snapshot, Term,
};
use std::time::Duration;

const ID: NodeId = NodeId(3);
const OWN: Incarnation = Incarnation(103);
/// The incarnation that the node's log lists under its id.
const OTHER: Incarnation = Incarnation(203);

fn membership(third: Incarnation) -> Membership {
    let member = |incarnation| Member {
        incarnation,
        peer_address: String::new(),
        client_address: String::new(),
    };
    let ids = [(NodeId(1), Incarnation(1)), (NodeId(2), Incarnation(2)), (ID, third)];
    Membership::of_voters(ids.map(|(id, incarnation)| (id, member(incarnation))).into())
}

/// A node that may campaign, since the membership as of its commit index lists it. The one in force
/// lists the other node.
fn start(lease: Option<LeaseConfig>) -> RawNode {
    let listed = Entry {
        id: LogId::new(1, 1),
        time: LogTime(0),
        number: CommandNumber(0),
        payload: Payload::Membership(Box::new(membership(OTHER))),
    };
    let restored = Restored {
        hard_state: HardState { term: Term(1), ..HardState::default() },
        entries: vec![listed],
        ..Restored::initial(Snapshot::initial(membership(OWN)))
    };
    let mut config = Config::new(ID, OWN, 1);
    config.lease = lease;
    RawNode::new(config, restored).unwrap()
}

/// Carries out the orders to write and apply. Returns the reads that may be served, as a number.
fn settle(node: &mut RawNode) -> usize {
    let (now, mut served) = (Now::default(), 0);
    while let Some(action) = node.poll() {
        match action {
            Action::Persist(write) => node.persisted(now, write.durable()),
            Action::Apply(apply) => node.applied(now, apply.applied()),
            Action::Serve(_) => served += 1,
            Action::Send(_) => {}
            other => panic!("{other:?}"),
        }
    }
    served
}

/// A message of node 1 or 2 in the node's current term.
fn reply(node: &mut RawNode, from: u64, body: Body) {
    let term = node.term();
    let message =
        Message { from: NodeId(from), to: ID, term, incarnation: Incarnation(from), body };
    node.step(Now::default(), message);
}

fn acknowledged(matched: u64, round: u64) -> Body {
    promised(matched, round, 0)
}

fn promised(matched: u64, round: u64, promise_ms: u32) -> Body {
    Body::Appended {
        matched: Index(matched),
        round: Round(round),
        state: None,
        promise_ms,
        priority: 1,
    }
}

/// The node after an election that it needs both other nodes for.
fn elected(lease: Option<LeaseConfig>) -> RawNode {
    let mut node = start(lease);
    node.campaign(Now::default());
    settle(&mut node);
    for (from, role) in [(1, RoleKind::PreCandidate), (2, RoleKind::Candidate)] {
        reply(&mut node, from, Body::PreVoteReply { next: Term(2), granted: true, candidate: OWN });
        assert_eq!(node.status().role, role, "after the pre-vote of node {from}");
    }
    settle(&mut node);
    for (from, role) in [(1, RoleKind::Candidate), (2, RoleKind::Leader)] {
        let clock = Default::default();
        reply(&mut node, from, Body::VoteReply { granted: true, clock, candidate: OWN });
        assert_eq!(node.status().role, role, "after the vote of node {from}");
    }
    settle(&mut node);
    node
}

#[test]
fn its_vote_its_disk_and_its_word_do_not_count() {
    let mut node = elected(None);
    for (from, commit) in [(1, 0), (2, 2)] {
        reply(&mut node, from, acknowledged(2, 1));
        settle(&mut node);
        assert_eq!(node.commit(), Index(commit), "node {from} has the log");
    }
    node.read(Now::default(), ReadProof::Linearizable).unwrap();
    assert_eq!(settle(&mut node), 0);
    for (from, served) in [(1, 0), (2, 1)] {
        reply(&mut node, from, acknowledged(2, 2));
        assert_eq!(settle(&mut node), served, "node {from} has replied");
    }
}

#[test]
fn it_steps_down_if_only_one_other_replies() {
    let mut node = elected(None);
    let election_ticks = Config::new(ID, OWN, 1).election_ticks;
    for _ in 0..2 * election_ticks {
        reply(&mut node, 1, acknowledged(2, 0));
        node.tick(Now::default());
        settle(&mut node);
    }
    assert!(!node.is_leader());
}

#[test]
fn its_lease_needs_the_promises_of_both_others() {
    let lease = LeaseConfig { tick: Duration::from_millis(10), drift_ppm: 100_000 };
    let mut node = elected(Some(lease));
    for from in [1, 2] {
        reply(&mut node, from, acknowledged(2, 1));
        settle(&mut node);
    }
    let Round(round) = node.ask_peers(Now::default()).unwrap();
    settle(&mut node);
    for (from, holds) in [(1, false), (2, true)] {
        reply(&mut node, from, promised(2, round, 280));
        settle(&mut node);
        assert_eq!(node.status().lease, holds, "node {from} has promised");
    }
}
