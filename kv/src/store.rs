//! The key-value map, and how commands change it.
//!
//! A store knows neither the log nor the history. It reports each change with what the key held
//! before, so that the history can tell the state before any retained command.
//!
//! The map shares structure between its clones. A clone takes constant time, and takes memory only
//! where the two differ later.

use crate::command::{Change, Command, Compat, Kind, Operation, Outcome, Reply, Version};
use crate::shared_bytes::SharedBytes;
use imbl::OrdMap;
use raft::{CommandNumber, Term};
use serde::{Deserialize, Serialize};

/// A value and the write that made it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Item {
    /// The value.
    pub value: SharedBytes,
    /// The version of the write, which the v1 API returns as `ETag`.
    pub version: Version,
    /// The number of the command that wrote it.
    pub number: CommandNumber,
    /// The term of that command.
    pub term: Term,
}

/// The position of the command that is being executed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Place {
    /// Its number in the sequence of all client commands.
    pub number: CommandNumber,
    /// The term of its log entry.
    pub term: Term,
}

/// The effect of a command on one key, for the observer of [`Store::execute`].
#[derive(Debug)]
pub struct Effect<'a> {
    /// The key that changed.
    pub key: &'a [u8],
    /// The item before the change, if the key existed.
    pub before: Option<Item>,
    /// The version of the change.
    pub version: Version,
    /// True for a write, false for a removal.
    pub written: bool,
}

/// The map, and the version of its latest change.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Store {
    items: OrdMap<SharedBytes, Item>,
    revision: Version,
}

/// The outcome of a command, with the previous value that the compatible API reports.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Executed {
    /// The reply for the client that proposed the command.
    pub reply: Reply,
    /// The value before the command, if the key existed. For a batch: that of its first operation.
    pub previous: Option<SharedBytes>,
}

impl Store {
    /// A store with these items, whose latest change had version `revision`.
    pub fn new(items: OrdMap<SharedBytes, Item>, revision: Version) -> Self {
        Store { items, revision }
    }

    /// The value under a key.
    pub fn item(&self, key: &[u8]) -> Option<&Item> {
        self.items.get(key)
    }

    /// All items, ordered by key.
    pub fn items(&self) -> &OrdMap<SharedBytes, Item> {
        &self.items
    }

    /// The version of the latest change.
    pub fn revision(&self) -> Version {
        self.revision
    }

    /// Executes a command, and calls `observe` for each key that it changes. Deterministic: the
    /// result depends only on the store, the command and its place.
    pub fn execute(
        &mut self,
        command: &Command<&[u8]>,
        at: Place,
        observe: &mut dyn FnMut(Effect<'_>),
    ) -> Executed {
        match command {
            Command::Compat(compat) => self.compat(compat, at, observe),
            Command::Write(operation) => {
                let (outcome, previous) = self.operation(operation, at, observe);
                Executed { reply: Reply::Write(outcome), previous }
            }
            Command::Batch(operations) => {
                let mut outcomes = Vec::with_capacity(operations.len());
                let mut first = None;
                for operation in operations {
                    let (outcome, previous) = self.operation(operation, at, observe);
                    first.get_or_insert(previous);
                    outcomes.push(outcome);
                }
                Executed { reply: Reply::Batch(outcomes), previous: first.flatten() }
            }
        }
    }

    fn compat(
        &mut self,
        compat: &Compat<&[u8]>,
        at: Place,
        observe: &mut dyn FnMut(Effect<'_>),
    ) -> Executed {
        let previous = match compat.kind {
            Kind::Put => None,
            Kind::Get | Kind::Cas => self.item(compat.key).map(|item| item.value.clone()),
        };
        let writes = match compat.kind {
            Kind::Put => true,
            Kind::Get => false,
            // A missing key has no value, so it never equals the expected value, not even the empty
            // one.
            Kind::Cas => previous.as_deref() == Some(compat.compare_value),
        };
        let previous =
            if writes { self.put(compat.key, compat.value, at, observe).1 } else { previous };
        Executed { reply: Reply::Compat { previous: previous.clone(), written: writes }, previous }
    }

    fn operation(
        &mut self,
        operation: &Operation<&[u8]>,
        at: Place,
        observe: &mut dyn FnMut(Effect<'_>),
    ) -> (Outcome, Option<SharedBytes>) {
        let key = operation.key;
        if operation.condition != crate::command::Condition::Always {
            let current = self.item(key);
            let version = current.map(|item| item.version);
            if !operation.condition.holds(version) {
                let previous = current.map(|item| item.value.clone());
                return (Outcome::Failed { current: version }, previous);
            }
        }
        match &operation.change {
            Change::Put(value) => {
                let (version, previous) = self.put(key, value, at, observe);
                (Outcome::Written { version }, previous)
            }
            Change::Delete => self.delete(key, observe),
        }
    }

    fn put(
        &mut self,
        key: &[u8],
        value: &[u8],
        at: Place,
        observe: &mut dyn FnMut(Effect<'_>),
    ) -> (Version, Option<SharedBytes>) {
        let version = self.next_revision();
        let item = Item { value: value.into(), version, number: at.number, term: at.term };
        // A key that exists keeps its bytes.
        let before = match self.items.get_mut(key) {
            Some(held) => Some(std::mem::replace(held, item)),
            None => self.items.insert(key.into(), item),
        };
        let previous = before.as_ref().map(|item| item.value.clone());
        observe(Effect { key, before, version, written: true });
        (version, previous)
    }

    fn delete(
        &mut self,
        key: &[u8],
        observe: &mut dyn FnMut(Effect<'_>),
    ) -> (Outcome, Option<SharedBytes>) {
        let Some(before) = self.items.remove(key) else { return (Outcome::Missing, None) };
        let version = self.next_revision();
        let previous = Some(before.value.clone());
        observe(Effect { key, before: Some(before), version, written: false });
        (Outcome::Deleted { version }, previous)
    }

    fn next_revision(&mut self) -> Version {
        self.revision = Version(self.revision.0 + 1);
        self.revision
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::command::Condition;

    fn run(store: &mut Store, number: u64, command: Command) -> Reply {
        let at = Place { number: CommandNumber(number), term: Term(1) };
        let bytes = command.encode();
        let command = Command::decode(&bytes).expect("it has just been encoded");
        store.execute(&command, at, &mut |_| ()).reply
    }

    fn compat(kind: Kind, value: &'static str, compare_value: &'static str) -> Command {
        Command::Compat(Compat {
            kind,
            key: "k".into(),
            value: value.into(),
            compare_value: compare_value.into(),
            id: 0,
        })
    }

    fn write(change: Change, condition: Condition) -> Command {
        Command::Write(Operation { key: "k".into(), change, condition })
    }

    fn previous(value: Option<&'static str>, written: bool) -> Reply {
        Reply::Compat { previous: value.map(|value| value.as_bytes().into()), written }
    }

    #[test]
    fn a_cas_writes_only_over_the_value_it_expects() {
        let mut store = Store::default();
        assert_eq!(run(&mut store, 0, compat(Kind::Cas, "b", "")), previous(None, false));
        assert_eq!(run(&mut store, 1, compat(Kind::Put, "a", "")), previous(None, true));
        assert_eq!(run(&mut store, 2, compat(Kind::Cas, "c", "b")), previous(Some("a"), false));
        assert_eq!(run(&mut store, 3, compat(Kind::Cas, "b", "a")), previous(Some("a"), true));
        assert_eq!(run(&mut store, 4, compat(Kind::Get, "", "")), previous(Some("b"), false));
        assert_eq!(run(&mut store, 5, compat(Kind::Put, "c", "")), previous(Some("b"), true));
    }

    #[test]
    fn a_version_is_never_used_again_not_after_a_delete_either() {
        let mut store = Store::default();
        let put = || write(Change::Put("x".into()), Condition::Always);
        let delete = || write(Change::Delete, Condition::Always);
        let written = |v| Reply::Write(Outcome::Written { version: Version(v) });
        assert_eq!(run(&mut store, 0, put()), written(1));
        let deleted = Reply::Write(Outcome::Deleted { version: Version(2) });
        assert_eq!(run(&mut store, 1, delete()), deleted);
        assert_eq!(run(&mut store, 2, delete()), Reply::Write(Outcome::Missing));
        assert_eq!(run(&mut store, 3, put()), written(3));
    }

    #[test]
    fn a_condition_that_does_not_hold_tells_what_holds_instead() {
        let mut store = Store::default();
        let put = |condition| write(Change::Put("x".into()), condition);
        let failed = |v: Option<u64>| Reply::Write(Outcome::Failed { current: v.map(Version) });
        let written = |v| Reply::Write(Outcome::Written { version: Version(v) });
        assert_eq!(run(&mut store, 0, put(Condition::Exists)), failed(None));
        assert_eq!(run(&mut store, 1, put(Condition::Is(Version(1)))), failed(None));
        assert_eq!(run(&mut store, 2, put(Condition::Absent)), written(1));
        assert_eq!(run(&mut store, 3, put(Condition::Absent)), failed(Some(1)));
        assert_eq!(run(&mut store, 4, put(Condition::Is(Version(2)))), failed(Some(1)));
        assert_eq!(run(&mut store, 5, put(Condition::Is(Version(1)))), written(2));
        assert_eq!(run(&mut store, 6, put(Condition::IsNot(Version(2)))), failed(Some(2)));
        assert_eq!(run(&mut store, 7, put(Condition::IsNot(Version(1)))), written(3));
        assert_eq!(run(&mut store, 8, put(Condition::Exists)), written(4));
    }

    #[test]
    fn in_a_batch_each_operation_has_its_own_outcome() {
        let mut store = Store::default();
        let operation =
            |key: &'static str, change, condition| Operation { key: key.into(), change, condition };
        let batch = Command::Batch(vec![
            operation("a", Change::Put("1".into()), Condition::Always),
            operation("a", Change::Put("2".into()), Condition::Absent),
            operation("b", Change::Delete, Condition::Always),
            operation("a", Change::Delete, Condition::Is(Version(1))),
        ]);
        let outcomes = vec![
            Outcome::Written { version: Version(1) },
            Outcome::Failed { current: Some(Version(1)) },
            Outcome::Missing,
            Outcome::Deleted { version: Version(2) },
        ];
        assert_eq!(run(&mut store, 0, batch), Reply::Batch(outcomes));
        assert!(store.items().is_empty());
    }
}
