//! Sessions: a write is done once, however often it is repeated.

use crate::api::node::{ask, single};
use serde_json::json;

#[test]
fn a_repeated_write_is_done_once_and_answered_as_the_first_time() {
    let directory = tempfile::tempdir().unwrap();
    let node = single(directory.path(), |_| ());
    let opened = node.post("/v1/sessions", "");
    assert_eq!(opened.status, 201);
    let body = opened.json();
    assert_eq!((&body["ttl_ms"], &body["window"]), (&json!(60_000), &json!(128)));
    let id = format!("session-id: {}", body["session"].as_str().unwrap());
    let put = |number: u64, value: &str| {
        ask(node.address, "PUT", "/v1/kv/a", &[&id, &format!("session-seq: {number}")], value)
    };
    assert_eq!(put(1, "one").header("etag"), Some("\"1\""));
    assert_eq!(put(2, "two").header("etag"), Some("\"2\""));
    assert_eq!(put(1, "one").header("etag"), Some("\"1\""));
    assert_eq!((node.get("/v1/kv/a").body.as_str(), node.get("/v1/kv/a").status), ("two", 200));
    // A refusal is a reply too.
    let headers = [&id, "session-seq: 3", "if-match: \"1\""];
    let refused = ask(node.address, "PUT", "/v1/kv/a", &headers, "three");
    assert_eq!(put(4, "four").status, 200);
    let again = ask(node.address, "PUT", "/v1/kv/a", &headers, "three");
    assert_eq!((refused.status, refused.body), (again.status, again.body));
    // A number is for one write.
    let reused = put(2, "other");
    assert_eq!((reused.status, &reused.json()["outcome"]), (409, &json!("not_done")));
    assert_eq!(reused.json()["type"], "urn:raft-kv:problem:sequence-reused");
    let gap = put(500, "x");
    assert_eq!((gap.status, &gap.json()["outcome"]), (409, &json!("not_done")));
    assert_eq!(
        (&gap.json()["type"], &gap.json()["highest"]),
        (&json!("urn:raft-kv:problem:sequence-gap"), &json!(4))
    );
    // Batches and deletes have numbers too.
    let batch = json!({"operations": [{"op": "put", "key": "b", "value": "1"}]}).to_string();
    let batched =
        || ask(node.address, "POST", "/v1/batch", &[&id, "session-seq: 5"], &batch).json();
    assert_eq!(batched(), batched());
    let delete = || ask(node.address, "DELETE", "/v1/kv/a", &[&id, "session-seq: 6"], "").status;
    assert_eq!((delete(), delete()), (204, 204));

    let session = format!("/v1/sessions/{}", body["session"].as_str().unwrap());
    assert_eq!(node.ask("DELETE", &session, "").status, 204);
    assert_eq!(node.ask("DELETE", &session, "").status, 404);
    let ended = put(7, "x");
    assert_eq!((ended.status, &ended.json()["outcome"]), (410, &json!("unknown")));
    assert_eq!(ended.json()["type"], "urn:raft-kv:problem:session-ended");
    assert_eq!(node.get("/v1/kv/a").status, 404);
}

#[test]
fn repeats_are_recognized_after_a_restart_and_fill_their_place_in_the_history() {
    let directory = tempfile::tempdir().unwrap();
    let node = single(directory.path(), |_| ());
    let session = node.post("/v1/sessions", "").json()["session"].as_str().unwrap().to_owned();
    let id = format!("session-id: {session}");
    let put = |address, number: u64, value: &str| {
        ask(address, "PUT", "/v1/kv/a", &[&id, &format!("session-seq: {number}")], value)
    };
    for number in 1..=40 {
        assert_eq!(put(node.address, number, &"x".repeat(number as usize)).status, 200);
    }
    node.stop();
    let node = single(directory.path(), |_| ());
    let again = put(node.address, 40, &"x".repeat(40));
    assert_eq!((again.status, again.header("etag")), (200, Some("\"40\"")));
    assert_eq!(put(node.address, 41, "end").header("etag"), Some("\"41\""));
    assert_eq!(node.get("/v1/kv/a").body, "end");
    // The repeat has a number in the history, and changes nothing for a client that replays it.
    let commits = node.get("/get_commits_since?since_index=38").json();
    let commits = commits["commits"].as_array().unwrap();
    let numbers: Vec<_> = commits.iter().map(|it| it["index"].as_u64().unwrap()).collect();
    assert_eq!(numbers, [39, 40, 41], "{commits:?}");
    assert_eq!(commits[1]["command"]["kind"], "get", "{commits:?}");
}

#[test]
fn the_compatible_calls_know_duplicates() {
    let directory = tempfile::tempdir().unwrap();
    let node = single(directory.path(), |_| ());
    let session = node.post("/v1/sessions", "").json()["session"].as_str().unwrap().to_owned();
    let id = format!("session-id: {session}");
    let put = |number: u64, value: &str| {
        let body = json!({"key": "a", "value": value}).to_string();
        let headers = [id.as_str(), &format!("session-seq: {number}")];
        ask(node.address, "POST", "/put", &headers, &body).json()
    };
    assert_eq!(put(1, "one")["key_found"], false);
    let second = put(2, "two");
    assert_eq!((&second["resp_status"], &second["prev_value"]), (&json!(0), &json!("one")));
    assert_eq!(put(2, "two"), second);
    let reused = put(2, "other");
    assert_eq!((&reused["resp_status"], &reused["outcome"]), (&json!(3), &json!("not_done")));
    node.ask("DELETE", &format!("/v1/sessions/{session}"), "");
    let ended = put(3, "x");
    assert_eq!((&ended["resp_status"], &ended["outcome"]), (&json!(2), &json!("unknown")));
}

#[test]
fn a_bad_session_is_refused_and_not_ignored() {
    let directory = tempfile::tempdir().unwrap();
    let node = single(directory.path(), |_| ());
    for (headers, status) in [
        (&["session-id: 1"][..], 400),
        (&["session-seq: 1"], 400),
        (&["session-id: x", "session-seq: 1"], 400),
        (&["session-id: 1", "session-seq: 0"], 400),
        (&["session-id: 1", "session-seq: 99999999999999999999999"], 400),
        (&["session-id: 1", "session-id: 1", "session-seq: 1"], 400),
        (&["session-id: 1", "session-seq: 1"], 410),
        (&["session-id: 18446744073709551615", "session-seq: 18446744073709551615"], 410),
    ] {
        let answer = ask(node.address, "PUT", "/v1/kv/a", headers, "x");
        assert_eq!(answer.status, status, "{headers:?}");
    }
    assert_eq!(node.get("/v1/kv/a").status, 404);
    for (method, path, body, status) in [
        ("POST", "/v1/sessions", "{}", 400),
        ("POST", "/v1/sessions?ttl=1s", "", 501),
        ("GET", "/v1/sessions", "", 405),
        ("PUT", "/v1/sessions/1", "", 405),
        ("DELETE", "/v1/sessions/x", "", 400),
        ("DELETE", "/v1/sessions/+1", "", 400),
        ("DELETE", "/v1/sessions/7", "", 404),
    ] {
        assert_eq!(node.ask(method, path, body).status, status, "{method} {path}");
    }
    // Requests that cannot be part of a session: a repeat would be done again.
    let commits = || node.get("/get_commits_since").json()["count"].clone();
    let before = commits();
    for (method, path, body) in [
        ("POST", "/v1/cluster/transfer", ""),
        ("PUT", "/v1/cluster/members", r#"{"voters": {}}"#),
        ("POST", "/v1/sessions", ""),
        ("DELETE", "/v1/sessions/1", ""),
        ("POST", "/submit", r#"{"kind": "put", "key": "a", "value": "x"}"#),
    ] {
        for headers in [&["session-id: 1", "session-seq: 1"][..], &["session-seq: 1"]] {
            let answer = ask(node.address, method, path, headers, body);
            assert_eq!(answer.status, 400, "{method} {path}");
            assert!(answer.body.contains("session-id"), "{method} {path}: {}", answer.body);
        }
    }
    assert_eq!(commits(), before);
}
