//! The states of a data directory, as types.
//!
//! A directory passes through three states. Each step makes durable what the next one relies on:
//!
//! ```text
//! Directory::open ─┬─▶ Unclaimed ──announce──▶ Announced ──join──▶ MemberDirectory
//!                  └────────────────────────────────────────────▶ MemberDirectory
//! ```
//!
//! - [`Unclaimed`]: it names no cluster. The node must not send anything to a peer yet.
//! - [`Announced`]: its incarnation is durable. This state provides the [`DurableIncarnation`],
//!   which every function that introduces the node to a peer requires. A node that announced an
//!   incarnation and then lost it could take part twice, with two votes.
//! - [`MemberDirectory`]: its log has begun, and after that its identity names the cluster. The
//!   order matters: a directory that names a cluster and has no log has lost its log, and is
//!   rejected ([`OpenError::LogGone`]).
//!
//! A wrong order of these steps does not compile. This module draws no random numbers and sends
//! nothing; founders find each other through the transport.

use crate::recovery::Case;
use crate::{
    BaseError, ClusterId, Disk, Identity, Log, LogConfig, OpenError, SnapshotError, Snapshots,
};
use raft::{Incarnation, Membership, NodeId, Payload, Restored, Snapshot};
use std::io;

/// A node and its incarnation, which is durable. It can only be obtained from a directory that has
/// the incarnation on disk.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct DurableIncarnation {
    node: NodeId,
    incarnation: Incarnation,
}

impl DurableIncarnation {
    /// The id of the node.
    pub fn node(self) -> NodeId {
        self.node
    }

    /// The incarnation of its data directory.
    pub fn incarnation(self) -> Incarnation {
        self.incarnation
    }

    /// Creates one without a disk, for tests.
    #[cfg(any(test, feature = "testing"))]
    pub fn assumed(node: NodeId, incarnation: Incarnation) -> Self {
        DurableIncarnation { node, incarnation }
    }
}

/// A data directory that has been opened and locked.
#[derive(Debug)]
pub enum Directory<D: Disk> {
    /// It names no cluster yet.
    Unclaimed(Unclaimed<D>),
    /// It belongs to a member of a cluster.
    Member(MemberDirectory<D>),
}

impl<D: Disk> Directory<D> {
    /// Locks a directory and reads its content. Also returns the cases of the decision table
    /// ([`Case`]) that apply. Blocks while it reads the log.
    pub fn open(disk: D, config: LogConfig) -> Result<(Self, Vec<Case>), OpenError> {
        let (log, recovery) = Log::open(disk, config)?;
        let directory = match (recovery.identity, recovery.restored) {
            (Some(Identity { node, incarnation, cluster: Some(cluster), .. }), Some(restored)) => {
                let who = DurableIncarnation { node, incarnation };
                Directory::Member(MemberDirectory { log, restored, who, cluster })
            }
            (identity, restored) => Directory::Unclaimed(Unclaimed { log, identity, restored }),
        };
        Ok((directory, recovery.cases))
    }

    /// The node that the directory belongs to, if it belongs to one.
    pub fn node(&self) -> Option<NodeId> {
        match self {
            Directory::Unclaimed(unclaimed) => unclaimed.node(),
            Directory::Member(member) => Some(member.who.node),
        }
    }
}

/// A directory that names no cluster. It is new, or an earlier start did not finish bootstrapping
/// or joining a cluster.
#[derive(Debug)]
pub struct Unclaimed<D: Disk> {
    log: Log<D>,
    identity: Option<Identity>,
    restored: Option<Restored>,
}

fn listed(nodes: &[NodeId]) -> String {
    let nodes: Vec<String> = nodes.iter().map(NodeId::to_string).collect();
    nodes.join(", ")
}

/// Why a directory cannot be used as requested.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ClaimError {
    /// It belongs to another node. Check the id and the directory.
    #[error("the directory belongs to node {found}, not to node {expected}")]
    OtherNode {
        /// The node that it belongs to.
        found: NodeId,
        /// The node that was requested.
        expected: NodeId,
    },
    /// An earlier start began to bootstrap a cluster with other founders, which may count on this
    /// node.
    #[error(
        "the directory began to bootstrap a cluster of the nodes {}: start it with the same list, \
         or with an empty directory if no such cluster runs",
        listed(began)
    )]
    OtherFounders {
        /// The founders of that cluster.
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

    /// Makes durable that the directory belongs to `node`. With `founders` (itself included), the
    /// node bootstraps a cluster together with them; without, it joins one. If there are none, the
    /// founders of an earlier start are kept, since they may still count on this node.
    /// `incarnation` is a new random number; it is used unless an earlier start has drawn one.
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
    /// The node and its incarnation, to introduce it to peers.
    pub fn who(&self) -> DurableIncarnation {
        DurableIncarnation { node: self.identity.node, incarnation: self.identity.incarnation }
    }

    /// The disk that it is on.
    pub fn disk(&self) -> &D {
        self.log.disk()
    }

    /// Forgets the founders, durably. Only valid if no node has received this node's incarnation:
    /// then it may bootstrap a cluster with other founders.
    pub fn forget_founders(mut self) -> io::Result<()> {
        self.identity.peers.clear();
        self.log.identify(self.identity)
    }

    /// Makes this the directory of a member. It begins the log with this membership, and then names
    /// the cluster. If an earlier start has begun the log, that log is kept.
    pub fn join(
        mut self,
        cluster: ClusterId,
        membership: Membership,
    ) -> io::Result<MemberDirectory<D>> {
        let who = self.who();
        let restored = match self.restored {
            Some(restored) => restored,
            None => self.log.begin(Snapshot::initial(membership))?,
        };
        self.identity.cluster = Some(cluster);
        self.log.identify(self.identity)?;
        Ok(MemberDirectory { log: self.log, restored, who, cluster })
    }
}

/// The directory of a member of a cluster.
#[derive(Debug)]
pub struct MemberDirectory<D: Disk> {
    log: Log<D>,
    restored: Restored,
    who: DurableIncarnation,
    cluster: ClusterId,
}

impl<D: Disk> MemberDirectory<D> {
    /// The node and its incarnation.
    pub fn who(&self) -> DurableIncarnation {
        self.who
    }

    /// The cluster that the node is a member of.
    pub fn cluster(&self) -> ClusterId {
        self.cluster
    }

    /// The state that the log has kept.
    pub fn restored(&self) -> &Restored {
        &self.restored
    }

    /// The latest membership in the log, committed or not.
    pub fn membership(&self) -> &Membership {
        let latest = self.restored.entries.iter().rev().find_map(|entry| match &entry.payload {
            Payload::Membership(membership) => Some(&**membership),
            _ => None,
        });
        latest.unwrap_or(&self.restored.snapshot.membership)
    }

    /// The membership that the log begins with. Unlike that of the whole log, it is committed.
    pub fn base_membership(&self) -> &Membership {
        &self.restored.snapshot.membership
    }

    /// Reads the snapshot that the log begins after, and repairs the log if it is lost. Returns the
    /// case that applies if it is. Blocks.
    pub fn check_base(&mut self, snapshots: &Snapshots<D>) -> Result<Option<Case>, BaseError> {
        self.check_base_patiently(snapshots, |_| false)
    }

    /// As [`MemberDirectory::check_base`]. If the disk reports an error, `again` may wait and
    /// return true: then the snapshot is read again, and is lost only if `again` returns false.
    /// Blocks.
    pub fn check_base_patiently(
        &mut self,
        snapshots: &Snapshots<D>,
        again: impl FnMut(&SnapshotError) -> bool,
    ) -> Result<Option<Case>, BaseError> {
        let restored = self.restored.clone();
        let (restored, case) = self.log.check_base(snapshots, self.who.node, restored, again)?;
        self.restored = restored;
        Ok(case)
    }

    /// The log, for the driver's store, and the restored state, for its core.
    pub fn into_log(self) -> (Log<D>, Restored) {
        (self.log, self.restored)
    }
}
