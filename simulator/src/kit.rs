//! The kit for users: a state machine of one's own, tested under every fault in about twenty lines.
//!
//! A [`Simulation`] runs seed after seed. What fails is told in full: what broke, at which event and
//! simulated time, the plan in one line, the command that runs it again, a smaller plan that breaks the
//! same promise, and a page with a picture of the run.
//!
//! What it is not: a place for rules. What is checked is in `observer` and `world`, for every user
//! alike; a user adds an invariant of the state.

use crate::plan::{FaultKind, Plan};
use crate::random::Stream;
use crate::workload::{Request, Workload};
use crate::world::run;
use crate::{Marks, Violation, page, shrink};
use driver::StateMachine;
use std::fmt;
use std::fs::OpenOptions;
use std::io::Write as _;
use std::ops::Range;
use std::path::{Path, PathBuf};

/// Seeds that are run unless the user says otherwise.
const SEEDS: Range<u64> = 0..50;

type Requests = Box<dyn Fn(u64, &mut Stream) -> Request>;
type Invariant<M> = Box<dyn Fn(&M) -> Result<(), String>>;

/// A test of a state machine under simulated faults.
///
/// Beside the user's invariant it checks what the library promises: every node gives every command
/// the same answer, a snapshot is the state it was taken of, equal logs make equal states, reads are
/// fresh, clients hear the truth, and when the faults stop everything is served again.
///
/// ```
/// use bytes::Bytes;
/// use driver::{At, Frozen, RestoreError, StateMachine};
/// use simulator::{Request, Simulation};
/// use std::io::{self, Read, Write};
///
/// /// Adds up bytes.
/// #[derive(Clone, Default)]
/// struct Sum(u64);
///
/// impl StateMachine for Sum {
///     type Frozen = Sum;
///     fn apply(&mut self, _at: At, command: &[u8]) -> Bytes {
///         self.0 += u64::from(command[0]);
///         self.query(&[])
///     }
///     fn query(&self, _query: &[u8]) -> Bytes {
///         Bytes::copy_from_slice(&self.0.to_le_bytes())
///     }
///     fn freeze(&self) -> Sum {
///         self.clone()
///     }
///     fn restore(&mut self, from: &mut dyn Read) -> Result<(), RestoreError> {
///         let mut bytes = [0; 8];
///         from.read_exact(&mut bytes)?;
///         self.0 = u64::from_le_bytes(bytes);
///         Ok(())
///     }
/// }
/// impl Frozen for Sum {
///     fn write(&self, to: &mut dyn Write) -> io::Result<()> {
///         to.write_all(&self.0.to_le_bytes())
///     }
/// }
///
/// Simulation::new(Sum::default, |_client, draw| match draw.below(2) {
///     0 => Request::Query(Bytes::new()),
///     _ => Request::Command(Bytes::copy_from_slice(&[draw.below(10) as u8])),
/// })
/// .seeds(0..3)
/// .invariant(|sum| if sum.0 < 1 << 40 { Ok(()) } else { Err("too much".to_owned()) })
/// .run();
/// ```
#[must_use]
pub struct Simulation<M> {
    machine: fn() -> M,
    requests: Requests,
    invariant: Invariant<M>,
    seeds: Range<u64>,
    nodes: Option<u64>,
    faults: Option<Vec<FaultKind>>,
    plan: Option<Plan>,
    regressions: Option<PathBuf>,
    timeline: PathBuf,
}

/// What a simulation without a failure came to.
#[derive(Clone, Debug, Default)]
pub struct Passed {
    /// Plans run.
    pub runs: u64,
    /// Events in them.
    pub events: u64,
    /// Simulated time, in microseconds.
    pub time_us: u64,
    /// What happened in them.
    pub marks: Marks,
}

/// What a simulation has found.
#[derive(Clone, Debug)]
pub struct Failed {
    /// Which promise was broken, and how that showed.
    pub violation: Violation,
    /// At which event.
    pub event: u64,
    /// At which simulated time, in microseconds.
    pub time_us: u64,
    /// The plan that was run.
    pub plan: Plan,
    /// A smaller one that breaks the same promise.
    pub shrunk: Plan,
    /// Where the picture of the smaller one is, if it could be written.
    pub timeline: Option<PathBuf>,
}

impl fmt::Display for Failed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Failed { violation, event, time_us, plan, shrunk, timeline } = self;
        writeln!(f, "broken: {}: {}", violation.check, violation.detail)?;
        writeln!(f, "  at event {event}, {time_us} µs of simulated time")?;
        writeln!(f, "  plan:     {plan}")?;
        writeln!(f, "  shrunk:   {shrunk}")?;
        writeln!(f, "  again:    SIM_PLAN='{shrunk}' cargo test, with the name of this test")?;
        match timeline {
            Some(path) => writeln!(f, "  timeline: {}", path.display()),
            None => writeln!(f, "  timeline: could not be written"),
        }
    }
}

impl std::error::Error for Failed {}

impl<M: StateMachine> Simulation<M> {
    /// A test of the state machine that `machine` makes. `requests` says what a client, given by its
    /// number, asks next; it draws from the stream it is given and from nothing else.
    pub fn new(
        machine: fn() -> M,
        requests: impl Fn(u64, &mut Stream) -> Request + 'static,
    ) -> Self {
        Simulation {
            machine,
            requests: Box::new(requests),
            invariant: Box::new(|_| Ok(())),
            seeds: SEEDS,
            nodes: None,
            faults: None,
            plan: None,
            regressions: None,
            timeline: std::env::temp_dir().join("simulation.html"),
        }
    }

    /// Which seeds to run.
    pub fn seeds(mut self, seeds: Range<u64>) -> Self {
        self.seeds = seeds;
        self
    }

    /// How many nodes the cluster has; without this, the seed decides.
    pub fn nodes(mut self, nodes: u64) -> Self {
        self.nodes = Some(nodes.max(1));
        self
    }

    /// Which kinds of faults strike; without this, all.
    pub fn faults(mut self, kinds: &[FaultKind]) -> Self {
        self.faults = Some(kinds.to_vec());
        self
    }

    /// What must hold of the state after every command, on every node.
    pub fn invariant(mut self, holds: impl Fn(&M) -> Result<(), String> + 'static) -> Self {
        self.invariant = Box::new(holds);
        self
    }

    /// Runs this plan alone. The variable `SIM_PLAN` does the same.
    pub fn plan(mut self, plan: Plan) -> Self {
        self.plan = Some(plan);
        self
    }

    /// A file of plans, one a line, that are run first; a plan that fails is added to it.
    pub fn regressions(mut self, path: impl AsRef<Path>) -> Self {
        self.regressions = Some(path.as_ref().to_owned());
        self
    }

    /// Where the picture of a failure is written; without this, into the temporary directory.
    pub fn timeline(mut self, path: impl AsRef<Path>) -> Self {
        self.timeline = path.as_ref().to_owned();
        self
    }

    /// Runs everything.
    ///
    /// # Panics
    ///
    /// If a promise is broken, with all that is known of it. That makes it a test.
    pub fn run(&self) -> Passed {
        match self.check() {
            Ok(passed) => passed,
            Err(failed) => panic!("{failed}"),
        }
    }

    /// Runs everything until a promise is broken.
    pub fn check(&self) -> Result<Passed, Box<Failed>> {
        let mut passed = Passed::default();
        let from_variable = std::env::var("SIM_PLAN").ok().and_then(|line| line.parse().ok());
        if let Some(plan) = from_variable.as_ref().or(self.plan.as_ref()) {
            self.check_plan(plan, false, &mut passed)?;
            return Ok(passed);
        }
        let kept = self.regressions.as_ref().and_then(|path| std::fs::read_to_string(path).ok());
        for plan in kept.iter().flat_map(|text| text.lines()).filter_map(|line| line.parse().ok()) {
            self.check_plan(&plan, false, &mut passed)?;
        }
        for seed in self.seeds.clone() {
            self.check_plan(&self.plan_of(seed), true, &mut passed)?;
        }
        Ok(passed)
    }

    fn plan_of(&self, seed: u64) -> Plan {
        let mut plan = Plan::from_seed(seed);
        if let Some(nodes) = self.nodes {
            plan.nodes = nodes;
        }
        if let Some(kinds) = &self.faults {
            plan.faults.retain(|fault| kinds.contains(&fault.kind));
        }
        // Of fewer than three copies none may be damaged: nobody could repair it.
        if plan.nodes < 3 {
            let damages = [FaultKind::Rot, FaultKind::Wipe];
            plan.faults.retain(|fault| !damages.contains(&fault.kind));
        }
        plan
    }

    fn run_plan(&self, plan: &Plan, record: bool) -> crate::Run {
        run(plan, Kit { simulation: self }, record)
    }

    /// Runs one plan. One that is `new` is kept if it fails.
    fn check_plan(&self, plan: &Plan, new: bool, passed: &mut Passed) -> Result<(), Box<Failed>> {
        let result = self.run_plan(plan, false);
        passed.runs += 1;
        passed.events += result.events;
        passed.time_us += result.time_us;
        passed.marks.add(&result.marks);
        let Some(violation) = result.violation else { return Ok(()) };
        let breaks = |smaller: &Plan| {
            let found = self.run_plan(smaller, false).violation;
            found.is_some_and(|found| found.check == violation.check)
        };
        let shrunk = shrink(plan, breaks);
        let again = self.run_plan(&shrunk, true);
        let page = page::page(&shrunk, &again, &[format!("SIM_PLAN='{shrunk}' cargo test")]);
        let timeline = std::fs::write(&self.timeline, page).is_ok().then(|| self.timeline.clone());
        if let Some(path) = self.regressions.as_ref().filter(|_| new) {
            keep(path, &shrunk);
        }
        Err(Box::new(Failed {
            violation,
            event: result.events,
            time_us: result.time_us,
            plan: plan.clone(),
            shrunk,
            timeline,
        }))
    }
}

/// Adds a plan to a file, unless it is there. If it cannot be written, the report has the plan.
fn keep(path: &Path, plan: &Plan) {
    let line = plan.to_string();
    let known = std::fs::read_to_string(path).unwrap_or_default();
    if known.lines().any(|known| known == line) {
        return;
    }
    if let Ok(mut file) = OpenOptions::new().create(true).append(true).open(path) {
        let _ = writeln!(file, "{line}");
    }
}

struct Kit<'a, M> {
    simulation: &'a Simulation<M>,
}

impl<M: StateMachine> Workload for Kit<'_, M> {
    type Machine = M;

    fn machine(&self) -> M {
        (self.simulation.machine)()
    }

    fn request(&mut self, client: u64, draw: &mut Stream) -> Request {
        (self.simulation.requests)(client, draw)
    }

    fn invariant(&self, machine: &M) -> Result<(), String> {
        (self.simulation.invariant)(machine)
    }
}
