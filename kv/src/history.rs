//! The history of the store: the latest commands in full.
//!
//! A client of the compatible API rebuilds its view by replaying all commands. The history must
//! therefore be bounded without changing the result of a replay. The latest commands are retained
//! in full. Each record also holds what the keys that it changed held before. The state before the
//! first retained command, the base, follows from the store and the records: see [`crate::base`].
//! So a command that exceeds the retention is dropped, and nothing else has to be updated.
//!
//! A record holds the command as it is in the log, in the same memory, and is decoded when somebody
//! asks for it, which is rare. The other fields of a record are results of executing the command.
//!
//! A snapshot holds the base and the retained commands. Replaying them yields everything else.

use crate::command::{self, Command, Reply, Version};
use crate::deletions::Deleted;
use crate::shared_bytes::SharedBytes;
use crate::store::Item;
use bytes::Bytes;
use raft::{CommandNumber, Term};
use std::collections::VecDeque;
use std::sync::Arc;

/// Limits of the history. Commands beyond `commands_max` or `bytes_max` are compacted, oldest
/// first.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Retention {
    /// The most commands that are retained. Default 100,000.
    pub commands_max: usize,
    /// The most bytes of retained commands, as [`Command::cost_bytes`] counts them. Default 64 MiB.
    /// The latest command is retained whatever its size.
    pub bytes_max: usize,
    /// The most deleted keys that are remembered. Default 1,000,000. Beyond it, the keys that were
    /// deleted first are forgotten.
    pub deleted_max: usize,
    /// The most bytes of deleted keys, each with 192 more for its place. Default 128 MiB.
    pub deleted_bytes_max: usize,
}

impl Default for Retention {
    fn default() -> Self {
        Retention {
            commands_max: 100_000,
            bytes_max: 64 << 20,
            deleted_max: 1_000_000,
            deleted_bytes_max: 128 << 20,
        }
    }
}

/// The content of a key before a command changed it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Before {
    /// The key existed.
    Item(Item),
    /// The key had been deleted, and this is still remembered.
    Deleted(Deleted),
    /// Neither.
    Nothing,
}

impl Before {
    /// The item, if the key existed.
    pub fn item(&self) -> Option<&Item> {
        match self {
            Before::Item(item) => Some(item),
            Before::Deleted(_) | Before::Nothing => None,
        }
    }

    /// The deletion, if the key had been deleted.
    pub fn deleted(&self) -> Option<&Deleted> {
        match self {
            Before::Deleted(deleted) => Some(deleted),
            Before::Item(_) | Before::Nothing => None,
        }
    }
}

/// The earlier content of each key that a command changed, in the order of [`Command::changed`]. A
/// key that a batch changes twice has two.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum Changes {
    /// The command changed nothing.
    #[default]
    None,
    /// One change, which needs no allocation.
    One(Before),
    /// Several changes, in order.
    Many(Vec<Before>),
}

impl Changes {
    /// Adds a change.
    pub fn push(&mut self, before: Before) {
        match self {
            Changes::None => *self = Changes::One(before),
            Changes::One(_) => {
                let Changes::One(first) = std::mem::take(self) else { return };
                *self = Changes::Many(vec![first, before]);
            }
            Changes::Many(all) => all.push(before),
        }
    }

    /// The number of changes. Each of them took a version.
    pub fn len(&self) -> usize {
        match self {
            Changes::None => 0,
            Changes::One(_) => 1,
            Changes::Many(all) => all.len(),
        }
    }

    /// Whether the command changed nothing.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// The changes, in order.
    pub fn iter(&self) -> impl Iterator<Item = &Before> {
        match self {
            Changes::None => [].iter(),
            Changes::One(before) => std::slice::from_ref(before).iter(),
            Changes::Many(all) => all.iter(),
        }
    }
}

/// A retained command and its outcome.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Record {
    /// The term of its log entry.
    pub term: Term,
    /// The command as it is in the log. `None` if the bytes there were not a command.
    pub command: Option<Bytes>,
    /// The reply.
    pub reply: Reply,
    /// The value before the command, for listings: see
    /// [`Executed::previous`](crate::store::Executed::previous).
    pub previous: Option<SharedBytes>,
    /// The earlier content of the keys that it changed.
    pub changes: Changes,
    /// [`Command::cost_bytes`] of the command.
    pub cost_bytes: usize,
}

impl Record {
    /// The command. `None` if the bytes in the log were not a command.
    pub fn command(&self) -> Option<Command> {
        Command::decode_sharing(self.command.as_ref()?)
    }

    /// The keys that the command changed, in order, each with its content before the command.
    pub fn changed(&self) -> impl Iterator<Item = (&[u8], &Before)> {
        let command = self.command.as_ref().filter(|_| !self.changes.is_empty());
        let command = command.and_then(|bytes| Command::decode(bytes));
        let keys = command.map(|command| command.changed(&self.reply)).unwrap_or_default();
        keys.into_iter().zip(self.changes.iter())
    }
}

/// The most records in one chunk of the history.
const CHUNK_RECORDS_MAX: usize = 512;
/// A chunk with this many bytes takes no further records. A chunk is freed as a whole, so smaller
/// chunks free compacted commands sooner.
const CHUNK_BYTES_MAX: usize = 1 << 20;

/// Records that are shared between a history and its clones.
#[derive(Clone, Debug, Default)]
struct Chunk {
    first: CommandNumber,
    bytes: usize,
    records: Vec<Record>,
}

/// The retained commands.
///
/// Invariants: the chunks hold consecutive records, the last of which is the one before `next`.
/// `first` is in the first chunk; if there is no chunk, `first` equals `next`. `revision` is the
/// version of the latest change by the commands below `first`. `bytes` is the cost of the records
/// from `first` on. Debug builds check what can be checked in constant time after each command.
#[derive(Clone, Debug)]
pub struct History {
    retention: Retention,
    revision: Version,
    chunks: VecDeque<Arc<Chunk>>,
    first: CommandNumber,
    next: CommandNumber,
    bytes: usize,
}

/// The result of looking up a command by its number.
#[derive(Debug, PartialEq, Eq)]
pub enum Lookup<'a> {
    /// The command is in the history.
    Retained(&'a Record),
    /// The command was compacted.
    Compacted {
        /// The number of the first retained command.
        first: CommandNumber,
    },
    /// No command with this number has been applied yet.
    Future,
}

impl History {
    /// A history without commands. `revision` is the version of the latest change before command
    /// `first`.
    pub fn new(retention: Retention, revision: Version, first: CommandNumber) -> Self {
        History { retention, revision, chunks: VecDeque::new(), first, next: first, bytes: 0 }
    }

    /// The limits.
    pub fn retention(&self) -> Retention {
        self.retention
    }

    /// The number of the first retained command. Equals [`History::next`] if none is retained.
    pub fn first(&self) -> CommandNumber {
        self.first
    }

    /// The number of the next command.
    pub fn next(&self) -> CommandNumber {
        self.next
    }

    /// The cost of the retained commands, as [`Command::cost_bytes`] counts it.
    pub fn bytes(&self) -> usize {
        self.bytes
    }

    /// The version of the latest change before the first retained command.
    pub fn revision(&self) -> Version {
        self.revision
    }

    /// Looks up a command by its number.
    pub fn lookup(&self, number: CommandNumber) -> Lookup<'_> {
        if number >= self.next {
            return Lookup::Future;
        }
        if number < self.first {
            return Lookup::Compacted { first: self.first };
        }
        Lookup::Retained(self.record(number))
    }

    /// The retained records from `number` on. `number` must not be below [`History::first`].
    pub fn records_from(
        &self,
        number: CommandNumber,
    ) -> impl Iterator<Item = (CommandNumber, &Record)> {
        (number.0..self.next.0).map(|n| (CommandNumber(n), self.record(CommandNumber(n))))
    }

    /// Appends the record of the next command, then compacts the commands that exceed the
    /// retention.
    pub fn push(&mut self, number: CommandNumber, record: Record) {
        assert_eq!(number, self.next, "client commands are applied in order, each exactly once");
        let cost = record.cost_bytes;
        match self.chunks.back_mut() {
            Some(chunk)
                if chunk.records.len() < CHUNK_RECORDS_MAX && chunk.bytes < CHUNK_BYTES_MAX =>
            {
                let chunk = Arc::make_mut(chunk);
                chunk.bytes += cost;
                chunk.records.push(record);
            }
            _ => {
                let chunk = Chunk { first: number, bytes: cost, records: vec![record] };
                self.chunks.push_back(Arc::new(chunk));
            }
        }
        self.next = number.next();
        self.bytes += cost;
        while self.is_over_retention() {
            self.let_first_fall_out();
        }
        debug_assert_eq!(self.broken_invariant(), None);
    }

    fn is_over_retention(&self) -> bool {
        let count = self.next.0 - self.first.0;
        count > 1
            && (count > self.retention.commands_max as u64 || self.bytes > self.retention.bytes_max)
    }

    fn let_first_fall_out(&mut self) {
        let number = self.first;
        let chunk = self.chunks.front().expect("a retained record is in a chunk").clone();
        let record = &chunk.records[(number.0 - chunk.first.0) as usize];
        self.revision = Version(self.revision.0 + record.changes.len() as u64);
        self.bytes -= record.cost_bytes;
        self.first = number.next();
        if self.first.0 == chunk.first.0 + chunk.records.len() as u64 {
            self.chunks.pop_front();
        }
    }

    fn record(&self, number: CommandNumber) -> &Record {
        let after = self.chunks.partition_point(|chunk| chunk.first <= number);
        let chunk = &self.chunks[after - 1];
        &chunk.records[(number.0 - chunk.first.0) as usize]
    }

    /// The first invariant that does not hold, if any. Looks at the ends of the history only, so
    /// that it costs the same for every history.
    fn broken_invariant(&self) -> Option<&'static str> {
        let count = (self.next.0 - self.first.0) as usize;
        let mut latest = self.chunks.iter().rev();
        let (last, before) = (latest.next(), latest.next());
        if last.map_or(self.first, |chunk| chunk.end()) != self.next {
            return Some("the last record is the one before `next`");
        }
        if before.zip(last).is_some_and(|(before, last)| before.end() != last.first) {
            return Some("the chunks hold consecutive records");
        }
        let is_in_first =
            |chunk: &Arc<Chunk>| chunk.first <= self.first && self.first < chunk.end();
        if !self.chunks.front().is_none_or(is_in_first) {
            return Some("`first` is in the first chunk");
        }
        if self.bytes < count * command::OVERHEAD_BYTES || (count == 0 && self.bytes > 0) {
            return Some("`bytes` is the cost of the records from `first` on");
        }
        self.is_over_retention().then_some("the history is within its retention")
    }
}

impl Chunk {
    /// The number after its last record.
    fn end(&self) -> CommandNumber {
        CommandNumber(self.first.0 + self.records.len() as u64)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::command::{Change, Condition, Operation};

    fn history() -> History {
        let retention = Retention { commands_max: 600, ..Retention::default() };
        let mut history = History::new(retention, Version(0), CommandNumber(0));
        for number in 0..1_300 {
            let change = if number % 3 == 0 { Change::Delete } else { Change::Put("v".into()) };
            let key = format!("{}", number % 7).into();
            let operation = Operation { key, change, condition: Condition::Always };
            let command: Command = Command::Write(operation);
            let record = Record {
                term: Term(1),
                command: Some(command.encode()),
                reply: Reply::Ignored,
                previous: None,
                changes: Changes::None,
                cost_bytes: command.cost_bytes(),
            };
            history.push(CommandNumber(number), record);
        }
        history
    }

    #[test]
    fn what_does_not_fit_together_is_noticed() {
        let broken = |change: fn(&mut History)| {
            let mut history = history();
            change(&mut history);
            history.broken_invariant()
        };
        assert_eq!(broken(|_| {}), None);
        assert!(broken(|history| history.next = history.next.next()).is_some());
        assert!(broken(|history| history.first = CommandNumber(0)).is_some());
        assert!(broken(|history| history.bytes = 1).is_some());
        assert!(broken(|history| history.retention.commands_max = 5).is_some());
        assert!(broken(|history| drop(history.chunks.pop_back())).is_some());
        assert!(broken(|history| drop(history.chunks.remove(1))).is_some());
    }
}
