//! The v1 API.

use crate::api::node::{ask, send, single, until};
use serde_json::json;

#[test]
fn a_value_is_written_read_and_removed() {
    let directory = tempfile::tempdir().unwrap();
    let node = single(directory.path(), |_| ());
    let path = "/v1/kv/a/%ff%20b";
    assert_eq!(node.get(path).status, 404);
    let written = node.ask("PUT", path, "value\n");
    assert_eq!((written.status, written.header("etag")), (200, Some("\"1\"")));
    for query in ["", "?consistency=lease", "?consistency=stale", "?consistency=stale&max_age=1m"] {
        let read = node.get(&format!("{path}{query}"));
        assert_eq!((read.status, read.header("etag")), (200, Some("\"1\"")), "{query}");
        assert_eq!(read.body, "value\n");
    }
    assert_eq!(node.ask("DELETE", path, "").status, 204);
    assert_eq!(node.ask("DELETE", path, "").status, 404);
    // The deletion had version 2, which is not used again.
    assert_eq!(node.ask("PUT", path, "").header("etag"), Some("\"3\""));
    assert_eq!(node.get(path).body, "");
}

#[test]
fn conditions_compare_versions() {
    let directory = tempfile::tempdir().unwrap();
    let node = single(directory.path(), |_| ());
    let put = |header: &str| ask(node.address, "PUT", "/v1/kv/a", &[header], "x");
    assert_eq!(put("if-match: *").status, 412);
    assert_eq!(put("if-none-match: *").status, 200);
    let failed = put("if-none-match: *");
    assert_eq!(failed.status, 412);
    assert_eq!(failed.header("content-type"), Some("application/problem+json"));
    let problem = failed.json();
    assert_eq!(problem["type"], "urn:raft-kv:problem:condition-failed");
    assert_eq!((&problem["outcome"], &problem["version"]), (&json!("not_done"), &json!(1)));
    assert_eq!(put("if-match: \"1\"").header("etag"), Some("\"2\""));
    assert_eq!(put("if-match: \"1\"").status, 412);
    let delete = |header: &str| ask(node.address, "DELETE", "/v1/kv/a", &[header], "");
    assert_eq!(delete("if-match: \"1\"").status, 412);
    assert_eq!(delete("if-match: \"2\"").status, 204);
}

#[test]
fn a_read_on_condition_that_the_key_exists_fails_without_it() {
    let directory = tempfile::tempdir().unwrap();
    let node = single(directory.path(), |_| ());
    let get = |header: &str| ask(node.address, "GET", "/v1/kv/a", &[header], "").status;
    assert_eq!((get("if-match: *"), get("if-match: \"1\"")), (412, 412));
    assert_eq!(get("if-none-match: *"), 404);
}

#[test]
fn a_put_that_does_not_say_how_long_its_value_is_changes_nothing() {
    let directory = tempfile::tempdir().unwrap();
    let node = single(directory.path(), |_| ());
    assert_eq!(node.ask("PUT", "/v1/kv/a", "old").status, 200);
    for version in ["1.0", "1.1"] {
        let head = format!("PUT /v1/kv/a HTTP/{version}\r\nhost: a\r\nconnection: close\r\n\r\n");
        let head = head.replace("host: a", &format!("host: {}", node.address));
        let answer = send(node.address, format!("{head}new").as_bytes()).unwrap();
        assert_eq!((answer.status, &answer.json()["outcome"]), (411, &json!("not_done")));
    }
    assert_eq!(node.get("/v1/kv/a").body, "old");
    assert_eq!(node.ask("PUT", "/v1/kv/a", "").status, 200);
}

#[test]
fn what_is_not_built_or_not_known_is_refused_and_not_ignored() {
    let directory = tempfile::tempdir().unwrap();
    let node = single(directory.path(), |_| ());
    for (method, path, status) in [
        ("PUT", "/v1/kv/a?ttl=30s", 501),
        ("PUT", "/v1/kv/a?x=1", 400),
        ("GET", "/v1/kv/a?consistancy=stale", 400),
        ("GET", "/v1/kv/a?consistency=quick", 400),
        ("GET", "/v1/kv/", 400),
        ("GET", "/v1/kv/%zz", 400),
        ("POST", "/v1/kv/a", 405),
        ("GET", "/v1/watch", 404),
        ("GET", "/v1/cluster?x=1", 400),
    ] {
        let answer = node.ask(method, path, "x");
        assert_eq!(answer.status, status, "{method} {path}");
        assert!(answer.json()["type"].as_str().unwrap().starts_with("urn:raft-kv:problem:"));
    }
    assert_eq!(node.get("/v1/kv/a").status, 404);
}

#[test]
fn a_batch_has_an_outcome_for_each_operation() {
    let directory = tempfile::tempdir().unwrap();
    let node = single(directory.path(), |_| ());
    let body = json!({"operations": [
        {"op": "put", "key": "a", "value": "1"},
        {"op": "put", "key": "a", "value": "2", "if_none_match": "*"},
        {"op": "put", "key": "a", "value": "3", "if_match": 1},
        {"op": "delete", "key": "b"},
    ]});
    let answer = node.post("/v1/batch", &body.to_string());
    assert_eq!(answer.status, 200);
    assert_eq!(
        answer.json(),
        json!({"results": [
            {"status": 200, "outcome": "done", "version": 1},
            {"status": 412, "outcome": "not_done", "version": 1},
            {"status": 200, "outcome": "done", "version": 2},
            {"status": 404, "outcome": "not_done"},
        ]})
    );
    assert_eq!(node.get("/v1/kv/a").body, "3");
    for body in [
        "",
        "{}",
        "[]",
        r#"{"operations":[]}"#,
        r#"{"operations":[{"op":"get","key":"a"}]}"#,
        r#"{"operations":[{"op":"put","key":"a"}]}"#,
        r#"{"operations":[{"op":"put","key":"","value":""}]}"#,
        r#"{"operations":[{"op":"put","key":"a","value":"","if_match":"x"}]}"#,
        r#"{"operations":[{"op":"put","key":"a","value":"","ttl":3}]}"#,
    ] {
        let answer = node.post("/v1/batch", body);
        assert_eq!((answer.status, &answer.json()["outcome"]), (400, &json!("not_done")), "{body}");
    }
    let body = r#"{"operations":[{"op":"put","key":"b","value":"1"}]}"#;
    for header in ["if-match: \"1\"", "if-none-match: *"] {
        let answer = ask(node.address, "POST", "/v1/batch", &[header], body);
        assert_eq!((answer.status, &answer.json()["outcome"]), (400, &json!("not_done")));
    }
    assert_eq!(node.get("/v1/kv/b").status, 404);
}

#[test]
fn a_web_page_of_somebody_else_cannot_reach_the_store() {
    let directory = tempfile::tempdir().unwrap();
    let node = single(directory.path(), |_| ());
    let status = |path: &str, headers: &[&str]| {
        let method = if path.starts_with("/v1") { "PUT" } else { "POST" };
        let body = r#"{"kind":"put","key":"b","value":"1"}"#;
        ask(node.address, method, path, headers, body).status
    };
    assert_eq!(status("/v1/kv/a", &["origin: http://evil.example"]), 403);
    assert_eq!(status("/submit", &["origin: http://evil.example"]), 403);
    assert_eq!(node.get("/v1/kv/b").status, 404);
    assert_eq!(status("/submit", &[]), 200);
    let rebound = b"PUT /v1/kv/a HTTP/1.1\r\nhost: evil.example\r\nconnection: close\r\n\r\n";
    assert_eq!(crate::api::node::send(node.address, rebound).unwrap().status, 403);
    assert_eq!(node.get("/v1/kv/a").status, 404);
    // A program that monitors nodes may use any name for them.
    let probe = b"GET /healthz HTTP/1.1\r\nhost: kv-0.internal\r\nconnection: close\r\n\r\n";
    assert_eq!(crate::api::node::send(node.address, probe).unwrap().status, 200);
}

#[test]
fn those_who_watch_over_a_node_learn_how_it_is() {
    let directory = tempfile::tempdir().unwrap();
    let node = single(directory.path(), |_| ());
    assert_eq!(node.get("/healthz").status, 200);
    // A node is leader before it knows the commit index. It is ready afterwards.
    until("the node is ready", || node.get("/readyz").status == 200);
    node.ask("PUT", "/v1/kv/a", "x");
    let cluster = node.get("/v1/cluster").json();
    assert_eq!((&cluster["leader"], &cluster["members"][0]["role"]), (&json!(0), &json!("leader")));
    let metrics = node.get("/metrics").body;
    for line in [
        "raft_is_leader 1",
        "kv_keys 1",
        "kv_revision 1",
        "kv_history_next 1",
        "kv_http_requests_total{route=\"/v1/kv/{key}\",status=\"200\"} 1",
    ] {
        assert!(metrics.lines().any(|found| found == line), "{line} is not in:\n{metrics}");
    }
}

#[test]
fn a_condition_is_what_rfc_9110_says() {
    let directory = tempfile::tempdir().unwrap();
    let node = single(directory.path(), |_| ());
    // The key has version 2.
    node.ask("PUT", "/v1/kv/a", "x");
    node.ask("PUT", "/v1/kv/a", "x");
    for (header, status) in [
        ("if-none-match: \"2\"", 304),
        ("if-none-match: W/\"2\"", 304),
        ("if-none-match: \"1\", \"2\"", 304),
        ("if-none-match: *", 304),
        ("if-none-match: \"1\"", 200),
        ("if-none-match: \"other\"", 200),
        ("if-none-match: 2 3", 400),
        ("if-match: \"1\", \"2\"", 200),
        ("if-match: *", 200),
        ("if-match: W/\"2\"", 412),
        ("if-match: \"1\"", 412),
    ] {
        let answer = ask(node.address, "GET", "/v1/kv/a", &[header], "");
        assert_eq!(answer.status, status, "GET {header}");
        let etag = matches!(status, 200 | 304).then_some("\"2\"");
        assert_eq!(answer.header("etag"), etag, "GET {header}");
        assert!(status != 304 || answer.body.is_empty());
    }
    for (header, status) in [
        ("if-match: \"1\", \"3\"", 412),
        ("if-match: W/\"2\"", 412),
        ("if-match: \"other\"", 412),
        ("if-none-match: \"1\", W/\"2\"", 412),
        ("if-match: \"1\", \"2\"", 200),
        ("if-none-match: \"1\", \"2\"", 200),
        ("if-none-match: \"other\"", 200),
        ("content-range: bytes 0-0/1", 400),
    ] {
        let answer = ask(node.address, "PUT", "/v1/kv/a", &[header], "x");
        assert_eq!(answer.status, status, "PUT {header}: {answer:?}");
    }
    let both = ask(node.address, "PUT", "/v1/kv/a", &["if-match: \"5\"", "if-match: \"4\""], "x");
    assert_eq!(both.header("etag"), Some("\"6\""), "{both:?}");
    let deleted = ask(node.address, "DELETE", "/v1/kv/a", &["if-match: \"6\", \"9\""], "");
    assert_eq!((deleted.status, deleted.header("etag")), (204, Some("\"7\"")));
}

#[test]
fn a_batch_is_made_of_objects() {
    let directory = tempfile::tempdir().unwrap();
    let node = single(directory.path(), |_| ());
    for body in [
        r#"{"operations":[["put","a","1",null,null]]}"#,
        r#"[[{"op":"put","key":"a","value":"1"}]]"#,
        r#"[{"op":"put","key":"a","value":"1"}]"#,
        r#"{"operations":[[]]}"#,
        r#"{"operations":["put"]}"#,
        r#"{"operations":{"op":"put","key":"a","value":"1"}}"#,
    ] {
        let answer = node.post("/v1/batch", body);
        assert_eq!((answer.status, &answer.json()["outcome"]), (400, &json!("not_done")), "{body}");
    }
    assert_eq!(node.get("/v1/kv/a").status, 404);
}

#[test]
fn every_answer_names_the_node() {
    let directory = tempfile::tempdir().unwrap();
    let node = single(directory.path(), |_| ());
    for (method, path) in [
        ("GET", "/is_leader"),
        ("GET", "/healthz"),
        ("GET", "/metrics"),
        ("GET", "/v1/kv/none"),
        ("PUT", "/v1/kv/a"),
        ("GET", "/get_commits_since"),
        ("POST", "/submit"),
        ("GET", "/nothing"),
    ] {
        let answer = node.ask(method, path, "x");
        assert_eq!(answer.header("raft-kv-node"), Some("0"), "{method} {path}: {answer:?}");
    }
}
