//! An operator who changes the membership.
//!
//! He replaces the disk of a member, whether it is lost or well: removes the member, and adds it
//! again with its new data directory. If a member has restarted at another address, he declares
//! that address. Goes on until it is done, whatever fails meanwhile.
//!
//! He also declares other voters, from any set to any set. The members that do not vote are
//! learners then. One such change that fails is not repeated.

use crate::app::App;
use crate::cluster::Cluster;
use crate::time::sleep_us;
use crate::world::{client_address, log_config};
use driver::Handle;
use raft::{Change, Incarnation, Index, Member, Membership, NodeId, Status};
use simulator::checks::{Check, Violation};
use std::time::Duration;
use storage::Directory;

/// The longest time until an address is declared, in proportion to the run's election timeout.
const DECLARED_WITHIN_US: u64 = 10_000_000;
/// One address in this many is never declared.
const NEVER_ONE_IN: u64 = 3;
/// The longest time until a removed node that runs has stopped, once the faults are over.
const STOPS_WITHIN_US: u64 = 60_000_000;
/// The longest time until a removed node gets an empty disk after it has stopped.
const EMPTIED_WITHIN_US: u64 = 2_000_000;
/// The pause between two looks at the cluster.
const LOOK_US: u64 = 20_000;
/// How long the operator waits for one change before looking again.
const WAIT: Duration = Duration::from_secs(5);
/// A change of the voters is given up after this number of election timeouts at the latest: the end
/// of a run waits for it.
const CATCH_UP_ELECTIONS: u64 = 20;

impl<A: App> Cluster<A> {
    /// Whether the operator still works on the wipe with this number.
    fn is_at_work(&self, node: usize, wipe: u64) -> bool {
        let world = self.world();
        !world.over && world.hosts[node].wipes == wipe
    }

    /// Removes the member whose disk was wiped. Returns false if that became pointless.
    pub(crate) async fn removed(&self, node: usize, wipe: u64) -> bool {
        let id = NodeId(node as u64);
        let gone = |membership: &Membership| !membership.members.contains_key(&id);
        let without = |membership: &Membership| {
            let (mut members, mut voters) = (membership.members.clone(), membership.voters.clone());
            members.remove(&id);
            voters.remove(&id);
            if voters.is_empty() {
                voters = members.keys().copied().collect();
            }
            Change::to(members, voters)
        };
        // A change that waits for the disk that is lost.
        let in_vain = |membership: &Membership| {
            let target = membership.target.as_ref().filter(|_| !membership.is_joint());
            target.is_some_and(|target| target.voters.contains(&id))
        };
        self.changed(node, wipe, gone, without, in_vain).await
    }

    /// Replaces a member that is well. It has to stop by itself once it is removed, and again each
    /// time that it is started, until it gets an empty disk.
    pub(crate) async fn replace(self, node: usize) {
        let wipe = self.world().hosts[node].wipes;
        if !self.removed(node, wipe).await {
            return;
        }
        self.mark("a member that was well was removed");
        let limit_us = self.in_proportion(STOPS_WITHIN_US);
        let mut awake_us = 0;
        while self.is_at_work(node, wipe) {
            sleep_us(LOOK_US).await;
            let (has_stopped, is_awake) = {
                let world = self.world();
                let host = &world.hosts[node];
                (host.knows_its_removal, world.calm && host.up.is_some() && host.paused == 0)
            };
            if has_stopped {
                let wait_us = self.world().clocks.below(EMPTIED_WITHIN_US);
                sleep_us(self.in_proportion(wait_us)).await;
                return self.empties(node);
            }
            awake_us = if is_awake { awake_us + LOOK_US } else { 0 };
            if awake_us > limit_us {
                let detail = format!("node {node} runs on");
                let broken = Violation::new(Check::RemovedNodeStops, node, detail);
                return self.broken(Some(broken));
            }
        }
    }

    /// Adds the member again, once its new incarnation is on its disk.
    pub(crate) async fn add_again(self, node: usize, wipe: u64) {
        let id = NodeId(node as u64);
        let incarnation = loop {
            if !self.is_at_work(node, wipe) {
                return;
            }
            match self.announced(node) {
                Some(incarnation) => break incarnation,
                None => sleep_us(LOOK_US).await,
            }
        };
        let votes = |membership: &Membership| {
            let own = membership.members.get(&id);
            membership.is_voter(id) && own.is_some_and(|own| own.incarnation == incarnation)
        };
        let with = |membership: &Membership| {
            let (mut members, mut voters) = (membership.members.clone(), membership.voters.clone());
            let peer_address = self.world().peer_address(id.0).to_string();
            let client_address = client_address(id.0);
            members.insert(id, Member { incarnation, peer_address, client_address });
            voters.insert(id);
            Change::to(members, voters)
        };
        if self.changed(node, wipe, votes, with, |_| false).await {
            let mut world = self.world();
            world.hosts[node].is_stranger = false;
            world.marks.hit("a wiped node was added again");
        }
    }

    /// Declares the address of a member that has moved, after a while in which its peers have to
    /// find it without, or never. If its disk is wiped, it is added again at its present address
    /// instead.
    pub(crate) async fn declare_address(self, node: usize, wipe: u64) {
        let id = NodeId(node as u64);
        let (address, wait_us) = {
            let mut world = self.world();
            let Some(draw) = &mut world.moves else { return };
            let (never, wait_us) = (draw.below(NEVER_ONE_IN) == 0, draw.below(DECLARED_WITHIN_US));
            if never {
                return;
            }
            (world.peer_address(id.0).to_string(), wait_us)
        };
        sleep_us(self.in_proportion(wait_us)).await;
        let is_declared = |membership: &Membership| {
            membership.members.get(&id).is_some_and(|own| own.peer_address == address)
        };
        let with = |membership: &Membership| {
            let (mut members, voters) = (membership.members.clone(), membership.voters.clone());
            if let Some(own) = members.get_mut(&id) {
                own.peer_address = address.clone();
            }
            Change::to(members, voters)
        };
        if self.changed(node, wipe, is_declared, with, |_| false).await {
            self.mark("the new address of a node was declared");
            self.world().hosts[node].is_elsewhere = false;
        }
    }

    /// Declares other voters once there is a leader, as the amount of
    /// [`FaultKind::Members`](simulator::plan::FaultKind::Members) says. Waits until they vote or
    /// the change is given up.
    pub(crate) async fn declare_voters(self, amount: u64) {
        let mut begun_voters = None;
        while begun_voters.is_some() || !self.is_calm() {
            sleep_us(LOOK_US).await;
            if self.world().over {
                return;
            }
            let Some(leader) = self.leader() else { continue };
            let status = leader.status();
            if let Some(voters) = &begun_voters {
                // Another change may have followed at once.
                let target = status.raft.membership.target.as_ref();
                match target.is_some_and(|target| target.voters == *voters) {
                    true => continue,
                    false => break,
                }
            }
            if !is_settled(&status.raft) {
                continue;
            }
            let change = self.to_voters(&status.raft.membership, amount);
            let Ok(begun) = leader.set_members(change.clone()).await else {
                self.mark("a change of the voters was refused");
                break;
            };
            begun_voters = Some(change.voters.clone());
            self.mark("an operator declared other voters");
            if self.is_set(&leader, begun, &change).await {
                self.mark("other voters vote");
            }
        }
        self.world().declares_voters = false;
    }

    /// The change that `amount` stands for. It is given up while the end of the run waits.
    fn to_voters(&self, membership: &Membership, amount: u64) -> Change {
        let world = self.world();
        let mut change = world.plan.declared(membership, amount);
        let within_us = CATCH_UP_ELECTIONS * world.plan.election_us();
        change.catch_up_ms = change.catch_up_ms.min((within_us / 1_000).max(1));
        change
    }

    /// Declares memberships, until the one that is committed at a serving leader `is_done`. Gives
    /// up a change that is `in_vain`.
    async fn changed(
        &self,
        node: usize,
        wipe: u64,
        is_done: impl Fn(&Membership) -> bool,
        next: impl Fn(&Membership) -> Change,
        in_vain: impl Fn(&Membership) -> bool,
    ) -> bool {
        while self.is_at_work(node, wipe) {
            sleep_us(LOOK_US).await;
            let Some(leader) = self.leader() else { continue };
            let status = leader.status();
            let membership = &status.raft.membership;
            if in_vain(membership) {
                let before = membership.given_up();
                let given_up = leader.set_members(Change::to(before.members, before.voters)).await;
                if given_up.is_ok() {
                    self.mark("a change was given up");
                }
            }
            if !is_settled(&status.raft) {
                continue;
            }
            if is_done(membership) {
                return true;
            }
            let change = next(membership);
            if let Ok(begun) = leader.set_members(change.clone()).await {
                self.is_set(&leader, begun, &change).await;
            }
        }
        false
    }

    /// Whether a change that has begun is soon done, as its leader says, which must be right.
    async fn is_set(&self, leader: &Handle<A::Machine>, begun: Index, change: &Change) -> bool {
        let set = leader.members_set(begun, change);
        let Ok(Ok(index)) = madsim::time::timeout(WAIT, set).await else { return false };
        let answer = self.world().observer.change_is_done(change, index);
        self.broken(answer.err());
        true
    }

    /// The incarnation that the node has drawn for its new directory, once it is durable.
    fn announced(&self, node: usize) -> Option<Incarnation> {
        let (disk, swarm) = {
            let world = self.world();
            (world.hosts[node].disk.fork(), world.plan.swarm.clone())
        };
        match Directory::open(disk, log_config(&swarm)).ok()?.0 {
            Directory::Unclaimed(unclaimed) => {
                unclaimed.node()?;
                // On a copy of the disk, which is dropped: the number that was drawn is kept.
                let announced =
                    unclaimed.announce(NodeId(node as u64), Incarnation(0), &[]).ok()?;
                Some(announced.who().incarnation())
            }
            Directory::Member(member) => Some(member.who().incarnation()),
        }
    }
}

/// Whether a membership is committed and no change to it is in progress.
fn is_settled(status: &Status) -> bool {
    !status.membership.is_changing() && status.commit >= status.membership_index
}
