//! Every request gets an answer, and no request stops the node.

use crate::api::node::{Node, send, single, until};
use std::io::{Read, Write};
use std::net::TcpStream;
use std::time::Duration;

fn refused(node: &Node, path: &str, body: &str, status: u16) {
    let answer = node.post(path, body);
    let shown = &body[..body.len().min(80)];
    assert_eq!(answer.status, status, "{path} {shown}: {answer:?}");
    assert!(answer.json()["error"].is_string(), "{path} {shown}: {answer:?}");
}

#[test]
fn every_malformed_command_gets_its_error() {
    let directory = tempfile::tempdir().unwrap();
    let node = single(directory.path(), |_| ());
    for body in [
        "",
        " ",
        "{",
        "}",
        "null",
        "[]",
        "\"x\"",
        "7",
        "{} {}",
        "\u{0}\u{1}",
        "{\"kind\":}",
        r#"["put","a","1",null,null]"#,
        r#"{}"#,
        r#"{"key":"a","value":"1"}"#,
        r#"{"kind":null,"key":"a"}"#,
        r#"{"kind":7,"key":"a"}"#,
        r#"{"kind":"Put","key":"a","value":"1"}"#,
        r#"{"kind":"delete","key":"a"}"#,
        r#"{"kind":"put","value":"1"}"#,
        r#"{"kind":"put","key":null,"value":"1"}"#,
        r#"{"kind":"put","key":7,"value":"1"}"#,
        r#"{"kind":"put","key":["a"],"value":"1"}"#,
        r#"{"kind":"put","key":"a"}"#,
        r#"{"kind":"put","key":"a","value":1}"#,
        r#"{"kind":"put","key":"a","value":{}}"#,
        r#"{"kind":"put","key":"a","value":"\ud800"}"#,
        r#"{"kind":"put","key":"a","value":"1","id":"1"}"#,
        r#"{"kind":"put","key":"a","value":"1","id":1.5}"#,
        r#"{"kind":"put","key":"a","key":"b","value":"1"}"#,
        r#"{"kind":"cas","key":"a","value":"1"}"#,
        r#"{"kind":"cas","key":"a","compare_value":"1"}"#,
        &"[".repeat(100_000),
        &format!("{{\"kind\":{}", "[".repeat(100_000)),
    ] {
        refused(&node, "/submit", body, 400);
    }
    for body in [
        "",
        "[]",
        "{}",
        r#"{"log_index":"0"}"#,
        r#"{"log_index":-1}"#,
        r#"{"log_index":0.5}"#,
        r#"{"log_index":0,"timeout_ms":-1}"#,
        r#"{"log_index":0,"timeout_ms":"1"}"#,
        r#"{"log_index":0,"term":-1}"#,
    ] {
        refused(&node, "/wait_commit", body, 400);
    }
    for path in [
        "/get_commit",
        "/get_commit?index=",
        "/get_commit?index=x",
        "/get_commit?index=1.0",
        "/get_commits_since?since_index=x",
        "/get_commits_since?limit=-1",
    ] {
        let answer = node.get(path);
        assert_eq!(answer.status, 400, "{path}");
        assert!(answer.json()["error"].is_string());
    }
    for path in ["/get_commit?index=-1", "/get_commit?index=99999999999999999999999"] {
        assert_eq!(node.get(path).status, 404, "{path}");
    }
    assert_eq!(node.get("/get_commits_since?since_index=99999999999999999999").status, 200);
    for path in ["/get", "/put", "/cas"] {
        refused(&node, path, "{}", 400);
        refused(&node, path, "junk", 400);
    }
    assert_eq!(node.get("/submit").status, 405);
    assert_eq!(node.post("/is_leader", "").status, 405);
    assert_eq!(node.post("/nothing", "").status, 404);
    // None of the requests was proposed, and the node still serves.
    let answer = node.post("/submit", r#"{"kind":"put","key":"a","value":"1"}"#);
    assert_eq!(answer.json()["log_index"], 0);
}

#[test]
fn what_is_too_large_is_refused_before_it_costs_anything() {
    let directory = tempfile::tempdir().unwrap();
    let node = single(directory.path(), |config| {
        config.limits.key_bytes_max = 10;
        config.limits.value_bytes_max = 100;
    });
    let (key, value) = ("k".repeat(11), "v".repeat(101));
    let put =
        |key: &str, value: &str| format!(r#"{{"kind":"put","key":"{key}","value":"{value}"}}"#);
    refused(&node, "/submit", &put(&key, "1"), 413);
    refused(&node, "/submit", &put("a", &value), 413);
    refused(&node, "/submit", &put("a", &"v".repeat(5_000_000)), 413);
    refused(&node, "/wait_commit", &"x".repeat(5_000_000), 413);
    assert_eq!(node.ask("PUT", &format!("/v1/kv/{key}"), "1").status, 413);
    assert_eq!(node.ask("PUT", "/v1/kv/a", &value).status, 413);
    assert_eq!(node.ask("PUT", "/v1/kv/a", &"v".repeat(5_000_000)).status, 413);
    // A value of the largest size, which is six times as long in JSON.
    let escaped = "\\u0001".repeat(100);
    assert_eq!(node.commit(&put("0123456789", &escaped)).status, 200);
    assert_eq!(node.ask("PUT", "/v1/kv/0123456789", &"v".repeat(100)).status, 200);
}

#[test]
fn junk_instead_of_http_is_answered_and_forgotten() {
    let directory = tempfile::tempdir().unwrap();
    let node = single(directory.path(), |config| {
        config.limits.client_timeout = Duration::from_millis(300);
    });
    let junk: Vec<u8> = (0..10_000_u32).map(|n| (n * 7919 % 251) as u8).collect();
    for bytes in [
        &b"\r\n\r\n\r\n"[..],
        b"GET\r\n\r\n",
        b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc",
        &junk,
        b"GET /is_leader HTTP/9.9\r\n\r\n",
        b"GET /\xff HTTP/1.1\r\n\r\n",
        b"POST /submit HTTP/1.1\r\ncontent-length: -1\r\n\r\n",
        b"POST /submit HTTP/1.1\r\ntransfer-encoding: chunked\r\n\r\nzz\r\n",
        &[b"GET / HTTP/1.1\r\nx: ".as_slice(), &vec![b'x'; 200_000]].concat(),
    ] {
        let mut ended = bytes.to_vec();
        ended.extend_from_slice(b"\r\n\r\n");
        // If there is an answer, it is a client error.
        if let Some(answer) = send(node.address, &ended) {
            assert!((400..500).contains(&answer.status), "{answer:?}");
        }
    }
    assert!(node.leads());
}

#[test]
fn half_a_request_and_then_silence_is_cut_off() {
    let directory = tempfile::tempdir().unwrap();
    let node = single(directory.path(), |config| {
        config.limits.client_timeout = Duration::from_millis(300);
    });
    // `send` fails if the node does not close the connection.
    for half in [
        &b"POST /subm"[..],
        b"POST /submit HTTP/1.1\r\nhost: localhost\r\ncontent-length: 100\r\n\r\n{\"kind\"",
        b"PUT /v1/kv/a HTTP/1.1\r\nhost: localhost\r\ncontent-length: 100\r\n\r\nx",
        b"",
    ] {
        if let Some(answer) = send(node.address, half) {
            assert_eq!(answer.status, 408, "{answer:?}");
        }
    }
    assert!(node.leads());
    assert_eq!(node.get("/v1/kv/a").status, 404);
}

#[test]
fn a_body_in_another_transfer_coding_is_refused() {
    let directory = tempfile::tempdir().unwrap();
    let node = single(directory.path(), |_| {});
    for coding in ["gzip, chunked", "identity, chunked", "chunked, chunked", "gzip"] {
        let request = format!(
            "PUT /v1/kv/a HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\
             Transfer-Encoding: {coding}\r\n\r\n1\r\nx\r\n0\r\n\r\n"
        );
        let answer = send(node.address, request.as_bytes()).unwrap();
        assert!([400, 501].contains(&answer.status), "{coding}: {answer:?}");
    }
    assert_eq!(node.get("/v1/kv/a").status, 404);
}

#[test]
fn a_client_that_does_not_read_its_answer_is_cut_off() {
    let directory = tempfile::tempdir().unwrap();
    let node = single(directory.path(), |config| {
        config.limits.listings_max = 1;
        config.limits.client_timeout = Duration::from_millis(300);
    });
    let value = "v".repeat(1 << 20);
    for n in 0..24 {
        assert_eq!(node.ask("PUT", &format!("/v1/kv/{n}"), &value).status, 200);
    }
    let mut silent = TcpStream::connect(node.address).unwrap();
    silent.write_all(b"GET /get_commits_since HTTP/1.1\r\nhost: localhost\r\n\r\n").unwrap();
    assert_eq!(silent.peek(&mut [0]).unwrap(), 1, "its answer begins");
    until("it makes room for another", || node.get("/get_commits_since?limit=1").status == 200);
    let mut all = Vec::new();
    // Reads what both sides have buffered, up to the end of the connection.
    let _ = silent.read_to_end(&mut all);
    assert!(all.starts_with(b"HTTP/1.1 200 OK"));
    assert!(!all.ends_with(b"\r\n0\r\n\r\n"), "the whole answer of {} bytes came", all.len());
    assert_eq!(node.get("/get_commits_since").json()["count"], 24);
}
