//! The state of a simulated cluster: hosts, network, what was seen of them, and the first promise that
//! was broken. One lock, one thread: nobody holds it while waiting.

use crate::app::{App, Service};
use crate::bounds::{Requests, Written};
use crate::clock::SimClock;
use crate::disk::{Life, SimDisk};
use crate::net::peer_address;
use crate::sockets::Bound;
use crate::store::Slot;
use crate::time::now_us;
use driver::{Clock as _, Handle, Inbox};
use madsim::runtime::NodeHandle;
use raft::{Incarnation, Index, LogId, Member, Membership, NodeId};
use simulator::Marks;
use simulator::checks::{Change, Observed, Observer, Shadow, Violation};
use simulator::network::Network;
use simulator::plan::{FaultKind, Plan, Swarm};
use simulator::random::{Purpose, Stream};
use simulator::{Timeline, What};
use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex};
use storage::testing::MemDisk;
use storage::{ClusterId, Directory, LogConfig};
use tokio::sync::Notify;

/// The cluster that all nodes belong to, where it does not bootstrap itself.
pub(crate) const CLUSTER: ClusterId = ClusterId(1);
/// The incarnation of a node is this and its id, where the cluster does not bootstrap itself.
pub(crate) const INCARNATION: u64 = 100;
/// In one run of so many, nodes talk over simulated sockets.
const SOCKETS_ONE_IN: u64 = 3;
/// The port for clients in the addresses that the membership has.
const CLIENT_PORT: u16 = 8080;
/// Segments that a log keeps for use again.
pub(crate) const RECYCLED_SEGMENTS: u64 = 4;

/// The address of a node for clients: `10.0.0.{id + 1}:8080`.
pub fn client_address(node: u64) -> String {
    format!("10.0.0.{}:{CLIENT_PORT}", node + 1)
}

/// Which node has this address for clients.
pub fn node_at(address: &str) -> Option<NodeId> {
    let host = address.strip_prefix("10.0.0.")?.strip_suffix(":8080")?;
    host.parse::<u64>().ok()?.checked_sub(1).map(NodeId)
}

/// A machine, and the node on it, up or down.
pub(crate) struct Host<A: App> {
    pub disk: MemDisk,
    pub clock: Arc<SimClock>,
    pub shadow: Shadow,
    /// The write that was out when it went down: it may be on the disk or not.
    pub maybe: Option<Change>,
    /// What the files of its log hold that is needed.
    pub written: Written,
    pub incarnation: Incarnation,
    /// Its disk was wiped: it is no member any more.
    pub is_stranger: bool,
    /// It becomes a member again.
    pub is_rejoining: bool,
    /// How many times it has started.
    pub lives: u64,
    pub up: Option<Up<A>>,
    /// Writes that became durable.
    pub writes: u64,
    pub rotting: Option<Rotting>,
    /// Its power fails right after the write that is under way.
    pub crash_due_us: Option<u64>,
    /// Its log has been damaged: it may know less than it did, if it says so.
    pub rotten: bool,
    /// Its log has been damaged since it started last.
    pub damaged: bool,
    /// Its disk fails.
    pub failing: bool,
    /// Its disk is full.
    pub full: bool,
    /// Its disk does not answer until then, and is slow until then.
    pub stalled_until_us: u64,
    pub slow_until_us: u64,
    /// It is gone for good: it refuses to start.
    pub dead: bool,
    pub paused: u32,
    /// Who listens for peers, or did last.
    pub bound: Option<Bound<A>>,
}

/// Data that will rot, see `simulator`.
pub(crate) struct Rotting {
    pub at_write: u64,
    pub down_us: u64,
    pub path: String,
    pub offset: u64,
    pub mask: u8,
    pub found: Vec<u8>,
}

/// A node that runs.
pub(crate) struct Up<A: App> {
    pub life: Life,
    pub number: u64,
    pub handle: Handle<A::Machine>,
    pub inbox: Inbox,
    pub machine: NodeHandle,
    pub slot: Arc<Mutex<Slot>>,
    pub service: Option<Service<A::Request, A::Response>>,
    pub requests: Requests,
    /// Up to here the state machine has applied the log.
    pub applied: Index,
}

/// How much is wanted of a run.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    /// Whether a timeline is recorded.
    pub record: bool,
    /// It ends after so many events, if not before.
    pub events_max: u64,
}

/// Everything, behind one lock.
pub(crate) struct World<A: App> {
    pub plan: Plan,
    /// The cluster that the nodes belong to.
    pub cluster: ClusterId,
    /// When the plan's time began, in simulated time: after the bootstrap.
    pub begun_us: u64,
    pub hosts: Vec<Host<A>>,
    pub network: Network,
    pub observer: Observer<A::Machine>,
    pub disks: Vec<Stream>,
    pub machines: Vec<Stream>,
    /// What the network does beyond losing and delaying: per link, and one for what clients send.
    pub links: Vec<Stream>,
    pub calls: Stream,
    pub clocks: Stream,
    pub marks: Marks,
    pub violation: Option<Violation>,
    /// Proposals of which somebody was told that they were certainly not done.
    pub not_done: BTreeSet<LogId>,
    /// What is shown of the run, if that was asked for.
    pub timeline: Timeline,
    /// Notified when the run is to end before its time.
    pub ends: Arc<Notify>,
    /// After which event, and when, it ended.
    pub ended: Option<(u64, u64)>,
    /// It ends after so many events.
    pub events_max: u64,
    pub trace: u64,
    pub events: u64,
    /// When something was noted last.
    pub noted_us: u64,
    pub messages: u64,
    /// Messages go in streams, in order and not lost; else each one its own way.
    pub streams: bool,
    /// Nodes have the product's transport, on simulated sockets; `streams` counts for nothing then.
    pub sockets: bool,
    pub calm: bool,
    /// Clients are to stop.
    pub over: bool,
    pub armed: BTreeMap<(usize, FaultKind), u64>,
}

impl<A: App> World<A> {
    pub fn new(plan: Plan, reference: A::Machine, limits: Limits) -> Self {
        let (seed, nodes) = (plan.seed, plan.nodes);
        let stream = |purpose| move |id: u64| Stream::new(seed, purpose, id);
        let members = (0..nodes).map(|id| (NodeId(id), member(id))).collect();
        let membership = Membership::of_voters(members);
        let host = |id: u64| {
            let incarnation = Incarnation(INCARNATION + id);
            Host::new(id, &plan.swarm, incarnation, membership.clone())
        };
        World {
            cluster: CLUSTER,
            begun_us: 0,
            hosts: (0..nodes).map(host).collect(),
            network: Network::new(seed, nodes),
            observer: Observer::new(nodes, reference),
            disks: (0..nodes).map(stream(Purpose::Disk)).collect(),
            machines: (0..nodes).map(stream(Purpose::Machine)).collect(),
            links: (0..nodes * nodes)
                .map(|l| Stream::new(seed, Purpose::Network, 1_000 + l))
                .collect(),
            calls: Stream::new(seed, Purpose::Network, 2_000),
            clocks: Stream::new(seed, Purpose::Network, 2_001),
            marks: Marks::default(),
            violation: None,
            not_done: BTreeSet::new(),
            timeline: Timeline::new(limits.record, nodes),
            ends: Arc::new(Notify::new()),
            ended: None,
            events_max: limits.events_max,
            trace: seed,
            events: 0,
            noted_us: 0,
            messages: 0,
            streams: Stream::new(seed, Purpose::Network, 2_002).below(2) == 0,
            sockets: Stream::new(seed, Purpose::Network, 2_003).below(SOCKETS_ONE_IN) == 0,
            calm: false,
            over: false,
            armed: BTreeMap::new(),
            plan,
        }
    }

    /// Everything that happened, in order, in one number.
    pub fn note(&mut self, what: u64, node: usize, detail: u64) {
        let word = what ^ (node as u64) << 8 ^ detail << 16 ^ now_us() << 32;
        self.trace = (self.trace.rotate_left(5) ^ word).wrapping_mul(0x9e37_79b9_7f4a_7c15);
        self.events += 1;
        self.noted_us = now_us();
        if self.events > self.events_max {
            self.ends();
        }
    }

    /// What is shown, if anything is, from here on at this time.
    pub fn shown(&mut self) -> Option<&mut Timeline> {
        if !self.timeline.is_on() {
            return None;
        }
        self.timeline.at(now_us(), self.events);
        Some(&mut self.timeline)
    }

    /// Something happened at a node.
    pub fn show(&mut self, node: usize, what: What) {
        if let Some(timeline) = self.shown() {
            timeline.add(node, what);
        }
    }

    /// Something happened to all.
    pub fn show_to_all(&mut self, what: What) {
        if let Some(timeline) = self.shown() {
            timeline.add_to_all(what);
        }
    }

    /// A promise was broken. The first one ends the run.
    pub fn breaks(&mut self, violation: Violation) {
        if self.violation.is_none() {
            self.show_to_all(What::Violation(violation.check));
            self.violation = Some(violation);
            self.ends();
        }
    }

    /// The run ends here: what happens until everything has stopped counts no more.
    pub fn ends(&mut self) {
        self.ends_at(now_us());
    }

    pub fn ends_at(&mut self, time_us: u64) {
        if self.ended.is_none() {
            self.ended = Some((self.events, time_us));
            let disks = self.hosts.iter().map(|host| (&host.shadow, host.up.is_some()));
            self.timeline.finish(disks);
            self.ends.notify_one();
        }
    }

    /// Looks at a node's core, whose life is still going on.
    pub fn look(&mut self, at: usize, node: &raft::Node) -> Result<(), Violation> {
        let applied = self.hosts[at].up.as_ref().map_or(Index(0), |up| up.applied);
        if let Some(timeline) = self.shown() {
            timeline.look(at, node, applied);
        }
        self.pass_time();
        let World { hosts, observer, .. } = self;
        let disks: Vec<Observed<'_>> = hosts
            .iter()
            .map(|host| Observed { shadow: &host.shadow, forgot: host.rotten })
            .collect();
        if observer.look(at, node, &disks)? {
            self.marks.hit("a leader was elected");
            self.note(3, at, node.term().0);
        }
        Ok(())
    }

    /// Tells the observer what all clocks read: whenever a node is looked at, and before a wall clock
    /// is changed.
    pub fn pass_time(&mut self) {
        let clocks: Vec<raft::Now> = self.hosts.iter().map(|host| host.clock.now()).collect();
        self.observer.time.pass(&clocks);
    }

    /// Whether this life of the node is the one that runs.
    pub fn runs(&mut self, node: usize, number: u64) -> Option<&mut Up<A>> {
        self.hosts[node].up.as_mut().filter(|up| up.number == number)
    }

    pub fn link(&mut self, from: u64, to: u64) -> &mut Stream {
        let at = from * self.plan.nodes + to;
        &mut self.links[at as usize]
    }
}

fn member(id: u64) -> Member {
    Member {
        incarnation: Incarnation(INCARNATION + id),
        peer_address: peer_address(id).to_string(),
        client_address: client_address(id),
    }
}

pub(crate) fn log_config(swarm: &Swarm) -> LogConfig {
    LogConfig {
        segment_bytes: u64::from(swarm.segment_bytes),
        background: false,
        recycled_bytes_max: RECYCLED_SEGMENTS * u64::from(swarm.segment_bytes),
        ..LogConfig::default()
    }
}

impl<A: App> Host<A> {
    /// A machine with an empty disk, on which a log begins with this membership.
    pub fn new(id: u64, swarm: &Swarm, incarnation: Incarnation, membership: Membership) -> Self {
        let disk = MemDisk::new();
        let handle = SimDisk::new(disk.clone(), Life::default());
        let (directory, _) =
            Directory::open(handle, log_config(swarm)).expect("an empty disk without faults");
        let Directory::Unclaimed(unclaimed) = directory else { unreachable!("it is empty") };
        let founders: Vec<NodeId> = membership.members.keys().copied().collect();
        let begun = unclaimed
            .announce(NodeId(id), incarnation, &founders)
            .map_err(|error| error.to_string())
            .and_then(|announced| {
                announced.join(CLUSTER, membership).map_err(|error| error.to_string())
            });
        let member = begun.expect("a disk without faults takes it");
        let (log, restored) = member.into_log();
        drop(log);
        disk.kill();
        Host {
            shadow: Shadow::new(&restored),
            disk,
            clock: Arc::new(SimClock::new()),
            maybe: None,
            written: Written::default(),
            incarnation,
            is_stranger: false,
            is_rejoining: false,
            lives: 0,
            up: None,
            writes: 0,
            rotting: None,
            crash_due_us: None,
            rotten: false,
            damaged: false,
            failing: false,
            full: false,
            stalled_until_us: 0,
            slow_until_us: 0,
            dead: false,
            paused: 0,
            bound: None,
        }
    }
}
