//! Batches of runs of layer 2, and the report of one that fails.

use super::{COMMAND, EXPECTED, Run, failure, run};
use crate::hunt::Hunt;
use crate::limit::{Limit, end_hunt};
use crate::progress::Progress;
use simulator::{Failed, Marks, Plan};
use std::process::ExitCode;
use std::sync::atomic::Ordering;
use std::time::Duration;

/// The result of a batch of seeds.
#[derive(Clone, Debug, Default)]
pub struct Batch {
    /// Number of seeds that were run.
    pub seeds: u64,
    /// Messages between nodes in all of these runs.
    pub messages: u64,
    /// Events in all of these runs.
    pub events: u64,
    /// Simulated time of all runs together, in microseconds.
    pub time_us: u64,
    /// How often each noteworthy event happened in these runs.
    pub marks: Marks,
    /// The first run that broke a promise.
    pub failure: Option<Failed>,
}

impl Batch {
    /// Runs one more seed. Returns whether it kept all promises.
    pub fn run_seed(&mut self, seed: u64) -> bool {
        let plan = Plan::from_seed(seed);
        let result = run(&plan);
        self.add(&plan, &result)
    }

    /// Adds the result of a plan's run. Returns whether it kept all promises.
    fn add(&mut self, plan: &Plan, result: &Run) -> bool {
        self.seeds += 1;
        self.messages += result.messages;
        self.events += result.events;
        self.time_us += result.time_us;
        self.marks.add(&result.marks);
        if result.violation.is_some() {
            self.failure = Some(failure(plan, result));
        }
        self.failure.is_none()
    }

    /// The expected events that never happened.
    pub fn missed(&self) -> Vec<&'static str> {
        EXPECTED.iter().copied().filter(|name| self.marks.count(name) == 0).collect()
    }

    /// The batch so far, in one line of progress.
    pub fn line(&self, passed: Duration) -> String {
        let seconds = passed.as_secs_f64();
        format!(
            "{} seeds, {} messages, {:.0} messages/s, {} s simulated, {:.0} times real time, \
             {} marks missed",
            self.seeds,
            self.messages,
            self.messages as f64 / seconds,
            self.time_us / 1_000_000,
            self.time_us as f64 / 1e6 / seconds,
            self.missed().len(),
        )
    }
}

/// Runs seed after seed, until a limit of seeds or events is reached, it is stopped, or a promise
/// is broken. Layer 2 has one thread.
pub fn hunt(hunt: Hunt) -> ExitCode {
    let Hunt { from, events_max, seeds_max, jobs: _, seed_max } = hunt;
    let limit = Limit::new(seed_max, None);
    limit.watch(move |exceeded| end_hunt(exceeded, seed_max, COMMAND));
    let mut progress = Progress::begin();
    let stop = progress.stop();
    let mut batch = Batch::default();
    while !stop.load(Ordering::Relaxed)
        && seeds_max.is_none_or(|most| batch.seeds < most)
        && events_max.is_none_or(|most| batch.events < most)
    {
        let seed = from + batch.seeds;
        let plan = Plan::from_seed(seed);
        let result = limit.run(seed, || run(&plan));
        if !batch.add(&plan, &result) {
            break;
        }
        progress.show(|passed| batch.line(passed));
    }
    let said = batch.line(progress.passed());
    progress.end(&said, &batch.marks, &batch.missed(), batch.failure.as_ref())
}
