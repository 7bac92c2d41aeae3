//! The recording of a run for its page. It is made only on request, since it costs more than the
//! run.
//!
//! The world reports what it does: a fault strikes, a message leaves. The effects inside a node are
//! found by comparing its role, vote, log and commit index with their previous values. So the world
//! need not know what a page shows.
//!
//! Simulations outside of this crate's world fill a timeline in the same way: they set the time,
//! report what happens, and let the timeline compare nodes.
//!
//! No check and no draw depends on it: a recorded run is the same run.

mod flights;
mod nodes;

pub use flights::{Fate, Flight, FlightKind};
pub use nodes::LastLog;

use crate::checks::Check;
use crate::describe::{self, Describe};
use crate::plan::Fault;
use crate::shadow::Shadow;
use crate::workload::{ClientOutcome, ClientRequest};
use nodes::Seen;
use raft::{Index, LogId, NodeId, RawNode, RoleKind, Term};
use std::collections::{BTreeMap, BTreeSet};

/// How many moments and how many messages are kept. At twice this number the earlier half is
/// dropped, except for moments that are not frequent.
const KEPT_MAX: usize = 200_000;

/// How many bytes of a request are shown.
const SHOWN_BYTES: usize = 24;

/// Something that happened at a node, or to all nodes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Moment {
    /// When, in microseconds of simulated time.
    pub at_us: u64,
    /// Number of the event in the run.
    pub event: u64,
    /// The node; `None` if it concerns all nodes.
    pub node: Option<u64>,
    /// The event at this moment.
    pub what: What,
}

/// A change or event that a timeline records. "It" is the node of the [`Moment`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum What {
    /// The node started from its disk.
    Start {
        /// Its term.
        term: Term,
        /// The snapshot that its log begins after.
        base: LogId,
        /// The end of its log.
        last: LogId,
    },
    /// The node went down: its power failed, or its process ended.
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
        /// The first and the last of the entries that were truncated.
        cut: Option<(LogId, LogId)>,
        /// The first and the last of the appended entries, a pair for each term.
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
    /// Its commit index rose to this.
    Commit(Index),
    /// Its state machine has applied the log up to this index.
    Applied(Index),
    /// Its log begins after this snapshot now.
    Compacted(LogId),
    /// It restored its state from this snapshot of a leader.
    Installed(LogId),
    /// The faults stopped.
    Calm,
    /// A promise was broken.
    Violation(Check),
}

impl What {
    /// Whether it happens many times a second: only the latest of these are kept.
    pub fn is_frequent(&self) -> bool {
        matches!(self, What::Log { .. } | What::Durable { .. } | What::Commit(_) | What::Applied(_))
    }
}

/// How an operation of a client ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ended {
    /// It was done.
    Done,
    /// It was certainly not done.
    NotDone,
    /// Nobody knows whether it was done.
    Unknown,
    /// It was still open when the run ended.
    Open,
}

/// An operation of a client.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Span {
    /// When the client sent the request, in microseconds.
    pub begun_us: u64,
    /// When it ended, in microseconds.
    pub ended_us: u64,
    /// Number of the event at which it ended.
    pub event: u64,
    /// Number of the client.
    pub client: usize,
    /// The node that the request went to.
    pub node: usize,
    /// Whether the request is a read.
    pub is_read: bool,
    /// The request, as text.
    pub request: String,
    /// How it ended.
    pub outcome: Ended,
    /// The index of the command; for a read, the last index that the node had applied.
    pub index: Option<Index>,
    /// The answer, as text; empty if there is none.
    pub answer: String,
}

/// A step on the way to a wrong state or answer: a command that mattered, or a restored snapshot.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Step {
    /// When, in microseconds of simulated time. For a command, when a node first applied it.
    pub at_us: u64,
    /// Number of the event in the run.
    pub event: u64,
    /// The node that restored a snapshot; `None` for a command.
    pub node: Option<u64>,
    /// Whether the check names it: it is one of the requests that an objection is to.
    pub is_named: bool,
    /// The step, as text.
    pub text: String,
}

/// Everything that was recorded.
#[derive(Clone, Debug, Default)]
pub struct Timeline {
    on: bool,
    now_us: u64,
    event: u64,
    /// Number of nodes.
    pub nodes: u64,
    /// Moments, by time.
    pub moments: Vec<Moment>,
    /// Messages, by when they were sent.
    pub flights: Vec<Flight>,
    /// Operations of clients, by their end.
    pub spans: Vec<Span>,
    /// The commands and snapshots that led to a wrong state or answer of a state machine, if the
    /// violation is one.
    pub steps: Vec<Step>,
    /// The logs of all nodes when the run ended.
    pub logs: Vec<LastLog>,
    /// Number of moments and messages that were dropped as too many.
    pub left_out: u64,
    seen: Vec<Option<Seen>>,
    /// Messages in flight: sender, receiver, due time, and position in `flights`.
    under_way: BTreeSet<(u64, u64, u64, usize)>,
    /// Operations that have not ended, by the number that [`Timeline::asked`] returned.
    open: BTreeMap<u64, Span>,
    begun: u64,
}

impl Timeline {
    /// Creates an empty timeline. Unless it is `on`, nothing is ever added.
    pub fn new(on: bool, nodes: u64) -> Self {
        Timeline { on, nodes, seen: vec![None; nodes as usize], ..Timeline::default() }
    }

    /// Whether it records: only if it was created `on`, and until [`Timeline::finish`].
    pub fn is_on(&self) -> bool {
        self.on
    }

    /// Sets the current time and the number of the current event.
    pub fn at(&mut self, now_us: u64, event: u64) {
        (self.now_us, self.event) = (now_us, event);
    }

    /// Records something that happened at a node.
    pub fn add(&mut self, node: usize, what: What) {
        if self.on {
            self.push(Some(node as u64), what);
        }
    }

    /// Records something that happened to all nodes.
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

    /// Records what has changed at a node since it was last compared. Its state machine has applied
    /// the log up to `applied`.
    pub fn look(&mut self, node: usize, core: &RawNode, applied: Index) {
        if !self.on {
            return;
        }
        let mut seen = self.seen[node].take().unwrap_or_default();
        for what in seen.changes(core, applied) {
            self.push(Some(node as u64), what);
        }
        self.seen[node] = Some(seen);
    }

    /// Records that a node has started. Later changes are relative to its state at the start.
    pub fn started(&mut self, node: usize, core: &RawNode, applied: Index) {
        if !self.on {
            return;
        }
        let (term, base, last) = (core.term(), core.base().last, core.last());
        self.push(Some(node as u64), What::Start { term, base, last });
        let mut seen = Seen::default();
        // The contents of the disk are not recorded as changes; the role is.
        let _ = seen.changes(core, applied);
        seen.role = None;
        self.seen[node] = Some(seen);
    }

    /// Records that the state machine of a node has applied the log up to this index, before the
    /// next [`look`](Timeline::look) at the node.
    pub fn applied(&mut self, node: usize, applied: Index) {
        if self.on
            && let Some(seen) = &mut self.seen[node]
            && std::mem::replace(&mut seen.applied, applied) != applied
        {
            self.push(Some(node as u64), What::Applied(applied));
        }
    }

    /// Ends the recording. Takes the required contents of each node's disk, and whether the node
    /// runs. A running node has its log from the last [`look`](Timeline::look).
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

    /// Records that a write is durable.
    pub fn durable(&mut self, node: usize, disk: &Shadow) {
        if self.on {
            let hard = &disk.hard_state;
            let (last, term, vote) = (disk.last(), hard.term, hard.vote);
            self.push(Some(node as u64), What::Durable { last, term, vote });
        }
    }

    /// Records that a client sends a request to a node: whether it is a read, and the request as
    /// text. The operation is open until [`answered`](Timeline::answered) is called with the
    /// returned number.
    pub fn asked(
        &mut self,
        (client, node): (usize, usize),
        (is_read, request): (bool, String),
    ) -> u64 {
        self.begun += 1;
        let (begun_us, event) = (self.now_us, self.event);
        let span = Span {
            begun_us,
            ended_us: begun_us,
            event,
            client,
            node,
            is_read,
            request,
            outcome: Ended::Open,
            index: None,
            answer: String::new(),
        };
        if self.on {
            self.open.insert(self.begun, span);
        }
        self.begun
    }

    /// Records the end of the operation with this number.
    pub fn answered(&mut self, number: u64, outcome: Ended, answer: String) {
        if let Some(span) = self.open.remove(&number) {
            let (ended_us, event) = (self.now_us, self.event);
            self.spans.push(Span { ended_us, event, outcome, answer, ..span });
        }
    }

    /// Records an operation of a client that has ended.
    pub(crate) fn operation(
        &mut self,
        begun_us: u64,
        (client, node): (usize, usize),
        request: &ClientRequest,
        index: Option<Index>,
        outcome: ClientOutcome<'_>,
        describe: &dyn Describe,
    ) {
        if !self.on {
            return;
        }
        let (outcome, answer) = match outcome {
            ClientOutcome::Done(answer) => (Ended::Done, describe.answer(request, answer)),
            ClientOutcome::NotDone => (Ended::NotDone, String::new()),
            ClientOutcome::Unknown => (Ended::Unknown, String::new()),
        };
        let is_read = matches!(request, ClientRequest::Query(_));
        let kind = if is_read { "read" } else { "command" };
        let request = format!("{kind} {}", describe::request(describe, request));
        let (ended_us, event) = (self.now_us, self.event);
        self.spans.push(Span {
            begun_us,
            ended_us,
            event,
            client,
            node,
            is_read,
            request,
            outcome,
            index,
            answer,
        });
    }
}

/// The first bytes, as text if all are printable ASCII, and otherwise in hexadecimal.
pub fn shown(bytes: &[u8]) -> String {
    shown_within(bytes, SHOWN_BYTES)
}

/// Like [`shown`], with a given number of bytes.
pub(crate) fn shown_within(bytes: &[u8], bytes_max: usize) -> String {
    let is_text = !bytes.is_empty() && bytes.iter().all(|byte| (0x20..0x7f).contains(byte));
    let few = &bytes[..bytes.len().min(bytes_max)];
    let mut text = match is_text {
        true => String::from_utf8_lossy(few).into_owned(),
        false => few.iter().map(|byte| format!("{byte:02x}")).collect(),
    };
    if few.len() < bytes.len() {
        text.push('…');
    }
    text
}
