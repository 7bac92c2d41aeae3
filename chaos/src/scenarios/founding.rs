//! Clusters that are founded or supervised wrongly.

use super::Entry;
use crate::cluster::Cluster;
use crate::http::Connection;
use crate::live;
use crate::node::{Process, Settings};
use crate::ports;
use crate::round::{Attack, Step, Trouble};
use crate::timeline::Kind;
use hyper::Method;
use rustix::process::Signal;
use std::fs::File;
use std::net::{Ipv4Addr, SocketAddr};
use std::process::{Command, Stdio};
use std::time::Duration;

pub(super) const SCENARIOS: &[Entry] = &[
    ("founders-disagree", "founders have different --peers; no two clusters", false, disagree),
    ("supervisor-member", "`raft-kv cluster` with a member that cannot start", false, bad_member),
];

/// Two nodes found a cluster of three, three nodes one of five with one node in both. At most one
/// of the two may take writes, and a node that refuses names the other list.
fn disagree(attack: &mut Attack<'_>) -> Step {
    attack.outcome.nodes = 5;
    let handle = attack.runtime.handle().clone();
    let host = |_| "127.0.0.1".to_owned();
    let settings = |_| Settings::default();
    let root = attack.root.clone();
    let mut cluster = Cluster::new(&root, &attack.stage.binary, &handle, 5, host, settings)?;
    let five = cluster.peers.clone();
    let three = five.split(',').take(3).collect::<Vec<_>>().join(",");
    let mut order = vec![0, 1, 2, 3, 4];
    let mut draw = attack.draw();
    for at in (1..order.len()).rev() {
        order.swap(at, draw.below(at as u64 + 1) as usize);
    }
    for id in order {
        cluster.peers = if id < 2 { three.clone() } else { five.clone() };
        cluster.start(id)?;
        live::sleep(Duration::from_millis(draw.between(0, 400)));
    }
    live::sleep(Duration::from_secs(4));
    let small = (0..2).any(|id| cluster.put(id, "a", "1"));
    let large = (2..5).any(|id| cluster.put(id, "a", "2"));
    if small && large {
        return Err(Trouble::violated("two clusters take writes"));
    }
    let mut ended = 0;
    for node in &mut cluster.nodes {
        if node.ended().is_some() {
            ended += 1;
            let log = node.log_text();
            let id = node.id;
            if !(log.contains(&three) || log.contains("but not")) {
                let last = log.lines().last().unwrap_or_default();
                return Err(Trouble::violated(format!("node {id} names no other list: {last}")));
            }
        }
    }
    attack.timeline.mark(Kind::Note, None, format!("{ended} nodes refused to start"));
    match ended {
        0 if !small && !large => Err(Trouble::violated("no node reports that the lists differ")),
        _ => Ok(()),
    }
}

fn put(attack: &Attack<'_>, address: SocketAddr) -> bool {
    let limit = Duration::from_secs(2);
    let asked =
        async { Connection::new(address).ask(Method::PUT, "/v1/kv/a", &[], "1", limit).await };
    attack.runtime.block_on(asked).is_ok_and(|answer| answer.status == 200)
}

/// A healthy quorum serves whatever the third member does, and it comes back by itself when it can.
fn bad_member(attack: &mut Attack<'_>) -> Step {
    attack.outcome.nodes = 3;
    let port = ports::free_row(3);
    let address = |id: u16| SocketAddr::from((Ipv4Addr::LOCALHOST, port + id));
    let data = attack.root.join("data");
    let start = |attack: &Attack<'_>| -> Result<Process, Trouble> {
        let log =
            File::options().create(true).append(true).open(attack.root.join("cluster.log"))?;
        let mut command = Command::new(&attack.stage.binary);
        command.arg("cluster").arg(format!("--port={port}"));
        command.arg(format!("--data-dir={}", data.display()));
        let (out, err) = (log.try_clone()?, log);
        command.stdin(Stdio::null()).stdout(out).stderr(err);
        Ok(Process::start(&mut command)?)
    };
    let serves = |attack: &Attack<'_>, ids: &[u16]| {
        let limit = crate::bounds::PATIENCE;
        live::wait_until(limit, || ids.iter().all(|id| put(attack, address(*id))))
    };
    let stop = |process: &mut Process| {
        process.signal(Signal::TERM);
        match process.wait(crate::bounds::STOP_MAX) {
            Some(_) => Ok(()),
            None => Err(Trouble::violated("the supervisor does not end")),
        }
    };
    let mut process = start(attack)?;
    if !serves(attack, &[0, 1, 2]) {
        return Err(Trouble::violated("raft-kv cluster does not serve"));
    }
    stop(&mut process)?;
    // An empty directory that stands for a file where a directory should be: it cannot start.
    let bad = data.join("node-2");
    attack.timeline.mark(Kind::Note, Some(2), "directory replaced by a file");
    std::fs::rename(&bad, data.join("aside"))?;
    std::fs::write(&bad, "not a directory")?;
    let mut process = start(attack)?;
    let served = serves(attack, &[0, 1]);
    let runs = process.ended().is_none();
    std::fs::remove_file(&bad)?;
    std::fs::rename(data.join("aside"), &bad)?;
    if !served || !runs {
        let text = "one member cannot start, and the supervisor stops the other two";
        return Err(Trouble::violated(text));
    }
    if !live::wait_until(Duration::from_secs(45), || put(attack, address(2))) {
        return Err(Trouble::violated("the member is not started again when it can be"));
    }
    stop(&mut process)
}
