//! Replies that are not read take bounded memory of a node.

use crate::api::node::single;
use crate::local::serve::{Members, ask};
use crate::local::{PATIENCE, free_ports, scratch, until};
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};

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
        // Once the first byte of each reply is there, all of them are in memory.
        for client in &clients {
            client.set_read_timeout(Some(PATIENCE)).unwrap();
            assert_eq!(client.peek(&mut [0]).unwrap(), 1);
            let grown = members.member(0).memory_bytes().saturating_sub(before);
            assert!(grown < MEMORY_BYTES_MAX, "{path}: {} MiB more", grown >> 20);
        }
        // Each client gets its value, or a refusal with 429.
        for client in &mut clients {
            let mut status = [0; 12];
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
    let directory = tempfile::tempdir().unwrap();
    let node = single(directory.path(), |config| {
        config.limits.replies_bytes_max = 32 << 20;
        // Without memory pressure, a client that does not read would be disconnected only then.
        config.limits.client_timeout = PATIENCE * 10;
    });
    // More replies than fit into the memory budget.
    let clients = unread(node.address, 60);
    let is_refused = |client: &&TcpStream| {
        let mut status = [0; 12];
        client.set_read_timeout(Some(PATIENCE)).unwrap();
        until("it is answered", || client.peek(&mut status).unwrap() == status.len());
        status.ends_with(b"429")
    };
    assert!(clients.iter().any(|client| is_refused(&client)), "there was room all the time");
    until("they make room", || node.get("/v1/kv/z").status == 200);
    drop(clients);
}

/// The bytes that wait in the sockets of this port, and the connections that wait to be accepted.
fn unread_bytes(port: u16) -> u64 {
    let sockets = std::fs::read_to_string("/proc/net/tcp").unwrap();
    let of_port = sockets.lines().skip(1).filter_map(|line| {
        let mut fields = line.split_whitespace();
        let (_, local_port) = fields.nth(1)?.split_once(':')?;
        let (_, received) = fields.nth(2)?.split_once(':')?;
        (u16::from_str_radix(local_port, 16) == Ok(port)).then_some(received)
    });
    of_port.map(|received| u64::from_str_radix(received, 16).unwrap()).sum()
}

#[test]
fn a_body_takes_memory_when_it_is_there_and_not_when_it_is_announced() {
    let (_scratch, data) = scratch();
    let members = Members::serving(&data, free_ports(3));
    let address = members.address(0);
    let before = members.member(0).virtual_bytes();
    let mut clients: Vec<TcpStream> = (0..200)
        .map(|_| {
            let mut client = TcpStream::connect(address).unwrap();
            write!(
                client,
                "POST /v1/batch HTTP/1.1\r\nHost: {address}\r\nContent-Length: 24000000\r\n\r\n"
            )
            .unwrap();
            client
        })
        .collect();
    for _ in 0..3 {
        until("the node has read all", || unread_bytes(address.port()) == 0);
        for client in &mut clients {
            client.write_all(&[b' '; 10_000]).unwrap();
        }
    }
    until("the node has read all", || unread_bytes(address.port()) == 0);
    let grown = members.member(0).virtual_bytes().saturating_sub(before);
    assert!(grown < 1 << 30, "{} MiB more", grown >> 20);
    drop(clients);
}
