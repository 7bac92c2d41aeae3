//! Commands in the vocabulary of the compatible API, as JSON.
//!
//! What the old vocabulary cannot say is shown as nearly as possible, and always so that a replay of
//! the listing yields the store: a batch as the puts it amounts to, which share one index; a delete as
//! a put of the empty string; a command that changed nothing as a `get` of its key; bytes that are no
//! UTF-8 with replacement characters.

use crate::command::{Change, Command, Compat, Kind, Operation, Outcome, Reply, Version};
use crate::history::{Order, Record};
use crate::machine::State;
use raft::{CommandNumber, Term};
use serde::Serialize;
use std::borrow::Cow;
use std::ops::Bound;

/// A commit of the compatible API.
#[derive(Serialize)]
struct Commit<'a> {
    index: u64,
    term: u64,
    command: Shown<'a>,
    #[serde(skip_serializing_if = "Option::is_none")]
    result: Option<Yielded<'a>>,
}

/// A command of the compatible API. The fields that a kind has no use for are left out when empty.
#[derive(Serialize)]
struct Shown<'a> {
    kind: &'static str,
    key: Cow<'a, str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    value: Option<Cow<'a, str>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    compare_value: Option<Cow<'a, str>>,
    id: i128,
}

/// What applying a command yielded.
#[derive(Serialize)]
struct Yielded<'a> {
    found: bool,
    value: Option<Cow<'a, str>>,
}

/// Writes one command and what came of it, as `wait_commit` and `get_commit` reply.
pub fn write_commit(number: CommandNumber, record: &Record, into: &mut Vec<u8>) {
    let command = match &record.command {
        Some(Command::Compat(compat)) => as_given(compat),
        command => first_shown(command.as_ref(), &record.executed.reply),
    };
    let previous = record.executed.previous.as_ref();
    let result = Yielded { found: previous.is_some(), value: previous.map(|value| text(value)) };
    let commit = Commit { index: number.0, term: record.term.0, command, result: Some(result) };
    write_json(&commit, into);
}

/// A listing of commits that goes on where it stopped, so that it need not be in memory as a whole.
#[derive(Debug)]
pub struct Listing {
    state: State,
    next: Next,
    count: u64,
    limit: u64,
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
    /// Every commit from number `from` on, in order; after `limit` commits it ends with the last one
    /// of the same index.
    pub fn new(state: State, from: CommandNumber, limit: u64) -> Self {
        Listing { state, next: Next::Start(from), count: 0, limit }
    }

    /// The next part of the reply, of about `part_bytes`; `None` after the last.
    pub fn next_part(&mut self, part_bytes: usize) -> Option<Vec<u8>> {
        if matches!(self.next, Next::Done) {
            return None;
        }
        let mut part = Vec::with_capacity(part_bytes + part_bytes / 8);
        while part.len() < part_bytes {
            match self.next {
                Next::Start(from) => {
                    part.extend_from_slice(b"{\"commits\":[");
                    self.next = if from >= self.state.history().first() {
                        Next::Commands(from)
                    } else {
                        Next::Base(Bound::Included((from, Version::default())))
                    };
                }
                Next::Base(after) => self.list_base(after, part_bytes, &mut part),
                Next::Commands(from) => self.list_commands(from, part_bytes, &mut part),
                Next::End => {
                    part.extend_from_slice(format!("],\"count\":{}}}", self.count).as_bytes());
                    self.next = Next::Done;
                }
                Next::Done => break,
            }
        }
        Some(part)
    }

    fn list_base(&mut self, after: Bound<Order>, part_bytes: usize, part: &mut Vec<u8>) {
        let history = self.state.history();
        self.next = Next::Commands(history.first());
        let mut latest = None;
        for (at, key, change) in history.base().changes_after(after) {
            if self.count >= self.limit && latest != Some(at.0) {
                self.next = Next::End;
                return;
            }
            if part.len() >= part_bytes {
                // The changes of one number stay in one part, so that the limit can be seen above.
                if latest != Some(at.0) {
                    self.next = Next::Base(Bound::Included(at));
                    return;
                }
            }
            latest = Some(at.0);
            let (term, value) = match change {
                Ok(item) => (item.term, text(&item.value)),
                Err(term) => (term, Cow::Borrowed("")),
            };
            append(&mut self.count, at.0, term, put(text(key), value), part);
        }
    }

    fn list_commands(&mut self, from: CommandNumber, part_bytes: usize, part: &mut Vec<u8>) {
        self.next = Next::End;
        let history = self.state.history();
        for (number, record) in history.records_from(from) {
            if self.count >= self.limit {
                return;
            }
            if part.len() >= part_bytes {
                self.next = Next::Commands(number);
                return;
            }
            let count = &mut self.count;
            replayable(record, &mut |shown| append(count, number, record.term, shown, part));
        }
    }
}

fn append(
    count: &mut u64,
    number: CommandNumber,
    term: Term,
    command: Shown<'_>,
    part: &mut Vec<u8>,
) {
    if *count > 0 {
        part.push(b',');
    }
    *count += 1;
    write_json(&Commit { index: number.0, term: term.0, command, result: None }, part);
}

/// The command of a record as one or several of the old vocabulary whose replay does what it did.
fn replayable<'a>(record: &'a Record, show: &mut dyn FnMut(Shown<'a>)) {
    let reply = &record.executed.reply;
    match &record.command {
        Some(Command::Compat(compat)) if !replays_alike(compat, record) => {
            show(get(text(&compat.key), compat.id));
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

/// Whether showing a compatible command as it is does no harm. A replay knows only texts, and has the
/// empty one where a key was deleted: a `cas` that failed here might succeed there.
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
fn first_shown<'a>(command: Option<&'a Command>, reply: &Reply) -> Shown<'a> {
    match (command, reply) {
        (Some(Command::Compat(compat)), _) => as_given(compat),
        (Some(Command::Write(operation)), Reply::Write(outcome)) if changed(outcome) => {
            as_put(operation)
        }
        (Some(Command::Write(operation)), _) => get(text(&operation.key), 0),
        (Some(Command::Batch(operations)), Reply::Batch(outcomes)) => {
            let changes = operations.iter().zip(outcomes);
            match changes.into_iter().find(|(_, outcome)| changed(outcome)) {
                Some((operation, _)) => as_put(operation),
                None => get(operations.first().map_or(Cow::Borrowed(""), |o| text(&o.key)), 0),
            }
        }
        _ => get(Cow::Borrowed(""), 0),
    }
}

fn changed(outcome: &Outcome) -> bool {
    matches!(outcome, Outcome::Written { .. } | Outcome::Deleted { .. })
}

fn as_given(compat: &Compat) -> Shown<'_> {
    let given = |bytes| Some(text(bytes));
    let unless_empty = |bytes: &'_ bytes::Bytes| !bytes.is_empty();
    Shown {
        kind: match compat.kind {
            Kind::Put => "put",
            Kind::Get => "get",
            Kind::Cas => "cas",
        },
        key: text(&compat.key),
        value: match compat.kind {
            Kind::Put | Kind::Cas => given(&compat.value),
            Kind::Get => given(&compat.value).filter(|_| unless_empty(&compat.value)),
        },
        compare_value: match compat.kind {
            Kind::Cas => given(&compat.compare_value),
            Kind::Put | Kind::Get => {
                given(&compat.compare_value).filter(|_| unless_empty(&compat.compare_value))
            }
        },
        id: compat.id,
    }
}

fn as_put(operation: &Operation) -> Shown<'_> {
    let value = match &operation.change {
        Change::Put(value) => text(value),
        Change::Delete => Cow::Borrowed(""),
    };
    put(text(&operation.key), value)
}

fn put<'a>(key: Cow<'a, str>, value: Cow<'a, str>) -> Shown<'a> {
    Shown { kind: "put", key, value: Some(value), compare_value: None, id: 0 }
}

fn get(key: Cow<'_, str>, id: i128) -> Shown<'_> {
    Shown { kind: "get", key, value: None, compare_value: None, id }
}

fn text(bytes: &[u8]) -> Cow<'_, str> {
    String::from_utf8_lossy(bytes)
}

fn write_json<T: Serialize>(value: &T, into: &mut Vec<u8>) {
    serde_json::to_writer(into, value).expect("these types have a JSON form, and memory takes it");
}
