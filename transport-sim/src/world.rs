//! The state of a simulated cluster: hosts, network, observations, and the first promise that was
//! broken. One lock and one thread: no task holds the lock across an await.

use crate::app::{App, Service};
use crate::call::Requests;
use crate::clock::SimClock;
use crate::cuts::Cuts;
use crate::disk::{Life, SimDisk};
use crate::finished::Finished;
use crate::net::peer_address;
use crate::sockets::Bound;
use crate::store::Slot;
use crate::time::now_us;
use driver::{Clock as _, Handle, Inbox};
use madsim::runtime::NodeHandle;
use raft::{Incarnation, Index, LogId, Member, Membership, NodeId, Term};
use simulator::Marks;
use simulator::bounds::Needed;
use simulator::checks::{Check, LogChange, Observed, Observer, Shadow, Violation, violation};
use simulator::network::Network;
use simulator::plan::{FaultKind, Plan, Swarm};
use simulator::random::{Purpose, Stream};
use simulator::{Timeline, What};
use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;
use std::sync::{Arc, Mutex};
use storage::testing::MemDisk;
use storage::{ClusterId, Directory, LogConfig};
use tokio::sync::Notify;

/// The id of the cluster, if the cluster does not bootstrap itself.
pub(crate) const CLUSTER: ClusterId = ClusterId(1);
/// The incarnation of a node is this plus its id, if the cluster does not bootstrap itself.
pub(crate) const INCARNATION: u64 = 100;
/// One run in this many uses simulated sockets between nodes.
const SOCKETS_ONE_IN: u64 = 3;
/// Of these runs, one in this many has nodes that restart at another address.
const MOVES_ONE_IN: u64 = 2;
/// Of those, one in this many has nodes whose configuration lists where their peers are.
const LISTS_ONE_IN: u64 = 2;
/// The port for clients, in the addresses of the membership.
const CLIENT_PORT: u16 = 8080;
/// Number of freed segments that a log keeps for reuse.
pub(crate) const RECYCLED_SEGMENTS: u64 = 4;

/// The address of a node for clients: `10.0.0.{id + 1}:8080`.
pub fn client_address(node: u64) -> String {
    format!("10.0.0.{}:{CLIENT_PORT}", node + 1)
}

/// The node with this address for clients.
pub fn node_at(address: &str) -> Option<NodeId> {
    let host = address.strip_prefix("10.0.0.")?.strip_suffix(":8080")?;
    host.parse::<u64>().ok()?.checked_sub(1).map(NodeId)
}

/// A machine, and the node on it, running or down.
pub(crate) struct Host<A: App> {
    pub disk: MemDisk,
    pub clock: Arc<SimClock>,
    pub shadow: Shadow,
    /// The write that was outstanding when it went down. It may or may not be on the disk.
    pub maybe: Option<LogChange>,
    /// The writes that its log still needs.
    pub needed: Needed,
    pub incarnation: Incarnation,
    /// Its disk was wiped: it is not a member any more.
    pub is_stranger: bool,
    /// It is being removed, to be added again with an empty disk.
    pub is_leaving: bool,
    /// It has stopped because it was removed.
    pub knows_its_removal: bool,
    /// After a wipe, it is becoming a member again.
    pub is_rejoining: bool,
    /// How often its disk was wiped.
    pub wipes: u64,
    /// How many times it has started.
    pub lives: u64,
    pub up: Option<Up<A>>,
    /// Number of durable writes.
    pub writes: u64,
    pub rotting: Option<Rotting>,
    /// Its power fails right after the outstanding write, and stays off for this time.
    pub crash_due_us: Option<u64>,
    /// Its data has been damaged at some time: it may know less than before, if it reports the
    /// loss.
    pub rotten: bool,
    /// Its log has been damaged since its last start.
    pub damaged: bool,
    /// Its disk returns errors.
    pub failing: bool,
    /// Number of disk operations that had failed when it last began to start.
    pub failed_before: u64,
    /// Its disk is full.
    pub full: bool,
    /// Its disk completes no write before the first of these times, and is slow until the second.
    pub stalled_until_us: u64,
    pub slow_until_us: u64,
    /// It never starts again: it refuses to start.
    pub dead: bool,
    pub paused: u32,
    /// How many times it has restarted at another address for peers.
    pub moves: u8,
    /// The membership may not yet have its present address.
    pub is_elsewhere: bool,
    /// The listener for peers of its current or last life.
    pub bound: Option<Bound<A>>,
}

/// Planned damage to the log, as in `simulator`.
pub(crate) struct Rotting {
    pub at_write: u64,
    pub down_us: u64,
    pub path: String,
    pub offset: u64,
    pub mask: u8,
    pub found: Vec<u8>,
}

/// A running node.
pub(crate) struct Up<A: App> {
    pub life: Life,
    pub number: u64,
    pub handle: Handle<A::Machine>,
    pub inbox: Inbox,
    pub machine: NodeHandle,
    pub slot: Arc<Mutex<Slot>>,
    pub service: Option<Service<A::Request, A::Response>>,
    pub requests: Requests,
    /// The last index that the state machine has applied.
    pub applied: Index,
    /// The snapshots older than its log that it has offered to peers and may offer again.
    pub offered: Vec<LogId>,
}

/// Options of a run.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    /// Whether a timeline is recorded.
    pub record: bool,
    /// The run ends after at most this many events.
    pub events_max: u64,
}

/// The whole state of a run, behind one lock.
pub(crate) struct World<A: App> {
    pub plan: Plan,
    /// The id of the cluster that the nodes belong to.
    pub cluster: ClusterId,
    /// When the plan's time began, in simulated time: after the bootstrap.
    pub begun_us: u64,
    pub hosts: Vec<Host<A>>,
    pub network: Network,
    pub observer: Observer<A::Machine>,
    pub disks: Vec<Stream>,
    pub machines: Vec<Stream>,
    /// Draws for the network apart from loss and delay, per link.
    pub links: Vec<Stream>,
    /// The transfers of snapshots that are cut off.
    pub cuts: Cuts,
    /// The snapshots that nodes have finished.
    pub finished: Finished,
    pub calls: Stream,
    pub clocks: Stream,
    /// Draws which nodes restart at another address; none if they keep theirs in this run.
    pub moves: Option<Stream>,
    /// A node that starts has the present addresses of its peers in its configuration.
    pub has_lists: bool,
    pub marks: Marks,
    pub violation: Option<Violation>,
    /// Proposals that were reported as certainly not done.
    pub not_done: BTreeSet<LogId>,
    /// The recording for the page; empty unless it was requested.
    pub timeline: Timeline,
    /// Notified when the run must end early.
    pub ends: Arc<Notify>,
    /// The last event of the run, and its time, once it has ended.
    pub ended: Option<(u64, u64)>,
    /// The run ends after this many events.
    pub events_max: u64,
    pub trace: u64,
    pub events: u64,
    /// The time of the latest event.
    pub noted_us: u64,
    pub messages: u64,
    /// Messages go in streams, in order and without loss. Otherwise each one is delivered on its
    /// own.
    pub streams: bool,
    /// Nodes use the product's transport on simulated sockets; `streams` has no effect then.
    pub sockets: bool,
    /// The operator is about to declare other voters, or waits for them.
    pub declares_voters: bool,
    pub calm: bool,
    /// Clients must stop.
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
        let sockets = Stream::new(seed, Purpose::Network, 2_003).below(SOCKETS_ONE_IN) == 0;
        let mut moves = Stream::new(seed, Purpose::Network, 2_004);
        let has_moves = sockets && moves.below(MOVES_ONE_IN) == 0;
        let has_lists = has_moves && moves.below(LISTS_ONE_IN) == 0;
        World {
            cluster: CLUSTER,
            begun_us: 0,
            hosts: (0..nodes).map(host).collect(),
            network: Network::new(seed, nodes),
            observer: Observer::new(nodes, reference).with_delays(&plan.swarm),
            disks: (0..nodes).map(stream(Purpose::Disk)).collect(),
            machines: (0..nodes).map(stream(Purpose::Machine)).collect(),
            links: (0..nodes * nodes)
                .map(|l| Stream::new(seed, Purpose::Network, 1_000 + l))
                .collect(),
            cuts: Cuts::of(seed),
            finished: Finished::default(),
            calls: Stream::new(seed, Purpose::Network, 2_000),
            clocks: Stream::new(seed, Purpose::Network, 2_001),
            moves: has_moves.then_some(moves),
            has_lists,
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
            sockets,
            declares_voters: false,
            calm: false,
            over: false,
            armed: BTreeMap::new(),
            plan,
        }
    }

    /// Adds an event to the hash of the run.
    pub fn note(&mut self, what: u64, node: usize, detail: u64) {
        let word = what ^ (node as u64) << 8 ^ detail << 16 ^ now_us() << 32;
        self.trace = (self.trace.rotate_left(5) ^ word).wrapping_mul(0x9e37_79b9_7f4a_7c15);
        self.events += 1;
        self.noted_us = now_us();
        if self.events > self.events_max {
            self.ends();
        }
    }

    /// The timeline, set to the current time, if the run is recorded.
    pub fn shown(&mut self) -> Option<&mut Timeline> {
        if !self.timeline.is_on() {
            return None;
        }
        self.timeline.at(now_us(), self.events);
        Some(&mut self.timeline)
    }

    /// Records something that happened at a node.
    pub fn show(&mut self, node: usize, what: What) {
        if let Some(timeline) = self.shown() {
            timeline.add(node, what);
        }
    }

    /// Records something that happened to all nodes.
    pub fn show_to_all(&mut self, what: What) {
        if let Some(timeline) = self.shown() {
            timeline.add_to_all(what);
        }
    }

    /// Reports a broken promise. The first one ends the run.
    pub fn breaks(&mut self, violation: Violation) {
        if self.violation.is_none() {
            self.show_to_all(What::Violation(violation.check));
            self.violation = Some(violation);
            self.ends();
        }
    }

    /// Ends the run. Events between now and the actual stop do not count.
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

    /// Checks the core of a node whose life has not ended.
    pub fn look(&mut self, at: usize, node: &raft::RawNode) -> Result<(), Violation> {
        let applied = self.hosts[at].up.as_ref().map_or(Index(0), |up| up.applied);
        if let Some(timeline) = self.shown() {
            timeline.look(at, node, applied);
        }
        if let Some(up) = &mut self.hosts[at].up {
            up.offered = node.offered_snapshots();
        }
        self.pass_time();
        let World { hosts, observer, .. } = self;
        let disks: Vec<Observed<'_>> = hosts
            .iter()
            .map(|host| Observed { shadow: &host.shadow, forgot: host.rotten, incarnation: None })
            .collect();
        if observer.look(at, node, &disks)? {
            self.marks.hit("a leader was elected");
            self.note(3, at, node.term().0);
        }
        let status = self.hosts[at].up.as_ref().map(|up| up.handle.status());
        if let Some(status) = status
            && status.ready().is_ok()
            && status.raft.leader.is_none()
        {
            let detail = format!("node {at} is ready in {}, without a leader", status.raft.term);
            return violation(Check::ReadyNodeKnowsALeader, at, detail);
        }
        Ok(())
    }

    /// The priority of a leader; 0 if there is none.
    pub fn priority(&self, leader: Option<(Term, u64)>) -> u8 {
        leader.map_or(0, |(_, id)| self.plan.swarm.priority(id))
    }

    /// Checks that no change to other voters is still in progress.
    pub fn voters_are_set(&self) -> Result<(), Violation> {
        match self.declares_voters {
            true => {
                let detail = format!("{:?}", self.observer.committed_membership());
                violation(Check::DeclaredMembershipIsReachedInTheEnd, (), detail)
            }
            false => Ok(()),
        }
    }

    /// Passes the readings of all clocks to the observer: whenever a node is checked, and before a
    /// wall clock is changed.
    pub fn pass_time(&mut self) {
        let clocks: Vec<raft::Now> = self.hosts.iter().map(|host| host.clock.now()).collect();
        self.observer.time.pass(&clocks);
    }

    /// The running node, if it is in this life.
    pub fn runs(&mut self, node: usize, number: u64) -> Option<&mut Up<A>> {
        self.hosts[node].up.as_mut().filter(|up| up.number == number)
    }

    /// The present address of a node for peers.
    pub fn peer_address(&self, node: u64) -> SocketAddr {
        peer_address(node, self.hosts[node as usize].moves)
    }

    /// The present addresses of all nodes for peers.
    pub fn peer_addresses(&self) -> BTreeMap<NodeId, String> {
        let ids = 0..self.plan.nodes;
        ids.map(|id| (NodeId(id), self.peer_address(id).to_string())).collect()
    }

    pub fn link(&mut self, from: u64, to: u64) -> &mut Stream {
        let at = from * self.plan.nodes + to;
        &mut self.links[at as usize]
    }
}

fn member(id: u64) -> Member {
    Member {
        incarnation: Incarnation(INCARNATION + id),
        peer_address: peer_address(id, 0).to_string(),
        client_address: client_address(id),
    }
}

pub(crate) fn log_config(swarm: &Swarm) -> LogConfig {
    let mut config = LogConfig::default();
    config.segment_bytes = u64::from(swarm.segment_bytes);
    config.background = false;
    config.recycled_bytes_max = RECYCLED_SEGMENTS * u64::from(swarm.segment_bytes);
    if swarm.log_bytes > 0 {
        config.bytes_max = swarm.log_bytes.into();
    }
    config
}

impl<A: App> Host<A> {
    /// Number of disk operations that have failed since it last began to start. Any of them may
    /// have been the removal of a file.
    pub fn refused(&self) -> u64 {
        self.disk.failed_operations().saturating_sub(self.failed_before)
    }

    /// A machine whose disk has an empty log with this membership.
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
            needed: Needed::default(),
            incarnation,
            is_stranger: false,
            is_leaving: false,
            knows_its_removal: false,
            is_rejoining: false,
            wipes: 0,
            lives: 0,
            up: None,
            writes: 0,
            rotting: None,
            crash_due_us: None,
            rotten: false,
            damaged: false,
            failing: false,
            failed_before: 0,
            full: false,
            stalled_until_us: 0,
            slow_until_us: 0,
            dead: false,
            paused: 0,
            moves: 0,
            is_elsewhere: false,
            bound: None,
        }
    }
}
