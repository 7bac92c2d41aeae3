//! Whether the rules let any node win an election, once the faults are over.
//!
//! One case is known in which a majority runs and none can, until a node that is dead comes back: a
//! member was removed and added again with another directory, and has the longest log. A voter
//! whose log ends before that refuses it: it lists the former directory. To grant would be safe
//! only if no message for one directory could ever reach the other.
//!
//! The answer does not come from the core's own decisions. So a core that elects nobody, although
//! the rules let a node win, is still found.

use raft::{Membership, RawNode};

/// Whether one of these nodes, which all run and reach one another, can be elected.
pub(crate) fn any_can_win(nodes: &[&RawNode]) -> bool {
    nodes.iter().any(|candidate| {
        let own = candidate.status().id;
        let is_granted = |id| {
            let voter = nodes.iter().find(|voter| voter.status().id == id);
            id == own || voter.is_some_and(|voter| grants(voter, candidate))
        };
        let is_counted_on = nodes.iter().any(|asker| counts_on(asker, candidate));
        let may = is_counted_on && candidate.memberships().any(|known| lists(known, candidate));
        candidate.hard_state().lost.is_none()
            && (may || votes(candidate))
            && candidate.membership().is_quorum(is_granted)
    })
}

/// Whether a node votes in a membership that may be in force.
fn votes(node: &RawNode) -> bool {
    let id = node.status().id;
    node.memberships().any(|membership| membership.is_voter(id) && lists(membership, node))
}

/// Whether `asker` campaigns, asks the other for its vote and does not get it, since its log is
/// less up to date. Then the other campaigns although it does not vote.
fn counts_on(asker: &RawNode, other: &RawNode) -> bool {
    let is_asked =
        asker.membership().is_voter(other.status().id) && lists(asker.membership(), other);
    let is_behind = asker.last() < other.last() && asker.last().index > other.status().commit;
    let campaigns = asker.hard_state().lost.is_none() && votes(asker);
    campaigns && is_asked && is_behind && lists(other.membership(), asker)
}

fn grants(voter: &RawNode, candidate: &RawNode) -> bool {
    let knows_another = voter.membership().members.contains_key(&candidate.status().id)
        && !lists(voter.membership(), candidate);
    voter.hard_state().lost.is_none() && candidate.last() >= voter.last() && !knows_another
}

fn lists(membership: &Membership, node: &RawNode) -> bool {
    let member = membership.members.get(&node.status().id);
    member.is_some_and(|member| member.incarnation == node.incarnation())
}

#[cfg(test)]
mod tests {
    use super::*;
    use raft::{
        CommandNumber, Config, Entry, HardState, Incarnation, LogId, LogTime, Member, NodeId,
        Payload, Restored, Snapshot,
    };

    fn membership(incarnations: [u64; 3]) -> Membership {
        let member = |incarnation| Member {
            incarnation: Incarnation(incarnation),
            peer_address: String::new(),
            client_address: String::new(),
        };
        let ids = (0..).map(NodeId);
        Membership::of_voters(ids.zip(incarnations.map(member)).collect())
    }

    /// A node whose log has this many entries after a membership of these incarnations.
    fn node(id: usize, entries: u64, incarnations: [u64; 3], lost: Option<LogId>) -> RawNode {
        let mut restored = Restored::initial(Snapshot::initial(membership(incarnations)));
        restored.entries = (1..=entries)
            .map(|index| Entry {
                id: LogId::new(index, 1),
                time: LogTime(0),
                number: CommandNumber(0),
                payload: Payload::NoOp,
            })
            .collect();
        restored.hard_state = HardState { term: raft::Term(1), lost, ..HardState::default() };
        let config = Config::new(NodeId(id as u64), Incarnation(incarnations[id]), 1);
        RawNode::new(config, restored).expect("the parts fit together")
    }

    #[test]
    fn the_longest_log_wins_unless_its_node_is_not_known() {
        let known = [1, 2, 3];
        let all = |logs: [(u64, [u64; 3]); 3]| {
            let nodes = [0, 1, 2].map(|id| node(id, logs[id].0, logs[id].1, None));
            any_can_win(&nodes.each_ref())
        };
        assert!(all([(3, known), (2, known), (2, known)]));
        let again = [9, 2, 3];
        // One of the others knows the longest log's node under its former incarnation, then both.
        assert!(all([(3, again), (2, again), (2, known)]));
        let nodes = [node(0, 3, again, None), node(1, 2, known, None), node(2, 2, known, None)];
        assert!(any_can_win(&nodes.each_ref()), "the two elect one of them");
        assert!(!any_can_win(&[&nodes[0], &nodes[1]]));
    }

    #[test]
    fn who_has_lost_what_it_acknowledged_neither_votes_nor_wins() {
        let lost = Some(LogId::new(7, 1));
        let nodes = [node(0, 3, [1, 2, 3], None), node(1, 3, [1, 2, 3], lost)];
        assert!(!any_can_win(&nodes.each_ref()));
        let third = node(2, 3, [1, 2, 3], None);
        assert!(any_can_win(&[&nodes[0], &nodes[1], &third]));
        assert!(!any_can_win(&[&nodes[1]]));
    }
}
