//! Lease reads on whole nodes.

use crate::support::{Counter, Network, add, eventually, leader, start, text};
use bytes::Bytes;
use driver::{Consistency, DriverConfig, Handle};
use raft::LeaseConfig;
use std::sync::Arc;
use std::time::Duration;
use storage::testing::MemDisk;

const NODES: u64 = 3;

/// The driver sets the length of a tick itself.
fn with_leases(config: &mut DriverConfig) {
    config.raft.lease = Some(LeaseConfig { tick: Duration::ZERO, drift_ppm: 10_000 });
}

/// Waits until the node has published its status again, as it does once a tick.
async fn next_status(node: &Handle<Counter>) {
    let before = node.status();
    eventually("the next status", || !Arc::ptr_eq(&before, &node.status())).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_leader_with_a_lease_answers_its_own_reads_and_those_of_followers() {
    let network = Network::default();
    let nodes: Vec<_> =
        (1..=NODES).map(|id| start(&network, &MemDisk::new(), id, NODES, with_leases)).collect();
    let leading = leader(&nodes.iter().collect::<Vec<_>>()).await;
    add(leading, 7).await;
    for node in &nodes {
        // On a busy machine a lease may end for a moment. Then the read takes a round.
        for attempt in 0.. {
            eventually("a lease", || leading.status().raft.lease).await;
            let before = leading.status().raft.counters.lease_reads;
            let sum = node.read(Bytes::new(), Consistency::Lease).await.unwrap();
            assert_eq!(text(&sum), 7);
            next_status(leading).await;
            if leading.status().raft.counters.lease_reads > before {
                break;
            }
            assert!(attempt < 100, "every read took a round");
        }
    }
    // A linearizable read never counts a lease.
    let before = leading.status().raft.counters.lease_reads;
    leading.read(Bytes::new(), Consistency::Linearizable).await.unwrap();
    next_status(leading).await;
    assert_eq!(leading.status().raft.counters.lease_reads, before);
    for node in &nodes {
        node.shutdown().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_leader_that_is_cut_off_has_no_lease_and_answers_nothing() {
    let network = Network::default();
    let nodes: Vec<_> =
        (1..=NODES).map(|id| start(&network, &MemDisk::new(), id, NODES, with_leases)).collect();
    let leading = leader(&nodes.iter().collect::<Vec<_>>()).await;
    add(leading, 7).await;
    eventually("a lease", || leading.status().raft.lease).await;
    let id = leading.status().raft.id;
    let others: Vec<u64> = (1..=NODES).filter(|other| *other != id.0).collect();
    network.isolate(id.0, &others);
    let rest: Vec<_> = nodes.iter().filter(|node| node.status().raft.id != id).collect();
    let next = leader(&rest).await;
    add(next, 1).await;
    let read =
        leading.read_within(Bytes::new(), Consistency::Lease, Duration::from_millis(300)).await;
    assert!(read.is_err(), "another leader was elected, and has committed: {read:?}");
    eventually("no lease", || !leading.status().raft.lease).await;
    for node in &nodes {
        node.shutdown().await;
    }
}
