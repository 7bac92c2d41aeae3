//! The world: one queue of events for nodes, network, disks, clocks and clients.
//!
//! Single-threaded, without a runtime: the next step is always the first event of the queue, and
//! the effects of an event are drawn from named streams. The same plan gives the same run.

mod actions;
mod bounds;
mod clients;
mod disks;
mod ending;
mod events;
mod faults;
mod last_batch;
mod machines;
mod nodes;
mod operator;
mod requests;
mod steps;

use crate::checks::Check;
use crate::contact::Contact;
use crate::ending::{CALM_THINK_US, FAULTY_EVENTS};
use crate::erased::Erased;
use crate::faults::{POWER_FAILS_TOO_PPM, START_RETRY_US};
use crate::joint::JointChanges;
use crate::leases::Leases;
use crate::limits::Limits;
use crate::marks::Marks;
use crate::network::{Network, Passage};
use crate::node::{self, Host, Losing, MISSING, Restoration, Rotting, RottingEnd};
use crate::observer::{Observed, Observer};
use crate::pauses::Pauses;
use crate::plan::{Fault, FaultKind, Plan, Swarm};
use crate::queue::Queue;
use crate::random::{Purpose, Stream};
use crate::replay::Replay;
use crate::shadow::{LogChange, Shadow};
use crate::timeline::{Timeline, What};
use crate::violation::{Violation, violation};
use crate::workload::{Answered, ClientOutcome, ClientRequest, Workload};
use actions::body_number;
use driver::{ErasedMachine, SessionId, SessionLimits, SessionNumber};
use events::{Event, Transfer};
use operator::Operator;
use raft::{
    Action, Body, Incarnation, Index, LogId, Member, Membership, Message, NodeId, Now, ReadProof,
    ReceiveSnapshot, SnapshotOffer, SnapshotStatus, Term,
};
use requests::{Client, ClientOperation, ClientSession, InSession, Served};
use std::any::Any;
use std::collections::{BTreeMap, BTreeSet};
use std::io::Write as _;
use std::panic::{self, AssertUnwindSafe};
use std::time::Duration;
use storage::PersistError;

/// Number of events after which a run fails: a message storm is a bug too.
pub const EVENTS_MAX: u64 = 2_000_000;

/// For the last of those, clients send no new requests.
const REST_TIMEOUTS: u64 = 3;
/// A preferred node leads within this many of the longest election timeouts after its start.
const PREFERRED_TIMEOUTS: u64 = 20;

/// The time limit after those for all nodes to catch up and for all requests to end.
const SETTLE_TIMEOUTS: u64 = 40;

/// When the faults stop, messages that would arrive later than this are dropped.
const LATE_US: u64 = 1_000;

/// After the faults, the least time that a client waits for an answer.
const CALM_PATIENCE_US: u64 = 1_000_000;

/// The backoff of a client. It doubles with each unknown outcome, up to the maximum, so that
/// clients do not overload a cluster that is slow or cannot serve.
const BACKOFF_US: u64 = 5_000;
const BACKOFF_MAX_US: u64 = 2_000_000;

/// A node that resumes after a pause receives the messages that came meanwhile within this time.
const RESUME_US: u64 = 500;

/// A leader whose own disk lags behind the commit index must step down within this many election
/// timeouts.
const SICK_ELECTIONS: u64 = 4;

/// Delay before a write to a full disk is retried.
const FULL_RETRY_US: u64 = 10_000;

/// One write in this many is followed by an audit of what a power failure at that moment would
/// leave.
const AUDIT_ONE_IN: u64 = 251;
/// The same for writes that move the base of the log, since they free earlier segments.
const AUDIT_REBASED_ONE_IN: u64 = 7;

/// The incarnation of a node whose disk was never wiped is this plus its id.
const INCARNATION: u64 = 100;

/// The result of a run.
#[derive(Clone, Debug)]
pub struct Run {
    /// The promise that was broken, if one was.
    pub violation: Option<Violation>,
    /// Number of events.
    pub events: u64,
    /// Simulated time, in microseconds.
    pub time_us: u64,
    /// A hash of all events in order: equal in two runs of the same plan.
    pub trace: u64,
    /// How often each noteworthy event happened.
    pub marks: Marks,
    /// The recording for the page; empty unless it was requested.
    pub timeline: Timeline,
}

pub(crate) struct World<'a> {
    plan: &'a Plan,
    workload: &'a mut dyn Workload<Machine = ErasedMachine>,
    now_us: u64,
    events: u64,
    trace: u64,
    queue: Queue<Event>,
    hosts: Vec<Host<ErasedMachine>>,
    network: Network,
    disks: Vec<Stream>,
    machines: Vec<Stream>,
    clients: Vec<Client>,
    operations: Vec<ClientOperation>,
    observer: Observer<ErasedMachine>,
    contact: Contact,
    leases: Leases,
    pauses: Pauses,
    joint: JointChanges,
    /// The hashes of snapshots that were taken of a diverged state.
    wrong_snapshots: BTreeSet<Option<u64>>,
    /// The last entry that was applied to a diverged copy, even if that copy is gone.
    differed_until: Index,
    /// When a node with a wrong copy last started again, while no majority of right copies could
    /// tell.
    undecided_us: Option<u64>,
    limits: Limits,
    marks: Marks,
    timeline: Timeline,
    /// The commands that were applied, if the run is recorded.
    replay: Replay,
    /// Faults in force, by their position in the plan, with the struck node resolved.
    struck: BTreeMap<usize, Fault>,
    operator: Operator,
    /// The faults are over.
    calm: bool,
    /// The kinds of requests that clients have sent since then, and the kinds that were served.
    asked: Served,
    served: Served,
    /// Clients send no new requests.
    at_rest: bool,
    done: bool,
    /// Nodes that crash at their next write or message, and how long they stay down.
    armed: BTreeMap<(usize, FaultKind), u64>,
}

/// Runs a plan to its end or to the first broken promise.
pub fn run<W: Workload>(plan: &Plan, workload: W, record: bool) -> Run {
    run_for(plan, workload, record, u64::MAX)
}

/// Runs a plan for at most `events_max` events. Shrinking needs no longer runs.
pub fn run_for<W: Workload>(plan: &Plan, workload: W, record: bool, events_max: u64) -> Run {
    World::new(plan, &mut Erased(workload), record).run(events_max)
}

/// The limits of the sessions that clients open.
fn session_limits(swarm: &Swarm) -> SessionLimits {
    let mut limits = SessionLimits::default();
    limits.ttl = Duration::from_millis(u64::from(swarm.session_ttl_ms));
    if swarm.sessions > 1 {
        (limits.window, limits.sessions_max) = (2, 3);
        (limits.reply_bytes_max, limits.bytes_max) = (10, 4_000);
    }
    limits
}

impl<'a> World<'a> {
    fn new(
        plan: &'a Plan,
        workload: &'a mut dyn Workload<Machine = ErasedMachine>,
        record: bool,
    ) -> Self {
        let seed = plan.seed;
        let member = |id: u64| Member {
            incarnation: Incarnation(INCARNATION + id),
            peer_address: String::new(),
            client_address: String::new(),
        };
        let members = (0..plan.nodes).map(|id| (NodeId(id), member(id))).collect();
        let membership = Membership::of_voters(members);
        let store = workload.log_store();
        let host = |id: u64| {
            let incarnation = Incarnation(INCARNATION + id);
            Host::new(id, &plan.swarm, incarnation, membership.clone(), store.clone())
        };
        let client = |id: u64| Client {
            draw: Stream::new(seed, Purpose::Client, id),
            leader: id % plan.nodes,
            operation: None,
            uses_sessions: plan.swarm.sessions > 0 && id % 4 != 3,
            session: None,
            backoff_us: BACKOFF_US,
        };
        let mut world = World {
            hosts: (0..plan.nodes).map(host).collect(),
            network: Network::new(seed, plan.nodes),
            disks: (0..plan.nodes).map(|id| Stream::new(seed, Purpose::Disk, id)).collect(),
            machines: (0..plan.nodes).map(|id| Stream::new(seed, Purpose::Machine, id)).collect(),
            clients: (0..u64::from(plan.swarm.clients)).map(client).collect(),
            operations: Vec::new(),
            observer: Observer::new(plan.nodes, workload.machine())
                .with_delays(&plan.swarm)
                .with_copies()
                .with_sessions(session_limits(&plan.swarm), plan.swarm.sessions == 1),
            marks: Marks::default(),
            timeline: Timeline::new(record, plan.nodes),
            replay: Replay::new(record),
            contact: Contact::new(plan.nodes, plan.swarm.election_ticks),
            leases: Leases::new(plan.nodes),
            pauses: Pauses::new(plan.nodes, &plan.swarm),
            joint: JointChanges::new(plan.nodes, &plan.swarm),
            wrong_snapshots: BTreeSet::new(),
            differed_until: Index(0),
            undecided_us: None,
            limits: Limits::new(plan.nodes, &plan.swarm),
            struck: BTreeMap::new(),
            operator: Operator::of(plan),
            calm: false,
            asked: Served::default(),
            served: Served::default(),
            at_rest: false,
            done: false,
            armed: BTreeMap::new(),
            plan,
            workload,
            now_us: 0,
            events: 0,
            trace: seed,
            queue: Queue::new(),
        };
        // With leases, clocks drift from the beginning.
        if plan.swarm.lease_drift_ppm > 0 {
            for (id, host) in (1..).zip(&mut world.hosts) {
                let drift = Stream::new(seed, Purpose::Lease, id).pick(&[0, 1_000, 2_000]);
                host.set_clock_rate(0, plan.swarm.clock_rate(drift));
            }
        }
        (0..plan.nodes as usize).for_each(|node| world.queue.push(0, Event::Start(node)));
        for (at, fault) in plan.faults.iter().enumerate() {
            world.queue.push(fault.at_us, Event::Strike(at));
        }
        for client in 0..world.clients.len() {
            world.queue.push(client as u64, Event::Client(client));
        }
        world.queue.push(u64::from(plan.swarm.faults_until_us), Event::Calm);
        if world.operator.is_there {
            world.queue.push(plan.election_us(), Event::Operate);
        }
        world
    }

    fn run(mut self, events_max: u64) -> Run {
        let mut broken = None;
        while !self.done && broken.is_none() && self.events < events_max {
            let Some((at_us, event)) = self.queue.pop() else { break };
            self.now_us = at_us;
            self.events += 1;
            self.timeline.at(at_us, self.events);
            if self.events == FAULTY_EVENTS && !self.calm {
                self.queue.push(self.now_us, Event::Calm);
            }
            // A panic is reported and drawn like every other broken promise.
            let happened = panic::catch_unwind(AssertUnwindSafe(|| self.event(event)));
            broken = happened.unwrap_or_else(|payload| panicked(&*payload)).err();
            if self.events > EVENTS_MAX {
                let detail = format!("{} events in {} µs", self.events, self.now_us);
                broken = Some(Violation::new(Check::NoStormOfMessages, (), detail));
            }
        }
        // An operation that is open when the run ends may have taken effect.
        for operation in 0..self.operations.len() {
            let _ = self.waits_no_longer(operation);
        }
        if broken.is_none() {
            let judged = panic::catch_unwind(AssertUnwindSafe(|| self.workload.verdict()));
            broken = judged.unwrap_or_else(|payload| panicked(&*payload)).err();
        }
        for (node, host) in self.hosts.iter().enumerate() {
            if let Some(running) = &host.up {
                self.timeline.look(node, &running.node, running.machine_at);
            }
        }
        if let Some(violation) = &broken {
            self.timeline.add_to_all(What::Violation(violation.check));
        }
        if let Some(violation) = &broken {
            self.timeline.steps = self.steps_to(violation);
        }
        let disks = self.hosts.iter().map(|host| (&host.shadow, host.up.is_some()));
        self.timeline.finish(disks);
        self.marks.add(&self.observer.marks);
        Run {
            violation: broken,
            events: self.events,
            time_us: self.now_us,
            trace: self.trace,
            marks: self.marks,
            timeline: self.timeline,
        }
    }

    /// Adds an event to the hash of the run.
    fn note(&mut self, what: u64, node: usize, detail: u64) {
        let word = what ^ (node as u64) << 8 ^ detail << 16 ^ self.now_us << 32;
        self.trace = (self.trace.rotate_left(5) ^ word).wrapping_mul(0x9e37_79b9_7f4a_7c15);
    }

    fn now(&self, node: usize) -> Now {
        let host = &self.hosts[node];
        let (clock_us, monotonic_us) = (host.clock_us(self.now_us), host.monotonic_us(self.now_us));
        let wall_ms = 1_700_000_000_000 + (clock_us / 1_000) as i64 + host.wall_offset_ms;
        Now { monotonic_ns: monotonic_us * 1_000, wall_ms: wall_ms as u64 }
    }

    /// Passes the readings of all clocks to the observer: whenever a node is checked, and before a
    /// clock is changed.
    fn pass_time(&mut self) {
        let clocks: Vec<Now> = (0..self.hosts.len()).map(|node| self.now(node)).collect();
        self.observer.time.pass(&clocks);
    }

    /// Calls a running node, and performs the actions that result at once.
    fn on(
        &mut self,
        node: usize,
        act: impl FnOnce(&mut node::Running<ErasedMachine>),
    ) -> Result<(), Violation> {
        if let Some(running) = &mut self.hosts[node].up {
            act(running);
            self.poll(node)?;
        }
        Ok(())
    }
}

fn panicked(payload: &(dyn Any + Send)) -> Result<(), Violation> {
    let text = payload.downcast_ref::<&str>().map(|text| (*text).to_owned());
    let text = text.or_else(|| payload.downcast_ref::<String>().cloned());
    violation(Check::NothingPanics, (), text.unwrap_or_else(|| "without a message".to_owned()))
}

fn host_last(shadow: &Shadow) -> u64 {
    shadow.last().index.0
}
