//! The kit for users: tests your own state machine under every fault, in about twenty lines.
//!
//! A [`Simulation`] runs one seed after the other. The report of a failure has everything: the
//! broken promise, the event and simulated time, the plan in one line, the command that repeats the
//! run, a smaller plan that breaks the same promise, and a page with a picture of the run.
//!
//! It contains no checks. Those are in `observer` and `world` and are the same for every user; a
//! user adds an invariant of the state.

mod error;
mod workload;

pub use error::SimulationError;
use workload::Built;

use crate::Marks;
use crate::clients::{Client, Clients, Forgetful, Objection};
use crate::describe::Words;
use crate::failure::{Failed, Keep, Told, pages_folder};
use crate::log::OpenStore;
use crate::plan::{FaultKind, NODES, Plan, Swarm};
use crate::random::Stream;
use crate::regressions;
use crate::workload::{Answered, ClientRequest, Workload};
use crate::world::run_for;
use driver::StateMachine;
use raft::{Restored, Snapshot};
use std::collections::BTreeMap;
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::rc::Rc;
use std::{env, fmt, fs, io};
use storage::LogStore;
use storage::testing::MemDisk;

/// The default range of seeds.
const SEEDS: Range<u64> = 0..50;

type MakeWorkload<M> = Box<dyn Fn() -> Box<dyn Workload<Machine = M>>>;
type SwarmChoice = Box<dyn Fn(&mut Swarm)>;
type Invariant<M> = Box<dyn Fn(&M) -> Result<(), String>>;
type History = Box<dyn Fn(&[Answered<'_>]) -> Result<(), Objection>>;

/// A test of a state machine under simulated faults.
///
/// Apart from the user's invariant it checks the library's promises: every node gives every command
/// the same answer, a snapshot equals the state it was taken of, equal logs produce equal states,
/// reads are fresh, clients receive true answers, and after the faults stop every request is served
/// again.
///
/// ```
/// use bytes::Bytes;
/// use quorate::{ApplyContext, Frozen, LogTime, RestoreError, StateMachine};
/// use simulator::{ClientRequest, Simulation};
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
///     0 => ClientRequest::Query(Bytes::new()),
///     _ => ClientRequest::Command(Bytes::copy_from_slice(&[draw.below(10) as u8])),
/// })
/// .seeds(0..3)
/// .invariant(|sum| if sum.0 < 1 << 40 { Ok(()) } else { Err("too much".to_owned()) })
/// .run();
/// ```
#[must_use]
pub struct Simulation<M> {
    workload: MakeWorkload<M>,
    invariant: Invariant<M>,
    history: Option<History>,
    words: Words,
    log_store: Option<OpenStore>,
    seeds: Range<u64>,
    nodes: Option<u64>,
    clients: Option<u32>,
    faults: Vec<FaultKind>,
    always: Vec<FaultKind>,
    sessions: Option<bool>,
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

impl<M: StateMachine> Simulation<M> {
    /// Creates a test of the state machine that `machine` constructs. `requests` returns the next
    /// request of the client with the given number. It must take all randomness from the given
    /// stream, so that a run can be repeated.
    ///
    /// `machine` is called for every node at each of its starts, and must always return the same
    /// state. A client that has to remember answers needs
    /// [`with_clients`](Simulation::with_clients).
    pub fn new(
        machine: impl Fn() -> M + 'static,
        requests: impl Fn(u64, &mut Stream) -> ClientRequest + 'static,
    ) -> Self {
        let requests = Rc::new(requests);
        Simulation::with_clients(machine, move |number| Forgetful {
            number,
            requests: requests.clone(),
        })
    }

    /// Creates a test of the state machine that `machine` constructs, with clients that remember
    /// the answers to their requests. In each run, `client` constructs the client with the given
    /// number once.
    ///
    /// ```
    /// # use bytes::Bytes;
    /// # use simulator::random::Stream;
    /// # use simulator::{Answered, Client, ClientOutcome, Registers, ClientRequest, Simulation};
    /// /// Swaps the value that it has last seen in a register of its own for the next one.
    /// struct Counts {
    ///     register: u8,
    ///     seen: u64,
    /// }
    ///
    /// impl Client for Counts {
    ///     fn request(&mut self, _draw: &mut Stream) -> ClientRequest {
    ///         let (from, to) = (self.seen.to_le_bytes(), (self.seen + 1).to_le_bytes());
    ///         ClientRequest::Command([&[self.register][..], &from, &to].concat().into())
    ///     }
    ///
    ///     fn answered(&mut self, answered: &Answered<'_>) -> Result<(), String> {
    ///         let ClientOutcome::Done(before) = answered.outcome else { return Ok(()) };
    ///         let before = u64::from_le_bytes(before.try_into().unwrap());
    ///         // The command itself, or one whose answer was lost.
    ///         let is_next = before == self.seen || before == self.seen + 1;
    ///         self.seen = before.max(self.seen);
    ///         if is_next { Ok(()) } else { Err(format!("{before} after {}", self.seen)) }
    ///     }
    /// }
    ///
    /// Simulation::with_clients(Registers::default, |number| Counts {
    ///     register: number as u8,
    ///     seen: 0,
    /// })
    /// .seeds(0..2)
    /// .run();
    /// ```
    pub fn with_clients<C: Client + 'static>(
        machine: impl Fn() -> M + 'static,
        client: impl Fn(u64) -> C + 'static,
    ) -> Self {
        let (machine, client) = (Rc::new(machine), Rc::new(client));
        Simulation::of(move || Clients {
            machine: machine.clone(),
            client: client.clone(),
            clients: BTreeMap::new(),
            objection: None,
        })
    }

    /// Creates a test of a [`Workload`]: clients that share what they know, or with a verdict of
    /// their own. `workload` constructs a new one for each run.
    pub fn of<W>(workload: impl Fn() -> W + 'static) -> Self
    where
        W: Workload<Machine = M> + 'static,
    {
        Simulation {
            workload: Box::new(move || Box::new(workload())),
            invariant: Box::new(|_| Ok(())),
            history: None,
            words: Words::default(),
            log_store: None,
            seeds: SEEDS,
            nodes: None,
            clients: None,
            faults: FaultKind::ALL.to_vec(),
            always: Vec::new(),
            sessions: None,
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

    /// Kinds of faults that strike in every run, in addition to those of
    /// [`faults`](Simulation::faults). By default each seed draws the kinds: a third of the runs
    /// have changes of the membership ([`FaultKind::Members`]), and a third or fewer have
    /// [`FaultKind::Transfer`].
    ///
    /// ```
    /// # use simulator::plan::FaultKind;
    /// # use simulator::{RegisterWorkload, Simulation};
    /// Simulation::of(|| RegisterWorkload::new(1, 0))
    ///     .seeds(0..2)
    ///     // Members are added, removed and replaced, and leadership is handed over, in each run.
    ///     .always(&[FaultKind::Members, FaultKind::Replace, FaultKind::Transfer])
    ///     // Commands whose outcome is unknown are repeated, and must be executed once.
    ///     .sessions(true)
    ///     .run();
    /// ```
    pub fn always(mut self, kinds: &[FaultKind]) -> Self {
        self.always = kinds.to_vec();
        self
    }

    /// Whether clients use sessions: all runs, or none. By default half of the runs do. In a run
    /// with sessions three of four clients have one. They repeat each command whose outcome they do
    /// not know, and the simulation checks that it was executed once. Sessions end while they are
    /// in use in some runs, since the limits are small: then the outcome of a command stays
    /// unknown.
    pub fn sessions(mut self, used: bool) -> Self {
        self.sessions = Some(used);
        self
    }

    /// Changes the swarm parameters that each seed has drawn (network, disks, sizes), for instance
    /// to switch off message loss: `.swarm(|swarm| swarm.loss_ppm = 0)`.
    pub fn swarm(mut self, choose: impl Fn(&mut Swarm) + 'static) -> Self {
        self.swarm = Box::new(choose);
        self
    }

    /// An invariant of the state, checked on every node after it applies an entry or a batch. It
    /// holds beside those that were given before.
    pub fn invariant(mut self, holds: impl Fn(&M) -> Result<(), String> + 'static) -> Self {
        let before = self.invariant;
        self.invariant = Box::new(move |machine| before(machine).and_then(|()| holds(machine)));
        self
    }

    /// A check of the history: of all requests of all clients, in the order in which they ended. It
    /// runs when a run is over, after those that were given before. A request that had not ended
    /// then has an unknown outcome.
    ///
    /// ```
    /// # use bytes::Bytes;
    /// # use simulator::{Objection, ClientOutcome, RegisterWorkload, ClientRequest, Simulation};
    /// Simulation::of(|| RegisterWorkload::new(1, 0))
    ///     .seeds(0..2)
    ///     .history(|history| {
    ///         let done = history.iter().filter(|it| matches!(it.outcome, ClientOutcome::Done(_)));
    ///         for read in done.filter(|it| matches!(it.request, ClientRequest::Query(_))) {
    ///             if read.ended_us < read.begun_us {
    ///                 return Err(Objection::to("answered before it was asked", [read]));
    ///             }
    ///         }
    ///         Ok(())
    ///     })
    ///     .run();
    /// ```
    pub fn history(
        mut self,
        holds: impl Fn(&[Answered<'_>]) -> Result<(), Objection> + 'static,
    ) -> Self {
        let before = self.history;
        self.history = Some(Box::new(move |history| {
            before.as_ref().map_or(Ok(()), |before| before(history))?;
            holds(history)
        }));
        self
    }

    /// Runs the nodes with your own log store instead of the library's. `open` opens it on a
    /// simulated disk, and returns what it has restored; on an empty disk the log begins after the
    /// given snapshot. It is called at each start of a node, and for a copy of the disk, to check
    /// what a power failure at that moment would leave.
    ///
    /// The store keeps its files through the trait `storage::Disk`, outside of the folder
    /// `snapshots`, where the nodes keep theirs. Crashes, torn writes, failing operations and syncs
    /// and full disks strike it like the library's log. Faults that damage synced data do not
    /// strike: how a store reports that is its own affair. The size of its files is not checked.
    pub fn log_store<L, E>(
        mut self,
        open: impl Fn(MemDisk, &Snapshot) -> Result<(L, Restored), E> + 'static,
    ) -> Self
    where
        L: LogStore + 'static,
        E: fmt::Display,
    {
        self.log_store = Some(Rc::new(move |disk, first| {
            let (log, restored) = open(disk, first).map_err(|error| error.to_string())?;
            Ok((Box::new(log), restored))
        }));
        self
    }

    /// How a command reads in the report of a failure and on its page. Without it, the first 256
    /// bytes are shown.
    ///
    /// ```
    /// # use bytes::Bytes;
    /// # use simulator::{Registers, ClientRequest, Simulation};
    /// # let simulation =
    /// #     Simulation::new(Registers::default, |_, _| ClientRequest::Query("a".into()));
    /// # simulation
    /// .describe(|command| format!("register {} gets {:?}", command[0], &command[9..]))
    /// .describe_query(|query| format!("register {}", query[0]))
    /// .describe_answer(|_request, answer| format!("{answer:?}"))
    /// # ;
    /// ```
    pub fn describe(mut self, command: impl Fn(&[u8]) -> String + 'static) -> Self {
        self.words.command = Some(Box::new(command));
        self
    }

    /// How a query reads: see [`describe`](Simulation::describe).
    pub fn describe_query(mut self, query: impl Fn(&[u8]) -> String + 'static) -> Self {
        self.words.query = Some(Box::new(query));
        self
    }

    /// How the answer to a request reads: see [`describe`](Simulation::describe).
    pub fn describe_answer(
        mut self,
        answer: impl Fn(&ClientRequest, &[u8]) -> String + 'static,
    ) -> Self {
        self.words.answer = Some(Box::new(answer));
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

    /// Path of the page that is written for a failure. By default it is in the folder
    /// `sim-failures` of cargo's target directory, named after the program, the test and the seed.
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
        let mut faults = self.faults.clone();
        faults.retain(|kind| self.log_store.is_none() || !kind.damages_files());
        let mut plan = Plan::drawn_with(seed, self.nodes, &faults, &self.always);
        if let Some(used) = self.sessions {
            plan.set_sessions(used);
        }
        if let Some(clients) = self.clients {
            plan.swarm.clients = clients;
        }
        (self.swarm)(&mut plan.swarm);
        plan
    }

    fn run_plan(&self, plan: &Plan, record: bool, events_max: u64) -> crate::Run {
        let kit = Built { simulation: self, inner: (self.workload)(), ended: Vec::new() };
        run_for(plan, kit, record, events_max)
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
        let page = pages_folder().join(page_name(&name, seed, plan));
        let page = self.timeline.clone().unwrap_or(page);
        let told = Told { command, seed, page, keep };
        let failed = Failed::new(plan, &result, told, |plan, record, events_max| {
            self.run_plan(plan, record, events_max)
        });
        Err(SimulationError::Broken(Box::new(failed)))
    }
}

/// The name of the running test with its program, and the command that runs it. The test harness
/// names each thread after its test; on the main thread it is a program, named after its file.
fn test() -> (String, String) {
    let program = env::args_os().next().map(PathBuf::from).unwrap_or_default();
    let program = program.file_stem().map_or("simulation".into(), |name| name.to_string_lossy());
    let thread = std::thread::current();
    if let Some(name) = thread.name().filter(|name| *name != "main") {
        // Cargo appends a hash to the name of a test's program, which changes with each version.
        let program = program.rsplit_once('-').map_or(&*program, |(program, _)| program);
        return (format!("{program}.{}", name.replace("::", ".")), format!("cargo test {name}"));
    }
    (program.clone().into_owned(), program.into_owned())
}

/// The file name of the page of a failure: tests and seeds do not overwrite each other's pages.
fn page_name(test: &str, seed: Option<u64>, plan: &Plan) -> String {
    match seed {
        Some(seed) => format!("{test}.seed-{seed}.html"),
        None => format!("{test}.plan-of-seed-{}.html", plan.seed),
    }
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
