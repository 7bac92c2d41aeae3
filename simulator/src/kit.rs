//! The kit for users: a state machine of one's own, tested under every fault in about twenty lines.
//!
//! A [`Simulation`] runs seed after seed. What fails is told in full: what broke, at which event and
//! simulated time, the plan in one line, the command that runs it again, a smaller plan that breaks the
//! same promise, and a page with a picture of the run.
//!
//! What it is not: a place for rules. What is checked is in `observer` and `world`, for every user
//! alike; a user adds an invariant of the state.

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

/// Seeds that are run unless the user says otherwise.
const SEEDS: Range<u64> = 0..50;

type Requests = Box<dyn Fn(u64, &mut Stream) -> Request>;
type SwarmChoice = Box<dyn Fn(&mut Swarm)>;
type Invariant<M> = Box<dyn Fn(&M) -> Result<(), String>>;

/// A test of a state machine under simulated faults.
///
/// Beside the user's invariant it checks what the library promises: every node gives every command
/// the same answer, a snapshot is the state it was taken of, equal logs make equal states, reads are
/// fresh, clients hear the truth, and when the faults stop everything is served again.
///
/// ```
/// use bytes::Bytes;
/// use driver::{At, Frozen, LogTime, RestoreError, StateMachine};
/// use simulator::{Request, Simulation};
/// use std::io::{self, Read, Write};
///
/// /// Adds up bytes.
/// #[derive(Clone, Default)]
/// struct Sum(u64);
///
/// impl StateMachine for Sum {
///     type Frozen = Sum;
///     fn apply(&mut self, at: At, command: Bytes) -> Bytes {
///         self.0 += u64::from(command[0]);
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

/// Why a simulation did not pass.
#[derive(Debug)]
#[non_exhaustive]
pub enum SimulationError {
    /// A promise was broken. It is told in full.
    Broken(Box<Failed>),
    /// The file of plans has a line that is no plan. Correct it or remove it.
    BadLine {
        /// The file.
        path: PathBuf,
        /// The line.
        line: BadLine,
    },
    /// The file of plans is there and cannot be read.
    Unreadable {
        /// The file.
        path: PathBuf,
        /// Why not.
        error: io::Error,
    },
    /// The variable is set to what is no plan or seed. Correct it or unset it.
    BadVariable {
        /// Its name.
        name: &'static str,
        /// What is wrong with it.
        why: String,
    },
}

impl SimulationError {
    /// What was found, if it is that.
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
            clients: None,
            faults: FaultKind::ALL.to_vec(),
            swarm: Box::new(|_| ()),
            plan: None,
            regressions: None,
            timeline: None,
        }
    }

    /// Which seeds to run.
    pub fn seeds(mut self, seeds: Range<u64>) -> Self {
        self.seeds = seeds;
        self
    }

    /// How many nodes the cluster has; without this, the seed decides.
    ///
    /// # Panics
    ///
    /// If there cannot be so many: see [`NODES`](crate::plan::NODES).
    pub fn nodes(mut self, nodes: u64) -> Self {
        assert!(NODES.contains(&nodes), "a run has {NODES:?} nodes, not {nodes}");
        self.nodes = Some(nodes);
        self
    }

    /// How many clients there are; without this, the seed decides.
    pub fn clients(mut self, clients: u32) -> Self {
        self.clients = Some(clients.max(1));
        self
    }

    /// Which kinds of faults may strike; without this, [all](FaultKind::ALL). Of those, each seed draws
    /// about half. Lost, late and repeated messages and slow disks are no faults of a plan but belong
    /// to its swarm: see [`swarm`](Simulation::swarm).
    pub fn faults(mut self, kinds: &[FaultKind]) -> Self {
        self.faults = kinds.to_vec();
        self
    }

    /// Changes what each seed has drawn for the network, the disks and the sizes of things, for
    /// instance to switch the loss of messages off: `.swarm(|swarm| swarm.loss_ppm = 0)`.
    pub fn swarm(mut self, choose: impl Fn(&mut Swarm) + 'static) -> Self {
        self.swarm = Box::new(choose);
        self
    }

    /// What must hold of the state after every command, on every node.
    pub fn invariant(mut self, holds: impl Fn(&M) -> Result<(), String> + 'static) -> Self {
        self.invariant = Box::new(holds);
        self
    }

    /// Runs this plan alone. The variable `SIM_PLAN` does the same, and `SIM_SEED` runs one seed.
    pub fn plan(mut self, plan: Plan) -> Self {
        self.plan = Some(plan);
        self
    }

    /// A file of plans, one a line, that are run first; a plan that fails is added to it.
    pub fn regressions(mut self, path: impl AsRef<Path>) -> Self {
        self.regressions = Some(path.as_ref().to_owned());
        self
    }

    /// Where the picture of a failure is written; without this, below cargo's target directory.
    pub fn timeline(mut self, path: impl AsRef<Path>) -> Self {
        self.timeline = Some(path.as_ref().to_owned());
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

    /// Runs everything until a promise is broken: the plans that are kept, then the seeds.
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

    /// The plans of the file, if there is one.
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

/// A name for the test that runs, and the command that runs it. The threads of tests bear their names;
/// what runs in the main thread is a program.
fn test() -> (String, String) {
    let thread = std::thread::current();
    if let Some(name) = thread.name().filter(|name| *name != "main") {
        return (name.replace("::", "."), format!("cargo test {name}"));
    }
    let program = env::args_os().next().map(PathBuf::from).unwrap_or_default();
    let name = program.file_stem().map_or("simulation".into(), |name| name.to_string_lossy());
    (name.clone().into_owned(), name.into_owned())
}

/// A variable of the environment.
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
