//! Simulated time, on madsim's executor.
//!
//! madsim does not sleep for less than a millisecond, and a network or a disk is faster than that.
//! So one microsecond of the simulation is one millisecond of madsim's. Only this file knows that,
//! and no other code may read the time from madsim or from the system.

use std::future::Future;
use std::pin::Pin;
use std::task::{Context, Poll, Waker};
use std::time::Duration;

/// One microsecond of the simulation, in madsim's time.
const MICROSECOND: Duration = Duration::from_millis(1);

/// Runs a simulation on a thread of its own, so that no thread-local state (the seed of hash maps,
/// a generator) remains from an earlier one. `seed` decides the order in which ready tasks run.
/// Panics if the simulation does.
pub fn run<T: Send + 'static, F: Future<Output = T>>(
    seed: u64,
    simulation: impl FnOnce() -> F + Send + 'static,
) -> T {
    let body = move || {
        let config = madsim::Config::default();
        madsim::runtime::Runtime::with_seed_and_config(seed, config)
            .block_on(async move { simulation().await })
    };
    let thread = std::thread::Builder::new().name(format!("seed {seed}")).spawn(body);
    match thread.expect("a thread can be started").join() {
        Ok(result) => result,
        Err(panic) => std::panic::resume_unwind(panic),
    }
}

/// The simulated time, in microseconds since the start. Only within [`run`].
pub fn now_us() -> u64 {
    now_ns() / 1_000
}

/// The simulated time, in nanoseconds since the start. Only within [`run`].
pub(crate) fn now_ns() -> u64 {
    let elapsed = madsim::time::TimeHandle::current().elapsed();
    (elapsed.as_nanos() / 1_000) as u64
}

/// Waits for a number of microseconds of simulated time, at least for one.
pub fn sleep_us(duration_us: u64) -> Pause {
    let micros = u32::try_from(duration_us).unwrap_or(u32::MAX);
    Pause { inner: madsim::time::sleep(MICROSECOND * micros), waker: None }
}

/// A pause in simulated time.
#[derive(Debug)]
#[must_use = "a future does nothing unless it is awaited"]
pub struct Pause {
    inner: madsim::time::Sleep,
    /// The task that will be woken. madsim adds a timer whenever a sleep is polled, and a loop that
    /// polls its timer in each turn would accumulate them without limit.
    waker: Option<Waker>,
}

impl Future for Pause {
    type Output = ();

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<()> {
        if self.inner.is_elapsed() {
            return Poll::Ready(());
        }
        if self.waker.as_ref().is_some_and(|waker| waker.will_wake(context.waker())) {
            return Poll::Pending;
        }
        self.waker = Some(context.waker().clone());
        Pin::new(&mut self.inner).poll(context)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_hour_passes_in_a_blink_and_a_microsecond_counts() {
        let passed = run(1, || async {
            sleep_us(7).await;
            let short = now_us();
            sleep_us(3_600_000_000).await;
            (short, now_us())
        });
        assert_eq!(passed, (7, 3_600_000_007));
    }
}
