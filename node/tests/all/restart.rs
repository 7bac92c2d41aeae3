//! Nodes with a typed state machine, killed and started again.

use quorate::{
    ApplyContext, Consistency, DriverConfig, ExecuteError, LogTime, Node, NotDone, SessionNumber,
    StartError, StopReason, TypedError, TypedMachine, TypedNode,
};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::net::TcpListener;
use std::path::Path;
use std::time::Duration;

#[derive(Clone, Default, Serialize, Deserialize)]
struct Counter(i64);

impl TypedMachine for Counter {
    type Command = i64;
    type Reply = i64;
    type Query = ();
    type Answer = i64;

    fn apply(&mut self, _at: ApplyContext, add: i64) -> i64 {
        self.0 += add;
        self.0
    }

    fn query(&self, _time: LogTime, (): ()) -> i64 {
        self.0
    }
}

/// Addresses of this machine on which nothing listened a moment ago.
fn addresses(count: u64) -> Vec<(u64, String)> {
    let listeners: Vec<TcpListener> = (0..count).map(|_| crate::listener()).collect();
    let address = |listener: &TcpListener| listener.local_addr().unwrap().to_string();
    (1..).zip(listeners.iter().map(address)).collect()
}

async fn start(
    id: u64,
    members: &[(u64, String)],
    data: &Path,
) -> Result<TypedNode<Counter>, StartError> {
    loop {
        let builder = TypedNode::builder(Counter::default()).id(id).members(members.to_vec());
        // Long, so that a busy machine causes no elections.
        let builder = builder.election_timeout(std::time::Duration::from_secs(1));
        match builder.data_dir(data.join(id.to_string())).bootstrap().start_typed().await {
            // A node that was dropped a moment ago may still hold its address and its directory.
            Err(StartError::Listen { .. } | StartError::Lock(_)) => {
                tokio::time::sleep(std::time::Duration::from_millis(20)).await;
            }
            started => return started,
        }
    }
}

async fn start_all(members: &[(u64, String)], data: &Path) -> Vec<TypedNode<Counter>> {
    let mut starting = tokio::task::JoinSet::new();
    for (id, _) in members {
        let (id, members, data) = (*id, members.to_vec(), data.to_owned());
        starting.spawn(async move { start(id, &members, &data).await });
    }
    let started = starting.join_all().await;
    let mut nodes: Vec<_> = started.into_iter().map(|node| node.unwrap()).collect();
    nodes.sort_by_key(|node| node.id());
    nodes
}

/// The index of the node that leads and accepts commands.
async fn leader(nodes: &[TypedNode<Counter>]) -> usize {
    loop {
        if let Some(at) = nodes.iter().position(|node| node.status().serving()) {
            return at;
        }
        tokio::time::sleep(std::time::Duration::from_millis(10)).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_was_answered_is_there_after_all_nodes_were_killed() {
    let data = tempfile::tempdir().unwrap();
    let members = addresses(3);
    let nodes = start_all(&members, data.path()).await;
    // On any node, leader or not.
    for add in 1..=9 {
        let node = &nodes[add as usize % 3];
        assert_eq!(node.execute(&add).await.unwrap(), add * (add + 1) / 2);
    }
    // As if the processes had been killed: no message is sent, nothing is synced.
    drop(nodes);
    let nodes = start_all(&members, data.path()).await;
    for node in &nodes {
        assert_eq!(node.read(&(), Consistency::Linearizable).await.unwrap(), 45);
    }
    let leader = nodes[0].leader().unwrap();
    assert!(members.contains(&(leader.id.0, leader.peer_address)));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_repeated_command_of_a_session_gets_the_first_reply() {
    let data = tempfile::tempdir().unwrap();
    let members = addresses(3);
    let nodes = start_all(&members, data.path()).await;
    let session = nodes[0].open_session().await.unwrap();
    let number = SessionNumber { session, number: 1, repeats_from: 0 };
    assert_eq!(nodes[0].execute_in_session(number, &5).await.unwrap(), 5);
    assert_eq!(nodes[1].execute(&2).await.unwrap(), 7);
    drop(nodes);
    let nodes = start_all(&members, data.path()).await;
    assert_eq!(nodes[2].execute_in_session(number, &5).await.unwrap(), 5);
    assert_eq!(nodes[2].read(&(), Consistency::Linearizable).await.unwrap(), 7);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_command_that_cannot_be_decoded_stops_the_node() {
    let data = tempfile::tempdir().unwrap();
    let node = start_all(&addresses(1), data.path()).await.remove(0);
    assert_eq!(node.execute(&1).await.unwrap(), 1);
    let no_command = b"of another version, and long enough".as_slice();
    let unknown = Node::execute(&node, no_command).await.unwrap_err();
    assert!(matches!(unknown, ExecuteError::Unknown { .. }), "{unknown}");
    match node.stopped().await {
        StopReason::StateMachine(why) => assert!(why.contains("cannot be decoded"), "{why}"),
        other => panic!("{other}"),
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_node_is_ready_once_it_has_a_leader_and_never_without_a_majority() {
    let data = tempfile::tempdir().unwrap();
    let members = addresses(3);
    let nodes = start_all(&members, data.path()).await;
    for node in &nodes {
        node.ready().await.unwrap();
        assert!(node.leader().is_some());
    }
    for node in nodes {
        node.shutdown().await;
    }
    let alone = start(1, &members, data.path()).await.unwrap();
    let handle = alone.handle().clone();
    let waiting = async { alone.ready().await };
    let stopping = async {
        while handle.status().not_ready.is_none() {
            tokio::task::yield_now().await;
        }
        handle.shutdown().await;
    };
    assert_eq!(tokio::join!(waiting, stopping).0, Err(StopReason::Shutdown));
}

/// Its commands cannot be decoded or encoded.
#[derive(Clone, Default, Serialize, Deserialize)]
struct Unsupported;

#[derive(Clone, Serialize, Deserialize)]
#[serde(untagged)]
enum Loose {
    Number(i64),
}

#[derive(Clone, Serialize, Deserialize)]
struct Flat {
    #[serde(flatten)]
    rest: BTreeMap<String, i64>,
}

impl TypedMachine for Unsupported {
    type Command = Result<Loose, Flat>;
    type Reply = ();
    type Query = ();
    type Answer = ();

    fn apply(&mut self, _at: ApplyContext, _command: Result<Loose, Flat>) {}

    fn query(&self, _time: LogTime, (): ()) {}
}

#[tokio::test(flavor = "multi_thread")]
async fn a_command_whose_type_the_codec_does_not_support_is_not_sent() {
    let data = tempfile::tempdir().unwrap();
    let builder = TypedNode::builder(Unsupported).id(1).members(addresses(1));
    let node = builder.data_dir(data.path()).bootstrap().start_typed().await.unwrap();
    for command in [Ok(Loose::Number(1)), Err(Flat { rest: BTreeMap::new() })] {
        let refused = node.execute(&command).await.unwrap_err();
        assert!(matches!(refused, TypedError::NotCodable { .. }), "{refused}");
    }
    node.read(&(), Consistency::Linearizable).await.unwrap();
    assert_eq!(node.status().stopped, None);
}

/// Its state cannot be encoded.
impl TypedMachine for Flat {
    type Command = ();
    type Reply = ();
    type Query = ();
    type Answer = ();

    fn apply(&mut self, _at: ApplyContext, (): ()) {}

    fn query(&self, _time: LogTime, (): ()) {}
}

#[tokio::test]
async fn what_no_node_can_run_with_is_refused_before_anything_is_on_the_disk() {
    let data = tempfile::tempdir().unwrap();
    let directory = data.path().join("data");
    let flat = TypedNode::builder(Flat { rest: BTreeMap::new() }).id(1).members(addresses(1));
    let refused = flat.data_dir(&directory).bootstrap().start_typed().await.unwrap_err();
    assert!(matches!(refused, StartError::State(_)), "{refused}");
    let changes: [fn(&mut DriverConfig); 4] = [
        |config| config.tick = Duration::ZERO,
        |config| config.tick = Duration::MAX,
        |config| config.raft.heartbeat_ticks = u32::MAX,
        |config| config.raft.command_bytes_max = usize::MAX,
    ];
    for change in changes {
        let builder = TypedNode::builder(Counter(0)).id(1).members(addresses(1)).tune(change);
        let refused = builder.data_dir(&directory).bootstrap().start_typed().await.unwrap_err();
        assert!(matches!(refused, StartError::Config(_)), "{refused}");
    }
    let builder = TypedNode::builder(Counter(0)).id(1).lease_drift_ppm(300_000);
    let refused = builder.members(addresses(1)).data_dir(&directory).bootstrap().start().await;
    assert!(matches!(refused, Err(StartError::Config(_))));
    assert!(!directory.exists(), "nothing is founded with settings that no node can have");
}

/// A follower forwards each command in a message of its own, and the queue to the leader holds 256.
#[tokio::test(flavor = "multi_thread")]
async fn a_follower_forwards_no_more_commands_at_once_than_its_queue_holds() {
    const COMMANDS: i64 = 3_000;
    let data = tempfile::tempdir().unwrap();
    let nodes = start_all(&addresses(3), data.path()).await;
    let follower = &nodes[(leader(&nodes).await + 1) % 3];
    let adds = (0..COMMANDS).map(|_| async { follower.execute(&1).await.unwrap() });
    let mut answers = futures_util::future::join_all(adds).await;
    answers.sort_unstable();
    assert_eq!(answers, (1..=COMMANDS).collect::<Vec<_>>());
    let repeated = follower.handle().metrics().proposals_repeated;
    assert_eq!(repeated, 0, "commands were dropped on their way to the leader");
}

#[tokio::test(flavor = "multi_thread")]
async fn without_a_majority_a_command_is_not_said_to_be_done() {
    let data = tempfile::tempdir().unwrap();
    let members = addresses(3);
    let mut nodes = start_all(&members, data.path()).await;
    let leader = leader(&nodes).await;
    nodes[leader].execute(&1).await.unwrap();
    let first = nodes.remove(leader);
    for node in nodes {
        node.into_inner().shutdown().await;
    }
    match first.execute(&1).await.unwrap_err() {
        TypedError::Node(ExecuteError::NotDone { why: NotDone::NoLeader, .. }) => {}
        // It still led, and appended the command.
        TypedError::Node(ExecuteError::Unknown { .. }) => {}
        other => panic!("{other}"),
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_directory_is_not_used_for_what_it_is_not() {
    let data = tempfile::tempdir().unwrap();
    let members = addresses(3);
    let nodes = start_all(&members, data.path()).await;
    // No second node can use the directory meanwhile.
    let other = addresses(1).remove(0).1.parse().unwrap();
    let again = TypedNode::builder(Counter::default()).id(1).members(members.clone()).listen(other);
    let again = again.data_dir(data.path().join("1")).bootstrap().start().await.unwrap_err();
    assert!(matches!(again, StartError::Lock(_)), "{again}");
    for node in nodes {
        node.into_inner().shutdown().await;
    }
    let wrong = TypedNode::builder(Counter::default()).id(2).members(members.clone());
    let wrong = wrong.data_dir(data.path().join("1")).bootstrap().start().await.unwrap_err();
    assert!(wrong.to_string().contains("belongs to node 1"), "{wrong}");
    let empty = TypedNode::builder(Counter::default()).id(1).members(members.clone());
    let empty = empty.data_dir(data.path().join("new")).start().await.unwrap_err();
    assert!(matches!(empty, StartError::NoState { .. }), "{empty}");
    let stranger = TypedNode::builder(Counter::default()).id(7).members(members);
    let stranger = stranger.data_dir(data.path().join("new")).start().await.unwrap_err();
    assert!(matches!(stranger, StartError::NotAMember(_)), "{stranger}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_node_whose_directory_is_removed_while_it_waits_does_not_become_a_member() {
    for joins in [true, false] {
        let data = tempfile::tempdir().unwrap();
        let (own, members) = (data.path().join("1"), addresses(2));
        let builder = TypedNode::builder(Counter::default()).id(1).members(members).data_dir(&own);
        let builder = if joins { builder.join() } else { builder.bootstrap() };
        let waiting = tokio::spawn(builder.start());
        while !own.join("IDENTITY").exists() {
            tokio::time::sleep(std::time::Duration::from_millis(5)).await;
        }
        std::fs::remove_dir_all(&own).unwrap();
        let error = waiting.await.unwrap().unwrap_err();
        assert!(matches!(&error, StartError::Disk { .. }), "{error}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_list_of_members_that_no_cluster_can_have_is_refused() {
    let data = tempfile::tempdir().unwrap();
    let refused = async |members: &[(u64, &str)]| {
        let members: Vec<(u64, String)> =
            members.iter().map(|(id, address)| (*id, (*address).to_owned())).collect();
        start(1, &members, data.path()).await.unwrap_err().to_string()
    };
    let (one, two) = ((1, "127.0.0.1:9001"), (2, "127.0.0.1:9002"));
    assert!(refused(&[one, two, two]).await.contains("node 2 is in the list of members twice"));
    let many: Vec<_> = (1..=65).map(|id| (id, "127.0.0.1:9001")).collect();
    assert!(refused(&many).await.contains("65 members, and a cluster has at most 64"));
    assert!(refused(&[one, (2, "127.0.0.1:9001")]).await.contains("1 and 2 both have the address"));
    for address in ["host", "host:", ":9002", "host:0", "host:70000", "host:port"] {
        let text = refused(&[one, (2, address)]).await;
        assert!(text.contains("which is not host:port"), "{text}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn every_setting_can_be_changed_and_one_out_of_range_is_refused() {
    let (data, members) = (tempfile::tempdir().unwrap(), addresses(1));
    let builder = || {
        let builder = TypedNode::builder(Counter::default()).id(1).members(members.clone());
        builder.data_dir(data.path()).bootstrap().campaign_at_start(true)
    };
    let mut log = quorate::LogConfig::default();
    log.segment_bytes = 5_000;
    let error = builder().log(log).start_typed().await.unwrap_err();
    assert!(error.to_string().contains("segment_bytes is 5000"), "{error}");
    let node = builder().tune(|config| config.raft.command_bytes_max = 1).start_typed();
    let refused = node.await.unwrap().execute(&1_000_000).await.unwrap_err();
    let why = NotDone::TooLarge { limit_bytes: 1 };
    assert!(
        matches!(&refused, TypedError::Node(ExecuteError::NotDone { why: found, .. }) if *found == why),
        "{refused}"
    );
}
