//! The search for a planted bug in one range of seeds: the first run that breaks a promise, that
//! fails an assertion of the code, or that does not end. It does not shrink plans or draw pages.

use crate::limit::{Exceeded, Limit, SEED_SECONDS_MAX, TOO_LONG};
use crate::run_registers;
use clap::Args;
use simulator::{Plan, Violation};
use std::any::Any;
use std::fmt;
use std::panic::catch_unwind;
use std::process::ExitCode;
use std::time::Duration;

/// The range of a search, and its limits of time.
#[derive(Args, Clone, Debug)]
pub struct Search {
    /// The first seed.
    #[arg(long, default_value_t = 1)]
    pub from: u64,
    /// Seeds in a range.
    #[arg(long, default_value_t = 2_000)]
    pub seeds: u64,
    /// Seconds that one seed may run. One that runs for longer is a finding.
    #[arg(long, default_value_t = SEED_SECONDS_MAX)]
    pub seed_seconds: u64,
    /// Seconds that the search for one bug may take, in all its ranges.
    #[arg(long, default_value_t = 1_800)]
    pub bug_seconds: u64,
}

/// The result of a range.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Finding {
    /// Number of seeds that were run.
    pub tried: u64,
    /// The last of these seeds: the one that broke a promise, if one did.
    pub seed: u64,
    /// The check that failed, or one of the words below.
    pub check: String,
    /// The detail of the failure.
    pub detail: String,
}

/// The result of a range in which nothing broke.
pub(super) const NOTHING: &str = "nothing";
/// The result when the time for the bug was over.
pub(super) const OUT_OF_TIME: &str = "out of time";
/// The result when an assertion of the code failed before a check did.
const ASSERTION: &str = "an assertion of the code";

impl Search {
    /// Searches the range that begins with `from`, and prints its result as a line.
    pub fn run(&self, layer: u8) -> ExitCode {
        let limit = Limit::new(
            Duration::from_secs(self.seed_seconds),
            Some(Duration::from_secs(self.bug_seconds)),
        );
        let search = self.clone();
        limit.watch(move |exceeded| search.end(exceeded));
        for seed in self.from..self.from + self.seeds {
            // A planted bug may fail an assertion of the code before a check sees it.
            let run = limit.run(seed, || catch_unwind(|| run(layer, seed)));
            let (check, detail) = match run {
                Ok(None) => continue,
                Ok(Some(broken)) => (broken.check.name(), broken.detail),
                Err(panic) => (ASSERTION, said(panic.as_ref())),
            };
            println!("{}", self.finding(seed, check, &detail));
            return ExitCode::SUCCESS;
        }
        println!("{}", self.finding(self.from + self.seeds - 1, NOTHING, ""));
        ExitCode::FAILURE
    }

    fn finding(&self, seed: u64, check: &str, detail: &str) -> Finding {
        let tried = seed + 1 - self.from;
        Finding { tried, seed, check: check.to_owned(), detail: detail.to_owned() }
    }

    /// A limit was exceeded: prints the result and ends the process.
    fn end(&self, exceeded: Exceeded) {
        let finding = match exceeded {
            Exceeded::Seed(seed) => {
                let detail = format!("more than {} s", self.seed_seconds);
                self.finding(seed, TOO_LONG, &detail)
            }
            Exceeded::Search(seed) => self.finding(seed.unwrap_or(self.from), OUT_OF_TIME, ""),
        };
        println!("{finding}");
        std::process::exit(0);
    }
}

/// The line that one process passes to the other.
impl fmt::Display for Finding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Finding { tried, seed, check, detail } = self;
        let detail = detail.replace(['\n', '\t'], " ");
        write!(f, "{tried}\t{seed}\t{check}\t{detail}")
    }
}

impl Finding {
    /// Reads the result from the output of a search: its only line of this form.
    pub fn read(output: &str) -> Option<Finding> {
        output.lines().find_map(|line| {
            let mut parts = line.split('\t');
            let tried = parts.next()?.parse().ok()?;
            let seed = parts.next()?.parse().ok()?;
            let (check, detail) = (parts.next()?.to_owned(), parts.next()?.to_owned());
            Some(Finding { tried, seed, check, detail })
        })
    }
}

fn said(panic: &(dyn Any + Send)) -> String {
    let text = panic.downcast_ref::<String>().cloned();
    text.or_else(|| panic.downcast_ref::<&str>().map(|text| (*text).to_owned())).unwrap_or_default()
}

fn run(layer: u8, seed: u64) -> Option<Violation> {
    match layer {
        1 => run_registers(&Plan::from_seed(seed)).violation,
        _ => run_in_layer_2(seed),
    }
}

#[cfg(all(madsim, feature = "layer2"))]
fn run_in_layer_2(seed: u64) -> Option<Violation> {
    crate::layer2::run(&Plan::from_seed(seed)).violation
}

#[cfg(not(all(madsim, feature = "layer2")))]
fn run_in_layer_2(_seed: u64) -> Option<Violation> {
    panic!("built without layer 2");
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_finding_is_read_as_it_was_written() {
        let finding = Finding {
            tried: 3,
            seed: 2_003,
            check: "limits are kept".to_owned(),
            detail: "node 1 sends 7 bytes".to_owned(),
        };
        let output = format!("what the code prints\n{finding}\n");
        assert_eq!(Finding::read(&output), Some(finding));
        assert_eq!(Finding::read("what the code prints\n"), None);
    }

    #[test]
    fn a_detail_of_several_lines_is_one_line() {
        let search = Search { from: 10, seeds: 5, seed_seconds: 1, bug_seconds: 1 };
        let line = search.finding(12, NOTHING, "a\nb\tc").to_string();
        assert_eq!(line, "3\t12\tnothing\ta b c");
    }
}
