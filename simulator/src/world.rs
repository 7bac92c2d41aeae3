//! The world: one queue of events, in which nodes, network, disks, clocks and clients meet.
//!
//! Single-threaded, without a runtime: what happens next is the first event of the queue, and what
//! each event leads to is drawn from named streams. The same plan gives the same run.

use crate::marks::Marks;
use crate::network::{Network, Passage};
use crate::node::{self, Host, Rotting};
use crate::observer::{Observed, Observer, Violation, violation};
use crate::plan::{Fault, FaultKind, Plan};
use crate::queue::Queue;
use crate::random::{Purpose, Stream};
use crate::shadow::{Change, Shadow};
use crate::timeline::{Moment, Timeline};
use crate::workload::{Answered, Outcome, Request, Workload};
use raft::{
    Action, Body, Incarnation, Index, LogId, Member, Membership, Message, NodeId, Now, Offer,
    ReadMode, Term,
};
use std::collections::BTreeMap;
use std::io::Write as _;
use storage::testing::{Fate, Operation, Verdict};
use storage::{LogStore, PersistError};

/// Events after which a run is ended and called overrun: a storm of messages is a bug too.
pub const EVENTS_MAX: u64 = 2_000_000;

/// Events after which the faults stop, though it is not time yet.
const FAULTY_EVENTS: u64 = 60_000;

/// After the faults, this many of the longest election timeouts may pass until everything is served.
const CONVERGE_TIMEOUTS: u64 = 40;

/// Then no leader may change for this many.
const QUIET_TIMEOUTS: u64 = 10;

/// Clients take it easy then.
const CALM_THINK_US: u64 = 100_000;

/// A full disk is tried again after this long.
const FULL_RETRY_US: u64 = 10_000;

/// A node whose disk fails at the start is started again after this long.
const START_RETRY_US: u64 = 50_000;

/// How often the power fails before that.
const POWER_FAILS_TOO_PPM: u32 = 500_000;

/// After one write in so many it is looked what a power failure at that moment would leave.
const AUDIT_ONE_IN: u64 = 251;

/// A rotten byte is found after so many further writes.
const ROT_WRITES: u64 = 2;

/// The incarnation of a node whose disk was never wiped is this and its id.
const INCARNATION: u64 = 100;

/// What a run came to.
#[derive(Clone, Debug)]
pub struct Run {
    /// The promise that was broken, if one was.
    pub violation: Option<Violation>,
    /// Events.
    pub events: u64,
    /// Simulated time.
    pub time_us: u64,
    /// A hash of everything that happened, in order.
    pub trace: u64,
    /// What happened at least once.
    pub marks: Marks,
    /// What is shown of it, if that was asked for.
    pub timeline: Timeline,
}

enum Event {
    Tick { node: usize, life: u64 },
    Deliver(Box<Message>),
    Unreachable { node: usize, peer: NodeId },
    Synced { node: usize, life: u64 },
    Applied { node: usize, life: u64 },
    Snapshot { node: usize, life: u64 },
    Transfer(Box<(Offer, Vec<u8>, u64)>),
    TransferFailed { node: usize, life: u64, to: NodeId, snapshot: LogId },
    Start(usize),
    Strike(usize),
    Lift(usize),
    Client(usize),
    GiveUp { client: usize, operation: usize },
    Calm,
    Converged,
    Quiet { leader: Option<(Term, u64)> },
}

struct Operation_ {
    client: usize,
    request: Request,
    begun_us: u64,
    /// The highest index that was answered to anybody when it was asked.
    floor: Index,
    open: bool,
}

struct Client {
    draw: Stream,
    leader: u64,
    operation: Option<usize>,
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
    marks: Marks,
    timeline: Timeline,
    calm: bool,
    done: bool,
    /// Nodes that crash at the next moment of a kind, and for how long.
    armed: BTreeMap<(usize, FaultKind), u64>,
}

/// Runs a plan to its end or to the first broken promise.
pub fn run<W: Workload>(plan: &Plan, workload: W, record: bool) -> Run {
    World::new(plan, workload, record).run()
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
        let host =
            |id: u64| Host::new(id, &plan.swarm, Incarnation(INCARNATION + id), membership.clone());
        let client = |id: u64| Client {
            draw: Stream::new(seed, Purpose::Client, id),
            leader: id % plan.nodes,
            operation: None,
        };
        let mut world = World {
            hosts: (0..plan.nodes).map(host).collect(),
            network: Network::new(seed, plan.nodes),
            disks: (0..plan.nodes).map(|id| Stream::new(seed, Purpose::Disk, id)).collect(),
            machines: (0..plan.nodes).map(|id| Stream::new(seed, Purpose::Machine, id)).collect(),
            clients: (0..u64::from(plan.swarm.clients)).map(client).collect(),
            operations: Vec::new(),
            observer: Observer::new(plan.nodes, workload.machine()),
            marks: Marks::default(),
            timeline: Timeline::new(record, plan.nodes),
            calm: false,
            done: false,
            armed: BTreeMap::new(),
            plan,
            workload,
            now_us: 0,
            events: 0,
            trace: seed,
            queue: Queue::new(),
        };
        (0..plan.nodes as usize).for_each(|node| world.queue.push(0, Event::Start(node)));
        for (at, fault) in plan.faults.iter().enumerate() {
            world.queue.push(fault.at_us, Event::Strike(at));
        }
        for client in 0..world.clients.len() {
            world.queue.push(client as u64, Event::Client(client));
        }
        world.queue.push(u64::from(plan.swarm.faults_until_us), Event::Calm);
        world
    }

    fn run(mut self) -> Run {
        let mut broken = None;
        while !self.done && broken.is_none() {
            let Some((at_us, event)) = self.queue.pop() else { break };
            self.now_us = at_us;
            self.events += 1;
            if self.events == FAULTY_EVENTS && !self.calm {
                self.queue.push(self.now_us, Event::Calm);
            }
            broken = self.event(event).err();
            if self.events > EVENTS_MAX {
                let detail = format!("{} events in {} µs", self.events, self.now_us);
                broken = violation::<()>("no storm of messages", detail).err();
            }
        }
        // What is under way when the run ends may have taken effect.
        for operation in 0..self.operations.len() {
            let _ = self.conclude(operation, None, Outcome::Unknown);
        }
        if broken.is_none()
            && let Err(detail) = self.workload.verdict()
        {
            broken = violation::<()>("the history", detail).err();
        }
        if let Some(violation) = &broken {
            self.timeline.add(self.now_us, 0, Moment::Violation(violation.check));
        }
        Run {
            violation: broken,
            events: self.events,
            time_us: self.now_us,
            trace: self.trace,
            marks: self.marks,
            timeline: self.timeline,
        }
    }

    fn event(&mut self, event: Event) -> Result<(), Violation> {
        // A paused node does what is due when it goes on.
        if let Some(node) = self.place(&event)
            && self.hosts[node].paused_until_us > self.now_us
        {
            let until = self.hosts[node].paused_until_us;
            self.queue.push(until, event);
            return Ok(());
        }
        match event {
            Event::Tick { node, life } => self.tick(node, life),
            Event::Deliver(message) => self.deliver(*message),
            Event::Unreachable { node, peer } => {
                self.on(node, |running| running.node.unreachable(peer))
            }
            Event::Synced { node, life } => self.synced(node, life),
            Event::Applied { node, life } => self.applied(node, life),
            Event::Snapshot { node, life } => self.snapshot_written(node, life),
            Event::Transfer(transfer) => self.transfer(*transfer),
            Event::TransferFailed { node, life, to, snapshot } => {
                if self.hosts[node].life != life {
                    return Ok(());
                }
                self.on(node, |running| running.node.snapshot_sent(to, snapshot, false))
            }
            Event::Start(node) => self.start(node),
            Event::Strike(fault) => self.strike(fault),
            Event::Lift(fault) => {
                self.lift(self.plan.faults[fault]);
                Ok(())
            }
            Event::Client(client) => self.client(client),
            Event::GiveUp { client, operation } => {
                if self.clients[client].operation == Some(operation) {
                    self.conclude(operation, None, Outcome::Unknown)?;
                }
                Ok(())
            }
            Event::Calm => self.calm_down(),
            Event::Converged => self.converged(),
            Event::Quiet { leader } => self.quiet(leader),
        }
    }

    fn place(&self, event: &Event) -> Option<usize> {
        match event {
            Event::Tick { node, .. }
            | Event::Unreachable { node, .. }
            | Event::Synced { node, .. }
            | Event::Applied { node, .. }
            | Event::Snapshot { node, .. }
            | Event::TransferFailed { node, .. } => Some(*node),
            Event::Deliver(message) => Some(message.to.0 as usize),
            Event::Transfer(transfer) => Some(transfer.0.to.0 as usize),
            _ => None,
        }
    }

    /// Everything that happened, in order, in one number.
    fn note(&mut self, what: u64, node: usize, detail: u64) {
        let word = what ^ (node as u64) << 8 ^ detail << 16 ^ self.now_us << 32;
        self.trace = (self.trace.rotate_left(5) ^ word).wrapping_mul(0x9e37_79b9_7f4a_7c15);
    }

    fn now(&self, node: usize) -> Now {
        let host = &self.hosts[node];
        let scaled = self.now_us * host.clock_per_mille / 1_000;
        Now { monotonic_ns: scaled * 1_000, wall_ms: 1_700_000_000_000 + scaled / 1_000 }
    }

    /// Does something to a running node, and everything that follows from it at once.
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
                host.disk.clear_faults();
                host.failing = false;
                // The power may have failed meanwhile, and what the start has written with it.
                match self.disks[node].chance(POWER_FAILS_TOO_PPM) {
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
        let life = host.life;
        self.observer.started(node, &running.node);
        self.note(1, node, life);
        self.timeline.add(self.now_us, node, Moment::Start);
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
        self.on(node, |running| running.node.tick(now))
    }

    fn deliver(&mut self, message: Message) -> Result<(), Violation> {
        let (node, from) = (message.to.0 as usize, message.from.0 as usize);
        if self.hosts[node].up.is_none() {
            let reported = !self.calm && self.disks[from].chance(self.plan.swarm.report_ppm);
            if reported {
                let peer = message.to;
                self.queue.push(self.now_us, Event::Unreachable { node: from, peer });
            }
            return Ok(());
        }
        self.note(2, node, message.term.0 << 8 ^ body_number(&message.body));
        self.mark_message(&message);
        self.timeline.message(self.now_us, &message, false);
        let now = self.now(node);
        self.on(node, |running| running.node.step(now, message))
    }

    fn mark_message(&mut self, message: &Message) {
        match &message.body {
            Body::Rejected { lost: true, .. } => self.marks.hit("a leader heard of lost entries"),
            Body::Rejected { .. } => self.marks.hit("a probe was rejected"),
            Body::Outcast { .. } => self.marks.hit("a wiped node was told so"),
            Body::ReadIndexReply { index: Some(_), .. } => {
                self.marks.hit("a follower got a read index");
            }
            _ => {}
        }
    }

    /// Takes what a node gives out, until it has nothing more, and looks at it.
    fn poll(&mut self, node: usize) -> Result<(), Violation> {
        let mut sent = false;
        loop {
            let Some(running) = &mut self.hosts[node].up else { return Ok(()) };
            let Some(action) = running.node.poll() else { break };
            sent |= matches!(action, Action::Send(_));
            self.act(node, action)?;
        }
        self.look(node)?;
        let writing = self.hosts[node].up.as_ref().is_some_and(|running| running.write.is_some());
        for (kind, due) in [(FaultKind::CrashWriting, writing), (FaultKind::CrashSending, sent)] {
            if due && let Some(down_us) = self.armed.remove(&(node, kind)) {
                self.marks.hit("a node crashed at an awkward moment");
                self.crash(node, down_us);
            }
        }
        Ok(())
    }

    fn look(&mut self, node: usize) -> Result<(), Violation> {
        let Some(running) = &self.hosts[node].up else { return Ok(()) };
        let disks: Vec<Observed<'_>> = self
            .hosts
            .iter()
            .map(|host| Observed { shadow: &host.shadow, forgot: host.rotten })
            .collect();
        let elected = self.observer.look(node, &running.node, &disks)?;
        let term = running.node.term();
        if self.timeline.is_on() {
            let status = running.node.status();
            self.timeline.role(self.now_us, node, status.role, status.term);
        }
        if elected {
            self.marks.hit("a leader was elected");
            self.note(3, node, term.0);
        }
        Ok(())
    }

    fn act(&mut self, node: usize, action: Action) -> Result<(), Violation> {
        let life = self.hosts[node].life;
        let swarm = &self.plan.swarm;
        match action {
            Action::Persist(write) => {
                let draw = &mut self.disks[node];
                let stalled = draw.chance(swarm.stall_ppm) && !self.calm;
                let stall_us = if stalled { draw.below(u64::from(swarm.stall_us) + 1) } else { 0 };
                let after_us = 1 + draw.below(2 * u64::from(swarm.sync_us)) + stall_us;
                self.queue.push(self.now_us + after_us, Event::Synced { node, life });
                if let Some(running) = &mut self.hosts[node].up {
                    if running.write.is_some() {
                        return violation("one write is out at a time", format!("node {node}"));
                    }
                    running.write = Some(write);
                }
                Ok(())
            }
            Action::Send(message) => {
                self.observer.said(node, &message, &self.hosts[node].shadow)?;
                self.send(node, message);
                Ok(())
            }
            Action::Apply(apply) => {
                let apply_us = self.machines[node].below(2 * u64::from(swarm.apply_us) + 1);
                self.queue.push(self.now_us + apply_us, Event::Applied { node, life });
                if let Some(running) = &mut self.hosts[node].up {
                    running.apply = Some(apply);
                }
                Ok(())
            }
            Action::Serve(read) => self.serve(node, read),
            Action::Refuse(read) => {
                let operation =
                    self.hosts[node].up.as_mut().and_then(|running| running.reads.remove(&read));
                match operation {
                    Some(operation) => self.conclude(operation, None, Outcome::NotDone),
                    None => Ok(()),
                }
            }
            Action::TakeSnapshot(order) => {
                let write_us = 1 + self.machines[node].below(50_000);
                self.queue.push(self.now_us + write_us, Event::Snapshot { node, life });
                if let Some(running) = &mut self.hosts[node].up {
                    if order.snapshot.last.index != running.machine_at {
                        let detail = format!("node {node}: {}", order.snapshot.last);
                        return violation("a snapshot is of what is applied", detail);
                    }
                    let state = running.state();
                    running.snapshot = Some((order, state));
                }
                Ok(())
            }
            Action::SendSnapshot(offer) => {
                self.send_snapshot(node, offer);
                Ok(())
            }
            Action::Restore(order) => {
                self.marks.hit("a snapshot was installed");
                let now = self.now(node);
                let Some(running) = &mut self.hosts[node].up else { return Ok(()) };
                node::restore(
                    node as u64,
                    &running.snapshots,
                    &order.snapshot,
                    &mut running.machine,
                )?;
                let last = order.snapshot.last;
                if self.observer.id_at(last.index) != Some(last) || running.apply.is_some() {
                    return violation("a restored snapshot is committed", format!("node {node}"));
                }
                running.machine_at = last.index;
                running.node.applied(now, order.restored());
                // What it jumps over was done or not: nobody here can tell.
                let jumped: Vec<LogId> =
                    running.proposals.keys().copied().filter(|id| id.index <= last.index).collect();
                let operations: Vec<usize> =
                    jumped.iter().filter_map(|id| running.proposals.remove(id)).collect();
                for operation in operations {
                    self.conclude(operation, None, Outcome::Unknown)?;
                }
                Ok(())
            }
        }
    }

    fn send(&mut self, node: usize, message: Message) {
        let to = message.to.0;
        if to >= self.plan.nodes {
            return;
        }
        self.note(4, node, to << 8 ^ body_number(&message.body));
        self.timeline.message(self.now_us, &message, true);
        match self.network.pass(node as u64, to, &self.plan.swarm, self.calm) {
            Passage::Arrives { after_us, again_after_us } => {
                if let Some(again_us) = again_after_us {
                    let again = Event::Deliver(Box::new(message.clone()));
                    self.queue.push(self.now_us + again_us, again);
                }
                self.queue.push(self.now_us + after_us, Event::Deliver(Box::new(message)));
            }
            Passage::Lost { reported } => {
                if reported {
                    let peer = message.to;
                    self.queue.push(self.now_us + 1, Event::Unreachable { node, peer });
                }
            }
        }
    }

    // Disks.

    fn synced(&mut self, node: usize, life: u64) -> Result<(), Violation> {
        if self.hosts[node].life != life {
            return Ok(());
        }
        let now = self.now(node);
        let host = &mut self.hosts[node];
        let Some(running) = &mut host.up else { return Ok(()) };
        let Some(write) = running.write.take() else { return Ok(()) };
        let change = Change::of(&write);
        match running.log.persist(write) {
            Ok(done) => {
                if host.shadow.is_taken_back(&change) && !host.rotten {
                    return violation("one vote a term", format!("node {node}"));
                }
                host.shadow.apply(&change);
                running.node.persisted(now, done);
                let base = running.node.base().last;
                if host.shadow.base.last == base {
                    // Older snapshots are of no use once the log on disk begins after this one.
                    let _ = running.snapshots.remove_except(&[base]);
                }
                if self.events.is_multiple_of(AUDIT_ONE_IN) {
                    self.hosts[node].audit(node as u64, &self.plan.swarm)?;
                }
                self.note(5, node, host_last(&self.hosts[node].shadow));
                self.timeline.add(self.now_us, node, Moment::Sync);
                self.hosts[node].writes += 1;
                self.poll(node)?;
                self.rots(node);
                Ok(())
            }
            Err(PersistError::Full { write, .. }) => {
                running.write = Some(*write);
                self.marks.hit("a disk was full");
                self.queue.push(self.now_us + FULL_RETRY_US, Event::Synced { node, life });
                Ok(())
            }
            Err(_) => {
                self.marks.hit("a sync failed and the node stopped");
                host.maybe = Some(change);
                let down_us = 1_000 + self.disks[node].below(200_000);
                self.power_fails(node, down_us);
                Ok(())
            }
        }
    }

    /// Power fails. A write that is out may be on the disk, in part or whole.
    fn crash(&mut self, node: usize, down_us: u64) {
        self.cut_off(node);
        self.power_fails(node, down_us);
    }

    /// A write that is out is written and not synced, or not begun.
    fn cut_off(&mut self, node: usize) {
        let begun = self.disks[node].chance(700_000);
        let host = &mut self.hosts[node];
        if let Some(running) = &mut host.up
            && let Some(write) = running.write.take()
            && begun
        {
            host.maybe = Some(Change::of(&write));
            // It was written and not yet synced.
            host.disk.set_faults(Box::new(|operation| match operation {
                Operation::Sync { .. } | Operation::SyncDir { .. } => {
                    Verdict::Fails { kind: std::io::ErrorKind::Other, done_bytes: 0 }
                }
                _ => Verdict::Done,
            }));
            let _ = running.log.persist(write);
            self.marks.hit("a crash met a write");
        }
    }

    fn power_fails(&mut self, node: usize, down_us: u64) {
        if self.goes_down(node, down_us) {
            self.lose_unsynced(node);
        }
    }

    fn process_ends(&mut self, node: usize, down_us: u64) {
        if self.goes_down(node, down_us) {
            self.hosts[node].disk.kill();
            self.marks.hit("a process ended");
        }
    }

    /// What is not synced is lost, kept or torn, sector by sector.
    fn lose_unsynced(&mut self, node: usize) {
        let swarm = &self.plan.swarm;
        let draw = &mut self.disks[node];
        let host = &mut self.hosts[node];
        let (mut kept, mut lost) = (false, false);
        host.disk.crash(|_| {
            if draw.chance(swarm.keep_ppm) {
                kept = true;
                if draw.chance(swarm.tear_ppm) {
                    lost = true;
                    return Fate::Flipped {
                        at: draw.below(512) as usize,
                        mask: 1 << draw.below(8),
                    };
                }
                return Fate::Kept;
            }
            lost = true;
            Fate::Lost
        });
        if kept && lost {
            self.marks.hit("a write was torn");
        }
    }

    /// A node runs no more. Returns whether it ran.
    fn goes_down(&mut self, node: usize, down_us: u64) -> bool {
        let host = &mut self.hosts[node];
        let Some(running) = host.up.take() else { return false };
        host.disk.clear_faults();
        host.failing = false;
        let open: Vec<usize> = running.proposals.into_values().collect();
        let reads: Vec<usize> = running.reads.into_values().collect();
        drop((running.log, running.snapshots));
        // A new life begins only with a start, but nothing of the old one goes on.
        host.life += 1;
        for operation in open {
            // Nobody hears from the node any more.
            let _ = self.conclude(operation, None, Outcome::Unknown);
        }
        for operation in reads {
            let _ = self.conclude(operation, None, Outcome::NotDone);
        }
        self.note(6, node, down_us);
        self.timeline.add(self.now_us, node, Moment::Crash);
        self.queue.push(self.now_us + down_us, Event::Start(node));
        true
    }

    // State machines and snapshots.

    fn applied(&mut self, node: usize, life: u64) -> Result<(), Violation> {
        if self.hosts[node].life != life {
            return Ok(());
        }
        let Some(running) = &mut self.hosts[node].up else { return Ok(()) };
        let observer = &self.observer;
        let workload = &self.workload;
        let mut done = Vec::new();
        let mut latest = LogId::ZERO;
        running.apply(|before, entry, answer, machine| {
            observer.applied(node, before, entry, answer)?;
            if let Err(detail) = workload.invariant(machine) {
                return violation("the invariant of the state machine", detail);
            }
            latest = entry.id;
            if let Some(answer) = answer {
                done.push((entry.id, answer.clone()));
            }
            Ok(())
        })?;
        let mut concluded = Vec::new();
        for (id, answer) in done {
            if let Some(operation) = running.proposals.remove(&id) {
                concluded.push((operation, Some((id.index, answer))));
            }
        }
        // Terms never fall along the log: what has not come by now, of this index or an earlier term,
        // never will.
        let over: Vec<LogId> = running
            .proposals
            .keys()
            .copied()
            .filter(|id| id.index <= latest.index || id.term < latest.term)
            .collect();
        for id in over {
            if let Some(operation) = running.proposals.remove(&id) {
                concluded.push((operation, None));
            }
        }
        for (operation, answer) in concluded {
            match answer {
                Some((index, answer)) => {
                    self.conclude(operation, Some(index), Outcome::Done(&answer))?;
                }
                None => {
                    self.marks.hit("a proposal was certainly not done");
                    self.conclude(operation, None, Outcome::NotDone)?;
                }
            }
        }
        self.note(7, node, latest.index.0);
        self.poll(node)
    }

    fn snapshot_written(&mut self, node: usize, life: u64) -> Result<(), Violation> {
        if self.hosts[node].life != life {
            return Ok(());
        }
        let now = self.now(node);
        let Some(running) = &mut self.hosts[node].up else { return Ok(()) };
        let Some((order, state)) = running.snapshot.take() else { return Ok(()) };
        let written = running.snapshots.create(&order.snapshot).and_then(|mut writer| {
            writer.write_all(&state)?;
            writer.finish()
        });
        let done = match written {
            Ok(()) => {
                self.marks.hit("a snapshot was taken");
                order.durable()
            }
            Err(_) => order.failed(),
        };
        running.node.compact(now, done);
        self.poll(node)
    }

    fn send_snapshot(&mut self, node: usize, offer: Offer) {
        let (life, to, snapshot) = (self.hosts[node].life, offer.to, offer.snapshot.last);
        let failed = Event::TransferFailed { node, life, to, snapshot };
        let state = match &self.hosts[node].up {
            Some(running) => node::read(&running.snapshots, snapshot),
            None => return,
        };
        let Ok(state) = state else {
            return self.queue.push(self.now_us + 1_000, failed);
        };
        match self.network.pass(node as u64, to.0, &self.plan.swarm, self.calm) {
            Passage::Arrives { after_us, .. } => {
                let transfer = Event::Transfer(Box::new((offer, state, life)));
                self.queue.push(self.now_us + after_us, transfer);
            }
            Passage::Lost { .. } => self.queue.push(self.now_us + 10_000, failed),
        }
    }

    fn transfer(&mut self, (offer, state, life): (Offer, Vec<u8>, u64)) -> Result<(), Violation> {
        let (from, to) = (offer.from.0 as usize, offer.to.0 as usize);
        let snapshot = offer.snapshot.last;
        let now = self.now(to);
        let mut delivered = false;
        if let Some(running) = &mut self.hosts[to].up
            && running.node.accepts(&offer)
        {
            let written = running.snapshots.create(&offer.snapshot).and_then(|mut writer| {
                writer.write_all(&state)?;
                writer.finish()
            });
            if written.is_ok() {
                delivered = true;
                running.node.install(now, offer.durable());
            }
        }
        self.poll(to)?;
        let still = self.hosts[from].life == life;
        if still {
            let to = NodeId(to as u64);
            self.on(from, |running| running.node.snapshot_sent(to, snapshot, delivered))?;
        }
        Ok(())
    }

    // Faults.

    fn strike(&mut self, at: usize) -> Result<(), Violation> {
        let fault = self.plan.faults[at];
        let node = (fault.node % self.plan.nodes) as usize;
        if self.calm {
            return Ok(());
        }
        self.note(8, node, fault.kind as u64);
        self.timeline.add(self.now_us, node, Moment::Fault(fault));
        let until_us = self.now_us + fault.amount;
        match fault.kind {
            FaultKind::Crash => self.crash(node, fault.amount),
            FaultKind::Kill => {
                self.cut_off(node);
                self.process_ends(node, fault.amount);
            }
            FaultKind::CrashWriting | FaultKind::CrashSending => {
                self.armed.insert((node, fault.kind), fault.amount);
            }
            FaultKind::Pause => {
                let host = &mut self.hosts[node];
                host.paused_until_us = host.paused_until_us.max(until_us);
            }
            FaultKind::Isolate
            | FaultKind::Deaf
            | FaultKind::Mute
            | FaultKind::Split
            | FaultKind::Bridge
            | FaultKind::Ring => {
                self.network.cut(&fault, true);
                self.queue.push(until_us, Event::Lift(at));
            }
            FaultKind::Clock => self.hosts[node].clock_per_mille = fault.amount,
            FaultKind::SyncError => {
                self.hosts[node].failing = true;
                self.hosts[node].disk.set_faults(Box::new(|operation| match operation {
                    Operation::Sync { .. } => Verdict::FailsAndForgets,
                    _ => Verdict::Done,
                }));
            }
            FaultKind::Full => {
                self.hosts[node].full = true;
                let used = self.hosts[node].disk.used_bytes();
                self.hosts[node].disk.set_capacity(Some(used));
                self.queue.push(until_us, Event::Lift(at));
            }
            FaultKind::Rot => self.rot(node, fault.amount),
            FaultKind::Wipe => self.wipe(node, fault.amount),
        }
        Ok(())
    }

    fn lift(&mut self, fault: Fault) {
        if self.calm {
            return;
        }
        match fault.kind {
            FaultKind::Full => {
                let host = &mut self.hosts[(fault.node % self.plan.nodes) as usize];
                host.disk.set_capacity(None);
                host.full = false;
            }
            _ => self.network.cut(&fault, false),
        }
    }

    /// A byte of what is in the log by now will have rotted when the node starts again.
    fn rot(&mut self, node: usize, down_us: u64) {
        let host = &mut self.hosts[node];
        if host.up.is_none() || host.rotting.is_some() {
            return;
        }
        let draw = &mut self.disks[node];
        let paths: Vec<String> =
            host.disk.paths().into_iter().filter(|path| path.starts_with("log/")).collect();
        if paths.is_empty() {
            return;
        }
        let path = paths[draw.below(paths.len() as u64) as usize].clone();
        let Some(content) = host.disk.read(&path) else { return };
        // Where something is written: a rotten zero beyond the end harms nobody.
        let written = content.iter().rposition(|byte| *byte != 0).unwrap_or(0) as u64 + 1;
        let (offset, mask) = (draw.below(written), 1 << draw.below(8));
        let at_write = host.writes + ROT_WRITES;
        let found = content[..written as usize].to_vec();
        host.rotting = Some(Rotting { at_write, down_us, path, offset, mask, found });
    }

    fn rots(&mut self, node: usize) {
        let host = &mut self.hosts[node];
        if host.rotting.as_ref().is_none_or(|rotting| host.writes < rotting.at_write) {
            return;
        }
        let Some(rotting) = host.rotting.take() else { return };
        self.crash(node, rotting.down_us);
        let host = &mut self.hosts[node];
        // The file may have been freed or used again meanwhile.
        let content = host.disk.read(&rotting.path).unwrap_or_default();
        if content.starts_with(&rotting.found) {
            let byte = content[rotting.offset as usize] ^ rotting.mask;
            host.disk.damage(&rotting.path, rotting.offset, &[byte]);
            host.rotten = true;
            self.marks.hit("a log rotted");
        }
    }

    /// The disk is replaced by an empty one. The node comes back under its id, as a stranger.
    fn wipe(&mut self, node: usize, down_us: u64) {
        if self.hosts[node].up.is_some() {
            self.crash(node, down_us);
        }
        let host = &mut self.hosts[node];
        let life = host.life;
        let incarnation = Incarnation(host.incarnation.0 + 1_000);
        *host = Host::new(node as u64, &self.plan.swarm, incarnation, Membership::default());
        host.life = life + 1;
        host.rotten = true;
        self.marks.hit("a disk was wiped");
    }

    // Clients.

    fn client(&mut self, client: usize) -> Result<(), Violation> {
        if self.clients[client].operation.is_some() {
            return Ok(());
        }
        let request = self.workload.request(client as u64, &mut self.clients[client].draw);
        self.ask(client, request)
    }

    fn ask(&mut self, client: usize, request: Request) -> Result<(), Violation> {
        let operation = self.operations.len();
        let draw = &mut self.clients[client].draw;
        // Reads go to any node; commands to whom the client believes to lead.
        let anywhere = matches!(request, Request::Query(_)) || draw.below(10) == 0;
        let any = draw.below(self.plan.nodes);
        let node = if anywhere { any } else { self.clients[client].leader } as usize;
        self.operations.push(Operation_ {
            client,
            request: request.clone(),
            begun_us: self.now_us,
            floor: self.observer.answered,
            open: true,
        });
        self.clients[client].operation = Some(operation);
        let patience_us = u64::from(self.plan.swarm.patience_us);
        self.queue.push(self.now_us + patience_us, Event::GiveUp { client, operation });
        let now = self.now(node);
        let paused = self.hosts[node].paused_until_us > self.now_us;
        let taken = match (&mut self.hosts[node].up, &request) {
            (Some(running), Request::Command(command)) if !paused => {
                match running.node.propose(now, command.clone()) {
                    Ok(proposed) => {
                        running.proposals.insert(proposed.id, operation);
                        true
                    }
                    Err(error) => {
                        if let raft::ProposeError::NotLeader { leader: Some(leader) } = error {
                            self.clients[client].leader = leader.0;
                        }
                        false
                    }
                }
            }
            (Some(running), Request::Query(_)) if !paused => {
                match running.node.read(now, ReadMode::Linearizable) {
                    Ok(read) => {
                        running.reads.insert(read, operation);
                        true
                    }
                    Err(_) => false,
                }
            }
            _ => false,
        };
        if !taken {
            let next = (self.clients[client].leader + 1) % self.plan.nodes;
            if self.hosts[node].up.as_ref().is_none_or(|running| running.node.leader().is_none()) {
                self.clients[client].leader = next;
            }
            self.conclude(operation, None, Outcome::NotDone)?;
        }
        self.poll(node)
    }

    fn serve(&mut self, node: usize, read: raft::ReadId) -> Result<(), Violation> {
        let Some(running) = &mut self.hosts[node].up else { return Ok(()) };
        let Some(operation) = running.reads.remove(&read) else { return Ok(()) };
        let Request::Query(query) = &self.operations[operation].request else { return Ok(()) };
        let answer = driver::StateMachine::query(&running.machine, query);
        let at = running.machine_at;
        self.conclude(operation, Some(at), Outcome::Done(&answer))
    }

    /// An operation has ended, as far as its client can tell.
    fn conclude(
        &mut self,
        operation: usize,
        at: Option<Index>,
        outcome: Outcome<'_>,
    ) -> Result<(), Violation> {
        let known = &mut self.operations[operation];
        if !known.open {
            return Ok(());
        }
        known.open = false;
        let client = known.client;
        if let (Some(at), Outcome::Done(answer)) = (at, outcome) {
            match &known.request {
                Request::Command(_) if at <= known.floor => {
                    let detail = format!("a command has index {at}, below {}", known.floor);
                    return violation("later commands come later", detail);
                }
                Request::Command(_) if self.observer.answer(at).is_none_or(|a| a != answer) => {
                    return violation("clients hear what was done", format!("at {at}"));
                }
                Request::Query(_) if at < known.floor => {
                    let detail = format!("a read of {at}, though {} was answered", known.floor);
                    return violation("reads are fresh", detail);
                }
                _ => {}
            }
            self.observer.answered = self.observer.answered.max(at);
            self.marks.hit(match known.request {
                Request::Command(_) => "a command was done",
                Request::Query(_) => "a read was served",
            });
        }
        self.workload.answered(&Answered {
            client: client as u64,
            request: &known.request,
            begun_us: known.begun_us,
            ended_us: self.now_us,
            outcome,
        });
        self.timeline.operation(known.begun_us, self.now_us, client, outcome);
        self.clients[client].operation = None;
        let think_us = 1 + u64::from(self.plan.swarm.think_us);
        let think_us = if self.calm { think_us.max(CALM_THINK_US) } else { think_us };
        let pause_us = match outcome {
            Outcome::Done(_) => think_us,
            // Nobody hammers a cluster that cannot serve.
            _ => think_us + 5_000,
        };
        self.queue.push(self.now_us + pause_us, Event::Client(client));
        Ok(())
    }

    // The end: the faults stop, and everything must work again.

    fn timeout_us(&self) -> u64 {
        let swarm = &self.plan.swarm;
        2 * u64::from(swarm.election_ticks) * u64::from(swarm.tick_us)
    }

    fn calm_down(&mut self) -> Result<(), Violation> {
        if self.calm {
            return Ok(());
        }
        self.calm = true;
        self.armed.clear();
        self.hosts.iter_mut().for_each(|host| host.rotting = None);
        self.network.lift_all();
        self.timeline.add(self.now_us, 0, Moment::Calm);
        for node in 0..self.hosts.len() {
            let host = &mut self.hosts[node];
            host.disk.set_capacity(None);
            host.disk.clear_faults();
            host.full = false;
            host.failing = false;
            host.clock_per_mille = 1_000;
            self.queue.push(self.now_us, Event::Start(node));
        }
        // What is late, stalled or down is so for at most this long.
        let slack_us = 2 * u64::from(self.plan.swarm.tail_us)
            .max(u64::from(self.plan.swarm.stall_us))
            + 4_000_000;
        let converge_us = CONVERGE_TIMEOUTS * self.timeout_us() + slack_us;
        self.queue.push(self.now_us + converge_us, Event::Converged);
        Ok(())
    }

    /// Whether a quorum is there to serve: all but those that are gone for good.
    fn is_able(&self) -> bool {
        let able = self
            .hosts
            .iter()
            .enumerate()
            .filter(|(id, host)| !host.dead && host.incarnation.0 == INCARNATION + *id as u64)
            .count();
        able > self.hosts.len() / 2
    }

    fn healthy(&self) -> impl Iterator<Item = (usize, &node::Running<W::Machine>)> {
        self.hosts
            .iter()
            .enumerate()
            .filter(|(id, host)| host.incarnation.0 == INCARNATION + *id as u64)
            .filter_map(|(id, host)| host.up.as_ref().map(|running| (id, running)))
    }

    fn converged(&mut self) -> Result<(), Violation> {
        if !self.is_able() {
            self.done = true;
            return Ok(());
        }
        let leaders: Vec<usize> = self
            .healthy()
            .filter(|(_, running)| running.node.status().serving)
            .map(|(id, _)| id)
            .collect();
        if leaders.len() != 1 {
            let detail = format!("nodes {leaders:?} serve, long after the faults have stopped");
            return violation("one leader serves in the end", detail);
        }
        let committed = self.observer.committed_index();
        for (id, running) in self.healthy() {
            // Clients go on, so the last few entries may be on their way.
            let behind = committed.0.saturating_sub(running.machine_at.0);
            if behind > 2_000 {
                let detail = format!("node {id} is {behind} entries behind");
                return violation("every node catches up in the end", detail);
            }
            if running.node.hard_state().lost.is_some() {
                return violation("what was lost is repaired in the end", format!("node {id}"));
            }
        }
        self.marks.hit("the cluster came back");
        let leader = self.observer.latest_leader();
        let quiet_us = QUIET_TIMEOUTS * self.timeout_us();
        self.queue.push(self.now_us + quiet_us, Event::Quiet { leader });
        Ok(())
    }

    fn quiet(&mut self, leader: Option<(Term, u64)>) -> Result<(), Violation> {
        if self.observer.latest_leader() != leader {
            let detail = format!("{leader:?}, then {:?}", self.observer.latest_leader());
            return violation("no leader changes without a fault", detail);
        }
        let mut states: BTreeMap<Index, (usize, Vec<u8>)> = BTreeMap::new();
        let mut differing = None;
        for (id, running) in self.healthy() {
            let state = running.state();
            let known = states.entry(running.machine_at).or_insert_with(|| (id, state.clone()));
            if known.1 != state {
                differing = Some(format!("nodes {} and {id} at {}", known.0, running.machine_at));
            }
        }
        if let Some(detail) = differing {
            return violation("equal logs make equal states", detail);
        }
        if self.observer.elections() > 3 {
            self.marks.hit("leaders changed");
        }
        self.done = true;
        Ok(())
    }
}

fn host_last(shadow: &Shadow) -> u64 {
    shadow.last().index.0
}

fn body_number(body: &Body) -> u64 {
    match body {
        Body::PreVote { .. } => 1,
        Body::PreVoteReply { granted, .. } => 2 + (u64::from(*granted) << 4),
        Body::Vote { .. } => 3,
        Body::VoteReply { granted } => 4 + (u64::from(*granted) << 4),
        Body::Append { entries, .. } => 5 + ((entries.len() as u64) << 4),
        Body::Appended { matched, .. } => 6 + (matched.0 << 4),
        Body::Rejected { prev, .. } => 7 + (prev.0 << 4),
        Body::ReadIndex { .. } => 8,
        Body::ReadIndexReply { .. } => 9,
        Body::TimeoutNow => 10,
        Body::Outcast { .. } => 11,
    }
}
