//! What clients of a node learn when it stops.

use crate::local::serve::Members;
use crate::local::{Cluster, complaint, free_ports, scratch, until};
use crate::serve::{Node, client_address, leads, peers};
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::thread::JoinHandle;
use std::time::Duration;

/// One answer on a connection: its head and its body.
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
    Some(head + &String::from_utf8_lossy(&body))
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
fn a_node_that_stops_answers_what_waits_for_something_that_does_not_come() {
    let (_scratch, data) = scratch();
    let mut members = Members::serving(&data, free_ports(3));
    let address = members.address(0);
    let ask = |method: &str, path: &str, body: &str| {
        let mut stream = TcpStream::connect(address).unwrap();
        let length = body.len();
        let head = format!("{method} {path} HTTP/1.1\r\nhost: {address}");
        write!(stream, "{head}\r\ncontent-length: {length}\r\n\r\n{body}").unwrap();
        stream
    };
    // Without a majority nothing is written, and no change of the members ends.
    members.kill(1);
    members.kill(2);
    let change = format!(r#"{{"members": [{{"id": 0, "client": "{address}"}}]}}"#);
    let mut wait = ask("POST", "/wait_commit", r#"{"log_index": 999, "timeout_ms": 60000}"#);
    let mut change = ask("PUT", "/v1/cluster/members?wait=60s&force=true", &change);
    let mut put = ask("PUT", "/v1/kv/x", "y");
    std::thread::sleep(Duration::from_millis(200));
    let begun = std::time::Instant::now();
    members.member(0).terminate();
    // Not only once the time for the others is over.
    let answered = answer(&mut wait);
    assert!(answered.as_ref().is_some_and(|head| head.starts_with("http/1.1 503")), "{answered:?}");
    let answered = answer(&mut change);
    assert!(answered.is_some(), "no answer to the declaration");
    assert!(begun.elapsed() < Duration::from_secs(2), "after {:?}", begun.elapsed());
    let answered = answer(&mut put);
    let is_told = |text: &String| text.starts_with("http/1.1 503") && text.contains("unknown");
    assert!(answered.as_ref().is_some_and(is_told), "{answered:?}");
    assert_eq!(members.wait(0).code(), Some(0));
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
