//! Nodes with a low limit on file descriptors, and more clients than that.

use crate::local::serve::{Members, ask};
use crate::local::{free_ports, get, scratch, until};
use std::io::{Read, Write};
use std::net::TcpStream;

/// The limit on the file descriptors of each node.
const DESCRIPTORS: u64 = 256;
/// More clients than descriptors.
const IDLE_CLIENTS: usize = 600;
/// Enough values to begin several log segments, each of which needs a descriptor.
const VALUES: usize = 60;
const VALUE_BYTES: usize = 900_000;

#[test]
fn more_idle_clients_than_descriptors_end_no_node_and_no_term() {
    let (_scratch, data) = scratch();
    let mut members = Members::serving_limited(&data, free_ports(3), DESCRIPTORS);
    members.wait_for_followers(0);
    let term = members.metric(0, "raft_term");

    // Half of them are in the middle of a head.
    let idle: Vec<_> = (0..IDLE_CLIENTS)
        .filter_map(|n| {
            let mut client = TcpStream::connect(members.address((n % 2) as u16)).ok()?;
            if n % 4 < 2 {
                let _ = client.write_all(b"GET /v1/kv/a HTTP/1.1\r\nHost: localhost\r\n");
            }
            Some(client)
        })
        .collect();
    for node in 0..2 {
        for path in ["/healthz", "/readyz", "/metrics", "/is_leader"] {
            let answer = ask(members.address(node), "GET", path, b"");
            assert!(answer.starts_with("HTTP/1.1 200"), "{path}: {answer}");
        }
    }
    let value = vec![b'x'; VALUE_BYTES];
    for n in 0..VALUES {
        // Also through a follower, which forwards the write to a leader that is full.
        let address = members.address((n % 3) as u16);
        until("it is written", || {
            let answer = ask(address, "PUT", &format!("/v1/kv/{n}"), &value);
            if answer.starts_with("HTTP/1.1 200") {
                return true;
            }
            assert!(answer.contains("not_done"), "{answer}");
            assert!(answer.contains("retry-after"), "{answer}");
            false
        });
    }
    assert_eq!(members.metric(0, "raft_term"), term, "there was an election");
    assert!(members.all_run());
    drop(idle);
}

#[test]
fn a_client_for_whom_there_is_no_place_is_told_so() {
    let (_scratch, data) = scratch();
    let mut members = Members::new(&data, free_ports(3));
    members.start_limited(0, 160, &[]);
    // These clients keep their places, because they have just connected.
    let mut clients: Vec<TcpStream> = Vec::new();
    until("it answers", || get(members.address(0), "/healthz").is_some());
    for _ in 0..60 {
        clients.push(TcpStream::connect(members.address(0)).unwrap());
    }
    let answer = ask(members.address(0), "GET", "/v1/kv/a", b"");
    assert!(answer.starts_with("HTTP/1.1 503"), "{answer}");
    for part in ["retry-after: 1", "problem:full", "connection: close"] {
        assert!(answer.contains(part), "{answer}");
    }
    assert!(get(members.address(0), "/healthz").is_some());
}

#[test]
fn each_of_many_clients_for_whom_there_is_no_place_gets_an_answer() {
    const CLIENTS: usize = 24;
    const REQUESTS: usize = 20;
    let (_scratch, data) = scratch();
    let members = Members::serving_limited(&data, free_ports(3), 160);
    let address = members.address(0);
    // These clients keep their places: each waits for a commit that does not come.
    let body = "{\"log_index\":1000000}";
    let length = body.len();
    let request = format!(
        "POST /wait_commit HTTP/1.1\r\nHost: {address}\r\nContent-Length: {length}\r\n\r\n{body}"
    );
    let wait = || {
        let mut client = TcpStream::connect(address).ok()?;
        client.write_all(request.as_bytes()).ok()?;
        Some(client)
    };
    let mut waiting: Vec<TcpStream> = (0..60).filter_map(|_| wait()).collect();
    // The body arrives later than the head: a node that closed at once would reset the connection.
    let value = vec![b'x'; 100_000];
    let put = || {
        let mut client = TcpStream::connect(address).unwrap();
        let head = format!(
            "PUT /v1/kv/a HTTP/1.1\r\nHost: {address}\r\nConnection: close\r\n\
             Content-Length: 100000\r\n\r\n"
        );
        client.write_all(head.as_bytes()).unwrap();
        client.write_all(&value).unwrap();
        let mut answer = String::new();
        client.read_to_string(&mut answer).unwrap();
        answer
    };
    // The node may notice late that a client of the start has closed its connection.
    let mut refused = 0;
    until("all places are taken", || {
        let is_refused = put().starts_with("HTTP/1.1 503");
        refused = if is_refused { refused + 1 } else { 0 };
        waiting.extend(if is_refused { None } else { wait() });
        refused == REQUESTS
    });
    std::thread::scope(|scope| {
        for _ in 0..CLIENTS {
            scope.spawn(|| {
                for _ in 0..REQUESTS {
                    let answer = put();
                    assert!(answer.starts_with("HTTP/1.1 503"), "{answer}");
                    assert!(answer.contains("problem:full"), "{answer}");
                }
            });
        }
    });
    assert!(get(address, "/healthz").is_some());
}

#[test]
fn clients_that_are_gone_while_their_requests_wait_make_room() {
    let (_scratch, data) = scratch();
    let members = Members::serving_limited(&data, free_ports(3), DESCRIPTORS);
    let leader = members.address(0);
    let body = "{\"log_index\":1000000,\"timeout_ms\":3600000}";
    let mut refused = 0;
    for _ in 0..DESCRIPTORS {
        let mut client = TcpStream::connect(leader).unwrap();
        let length = body.len();
        // This request is answered after an hour. The client does not wait for it.
        let sent = write!(
            client,
            "POST /wait_commit HTTP/1.1\r\nHost: {leader}\r\nContent-Length: {length}\r\n\r\n{body}"
        );
        refused += u64::from(sent.is_err());
    }
    assert!(refused < DESCRIPTORS);
    until("the clients that are gone give back their places", || {
        ask(leader, "PUT", "/v1/kv/a", b"1").starts_with("HTTP/1.1 200")
    });
}

#[test]
fn clients_that_reset_their_connections_while_their_requests_wait_keep_no_descriptors() {
    const CLIENTS: usize = 40;
    let (_scratch, data) = scratch();
    let members = Members::serving(&data, free_ports(3));
    members.wait_for_followers(0);
    let leader = members.address(0);
    // These requests are answered after an hour.
    let body = "{\"log_index\":1000000,\"timeout_ms\":3600000}";
    let length = body.len();
    let request = format!(
        "GET /is_leader HTTP/1.1\r\nHost: {leader}\r\n\r\nPOST /wait_commit HTTP/1.1\r\nHost: \
         {leader}\r\nContent-Length: {length}\r\n\r\n{body}"
    );
    let waiting: Vec<TcpStream> = (0..CLIENTS)
        .map(|_| {
            let mut client = TcpStream::connect(leader).unwrap();
            client.write_all(request.as_bytes()).unwrap();
            client
        })
        .collect();
    let mut first = [0; 1];
    for client in &waiting {
        // The first answer has arrived, and stays unread: closing will reset the connection.
        assert_eq!(client.peek(&mut first).unwrap(), 1);
    }
    until("the requests wait", || members.metric(0, "driver_waiting_waiters") >= CLIENTS as u64);
    let held = members.member(0).descriptors();
    drop(waiting);
    until("the descriptors are closed", || members.member(0).descriptors() + CLIENTS <= held + 5);
}
