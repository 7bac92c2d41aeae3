//! Whole nodes in one process, tested through the calls of their clients.

use crate::support::{
    Counted, Counter, Gate, Network, PATIENCE, add, eventually, leader, open_log, open_log_of,
    start, start_tasks, start_with, text,
};
use bytes::Bytes;
use driver::{
    AttemptError, Consistency, DriverConfig, Handle, NotReady, Outcome, ProposeError, ReadError,
    StopReason, WaitError,
};
use raft::{Change, CommandNumber, Membership, NodeId, Term};
use std::future::poll_fn;
use std::io;
use std::pin::Pin;
use std::sync::mpsc;
use std::task::{Context, Poll};
use std::time::Duration;
use storage::testing::{DiskOperation, DiskVerdict, MemDisk};
use storage::{LogStore, PersistError};

const NODES: u64 = 3;

fn disks() -> Vec<MemDisk> {
    (0..NODES).map(|_| MemDisk::new()).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_proposed_to_the_leader_is_read_on_every_node() {
    let (network, disks) = (Network::default(), disks());
    let nodes: Vec<_> =
        (1..=NODES).map(|id| start(&network, &disks[id as usize - 1], id, NODES, |_| {})).collect();
    let leading = leader(&nodes.iter().collect::<Vec<_>>()).await;
    for number in 1..=100 {
        add(leading, number).await;
    }
    for node in &nodes {
        let sum = node.read(Bytes::new(), Consistency::Linearizable).await.unwrap();
        assert_eq!(text(&sum), 5050);
        assert_eq!(node.freeze(Consistency::Lease).await.unwrap(), Counted(5050, 100));
        node.wait_applied(CommandNumber(99), None).await.unwrap();
    }
    let follower = nodes.iter().find(|node| !node.status().raft.serving).unwrap();
    let refused = follower.propose(Bytes::from_static(b"1")).await.unwrap_err();
    let id = leading.status().raft.id;
    assert_eq!(refused, ProposeError::NotLeader { leader: Some(id) });
    for node in &nodes {
        node.shutdown().await;
        assert_eq!(node.stopped().await, StopReason::Shutdown);
        assert_eq!(
            node.propose(Bytes::new()).await.unwrap_err(),
            ProposeError::Stopped,
            "a node that has stopped says so"
        );
        let read = node.read(Bytes::new(), Consistency::Linearizable).await;
        assert_eq!(read.unwrap_err(), ReadError::Stopped);
    }
}

// On a runtime of one thread: whatever blocked it would be noticed.
#[tokio::test]
async fn nodes_without_threads_work_and_restart() {
    let (network, disks) = (Network::default(), disks());
    for start in 0..2 {
        let nodes: Vec<_> = (1..=NODES)
            .map(|id| start_tasks(&network, &disks[id as usize - 1], id, NODES))
            .collect();
        let leading = leader(&nodes.iter().collect::<Vec<_>>()).await;
        for number in 1..=10 {
            add(leading, number).await;
        }
        for node in &nodes {
            let sum = node.read(Bytes::new(), Consistency::Linearizable).await.unwrap();
            assert_eq!(text(&sum), 55 * (start + 1));
        }
        for node in &nodes {
            node.shutdown().await;
            assert_eq!(node.stopped().await, StopReason::Shutdown);
        }
        // The lock of a disk is that of a process.
        disks.iter().for_each(MemDisk::kill);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn many_clients_share_writes_and_read_rounds() {
    let (network, disks) = (Network::default(), disks());
    let nodes: Vec<_> =
        (1..=NODES).map(|id| start(&network, &disks[id as usize - 1], id, NODES, |_| {})).collect();
    let leading = leader(&nodes.iter().collect::<Vec<_>>()).await;
    let clients: Vec<_> = (0..64)
        .map(|_| {
            let node = leading.clone();
            tokio::spawn(async move {
                for _ in 0..50 {
                    add(&node, 1).await;
                    node.read(Bytes::new(), Consistency::Linearizable).await.unwrap();
                }
            })
        })
        .collect();
    for client in clients {
        client.await.unwrap();
    }
    let sum = leading.read(Bytes::new(), Consistency::Linearizable).await.unwrap();
    assert_eq!(text(&sum), 3200);
    let metrics = leading.metrics();
    assert_eq!(metrics.proposals, 3200);
    assert!(metrics.persists < 3200, "writes are grouped: {metrics:?}");
    assert!(metrics.read_rounds < 3200, "reads share rounds: {metrics:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn the_death_of_the_leader_loses_nothing_that_was_acknowledged() {
    let (network, disks) = (Network::default(), disks());
    let mut nodes: Vec<_> =
        (1..=NODES).map(|id| start(&network, &disks[id as usize - 1], id, NODES, |_| {})).collect();
    let leading = leader(&nodes.iter().collect::<Vec<_>>()).await.clone();
    for _ in 0..50 {
        add(&leading, 1).await;
    }
    let dead = leading.status().raft.id;
    leading.shutdown().await;
    nodes.retain(|node| node.status().raft.id != dead);
    let next = leader(&nodes.iter().collect::<Vec<_>>()).await;
    assert_eq!(add(next, 1).await, 51);
    // It restarts from its disk, and has everything.
    let disk = &disks[dead.0 as usize - 1];
    disk.kill();
    let back = start(&network, disk, dead.0, NODES, |config| config.raft.campaign_at_start = false);
    let sum = back.read(Bytes::new(), Consistency::Linearizable).await.unwrap();
    assert_eq!(text(&sum), 51);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_cut_off_leader_tells_the_truth_about_what_it_could_not_commit() {
    let (network, disks) = (Network::default(), disks());
    // The leader does not step down before it was asked.
    let adapt = |config: &mut DriverConfig| config.raft.election_ticks = 250;
    let nodes: Vec<_> =
        (1..=NODES).map(|id| start(&network, &disks[id as usize - 1], id, NODES, adapt)).collect();
    let old = leader(&nodes.iter().collect::<Vec<_>>()).await.clone();
    add(&old, 1).await;
    let cut = old.status().raft.id;
    let others: Vec<u64> = (1..=NODES).filter(|id| *id != cut.0).collect();
    network.isolate(cut.0, &others);
    let lost = old.propose(Bytes::from_static(b"10")).await.unwrap();
    let term = old.status().raft.term;
    let waiting = {
        let (old, number) = (old.clone(), lost.number);
        tokio::spawn(async move { old.wait_applied(number, Some(term)).await })
    };
    let short =
        old.propose_within(Bytes::from_static(b"100"), Duration::from_millis(20)).await.unwrap();
    assert_eq!(short.done.await, Err(Outcome::Unknown), "nobody can tell yet");
    let read = old.read_within(Bytes::new(), Consistency::Linearizable, Duration::from_millis(50));
    assert!(matches!(read.await, Err(ReadError::Timeout | ReadError::NoLeader)));
    // It still answers from old state if the read permits that.
    let stale = Consistency::Stale { max_age: Duration::MAX };
    assert_eq!(text(&old.read(Bytes::new(), stale).await.unwrap()), 1);

    let rest: Vec<_> = nodes.iter().filter(|node| node.status().raft.id != cut).collect();
    let new = leader(&rest).await;
    assert_eq!(add(new, 1000).await, 1001);
    network.heal();
    assert_eq!(lost.done.await, Err(Outcome::NotDone));
    assert_eq!(waiting.await.unwrap(), Err(WaitError::Superseded));
    let sum = old.read(Bytes::new(), Consistency::Linearizable).await.unwrap();
    assert_eq!(text(&sum), 1001);
    assert!(new.status().raft.term > Term(1));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_peer_that_is_gone_slows_nobody() {
    let (network, disks) = (Network::default(), disks());
    let nodes: Vec<_> =
        (1..=NODES).map(|id| start(&network, &disks[id as usize - 1], id, NODES, |_| {})).collect();
    let leading = leader(&nodes.iter().collect::<Vec<_>>()).await;
    let id = leading.status().raft.id.0;
    let other = (1..=NODES).find(|other| *other != id).unwrap();
    let third = (1..=NODES).find(|third| ![id, other].contains(third)).unwrap();
    network.isolate(other, &[id, third]);
    let term = leading.status().raft.term;
    for sum in 1..=200 {
        assert_eq!(add(leading, 1).await, sum);
    }
    // A leader that waited for the lost peer would not have received replies from its quorum in
    // time.
    assert_eq!(leading.status().raft.term, term);
    assert!(leading.status().serving());
}

#[tokio::test(flavor = "multi_thread")]
async fn snapshots_free_the_log_and_bring_a_node_back_that_is_far_behind() {
    let (network, disks) = (Network::default(), disks());
    let small = |config: &mut driver::DriverConfig| {
        config.raft.snapshot_log_bytes = 2_000;
        config.raft.retained_bytes = 500;
        config.raft.catch_up_bytes_max = 0;
    };
    let nodes: Vec<_> =
        (1..=NODES).map(|id| start(&network, &disks[id as usize - 1], id, NODES, small)).collect();
    let leading = leader(&nodes.iter().collect::<Vec<_>>()).await;
    let id = leading.status().raft.id.0;
    let behind = (1..=NODES).find(|other| *other != id).unwrap();
    let rest: Vec<u64> = (1..=NODES).filter(|other| *other != behind).collect();
    network.isolate(behind, &rest);
    for _ in 0..300 {
        add(leading, 1).await;
    }
    eventually("a snapshot", || leading.status().raft.snapshot.last.index.0 > 200).await;
    network.heal();
    let late = &nodes[behind as usize - 1];
    let sum = late.read(Bytes::new(), Consistency::Linearizable).await.unwrap();
    assert_eq!(text(&sum), 300);
    assert_eq!(late.metrics().snapshots_received, 1);

    // All of them start again from their snapshots.
    for node in &nodes {
        node.shutdown().await;
    }
    for disk in &disks {
        let kept = disk.paths().iter().filter(|path| path.ends_with(".snap")).count();
        assert!((1..=2).contains(&kept), "old snapshots are removed: {:?}", disk.paths());
        // The process that held the lock is gone.
        disk.kill();
    }
    let nodes: Vec<_> =
        (1..=NODES).map(|id| start(&network, &disks[id as usize - 1], id, NODES, small)).collect();
    for node in &nodes {
        let count =
            node.read(Bytes::from_static(b"count"), Consistency::Linearizable).await.unwrap();
        assert_eq!(text(&count), 300);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_more_than_the_limits_allow_is_refused_as_busy() {
    let (network, disks) = (Network::default(), disks());
    // One of three nodes has no leader, so every accepted call waits.
    let node = start(&network, &disks[0], 1, NODES, |config| {
        config.limits.reads_waiting_max = 1;
        config.limits.waiters_max = 1;
    });
    let read = |timeout| node.read_within(Bytes::new(), Consistency::Linearizable, timeout);
    let refused = tokio::select! {
        biased;
        taken = read(Duration::MAX) => panic!("{taken:?}"),
        refused = read(Duration::MAX) => refused,
    };
    assert_eq!(refused.unwrap_err(), ReadError::Busy);
    assert_eq!(read(Duration::from_millis(50)).await.unwrap_err(), ReadError::NoLeader);
    let far = CommandNumber(1_000);
    let refused = tokio::select! {
        biased;
        taken = node.wait_applied(far, None) => panic!("{taken:?}"),
        refused = node.wait_applied(far, None) => refused,
    };
    assert_eq!(refused, Err(WaitError::Busy));
    node.shutdown().await;
}

/// The result of the future, if it has one at once.
async fn poll_once<F: Future>(mut future: Pin<&mut F>) -> Option<F::Output> {
    let poll = |context: &mut Context<'_>| Poll::Ready(future.as_mut().poll(context));
    match poll_fn(poll).await {
        Poll::Ready(result) => Some(result),
        Poll::Pending => None,
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_wait_given_up_while_there_is_no_room_to_say_so_is_forgotten() {
    let node = start(&Network::default(), &MemDisk::new(), 1, 1, |config| {
        config.limits.machine_calls_max = 1;
    });
    leader(&[&node]).await;
    let far = CommandNumber(1_000);
    let mut first = Box::pin(node.wait_applied(far, None));
    assert_eq!(poll_once(first.as_mut()).await, None);
    // Once the first is taken, the state machine is busy, and the second stays in the queue.
    eventually("the first waits", || node.status().load.waiters == 1).await;
    let gate = Gate::new();
    let slow = node.propose(gate.command()).await.unwrap();
    eventually("the machine is busy", || gate.is_reached()).await;
    let mut second = Box::pin(node.wait_applied(far, None));
    assert_eq!(poll_once(second.as_mut()).await, None);
    assert_eq!(node.wait_applied(far, None).await, Err(WaitError::Busy));
    drop((first, second));
    drop(gate);
    slow.done.await.unwrap();
    assert_eq!(add(&node, 1).await, 1);
    eventually("nobody waits", || node.status().load.waiters == 0).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_leader_hands_over_on_request_and_when_it_is_shut_down() {
    let (network, disks) = (Network::default(), disks());
    let nodes: Vec<_> =
        (1..=NODES).map(|id| start(&network, &disks[id as usize - 1], id, NODES, |_| {})).collect();
    let first = leader(&nodes.iter().collect::<Vec<_>>()).await;
    add(first, 1).await;
    let target = nodes.iter().map(|node| node.status().raft.id);
    let target = target.filter(|id| *id != first.status().raft.id).max().unwrap();
    let term = first.status().raft.term;
    assert_eq!(first.transfer(Some(target)).await, Ok(target));
    let second = &nodes[target.0 as usize - 1];
    eventually("it serves", || second.status().serving()).await;
    assert_eq!(second.status().raft.term, Term(term.0 + 1), "one election is enough");
    assert_eq!(add(second, 2).await, 3);
    let refused = first.transfer(None).await.unwrap_err();
    assert!(refused.to_string().contains("does not lead"), "{refused}");
    // When the shutdown has ended, another node leads or is about to: no timeout has to pass.
    second.shutdown().await;
    let terms = nodes.iter().filter(|node| node.status().raft.id != target);
    assert!(terms.map(|node| node.status().raft.term).max() > Some(Term(term.0 + 1)));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_panic_of_the_state_machine_stops_the_node_and_hangs_nobody() {
    let node = start(&Network::default(), &MemDisk::new(), 1, 1, |_| {});
    leader(&[&node]).await;
    let waiting = {
        let node = node.clone();
        tokio::spawn(async move { node.wait_applied(CommandNumber(99), None).await })
    };
    eventually("somebody waits", || node.status().load.waiters == 1).await;
    let proposal = node.propose(Bytes::from_static(b"panic")).await.unwrap();
    assert_eq!(proposal.done.await, Err(Outcome::Unknown));
    let reason = node.stopped().await;
    assert!(
        matches!(&reason, StopReason::StateMachine(said) if said.contains("the command says so")),
        "{reason}"
    );
    assert_eq!(waiting.await.unwrap(), Err(WaitError::Stopped));
    assert_eq!(node.status().stopped, Some(reason));
    node.shutdown().await;
}

/// A store that fails, or is full, on command.
struct Broken<L> {
    log: L,
    breaks: tokio::sync::watch::Receiver<Option<&'static str>>,
}

impl<L: LogStore> LogStore for Broken<L> {
    fn persist(&mut self, write: raft::Write) -> Result<raft::Durable, PersistError> {
        let breaks = *self.breaks.borrow();
        match breaks {
            None => self.log.persist(write),
            Some("full") => Err(PersistError::Full {
                write: Box::new(write),
                source: io::Error::from(io::ErrorKind::StorageFull),
            }),
            Some("hangs") => {
                let hangs = |mode: &Option<&str>| *mode == Some("hangs");
                while hangs(&self.breaks.borrow()) {
                    #[allow(clippy::disallowed_methods, reason = "the thread of the disk hangs")]
                    std::thread::sleep(Duration::from_millis(1));
                }
                self.log.persist(write)
            }
            Some(message) => Err(PersistError::Failed { source: io::Error::other(message) }),
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_failed_store_stops_the_node() {
    let (network, disk) = (Network::default(), MemDisk::new());
    let (log, restored) = open_log(&disk, 1, 1);
    let (breaking, breaks) = tokio::sync::watch::channel(None);
    let node = start_with(&network, &disk, 1, restored, Broken { log, breaks }, |_| {}, drop);
    leader(&[&node]).await;
    breaking.send(Some("sparks")).unwrap();
    let proposal = node.propose(Bytes::from_static(b"1")).await.unwrap();
    assert_eq!(proposal.done.await, Err(Outcome::Unknown));
    let reason = node.stopped().await;
    assert!(matches!(&reason, StopReason::Store(said) if said.contains("sparks")), "{reason}");
    assert_eq!(node.propose(Bytes::new()).await.unwrap_err(), ProposeError::Stopped);
    node.shutdown().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_full_disk_makes_the_node_read_only_until_there_is_room() {
    let (network, disk) = (Network::default(), MemDisk::new());
    let (log, restored) = open_log(&disk, 1, 1);
    let (breaking, breaks) = tokio::sync::watch::channel(None);
    let node = start_with(&network, &disk, 1, restored, Broken { log, breaks }, |_| {}, drop);
    leader(&[&node]).await;
    breaking.send(Some("full")).unwrap();
    let held_up = node.propose(Bytes::from_static(b"1")).await.unwrap();
    eventually("read-only", || node.status().read_only.is_some()).await;
    assert!(!node.status().serving());
    let refused = node.propose(Bytes::from_static(b"2")).await.unwrap_err();
    assert!(matches!(refused, ProposeError::ReadOnly { .. }), "{refused}");
    let sum = node.read(Bytes::new(), Consistency::Linearizable).await.unwrap();
    assert_eq!(text(&sum), 0);
    breaking.send(None).unwrap();
    assert_eq!(text(&held_up.done.await.unwrap()), 1);
    eventually("room", || node.status().serving()).await;
    assert_eq!(add(&node, 2).await, 3);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_snapshot_makes_room_in_a_log_at_its_bound() {
    let (network, disk) = (Network::default(), MemDisk::new());
    let (log, restored) = open_log_of(&disk, 1, 1, |log| log.bytes_max = 4 * log.segment_bytes);
    // No snapshot can be written at first, so the log grows to its bound.
    disk.set_faults(Box::new(|operation| match operation {
        DiskOperation::Create { path } if path.contains("snapshot") => {
            DiskVerdict::Fails { kind: io::ErrorKind::Other, done_bytes: 0 }
        }
        _ => DiskVerdict::Done,
    }));
    let small = |config: &mut DriverConfig| config.raft.snapshot_log_bytes = 64 << 10;
    let node = start_with(&network, &disk, 1, restored, log, small, drop);
    leader(&[&node]).await;
    let mut stuck = Vec::new();
    while node.status().read_only.is_none() {
        if let Ok(proposal) = node.propose(Bytes::from(vec![b'1'; 4 << 10])).await {
            stuck.push(proposal.done);
        }
        tokio::task::yield_now().await;
    }
    disk.clear_faults();
    for done in stuck {
        done.await.unwrap();
    }
    eventually("room", || node.status().serving()).await;
}

/// On one thread, the loop takes no call before both have been made.
#[tokio::test]
async fn commands_that_wait_have_a_limit_in_bytes() {
    let disk = MemDisk::new();
    let node = start(&Network::default(), &disk, 1, 1, |config| {
        config.limits.calls_bytes_max = 1_000;
    });
    leader(&[&node]).await;
    let large = || node.propose(Bytes::from(vec![b'1'; 600]));
    let (first, second) = tokio::join!(large(), large());
    assert!(first.is_ok(), "{first:?}");
    assert_eq!(second.unwrap_err(), ProposeError::Busy);
    // One command may be larger than the limit, and what was taken waits no more.
    node.propose(Bytes::from(vec![b'1'; 2_000])).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn overload_is_refused_and_status_does_not_wait() {
    let disk = MemDisk::new();
    let node = start(&Network::default(), &disk, 1, 1, |config| {
        config.raft.uncommitted_bytes_max = 4_000;
    });
    leader(&[&node]).await;
    // Nothing becomes durable while the sender exists.
    let (stuck, until_dropped) = mpsc::channel::<()>();
    disk.set_faults(Box::new(move |_| {
        let _ = until_dropped.recv();
        DiskVerdict::Done
    }));
    let slow = node.propose(Bytes::from_static(b"1")).await.unwrap();
    let mut busy = 0;
    for _ in 0..20 {
        let refused = node.propose(Bytes::from(vec![b'x'; 500])).await;
        busy += usize::from(matches!(refused, Err(ProposeError::Busy)));
    }
    assert!(busy >= 10, "the limit was reached {busy} times");
    // The call would never return if it waited for the disk.
    assert!(node.status().raft.serving);
    drop(stuck);
    slow.done.await.unwrap();
    let too_large = node.propose(Bytes::from(vec![0; 9 << 20])).await.unwrap_err();
    assert!(matches!(too_large, ProposeError::TooLarge { .. }));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_leader_whose_disk_is_full_leaves_the_lead_to_others() {
    let (network, disks) = (Network::default(), disks());
    let (breaking, breaks) = tokio::sync::watch::channel(None);
    let (log, restored) = open_log(&disks[0], 1, NODES);
    let store = Broken { log, breaks };
    let mut nodes = vec![start_with(&network, &disks[0], 1, restored, store, |_| {}, drop)];
    for id in 2..=NODES {
        nodes.push(start(&network, &disks[id as usize - 1], id, NODES, |_| {}));
    }
    let leading = leader(&nodes.iter().collect::<Vec<_>>()).await;
    assert_eq!(leading.status().raft.id.0, 1, "the one that campaigns at once");
    assert_eq!(add(leading, 1).await, 1);
    breaking.send(Some("full")).unwrap();
    let held_up = leading.propose(Bytes::from_static(b"2")).await.unwrap();
    let others: Vec<_> = nodes[1..].iter().collect();
    let next = leader(&others).await;
    assert_eq!(add(next, 4).await, 7, "what the others had on their disks is committed");
    let sick = &nodes[0];
    eventually("not ready", || matches!(sick.status().ready(), Err(NotReady::DiskFull { .. })))
        .await;
    assert!(!sick.status().raft.serving);
    let refused = sick.propose(Bytes::from_static(b"8")).await.unwrap_err();
    assert!(matches!(refused, ProposeError::NotLeader { leader: Some(_) }), "{refused}");

    breaking.send(None).unwrap();
    assert_eq!(text(&held_up.done.await.unwrap()), 3);
    eventually("ready again", || sick.status().ready().is_ok()).await;
    let sum = sick.read(Bytes::new(), Consistency::Linearizable).await.unwrap();
    assert_eq!(text(&sum), 7);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_leader_whose_followers_store_nothing_is_not_ready_and_says_why() {
    let (network, disks) = (Network::default(), disks());
    let (breaking, breaks) = tokio::sync::watch::channel(None);
    let mut nodes = vec![start(&network, &disks[0], 1, NODES, |_| {})];
    for id in 2..=NODES {
        let disk = &disks[id as usize - 1];
        let (log, restored) = open_log(disk, id, NODES);
        let store = Broken { log, breaks: breaks.clone() };
        nodes.push(start_with(&network, disk, id, restored, store, |_| {}, drop));
    }
    let leading = leader(&nodes.iter().collect::<Vec<_>>()).await;
    assert_eq!(leading.status().raft.id.0, 1, "the one that campaigns at once");
    assert_eq!(add(leading, 1).await, 1);
    eventually("ready", || leading.status().ready().is_ok()).await;
    breaking.send(Some("full")).unwrap();
    let held_up = leading.propose_within(Bytes::from_static(b"2"), PATIENCE).await.unwrap();
    let commits_nothing =
        || matches!(leading.status().ready(), Err(NotReady::NotCommitting { .. }));
    eventually("not ready", commits_nothing).await;
    assert!(leading.status().raft.serving, "its followers answer, so it leads on");
    breaking.send(None).unwrap();
    assert_eq!(text(&held_up.done.await.unwrap()), 3);
    eventually("ready again", || leading.status().ready().is_ok()).await;
}

/// A cluster whose last node has a store that breaks on command.
fn last_breaks() -> (Vec<Handle<Counter>>, tokio::sync::watch::Sender<Option<&'static str>>) {
    let (network, disks) = (Network::default(), disks());
    let mut nodes: Vec<_> =
        (1..NODES).map(|id| start(&network, &disks[id as usize - 1], id, NODES, |_| {})).collect();
    let (breaking, breaks) = tokio::sync::watch::channel(None);
    let (log, restored) = open_log(&disks[2], NODES, NODES);
    let store = Broken { log, breaks };
    nodes.push(start_with(&network, &disks[2], NODES, restored, store, |_| {}, drop));
    (nodes, breaking)
}

/// It applies only what it has stored, so a command that it forwarded would get no answer.
#[tokio::test(flavor = "multi_thread")]
async fn a_follower_that_stores_nothing_refuses_commands() {
    let (nodes, breaking) = last_breaks();
    let leading = leader(&nodes.iter().collect::<Vec<_>>()).await;
    let follower = &nodes[2];
    eventually("it follows", || follower.status().ready().is_ok()).await;
    breaking.send(Some("full")).unwrap();
    assert_eq!(add(leading, 1).await, 1);
    eventually("read-only", || follower.status().read_only.is_some()).await;
    let refused = follower.execute(Bytes::from_static(b"2")).await.unwrap_err();
    assert!(matches!(&refused, AttemptError::Refused(ProposeError::ReadOnly { .. })), "{refused}");
    let stale = follower.read(Bytes::new(), Consistency::Linearizable).await;
    assert_eq!(stale, Err(ReadError::ReadOnly));
    let any_age = Consistency::Stale { max_age: Duration::MAX };
    assert_eq!(text(&follower.read(Bytes::new(), any_age).await.unwrap()), 0);
    breaking.send(None).unwrap();
    eventually("room", || follower.status().ready().is_ok()).await;
    assert_eq!(text(&follower.execute(Bytes::from_static(b"4")).await.unwrap()), 5);
}

/// Its caller had better ask another node at once.
#[tokio::test(flavor = "multi_thread")]
async fn a_read_that_waits_at_a_follower_whose_disk_hangs_is_given_up() {
    let (nodes, breaking) = last_breaks();
    let leading = leader(&nodes.iter().collect::<Vec<_>>()).await;
    let follower = &nodes[2];
    eventually("it follows", || follower.status().ready().is_ok()).await;
    breaking.send(Some("hangs")).unwrap();
    assert_eq!(add(leading, 1).await, 1);
    let stuck = follower.read(Bytes::new(), Consistency::Linearizable).await;
    assert_eq!(stuck, Err(ReadError::ReadOnly));
    breaking.send(None).unwrap();
    eventually("it goes on", || follower.status().ready().is_ok()).await;
    assert_eq!(text(&follower.read(Bytes::new(), Consistency::Linearizable).await.unwrap()), 1);
}

/// It cannot store the entries that remove it, so its own log never shows it.
#[tokio::test(flavor = "multi_thread")]
async fn a_voter_that_is_removed_while_its_disk_is_full_stops() {
    let (nodes, breaking) = last_breaks();
    let leading = leader(&nodes.iter().collect::<Vec<_>>()).await;
    assert_eq!(leading.status().raft.id.0, 1, "the one that campaigns at once");
    let removed = &nodes[2];
    eventually("it follows", || removed.status().ready().is_ok()).await;
    breaking.send(Some("full")).unwrap();
    add(leading, 1).await;
    eventually("it does not campaign any more", || removed.status().raft.disk_stalled).await;
    let Membership { mut members, mut voters, .. } = leading.status().raft.membership.clone();
    members.remove(&NodeId(NODES));
    voters.remove(&NodeId(NODES));
    let change = Change::to(members, voters);
    let begun = leading.set_members(change.clone()).await.unwrap();
    leading.members_set(begun, &change).await.unwrap();
    eventually("it stops", || removed.status().stopped.is_some()).await;
    assert_eq!(removed.stopped().await, StopReason::NotAMember);
    assert!(removed.status().raft.durable < begun, "its disk is full to the end");
    assert_eq!(add(leading, 1).await, 2);
}

#[tokio::test(flavor = "multi_thread")]
async fn readiness_follows_the_truth() {
    let (network, disks) = (Network::default(), disks());
    let first = start(&network, &disks[0], 1, NODES, |_| {});
    let why = first.status().ready().unwrap_err();
    assert!(matches!(why, NotReady::Starting | NotReady::NoLeader), "{why}");
    let second = start(&network, &disks[1], 2, NODES, |_| {});
    let third = start(&network, &disks[2], 3, NODES, |_| {});
    let nodes = [first, second, third];
    for node in &nodes {
        eventually("ready", || node.status().ready().is_ok()).await;
    }
    let leading = leader(&nodes.iter().collect::<Vec<_>>()).await;
    let id = leading.status().raft.id.0;
    let cut_off = nodes.iter().find(|node| node.status().raft.id.0 != id).unwrap();
    let other = cut_off.status().raft.id.0;
    let rest: Vec<u64> = (1..=NODES).filter(|peer| *peer != other).collect();
    network.isolate(other, &rest);
    eventually("no leader", || matches!(cut_off.status().ready(), Err(NotReady::NoLeader))).await;
    let silent = || {
        let status = leading.status();
        let peer = status.raft.peers.iter().find(|peer| peer.id.0 == other).cloned();
        peer.is_none_or(|peer| status.tick * peer.silent_ticks > Duration::from_millis(500))
    };
    eventually("the leader tells for how long a peer is silent", silent).await;
    network.heal();
    eventually("ready again", || cut_off.status().ready().is_ok()).await;
    cut_off.shutdown().await;
    let why = cut_off.status().ready().unwrap_err();
    assert_eq!(why, NotReady::Stopped(StopReason::Shutdown));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_follower_whose_leader_is_gone_is_not_ready_before_the_election() {
    let (network, disks) = (Network::default(), disks());
    // The election timeout is 20 s: the test ends before it.
    let adapt = |config: &mut DriverConfig| config.raft.election_ticks = 1_000;
    let nodes: Vec<_> =
        (1..=NODES).map(|id| start(&network, &disks[id as usize - 1], id, NODES, adapt)).collect();
    for node in &nodes {
        eventually("ready", || node.status().ready().is_ok()).await;
    }
    let (leading, following) = (&nodes[0], &nodes[1]);
    assert!(leading.status().raft.serving, "the one that campaigns at once");
    // A healthy cluster stays ready, and so does a follower that cannot dial its leader for a
    // while but receives from it.
    network.cut(2, 1);
    let received = following.metrics().messages_received;
    eventually("50 messages of its leader", || {
        assert_eq!(following.status().ready(), Ok(()));
        following.metrics().messages_received >= received + 50
    })
    .await;
    network.heal();
    // As if its power had failed: a leader that shuts down hands over.
    network.isolate(1, &[2, 3]);
    eventually("not ready", || following.status().ready().is_err()).await;
    let status = following.status();
    assert_eq!(status.raft.leader, Some(NodeId(1)), "the election timeout has not passed");
    assert_eq!(status.ready().unwrap_err().to_string(), "the leader is not connected");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_snapshot_that_its_owner_cannot_read_is_taken_anew() {
    let (network, disks) = (Network::default(), disks());
    let small = |config: &mut driver::DriverConfig| {
        config.raft.snapshot_log_bytes = 2_000;
        config.raft.retained_bytes = 0;
        config.raft.catch_up_bytes_max = 0;
    };
    let nodes: Vec<_> =
        (1..=NODES).map(|id| start(&network, &disks[id as usize - 1], id, NODES, small)).collect();
    let leading = leader(&nodes.iter().collect::<Vec<_>>()).await;
    let id = leading.status().raft.id.0;
    let behind = (1..=NODES).find(|other| *other != id).unwrap();
    let rest: Vec<u64> = (1..=NODES).filter(|other| *other != behind).collect();
    network.isolate(behind, &rest);
    for _ in 0..300 {
        add(leading, 1).await;
    }
    eventually("a snapshot", || leading.status().raft.snapshot.last.index.0 > 200).await;
    let disk = &disks[id as usize - 1];
    let base = leading.status().raft.snapshot.last;
    let path = disk.paths().into_iter().rfind(|path| path.ends_with(".snap")).unwrap();
    disk.damage(&path, 60, &[0xee; 4]);
    network.heal();
    let late = &nodes[behind as usize - 1];
    let sum = late.read(Bytes::new(), Consistency::Linearizable).await.unwrap();
    assert_eq!(text(&sum), 300);
    assert!(late.metrics().snapshots_received >= 1, "{base} was damaged");
}
