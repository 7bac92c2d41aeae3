//! Where the state machine leaves answers that share memory with the store.
//!
//! An answer on its way through the driver is bytes, and to make those of a large value would copy
//! it. So the one who asks takes a ticket, and what is found is left here under its number.

use crate::command::Version;
use crate::history::Record;
use bytes::Bytes;
use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// What was found.
#[derive(Clone, Debug)]
pub enum Found {
    /// The value under a key, and the version of the write that made it.
    Value(Version, Bytes),
    /// A command and what came of it.
    Commit(Record),
}

/// The answers that nobody has fetched yet. There are no more than questions that somebody waits
/// for.
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

    /// A ticket for one question.
    pub fn ticket(self: &Arc<Self>) -> Ticket {
        let mut slots = self.lock();
        let number = slots.next;
        slots.next += 1;
        slots.waiting.insert(number, None);
        Ticket { number, answers: self.clone() }
    }

    /// Leaves what was found, if somebody still waits for it.
    pub fn leave(&self, ticket: u64, found: Found) {
        if let Some(slot) = self.lock().waiting.get_mut(&ticket) {
            *slot = Some(found);
        }
    }
}

/// The right to one answer.
#[derive(Debug)]
pub struct Ticket {
    number: u64,
    answers: Arc<Answers>,
}

impl Ticket {
    /// Its number.
    pub fn number(&self) -> u64 {
        self.number
    }

    /// Fetches what was found.
    pub fn fetch(&self) -> Option<Found> {
        self.answers.lock().waiting.get_mut(&self.number)?.take()
    }
}

impl Drop for Ticket {
    fn drop(&mut self) {
        self.answers.lock().waiting.remove(&self.number);
    }
}
