//! The places for client connections.
//!
//! A full node makes room for a new connection by closing an old one: the one that has been idle
//! the longest, or else one whose client has closed its own side and so may be gone, or else the
//! one that has waited the longest for the rest of a request's body. If there is none of these, the
//! new connection gets a place in a small overflow. On those, the node gives short answers only.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;
use tokio::sync::Notify;
use tokio::time::Instant;

/// The most connections that may be closing at once.
const CLOSING_MAX: usize = 16;

/// A connection keeps its place for at least this long while the body of a request arrives.
const BODY_MIN: Duration = Duration::from_secs(1);
/// The time of a connection on which no body arrives.
const NO_BODY: u64 = u64::MAX;

/// A fixed number of places for connections.
#[derive(Debug)]
pub(crate) struct Places {
    max: usize,
    /// A connection that has been idle for less than this keeps its place.
    idle_min: Duration,
    began: Instant,
    taken: Mutex<Taken>,
}

#[derive(Debug, Default)]
struct Taken {
    next: u64,
    seats: BTreeMap<u64, Arc<Seat>>,
    closing: usize,
}

#[derive(Debug)]
struct Seat {
    /// The number of requests in progress, including those whose answer is being sent.
    busy: AtomicUsize,
    idle_since_ms: AtomicU64,
    /// When the body of the current request began to arrive. [`NO_BODY`] if it is complete, or if
    /// there is none.
    body_since_ms: AtomicU64,
    told_to_close: AtomicBool,
    /// The client has closed its side of the connection.
    half_closed: AtomicBool,
    close: Notify,
}

impl Seat {
    fn new(now_ms: u64) -> Self {
        Seat {
            busy: AtomicUsize::new(0),
            idle_since_ms: AtomicU64::new(now_ms),
            body_since_ms: AtomicU64::new(NO_BODY),
            told_to_close: AtomicBool::new(false),
            half_closed: AtomicBool::new(false),
            close: Notify::new(),
        }
    }

    fn awaits_body(&self) -> bool {
        self.body_since_ms.load(Ordering::Relaxed) != NO_BODY
    }
}

impl Places {
    /// `max` places, all of them free. A connection loses its place only after `idle_min` without
    /// requests.
    pub fn new(max: usize, idle_min: Duration) -> Arc<Self> {
        Arc::new(Places { max, idle_min, began: Instant::now(), taken: Mutex::default() })
    }

    fn lock(&self) -> MutexGuard<'_, Taken> {
        self.taken.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn now_ms(&self) -> u64 {
        self.began.elapsed().as_millis() as u64
    }

    /// Whether no connection has a place.
    pub fn are_free(&self) -> bool {
        self.lock().seats.is_empty()
    }

    /// Takes a place. If none is free, another connection has to close: the one that has been idle
    /// the longest, or else one that is half closed, or else one that has waited for the rest of a
    /// body for [`BODY_MIN`]. `None` if there is none of these either, or if too many connections
    /// are closing already.
    pub fn take(self: &Arc<Self>) -> Option<Place> {
        let mut taken = self.lock();
        if taken.seats.len() - taken.closing >= self.max {
            let idlest = self.idlest(&taken)?;
            taken.closing += 1;
            idlest.told_to_close.store(true, Ordering::Relaxed);
            idlest.close.notify_one();
        }
        let id = taken.next;
        taken.next += 1;
        let seat = Arc::new(Seat::new(self.now_ms()));
        taken.seats.insert(id, seat.clone());
        Some(Place { id, seat, places: self.clone() })
    }

    fn idlest(&self, taken: &Taken) -> Option<Arc<Seat>> {
        if taken.closing >= CLOSING_MAX {
            return None;
        }
        let now_ms = self.now_ms();
        let until = now_ms.checked_sub(self.idle_min.as_millis() as u64)?;
        let idle = taken.seats.values().filter(|seat| {
            !seat.told_to_close.load(Ordering::Relaxed) && seat.busy.load(Ordering::Acquire) == 0
        });
        let since = |seat: &&Arc<Seat>| seat.idle_since_ms.load(Ordering::Relaxed);
        let idlest = idle.filter(|seat| since(seat) <= until).min_by_key(since);
        let half_closed = || {
            taken.seats.values().find(|seat| {
                !seat.told_to_close.load(Ordering::Relaxed)
                    && seat.half_closed.load(Ordering::Relaxed)
            })
        };
        let slowest = || {
            let until = now_ms.checked_sub(BODY_MIN.as_millis() as u64)?;
            let since = |seat: &&Arc<Seat>| seat.body_since_ms.load(Ordering::Relaxed);
            let open = |seat: &&Arc<Seat>| !seat.told_to_close.load(Ordering::Relaxed);
            let slow = taken.seats.values().filter(open).filter(|seat| since(seat) <= until);
            slow.min_by_key(since)
        };
        idlest.or_else(half_closed).or_else(slowest).cloned()
    }
}

/// A place that is taken, until this is dropped.
#[derive(Debug)]
pub(crate) struct Place {
    id: u64,
    seat: Arc<Seat>,
    places: Arc<Places>,
}

/// The client's side of a connection.
#[derive(Clone, Debug)]
pub(crate) struct Side(Arc<Seat>);

impl Side {
    /// Whether the client has closed it: it sends nothing further, and may be gone.
    pub fn is_closed(&self) -> bool {
        self.0.half_closed.load(Ordering::Relaxed)
    }
}

impl Place {
    /// The client's side of the connection, which has this place.
    pub fn client(&self) -> Side {
        Side(self.seat.clone())
    }

    /// Returns when the connection has to close: its place is needed, and it is idle, half closed,
    /// or waits for the rest of a body.
    pub async fn lost(&self) {
        loop {
            self.seat.close.notified().await;
            let may_be_gone = self.seat.half_closed.load(Ordering::Relaxed);
            if !self.is_busy() || may_be_gone || self.awaits_body() {
                return;
            }
        }
    }

    /// Records that the client has closed its side. It sends nothing further, and may be gone.
    pub fn half_closed(&self) {
        self.seat.half_closed.store(true, Ordering::Relaxed);
    }

    /// Records that the body of the current request begins to arrive.
    pub fn body_begins(&self) {
        self.seat.body_since_ms.store(self.places.now_ms(), Ordering::Relaxed);
    }

    /// Records that the body is complete, or is not read any further.
    pub fn body_ends(&self) {
        self.seat.body_since_ms.store(NO_BODY, Ordering::Relaxed);
    }

    /// Whether the body of the current request is not complete. The request has not been executed.
    pub fn awaits_body(&self) -> bool {
        self.seat.awaits_body()
    }

    /// Whether the connection has to close after the current answer.
    pub fn is_lost(&self) -> bool {
        self.seat.told_to_close.load(Ordering::Relaxed)
    }

    fn is_busy(&self) -> bool {
        self.seat.busy.load(Ordering::Acquire) > 0
    }

    /// Begins a request. The connection counts as busy until the returned guard is dropped.
    pub fn work(self: &Arc<Self>) -> Work {
        self.seat.busy.fetch_add(1, Ordering::AcqRel);
        Work(self.clone())
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let mut taken = self.places.lock();
        taken.seats.remove(&self.id);
        if self.is_lost() {
            taken.closing -= 1;
        }
    }
}

/// A request in progress. The connection is not idle until this is dropped.
#[derive(Debug)]
pub(crate) struct Work(Arc<Place>);

impl Drop for Work {
    fn drop(&mut self) {
        let Place { seat, places, .. } = &*self.0;
        seat.idle_since_ms.store(places.now_ms(), Ordering::Relaxed);
        if seat.busy.fetch_sub(1, Ordering::AcqRel) == 1 && self.0.is_lost() {
            seat.close.notify_one();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use tokio::time::advance;

    const MOMENT: Duration = Duration::from_millis(1);

    #[tokio::test(start_paused = true)]
    async fn the_connection_that_was_idle_the_longest_makes_room() {
        let places = Places::new(2, Duration::ZERO);
        let first = Arc::new(places.take().unwrap());
        advance(MOMENT).await;
        let second = Arc::new(places.take().unwrap());
        let work = first.work();
        let third = places.take().unwrap();
        assert!(second.is_lost() && !first.is_lost() && !third.is_lost());
        drop(second);
        assert_eq!(places.lock().closing, 0);
        drop(third);
        let fourth = Arc::new(places.take().unwrap());
        let _busy = fourth.work();
        assert!(places.take().is_none(), "all are busy");
        drop(work);
        assert!(places.take().is_some());
    }

    #[test]
    fn a_busy_connection_whose_client_may_be_gone_makes_room_if_none_is_idle() {
        let places = Places::new(2, Duration::ZERO);
        let [first, second] = [0, 1].map(|_| Arc::new(places.take().unwrap()));
        let _busy = (first.work(), second.work());
        assert!(places.take().is_none());
        second.half_closed();
        let third = Arc::new(places.take().unwrap());
        assert!(second.is_lost() && !first.is_lost());
        let _also_busy = third.work();
        assert!(places.take().is_none());
    }

    #[tokio::test(start_paused = true)]
    async fn the_connection_that_waits_the_longest_for_a_body_makes_room_if_there_is_no_other() {
        let places = Places::new(3, Duration::ZERO);
        let [first, second, third] = [0, 1, 2].map(|_| Arc::new(places.take().unwrap()));
        let _busy = (first.work(), second.work(), third.work());
        second.body_begins();
        advance(MOMENT).await;
        first.body_begins();
        advance(BODY_MIN - MOMENT * 2).await;
        assert!(places.take().is_none(), "neither has waited for long");
        advance(MOMENT * 2).await;
        let fourth = Arc::new(places.take().unwrap());
        assert!(second.is_lost() && !first.is_lost() && !third.is_lost());
        let _also_busy = fourth.work();
        first.body_ends();
        assert!(places.take().is_none(), "this request is executed");
    }

    #[test]
    fn one_that_has_just_come_keeps_its_place() {
        let places = Places::new(1, Duration::from_secs(60));
        let _first = places.take().unwrap();
        assert!(places.take().is_none());
    }
}
