//! Replies that are not read take bounded memory of a node.

use crate::local::serve::{Members, ask};
use crate::local::{free_ports, scratch};
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::time::{Duration, Instant};

/// Each of these bytes takes six in JSON.
const VALUE_BYTES: usize = 1 << 20;
/// The number of clients that do not read their replies.
const CLIENTS: usize = 200;
/// The most memory that these replies may take.
const MEMORY_BYTES_MAX: u64 = 400 << 20;

#[test]
fn replies_that_nobody_reads_cost_bounded_memory() {
    let (_scratch, data) = scratch();
    let members = Members::serving(&data, free_ports(3));
    let leader = members.address(0);
    let value = "\\u0000".repeat(VALUE_BYTES);
    let put = format!("{{\"key\":\"z\",\"value\":\"{value}\"}}");
    assert!(ask(leader, "POST", "/put", put.as_bytes()).contains("\"resp_status\":0"));
    let cas = format!(
        "{{\"kind\":\"cas\",\"key\":\"z\",\"value\":\"{value}\",\"compare_value\":\"{value}\"}}"
    );
    let answer = ask(leader, "POST", "/submit", cas.as_bytes());
    assert!(answer.contains("\"log_index\":1,"), "{answer}");
    let wait = ask(leader, "POST", "/wait_commit", b"{\"log_index\":1}");
    assert!(wait.len() > 3 * 6 * VALUE_BYTES, "{} bytes", wait.len());
    let before = members.member(0).memory_bytes();

    let kinds = [
        ("GET", "/get_commit?index=1", ""),
        ("GET", "/v1/kv/z", ""),
        ("POST", "/get", "{\"key\":\"z\"}"),
        ("GET", "/get_commits_since", ""),
    ];
    for (method, path, body) in kinds {
        let mut clients: Vec<TcpStream> = (0..CLIENTS)
            .map(|_| {
                let mut client = TcpStream::connect(leader).unwrap();
                let length = body.len();
                write!(
                    client,
                    "{method} {path} HTTP/1.1\r\nHost: {leader}\r\nContent-Length: {length}\r\n\r\n{body}"
                )
                .unwrap();
                client
            })
            .collect();
        std::thread::sleep(Duration::from_millis(500));
        let grown = members.member(0).memory_bytes().saturating_sub(before);
        assert!(grown < MEMORY_BYTES_MAX, "{path}: {} MiB more", grown >> 20);
        // Each client gets its value, or a refusal with 429.
        for client in &mut clients {
            let mut status = [0; 12];
            client.set_read_timeout(Some(Duration::from_secs(20))).unwrap();
            client.read_exact(&mut status).unwrap();
            assert!([b"200", b"429"].iter().any(|known| status.ends_with(*known)), "{status:?}");
        }
        assert!(ask(leader, "GET", "/is_leader", b"").contains("true"));
    }
}

/// Writes a large value, and requests it from clients that do not read their replies.
fn unread(leader: SocketAddr, clients: usize) -> Vec<TcpStream> {
    let value = "\\u0000".repeat(VALUE_BYTES);
    let put = format!("{{\"key\":\"z\",\"value\":\"{value}\"}}");
    assert!(ask(leader, "POST", "/put", put.as_bytes()).contains("\"resp_status\":0"));
    let ask = |_| {
        let mut client = TcpStream::connect(leader).unwrap();
        let body = "{\"key\":\"z\"}";
        let length = body.len();
        write!(
            client,
            "POST /get HTTP/1.1\r\nHost: {leader}\r\nContent-Length: {length}\r\n\r\n{body}"
        )
        .unwrap();
        client
    };
    (0..clients).map(ask).collect()
}

#[test]
fn replies_that_nobody_reads_make_room_for_those_that_somebody_waits_for() {
    let (_scratch, data) = scratch();
    let members = Members::serving(&data, free_ports(3));
    let leader = members.address(0);
    // More replies than fit into the memory budget.
    let clients = unread(leader, 300);
    std::thread::sleep(Duration::from_millis(500));
    let began = Instant::now();
    let mut refused = 0;
    while !ask(leader, "GET", "/v1/kv/z", b"").starts_with("HTTP/1.1 200") {
        refused += 1;
        // Without memory pressure, a client that does not read would be disconnected only after 30
        // s.
        assert!(began.elapsed() < Duration::from_secs(15));
        std::thread::sleep(Duration::from_millis(100));
    }
    assert!(refused > 0, "there was room all the time");
    drop(clients);
}

#[test]
fn a_body_takes_memory_when_it_is_there_and_not_when_it_is_announced() {
    let (_scratch, data) = scratch();
    let members = Members::serving(&data, free_ports(3));
    let address = members.address(0);
    let before = members.member(0).virtual_bytes();
    let clients: Vec<TcpStream> = (0..200)
        .map(|_| {
            let mut client = TcpStream::connect(address).unwrap();
            write!(
                client,
                "POST /v1/batch HTTP/1.1\r\nHost: {address}\r\nContent-Length: 24000000\r\n\r\n"
            )
            .unwrap();
            for _ in 0..3 {
                client.write_all(&[b' '; 10_000]).unwrap();
                std::thread::sleep(Duration::from_millis(5));
            }
            client
        })
        .collect();
    std::thread::sleep(Duration::from_millis(500));
    let grown = members.member(0).virtual_bytes().saturating_sub(before);
    assert!(grown < 1 << 30, "{} MiB more", grown >> 20);
    drop(clients);
}
