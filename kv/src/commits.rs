//! Commands of the history as JSON of the compatible API.
//!
//! The compatible API has only `put`, `get` and `cas`. Other commands are translated so that a
//! replay of the listing yields the store:
//!
//! - A batch becomes one `put` for each of its changes. They share one index.
//! - A delete becomes a `put` of the empty string.
//! - A command that changed nothing becomes a `get` of its key.
//! - Invalid UTF-8 becomes replacement characters.

use crate::base::{Base, Change as BaseChange};
use crate::command::{Change, Command, Compat, Kind, Operation, Reply, Version};
use crate::deletions::Order;
use crate::history::Record;
use crate::pieces::Pieces;
use crate::shared_bytes::SharedBytes;
use crate::state::State;
use bytes::Bytes;
use raft::{CommandNumber, Term};
use std::borrow::Cow;
use std::collections::VecDeque;
use std::ops::Bound;

/// The most changes of the base that a listing holds at once. It computes the base again for each
/// further group of this size.
const BASE_CHANGES_MAX: u64 = 65_536;

/// A command as the listing shows it. An empty field that the kind does not use is omitted.
struct Shown {
    kind: &'static str,
    key: Bytes,
    value: Option<Bytes>,
    compare_value: Option<Bytes>,
    id: i128,
}

/// Adds one command and its outcome, in the form of `wait_commit` and `get_commit`.
pub fn add_commit(number: CommandNumber, record: &Record, to: &mut Pieces) {
    let command = match record.command() {
        Some(Command::Compat(compat)) => as_given(&compat),
        command => first_shown(command.as_ref(), &record.reply),
    };
    add_shown(number, record.term, &command, to);
    let previous = record.previous.clone().map(SharedBytes::into_bytes);
    to.json(&format!(",\"result\":{{\"found\":{},\"value\":", previous.is_some()));
    to.text_or_null(previous.as_ref());
    to.json("}}");
}

/// Adds a command. The JSON object is left open, so that the caller can add fields.
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

/// The reply of `get_commits_since`, produced in parts so that it is never in memory as a whole.
#[derive(Debug)]
pub struct Listing {
    state: State,
    next: Next,
    /// The next changes of the base.
    base: VecDeque<BaseChange>,
    /// The number of the commit that was listed last.
    latest: Option<CommandNumber>,
    count: u64,
    limit: u64,
    /// JSON that has been produced but not yet written to a part.
    pieces: Pieces,
}

/// The position of a listing.
#[derive(Debug)]
enum Next {
    /// The beginning of the reply, then the commits from this number on.
    Start(CommandNumber),
    /// The changes in the base of the history, from this bound on.
    Base(Bound<Order>),
    /// The retained commands from this one on.
    Commands(CommandNumber),
    /// The end of the reply.
    End,
    /// The whole reply has been produced.
    Done,
}

impl Listing {
    /// Lists every commit from number `from` on, in order. After `limit` commits the listing ends,
    /// but not between two commits with the same index.
    pub fn new(state: State, from: CommandNumber, limit: u64) -> Self {
        Listing {
            state,
            next: Next::Start(from),
            base: VecDeque::new(),
            latest: None,
            count: 0,
            limit,
            pieces: Pieces::default(),
        }
    }

    /// The next part of the reply, of about `part_bytes` bytes. `None` after the last.
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
        let Listing { state, next, base, latest, count, limit, pieces } = self;
        if base.is_empty() {
            let more = limit.saturating_sub(*count).saturating_add(1).min(BASE_CHANGES_MAX);
            *base = Base::of(state).changes_after(after, more as usize).into();
        }
        *next = match base.back() {
            Some(last) => Next::Base(Bound::Excluded(last.order)),
            None => Next::Commands(state.history().first()),
        };
        while let Some(change) = base.front() {
            let number = change.order.0;
            if *count >= *limit && *latest != Some(number) {
                *next = Next::End;
                return;
            }
            if pieces.bytes() >= part_bytes {
                return;
            }
            let Some(BaseChange { key, term, value, .. }) = base.pop_front() else { return };
            *latest = Some(number);
            let value = value.map(SharedBytes::into_bytes).unwrap_or_default();
            append(count, number, term, &put(key.into_bytes(), value), pieces);
        }
    }

    fn list_commands(&mut self, from: CommandNumber, part_bytes: usize) {
        let Listing { state, next, count, limit, pieces, .. } = self;
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

/// Translates a record into one or several commands whose replay has the same effect.
fn replayable(record: &Record, show: &mut dyn FnMut(Shown)) {
    let (command, reply) = (record.command(), &record.reply);
    match &command {
        Some(Command::Compat(compat)) if !replays_alike(compat, reply) => {
            show(get(compat.key.clone(), compat.id));
        }
        Some(Command::Compat(compat)) => show(as_given(compat)),
        Some(Command::Batch(operations)) => {
            let Reply::Batch(outcomes) = reply else { return };
            let mut shown = false;
            for (operation, outcome) in operations.iter().zip(outcomes) {
                if outcome.has_changed() {
                    show(as_put(operation));
                    shown = true;
                }
            }
            if !shown {
                show(first_shown(command.as_ref(), reply));
            }
        }
        command => show(first_shown(command.as_ref(), reply)),
    }
}

/// Whether a compatible command may be shown unchanged. A client that replays has text instead of
/// bytes, and an empty string for a deleted key. So a `cas` that failed here could succeed there.
fn replays_alike(compat: &Compat, reply: &Reply) -> bool {
    match (compat.kind, reply) {
        (Kind::Cas, Reply::Compat { written: false, previous }) => {
            let seen = previous.as_ref().map_or(Cow::Borrowed(""), |value| text(value));
            seen.as_bytes() != &compat.compare_value[..]
        }
        _ => true,
    }
}

/// The first command that [`replayable`] shows. Compatible commands are unchanged here.
fn first_shown(command: Option<&Command>, reply: &Reply) -> Shown {
    match (command, reply) {
        (Some(Command::Compat(compat)), _) => as_given(compat),
        (Some(Command::Write(operation)), Reply::Write(outcome)) if outcome.has_changed() => {
            as_put(operation)
        }
        (Some(Command::Write(operation)), _) => get(operation.key.clone(), 0),
        (Some(Command::Batch(operations)), Reply::Batch(outcomes)) => {
            let changes = operations.iter().zip(outcomes);
            match changes.into_iter().find(|(_, outcome)| outcome.has_changed()) {
                Some((operation, _)) => as_put(operation),
                None => get(operations.first().map_or_else(Bytes::new, |o| o.key.clone()), 0),
            }
        }
        _ => get(Bytes::new(), 0),
    }
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
