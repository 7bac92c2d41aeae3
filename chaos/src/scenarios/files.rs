//! Files that are damaged, lost or old while a node is down. Its peers must repair the node.

use super::Entry;
use crate::attack::Attack;
use crate::bounds::{MESSAGES_PER_S_MAX, PATIENCE};
use crate::damage::{self, How};
use crate::outcome::{Step, Trouble};
use crate::round::{Round, Setup};
use crate::timeline::Kind;
use std::path::PathBuf;

pub(super) const SCENARIOS: &[Entry] = &[
    ("zeroed-block", "the last block of a follower's log is zero", true, zeroed_block),
    ("rotten-block", "the last block of a follower's log has other bytes", false, rotten_block),
    ("older-copy", "a follower starts from an older copy of its directory", true, older_copy),
    ("damaged-snapshot", "a follower's snapshot has other bytes", false, damaged_snapshot),
    ("missing-snapshot", "a follower's snapshot is gone", false, missing_snapshot),
    (
        "leader-snapshot-lost",
        "the leader's snapshot is gone, a follower needs one",
        false,
        leader_lost,
    ),
    ("snapshot-catch-up", "a follower needs a snapshot while writes go on", false, catch_up),
    ("late-return", "a follower was down for long and needs only the log", true, late_return),
];

/// The entries that are written to trigger a snapshot: more bytes than a log keeps before its first
/// one.
const FILL_COUNT: u64 = 80;
const FILL_BYTES: usize = 1 << 20;

/// Waits until a node has caught up, and checks that the leader then does not send the same
/// messages in a loop.
fn is_quiet(round: &mut Round<'_>, node: u64) -> Step {
    round.cluster.caught_up_within(node, PATIENCE)?;
    let leader = round.cluster.leader()?;
    let sent = |round: &Round<'_>| round.cluster.metric(leader, "driver_messages_sent_total");
    let before = sent(round).unwrap_or(0);
    round.sleep_ms(1000);
    let rate = sent(round).unwrap_or(before).saturating_sub(before);
    if rate > MESSAGES_PER_S_MAX {
        return Err(Trouble::violated(format!("{rate} messages in a second after the repair")));
    }
    Ok(())
}

/// Kills a follower and damages a write that it has acknowledged. The same leader goes on.
fn damaged_block(attack: &mut Attack<'_>, how: How) -> Step {
    attack.on_cluster(Setup::default(), |round| {
        let follower = round.follower()?;
        round.kill(follower);
        let dir = round.cluster.nodes[follower as usize].dir.clone();
        if !damage::last_block(&dir, how)? {
            return Err(Trouble::violated(format!("node {follower} has no log")));
        }
        round.timeline.mark(Kind::Note, Some(follower), format!("last block {how:?}"));
        round.start(follower)?;
        is_quiet(round, follower)
    })
}

fn zeroed_block(attack: &mut Attack<'_>) -> Step {
    damaged_block(attack, How::Zeroed)
}

fn rotten_block(attack: &mut Attack<'_>) -> Step {
    damaged_block(attack, How::Rotten)
}

fn older_copy(attack: &mut Attack<'_>) -> Step {
    attack.on_cluster(Setup::default(), |round| {
        let follower = round.follower()?;
        let dir = round.cluster.nodes[follower as usize].dir.clone();
        let copy = round.root.join("older");
        round.kill(follower);
        damage::copy_tree(&dir, &copy)?;
        round.start(follower)?;
        round.sleep_between(500, 1500);
        round.kill(follower);
        std::fs::remove_dir_all(&dir)?;
        damage::copy_tree(&copy, &dir)?;
        round.timeline.mark(Kind::Note, Some(follower), "older copy restored");
        round.start(follower)?;
        is_quiet(round, follower)
    })
}

/// Writes until a node has a snapshot. Returns the files of its snapshots.
fn with_snapshot(round: &mut Round<'_>, node: u64) -> Result<Vec<PathBuf>, Trouble> {
    let leader = round.cluster.leader()?;
    let dir = round.cluster.nodes[node as usize].dir.join("snapshots");
    for _ in 0..4 {
        round.cluster.fill(leader, FILL_COUNT, FILL_BYTES);
        round.sleep_ms(500);
        let snapshots = damage::files(&dir, ".snap");
        if !snapshots.is_empty() {
            return Ok(snapshots);
        }
    }
    Err(Trouble::violated(format!("node {node} has no snapshot after 320 MiB of writes")))
}

fn large() -> Setup {
    Setup { rss_bytes_max: 2 << 30, judge_rates: false, ..Setup::default() }
}

/// A follower whose snapshots were damaged by `how` must catch up.
fn bad_snapshot(attack: &mut Attack<'_>, how: fn(&PathBuf) -> std::io::Result<()>) -> Step {
    attack.on_cluster(large(), |round| {
        let follower = round.follower()?;
        with_snapshot(round, follower)?;
        round.kill(follower);
        let dir = round.cluster.nodes[follower as usize].dir.join("snapshots");
        for path in damage::files(&dir, ".snap") {
            how(&path)?;
        }
        round.timeline.mark(Kind::Note, Some(follower), "snapshots damaged");
        round.start(follower)?;
        round.cluster.caught_up_within(follower, PATIENCE)?;
        Ok(())
    })
}

fn damaged_snapshot(attack: &mut Attack<'_>) -> Step {
    bad_snapshot(attack, |path| damage::rot(path))
}

fn missing_snapshot(attack: &mut Attack<'_>) -> Step {
    bad_snapshot(attack, |path| std::fs::remove_file(path))
}

/// The leader cannot read its own snapshot when a follower needs one: it takes a new one.
fn leader_lost(attack: &mut Attack<'_>) -> Step {
    attack.on_cluster(large(), |round| {
        let follower = round.follower()?;
        round.kill(follower);
        let leader = round.cluster.leader()?;
        for path in with_snapshot(round, leader)? {
            damage::rot(&path)?;
        }
        round.timeline.mark(Kind::Note, Some(leader), "snapshots damaged");
        round.start(follower)?;
        round.cluster.caught_up_within(follower, PATIENCE)?;
        Ok(())
    })
}

fn catch_up(attack: &mut Attack<'_>) -> Step {
    attack.on_cluster(large(), |round| {
        let follower = round.follower()?;
        round.kill(follower);
        let leader = round.cluster.leader()?;
        with_snapshot(round, leader)?;
        round.start(follower)?;
        for _ in 0..4 {
            round.cluster.fill(leader, 20, FILL_BYTES / 4);
        }
        round.cluster.caught_up_within(follower, PATIENCE)?;
        Ok(())
    })
}

fn late_return(attack: &mut Attack<'_>) -> Step {
    attack.on_cluster(Setup::default(), |round| {
        let follower = round.follower()?;
        round.kill(follower);
        round.sleep_between(1500, 2500);
        round.start(follower)?;
        is_quiet(round, follower)
    })
}

/// All nodes go back to an older state at once, which no binary can survive. The checks must find
/// the loss of what was acknowledged since.
pub(super) fn all_forget(attack: &mut Attack<'_>) -> Step {
    attack.on_cluster(Setup::default(), |round| {
        let ids = round.cluster.ids();
        let dir = |round: &Round<'_>, id: u64| round.cluster.nodes[id as usize].dir.clone();
        ids.iter().for_each(|id| round.kill(*id));
        for id in &ids {
            damage::copy_tree(&dir(round, *id), &round.root.join(format!("older-{id}")))?;
            round.start(*id)?;
        }
        round.cluster.served_within(&ids, PATIENCE)?;
        round.sleep_ms(1500);
        ids.iter().for_each(|id| round.kill(*id));
        for id in &ids {
            std::fs::remove_dir_all(dir(round, *id))?;
            damage::copy_tree(&round.root.join(format!("older-{id}")), &dir(round, *id))?;
            round.start(*id)?;
        }
        Ok(())
    })
}
