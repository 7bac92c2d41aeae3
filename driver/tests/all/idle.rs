//! A cluster in which nothing happens costs little.

use crate::support::{Network, add, eventually, leader, start};
use storage::testing::MemDisk;

const NODES: u64 = 3;

#[tokio::test(flavor = "multi_thread")]
async fn an_idle_node_wakes_up_for_heartbeats_and_not_for_each_tick() {
    // A heartbeat takes this many ticks, and at most four turns of a node that sleeps through them.
    const HEARTBEAT_TICKS: u32 = 20;
    let (network, disks) = (Network::default(), [(); NODES as usize].map(|()| MemDisk::new()));
    let start = |id: u64| {
        start(&network, &disks[id as usize - 1], id, NODES, |config| {
            config.raft.heartbeat_ticks = HEARTBEAT_TICKS;
            config.raft.election_ticks = 200;
        })
    };
    let nodes: Vec<_> = (1..=NODES).map(start).collect();
    let leading = leader(&nodes.iter().collect::<Vec<_>>()).await;
    add(leading, 1).await;
    eventually("all have applied it", || {
        nodes.iter().all(|node| node.status().raft.applied == leading.status().raft.last.index)
    })
    .await;
    let turns = |node: &driver::Handle<_>| node.metrics().turns;
    let sent = || leading.metrics().messages_sent / (NODES - 1);
    // The rounds that end what was under way do not count.
    let begun = sent();
    eventually("some heartbeats", || sent() >= begun + 3).await;
    let (rounds, before) = (sent(), nodes.iter().map(turns).collect::<Vec<_>>());
    eventually("more heartbeats", || sent() >= rounds + 10).await;
    let after: Vec<_> = nodes.iter().map(turns).collect();
    let rounds = sent() - rounds + 1;
    for (before, after) in before.into_iter().zip(after) {
        // A turn for the timer, one for each message, and one to spare.
        let turns = after - before;
        assert!(turns <= rounds * (NODES + 1), "{turns} turns in {rounds} heartbeats");
    }
}
