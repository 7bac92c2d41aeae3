//! Queries to the state machine and its answers, encoded to pass through the driver.
//!
//! Both stay within one process: they are never stored or sent, so their layout is free to change.

use crate::answers::{Found, Ticket};
use crate::command::Version;
use crate::history::Record;
use bytes::{Buf, Bytes};
use raft::CommandNumber;

/// A query to the state machine.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Query<'a> {
    /// The value under a key.
    Value(&'a [u8]),
    /// The command with a number, and its outcome.
    Commit(CommandNumber),
}

impl<'a> Query<'a> {
    /// Encodes the query and the number of the ticket under which the result is to be stored.
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

    /// The number of the ticket, and the query. `None` if the bytes are not an encoded query.
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

/// The answer of the state machine. A result itself is stored in [`crate::answers`], under the
/// number of the ticket.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Answer {
    /// There is no such key, or no command has this number yet.
    Nothing,
    /// The result is stored under the ticket.
    Found,
    /// The command was compacted.
    Compacted {
        /// The number of the first retained command.
        first: CommandNumber,
    },
}

impl Answer {
    /// The encoding that [`Received::decode`] reads.
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

/// An answer together with its result, as the caller receives it.
#[derive(Debug)]
pub enum Received {
    /// There is no such key, or no command has this number yet.
    Nothing,
    /// The value under the key, and the version of the write that made it.
    Value(Version, Bytes),
    /// The command and its outcome.
    Commit(Box<Record>),
    /// The command was compacted. Holds the number of the first retained command.
    Compacted(CommandNumber),
}

impl Received {
    /// Decodes an answer, and takes its result from the ticket.
    ///
    /// # Panics
    ///
    /// If the bytes do not come from [`Answer::encode`], or the result is missing. Either is a bug
    /// in this program.
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
