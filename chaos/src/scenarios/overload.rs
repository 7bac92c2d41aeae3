//! Clients that demand more descriptors, memory or time than a node has. The leader must stay the
//! leader, and the nodes must respond to probes.

use super::{Entry, same_term};
use crate::attack::Attack;
use crate::clients::Work;
use crate::http::Connection;
use crate::outcome::{Step, Trouble};
use crate::round::{Round, Setup};
use crate::timeline::Kind;
use bytes::Bytes;
use hyper::Method;
use serde_json::json;
use std::io::Write;
use std::net::{SocketAddr, TcpStream};
use std::time::{Duration, Instant};

pub(super) const SCENARIOS: &[Entry] = &[
    ("descriptors", "ulimit -n 256 and 400 idle connections to every node", true, descriptors),
    ("unread-replies", "200 clients ask for 1 MiB each and do not read", false, unread_replies),
    ("greedy-batches", "clients post 24 MB of operations that are too many", false, greedy),
    ("listing-loops", "sixteen clients read all commits in a loop", false, listing_loops),
    ("slow-loris", "300 clients send a header byte by byte", false, slow_loris),
    ("crowd", "ulimit -n 256 and 2000 clients that write, for 10 s", false, crowd),
    ("many-clients", "80 clients without a pause, on the same few keys", false, many_clients),
];

/// How long the faults here last.
const LASTS: Duration = Duration::from_secs(4);
/// The clients of a crowd, which lasts for [`CROWD_LASTS`].
const CROWD: usize = 2000;
const CROWD_LASTS: Duration = Duration::from_secs(10);

fn overloaded() -> Setup {
    Setup { descriptors_max: 4096, rss_bytes_max: 1 << 30, judge_rates: false, ..Setup::default() }
}

fn term(round: &Round<'_>) -> Option<u64> {
    let leader = round.cluster.leader_among(&round.cluster.ids())?;
    round.cluster.metric(leader, "raft_term")
}

/// Checks that the nodes respond to probes on new connections.
fn probes_are_answered(round: &Round<'_>, ids: &[u64]) -> Step {
    for id in ids {
        let answer = round.cluster.ask(*id, Method::GET, "/healthz", "", Duration::from_secs(2));
        if !answer.is_ok_and(|answer| answer.status == 200) {
            return Err(Trouble::violated(format!("node {id} does not answer /healthz in 2 s")));
        }
    }
    Ok(())
}

/// Opens connections, at most `count`, until one fails.
fn connections(address: SocketAddr, count: usize) -> Vec<TcpStream> {
    let open = || TcpStream::connect_timeout(&address, Duration::from_millis(300)).ok();
    (0..count).map_while(|_| open()).collect()
}

fn descriptors(attack: &mut Attack<'_>) -> Step {
    let mut setup = Setup { descriptors_max: 256, ..overloaded() };
    setup.settings.descriptors_max = Some(256);
    attack.on_cluster(setup, |round| {
        let before = term(round);
        round.timeline.begin(Kind::Fault, None, "idle connections");
        let addresses = round.cluster.addresses();
        let idle: Vec<_> = addresses.iter().map(|address| connections(*address, 400)).collect();
        round.sleep_ms(1500);
        let ids = round.cluster.ids();
        let answered = probes_are_answered(round, &ids);
        drop(idle);
        round.timeline.end_faults();
        // These writes need new segments, which are 16 MiB each.
        let leader = round.cluster.leader()?;
        round.cluster.fill(leader, 40, 1 << 20);
        answered?;
        same_term(before, term(round))
    })
}

fn unread_replies(attack: &mut Attack<'_>) -> Step {
    attack.on_cluster(overloaded(), |round| {
        let leader = round.cluster.leader()?;
        // JSON writes a NUL as six bytes.
        let body = json!({ "kind": "put", "key": "load-z", "value": "\0".repeat(1 << 20) });
        let limit = Duration::from_secs(5);
        let body = body.to_string();
        let answer = round.cluster.ask(leader, Method::POST, "/submit", &body, limit);
        let index = answer.ok().and_then(|answer| answer.json()["log_index"].as_u64());
        let index = index.ok_or_else(|| Trouble::violated("a submit of 1 MiB was refused"))?;
        round.sleep_ms(500);
        let before = term(round);
        round.timeline.begin(Kind::Fault, Some(leader), "unread replies");
        let address = round.cluster.nodes[leader as usize].client;
        let mut waiting = connections(address, 200);
        for stream in &mut waiting {
            let path = format!("/get_commit?index={index}");
            // A node that rejects a connection has closed it.
            let _ = write!(stream, "GET {path} HTTP/1.1\r\nHost: {address}\r\n\r\n");
        }
        round.sleep_ms(LASTS.as_millis() as u64);
        let answered = probes_are_answered(round, &[leader]);
        drop(waiting);
        round.timeline.end_faults();
        answered?;
        same_term(before, term(round))
    })
}

/// Starts clients that send the same request in a loop until the time is over.
fn in_loops(round: &Round<'_>, clients: u64, node: u64, path: &'static str, body: Bytes) {
    let address = round.cluster.nodes[node as usize].client;
    let method = if body.is_empty() { Method::GET } else { Method::POST };
    for _ in 0..clients {
        let (body, method) = (body.clone(), method.clone());
        round.runtime.spawn(async move {
            let end = Instant::now() + LASTS;
            let mut connection = Connection::new(address);
            while Instant::now() < end {
                let limit = Duration::from_secs(10);
                // Rejections are expected. The pause keeps this from being a busy loop.
                let _ = connection.ask(method.clone(), path, &[], body.clone(), limit).await;
                tokio::time::sleep(Duration::from_millis(1)).await;
            }
        });
    }
}

fn greedy(attack: &mut Attack<'_>) -> Step {
    attack.on_cluster(overloaded(), |round| {
        let leader = round.cluster.leader()?;
        let before = term(round);
        let one = r#"{"op":"put","key":"a","value":"1"}"#;
        let many = vec![one; 24_000_000 / (one.len() + 1)].join(",");
        let body = Bytes::from(format!("{{\"operations\":[{many}]}}"));
        round.timeline.begin(Kind::Fault, Some(leader), "greedy batches");
        in_loops(round, 2, leader, "/v1/batch", body);
        round.sleep_ms(LASTS.as_millis() as u64);
        round.timeline.end_faults();
        same_term(before, term(round))
    })
}

fn listing_loops(attack: &mut Attack<'_>) -> Step {
    attack.on_cluster(overloaded(), |round| {
        let leader = round.cluster.leader()?;
        let put = |at| json!({ "op": "put", "key": format!("load-{at}"), "value": "v".repeat(40) });
        let operations: Vec<_> = (0..1000).map(put).collect();
        let body = json!({ "operations": operations }).to_string();
        for _ in 0..100 {
            let limit = Duration::from_secs(5);
            let done = round.cluster.ask(leader, Method::POST, "/v1/batch", &body, limit);
            if !done.is_ok_and(|answer| answer.status == 200) {
                return Err(Trouble::violated("a batch of 1000 small writes was refused"));
            }
        }
        let before = term(round);
        round.timeline.begin(Kind::Fault, Some(leader), "listing loops");
        in_loops(round, 16, leader, "/get_commits_since?since_index=-1", Bytes::new());
        round.sleep_ms(LASTS.as_millis() as u64);
        round.timeline.end_faults();
        same_term(before, term(round))
    })
}

fn slow_loris(attack: &mut Attack<'_>) -> Step {
    attack.on_cluster(overloaded(), |round| {
        let leader = round.cluster.leader()?;
        let before = term(round);
        let address = round.cluster.nodes[leader as usize].client;
        round.timeline.begin(Kind::Fault, Some(leader), "slow heads");
        let mut slow = connections(address, 300);
        for byte in "GET /v1/kv/a HTTP/1.1\r\nHost: 12".bytes() {
            slow.retain_mut(|stream| stream.write_all(&[byte]).is_ok());
            round.sleep_ms(100);
        }
        let answered = probes_are_answered(round, &[leader]);
        drop(slow);
        round.timeline.end_faults();
        answered?;
        same_term(before, term(round))
    })
}

fn many_clients(attack: &mut Attack<'_>) -> Step {
    let work = Work { clients: 80, pause_max: Duration::from_millis(5), ..Work::default() };
    attack.on_cluster(Setup { work, ..overloaded() }, |round| {
        let before = term(round);
        round.sleep_ms(1500);
        same_term(before, term(round))
    })
}

/// Far more clients than descriptors. Most are rejected, but no node may end, and the leader must
/// not change.
fn crowd(attack: &mut Attack<'_>) -> Step {
    let mut setup = Setup { descriptors_max: 256, ..overloaded() };
    setup.settings.descriptors_max = Some(256);
    attack.on_cluster(setup, |round| {
        let before = term(round);
        round.timeline.begin(Kind::Fault, None, "2000 clients");
        let (addresses, end) = (round.cluster.addresses(), Instant::now() + CROWD_LASTS);
        let client = |client: usize| {
            let address = addresses[client % addresses.len()];
            round.runtime.spawn(async move {
                let path = format!("/v1/kv/load-{client}");
                let mut connection = Connection::new(address);
                while Instant::now() < end {
                    let limit = Duration::from_secs(2);
                    // Rejections are expected.
                    let _ = connection.ask(Method::PUT, &path, &[], "v", limit).await;
                    tokio::time::sleep(Duration::from_millis(100)).await;
                }
            })
        };
        let crowd: Vec<_> = (0..CROWD).map(client).collect();
        round.sleep_ms(CROWD_LASTS.as_millis() as u64 / 2);
        let ids = round.cluster.ids();
        let answered = probes_are_answered(round, &ids);
        round.sleep_ms(CROWD_LASTS.as_millis() as u64 / 2);
        // Their last writes must have ended before the copies are compared.
        round.runtime.block_on(async {
            for client in crowd {
                let _ = client.await;
            }
        });
        round.timeline.end_faults();
        answered?;
        same_term(before, term(round))
    })
}
