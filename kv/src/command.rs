//! What clients ask the store to do, and what came of it, as values and as bytes.
//!
//! A command becomes bytes once, on its way into the log, and is decoded on every node. Whatever is
//! in the log, every node must make the same of it: bytes that are no command decode to nothing, on
//! every node, and the machine then ignores them. The encoding is [`storage::codec`]'s, after one
//! byte that tells its version.

use bytes::Bytes;
use serde::{Deserialize, Serialize};
use std::fmt;
use storage::codec;

/// The cluster-wide number of a write: the n-th change of the store has version n. It only grows
/// and is never used again, not after a delete either.
#[derive(
    Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize,
)]
#[serde(transparent)]
pub struct Version(pub u64);

impl fmt::Display for Version {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.0)
    }
}

/// What a client asks to be done.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Command {
    /// A command in the vocabulary of the compatible API.
    Compat(Compat),
    /// One operation of the v1 API.
    Write(Operation),
    /// Several operations of the v1 API. Each has an outcome of its own: one that fails does not
    /// keep the others from being done.
    Batch(Vec<Operation>),
}

/// A command in the vocabulary of the compatible API, just as the client gave it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Compat {
    /// What to do.
    pub kind: Kind,
    /// With which key.
    pub key: Bytes,
    /// The value to write; a `get` has no use for it.
    pub value: Bytes,
    /// The value that a `cas` expects; the others have no use for it.
    pub compare_value: Bytes,
    /// A number that the client chose.
    pub id: i128,
}

/// What a compatible command does.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Kind {
    /// Writes.
    Put,
    /// Changes nothing and yields the value.
    Get,
    /// Writes if the key exists and has exactly the value that is expected.
    Cas,
}

/// One operation of the v1 API on one key.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Operation {
    /// Which key.
    pub key: Bytes,
    /// What to do with it.
    pub change: Change,
    /// What must hold, or else nothing is done.
    pub condition: Condition,
}

/// What an operation does.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Change {
    /// Writes a value.
    Put(Bytes),
    /// Removes the key and its value.
    Delete,
}

/// What must hold for an operation to be done.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Condition {
    /// Nothing.
    Always,
    /// The key exists: `If-Match: *`.
    Exists,
    /// The key does not exist: `If-None-Match: *`.
    Absent,
    /// The key exists with this version: `If-Match: "7"`.
    Is(Version),
    /// The key does not exist, or has another version: `If-None-Match: "7"`.
    IsNot(Version),
    /// The key exists with one of these versions: `If-Match: "7", "9"`.
    AnyOf(Vec<Version>),
    /// The key does not exist, or has none of these versions: `If-None-Match: "7", "9"`.
    NoneOf(Vec<Version>),
}

impl Condition {
    /// Whether it holds for a key whose version is `current`.
    pub fn holds(&self, current: Option<Version>) -> bool {
        match self {
            Condition::Always => true,
            Condition::Exists => current.is_some(),
            Condition::Absent => current.is_none(),
            Condition::Is(version) => current == Some(*version),
            Condition::IsNot(version) => current != Some(*version),
            Condition::AnyOf(versions) => current.is_some_and(|found| versions.contains(&found)),
            Condition::NoneOf(versions) => current.is_none_or(|found| !versions.contains(&found)),
        }
    }
}

/// What came of a command.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Reply {
    /// It was no command that this version knows, and nothing was done.
    Ignored,
    /// Of a compatible command.
    Compat {
        /// The value before the command, if the key existed.
        previous: Option<Bytes>,
        /// Whether it wrote.
        written: bool,
    },
    /// Of one operation.
    Write(Outcome),
    /// Of each operation of a batch, in order.
    Batch(Vec<Outcome>),
}

/// What came of one operation.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Outcome {
    /// The value was written.
    Written {
        /// The version that the write got.
        version: Version,
    },
    /// The key was removed.
    Deleted {
        /// The version that the removal got.
        version: Version,
    },
    /// There was nothing to remove.
    Missing,
    /// The condition did not hold, and nothing was done.
    Failed {
        /// The version that the key had instead, if it exists.
        current: Option<Version>,
    },
}

impl Command {
    /// Its bytes in the log.
    pub fn encode(&self) -> Bytes {
        encode(self, self.cost_bytes())
    }

    /// The command that has these bytes in the log, if there is one.
    pub fn decode(bytes: &[u8]) -> Option<Self> {
        decode(bytes)
    }

    /// How many bytes it counts as where commands are retained: its keys and values, and
    /// [`Command::OVERHEAD_BYTES`] for each operation.
    pub fn cost_bytes(&self) -> usize {
        match self {
            Command::Compat(compat) => {
                let texts = compat.key.len() + compat.value.len() + compat.compare_value.len();
                Self::OVERHEAD_BYTES + texts
            }
            Command::Write(operation) => operation.cost_bytes(),
            Command::Batch(operations) => {
                Self::OVERHEAD_BYTES + operations.iter().map(Operation::cost_bytes).sum::<usize>()
            }
        }
    }

    /// What an operation costs beside its key and its value.
    pub const OVERHEAD_BYTES: usize = 192;
}

impl Operation {
    fn cost_bytes(&self) -> usize {
        let value = match &self.change {
            Change::Put(value) => value.len(),
            Change::Delete => 0,
        };
        Command::OVERHEAD_BYTES + self.key.len() + value
    }
}

impl Reply {
    /// Its bytes on the way from the state machine to the client that waits.
    pub fn encode(&self) -> Bytes {
        let expected = match self {
            Reply::Compat { previous: Some(value), .. } => value.len() + 16,
            _ => 16,
        };
        encode(self, expected)
    }

    /// The reply with these bytes. `None` is a bug of this program, not of a client.
    pub fn decode(bytes: &[u8]) -> Option<Self> {
        decode(bytes)
    }
}

fn encode<T: Serialize>(value: &T, expected_bytes: usize) -> Bytes {
    let mut bytes = Vec::with_capacity(expected_bytes + 1);
    bytes.push(codec::VERSION);
    codec::encode(value, &mut bytes);
    Bytes::from(bytes)
}

fn decode<T: for<'de> Deserialize<'de>>(bytes: &[u8]) -> Option<T> {
    let (version, body) = bytes.split_first()?;
    if *version != codec::VERSION {
        return None;
    }
    codec::decode(body).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn put(key: &'static str, value: &'static str) -> Operation {
        Operation {
            key: Bytes::from_static(key.as_bytes()),
            change: Change::Put(Bytes::from_static(value.as_bytes())),
            condition: Condition::Is(Version(7)),
        }
    }

    #[test]
    fn a_command_comes_out_of_the_log_as_it_went_in() {
        let compat = Compat {
            kind: Kind::Cas,
            key: "hello".into(),
            value: "new".into(),
            compare_value: "".into(),
            id: i128::from(u64::MAX),
        };
        for command in [
            Command::Compat(compat),
            Command::Write(put("a", "1")),
            Command::Batch(vec![put("a", "1"), put("b", "")]),
            Command::Batch(vec![]),
        ] {
            assert_eq!(Command::decode(&command.encode()), Some(command));
        }
    }

    #[test]
    fn bytes_that_are_no_command_decode_to_nothing() {
        let good = Command::Write(put("a", "1")).encode();
        for len in 0..good.len() {
            assert_eq!(Command::decode(&good[..len]), None);
        }
        let mut later = good.to_vec();
        later[0] += 1;
        assert_eq!(Command::decode(&later), None);
        let mut longer = good.to_vec();
        longer.push(0);
        assert_eq!(Command::decode(&longer), None);
        assert_eq!(Command::decode(b"\x01\x77junk"), None);
    }

    #[test]
    fn the_bytes_of_a_command_in_the_log_are_fixed() {
        // If this fails, logs of an earlier version are read wrongly: raise the codec's version.
        let bytes = Command::Write(put("a", "1")).encode();
        assert_eq!(&bytes[..], b"\x02\x01\x01a\x00\x011\x03\x07");
    }
}
