//! The compatible API, field for field.

use crate::api::node::{Node, ask, single, until};
use serde_json::{Value, json};
use std::io::Write;
use std::net::TcpStream;

fn value(node: &Node, path: &str) -> Value {
    let answer = node.get(path);
    assert_eq!(answer.status, 200, "{answer:?}");
    answer.json()
}

#[test]
fn the_table_of_the_contract_holds_to_the_letter() {
    let directory = tempfile::tempdir().unwrap();
    let node = single(directory.path(), |_| ());
    assert_eq!(value(&node, "/is_leader"), json!({"is_leader": true}));
    let submit = |command: &str| {
        let answer = node.post("/submit", command);
        assert_eq!(answer.status, 200);
        answer.json()
    };
    let put = submit(r#"{"kind": "put", "key": "hello", "value": "world"}"#);
    assert_eq!(put, json!({"log_index": 0, "is_leader": true, "term": 1}));
    let get = submit(r#"{"kind": "get", "key": "hello"}"#);
    assert_eq!(get, json!({"log_index": 1, "is_leader": true, "term": 1}));
    let cas =
        submit(r#"{"kind": "cas", "key": "hello", "compare_value": "world", "value": "newvalue"}"#);
    assert_eq!(cas, json!({"log_index": 2, "is_leader": true, "term": 1}));

    let first = json!({
        "index": 0, "term": 1,
        "command": {"kind": "put", "key": "hello", "value": "world", "id": 0},
        "result": {"found": false, "value": null},
    });
    let waited = node.post("/wait_commit", r#"{"log_index": 0, "timeout_ms": 30000}"#);
    assert_eq!((waited.status, waited.json()), (200, first.clone()));
    assert_eq!(value(&node, "/get_commit?index=0"), first);
    let second = node.post("/wait_commit", r#"{"log_index": 1, "timeout_ms": 30000, "term": 1}"#);
    assert_eq!(second.json()["result"], json!({"found": true, "value": "world"}));
    let third = node.post("/wait_commit", r#"{"log_index": 2, "timeout_ms": 30000}"#);
    assert_eq!(third.json()["result"], json!({"found": true, "value": "world"}));

    let all = value(&node, "/get_commits_since?since_index=-1");
    assert_eq!(all["count"], 3);
    assert_eq!(
        all["commits"][0],
        json!({"index": 0, "term": 1,
               "command": {"kind": "put", "key": "hello", "value": "world", "id": 0}})
    );
    assert_eq!(
        all["commits"][2]["command"],
        json!({"kind": "cas", "key": "hello", "compare_value": "world", "value": "newvalue",
               "id": 0})
    );
    assert_eq!(value(&node, "/get_commits_since"), all);
    let later = value(&node, "/get_commits_since?since_index=1");
    assert_eq!((&later["count"], &later["commits"][0]["index"]), (&json!(1), &json!(2)));
    let none = value(&node, "/get_commits_since?since_index=2");
    assert_eq!(none, json!({"commits": [], "count": 0}));
    assert_eq!(node.get("/get_commit?index=3").status, 404);
    assert_eq!(value(&node, "/listen_addr")["address"].as_str().map(str::is_empty), Some(false));
    assert_eq!(node.post("/ready", "").status, 200);
}

#[test]
fn whatever_a_client_chose_comes_back_as_it_was() {
    let directory = tempfile::tempdir().unwrap();
    let node = single(directory.path(), |_| ());
    let command = r#"{"kind": "put", "key": "ü\n", "value": "", "compare_value": "x",
                      "id": 18446744073709551615}"#;
    let commit = node.commit(command).json();
    assert_eq!(
        commit["command"],
        json!({"kind": "put", "key": "ü\n", "value": "", "compare_value": "x",
               "id": 18446744073709551615_u64})
    );
    let commit = node.commit(r#"{"kind": "get", "key": "", "id": -7, "value": null}"#).json();
    assert_eq!(commit["command"], json!({"kind": "get", "key": "", "id": -7}));
    // `Content-Type` is ignored.
    let headers = ["content-type: text/html"];
    let answer = ask(node.address, "POST", "/submit", &headers, r#"{"kind":"get","key":"a"}"#);
    assert_eq!(answer.json()["log_index"], 2);
}

#[test]
fn waiting_for_what_does_not_come_ends_in_time() {
    let directory = tempfile::tempdir().unwrap();
    let node = single(directory.path(), |_| ());
    let answer = node.post("/wait_commit", r#"{"log_index": 0, "timeout_ms": 50}"#);
    assert_eq!(answer.status, 408);
    assert!(answer.json()["error"].is_string());
    node.commit(r#"{"kind": "put", "key": "a", "value": "1"}"#);
    // The command with this number has another term.
    let answer = node.post("/wait_commit", r#"{"log_index": 0, "timeout_ms": 5000, "term": 7}"#);
    assert_eq!(answer.status, 409);
}

#[test]
fn waiting_requests_leave_half_of_the_connections_to_others() {
    let directory = tempfile::tempdir().unwrap();
    let node = single(directory.path(), |config| config.limits.connections_max = 20);
    let body = r#"{"log_index": 0, "timeout_ms": 60000}"#;
    let head = format!("POST /wait_commit HTTP/1.1\r\nhost: {}", node.address);
    let request = format!("{head}\r\ncontent-length: {}\r\n\r\n{body}", body.len());
    let mut waiting = Vec::new();
    for _ in 0..12 {
        let mut stream = TcpStream::connect(node.address).unwrap();
        stream.write_all(request.as_bytes()).unwrap();
        stream.set_nonblocking(true).unwrap();
        waiting.push(stream);
    }
    let is_refused = |stream: &TcpStream| {
        let mut answer = [0; 12];
        stream.peek(&mut answer).is_ok() && answer == *b"HTTP/1.1 429"
    };
    let refused = || waiting.iter().filter(|stream| is_refused(stream)).count();
    until("two of the twelve are refused", || refused() == 2);
    assert_eq!(node.post("/wait_commit", body).status, 429);
    assert_eq!(node.ask("PUT", "/v1/kv/a", "x").status, 200);
}

#[test]
fn waiting_requests_whose_clients_may_be_gone_give_way() {
    let directory = tempfile::tempdir().unwrap();
    let node = single(directory.path(), |config| config.limits.connections_max = 20);
    let body = r#"{"log_index": 0, "timeout_ms": 60000}"#;
    let head = format!("POST /wait_commit HTTP/1.1\r\nhost: {}", node.address);
    let request = format!("{head}\r\ncontent-length: {}\r\n\r\n{body}", body.len());
    let ask = || {
        let mut stream = TcpStream::connect(node.address).unwrap();
        stream.write_all(request.as_bytes()).unwrap();
        stream
    };
    let first = |stream: &TcpStream| {
        let mut answer = [0; 12];
        stream.set_nonblocking(true).unwrap();
        stream.peek(&mut answer).is_ok().then(|| String::from_utf8_lossy(&answer).into_owned())
    };
    // Six clients have closed their sides and four have not.
    let gone: Vec<TcpStream> = (0..6).map(|_| ask()).collect();
    gone.iter().for_each(|stream| stream.shutdown(std::net::Shutdown::Write).unwrap());
    let present: Vec<TcpStream> = (0..4).map(|_| ask()).collect();
    // The node looks for closed sides once a second.
    std::thread::sleep(std::time::Duration::from_secs(3));
    let refused = |streams: &[TcpStream]| streams.iter().filter_map(first).count();
    assert_eq!(refused(&gone) + refused(&present), 0, "nobody needs a place");
    let more: Vec<TcpStream> = (0..6).map(|_| ask()).collect();
    until("those that may be gone are refused", || refused(&gone) == 6);
    assert!(gone.iter().all(|stream| first(stream).as_deref() == Some("HTTP/1.1 429")));
    assert_eq!(refused(&present) + refused(&more), 0);
    // Now all ten are there.
    assert_eq!(node.post("/wait_commit", body).status, 429);
    let put = r#"{"kind": "put", "key": "a", "value": "1"}"#;
    assert_eq!(node.post("/submit", put).status, 200);
    until("the others are answered", || refused(&present) + refused(&more) == 10);
    let done = |stream: &TcpStream| first(stream).as_deref() == Some("HTTP/1.1 200");
    assert!(present.iter().chain(&more).all(done));
}

#[test]
fn what_has_fallen_out_is_gone_and_a_replay_is_none_the_worse() {
    let directory = tempfile::tempdir().unwrap();
    let node = single(directory.path(), |config| config.limits.history_commands_max = 2);
    for (key, value) in [("a", "1"), ("b", "1"), ("a", "2"), ("c", "1"), ("c", "2")] {
        let command = json!({"kind": "put", "key": key, "value": value}).to_string();
        assert_eq!(node.commit(&command).status, 200);
    }
    let gone = node.get("/get_commit?index=0");
    assert_eq!((gone.status, gone.json()["first_index"].clone()), (410, json!(3)));
    let gone = node.post("/wait_commit", r#"{"log_index": 2}"#);
    assert_eq!((gone.status, gone.json()["first_index"].clone()), (410, json!(3)));
    let all = value(&node, "/get_commits_since");
    let seen: Vec<_> = all["commits"]
        .as_array()
        .unwrap()
        .iter()
        .map(|commit| {
            let command = &commit["command"];
            (
                commit["index"].as_u64().unwrap(),
                command["key"].as_str().unwrap(),
                command["value"].as_str().unwrap(),
            )
        })
        .collect();
    assert_eq!(seen, [(1, "b", "1"), (2, "a", "2"), (3, "c", "1"), (4, "c", "2")]);
    let page = value(&node, "/get_commits_since?since_index=1&limit=2");
    assert_eq!((&page["count"], &page["commits"][1]["index"]), (&json!(2), &json!(3)));
}

#[test]
fn the_one_request_form_does_the_same() {
    let directory = tempfile::tempdir().unwrap();
    let node = single(directory.path(), |_| ());
    let ask = |path: &str, body: Value| node.post(path, &body.to_string()).json();
    assert_eq!(
        ask("/get", json!({"key": "a"})),
        json!({"resp_status": 0, "key_found": false, "value": null})
    );
    assert_eq!(
        ask("/put", json!({"key": "a", "value": "1"})),
        json!({"resp_status": 0, "key_found": false, "prev_value": null})
    );
    assert_eq!(
        ask("/cas", json!({"key": "a", "compare_value": "2", "value": "3"})),
        json!({"resp_status": 0, "key_found": true, "prev_value": "1"})
    );
    assert_eq!(
        ask("/cas", json!({"key": "a", "compare_value": "1", "value": "3"})),
        json!({"resp_status": 0, "key_found": true, "prev_value": "1"})
    );
    assert_eq!(
        ask("/get", json!({"key": "a"})),
        json!({"resp_status": 0, "key_found": true, "value": "3"})
    );
}

#[test]
fn faults_are_injected_only_where_that_was_asked_for() {
    let directory = tempfile::tempdir().unwrap();
    let node = single(directory.path(), |_| ());
    for (path, body) in [
        ("/connect_peer", r#"{"peer_id": 0, "address": "127.0.0.1:1"}"#),
        ("/disconnect_peer", r#"{"peer_id": 0}"#),
        ("/disconnect_all", ""),
    ] {
        let answer = node.post(path, body);
        assert_eq!(answer.status, 403, "{path}");
        assert!(answer.json()["error"].as_str().unwrap().contains("--fault-injection"));
    }
}
