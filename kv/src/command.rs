//! The commands of the store, their replies, and the encoding of both.
//!
//! A command is encoded once, before it is proposed, and every node decodes it from the log.
//! Decoding is deterministic: bytes that are not a command decode to `None` on every node, and the
//! state machine ignores them. The encoding is one version byte, then [`storage::codec`].

use crate::shared_bytes::SharedBytes;
use bytes::Bytes;
use serde::{Deserialize, Serialize};
use std::fmt;
use storage::codec;

/// The cluster-wide number of a change: the n-th change of the store has version n. A delete is a
/// change too. A version is never used again.
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

/// Added to the cost of a command for each operation, for the memory that it takes besides its key
/// and value.
pub const OVERHEAD_BYTES: usize = 192;

/// At least what the encoding of an operation adds to its key and value, without versions.
const ENCODED_OVERHEAD_BYTES: usize = 32;

/// An entry of the log, as the state machine executes it. `B` holds the keys and values.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Command<B = Bytes> {
    /// A command in the vocabulary of the compatible API.
    Compat(Compat<B>),
    /// One operation of the v1 API.
    Write(Operation<B>),
    /// Several operations of the v1 API, executed in order as one log entry. Each has its own
    /// outcome: if the condition of one fails, the others are executed all the same.
    Batch(Vec<Operation<B>>),
}

/// A command of the compatible API, with all fields as the client sent them.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Compat<B = Bytes> {
    /// Selects which of the other fields have an effect.
    pub kind: Kind,
    /// The key to read or write. It may be empty.
    pub key: B,
    /// The value to write. A `get` ignores it.
    pub value: B,
    /// The value that a `cas` expects. `put` and `get` ignore it.
    pub compare_value: B,
    /// A number that the client chose. It is returned in listings and has no effect on the store.
    pub id: i128,
}

/// The kind of a compatible command.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Kind {
    /// Writes the value unconditionally.
    Put,
    /// Reads the value through the log. Changes nothing.
    Get,
    /// Writes if the key exists and has exactly the value that is expected.
    Cas,
}

/// One operation of the v1 API on one key.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Operation<B = Bytes> {
    /// The key that is changed.
    pub key: B,
    /// Write or remove.
    pub change: Change<B>,
    /// Checked before the change. If it does not hold, nothing is changed.
    pub condition: Condition,
}

/// The change that an operation makes.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Change<B = Bytes> {
    /// Writes a value.
    Put(B),
    /// Removes the key and its value.
    Delete,
}

/// A precondition of an operation, from the `If-Match` or `If-None-Match` of the request.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Condition {
    /// No precondition.
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
    /// Whether the condition holds for a key with version `current`; `None` if the key does not
    /// exist.
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

/// The outcome of a command, for the client that waits for it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Reply {
    /// The bytes in the log were not a command that this version knows. Nothing was done.
    Ignored,
    /// The outcome of a compatible command.
    Compat {
        /// The value before the command, if the key existed.
        previous: Option<SharedBytes>,
        /// Whether the command wrote its value. Always false for `get`.
        written: bool,
    },
    /// The outcome of one operation.
    Write(Outcome),
    /// The outcome of each operation of a batch, in order.
    Batch(Vec<Outcome>),
}

/// The outcome of one operation.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Outcome {
    /// The value was written.
    Written {
        /// The version of this write.
        version: Version,
    },
    /// The key was removed.
    Deleted {
        /// The version of this removal.
        version: Version,
    },
    /// The key to remove did not exist. Nothing was changed.
    Missing,
    /// The condition did not hold. Nothing was changed.
    Failed {
        /// The version of the key, if it exists.
        current: Option<Version>,
    },
}

impl<'a> Command<&'a [u8]> {
    /// The command with this encoding; `None` if the bytes are not a command of this version. Its
    /// keys and values are slices of the bytes.
    pub fn decode(bytes: &'a [u8]) -> Option<Self> {
        codec::decode_borrowed(body(bytes)?).ok()
    }

    /// The keys that the command changed, in order. A key that a batch changes twice is here twice.
    /// `reply` is the reply of this command.
    pub fn changed(self, reply: &Reply) -> Vec<&'a [u8]> {
        match (self, reply) {
            (Command::Compat(compat), Reply::Compat { written: true, .. }) => {
                vec![compat.key]
            }
            (Command::Write(operation), Reply::Write(outcome)) => {
                outcome.has_changed().then_some(operation.key).into_iter().collect()
            }
            (Command::Batch(operations), Reply::Batch(outcomes)) => {
                let each = operations.into_iter().zip(outcomes);
                each.filter(|(_, outcome)| outcome.has_changed()).map(|(one, _)| one.key).collect()
            }
            _ => Vec::new(),
        }
    }
}

impl Command {
    /// The command with this encoding, in memory shared with it. `None` if the bytes are not a
    /// command of this version.
    pub fn decode_sharing(bytes: &Bytes) -> Option<Self> {
        Some(Command::decode(bytes)?.map(&|part: &[u8]| bytes.slice_ref(part)))
    }
}

impl<B: AsRef<[u8]> + Serialize> Command<B> {
    /// The encoding of the command in the log.
    pub fn encode(&self) -> Bytes {
        encode(self, self.bytes_with(ENCODED_OVERHEAD_BYTES))
    }

    /// The size of the command as the history counts it: its keys and values, and
    /// [`OVERHEAD_BYTES`] for each operation. A batch has one overhead more.
    pub fn cost_bytes(&self) -> usize {
        self.bytes_with(OVERHEAD_BYTES)
    }

    /// The bytes of all keys and values, and `overhead` for each operation and for a batch.
    fn bytes_with(&self, overhead: usize) -> usize {
        match self {
            Command::Compat(compat) => {
                let texts = [&compat.key, &compat.value, &compat.compare_value];
                overhead + texts.map(|text| text.as_ref().len()).iter().sum::<usize>()
            }
            Command::Write(operation) => overhead + operation.text_bytes(),
            Command::Batch(operations) => {
                let each = operations.iter().map(|one| overhead + one.text_bytes());
                overhead + each.sum::<usize>()
            }
        }
    }
}

impl<B> Command<B> {
    /// The same command, with its keys and values in another form.
    fn map<C>(self, form: &impl Fn(B) -> C) -> Command<C> {
        match self {
            Command::Compat(compat) => Command::Compat(Compat {
                kind: compat.kind,
                key: form(compat.key),
                value: form(compat.value),
                compare_value: form(compat.compare_value),
                id: compat.id,
            }),
            Command::Write(operation) => Command::Write(operation.map(form)),
            Command::Batch(operations) => {
                Command::Batch(operations.into_iter().map(|one| one.map(form)).collect())
            }
        }
    }
}

impl<B> Operation<B> {
    fn map<C>(self, form: &impl Fn(B) -> C) -> Operation<C> {
        let change = match self.change {
            Change::Put(value) => Change::Put(form(value)),
            Change::Delete => Change::Delete,
        };
        Operation { key: form(self.key), change, condition: self.condition }
    }
}

impl<B: AsRef<[u8]>> Operation<B> {
    fn text_bytes(&self) -> usize {
        let value = match &self.change {
            Change::Put(value) => value.as_ref().len(),
            Change::Delete => 0,
        };
        self.key.as_ref().len() + value
    }
}

impl Outcome {
    /// Whether the operation wrote or removed its key.
    pub fn has_changed(&self) -> bool {
        matches!(self, Outcome::Written { .. } | Outcome::Deleted { .. })
    }
}

impl Reply {
    /// The encoding in which the driver returns the reply to the waiting request.
    pub fn encode(&self) -> Bytes {
        let expected = match self {
            Reply::Compat { previous: Some(value), .. } => value.len() + 16,
            _ => 16,
        };
        encode(self, expected)
    }

    /// The reply with this encoding. `None` means a bug in this program: no client input leads to
    /// it.
    pub fn decode(bytes: &[u8]) -> Option<Self> {
        codec::decode(body(bytes)?).ok()
    }
}

fn encode<T: Serialize>(value: &T, expected_bytes: usize) -> Bytes {
    let mut bytes = Vec::with_capacity(expected_bytes + 1);
    bytes.push(codec::VERSION);
    codec::encode(value, &mut bytes);
    // Without the spare capacity, which would stay in memory for as long as the value.
    Bytes::from(bytes.into_boxed_slice())
}

/// The bytes after the version, if it is this one.
fn body(bytes: &[u8]) -> Option<&[u8]> {
    let (version, body) = bytes.split_first()?;
    (*version == codec::VERSION).then_some(body)
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
            assert_eq!(Command::decode_sharing(&command.encode()), Some(command));
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
    fn what_a_command_changed_follows_from_its_reply() {
        let operation =
            |key: &'static str, change| Operation { key: key.into(), change, ..put("", "") };
        let batch = Command::Batch(vec![
            operation("a", Change::Put("1".into())),
            operation("b", Change::Delete),
            operation("c", Change::Delete),
            operation("a", Change::Put("2".into())),
        ]);
        let version = Version(1);
        let outcomes = vec![
            Outcome::Written { version },
            Outcome::Deleted { version },
            Outcome::Missing,
            Outcome::Failed { current: None },
        ];
        let bytes = batch.encode();
        let changed = Command::decode(&bytes).expect("a batch").changed(&Reply::Batch(outcomes));
        assert_eq!(changed, [b"a", b"b"]);
    }

    #[test]
    fn the_bytes_of_a_command_in_the_log_are_fixed() {
        // If this fails, logs of an earlier version are read wrongly: raise the codec's version.
        let bytes = Command::Write(put("a", "1")).encode();
        assert_eq!(&bytes[..], b"\x05\x01\x01a\x00\x011\x03\x07");
    }
}
