//! The report of a run that broke a promise: how to repeat the run, a smaller plan, and a page with
//! its picture.

use crate::checks::Check;
use crate::copies::CAUSES;
use crate::hush::Hushed;
use crate::plan::Plan;
use crate::shrink::{Broken, Shrunk, shrink};
use crate::timeline::Step;
use crate::violation::Violation;
use crate::world::Run;
use crate::{page, regressions};
use std::fmt;
use std::path::{Path, PathBuf};
use std::{env, fs, io};

/// The folder of the pages, below cargo's target directory.
const FOLDER: &str = "sim-failures";

/// A repetition runs for at most this many times the events of the run, in case it breaks later.
const REPEATED_LONGER: u64 = 2;

/// A run of a machine that does not repeat is recorded again until it breaks, at most this often.
const SHOWN_RUNS_MAX: u32 = 5;

/// Number of steps in the text of a report.
const STEPS_TOLD: usize = 12;

/// The settings of a report.
#[derive(Clone, Debug)]
pub struct Told {
    /// The command that runs the same test again; `SIM_PLAN` or `SIM_SEED` is set before it.
    pub command: String,
    /// The seed, if the test derives the plan from it.
    pub seed: Option<u64>,
    /// Path of the page.
    pub page: PathBuf,
    /// How the smaller plan is kept as a regression.
    pub keep: Keep,
}

/// How a plan is kept as a regression, which runs first from now on.
#[derive(Clone, Debug)]
pub enum Keep {
    /// In a file. The plan is added if it is `new`.
    In {
        /// Path of the file.
        path: PathBuf,
        /// Whether the plan did not come from this file.
        new: bool,
    },
    /// By hand: the report contains this advice.
    Advised(String),
}

/// A run that broke a promise.
#[derive(Clone, Debug)]
pub struct Failed {
    /// The promise that was broken, and what the check saw.
    pub violation: Violation,
    /// Number of the event at which it was broken.
    pub event: u64,
    /// Simulated time at which it was broken, in microseconds.
    pub time_us: u64,
    /// The plan that was run.
    pub plan: Plan,
    /// A smaller plan that breaks the same promise.
    pub shrunk: Shrunk,
    /// How its run broke it: the details may differ.
    pub smaller: Violation,
    /// The requests that the check names, in the run of the smaller plan.
    pub named: Vec<String>,
    /// The commands of clients, and the snapshots, that led to a wrong state or answer of the state
    /// machine in the run of the smaller plan; empty if something else is wrong.
    pub steps: Vec<String>,
    /// Commands that repeat the run: of the plan itself, and of the smaller one.
    pub again: [String; 2],
    /// Where the smaller plan was saved, or how to save it.
    pub kept: String,
    /// Path of the page of the smaller plan, or why it could not be written.
    pub timeline: Result<PathBuf, String>,
}

impl Failed {
    /// Reports on a plan whose run `broken` broke a promise: shrinks the plan, draws the run of the
    /// smaller plan, and keeps that plan. `run` takes a plan, whether to record the run, and the
    /// maximum number of events.
    pub fn new(
        plan: &Plan,
        broken: &Run,
        told: Told,
        run: impl Fn(&Plan, bool, u64) -> Run,
    ) -> Self {
        let (event, time_us) = (broken.events, broken.time_us);
        // The first run has printed its panic.
        let _hushed = Hushed::new();
        let longer = |event: u64| event.saturating_mul(REPEATED_LONGER);
        let repeated = run(plan, false, longer(event));
        let is_repeated = repeated.violation == broken.violation && repeated.trace == broken.trace;
        let violation = match &broken.violation {
            Some(violation) if is_repeated => violation.clone(),
            Some(violation) if is_unsteady(violation, &repeated) => unsteady(violation),
            violation => differs(violation.as_ref(), repeated.violation.as_ref()),
        };
        let shrunk = if violation.check == Check::RunRepeats {
            let broken = Broken { event, time_us };
            Shrunk { plan: plan.clone(), broken, runs: 1, is_smallest: false }
        } else {
            shrink(plan, Broken { event, time_us }, |smaller, events_max| {
                let run = run(smaller, false, events_max);
                let is_same = run.violation.is_some_and(|found| found.check == violation.check);
                is_same.then_some(Broken { event: run.events, time_us: run.time_us })
            })
        };
        let with_plan = |plan: &Plan| format!("SIM_PLAN='{plan}' {}", told.command);
        let whole = match told.seed {
            Some(seed) => format!("SIM_SEED={seed} {}", told.command),
            None => with_plan(plan),
        };
        let again = [whole, with_plan(&shrunk.plan)];
        let mut shown = run(&shrunk.plan, true, longer(shrunk.broken.event));
        for _ in 1..SHOWN_RUNS_MAX {
            let found = shown.violation.as_ref().map(|found| found.check);
            if violation.check == Check::RunRepeats || found == Some(violation.check) {
                break;
            }
            shown = run(&shrunk.plan, true, longer(shrunk.broken.event));
        }
        if shown.violation.as_ref().map(|found| found.check) != Some(violation.check) {
            shown.violation = Some(violation.clone());
        }
        let smaller = shown.violation.clone().unwrap_or_else(|| violation.clone());
        let drawn = page::page(&shrunk.plan, &shown, &again[1..]);
        let step = |step: &Step| match step.node {
            Some(node) => format!("node {node} {}", step.text),
            None => step.text.clone(),
        };
        let all = &shown.timeline.steps;
        let named = all.iter().filter(|step| step.is_named).map(step).collect();
        let steps = all.iter().map(step).collect();
        let written = write(&told.page, &drawn);
        let timeline = match written {
            Ok(()) => Ok(told.page),
            Err(error) => Err(format!("cannot write {}: {error}", told.page.display())),
        };
        let kept = match &told.keep {
            Keep::In { path, new } => regressions::keep(path, &shrunk.plan, *new),
            Keep::Advised(words) => words.clone(),
        };
        let plan = plan.clone();
        Failed {
            violation,
            event,
            time_us,
            plan,
            shrunk,
            smaller,
            named,
            steps,
            again,
            kept,
            timeline,
        }
    }
}

/// Whether a run and its repetition broke the same promise, which a state machine breaks alone, but
/// not in the same way. Then the machine does not repeat, and its plan can be shrunk all the same.
fn is_unsteady(first: &Violation, second: &Run) -> bool {
    let is_same = second.violation.as_ref().is_some_and(|found| found.check == first.check);
    let is_the_machines = matches!(
        first.check,
        Check::EqualLogsMakeEqualStates
            | Check::SnapshotIsTheState
            | Check::StateMachineIsDeterministic
            | Check::QueriesAreAnsweredAlike
    );
    is_same && is_the_machines
}

/// The violation of a machine that does not repeat.
fn unsteady(violation: &Violation) -> Violation {
    let mut violation = violation.clone();
    violation.detail.push_str("; the same run, repeated, broke this promise in another way");
    if !violation.detail.contains(CAUSES) {
        violation.detail.push_str(": ");
        violation.detail.push_str(CAUSES);
    }
    violation
}

/// The report of a plan that did not run in the same way twice.
fn differs(first: Option<&Violation>, second: Option<&Violation>) -> Violation {
    let text = |violation: Option<&Violation>| match violation {
        Some(Violation { check, detail, .. }) => format!("\"{check}\" was broken ({detail})"),
        None => "no promise was broken".to_owned(),
    };
    let detail = format!(
        "the first time, {}; the second time, {}: a clock, a random number or the order of a hash map \
         decides something in the state machine or in a client",
        text(first),
        text(second)
    );
    Violation::new(Check::RunRepeats, (), detail)
}

impl fmt::Display for Failed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Failed { violation, event, time_us, plan, shrunk, steps, again, kept, .. } = self;
        let Shrunk { plan: smaller, runs, .. } = shrunk;
        writeln!(f, "broken: {}: {}", violation.check, violation.detail)?;
        writeln!(f, "  at event {event}, {} of simulated time", seconds(*time_us))?;
        writeln!(f, "  swarm:    seed {}: {}", plan.seed, page::swarm(plan))?;
        writeln!(f, "  again:    {}", again[0])?;
        writeln!(
            f,
            "  shrunk:   in {runs} runs to {} faults, {} nodes, {} clients; breaks at event {}, {}",
            smaller.faults.len(),
            smaller.nodes,
            smaller.swarm.clients,
            shrunk.broken.event,
            seconds(shrunk.broken.time_us)
        )?;
        writeln!(f, "            {}", again[1])?;
        if self.smaller.detail != violation.detail {
            writeln!(f, "  there:    {}", self.smaller.detail)?;
        }
        // A story without a gap has the requests too.
        if steps.len() > STEPS_TOLD {
            tell(f, "about:", &self.named)?;
        }
        tell(f, "story:", steps)?;
        writeln!(f, "  keep it:  {kept}")?;
        match &self.timeline {
            Ok(path) => writeln!(f, "  timeline: {}", path.display()),
            Err(why) => writeln!(f, "  timeline: {why}"),
        }
    }
}

/// Writes the first lines below each other, after a label.
fn tell(f: &mut fmt::Formatter<'_>, label: &str, lines: &[String]) -> fmt::Result {
    let mut label = label;
    for line in lines.iter().take(STEPS_TOLD) {
        writeln!(f, "  {label:<10}{line}")?;
        label = "";
    }
    match lines.len().saturating_sub(STEPS_TOLD) {
        0 => Ok(()),
        more => writeln!(f, "            … and {more} more on the page"),
    }
}

impl std::error::Error for Failed {}

fn seconds(us: u64) -> String {
    format!("{}.{:06} s", us / 1_000_000, us % 1_000_000)
}

fn write(path: &Path, page: &str) -> io::Result<()> {
    if let Some(folder) = path.parent() {
        fs::create_dir_all(folder)?;
    }
    fs::write(path, page)
}

/// The folder for pages of failures: below the target directory of the running program, or below
/// the temporary directory if there is none.
pub fn pages_folder() -> PathBuf {
    let program = env::current_exe().unwrap_or_default();
    // Cargo marks its target directory with this file.
    let target = program.ancestors().find(|folder| folder.join("CACHEDIR.TAG").is_file());
    target.map_or_else(env::temp_dir, Path::to_path_buf).join(FOLDER)
}
