//! Faults, moments and the swarm in words.

use super::scale::lasting;
use crate::plan::{Fault, FaultKind, LEADER, Plan};
use crate::timeline::{Ended, Fate, Flight, LastLog, What};
use crate::world::Run;
use raft::RoleKind;

/// The swarm of a plan in one line, without the parameters that are off.
pub fn swarm(plan: &Plan) -> String {
    let s = &plan.swarm;
    let share = |ppm: u32| format!("{} %", f64::from(ppm) / 10_000.0);
    let time = |us: u32| lasting(u64::from(us));
    let mut network = vec![format!("delays to {}", time(2 * s.delay_us + 1))];
    if s.tail_ppm > 0 {
        network.push(format!("{} late by up to {}", share(s.tail_ppm), time(s.tail_us)));
    }
    if s.loss_ppm > 0 {
        network.push(format!("{} lost", share(s.loss_ppm)));
    }
    if s.duplicate_ppm > 0 {
        network.push(format!("{} twice", share(s.duplicate_ppm)));
    }
    let mut disk = vec![format!("syncs to {}", time(2 * s.sync_us + 1))];
    if s.stall_ppm > 0 {
        disk.push(format!("{} stall up to {}", share(s.stall_ppm), time(s.stall_us)));
    }
    let crashes = plan.faults.iter().any(|fault| fault.kind.word().starts_with("crash"));
    if crashes {
        disk.push(format!("a crash keeps {} of what is not synced", share(s.keep_ppm)));
        if s.tear_ppm > 0 {
            disk.push(format!("{} of that torn", share(s.tear_ppm)));
        }
    }
    format!(
        "{} nodes, {} clients · network: {} · disk: {} · tick {}, heartbeat {} ticks, \
         election {} ticks · {} faults",
        plan.nodes,
        s.clients,
        network.join(", "),
        disk.join(", "),
        time(s.tick_us),
        s.heartbeat_ticks,
        s.election_ticks,
        plan.faults.len(),
    )
}

/// The result of a run, in one line.
pub fn summary(run: &Run) -> String {
    let at = super::scale::time(run.time_us);
    match &run.violation {
        Some(_) => format!("event {} at {at}", super::scale::count(run.events)),
        None => format!("{} events in {at}", super::scale::count(run.events)),
    }
}

/// Describes a fault in a cluster of this number of nodes.
pub(super) fn fault(fault: &Fault, nodes: u64) -> String {
    let node = match fault.node {
        LEADER => "the leader".to_owned(),
        node => format!("node {}", node % nodes),
    };
    let lasts = lasting(fault.amount);
    match fault.kind {
        FaultKind::Crash => format!("power of {node} fails for {lasts}"),
        FaultKind::Kill => format!("process of {node} is killed, back after {lasts}"),
        FaultKind::Stop => format!("{node} is told to stop, back after {lasts}"),
        FaultKind::CrashWriting => {
            format!("power of {node} fails at its next write, for {lasts}")
        }
        FaultKind::CrashSending => {
            format!("power of {node} fails after its next message, for {lasts}")
        }
        FaultKind::Pause => format!("{node} pauses for {lasts}"),
        FaultKind::Isolate => format!("{node} is cut off for {lasts}"),
        FaultKind::Deaf => format!("{node} hears nothing for {lasts}"),
        FaultKind::Mute => format!("nobody hears {node} for {lasts}"),
        FaultKind::Split => {
            let inside: Vec<String> = (0..nodes)
                .filter(|id| fault.node >> id & 1 == 1)
                .map(|id| id.to_string())
                .collect();
            format!("nodes {{{}}} are cut off from the others for {lasts}", inside.join(", "))
        }
        FaultKind::Bridge => format!("only {node} connects two halves for {lasts}"),
        FaultKind::Ring => format!("nodes reach only their neighbours for {lasts}"),
        FaultKind::Clock => {
            format!("clock of {node} runs at {} %", fault.amount as f64 / 10.0)
        }
        FaultKind::Clog => format!("messages to and from {node} are held up for {lasts}"),
        FaultKind::WallJump => {
            let sign = if fault.amount % 2 == 1 { "-" } else { "+" };
            format!("wall clock of {node} jumps by {sign}{} ms", fault.amount)
        }
        FaultKind::ClockBack => {
            format!("monotonic clock of {node} goes back to now in {lasts}")
        }
        FaultKind::IoError => {
            format!("operation {} of {node}'s disk from now fails", fault.amount % 32)
        }
        FaultKind::CrashAt => {
            format!("power of {node} fails within operation {} of its disk", fault.amount % 32)
        }
        FaultKind::RotWriting => {
            format!("the last batch of {node} rots in a crash; back after {lasts}")
        }
        FaultKind::RotEnd => {
            format!("{node} stops, and the end of its log rots; back after {lasts}")
        }
        FaultKind::Misdirect => format!("a block of {node}'s log lies in the wrong place"),
        FaultKind::LostWrite => format!("{node}'s disk loses a write that it has reported done"),
        FaultKind::Unreadable => format!("a sector of {node}'s log is unreadable"),
        FaultKind::SnapshotRot => format!("a byte of a snapshot of {node} rots"),
        FaultKind::SyncError => format!("next sync of {node} fails and forgets"),
        FaultKind::Full => format!("disk of {node} is full for {lasts}"),
        FaultKind::Stall => format!("disk of {node} does not answer for {lasts}"),
        FaultKind::Slow => format!("disk of {node} is slow for {lasts}"),
        FaultKind::Flip => format!("a bit flips in a command that {node} applies"),
        FaultKind::Rot => format!("a byte of {node}'s log rots; back after {lasts}"),
        FaultKind::Wipe => format!("disk of {node} is wiped; back after {lasts}"),
        FaultKind::Transfer => format!("{node} is told to hand leadership over"),
        FaultKind::Members => {
            let votes = |id: &u64| fault.amount >> id & 1 == 1;
            format!(
                "{node} is told that the voters are {:?}",
                (0..nodes).filter(votes).collect::<Vec<_>>()
            )
        }
        FaultKind::Replace => format!("{node} is removed, and added again with an empty disk"),
    }
}

pub(super) fn role(role: RoleKind) -> &'static str {
    match role {
        RoleKind::Leader => "leader",
        RoleKind::Candidate => "candidate",
        RoleKind::PreCandidate => "pre-candidate",
        RoleKind::Follower => "follower",
    }
}

/// Describes what happened, in a cluster of this number of nodes.
pub(super) fn what(what: &What, nodes: u64) -> String {
    match what {
        What::Start { term, base, last } => {
            format!("starts: term {term}, log ({base}, {last}]")
        }
        What::Down => "goes down".to_owned(),
        What::Fault(struck) => fault(struck, nodes),
        What::Lifted(struck) => format!("over: {}", fault(struck, nodes)),
        What::Role(kind, term) => format!("{} in term {term}", role(*kind)),
        What::Vote(whom, term) => format!("votes for node {whom} in term {term}"),
        What::Log { cut, grown } => {
            let range = |(first, last): &(raft::LogId, raft::LogId)| match first == last {
                true => first.to_string(),
                false => format!("{first}..{last}"),
            };
            let mut parts: Vec<String> =
                cut.iter().map(|cut| format!("cuts off {}", range(cut))).collect();
            parts.extend(grown.iter().map(|grown| format!("appends {}", range(grown))));
            parts.join(", ")
        }
        What::Durable { last, term, vote } => {
            let vote = vote.map_or(String::new(), |vote| format!(", vote {vote}"));
            format!("on disk: log to {last}, term {term}{vote}")
        }
        What::Commit(index) => format!("commit index {index}"),
        What::Applied(index) => format!("applied to {index}"),
        What::Compacted(base) => format!("its log begins after {base} now"),
        What::Installed(last) => format!("its state is that of the snapshot {last} it was sent"),
        What::Calm => "the faults stop".to_owned(),
        What::Violation(check) => format!("broken: {check}"),
    }
}

/// The class of an operation that ended so, and the end in words.
pub(super) fn ended(outcome: Ended) -> (&'static str, &'static str) {
    match outcome {
        Ended::Done => ("done", "done"),
        Ended::NotDone => ("notdone", "not done"),
        Ended::Unknown => ("unknown", "unknown"),
        Ended::Open => ("open", "still waiting"),
    }
}

/// Describes the fate of a message.
pub(super) fn fate(flight: &Flight) -> &'static str {
    match flight.fate {
        Fate::UnderWay => "still under way",
        Fate::Arrived => "arrived",
        Fate::Lost => "lost",
        Fate::Cut => "lost: the link is cut",
        Fate::Down => "lost: the receiver is down",
        Fate::Refused => "not taken",
    }
}

/// Describes a node at the end of the run, in a few lines.
pub(super) fn node(log: &LastLog) -> Vec<String> {
    let what = log.role.map_or("down", role);
    let vote = log.vote.map_or(String::new(), |vote| format!(", vote {vote}"));
    let last = log.entries.last().copied().unwrap_or(log.base);
    let knows = match (log.commit, log.applied) {
        (Some(commit), Some(applied)) => format!("commit {commit}, applied {applied}"),
        _ => String::new(),
    };
    vec![
        format!("{what}, term {}{vote}", log.term),
        format!("log to {last}"),
        format!("on disk to {}", log.durable),
        knows,
    ]
}
