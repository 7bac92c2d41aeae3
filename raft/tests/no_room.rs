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
fn a_snapshot_goes_before_the_commands_of_a_write_without_room() {
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
    assert_eq!(renewed.entries.len(), 0, "it takes one block");
    // Without room again: the start of the log is not lost.
    let renewed = node.renew_write(renewed);
    assert!(matches!(renewed.log_start, Some(LogStart::Compact(_))), "{renewed:?}");
    let durable = node.status().durable;
    node.persisted(Now::default(), renewed.durable());
    assert_eq!(node.status().durable, durable, "it has no entries");

    let Some(Action::Persist(write)) = node.poll() else { panic!("the commands are due") };
    assert_eq!(write.entries.len(), 2);
    let last = write.entries.last().unwrap().id;
    node.persisted(Now::default(), write.durable());
    assert_eq!((node.status().durable, node.status().commit), (last.index, last.index));
    assert!(node.status().snapshot.last.index < last.index);
}

/// However large the log between two snapshots may be by the settings.
#[test]
fn a_write_without_room_makes_a_snapshot_due() {
    let (mut node, _) = alone::leader(Vec::new(), |_| ());
    let write = propose(&mut node).unwrap();
    node.persisted(Now::default(), write.durable());
    while let Some(action) = node.poll() {
        let Action::Apply(apply) = action else { panic!("{action:?}") };
        node.applied(Now::default(), apply.applied());
    }
    let stuck = propose(&mut node).unwrap();
    assert!(node.poll().is_none(), "nobody knows that there is no room");
    let stuck = node.renew_write(stuck);
    let order = snapshot_order(&mut node);
    let stuck = node.renew_write(stuck);
    assert!(node.poll().is_none(), "one order is out at a time");

    node.compact(Now::default(), order.failed());
    let stuck = node.renew_write(stuck);
    assert!(node.poll().is_none(), "the next one after a failure takes its time");
    for _ in 0..1_000 {
        node.tick(Now::default());
    }
    let order = snapshot_order(&mut node);
    node.compact(Now::default(), order.durable());
    let renewed = node.renew_write(stuck);
    assert!(matches!(renewed.log_start, Some(LogStart::Compact(_))), "{renewed:?}");

    let renewed = node.renew_write(renewed);
    assert!(node.poll().is_none(), "nothing was applied since: a snapshot would free nothing");
    node.persisted(Now::default(), renewed.durable());
}

/// The log may reach its bound while a snapshot of a leader still finds room on the disk.
#[test]
fn a_snapshot_that_replaces_the_log_joins_a_write_without_room() {
    use raft::{
        Body, CommandNumber, Config, Entry, Incarnation, LogId, LogTime, Member, Membership,
        Message, NodeId, Payload, Restored, Round, Snapshot, SnapshotOffer, Term,
    };
    let member = |id| Member {
        incarnation: Incarnation(id),
        peer_address: String::new(),
        client_address: String::new(),
    };
    let members = [1, 2].map(|id| (NodeId(id), member(id)));
    let initial = Snapshot::initial(Membership::of_voters(members.into()));
    let config = Config::new(NodeId(1), Incarnation(1), 1);
    let mut node = RawNode::new(config, Restored::initial(initial.clone())).unwrap();
    let append = |prev, index| {
        let payload = Payload::Command(Bytes::from_static(b"command"));
        let id = LogId::new(index, 1);
        let entry = Entry { id, time: LogTime(1), number: CommandNumber(index - 1), payload };
        let body = Body::Append {
            prev,
            entries: vec![entry].into(),
            commit: raft::Index(0),
            round: Round(1),
            time: LogTime(1),
        };
        let (from, to, term, incarnation) = (NodeId(2), NodeId(1), Term(1), Incarnation(2));
        Message { from, to, term, incarnation, body }
    };
    node.step(Now::default(), append(LogId::ZERO, 1));
    let Some(Action::Persist(stuck)) = node.poll() else { panic!("nothing is written") };

    let snapshot = Snapshot { last: LogId::new(9, 1), number: CommandNumber(9), ..initial };
    let (from, to, term, incarnation) = (NodeId(2), NodeId(1), Term(1), Incarnation(2));
    let offer = SnapshotOffer { from, to, term, incarnation, snapshot };
    let order = node.accept(offer).unwrap();
    node.install(Now::default(), order.durable());
    let renewed = node.renew_write(stuck);
    assert!(matches!(renewed.log_start, Some(LogStart::Reset(_))), "{renewed:?}");
    node.persisted(Now::default(), renewed.durable());
    for _ in 0..10 {
        if let Some(Action::Persist(write)) = node.poll() {
            node.persisted(Now::default(), write.durable());
        }
    }
    assert_eq!(node.status().durable.0, 9);
}
