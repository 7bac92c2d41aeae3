//! A cluster of one node, whose orders are carried out at once.

use raft::{
    Action, Config, Entry, HardState, Incarnation, Member, Membership, NodeId, Now, RawNode,
    Restored, Snapshot, Term,
};

/// A node that leads, with these entries in its log. Also returns whether it took a snapshot when
/// it had applied them. `adapt` changes its settings.
pub fn leader(entries: Vec<Entry>, adapt: impl FnOnce(&mut Config)) -> (RawNode, bool) {
    let member = Member {
        incarnation: Incarnation(1),
        peer_address: String::new(),
        client_address: String::new(),
    };
    let membership = Membership::of_voters([(NodeId(1), member)].into());
    let mut config = Config::new(NodeId(1), Incarnation(1), 1);
    config.campaign_at_start = true;
    adapt(&mut config);
    let restored = Restored::initial(Snapshot::initial(membership));
    let term = entries.last().map_or(Term(0), |entry| entry.id.term);
    let hard_state = HardState { term, ..HardState::default() };
    let restored = Restored { hard_state, entries, ..restored };
    let mut node = RawNode::new(config, restored).unwrap();
    node.tick(Now::default());
    let has_taken = settle(&mut node);
    assert!(node.is_leader());
    (node, has_taken)
}

/// Carries out all orders. Returns whether a snapshot was taken.
pub fn settle(node: &mut RawNode) -> bool {
    let (now, mut taken) = (Now::default(), false);
    while let Some(action) = node.poll() {
        match action {
            Action::Persist(write) => node.persisted(now, write.durable()),
            Action::Apply(apply) => node.applied(now, apply.applied()),
            Action::TakeSnapshot(order) => {
                node.compact(now, order.durable());
                taken = true;
            }
            other => panic!("{other:?}"),
        }
    }
    taken
}
