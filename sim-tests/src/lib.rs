//! Batches of simulated runs, and the report of one that fails.

pub mod hunt;
#[cfg(all(madsim, feature = "layer2"))]
pub mod layer2;
pub mod limit;
pub mod planted;
pub mod progress;
pub mod rerun;

use simulator::failure::{Failed, Keep, Told, pages_folder};
use simulator::page::page;
use simulator::{Marks, Plan, RegisterWorkload, Run, Violation, run_for};

/// Number of registers that clients share: few, so that operations conflict.
const REGISTERS: u8 = 4;

/// The command that repeats the tests; `SIM_SEED` or `SIM_PLAN` is set before it.
const COMMAND: &str = "cargo test -p sim-tests";

/// The regressions file: plans that once broke a promise.
const REGRESSIONS: &str = "sim-tests/regressions/layer1.txt";

/// Runs a plan with clients on a few registers.
pub fn run_registers(plan: &Plan) -> Run {
    run_registers_for(plan, false, u64::MAX)
}

fn run_registers_for(plan: &Plan, record: bool, events_max: u64) -> Run {
    let workload = RegisterWorkload::new(REGISTERS, plan.swarm.padding_bytes);
    run_for(plan, workload.with_reads(plan.swarm.reads_ppm), record, events_max)
}

/// A recorded run of a plan, and the page with its picture.
pub fn drawn(plan: &Plan) -> (Run, String) {
    let run = run_registers_for(plan, true, u64::MAX);
    let page = page(plan, &run, &[format!("SIM_PLAN='{plan}' {COMMAND}")]);
    (run, page)
}

/// The report of a plan whose run `broken` broke a promise, with a smaller plan and a page.
pub fn failure(plan: &Plan, broken: &Run) -> Failed {
    let told = told(plan, broken.violation.as_ref(), COMMAND, REGRESSIONS);
    Failed::new(plan, broken, told, run_registers_for)
}

/// The settings of a report. The page is named after the check and the seed.
fn told(plan: &Plan, broken: Option<&Violation>, command: &str, regressions: &str) -> Told {
    let check = broken.map_or("nothing", |violation| violation.check.name());
    let name = format!("{}-{}.html", check.replace(' ', "-"), plan.seed);
    Told {
        command: command.to_owned(),
        seed: (*plan == Plan::from_seed(plan.seed)).then_some(plan.seed),
        page: pages_folder().join(name),
        keep: Keep::Advised(format!("once it is mended, add the smaller plan to {regressions}")),
    }
}

/// The result of a batch of seeds.
#[derive(Clone, Debug, Default)]
pub struct Batch {
    /// Number of seeds that were run.
    pub seeds: u64,
    /// Events processed in all of these runs.
    pub events: u64,
    /// Simulated time of all runs together, in microseconds.
    pub time_us: u64,
    /// How often each noteworthy event happened in these runs.
    pub marks: Marks,
    /// The first run that broke a promise.
    pub failure: Option<Failed>,
}

impl Batch {
    /// Runs one more seed. Returns false when a seed has failed.
    pub fn run_seed(&mut self, seed: u64) -> bool {
        let plan = Plan::from_seed(seed);
        let result = run_registers(&plan);
        self.add(&plan, &result)
    }

    /// Adds the result of a plan's run. Returns false when it has failed.
    fn add(&mut self, plan: &Plan, result: &Run) -> bool {
        self.seeds += 1;
        self.events += result.events;
        self.time_us += result.time_us;
        self.marks.add(&result.marks);
        if result.violation.is_some() {
            self.failure = Some(failure(plan, result));
        }
        self.failure.is_none()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// No promise is broken here, so the test makes one up: it is about the report. Run again, the
    /// plan keeps its promises, and the report says that too.
    #[test]
    fn a_failure_says_what_broke_and_how_to_see_it_again_and_keep_it() {
        let plan = Plan::from_seed(2);
        let mut broken = run_registers_for(&plan, false, 400);
        let check = simulator::Check::PromiseOfThisTest;
        broken.violation = Some(Violation::new(check, 1, "node 1 did it"));
        let failed = failure(&plan, &broken);
        let said = failed.to_string();
        for part in [
            "broken: a run repeats: the first time, \"a promise of this test\" was broken (node 1 did it)",
            "the second time, no promise was broken",
            "at event 400, ",
            "swarm:    seed 2: ",
            "SIM_SEED=2 cargo test -p sim-tests",
            &format!("SIM_PLAN='{plan}' cargo test -p sim-tests"),
            REGRESSIONS,
            "timeline: ",
        ] {
            assert!(said.contains(part), "{part} is missing in:\n{said}");
        }
        let path = failed.timeline.expect("the page could be written");
        assert!(path.ends_with("sim-failures/a-promise-of-this-test-2.html"), "{}", path.display());
        let page = std::fs::read_to_string(&path).expect("it is there");
        assert!(page.contains("<svg id=\"detail\""));
        std::fs::remove_file(path).expect("it was made above");
    }
}
