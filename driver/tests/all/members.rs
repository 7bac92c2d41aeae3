//! Changes of the members on whole nodes.

use crate::support::{Network, leader, membership, start};
use driver::MembersError;
use raft::{Change, NodeId};
use std::collections::BTreeSet;
use storage::testing::MemDisk;

const NODES: u64 = 3;

/// A change to the first members, of which these vote.
fn change(members: u64, voters: &[u64]) -> Change {
    let voters: BTreeSet<NodeId> = voters.iter().copied().map(NodeId).collect();
    Change::to(membership(members).members, voters)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_change_that_another_one_follows_is_not_reported_as_given_up() {
    let network = Network::default();
    let nodes: Vec<_> =
        (1..=NODES).map(|id| start(&network, &MemDisk::new(), id, NODES, |_| {})).collect();
    let leading = leader(&nodes.iter().collect::<Vec<_>>()).await;
    let id = leading.status().raft.id.0;
    let others: Vec<u64> = (1..=NODES).filter(|other| *other != id).collect();

    // Each change is done before the next one begins, and the first is asked about afterwards.
    let first = change(NODES, &[id, others[0]]);
    let begun = leading.set_members(first.clone()).await.unwrap();
    let done = leading.members_set(begun, &first).await.unwrap();
    assert!(done > begun);
    assert_eq!(leading.members_set(begun, &first).await, Ok(done));
    let second = change(NODES, &[id, others[1]]);
    let begun_second = leading.set_members(second.clone()).await.unwrap();
    leading.members_set(begun_second, &second).await.unwrap();
    assert_eq!(leading.members_set(begun, &first).await, Err(MembersError::Superseded));

    // A change that concerns no voter has one entry.
    let mut third = second.clone();
    third.members.remove(&NodeId(others[0]));
    let begun = leading.set_members(third.clone()).await.unwrap();
    assert_eq!(leading.members_set(begun, &third).await, Ok(begun));
    let mut fourth = third.clone();
    fourth.members.values_mut().for_each(|member| member.client_address = "moved:1".to_owned());
    let begun_fourth = leading.set_members(fourth.clone()).await.unwrap();
    leading.members_set(begun_fourth, &fourth).await.unwrap();
    assert_eq!(leading.members_set(begun, &third).await, Err(MembersError::Superseded));

    // Node 4 does not exist. This change is given up, and nothing follows it.
    let mut vain = fourth.clone();
    vain.members.extend(change(4, &[]).members.split_off(&NodeId(4)));
    vain.voters.insert(NodeId(4));
    vain.catch_up_ms = 1;
    let begun = leading.set_members(vain.clone()).await.unwrap();
    assert_eq!(leading.members_set(begun, &vain).await, Err(MembersError::GivenUp));
    assert_eq!(leading.status().raft.membership.voters, second.voters);
    for node in &nodes {
        node.shutdown().await;
    }
}
