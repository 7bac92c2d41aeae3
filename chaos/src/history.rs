//! The operations of clients, and their outcomes.

use simulator::linearizability::{Action, Operation};
use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};

/// The outcome of an operation.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Heard {
    /// It was done; the action carries the answer.
    Done,
    /// It was certainly not done.
    NotDone,
    /// It may have been done.
    Unknown,
}

/// One operation of a client.
#[derive(Clone, Debug)]
pub struct Record {
    /// The number of the key.
    pub key: u64,
    /// The API that was used, for messages.
    pub api: &'static str,
    /// The node that was used.
    pub node: u64,
    /// When it began, in microseconds since the start of the round.
    pub begun: u64,
    /// When the response came or the client gave up, in microseconds since the start of the round.
    pub ended: u64,
    /// The operation, with its answer if it is done.
    pub action: Action,
    /// The outcome.
    pub heard: Heard,
}

impl Record {
    /// The value that it writes if it takes effect.
    pub fn writes(&self) -> Option<u64> {
        match self.action {
            Action::Write(value, _) => Some(value),
            Action::Swap { to, .. } => Some(to),
            Action::Read(_) | Action::Remove { .. } => None,
        }
    }

    /// The value that it has certainly written.
    pub fn has_written(&self) -> Option<u64> {
        match self.action {
            _ if self.heard != Heard::Done => None,
            Action::Swap { from, before: Some(before), .. } if before != Some(from) => None,
            _ => self.writes(),
        }
    }

    /// The value that it has certainly not written.
    pub fn has_not_written(&self) -> Option<u64> {
        match (self.heard, self.action) {
            (Heard::NotDone, _) => self.writes(),
            (Heard::Done, Action::Swap { from, to, before: Some(before) })
                if before != Some(from) =>
            {
                Some(to)
            }
            _ => None,
        }
    }
}

/// The records of all clients. Clones share them.
#[derive(Clone, Default)]
pub struct History(Arc<Mutex<Inner>>);

#[derive(Default)]
struct Inner {
    records: Vec<Record>,
    complaints: Vec<String>,
    last_value: u64,
}

impl History {
    fn with<T>(&self, change: impl FnOnce(&mut Inner) -> T) -> T {
        change(&mut self.0.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// A value that no other operation of the round writes.
    pub fn value(&self) -> u64 {
        self.with(|inner| {
            inner.last_value += 1;
            inner.last_value
        })
    }

    /// Adds an operation.
    pub fn add(&self, record: Record) {
        self.with(|inner| inner.records.push(record));
    }

    /// Records a response that breaks the contract of the API. Keeps the first 20.
    pub fn complain(&self, text: String) {
        self.with(|inner| {
            if inner.complaints.len() < 20 && !inner.complaints.contains(&text) {
                inner.complaints.push(text);
            }
        });
    }

    /// All operations.
    pub fn records(&self) -> Vec<Record> {
        self.with(|inner| inner.records.clone())
    }

    /// All responses that broke the contract of the API.
    pub fn complaints(&self) -> Vec<String> {
        self.with(|inner| inner.complaints.clone())
    }
}

/// The operations of each key in the format of the checker, without those that were not done.
pub fn by_key(records: &[Record]) -> BTreeMap<u64, Vec<Operation>> {
    let mut keys = BTreeMap::<u64, Vec<Operation>>::new();
    for record in records {
        let ended = match record.heard {
            Heard::Done => Some(record.ended),
            Heard::Unknown => None,
            Heard::NotDone => continue,
        };
        let (begun, action) = (record.begun, record.action);
        keys.entry(record.key).or_default().push(Operation { begun, ended, action });
    }
    keys
}
