//! Nodes that bootstrap a cluster, replicate, lose their connections and come back.

use crate::nodes::{
    TestNode, add, eventually, founder, founders_of, list, read, servers, start, start_at, stop,
};
use driver::{Transport, inbox};
use raft::{Incarnation, Member, Membership, NodeId};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;
use storage::{ClusterId, RealDisk, Snapshots};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpListener;
use transport_http::{
    BootstrapError, BootstrapService, Bootstrapped, Founder, HttpTransport, Listed, PeerServer,
    TransportConfig, bootstrap,
};

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
        config.catch_up_bytes_max = 0;
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
    assert!(nodes[follower].handle.metrics().snapshots_received > 0, "its own does not count");
    stop(nodes).await;
}

/// Accepts every connection, responds just enough to look like a peer, and then does nothing,
/// without closing. Counts the connections.
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
async fn a_peer_that_takes_nothing_holds_nobody_up_and_is_dialled_anew() {
    let (address, dialled) = black_hole().await;
    let nodes = start_at(3, |_| {}, &[(2, address)], false).await;
    add(&nodes[..2], 1).await;
    for _ in 0..30 {
        // More than the buffers of a socket hold.
        add(&nodes[..2], 500_000).await;
    }
    // Two nodes dial it once each; after a second of silence they dial again.
    eventually("it is dialled anew", async || dialled.load(Ordering::Relaxed) > 2).await;
    stop(nodes).await;
}

#[tokio::test]
async fn a_member_that_has_moved_tells_its_peers_where_it_is() {
    // Nobody listens there any more.
    let gone = tokio::net::TcpListener::bind("127.0.0.1:0").await.expect("a free port");
    let address = gone.local_addr().expect("it has a port").to_string();
    drop(gone);
    let nodes = start_at(3, |_| {}, &[(2, address)], true).await;
    add(&nodes, 1).await;
    eventually("the node that has moved is reached", async || {
        nodes[..2].iter().all(|node| node.transport.connected().contains(&NodeId(2)))
    })
    .await;
    stop(nodes).await;
}

#[tokio::test]
async fn a_member_is_reached_where_it_is_whatever_is_declared_while_its_stream_is_open() {
    let nodes = start_at(3, |_| {}, &[], true).await;
    add(&nodes, 1).await;
    let own = nodes[2].server.local_addr().to_string();
    let reached = async || {
        eventually("the node is reached", async || {
            nodes[0].transport.connected().contains(&NodeId(2))
        })
        .await;
    };
    reached().await;
    let membership = nodes[0].handle.status().raft.membership.clone();
    let declared = |address: &str| {
        let mut membership = membership.clone();
        let member = membership.members.get_mut(&NodeId(2)).expect("it is a member");
        address.clone_into(&mut member.peer_address);
        nodes[0].transport.set_members(&membership);
    };
    // An address that it had before its last move, as the log of a node that is behind has it, and
    // the right one, which is rolled back. It gives its address only when it opens a stream.
    for address in ["127.0.0.1:1", "127.0.0.2:1", &own, "127.0.0.1:1"] {
        declared(address);
        // The stream to the address before is closed meanwhile.
        tokio::time::sleep(Duration::from_millis(200)).await;
        reached().await;
    }
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
    // Nothing of the server is left.
    eventually("its port is free", async || PeerServer::bind(address).await.is_ok()).await;
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
    // The second one is accepted, which shows how long that takes.
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
async fn a_wiped_founder_is_refused_and_a_slow_one_is_not() {
    let servers = servers(3).await;
    let founders = founders_of(&servers[..3]);
    let all = list(&founders);
    for (server, founder) in servers.iter().zip(&founders) {
        server.bootstrap_service().answer_as_founder(founder.clone(), all.clone());
    }
    let service = BootstrapService::new();
    let first = bootstrap(&service, &founders[0], &all).await.expect("all are up");
    servers[0].bootstrap_service().answer_as_member(
        founders[0].clone(),
        first.cluster,
        first.membership.clone(),
    );

    let slow = bootstrap(&service, &founders[1], &all).await.expect("it is the same founder");
    assert_eq!(slow, first);

    let wiped = founder(2, &servers[2], 999);
    let refused = bootstrap(&service, &wiped, &all).await.expect_err("its disk was wiped");
    assert!(matches!(refused, BootstrapError::Wiped { node: NodeId(2), .. }), "{refused}");
    assert!(refused.to_string().contains("remove node 2"), "what is possible is named: {refused}");

    let stranger = founder(9, &servers[2], 5);
    let with_stranger = list(&[founders[0].clone(), stranger.clone()]);
    let refused =
        bootstrap(&service, &stranger, &with_stranger).await.expect_err("it is not known");
    assert!(matches!(refused, BootstrapError::Stranger { .. }), "{refused}");
}

#[tokio::test]
async fn a_founder_that_has_answered_says_later_that_the_cluster_is_founded() {
    let servers = servers(3).await;
    let founders = founders_of(&servers[..3]);
    let all = list(&founders);
    servers[0].bootstrap_service().answer_as_founder(founders[0].clone(), all.clone());
    let member = |founder: &Founder| {
        let Listed { node, peer_address, client_address } = founder.listed();
        (node, Member { incarnation: founder.incarnation(), peer_address, client_address })
    };
    let founded = Bootstrapped {
        cluster: ClusterId(12345),
        membership: Membership::of_voters(founders.iter().map(member).collect()),
    };
    // Node 1 has answered the others, and is gone before node 2 has asked it. Meanwhile node 2 has
    // learned the identity of node 0.
    let later = async {
        tokio::time::sleep(Duration::from_millis(200)).await;
        let Bootstrapped { cluster, membership } = founded.clone();
        servers[0].bootstrap_service().answer_as_member(founders[0].clone(), cluster, membership);
    };
    let service = BootstrapService::new();
    let late = bootstrap(&service, &founders[2], &all);
    let both = async { tokio::join!(late, later).0 };
    let late = tokio::time::timeout(Duration::from_secs(20), both).await;
    assert_eq!(late.expect("it waits for node 1 no longer").expect("it is a founder"), founded);
}

#[tokio::test]
async fn founders_with_different_lists_found_nothing_together() {
    let servers = servers(3).await;
    let founders = founders_of(&servers[..3]);
    let (all, two) = (list(&founders), list(&founders[..2]));
    servers[0].bootstrap_service().answer_as_founder(founders[0].clone(), two.clone());
    servers[1].bootstrap_service().answer_as_founder(founders[1].clone(), all.clone());
    servers[2].bootstrap_service().answer_as_founder(founders[2].clone(), all.clone());
    // Each of the two nodes reports both lists.
    let (one, other) = tokio::join!(
        bootstrap(servers[0].bootstrap_service(), &founders[0], &two),
        bootstrap(servers[1].bootstrap_service(), &founders[1], &all),
    );
    for refused in [one, other] {
        let Err(refused @ BootstrapError::OtherList { .. }) = refused else {
            panic!("{refused:?}")
        };
        let text = refused.to_string();
        let both = [&two, &all].map(|list| {
            let list: Vec<String> = list.iter().map(Listed::to_string).collect();
            list.join(",")
        });
        assert!(text.contains(&format!("{};", both[0])) || text.contains(&format!("{}.", both[0])));
        assert!(text.contains(&both[1]), "{text}");
    }
    // A node that is not on another's list learns which of its entries are right.
    let refused =
        bootstrap(servers[2].bootstrap_service(), &founders[2], &all).await.expect_err("refused");
    assert!(refused.to_string().contains(&format!("not {}", all[2])), "{refused}");
}

#[tokio::test]
async fn a_founder_is_told_that_another_one_only_joins() {
    let servers = servers(2).await;
    let founders = founders_of(&servers[..2]);
    let both = list(&founders);
    servers[0].bootstrap_service().answer_as_founder(founders[0].clone(), both.clone());
    servers[1].bootstrap_service().answer_as_joiner(founders[1].clone(), both.clone());
    let refused = bootstrap(servers[0].bootstrap_service(), &founders[0], &both).await;
    let Err(refused @ BootstrapError::OtherWay { .. }) = refused else { panic!("{refused:?}") };
    assert!(refused.to_string().contains("to join it"), "{refused}");
}

#[tokio::test]
async fn a_question_of_a_stranger_ends_no_bootstrap() {
    let servers = servers(3).await;
    let founders = founders_of(&servers[..2]);
    let both = list(&founders);
    servers[0].bootstrap_service().answer_as_founder(founders[0].clone(), both.clone());
    // It pretends to be node 1, which is not up yet, and has another list.
    let stranger = founder(1, &servers[2], 7);
    let other = list(&[founders[0].clone(), stranger.clone()]);
    let refused = bootstrap(&BootstrapService::new(), &stranger, &other).await;
    assert!(matches!(refused, Err(BootstrapError::OtherList { .. })), "{refused:?}");

    let late = async {
        // The first rounds of node 0 find nobody.
        tokio::time::sleep(Duration::from_millis(200)).await;
        servers[1].bootstrap_service().answer_as_founder(founders[1].clone(), both.clone());
        bootstrap(servers[1].bootstrap_service(), &founders[1], &both).await
    };
    let (first, second) =
        tokio::join!(bootstrap(servers[0].bootstrap_service(), &founders[0], &both), late);
    let first = first.expect("the question of the stranger does not count");
    assert_eq!(first, second.expect("the lists agree"));
}

#[tokio::test]
async fn a_founder_on_its_own_refuses_those_that_count_on_it() {
    let servers = servers(2).await;
    let founders = founders_of(&servers[..2]);
    let alone = list(&founders[1..]);
    servers[1].bootstrap_service().answer_as_founder(founders[1].clone(), alone.clone());
    let founded =
        bootstrap(servers[1].bootstrap_service(), &founders[1], &alone).await.expect("it is alone");
    let refused = bootstrap(servers[0].bootstrap_service(), &founders[0], &list(&founders)).await;
    assert!(matches!(refused, Err(BootstrapError::OtherList { .. })), "{refused:?}");
    servers[1].bootstrap_service().answer_as_member(
        founders[1].clone(),
        founded.cluster,
        founded.membership,
    );
    let refused = bootstrap(servers[0].bootstrap_service(), &founders[0], &list(&founders)).await;
    assert!(matches!(refused, Err(BootstrapError::Stranger { .. })), "{refused:?}");
}
