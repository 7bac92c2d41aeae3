//! Changing the membership (§4): the checks before a change, and the steps that a leader takes.
//!
//! A change is a sequence of at most three entries, see `membership.rs`. The leader appends the
//! next one at a tick once the previous one is committed. It decides from the membership in its log
//! alone, so a leader that finds a change half done finishes it.
//!
//! A leader that the new configuration does not contain leads until that configuration is
//! committed. It then hands leadership over, or steps down.

use crate::core::Core;
use crate::leader::Leader;
use crate::progress::{Progress, State};
use crate::{AddressError, Index, LogTime, Member, Membership, NodeId, Payload, Round, Target};
use std::collections::{BTreeMap, BTreeSet};

/// A declared change of the membership. Make one with [`Change::to`] and change its fields.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Change {
    /// All members that the cluster is to have, with their addresses.
    pub members: BTreeMap<NodeId, Member>,
    /// Those of them that vote. The others are learners.
    pub voters: BTreeSet<NodeId>,
    /// Reject the change unless the membership in force is that of this index. Not checked by
    /// default.
    pub if_version: Option<Index>,
    /// Begin although no quorum of the new voters replies and stores entries now. Off by default.
    /// The change still waits for one before the joint configuration, and is given up without it.
    pub force: bool,
    /// A voter replies if it has acknowledged this round or a later one (see
    /// [`RawNode::ask_peers`](crate::RawNode::ask_peers)). By default: if any message of it has
    /// arrived within the last election timeout, which a node that has just stopped passes too.
    pub since: Option<Round>,
    /// The change is given up if, after this time in milliseconds of log time, its new voters have
    /// not caught up or no quorum of all its voters replies and stores entries. 10 minutes by
    /// default.
    pub catch_up_ms: u64,
}

impl Change {
    /// A change to these members and voters, with the defaults.
    pub fn to(members: BTreeMap<NodeId, Member>, voters: BTreeSet<NodeId>) -> Self {
        Change {
            members,
            voters,
            if_version: None,
            force: false,
            since: None,
            catch_up_ms: 600_000,
        }
    }
}

/// Why a change of the membership was rejected. Nothing has changed.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum ChangeError {
    /// Only a leader can change the membership.
    #[error("this node does not lead")]
    NotLeader {
        /// The leader, if this node knows it.
        leader: Option<NodeId>,
    },
    /// Another change is in progress, or the latest one is not committed yet. To give a change up
    /// whose new voters have not caught up yet, declare the membership without it.
    #[error("another change of the membership is in progress")]
    UnderWay,
    /// This node is handing leadership over. Repeat the change at the next leader.
    #[error("leadership is being handed over")]
    Transferring,
    /// The membership in force is another one than the change expects.
    #[error("the membership has version {version} now: it has changed meanwhile")]
    OtherVersion {
        /// The index of the membership in force.
        version: Index,
    },
    /// A cluster needs a voter.
    #[error("the change leaves no voter")]
    NoVoter,
    /// A voter is not among the members.
    #[error("voter {node} is not among the members")]
    UnknownVoter {
        /// The voter.
        node: NodeId,
    },
    /// There are too many members.
    #[error("a cluster has at most {limit} members")]
    TooMany {
        /// The limit.
        limit: usize,
    },
    /// An address of a new member, or a new address, is too long or has other characters than an
    /// address.
    #[error("an address of node {node} {why}")]
    Address {
        /// The node.
        node: NodeId,
        /// The fault of the address.
        why: AddressError,
    },
    /// The node is a member with another data directory. Remove it first, and add it in a second
    /// change: a new directory knows nothing of the votes that the old one has given.
    #[error("node {node} is a member with another data directory; remove it first, then add it")]
    OtherIncarnation {
        /// The node.
        node: NodeId,
    },
    /// The node has been removed with this data directory. It can be added again with a new one.
    #[error("node {node} was removed; it can only be added again with a new data directory")]
    WasRemoved {
        /// The node.
        node: NodeId,
    },
    /// Of the new voters, too few reply now and have stored what they were sent. The cluster would
    /// stop.
    #[error("no quorum of the new voters replies and stores entries now{}", why(silent, behind))]
    NoQuorum {
        /// The new voters that do not reply.
        silent: Vec<NodeId>,
        /// Those that reply and have not stored what they were sent: the disk hangs, or they are
        /// still catching up.
        behind: Vec<NodeId>,
    },
}

fn why(silent: &[NodeId], behind: &[NodeId]) -> String {
    let list =
        |nodes: &[NodeId]| nodes.iter().map(NodeId::to_string).collect::<Vec<_>>().join(", ");
    let parts = [("no reply from", silent), ("far behind or with a slow disk", behind)];
    let parts = parts.iter().filter(|(_, nodes)| !nodes.is_empty());
    parts.map(|(what, nodes)| format!("; {what}: {}", list(nodes))).collect()
}

impl Leader {
    /// Begins a change. Returns the index of its first entry. If it changes nothing: the index of
    /// the membership in force.
    pub fn change(&mut self, core: &mut Core, change: Change) -> Result<Index, ChangeError> {
        let known = core.log.membership();
        let version = core.log.membership_index();
        if change.if_version.is_some_and(|expected| expected != version) {
            return Err(ChangeError::OtherVersion { version });
        }
        check(known, &change)?;
        // A leader that votes no longer hands over at its next tick. With another change in
        // progress it would lead until that is done.
        if self.transfer.is_some() || self.retiring || !core.votes() {
            return Err(ChangeError::Transferring);
        }
        let before = known.given_up();
        let is_same = change.members == before.members && change.voters == before.voters;
        if is_same && !known.is_changing() {
            return Ok(version);
        }
        let gives_up = is_same && !known.is_joint();
        if !self.is_settled(core) || (known.is_changing() && !gives_up) {
            return Err(ChangeError::UnderWay);
        }
        if gives_up {
            return Ok(self.enter_membership(core, before));
        }
        // New voters receive the log first: the change waits for them.
        let present = change.voters.iter().copied().filter(|id| known.is_voter(*id));
        let (replying, silent): (Vec<NodeId>, Vec<NodeId>) =
            present.partition(|id| self.replies_since(core, *id, change.since));
        let is_behind = |id: &NodeId| !self.keeps_up(core, *id);
        let behind: Vec<NodeId> = replying.into_iter().filter(is_behind).collect();
        let failing = silent.len() + behind.len();
        if !change.force && change.voters.len() - failing <= change.voters.len() / 2 {
            return Err(ChangeError::NoQuorum { silent, behind });
        }
        let until = LogTime(core.log_time().0.saturating_add(change.catch_up_ms));
        let planned = known.planned(change.members, change.voters, until);
        Ok(self.enter_membership(core, planned))
    }

    /// Whether the membership in force is committed, and this leader knows it.
    fn is_settled(&self, core: &Core) -> bool {
        core.commit >= self.term_start && core.commit >= core.log.membership_index()
    }

    /// Whether the member replies, as far as this leader knows.
    fn replies(&self, core: &Core, node: NodeId) -> bool {
        let lately = |p: &Progress| p.silent_ticks < core.config.election_ticks;
        node == core.id() || self.progress.get(&node).is_some_and(lately)
    }

    /// Whether the member has replied to the round `since`, or replies as far as this leader knows.
    fn replies_since(&self, core: &Core, node: NodeId, since: Option<Round>) -> bool {
        let Some(since) = since else { return self.replies(core, node) };
        node == core.id() || self.progress.get(&node).is_some_and(|p| p.round >= since)
    }

    /// Whether the member has lately stored what the log held. A disk that hangs is noticed only
    /// once there is something to store.
    fn keeps_up(&self, core: &Core, node: NodeId) -> bool {
        match self.progress.get(&node) {
            Some(progress) => progress.chase_ticks < core.stall_ticks(),
            None => node == core.id() && !core.is_disk_stalled(),
        }
    }

    /// One tick of a change: takes its next step, if that is due. Returns whether this leader has
    /// to step down, since it votes no longer.
    pub(crate) fn tick_change(&mut self, core: &mut Core) -> bool {
        if !self.is_settled(core) {
            return false;
        }
        let membership = core.log.membership();
        if membership.is_joint() {
            let entered = membership.entered();
            self.enter_membership(core, entered);
        } else if !core.votes() {
            // Even with a planned change in the log, which the next leader finishes.
            if !self.retiring {
                self.retiring = true;
                // Without a target there is nobody to wait for.
                let _ = self.transfer(core, None);
            }
            return self.transfer.is_none();
        } else if let Some(target) = &membership.target {
            if self.transfer.is_some() {
                return false;
            }
            if self.is_ready(core, target) {
                let joint = membership.joint();
                self.enter_membership(core, joint);
            } else if core.log_time() >= target.until {
                let before = membership.given_up();
                self.enter_membership(core, before);
            } else if self.takes_part(core, target) {
                // Since they stored the probe, their disks may have failed.
                let probe = self.append(core, Payload::Clock).index;
                self.probe(core, probe);
            }
        }
        false
    }

    /// Whether the target takes part in the change, as shown by a recent probe.
    fn is_ready(&self, core: &Core, target: &Target) -> bool {
        self.ticks_since_probe <= core.stall_ticks() && self.takes_part(core, target)
    }

    /// Whether every new voter has caught up (§4.2.1), and a quorum of the target replies and has
    /// the probe on disk. A peer has caught up once it has acknowledged what this log held at the
    /// heartbeat before the last.
    ///
    /// A joint membership cannot be given up, so a voter that has just stopped must not count, nor
    /// one whose disk hangs, nor one that waits for a snapshot: both of them reply to heartbeats.
    fn takes_part(&self, core: &Core, target: &Target) -> bool {
        let (_, enough) = self.round_last;
        let takes_part = |id: &NodeId| {
            self.replies(core, *id)
                && self.replies_since(core, *id, Some(self.change_round))
                && self.on_disk(core, *id) >= self.change_probe
        };
        let has_caught_up = |id: &NodeId| {
            core.log.membership().is_voter(*id)
                || self.progress.get(id).is_some_and(|p| {
                    p.state == State::Replicate
                        && p.matched >= enough
                        && p.agrees != Some(false)
                        && takes_part(id)
                })
        };
        let replying = target.voters.iter().filter(|id| takes_part(id)).count();
        target.voters.iter().all(has_caught_up) && replying > target.voters.len() / 2
    }

    /// Appends a membership, which is in force from now on (§4.1), and follows its members.
    fn enter_membership(&mut self, core: &mut Core, membership: Membership) -> Index {
        let members = membership.members.clone();
        let id = self.append(core, Payload::Membership(Box::new(membership)));
        let (own, next) = (core.id(), id.index);
        self.progress.retain(|id, _| members.contains_key(id));
        for node in members.keys().filter(|node| **node != own) {
            let progress = self.progress.entry(*node).or_insert_with(|| Progress::new(next));
            progress.heartbeat_due = true;
        }
        self.probe(core, id.index);
        self.try_commit(core);
        // Those whose replies the reads wait for may be members no more.
        self.confirm_reads(core);
        id.index
    }

    /// From now on, a voter takes part in a change once it has this entry on disk and has replied
    /// to a round that begins now.
    fn probe(&mut self, core: &mut Core, entry: Index) {
        (self.change_probe, self.ticks_since_probe) = (entry, 0);
        self.change_round = self.ask_peers(core);
    }
}

/// Whether the change makes sense, whatever the state of the cluster.
fn check(known: &Membership, change: &Change) -> Result<(), ChangeError> {
    let limit = crate::CLUSTER_MEMBERS_MAX;
    if change.voters.is_empty() {
        return Err(ChangeError::NoVoter);
    }
    if let Some(node) = change.voters.iter().find(|id| !change.members.contains_key(id)) {
        return Err(ChangeError::UnknownVoter { node: *node });
    }
    // During a change, the old and the new members are all in one membership.
    let added = change.members.keys().filter(|id| !known.members.contains_key(id));
    if known.members.len() + added.count() > limit {
        return Err(ChangeError::TooMany { limit });
    }
    for (id, member) in &change.members {
        let node = *id;
        if known.members.get(id) != Some(member) {
            member.check_addresses().map_err(|why| ChangeError::Address { node, why })?;
        }
        if known.members.get(id).is_some_and(|known| known.incarnation != member.incarnation) {
            return Err(ChangeError::OtherIncarnation { node });
        }
        if known.removed.get(id) == Some(&member.incarnation) {
            return Err(ChangeError::WasRemoved { node });
        }
    }
    Ok(())
}
