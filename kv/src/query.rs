//! Questions to the machine and its answers, on their way through the driver within one process.
//!
//! Neither is ever stored or sent, so their layout is free to change.

use crate::command::Version;
use crate::commits;
use crate::history::Record;
use bytes::{Buf, Bytes};
use raft::{CommandNumber, Term};

/// What is asked of the machine.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Query<'a> {
    /// The value under a key.
    Value(&'a [u8]),
    /// The command with a number, and what came of it.
    Commit(CommandNumber),
}

impl<'a> Query<'a> {
    /// Its bytes.
    pub fn encode(self) -> Bytes {
        let mut bytes = Vec::new();
        match self {
            Query::Value(key) => {
                bytes.reserve(1 + key.len());
                bytes.push(0);
                bytes.extend_from_slice(key);
            }
            Query::Commit(number) => {
                bytes.push(1);
                bytes.extend_from_slice(&number.0.to_le_bytes());
            }
        }
        Bytes::from(bytes)
    }

    /// The query with these bytes.
    pub fn decode(bytes: &'a [u8]) -> Option<Self> {
        match bytes.split_first()? {
            (0, key) => Some(Query::Value(key)),
            (1, number) => {
                let number = number.try_into().ok()?;
                Some(Query::Commit(CommandNumber(u64::from_le_bytes(number))))
            }
            _ => None,
        }
    }
}

/// What the machine answers.
#[derive(Debug)]
pub enum Answer<'a> {
    /// There is no such key, or no command has this number yet.
    Nothing,
    /// The value under the key.
    Value {
        /// The version of the write that made it.
        version: Version,
        /// The value.
        value: &'a [u8],
    },
    /// The command.
    Commit {
        /// Its number.
        number: CommandNumber,
        /// The command and what came of it.
        record: &'a Record,
    },
    /// The command is older than what is retained.
    Compacted {
        /// The first number that is retained.
        first: CommandNumber,
    },
}

impl Answer<'_> {
    /// Its bytes.
    pub fn encode(&self) -> Bytes {
        let mut bytes = Vec::new();
        match self {
            Answer::Nothing => {}
            Answer::Value { version, value } => {
                bytes.reserve(9 + value.len());
                bytes.push(1);
                bytes.extend_from_slice(&version.0.to_le_bytes());
                bytes.extend_from_slice(value);
            }
            Answer::Commit { number, record } => {
                bytes.push(2);
                bytes.extend_from_slice(&record.term.0.to_le_bytes());
                commits::write_commit(*number, record, &mut bytes);
            }
            Answer::Compacted { first } => {
                bytes.push(3);
                bytes.extend_from_slice(&first.0.to_le_bytes());
            }
        }
        Bytes::from(bytes)
    }
}

/// An answer as whoever asked receives it.
#[derive(Debug, PartialEq, Eq)]
pub enum Received {
    /// There is no such key, or no command has this number yet.
    Nothing,
    /// The value under the key, and the version of the write that made it.
    Value(Version, Bytes),
    /// The command, as the JSON of the compatible API, and its term.
    Commit(Term, Bytes),
    /// The command is older than what is retained.
    Compacted(CommandNumber),
}

impl Received {
    /// The answer with these bytes, which share their memory.
    ///
    /// # Panics
    ///
    /// If the bytes are none of [`Answer::encode`]: a bug of this program.
    pub fn decode(mut bytes: Bytes) -> Self {
        if bytes.is_empty() {
            return Received::Nothing;
        }
        match bytes.get_u8() {
            1 => Received::Value(Version(bytes.get_u64_le()), bytes),
            2 => Received::Commit(Term(bytes.get_u64_le()), bytes),
            3 => Received::Compacted(CommandNumber(bytes.get_u64_le())),
            tag => panic!("the machine answered with the unknown tag {tag}"),
        }
    }
}
