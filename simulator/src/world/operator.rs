//! An operator who changes the membership: declares random voters, replaces disks, and in the end
//! makes all nodes voters that are there.

use super::*;
use raft::{Change, ChangeError, Status};

/// The work of the operator.
#[derive(Debug, Default)]
pub(super) struct Operator {
    /// Whether the membership changes in this run.
    pub is_there: bool,
    /// A membership to declare, as the amount of [`FaultKind::Members`].
    pub declares: Option<u64>,
    /// Members whose directories are to be replaced by empty ones.
    pub replaces: BTreeSet<usize>,
    /// After the faults: the last membership is in force.
    pub is_done: bool,
}

impl Operator {
    pub fn of(plan: &Plan) -> Self {
        let changes = plan.faults.iter().any(|fault| fault.kind.changes_members());
        Operator { is_there: plan.swarm.churn > 0 || changes, ..Operator::default() }
    }
}

impl World<'_> {
    /// The incarnation of a node's directory, if the membership has that.
    fn is_admitted(&self, node: usize, membership: &Membership) -> bool {
        let member = membership.members.get(&NodeId(node as u64));
        member.is_some_and(|member| member.incarnation == self.hosts[node].incarnation)
    }

    /// Whether the node is no member: its disk was wiped, or it was removed.
    pub(super) fn is_stranger(&self, node: usize) -> bool {
        !self.is_admitted(node, self.observer.committed_membership())
    }

    /// Whether the node is no member, or a change is in progress after which it is none.
    pub(super) fn is_leaving(&self, node: usize) -> bool {
        let mut possible = self.observer.possible_memberships();
        possible.any(|membership| !self.is_admitted(node, &membership.entered()))
    }

    /// Whether every membership that may be in force, or come into force by itself, has a quorum
    /// without this node.
    pub(super) fn can_spare(&self, node: usize) -> bool {
        let could = |membership: &Membership| {
            membership.is_quorum(|id| {
                let host = &self.hosts[id.0 as usize];
                let is_admitted = self.is_admitted(id.0 as usize, membership);
                id.0 as usize != node && !host.gone && !host.dead && is_admitted
            })
        };
        let mut possible = self.observer.possible_memberships();
        possible.all(|membership| {
            could(membership) && (membership.is_joint() || could(&membership.joint()))
        })
    }

    /// The leader that the operator talks to.
    fn serving(&self) -> Option<usize> {
        let serving = self.hosts.iter().enumerate().filter_map(|(id, host)| {
            let node = &host.up.as_ref()?.node;
            let answers = host.paused_until_us <= self.now_us && !host.gone;
            (answers && node.is_leader() && node.status().serving).then(|| (node.term(), id))
        });
        serving.max().map(|(_, id)| id)
    }

    /// The operator looks at the cluster, and takes the next step.
    pub(super) fn operate(&mut self) -> Result<(), Violation> {
        if self.operator.is_done {
            return Ok(());
        }
        let look_us = (self.plan.election_us() / 2).max(1);
        self.queue.push(self.now_us + look_us, Event::Operate);
        let Some(leader) = self.serving() else { return Ok(()) };
        let Some(running) = &self.hosts[leader].up else { return Ok(()) };
        let status = running.node.status();
        if status.commit < status.membership_index {
            return Ok(());
        }
        if status.membership.is_changing() {
            return self.give_up(leader, &status);
        }
        if self.replace(leader, &status)? {
            return Ok(());
        }
        if self.calm {
            return self.declare_all(leader, &status);
        }
        match self.operator.declares.take() {
            Some(amount) => self.declare(leader, amount),
            None => Ok(()),
        }
    }

    /// After the faults: gives up a change to voters that never come.
    fn give_up(&mut self, leader: usize, status: &Status) -> Result<(), Violation> {
        let membership = &status.membership;
        let never_comes = |id: &NodeId| {
            let host = &self.hosts[id.0 as usize];
            host.gone || host.dead || !self.is_admitted(id.0 as usize, membership)
        };
        let target = membership.target.as_ref().filter(|_| self.calm && !membership.is_joint());
        if target.is_some_and(|target| target.voters.iter().any(never_comes)) {
            let before = membership.given_up();
            self.change(leader, Change::to(before.members, before.voters))?;
        }
        Ok(())
    }

    /// Declares the membership at a leader. Returns whether it was accepted.
    fn change(&mut self, leader: usize, change: Change) -> Result<bool, Violation> {
        let now = self.now(leader);
        let Some(running) = &mut self.hosts[leader].up else { return Ok(false) };
        // As a host does that looks who replies.
        running.node.ask_peers(now);
        let begun = running.node.set_members(now, change);
        self.marks.hit(match begun {
            Ok(_) => "an operator declared a membership",
            Err(ChangeError::UnderWay) => "a change was refused because of another one",
            Err(ChangeError::NoQuorum { .. }) => "a change to voters that do not reply was refused",
            Err(ChangeError::WasRemoved { .. }) => "a directory that was removed was refused",
            Err(_) => "a change was refused",
        });
        self.note(9, leader, begun.as_ref().map_or(0, |index| index.0));
        self.poll(leader)?;
        Ok(begun.is_ok())
    }

    /// Declares other voters.
    pub(super) fn declare(&mut self, leader: usize, amount: u64) -> Result<(), Violation> {
        let Some(running) = &self.hosts[leader].up else { return Ok(()) };
        let change = self.plan.declared(&running.node.status().membership, amount);
        self.change(leader, change)?;
        Ok(())
    }

    /// Takes a step to replace the directory of a node. Returns whether there was one to take.
    fn replace(&mut self, leader: usize, status: &Status) -> Result<bool, Violation> {
        let membership = &status.membership;
        for node in 0..self.hosts.len() {
            let id = NodeId(node as u64);
            let is_member = membership.members.contains_key(&id);
            let is_admitted = self.is_admitted(node, membership);
            if is_member && (!is_admitted || self.operator.replaces.contains(&node)) {
                let (mut members, mut voters) =
                    (membership.members.clone(), membership.voters.clone());
                members.remove(&id);
                voters.remove(&id);
                if voters.is_empty() {
                    voters = members.keys().copied().collect();
                }
                if voters.is_empty() {
                    self.operator.replaces.remove(&node);
                    continue;
                }
                self.change(leader, Change::to(members, voters))?;
                return Ok(true);
            }
            if !is_member {
                self.add(leader, node, status)?;
                return Ok(true);
            }
        }
        Ok(false)
    }

    /// Adds a node that was removed. Its old directory must be refused, so it gets a new one.
    fn add(&mut self, leader: usize, node: usize, status: &Status) -> Result<(), Violation> {
        let id = NodeId(node as u64);
        self.operator.replaces.remove(&node);
        let mut members = status.membership.members.clone();
        let mut incarnation = self.hosts[node].incarnation;
        if self.hosts[node].waits {
            // So far it ran, and may have voted. It waits to be added with a directory of its own.
            incarnation.0 += 1_000;
        }
        let (peer_address, client_address) = (String::new(), String::new());
        members.insert(id, Member { incarnation, peer_address, client_address });
        let voters = status.membership.voters.clone();
        let was_removed = status.membership.removed.get(&id) == Some(&incarnation);
        let is_added = self.change(leader, Change::to(members, voters))?;
        if was_removed {
            self.wipe(node, 1);
            return Ok(());
        }
        if is_added && self.hosts[node].waits {
            // The operator gives the new node the membership that contains it.
            let Some(running) = &self.hosts[leader].up else { return Ok(()) };
            let membership = running.node.status().membership;
            self.found(node, membership);
            self.marks.hit("a wiped node was added again");
        }
        Ok(())
    }

    /// After the faults: makes all nodes voters that are there.
    fn declare_all(&mut self, leader: usize, status: &Status) -> Result<(), Violation> {
        let is_there = |id: &NodeId| {
            let host = &self.hosts[id.0 as usize];
            !host.gone && !host.dead
        };
        let members = status.membership.members.clone();
        let voters: BTreeSet<NodeId> = members.keys().copied().filter(is_there).collect();
        if voters == status.membership.voters {
            self.operator.is_done = true;
            return Ok(());
        }
        self.change(leader, Change::to(members, voters))?;
        Ok(())
    }
}
