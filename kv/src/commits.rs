//! Commands in the vocabulary of the compatible API, as JSON.
//!
//! What the old vocabulary cannot say is shown as nearly as possible, and always so that a replay
//! of the listing yields the store: a batch as the puts it amounts to, which share one index; a
//! delete as a put of the empty string; a command that changed nothing as a `get` of its key; bytes
//! that are no UTF-8 with replacement characters.

use crate::command::{Change, Command, Compat, Kind, Operation, Outcome, Reply, Version};
use crate::history::{Order, Record};
use crate::machine::State;
use crate::pieces::Pieces;
use bytes::Bytes;
use raft::{CommandNumber, Term};
use std::borrow::Cow;
use std::ops::Bound;

/// A command of the compatible API. The fields that a kind has no use for are left out when empty.
struct Shown {
    kind: &'static str,
    key: Bytes,
    value: Option<Bytes>,
    compare_value: Option<Bytes>,
    id: i128,
}

/// Adds one command and what came of it, as `wait_commit` and `get_commit` reply.
pub fn add_commit(number: CommandNumber, record: &Record, to: &mut Pieces) {
    let command = match &record.command {
        Some(Command::Compat(compat)) => as_given(compat),
        command => first_shown(command.as_ref(), &record.executed.reply),
    };
    add_shown(number, record.term, &command, to);
    let previous = record.executed.previous.as_ref();
    to.json(&format!(",\"result\":{{\"found\":{},\"value\":", previous.is_some()));
    to.text_or_null(previous);
    to.json("}}");
}

/// Adds a command without the end of its object.
fn add_shown(number: CommandNumber, term: Term, command: &Shown, to: &mut Pieces) {
    let Shown { kind, key, value, compare_value, id } = command;
    let (index, term) = (number.0, term.0);
    to.json(&format!(
        "{{\"index\":{index},\"term\":{term},\"command\":{{\"kind\":\"{kind}\",\"key\":"
    ));
    to.text(key);
    for (name, text) in [(",\"value\":", value), (",\"compare_value\":", compare_value)] {
        if let Some(text) = text {
            to.json(name);
            to.text(text);
        }
    }
    to.json(&format!(",\"id\":{id}}}"));
}

/// A listing of commits that goes on where it stopped, so that it need not be in memory as a whole.
#[derive(Debug)]
pub struct Listing {
    state: State,
    next: Next,
    count: u64,
    limit: u64,
    /// What has been listed and not written.
    pieces: Pieces,
}

/// What comes next in a listing.
#[derive(Debug)]
enum Next {
    /// The beginning of the reply, then the commits from this number on.
    Start(CommandNumber),
    /// The changes of the state below the history that come after this one.
    Base(Bound<Order>),
    /// The retained commands from this one on.
    Commands(CommandNumber),
    /// The end of the reply.
    End,
    /// Nothing.
    Done,
}

impl Listing {
    /// Every commit from number `from` on, in order; after `limit` commits it ends with the last
    /// one of the same index.
    pub fn new(state: State, from: CommandNumber, limit: u64) -> Self {
        Listing { state, next: Next::Start(from), count: 0, limit, pieces: Pieces::default() }
    }

    /// The next part of the reply, of about `part_bytes`; `None` after the last.
    pub fn next_part(&mut self, part_bytes: usize) -> Option<Vec<u8>> {
        let mut part = Vec::with_capacity(part_bytes + part_bytes / 8);
        loop {
            self.pieces.write(&mut part, part_bytes);
            if part.len() >= part_bytes {
                return Some(part);
            }
            match self.next {
                Next::Start(from) => {
                    self.pieces.json("{\"commits\":[");
                    self.next = if from >= self.state.history().first() {
                        Next::Commands(from)
                    } else {
                        Next::Base(Bound::Included((from, Version::default())))
                    };
                }
                Next::Base(after) => self.list_base(after, part_bytes),
                Next::Commands(from) => self.list_commands(from, part_bytes),
                Next::End => {
                    self.pieces.json(&format!("],\"count\":{}}}", self.count));
                    self.next = Next::Done;
                }
                Next::Done => return (!part.is_empty()).then_some(part),
            }
        }
    }

    fn list_base(&mut self, after: Bound<Order>, part_bytes: usize) {
        let Listing { state, next, count, limit, pieces } = self;
        let history = state.history();
        *next = Next::Commands(history.first());
        let mut latest = None;
        for (at, key, change) in history.base().changes_after(after) {
            if *count >= *limit && latest != Some(at.0) {
                *next = Next::End;
                return;
            }
            if pieces.bytes() >= part_bytes {
                // The changes of one number stay in one part, so that the limit can be seen above.
                if latest != Some(at.0) {
                    *next = Next::Base(Bound::Included(at));
                    return;
                }
            }
            latest = Some(at.0);
            let (term, value) = match change {
                Ok(item) => (item.term, item.value.clone()),
                Err(term) => (term, Bytes::new()),
            };
            append(count, at.0, term, &put(key.clone(), value), pieces);
        }
    }

    fn list_commands(&mut self, from: CommandNumber, part_bytes: usize) {
        let Listing { state, next, count, limit, pieces } = self;
        *next = Next::End;
        let history = state.history();
        for (number, record) in history.records_from(from) {
            if *count >= *limit {
                return;
            }
            if pieces.bytes() >= part_bytes {
                *next = Next::Commands(number);
                return;
            }
            replayable(record, &mut |shown| append(count, number, record.term, &shown, pieces));
        }
    }
}

fn append(
    count: &mut u64,
    number: CommandNumber,
    term: Term,
    command: &Shown,
    pieces: &mut Pieces,
) {
    if *count > 0 {
        pieces.json(",");
    }
    *count += 1;
    add_shown(number, term, command, pieces);
    pieces.json("}");
}

/// The command of a record as one or several of the old vocabulary whose replay does what it did.
fn replayable(record: &Record, show: &mut dyn FnMut(Shown)) {
    let reply = &record.executed.reply;
    match &record.command {
        Some(Command::Compat(compat)) if !replays_alike(compat, record) => {
            show(get(compat.key.clone(), compat.id));
        }
        Some(Command::Compat(compat)) => show(as_given(compat)),
        Some(Command::Batch(operations)) => {
            let Reply::Batch(outcomes) = reply else { return };
            let mut shown = false;
            for (operation, outcome) in operations.iter().zip(outcomes) {
                if changed(outcome) {
                    show(as_put(operation));
                    shown = true;
                }
            }
            if !shown {
                show(first_shown(record.command.as_ref(), reply));
            }
        }
        command => show(first_shown(command.as_ref(), reply)),
    }
}

/// Whether showing a compatible command as it is does no harm. A replay knows only texts, and has
/// the empty one where a key was deleted: a `cas` that failed here might succeed there.
fn replays_alike(compat: &Compat, record: &Record) -> bool {
    match (compat.kind, &record.executed.reply) {
        (Kind::Cas, Reply::Compat { written: false, previous }) => {
            let seen = previous.as_ref().map_or(Cow::Borrowed(""), |value| text(value));
            seen.as_bytes() != &compat.compare_value[..]
        }
        _ => true,
    }
}

/// The first of what [`replayable`] shows.
fn first_shown(command: Option<&Command>, reply: &Reply) -> Shown {
    match (command, reply) {
        (Some(Command::Compat(compat)), _) => as_given(compat),
        (Some(Command::Write(operation)), Reply::Write(outcome)) if changed(outcome) => {
            as_put(operation)
        }
        (Some(Command::Write(operation)), _) => get(operation.key.clone(), 0),
        (Some(Command::Batch(operations)), Reply::Batch(outcomes)) => {
            let changes = operations.iter().zip(outcomes);
            match changes.into_iter().find(|(_, outcome)| changed(outcome)) {
                Some((operation, _)) => as_put(operation),
                None => get(operations.first().map_or_else(Bytes::new, |o| o.key.clone()), 0),
            }
        }
        _ => get(Bytes::new(), 0),
    }
}

fn changed(outcome: &Outcome) -> bool {
    matches!(outcome, Outcome::Written { .. } | Outcome::Deleted { .. })
}

fn as_given(compat: &Compat) -> Shown {
    let given = |bytes: &Bytes| Some(bytes.clone());
    let unless_empty = |bytes: &Bytes| !bytes.is_empty();
    Shown {
        kind: match compat.kind {
            Kind::Put => "put",
            Kind::Get => "get",
            Kind::Cas => "cas",
        },
        key: compat.key.clone(),
        value: match compat.kind {
            Kind::Put | Kind::Cas => given(&compat.value),
            Kind::Get => given(&compat.value).filter(unless_empty),
        },
        compare_value: match compat.kind {
            Kind::Cas => given(&compat.compare_value),
            Kind::Put | Kind::Get => given(&compat.compare_value).filter(unless_empty),
        },
        id: compat.id,
    }
}

fn as_put(operation: &Operation) -> Shown {
    let value = match &operation.change {
        Change::Put(value) => value.clone(),
        Change::Delete => Bytes::new(),
    };
    put(operation.key.clone(), value)
}

fn put(key: Bytes, value: Bytes) -> Shown {
    Shown { kind: "put", key, value: Some(value), compare_value: None, id: 0 }
}

fn get(key: Bytes, id: i128) -> Shown {
    Shown { kind: "get", key, value: None, compare_value: None, id }
}

fn text(bytes: &[u8]) -> Cow<'_, str> {
    String::from_utf8_lossy(bytes)
}
