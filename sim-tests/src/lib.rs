//! Batches of simulated runs, and what is said of one that fails.

#[cfg(madsim)]
pub mod layer2;
pub mod planted;
pub mod rerun;

use simulator::{Marks, Plan, RegisterWorkload, Run, Violation, run, shrink};

/// Registers that clients share: few, so that they meet.
const REGISTERS: u8 = 4;

/// Runs a plan with clients on a few registers.
pub fn run_registers(plan: &Plan, record: bool) -> Run {
    run(plan, RegisterWorkload::new(REGISTERS, plan.swarm.padding_bytes), record)
}

/// A run that broke a promise, and the smallest plan that still does.
#[derive(Clone, Debug)]
pub struct Failure {
    /// The seed.
    pub seed: u64,
    /// What was broken.
    pub violation: Violation,
    /// At which event.
    pub event: u64,
    /// At which simulated time, in microseconds.
    pub time_us: u64,
    /// A smaller plan that breaks the same promise.
    pub shrunk: Plan,
}

impl Failure {
    /// Of the seed's run, which broke a promise.
    pub fn new(plan: &Plan, failed: &Run, violation: Violation) -> Self {
        let check = violation.check;
        let fails = |smaller: &Plan| {
            run_registers(smaller, false).violation.is_some_and(|found| found.check == check)
        };
        Failure {
            seed: plan.seed,
            event: failed.events,
            time_us: failed.time_us,
            shrunk: shrink(plan, fails),
            violation,
        }
    }
}

impl std::fmt::Display for Failure {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Failure { seed, violation, event, time_us, shrunk } = self;
        writeln!(f, "broken: {}: {}", violation.check, violation.detail)?;
        writeln!(f, "  at event {event}, {time_us} µs of simulated time")?;
        writeln!(f, "  again:  SIM_SEED={seed} cargo test -p sim-tests")?;
        writeln!(f, "  shrunk: SIM_PLAN='{shrunk}' cargo test -p sim-tests")
    }
}

/// What a batch of seeds came to.
#[derive(Clone, Debug, Default)]
pub struct Batch {
    /// Seeds run.
    pub seeds: u64,
    /// Events in them.
    pub events: u64,
    /// Simulated time, in microseconds.
    pub time_us: u64,
    /// What happened in them.
    pub marks: Marks,
    /// The first run that broke a promise.
    pub failure: Option<Failure>,
}

impl Batch {
    /// Runs one seed more, unless one has failed. Returns whether to go on.
    pub fn run_seed(&mut self, seed: u64) -> bool {
        let plan = Plan::from_seed(seed);
        let result = run_registers(&plan, false);
        self.seeds += 1;
        self.events += result.events;
        self.time_us += result.time_us;
        self.marks.add(&result.marks);
        if let Some(violation) = result.violation.clone() {
            self.failure = Some(Failure::new(&plan, &result, violation));
        }
        self.failure.is_none()
    }
}
