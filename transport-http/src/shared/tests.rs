//! Where messages go when members move, restart, or are replaced under their ids, and what is known
//! of them is old.

use crate::hello::Hello;
use crate::net::TokioNet;
use crate::shared::Tell;
use crate::{HttpTransport, PeerServer, TransportConfig};
use driver::{Transport as _, inbox};
use raft::{Incarnation, Member, Membership, NodeId};
use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;
use storage::{ClusterId, RealDisk, Snapshots};
use tokio::net::TcpListener;

const PEER: NodeId = NodeId(1);
const DEAD: &str = "127.0.0.1:1";

fn transport(node: u64, incarnation: u64, address: &str) -> Arc<HttpTransport> {
    transport_on(TokioNet::current(), node, incarnation, address)
}

fn transport_on(net: TokioNet, node: u64, incarnation: u64, address: &str) -> Arc<HttpTransport> {
    let directory = tempfile::tempdir().unwrap();
    let snapshots = Snapshots::new(RealDisk::new(directory.path())).unwrap();
    let (inbox, receiver) = inbox(Arc::new(snapshots));
    std::mem::forget(receiver);
    let mut config = TransportConfig::new(ClusterId(1), NodeId(node), Incarnation(incarnation));
    config.peer_address = address.to_owned();
    Arc::new(HttpTransport::on(net, config, inbox))
}

fn members(of: &[(u64, u64, &str)]) -> Membership {
    let members: BTreeMap<NodeId, Member> = of
        .iter()
        .map(|(id, incarnation, address)| {
            let member = Member {
                incarnation: Incarnation(*incarnation),
                peer_address: (*address).to_owned(),
                client_address: String::new(),
            };
            (NodeId(*id), member)
        })
        .collect();
    let mut membership = Membership::of_voters(BTreeMap::new());
    membership.voters = members.keys().copied().collect();
    membership.members = members;
    membership
}

async fn server_at(at: SocketAddr) -> PeerServer {
    for _ in 0..200 {
        if let Ok(server) = PeerServer::bind(at).await {
            return server;
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    panic!("the port is taken");
}

async fn server() -> (PeerServer, String) {
    let server = server_at(SocketAddr::from(([127, 0, 0, 1], 0))).await;
    let address = server.local_addr().to_string();
    (server, address)
}

/// A transport, its listener, and where that is reached.
async fn open(node: u64, incarnation: u64) -> (Arc<HttpTransport>, PeerServer, String) {
    let (server, address) = server().await;
    let transport = transport(node, incarnation, &address);
    server.open(&transport);
    (transport, server, address)
}

async fn within(seconds: u64, holds: impl Fn() -> bool) -> bool {
    for _ in 0..seconds * 100 {
        if holds() {
            return true;
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    holds()
}

fn hello(transport: &HttpTransport, incarnation: u64, address: &str) -> Hello {
    Hello {
        from: PEER,
        incarnation: Incarnation(incarnation),
        address: address.to_owned(),
        ..transport.shared().hello(PEER)
    }
}

#[tokio::test]
async fn an_address_that_was_given_before_the_membership_came_is_used_after_it() {
    let (own, _own_server, own_address) = open(0, 100).await;
    own.set_members(&members(&[(1, 101, DEAD)]));
    let (peer, _peer_server, _peer_address) = open(1, 999).await;
    peer.set_members(&members(&[(0, 100, &own_address)]));
    assert!(within(5, || peer.is_connected(NodeId(0))).await);
    // The entries that this node lacked: node 1 was removed, and added with a new directory at the
    // address that it had before its last move.
    own.set_members(&members(&[]));
    own.set_members(&members(&[(1, 999, "127.0.0.2:1")]));
    assert!(within(10, || own.is_connected(PEER)).await, "it is never reached");
}

#[tokio::test]
async fn an_address_that_was_given_before_the_membership_came_is_kept() {
    let own = transport(0, 100, "");
    let shared = own.shared();
    own.set_members(&members(&[(1, 101, "a:1")]));
    shared.visited(&hello(&own, 999, "c:1"));
    own.set_members(&members(&[(1, 999, "b:1")]));
    let both = [0, 1].map(|attempt| shared.address_at(PEER, attempt));
    assert!(both.contains(&Some("c:1".to_owned())), "{both:?}");
}

#[tokio::test]
async fn a_node_that_is_added_again_is_not_dialled_where_the_former_one_was() {
    let own = transport(0, 100, "");
    let shared = own.shared();
    own.set_members(&members(&[(1, 101, "a:1")]));
    shared.visited(&hello(&own, 101, "a2:1"));
    own.set_members(&members(&[]));
    own.set_members(&members(&[(1, 999, "b:1")]));
    let both = [0, 1].map(|attempt| shared.address_at(PEER, attempt));
    assert!(both == [Some("b:1".to_owned()), Some("b:1".to_owned())], "{both:?}");
}

#[tokio::test]
async fn messages_to_a_node_that_was_added_again_do_not_go_to_the_former_process() {
    let (own, _own_server, own_address) = open(0, 100).await;
    let (_former, _former_server, former_address) = open(1, 101).await;
    own.set_members(&members(&[(1, 101, &former_address)]));
    assert!(within(5, || own.is_connected(PEER)).await);
    let (new, _new_server, new_address) = open(1, 999).await;
    own.set_members(&members(&[]));
    own.set_members(&members(&[(1, 999, &new_address)]));
    tokio::time::sleep(Duration::from_millis(500)).await;
    new.set_members(&members(&[(0, 100, &own_address)]));
    let at = || own.shared().connected_at(PEER);
    let reached = within(10, || at().as_ref() == Some(&new_address)).await;
    assert!(reached, "after 10 s the stream is at {:?}, the former process", at());
}

#[tokio::test]
async fn a_former_node_with_an_open_stream_is_told_that_it_was_removed() {
    for steps in [2, 1] {
        let own = transport(0, 100, "");
        let shared = own.shared();
        own.set_members(&members(&[(1, 101, "a:1")]));
        shared.visited(&hello(&own, 101, "a:1"));
        if steps == 2 {
            own.set_members(&members(&[]));
        }
        own.set_members(&members(&[(1, 999, "b:1")]));
        let told = shared.tell_namesake(PEER, Incarnation(101));
        assert!(matches!(told, Tell::At(at) if at == "a:1"), "in {steps} steps: to the member");
    }
}

#[tokio::test]
async fn a_namesake_that_has_moved_since_is_told_where_it_is() {
    let own = transport(0, 100, "");
    let shared = own.shared();
    own.set_members(&members(&[(1, 101, "a:1")]));
    shared.visited(&hello(&own, 999, "b:1"));
    own.set_members(&members(&[(1, 999, "b:1")]));
    shared.visited(&hello(&own, 999, "c:1"));
    own.set_members(&members(&[]));
    let at = match shared.tell_namesake(PEER, Incarnation(999)) {
        Tell::At(at) => Some(at),
        _ => shared.address(PEER),
    };
    assert_eq!(at.as_deref(), Some("c:1"));
}

#[tokio::test]
async fn the_address_of_the_stream_that_is_open_is_kept_when_another_has_come_and_gone() {
    let (own, _own_server, own_address) = open(0, 100).await;
    own.set_members(&members(&[(1, 101, DEAD)]));
    let (peer, peer_server, _peer_address) = open(1, 101).await;
    let to_own = members(&[(0, 100, &own_address)]);
    peer.set_members(&to_own);
    assert!(within(5, || own.is_connected(PEER)).await);
    let other = transport(1, 101, "127.0.0.3:1");
    other.set_members(&to_own);
    assert!(within(5, || other.is_connected(NodeId(0))).await);
    other.set_members(&members(&[]));
    drop(other);
    tokio::time::sleep(Duration::from_millis(100)).await;
    assert!(peer.is_connected(NodeId(0)));
    // The stream from here breaks once.
    let at = peer_server.local_addr();
    let begun = own.shared().contacts(PEER);
    drop(peer_server);
    assert!(within(5, || !own.is_connected(PEER)).await);
    let peer_server = server_at(at).await;
    peer_server.open(&peer);
    assert!(within(10, || own.is_connected(PEER)).await, "never again; {begun} contacts");
}

#[tokio::test]
async fn a_dial_that_succeeds_when_the_members_change_does_not_keep_the_former_address() {
    let own = transport(0, 100, "");
    let (former_server, former_address) = server().await;
    former_server.open(&transport(1, 101, &former_address));
    let (new_server, new_address) = server().await;
    new_server.open(&transport(1, 101, &new_address));
    own.set_members(&members(&[(1, 101, &former_address)]));
    // The link dials, and the system connects. When this task goes on, the link is woken and has
    // not run yet.
    tokio::task::yield_now().await;
    own.set_members(&members(&[(1, 101, &new_address)]));
    let at = || own.shared().connected_at(PEER);
    let reached = within(10, || at().as_ref() == Some(&new_address)).await;
    assert!(reached, "after 10 s the stream is at {:?}, the former address", at());
}

#[tokio::test]
async fn another_name_of_the_same_process_is_no_copy() {
    let (own, _own_server, own_address) = open(0, 100).await;
    let (peer_server, numeric) = server().await;
    let name = format!("localhost:{}", peer_server.local_addr().port());
    let peer = transport(1, 101, &name);
    peer_server.open(&peer);
    own.set_members(&members(&[(1, 101, &numeric)]));
    assert!(within(5, || own.is_connected(PEER)).await);
    peer.set_members(&members(&[(0, 100, &own_address)]));
    tokio::time::sleep(Duration::from_millis(2_500)).await;
    assert_eq!(own.figures().doubled_peers, 0);
}

#[tokio::test]
async fn a_stream_that_breaks_is_dialled_at_once_where_it_was_open() {
    let (own, _own_server, own_address) = open(0, 100).await;
    let declared = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let declared_address = declared.local_addr().unwrap().to_string();
    let dialled = Arc::new(AtomicUsize::new(0));
    let count = dialled.clone();
    tokio::spawn(async move {
        while let Ok((stream, _)) = declared.accept().await {
            count.fetch_add(1, Ordering::SeqCst);
            drop(stream);
        }
    });
    // Connections to the peer pass here, and break when that is wanted.
    let (peer_server, behind) = server().await;
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let peer_address = listener.local_addr().unwrap().to_string();
    let breaks = Arc::new(tokio::sync::Notify::new());
    let broken = breaks.clone();
    tokio::spawn(async move {
        while let Ok((mut from, _)) = listener.accept().await {
            let mut to = tokio::net::TcpStream::connect(&behind).await.unwrap();
            let broken = broken.clone();
            tokio::spawn(async move {
                tokio::select! {
                    _ = tokio::io::copy_bidirectional(&mut from, &mut to) => {}
                    () = broken.notified() => {}
                }
            });
        }
    });
    let peer = transport(1, 101, &peer_address);
    peer_server.open(&peer);
    own.set_members(&members(&[(1, 101, &declared_address)]));
    peer.set_members(&members(&[(0, 100, &own_address)]));
    let at = || own.shared().connected_at(PEER);
    assert!(within(5, || at().as_ref() == Some(&peer_address)).await);
    tokio::time::sleep(Duration::from_millis(1_200)).await;
    let before = dialled.load(Ordering::SeqCst);
    let contacts = own.shared().contacts(PEER);
    breaks.notify_waiters();
    assert!(within(5, || own.shared().contacts(PEER) != contacts).await, "dialled again");
    assert_eq!(
        dialled.load(Ordering::SeqCst) - before,
        0,
        "the declared address was dialled first"
    );
}

#[tokio::test]
async fn a_stream_that_is_older_than_the_membership_is_a_contact() {
    let (own, _own_server, own_address) = open(0, 100).await;
    own.set_members(&members(&[]));
    let (peer, peer_server, peer_address) = open(1, 101).await;
    peer.set_members(&members(&[(0, 100, &own_address)]));
    assert!(within(5, || peer.is_connected(NodeId(0))).await);
    own.send(raft::Message {
        from: NodeId(0),
        to: PEER,
        incarnation: Incarnation(100),
        term: raft::Term(1),
        body: raft::Body::TimeoutNow,
    });
    assert!(within(5, || own.is_connected(PEER)).await);
    own.set_members(&members(&[(1, 101, &peer_address)]));
    tokio::time::sleep(Duration::from_millis(100)).await;
    assert!(own.is_connected(PEER));
    drop((peer_server, peer));
    let is_noted = within(5, || own.shared().contacts(PEER) > 0).await;
    assert!(is_noted, "nothing would report that its process has ended");
}

#[tokio::test]
async fn the_address_of_a_stranger_is_kept_while_its_stream_is_open() {
    let transport = transport(0, 100, DEAD);
    let shared = transport.shared();
    let visit = |node, address: &str| {
        let hello = Hello { from: NodeId(node), ..hello(&transport, 100 + node, address) };
        shared.visited(&hello);
        hello
    };
    let leader = visit(50, "leader:1");
    let stream = shared.arrives(&leader);
    visit(51, "gone:1");
    for node in 60..80 {
        visit(node, "other:1");
    }
    assert_eq!(shared.address(NodeId(50)), Some("leader:1".to_owned()));
    assert_eq!(shared.address(NodeId(51)), None, "there is a limit");
    shared.leaves(stream);
    visit(80, "other:1");
    assert_eq!(shared.address(NodeId(50)), None);
    // One that comes again is the latest.
    visit(65, "other:1");
    for node in 81..96 {
        visit(node, "other:1");
    }
    assert_eq!(shared.address(NodeId(65)), Some("other:1".to_owned()));
}

#[tokio::test]
async fn names_that_are_not_used_any_more_make_room() {
    let own = transport_on(TokioNet::resolved_by(|_| Ok(Vec::new())), 0, 100, "");
    let shared = own.shared();
    own.set_members(&members(&[(1, 101, DEAD)]));
    for number in 0..300 {
        shared.visited(&hello(&own, 101, &format!("n{number}.invalid:1")));
        if let Some(address) = shared.address_at(PEER, 0) {
            let dialled = shared.names.dial(&address).await;
            let error = dialled.err().unwrap().to_string();
            assert!(!error.contains("too many"), "name {number}: {error}");
        }
    }
}

#[tokio::test]
async fn a_member_is_dialled_where_it_said_where_it_was_declared_and_where_it_is_configured() {
    let net = TokioNet::current();
    let directory = tempfile::tempdir().unwrap();
    let snapshots = Snapshots::new(RealDisk::new(directory.path())).unwrap();
    let (inbox, _receiver) = inbox(Arc::new(snapshots));
    let mut config = TransportConfig::new(ClusterId(1), NodeId(0), Incarnation(100));
    config.listed = [(PEER, "listed:1".to_owned()), (NodeId(2), "other:1".to_owned())].into();
    let own = HttpTransport::on(net, config, inbox);
    let shared = own.shared();
    let dialled = || (0..4).map(|at| shared.address_at(PEER, at)).collect::<Option<Vec<String>>>();
    assert_eq!(dialled(), None, "it is no member");
    own.set_members(&members(&[(1, 101, "declared:1")]));
    assert_eq!(dialled().unwrap(), ["declared:1", "listed:1", "declared:1", "listed:1"]);
    assert!(shared.is_latest_address(PEER, "declared:1"));
    assert!(!shared.is_latest_address(PEER, "listed:1"), "refused there, it need not have ended");
    shared.visited(&hello(&own, 101, "given:1"));
    assert_eq!(dialled().unwrap(), ["given:1", "declared:1", "listed:1", "given:1"]);
    assert!(shared.is_latest_address(PEER, "given:1"));
    assert!(!shared.is_latest_address(PEER, "declared:1"));
    shared.visited(&hello(&own, 101, "listed:1"));
    assert_eq!(dialled().unwrap(), ["listed:1", "declared:1", "listed:1", "declared:1"]);
    // The member may have been replaced, as far as this node's membership is old.
    shared.visited(&hello(&own, 102, "replaced:1"));
    assert_eq!(dialled().unwrap(), ["listed:1", "declared:1", "replaced:1", "listed:1"]);
    // It has not, as long as it is heard from.
    let number = shared.arrives(&hello(&own, 101, "listed:1"));
    assert_eq!(dialled().unwrap(), ["listed:1", "declared:1", "listed:1", "declared:1"]);
    shared.leaves(number);
    assert_eq!(dialled().unwrap(), ["listed:1", "declared:1", "replaced:1", "listed:1"]);
}

#[tokio::test]
async fn a_declaration_closes_no_stream_that_is_open_where_the_member_says_that_it_is() {
    let (own, _own_server, own_address) = open(0, 100).await;
    let (peer, _peer_server, peer_address) = open(1, 101).await;
    own.set_members(&members(&[(1, 101, &peer_address)]));
    peer.set_members(&members(&[(0, 100, &own_address)]));
    let both = || own.is_connected(PEER) && peer.is_connected(NodeId(0));
    assert!(within(5, both).await);
    assert_eq!(own.figures().elsewhere, BTreeMap::new());
    // The stream of the peer opens a moment later at this end.
    let given = || own.shared().address_at(PEER, 0).as_ref() == Some(&peer_address);
    assert!(within(5, given).await);
    let contacts = own.shared().contacts(PEER);
    own.set_members(&members(&[(1, 101, DEAD)]));
    tokio::time::sleep(Duration::from_millis(300)).await;
    assert_eq!(own.figures().elsewhere, [(PEER, peer_address.clone())].into());
    own.set_members(&members(&[(1, 101, &peer_address)]));
    tokio::time::sleep(Duration::from_millis(300)).await;
    assert_eq!(own.figures().elsewhere, BTreeMap::new());
    assert_eq!(own.shared().contacts(PEER), contacts, "the streams have not opened anew");
}

#[tokio::test]
async fn a_member_that_says_where_it_is_is_dialled_there_while_another_address_is_tried() {
    let slow = TokioNet::resolved_by(|_| {
        std::thread::sleep(Duration::from_secs(3));
        Ok(Vec::new())
    });
    let (own_server, own_address) = server().await;
    let own = transport_on(slow, 0, 100, &own_address);
    own_server.open(&own);
    own.set_members(&members(&[(1, 101, "former:1")]));
    tokio::time::sleep(Duration::from_millis(50)).await;
    let (peer, _peer_server, _) = open(1, 101).await;
    peer.set_members(&members(&[(0, 100, &own_address)]));
    let begun = std::time::Instant::now();
    assert!(within(5, || own.is_connected(PEER)).await);
    let took = begun.elapsed();
    assert!(took < Duration::from_millis(400), "it was dialled after {took:?}");
}
