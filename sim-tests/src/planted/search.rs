//! The search for a planted bug: in each of several ranges of seeds, the first run that breaks a
//! promise. Nothing is made smaller and nothing is drawn.

use crate::run_registers;
use clap::Args;
use simulator::Plan;
use std::ops::Range;
use std::process::ExitCode;

/// A planted bug is found only if it is found in all ranges but this many.
pub const MISSES_MAX: u64 = 1;

/// Where to search, and for how long.
#[derive(Args, Clone, Debug)]
pub struct Search {
    /// The first seed.
    #[arg(long, default_value_t = 1)]
    pub from: u64,
    /// Seeds in a range.
    #[arg(long, default_value_t = 2_000)]
    pub seeds: u64,
    /// Ranges.
    #[arg(long, default_value_t = 10)]
    pub ranges: u64,
    /// 1: the core, the log and a state machine. 2: whole nodes and clients.
    #[arg(long, default_value_t = 1)]
    pub layer: u8,
}

/// What the search says of a range in which nothing broke.
pub(super) const NOTHING: &str = "nothing";

impl Search {
    /// Searches, and prints a line for each range.
    pub fn run(&self) -> ExitCode {
        let mut missed = 0;
        for range in 0..self.ranges {
            let first = self.from + range * self.seeds;
            let seeds = first..first + self.seeds;
            // What is broken may break an assertion of the code before a check sees it.
            let found = std::panic::catch_unwind(|| match self.layer {
                1 => first_in_layer_1(seeds),
                _ => first_in_layer_2(seeds),
            });
            let (check, tried) = match found {
                Ok(Some((seed, check, detail))) => {
                    eprintln!("seed {seed}: {check}: {detail}");
                    (check, seed - first + 1)
                }
                Ok(None) => (NOTHING, self.seeds),
                Err(_) => ("an assertion of the code", 1),
            };
            println!("{tried} {check}");
            missed += u64::from(check == NOTHING);
            if missed > MISSES_MAX {
                return ExitCode::FAILURE;
            }
        }
        ExitCode::SUCCESS
    }
}

type Found = Option<(u64, &'static str, String)>;

fn first_in_layer_1(mut seeds: Range<u64>) -> Found {
    seeds.find_map(|seed| {
        let broken = run_registers(&Plan::from_seed(seed)).violation?;
        Some((seed, broken.check, broken.detail))
    })
}

#[cfg(all(madsim, feature = "layer2"))]
fn first_in_layer_2(mut seeds: Range<u64>) -> Found {
    seeds.find_map(|seed| {
        let broken = crate::layer2::run(&Plan::from_seed(seed)).violation?;
        Some((seed, broken.check, broken.detail))
    })
}

#[cfg(not(all(madsim, feature = "layer2")))]
fn first_in_layer_2(_seeds: Range<u64>) -> Found {
    panic!("built without layer 2");
}
