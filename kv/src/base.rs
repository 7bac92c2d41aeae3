//! The base: the state before the first retained command.
//!
//! It is computed from the current state when a listing or a snapshot needs it: the first retained
//! change of a key tells what the key held before, and any other key holds now what it held then.
//! So writes do not pay for it. Computing it takes time in proportion to the history, and reading
//! it in proportion to the state.

use crate::deletions::{Deleted, Order};
use crate::history::Before;
use crate::state::State;
use crate::store::Item;
use bytes::Bytes;
use raft::Term;
use std::collections::{BTreeMap, BinaryHeap};
use std::ops::Bound;

/// The state before the first retained command of `state`.
#[derive(Debug)]
pub struct Base<'a> {
    state: &'a State,
    /// The earlier content of the keys that retained commands have changed.
    changed: BTreeMap<&'a Bytes, &'a Before>,
}

/// The last change of a key in the base.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Change {
    /// Its position among all changes.
    pub order: Order,
    /// The key.
    pub key: Bytes,
    /// The term of the command that made the change.
    pub term: Term,
    /// The value. `None` if the key was deleted.
    pub value: Option<Bytes>,
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
        let mut changed = BTreeMap::new();
        let history = state.history();
        for (_, record) in history.records_from(history.first()) {
            for (key, before) in record.changes.iter() {
                changed.entry(key).or_insert(before);
            }
        }
        Base { state, changed }
    }

    /// The keys that exist, with their items, ordered by key.
    pub fn items(&self) -> impl Iterator<Item = (&'a Bytes, &'a Item)> {
        let before = self.changed.iter().map(|(key, before)| match before {
            Before::Item(item) => (*key, Some(item)),
            Before::Deleted(_) | Before::Nothing => (*key, None),
        });
        overlaid(self.state.store().items().iter(), before)
    }

    /// The keys that were deleted, as far as this is remembered, ordered by key.
    pub fn deleted(&self) -> impl Iterator<Item = (&'a Bytes, &'a Deleted)> {
        let before = self.changed.iter().map(|(key, before)| match before {
            Before::Deleted(deleted) => (*key, Some(deleted)),
            Before::Item(_) | Before::Nothing => (*key, None),
        });
        overlaid(self.state.deletions().keys().iter(), before)
    }

    /// The first `max` changes within the lower bound `after`, in order. Each key has one change:
    /// its last one.
    pub fn changes_after(&self, after: Bound<Order>, max: usize) -> Vec<Change> {
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
                key: key.clone(),
                term: item.term,
                value: Some(item.value.clone()),
            });
        }
        for (key, deleted) in self.deleted() {
            let order = deleted.order();
            take(order, &|| Change { order, key: key.clone(), term: deleted.term, value: None });
        }
        first.into_sorted_vec()
    }
}

/// The entries of `now`, with those of `before` in their place. A key that had nothing before is
/// left out. All are ordered by key.
fn overlaid<'a, T: 'a>(
    now: impl Iterator<Item = (&'a Bytes, &'a T)>,
    before: impl Iterator<Item = (&'a Bytes, Option<&'a T>)>,
) -> impl Iterator<Item = (&'a Bytes, &'a T)> {
    let (mut now, mut before) = (now.peekable(), before.peekable());
    std::iter::from_fn(move || {
        loop {
            let Some((changed, _)) = before.peek() else { return now.next() };
            if let Some(unchanged) = now.next_if(|(key, _)| key < changed) {
                return Some(unchanged);
            }
            let (changed, held) = before.next()?;
            now.next_if(|(key, _)| *key == changed);
            if let Some(held) = held {
                return Some((changed, held));
            }
        }
    })
}
