//! The members of a cluster change while it serves.

use crate::api::node::{Node, cluster, location, send_over, start, until};
use kv::serve::{Peer, ServeConfig};
use serde_json::{Value, json};
use std::collections::BTreeMap;
use std::net::{SocketAddr, TcpStream};
use std::path::Path;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, Ordering};

const PATH: &str = "/v1/cluster/members";

/// The configurations of `size` nodes: the first `founders` of them bootstrap, the others join.
fn configs(founders: usize, size: u64, directory: &Path) -> Vec<ServeConfig> {
    let mut configs = cluster(size, directory);
    let all: Vec<Peer> = configs[0].peers.clone();
    for (id, config) in configs.iter_mut().enumerate() {
        if id < founders {
            config.peers.truncate(founders);
        } else {
            (config.bootstrap, config.join) = (false, true);
            config.peers = [&all[..founders], &all[id..=id]].concat();
        }
    }
    configs
}

/// The body that declares these members.
fn declared<'a>(members: impl IntoIterator<Item = &'a ServeConfig>, role: &str) -> Value {
    let members = members.into_iter().map(|config| {
        let own = config.peers.iter().find(|peer| peer.id == config.id).expect("it is listed");
        json!({"id": own.id.0, "client": own.client_address, "peer": own.peer_address,
            "role": role})
    });
    json!({"members": members.collect::<Vec<_>>()})
}

/// The nodes of a test, by id.
type Nodes = BTreeMap<u64, Node>;

fn leader(nodes: &Nodes) -> &Node {
    until("a node leads", || nodes.values().any(Node::leads));
    nodes.values().find(|node| node.leads()).unwrap_or_else(|| leader(nodes))
}

/// Starts a node that joins, in the background: it waits until it has been added.
fn join(config: &ServeConfig) -> std::thread::JoinHandle<Node> {
    let config = config.clone();
    std::thread::spawn(move || Node::start(config))
}

/// Declares the members with these ids, and starts those that are new.
fn change(nodes: &mut Nodes, configs: &[ServeConfig], ids: &[u64]) {
    let joining: Vec<_> = (ids.iter())
        .filter(|id| !nodes.contains_key(id))
        .map(|id| (*id, join(&configs[*id as usize])))
        .collect();
    let body = declared(ids.iter().map(|id| &configs[*id as usize]), "voter").to_string();
    let answer = leader(nodes).ask("PUT", PATH, &body);
    assert_eq!(answer.status, 200, "{}", answer.body);
    let listed = answer.json();
    let listed = listed["members"].as_array().unwrap().iter().map(|m| m["id"].as_u64().unwrap());
    let mut expected = ids.to_vec();
    expected.sort_unstable();
    assert_eq!(listed.collect::<Vec<_>>(), expected);
    nodes.extend(joining.into_iter().map(|(id, node)| (id, node.join().expect("it joins"))));
    let removed: Vec<u64> = nodes.keys().copied().filter(|id| !ids.contains(id)).collect();
    for id in removed {
        let node = nodes.remove(&id).expect("it is there");
        let ended = node.wait().expect_err("it stops by itself");
        assert!(ended.contains("not a member of its cluster any more"), "{ended}");
    }
}

/// Ends the writes, even if the test panics.
struct Ends<'a>(&'a AtomicBool);

impl Drop for Ends<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

#[test]
fn a_cluster_grows_is_replaced_node_by_node_and_shrinks_under_writes() {
    let directory = tempfile::tempdir().unwrap();
    let mut configs = configs(3, 8, directory.path());
    // A node that joins names a present member. By then, all founders are gone.
    let present = configs[5].peers.last().unwrap().clone();
    configs[7].peers.splice(..3, [present]);
    let founders = start(configs[..3].to_vec());
    let id = |node: &Node| node.get("/v1/cluster?local=true").json()["node"].as_u64().unwrap();
    let mut nodes: Nodes = founders.into_iter().map(|node| (id(&node), node)).collect();
    let (ends, live) = (AtomicBool::new(false), Mutex::new(Vec::<SocketAddr>::new()));
    let publish = |nodes: &Nodes| {
        *live.lock().unwrap() = nodes.values().map(|node| node.address).collect();
    };
    publish(&nodes);
    std::thread::scope(|scope| {
        let writes = scope.spawn(|| {
            let (mut done, mut unknown) = (Vec::new(), 0);
            for n in 0.. {
                if ends.load(Ordering::Relaxed) {
                    break;
                }
                let addresses = live.lock().unwrap().clone();
                let address = addresses[n % addresses.len()];
                let request = format!(
                    "PUT /v1/kv/{n} HTTP/1.1\r\nhost: {address}\r\nconnection: close\r\n\
                     content-length: 1\r\n\r\nx"
                );
                // Nobody there, or no answer: the test has dropped the node, which was removed.
                let Ok(stream) = TcpStream::connect(address) else { continue };
                let Some(answer) = send_over(stream, request.as_bytes()) else { continue };
                let outcome = answer.status != 200 && answer.json()["outcome"] == "unknown";
                match answer.status {
                    200 => done.push(n),
                    _ if outcome => unknown += 1,
                    // A node that has been removed, or a cluster between two leaders.
                    503 => {}
                    status => panic!("{status}: {}", answer.body),
                }
            }
            (done, unknown)
        });
        let _ends = Ends(&ends);
        for ids in [
            &[0, 1, 2, 3, 4][..],
            &[1, 2, 3, 4, 5],
            &[2, 3, 4, 5, 6],
            &[3, 4, 5, 6],
            &[4, 5],
            &[5],
            &[5, 7],
        ] {
            change(&mut nodes, &configs, ids);
            publish(&nodes);
        }
        ends.store(true, Ordering::Relaxed);
        let (done, unknown) = writes.join().unwrap();
        assert!(done.len() > 20 && unknown < done.len(), "{} done, {unknown} unknown", done.len());
        for n in done {
            assert_eq!(nodes[&7].get(&format!("/v1/kv/{n}")).body, "x", "write {n} is lost");
        }
    });
}

#[test]
fn a_change_that_cannot_or_must_not_be_done_is_refused_with_the_reason() {
    let directory = tempfile::tempdir().unwrap();
    let configs = configs(3, 5, directory.path());
    let mut nodes = start(configs[..3].to_vec());
    let three = || declared(&configs[..3], "voter");
    // A follower sends the client to the leader.
    let redirect = nodes[1].ask("PUT", PATH, &three().to_string());
    let there = location(&nodes, PATH);
    assert_eq!((redirect.status, redirect.header("location")), (307, Some(&*there)));
    // Nothing changes: that is done at once.
    let same = nodes[0].ask("PUT", PATH, &three().to_string());
    assert_eq!((same.status, &same.json()["change"]), (200, &Value::Null));
    let refused = |node: &Node, body: &Value, expected: u16, fault: &str| {
        let answer = node.ask("PUT", PATH, &body.to_string());
        let problem = answer.json();
        assert_eq!((answer.status, &problem["outcome"]), (expected, &json!("not_done")), "{body}");
        assert!(problem["detail"].as_str().unwrap().contains(fault), "{problem}");
    };
    let mut other = three();
    other["if_version"] = json!(same.json()["membership_version"].as_u64().unwrap() + 1);
    refused(&nodes[0], &other, 409, "version");
    refused(&nodes[0], &json!({"members": []}), 400, "no voter");
    refused(&nodes[0], &declared(&configs[..3], "learner"), 400, "no voter");
    refused(&nodes[0], &declared(&configs[..4], "voter"), 412, "--join");
    // Addresses at which the members do not answer would cut them off.
    let mut swapped = three();
    for field in ["client", "peer"] {
        let first = swapped["members"][0][field].take();
        swapped["members"][0][field] = swapped["members"][1][field].take();
        swapped["members"][1][field] = first;
    }
    refused(&nodes[0], &swapped, 412, "does not answer as");
    let mut nowhere = three();
    nowhere["members"][1]["peer"] = json!("127.0.0.1:1");
    refused(&nodes[0], &nowhere, 412, "does not answer as");
    // A node that founds or belongs to a cluster is not taken into another one.
    let elsewhere = tempfile::tempdir().unwrap();
    let mut lone = cluster(1, elsewhere.path()).remove(0);
    let own = configs[4].peers.last().unwrap().clone();
    lone.id = own.id;
    (lone.listen, lone.peer_listen) = (configs[4].listen, configs[4].peer_listen);
    lone.peers = vec![own];
    let lone = Node::start(lone);
    until("it leads", || lone.leads());
    let with_foreign = configs[..3].iter().chain([&configs[4]]);
    refused(&nodes[0], &declared(with_foreign, "voter"), 412, "does not wait");
    drop(lone);

    // A change that waits for its new voter, and another one meanwhile.
    nodes.truncate(2);
    refused(&nodes[0], &declared(&configs[..1], "learner"), 400, "no voter");
    let left: Vec<u64> = nodes.iter().map(id_of).collect();
    let lost = (0..3).find(|id| !left.contains(id)).unwrap() as usize;
    let follower = left[1] as usize;
    drop(nodes.pop());
    until("the leader notices that it is alone", || !nodes[0].leads());
    let two = declared([&configs[follower], &configs[lost]], "voter");
    let answer = nodes[0].ask("PUT", PATH, &two.to_string());
    assert_eq!(answer.status, 503, "without a quorum there is no leader: {}", answer.body);
}

fn id_of(node: &Node) -> u64 {
    node.get("/v1/cluster?local=true").json()["node"].as_u64().unwrap()
}

#[test]
fn a_change_that_would_lose_the_quorum_is_refused_unless_it_is_forced() {
    let directory = tempfile::tempdir().unwrap();
    let configs = configs(3, 3, directory.path());
    let mut nodes = start(configs.clone());
    let leader = id_of(&nodes[0]) as usize;
    let lost = id_of(&nodes[2]) as usize;
    nodes.pop().unwrap().stop();
    // At once: it has replied within the last election timeout.
    let two = declared([&configs[leader], &configs[lost]], "voter").to_string();
    let answer = nodes[0].ask("PUT", PATH, &two);
    assert_eq!((answer.status, &answer.json()["outcome"]), (412, &json!("not_done")));
    let detail = answer.json()["detail"].as_str().unwrap().to_owned();
    assert!(detail.contains(&format!("no reply from: {lost}")), "{detail}");
    assert!(nodes[0].leads() && nodes[0].ask("PUT", "/v1/kv/a", "1").status == 200);
    // It is begun all the same, and waits for the lost node: another change is refused meanwhile.
    let answer = nodes[0].ask("PUT", &format!("{PATH}?force=true&wait=100ms"), &two);
    assert_eq!(answer.status, 202, "{}", answer.body);
    assert!(answer.json()["change"]["waits_for"].is_string(), "{}", answer.body);
    let one = declared([&configs[leader]], "voter").to_string();
    let answer = nodes[0].ask("PUT", PATH, &one);
    assert_eq!((answer.status, &answer.json()["outcome"]), (409, &json!("not_done")));
    // Declaring the members without the change gives it up.
    let before = declared(&configs, "voter").to_string();
    let mut answer = nodes[0].ask("PUT", PATH, &before);
    until("the entry of the change is committed, and it is given up", || {
        answer = nodes[0].ask("PUT", PATH, &before);
        answer.status == 200
    });
    assert_eq!(answer.json()["change"], Value::Null, "{}", answer.body);
    assert_eq!(nodes[0].ask("PUT", "/v1/kv/a", "2").status, 200);
}

#[test]
fn a_learner_reads_and_counts_for_nothing_until_it_is_promoted() {
    let directory = tempfile::tempdir().unwrap();
    let configs = configs(1, 2, directory.path());
    let mut nodes = start(vec![configs[0].clone()]);
    assert_eq!(nodes[0].ask("PUT", "/v1/kv/a", "1").status, 200);
    let joining = join(&configs[1]);
    let mut body = declared(&configs, "voter");
    body["members"][1]["role"] = json!("learner");
    let answer = nodes[0].ask("PUT", PATH, &body.to_string());
    assert_eq!(answer.status, 200, "{}", answer.body);
    nodes.push(joining.join().unwrap());
    assert_eq!(nodes[1].get("/v1/kv/a").body, "1");
    assert_eq!(nodes[1].get("/v1/cluster").json()["members"][1]["role"], "learner");
    // The voter alone is a majority.
    nodes.pop().unwrap().stop();
    assert_eq!(nodes[0].ask("PUT", "/v1/kv/a", "2").status, 200);
    nodes.push(Node::start(configs[1].clone()));
    let answer = nodes[0].ask("PUT", PATH, &declared(&configs, "voter").to_string());
    assert_eq!(answer.status, 200, "{}", answer.body);
    assert_eq!(answer.json()["members"][1]["role"], "voter");
    assert_eq!(nodes[1].get("/v1/kv/a").body, "2");
}

#[test]
fn a_removed_learner_and_an_earlier_directory_stop_like_a_removed_voter() {
    let directory = tempfile::tempdir().unwrap();
    let configs = configs(1, 2, directory.path());
    let nodes = start(vec![configs[0].clone()]);
    let mut with_learner = declared(&configs, "voter");
    with_learner["members"][1]["role"] = json!("learner");
    let (with_learner, without) =
        (with_learner.to_string(), declared(&configs[..1], "voter").to_string());
    let joined = |config: &ServeConfig| {
        let joining = join(config);
        let answer = nodes[0].ask("PUT", PATH, &with_learner);
        assert_eq!(answer.status, 200, "{}", answer.body);
        joining.join().unwrap()
    };
    let ends = |node: Node| {
        let ended = node.wait().expect_err("it stops by itself");
        assert!(ended.contains("not a member of its cluster any more"), "{ended}");
    };
    let first = joined(&configs[1]);
    assert_eq!(nodes[0].ask("PUT", PATH, &without).status, 200);
    ends(first);
    // Also if it is removed while it is down.
    let earlier = configs[1].data_dir.with_extension("earlier");
    std::fs::remove_dir_all(&configs[1].data_dir).unwrap();
    joined(&configs[1]).stop();
    assert_eq!(nodes[0].ask("PUT", PATH, &without).status, 200);
    ends(Node::start(configs[1].clone()));
    // The id comes back with another directory, and then the earlier one is started.
    std::fs::rename(&configs[1].data_dir, &earlier).unwrap();
    let present = joined(&configs[1]);
    // Elsewhere, while the present one runs at the address of the membership.
    let mut config = configs[1].clone();
    config.data_dir = earlier;
    let free = cluster(1, directory.path()).remove(0);
    (config.listen, config.peer_listen) = (free.listen, free.peer_listen);
    let own = config.peers.last_mut().unwrap();
    own.client_address = free.listen.to_string();
    own.peer_address = free.peer_listen.to_string();
    ends(Node::start(config.clone()));
    // In its place.
    present.stop();
    (config.listen, config.peer_listen) = (configs[1].listen, configs[1].peer_listen);
    config.peers = configs[1].peers.clone();
    ends(Node::start(config));
}

#[test]
fn a_node_whose_addition_is_given_up_stops_like_a_removed_one() {
    let directory = tempfile::tempdir().unwrap();
    let mut configs = configs(3, 4, directory.path());
    configs.iter_mut().for_each(|config| config.fault_injection = true);
    let nodes = start(configs[..3].to_vec());
    let joining = join(&configs[3]);
    let all = declared(&configs, "voter").to_string();
    let answer = nodes[0].ask("PUT", &format!("{PATH}?wait=1ms"), &all);
    assert_eq!(answer.status, 202, "{}", answer.body);
    // It joins, but never catches up: that takes some heartbeats.
    until("the leader has it as a member, and cuts it off", || {
        nodes[0].post("/disconnect_peer", r#"{"peer_id": 3}"#).status == 200
    });
    let added = joining.join().expect("it joins");
    assert!(nodes[0].get("/v1/cluster").json()["change"].is_object(), "it is in progress");
    let before = declared(&configs[..3], "voter").to_string();
    let answer = nodes[0].ask("PUT", PATH, &before);
    assert_eq!((answer.status, &answer.json()["change"]), (200, &Value::Null), "{}", answer.body);
    let ended = added.wait().expect_err("it stops by itself");
    assert!(ended.contains("not a member of its cluster any more"), "{ended}");
    // With a new directory it is added.
    std::fs::remove_dir_all(&configs[3].data_dir).unwrap();
    let joining = join(&configs[3]);
    let answer = nodes[0].ask("PUT", &format!("{PATH}?wait=1ms"), &all);
    assert_eq!(answer.status, 202, "{}", answer.body);
    until("the leader has it as a member, and lets it in", || {
        nodes[0].post("/connect_peer", r#"{"peer_id": 3}"#).status == 200
    });
    let added = joining.join().expect("it joins");
    until("it votes", || nodes[0].get("/v1/cluster").json()["members"][3]["role"] == "voter");
    assert_eq!(added.ask("PUT", "/v1/kv/a", "1").status, 200);
}

#[test]
fn a_wiped_member_cannot_join_under_its_id_until_it_is_removed() {
    let directory = tempfile::tempdir().unwrap();
    let configs = configs(3, 3, directory.path());
    let mut nodes = start(configs.clone());
    let lost = id_of(&nodes[2]) as usize;
    nodes.pop().unwrap().stop();
    std::fs::remove_dir_all(&configs[lost].data_dir).unwrap();
    let mut config = configs[lost].clone();
    (config.bootstrap, config.join) = (false, true);
    let refusal = Node::try_start(config.clone()).err().unwrap();
    assert!(refusal.contains("wiped"), "{refusal}");
    assert!(refusal.contains(&format!("raft-kv members remove {lost}")), "{refusal}");
    let rest = configs.iter().filter(|config| config.id.0 != lost as u64);
    assert_eq!(nodes[0].ask("PUT", PATH, &declared(rest, "voter").to_string()).status, 200);
    let joining = join(&config);
    let answer = nodes[0].ask("PUT", PATH, &declared(&configs, "voter").to_string());
    assert_eq!(answer.status, 200, "{}", answer.body);
    let back = joining.join().unwrap();
    assert_eq!(back.ask("PUT", "/v1/kv/a", "1").status, 200);
}

#[test]
fn a_node_is_not_taken_by_another_cluster_than_that_of_the_nodes_it_names() {
    let (directory, elsewhere) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let mut configs = configs(1, 2, directory.path());
    let other_config = cluster(1, elsewhere.path()).remove(0);
    let nodes = start(vec![configs[0].clone()]);
    let other = start(vec![other_config.clone()]).remove(0);
    // It names its cluster by an address that the membership writes in another way.
    let named = &mut configs[1].peers[0].peer_address;
    *named = named.replace("127.0.0.1", "localhost");
    let joining = join(&configs[1]);
    let foreign = declared([&other_config, &configs[1]], "voter").to_string();
    let answer = other.ask("PUT", PATH, &foreign);
    assert_eq!((answer.status, &answer.json()["outcome"]), (412, &json!("not_done")));
    let detail = answer.json()["detail"].as_str().unwrap().to_owned();
    assert!(detail.contains("waits to be added to the cluster of 0="), "{detail}");
    assert!(!joining.is_finished());
    let answer = nodes[0].ask("PUT", PATH, &declared(&configs, "voter").to_string());
    assert_eq!(answer.status, 200, "{}", answer.body);
    let joined = joining.join().unwrap();
    assert_eq!(nodes[0].ask("PUT", "/v1/kv/a", "ours").status, 200);
    assert_eq!(other.ask("PUT", "/v1/kv/a", "other").status, 200);
    assert_eq!(joined.get("/v1/kv/a").body, "ours");
}
