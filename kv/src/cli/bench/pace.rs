//! Decides when the clients send.
//!
//! In a closed loop, a client sends its next request when the last one is answered. A cluster that
//! stalls then receives fewer requests, and the stall shows in the latency of one request for each
//! client, however long it is (coordinated omission). In an open loop, requests are due at a fixed
//! rate, whatever the cluster does, and the latency of a request counts from the moment when it was
//! due. So every request that a stall has delayed shows it.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::Duration;
use tokio::sync::{Semaphore, TryAcquireError};
use tokio::time::{Instant, timeout_at};

/// How the clients of a run are paced.
pub enum Pace {
    /// A client sends when its last request is answered.
    Closed,
    /// All clients together send at a fixed rate.
    Open(Arc<Schedule>),
}

/// The requests of an open loop, and when each is due.
///
/// Invariant: the permits of `due` and `taken` together are the number of requests that have become
/// due so far.
pub struct Schedule {
    started: Instant,
    /// Requests per second.
    rate: u32,
    /// All requests of the run.
    total: u64,
    /// One permit for each request that is due and that no client has taken.
    due: Semaphore,
    taken: AtomicU64,
    waited: AtomicU64,
}

impl Schedule {
    /// A schedule of `rate` requests per second, for `duration`.
    pub fn new(started: Instant, duration: Duration, rate: u32) -> Self {
        let total = duration.as_nanos() * u128::from(rate) / NANOSECONDS;
        Schedule {
            started,
            rate,
            // A run of less than the time of one request sends one.
            total: u64::try_from(total).unwrap_or(u64::MAX).max(1),
            due: Semaphore::new(0),
            taken: AtomicU64::new(0),
            waited: AtomicU64::new(0),
        }
    }

    /// The requests of the whole run.
    pub fn total(&self) -> u64 {
        self.total
    }

    /// The requests that no client has taken.
    pub fn left(&self) -> u64 {
        self.total - self.taken.load(Relaxed)
    }

    /// The requests that were due while every client was waiting for an answer.
    pub fn waited(&self) -> u64 {
        self.waited.load(Relaxed)
    }

    /// Starts the thread that lets requests become due. It is a thread because the runtime's timers
    /// have a resolution of a millisecond, which is as long as a request takes.
    pub fn start(self: &Arc<Self>) -> std::io::Result<()> {
        let schedule = self.clone();
        std::thread::Builder::new().name("bench-pace".into()).spawn(move || schedule.run())?;
        Ok(())
    }

    /// Waits for the next request, and returns when it was due. `None` if all requests are taken,
    /// or at `give_up`.
    pub async fn next(&self, give_up: Instant) -> Option<Instant> {
        match self.due.try_acquire() {
            // Waiting clients come first. So no client was free when this request became due.
            Ok(permit) => {
                permit.forget();
                self.waited.fetch_add(1, Relaxed);
            }
            Err(TryAcquireError::NoPermits) => {
                timeout_at(give_up, self.due.acquire()).await.ok()?.ok()?.forget();
            }
            Err(TryAcquireError::Closed) => return None,
        }
        let number = self.taken.fetch_add(1, Relaxed);
        if number + 1 == self.total {
            self.due.close();
        }
        Some(self.due_at(number))
    }

    /// When request `number` is due. It is computed from the start, so that errors do not add up.
    fn due_at(&self, number: u64) -> Instant {
        let after = u128::from(number) * NANOSECONDS / u128::from(self.rate);
        self.started + Duration::from_nanos(u64::try_from(after).unwrap_or(u64::MAX))
    }

    /// The number of requests that are due at `now`.
    fn due_by(&self, now: Instant) -> u64 {
        let since = now.saturating_duration_since(self.started).as_nanos();
        // Request 0 is due at the start.
        let due = since * u128::from(self.rate) / NANOSECONDS + 1;
        u64::try_from(due).unwrap_or(u64::MAX).min(self.total)
    }

    fn run(&self) {
        let mut released = 0;
        while released < self.total && !self.due.is_closed() {
            let wait = self.due_at(released).saturating_duration_since(Instant::now());
            std::thread::sleep(wait.min(PAUSE_MAX));
            let due = self.due_by(Instant::now()).max(released);
            // Fewer than `Semaphore::MAX_PERMITS`: a day at the highest rate has 2^37 requests.
            self.due.add_permits((due - released) as usize);
            released = due;
        }
    }
}

const NANOSECONDS: u128 = 1_000_000_000;

/// The thread checks this often whether the run has ended.
const PAUSE_MAX: Duration = Duration::from_millis(100);

#[cfg(test)]
mod tests {
    use super::*;

    const LONG: Duration = Duration::from_secs(3600);

    #[test]
    fn requests_are_due_at_even_distances_from_the_start() {
        let started = Instant::now();
        let schedule = Schedule::new(started, Duration::from_secs(10), 3);
        let after = |number| schedule.due_at(number) - started;
        assert_eq!(after(0), Duration::ZERO);
        assert_eq!(after(1), Duration::from_nanos(333_333_333));
        // No error adds up.
        assert_eq!(after(3_000_000), Duration::from_secs(1_000_000));
        assert_eq!(schedule.total(), 30);
        assert_eq!(Schedule::new(started, Duration::from_millis(1), 3).total(), 1);
    }

    #[test]
    fn a_request_counts_as_due_from_its_moment_on() {
        let started = Instant::now();
        let schedule = Schedule::new(started, Duration::from_secs(10), 1000);
        let due_by = |us| schedule.due_by(started + Duration::from_micros(us));
        assert_eq!([due_by(0), due_by(999), due_by(1000), due_by(2500)], [1, 1, 2, 3]);
        assert_eq!(schedule.due_by(started + LONG), schedule.total());
    }

    #[tokio::test]
    async fn requests_keep_their_moment_however_late_they_are_taken() {
        let started = Instant::now();
        let schedule = Schedule::new(started, Duration::from_millis(4), 1000);
        schedule.due.add_permits(4);
        for number in 0..4 {
            let due = schedule.next(started + LONG).await;
            assert_eq!(due, Some(started + Duration::from_millis(number)));
        }
        // They were all due before a client asked for them.
        assert_eq!((schedule.waited(), schedule.left()), (4, 0));
        assert_eq!(schedule.next(started + LONG).await, None);
    }

    #[tokio::test]
    async fn a_request_that_a_client_waits_for_has_not_waited() {
        let started = Instant::now();
        let schedule = Arc::new(Schedule::new(started, Duration::from_millis(2), 1000));
        let waiting = tokio::spawn({
            let schedule = schedule.clone();
            async move { schedule.next(started + LONG).await }
        });
        tokio::task::yield_now().await;
        schedule.due.add_permits(2);
        assert_eq!(waiting.await.unwrap(), Some(started));
        assert_eq!(schedule.waited(), 0);
        // The other one is given up.
        drop(schedule.due.try_acquire().unwrap());
        assert_eq!(schedule.left(), 1);
    }

    #[tokio::test]
    async fn what_is_not_due_in_time_is_given_up() {
        let started = Instant::now();
        let schedule = Schedule::new(started, Duration::from_millis(2), 1000);
        assert_eq!(schedule.next(started).await, None);
        assert_eq!(schedule.left(), 2);
    }
}
