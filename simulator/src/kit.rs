//! The kit for users: tests your own state machine under every fault, in about twenty lines.
//!
//! A [`Simulation`] runs one seed after the other. The report of a failure has everything: the
//! broken promise, the event and simulated time, the plan in one line, the command that repeats the
//! run, a smaller plan that breaks the same promise, and a page with a picture of the run.
//!
//! It contains no checks. Those are in `observer` and `world` and are the same for every user; a
//! user adds an invariant of the state.

use crate::Marks;
use crate::failure::{Failed, Keep, Told, pages_folder};
use crate::plan::{FaultKind, NODES, Plan, Swarm};
use crate::random::Stream;
use crate::regressions::{self, BadLine};
use crate::workload::{Request, Workload};
use crate::world::run_for;
use driver::StateMachine;
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::{env, fmt, fs, io};

/// The default range of seeds.
const SEEDS: Range<u64> = 0..50;

type Requests = Box<dyn Fn(u64, &mut Stream) -> Request>;
type SwarmChoice = Box<dyn Fn(&mut Swarm)>;
type Invariant<M> = Box<dyn Fn(&M) -> Result<(), String>>;

/// A test of a state machine under simulated faults.
///
/// Apart from the user's invariant it checks the library's promises: every node gives every command
/// the same answer, a snapshot equals the state it was taken of, equal logs produce equal states,
/// reads are fresh, clients receive true answers, and after the faults stop every request is served
/// again.
///
/// ```
/// use bytes::Bytes;
/// use driver::{ApplyContext, Frozen, LogTime, RestoreError, StateMachine};
/// use simulator::{Request, Simulation};
/// use std::io::{self, Read, Write};
///
/// /// Adds up bytes.
/// #[derive(Clone, Default)]
/// struct Sum(u64);
///
/// impl StateMachine for Sum {
///     type Frozen = Sum;
///     fn apply(&mut self, at: ApplyContext, command: Bytes) -> Bytes {
///         self.0 += u64::from(command.first().copied().unwrap_or(0));
///         self.query(at.time, &[])
///     }
///     fn query(&self, _time: LogTime, _query: &[u8]) -> Bytes {
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
    clients: Option<u32>,
    faults: Vec<FaultKind>,
    swarm: SwarmChoice,
    plan: Option<Plan>,
    regressions: Option<PathBuf>,
    timeline: Option<PathBuf>,
}

/// Totals of a simulation in which no promise was broken.
#[derive(Clone, Debug, Default)]
pub struct Passed {
    /// Number of plans that were run.
    pub runs: u64,
    /// Events processed in all of these runs.
    pub events: u64,
    /// Simulated time of all runs together, in microseconds.
    pub time_us: u64,
    /// How often each noteworthy event happened in these runs.
    pub marks: Marks,
}

/// Why a simulation did not pass.
#[derive(Debug)]
#[non_exhaustive]
pub enum SimulationError {
    /// A promise was broken; [`Failed`] is the full report.
    Broken(Box<Failed>),
    /// The regressions file has a line that does not parse as a plan. Correct or remove it.
    BadLine {
        /// Path of the regressions file.
        path: PathBuf,
        /// The line, with its number and the word that does not parse.
        line: BadLine,
    },
    /// The regressions file exists but cannot be read.
    Unreadable {
        /// Path of the regressions file.
        path: PathBuf,
        /// The I/O error.
        error: io::Error,
    },
    /// An environment variable (`SIM_PLAN` or `SIM_SEED`) does not parse. Correct or unset it.
    BadVariable {
        /// Name of the variable.
        name: &'static str,
        /// The parse error, and the value of the variable.
        why: String,
    },
}

impl SimulationError {
    /// The report, if the error is [`SimulationError::Broken`].
    pub fn failed(self) -> Option<Failed> {
        match self {
            SimulationError::Broken(failed) => Some(*failed),
            _ => None,
        }
    }
}

impl fmt::Display for SimulationError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            SimulationError::Broken(failed) => write!(f, "{failed}"),
            SimulationError::BadLine { path, line } => write!(f, "{}: {line}", path.display()),
            SimulationError::Unreadable { path, error } => {
                write!(f, "{}: cannot be read: {error}", path.display())
            }
            SimulationError::BadVariable { name, why } => write!(f, "{name}: {why}"),
        }
    }
}

impl std::error::Error for SimulationError {}

impl<M: StateMachine> Simulation<M> {
    /// Creates a test of the state machine that `machine` constructs. `requests` returns the next
    /// request of the client with the given number. It must take all randomness from the given
    /// stream, so that a run can be repeated.
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
            clients: None,
            faults: FaultKind::ALL.to_vec(),
            swarm: Box::new(|_| ()),
            plan: None,
            regressions: None,
            timeline: None,
        }
    }

    /// The seeds to run; by default the first 50.
    pub fn seeds(mut self, seeds: Range<u64>) -> Self {
        self.seeds = seeds;
        self
    }

    /// Number of nodes in the cluster; by default each seed draws its own.
    ///
    /// # Panics
    ///
    /// If the number is outside of [`NODES`](crate::plan::NODES).
    pub fn nodes(mut self, nodes: u64) -> Self {
        assert!(NODES.contains(&nodes), "a run has {NODES:?} nodes, not {nodes}");
        self.nodes = Some(nodes);
        self
    }

    /// Number of clients, at least 1; by default each seed draws its own.
    pub fn clients(mut self, clients: u32) -> Self {
        self.clients = Some(clients.max(1));
        self
    }

    /// The kinds of faults that may strike; by default [all](FaultKind::ALL). Each seed draws a
    /// subset of them. Lost, late and repeated messages and slow syncs are not faults of a plan but
    /// parameters of its swarm: see [`swarm`](Simulation::swarm).
    pub fn faults(mut self, kinds: &[FaultKind]) -> Self {
        self.faults = kinds.to_vec();
        self
    }

    /// Changes the swarm parameters that each seed has drawn (network, disks, sizes), for instance
    /// to switch off message loss: `.swarm(|swarm| swarm.loss_ppm = 0)`.
    pub fn swarm(mut self, choose: impl Fn(&mut Swarm) + 'static) -> Self {
        self.swarm = Box::new(choose);
        self
    }

    /// An invariant of the state, checked on every node after it applies an entry or a batch.
    pub fn invariant(mut self, holds: impl Fn(&M) -> Result<(), String> + 'static) -> Self {
        self.invariant = Box::new(holds);
        self
    }

    /// Runs only this plan. The variable `SIM_PLAN` does the same, and `SIM_SEED` runs one seed.
    pub fn plan(mut self, plan: Plan) -> Self {
        self.plan = Some(plan);
        self
    }

    /// A file of plans, one per line, that run before the seeds. When a seed fails, its shrunk plan
    /// is added to the file.
    pub fn regressions(mut self, path: impl AsRef<Path>) -> Self {
        self.regressions = Some(path.as_ref().to_owned());
        self
    }

    /// Path of the page that is written for a failure; by default below cargo's target directory.
    pub fn timeline(mut self, path: impl AsRef<Path>) -> Self {
        self.timeline = Some(path.as_ref().to_owned());
        self
    }

    /// Runs the plans of the regressions file, then the seeds.
    ///
    /// # Panics
    ///
    /// On any [`SimulationError`]; for a broken promise the message is the full report.
    pub fn run(&self) -> Passed {
        match self.check() {
            Ok(passed) => passed,
            Err(failed) => panic!("{failed}"),
        }
    }

    /// Runs the plans of the regressions file, then the seeds, and stops at the first broken
    /// promise.
    pub fn check(&self) -> Result<Passed, SimulationError> {
        let mut passed = Passed::default();
        if let Some(plan) = variable::<Plan>("SIM_PLAN")?.as_ref().or(self.plan.as_ref()) {
            self.check_plan(plan, None, Keep::Advised(self.advice()), &mut passed)?;
            return Ok(passed);
        }
        if let Some(seed) = variable("SIM_SEED")? {
            self.check_seed(seed, &mut passed)?;
            return Ok(passed);
        }
        for plan in self.kept()? {
            let path = self.regressions.clone().unwrap_or_default();
            self.check_plan(&plan, None, Keep::In { path, new: false }, &mut passed)?;
        }
        for seed in self.seeds.clone() {
            self.check_seed(seed, &mut passed)?;
        }
        Ok(passed)
    }

    /// The plans of the regressions file; none if it does not exist.
    fn kept(&self) -> Result<Vec<Plan>, SimulationError> {
        let Some(path) = &self.regressions else { return Ok(Vec::new()) };
        match fs::read_to_string(path) {
            Ok(text) => regressions::plans(&text)
                .map_err(|line| SimulationError::BadLine { path: path.clone(), line }),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(Vec::new()),
            Err(error) => Err(SimulationError::Unreadable { path: path.clone(), error }),
        }
    }

    fn advice(&self) -> String {
        match &self.regressions {
            Some(path) => format!("add the plan as a line to {}", path.display()),
            None => "with `.regressions(file)` it is kept and run first from then on".to_owned(),
        }
    }

    fn check_seed(&self, seed: u64, passed: &mut Passed) -> Result<(), SimulationError> {
        let keep = match &self.regressions {
            Some(path) => Keep::In { path: path.clone(), new: true },
            None => Keep::Advised(self.advice()),
        };
        self.check_plan(&self.plan_of(seed), Some(seed), keep, passed)
    }

    fn plan_of(&self, seed: u64) -> Plan {
        let mut plan = Plan::drawn(seed, self.nodes, &self.faults);
        if let Some(clients) = self.clients {
            plan.swarm.clients = clients;
        }
        (self.swarm)(&mut plan.swarm);
        plan
    }

    fn run_plan(&self, plan: &Plan, record: bool, events_max: u64) -> crate::Run {
        run_for(plan, Kit { simulation: self }, record, events_max)
    }

    fn check_plan(
        &self,
        plan: &Plan,
        seed: Option<u64>,
        keep: Keep,
        passed: &mut Passed,
    ) -> Result<(), SimulationError> {
        let result = self.run_plan(plan, false, u64::MAX);
        passed.runs += 1;
        passed.events += result.events;
        passed.time_us += result.time_us;
        passed.marks.add(&result.marks);
        if result.violation.is_none() {
            return Ok(());
        }
        let (name, command) = test();
        let page = pages_folder().join(format!("{name}.html"));
        let page = self.timeline.clone().unwrap_or(page);
        let told = Told { command, seed, page, keep };
        let failed = Failed::new(plan, &result, told, |plan, record, events_max| {
            self.run_plan(plan, record, events_max)
        });
        Err(SimulationError::Broken(Box::new(failed)))
    }
}

/// The name of the running test, and the command that runs it. The test harness names each thread
/// after its test; on the main thread it is a program, named after its file.
fn test() -> (String, String) {
    let thread = std::thread::current();
    if let Some(name) = thread.name().filter(|name| *name != "main") {
        return (name.replace("::", "."), format!("cargo test {name}"));
    }
    let program = env::args_os().next().map(PathBuf::from).unwrap_or_default();
    let name = program.file_stem().map_or("simulation".into(), |name| name.to_string_lossy());
    (name.clone().into_owned(), name.into_owned())
}

/// Parses an environment variable; `None` if it is not set.
fn variable<T>(name: &'static str) -> Result<Option<T>, SimulationError>
where
    T: std::str::FromStr<Err: fmt::Display>,
{
    let Ok(value) = env::var(name) else { return Ok(None) };
    let bad = |error| SimulationError::BadVariable { name, why: format!("{error}: {value}") };
    value.parse().map(Some).map_err(bad)
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
