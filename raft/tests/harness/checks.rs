//! Invariants of every script. Checked after every step of every node.

use super::cluster::Peer;
use super::disk::Disk;
use raft::{Body, Entry, Index, Message, NodeId, RawNode, Term};
use std::collections::BTreeMap;

/// The leaders and committed entries seen so far.
#[derive(Default)]
pub struct Checks {
    leaders: BTreeMap<Term, NodeId>,
    committed: BTreeMap<Index, Entry>,
}

impl Checks {
    /// Checks the state after a step of `node`, which has the number `id` in `peers`.
    pub fn node(&mut self, id: u64, node: &RawNode, peers: &BTreeMap<u64, Peer>) {
        assert_eq!(node.broken_invariant(), None, "n{id}");
        if node.is_leader() {
            let leader = *self.leaders.entry(node.term()).or_insert(NodeId(id));
            assert_eq!(leader, NodeId(id), "two leaders in term {}", node.term());
        }
        let committed = (1..=node.commit().0).filter_map(|index| node.entry(Index(index)));
        for entry in committed {
            match self.committed.get(&entry.id.index) {
                Some(known) => assert_eq!(known, entry, "what is committed changes"),
                None => {
                    // A member that has lost acknowledged entries takes no part in elections.
                    let has = |disk: &Disk| {
                        disk.has(entry.id) || disk.hard_state.lost.is_some_and(|l| l >= entry.id)
                    };
                    // An entry is committed by a quorum of the membership of some later moment. The
                    // latest that this node knows is in force there.
                    let membership = node.status().membership;
                    let here = |id: NodeId| {
                        let (peer, member) = (&peers[&id.0], &membership.members[&id]);
                        peer.disk.incarnation == member.incarnation && has(&peer.disk)
                    };
                    assert!(membership.is_quorum(here), "{} is on too few disks", entry.id);
                    self.committed.insert(entry.id.index, entry.clone());
                }
            }
        }
    }

    /// No promise before it is durable: what `message` promises is on its sender's disk.
    pub fn promise(message: &Message, node: &RawNode, disk: &Disk) {
        let hard = &disk.hard_state;
        match message.body {
            Body::Vote { last, .. } => {
                assert_eq!((hard.term, hard.vote), (message.term, Some(message.from)));
                assert_eq!(last, disk.last(), "it advertises a log that is not durable");
            }
            Body::VoteReply { granted: true, .. } => {
                assert_eq!((hard.term, hard.vote), (message.term, Some(message.to)));
            }
            Body::Appended { matched, .. } => {
                assert_eq!(hard.term, message.term, "its term is not durable");
                let here = node.entry(matched).map(|entry| entry.id);
                let durable = here.is_none_or(|id| disk.has(id));
                assert!(matched <= disk.last().index && durable, "{matched} is not durable");
            }
            _ => {}
        }
    }
}
