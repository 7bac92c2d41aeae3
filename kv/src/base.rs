//! The base: the state before the first retained command.
//!
//! It is read from the current state when a listing or a snapshot needs it, so writes do not pay
//! for it. The content of a key belongs to the base if it comes from a command below the first
//! retained one. For a key that no retained command has changed, that is its current content. For
//! any other key it is the earlier content in the record of its first retained change; later
//! records of the key have content from retained commands. So no lookup is needed, and reading the
//! base takes time in proportion to the state and the history.

use crate::deletions::{Deleted, Order};
use crate::history::Before;
use crate::shared_bytes::SharedBytes;
use crate::state::State;
use crate::store::Item;
use raft::{CommandNumber, Term};
use std::collections::BinaryHeap;
use std::ops::Bound;

/// The state before the first retained command of `state`.
#[derive(Clone, Copy, Debug)]
pub struct Base<'a> {
    state: &'a State,
}

/// The last change of a key in the base.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Change {
    /// Its position among all changes.
    pub order: Order,
    /// The key.
    pub key: SharedBytes,
    /// The term of the command that made the change.
    pub term: Term,
    /// The value. `None` if the key was deleted.
    pub value: Option<SharedBytes>,
}

impl PartialOrd for Change {
    fn partial_cmp(&self, other: &Self) -> Option<std::cmp::Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for Change {
    fn cmp(&self, other: &Self) -> std::cmp::Ordering {
        self.order.cmp(&other.order)
    }
}

impl<'a> Base<'a> {
    /// The base of a state.
    pub fn of(state: &'a State) -> Self {
        Base { state }
    }

    /// The keys that exist, with their items. First those that no retained command has changed,
    /// ordered by key, then the others in the order in which they were changed.
    pub fn items(self) -> impl Iterator<Item = (&'a [u8], &'a Item)> {
        let now = self.state.store().items().iter().map(|(key, item)| (&key[..], item));
        let changed = self.changed().filter_map(|(key, before)| Some((key, before.item()?)));
        now.chain(changed).filter(move |(_, item)| self.has(item.number))
    }

    /// The number of these keys.
    pub fn keys(self) -> usize {
        let now = self.state.store().items().values();
        let before = self.before().filter_map(Before::item);
        now.chain(before).filter(|item| self.has(item.number)).count()
    }

    /// The keys that were deleted, as far as this is remembered, in the same order.
    pub fn deleted(self) -> impl Iterator<Item = (&'a [u8], &'a Deleted)> {
        let now = self.state.deletions().keys().iter().map(|(key, deleted)| (&key[..], deleted));
        let changed = self.changed().filter_map(|(key, before)| Some((key, before.deleted()?)));
        now.chain(changed).filter(move |(_, deleted)| self.has(deleted.number))
    }

    /// The number of these keys.
    pub fn deleted_keys(self) -> usize {
        let now = self.state.deletions().keys().values();
        let before = self.before().filter_map(Before::deleted);
        now.chain(before).filter(|deleted| self.has(deleted.number)).count()
    }

    /// Whether a change by command `number` is in the base.
    fn has(self, number: CommandNumber) -> bool {
        number < self.state.history().first()
    }

    /// The keys that retained commands have changed, each with its content before the command.
    fn changed(self) -> impl Iterator<Item = (&'a [u8], &'a Before)> {
        let history = self.state.history();
        history.records_from(history.first()).flat_map(|(_, record)| record.changed())
    }

    /// The same without the keys, which takes less time.
    fn before(self) -> impl Iterator<Item = &'a Before> {
        let history = self.state.history();
        history.records_from(history.first()).flat_map(|(_, record)| record.changes.iter())
    }

    /// The first `max` changes within the lower bound `after`, in order. Each key has one change:
    /// its last one.
    pub fn changes_after(self, after: Bound<Order>, max: usize) -> Vec<Change> {
        let is_after = |order: &Order| match &after {
            Bound::Included(from) => order >= from,
            Bound::Excluded(last) => order > last,
            Bound::Unbounded => true,
        };
        let mut first = BinaryHeap::new();
        let mut take = |order: Order, change: &dyn Fn() -> Change| {
            let is_full = first.len() >= max;
            let is_late = || first.peek().is_none_or(|last: &Change| last.order < order);
            if !is_after(&order) || is_full && is_late() {
                return;
            }
            if is_full {
                first.pop();
            }
            first.push(change());
        };
        for (key, item) in self.items() {
            let order = (item.number, item.version);
            take(order, &|| Change {
                order,
                key: key.into(),
                term: item.term,
                value: Some(item.value.clone()),
            });
        }
        for (key, deleted) in self.deleted() {
            let order = deleted.order();
            take(order, &|| Change { order, key: key.into(), term: deleted.term, value: None });
        }
        first.into_sorted_vec()
    }
}
