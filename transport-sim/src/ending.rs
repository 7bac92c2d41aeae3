//! The phases of a run, and how each one waits. What must hold in each is in [`simulator::ending`],
//! and here what only whole nodes have: clients, and reads of the state.

use crate::app::App;
use crate::cluster::Cluster;
use crate::time::{now_us, sleep_us};
use crate::watch::bytes_of;
use crate::world::{self, World};
use driver::{Consistency, Handle};
use raft::Index;
use simulator::checks::{Check, Observer, Violation, violation};
use simulator::ending::{
    CONVERGE_TIMEOUTS, Ending, FAULTY_EVENTS, QUIET_TIMEOUTS, Seen, Up, states_are_equal,
};
use simulator::plan::Plan;
use std::time::Duration;

/// Number of messages after which the faults stop, even before `faults_until_us`.
const FAULTY_MESSAGES: u64 = 15_000;
/// Number of messages after which a run fails as a message storm.
const MESSAGES_MAX: u64 = 1_000_000;
/// The interval at which the end of a phase is checked.
const LOOK_US: u64 = 20_000;
/// The longest time that a slow disk needs for its backlog when the faults stop.
const BACKLOG_US: u64 = 20_000_000;
/// The longest time until a connection that died silently is detected and made again.
const DIALLING_US: u64 = 2_500_000;
/// The product's limit on the silence of the receiver of a snapshot.
const TRANSFER_US: u64 = 30_000_000;
/// The time limit for clients to finish their open operations.
const CLIENTS_END_US: u64 = 120_000_000;
/// The time limit, after the last commit, for all nodes to apply everything.
const SETTLE_US: u64 = 10_000_000;
/// After many transfers of a snapshot have failed, the next one follows after this many election
/// timeouts.
const OFFER_ELECTIONS: u64 = 64;
/// The limit in all, even if entries are still being committed.
const SETTLE_MOST_US: u64 = 600_000_000;

impl<A: App> Ending for World<A> {
    type Machine = A::Machine;

    fn plan(&self) -> &Plan {
        &self.plan
    }

    fn observer(&self) -> &Observer<A::Machine> {
        &self.observer
    }

    fn nodes(&self) -> Vec<Seen> {
        let up = |up: &world::Up<A>| {
            let status = up.handle.status();
            let (serves, has_lost) = (status.serving(), status.raft.lost.is_some());
            let hands_over = status.raft.transferring.is_some();
            Up { serves, hands_over, has_lost, applied: up.applied, last: status.raft.last.index }
        };
        let seen = self.hosts.iter().map(|host| Seen {
            is_stranger: host.is_stranger,
            is_dead: host.dead,
            is_paused: host.paused > 0,
            up: host.up.as_ref().map(up),
            ..Seen::default()
        });
        seen.collect()
    }
}

impl<A: App> Cluster<A> {
    pub(crate) async fn phases(&self) -> Result<(), Violation> {
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
            self.stay_quiet().await?;
        }
        self.world().over = true;
        for client in clients {
            let ended = tokio::select! {
                biased;
                ended = client => ended.is_ok(),
                () = sleep_us(CLIENTS_END_US) => false,
            };
            if !ended {
                return violation(Check::ClientsGetAnAnswerInTheEnd, (), "one waits still");
            }
        }
        if able {
            self.settle().await?;
            self.nothing_is_left().await?;
        }
        self.shared.app.clone().verdict(self.clone()).await?;
        self.shut_down().await
    }

    /// Waits until one leader serves and all nodes follow it. Returns whether there is a quorum.
    async fn converge(&self, plan: &Plan) -> Result<bool, Violation> {
        // The longest time that anything is still late or down. Stalls have ended.
        let late_us = DIALLING_US + u64::from(plan.swarm.tail_us);
        let timeout_us = self.world().timeout_us();
        let least_us = now_us() + late_us + 2 * timeout_us;
        let most_us = now_us()
            + CONVERGE_TIMEOUTS * timeout_us
            + 2 * late_us
            + BACKLOG_US
            + self.transfer_us();
        loop {
            sleep_us(LOOK_US).await;
            self.no_storm()?;
            if now_us() < least_us {
                continue;
            }
            let recovered = {
                let world = self.world();
                if !world.is_able() {
                    return Ok(false);
                }
                world.recovered().and_then(|()| world.voters_are_set())
            };
            match recovered {
                Ok(()) => {
                    self.mark("the cluster came back");
                    return Ok(true);
                }
                Err(broken) if now_us() >= most_us => return Err(broken),
                Err(_) => {}
            }
        }
    }

    /// The longest time until a sender gives up a transfer whose connection has died silently. A
    /// timer that was started on a slow clock keeps its length.
    fn transfer_us(&self) -> u64 {
        self.in_proportion(TRANSFER_US) * 1_000 / self.plan().slowest_clock()
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

    async fn stay_quiet(&self) -> Result<(), Violation> {
        let mut leader = self.world().observer.latest_leader();
        let until_us = now_us() + QUIET_TIMEOUTS * self.world().timeout_us();
        while now_us() < until_us {
            sleep_us(LOOK_US).await;
            self.no_storm()?;
            self.few_wait()?;
            let world = self.world();
            let now = world.observer.latest_leader();
            // A node that has failed as a leader is not preferred for a while.
            match world.priority(now) > world.priority(leader) {
                true => leader = now,
                false => world.leads_still(leader)?,
            }
        }
        let gave_way = |handle: &Handle<A::Machine>| handle.status().raft.counters.gave_way > 0;
        if self.healthy().iter().any(|(_, handle)| gave_way(handle)) {
            self.mark("a leader gave way to a preferred node");
        }
        if self.world().leaders_changed() {
            self.mark("leaders changed");
        }
        Ok(())
    }

    /// Waits, after the last request, until all nodes have the same state.
    async fn settle(&self) -> Result<(), Violation> {
        let again_us = OFFER_ELECTIONS * self.plan().election_us();
        let settle_us = SETTLE_US + again_us + self.transfer_us();
        let mut until_us = now_us() + settle_us;
        let last_us = now_us() + SETTLE_MOST_US;
        let mut before = Index(0);
        for look in 0.. {
            // An idle cluster appends an entry now and then. At intervals that are a multiple of
            // that, each look could find the latest one not applied everywhere yet.
            sleep_us(LOOK_US + 617 * (look % 10)).await;
            self.no_storm()?;
            let committed = self.world().observer.committed_index();
            // Commands of clients that gave up may still enter the log, as long as a slow disk
            // takes.
            if committed > before {
                (before, until_us) = (committed, last_us.min(now_us() + settle_us));
            }
            let settled = self.world().settled();
            match settled {
                Ok(()) => break,
                Err(broken) if now_us() >= until_us => return Err(broken),
                Err(_) => {}
            }
        }
        let committed = self.world().observer.committed_index();
        let mut states = Vec::new();
        for (id, handle) in self.healthy() {
            let consistency = Consistency::Stale { max_age: Duration::MAX };
            match handle.freeze(consistency).await {
                Ok(frozen) => states.push((id, committed, bytes_of(&frozen))),
                Err(error) => {
                    let detail = format!("node {id}: {error}");
                    return violation(Check::EveryNodeCanBeReadInTheEnd, id, detail);
                }
            }
        }
        states_are_equal(states)?;
        self.world().not_done_stays_so()
    }
}
