//! A node that discards a wrong copy records the loss of all entries that it had acknowledged.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use bytes::Bytes;
use raft::{
    Action, Body, CommandNumber, Config, Entry, Incarnation, Index, LogId, LogTime, Member,
    Membership, Message, NodeId, Now, Payload, RawNode, Restored, Round, Snapshot, Term,
};

#[test]
fn a_node_that_gives_up_its_copy_notes_all_that_it_has_acknowledged() {
    let member = |id| Member {
        incarnation: Incarnation(id),
        peer_address: String::new(),
        client_address: String::new(),
    };
    let members = [1, 2, 3].map(|id| (NodeId(id), member(id)));
    let initial = Snapshot::initial(Membership::of_voters(members.into()));
    let config = Config::new(NodeId(1), Incarnation(1), 1);
    let mut node = RawNode::new(config, Restored::initial(initial)).unwrap();
    let message = |body| Message {
        from: NodeId(2),
        to: NodeId(1),
        term: Term(1),
        incarnation: Incarnation(2),
        body,
    };
    let append = |entries: Vec<Entry>, prev, round| {
        message(Body::Append {
            prev,
            entries: entries.into(),
            commit: Index(3),
            round: Round(round),
            time: LogTime(1),
        })
    };
    let entries = (1..=5).map(|index| Entry {
        id: LogId::new(index, 1),
        time: LogTime(1),
        number: CommandNumber(index - 1),
        payload: Payload::Command(Bytes::from_static(b"command")),
    });
    node.step(Now::default(), append(entries.collect(), LogId::ZERO, 1));
    let mut reported = None;
    for round in 2..=4 {
        while let Some(action) = node.poll() {
            match action {
                Action::Persist(write) => node.persisted(Now::default(), write.durable()),
                Action::Apply(apply) => {
                    let hashes = vec![7; apply.entries.len()];
                    node.applied(Now::default(), apply.applied_with(hashes));
                }
                Action::Send(Message { body: Body::Appended { matched, state, .. }, .. }) => {
                    assert_eq!(matched, Index(5), "it has acknowledged more than is committed");
                    reported = state.or(reported);
                }
                other => panic!("{other:?}"),
            }
        }
        node.step(Now::default(), append(Vec::new(), LogId::new(5, 1), round));
    }
    let state = reported.expect("it reports its state");
    node.step(Now::default(), message(Body::Diverged { state }));
    let Some(Action::Persist(write)) = node.poll() else { panic!("it gives nothing up") };
    assert_eq!(write.hard_state.lost, Some(LogId::new(5, 1)));
}
