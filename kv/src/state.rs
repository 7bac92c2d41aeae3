//! The state of the store after a command: the store itself, and its history.

use crate::command::{Command, Reply};
use crate::history::{Base, History, Record, Retention};
use crate::store::{Executed, Place, Store};
use raft::CommandNumber;

/// The store and its history after one command. Cloning is cheap.
#[derive(Clone, Debug)]
pub struct State {
    store: Store,
    history: History,
}

impl State {
    /// The state before the first command.
    pub fn new(retention: Retention) -> Self {
        State::at(retention, Base::default(), CommandNumber(0))
    }

    /// The state before command `next`, with no command retained.
    pub fn at(retention: Retention, base: Base, next: CommandNumber) -> Self {
        let store = base.store().clone();
        State { store, history: History::new(retention, base, next) }
    }

    /// The store.
    pub fn store(&self) -> &Store {
        &self.store
    }

    /// The history of the store.
    pub fn history(&self) -> &History {
        &self.history
    }

    /// Executes the next command. `None` stands for bytes that are not a command: they change
    /// nothing but take a number in the history.
    pub fn apply(&mut self, at: Place, command: Option<Command>) -> Reply {
        let executed = match &command {
            Some(command) => self.store.execute(command, at, &mut |_| ()),
            None => Executed { reply: Reply::Ignored, previous: None },
        };
        let reply = executed.reply.clone();
        self.history.push(at.number, Record { term: at.term, command, executed });
        reply
    }
}
