//! A hunt: runs seed after seed until a promise is broken, a budget is used up, or it is stopped.
//!
//! With several threads it finds the same as with one: seeds are assigned in order, results are
//! counted in order, and those beyond the first failing seed are discarded.

use crate::limit::{Limit, end_hunt};
use crate::{Batch, COMMAND, run_registers};
use simulator::{EXPECTED, Plan, Run};
use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::mpsc;
use std::thread;
use std::time::Duration;

/// The settings of a hunt.
#[derive(Clone, Copy, Debug)]
pub struct Hunt {
    /// The first seed.
    pub from: u64,
    /// Ends after the seed with which this many events are reached.
    pub events_max: Option<u64>,
    /// Ends after this many seeds.
    pub seeds_max: Option<u64>,
    /// Number of threads.
    pub jobs: usize,
    /// A seed that runs for longer is a finding, and ends the process.
    pub seed_max: Duration,
}

impl Hunt {
    /// Hunts until a promise is broken, a budget is used up, or `stop` is set. Calls `progress`
    /// after each seed.
    pub fn run(&self, stop: &AtomicBool, mut progress: impl FnMut(&Batch)) -> Batch {
        let next = AtomicU64::new(self.from);
        let is_over = AtomicBool::new(false);
        let jobs = self.jobs.max(1);
        let seed_max = self.seed_max;
        let limit = Limit::new(seed_max, None);
        limit.watch(move |exceeded| end_hunt(exceeded, seed_max, COMMAND));
        // A thread waits until its result is taken, so that results do not pile up.
        let (found, results) = mpsc::sync_channel(jobs);
        let mut batch = Batch::default();
        thread::scope(|scope| {
            for _ in 0..jobs {
                let (found, next, is_over) = (found.clone(), &next, &is_over);
                let limit = &limit;
                scope.spawn(move || {
                    while !is_over.load(Ordering::Relaxed) && !stop.load(Ordering::Relaxed) {
                        let seed = next.fetch_add(1, Ordering::Relaxed);
                        let plan = Plan::from_seed(seed);
                        let result = limit.run(seed, || run_registers(&plan));
                        if found.send((seed, plan, result)).is_err() {
                            break;
                        }
                    }
                });
            }
            drop(found);
            self.count(results, &mut batch, &mut progress);
            is_over.store(true, Ordering::Relaxed);
        });
        batch
    }

    /// Counts results in the order of their seeds. The threads end when this returns.
    fn count(
        &self,
        results: mpsc::Receiver<(u64, Plan, Run)>,
        batch: &mut Batch,
        progress: &mut impl FnMut(&Batch),
    ) {
        let mut early = BTreeMap::new();
        let mut due = self.from;
        for (seed, plan, result) in results {
            early.insert(seed, (plan, result));
            while let Some((plan, result)) = early.remove(&due) {
                due += 1;
                let goes_on = batch.add(&plan, &result);
                progress(batch);
                let is_enough = self.events_max.is_some_and(|most| batch.events >= most)
                    || self.seeds_max.is_some_and(|most| batch.seeds >= most);
                if !goes_on || is_enough {
                    return;
                }
            }
        }
    }
}

/// A line of progress.
pub fn line(batch: &Batch, passed: Duration) -> String {
    let missed = batch.marks.missed().len();
    format!(
        "{} seeds, {} events, {:.0} events/s, {} s simulated, {} of {} marks hit",
        batch.seeds,
        batch.events,
        batch.events as f64 / passed.as_secs_f64(),
        batch.time_us / 1_000_000,
        EXPECTED.len() - missed,
        EXPECTED.len(),
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn several_threads_find_what_one_finds() {
        let seed_max = Duration::MAX;
        let hunt =
            |jobs| Hunt { from: 10, events_max: Some(200_000), seeds_max: None, jobs, seed_max };
        let never = AtomicBool::new(false);
        let alone = hunt(1).run(&never, |_| ());
        let many = hunt(3).run(&never, |_| ());
        assert!(alone.seeds > 1 && alone.events >= 200_000);
        assert_eq!(
            (alone.seeds, alone.events, alone.time_us),
            (many.seeds, many.events, many.time_us)
        );
        assert_eq!(alone.marks, many.marks);
    }

    #[test]
    fn a_hunt_that_is_stopped_says_what_it_has_seen() {
        let stop = AtomicBool::new(false);
        let seed_max = Duration::MAX;
        let hunt = Hunt { from: 1, events_max: None, seeds_max: None, jobs: 2, seed_max };
        let batch = hunt.run(&stop, |_| stop.store(true, Ordering::Relaxed));
        // It has no other limit: that it ends proves that it was stopped.
        assert!(batch.seeds >= 1);
    }
}
