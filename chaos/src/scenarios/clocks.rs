//! Wall clocks that jump, and clusters without requests for a while.

use super::Entry;
use crate::attack::Attack;
use crate::clients::Work;
use crate::outcome::Step;
use crate::round::Setup;

pub(super) const SCENARIOS: &[Entry] = &[
    ("clock-jumps", "the wall clocks of nodes jump by up to a day, both ways", true, clock_jumps),
    (
        "silence-then-jump",
        "nobody writes for seconds, then the leader's clock jumps",
        false,
        silence,
    ),
    ("clock-and-kill", "a clock jumps, and the leader is killed", false, clock_and_kill),
];

const DAY_S: u64 = 86_400;

fn clock_jumps(attack: &mut Attack<'_>) -> Step {
    attack.on_cluster(Setup { shim: true, ..Setup::default() }, |round| {
        for _ in 0..4 {
            let (node, sign) = (round.any(), round.draw.below(2) as i64 * 2 - 1);
            let seconds = round.draw.between(1, DAY_S) as i64 * sign;
            round.fault(node, "clock", seconds)?;
            round.sleep_between(200, 800);
        }
        Ok(())
    })
}

fn silence(attack: &mut Attack<'_>) -> Step {
    let work = Work { clients: 0, ..Work::default() };
    attack.on_cluster(Setup { shim: true, work, ..Setup::default() }, |round| {
        let term = |round: &crate::round::Round<'_>| round.cluster.metric(0, "raft_term");
        let (leader, before) = (round.cluster.leader()?, term(round));
        round.sleep_between(2000, 4000);
        round.fault(leader, "clock", (DAY_S / 24) as i64)?;
        round.sleep_between(1000, 2000);
        round.cluster.served_within(&[leader], crate::bounds::FAILOVER_MAX)?;
        super::same_term(before, term(round))
    })
}

fn clock_and_kill(attack: &mut Attack<'_>) -> Step {
    attack.on_cluster(Setup { shim: true, ..Setup::default() }, |round| {
        let (leader, follower) = (round.cluster.leader()?, round.follower()?);
        let seconds = round.draw.between(60, DAY_S) as i64;
        round.fault(follower, "clock", -seconds)?;
        round.sleep_between(100, 500);
        round.kill(leader);
        let others = round.others(leader);
        round.cluster.served_within(&others, crate::bounds::FAILOVER_MAX)?;
        round.start(leader)?;
        round.sleep_ms(500);
        Ok(())
    })
}
