//! What clients of a node learn when it stops.

use crate::local::{Cluster, complaint, free_ports, scratch, until};
use crate::serve::{Node, client_address, leads, peers};
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::thread::JoinHandle;
use std::time::Duration;

/// One answer on a connection that is kept: its head and its body.
fn answer(stream: &mut TcpStream) -> Option<String> {
    let (mut head, mut byte) = (Vec::new(), [0]);
    while !head.ends_with(b"\r\n\r\n") {
        stream.read_exact(&mut byte).ok()?;
        head.push(byte[0]);
    }
    let head = String::from_utf8(head).unwrap().to_lowercase();
    let length = head.split("content-length: ").nth(1)?.split("\r\n").next()?;
    let mut body = vec![0; length.parse().unwrap()];
    stream.read_exact(&mut body).ok()?;
    Some(head)
}

/// Runs this many clients at once. Each returns `None` if it does not know what became of a
/// request.
fn clients<T: Send + 'static>(
    count: u64,
    run: impl Fn(u64) -> Option<T> + Clone + Send + 'static,
) -> Vec<JoinHandle<Option<T>>> {
    let one = |number| {
        let run = run.clone();
        std::thread::spawn(move || run(number))
    };
    let all = (0..count).map(one).collect();
    // They are in the middle of their requests.
    std::thread::sleep(Duration::from_millis(300));
    all
}

/// What the clients return that know it.
fn those_who_know<T>(clients: Vec<JoinHandle<Option<T>>>) -> Vec<T> {
    clients.into_iter().filter_map(|client| client.join().unwrap()).collect()
}

/// A client that keeps its connection, until it is asked to close it.
fn until_asked_to_close(address: SocketAddr, request: &str, pause: Duration) -> Option<()> {
    let mut stream = TcpStream::connect(address).unwrap();
    loop {
        stream.write_all(request.as_bytes()).ok()?;
        if answer(&mut stream)?.contains("connection: close") {
            return Some(());
        }
        std::thread::sleep(pause);
    }
}

#[test]
fn a_node_that_stops_answers_on_every_connection_that_is_in_use() {
    let scratch = tempfile::tempdir().unwrap();
    let peers = peers(1);
    let mut node = Node::start(scratch.path(), 0, &peers[0], &[]);
    until("it leads", || leads(&peers[0]));
    let address = client_address(&peers[0]);
    let get = format!("GET /v1/kv/x HTTP/1.1\r\nhost: {address}\r\n\r\n");
    let all = clients(8, move |_| until_asked_to_close(address, &get, Duration::from_millis(3)));
    assert_eq!(node.stop(), Some(0), "{}", node.log());
    let told = those_who_know(all).len();
    assert_eq!(told, 8, "the others do not know what became of a request");
}

#[test]
fn a_node_that_stops_answers_on_every_connection_that_it_has_accepted() {
    let scratch = tempfile::tempdir().unwrap();
    let peers = peers(1);
    let mut node = Node::start(scratch.path(), 0, &peers[0], &[]);
    until("it leads", || leads(&peers[0]));
    let address = client_address(&peers[0]);
    let all = clients(16, move |number| {
        let mut is_told = false;
        // Until nobody listens any more.
        while let Ok(mut stream) = TcpStream::connect(address) {
            std::thread::sleep(Duration::from_millis(number % 8));
            let path = if number % 2 == 0 { "/v1/kv/x" } else { "/readyz" };
            let get =
                format!("GET {path} HTTP/1.1\r\nhost: {address}\r\nconnection: close\r\n\r\n");
            stream.write_all(get.as_bytes()).ok()?;
            is_told |= answer(&mut stream)?.starts_with("http/1.1 503");
        }
        Some(is_told)
    });
    assert_eq!(node.stop(), Some(0), "{}", node.log());
    let answered = those_who_know(all);
    assert!(answered.contains(&true), "nobody was told that the node is not ready");
    let answered = answered.len();
    // Two may connect in the moment in which the listener closes. Without care, twelve are cut off.
    assert!(answered >= 14, "{answered} of 16: others do not know what became of a request");
}

#[test]
fn a_member_that_is_removed_answers_its_clients_before_it_ends() {
    let (_scratch, data) = scratch();
    let mut cluster = Cluster::start(&data, free_ports(3));
    for id in [2, 0] {
        let address = cluster.address(id);
        let put = format!("PUT /v1/kv/x HTTP/1.1\r\nhost: {address}\r\ncontent-length: 1\r\n\r\ny");
        let all = clients(8, move |_| until_asked_to_close(address, &put, Duration::ZERO));
        let removed = cluster.run(&["members", "remove", &id.to_string()]);
        assert!(removed.status.success(), "{}", complaint(&removed));
        cluster.wait_for_line(&format!("node {id} stopped"));
        let told = those_who_know(all).len();
        // On a busy machine, one may pause for longer than the node waits. Without care, it is 0.
        assert!(told >= 6, "{told} of 8: others do not know what became of a request");
    }
}
