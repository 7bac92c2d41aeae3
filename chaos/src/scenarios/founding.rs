//! Clusters that are bootstrapped or supervised incorrectly.

use super::Entry;
use crate::attack::Attack;
use crate::cluster::Cluster;
use crate::damage;
use crate::http::Connection;
use crate::live;
use crate::node::{Process, Settings};
use crate::outcome::{Step, Trouble};
use crate::ports;
use crate::timeline::Kind;
use hyper::Method;
use rustix::process::Signal;
use std::fs::File;
use std::net::{Ipv4Addr, SocketAddr, TcpListener};
use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::time::Duration;

pub(super) const SCENARIOS: &[Entry] = &[
    ("founders-disagree", "founders have different --peers; no two clusters", false, disagree),
    ("supervisor-wiped", "`raft-kv cluster` with a member whose directory is empty", false, wiped),
    ("supervisor-damaged", "`raft-kv cluster` with a member whose log is junk", false, damaged),
    ("supervisor-port", "`raft-kv cluster` with a member whose port is taken", false, port_taken),
    ("supervisor-file", "`raft-kv cluster` with a file where a directory should be", false, file),
];

/// Two nodes get a list of three founders, and the other three nodes a list of all five. At most
/// one of the two clusters may accept writes. A node that refuses to start must report the other
/// list, or how it differs.
fn disagree(attack: &mut Attack<'_>) -> Step {
    attack.outcome.nodes = 5;
    let handle = attack.links.handle().clone();
    let host = |_| "127.0.0.1".to_owned();
    let settings = |_| Settings::default();
    let root = attack.root.clone();
    let mut cluster = Cluster::new(&root, &attack.stage.binary, &handle, (5, 0), host, settings)?;
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

/// A supervised cluster of three nodes on consecutive ports.
struct Supervised {
    port: u16,
    data: PathBuf,
}

impl Supervised {
    fn address(&self, id: u16) -> SocketAddr {
        SocketAddr::from((Ipv4Addr::LOCALHOST, self.port + id))
    }

    fn member(&self, id: u16) -> PathBuf {
        self.data.join(format!("node-{id}"))
    }

    fn start(&self, attack: &Attack<'_>) -> Result<Process, Trouble> {
        let log = attack.root.join("cluster.log");
        let log = File::options().create(true).append(true).open(log)?;
        let mut command = Command::new(&attack.stage.binary);
        command.arg("cluster").arg(format!("--port={}", self.port));
        command.arg(format!("--data-dir={}", self.data.display()));
        command.stdin(Stdio::null()).stdout(log.try_clone()?).stderr(log);
        Ok(Process::start(&mut command)?)
    }

    fn serves(&self, attack: &Attack<'_>, ids: &[u16]) -> bool {
        let limit = crate::bounds::PATIENCE;
        live::wait_until(limit, || ids.iter().all(|id| put(attack, self.address(*id))))
    }
}

fn stop(mut process: Process) -> Step {
    process.signal(Signal::TERM);
    match process.wait(crate::bounds::STOP_MAX) {
        Some(_) => Ok(()),
        None => Err(Trouble::violated("the supervisor does not end")),
    }
}

/// A healthy quorum must serve whatever happens to the third member. If the member can recover, it
/// must come back by itself. `damage` returns a function that undoes the damage, or `None` if that
/// is not possible.
fn supervised(
    attack: &mut Attack<'_>,
    damage: fn(&Supervised) -> std::io::Result<Option<Undo>>,
) -> Step {
    attack.outcome.nodes = 3;
    let cluster = Supervised { port: ports::free_row(3), data: attack.root.join("data") };
    let process = cluster.start(attack)?;
    if !cluster.serves(attack, &[0, 1, 2]) {
        return Err(Trouble::violated("raft-kv cluster does not serve"));
    }
    stop(process)?;
    let undo = damage(&cluster)?;
    attack.timeline.mark(Kind::Note, Some(2), "cannot start");
    let mut process = cluster.start(attack)?;
    let served = cluster.serves(attack, &[0, 1]);
    if !served || process.ended().is_some() {
        let text = "one member cannot start, and the other two are not served";
        return Err(Trouble::violated(text));
    }
    if let Some(undo) = undo {
        undo(&cluster)?;
        // The supervisor's backoff between two starts grows to 30 s.
        if !live::wait_until(Duration::from_secs(45), || put(attack, cluster.address(2))) {
            return Err(Trouble::violated("the member is not started again when it can be"));
        }
    }
    stop(process)
}

type Undo = Box<dyn FnOnce(&Supervised) -> std::io::Result<()>>;

fn wiped(attack: &mut Attack<'_>) -> Step {
    supervised(attack, |cluster| {
        std::fs::remove_dir_all(cluster.member(2))?;
        Ok(None)
    })
}

fn damaged(attack: &mut Attack<'_>) -> Step {
    supervised(attack, |cluster| {
        for path in damage::files(&cluster.member(2).join("log"), ".seg") {
            std::fs::write(path, "junk")?;
        }
        Ok(None)
    })
}

fn port_taken(attack: &mut Attack<'_>) -> Step {
    supervised(attack, |cluster| {
        let address = cluster.address(2);
        // The port is taken after the supervisor has checked its ports, so the member finds it in
        // use.
        let holder = std::thread::spawn(move || {
            live::sleep(Duration::from_millis(300));
            let held = TcpListener::bind(address);
            live::sleep(Duration::from_secs(3));
            drop(held);
        });
        Ok(Some(Box::new(move |_: &Supervised| {
            holder.join().map_err(|_| std::io::Error::other("the holder of the port panicked"))
        })))
    })
}

fn file(attack: &mut Attack<'_>) -> Step {
    supervised(attack, |cluster| {
        let (dir, aside) = (cluster.member(2), cluster.data.join("aside"));
        std::fs::rename(&dir, &aside)?;
        std::fs::write(&dir, "not a directory")?;
        Ok(Some(Box::new(move |_: &Supervised| {
            std::fs::remove_file(&dir)?;
            std::fs::rename(aside, dir)
        })))
    })
}
