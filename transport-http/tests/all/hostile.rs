//! Strangers, broken networks and broken peers do no lasting harm to the peer port.

use crate::nodes::{Sum, TestNode, add, eventually, start, stop};
use bytes::Bytes;
use driver::{Consistency, Frozen, Prefix, Replica, Transport, inbox};
use raft::{
    Body, CommandNumber, Entry, Incarnation, Index, LogId, LogTime, Member, Membership, Message,
    NodeId, Payload, Round, Snapshot, SnapshotOffer, Term,
};
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;
use storage::{RealDisk, Snapshots};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use transport_http::wire::{
    ChunkWriter, HEAD_BYTES, Hello, OFFER_BYTES_MAX, read_answer, write_first, write_frame,
    write_message, write_offer, write_question, write_sign_of_life,
};
use transport_http::{HttpTransport, TransportConfig};

/// The sum in a snapshot that a test sends by hand.
const SUM: u64 = 7;

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
    // Half of a request, and then silence.
    let mut half = TcpStream::connect(address).await.expect("it listens");
    half.write_all(b"POST /raft/v1/str").await.expect("it reads");
    assert_eq!(add(&nodes, 1).await, 2);
    stop(nodes).await;
}

/// Sends the beginning of a request and keeps the connection open.
async fn send(address: SocketAddr, bytes: &[u8]) -> TcpStream {
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
    // A member whose stream breaks must still find a connection slot.
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
    eventually("it is let in", async || !transport.connected().is_empty()).await;
    // It has not waited until the idle ones are closed, which happens after a while.
    let is_open = |stream: &&TcpStream| {
        let read = stream.try_read(&mut [0]);
        read.is_err_and(|error| error.kind() == std::io::ErrorKind::WouldBlock)
    };
    assert!(flood.iter().filter(is_open).count() > 0, "it was let in when all others were gone");
    for idle in &mut flood {
        assert!(is_closed(idle).await, "an idle connection is kept");
    }
    stop(nodes).await;
}

/// Opens a stream from node 1 to node 0 by hand: sends the hello, and expects status 200.
async fn stream_by_hand(node: &TestNode) -> TcpStream {
    stream_of(NodeId(1), node).await
}

/// Opens a stream of a node with any id.
async fn stream_of(from: NodeId, node: &TestNode) -> TcpStream {
    let hello = Hello {
        cluster: node.cluster,
        from,
        incarnation: Incarnation(101),
        to: node.handle.status().raft.id,
        address: String::new(),
        election_timeout_ms: 0,
        heartbeat_ms: 0,
        process: 0,
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

/// A mistake for which a test would wait for ever fails it after this time.
const NEVER: Duration = Duration::from_secs(60);

/// Whether the other side closes the stream. Reads its keep-alives until then.
async fn is_closed(stream: &mut TcpStream) -> bool {
    let reading = async {
        let mut bytes = [0; 1024];
        while matches!(stream.read(&mut bytes).await, Ok(read) if read > 0) {}
    };
    tokio::time::timeout(NEVER, reading).await.is_ok()
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
        body: Body::VoteReply {
            granted: true,
            clock: raft::Reading::default(),
            candidate: Incarnation(100),
        },
    };
    let mut intact = Vec::new();
    write_message(&mut intact, &vote);
    for at in [0, 5, 9, HEAD_BYTES, intact.len() - 1] {
        let before = nodes[0].transport.figures().damaged_frames;
        let mut stream = stream_by_hand(&nodes[0]).await;
        let mut bytes = intact.clone();
        bytes[at] ^= 1;
        stream.write_all(&bytes).await.expect("it reads");
        assert!(is_closed(&mut stream).await, "byte {at}");
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
    assert!(is_closed(&mut stream).await);
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
                // All but the last byte. The other side may close the connection.
                let _ = stream.write_all(&frame[..frame.len() - 1]).await;
                stream
            }
        })
        .collect();
    let mut open = Vec::new();
    for sending in sending {
        open.push(sending.await);
    }
    eventually("one found no room", async || nodes[0].transport.figures().frames_without_room > 0)
        .await;
    assert_eq!(add(&nodes, 1).await, 2);
    stop(nodes).await;
}

#[tokio::test]
async fn unfinished_frames_of_strangers_leave_members_their_room() {
    let nodes = start(3, |_| {}).await;
    add(&nodes, 1).await;
    let mut frame = Vec::new();
    write_frame(&mut frame, |into| into.extend(vec![7; 60 << 20]));
    frame.truncate(19 << 19);
    let mut open = Vec::new();
    for node in &nodes {
        for _ in 0..15 {
            let mut stream = stream_of(NodeId(9), node).await;
            // The other side may close the connection.
            let _ = stream.write_all(&frame).await;
            open.push(stream);
        }
    }
    let leader = nodes.iter().find(|node| node.handle.status().raft.serving).expect("one leads");
    let before = leader.handle.status().raft.term;
    assert_eq!(add(&nodes, 8 << 20).await, 1 + (8 << 20), "at the first attempt");
    assert_eq!(leader.handle.status().raft.term, before);
    stop(nodes).await;
}

#[tokio::test]
async fn a_stranger_cannot_make_much_of_little() {
    let nodes = start(1, |_| {}).await;
    add(&nodes, 1).await;
    let member = Member {
        incarnation: Incarnation(0),
        peer_address: String::new(),
        client_address: String::new(),
    };
    let members = (0..250).map(|id| (NodeId(id), member.clone())).collect();
    let membership = Membership::of_voters(members);
    let entry = |index| Entry {
        id: LogId::new(index, 1),
        time: LogTime(0),
        number: CommandNumber(0),
        payload: Payload::Membership(Box::new(membership.clone())),
    };
    let message = Message {
        from: NodeId(9),
        to: NodeId(0),
        term: Term(0),
        incarnation: Incarnation(101),
        body: Body::Append {
            prev: LogId::ZERO,
            entries: (1..3_000).map(entry).collect(),
            commit: Index(0),
            round: Round(0),
            time: LogTime(0),
        },
    };
    let mut frame = Vec::new();
    write_message(&mut frame, &message);
    assert!(frame.len() < 4 << 20, "and some 30 MB, or 70 MB in memory, when it is decoded");
    // A damaged frame follows, which is counted if it is read.
    let mut damaged = Vec::new();
    write_frame(&mut damaged, |into| into.extend([7; 9]));
    damaged[HEAD_BYTES] ^= 1;
    frame.extend(damaged);
    let before = nodes[0].transport.figures().damaged_frames;
    let mut stream = stream_of(NodeId(9), &nodes[0]).await;
    stream.write_all(&frame).await.expect("it reads");
    assert!(is_closed(&mut stream).await);
    let after = nodes[0].transport.figures().damaged_frames;
    assert_eq!(after, before, "the message before it was decoded");
    assert_eq!(add(&nodes, 1).await, 2);
    stop(nodes).await;
}

/// The beginning of a transfer to node 0 by node 1, which leads a later term.
fn offer_of_node_1(node: &TestNode) -> (Hello, SnapshotOffer) {
    offer_of(NodeId(1), node)
}

fn offer_of(from: NodeId, node: &TestNode) -> (Hello, SnapshotOffer) {
    let status = node.handle.status();
    let (to, incarnation) = (NodeId(0), Incarnation(101));
    let hello = Hello {
        cluster: node.cluster,
        from,
        incarnation,
        to,
        address: String::new(),
        election_timeout_ms: 0,
        heartbeat_ms: 0,
        process: 0,
    };
    let term = Term(status.raft.term.0 + 1);
    let snapshot = Snapshot {
        last: LogId::new(1000, term.0),
        ..Snapshot::initial(status.raft.membership.clone())
    };
    (hello, SnapshotOffer { from, to, term, incarnation, snapshot })
}

fn written(write: impl FnOnce(&mut Vec<u8>)) -> Vec<u8> {
    let mut bytes = Vec::new();
    write(&mut bytes);
    bytes
}

/// Sends a request to the port for peers. Returns the status and the body of the response.
async fn post(node: &TestNode, path: &str, content: &[u8]) -> (u16, Vec<u8>) {
    let request = format!(
        "POST {path} HTTP/1.1\r\nhost: x\r\nconnection: close\r\ncontent-length: {}\r\n\r\n",
        content.len()
    );
    let mut stream = send(node.server.local_addr(), request.as_bytes()).await;
    // The node may reject it before it has read all of it.
    let _ = stream.write_all(content).await;
    let mut answer = Vec::new();
    let _ = stream.read_to_end(&mut answer).await;
    let head = answer.windows(4).position(|end| end == b"\r\n\r\n").expect("an answer") + 4;
    let status = String::from_utf8_lossy(&answer[9..12]).parse().expect("a status");
    (status, answer.split_off(head))
}

/// The content of a snapshot in which the sum is [`SUM`].
fn state() -> Vec<u8> {
    let mut state = Vec::new();
    Replica::new(Sum(SUM)).freeze().write(&mut state).expect("memory takes it");
    state
}

/// That the node has installed the snapshot of [`state`], and goes on.
async fn installed(node: &TestNode) {
    eventually("it is installed", async || node.handle.status().raft.snapshot.last.index.0 == 1000)
        .await;
    eventually("it is restored", async || {
        assert_eq!(node.handle.status().stopped, None, "the state is understood");
        let query = Bytes::new();
        let sum = node.handle.read(query, Consistency::Stale { max_age: Duration::MAX }).await;
        sum.is_ok_and(|sum| *sum == SUM.to_le_bytes())
    })
    .await;
}

/// Sends a snapshot to node 0 as node 1, with the frames that `body` puts together. Returns the
/// status of the response.
async fn offer_by_hand(
    node: &TestNode,
    body: impl FnOnce(Vec<u8>, [Vec<u8>; 3], Vec<u8>) -> Vec<Vec<u8>>,
) -> u16 {
    let (hello, offer) = offer_of_node_1(node);
    let head = written(|into| write_offer(into, &hello, &offer, Prefix::default()));
    let mut writer = ChunkWriter::default();
    let mut frame = |bytes: &[u8]| written(|into| writer.write(into, bytes));
    let state = state();
    let chunks = [frame(&state[..3]), frame(&state[3..5]), frame(&state[5..])];
    let trailer = frame(&[]);
    post(node, "/raft/v1/snapshot", &body(head, chunks, trailer).concat()).await.0
}

/// A node that follows nobody, so it follows any node that offers a snapshot of a higher term.
async fn left_alone() -> Vec<TestNode> {
    let mut nodes = start(3, |_| {}).await;
    add(&nodes, 1).await;
    let others = nodes.split_off(1);
    stop(others).await;
    let node = &nodes[0];
    eventually("it does not lead", async || !node.handle.status().raft.serving).await;
    nodes
}

#[tokio::test]
async fn a_transfer_that_was_cut_off_is_continued() {
    let state = state();
    let nodes = left_alone().await;
    let node = &nodes[0];
    let prefix = async || {
        let (hello, offer) = offer_of_node_1(node);
        let question = written(|into| write_question(into, &hello, &offer));
        let (status, answer) = post(node, "/raft/v1/snapshot/prefix", &question).await;
        assert_eq!(status, 200);
        read_answer(&answer).expect("an answer")
    };
    // Sends `state` from `start` on, up to its end or only the next three bytes.
    let transfer = async |state: &[u8], start: usize, is_cut: bool| {
        let (hello, offer) = offer_of_node_1(node);
        let mut writer = ChunkWriter::default();
        writer.skip(&state[..start]);
        let mut content = written(|into| write_offer(into, &hello, &offer, writer.prefix()));
        match is_cut {
            true => writer.write(&mut content, &state[start..start + 3]),
            false => {
                writer.write(&mut content, &state[start..]);
                writer.write(&mut content, &[]);
            }
        }
        post(node, "/raft/v1/snapshot", &content).await.0
    };
    assert_eq!(prefix().await, Prefix::default());
    // Part of another state. It is removed when the sender finds that it is not its own.
    assert_eq!(transfer(&[9; 8], 0, true).await, 400);
    assert_eq!(prefix().await.bytes, 3);
    assert_eq!(transfer(&state, 3, false).await, 503);
    assert_eq!(prefix().await, Prefix::default());
    // Two parts, and then the rest.
    assert_eq!(transfer(&state, 0, true).await, 400);
    assert_eq!(transfer(&state, 3, true).await, 400);
    assert_eq!(prefix().await.bytes, 6);
    assert_eq!(transfer(&state, 6, false).await, 200);
    installed(node).await;
    stop(nodes).await;
}

#[tokio::test]
async fn an_offer_is_small_and_a_snapshot_has_no_empty_frames() {
    let nodes = left_alone().await;
    let node = &nodes[0];
    let (hello, mut offer) = offer_of_node_1(node);
    let question = |offer: &SnapshotOffer| written(|into| write_question(into, &hello, offer));
    let prefix = "/raft/v1/snapshot/prefix";
    assert_eq!(post(node, prefix, &question(&offer)).await.0, 200);
    // Only the head of the frame says that it is too long. Nothing of it is stored or decoded.
    if let Some(member) = offer.snapshot.membership.members.get_mut(&NodeId(1)) {
        member.peer_address = "a".repeat(OFFER_BYTES_MAX);
    }
    let long = question(&offer);
    let (status, why) = post(node, prefix, &long[..long.len() - OFFER_BYTES_MAX]).await;
    assert_eq!(status, 400);
    assert!(String::from_utf8_lossy(&why).contains("more than 262144"), "{why:?}");
    // Somebody could hold the place of a snapshot with frames that add nothing to it.
    let empty = written(write_sign_of_life);
    let with_nothing = |head, [first, second, third]: [Vec<u8>; 3], trailer| {
        vec![head, first, empty, second, third, trailer]
    };
    assert_eq!(offer_by_hand(node, with_nothing).await, 400);
    stop(nodes).await;
}

#[tokio::test]
async fn a_strangers_snapshot_is_not_taken_while_a_leader_is_live() {
    let nodes = start(3, |_| {}).await;
    add(&nodes, 1).await;
    let node = &nodes[0];
    let last = node.handle.status().raft.snapshot.last;
    let (hello, offer) = offer_of(NodeId(9), node);
    let mut content = written(|into| write_offer(into, &hello, &offer, Prefix::default()));
    let mut writer = ChunkWriter::default();
    writer.write(&mut content, b"this is no state");
    writer.write(&mut content, &[]);
    assert_eq!(post(node, "/raft/v1/snapshot", &content).await.0, 409);
    add(&nodes, 2).await;
    assert_eq!(node.handle.status().raft.snapshot.last, last);
    assert_eq!(node.handle.status().stopped, None);
    stop(nodes).await;
}

#[tokio::test]
async fn a_snapshot_that_is_not_whole_is_not_taken() {
    let nodes = left_alone().await;
    let node = &nodes[0];
    let flip = |mut frame: Vec<u8>, at: usize| {
        frame[at] ^= 1;
        frame
    };
    let last = node.handle.status().raft.snapshot.last;
    let refused = [
        ("lost", offer_by_hand(node, |h, [a, _, c], t| vec![h, a, c, t]).await),
        ("doubled", offer_by_hand(node, |h, [a, b, c], t| vec![h, a, b.clone(), b, c, t]).await),
        ("swapped", offer_by_hand(node, |h, [a, b, c], t| vec![h, b, a, c, t]).await),
        ("cut off", offer_by_hand(node, |h, [a, b, c], _| vec![h, a, b, c]).await),
        ("trailer first", offer_by_hand(node, |h, [a, b, c], t| vec![h, t, a, b, c]).await),
        ("offer missing", offer_by_hand(node, |_, [a, b, c], t| vec![a, b, c, t]).await),
        ("damaged", offer_by_hand(node, |h, [a, b, c], t| vec![h, a, flip(b, 13), c, t]).await),
        ("damaged end", offer_by_hand(node, |h, [a, b, c], t| vec![h, a, b, c, flip(t, 14)]).await),
        (
            "damaged offer",
            offer_by_hand(node, |h, [a, b, c], t| vec![flip(h, 99), a, b, c, t]).await,
        ),
    ];
    for (what, status) in refused {
        assert!([400, 403].contains(&status), "{what}: {status}");
    }
    assert_eq!(node.handle.status().raft.snapshot.last, last, "nothing was reset");
    assert_eq!(offer_by_hand(node, |h, [a, b, c], t| vec![h, a, b, c, t]).await, 200);
    installed(node).await;
    stop(nodes).await;
}
