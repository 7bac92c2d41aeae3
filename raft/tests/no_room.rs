//! A write for which the disk has no room waits. What becomes due meanwhile joins it.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use bytes::Bytes;
use raft::{
    Action, Config, Incarnation, LogStart, Member, Membership, Node, NodeId, Now, Restored,
    Snapshot, TakeSnapshot, Write,
};

/// A cluster of one node, which leads. It takes a snapshot after each command.
fn leader() -> Node {
    let member = Member {
        incarnation: Incarnation(1),
        peer_address: String::new(),
        client_address: String::new(),
    };
    let membership = Membership::of_voters([(NodeId(1), member)].into());
    let mut config = Config::new(NodeId(1), Incarnation(1), 1);
    config.campaign_at_start = true;
    (config.snapshot_log_bytes, config.snapshot_log_bytes_max) = (1, 1);
    let mut node = Node::new(config, Restored::initial(Snapshot::initial(membership))).unwrap();
    node.tick(Now::default());
    while let Some(action) = node.poll() {
        match action {
            Action::Persist(write) => node.persisted(Now::default(), write.durable()),
            Action::Apply(apply) => node.applied(Now::default(), apply.applied()),
            Action::TakeSnapshot(order) => node.compact(Now::default(), order.durable()),
            other => panic!("{other:?}"),
        }
    }
    assert!(node.is_leader());
    node
}

/// Proposes a command. Returns the write that it leads to.
fn propose(node: &mut Node) -> Option<Write> {
    node.propose(Now::default(), Bytes::from_static(b"command")).unwrap();
    match node.poll() {
        Some(Action::Persist(write)) => Some(write),
        None => None,
        other => panic!("{other:?}"),
    }
}

fn snapshot_order(node: &mut Node) -> TakeSnapshot {
    loop {
        match node.poll() {
            Some(Action::Persist(write)) => node.persisted(Now::default(), write.durable()),
            Some(Action::Apply(apply)) => node.applied(Now::default(), apply.applied()),
            Some(Action::TakeSnapshot(order)) => return order,
            other => panic!("{other:?}"),
        }
    }
}

#[test]
fn a_snapshot_and_later_commands_join_a_write_without_room() {
    let mut node = leader();
    let write = propose(&mut node).unwrap();
    node.persisted(Now::default(), write.durable());
    let order = snapshot_order(&mut node);

    let stuck = propose(&mut node).unwrap();
    assert!(stuck.log_start.is_none());
    node.compact(Now::default(), order.durable());
    assert!(propose(&mut node).is_none(), "one write is out at a time");
    let renewed = node.renew_write(stuck);
    assert!(matches!(renewed.log_start, Some(LogStart::Compact(_))), "{renewed:?}");
    assert_eq!(renewed.entries.len(), 2);
    // Without room again: the start of the log is not lost.
    let renewed = node.renew_write(renewed);
    assert!(matches!(renewed.log_start, Some(LogStart::Compact(_))), "{renewed:?}");
    assert_eq!(renewed.entries.len(), 2);

    let last = renewed.entries.last().unwrap().id;
    node.persisted(Now::default(), renewed.durable());
    assert_eq!((node.status().durable, node.status().commit), (last.index, last.index));
    assert!(node.status().snapshot.last.index < last.index);
}
