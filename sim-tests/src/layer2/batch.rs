//! Batches of runs of layer 2, and what is said of one that fails.

use super::{COMMAND, EXPECTED, Run, failure, run};
use crate::hunt::Hunt;
use crate::limit::{Limit, end_hunt};
use crate::progress::Progress;
use simulator::{Failed, Marks, Plan};
use std::process::ExitCode;
use std::sync::atomic::Ordering;
use std::time::Duration;

/// What a batch of seeds came to.
#[derive(Clone, Debug, Default)]
pub struct Batch {
    /// Seeds run.
    pub seeds: u64,
    /// Messages between nodes in them.
    pub messages: u64,
    /// All that was traced in them.
    pub events: u64,
    /// Simulated time, in microseconds.
    pub time_us: u64,
    /// What happened in them.
    pub marks: Marks,
    /// The first run that broke a promise.
    pub failure: Option<Failed>,
}

impl Batch {
    /// Runs one seed more. Returns whether it kept all promises.
    pub fn run_seed(&mut self, seed: u64) -> bool {
        let plan = Plan::from_seed(seed);
        let result = run(&plan);
        self.add(&plan, &result)
    }

    /// Adds what the run of a plan came to. Returns whether it kept all promises.
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

    /// What was expected and never happened.
    pub fn missed(&self) -> Vec<&'static str> {
        EXPECTED.iter().copied().filter(|name| self.marks.count(name) == 0).collect()
    }

    /// In one line.
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

/// Runs seed after seed, until it has run so many or traced so much, is stopped, or finds something.
/// Layer 2 has one thread.
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
