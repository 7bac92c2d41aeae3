//! Links between peers that are cut, slow, cut in one direction, or change what they carry.

use super::Entry;
use crate::attack::Attack;
use crate::bounds::FAILOVER_MAX;
use crate::live;
use crate::network::Rule;
use crate::outcome::{Step, Trouble};
use crate::round::{Round, Setup};
use crate::timeline::Kind;
use std::time::Duration;

pub(super) const SCENARIOS: &[Entry] = &[
    ("partition-leader", "the leader is cut off; the others must go on", true, partition_leader),
    ("partition-any", "any node is cut off, again and again", false, partition_any),
    ("one-way", "the leader hears nobody, or nobody hears the leader", false, one_way),
    ("half-open", "one link of the leader is silent, its connections stay", false, half_open),
    ("refused-link", "connections between two nodes are closed at once", false, refused_link),
    (
        "flipped-bits",
        "one bit in 4 KiB of what the leader sends is another one",
        true,
        flipped_bits,
    ),
    ("slow-link", "all links are late by up to 150 ms, one of them is narrow", false, slow_link),
];

fn cut(round: &mut Round<'_>, node: u64) {
    round.timeline.begin(Kind::Fault, Some(node), "cut off");
    for other in round.others(node) {
        round.cluster.network.set(node, other, Rule::Hold);
        round.cluster.network.set(other, node, Rule::Hold);
    }
}

fn join(round: &mut Round<'_>) {
    round.cluster.network.heal();
    round.timeline.end_faults();
}

fn partition_leader(attack: &mut Attack<'_>) -> Step {
    attack.on_cluster(Setup::default(), |round| {
        let leader = round.cluster.leader()?;
        cut(round, leader);
        let others = round.others(leader);
        round.cluster.leader_within(&others, FAILOVER_MAX)?;
        round.cluster.served_within(&others, FAILOVER_MAX)?;
        // It may lead for about an election timeout after it is cut off.
        let leads = || round.cluster.leader_among(&[leader]).is_some();
        if !live::wait_until(FAILOVER_MAX, || !leads()) {
            return Err(Trouble::violated(format!("node {leader} leads though it is cut off")));
        }
        round.cluster.unready_within(leader, FAILOVER_MAX)?;
        round.sleep_between(200, 1500);
        Ok(())
    })
}

fn partition_any(attack: &mut Attack<'_>) -> Step {
    attack.on_cluster(Setup { nodes: 5, ..Setup::default() }, |round| {
        for _ in 0..3 {
            let node = round.any();
            cut(round, node);
            let other = round.any();
            cut(round, other);
            round.sleep_between(300, 1500);
            join(round);
            round.sleep_between(100, 800);
        }
        Ok(())
    })
}

fn one_way(attack: &mut Attack<'_>) -> Step {
    attack.on_cluster(Setup::default(), |round| {
        let leader = round.cluster.leader()?;
        let deaf = round.draw.below(2) == 0;
        let text = if deaf { "hears nobody" } else { "is not heard" };
        round.timeline.begin(Kind::Fault, Some(leader), text);
        for other in round.others(leader) {
            let (from, to) = if deaf { (other, leader) } else { (leader, other) };
            round.cluster.network.set(from, to, Rule::Hold);
        }
        let others = round.others(leader);
        round.cluster.leader_within(&others, FAILOVER_MAX)?;
        round.cluster.served_within(&others, FAILOVER_MAX)?;
        round.sleep_between(200, 1500);
        Ok(())
    })
}

fn half_open(attack: &mut Attack<'_>) -> Step {
    attack.on_cluster(Setup::default(), |round| {
        let leader = round.cluster.leader()?;
        let other = round.follower()?;
        round.timeline.begin(Kind::Fault, Some(other), "hears nothing of the leader");
        round.cluster.network.set(leader, other, Rule::Hold);
        // The leader and the other follower are a quorum.
        round.cluster.served_within(&[leader], FAILOVER_MAX)?;
        round.sleep_between(1000, 3000);
        round.cluster.served_within(&[leader], FAILOVER_MAX)?;
        Ok(())
    })
}

fn refused_link(attack: &mut Attack<'_>) -> Step {
    attack.on_cluster(Setup::default(), |round| {
        let (leader, other) = (round.cluster.leader()?, round.follower()?);
        round.timeline.begin(Kind::Fault, Some(other), "no link with the leader");
        round.cluster.network.set(leader, other, Rule::Close);
        round.cluster.network.set(other, leader, Rule::Close);
        round.sleep_between(1000, 3000);
        let all = round.cluster.ids();
        round.cluster.served_within(&all, FAILOVER_MAX)?;
        Ok(())
    })
}

fn flipped_bits(attack: &mut Attack<'_>) -> Step {
    attack.on_cluster(Setup::default(), |round| {
        let leader = round.cluster.leader()?;
        round.timeline.begin(Kind::Fault, Some(leader), "bits flip");
        for other in round.others(leader) {
            round.cluster.network.set(leader, other, Rule::FlipEvery(4096));
        }
        round.sleep_between(2000, 3000);
        let all = round.cluster.ids();
        let damaged: u64 = all
            .iter()
            .filter_map(|id| round.cluster.metric(*id, "peer_damaged_frames_total"))
            .sum();
        let flips = round.cluster.network.flips();
        // A flipped bit in the framing of HTTP ends the stream and is not counted.
        if flips > 20 && damaged == 0 {
            return Err(Trouble::violated(format!(
                "{flips} flipped bits, no damaged frame counted"
            )));
        }
        Ok(())
    })
}

fn slow_link(attack: &mut Attack<'_>) -> Step {
    attack.on_cluster(Setup::default(), |round| {
        for from in round.cluster.ids() {
            for to in round.others(from) {
                let late = Duration::from_millis(round.draw.between(5, 70));
                round.cluster.network.set(from, to, Rule::Delay(late));
            }
        }
        let (from, to) = (round.cluster.leader()?, round.follower()?);
        round.timeline.begin(Kind::Fault, Some(to), "all links late, this one narrow");
        round.cluster.network.set(from, to, Rule::BytesPerSecond(20_000));
        round.sleep_between(2000, 3000);
        let all = round.cluster.ids();
        round.cluster.served_within(&all, FAILOVER_MAX)?;
        Ok(())
    })
}
