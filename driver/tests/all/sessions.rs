//! Sessions on whole nodes: a command is executed once.

use crate::support::{Counter, Network, PATIENCE as TIMEOUT, eventually, leader, start, text};
use bytes::Bytes;
use driver::{AttemptError, Consistency, Handle, SessionError, SessionNumber};
use std::time::Duration;
use storage::testing::MemDisk;

const NODES: u64 = 3;

fn start_all(network: &Network, disks: &[MemDisk]) -> Vec<Handle<Counter>> {
    (1..=NODES).map(|id| start(network, &disks[id as usize - 1], id, NODES, |_| {})).collect()
}

async fn sum(node: &Handle<Counter>) -> u64 {
    text(&node.read_within(Bytes::new(), Consistency::Linearizable, TIMEOUT).await.unwrap())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_command_of_a_session_is_executed_once_on_whichever_node_it_is_repeated() {
    let (network, disks) = (Network::default(), [(); 3].map(|()| MemDisk::new()));
    let nodes = start_all(&network, &disks);
    let leading = leader(&nodes.iter().collect::<Vec<_>>()).await.clone();
    let session = nodes[0].open_session(TIMEOUT).await.unwrap();
    let number = |number| SessionNumber { session, number, repeats_from: 0 };
    let first = number(1);
    for node in &nodes {
        eventually("it knows a leader", || node.status().raft.leader.is_some()).await;
        let reply = node.execute_in_session(first, Bytes::from_static(b"5"), TIMEOUT).await;
        assert_eq!(text(&reply.unwrap()), 5);
    }
    let other = nodes[1].execute_in_session(first, Bytes::from_static(b"6"), TIMEOUT).await;
    assert_eq!(other, Err(AttemptError::Session(SessionError::Reused)));

    // The next leader knows it too.
    let dead = leading.status().raft.id;
    leading.shutdown().await;
    let rest: Vec<_> = nodes.iter().filter(|node| node.status().raft.id != dead).collect();
    let next = leader(&rest).await;
    let reply = next.execute_in_session(first, Bytes::from_static(b"5"), TIMEOUT).await;
    assert_eq!(text(&reply.unwrap()), 5);
    assert_eq!(sum(next).await, 5);
    assert_eq!(next.close_session(session, TIMEOUT).await, Ok(true));
    let ended = next.execute_in_session(number(2), Bytes::from_static(b"1"), TIMEOUT).await;
    assert_eq!(ended, Err(AttemptError::Session(SessionError::Ended)));
    assert_eq!(next.close_session(session, TIMEOUT).await, Ok(false));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_forwarded_command_whose_answer_was_lost_is_repeated_and_done_once() {
    let (network, disks) = (Network::default(), [(); 3].map(|()| MemDisk::new()));
    let nodes = start_all(&network, &disks);
    let leading = leader(&nodes.iter().collect::<Vec<_>>()).await.clone();
    let lead = leading.status().raft.id;
    let follower = nodes.iter().find(|node| node.status().raft.id != lead).unwrap().clone();
    eventually("it knows the leader", || follower.status().raft.leader == Some(lead)).await;
    assert_eq!(text(&follower.execute(Bytes::from_static(b"1")).await.unwrap()), 1);

    // The leader takes the command and commits it, but this follower hears nothing of that.
    network.cut(lead.0, follower.status().raft.id.0);
    let waiting = {
        let follower = follower.clone();
        let command = Bytes::from_static(b"10");
        tokio::spawn(async move { follower.execute_within(command, TIMEOUT).await })
    };
    while sum(&leading).await != 11 {
        assert!(!waiting.is_finished(), "it was answered");
    }
    let repeated = || follower.metrics().proposals_repeated > 0;
    eventually("the follower tries again", repeated).await;
    network.heal();
    assert_eq!(text(&waiting.await.unwrap().unwrap()), 11);
    assert_eq!(sum(&leading).await, 11);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_command_forwarded_to_a_leader_that_is_gone_is_done_by_the_next() {
    let (network, disks) = (Network::default(), [(); 3].map(|()| MemDisk::new()));
    let nodes = start_all(&network, &disks);
    let old = leader(&nodes.iter().collect::<Vec<_>>()).await.clone();
    let lead = old.status().raft.id;
    let others: Vec<u64> = (1..=NODES).filter(|id| *id != lead.0).collect();
    let follower = nodes.iter().find(|node| node.status().raft.id != lead).unwrap().clone();
    eventually("it knows the leader", || follower.status().raft.leader == Some(lead)).await;
    assert_eq!(text(&follower.execute(Bytes::from_static(b"1")).await.unwrap()), 1);
    // The leader still hears the others, and appends what they forward.
    others.iter().for_each(|other| network.cut(lead.0, *other));
    let reply = follower.execute_within(Bytes::from_static(b"10"), TIMEOUT).await;
    assert_eq!(text(&reply.unwrap()), 11);
    network.heal();
    assert_eq!(sum(&old).await, 11);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_node_whose_own_session_has_ended_forwards_in_another() {
    const TTL: Duration = Duration::from_millis(800);
    let (network, disks) = (Network::default(), [(); 3].map(|()| MemDisk::new()));
    let start = |id| {
        start(&network, &disks[id as usize - 1], id, NODES, |config| {
            config.sessions.ttl = TTL;
        })
    };
    let nodes: Vec<_> = (1..=NODES).map(start).collect();
    let old = leader(&nodes.iter().collect::<Vec<_>>()).await.clone();
    let lead = old.status().raft.id;
    let follower = nodes.iter().find(|node| node.status().raft.id != lead).unwrap().clone();
    eventually("it knows the leader", || follower.status().raft.leader == Some(lead)).await;
    assert_eq!(text(&follower.execute(Bytes::from_static(b"1")).await.unwrap()), 1);
    // The session ends by the log's time. Others write meanwhile: time without entries before an
    // election would not count.
    let stale = Consistency::Stale { max_age: Duration::MAX };
    let time = async || text(&old.read(Bytes::from_static(b"time"), stale).await.unwrap());
    let ended = time().await + TTL.as_millis() as u64;
    while time().await <= ended {
        assert_eq!(text(&old.execute(Bytes::from_static(b"0")).await.unwrap()), 1);
    }
    // The leader takes what is forwarded, and commits nothing. If the node used its session, it
    // would not know the outcome when it repeats the command: the session has ended.
    let others = (1..=NODES).filter(|id| *id != lead.0);
    others.for_each(|other| network.cut(lead.0, other));
    let reply = follower.execute_within(Bytes::from_static(b"10"), TIMEOUT).await;
    assert_eq!(text(&reply.unwrap()), 11);
    network.heal();
    assert_eq!(sum(&old).await, 11);
}
