//! The keys that were deleted, and when.
//!
//! The compatible API has no delete, so its listing shows a deleted key as a put of the empty
//! string. The store itself forgets a key with its deletion; this remembers it, up to a limit.

use crate::command::Version;
use crate::shared_bytes::SharedBytes;
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
/// Invariants: `order` holds exactly the deletions of `keys`; `bytes` is their cost.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Deletions {
    keys: OrdMap<SharedBytes, Deleted>,
    order: OrdMap<Order, SharedBytes>,
    bytes: usize,
}

/// The memory of a deleted key besides the key itself, in both maps.
const OVERHEAD_BYTES: usize = 192;

fn cost_bytes(key: &[u8]) -> usize {
    OVERHEAD_BYTES + key.len()
}

impl Deletions {
    /// These deletions.
    pub fn new(keys: OrdMap<SharedBytes, Deleted>) -> Self {
        let order = keys.iter().map(|(key, at)| (at.order(), key.clone())).collect();
        let bytes = keys.keys().map(|key| cost_bytes(key)).sum();
        Deletions { keys, order, bytes }
    }

    /// The deleted keys, ordered by key.
    pub fn keys(&self) -> &OrdMap<SharedBytes, Deleted> {
        &self.keys
    }

    /// Adds the deletion of a key. Beyond `max` keys or `bytes_max` bytes, the keys that were
    /// deleted first are forgotten.
    pub fn insert(&mut self, key: &[u8], deleted: Deleted, max: usize, bytes_max: usize) {
        self.bytes += cost_bytes(key);
        let key = SharedBytes::from(key);
        self.order.insert(deleted.order(), key.clone());
        self.keys.insert(key, deleted);
        while self.keys.len() > max || self.bytes > bytes_max {
            let Some((at, key)) = self.order.get_min().cloned() else { break };
            self.order.remove(&at);
            self.keys.remove(&key);
            self.bytes -= cost_bytes(&key);
        }
    }

    /// Removes a key that is written again. Returns its deletion, if it is remembered.
    pub fn remove(&mut self, key: &[u8]) -> Option<Deleted> {
        let deleted = self.keys.remove(key)?;
        self.order.remove(&deleted.order());
        self.bytes -= cost_bytes(key);
        Some(deleted)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn deleted(version: u64) -> Deleted {
        Deleted { version: Version(version), number: CommandNumber(version), term: Term(1) }
    }

    #[test]
    fn keys_are_forgotten_by_their_number_and_by_their_bytes() {
        let mut deletions = Deletions::default();
        let key = |n: u8| vec![n; 1_000];
        let three = 3 * cost_bytes(&key(0));
        for n in 0..5 {
            deletions.insert(&key(n), deleted(n.into()), 100, three);
        }
        let left = |deletions: &Deletions| -> Vec<u8> {
            deletions.keys().keys().map(|key| key[0]).collect()
        };
        assert_eq!(left(&deletions), [2, 3, 4]);
        assert!(deletions.remove(&key(3)).is_some());
        deletions.insert(&key(5), deleted(5), 100, three);
        assert_eq!(left(&deletions), [2, 4, 5]);
        deletions.insert(&key(6), deleted(6), 2, usize::MAX);
        assert_eq!(left(&deletions), [5, 6]);
        assert_eq!(deletions, Deletions::new(deletions.keys().clone()));
    }
}
