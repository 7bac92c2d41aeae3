//! The state machine of a node: the store as it is, and the history that led to it.
//!
//! Everything in it shares structure between clones, so freezing is cloning, whatever the size of
//! the store. A snapshot holds the state below the history and the retained commands; restoring
//! replays them, so that what cannot be replayed cannot be in it.

use crate::answers::{Answers, Found};
use crate::command::{Command, Reply};
use crate::history::{Base, History, Lookup, Record, Retention};
use crate::query::{Answer, Query};
use crate::store::{Executed, Place, Store};
use bytes::Bytes;
use raft::{CommandNumber, LogTime};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

/// The state of the store and its history: all that there is at one moment.
#[derive(Clone, Debug)]
pub struct State {
    store: Store,
    history: History,
}

impl State {
    /// Nothing yet.
    pub fn new(retention: Retention) -> Self {
        State::at(retention, Base::default(), CommandNumber(0))
    }

    /// The state before command `next`, of which no earlier command is retained.
    pub fn at(retention: Retention, base: Base, next: CommandNumber) -> Self {
        let store = base.store().clone();
        State { store, history: History::new(retention, base, next) }
    }

    /// The store.
    pub fn store(&self) -> &Store {
        &self.store
    }

    /// The commands that led to it.
    pub fn history(&self) -> &History {
        &self.history
    }

    /// Executes the next command, or ignores it if its bytes were none.
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

/// Figures of the machine that anybody may look at without asking it.
#[derive(Debug, Default)]
pub struct Figures {
    /// Keys in the store.
    pub keys: AtomicU64,
    /// The version of the latest change.
    pub revision: AtomicU64,
    /// The first number that is retained in the history.
    pub history_first: AtomicU64,
    /// The number of the next command.
    pub history_next: AtomicU64,
    /// The bytes of the retained commands.
    pub history_bytes: AtomicU64,
}

/// The state machine.
#[derive(Debug)]
pub struct Machine {
    retention: Retention,
    state: State,
    figures: Arc<Figures>,
    answers: Arc<Answers>,
}

impl Machine {
    /// An empty machine.
    pub fn new(retention: Retention) -> Self {
        let state = State::new(retention);
        Machine { retention, state, figures: Arc::default(), answers: Arc::default() }
    }

    /// Its figures, which it keeps up to date.
    pub fn figures(&self) -> Arc<Figures> {
        self.figures.clone()
    }

    /// Where it leaves what it has found.
    pub fn answers(&self) -> Arc<Answers> {
        self.answers.clone()
    }

    fn apply_one(&mut self, at: driver::ApplyContext, command: &[u8]) -> Bytes {
        let place = Place { number: at.number, term: at.id.term };
        self.state.apply(place, Command::decode(command)).encode()
    }

    fn publish(&self) {
        let (state, figures) = (&self.state, &self.figures);
        figures.keys.store(state.store.items().len() as u64, Ordering::Relaxed);
        figures.revision.store(state.store.revision().0, Ordering::Relaxed);
        figures.history_first.store(state.history.first().0, Ordering::Relaxed);
        figures.history_next.store(state.history.next().0, Ordering::Relaxed);
        figures.history_bytes.store(state.history.bytes() as u64, Ordering::Relaxed);
    }
}

impl driver::StateMachine for Machine {
    type Frozen = State;

    fn apply(&mut self, at: driver::ApplyContext, command: Bytes) -> Bytes {
        let answer = self.apply_one(at, &command);
        self.publish();
        answer
    }

    fn apply_batch(&mut self, commands: Vec<(driver::ApplyContext, Bytes)>) -> Vec<Bytes> {
        let answers = commands.iter().map(|(at, command)| self.apply_one(*at, command)).collect();
        self.publish();
        answers
    }

    fn query(&self, _time: LogTime, query: &[u8]) -> Bytes {
        let Some((ticket, query)) = Query::decode(query) else { return Answer::Nothing.encode() };
        let found = match query {
            Query::Value(key) => match self.state.store.item(key) {
                Some(item) => Found::Value(item.version, item.value.clone()),
                None => return Answer::Nothing.encode(),
            },
            Query::Commit(number) => match self.state.history.lookup(number) {
                Lookup::Retained(record) => Found::Commit(record.clone()),
                Lookup::Compacted { first } => return Answer::Compacted { first }.encode(),
                Lookup::Future => return Answer::Nothing.encode(),
            },
        };
        self.answers.leave(ticket, found);
        Answer::Found.encode()
    }

    fn freeze(&self) -> State {
        self.state.clone()
    }

    fn restore(&mut self, from: &mut dyn std::io::Read) -> Result<(), driver::RestoreError> {
        self.state = crate::snapshot::read(from, self.retention)?;
        self.publish();
        Ok(())
    }
}

impl driver::Frozen for State {
    fn write(&self, to: &mut dyn std::io::Write) -> std::io::Result<()> {
        crate::snapshot::write(self, to)
    }
}
