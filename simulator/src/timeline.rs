//! What a run looked like: recorded only when asked for, since it costs more than the run.

use crate::plan::Fault;
use crate::workload::Outcome;
use raft::{Body, Message, RoleKind, Term};

/// A moment of a node.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Moment {
    /// It started.
    Start,
    /// Its power failed.
    Crash,
    /// A write became durable.
    Sync,
    /// A fault struck.
    Fault(Fault),
    /// It took this role in this term.
    Role(RoleKind, Term),
    /// The faults stopped.
    Calm,
    /// A promise was broken.
    Violation(&'static str),
}

/// A message on its way.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Flight {
    /// When it was sent or arrived.
    pub at_us: u64,
    /// Whether it was sent, or arrived.
    pub sent: bool,
    /// From which node.
    pub from: u64,
    /// To which.
    pub to: u64,
    /// What it says, in a few words.
    pub what: String,
}

/// An operation of a client.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Span {
    /// When it was asked.
    pub begun_us: u64,
    /// When it ended.
    pub ended_us: u64,
    /// Who asked.
    pub client: usize,
    /// Done, not done, or unknown.
    pub outcome: &'static str,
}

/// Everything that was recorded.
#[derive(Clone, Debug, Default)]
pub struct Timeline {
    on: bool,
    /// How many nodes there are.
    pub nodes: u64,
    /// Moments of nodes, by time.
    pub moments: Vec<(u64, usize, Moment)>,
    /// Messages, by time.
    pub flights: Vec<Flight>,
    /// Operations, by their end.
    pub spans: Vec<Span>,
    roles: Vec<Option<(RoleKind, Term)>>,
}

impl Timeline {
    pub(crate) fn new(on: bool, nodes: u64) -> Self {
        Timeline { on, nodes, roles: vec![None; nodes as usize], ..Timeline::default() }
    }

    pub(crate) fn is_on(&self) -> bool {
        self.on
    }

    pub(crate) fn add(&mut self, at_us: u64, node: usize, moment: Moment) {
        if self.on {
            if matches!(moment, Moment::Crash) {
                self.roles[node] = None;
            }
            self.moments.push((at_us, node, moment));
        }
    }

    pub(crate) fn role(&mut self, at_us: u64, node: usize, role: RoleKind, term: Term) {
        if self.roles[node] != Some((role, term)) {
            self.roles[node] = Some((role, term));
            self.moments.push((at_us, node, Moment::Role(role, term)));
        }
    }

    pub(crate) fn message(&mut self, at_us: u64, message: &Message, sent: bool) {
        if self.on {
            let (from, to) = (message.from.0, message.to.0);
            let what = format!("{} (term {})", words(&message.body), message.term);
            self.flights.push(Flight { at_us, sent, from, to, what });
        }
    }

    pub(crate) fn operation(
        &mut self,
        begun_us: u64,
        ended_us: u64,
        client: usize,
        outcome: Outcome<'_>,
    ) {
        if self.on {
            let outcome = match outcome {
                Outcome::Done(_) => "done",
                Outcome::NotDone => "not done",
                Outcome::Unknown => "unknown",
            };
            self.spans.push(Span { begun_us, ended_us, client, outcome });
        }
    }
}

fn words(body: &Body) -> String {
    match body {
        Body::PreVote { next, last } => format!("pre-vote for {next}, log {last}"),
        Body::PreVoteReply { granted, .. } => format!("pre-vote {}", yes(*granted)),
        Body::Vote { last, .. } => format!("vote, log {last}"),
        Body::VoteReply { granted } => format!("vote {}", yes(*granted)),
        Body::Append { prev, entries, commit, .. } => {
            format!("append {} after {prev}, commit {commit}", entries.len())
        }
        Body::Appended { matched, .. } => format!("matched {matched}"),
        Body::Rejected { prev, hint, lost, .. } => {
            format!("rejected {prev}, hint {hint}{}", if *lost { ", lost" } else { "" })
        }
        Body::ReadIndex { .. } => "read index?".to_owned(),
        Body::ReadIndexReply { index, .. } => format!("read index {index:?}"),
        Body::TimeoutNow => "campaign now".to_owned(),
        Body::Outcast { .. } => "outcast".to_owned(),
    }
}

fn yes(granted: bool) -> &'static str {
    if granted { "granted" } else { "refused" }
}
