//! Disks that are full, hang, are slow or fail, under one node or a quorum.
//!
//! A leader with the only faulty disk must step down within a few election timeouts, since two
//! healthy disks are left. A node reports that it is not ready while it cannot write.

use super::Entry;
use crate::attack::Attack;
use crate::bounds::{FAILOVER_MAX, PATIENCE};
use crate::outcome::{Step, Trouble};
use crate::round::{Round, Setup};
use crate::timeline::Kind;
use std::process::{Command, Stdio};
use std::time::Duration;

/// A node that hands over, and gives its disk ten seconds, ends within this time.
const STOP_MAX: Duration = Duration::from_secs(20);

pub(super) const SCENARIOS: &[Entry] = &[
    ("leader-disk-full", "the leader's disk has no room; the others must go on", true, leader_full),
    ("leader-disk-hangs", "syncs of the leader's disk hang; others go on", true, leader_hangs),
    ("leader-writes-hang", "writes of the leader's disk hang", false, leader_writes_hang),
    ("follower-disk-hangs", "syncs of a follower's disk hang", false, follower_hangs),
    ("stop-with-hung-disk", "a node whose disk hangs gets SIGTERM", false, stop_with_hung_disk),
    ("slow-disk", "syncs of the leader take 200 ms, those of a follower 50 ms", false, slow_disk),
    ("failed-sync", "a sync fails: the node must end, and start again", true, failed_sync),
    ("failed-write", "writes fail with EIO: the node must end or recover", false, failed_write),
    ("quorum-disk-full", "two of three disks have no room, then have again", false, quorum_full),
    ("power-loss", "all nodes lose power: what they had not synced is gone", true, power_loss),
    ("power-loss-one", "one node loses power, again and again", false, power_loss_one),
    ("full-file-system", "a real file system is full, data and log on it", false, full_tmpfs),
    (
        "full-file-systems",
        "the file systems of all nodes are full, then not",
        false,
        full_tmpfs_all,
    ),
];

fn shimmed() -> Setup {
    Setup { shim: true, ..Setup::default() }
}

/// The leader's disk is faulty; the others must replace the leader.
fn sick_leader(attack: &mut Attack<'_>, setup: Setup, fault: &'static str) -> Step {
    attack.on_cluster(setup, |round| {
        let leader = round.cluster.leader()?;
        round.fault(leader, fault, 0)?;
        let others = round.others(leader);
        let took = round.cluster.served_within(&others, FAILOVER_MAX);
        let unready = round.cluster.unready_within(leader, FAILOVER_MAX);
        if let Ok(took) = took {
            let text = format!("a write was done after {took:.1?}");
            round.timeline.mark(Kind::Note, None, text);
        }
        round.sleep_between(200, 1500);
        round.heal(leader, fault);
        took?;
        unready
    })
}

fn leader_full(attack: &mut Attack<'_>) -> Step {
    sick_leader(attack, shimmed(), "no-room")
}

fn leader_hangs(attack: &mut Attack<'_>) -> Step {
    sick_leader(attack, shimmed(), "stall-sync")
}

fn leader_writes_hang(attack: &mut Attack<'_>) -> Step {
    sick_leader(attack, shimmed(), "stall-write")
}

fn follower_hangs(attack: &mut Attack<'_>) -> Step {
    attack.on_cluster(shimmed(), |round| {
        let (leader, follower) = (round.cluster.leader()?, round.follower()?);
        round.fault(follower, "stall-sync", 0)?;
        round.cluster.served_within(&[leader], FAILOVER_MAX)?;
        let unready = round.cluster.unready_within(follower, FAILOVER_MAX);
        round.sleep_between(200, 2000);
        round.heal(follower, "stall-sync");
        unready
    })
}

/// A node that receives SIGTERM ends, although its disk does not answer.
fn stop_with_hung_disk(attack: &mut Attack<'_>) -> Step {
    let setup = Setup { nodes_may_end: true, ..shimmed() };
    attack.on_cluster(setup, |round| {
        let (leader, follower) = (round.cluster.leader()?, round.follower()?);
        round.fault(follower, "stall-sync", 0)?;
        // A write has to hang.
        round.cluster.served_within(&[leader], FAILOVER_MAX)?;
        let ended = round.cluster.nodes[follower as usize].stop(STOP_MAX);
        round.heal(follower, "stall-sync");
        match ended {
            Some(_) => Ok(()),
            None => Err(Trouble::violated(format!("node {follower} does not stop"))),
        }
    })
}

fn slow_disk(attack: &mut Attack<'_>) -> Step {
    attack.on_cluster(shimmed(), |round| {
        let (leader, follower) = (round.cluster.leader()?, round.follower()?);
        round.fault(leader, "slow-sync", 200)?;
        round.fault(follower, "slow-sync", 50)?;
        round.sleep_between(2000, 3000);
        let all = round.cluster.ids();
        round.cluster.served_within(&all, FAILOVER_MAX)?;
        Ok(())
    })
}

/// The disk of a node fails: the others must go on, and the node must end if `must_end`.
fn failed(attack: &mut Attack<'_>, fault: &'static str, must_end: bool) -> Step {
    let setup = Setup { nodes_may_end: true, ..shimmed() };
    attack.on_cluster(setup, |round| {
        let node = match round.draw.below(2) {
            0 => round.cluster.leader()?,
            _ => round.follower()?,
        };
        round.fault(node, fault, 0)?;
        let others = round.others(node);
        round.cluster.served_within(&others, FAILOVER_MAX)?;
        let ended = round.cluster.nodes[node as usize].wait(FAILOVER_MAX);
        match ended {
            None if must_end => {
                Err(Trouble::violated(format!("node {node} goes on after a failed sync")))
            }
            _ => Ok(()),
        }
    })
}

fn failed_sync(attack: &mut Attack<'_>) -> Step {
    failed(attack, "eio-sync", true)
}

fn failed_write(attack: &mut Attack<'_>) -> Step {
    failed(attack, "eio-write", false)
}

fn quorum_full(attack: &mut Attack<'_>) -> Step {
    attack.on_cluster(shimmed(), |round| {
        let sick = [round.cluster.leader()?, round.follower()?];
        for node in sick {
            round.fault(node, "no-room", 0)?;
        }
        round.sleep_between(1000, 3000);
        for node in sick {
            round.heal(node, "no-room");
        }
        let all = round.cluster.ids();
        round.cluster.served_within(&all, FAILOVER_MAX)?;
        Ok(())
    })
}

fn power_loss(attack: &mut Attack<'_>) -> Step {
    lose_power_of_all(attack, false)
}

/// All nodes lose power. If their disks are `lying`, acknowledged writes are lost whatever the
/// binary does, and the checks must find that.
pub(super) fn lose_power_of_all(attack: &mut Attack<'_>, lying: bool) -> Step {
    attack.on_cluster(shimmed(), |round| {
        let ids = round.cluster.ids();
        for id in &ids {
            round.fault(*id, "undo", 0)?;
            if lying {
                round.fault(*id, "lying-sync", 0)?;
            }
        }
        round.sleep_between(500, 2500);
        round.lose_power(&ids)?;
        for id in ids {
            round.start(id)?;
        }
        round.cluster.leader()?;
        round.sleep_between(200, 1000);
        Ok(())
    })
}

fn power_loss_one(attack: &mut Attack<'_>) -> Step {
    attack.on_cluster(shimmed(), |round| {
        for id in round.cluster.ids() {
            round.fault(id, "undo", 0)?;
        }
        for _ in 0..3 {
            let node = round.any();
            round.lose_power(&[node])?;
            round.sleep_between(20, 600);
            round.start(node)?;
            round.sleep_between(100, 900);
        }
        Ok(())
    })
}

/// The size of each node's file system: room for the preallocated log, and some more.
const DISK_BYTES: u64 = 96 << 20;

/// A cluster in which each node has a file system of its own.
fn small_disks() -> Result<Setup, Trouble> {
    let probe = Command::new("unshare")
        .args(["-m", "sh", "-c", "mount -t tmpfs -o size=4096 chaos /mnt"])
        .stdin(Stdio::null())
        .stderr(Stdio::null())
        .status();
    if !probe.is_ok_and(|status| status.success()) {
        let text = "mounting a tmpfs in a mount namespace needs root on Linux".to_owned();
        return Err(Trouble::Skipped(text));
    }
    let mut setup = Setup::default();
    setup.settings.disk_bytes = Some(DISK_BYTES);
    Ok(setup)
}

fn full_tmpfs(attack: &mut Attack<'_>) -> Step {
    attack.on_cluster(small_disks()?, |round| {
        let node = round.cluster.leader()?;
        let filler = fill_disk(round, node)?;
        round.timeline.begin(Kind::Fault, Some(node), "no room");
        let others = round.others(node);
        // More than what is left of the log's segments, so that a write reaches the full disk.
        round.cluster.fill(others[0], 40, 1 << 20);
        let served = round.cluster.served_within(&others, FAILOVER_MAX);
        round.sleep_between(500, 1500);
        std::fs::remove_file(filler)?;
        round.timeline.end(Kind::Fault, Some(node), "no room");
        served?;
        round.cluster.caught_up_within(node, PATIENCE)?;
        Ok(())
    })
}

/// All disks are full, for data and logs. Every node rejects writes, and continues by itself when
/// there is room again.
fn full_tmpfs_all(attack: &mut Attack<'_>) -> Step {
    attack.on_cluster(small_disks()?, |round| {
        let ids = round.cluster.ids();
        let mut fillers = Vec::new();
        for id in &ids {
            fillers.push(fill_disk(round, *id)?);
            round.timeline.begin(Kind::Fault, Some(*id), "no room");
        }
        // Until the preallocated space of the log is used up too.
        if (0..16).all(|_| round.cluster.fill(0, 8, 1 << 20) == 8) {
            return Err(Trouble::violated("128 MiB were written to full disks"));
        }
        round.timeline.mark(Kind::Note, None, "a write was refused");
        // This makes the nodes log lines that cannot be written.
        let leader = round.cluster.leader_among(&ids).unwrap_or(0);
        round.pause(leader);
        round.sleep_ms(1500);
        round.resume(leader);
        round.sleep_between(500, 1500);
        for filler in fillers {
            std::fs::remove_file(filler)?;
        }
        round.timeline.end_faults();
        round.cluster.served_within(&ids, PATIENCE)?;
        Ok(())
    })
}

/// Fills the file system of a node to the last byte.
fn fill_disk(round: &mut Round<'_>, node: u64) -> Result<std::path::PathBuf, Trouble> {
    let dir = round.cluster.nodes[node as usize].seen_dir();
    let filler = dir.ok_or_else(|| Trouble::violated("the node has ended"))?.join("filler");
    for bytes in [1 << 20, 4 << 10, 1] {
        let mut file = std::fs::OpenOptions::new().create(true).append(true).open(&filler)?;
        while std::io::Write::write_all(&mut file, &vec![1; bytes]).is_ok() {}
    }
    Ok(filler)
}
