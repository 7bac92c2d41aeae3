//! How fast layer 1 is: `cargo bench -p sim-tests`.
//!
//! Runs a fixed range of seeds in one thread and prints the results. It measures the CPU time of
//! the thread where the system provides it, so that a busy machine does not affect the result.
//! Nothing is asserted, since the speed depends on the machine. The target is 500,000 events/s.

use sim_tests::run_registers;
use simulator::Plan;
use std::fs;
use std::time::{Duration, Instant};

/// The measured seeds: enough for some seconds, and the same plans every time.
const SEEDS: std::ops::Range<u64> = 0..200;

/// Seeds that run before the measurement, to warm up caches and the allocator.
const WARM_UP: std::ops::Range<u64> = 0..10;

/// The number of slowest seeds that are printed.
const SLOWEST: usize = 5;

struct Timed {
    seed: u64,
    events: u64,
    simulated_us: u64,
    took: Duration,
}

impl Timed {
    fn nanoseconds_an_event(&self) -> f64 {
        self.took.as_nanos() as f64 / self.events as f64
    }
}

fn main() {
    WARM_UP.map(time).for_each(|_| ());
    let mut runs: Vec<Timed> = SEEDS.map(time).collect();
    let events: u64 = runs.iter().map(|run| run.events).sum();
    let simulated_us: u64 = runs.iter().map(|run| run.simulated_us).sum();
    let took: Duration = runs.iter().map(|run| run.took).sum();
    let seconds = took.as_secs_f64();
    println!("{} seeds, {events} events in {seconds:.2} s of one core", runs.len());
    println!("{:>12.0} events/s", events as f64 / seconds);
    println!("{:>12.0} ns an event", seconds * 1e9 / events as f64);
    println!("{:>12.0} times real time", simulated_us as f64 / 1e6 / seconds);
    runs.sort_by(|a, b| b.nanoseconds_an_event().total_cmp(&a.nanoseconds_an_event()));
    let typical = &runs[runs.len() / 2];
    println!("{:>12.0} ns an event in the median seed", typical.nanoseconds_an_event());
    println!("the slowest:");
    for run in runs.iter().take(SLOWEST) {
        let Timed { seed, events, .. } = run;
        println!(
            "{:>12.0} ns an event in seed {seed} ({events} events)",
            run.nanoseconds_an_event()
        );
    }
}

fn time(seed: u64) -> Timed {
    let plan = Plan::from_seed(seed);
    let (begun, ran) = (Instant::now(), ran());
    let run = run_registers(&plan);
    let took = match (ran, self::ran()) {
        (Some(before), Some(after)) => after.saturating_sub(before),
        _ => begun.elapsed(),
    };
    Timed { seed, events: run.events, simulated_us: run.time_us, took }
}

/// The CPU time of this thread, on Linux.
fn ran() -> Option<Duration> {
    let text = fs::read_to_string("/proc/thread-self/schedstat").ok()?;
    let nanoseconds = text.split_whitespace().next()?.parse().ok()?;
    Some(Duration::from_nanos(nanoseconds))
}
