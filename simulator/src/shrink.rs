//! Shrinks a failing plan. It removes faults, in halves and then one by one; sets the swarm to
//! harmless values, first all at once and then parameter by parameter; and reduces clients and
//! nodes. Then it shortens faults and tries changes that make the run fail sooner. Every draw has a
//! name of its own, so the rest of the run stays as before.
//!
//! A run that breaks nothing would take the longest. So a candidate runs for at most `LONGER` times
//! the events after which the smallest plan so far fails.
//!
//! The result is not a true minimum. The search ends when no attempt makes the plan smaller, or at
//! a limit of runs or time.
// Only the search for a smaller plan is limited by the clock; no run depends on it.
#![allow(clippy::disallowed_methods)]

use crate::plan::{FaultKind, Plan};
use std::time::{Duration, Instant};

/// Number of runs after which the search ends.
const RUNS_MAX: u32 = 1_000;

/// Real time after which the search ends.
const TIME_MAX: Duration = Duration::from_secs(30);

/// Parameters and their most harmless values: most faults of a swarm are off at 0, and sizes are
/// large enough that nothing is split.
const CALM: &[(&str, u32)] = &[
    ("loss_ppm", 0),
    ("report_ppm", 0),
    ("duplicate_ppm", 0),
    ("tail_ppm", 0),
    ("tail_us", 0),
    ("stall_ppm", 0),
    ("stall_us", 0),
    ("tear_ppm", 0),
    ("keep_ppm", 0),
    ("padding_bytes", 0),
    ("uncommitted_bytes", 0),
    ("reads_max", 0),
    ("apply_us", 0),
    ("think_us", 0),
    ("append_bytes", 1 << 20),
    ("write_bytes", 1 << 20),
    ("apply_bytes", 1 << 20),
    ("inflight", 64),
    ("snapshot_bytes", 1 << 30),
    ("snapshot_bytes_max", 0),
    ("segment_bytes", 256 << 10),
    ("reads_ppm", 0),
    ("churn", 0),
    ("sessions", 0),
    ("priorities", 0),
    ("gone_us", 0),
    ("unread_ppm", 0),
    ("log_bytes", 0),
    ("lease_off_ppm", 0),
    ("lease_drift_ppm", 0),
];

/// Parameters and values that may make the run fail sooner. They are accepted only if it fails
/// within half the events.
const SOONER: &[(&str, u32)] = &[("snapshot_bytes", 600), ("retained_bytes", 0), ("think_us", 0)];

/// Other seeds that are tried, for the same reason.
const SEEDS: std::ops::Range<u64> = 0..12;

/// A longer fault is tried with this duration.
const SHORT_US: u64 = 1_000;

/// A candidate runs for at most this many times the events of the smallest plan so far.
const LONGER: u64 = 2;

/// Where a run broke a promise.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Broken {
    /// Number of the event.
    pub event: u64,
    /// Simulated time, in microseconds.
    pub time_us: u64,
}

/// A smaller plan that breaks the same promise.
#[derive(Clone, Debug)]
pub struct Shrunk {
    /// The plan.
    pub plan: Plan,
    /// Where it breaks.
    pub broken: Broken,
    /// Number of runs that the search took.
    pub runs: u32,
    /// Whether the search ended because no attempt made the plan smaller; if not, a limit ended it.
    pub is_smallest: bool,
}

/// Returns the smallest plan found that breaks the same promise as `plan`, which fails at `broken`.
/// `breaks` runs a plan for at most a number of events and returns where it breaks that promise.
pub fn shrink(
    plan: &Plan,
    broken: Broken,
    breaks: impl FnMut(&Plan, u64) -> Option<Broken>,
) -> Shrunk {
    let until = Instant::now() + TIME_MAX;
    let mut shrinking = Shrinking { smallest: plan.clone(), broken, breaks, runs: 0, until };
    loop {
        let before = shrinking.smallest.clone();
        shrinking.cut_short();
        shrinking.drop_faults();
        shrinking.calm_swarm();
        shrinking.take_away(
            |plan| u64::from(plan.swarm.clients),
            |plan, count| {
                plan.swarm.clients = count as u32;
            },
        );
        shrinking.take_away(|plan| plan.nodes, |plan, count| plan.nodes = count);
        shrinking.shorten_faults();
        shrinking.hurry();
        if shrinking.smallest == before || shrinking.is_over() {
            break;
        }
    }
    let is_smallest = !shrinking.is_over();
    let Shrinking { smallest: plan, broken, runs, .. } = shrinking;
    Shrunk { plan, broken, runs, is_smallest }
}

struct Shrinking<F> {
    smallest: Plan,
    broken: Broken,
    breaks: F,
    runs: u32,
    until: Instant,
}

impl<F: FnMut(&Plan, u64) -> Option<Broken>> Shrinking<F> {
    fn is_over(&self) -> bool {
        self.runs >= RUNS_MAX || Instant::now() >= self.until
    }

    /// Accepts the candidate if it breaks the same promise.
    fn attempt(&mut self, candidate: Plan) -> bool {
        self.attempt_within(candidate, self.broken.event.saturating_mul(LONGER))
    }

    fn attempt_within(&mut self, candidate: Plan, events_max: u64) -> bool {
        if candidate == self.smallest || self.is_over() {
            return false;
        }
        self.runs += 1;
        let found = (self.breaks)(&candidate, events_max);
        if let Some(broken) = found {
            (self.smallest, self.broken) = (candidate, broken);
        }
        found.is_some()
    }

    /// Ends the faults at the violation: later ones do not matter.
    fn cut_short(&mut self) {
        let mut candidate = self.smallest.clone();
        let until_us = u32::try_from(self.broken.time_us + 1).unwrap_or(u32::MAX);
        let swarm = &mut candidate.swarm;
        swarm.faults_until_us = swarm.faults_until_us.min(until_us);
        candidate.faults.retain(|fault| fault.at_us <= self.broken.time_us);
        self.attempt(candidate);
    }

    fn drop_faults(&mut self) {
        let mut chunk = self.smallest.faults.len();
        while chunk > 0 && !self.is_over() {
            let mut at = 0;
            while at < self.smallest.faults.len() {
                let mut candidate = self.smallest.clone();
                candidate.faults.drain(at..(at + chunk).min(candidate.faults.len()));
                if !self.attempt(candidate) {
                    at += chunk;
                }
            }
            chunk /= 2;
        }
    }

    fn calm_swarm(&mut self) {
        let mut chunk = CALM.len();
        while chunk > 0 {
            for part in CALM.chunks(chunk) {
                let mut candidate = self.smallest.clone();
                for (name, value) in part {
                    candidate.swarm.set(name, *value);
                }
                self.attempt(candidate);
            }
            chunk /= 2;
        }
    }

    /// Reduces the number of clients or nodes, the smallest number first.
    fn take_away(&mut self, now: fn(&Plan) -> u64, set: fn(&mut Plan, u64)) {
        for count in 1..now(&self.smallest) {
            let mut candidate = self.smallest.clone();
            set(&mut candidate, count);
            if self.attempt(candidate) {
                break;
            }
        }
    }

    /// Tries values and seeds with which the plan fails within half the events: a shorter run is
    /// easier to read.
    fn hurry(&mut self) {
        let sooner = |plan: &Plan, few: &[(&str, u32)]| {
            let mut candidate = plan.clone();
            for (name, value) in few {
                candidate.swarm.set(name, *value);
            }
            candidate
        };
        for one in SOONER.chunks(1) {
            self.attempt_within(sooner(&self.smallest, one), self.broken.event / 2);
        }
        for seed in SEEDS {
            let plain = Plan { seed, ..self.smallest.clone() };
            if !self.attempt_within(sooner(&plain, SOONER), self.broken.event / 2) {
                self.attempt_within(plain, self.broken.event / 2);
            }
        }
    }

    fn shorten_faults(&mut self) {
        for at in 0..self.smallest.faults.len() {
            let mut candidate = self.smallest.clone();
            let fault = &mut candidate.faults[at];
            // The amount of this one is a clock rate.
            if fault.kind != FaultKind::Clock {
                fault.amount = fault.amount.min(SHORT_US);
                self.attempt(candidate);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::plan::Fault;
    use std::cell::Cell;

    fn at(time_us: u64) -> Broken {
        Broken { event: time_us / 10, time_us }
    }

    /// A seed with many faults, and one of them.
    fn plan() -> (Plan, Fault) {
        let plan = (0..).map(Plan::from_seed).find(|plan| plan.faults.len() > 10);
        let plan = plan.expect("some seed has many faults");
        let culprit = plan.faults[7];
        (plan, culprit)
    }

    #[test]
    fn only_what_matters_is_left() {
        let (plan, culprit) = plan();
        let breaks = |plan: &Plan, _| {
            let is_there = plan.faults.iter().any(|fault| fault.at_us == culprit.at_us);
            (is_there && plan.nodes >= 2).then_some(at(culprit.at_us + 5))
        };
        let Shrunk { plan: shrunk, is_smallest, runs, .. } = shrink(&plan, at(1 << 40), breaks);
        assert!(is_smallest);
        assert_eq!(shrunk.faults.len(), 1);
        assert_eq!(shrunk.faults[0].kind, culprit.kind);
        assert_eq!((shrunk.swarm.loss_ppm, shrunk.swarm.clients, shrunk.nodes), (0, 1, 2));
        assert_eq!(u64::from(shrunk.swarm.faults_until_us), culprit.at_us + 6);
        assert!(runs < 100, "{runs} runs for one fault");
    }

    #[test]
    fn no_candidate_is_run_for_much_longer_than_the_smallest_plan() {
        let (plan, _) = plan();
        let longest = Cell::new(0);
        let breaks = |_: &Plan, events_max| {
            longest.set(longest.get().max(events_max));
            None
        };
        let shrunk = shrink(&plan, Broken { event: 500, time_us: 1 << 40 }, breaks);
        assert_eq!((shrunk.plan, shrunk.broken.event), (plan, 500));
        assert_eq!(longest.get(), LONGER * 500);
    }

    #[test]
    fn shrinking_ends_though_every_plan_is_another_one() {
        let (plan, _) = plan();
        let runs = Cell::new(0_u64);
        let breaks = |_: &Plan, _| {
            runs.set(runs.get() + 1);
            // Every second one, and always a little earlier.
            runs.get().is_multiple_of(2).then(|| at(1_000_000 - runs.get()))
        };
        let shrunk = shrink(&plan, at(2_000_000), breaks);
        assert!(shrunk.runs <= RUNS_MAX);
    }
}
