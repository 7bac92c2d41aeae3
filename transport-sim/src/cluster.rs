//! A simulated cluster: the handle for clients and services, and how nodes start and stop.

use crate::app::{App, Started};
use crate::call::Requests;
use crate::disk::{Life, SimDisk};
use crate::link::SimTransport;
use crate::store::{self, Slot};
use crate::time::{now_us, sleep_us};
use crate::watch::Watch;
use crate::world::{Limits, Rotting, Up, World, log_config};
use driver::{DriverConfig, Handle, StopReason};
use madsim::runtime::{Handle as Executor, NodeHandle};
use quorate::assembly::{Assembled, Parts};
use raft::{Config, Incarnation, Index, LogId, NodeId};
use simulator::checks::{Check, Shadow, Violation, read, violation};
use simulator::ending::{CALM_THINK_US, Ending};
use simulator::faults::{POWER_FAILS_TOO_PPM, ROT_WRITES, START_RETRY_US};
use simulator::plan::{Plan, Swarm};
use simulator::random::{Purpose, Stream};
use std::future::Future;
use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll};
use std::time::Duration;
use storage::{Directory, OpenError, Snapshots};
use tokio::sync::Notify;

/// The product's shortest election timeout: 30 ticks of 10 ms.
pub(crate) const PRODUCT_ELECTION_US: u64 = 300_000;

/// A bound of the log is at least this many times the largest command. A leader whose log is full
/// steps down: see [`Ending`].
const LOG_COMMANDS: usize = 8;

/// A simulated cluster; a clone is another handle to it.
pub struct Cluster<A: App> {
    pub(crate) shared: Arc<Shared<A>>,
}

pub(crate) struct Shared<A: App> {
    pub app: Arc<A>,
    world: Mutex<World<A>>,
    /// Notified when the run must end early.
    pub ends: Arc<Notify>,
    /// The executor node for all tasks that belong to no node.
    pub outside: NodeHandle,
}

impl<A: App> Clone for Cluster<A> {
    fn clone(&self) -> Self {
        Cluster { shared: self.shared.clone() }
    }
}

impl<A: App> Cluster<A> {
    pub(crate) fn new(plan: &Plan, app: A, limits: Limits) -> Self {
        let (reference, _) = app.boot();
        let mut plan = plan.clone();
        if plan.swarm.log_bytes > 0 {
            let least = LOG_COMMANDS * app.command_bytes_max(&plan);
            let least = u32::try_from(least).unwrap_or(u32::MAX);
            plan.swarm.log_bytes = plan.swarm.log_bytes.max(least);
        }
        let world = World::new(plan, reference, limits);
        let ends = world.ends.clone();
        let outside = Executor::current().create_node().name("outside").build();
        let world = Mutex::new(world);
        let shared = Shared { app: Arc::new(app), world, ends, outside };
        Cluster { shared: Arc::new(shared) }
    }

    pub(crate) fn world(&self) -> MutexGuard<'_, World<A>> {
        self.shared.world.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A copy of the plan of this run.
    pub fn plan(&self) -> Plan {
        self.world().plan.clone()
    }

    /// Scales a wait of the product, which goes with an election timeout of
    /// [`PRODUCT_ELECTION_US`]. With shorter elections all other waits are shorter too. Otherwise a
    /// node that needs many election timeouts to reconnect would mostly be alone.
    pub(crate) fn in_proportion(&self, product_us: u64) -> u64 {
        let election_us = self.world().plan.election_us().min(PRODUCT_ELECTION_US);
        (product_us * election_us / PRODUCT_ELECTION_US).max(1)
    }

    /// Whether the faults are over.
    pub fn is_calm(&self) -> bool {
        self.world().calm
    }

    /// A pause between two operations of a client. Returns false when the client must stop.
    pub async fn think(&self) -> bool {
        let think_us = {
            let world = self.world();
            let think_us = 1 + u64::from(world.plan.swarm.think_us);
            let calm_us = CALM_THINK_US * u64::from(world.plan.swarm.clients);
            if world.calm { think_us.max(calm_us) } else { think_us }
        };
        sleep_us(think_us).await;
        !self.world().over
    }

    /// Counts a noteworthy event, see [`simulator::Marks`].
    pub fn mark(&self, name: &'static str) {
        self.world().marks.hit(name);
    }

    /// Adds an event to the hash of the run: a number for the kind, the node or client, and a
    /// detail.
    pub fn note(&self, what: u64, who: u64, detail: u64) {
        self.world().note(64 + what, who as usize, detail);
    }

    /// Reports a broken promise, if there is one. The first one ends the run.
    pub fn broken(&self, violation: Option<Violation>) {
        if let Some(violation) = violation {
            self.world().breaks(violation);
        }
    }

    /// The nodes that must serve every request when all is quiet: none if no quorum is left.
    pub fn must_serve(&self) -> Vec<NodeId> {
        let is_able = self.world().is_able();
        match is_able {
            true => self.healthy().into_iter().map(|(id, _)| NodeId(id as u64)).collect(),
            false => Vec::new(),
        }
    }

    pub(crate) fn healthy(&self) -> Vec<(usize, Handle<A::Machine>)> {
        self.running(|is_stranger| !is_stranger)
    }

    /// The handle of the node that leads and serves. It may be one that was just added again.
    pub(crate) fn leader(&self) -> Option<Handle<A::Machine>> {
        let all = self.running(|_| true).into_iter();
        all.map(|(_, handle)| handle).find(|handle| handle.status().serving())
    }

    fn running(&self, wanted: impl Fn(bool) -> bool) -> Vec<(usize, Handle<A::Machine>)> {
        let world = self.world();
        let hosts = world.hosts.iter().enumerate();
        hosts
            .filter(|(_, host)| wanted(host.is_stranger))
            .filter_map(|(id, host)| host.up.as_ref().map(|up| (id, up.handle.clone())))
            .collect()
    }

    // Starting a node.

    /// Starts a node from its disk, unless it runs or is dead.
    pub(crate) fn start(&self, node: usize) {
        match self.try_start(node) {
            Ok(()) => {}
            Err(violation) => self.broken(Some(violation)),
        }
    }

    fn try_start(&self, node: usize) -> Result<(), Violation> {
        let mut guard = self.world();
        let world = &mut *guard;
        let host = &mut world.hosts[node];
        if host.up.is_some() || host.dead || world.over {
            return Ok(());
        }
        host.failed_before = host.disk.failed_operations();
        let swarm = world.plan.swarm.clone();
        let life = Life::default();
        let shared = Arc::downgrade(&self.shared);
        let watcher = move |change, path: &str| {
            if let Some(shared) = shared.upgrade() {
                Cluster { shared }.name_changed(node, change, path);
            }
        };
        let unwatched = SimDisk::new(host.disk.clone(), life.clone());
        let disk = unwatched.clone().watched(watcher);
        let opened =
            Directory::open(disk.clone(), log_config(&swarm)).and_then(|(directory, _)| {
                let failed = |source| OpenError::Io { path: "snapshots".to_owned(), source };
                let snapshots = Snapshots::new(disk).map_err(failed)?;
                let Directory::Member(mut member) = directory else { return Ok((None, snapshots)) };
                let kept = member.restored().clone();
                // It may remove snapshots. The watcher needs the world, which is locked here.
                let case = member.check_base(&Snapshots::new(unwatched).map_err(failed)?);
                let case = case.map_err(|error| failed(std::io::Error::other(error)))?;
                Ok((Some((member, kept, case)), snapshots))
            });
        let (begun, snapshots) = match opened {
            Ok(opened) => opened,
            // The disk still fails: the operator sees the error and starts the node again.
            Err(_) if host.failing || host.full => {
                world.marks.hit("a node did not start from a failing disk");
                host.disk.clear_faults();
                host.failing = false;
                match world.disks[node].chance(POWER_FAILS_TOO_PPM) {
                    true => world.lose_unsynced(node),
                    false => host.disk.kill(),
                }
                self.start_after(node, START_RETRY_US);
                return Ok(());
            }
            // After damage the only start-up error allowed is `LogGone`. Damage to a part of the
            // log must not prevent a start.
            Err(OpenError::LogGone) if host.damaged => {
                host.dead = true;
                world.marks.hit("a node noticed a damaged disk and stopped");
                return Ok(());
            }
            Err(error) => {
                return violation(Check::NodeStartsAgain, node, format!("node {node}: {error}"));
            }
        };
        let Some((member, kept, case)) = begun else {
            if host.damaged {
                host.dead = true;
                return Ok(());
            }
            return violation(
                Check::RecoveryIsExact,
                node,
                format!("node {node}: nothing is left"),
            );
        };
        let restored = member.restored().clone();
        let meant = host.shadow.base.last;
        let host = &mut world.hosts[node];
        let may_lose = (host.damaged, false);
        host.shadow.recovers(node, host.maybe.as_ref(), may_lose, &kept)?;
        let lost_base = host.damaged && kept.snapshot.last != meant;
        if let Some(case) = case {
            // Damage has undone a move of the base: the snapshot at the previous base is gone.
            if !lost_base {
                return violation(
                    Check::SnapshotThatTheLogBeginsAfterIsThere,
                    (node, meant),
                    format!("node {node}: {case}"),
                );
            }
            let last = restored.entries.last().map_or(restored.snapshot.last, |entry| entry.id);
            host.rotten |= last < host.shadow.last();
            host.shadow = Shadow::new(&restored);
            world.marks.hit("a log went on from another snapshot");
        }
        let host = &mut world.hosts[node];
        host.lives += 1;
        host.maybe = None;
        host.damaged = false;
        host.paused = 0;
        let number = host.lives;
        let (incarnation, clock) = (host.incarnation, host.clock.clone());
        let seed = Stream::new(world.plan.seed, Purpose::Node, node as u64).draw();
        if restored.hard_state.lost.is_some() {
            world.marks.hit("a node knew what it had lost");
        }
        world.note(1, node, number);
        drop(guard);

        let machine = Executor::current().create_node().name(format!("{node}.{number}")).build();
        let raft = config(node as u64, &swarm, incarnation, number, seed ^ number << 8);
        let tick = Duration::from_micros(u64::from(swarm.tick_us));
        let limits = queues(swarm.queues_max);
        let mut config = DriverConfig::new(raft);
        (config.tick, config.limits) = (tick, limits);
        let (state, boot) = self.shared.app.boot();
        let parts = Parts {
            machine: state,
            member,
            snapshots,
            clock: clock.clone(),
            config,
            messages_max: (swarm.queues_max > 0).then_some(swarm.queues_max as usize),
            inspect: Arc::new(Watch { cluster: self.clone(), node, number }),
        };
        let assembled = parts.assemble(|inbox| {
            Arc::new(SimTransport::new(
                self.clone(),
                node as u64,
                incarnation,
                life.clone(),
                (machine.clone(), clock.clone()),
                inbox,
            ))
        });
        let Assembled { driver, log, transport, inbox } = assembled
            .map_err(|error| Violation::new(Check::NodeStartsAgain, node, error.to_string()))?;
        let log_bytes = log.usage().bytes;
        let slot = Arc::new(Mutex::new(Slot { log: Some(log), out: None }));
        let handle = driver.handle.clone();
        transport.listen(handle.clone());
        drop(transport);
        let mut world = self.world();
        let host = &mut world.hosts[node];
        host.needed.starts(log_bytes, host.shadow.last().index);
        host.up = Some(Up {
            life,
            number,
            handle: handle.clone(),
            inbox,
            machine: machine.clone(),
            slot: slot.clone(),
            service: None,
            requests: Requests::default(),
            applied: Index(0),
            offered: Vec::new(),
        });
        drop(world);
        let id = NodeId(node as u64);
        let service = boot(Started { id, handle: handle.clone(), clock, cluster: self.clone() });
        if let Some(up) = self.world().runs(node, number) {
            up.service = Some(service);
        }
        machine.spawn(driver.core);
        machine.spawn(Slow { cluster: self.clone(), node, part: driver.machine, gate: None });
        machine.spawn(store::run(self.clone(), node, number, driver.store, slot));
        let cluster = self.clone();
        machine.spawn(driver.snapshots.run(move || cluster.writing_a_snapshot(node)));
        let cluster = self.clone();
        // Runs outside of the node's machine, so that it outlives the node.
        self.shared.outside.spawn(async move {
            let reason = handle.stopped().await;
            cluster.has_stopped(node, number, &reason);
        });
        Ok(())
    }

    fn writing_a_snapshot(&self, node: usize) -> driver::Sleep {
        let pause_us = {
            let mut world = self.world();
            let most_us = if world.calm { 1_000 } else { 50_000 };
            1 + world.machines[node].below(most_us)
        };
        Box::pin(sleep_us(pause_us))
    }

    pub(crate) fn start_after(&self, node: usize, after_us: u64) {
        let cluster = self.clone();
        self.shared.outside.spawn(async move {
            sleep_us(after_us).await;
            cluster.start(node);
        });
    }

    /// A node has stopped, by itself or on request.
    fn has_stopped(&self, node: usize, number: u64, reason: &StopReason) {
        let mut world = self.world();
        if world.runs(node, number).is_none() {
            return;
        }
        match reason {
            StopReason::Shutdown => return,
            StopReason::Store(_) | StopReason::SnapshotUnreadable(_)
                if world.hosts[node].failing => {}
            // Nobody starts it again, unless it is being added again.
            StopReason::NotAMember if world.hosts[node].is_stranger => {
                world.hosts[node].dead = !world.sockets;
                world.hosts[node].knows_its_removal = true;
                world.marks.hit("a node that is no member stopped");
            }
            reason => {
                let detail = format!("node {node}: {reason}");
                drop(world);
                self.broken(Some(Violation::new(Check::NodeGoesOn, node, detail)));
                return;
            }
        }
        // The operator restarts the node, and here the machine as well.
        let down_us = 1_000 + world.disks[node].below(200_000);
        drop(world);
        self.power_fails(node, down_us);
    }

    /// The state in a snapshot; `None` if the snapshot cannot be read.
    pub(crate) fn snapshot_bytes(&self, node: usize, id: LogId) -> Option<Vec<u8>> {
        let disk = self.world().hosts[node].disk.fork();
        read(&Snapshots::new(disk).ok()?, id).ok()
    }

    /// Plans damage to a byte of the log.
    pub(crate) fn arm_rot(&self, node: usize, down_us: u64) {
        let mut guard = self.world();
        let world = &mut *guard;
        let host = &mut world.hosts[node];
        if host.up.is_none() || host.rotting.is_some() {
            return;
        }
        let draw = &mut world.disks[node];
        let paths: Vec<String> =
            host.disk.paths().into_iter().filter(|path| path.starts_with("log/")).collect();
        if paths.is_empty() {
            return;
        }
        let path = paths[draw.below(paths.len() as u64) as usize].clone();
        let Some(content) = host.disk.read(&path) else { return };
        let written = content.iter().rposition(|byte| *byte != 0).unwrap_or(0) as u64 + 1;
        let (offset, mask) = (draw.below(written), 1 << draw.below(8));
        let found = content[..written as usize].to_vec();
        let at_write = host.writes + ROT_WRITES;
        host.rotting = Some(Rotting { at_write, down_us, path, offset, mask, found });
    }

    /// The simulated time, in microseconds.
    pub fn now_us(&self) -> u64 {
        now_us()
    }
}

fn config(id: u64, swarm: &Swarm, incarnation: Incarnation, life: u64, seed: u64) -> Config {
    let mut config = Config::new(NodeId(id), incarnation, life);
    config.seed = seed;
    config.priority = swarm.priority(id);
    config.heartbeat_ticks = swarm.heartbeat_ticks;
    config.election_ticks = swarm.election_ticks;
    config.append_bytes_max = swarm.append_bytes as usize;
    config.write_bytes_max = swarm.write_bytes as usize;
    config.apply_bytes_max = swarm.apply_bytes as usize;
    config.inflight_messages_max = swarm.inflight as usize;
    if swarm.inflight_bytes > 0 {
        config.inflight_bytes_max = swarm.inflight_bytes as usize;
    }
    if swarm.log_bytes > 0 {
        config.uncommitted_bytes_max =
            config.uncommitted_bytes_max.min(swarm.uncommitted_bytes_of_a_bounded_log());
        config.uncommitted_entries_max = swarm.uncommitted_entries_of_a_bounded_log();
    }
    if let Some(writes) = swarm.writes_of_a_bounded_log() {
        config.snapshot_log_writes = writes;
    }
    config.snapshot_log_bytes = swarm.snapshot_bytes as usize;
    config.snapshot_log_bytes_max = swarm.snapshot_bytes_max as usize;
    config.retained_bytes = swarm.retained_bytes as usize;
    config.catch_up_bytes_max = swarm.catch_up_bytes as usize;
    config.lease = swarm.lease(&mut Stream::new(seed, Purpose::Lease, life));
    if swarm.clock_ticks > 0 {
        config.clock_ticks = swarm.clock_ticks;
    }
    config
}

/// The capacities of a node's queues; 0: the defaults.
fn queues(queues_max: u32) -> driver::Limits {
    let mut limits = driver::Limits::default();
    if queues_max > 0 {
        let max = queues_max as usize;
        limits.calls_max = max;
        limits.machine_calls_max = max;
        limits.snapshot_orders_max = max;
        limits.reads_waiting_max = max;
        limits.proposals_max = max;
        limits.waiters_max = max;
    }
    limits
}

/// A slow part of a node: each time it becomes ready, it waits before it runs.
struct Slow<A: App> {
    cluster: Cluster<A>,
    node: usize,
    part: driver::DriverTask,
    gate: Option<crate::time::Pause>,
}

impl<A: App> Future for Slow<A> {
    type Output = ();

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<()> {
        let this = &mut *self;
        if this.gate.is_none() {
            let mut world = this.cluster.world();
            let most_us = 2 * u64::from(world.plan.swarm.apply_us);
            let pause_us = match world.calm || most_us == 0 {
                true => 0,
                false => world.machines[this.node].below(most_us + 1),
            };
            drop(world);
            if pause_us > 0 {
                this.gate = Some(sleep_us(pause_us));
            }
        }
        if let Some(gate) = &mut this.gate {
            std::task::ready!(Pin::new(gate).poll(context));
            this.gate = None;
        }
        this.part.as_mut().poll(context)
    }
}
