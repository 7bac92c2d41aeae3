//! The world: one queue of events for nodes, network, disks, clocks and clients.
//!
//! Single-threaded, without a runtime: the next step is always the first event of the queue, and
//! the effects of an event are drawn from named streams. The same plan gives the same run.

mod actions;
mod bounds;
mod clients;
mod disks;
mod ending;
mod faults;
mod last_batch;
mod machines;
mod operator;
mod steps;

use crate::checks::Check;
use crate::contact::Contact;
use crate::ending::{CALM_THINK_US, FAULTY_EVENTS};
use crate::faults::{POWER_FAILS_TOO_PPM, START_RETRY_US};
use crate::leases::Leases;
use crate::limits::Limits;
use crate::marks::Marks;
use crate::network::{Network, Passage};
use crate::node::{self, Host, Losing, MISSING, Restoration, Rotting, RottingEnd};
use crate::observer::{Observed, Observer};
use crate::plan::{Fault, FaultKind, Plan, Swarm};
use crate::queue::Queue;
use crate::random::{Purpose, Stream};
use crate::replay::Replay;
use crate::shadow::{Change, Shadow};
use crate::timeline::{Timeline, What};
use crate::violation::{Violation, violation};
use crate::workload::{Answered, Outcome, Request, Workload};
use actions::body_number;
use driver::{SessionId, SessionLimits, SessionNumber};
use operator::Operator;
use raft::{
    Action, Body, Incarnation, Index, LogId, Member, Membership, Message, NodeId, Now, ReadMode,
    ReceiveSnapshot, SnapshotOffer, Term,
};
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

enum Event {
    Tick {
        node: usize,
        life: u64,
    },
    /// A message arrives. The number is the event at which it was sent.
    Deliver(Box<Message>, u64),
    Unreachable {
        node: usize,
        peer: NodeId,
    },
    /// A node learns that the process of a peer has ended.
    Gone {
        node: usize,
        peer: usize,
    },
    Synced {
        node: usize,
        life: u64,
    },
    Applied {
        node: usize,
        life: u64,
    },
    Snapshot {
        node: usize,
        life: u64,
    },
    Transfer(Box<Transfer>),
    /// The receiver has written a transferred snapshot, unless it has restarted since.
    Install(Box<Transfer>, Box<ReceiveSnapshot>, u64),
    TransferFailed {
        node: usize,
        life: u64,
        to: NodeId,
        snapshot: LogId,
    },
    Start(usize),
    Strike(usize),
    Lift(usize),
    /// The operator looks at the cluster.
    Operate,
    Client(usize),
    Ask {
        operation: usize,
        node: usize,
    },
    GiveUp {
        client: usize,
        operation: usize,
    },
    Calm,
    Converged {
        until_us: u64,
    },
    Rest,
    Quiet {
        leader: Option<(Term, u64)>,
    },
    Settled {
        until_us: u64,
    },
}

/// A snapshot in transfer: the offer, the state, and the life of the sender.
type Transfer = (SnapshotOffer, Vec<u8>, u64);

struct Operation_ {
    client: usize,
    node: usize,
    request: Request,
    begun_us: u64,
    /// The highest committed index when the client sent the request.
    floor: Index,
    /// The event at which it reached a node.
    came_at: u64,
    /// A lease is enough to confirm it.
    by_lease: bool,
    open: bool,
    in_session: InSession,
}

/// The part that an operation has in a session.
#[derive(Clone, Copy, PartialEq, Eq)]
enum InSession {
    No,
    /// It opens a session for its client. Its request follows once that is open.
    Opens,
    /// It closes this session, which its client has. Its request follows.
    Closes(SessionId),
    /// It has this number. `may_be_done` once an attempt may have been appended; `is_repeated`
    /// until its client gives up. An attempt that is under way then belongs to the session too.
    Has {
        number: SessionNumber,
        may_be_done: bool,
        is_repeated: bool,
    },
}

/// Kinds of requests.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Served {
    commands: bool,
    queries: bool,
}

impl Served {
    fn note(&mut self, request: &Request) {
        match request {
            Request::Command(_) => self.commands = true,
            Request::Query(_) => self.queries = true,
        }
    }
}

/// The session of a client.
#[derive(Clone, Copy)]
struct ClientSession {
    id: SessionId,
    /// The number of the next command.
    next: u64,
    /// It was closed. One more command is sent, which must not be executed.
    is_closed: bool,
}

struct Client {
    draw: Stream,
    leader: u64,
    operation: Option<usize>,
    uses_sessions: bool,
    session: Option<ClientSession>,
    /// The backoff after an operation whose outcome is unknown; it doubles each time.
    backoff_us: u64,
}

pub(crate) struct World<'a, W: Workload> {
    plan: &'a Plan,
    workload: W,
    now_us: u64,
    events: u64,
    trace: u64,
    queue: Queue<Event>,
    hosts: Vec<Host<W::Machine>>,
    network: Network,
    disks: Vec<Stream>,
    machines: Vec<Stream>,
    clients: Vec<Client>,
    operations: Vec<Operation_>,
    observer: Observer<W::Machine>,
    contact: Contact,
    leases: Leases,
    /// The hashes of snapshots that were taken of a diverged state.
    wrong_snapshots: BTreeSet<Option<u64>>,
    /// The last entry that was applied to a diverged copy, even if that copy is gone.
    differed_until: Index,
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
    World::new(plan, workload, record).run(events_max)
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

impl<'a, W: Workload> World<'a, W> {
    fn new(plan: &'a Plan, workload: W, record: bool) -> Self {
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
                .with_copies()
                .with_sessions(session_limits(&plan.swarm), plan.swarm.sessions == 1),
            marks: Marks::default(),
            timeline: Timeline::new(record, plan.nodes),
            replay: Replay::new(record),
            contact: Contact::new(plan.nodes, plan.swarm.election_ticks),
            leases: Leases::new(plan.nodes),
            wrong_snapshots: BTreeSet::new(),
            differed_until: Index(0),
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

    fn happens(&mut self, event: Event) -> Result<(), Violation> {
        // A paused node processes the event when it resumes.
        if let Some(node) = self.place(&event)
            && self.hosts[node].paused_until_us > self.now_us
        {
            let until = self.hosts[node].paused_until_us;
            // Messages that arrived meanwhile are read from many sockets, in any order.
            let after_us = match event {
                Event::Deliver(..) | Event::Ask { .. } => self.machines[node].below(RESUME_US),
                _ => 0,
            };
            self.queue.push(until + after_us, event);
            return Ok(());
        }
        match event {
            Event::Tick { node, life } => self.tick(node, life),
            Event::Deliver(message, sent_at) => self.deliver(*message, sent_at),
            Event::Unreachable { node, peer } => {
                self.limits.lost(node, peer.0 as usize);
                self.on(node, |running| running.node.unreachable(peer))
            }
            // A report that comes too late is a fault.
            Event::Gone { peer, .. } if self.calm && self.hosts[peer].up.is_some() => Ok(()),
            Event::Gone { node, peer } => {
                if let Some(running) = &self.hosts[node].up
                    && self.contact.gone(node, &running.node, peer)
                {
                    self.marks.hit("a node learned that its leader's process has ended");
                }
                self.on(node, |running| running.node.gone(NodeId(peer as u64)))
            }
            Event::Synced { node, life } => self.synced(node, life),
            Event::Applied { node, life } => self.applied(node, life),
            Event::Snapshot { node, life } => self.snapshot_written(node, life),
            Event::Transfer(transfer) => self.transfer(transfer),
            Event::Install(transfer, order, life) => self.install(*transfer, *order, life),
            Event::TransferFailed { node, life, to, snapshot } => {
                if self.hosts[node].life != life {
                    return Ok(());
                }
                self.on(node, |running| running.node.snapshot_sent(to, snapshot, false))
            }
            Event::Start(node) => self.start(node),
            Event::Strike(fault) => self.strike(fault),
            Event::Lift(fault) => {
                self.lift(fault);
                Ok(())
            }
            Event::Operate => self.operate(),
            Event::Client(client) => self.client(client),
            Event::Ask { operation, node } => self.asked(operation, node),
            Event::GiveUp { client, operation } => {
                if self.clients[client].operation == Some(operation) {
                    self.waits_no_longer(operation)?;
                }
                Ok(())
            }
            Event::Calm => self.calm_down(),
            Event::Converged { until_us } => self.converged(until_us),
            Event::Rest => {
                self.at_rest = true;
                Ok(())
            }
            Event::Quiet { leader } => self.quiet(leader),
            Event::Settled { until_us } => self.rests(until_us),
        }
    }

    /// Processes an event. The power of its node may fail within it.
    fn event(&mut self, event: Event) -> Result<(), Violation> {
        let place = self.place(&event);
        self.happens(event)?;
        if let Some(node) = place
            && self.hosts[node].is_dark()
            && self.hosts[node].up.is_some()
        {
            let down_us = 1_000 + self.disks[node].below(200_000);
            self.marks.hit("the power failed within an operation of the disk");
            self.power_fails(node, down_us);
        }
        Ok(())
    }

    fn place(&self, event: &Event) -> Option<usize> {
        match event {
            Event::Tick { node, .. }
            | Event::Ask { node, .. }
            | Event::Unreachable { node, .. }
            | Event::Gone { node, .. }
            | Event::Synced { node, .. }
            | Event::Applied { node, .. }
            | Event::Snapshot { node, .. }
            | Event::TransferFailed { node, .. } => Some(*node),
            Event::Deliver(message, _) => Some(message.to.0 as usize),
            Event::Transfer(transfer) | Event::Install(transfer, _, _) => {
                Some(transfer.0.to.0 as usize)
            }
            _ => None,
        }
    }

    /// Adds an event to the hash of the run.
    fn note(&mut self, what: u64, node: usize, detail: u64) {
        let word = what ^ (node as u64) << 8 ^ detail << 16 ^ self.now_us << 32;
        self.trace = (self.trace.rotate_left(5) ^ word).wrapping_mul(0x9e37_79b9_7f4a_7c15);
    }

    fn now(&self, node: usize) -> Now {
        let host = &self.hosts[node];
        let clock_us = host.clock_us(self.now_us);
        let wall_ms = 1_700_000_000_000 + (clock_us / 1_000) as i64 + host.wall_offset_ms;
        Now { monotonic_ns: clock_us * 1_000, wall_ms: wall_ms as u64 }
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
        act: impl FnOnce(&mut node::Running<W::Machine>),
    ) -> Result<(), Violation> {
        if let Some(running) = &mut self.hosts[node].up {
            act(running);
            self.poll(node)?;
        }
        Ok(())
    }

    // Nodes.

    fn start(&mut self, node: usize) -> Result<(), Violation> {
        let host = &mut self.hosts[node];
        if host.up.is_some() || host.dead {
            return Ok(());
        }
        let seed = Stream::new(self.plan.seed, Purpose::Node, node as u64).draw();
        let machine = self.workload.machine();
        if !host.start(node as u64, &self.plan.swarm, seed, machine)? {
            if host.dead {
                self.marks.hit("a node noticed a damaged disk and stopped");
            } else {
                self.marks.hit("a node did not start from a failing disk");
                let dark = host.is_dark();
                host.restore_disk();
                // The power may have failed meanwhile; then the unsynced writes of the start are
                // lost.
                match dark || self.disks[node].chance(POWER_FAILS_TOO_PPM) {
                    true => self.lose_unsynced(node),
                    false => self.hosts[node].disk.kill(),
                }
                self.queue.push(self.now_us + START_RETRY_US, Event::Start(node));
            }
            return Ok(());
        }
        let Some(running) = &host.up else { return Ok(()) };
        if running.node.hard_state().lost.is_some() {
            self.marks.hit("a node knew what it had lost");
        }
        if running.machine_at > Index(0) {
            self.marks.hit("a node restarted from a snapshot");
        }
        match host.found_base_lost {
            Some(storage::Case::NewerSnapshot { .. }) => {
                self.marks.hit("a log went on from a later snapshot");
            }
            Some(_) => self.marks.hit("a node had lost the snapshot its log began after"),
            None => {}
        }
        let life = host.life;
        // Its state is rebuilt from its snapshot and log. Both are right, unless the snapshot was
        // taken of a diverged state.
        let host = &mut self.hosts[node];
        host.flipped = self.wrong_snapshots.contains(&host.shadow.base.hash);
        host.flipped_at = if host.flipped { Index(0) } else { host.flipped_at };
        let Some(running) = &self.hosts[node].up else { return Ok(()) };
        self.observer.started(node, &running.node);
        self.observer.restored(node, running.machine_at);
        self.timeline.started(node, &running.node, running.machine_at);
        if running.machine_at > Index(0) {
            let last = running.node.base().last;
            self.replay.restores(self.now_us, self.events, node, last);
        }
        self.contact.started(node, &running.node);
        self.note(1, node, life);
        self.queue.push(self.now_us, Event::Tick { node, life });
        self.poll(node)
    }

    fn tick(&mut self, node: usize, life: u64) -> Result<(), Violation> {
        if self.hosts[node].life != life || self.hosts[node].up.is_none() {
            return Ok(());
        }
        let rate = self.hosts[node].clock_per_mille.max(1);
        let next_us = (u64::from(self.plan.swarm.tick_us) * 1_000 / rate).max(1);
        self.queue.push(self.now_us + next_us, Event::Tick { node, life });
        let now = self.now(node);
        let mut gave_way = false;
        self.on(node, |running| {
            let before = running.node.counters().gave_way;
            running.node.tick(now);
            gave_way = running.node.counters().gave_way > before;
        })?;
        if gave_way {
            self.marks.hit("a leader gave way to a preferred node");
        }
        self.no_sick_leader(node)?;
        match &self.hosts[node].up {
            Some(running) => {
                let membership = self.observer.membership(node);
                let in_force_at = self.observer.membership_id(node).index;
                self.contact.ticked(node, &running.node, membership, in_force_at)
            }
            None => Ok(()),
        }
    }

    /// Checks that a leader whose own disk lags behind the commit index steps down within a few
    /// election timeouts.
    fn no_sick_leader(&mut self, node: usize) -> Result<(), Violation> {
        let host = &mut self.hosts[node];
        let Some(running) = &host.up else { return Ok(()) };
        let core = &running.node;
        let held_back = running.write.is_some() && core.commit() > core.durable_index();
        host.write_ticks = if held_back { host.write_ticks + 1 } else { 0 };
        let most = SICK_ELECTIONS * u64::from(self.plan.swarm.election_ticks);
        if host.write_ticks <= most || !core.is_leader() {
            return Ok(());
        }
        let detail = format!("node {node}, whose write is out for {} ticks", host.write_ticks);
        violation(Check::LeaderWhoseDiskIsStalledStepsDown, node, detail)
    }

    fn deliver(&mut self, message: Message, sent_at: u64) -> Result<(), Violation> {
        let (node, from) = (message.to.0 as usize, message.from.0 as usize);
        if self.hosts[node].up.is_none() {
            self.timeline.arrived(&message, false);
            let reported = !self.calm && self.disks[from].chance(self.plan.swarm.report_ppm);
            if reported {
                let peer = message.to;
                self.queue.push(self.now_us, Event::Unreachable { node: from, peer });
            }
            return Ok(());
        }
        self.note(2, node, message.term.0 << 8 ^ body_number(&message.body));
        self.mark_message(&message);
        self.timeline.arrived(&message, true);
        let now = self.now(node);
        if let Some(running) = &self.hosts[node].up {
            let governed = (&running.node, self.observer.membership(node));
            self.contact.arrives(node, governed, &message, sent_at);
            self.limits.arrives(node, &message);
        }
        let append = matches!(message.body, Body::Append { .. });
        if matches!(message.body, Body::ReadIndex { lease: true, .. })
            && self.hosts[node].up.as_ref().is_some_and(|running| running.node.holds_lease(now))
        {
            self.marks.hit("a leader answered a follower from its lease");
        }
        let (sender, term) = (message.from, message.term);
        if let Some(running) = &self.hosts[node].up
            && append
            && running.node.leader() == Some(sender)
            && running.node.term() == term
        {
            self.leases.heard_leader(node, term, now);
        }
        self.on(node, |running| running.node.step(now, message))?;
        if let Some(running) = &self.hosts[node].up
            && append
            && running.node.leader() == Some(sender)
            && running.node.term() == term
        {
            self.contact.heard_leader(node, &running.node);
            self.leases.heard_leader(node, term, now);
        }
        Ok(())
    }

    fn mark_message(&mut self, message: &Message) {
        match &message.body {
            Body::Rejected { lost: true, .. } => self.marks.hit("a leader heard of lost entries"),
            Body::Rejected { .. } => self.marks.hit("a probe was rejected"),
            Body::NotAMember { .. } => self.marks.hit("a wiped node was told so"),
            Body::ReadIndexReply { index: Some(_), .. } => {
                self.marks.hit("a follower got a read index");
            }
            _ => {}
        }
    }

    /// Performs the actions of a node until there are none, then checks the node.
    fn poll(&mut self, node: usize) -> Result<(), Violation> {
        let mut sent = false;
        loop {
            let Some(running) = &mut self.hosts[node].up else { return Ok(()) };
            let Some(action) = running.node.poll() else { break };
            sent |= matches!(action, Action::Send(_));
            self.act(node, action)?;
        }
        self.look(node)?;
        if self.hosts[node].up.as_ref().is_some_and(|running| running.node.has_given_up()) {
            if !self.hosts[node].flipped && self.copies_can_be_told() {
                let detail = format!("node {node} takes its copy for wrong");
                return violation(Check::OnlyACopyThatDiffersIsGivenUp, node, detail);
            }
            self.marks.hit("a node with a wrong copy stopped");
            self.hosts[node].rotten = true;
            self.process_ends(node, START_RETRY_US);
            return Ok(());
        }
        let writing = self.hosts[node].up.as_ref().is_some_and(|running| running.write.is_some());
        for (kind, due) in [(FaultKind::CrashWriting, writing), (FaultKind::CrashSending, sent)] {
            if due && let Some(down_us) = self.armed.remove(&(node, kind)) {
                self.marks.hit("a node crashed at an awkward moment");
                self.crash(node, down_us);
            }
        }
        Ok(())
    }

    /// Checks the leases of all nodes, those that are paused included.
    fn check_leases(&mut self) -> Result<(), Violation> {
        for node in 0..self.hosts.len() {
            let now = self.now(node);
            if let Some(running) = &self.hosts[node].up {
                self.leases.look(node, &running.node, now, self.events)?;
            }
        }
        Ok(())
    }

    fn look(&mut self, node: usize) -> Result<(), Violation> {
        self.pass_time();
        let Some(running) = &self.hosts[node].up else { return Ok(()) };
        let disks: Vec<Observed<'_>> = self
            .hosts
            .iter()
            .map(|host| Observed {
                shadow: &host.shadow,
                forgot: host.rotten,
                incarnation: Some(host.incarnation),
            })
            .collect();
        let elected = self.observer.look(node, &running.node, &disks)?;
        let membership = self.observer.membership(node);
        self.contact.look(node, &running.node, membership, self.events)?;
        let term = running.node.term();
        self.timeline.look(node, &running.node, running.machine_at);
        self.leases.look(node, &running.node, self.now(node), self.events)?;
        if elected {
            self.check_leases()?;
            self.marks.hit("a leader was elected");
            self.note(3, node, term.0);
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
