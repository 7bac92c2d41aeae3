//! A write for which the disk has no room waits. What becomes due meanwhile joins it.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod alone;

use bytes::Bytes;
use raft::{Action, LogStart, Now, RawNode, TakeSnapshot, Write};

/// Proposes a command. Returns the write that it leads to.
fn propose(node: &mut RawNode) -> Option<Write> {
    node.propose(Now::default(), Bytes::from_static(b"command")).unwrap();
    match node.poll() {
        Some(Action::Persist(write)) => Some(write),
        None => None,
        other => panic!("{other:?}"),
    }
}

fn snapshot_order(node: &mut RawNode) -> TakeSnapshot {
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
    // A snapshot is due after each command.
    let (mut node, _) = alone::leader(Vec::new(), |config| {
        (config.snapshot_log_bytes, config.snapshot_log_bytes_max) = (1, 1);
    });
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
