//! Members that are added, removed and replaced while clients write. Expected: no acknowledged
//! write is lost, whatever fails meanwhile; a removed node stops by itself, with an exit code of
//! its own; the cluster ends with the members that were declared.

use super::Entry;
use crate::attack::Attack;
use crate::bounds::RECOVERY_MAX;
use crate::clients::Work;
use crate::live;
use crate::outcome::{Step, Trouble};
use crate::round::{Round, Setup};
use crate::timeline::Kind;
use hyper::Method;
use serde_json::{Value, json};
use std::collections::BTreeSet;
use std::time::{Duration, Instant};

pub(super) const SCENARIOS: &[Entry] = &[
    (
        "members-replaced",
        "from 3 nodes to 5, each of the first 3 replaced, down to 1, back to 3",
        false,
        replaced,
    ),
    (
        "members-in-sessions",
        "from 3 nodes to 5, each of the 5 replaced, down to 1, back to 3, each restarted; clients \
         use sessions, and no operation fails",
        false,
        in_sessions,
    ),
    ("members-killed", "random sets of members are declared while nodes are killed", true, killed),
    ("member-wiped", "a member loses its disk; it is removed, and added again", false, wiped),
];

/// The exit code of a node that is not a member any more.
const REMOVED: i32 = 76;
/// The most changes of a round with random sets.
const CHANGES: u64 = 4;

fn setup(nodes: u64, spares: u64) -> Setup {
    Setup { nodes, spares, ..Setup::default() }
}

fn replaced(attack: &mut Attack<'_>) -> Step {
    attack.on_cluster(setup(3, 5), |round| {
        for members in [
            &[0, 1, 2, 3, 4][..],
            &[1, 2, 3, 4, 5],
            &[2, 3, 4, 5, 6],
            &[3, 4, 5, 6, 7],
            &[4, 5, 6, 7],
            &[5],
            &[5, 6],
            &[5, 6, 0],
        ] {
            declare(round, members, |_| Ok(()))?;
            round.sleep_between(50, 300);
        }
        Ok(())
    })
}

fn in_sessions(attack: &mut Attack<'_>) -> Step {
    let work = Work {
        clients: 8,
        pause_max: Duration::from_millis(10),
        none_fails: true,
        ..Work::default()
    };
    attack.on_cluster(Setup { work, ..setup(3, 7) }, |round| {
        for members in [
            &[0, 1, 2, 3, 4][..],
            &[1, 2, 3, 4, 5],
            &[2, 3, 4, 5, 6],
            &[3, 4, 5, 6, 7],
            &[4, 5, 6, 7, 8],
            &[5, 6, 7, 8, 9],
            &[7],
            &[7, 0, 1],
        ] {
            declare(round, members, |_| Ok(()))?;
            round.sleep_between(50, 300);
        }
        round.restart_each()
    })
}

fn killed(attack: &mut Attack<'_>) -> Step {
    attack.on_cluster(setup(3, 3), |round| {
        for _ in 0..CHANGES {
            let mut members = BTreeSet::new();
            let count = 1 + round.draw.below(5);
            while members.len() < count as usize {
                members.insert(round.draw.below(6));
            }
            let members: Vec<u64> = members.into_iter().collect();
            // A cluster of one node does not survive its loss for that time, and one of two
            // neither.
            declare(round, &members, |round| {
                let node = match round.draw.below(2) {
                    0 => round.cluster.leader_among(&round.cluster.ids()),
                    _ => None,
                };
                let node = node.unwrap_or_else(|| round.any());
                round.kill(node);
                round.sleep_between(20, 900);
                // It may have been removed meanwhile, and then ends again.
                round.start(node)
            })?;
        }
        Ok(())
    })
}

fn wiped(attack: &mut Attack<'_>) -> Step {
    attack.on_cluster(setup(3, 0), |round| {
        let lost = round.any();
        round.kill(lost);
        std::fs::remove_dir_all(&round.cluster.nodes[lost as usize].dir)?;
        let rest = round.others(lost);
        round.cluster.nodes[lost as usize].is_member = false;
        declare(round, &rest, |_| Ok(()))?;
        let mut all = rest;
        all.push(lost);
        declare(round, &all, |_| Ok(()))
    })
}

/// Changes the members to these: starts those that are new, declares all, causes trouble, and waits
/// until the change is done. A change that was not begun, or was lost with its leader, is declared
/// again. Then waits for the end of those that were removed.
fn declare(
    round: &mut Round<'_>,
    members: &[u64],
    trouble: impl FnOnce(&mut Round<'_>) -> Step,
) -> Step {
    round.timeline.mark(Kind::Note, None, format!("the members are to be {members:?}"));
    let before = round.cluster.ids();
    for id in members.iter().filter(|id| !before.contains(id)) {
        let node = &mut round.cluster.nodes[*id as usize];
        node.joins = true;
        // A directory that was removed from the cluster is never used again.
        if node.dir.exists() {
            std::fs::remove_dir_all(&node.dir)?;
        }
        round.start(*id)?;
    }
    let body = json!({ "members": members.iter().map(|id| entry(round, *id)).collect::<Vec<_>>() });
    let mut trouble = Some(trouble);
    let until = Instant::now() + RECOVERY_MAX * 2;
    let all: BTreeSet<u64> = before.iter().chain(members).copied().collect();
    let all: Vec<u64> = all.into_iter().collect();
    loop {
        if is_done(round, &all, members) {
            break;
        }
        if Instant::now() >= until {
            let views: Vec<_> = all.iter().map(|id| (id, round.cluster.status(*id))).collect();
            let text = format!("the members are not {members:?} after a long time: {views:?}");
            return Err(Trouble::violated(text));
        }
        if let Some(leader) = round.cluster.leader_among(&all) {
            let path = "/v1/cluster/members?wait=1s";
            let limit = Duration::from_secs(8);
            // A refusal or a lost answer is followed by another look.
            let _ = round.cluster.ask(leader, Method::PUT, path, &body.to_string(), limit);
        }
        if let Some(trouble) = trouble.take() {
            trouble(round)?;
        }
        round.sleep_ms(50);
    }
    for node in &mut round.cluster.nodes {
        node.is_member = members.contains(&node.id);
    }
    for id in before.into_iter().filter(|id| !members.contains(id)) {
        let ended = round.cluster.nodes[id as usize].wait(RECOVERY_MAX);
        round.probes.runs(id, None);
        let code = ended.and_then(|status| status.code());
        if ended.is_some() && code != Some(REMOVED) {
            let text = format!("node {id} was removed and ended with {ended:?}");
            return Err(Trouble::violated(text));
        }
        if ended.is_none() && round.cluster.nodes[id as usize].runs() {
            let text = format!("node {id} was removed, and still runs after {RECOVERY_MAX:?}");
            return Err(Trouble::violated(text));
        }
    }
    Ok(())
}

/// Whether a serving leader has exactly these members, and no change is in progress.
fn is_done(round: &Round<'_>, all: &[u64], members: &[u64]) -> bool {
    let mut done = false;
    live::wait_until(Duration::from_millis(200), || {
        let leader = round.cluster.leader_among(all);
        let view = leader.and_then(|leader| round.cluster.status(leader));
        done = view.is_some_and(|view| {
            let listed = view["members"].as_array().cloned().unwrap_or_default();
            let mut ids: Vec<_> =
                listed.iter().filter_map(|member| member["id"].as_u64()).collect();
            let mut expected = members.to_vec();
            ids.sort_unstable();
            expected.sort_unstable();
            let commit = view["commit_index"].as_u64().unwrap_or(0);
            let version = view["membership_version"].as_u64().unwrap_or(u64::MAX);
            view["change"].is_null() && ids == expected && commit >= version
        });
        done
    });
    done
}

/// The declaration of a node.
fn entry(round: &Round<'_>, id: u64) -> Value {
    let entry = &round.cluster.entries[id as usize];
    let addresses = entry.split_once('=').and_then(|(_, addresses)| addresses.split_once('/'));
    let (client, peer) = addresses.expect("it was made by this program");
    json!({ "id": id, "client": client, "peer": peer })
}
