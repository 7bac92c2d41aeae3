//! Query results that share memory with the store.
//!
//! The driver carries a query's answer as bytes, and encoding a large value would copy it. So the
//! caller takes a ticket and sends its number with the query. The state machine stores the result
//! here under that number.

use crate::command::Version;
use crate::history::Record;
use bytes::Bytes;
use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// The result of a query.
#[derive(Clone, Debug)]
pub enum Found {
    /// The value under a key, and the version of the write that made it.
    Value(Version, Bytes),
    /// A command of the history, with its outcome.
    Commit(Box<Record>),
}

/// The results that have not been fetched yet. Each belongs to a [`Ticket`]; dropping the ticket
/// discards its result, so there are at most as many results as waiting callers.
#[derive(Debug, Default)]
pub struct Answers {
    slots: Mutex<Slots>,
}

#[derive(Debug, Default)]
struct Slots {
    next: u64,
    waiting: BTreeMap<u64, Option<Found>>,
}

impl Answers {
    fn lock(&self) -> MutexGuard<'_, Slots> {
        self.slots.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A new ticket, for one query.
    pub fn ticket(self: &Arc<Self>) -> Ticket {
        let mut slots = self.lock();
        let number = slots.next;
        slots.next += 1;
        slots.waiting.insert(number, None);
        Ticket { number, answers: self.clone() }
    }

    /// Stores a result under the number of its ticket. If the ticket was dropped, the result is
    /// discarded.
    pub fn leave(&self, ticket: u64, found: Found) {
        if let Some(slot) = self.lock().waiting.get_mut(&ticket) {
            *slot = Some(found);
        }
    }
}

/// Receives the result of one query. Dropping it means that the caller no longer waits.
#[derive(Debug)]
pub struct Ticket {
    number: u64,
    answers: Arc<Answers>,
}

impl Ticket {
    /// The number under which the state machine stores the result.
    pub fn number(&self) -> u64 {
        self.number
    }

    /// Takes the result out. `None` if there is none yet, or if it was taken before.
    pub fn fetch(&self) -> Option<Found> {
        self.answers.lock().waiting.get_mut(&self.number)?.take()
    }
}

impl Drop for Ticket {
    fn drop(&mut self) {
        self.answers.lock().waiting.remove(&self.number);
    }
}
