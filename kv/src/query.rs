//! Questions to the machine and its answers, on their way through the driver within one process.
//!
//! Neither is ever stored or sent, so their layout is free to change.

use crate::answers::{Found, Ticket};
use crate::command::Version;
use crate::history::Record;
use bytes::{Buf, Bytes};
use raft::CommandNumber;

/// What is asked of the machine.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Query<'a> {
    /// The value under a key.
    Value(&'a [u8]),
    /// The command with a number, and what came of it.
    Commit(CommandNumber),
}

impl<'a> Query<'a> {
    /// Its bytes; what is found is left under the ticket.
    pub fn encode(self, ticket: &Ticket) -> Bytes {
        let mut bytes = Vec::new();
        match self {
            Query::Value(key) => {
                bytes.reserve(9 + key.len());
                bytes.push(0);
                bytes.extend_from_slice(&ticket.number().to_le_bytes());
                bytes.extend_from_slice(key);
            }
            Query::Commit(number) => {
                bytes.push(1);
                bytes.extend_from_slice(&ticket.number().to_le_bytes());
                bytes.extend_from_slice(&number.0.to_le_bytes());
            }
        }
        Bytes::from(bytes)
    }

    /// The query with these bytes, and the number of its ticket.
    pub fn decode(bytes: &'a [u8]) -> Option<(u64, Self)> {
        let (tag, rest) = bytes.split_first()?;
        let (ticket, rest) = rest.split_first_chunk()?;
        let query = match tag {
            0 => Query::Value(rest),
            1 => Query::Commit(CommandNumber(u64::from_le_bytes(rest.try_into().ok()?))),
            _ => return None,
        };
        Some((u64::from_le_bytes(*ticket), query))
    }
}

/// What the machine answers. What it has found is left under the ticket of the question.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Answer {
    /// There is no such key, or no command has this number yet.
    Nothing,
    /// It was found.
    Found,
    /// The command is older than what is retained.
    Compacted {
        /// The first number that is retained.
        first: CommandNumber,
    },
}

impl Answer {
    /// Its bytes.
    pub fn encode(self) -> Bytes {
        match self {
            Answer::Nothing => Bytes::new(),
            Answer::Found => Bytes::from_static(&[1]),
            Answer::Compacted { first } => {
                let mut bytes = vec![2];
                bytes.extend_from_slice(&first.0.to_le_bytes());
                Bytes::from(bytes)
            }
        }
    }
}

/// An answer as the one who asked receives it.
#[derive(Debug)]
pub enum Received {
    /// There is no such key, or no command has this number yet.
    Nothing,
    /// The value under the key, and the version of the write that made it.
    Value(Version, Bytes),
    /// The command, and what came of it.
    Commit(Record),
    /// The command is older than what is retained.
    Compacted(CommandNumber),
}

impl Received {
    /// The answer with these bytes to the question with this ticket.
    ///
    /// # Panics
    ///
    /// If the bytes are none of [`Answer::encode`]: a bug of this program.
    pub fn decode(mut bytes: Bytes, ticket: &Ticket) -> Self {
        if bytes.is_empty() {
            return Received::Nothing;
        }
        match bytes.get_u8() {
            1 => match ticket.fetch() {
                Some(Found::Value(version, value)) => Received::Value(version, value),
                Some(Found::Commit(record)) => Received::Commit(record),
                None => panic!("the machine has found something and left nothing"),
            },
            2 => Received::Compacted(CommandNumber(bytes.get_u64_le())),
            tag => panic!("the machine answered with the unknown tag {tag}"),
        }
    }
}
