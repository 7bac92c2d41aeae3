//! The text form of messages, orders and nodes in the scripts: one line each, ids as `7@4`.

use raft::{
    Body, Entry, HardState, LogStart, Membership, Message, NodeId, Payload, RawNode, ReadId,
    Request, RoleKind, Write,
};
use std::fmt::Write as _;

/// The optional parts of the output.
#[derive(Clone, Copy, Default)]
pub struct Show {
    /// The term of every message. Without it only vote requests and their replies show theirs.
    pub terms: bool,
    /// The rounds of heartbeats.
    pub rounds: bool,
}

pub fn message(message: &Message, arrow: &str, show: Show) -> String {
    let round = |round: &raft::Round| match show.rounds {
        true => format!(" round={round}"),
        false => String::new(),
    };
    let votes = matches!(message.body, Body::Vote { .. } | Body::VoteReply { .. });
    let term = match votes || show.terms {
        true => format!(" term={}", message.term),
        false => String::new(),
    };
    let body = match &message.body {
        Body::PreVote { next, last } => format!("PreVote{term} next={next} last={last}"),
        Body::PreVoteReply { next, granted, .. } => {
            format!("PreVoteReply{term} next={next} {}", yes(*granted))
        }
        Body::Vote { last, transfer } => {
            format!("Vote{term} last={last}{}", if *transfer { " transfer" } else { "" })
        }
        Body::VoteReply { granted, .. } => format!("VoteReply{term} {}", yes(*granted)),
        Body::Append { prev, entries: list, commit, round: r, .. } => {
            let list = if list.is_empty() { String::new() } else { format!(" {}", entries(list)) };
            format!("Append{term} prev={prev}{list} commit={commit}{}", round(r))
        }
        Body::Appended { matched, round: r, promise_ms, .. } => {
            let promise = match promise_ms {
                0 => String::new(),
                promise_ms => format!(" promise={promise_ms}ms"),
            };
            format!("Appended{term} matched={matched}{}{promise}", round(r))
        }
        Body::Rejected { prev, hint, lost, round: r } => {
            let lost = if *lost { " lost" } else { "" };
            format!("Rejected{term} prev={prev} hint={hint}{lost}{}", round(r))
        }
        Body::ReadIndex { read: token, lease } => {
            format!("ReadIndex{term} {}{}", read(*token), if *lease { " lease" } else { "" })
        }
        Body::ReadIndexReply { read: token, index } => {
            let index = index.map_or("none".to_string(), |index| format!("index={index}"));
            format!("ReadIndexReply{term} {} {index}", read(*token))
        }
        Body::Diverged { state } => format!("Diverged{term} at={}", state.index),
        Body::TimeoutNow => format!("TimeoutNow{term}"),
        Body::Forward { number, request, .. } => {
            format!("Forward{term} {number} {}", self::request(request))
        }
        Body::ForwardReply { number, outcome, .. } => {
            format!("ForwardReply{term} {number} {outcome:?}")
        }
        Body::NotAMember { commit, refused } => {
            format!("NotAMember{term} commit={commit} refused={refused}")
        }
    };
    format!("n{} {arrow} n{} {body}", message.from, message.to)
}

/// The changes of a write, compared with the disk's current state.
pub fn write(write: &Write, disk: &HardState) -> String {
    let mut line = String::new();
    match &write.log_start {
        Some(LogStart::Compact(snapshot)) => line += &format!(" compact={}", snapshot.last),
        Some(LogStart::Reset(snapshot)) => line += &format!(" reset={}", snapshot.last),
        None => {}
    }
    if !write.entries.is_empty() {
        line += &format!(" {}", entries(&write.entries));
    }
    let hard = &write.hard_state;
    if hard.term != disk.term {
        line += &format!(" term={}", hard.term);
    }
    if let Some(vote) = hard.vote.filter(|_| (hard.term, hard.vote) != (disk.term, disk.vote)) {
        line += &format!(" vote=n{vote}");
    }
    if hard.promise_ms != disk.promise_ms {
        line += &format!(" promise={}ms", hard.promise_ms);
    }
    if hard.lost.is_none() && disk.lost.is_some() {
        line += " repaired";
    }
    line
}

pub fn entries<'a>(entries: impl IntoIterator<Item = &'a Entry>) -> String {
    let ids: Vec<String> = entries.into_iter().map(|entry| entry.id.to_string()).collect();
    format!("[{}]", ids.join(" "))
}

/// Tokens count from 1 within a start; each restart adds a prime.
pub fn read(read: ReadId) -> String {
    format!("r{}{}", read.0 & 0xffff_ffff, "'".repeat((read.0 >> 32) as usize))
}

/// One line for the node, and one for each peer of a leader.
pub fn status(node: &RawNode) -> String {
    let status = node.status();
    let role = match status.role {
        RoleKind::Follower => "follower",
        RoleKind::PreCandidate => "pre-candidate",
        RoleKind::Candidate => "candidate",
        RoleKind::Leader => "leader",
    };
    let leader = status.leader.map_or("none".to_string(), |leader| format!("n{leader}"));
    let mut text = format!(
        "n{} {role} term={} leader={leader} last={} durable={} commit={} applied={}",
        status.id, status.term, status.last, status.durable, status.commit, status.applied
    );
    let flags = [
        ("serving", status.serving),
        ("lease", status.lease),
        ("not_a_member", status.not_a_member),
        ("removed", status.removed),
    ];
    for (name, _) in flags.into_iter().filter(|(_, set)| *set) {
        text += &format!(" {name}");
    }
    if let Some(lost) = status.lost {
        text += &format!(" lost={lost}");
    }
    for peer in &status.peers {
        let snapshot = if peer.in_snapshot { " snapshot" } else { "" };
        text += &format!("\n  n{} matched={} next={}{snapshot}", peer.id, peer.matched, peer.next);
    }
    text
}

/// Voters, outgoing voters, learners and target of a membership: `voters=1,2 outgoing=1,2,3`.
pub fn membership(membership: &Membership) -> String {
    let list = |ids: &mut dyn Iterator<Item = &NodeId>| {
        ids.map(NodeId::to_string).collect::<Vec<_>>().join(",")
    };
    let mut text = format!("voters={}", list(&mut membership.voters.iter()));
    if let Some(outgoing) = &membership.outgoing {
        let _ = write!(text, " outgoing={}", list(&mut outgoing.iter()));
    }
    let learners: Vec<&NodeId> =
        membership.members.keys().filter(|id| membership.is_learner(**id)).collect();
    if !learners.is_empty() {
        let _ = write!(text, " learners={}", list(&mut learners.into_iter()));
    }
    if let Some(target) = &membership.target {
        let _ = write!(text, " target={}", list(&mut target.voters.iter()));
        if !target.learners.is_empty() {
            let _ = write!(text, "+{}", list(&mut target.learners.iter()));
        }
    }
    if !membership.removed.is_empty() {
        let _ = write!(text, " removed={}", list(&mut membership.removed.keys()));
    }
    text
}

/// The log in memory, with the command number of each entry, and its time if it is set.
pub fn log(node: &RawNode) -> String {
    let base = node.base();
    let mut text = format!("n{} log base={} #{}", node.status().id, base.last, base.number);
    if base.membership.is_changing() {
        let _ = write!(text, " {}", membership(&base.membership));
    }
    let first = (1..)
        .map(raft::Index)
        .find(|index| node.entry(*index).is_some() || *index > node.last().index);
    let mut index = first.unwrap_or_default();
    while let Some(entry) = node.entry(index) {
        let what = match &entry.payload {
            Payload::NoOp => "no-op".to_string(),
            Payload::Command(bytes) => String::from_utf8_lossy(bytes).into_owned(),
            Payload::SessionCommand(bytes) => {
                format!("session:{}", String::from_utf8_lossy(bytes))
            }
            Payload::System(bytes) => format!("system:{}", String::from_utf8_lossy(bytes)),
            Payload::Membership(membership) => self::membership(membership),
            Payload::Clock => "clock".to_string(),
        };
        let _ = write!(text, "\n  {} #{} {what}", entry.id, entry.number);
        if entry.time.0 > 0 {
            let _ = write!(text, " time={}", entry.time);
        }
        index = index.next();
    }
    text
}

fn yes(granted: bool) -> &'static str {
    if granted { "yes" } else { "no" }
}

fn request(request: &Request) -> String {
    let (kind, bytes) = match request {
        Request::Command(bytes) => ("", bytes),
        Request::SessionCommand(bytes) => ("session:", bytes),
        Request::System(bytes) => ("system:", bytes),
    };
    format!("{kind}{:?}", String::from_utf8_lossy(bytes))
}
