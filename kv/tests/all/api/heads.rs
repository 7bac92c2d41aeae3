//! HTTP at the level of bytes: malformed heads, half-closed connections and limits.

use crate::api::node::{Answer, Node, ask, cluster, send, single, start};
use crate::local::PATIENCE;
use serde_json::json;
use std::io::{Read, Write};
use std::net::{Shutdown, TcpStream};
use std::time::Duration;

/// Sends bytes, closes this side of the connection, and reads the answer of the node.
fn half_closed(node: &Node, bytes: &[u8]) -> String {
    let mut stream = TcpStream::connect(node.address).expect("the node answers on its socket");
    stream.set_read_timeout(Some(PATIENCE)).expect("the node answers on its socket");
    stream.write_all(bytes).expect("the node answers on its socket");
    stream.shutdown(Shutdown::Write).expect("the node answers on its socket");
    let mut answer = String::new();
    stream.read_to_string(&mut answer).expect("the node answers on its socket");
    answer
}

#[test]
fn a_client_that_closes_its_side_gets_its_answer() {
    let directory = tempfile::tempdir().unwrap();
    let node = single(directory.path(), |_| ());
    let batch = r#"{"operations":[{"op":"put","key":"b","value":"1"}]}"#;
    let posted = format!(
        "POST /v1/batch HTTP/1.1\r\nhost: localhost\r\ncontent-length: {}\r\n\r\n{batch}",
        batch.len()
    );
    for n in 0..20 {
        let put =
            format!("PUT /v1/kv/{n} HTTP/1.1\r\nhost: localhost\r\ncontent-length: 1\r\n\r\nx");
        for request in [
            &*put,
            &posted,
            "GET /v1/kv/0 HTTP/1.1\r\nhost: localhost\r\n\r\n",
            "GET /is_leader HTTP/1.1\r\nhost: localhost\r\n\r\n",
            "GET /get_commits_since HTTP/1.1\r\nhost: localhost\r\n\r\n",
        ] {
            let answer = half_closed(&node, request.as_bytes());
            assert!(answer.starts_with("HTTP/1.1 200 OK"), "{request}: {answer:?}");
        }
    }
}

/// The library under it cuts a fragment off, and would write another key.
#[test]
fn a_target_with_a_fragment_is_refused() {
    let directory = tempfile::tempdir().unwrap();
    let node = single(directory.path(), |_| ());
    let put = |key: &str| {
        let head = format!("PUT /v1/kv/{key} HTTP/1.1\r\nhost: localhost\r\ncontent-length: 1");
        half_closed(&node, format!("{head}\r\n\r\n#").as_bytes())
    };
    assert!(put("item").starts_with("HTTP/1.1 200 OK"));
    for key in ["item#2", "item#", "item?x=#"] {
        let answer = put(key);
        assert!(answer.starts_with("HTTP/1.1 400 Bad Request"), "{key}: {answer:?}");
    }
    let kept = half_closed(&node, b"GET /v1/kv/item HTTP/1.1\r\nhost: localhost\r\n\r\n");
    assert!(kept.to_ascii_lowercase().contains("etag: \"1\""), "{kept:?}");
}

/// Asserts that the answer is a problem document of a node.
fn is_problem(answer: &Answer, status: u16, kind: &str) {
    assert_eq!(answer.status, status, "{answer:?}");
    assert_eq!(answer.header("content-type"), Some("application/problem+json"), "{answer:?}");
    assert_eq!(answer.header("raft-kv-node"), Some("0"), "{answer:?}");
    let problem = answer.json();
    assert_eq!(problem["type"], format!("urn:raft-kv:problem:{kind}"), "{answer:?}");
    assert_eq!((&problem["status"], &problem["outcome"]), (&json!(status), &json!("not_done")));
    assert!(problem["title"].is_string() && problem["detail"].is_string(), "{answer:?}");
}

#[test]
fn a_head_that_cannot_be_read_is_answered_with_the_reason() {
    let directory = tempfile::tempdir().unwrap();
    let node = single(directory.path(), |config| {
        // A head that is complete arrives within this time, however busy the machine is.
        config.limits.client_timeout = Duration::from_secs(2);
    });
    let get = |path: &str, rest: &str| format!("GET {path} HTTP/1.1\r\n{rest}\r\n");
    let headers = |count: usize| -> String { (0..count).map(|n| format!("x{n}: 1\r\n")).collect() };
    let long = "x".repeat(66_000);
    let key = "/v1/kv/a";
    for (bytes, status, kind) in [
        (get("/is leader", "host: a\r\n"), 400, "malformed"),
        (get(key, "host: a\r\nx y: 1\r\n"), 400, "malformed"),
        ("\u{16}\u{3}\u{1}\u{2}\r\n\r\n".to_owned(), 400, "malformed"),
        ("GET /v1/kv/a HTTP/9.9\r\n\r\n".to_owned(), 400, "malformed"),
        ("PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n".to_owned(), 400, "malformed"),
        (get(&format!("/v1/kv/{long}"), "host: a\r\n"), 414, "uri-too-long"),
        (get(key, &format!("host: a\r\nx: {}\r\n", "x".repeat(200_000))), 431, "head-too-large"),
        (get(key, &format!("host: a\r\n{}", headers(120))), 431, "head-too-large"),
        // Heads beyond the limits of the API that hyper would accept.
        (get(key, &format!("host: a\r\n{}", headers(97))), 431, "head-too-large"),
        (get(key, &format!("host: a\r\nx: {long}\r\n")), 431, "head-too-large"),
        ("PUT /v1/kv/a HT".to_owned(), 408, "slow"),
        ("GET /v1/kv/a HTTP/1.1\r\nhost: localhost\r\n".to_owned(), 408, "slow"),
        (get(key, "connection: close\r\n"), 400, "malformed"),
        (get(key, "host: localhost\r\nhost: localhost\r\n"), 400, "malformed"),
        (get(key, "host: a b\r\n"), 400, "malformed"),
    ] {
        let shown: String = bytes.chars().take(60).collect();
        let answer = send(node.address, bytes.as_bytes());
        let answer = answer.unwrap_or_else(|| panic!("no answer to {shown:?}"));
        is_problem(&answer, status, kind);
    }
    // The client closes its side in the middle of the head.
    let answer = half_closed(&node, b"PUT /v1/kv/a HTTP/1.1\r\nhost: loc");
    assert!(answer.starts_with("HTTP/1.1 400 ") && answer.contains("ends in the middle"));
    // The compatible API has another form of errors.
    let answer = send(node.address, b"POST /put HTTP/1.1\r\nconnection: close\r\n\r\n").unwrap();
    assert_eq!(answer.status, 400);
    assert!(answer.json()["error"].as_str().unwrap().contains("Host"), "{answer:?}");
    // HTTP/1.0 has no such header.
    assert_eq!(send(node.address, b"GET /v1/kv/a HTTP/1.0\r\n\r\n").unwrap().status, 404);
    // An idle connection is closed without an answer.
    assert!(send(node.address, b"").is_none());
    assert!(node.leads());
}

#[test]
fn a_second_request_on_a_connection_is_refused_the_same_way() {
    let directory = tempfile::tempdir().unwrap();
    let node = single(directory.path(), |_| ());
    let both =
        b"PUT /v1/kv/a HTTP/1.1\r\nhost: localhost\r\ncontent-length: 1\r\n\r\nxGET / /\r\n\r\n";
    let answers = half_closed(&node, both);
    let second = answers.find("HTTP/1.1 400 Bad Request").unwrap();
    assert!(answers.starts_with("HTTP/1.1 200 OK") && second > 0, "{answers}");
    assert!(answers[second..].contains("urn:raft-kv:problem:malformed"), "{answers}");
}

#[test]
fn a_value_that_looks_like_an_answer_of_the_library_arrives_unchanged() {
    let directory = tempfile::tempdir().unwrap();
    let node = single(directory.path(), |_| ());
    let value = "HTTP/1.1 400 Bad Request\r\ncontent-length: 0\r\n\r\n";
    assert_eq!(node.ask("PUT", "/v1/kv/a", value).status, 200);
    assert_eq!(node.get("/v1/kv/a").body, value);
    let get = "GET /v1/kv/a HTTP/1.1\r\nhost: localhost\r\n\r\n";
    // On a connection that stays open, each request is answered at once.
    let mut stream = TcpStream::connect(node.address).unwrap();
    stream.set_read_timeout(Some(PATIENCE)).unwrap();
    for _ in 0..3 {
        stream.write_all(get.as_bytes()).unwrap();
        let (mut answer, mut part) = (Vec::new(), [0; 4096]);
        while !answer.ends_with(value.as_bytes()) {
            let read = stream.read(&mut part).unwrap();
            assert!(read > 0);
            answer.extend_from_slice(&part[..read]);
        }
    }
    let answers = half_closed(&node, get.repeat(3).as_bytes());
    assert_eq!(answers.matches(value).count(), 3, "{answers}");
}

#[test]
fn a_request_that_one_node_takes_is_not_too_large_for_the_next() {
    let directory = tempfile::tempdir().unwrap();
    let nodes = start(cluster(3, directory.path()));
    // `ask` adds three headers.
    let many: Vec<String> = (0..93).map(|n| format!("x-{n}: 1")).collect();
    let many: Vec<&str> = many.iter().map(String::as_str).collect();
    let pad = format!("x: {}", "x".repeat((64 << 10) - 200));
    for headers in [&many[..], &[&*pad]] {
        let answer = ask(nodes[1].address, "PUT", "/v1/kv/a", headers, "x");
        assert_eq!(answer.status, 200, "{answer:?}");
    }
}
