//! Bodies that arrive slowly, in part, or not at all.

use crate::api::node::{Node, ask, single, until};
use crate::local::PATIENCE;
use std::io::{Read, Write};
use std::net::{Shutdown, TcpStream};

/// Sends the head of a PUT with a body of `claimed` bytes, and `sent` bytes of it.
fn begin_put(node: &Node, headers: &str, claimed: usize, sent: usize) -> TcpStream {
    let mut stream = TcpStream::connect(node.address).expect("the node listens");
    stream.set_read_timeout(Some(PATIENCE)).expect("a timeout can be set");
    let head = format!("PUT /v1/kv/a HTTP/1.1\r\n{headers}content-length: {claimed}\r\n\r\n");
    stream.write_all(head.as_bytes()).expect("the node reads");
    stream.write_all(&vec![b'x'; sent]).expect("the node reads");
    stream
}

/// Reads until `end` is the end of what has arrived.
fn read_until(stream: &mut TcpStream, end: &str) -> String {
    let (mut all, mut byte) = (String::new(), [0]);
    while !all.ends_with(end) {
        assert_eq!(stream.read(&mut byte).expect("the node answers"), 1, "{all}");
        all.push(char::from(byte[0]));
    }
    all
}

#[test]
fn an_answer_that_is_sent_before_the_body_was_read_arrives() {
    let directory = tempfile::tempdir().unwrap();
    let node = single(directory.path(), |config| {
        config.limits.bodies_bytes_max = 200 << 10;
        config.limits.value_bytes_max = 8 << 20;
    });
    let local = "host: localhost\r\n";
    for (headers, status) in [(local, "429"), ("host: evil.example\r\n", "403"), ("", "400")] {
        for _ in 0..10 {
            let mut stream = begin_put(&node, headers, 6 << 20, 0);
            // A client that reads nothing before it has sent everything.
            let sent = stream.write_all(&vec![b'x'; 6 << 20]);
            let mut answer = String::new();
            let read = stream.read_to_string(&mut answer);
            let shown = format!("{status}: {answer:?} {sent:?} {read:?}");
            assert!(answer.starts_with(&format!("HTTP/1.1 {status} ")), "{shown}");
            assert!(answer.ends_with('}') && sent.is_ok() && read.is_ok(), "{shown}");
        }
    }
    assert_eq!(node.ask("PUT", "/v1/kv/a", "x").status, 200);
}

#[test]
fn a_client_that_asks_before_it_sends_a_body_that_is_too_large_is_refused_at_once() {
    let directory = tempfile::tempdir().unwrap();
    let node = single(directory.path(), |_| ());
    let headers = "host: localhost\r\nexpect: 100-continue\r\n";
    let mut stream = begin_put(&node, headers, 5_000_000, 0);
    let mut answer = String::new();
    stream.read_to_string(&mut answer).expect("the node answers and closes");
    assert!(answer.starts_with("HTTP/1.1 413 "), "{answer}");
    assert!(!answer.contains("100 Continue"), "{answer}");

    let mut stream = begin_put(&node, headers, 5, 0);
    assert_eq!(read_until(&mut stream, "\r\n\r\n"), "HTTP/1.1 100 Continue\r\n\r\n");
    stream.write_all(b"12345").expect("the node reads");
    stream.shutdown(Shutdown::Write).expect("the node reads");
    assert!(read_until(&mut stream, "\r\n\r\n").starts_with("HTTP/1.1 200 "));
}

#[test]
fn a_header_or_parameter_that_makes_no_sense_is_named_with_its_value() {
    let directory = tempfile::tempdir().unwrap();
    let node = single(directory.path(), |_| ());
    let refused = |method: &str, path: &str, headers: &[&str], parts: &[&str]| {
        let answer = ask(node.address, method, path, headers, "");
        let shown = format!("{method} {path} {headers:?}: {answer:?}");
        assert_eq!(answer.status, 400, "{shown}");
        let json = answer.json();
        let detail = json.get("detail").or(json.get("error")).and_then(|text| text.as_str());
        let detail = detail.unwrap_or_default();
        assert!(parts.iter().all(|part| detail.contains(part)), "{shown}");
    };
    for value in ["-1", "abc", "1.5", "1e3", "99999999999999999999999", "7 s"] {
        let header = format!("raft-kv-wait-ms: {value}");
        for (method, path) in [("PUT", "/v1/kv/a"), ("DELETE", "/v1/kv/a"), ("POST", "/v1/batch")] {
            refused(method, path, &[&header], &["raft-kv-wait-ms", value]);
        }
    }
    refused("PUT", "/v1/kv/a", &["raft-kv-wait-ms:"], &["raft-kv-wait-ms"]);
    let twice = ["raft-kv-wait-ms: 1", "raft-kv-wait-ms: 2"];
    refused("PUT", "/v1/kv/a", &twice, &["raft-kv-wait-ms", "more than once"]);
    for name in ["if-match", "if-none-match"] {
        let header = format!("{name}: nonsense");
        refused("PUT", "/v1/kv/a", &[&header], &[name, "nonsense"]);
        refused("GET", "/v1/kv/a", &[&header], &[name, "nonsense"]);
    }
    for (path, name, value) in [
        ("/v1/kv/a?consistency=stale&max_age=-1", "max_age", "-1"),
        ("/v1/kv/a?consistency=stale&max_age=2", "max_age", "2"),
        ("/v1/kv/a?consistency=fast", "consistency", "fast"),
        ("/v1/kv/a?consistency=stale&consistency=lease", "consistency", "more than once"),
        ("/v1/kv/a?consistency=stale&max_age=1s&max_age=2s", "max_age", "more than once"),
        ("/v1/cluster?local=maybe", "local", "maybe"),
        ("/v1/cluster?local=true&local=false", "local", "more than once"),
        ("/get_commit?index=1x", "index", "1x"),
        ("/get_commit?index=1&index=2", "index", "more than once"),
        ("/get_commits_since?since_index=x", "since_index", "x"),
        ("/get_commits_since?limit=-1", "limit", "-1"),
    ] {
        refused("GET", path, &[], &[name, value]);
    }
    for value in ["0", "700", "18446744073709551615"] {
        let header = format!("raft-kv-wait-ms: {value}");
        assert_eq!(ask(node.address, "PUT", "/v1/kv/a", &[&header], "x").status, 200, "{value}");
    }
}

/// Writes until it succeeds. It must, before the bodies of the slow clients are given up anyway.
fn is_served(node: &Node, body: &str) {
    until("slow clients give back what others need", || {
        let answer = ask(node.address, "PUT", "/v1/kv/b", &[], body);
        assert!(matches!(answer.status, 200 | 429 | 503), "{answer:?}");
        answer.status == 200
    });
}

#[test]
fn clients_that_stop_within_a_body_keep_no_connections_that_others_need() {
    let directory = tempfile::tempdir().unwrap();
    let node = single(directory.path(), |config| {
        config.limits.connections_max = 64;
        config.limits.client_timeout = PATIENCE * 10;
    });
    let headers = "host: localhost\r\n";
    let slow: Vec<_> = (0..300).map(|_| begin_put(&node, headers, 1000, 500)).collect();
    is_served(&node, "x");
    drop(slow);
}

#[test]
fn clients_that_stop_within_a_body_keep_no_memory_that_others_need() {
    let directory = tempfile::tempdir().unwrap();
    let node = single(directory.path(), |config| {
        config.limits.bodies_bytes_max = 8 << 20;
        config.limits.value_bytes_max = 4 << 20;
        config.limits.client_timeout = PATIENCE * 10;
    });
    let headers = "host: localhost\r\n";
    // Most of what they have sent is read by the node, as it does not fit into the sockets'
    // buffers.
    let slow: Vec<_> = (0..2).map(|_| begin_put(&node, headers, 4 << 20, 3_900_000)).collect();
    is_served(&node, &"x".repeat(3_000_000));
    drop(slow);
}
