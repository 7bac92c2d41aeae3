//! The life of a data directory, as types.
//!
//! A directory goes through three states, and each step makes durable what the next one relies on:
//!
//! ```text
//! Directory::open ─┬─▶ Unclaimed ──announce──▶ Announced ──join──▶ Member
//!                  └────────────────────────────────────────────▶ Member
//! ```
//!
//! - [`Unclaimed`]: it names no cluster. The node may not send anything to a peer yet.
//! - [`Announced`]: its incarnation is durable. Only now is there a [`DurableIncarnation`], which
//!   everything that introduces the node to a peer asks for. A node that announced an incarnation
//!   and then forgot it would take part twice, with two votes.
//! - [`Member`]: its log has begun, and after that its identity names the cluster. In this order: a
//!   directory that names a cluster and has no log has lost it, and is refused
//!   ([`OpenError::LogGone`]).
//!
//! A wrong order of these steps does not compile. What it is not: it draws no random numbers and
//! talks to nobody; how founders find one another is the transport's business.

use crate::recovery::Case;
use crate::{BaseError, ClusterId, Disk, Identity, Log, LogConfig, OpenError, Snapshots};
use raft::{Incarnation, Membership, NodeId, Payload, Restored, Snapshot};
use std::io;

/// A node and the incarnation of its disk, which is durable. There is no other way to get one than
/// from a directory that has it on its disk.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct DurableIncarnation {
    node: NodeId,
    incarnation: Incarnation,
}

impl DurableIncarnation {
    /// The node.
    pub fn node(self) -> NodeId {
        self.node
    }

    /// The incarnation of its disk.
    pub fn incarnation(self) -> Incarnation {
        self.incarnation
    }

    /// Claims that it is durable, for a test without a disk.
    #[cfg(any(test, feature = "testing"))]
    pub fn assumed(node: NodeId, incarnation: Incarnation) -> Self {
        DurableIncarnation { node, incarnation }
    }
}

/// A data directory that has been opened and locked.
#[derive(Debug)]
pub enum Directory<D: Disk> {
    /// It names no cluster.
    Unclaimed(Unclaimed<D>),
    /// It belongs to a member of a cluster.
    Member(Member<D>),
}

impl<D: Disk> Directory<D> {
    /// Locks a directory and reads what it holds. Returns which cases of the decision table of
    /// [`Case`] were found, too. Blocks for as long as reading the log takes.
    pub fn open(disk: D, config: LogConfig) -> Result<(Self, Vec<Case>), OpenError> {
        let (log, recovery) = Log::open(disk, config)?;
        let directory = match (recovery.identity, recovery.restored) {
            (Some(Identity { node, incarnation, cluster: Some(cluster), .. }), Some(restored)) => {
                let who = DurableIncarnation { node, incarnation };
                Directory::Member(Member { log, restored, who, cluster })
            }
            (identity, restored) => Directory::Unclaimed(Unclaimed { log, identity, restored }),
        };
        Ok((directory, recovery.cases))
    }

    /// The node that the directory belongs to, if it has one.
    pub fn node(&self) -> Option<NodeId> {
        match self {
            Directory::Unclaimed(unclaimed) => unclaimed.node(),
            Directory::Member(member) => Some(member.who.node),
        }
    }
}

/// A directory that names no cluster: it is new, or an earlier start did not come to the end of
/// bootstrapping or joining one.
#[derive(Debug)]
pub struct Unclaimed<D: Disk> {
    log: Log<D>,
    identity: Option<Identity>,
    restored: Option<Restored>,
}

/// Why a directory cannot be used as it was asked to.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ClaimError {
    /// It belongs to another node.
    #[error("the directory belongs to node {found}, not to node {expected}")]
    OtherNode {
        /// The node that it belongs to.
        found: NodeId,
        /// The node that asked for it.
        expected: NodeId,
    },
    /// An earlier start began to bootstrap a cluster of other nodes, which may count on this one.
    #[error("the directory began to bootstrap a cluster of other nodes")]
    OtherFounders {
        /// The nodes that it began with.
        began: Vec<NodeId>,
    },
    /// The claim could not be made durable.
    #[error("{0}")]
    Io(#[from] io::Error),
}

impl<D: Disk> Unclaimed<D> {
    /// The node that an earlier start claimed the directory for.
    pub fn node(&self) -> Option<NodeId> {
        self.identity.as_ref().map(|identity| identity.node)
    }

    /// Makes durable that the directory belongs to `node`, and that the node bootstraps a cluster
    /// together with `founders` (itself included) or, if there are none, joins one. (Founders of an
    /// earlier start are kept then: they may still count on this node.) `incarnation` is a new
    /// random number; it is used unless an earlier start has drawn one.
    pub fn announce(
        mut self,
        node: NodeId,
        incarnation: Incarnation,
        founders: &[NodeId],
    ) -> Result<Announced<D>, ClaimError> {
        let mut identity = match self.identity.take() {
            Some(identity) if identity.node != node => {
                let found = identity.node;
                return Err(ClaimError::OtherNode { found, expected: node });
            }
            Some(identity) => identity,
            None => Identity { node, incarnation, cluster: None, peers: Vec::new() },
        };
        let mut began = identity.peers.clone();
        began.sort_unstable();
        let mut founders = founders.to_vec();
        founders.sort_unstable();
        if !began.is_empty() && !founders.is_empty() && began != founders {
            return Err(ClaimError::OtherFounders { began });
        }
        if !founders.is_empty() {
            identity.peers = founders;
        }
        self.log.identify(identity.clone())?;
        Ok(Announced { log: self.log, identity, restored: self.restored })
    }
}

/// A directory whose incarnation is durable: its node may introduce itself to peers.
#[derive(Debug)]
pub struct Announced<D: Disk> {
    log: Log<D>,
    identity: Identity,
    restored: Option<Restored>,
}

impl<D: Disk> Announced<D> {
    /// What peers may be told.
    pub fn who(&self) -> DurableIncarnation {
        DurableIncarnation { node: self.identity.node, incarnation: self.identity.incarnation }
    }

    /// Forgets the founders, durably: no node has been told this node's incarnation, so it is free
    /// to bootstrap a cluster with other nodes.
    pub fn forget_founders(mut self) -> io::Result<()> {
        self.identity.peers.clear();
        self.log.identify(self.identity)
    }

    /// Makes the directory that of a member: begins the log, with this membership, and then names
    /// the cluster. If an earlier start began the log, it goes on from that.
    pub fn join(mut self, cluster: ClusterId, membership: Membership) -> io::Result<Member<D>> {
        let who = self.who();
        let restored = match self.restored {
            Some(restored) => restored,
            None => self.log.begin(Snapshot::initial(membership))?,
        };
        self.identity.cluster = Some(cluster);
        self.log.identify(self.identity)?;
        Ok(Member { log: self.log, restored, who, cluster })
    }
}

/// The directory of a member of a cluster.
#[derive(Debug)]
pub struct Member<D: Disk> {
    log: Log<D>,
    restored: Restored,
    who: DurableIncarnation,
    cluster: ClusterId,
}

impl<D: Disk> Member<D> {
    /// The node, and the incarnation of its disk.
    pub fn who(&self) -> DurableIncarnation {
        self.who
    }

    /// The cluster that it is a member of.
    pub fn cluster(&self) -> ClusterId {
        self.cluster
    }

    /// What the log has kept.
    pub fn restored(&self) -> &Restored {
        &self.restored
    }

    /// The latest membership that the log has kept.
    pub fn membership(&self) -> &Membership {
        let latest = self.restored.entries.iter().rev().find_map(|entry| match &entry.payload {
            Payload::Membership(membership) => Some(membership),
            _ => None,
        });
        latest.unwrap_or(&self.restored.snapshot.membership)
    }

    /// Reads the snapshot that the log begins after, and repairs the log if that is lost. Returns
    /// what was found, if it was not the snapshot. See [`Log::check_base`]. Blocks.
    pub fn check_base(&mut self, snapshots: &Snapshots<D>) -> Result<Option<Case>, BaseError> {
        let restored = self.restored.clone();
        let (restored, case) = self.log.check_base(snapshots, self.who.node, restored)?;
        self.restored = restored;
        Ok(case)
    }

    /// The log, for the store of a driver, and what it has kept, for its core.
    pub fn into_log(self) -> (Log<D>, Restored) {
        (self.log, self.restored)
    }
}
