//! What each answer must look like, whatever the store holds: its status, its headers and its
//! fields fit the request and one another.
//!
//! The values in answers are compared with the history of all clients elsewhere. Here is the rest:
//! fields that a client only looks at when something has failed, so that a wrong one would be
//! noticed by nobody else.

use super::history::FIELDS;
use super::wires::version;
use hyper::Method;
use hyper::header::{CONTENT_TYPE, LOCATION, RETRY_AFTER};
use kv::client::{Request, Response};
use serde_json::Value;
use simulator::checks::{Violation, violation};
use transport_sim::{client_address, node_at};

/// The header with the id of the node.
const NODE: &str = "raft-kv-node";

const JSON: &str = "application/json";
const LISTING: &str = "/get_commits_since";

/// The types of problems that a right request can meet, by status.
const PROBLEMS: &[(u16, &[&str])] = &[
    (307, &["not-leader"]),
    (404, &["not-found"]),
    (408, &["slow"]),
    (410, &["session-ended"]),
    (412, &["condition-failed"]),
    (413, &["too-large"]),
    (429, &["overloaded"]),
    (503, &["no-leader", "read-only", "stopped"]),
    (504, &["timeout"]),
];

/// Checks an answer that this node has given to a right request.
pub(super) fn check(request: &Request, node: u64, answer: &Response) -> Result<(), Violation> {
    // The simulation answers so if the body of an answer breaks off.
    if answer.status == 502 {
        return Ok(());
    }
    let wrong = match request.path.starts_with("/v1/") {
        true => wrong_in_v1(request, answer),
        false => wrong_in_compat(request, answer),
    };
    let wrong = wrong.or_else(|| (header(answer, NODE) != node.to_string()).then_some("the node"));
    let Some(wrong) = wrong else { return Ok(()) };
    let detail = format!(
        "{wrong}: {} {} at node {node} is answered with {} {:?} {}",
        request.method,
        request.path,
        answer.status,
        answer.headers,
        String::from_utf8_lossy(&answer.body[..answer.body.len().min(512)])
    );
    violation(FIELDS, (), detail)
}

/// The part of an answer of the v1 API that is wrong.
fn wrong_in_v1(request: &Request, answer: &Response) -> Option<&'static str> {
    let is_batch = request.path == "/v1/batch";
    match (&request.method, answer.status.as_u16()) {
        (&Method::POST, 200) if is_batch => {
            let results = answer.json()["results"].as_array().cloned().unwrap_or_default();
            is_json(answer).or_else(|| results.iter().find_map(wrong_result))
        }
        (&Method::POST, 201) if request.path == "/v1/sessions" => {
            let body = answer.json();
            let session = body["session"].as_str().is_some_and(|id| id.parse::<u64>().is_ok());
            let limits = body["ttl_ms"] == 60_000 && body["window"] == 128;
            is_json(answer).or_else(|| (!session || !limits).then_some("the session"))
        }
        (&Method::GET, 200) => {
            let is_bytes = header(answer, CONTENT_TYPE.as_str()) == "application/octet-stream";
            (!is_bytes || version(answer).is_none()).then_some("the type or the version")
        }
        (&Method::GET, 304) | (&Method::PUT, 200) | (&Method::DELETE, 204) => {
            let is_short = answer.body.is_empty() && version(answer).is_some();
            (!is_short).then_some("the body or the version")
        }
        _ => wrong_problem(request, answer),
    }
}

/// The part of the result of one operation of a batch that is wrong.
fn wrong_result(result: &Value) -> Option<&'static str> {
    let (outcome, version) = match result["status"].as_u64() {
        Some(200 | 204) => ("done", result["version"].is_u64()),
        Some(404) => ("not_done", result.get("version").is_none()),
        Some(412) => ("not_done", result.get("version").is_some()),
        _ => return Some("the status of a result"),
    };
    (result["outcome"] != outcome || !version).then_some("a result")
}

/// The part of a problem document that is wrong.
fn wrong_problem(request: &Request, answer: &Response) -> Option<&'static str> {
    let status = answer.status.as_u16();
    let Some((_, known)) = PROBLEMS.iter().find(|(known, _)| *known == status) else {
        return Some("the status");
    };
    let problem = answer.json();
    let name = problem["type"].as_str().and_then(|name| name.strip_prefix("urn:raft-kv:problem:"));
    let is_text = |field: &str| problem[field].as_str().is_some_and(|text| !text.is_empty());
    // A write may have been done only if its time was over, or that of its session.
    let outcome = match (status, problem["outcome"].as_str()) {
        (_, None) => request.method == Method::GET,
        (410 | 504, Some(outcome)) => outcome == "unknown",
        (_, Some(outcome)) => outcome == "not_done",
    };
    let waits = matches!(status, 429 | 503);
    let leader = problem["leader"].as_str().unwrap_or_default();
    let to = format!("http://{leader}{}", request.path);
    let checks = [
        (header(answer, CONTENT_TYPE.as_str()) == "application/problem+json", "the type"),
        (name.is_some_and(|name| known.contains(&name)), "the type of the problem"),
        (problem["status"] == status, "the status in the problem"),
        (is_text("title") && problem["title"] != "Error", "the title"),
        (is_text("detail"), "the detail"),
        (outcome, "the outcome"),
        (!waits || header(answer, RETRY_AFTER.as_str()) == "1", "when to try again"),
        (status != 412 || problem.get("version").is_some(), "the version"),
        (status != 307 || header(answer, LOCATION.as_str()) == to, "the location"),
        (status != 307 || is_node(leader), "the leader"),
    ];
    checks.into_iter().find(|(is_right, _)| !is_right).map(|(_, what)| what)
}

/// The part of an answer of the compatible API that is wrong.
fn wrong_in_compat(request: &Request, answer: &Response) -> Option<&'static str> {
    // A listing may be long, and is checked elsewhere.
    if header(answer, CONTENT_TYPE.as_str()) == JSON && request.path.starts_with(LISTING) {
        return (answer.status != 200 && answer.json()["error"].is_null()).then_some("the error");
    }
    if let Some(wrong) = is_json(answer) {
        return Some(wrong);
    }
    let (path, query) = request.path.split_once('?').unwrap_or((&request.path, ""));
    let json = answer.json();
    let status = answer.status.as_u16();
    if status != 200 {
        let known: &[u16] = match path {
            "/wait_commit" => &[408, 409, 410, 429, 503],
            "/get_commit" => &[404, 410, 429, 503],
            "/put" | "/cas" | "/submit" => &[408, 413, 429, 503],
            _ => &[408, 429, 503],
        };
        let asked = match path {
            "/get_commit" => query.strip_prefix("index=").and_then(|index| index.parse().ok()),
            _ => serde_json::from_slice(&request.body)
                .ok()
                .and_then(|body: Value| body["log_index"].as_u64()),
        };
        let first = json["first_index"].as_u64();
        let checks = [
            (known.contains(&status), "the status"),
            (json["error"].as_str().is_some_and(|text| !text.is_empty()), "the error"),
            (first.is_some() == (status == 410), "the first index"),
            (status != 410 || first > asked, "the first index"),
            (status != 429 || header(answer, RETRY_AFTER.as_str()) == "1", "when to try again"),
        ];
        return checks.into_iter().find(|(is_right, _)| !is_right).map(|(_, what)| what);
    }
    let is_leader_or_null = json["leader"].as_str().is_none_or(is_node);
    let is_right = is_leader_or_null
        && match path {
            "/submit" => {
                let leads = json["is_leader"] == true;
                leads == json["log_index"].is_u64()
                    && leads == json["term"].is_u64()
                    && (leads || (json["is_leader"] == false && json["log_index"] == -1))
            }
            "/get" | "/put" | "/cas" => {
                let (name, other) = match path {
                    "/get" => ("value", "prev_value"),
                    _ => ("prev_value", "value"),
                };
                let done = json["resp_status"].as_u64();
                let is_known = matches!(json["outcome"].as_str(), Some("not_done" | "unknown"));
                matches!(done, Some(0..=2))
                    && (done == Some(2)) == is_known
                    && (done == Some(1) || json.get("leader").is_none())
                    && (done == Some(0) || json[name].is_null())
                    && json.get(other).is_none()
            }
            "/wait_commit" | "/get_commit" => {
                json["index"].is_u64() && json["term"].is_u64() && json["command"].is_object()
            }
            _ => true,
        };
    (!is_right).then_some("the fields")
}

fn is_json(answer: &Response) -> Option<&'static str> {
    let is_json = header(answer, CONTENT_TYPE.as_str()) == JSON && answer.json().is_object();
    (!is_json).then_some("the type")
}

/// Whether this is the address of a node for clients.
fn is_node(address: &str) -> bool {
    node_at(address).is_some_and(|node| client_address(node.0) == address)
}

/// The text of a header; empty if there is none.
fn header<'a>(answer: &'a Response, name: &str) -> &'a str {
    answer.headers.get(name).and_then(|value| value.to_str().ok()).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;
    use hyper::{HeaderMap, StatusCode};
    use serde_json::json;

    fn answer(status: u16, headers: &[(&'static str, &'static str)], body: &Value) -> Response {
        let mut all = HeaderMap::new();
        for (name, value) in headers.iter().chain(&[(NODE, "1")]) {
            all.insert(*name, value.parse().expect("a value"));
        }
        let status = StatusCode::from_u16(status).expect("a status");
        let body = if body.is_null() { String::new() } else { body.to_string() };
        Response { status, headers: all, body: body.into() }
    }

    const PROBLEM: [(&str, &str); 2] =
        [("content-type", "application/problem+json"), ("retry-after", "1")];

    fn put() -> Request {
        Request::new(Method::PUT, "/v1/kv/a")
    }

    fn problem(status: u16, name: &str, outcome: &str) -> Value {
        json!({
            "type": format!("urn:raft-kv:problem:{name}"), "title": "No leader", "detail": "none",
            "status": status, "outcome": outcome,
        })
    }

    #[test]
    fn right_answers_pass() {
        let refused = answer(503, &PROBLEM, &problem(503, "no-leader", "not_done"));
        assert!(check(&put(), 1, &refused).is_ok());
        let unknown = answer(504, &PROBLEM, &problem(504, "timeout", "unknown"));
        assert!(check(&put(), 1, &unknown).is_ok());
        let written = answer(200, &[("etag", "\"7\"")], &Value::Null);
        assert!(check(&put(), 1, &written).is_ok());
        let json = [("content-type", "application/json")];
        let put = Request::new(Method::POST, "/put");
        let done = json!({ "resp_status": 0, "key_found": false, "prev_value": null });
        assert!(check(&put, 1, &answer(200, &json, &done)).is_ok());
        let get = Request::new(Method::GET, "/get_commit?index=4");
        let gone = json!({ "error": "gone", "first_index": 5 });
        assert!(check(&get, 1, &answer(410, &json, &gone)).is_ok());
    }

    #[test]
    fn a_wrong_part_is_found() {
        let wrong = |request: &Request, node, answer: &Response, part: &str| {
            let found = check(request, node, answer).expect_err("it is wrong");
            assert!(found.detail.starts_with(part), "{found:?}");
        };
        let right = problem(503, "no-leader", "not_done");
        wrong(&put(), 2, &answer(503, &PROBLEM, &right), "the node");
        wrong(&put(), 1, &answer(503, &PROBLEM[..1], &right), "when to try again");
        wrong(&put(), 1, &answer(503, &PROBLEM[1..], &right), "the type");
        wrong(
            &put(),
            1,
            &answer(503, &PROBLEM, &problem(504, "no-leader", "not_done")),
            "the stat",
        );
        let timeout = problem(503, "timeout", "not_done");
        wrong(&put(), 1, &answer(503, &PROBLEM, &timeout), "the type of the problem");
        let unknown = problem(503, "no-leader", "unknown");
        wrong(&put(), 1, &answer(503, &PROBLEM, &unknown), "the outcome");
        wrong(&put(), 1, &answer(400, &PROBLEM, &right), "the status");
        wrong(&put(), 1, &answer(200, &[], &Value::Null), "the body or the version");
        let json = [("content-type", "application/json")];
        let results = json!({ "results": [{ "status": 404, "outcome": "done" }] });
        let batch = Request::new(Method::POST, "/v1/batch");
        wrong(&batch, 1, &answer(200, &json, &results), "a result");
        let cas = Request::new(Method::POST, "/cas");
        let failed = json!({ "resp_status": 2, "key_found": false, "prev_value": null });
        wrong(&cas, 1, &answer(200, &json, &failed), "the fields");
        let get = Request::new(Method::GET, "/get_commit?index=5");
        let gone = json!({ "error": "gone", "first_index": 5 });
        wrong(&get, 1, &answer(410, &json, &gone), "the first index");
    }
}
