//! A round that a host asks for confirms the reads that wait, like a round of the leader's own.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod alone;

use raft::{Action, Now, ReadProof};

#[test]
fn a_read_that_joins_a_round_of_the_only_voter_is_served() {
    let (mut node, _) = alone::leader(Vec::new(), |_| {});
    let read = node.read(Now::default(), ReadProof::Linearizable).unwrap();
    node.ask_peers(Now::default()).unwrap();
    assert!(matches!(node.poll(), Some(Action::Serve(served)) if served == read));
    let next = node.read(Now::default(), ReadProof::Linearizable).unwrap();
    assert!(matches!(node.poll(), Some(Action::Serve(served)) if served == next));
}
