//! A client of the older system. It keeps a copy of the store by replaying new commits, and reads
//! from its copy.
//!
//! It knows only the old commands, in which a removed key is an empty text. Here the two are the
//! same.

use serde_json::Value;
use std::collections::BTreeMap;

/// A client's copy of the store.
#[derive(Clone, Debug)]
pub struct Replica {
    /// The number of the last commit in it; -1 for none.
    pub since: i64,
    values: BTreeMap<String, String>,
}

impl Replica {
    /// Creates an empty copy.
    pub fn new() -> Self {
        Replica { since: -1, values: BTreeMap::new() }
    }

    /// Replays the commits of a listing that begins after `since`.
    pub fn take(&mut self, commits: &[Value]) {
        for commit in commits {
            let command = &commit["command"];
            let text = |name: &str| command[name].as_str().unwrap_or_default().to_owned();
            let key = text("key");
            match command["kind"].as_str() {
                Some("put") => drop(self.values.insert(key, text("value"))),
                // A missing key has no value that could equal the expected one.
                Some("cas") if self.values.get(&key) == Some(&text("compare_value")) => {
                    self.values.insert(key, text("value"));
                }
                _ => {}
            }
            if let Some(number) = commit["index"].as_i64() {
                self.since = number;
            }
        }
    }

    /// The keys of all replayed commits.
    pub fn keys(&self) -> impl Iterator<Item = &str> {
        self.values.keys().map(String::as_str)
    }

    /// The value under a key; the empty text for none.
    pub fn value(&self, key: &str) -> &str {
        self.values.get(key).map_or("", String::as_str)
    }

    /// A key whose values in the two copies differ, if there is one.
    pub fn difference<'a>(&'a self, other: &'a Replica) -> Option<&'a str> {
        self.keys().chain(other.keys()).find(|key| self.value(key) != other.value(key))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn commit(index: u64, kind: &str, value: &str, compare_value: &str) -> Value {
        let command = json!({
            "kind": kind, "key": "k", "value": value, "compare_value": compare_value, "id": 0,
        });
        json!({ "index": index, "term": 1, "command": command })
    }

    #[test]
    fn a_replay_does_what_the_store_did() {
        let mut replica = Replica::new();
        replica.take(&[commit(0, "cas", "a", "")]);
        assert_eq!((replica.value("k"), replica.since), ("", 0), "there was nothing");
        replica.take(&[commit(1, "put", "", ""), commit(2, "cas", "b", "")]);
        assert_eq!((replica.value("k"), replica.since), ("b", 2));
        replica.take(&[commit(3, "cas", "c", "a"), commit(4, "get", "d", "")]);
        assert_eq!((replica.value("k"), replica.since), ("b", 4));
    }

    #[test]
    fn what_was_removed_is_as_what_was_never_there() {
        let (mut one, other) = (Replica::new(), Replica::new());
        one.take(&[commit(0, "put", "a", "")]);
        assert_eq!(one.difference(&other), Some("k"));
        one.take(&[commit(1, "put", "", "")]);
        assert_eq!(one.difference(&other), None);
    }
}
