//! Layer 1: the real core and the real log on a simulated network, disk and clock.
//!
//! | variable | meaning |
//! |---|---|
//! | `SIM_SEEDS` | how many seeds to run |
//! | `SIM_TIME` | for how many seconds to go on instead |
//! | `SIM_SEED` | run this seed alone |
//! | `SIM_PLAN` | run this plan alone |
//! | `SIM_LAYER` | 1 or 2: run this layer alone |

use proptest::prelude::*;
use sim_tests::{Batch, failure, run_registers};
use simulator::Plan;
use std::process::Command;
use std::time::{Duration, Instant};

/// Number of seeds in the ordinary tests; they take about twenty seconds.
const SEEDS: u64 = 400;

fn variable<T: std::str::FromStr>(name: &str) -> Option<T> {
    let value = std::env::var(name).ok()?;
    match value.parse() {
        Ok(value) => Some(value),
        Err(_) => panic!("{name}={value} is not understood"),
    }
}

fn check(plan: &Plan) {
    let result = run_registers(plan);
    if result.violation.is_some() {
        panic!("{}", failure(plan, &result));
    }
    assert!(result.events > 100, "nothing was simulated");
}

#[test]
fn no_seed_breaks_a_promise_and_every_kind_of_trouble_is_met() {
    if variable("SIM_LAYER") == Some(2) {
        return;
    }
    if let Some(plan) = variable("SIM_PLAN") {
        return check(&plan);
    }
    if let Some(seed) = variable("SIM_SEED") {
        return check(&Plan::from_seed(seed));
    }
    let (seeds, time) = (variable("SIM_SEEDS").unwrap_or(SEEDS), variable("SIM_TIME"));
    let until = time.map(|seconds| Instant::now() + Duration::from_secs(seconds));
    let goes_on = |batch: &Batch| match until {
        Some(until) => Instant::now() < until,
        None => batch.seeds < seeds,
    };
    let mut batch = Batch::default();
    while goes_on(&batch) && batch.run_seed(batch.seeds) {}
    println!("{} seeds, {} events", batch.seeds, batch.events);
    if let Some(failure) = batch.failure {
        panic!("{failure}");
    }
    assert!(batch.events / batch.seeds > 10_000, "hardly anything was simulated");
    if batch.seeds >= SEEDS {
        assert_eq!(batch.marks.missed(), Vec::<&str>::new(), "trouble that was never met");
    }
}

#[test]
fn plans_that_once_broke_a_promise_do_so_no_more() {
    let plans = include_str!("../regressions/layer1.txt");
    for plan in simulator::regressions::plans(plans).expect("every line is a plan") {
        check(&plan);
    }
}

#[test]
fn the_same_seed_is_the_same_run_in_another_process() {
    let seeds = [3_u64, 14, 15];
    let traces = || -> Vec<String> {
        let trace = |seed: &u64| run_registers(&Plan::from_seed(*seed)).trace.to_string();
        seeds.iter().map(trace).collect()
    };
    let own = traces().join(" ");
    assert_eq!(own, traces().join(" "), "two runs in one process differ");
    if std::env::var("SIM_CHILD").is_ok() {
        println!("traces {own}.");
        return;
    }
    let child = Command::new(std::env::current_exe().expect("a test has a program"))
        .args(["--exact", "the_same_seed_is_the_same_run_in_another_process", "--nocapture"])
        .env("SIM_CHILD", "1")
        .output()
        .expect("it starts again");
    let said = String::from_utf8_lossy(&child.stdout).into_owned();
    assert!(said.contains(&format!("traces {own}.")), "the child's runs differ: {said}");
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 24, failure_persistence: None, rng_seed: proptest::test_runner::RngSeed::Fixed(1), ..ProptestConfig::default() })]

    /// The plans are the same every time: a random search belongs to the hunt. They need not be
    /// plans of seeds: faults are removed, moved and doubled.
    #[test]
    fn no_plan_breaks_a_promise(
        seed in 0..100_000_u64,
        keep in proptest::collection::vec(any::<bool>(), 40),
        shift_us in 0..100_000_u64,
        again in any::<bool>(),
    ) {
        let mut plan = Plan::from_seed(seed);
        let mut kept = keep.iter().cycle();
        plan.faults.retain(|_| *kept.next().expect("a cycle") );
        if again {
            let mut copies = plan.faults.clone();
            copies.iter_mut().for_each(|fault| fault.at_us += shift_us);
            plan.faults.extend(copies);
        }
        let result = run_registers(&plan);
        prop_assert!(result.violation.is_none(), "{:?}\n{plan}", result.violation);
    }
}
