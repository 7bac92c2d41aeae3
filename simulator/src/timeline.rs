//! What a run looked like: recorded only when asked for, since it costs more than the run.
//!
//! The world says what it does (a fault strikes, a message leaves); what follows from that inside a node
//! is seen by comparing the node with what it was: its role, its vote, its log, its commit index. So the
//! world need not know what a picture wants to show.
//!
//! Simulations that are driven otherwise than by this crate's own world fill one in the same way: they
//! say when it is, what happens, and let it look at nodes.
//!
//! What it is not: no check rests on it, and no draw. A recorded run is the same run.

mod flights;
mod nodes;

pub use flights::{Fate, Flight, FlightKind};
pub use nodes::LastLog;

use crate::checks::Check;
use crate::plan::Fault;
use crate::shadow::Shadow;
use crate::workload::{Outcome, Request};
use nodes::Seen;
use raft::{Index, LogId, Node, NodeId, RoleKind, Term};
use std::collections::{BTreeMap, BTreeSet};

/// The most moments and the most messages that are kept: the last ones. Above twice as many the
/// earlier half goes.
const KEPT_MAX: usize = 200_000;

/// Of a request, so many bytes are shown.
const SHOWN_BYTES: usize = 24;

/// Something that happened at a node, or to all.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Moment {
    /// When, in microseconds of simulated time.
    pub at_us: u64,
    /// At which event of the run.
    pub event: u64,
    /// Where; `None` if it concerns all.
    pub node: Option<u64>,
    /// What.
    pub what: What,
}

/// What happened.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum What {
    /// It started with what it found on its disk.
    Start {
        /// Its term.
        term: Term,
        /// The snapshot that its log begins after.
        base: LogId,
        /// The end of its log.
        last: LogId,
    },
    /// It runs no more: its power failed, or its process ended.
    Down,
    /// A fault struck.
    Fault(Fault),
    /// A fault is over.
    Lifted(Fault),
    /// It took this role in this term.
    Role(RoleKind, Term),
    /// It gave its vote in this term.
    Vote(NodeId, Term),
    /// Its log changed.
    Log {
        /// What was cut off its end, from the first to the last.
        cut: Option<(LogId, LogId)>,
        /// What was appended, a pair of first and last for each term.
        grown: Vec<(LogId, LogId)>,
    },
    /// A write is durable.
    Durable {
        /// The end of the log on the disk.
        last: LogId,
        /// The term on the disk.
        term: Term,
        /// The vote on the disk.
        vote: Option<NodeId>,
    },
    /// It knows that the log is committed up to here.
    Commit(Index),
    /// Its state machine has applied the log up to here.
    Applied(Index),
    /// Its log begins after this snapshot now.
    Compacted(LogId),
    /// Its state is that of a snapshot which a leader sent.
    Installed(LogId),
    /// The faults stopped.
    Calm,
    /// A promise was broken.
    Violation(Check),
}

impl What {
    /// Whether it happens many times a second: of those, only the last ones are kept.
    pub fn is_frequent(&self) -> bool {
        matches!(self, What::Log { .. } | What::Durable { .. } | What::Commit(_) | What::Applied(_))
    }
}

/// An operation of a client.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Span {
    /// When it was asked.
    pub begun_us: u64,
    /// When it ended.
    pub ended_us: u64,
    /// At which event.
    pub event: u64,
    /// Who asked.
    pub client: usize,
    /// Which node.
    pub node: usize,
    /// What was asked.
    pub request: String,
    /// Done, not done, or unknown.
    pub outcome: &'static str,
    /// The index of the command, or up to which the read had been applied.
    pub index: Option<Index>,
    /// The answer.
    pub answer: String,
}

/// Everything that was recorded.
#[derive(Clone, Debug, Default)]
pub struct Timeline {
    on: bool,
    now_us: u64,
    event: u64,
    /// How many nodes there are.
    pub nodes: u64,
    /// Moments, by time.
    pub moments: Vec<Moment>,
    /// Messages, by when they were sent.
    pub flights: Vec<Flight>,
    /// Operations of clients, by their end.
    pub spans: Vec<Span>,
    /// The logs of all nodes when the run ended.
    pub logs: Vec<LastLog>,
    /// Moments and messages that were too many.
    pub left_out: u64,
    seen: Vec<Option<Seen>>,
    /// From and to which node, when it is due, and which of the messages it is.
    under_way: BTreeSet<(u64, u64, u64, usize)>,
    /// Operations that have not ended, by the number that whoever began them was given.
    open: BTreeMap<u64, Span>,
    begun: u64,
}

impl Timeline {
    /// Nothing yet. Unless it is `on`, nothing is ever added.
    pub fn new(on: bool, nodes: u64) -> Self {
        Timeline { on, nodes, seen: vec![None; nodes as usize], ..Timeline::default() }
    }

    /// Whether anything is added. Not before it is made so, and not after its end.
    pub fn is_on(&self) -> bool {
        self.on
    }

    /// From here on it is this time, and this event.
    pub fn at(&mut self, now_us: u64, event: u64) {
        (self.now_us, self.event) = (now_us, event);
    }

    /// Something happened at a node.
    pub fn add(&mut self, node: usize, what: What) {
        if self.on {
            self.push(Some(node as u64), what);
        }
    }

    /// Something happened to all.
    pub fn add_to_all(&mut self, what: What) {
        if self.on {
            self.push(None, what);
        }
    }

    fn push(&mut self, node: Option<u64>, what: What) {
        if self.moments.len() >= 2 * KEPT_MAX {
            let before = self.moments.len();
            let mut at = 0;
            self.moments.retain(|moment| {
                at += 1;
                at > KEPT_MAX || !moment.what.is_frequent()
            });
            self.left_out += (before - self.moments.len()) as u64;
        }
        self.moments.push(Moment { at_us: self.now_us, event: self.event, node, what });
    }

    /// Compares a node with what it was. Its state machine has applied the log up to `applied`.
    pub fn look(&mut self, node: usize, core: &Node, applied: Index) {
        if !self.on {
            return;
        }
        let mut seen = self.seen[node].take().unwrap_or_default();
        for what in seen.changes(core, applied) {
            self.push(Some(node as u64), what);
        }
        self.seen[node] = Some(seen);
    }

    /// A node has started. What is new from here on is compared with what it starts with.
    pub fn started(&mut self, node: usize, core: &Node, applied: Index) {
        if !self.on {
            return;
        }
        let (term, base, last) = (core.term(), core.base().last, core.last());
        self.push(Some(node as u64), What::Start { term, base, last });
        let mut seen = Seen::default();
        // What was on the disk is no news; the role is.
        let _ = seen.changes(core, applied);
        seen.role = None;
        self.seen[node] = Some(seen);
    }

    /// The state machine of a node has applied the log up to here; a [`look`](Timeline::look) at the
    /// node comes later.
    pub fn applied(&mut self, node: usize, applied: Index) {
        if self.on
            && let Some(seen) = &mut self.seen[node]
            && std::mem::replace(&mut seen.applied, applied) != applied
        {
            self.push(Some(node as u64), What::Applied(applied));
        }
    }

    /// The run is over. For each node, what must be on its disk, and whether it runs: then it is as it
    /// was looked at last.
    pub fn finish<'a>(&mut self, nodes: impl IntoIterator<Item = (&'a Shadow, bool)>) {
        if !std::mem::take(&mut self.on) {
            return;
        }
        let seen = self.seen.iter().zip(nodes);
        self.logs =
            seen.map(|(seen, (disk, is_up))| LastLog::of(disk, seen.as_ref(), is_up)).collect();
        let (ended_us, event) = (self.now_us, self.event);
        let open = std::mem::take(&mut self.open).into_values();
        self.spans.extend(open.map(|span| Span { ended_us, event, ..span }));
    }

    /// A write is durable.
    pub fn durable(&mut self, node: usize, disk: &Shadow) {
        if self.on {
            let hard = &disk.hard_state;
            let (last, term, vote) = (disk.last(), hard.term, hard.vote);
            self.push(Some(node as u64), What::Durable { last, term, vote });
        }
    }

    /// A client asks a node for something. It is open, and its outcome unknown, until it is
    /// [`answered`](Timeline::answered) under the number that is returned.
    pub fn asked(&mut self, client: usize, node: usize, request: String) -> u64 {
        self.begun += 1;
        let (begun_us, event) = (self.now_us, self.event);
        let span = Span {
            begun_us,
            ended_us: begun_us,
            event,
            client,
            node,
            request,
            outcome: "unknown",
            index: None,
            answer: String::new(),
        };
        if self.on {
            self.open.insert(self.begun, span);
        }
        self.begun
    }

    /// What was asked under this number has ended.
    pub fn answered(&mut self, number: u64, outcome: &'static str, answer: String) {
        if let Some(span) = self.open.remove(&number) {
            let (ended_us, event) = (self.now_us, self.event);
            self.spans.push(Span { ended_us, event, outcome, answer, ..span });
        }
    }

    /// A client's operation has ended.
    pub(crate) fn operation(
        &mut self,
        begun_us: u64,
        (client, node): (usize, usize),
        request: &Request,
        index: Option<Index>,
        outcome: Outcome<'_>,
    ) {
        if !self.on {
            return;
        }
        let (outcome, answer) = match outcome {
            Outcome::Done(answer) => ("done", shown(answer)),
            Outcome::NotDone => ("not done", String::new()),
            Outcome::Unknown => ("unknown", String::new()),
        };
        let request = match request {
            Request::Command(bytes) => format!("command {}", shown(bytes)),
            Request::Query(bytes) => format!("read {}", shown(bytes)),
        };
        let (ended_us, event) = (self.now_us, self.event);
        self.spans.push(Span {
            begun_us,
            ended_us,
            event,
            client,
            node,
            request,
            outcome,
            index,
            answer,
        });
    }
}

/// Bytes as text if they are that, and else in hexadecimal; only the first ones.
pub fn shown(bytes: &[u8]) -> String {
    let is_text = !bytes.is_empty() && bytes.iter().all(|byte| (0x20..0x7f).contains(byte));
    let few = &bytes[..bytes.len().min(SHOWN_BYTES)];
    let mut text = match is_text {
        true => String::from_utf8_lossy(few).into_owned(),
        false => few.iter().map(|byte| format!("{byte:02x}")).collect(),
    };
    if few.len() < bytes.len() {
        text.push('…');
    }
    text
}
