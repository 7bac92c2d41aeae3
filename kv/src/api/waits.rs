//! Places for requests that wait for long: `/wait_commit`.
//!
//! A client that gives up closes its connection, but may also have closed only its own side, and
//! still read. TCP does not tell the one from the other. So such a wait goes on until its place is
//! needed by another one. Then it is refused, and its client may ask again: a wait changes nothing.
//! It is not a matter of `places.rs`, where the whole connection would be closed.

use crate::places::Side;
use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use tokio::sync::Notify;

/// A fixed number of places.
#[derive(Debug)]
pub(super) struct Waits {
    max: usize,
    taken: Mutex<Taken>,
}

#[derive(Debug, Default)]
struct Taken {
    next: u64,
    waiting: BTreeMap<u64, Waiter>,
}

#[derive(Debug)]
struct Waiter {
    client: Option<Side>,
    /// Notified when another request has got the place.
    gives_way: Arc<Notify>,
}

/// A place that is taken, until this is dropped or another request has got it.
#[derive(Debug)]
pub(super) struct Wait<'a> {
    id: u64,
    waits: &'a Waits,
    gives_way: Arc<Notify>,
}

impl Waits {
    /// `max` places, all of them free.
    pub fn new(max: usize) -> Self {
        Waits { max, taken: Mutex::default() }
    }

    fn lock(&self) -> MutexGuard<'_, Taken> {
        self.taken.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Takes a place for a request of `client`. If none is free, the oldest request whose client
    /// has closed its side gives way. `None` if there is no such request.
    pub fn take(&self, client: Option<Side>) -> Option<Wait<'_>> {
        let mut taken = self.lock();
        if taken.waiting.len() >= self.max {
            let may_be_gone = |waiter: &Waiter| waiter.client.as_ref().is_some_and(Side::is_closed);
            let oldest = taken.waiting.iter().find(|(_, waiter)| may_be_gone(waiter));
            let (id, waiter) = oldest?;
            waiter.gives_way.notify_one();
            let id = *id;
            taken.waiting.remove(&id);
        }
        let id = taken.next;
        taken.next += 1;
        let gives_way = Arc::new(Notify::new());
        taken.waiting.insert(id, Waiter { client, gives_way: gives_way.clone() });
        Some(Wait { id, waits: self, gives_way })
    }
}

impl Wait<'_> {
    /// Returns when another request has got the place.
    pub async fn lost(&self) {
        self.gives_way.notified().await;
    }
}

impl Drop for Wait<'_> {
    fn drop(&mut self) {
        self.waits.lock().waiting.remove(&self.id);
    }
}
