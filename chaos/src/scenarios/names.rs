//! Names in `--peers` that take long to look up, or have a dead address first.

use super::Entry;
use crate::attack::Attack;
use crate::outcome::Step;
use crate::round::Setup;

pub(super) const SCENARIOS: &[Entry] = &[
    ("slow-names", "each look-up of a name takes 700 ms", false, slow_names),
    ("dead-address", "each name has two addresses, the first one dead", false, dead_address),
    ("no-names", "the resolver fails for some seconds while a node restarts", false, no_names),
];

fn named() -> Setup {
    Setup { shim: true, host: |id| format!("node{id}.chaos"), ..Setup::default() }
}

fn on_names(attack: &mut Attack<'_>, fault: &'static str, size: i64) -> Step {
    attack.on_cluster(named(), |round| {
        for id in round.cluster.ids() {
            round.fault(id, fault, size)?;
        }
        let leader = round.cluster.leader()?;
        round.kill(leader);
        let others = round.others(leader);
        round.cluster.served_within(&others, crate::bounds::PATIENCE)?;
        round.start(leader)?;
        round.sleep_between(1000, 3000);
        if fault != "no-names" {
            round.cluster.caught_up_within(leader, crate::bounds::PATIENCE)?;
        }
        Ok(())
    })
}

fn slow_names(attack: &mut Attack<'_>) -> Step {
    on_names(attack, "slow-names", 700)
}

fn dead_address(attack: &mut Attack<'_>) -> Step {
    on_names(attack, "dead-address", 0)
}

fn no_names(attack: &mut Attack<'_>) -> Step {
    on_names(attack, "no-names", 0)
}
