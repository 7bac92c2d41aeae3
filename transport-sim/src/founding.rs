//! Bootstrap: before the faults of the plan begin, the cluster bootstraps itself with the product's
//! code ([`quorate::bootstrap`]), over simulated sockets, on disks that are empty at first.
//!
//! Each node may lose its power a few times meanwhile, after a number of disk operations or at any
//! other moment, and restarts. In the end all must be members of one cluster with one membership,
//! which has the incarnations that are on their disks.
//!
//! A node whose disk is wiped later runs the same code: it must not bootstrap again. An operator
//! removes it from the members, and adds it again (see `operator.rs`) while it joins.

use crate::app::App;
use crate::cluster::Cluster;
use crate::disk::{Life, SimDisk};
use crate::net::SimNet;
use crate::time::{now_us, sleep_us};
use crate::world::{Host, World, client_address, log_config};
use futures_util::future::try_join_all;
use madsim::runtime::{Handle as Executor, NodeHandle};
use quorate::bootstrap::{Begin, BeginError, begin};
use raft::{Membership, NodeId};
use simulator::checks::{Check, Shadow, Violation, violation};
use simulator::random::{Purpose, Stream};
use std::io::ErrorKind;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use storage::testing::{DiskOperation, DiskVerdict, Faults, MemDisk};
use storage::{ClaimError, ClusterId, Directory, DurableIncarnation};
use tokio::sync::oneshot;
use transport_http::{BootstrapError, Founder, Listed};

/// The most power failures of a node during the bootstrap.
const FAILURES_MAX: u64 = 4;
/// One power failure in this many strikes after a number of disk operations; the others strike at
/// any time.
const AFTER_OPERATIONS_ONE_IN: u64 = 2;
/// About the number of disk operations that a node needs to become a member.
const OPERATIONS: u64 = 40;
/// About the time that a node needs to become a member, in proportion to the run's election
/// timeout.
const TAKES_US: u64 = 1_500_000;
/// The longest time that a node is down after a power failure, in proportion.
const DOWN_US: u64 = 500_000;
/// The time limit for all nodes to become members after the last power failure, in proportion.
const FOUNDED_WITHIN_US: u64 = 120_000_000;
/// The time after which a wiped node stops its bootstrap if no node has refused it, in proportion.
const REFUSED_WITHIN_US: u64 = 10_000_000;
/// The interval at which the state of a node is checked.
const LOOK_US: u64 = 1_000;

/// The check that fails if the cluster does not come into being.
const FOUNDS: Check = Check::ClusterBootstrapsItself;

/// The cluster and membership that a node has joined.
#[derive(Clone, Debug, PartialEq)]
struct Joined {
    cluster: ClusterId,
    membership: Membership,
    who: DurableIncarnation,
}

/// The result of one life of a node that bootstraps or joins.
enum Ended {
    /// It is a member. It answers other founders until its machine is killed.
    Joined(Joined),
    /// It could not become a member, for this reason.
    Failed(BeginError),
    /// Its directory could not be opened.
    NotOpened(storage::OpenError),
}

impl<A: App> Cluster<A> {
    /// Bootstraps the cluster, if this run does so, and leaves each node down with its disk.
    pub(crate) async fn found(&self) -> Result<(), Violation> {
        if !self.world().sockets {
            return Ok(());
        }
        let nodes = self.plan().nodes;
        for host in &mut self.world().hosts {
            host.disk = MemDisk::new();
        }
        let founding: Vec<_> = (0..nodes).map(|node| self.founder(node)).collect();
        let mut joined: Vec<Joined> = Vec::new();
        let mut machines = Vec::new();
        // The first failure is the one to report: the others then wait for that node in vain.
        for (joining, life, machine) in try_join_all(founding).await? {
            joined.push(joining);
            machines.push((life, machine));
        }
        for (life, machine) in machines {
            life.end();
            Executor::current().kill(machine.id());
        }
        self.mark("a cluster bootstrapped itself");
        let first = joined[0].clone();
        for (node, joined) in joined.iter().enumerate() {
            let named = joined.membership.members.get(&NodeId(node as u64));
            let is_named = named.is_some_and(|m| m.incarnation == joined.who.incarnation());
            if joined.cluster != first.cluster || joined.membership != first.membership || !is_named
            {
                let detail = format!("node 0 has {first:?}, node {node} has {joined:?}");
                return violation(Check::FoundersAgreeOnOneCluster, [0, node], detail);
            }
            let mut world = self.world();
            world.cluster = joined.cluster;
            let swarm = world.plan.swarm.clone();
            let host = &mut world.hosts[node];
            host.disk.kill();
            let disk = SimDisk::new(host.disk.clone(), Life::default());
            let opened = Directory::open(disk, log_config(&swarm));
            let restored = match &opened {
                Ok((Directory::Member(member), _)) if member.who() == joined.who => {
                    member.restored().clone()
                }
                other => {
                    let detail = format!("node {node} is a member, and its disk has {other:?}");
                    return violation(Check::FoundersAgreeOnOneCluster, node, detail);
                }
            };
            drop(opened);
            host.disk.kill();
            (host.shadow, host.incarnation) = (Shadow::new(&restored), joined.who.incarnation());
            world.note(12, node, joined.who.incarnation().0);
        }
        self.world().begun_us = now_us();
        Ok(())
    }

    /// Runs a founder. Restarts it after each power failure, until it is a member and has no
    /// failure left.
    async fn founder(&self, node: u64) -> Result<(Joined, Life, NodeHandle), Violation> {
        let at = node as usize;
        let mut draw = Stream::new(self.plan().seed, Purpose::Node, 5_000 + node);
        let mut failures = draw.below(FAILURES_MAX + 1);
        loop {
            let failed = Arc::new(AtomicBool::new(false));
            let until_us = now_us() + self.in_proportion(1 + draw.below(2 * TAKES_US));
            let is_counted = draw.below(AFTER_OPERATIONS_ONE_IN) == 0;
            if failures > 0 && is_counted {
                self.world().hosts[at].disk.set_faults(fails_after(&mut draw, failed.clone()));
            }
            let within_us = now_us() + self.in_proportion(FOUNDED_WITHIN_US);
            let life = Life::default();
            let (machine, mut ended) = self.begins(node, &life, Begin::Bootstrap);
            let mut joined = None;
            // Even after it has become a member, its power may fail.
            while failures > 0 || joined.is_none() {
                sleep_us(LOOK_US).await;
                match ended.try_recv() {
                    Ok(Ended::Joined(joining)) => joined = Some(joining),
                    Ok(Ended::Failed(_) | Ended::NotOpened(_))
                        if failed.load(Ordering::Relaxed) => {}
                    Ok(Ended::Failed(error)) => {
                        return violation(FOUNDS, at, format!("node {node}: {error}"));
                    }
                    Ok(Ended::NotOpened(error)) => {
                        return violation(FOUNDS, at, format!("node {node}: {error}"));
                    }
                    Err(_) => {}
                }
                let fails = failed.load(Ordering::Relaxed) || now_us() >= until_us;
                if failures > 0 && fails {
                    break;
                }
                if failures == 0 && now_us() >= within_us {
                    let detail = format!("node {node} is no member after a long time");
                    return violation(FOUNDS, at, detail);
                }
            }
            self.world().hosts[at].disk.clear_faults();
            if let (0, Some(joined)) = (failures, joined) {
                return Ok((joined, life, machine));
            }
            failures -= 1;
            life.end();
            Executor::current().kill(machine.id());
            self.world().lose_unsynced(at);
            self.mark("the power of a founder failed");
            sleep_us(self.in_proportion(1 + draw.below(DOWN_US))).await;
        }
    }

    /// Starts a node that must become a member. Returns its machine, which answers founders until
    /// it is killed, and the result.
    fn begins(&self, node: u64, life: &Life, how: Begin) -> (NodeHandle, oneshot::Receiver<Ended>) {
        let machine = Executor::current().create_node().name(format!("{node} founds")).build();
        let (disk, clock, swarm, list) = {
            let world = self.world();
            let host = &world.hosts[node as usize];
            let disk = SimDisk::new(host.disk.clone(), life.clone());
            (disk, host.clock.clone(), world.plan.swarm.clone(), world.list())
        };
        let net = SimNet::new(self.clone(), node, life.clone(), machine.clone(), clock);
        let (tell, ended) = oneshot::channel();
        machine.spawn(async move {
            let server = net.listen().await.expect("the life before this one is over");
            let own = list[node as usize].clone();
            let member = match Directory::open(disk, log_config(&swarm)) {
                Err(error) => return drop(tell.send(Ended::NotOpened(error))),
                Ok((Directory::Member(member), _)) => Ok(member),
                Ok((Directory::Unclaimed(unclaimed), _)) => {
                    begin(&net, server.bootstrap_service(), unclaimed, &own, &list, how).await
                }
            };
            let member = match member {
                Ok(member) => member,
                Err(error) => return drop(tell.send(Ended::Failed(error))),
            };
            let joined = Joined {
                cluster: member.cluster(),
                membership: member.membership().clone(),
                who: member.who(),
            };
            let Listed { peer_address, client_address, .. } = own;
            let founder = Founder::new(joined.who, peer_address, client_address);
            server.bootstrap_service().answer_as_member(
                founder,
                joined.cluster,
                joined.membership.clone(),
            );
            drop(member);
            let _ = tell.send(Ended::Joined(joined));
            // Other founders may still send requests.
            std::future::pending().await
        });
        (machine, ended)
    }

    /// Runs a node whose disk was wiped. It tries to bootstrap, as an operator may configure it,
    /// and must be refused. Then the operator removes the member, and adds it again while it joins
    /// its cluster and starts.
    pub(crate) async fn rejoin(self, node: usize) {
        let id = node as u64;
        let life = Life::default();
        let (machine, ended) = self.begins(id, &life, Begin::Bootstrap);
        let refused = tokio::select! {
            biased;
            ended = ended => ended.ok(),
            () = sleep_us(self.in_proportion(REFUSED_WITHIN_US)) => None,
        };
        life.end();
        Executor::current().kill(machine.id());
        match refused {
            // Wiped again, it may have been removed already, and is a stranger.
            Some(Ended::Failed(BeginError::Bootstrap(
                BootstrapError::Wiped { .. } | BootstrapError::Stranger { .. },
            ))) => {
                self.mark("a wiped founder was refused");
            }
            Some(Ended::Joined(joined)) => {
                let detail = format!("node {node} is {joined:?} after its disk was wiped");
                return self.broken(Some(Violation::new(
                    Check::WipedDiskIsNoFounderAgain,
                    node,
                    detail,
                )));
            }
            // The new disk has no room, or fails.
            Some(Ended::Failed(BeginError::Disk(_) | BeginError::Claim(ClaimError::Io(_))))
                if self.world().hosts[node].full || self.world().hosts[node].failing => {}
            Some(Ended::Failed(error)) => {
                let detail = format!("node {node}, wiped: {error}");
                return self.broken(Some(Violation::new(FOUNDS, node, detail)));
            }
            Some(Ended::NotOpened(_)) | None => {}
        }
        self.world().hosts[node].disk.kill();
        let wipe = self.world().hosts[node].wipes;
        if !self.removed(node, wipe).await {
            return;
        }
        let life = Life::default();
        let (machine, ended) = self.begins(id, &life, Begin::Join);
        self.shared.outside.spawn(self.clone().add_again(node, wipe));
        let ended = ended.await;
        life.end();
        Executor::current().kill(machine.id());
        let Ok(Ended::Joined(joined)) = ended else { return };
        {
            let mut world = self.world();
            if joined.cluster != world.cluster {
                let detail = format!("node {node} joined {:?}", joined.cluster);
                drop(world);
                return self.broken(Some(Violation::new(
                    Check::NodeJoinsItsOwnCluster,
                    node,
                    detail,
                )));
            }
            let swarm = world.plan.swarm.clone();
            let host: &mut Host<A> = &mut world.hosts[node];
            host.disk.kill();
            let disk = SimDisk::new(host.disk.clone(), Life::default());
            let Ok((Directory::Member(member), _)) = Directory::open(disk, log_config(&swarm))
            else {
                return;
            };
            host.shadow = Shadow::new(member.restored());
            host.incarnation = member.who().incarnation();
            drop(member);
            host.disk.kill();
            (host.dead, host.is_rejoining) = (false, false);
            world.marks.hit("a wiped node joined");
        }
        self.start(node);
    }
}

impl<A: App> World<A> {
    /// All nodes, at the addresses that they have now.
    fn list(&self) -> Vec<Listed> {
        let listed = |node| Listed {
            node: NodeId(node),
            client_address: client_address(node),
            peer_address: self.peer_address(node).to_string(),
        };
        (0..self.plan.nodes).map(listed).collect()
    }
}

/// Makes the power fail within one of the next operations of a disk that change it. Of a write, a
/// part is done. After that nothing changes on the disk any more.
fn fails_after(draw: &mut Stream, failed: Arc<AtomicBool>) -> Faults {
    let mut left = draw.below(OPERATIONS);
    let done_bytes = draw.below(5_000) as usize;
    Box::new(move |operation| {
        if matches!(operation, DiskOperation::Read { .. }) {
            return DiskVerdict::Done;
        }
        left = left.saturating_sub(1);
        if left > 0 {
            return DiskVerdict::Done;
        }
        let is_first = !failed.swap(true, Ordering::Relaxed);
        let done_bytes = if is_first { done_bytes } else { 0 };
        DiskVerdict::Fails { kind: ErrorKind::Other, done_bytes }
    })
}
