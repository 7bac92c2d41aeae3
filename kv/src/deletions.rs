//! The keys that were deleted, and when.
//!
//! The compatible API has no delete, so its listing shows a deleted key as a put of the empty
//! string. The store itself forgets a key with its deletion; this remembers it, up to a limit.

use crate::command::Version;
use bytes::Bytes;
use imbl::OrdMap;
use raft::{CommandNumber, Term};
use serde::{Deserialize, Serialize};

/// The order of changes: by command number, then by version.
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

impl Deleted {
    /// The position of the deletion among all changes.
    pub fn order(&self) -> Order {
        (self.number, self.version)
    }
}

/// The deleted keys. No key that exists is among them.
///
/// Invariant: `order` holds exactly the deletions of `keys`.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Deletions {
    keys: OrdMap<Bytes, Deleted>,
    order: OrdMap<Order, Bytes>,
}

impl Deletions {
    /// These deletions.
    pub fn new(keys: OrdMap<Bytes, Deleted>) -> Self {
        let order = keys.iter().map(|(key, at)| (at.order(), key.clone())).collect();
        Deletions { keys, order }
    }

    /// The deleted keys, ordered by key.
    pub fn keys(&self) -> &OrdMap<Bytes, Deleted> {
        &self.keys
    }

    /// Adds the deletion of a key. Beyond `max` keys, those that were deleted first are forgotten.
    pub fn insert(&mut self, key: Bytes, deleted: Deleted, max: usize) {
        self.order.insert(deleted.order(), key.clone());
        self.keys.insert(key, deleted);
        while self.keys.len() > max {
            let Some((at, key)) = self.order.get_min().cloned() else { break };
            self.order.remove(&at);
            self.keys.remove(&key);
        }
    }

    /// Removes a key that is written again. Returns its deletion, if it is remembered.
    pub fn remove(&mut self, key: &Bytes) -> Option<Deleted> {
        let deleted = self.keys.remove(key)?;
        self.order.remove(&deleted.order());
        Some(deleted)
    }
}
