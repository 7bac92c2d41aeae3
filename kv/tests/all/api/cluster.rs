//! Three nodes: each serves any request, and acknowledged writes are not lost.

use crate::api::node::{Node, ask, cluster, location, start, until};
use crate::local::SetOnDrop;
use serde_json::json;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

#[test]
fn a_follower_says_who_leads_and_lists_what_the_leader_acknowledged() {
    let directory = tempfile::tempdir().unwrap();
    let nodes = start(cluster(3, directory.path()));
    let (leader, follower) = (&nodes[0], &nodes[1]);
    let answer = follower.post("/submit", r#"{"kind":"put","key":"a","value":"1"}"#).json();
    let address = leader.address.to_string();
    assert_eq!(answer, json!({"log_index": -1, "is_leader": false, "leader": address}));
    let answer = follower.post("/put", r#"{"key":"a","value":"1"}"#).json();
    assert_eq!(answer["resp_status"], 1);
    for n in 0..20 {
        let command = json!({"kind": "put", "key": "a", "value": n.to_string()}).to_string();
        assert_eq!(leader.commit(&command).status, 200);
        let all = follower.get("/get_commits_since").json();
        assert_eq!(all["count"], n + 1, "a linearizable read misses nothing");
    }
}

#[test]
fn a_follower_passes_writes_on_and_reads_what_was_written() {
    let directory = tempfile::tempdir().unwrap();
    let nodes = start(cluster(3, directory.path()));
    for n in 0..20 {
        let value = n.to_string();
        let written = nodes[1].ask("PUT", "/v1/kv/a", &value);
        assert_eq!(
            (written.status, written.header("etag")),
            (200, Some(&*format!("\"{}\"", n + 1)))
        );
        assert_eq!(nodes[2].get("/v1/kv/a").body, value);
    }
    let failed = ask(nodes[1].address, "PUT", "/v1/kv/a", &["if-match: 1"], "x");
    assert_eq!((failed.status, &failed.json()["outcome"]), (412, &json!("not_done")));
    let cluster = nodes[2].get("/v1/cluster").json();
    let roles: Vec<_> = cluster["members"].as_array().unwrap().iter().map(|m| &m["role"]).collect();
    assert_eq!(roles.iter().filter(|role| **role == "leader").count(), 1);
    assert_eq!(nodes[1].ask("DELETE", "/v1/kv/a", "").status, 204);
    assert_eq!(nodes[1].ask("DELETE", "/v1/kv/a", "").status, 404);
}

#[test]
fn leadership_is_handed_over_on_request_and_no_write_is_refused_meanwhile() {
    let directory = tempfile::tempdir().unwrap();
    let nodes = start(cluster(3, directory.path()));
    let path = "/v1/cluster/transfer";
    // A follower sends the client to the leader.
    let redirect = nodes[1].post(path, "");
    let there = location(&nodes, path);
    assert_eq!((redirect.status, redirect.header("location")), (307, Some(&*there)));
    let refused = nodes[0].post(path, r#"{"to": 9}"#);
    assert_eq!((refused.status, &refused.json()["outcome"]), (400, &json!("not_done")));
    assert_eq!(nodes[0].post(path, r#"{"too": 1}"#).status, 400);
    const TRANSFERS: [u64; 4] = [1, 0, 2, 1];
    let ends = AtomicBool::new(false);
    std::thread::scope(|scope| {
        // The scope waits for the thread, also when an assertion fails.
        let stop = SetOnDrop(&ends);
        let writes = scope.spawn(|| {
            let (mut written, mut unknown) = (0, 0);
            while !ends.load(Ordering::Relaxed) {
                let answer = nodes[2].ask("PUT", "/v1/kv/a", "x");
                match answer.status {
                    200 => written += 1,
                    // The follower had forwarded it, and lost the old leader before its reply.
                    504 if answer.json()["outcome"] == "unknown" => unknown += 1,
                    status => panic!("{status}: {}", answer.body),
                }
            }
            assert!(unknown <= TRANSFERS.len(), "{unknown} are unknown");
            written
        });
        for to in TRANSFERS {
            let leader = nodes.iter().find(|node| node.leads()).unwrap();
            let answer = leader.post(path, &format!(r#"{{"to": {to}}}"#));
            assert_eq!(answer.status, 200, "{}", answer.body);
            assert_eq!(answer.json()["leader"], json!(to));
            until("it serves", || nodes[to as usize].leads());
        }
        drop(stop);
        assert!(writes.join().unwrap() > 0);
    });
}

#[test]
fn without_forwarding_a_client_is_sent_to_the_leader() {
    let directory = tempfile::tempdir().unwrap();
    let mut configs = cluster(3, directory.path());
    configs.iter_mut().for_each(|config| config.forward = false);
    let nodes = start(configs);
    let answer = nodes[1].ask("PUT", "/v1/kv/a%2Fb", "x");
    assert_eq!(answer.status, 307);
    let there = location(&nodes, "/v1/kv/a%2Fb");
    assert_eq!(answer.header("location"), Some(&*there));
    // The leader's address may belong to another cluster's node by now.
    let other = nodes[0].ask("PUT", "/v1/kv/a%2Fb?cluster_id=0000000000000001", "x");
    assert_eq!((other.status, &other.json()["outcome"]), (421, &json!("not_done")));
    let path = there.split_once("/v1").map(|(_, path)| format!("/v1{path}")).unwrap();
    assert_eq!(nodes[0].ask("PUT", &path, "x").status, 200);
    let problem = answer.json();
    assert_eq!((&problem["status"], &problem["outcome"]), (&json!(307), &json!("not_done")));
}

#[test]
fn a_cut_link_loses_nothing_and_another_node_takes_over() {
    let directory = tempfile::tempdir().unwrap();
    let mut configs = cluster(3, directory.path());
    configs.iter_mut().for_each(|config| config.fault_injection = true);
    let nodes = start(configs);
    assert_eq!(nodes[0].ask("PUT", "/v1/kv/a", "1").status, 200);
    assert_eq!(nodes[0].post("/disconnect_all", "").status, 200);
    let successor = || nodes[1..].iter().find(|node| node.leads());
    until("another node leads", || successor().is_some());
    let successor = successor().unwrap();
    assert_eq!(successor.get("/v1/kv/a").body, "1");
    assert_eq!(successor.ask("PUT", "/v1/kv/a", "2").status, 200);
    until("the old leader knows that it leads no more", || !nodes[0].leads());
    for peer in 0..3 {
        let body = json!({"peer_id": peer, "address": "127.0.0.1:1"}).to_string();
        assert_eq!(nodes[0].post("/connect_peer", &body).status, 200);
    }
    let body = json!({"peer_id": 9, "address": "127.0.0.1:1"}).to_string();
    assert_eq!(nodes[0].post("/connect_peer", &body).status, 400);
    until("the old leader follows", || nodes[0].get("/v1/kv/a").body == "2");
}

#[test]
fn what_was_acknowledged_is_there_after_a_restart_with_the_same_numbers() {
    let directory = tempfile::tempdir().unwrap();
    let configs = cluster(3, directory.path());
    let nodes = start(configs.clone());
    for n in 0..5 {
        let command = json!({"kind": "put", "key": n.to_string(), "value": "x"}).to_string();
        assert_eq!(nodes[0].commit(&command).status, 200);
    }
    let before = nodes[0].get("/get_commits_since").json();
    nodes.into_iter().for_each(Node::stop);
    let nodes = start(configs);
    assert_eq!(nodes[0].get("/get_commits_since").json(), before);
    let next = nodes[0].post("/submit", r#"{"kind":"get","key":"0"}"#).json();
    assert_eq!(next["log_index"], 5);
}

#[test]
fn a_wiped_or_foreign_directory_is_refused_with_the_way_out() {
    let directory = tempfile::tempdir().unwrap();
    let configs = cluster(3, directory.path());
    let mut nodes = start(configs.clone());
    let position = nodes.iter().position(|node| node.address == configs[2].listen).unwrap();
    nodes.remove(position).stop();
    std::fs::remove_dir_all(&configs[2].data_dir).unwrap();
    let refusal = Node::try_start(configs[2].clone()).err().unwrap();
    assert!(refusal.contains("wiped") && refusal.contains("raft-kv members remove 2"), "{refusal}");

    let mut config = configs[2].clone();
    config.bootstrap = false;
    config.data_dir = directory.path().join("empty");
    let refusal = Node::try_start(config).err().unwrap();
    assert!(refusal.contains("--bootstrap") && refusal.contains("--join"), "{refusal}");

    let mut config = configs[2].clone();
    config.data_dir = configs[0].data_dir.clone();
    let refusal = Node::try_start(config).err().unwrap();
    assert!(refusal.contains("another process holds"), "{refusal}");
}

#[test]
fn a_node_without_a_leader_says_so_everywhere_and_is_not_ready() {
    /// How long a write would wait if its header did not say less.
    const LEADER_WAIT: Duration = Duration::from_secs(60);
    let directory = tempfile::tempdir().unwrap();
    let mut configs = cluster(3, directory.path());
    for config in &mut configs {
        (config.limits.leader_wait, config.limits.request_timeout) = (LEADER_WAIT, LEADER_WAIT);
        config.limits.read_timeout = LEADER_WAIT;
    }
    let mut nodes = start(configs);
    for (n, node) in nodes.iter().enumerate() {
        until("all are ready", || node.get("/readyz").status == 200);
        let local = node.get("/v1/cluster?local=true").json();
        assert_eq!(local["cluster_id"], nodes[0].get("/v1/cluster").json()["cluster_id"], "{n}");
        assert!(local["cluster_id"].is_string() && local["node"].is_u64(), "{local}");
    }
    until("all members are up", || {
        let cluster = nodes[0].get("/v1/cluster").json();
        cluster["members"].as_array().unwrap().iter().all(|member| {
            let silent_ms = member["last_heard_ms"].as_u64().unwrap();
            silent_ms < 5_000 && member["state"] == "up"
        })
    });
    nodes.pop().unwrap().stop();
    until("the leader tells for how long the other has been silent", || {
        let cluster = nodes[0].get("/v1/cluster").json();
        let members = cluster["members"].as_array().unwrap();
        members.iter().any(|m| m["state"].as_str().unwrap().starts_with("no answer for "))
    });
    nodes.remove(0).stop();
    let node = &nodes[0];
    until("the last one knows no leader", || node.get("/v1/cluster").json()["leader"].is_null());
    let answer = node.get("/readyz");
    assert_eq!(answer.status, 503);
    assert!(answer.json()["detail"].as_str().unwrap().contains("no leader"), "{answer:?}");
    assert!(node.get("/metrics").body.contains("\nraft_ready 0\n"));
    assert_eq!(node.get("/healthz").status, 200);
    // A request waits for as long as its header permits. A write is then answered with `not_done`.
    let began = Instant::now();
    let answer = ask(node.address, "GET", "/v1/kv/a", &["raft-kv-wait-ms: 700"], "");
    assert_eq!(answer.status, 503);
    assert!(began.elapsed() < LEADER_WAIT, "{:?}", began.elapsed());
    for session in [&[][..], &["session-id: 1", "session-seq: 1"]] {
        let headers = [session, &["raft-kv-wait-ms: 700"]].concat();
        let began = Instant::now();
        let answer = ask(node.address, "PUT", "/v1/kv/a", &headers, "x");
        let time = began.elapsed();
        assert_eq!((answer.status, &answer.json()["outcome"]), (503, &json!("not_done")));
        assert!(Duration::from_millis(500) < time && time < LEADER_WAIT, "{time:?} {session:?}");
    }
}
