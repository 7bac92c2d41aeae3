//! Processes that die, hang and are restarted.

use super::Entry;
use crate::attack::Attack;
use crate::outcome::Step;
use crate::round::{Round, Setup};

pub(super) const SCENARIOS: &[Entry] = &[
    ("kills", "kill -9 of any node, the leader half of the time; started again", true, kills),
    ("pauses", "SIGSTOP for 0.1 to 3 s of any node, the leader half of the time", true, pauses),
    ("rolling-restart", "SIGTERM and start of one node after the other", true, rolling_restart),
    ("kill-all", "kill -9 of all nodes at once; started again in any order", true, kill_all),
];

/// The leader in half of the cases, or else any node.
fn victim(round: &mut Round<'_>) -> u64 {
    match round.draw.below(2) {
        0 => round.cluster.leader_among(&round.cluster.ids()).unwrap_or_else(|| round.any()),
        _ => round.any(),
    }
}

fn kills(attack: &mut Attack<'_>) -> Step {
    attack.on_cluster(Setup::default(), |round| {
        for _ in 0..3 {
            let node = victim(round);
            round.kill(node);
            round.sleep_between(20, 900);
            round.start(node)?;
            round.sleep_between(100, 900);
        }
        Ok(())
    })
}

fn pauses(attack: &mut Attack<'_>) -> Step {
    attack.on_cluster(Setup::default(), |round| {
        for _ in 0..2 {
            let node = victim(round);
            round.pause(node);
            round.sleep_between(100, 3000);
            round.resume(node);
            round.sleep_between(100, 900);
        }
        Ok(())
    })
}

fn rolling_restart(attack: &mut Attack<'_>) -> Step {
    attack.on_cluster(Setup::default(), |round| round.restart_each())
}

fn kill_all(attack: &mut Attack<'_>) -> Step {
    attack.on_cluster(Setup::default(), |round| {
        let mut ids = round.cluster.ids();
        ids.iter().for_each(|id| round.kill(*id));
        let turn = round.draw.below(3) as usize;
        ids.rotate_left(turn);
        for id in ids {
            round.start(id)?;
            round.sleep_between(0, 500);
        }
        round.cluster.leader()?;
        round.sleep_ms(500);
        Ok(())
    })
}
