//! The state machine of a node: the current store and its history.
//!
//! All of its data shares structure between clones. So freezing the state machine is a clone, and
//! costs the same for a store of any size. A snapshot holds the base and the retained commands.
//! Restoring replays these commands, so a snapshot cannot contain anything that a replay does not
//! yield.

use crate::answers::{Answers, Found};
use crate::history::{Lookup, Retention};
use crate::query::{Answer, Query};
use crate::state::State;
use crate::store::Place;
use bytes::Bytes;
use raft::LogTime;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

/// Figures of the state machine, which other threads read without a query.
#[derive(Debug, Default)]
pub struct Figures {
    /// The number of keys in the store.
    pub keys: AtomicU64,
    /// The version of the latest change.
    pub revision: AtomicU64,
    /// The number of the first retained command.
    pub history_first: AtomicU64,
    /// The number of the next command.
    pub history_next: AtomicU64,
    /// The cost of the retained commands, as `Command::cost_bytes` counts it.
    pub history_bytes: AtomicU64,
}

/// The state machine that the driver applies the log to.
#[derive(Debug)]
pub struct Machine {
    retention: Retention,
    state: State,
    figures: Arc<Figures>,
    answers: Arc<Answers>,
}

impl Machine {
    /// A state machine with an empty store.
    pub fn new(retention: Retention) -> Self {
        let state = State::new(retention);
        Machine { retention, state, figures: Arc::default(), answers: Arc::default() }
    }

    /// The figures. They are updated after each batch of commands and after a restore.
    pub fn figures(&self) -> Arc<Figures> {
        self.figures.clone()
    }

    /// Where the results of queries are stored.
    pub fn answers(&self) -> Arc<Answers> {
        self.answers.clone()
    }

    fn apply_one(&mut self, at: driver::ApplyContext, command: Bytes) -> Bytes {
        self.state.apply(Place { number: at.number, term: at.id.term }, Some(command))
    }

    fn publish(&self) {
        let (state, figures) = (&self.state, &self.figures);
        figures.keys.store(state.store().items().len() as u64, Ordering::Relaxed);
        figures.revision.store(state.store().revision().0, Ordering::Relaxed);
        figures.history_first.store(state.history().first().0, Ordering::Relaxed);
        figures.history_next.store(state.history().next().0, Ordering::Relaxed);
        figures.history_bytes.store(state.history().bytes() as u64, Ordering::Relaxed);
    }
}

impl driver::StateMachine for Machine {
    type Frozen = State;

    fn apply(&mut self, at: driver::ApplyContext, command: Bytes) -> Bytes {
        let answer = self.apply_one(at, command);
        self.publish();
        answer
    }

    fn apply_batch(&mut self, commands: Vec<(driver::ApplyContext, Bytes)>) -> Vec<Bytes> {
        let commands = commands.into_iter();
        let answers = commands.map(|(at, command)| self.apply_one(at, command)).collect();
        self.publish();
        answers
    }

    /// The history has a record for each number.
    fn skip(&mut self, at: driver::ApplyContext) {
        self.state.apply(Place { number: at.number, term: at.id.term }, None);
        self.publish();
    }

    fn query(&self, _time: LogTime, query: &[u8]) -> Bytes {
        let Some((ticket, query)) = Query::decode(query) else { return Answer::Nothing.encode() };
        let found = match query {
            Query::Value(key) => match self.state.store().item(key) {
                Some(item) => Found::Value(item.version, item.value.clone().into_bytes()),
                None => return Answer::Nothing.encode(),
            },
            Query::Commit(number) => match self.state.history().lookup(number) {
                Lookup::Retained(record) => Found::Commit(Box::new(record.clone())),
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
