//! An operator who replaces the disk of a member: removes the member, and adds it again with its
//! new data directory. Goes on until it is done, whatever fails meanwhile.
//!
//! The quorums that the checks count stay right: a quorum of one node fewer is no smaller, and the
//! same nodes are in it.

use crate::app::App;
use crate::cluster::Cluster;
use crate::net::peer_address;
use crate::time::sleep_us;
use crate::world::{client_address, log_config};
use raft::{Change, Incarnation, Member, Membership, NodeId};
use std::time::Duration;
use storage::Directory;

/// The pause between two looks at the cluster.
const LOOK_US: u64 = 20_000;
/// How long the operator waits for one change before looking again.
const WAIT: Duration = Duration::from_secs(5);

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
            Change::to(members, voters)
        };
        self.changed(node, wipe, gone, without).await
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
            let peer_address = peer_address(id.0).to_string();
            let client_address = client_address(id.0);
            members.insert(id, Member { incarnation, peer_address, client_address });
            voters.insert(id);
            Change::to(members, voters)
        };
        if self.changed(node, wipe, votes, with).await {
            let mut world = self.world();
            world.hosts[node].is_stranger = false;
            world.marks.hit("a wiped node was added again");
        }
    }

    /// Declares memberships, until the one that is committed at a serving leader `is_done`.
    async fn changed(
        &self,
        node: usize,
        wipe: u64,
        is_done: impl Fn(&Membership) -> bool,
        next: impl Fn(&Membership) -> Change,
    ) -> bool {
        while self.is_at_work(node, wipe) {
            sleep_us(LOOK_US).await;
            let Some(leader) = self.leader() else { continue };
            let status = leader.status();
            let membership = &status.raft.membership;
            let is_settled =
                !membership.is_changing() && status.raft.commit >= status.raft.membership_index;
            if !is_settled {
                continue;
            }
            if is_done(membership) {
                return true;
            }
            let change = next(membership);
            if let Ok(begun) = leader.set_members(change.clone()).await {
                let set = leader.members_set(begun, &change);
                if let Ok(Ok(index)) = madsim::time::timeout(WAIT, set).await {
                    let answer = self.world().observer.change_is_done(&change, index);
                    self.broken(answer.err());
                }
            }
        }
        false
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
