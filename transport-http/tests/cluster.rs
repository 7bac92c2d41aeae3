//! Whole nodes on 127.0.0.1: the real driver and log, with this transport between them.

use bytes::Bytes;
use driver::{
    At, Driver, DriverConfig, Frozen, Handle, ReadMode, RestoreError, Seams, StateMachine,
    TokioClock, Transport, inbox,
};
use raft::{
    Body, Config, Incarnation, Member, Membership, Message, NodeId, Restored, Snapshot, Term,
};
use std::io::{self, Read, Write};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};
use storage::{ClusterId, Identity, Log, LogConfig, RealDisk, Snapshots};
use tempfile::TempDir;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use transport_http::wire::{HEAD_BYTES, Hello, write_first, write_frame, write_message};
use transport_http::{
    Desk, FoundError, Founder, HttpTransport, Listed, PeerServer, TransportConfig, found,
};

/// Adds numbers up.
#[derive(Default, Clone)]
struct Sum(u64);

impl StateMachine for Sum {
    type Frozen = Sum;

    fn apply(&mut self, _at: At, command: &[u8]) -> Bytes {
        self.0 += command.len() as u64;
        self.query(&[])
    }

    fn query(&self, _query: &[u8]) -> Bytes {
        Bytes::copy_from_slice(&self.0.to_le_bytes())
    }

    fn freeze(&self) -> Sum {
        self.clone()
    }

    fn restore(&mut self, from: &mut dyn Read) -> Result<(), RestoreError> {
        let mut bytes = [0; 8];
        from.read_exact(&mut bytes)?;
        self.0 = u64::from_le_bytes(bytes);
        Ok(())
    }
}

impl Frozen for Sum {
    fn write(&self, to: &mut dyn Write) -> io::Result<()> {
        to.write_all(&self.0.to_le_bytes())
    }
}

struct TestNode {
    handle: Handle<Sum>,
    transport: Arc<HttpTransport>,
    server: PeerServer,
    directory: TempDir,
    cluster: ClusterId,
}

fn founder(node: u64, server: &PeerServer, incarnation: u64) -> Founder {
    Founder {
        node: NodeId(node),
        incarnation: Incarnation(incarnation),
        peer_address: server.local_addr().to_string(),
        client_address: String::new(),
    }
}

async fn servers(count: u64) -> Vec<PeerServer> {
    let mut servers = Vec::new();
    for _ in 0..count {
        let address = "127.0.0.1:0".parse().expect("an address");
        servers.push(PeerServer::bind(address).await.expect("a free port"));
    }
    servers
}

fn list(founders: &[Founder]) -> Vec<Listed> {
    founders.iter().map(Founder::listed).collect()
}

/// Founds a cluster and starts all of it.
async fn start(count: u64, tune: impl Fn(&mut Config)) -> Vec<TestNode> {
    start_at(count, tune, &[]).await
}

/// Likewise; some nodes have another address in the membership than their own.
async fn start_at(
    count: u64,
    tune: impl Fn(&mut Config),
    elsewhere: &[(u64, String)],
) -> Vec<TestNode> {
    let servers = servers(count).await;
    let founders: Vec<Founder> =
        (0..count).map(|id| founder(id, &servers[id as usize], 100 + id)).collect();
    let list = list(&founders);
    for (server, founder) in servers.iter().zip(&founders) {
        server.desk().sit(founder.clone(), list.clone());
    }
    let mut founded = Vec::new();
    for (server, founder) in servers.iter().zip(&founders) {
        founded.push(found(server.desk(), founder, &list).await.expect("all are up"));
    }
    for (id, address) in elsewhere {
        for one in &mut founded {
            let member = one.membership.members.get_mut(&NodeId(*id)).expect("it is a member");
            member.peer_address.clone_from(address);
        }
    }
    assert!(founded.iter().all(|one| *one == founded[0]), "all found the same cluster");
    let mut nodes = Vec::new();
    for (server, founder) in servers.into_iter().zip(founders) {
        let directory = tempfile::tempdir().expect("a temporary directory");
        let disk = RealDisk::new(directory.path());
        let (mut log, _) = Log::open(disk.clone(), LogConfig::default()).expect("an empty one");
        let founded = founded[0].clone();
        log.identify(Identity {
            node: founder.node,
            incarnation: founder.incarnation,
            cluster: Some(founded.cluster),
            peers: Vec::new(),
        })
        .expect("it can be written");
        let snapshot = Snapshot::initial(founded.membership.clone());
        let restored: Restored = log.begin(snapshot).expect("it can be written");
        let snapshots = Arc::new(Snapshots::new(disk).expect("it can be written"));
        let (inbox, mailbox) = inbox(snapshots.clone());
        let config = TransportConfig::new(founded.cluster, founder.node, founder.incarnation);
        let transport = Arc::new(HttpTransport::new(config, inbox));
        server.open(&transport);
        let mut raft = Config::new(founder.node, founder.incarnation, 1);
        tune(&mut raft);
        let seams = Seams {
            machine: Sum::default(),
            transport: transport.clone(),
            mailbox,
            snapshots,
            clock: Arc::new(TokioClock::new()),
        };
        let driver = Driver::new(DriverConfig::new(raft), restored, seams).expect("it is sound");
        let close = |log: Log<RealDisk>| drop(log.close());
        let handle = driver::spawn(driver, log, close).expect("threads can be started");
        let cluster = founded.cluster;
        nodes.push(TestNode { handle, transport, server, directory, cluster });
    }
    nodes
}

/// Proposes on whichever node leads until it is done; returns the sum after it.
async fn add(nodes: &[TestNode], bytes: usize) -> u64 {
    let until = Instant::now() + Duration::from_secs(20);
    loop {
        for node in nodes {
            let command = Bytes::from(vec![7; bytes]);
            let Ok(proposal) = node.handle.propose(command).await else { continue };
            if let Ok(sum) = proposal.done.await {
                return u64::from_le_bytes(sum[..].try_into().expect("eight bytes"));
            }
        }
        assert!(Instant::now() < until, "nobody takes a proposal");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

async fn read(node: &TestNode) -> Option<u64> {
    let sum = node.handle.read(ReadMode::Linearizable, Bytes::new()).await.ok()?;
    Some(u64::from_le_bytes(sum[..].try_into().ok()?))
}

async fn eventually(what: &str, mut holds: impl AsyncFnMut() -> bool) {
    let until = Instant::now() + Duration::from_secs(20);
    while !holds().await {
        assert!(Instant::now() < until, "never: {what}");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

async fn stop(nodes: Vec<TestNode>) {
    for node in &nodes {
        node.handle.shutdown().await;
    }
    drop(nodes);
}

#[tokio::test]
async fn a_cluster_is_founded_and_replicates_and_any_node_reads() {
    let nodes = start(3, |_| {}).await;
    assert_eq!(add(&nodes, 3).await, 3);
    assert_eq!(add(&nodes, 4).await, 7);
    for node in &nodes {
        eventually("every node reads what was done", async || read(node).await == Some(7)).await;
    }
    stop(nodes).await;
}

#[tokio::test]
async fn a_command_of_a_megabyte_passes() {
    let nodes = start(3, |_| {}).await;
    assert_eq!(add(&nodes, 1 << 20).await, 1 << 20);
    stop(nodes).await;
}

#[tokio::test]
async fn a_node_that_is_cut_off_catches_up_by_a_snapshot() {
    let nodes = start(3, |config| {
        config.snapshot_log_bytes = 20_000;
        config.retained_bytes = 0;
    })
    .await;
    add(&nodes, 1).await;
    let follower = nodes
        .iter()
        .position(|node| !node.handle.status().raft.serving)
        .expect("two of three follow");
    nodes[follower].transport.disconnect_all();
    let mut sum = 0;
    for _ in 0..40 {
        sum = add(&nodes, 2_000).await;
    }
    let others = || nodes.iter().enumerate().filter(|(at, _)| *at != follower);
    eventually("the logs of the others are compacted", async || {
        others().all(|(_, node)| node.handle.status().raft.snapshot.last.index.0 > 10)
    })
    .await;
    for peer in 0..3 {
        nodes[follower].transport.connect(NodeId(peer));
    }
    eventually("it catches up", async || read(&nodes[follower]).await == Some(sum)).await;
    eventually("its log begins after a snapshot", async || {
        nodes[follower].handle.status().raft.snapshot.last.index.0 > 0
    })
    .await;
    assert!(nodes[follower].directory.path().exists());
    stop(nodes).await;
}

/// Accepts every connection, reads and answers so much that it is taken for a peer, and then does
/// nothing, without closing. Counts the connections.
async fn black_hole() -> (String, Arc<AtomicUsize>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
    let address = listener.local_addr().expect("it is bound").to_string();
    let count = Arc::new(AtomicUsize::new(0));
    let counter = count.clone();
    tokio::spawn(async move {
        let mut held = Vec::new();
        while let Ok((mut stream, _)) = listener.accept().await {
            counter.fetch_add(1, Ordering::Relaxed);
            let mut request = [0; 64];
            let _ = stream.read(&mut request).await;
            let head = b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n";
            let _ = stream.write_all(head).await;
            held.push(stream);
        }
    });
    (address, count)
}

#[tokio::test]
async fn a_peer_that_takes_nothing_slows_nobody_and_is_dialled_anew() {
    let (address, dialled) = black_hole().await;
    let nodes = start_at(3, |_| {}, &[(2, address)]).await;
    add(&nodes[..2], 1).await;
    let begin = Instant::now();
    for _ in 0..30 {
        // More than the buffers of a socket hold.
        add(&nodes[..2], 500_000).await;
    }
    assert!(begin.elapsed() < Duration::from_secs(10), "{:?}", begin.elapsed());
    // Two nodes dial it once each; after a second of silence they dial again.
    eventually("it is dialled anew", async || dialled.load(Ordering::Relaxed) > 2).await;
    stop(nodes).await;
}

#[tokio::test]
async fn a_node_that_is_stopped_leaves_its_port_free() {
    let mut nodes = start(1, |_| {}).await;
    add(&nodes, 1).await;
    let node = nodes.pop().expect("there is one");
    let TestNode { handle, server, transport, directory, .. } = node;
    let address = server.local_addr();
    handle.shutdown().await;
    drop((server, transport, directory));
    // The port is free again at once: nothing of the server is left.
    let deadline = Instant::now() + Duration::from_secs(5);
    loop {
        match PeerServer::bind(address).await {
            Ok(_) => break,
            Err(error) => assert!(Instant::now() < deadline, "{error}"),
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

#[tokio::test]
async fn a_stranger_to_the_cluster_is_not_let_in() {
    let nodes = start(1, |_| {}).await;
    let directory = tempfile::tempdir().expect("a temporary directory");
    let snapshots = Snapshots::new(RealDisk::new(directory.path())).expect("it can be written");
    let (inbox, _mailbox) = inbox(Arc::new(snapshots));
    let connected_as = async |cluster: ClusterId| {
        let config = TransportConfig::new(cluster, NodeId(7), Incarnation(7));
        let transport = HttpTransport::new(config, inbox.clone());
        let member = Member {
            incarnation: Incarnation(100),
            peer_address: nodes[0].server.local_addr().to_string(),
            client_address: String::new(),
        };
        transport.set_members(&Membership::of_voters([(NodeId(0), member)].into()));
        transport
    };
    // The one that is let in shows how long that takes.
    let stranger = connected_as(ClusterId(12345)).await;
    let welcome = connected_as(nodes[0].cluster).await;
    eventually("the same cluster, as a new node might come", async || {
        !welcome.connected().is_empty()
    })
    .await;
    assert!(stranger.connected().is_empty(), "another cluster");
    stop(nodes).await;
}

#[tokio::test]
async fn junk_on_the_peer_port_harms_nobody() {
    let nodes = start(3, |_| {}).await;
    add(&nodes, 1).await;
    let address = nodes[0].server.local_addr();
    let frames: [&[u8]; 6] = [
        b"\x00\x01\x02\x03\xff\xfe\xfd\r\n\r\n",
        b"GET / HTTP/1.1\r\nhost: x\r\n\r\n",
        b"POST /raft/v1/stream HTTP/1.1\r\nhost: x\r\ncontent-length: 4\r\n\r\n\xff\xff\xff\xff",
        b"POST /raft/v1/stream HTTP/1.1\r\nhost: x\r\ncontent-length: 9\r\n\r\n\x05\0\0\0hello",
        b"POST /raft/v1/snapshot HTTP/1.1\r\nhost: x\r\ncontent-length: 9\r\n\r\n\x05\0\0\0hello",
        b"POST /raft/v1/bootstrap HTTP/1.1\r\nhost: x\r\ncontent-length: 5\r\n\r\nhello",
    ];
    for junk in frames {
        let mut stream = TcpStream::connect(address).await.expect("it listens");
        stream.write_all(junk).await.expect("it reads");
        let mut answer = vec![0; 12];
        let _ = tokio::time::timeout(Duration::from_secs(2), stream.read(&mut answer)).await;
        assert!(!answer.starts_with(b"HTTP/1.1 2") || junk.starts_with(b"POST /raft/v1/boot"));
    }
    // Half a request, and then silence.
    let mut half = TcpStream::connect(address).await.expect("it listens");
    half.write_all(b"POST /raft/v1/str").await.expect("it reads");
    assert_eq!(add(&nodes, 1).await, 2);
    stop(nodes).await;
}

#[tokio::test]
async fn a_wiped_founder_is_refused_and_a_slow_one_is_not() {
    let servers = servers(3).await;
    let founders: Vec<Founder> =
        (0..3).map(|id| founder(id, &servers[id as usize], 100 + id)).collect();
    let all = list(&founders);
    for (server, founder) in servers.iter().zip(&founders) {
        server.desk().sit(founder.clone(), all.clone());
    }
    let desk = Desk::new();
    let first = found(&desk, &founders[0], &all).await.expect("all are up");
    servers[0].desk().belong(founders[0].clone(), first.cluster, first.membership.clone());

    let slow = found(&desk, &founders[1], &all).await.expect("it is the same founder");
    assert_eq!(slow, first);

    let wiped = Founder { incarnation: Incarnation(999), ..founders[2].clone() };
    let refused = found(&desk, &wiped, &all).await.expect_err("its disk was wiped");
    assert!(matches!(refused, FoundError::Wiped { node: NodeId(2), .. }), "{refused}");
    assert!(refused.to_string().contains("--join"), "the way out is named: {refused}");

    let stranger = founder(9, &servers[2], 5);
    let with_stranger = list(&[founders[0].clone(), stranger.clone()]);
    let refused = found(&desk, &stranger, &with_stranger).await.expect_err("it is not known");
    assert!(matches!(refused, FoundError::Stranger { .. }), "{refused}");
}

#[tokio::test]
async fn founders_with_different_lists_found_nothing_together() {
    let servers = servers(3).await;
    let founders: Vec<Founder> =
        (0..3).map(|id| founder(id, &servers[id as usize], 100 + id)).collect();
    let (all, two) = (list(&founders), list(&founders[..2]));
    servers[0].desk().sit(founders[0].clone(), two.clone());
    servers[1].desk().sit(founders[1].clone(), all.clone());
    servers[2].desk().sit(founders[2].clone(), all.clone());
    // In each direction both lists are named.
    let (one, other) = tokio::join!(
        found(servers[0].desk(), &founders[0], &two),
        found(servers[1].desk(), &founders[1], &all),
    );
    for refused in [one, other] {
        let Err(refused @ FoundError::OtherList { .. }) = refused else { panic!("{refused:?}") };
        let text = refused.to_string();
        let both = [&two, &all].map(|list| {
            let list: Vec<String> = list.iter().map(Listed::to_string).collect();
            list.join(",")
        });
        assert!(text.contains(&format!("{};", both[0])) || text.contains(&format!("{}.", both[0])));
        assert!(text.contains(&both[1]), "{text}");
    }
    // The one that is not on the list of another hears which of its entries are right.
    let refused = found(servers[2].desk(), &founders[2], &all).await.expect_err("refused");
    assert!(refused.to_string().contains(&format!("not {}", all[2])), "{refused}");
}

#[tokio::test]
async fn a_founder_on_its_own_refuses_those_that_count_on_it() {
    let servers = servers(2).await;
    let founders: Vec<Founder> =
        (0..2).map(|id| founder(id, &servers[id as usize], 100 + id)).collect();
    let alone = list(&founders[1..]);
    servers[1].desk().sit(founders[1].clone(), alone.clone());
    let founded = found(servers[1].desk(), &founders[1], &alone).await.expect("it is alone");
    let refused = found(servers[0].desk(), &founders[0], &list(&founders)).await;
    assert!(matches!(refused, Err(FoundError::OtherList { .. })), "{refused:?}");
    servers[1].desk().belong(founders[1].clone(), founded.cluster, founded.membership);
    let refused = found(servers[0].desk(), &founders[0], &list(&founders)).await;
    assert!(matches!(refused, Err(FoundError::Stranger { .. })), "{refused:?}");
}

/// Sends the beginning of a request and goes on holding the connection.
async fn send(address: std::net::SocketAddr, bytes: &[u8]) -> TcpStream {
    let mut stream = TcpStream::connect(address).await.expect("it listens");
    stream.write_all(bytes).await.expect("it reads");
    stream
}

#[tokio::test]
async fn a_flood_of_idle_connections_keeps_no_member_out() {
    let nodes = start(3, |_| {}).await;
    add(&nodes, 1).await;
    let address = nodes[0].server.local_addr();
    let mut flood = Vec::new();
    for n in 0..300 {
        let head = b"POST /raft/v1/stream HTTP/1.1\r\nhost: x\r\ncontent-length: 99\r\n\r\n";
        flood.push(send(address, if n % 2 == 0 { b"POST /raft" } else { &head[..] }).await);
    }
    // A member whose stream breaks has to find a place in spite of them.
    let (inbox, _mailbox) = {
        let directory = tempfile::tempdir().expect("a temporary directory");
        let disk = RealDisk::new(directory.path());
        inbox(Arc::new(Snapshots::new(disk).expect("it can be written")))
    };
    let config = TransportConfig::new(nodes[0].cluster, NodeId(1), Incarnation(101));
    let transport = HttpTransport::new(config, inbox);
    let member = Member {
        incarnation: Incarnation(100),
        peer_address: address.to_string(),
        client_address: String::new(),
    };
    transport.set_members(&Membership::of_voters([(NodeId(0), member)].into()));
    let begin = Instant::now();
    eventually("it is let in", async || !transport.connected().is_empty()).await;
    assert!(begin.elapsed() < Duration::from_secs(2), "{:?}", begin.elapsed());
    // The idle ones are closed after a while.
    let mut byte = [0];
    let last = flood.last_mut().expect("there are some");
    let closed = tokio::time::timeout(Duration::from_secs(6), last.read(&mut byte)).await;
    assert!(closed.is_ok(), "an idle connection is kept");
    stop(nodes).await;
}

/// A stream of node 1 to node 0, opened by hand, up to its hello.
async fn stream_by_hand(node: &TestNode) -> TcpStream {
    let hello = Hello {
        cluster: node.cluster,
        from: NodeId(1),
        incarnation: Incarnation(101),
        to: NodeId(0),
    };
    let mut first = Vec::new();
    write_first(&mut first, &hello.encode());
    let head = b"POST /raft/v1/stream HTTP/1.1\r\nhost: x\r\ncontent-length: 99999999\r\n\r\n";
    let mut stream = send(node.server.local_addr(), head).await;
    stream.write_all(&first).await.expect("it reads");
    let mut status = [0; 12];
    stream.read_exact(&mut status).await.expect("an answer");
    assert_eq!(&status, b"HTTP/1.1 200");
    stream
}

/// Whether the other side closes the stream, reading its signs of life until then.
async fn is_closed(stream: &mut TcpStream, within: Duration) -> bool {
    let reading = async {
        let mut bytes = [0; 1024];
        while matches!(stream.read(&mut bytes).await, Ok(read) if read > 0) {}
    };
    tokio::time::timeout(within, reading).await.is_ok()
}

#[tokio::test]
async fn a_flipped_bit_closes_the_stream_and_is_counted() {
    let nodes = start(1, |_| {}).await;
    add(&nodes, 1).await;
    let vote = Message {
        from: NodeId(1),
        to: NodeId(0),
        term: Term(1 << 40),
        incarnation: Incarnation(101),
        body: Body::VoteReply { granted: true },
    };
    let mut intact = Vec::new();
    write_message(&mut intact, &vote);
    for at in [0, 5, 9, HEAD_BYTES, intact.len() - 1] {
        let before = nodes[0].transport.figures().damaged_frames;
        let mut stream = stream_by_hand(&nodes[0]).await;
        let mut bytes = intact.clone();
        bytes[at] ^= 1;
        stream.write_all(&bytes).await.expect("it reads");
        assert!(is_closed(&mut stream, Duration::from_secs(5)).await, "byte {at}");
        eventually("it is counted", async || {
            nodes[0].transport.figures().damaged_frames == before + 1
        })
        .await;
    }
    assert_eq!(add(&nodes, 1).await, 2);
    stop(nodes).await;
}

#[tokio::test]
async fn a_frame_that_stalls_is_given_up_and_its_size_is_not_reserved() {
    let nodes = start(1, |_| {}).await;
    add(&nodes, 1).await;
    let mut frame = Vec::new();
    write_frame(&mut frame, |into| into.extend(vec![7; 60 << 20]));
    let mut stream = stream_by_hand(&nodes[0]).await;
    stream.write_all(&frame[..1000]).await.expect("it reads");
    assert!(is_closed(&mut stream, Duration::from_secs(5)).await);
    stop(nodes).await;
}

#[tokio::test]
async fn unfinished_frames_do_not_hold_more_than_their_budget() {
    let nodes = start(1, |_| {}).await;
    add(&nodes, 1).await;
    let mut frame = Vec::new();
    write_frame(&mut frame, |into| into.extend(vec![7; 50 << 20]));
    let frame = Bytes::from(frame);
    let sending: Vec<_> = (0..4)
        .map(|_| {
            let (frame, stream) = (frame.clone(), stream_by_hand(&nodes[0]));
            async move {
                let mut stream = stream.await;
                // All but the end. The other side may close it.
                let _ = stream.write_all(&frame[..frame.len() - 1]).await;
                stream
            }
        })
        .collect();
    let mut open = Vec::new();
    for sending in sending {
        open.push(sending.await);
        let mut held = open.iter_mut();
        // Those before it are kept from being silent: what counts is the memory.
        let _ = held.next();
    }
    eventually("one found no room", async || nodes[0].transport.figures().frames_without_room > 0)
        .await;
    assert_eq!(add(&nodes, 1).await, 2);
    stop(nodes).await;
}
