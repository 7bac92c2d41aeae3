//! The stream of changes on the handle of a node.

use crate::support::{Network, PATIENCE, eventually, leader, start};
use driver::{Changes, View};
use raft::NodeId;
use storage::testing::MemDisk;
use tokio::time::timeout;

const NODES: u64 = 3;

/// The first view from now on that is as wanted.
async fn until(changes: &mut Changes, wanted: impl Fn(&View) -> bool) -> View {
    let found = async {
        loop {
            let view = changes.next().await.expect("the node has not stopped");
            if wanted(&view) {
                return view;
            }
        }
    };
    timeout(PATIENCE, found).await.expect("it happens within the time")
}

#[tokio::test(flavor = "multi_thread")]
async fn a_follower_of_the_changes_sees_leaders_come_and_go_and_the_node_stop() {
    let (network, disks) = (Network::default(), [(); NODES as usize].map(|()| MemDisk::new()));
    let nodes: Vec<_> =
        (1..=NODES).map(|id| start(&network, &disks[id as usize - 1], id, NODES, |_| {})).collect();
    let leading = leader(&nodes.iter().collect::<Vec<_>>()).await;
    let first = leading.status().raft.id;
    let observer = nodes.iter().find(|node| node.status().raft.id != first).unwrap();
    let mut changes = observer.changes();
    let led = until(&mut changes, |view| view.leader == Some(first)).await;
    assert_eq!(led.membership.members.len(), NODES as usize);
    assert!(!led.serving);
    let mut own = leading.changes();
    until(&mut own, |view| view.serving).await;

    let others: Vec<u64> = (1..=NODES).filter(|id| *id != first.0).collect();
    network.isolate(first.0, &others);
    let deposed = until(&mut own, |view| !view.serving).await;
    assert_eq!(deposed.term, led.term);
    let other = |view: &View| view.leader.is_some_and(|leader| leader != first);
    let next = until(&mut changes, other).await;
    assert!(next.term > led.term);
    network.heal();
    until(&mut own, |view| view.term >= next.term && view.leader.is_some()).await;

    // A new follower begins with the present, and then waits.
    let mut late = observer.changes();
    let present = until(&mut late, |_| true).await;
    assert!(present.term >= next.term);

    leading.shutdown().await;
    let end = async { while own.next().await.is_some() {} };
    timeout(PATIENCE, end).await.expect("its node has stopped");
    assert_eq!(own.next().await, None);
}

#[tokio::test(flavor = "multi_thread")]
async fn nothing_comes_while_nothing_changes_and_nobody_misses_the_end() {
    let (network, disk) = (Network::default(), MemDisk::new());
    let node = start(&network, &disk, 1, 1, |_| {});
    let mut changes = node.changes();
    let serving = until(&mut changes, |view| view.serving).await;
    assert_eq!(serving.leader, Some(NodeId(1)));
    let waiting = tokio::spawn(async move {
        let last = changes.next().await;
        (last, changes.next().await)
    });
    // Neither a command nor the turns of some ticks change anything that is shown. A view that
    // came nevertheless would be the first one below.
    crate::support::add(&node, 1).await;
    let turns = node.metrics().turns;
    eventually("some ticks", || node.metrics().turns >= turns + 10).await;
    assert!(!waiting.is_finished());
    node.shutdown().await;
    let (last, end) = timeout(PATIENCE, waiting).await.unwrap().unwrap();
    assert!(last.is_some_and(|view| !view.serving));
    assert_eq!(end, None);
}
