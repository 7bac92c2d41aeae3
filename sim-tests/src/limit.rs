//! A limit of time for one seed, and for a whole search.
//!
//! Nothing within a simulation can end a loop that never waits, so a separate thread checks the
//! clock. A stuck run cannot be unwound: the callback reports it and ends the process. The limits
//! are in real time, so they are far above what a run takes on a busy machine.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

/// The name of the finding: no promise was broken, but the run did not end.
pub const TOO_LONG: &str = "ran too long";
/// The default limit of one seed.
pub const SEED_SECONDS_MAX: u64 = 120;
/// The interval at which the clock is checked.
const LOOK_EVERY: Duration = Duration::from_millis(100);

/// The limit that was exceeded.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Exceeded {
    /// This seed has run for longer than the limit of a seed.
    Seed(u64),
    /// The search has run for longer than its limit. The first seed that still runs, if any.
    Search(Option<u64>),
}

/// The seeds that run, and since when.
#[derive(Clone, Debug)]
pub struct Limit {
    running: Arc<Mutex<BTreeMap<u64, Instant>>>,
    begun: Instant,
    seed_max: Duration,
    search_max: Option<Duration>,
}

impl Limit {
    /// Sets the limit of each seed, and that of the whole search.
    pub fn new(seed_max: Duration, search_max: Option<Duration>) -> Self {
        Limit { running: Arc::default(), begun: Instant::now(), seed_max, search_max }
    }

    /// Calls `end` when a limit is exceeded; `end` must end the process.
    pub fn watch(&self, end: impl Fn(Exceeded) + Send + 'static) {
        let limit = self.clone();
        thread::spawn(move || {
            loop {
                thread::sleep(LOOK_EVERY);
                if let Some(exceeded) = limit.exceeded(Instant::now()) {
                    end(exceeded);
                }
            }
        });
    }

    /// Runs a seed under the limit.
    pub fn run<T>(&self, seed: u64, run: impl FnOnce() -> T) -> T {
        self.running().insert(seed, Instant::now());
        let result = run();
        self.running().remove(&seed);
        result
    }

    fn exceeded(&self, now: Instant) -> Option<Exceeded> {
        let running = self.running();
        let since = |begun: &Instant| now.saturating_duration_since(*begun);
        let stuck = running.iter().find(|(_, begun)| since(begun) > self.seed_max);
        if let Some((seed, _)) = stuck {
            return Some(Exceeded::Seed(*seed));
        }
        let is_over = self.search_max.is_some_and(|most| since(&self.begun) > most);
        is_over.then(|| Exceeded::Search(running.keys().next().copied()))
    }

    fn running(&self) -> MutexGuard<'_, BTreeMap<u64, Instant>> {
        self.running.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Reports a seed of a hunt that ran too long, and ends the process. `again` is the command that
/// repeats the seed.
pub fn end_hunt(exceeded: Exceeded, seed_max: Duration, again: &str) {
    if let Exceeded::Seed(seed) = exceeded {
        println!("broken: {TOO_LONG}: seed {seed} has run for more than {} s", seed_max.as_secs());
        println!("  again:    SIM_SEED={seed} {again}");
        std::process::exit(1);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SEED: Duration = Duration::from_secs(10);
    const SEARCH: Duration = Duration::from_secs(100);

    #[test]
    fn a_seed_has_a_limit_that_begins_with_it() {
        let limit = Limit::new(SEED, None);
        let seen = limit.run(7, || {
            let now = Instant::now();
            [limit.exceeded(now), limit.exceeded(now + SEED + SEED)]
        });
        assert_eq!(seen, [None, Some(Exceeded::Seed(7))]);
        assert_eq!(limit.exceeded(Instant::now() + SEED + SEED), None, "it has ended");
    }

    #[test]
    fn a_search_has_a_limit_whatever_its_seeds_take() {
        let limit = Limit::new(SEARCH + SEARCH, Some(SEARCH));
        assert_eq!(limit.exceeded(limit.begun + SEED), None);
        let seen = limit.run(8, || limit.exceeded(limit.begun + SEARCH + SEED));
        assert_eq!(seen, Some(Exceeded::Search(Some(8))));
    }
}
