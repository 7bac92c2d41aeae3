//! The history of the store: the latest commands in full, and the state before them.
//!
//! A client of the compatible API rebuilds its view by replaying all commands. The history must
//! therefore be bounded without changing the result of a replay. The latest commands are retained
//! in full. Older commands are replaced by the base: a second [`Store`] with the state before the
//! first retained command. A command that exceeds the retention is executed on the base and then
//! dropped.
//!
//! In the listing, each key of the base is a put at the number of its last write. A deleted key is
//! a put of the empty string, because the compatible API has no delete.
//!
//! A snapshot holds the base and the retained commands. Replaying them yields everything else.

use crate::command::{Command, Version};
use crate::store::{Effect, Executed, Item, Place, Store};
use bytes::Bytes;
use imbl::OrdMap;
use raft::{CommandNumber, Term};
use serde::{Deserialize, Serialize};
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
    /// The most deleted keys that the base remembers. Default 1,000,000. Beyond it, the keys that
    /// were deleted first are forgotten.
    pub deleted_max: usize,
}

impl Default for Retention {
    fn default() -> Self {
        Retention { commands_max: 100_000, bytes_max: 64 << 20, deleted_max: 1_000_000 }
    }
}

/// A retained command and its outcome.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Record {
    /// The term of its log entry.
    pub term: Term,
    /// The command. `None` if the bytes in the log were not a command.
    pub command: Option<Command>,
    /// The reply, and the previous value for listings.
    pub executed: Executed,
}

impl Record {
    fn cost_bytes(&self) -> usize {
        self.command.as_ref().map_or(Command::OVERHEAD_BYTES, Command::cost_bytes)
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

/// The retained commands and the base below them.
///
/// Invariants: the chunks hold consecutive records, the last of which is the one before `next`.
/// `first` is in the first chunk; if there is no chunk, `first` equals `next`. `base` is the state
/// after all commands below `first`. `bytes` is the cost of the records from `first` on. Debug
/// builds check what can be checked in constant time after each command.
#[derive(Clone, Debug)]
pub struct History {
    retention: Retention,
    base: Base,
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
    /// A history without commands. `base` is the state before command `first`.
    pub fn new(retention: Retention, base: Base, first: CommandNumber) -> Self {
        History { retention, base, chunks: VecDeque::new(), first, next: first, bytes: 0 }
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

    /// The state before the first retained command.
    pub fn base(&self) -> &Base {
        &self.base
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
        let cost = record.cost_bytes();
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
        if let Some(command) = &record.command {
            let at = Place { number, term: record.term };
            self.base.take_in(command, at, self.retention.deleted_max);
        }
        self.bytes -= record.cost_bytes();
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

    /// The first invariant that does not hold, if any. Looks at the ends of the history and at the
    /// sizes of the base only, so that it costs the same for every history.
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
        if self.bytes < count * Command::OVERHEAD_BYTES || (count == 0 && self.bytes > 0) {
            return Some("`bytes` is the cost of the records from `first` on");
        }
        if self.is_over_retention() {
            return Some("the history is within its retention");
        }
        self.base.broken_invariant()
    }
}

impl Chunk {
    /// The number after its last record.
    fn end(&self) -> CommandNumber {
        CommandNumber(self.first.0 + self.records.len() as u64)
    }
}

/// The order of changes in the base: by command number, then by version.
pub type Order = (CommandNumber, Version);

/// A key that was deleted.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Deleted {
    /// The version of the deletion.
    pub version: Version,
    /// The number of the command that deleted it.
    pub number: CommandNumber,
    /// The term of that command.
    pub term: Term,
}

/// The state before the first retained command. Its keys can be listed in the order of their last
/// change.
///
/// Invariants: `order` holds exactly the last change of each key of `store` and of `deleted`. No
/// key is in both.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Base {
    store: Store,
    deleted: OrdMap<Bytes, Deleted>,
    order: OrdMap<Order, Bytes>,
    deleted_order: OrdMap<Order, Bytes>,
}

impl Base {
    /// The base with these live and deleted keys.
    pub fn new(store: Store, deleted: OrdMap<Bytes, Deleted>) -> Self {
        let live =
            store.items().iter().map(|(key, item)| ((item.number, item.version), key.clone()));
        let gone: OrdMap<Order, Bytes> =
            deleted.iter().map(|(key, at)| ((at.number, at.version), key.clone())).collect();
        let order = live.chain(gone.iter().map(|(at, key)| (*at, key.clone()))).collect();
        Base { store, deleted, order, deleted_order: gone }
    }

    /// The store.
    pub fn store(&self) -> &Store {
        &self.store
    }

    /// The deleted keys that are still remembered, see [`Retention::deleted_max`].
    pub fn deleted(&self) -> &OrdMap<Bytes, Deleted> {
        &self.deleted
    }

    /// The keys whose last change is within the lower bound `after`, in the order of these changes.
    /// `Ok` holds the item of a live key, `Err` the term in which a key was deleted.
    pub fn changes_after(
        &self,
        after: std::ops::Bound<Order>,
    ) -> impl Iterator<Item = (Order, &Bytes, Result<&Item, Term>)> {
        self.order.range((after, std::ops::Bound::Unbounded)).map(|(at, key)| {
            let change = match self.store.item(key) {
                Some(item) => Ok(item),
                None => Err(self.deleted.get(key).map_or(Term(0), |deleted| deleted.term)),
            };
            (*at, key, change)
        })
    }

    fn take_in(&mut self, command: &Command, at: Place, deleted_max: usize) {
        let Base { store, deleted, order, deleted_order } = self;
        store.execute(command, at, &mut |effect: Effect<'_>| {
            if let Some(before) = effect.before {
                order.remove(&(before.number, before.version));
            } else if let Some(before) = deleted.remove(effect.key) {
                order.remove(&(before.number, before.version));
                deleted_order.remove(&(before.number, before.version));
            }
            let place = (at.number, effect.version);
            order.insert(place, effect.key.clone());
            if !effect.written {
                let gone = Deleted { version: effect.version, number: at.number, term: at.term };
                deleted.insert(effect.key.clone(), gone);
                deleted_order.insert(place, effect.key.clone());
            }
        });
        while deleted.len() > deleted_max {
            let Some((place, key)) = deleted_order.get_min().cloned() else { break };
            deleted_order.remove(&place);
            deleted.remove(&key);
            order.remove(&place);
        }
    }

    /// The first invariant that does not hold, if any, by the numbers of keys and the latest
    /// change.
    pub(crate) fn broken_invariant(&self) -> Option<&'static str> {
        let Base { store, deleted, order, deleted_order } = self;
        if order.len() != store.items().len() + deleted.len() {
            return Some("`order` holds the last change of each key, live or deleted, once");
        }
        if deleted_order.len() != deleted.len() {
            return Some("`deleted_order` holds each deleted key once");
        }
        let (at, key) = order.get_max()?;
        let live = store.item(key).map(|item| (item.number, item.version));
        let gone = deleted.get(key).map(|gone| (gone.number, gone.version));
        if live.xor(gone) != Some(*at) {
            return Some("the latest change is that of its key, which is live or deleted");
        }
        None
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::command::{Change, Condition, Operation};

    fn history() -> History {
        let retention = Retention { commands_max: 600, ..Retention::default() };
        let mut history = History::new(retention, Base::default(), CommandNumber(0));
        for number in 0..1_300 {
            let change = if number % 3 == 0 { Change::Delete } else { Change::Put("v".into()) };
            let key = format!("{}", number % 7).into();
            let command = Command::Write(Operation { key, change, condition: Condition::Always });
            let executed = Executed { reply: crate::command::Reply::Ignored, previous: None };
            let record = Record { term: Term(1), command: Some(command), executed };
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
        let overwritten = |history: &mut History| {
            history.base.order.insert((CommandNumber(0), Version(0)), "1".into());
        };
        assert!(broken(overwritten).is_some());
        assert!(broken(|history| history.base.deleted = OrdMap::new()).is_some());
    }
}
