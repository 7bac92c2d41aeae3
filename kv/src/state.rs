//! The state of the store after a command: the store itself, and its history.

use crate::command::{self, Command, Reply};
use crate::deletions::{Deleted, Deletions};
use crate::history::{Before, Changes, History, Record, Retention};
use crate::store::{Effect, Executed, Place, Store};
use bytes::Bytes;
use raft::CommandNumber;

/// The store and its history after one command. Cloning is cheap.
#[derive(Clone, Debug)]
pub struct State {
    store: Store,
    deletions: Deletions,
    history: History,
}

impl State {
    /// The state before the first command.
    pub fn new(retention: Retention) -> Self {
        State::at(retention, Store::default(), Deletions::default(), CommandNumber(0))
    }

    /// The state before command `next`, with no command retained.
    pub fn at(
        retention: Retention,
        store: Store,
        deletions: Deletions,
        next: CommandNumber,
    ) -> Self {
        let history = History::new(retention, store.revision(), next);
        State { store, deletions, history }
    }

    /// The store.
    pub fn store(&self) -> &Store {
        &self.store
    }

    /// The deleted keys.
    pub fn deletions(&self) -> &Deletions {
        &self.deletions
    }

    /// The history of the store.
    pub fn history(&self) -> &History {
        &self.history
    }

    /// Executes the next command, as it is in the log. Bytes that are not a command, or `None`,
    /// change nothing but take a number in the history. Returns the encoded reply.
    pub fn apply(&mut self, at: Place, bytes: Option<Bytes>) -> Bytes {
        let State { store, deletions, history } = self;
        let Retention { deleted_max, deleted_bytes_max, .. } = history.retention();
        let mut changes = Changes::None;
        let mut observe = |Effect { key, before, version, written }: Effect<'_>| {
            let before = match before {
                Some(item) => Before::Item(item),
                None => deletions.remove(key).map_or(Before::Nothing, Before::Deleted),
            };
            if !written {
                let deleted = Deleted { version, number: at.number, term: at.term };
                deletions.insert(key, deleted, deleted_max, deleted_bytes_max);
            }
            changes.push(before);
        };
        let command = bytes.as_deref().and_then(Command::decode);
        let cost_bytes = command.as_ref().map_or(command::OVERHEAD_BYTES, Command::cost_bytes);
        let Executed { reply, previous } = match &command {
            Some(command) => store.execute(command, at, &mut observe),
            None => Executed { reply: Reply::Ignored, previous: None },
        };
        let is_command = command.is_some();
        let answer = reply.encode();
        let command = bytes.filter(|_| is_command);
        history.push(
            at.number,
            Record { term: at.term, command, reply, previous, changes, cost_bytes },
        );
        answer
    }
}
