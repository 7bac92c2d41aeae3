//! Log lines that cannot be written, or are too many. No log line may stop or delay a node.

use super::Entry;
use crate::attack::Attack;
use crate::node::Stderr;
use crate::outcome::{Step, Trouble};
use crate::probes::log_lines;
use crate::round::Setup;

pub(super) const SCENARIOS: &[Entry] = &[
    ("stderr-closed", "descriptor 2 of all nodes is closed", false, closed),
    ("stderr-full", "the log of all nodes goes to a full device", true, full),
    ("stderr-broken", "the reader of the log goes away", false, broken),
    ("stderr-unread", "the log goes to a pipe that nobody reads", true, unread),
    (
        "hung-peer-log",
        "a peer hangs: the others log it once, not again and again",
        false,
        hung_peer,
    ),
];

/// Ordinary faults: a follower and a leader are killed and come back.
fn with_stderr(attack: &mut Attack<'_>, stderr: Stderr, lines: bool) -> Step {
    let mut setup = Setup::default();
    setup.settings.stderr = stderr;
    if lines {
        // Enough lines to fill a pipe of 64 KiB.
        setup.settings.flags.push("--log=debug".to_owned());
    }
    attack.on_cluster(setup, |round| {
        if stderr == Stderr::Broken {
            round.cluster.nodes.iter_mut().for_each(|node| node.break_stderr());
        }
        let follower = round.follower()?;
        round.kill(follower);
        round.sleep_between(200, 1000);
        round.start(follower)?;
        round.cluster.caught_up_within(follower, crate::bounds::PATIENCE)?;
        let leader = round.cluster.leader()?;
        round.kill(leader);
        let others = round.others(leader);
        round.cluster.served_within(&others, crate::bounds::FAILOVER_MAX)?;
        round.start(leader)?;
        round.sleep_ms(500);
        Ok(())
    })
}

fn closed(attack: &mut Attack<'_>) -> Step {
    with_stderr(attack, Stderr::Closed, false)
}

fn full(attack: &mut Attack<'_>) -> Step {
    with_stderr(attack, Stderr::Full, false)
}

fn broken(attack: &mut Attack<'_>) -> Step {
    with_stderr(attack, Stderr::Broken, false)
}

fn unread(attack: &mut Attack<'_>) -> Step {
    with_stderr(attack, Stderr::Unread, true)
}

fn hung_peer(attack: &mut Attack<'_>) -> Step {
    attack.on_cluster(Setup::default(), |round| {
        let follower = round.follower()?;
        let others = round.others(follower);
        let lines = |round: &crate::round::Round<'_>| -> u64 {
            others.iter().map(|id| log_lines(&round.cluster.nodes[*id as usize].log)).sum()
        };
        round.pause(follower);
        // The core notices at once, the links only after their streams have been silent for a
        // while.
        round.sleep_ms(7000);
        let before = lines(round);
        round.sleep_ms(4000);
        let after = lines(round);
        round.resume(follower);
        match after - before {
            0..=2 => Ok(()),
            more => Err(Trouble::violated(format!("{more} log lines in 4 s about a hung peer"))),
        }
    })
}
