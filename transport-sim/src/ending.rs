//! The phases of a run. When the faults stop, the cluster must recover and stay healthy, the copies
//! must agree, and nothing may be left behind.

use crate::app::App;
use crate::cluster::Cluster;
use crate::time::{self, now_us, sleep_us};
use crate::watch::bytes_of;
use crate::world::{Limits, World};
use driver::{Handle, ReadMode};
use madsim::runtime::Handle as Executor;
use raft::{Index, NodeId};
use simulator::checks::{Check, Violation, violation};
use simulator::plan::Plan;
use simulator::{Marks, Timeline, What};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

/// Number of events after which the faults stop, for runs with few messages: a single node sends
/// none.
const FAULTY_EVENTS: u64 = 50_000;
/// Number of messages after which the faults stop, even before `faults_until_us`.
const FAULTY_MESSAGES: u64 = 15_000;
/// Number of messages after which a run fails as a message storm.
const MESSAGES_MAX: u64 = 1_000_000;
/// The interval at which the end of a phase is checked.
const LOOK_US: u64 = 20_000;
/// The time limit for the cluster to recover after the faults, in longest election timeouts.
const CONVERGE_TIMEOUTS: u64 = 40;

/// The longest time that a slow disk needs for its backlog when the faults stop.
const BACKLOG_US: u64 = 20_000_000;
/// The longest time until a connection that died silently is detected and made again.
const DIALLING_US: u64 = 2_500_000;
/// After recovery the leader must not change for this many of the longest election timeouts.
const QUIET_TIMEOUTS: u64 = 10;
/// The time limit for clients to finish their open operations.
const CLIENTS_END_US: u64 = 120_000_000;
/// The time limit, after the last commit, for all nodes to apply everything.
const SETTLE_US: u64 = 10_000_000;
/// The limit in all, even if entries are still being committed.
const SETTLE_MOST_US: u64 = 600_000_000;
/// The time limit for a node to shut down.
const SHUTDOWN_US: u64 = 10_000_000;
/// The longest time that a task may outlive its node: a snapshot transfer to a peer that does not
/// answer.
const LINGER_US: u64 = 70_000_000;

/// The check that a panic breaks.
const PANICS: Check = Check::NothingPanics;

/// The result of a run.
#[derive(Clone, Debug, Default)]
pub struct Run {
    /// The promise that was broken, if one was.
    pub violation: Option<Violation>,
    /// Number of messages between nodes.
    pub messages: u64,
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

/// Runs a plan to its end or to the first broken promise, on a thread of its own.
pub fn simulate<A: App>(plan: &Plan, app: A) -> Run {
    simulate_for(plan, app, Limits { record: false, events_max: u64::MAX })
}

/// Runs a plan with options: whether to record it, and the maximum number of events. Recording does
/// not change the run.
pub fn simulate_for<A: App>(plan: &Plan, app: A, limits: Limits) -> Run {
    let (plan, seed) = (plan.clone(), plan.seed);
    let running = Arc::new(Mutex::new(None));
    let known = running.clone();
    let known = move |cluster| *known.lock().unwrap_or_else(PoisonError::into_inner) = cluster;
    let run = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
        time::run(seed, move || async move {
            let cluster = Cluster::new(&plan, app, limits);
            known(Some(cluster.clone()));
            let run = cluster.run().await;
            known(None);
            run
        })
    }));
    run.unwrap_or_else(|panic| {
        let left: Option<Cluster<A>> =
            running.lock().unwrap_or_else(PoisonError::into_inner).take();
        let run = left.map(|cluster| {
            let run = cluster.world().panicked();
            // Its tasks refer to one another and cannot be dropped without the runtime, which is
            // gone.
            std::mem::forget(cluster);
            run
        });
        let violation = Some(Violation::new(PANICS, (), said(panic.as_ref())));
        Run { violation, ..run.unwrap_or_default() }
    })
}

impl<A: App> World<A> {
    /// Ends the run if it has not ended, and returns its result.
    fn comes_to(&mut self) -> Run {
        let (events, time_us) = self.ended.unwrap_or_default();
        Run {
            violation: self.violation.clone(),
            messages: self.messages,
            events,
            time_us,
            trace: self.trace,
            marks: self.marks.clone(),
            timeline: std::mem::take(&mut self.timeline),
        }
    }

    /// The result after a panic. The runtime is gone then, so the run ends at the time of the
    /// latest event.
    fn panicked(&mut self) -> Run {
        self.timeline.add_to_all(What::Violation(PANICS));
        self.ends_at(self.noted_us);
        self.comes_to()
    }
}

impl From<Run> for simulator::Run {
    fn from(run: Run) -> Self {
        let Run { violation, events, time_us, trace, marks, timeline, messages: _ } = run;
        simulator::Run { violation, events, time_us, trace, marks, timeline }
    }
}

fn said(panic: &(dyn std::any::Any + Send)) -> String {
    let text = panic.downcast_ref::<String>().cloned();
    text.or_else(|| panic.downcast_ref::<&str>().map(|text| (*text).to_owned())).unwrap_or_default()
}

impl<A: App> Cluster<A> {
    async fn run(self) -> Run {
        let phases = async {
            self.found().await?;
            let nodes = self.plan().nodes as usize;
            (0..nodes).for_each(|node| self.start(node));
            self.shared.outside.spawn(self.clone().strike_all());
            self.phases().await
        };
        let broken = tokio::select! {
            biased;
            () = self.shared.ends.notified() => None,
            ended = phases => ended.err(),
        };
        self.broken(broken);
        let run = {
            let mut world = self.world();
            world.ends();
            world.comes_to()
        };
        self.let_go().await;
        run
    }

    /// Ends everything that still runs. Tasks that refer to one another through the clock would
    /// otherwise stay in memory, and a process runs thousands of seeds.
    async fn let_go(&self) {
        let executor = Executor::current();
        executor.kill(self.shared.outside.id());
        let ups: Vec<_> = self.world().hosts.iter_mut().filter_map(|host| host.up.take()).collect();
        ups.iter().for_each(|up| executor.kill(up.machine.id()));
        // Not under the lock: destructors may take it.
        drop(ups);
        sleep_us(1).await;
    }

    async fn phases(&self) -> Result<(), Violation> {
        let plan = self.plan();
        let mut clients = Vec::new();
        for number in 0..u64::from(plan.swarm.clients) {
            let client = self.shared.app.clone().client(self.clone(), number);
            clients.push(self.shared.outside.spawn(client));
        }
        let until_us = self.world().begun_us + u64::from(plan.swarm.faults_until_us);
        let within = || {
            let world = self.world();
            world.messages < FAULTY_MESSAGES && world.events < FAULTY_EVENTS
        };
        while now_us() < until_us && within() {
            sleep_us(LOOK_US).await;
        }
        self.calm_down();
        let able = self.converge(&plan).await?;
        if able {
            self.quiet(&plan).await?;
        }
        self.world().over = true;
        for client in clients {
            let ended = tokio::select! {
                biased;
                ended = client => ended.is_ok(),
                () = sleep_us(CLIENTS_END_US) => false,
            };
            if !ended {
                return violation(
                    Check::ClientsGetAnAnswerInTheEnd,
                    (),
                    "one waits still".to_owned(),
                );
            }
        }
        if able {
            self.settle().await?;
            self.nothing_is_left().await?;
        }
        self.shared.app.clone().verdict(self.clone()).await?;
        self.shut_down().await
    }

    fn timeout_us(&self) -> u64 {
        let world = self.world();
        let swarm = &world.plan.swarm;
        2 * u64::from(swarm.election_ticks) * u64::from(swarm.tick_us)
    }

    fn calm_down(&self) {
        let mut world = self.world();
        world.calm = true;
        world.armed.clear();
        world.network.lift_all();
        world.note(11, 0, 0);
        world.show_to_all(What::Calm);
        let nodes = world.hosts.len();
        for host in &mut world.hosts {
            host.rotting = None;
            host.crash_due_us = None;
            host.disk.set_capacity(None);
            host.disk.clear_faults();
            host.full = false;
            host.failing = false;
            host.clock.set_rate(1_000);
            host.paused = host.paused.min(1);
        }
        drop(world);
        for node in 0..nodes {
            let number = self.world().hosts[node].lives;
            self.resume(node, number);
            self.start(node);
        }
    }

    /// Whether a quorum can serve: nodes that are dead or wiped do not count.
    fn is_able(&self) -> bool {
        let world = self.world();
        let hosts = world.hosts.iter().enumerate();
        let able = hosts.filter(|(_, host)| !host.dead && !host.is_stranger).count();
        able > world.hosts.len() / 2
    }

    /// The nodes that must serve every request when all is quiet: none if no quorum is left.
    pub fn must_serve(&self) -> Vec<NodeId> {
        match self.is_able() {
            true => self.healthy().into_iter().map(|(id, _)| NodeId(id as u64)).collect(),
            false => Vec::new(),
        }
    }

    pub(crate) fn healthy(&self) -> Vec<(usize, Handle<A::Machine>)> {
        let world = self.world();
        let hosts = world.hosts.iter().enumerate();
        hosts
            .filter(|(_, host)| !host.is_stranger)
            .filter_map(|(id, host)| host.up.as_ref().map(|up| (id, up.handle.clone())))
            .collect()
    }

    /// Waits until one leader serves and all nodes follow it. Returns whether there is a quorum.
    async fn converge(&self, plan: &Plan) -> Result<bool, Violation> {
        // The longest time that anything is still late or down. Stalls have ended.
        let late_us = DIALLING_US + u64::from(plan.swarm.tail_us);
        let least_us = now_us() + late_us + 2 * self.timeout_us();
        let most_us = now_us() + CONVERGE_TIMEOUTS * self.timeout_us() + 2 * late_us + BACKLOG_US;
        loop {
            sleep_us(LOOK_US).await;
            self.no_storm()?;
            if now_us() < least_us {
                continue;
            }
            if !self.is_able() {
                return Ok(false);
            }
            match self.not_converged() {
                None => {
                    self.mark("the cluster came back");
                    return Ok(true);
                }
                Some(broken) if now_us() >= most_us => return Err(broken),
                Some(_) => {}
            }
        }
    }

    fn no_storm(&self) -> Result<(), Violation> {
        let world = self.world();
        let (messages, plan) = (world.messages, &world.plan);
        // A long run with short ticks has many heartbeats, and as many replies.
        let round_us = u64::from(plan.swarm.tick_us) * u64::from(plan.swarm.heartbeat_ticks);
        let heartbeats = now_us() / round_us.max(1) * plan.nodes;
        match messages > MESSAGES_MAX + 4 * heartbeats {
            true => violation(Check::NoStormOfMessages, (), format!("{messages} messages")),
            false => Ok(()),
        }
    }

    fn not_converged(&self) -> Option<Violation> {
        let healthy = self.healthy();
        let serves = |handle: &Handle<A::Machine>| handle.status().serving();
        let leaders: Vec<usize> =
            healthy.iter().filter(|(_, handle)| serves(handle)).map(|(id, _)| *id).collect();
        if leaders.len() != 1 {
            let detail = format!("nodes {leaders:?} serve, long after the faults have stopped");
            return Some(Violation::new(
                Check::OneLeaderServesInTheEnd,
                leaders.as_slice(),
                detail,
            ));
        }
        let committed = self.world().observer.committed_index();
        for (id, handle) in healthy {
            let status = handle.status();
            if status.raft.lost.is_some() {
                let detail = format!("node {id}");
                return Some(Violation::new(Check::WhatWasLostIsRepairedInTheEnd, id, detail));
            }
            let behind = committed.0.saturating_sub(status.raft.applied.0);
            if behind > 200 {
                let detail = format!("node {id} is {behind} entries behind");
                return Some(Violation::new(Check::EveryNodeCatchesUpInTheEnd, id, detail));
            }
        }
        None
    }

    async fn quiet(&self, _plan: &Plan) -> Result<(), Violation> {
        let leader = self.world().observer.latest_leader();
        let until_us = now_us() + QUIET_TIMEOUTS * self.timeout_us();
        while now_us() < until_us {
            sleep_us(LOOK_US).await;
            self.no_storm()?;
            self.few_wait()?;
            let now = self.world().observer.latest_leader();
            if now != leader {
                let detail = format!("{leader:?}, then {now:?}");
                return violation(Check::NoLeaderChangesWithoutAFault, (), detail);
            }
        }
        if self.world().observer.elections() > 3 {
            self.mark("leaders changed");
        }
        Ok(())
    }

    /// Waits, after the last request, until all nodes have the same state.
    async fn settle(&self) -> Result<(), Violation> {
        let mut until_us = now_us() + SETTLE_US;
        let last_us = now_us() + SETTLE_MOST_US;
        let mut before = Index(0);
        loop {
            sleep_us(LOOK_US).await;
            self.no_storm()?;
            let committed = self.world().observer.committed_index();
            // Commands of clients that gave up may still enter the log, as long as a slow disk
            // takes.
            if committed > before {
                (before, until_us) = (committed, last_us.min(now_us() + SETTLE_US));
            }
            let ends =
                self.healthy().into_iter().map(|(_, handle)| handle.status().raft.last.index);
            let is_all_committed = ends.max() == Some(committed);
            let applied: Vec<Index> = {
                let world = self.world();
                let hosts = world.hosts.iter().enumerate();
                let ups = hosts.filter(|(_, host)| !host.is_stranger);
                ups.filter_map(|(_, host)| host.up.as_ref().map(|up| up.applied)).collect()
            };
            if is_all_committed && applied.iter().all(|index| *index == committed) {
                break;
            }
            if now_us() >= until_us {
                let detail = format!("{applied:?} of {committed}");
                return violation(Check::EveryNodeCatchesUpInTheEnd, committed, detail);
            }
        }
        let mut states = Vec::new();
        for (id, handle) in self.healthy() {
            let mode = ReadMode::Stale { max_age: Duration::MAX };
            match handle.freeze(mode).await {
                Ok(frozen) => states.push((id, bytes_of(&frozen))),
                Err(error) => {
                    return violation(
                        Check::EveryNodeCanBeReadInTheEnd,
                        id,
                        format!("node {id}: {error}"),
                    );
                }
            }
        }
        if let Some(pair) = states.windows(2).find(|pair| pair[0].1 != pair[1].1) {
            let detail = format!("nodes {} and {}", pair[0].0, pair[1].0);
            return violation(Check::EqualLogsMakeEqualStates, [pair[0].0, pair[1].0], detail);
        }
        self.world().not_done_stays_so()
    }

    /// Checks that every node shuts down on request and leaves no task behind.
    async fn shut_down(&self) -> Result<(), Violation> {
        let ups: Vec<_> = {
            let world = self.world();
            let hosts = world.hosts.iter().enumerate();
            hosts.filter_map(|(id, host)| Some((id, host.up.as_ref()?.handle.clone()))).collect()
        };
        for (id, handle) in ups {
            let ended = tokio::select! {
                biased;
                () = handle.shutdown() => true,
                () = sleep_us(SHUTDOWN_US) => false,
            };
            if !ended {
                return violation(Check::NodeEndsWhenItIsToldTo, id, format!("node {id}"));
            }
        }
        let names: Vec<String> = {
            let mut world = self.world();
            let numbers: Vec<u64> = world.hosts.iter().map(|host| host.lives).collect();
            // Drops everything that the node holds.
            for node in 0..numbers.len() {
                if world.hosts[node].up.take().is_some() {
                    world.show(node, What::Down);
                }
            }
            numbers.iter().enumerate().map(|(id, number)| format!("{id}.{number}")).collect()
        };
        let until_us = now_us() + LINGER_US;
        loop {
            let tasks = Executor::current().metrics().num_tasks_by_node();
            let left: Vec<_> = tasks
                .into_iter()
                .filter(|(name, tasks)| names.contains(name) && *tasks > 0)
                .collect();
            if left.is_empty() {
                break;
            }
            if now_us() >= until_us {
                return violation(Check::NothingIsLeftOfANode, (), format!("tasks: {left:?}"));
            }
            sleep_us(LOOK_US * 10).await;
        }
        let world = self.world();
        (0..world.hosts.len()).try_for_each(|node| world.audit(node))
    }
}
