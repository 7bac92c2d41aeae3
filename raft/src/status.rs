//! What a node tells about itself.

use crate::{CommandNumber, Index, LogId, Membership, NodeId, Snapshot, Term};

/// The role of a node (§3.3).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RoleKind {
    /// Follows a leader, or waits for one.
    Follower,
    /// Asks whether it would be elected (§9.6).
    PreCandidate,
    /// Asks for votes.
    Candidate,
    /// Leads.
    Leader,
}

/// The state of a node at one moment.
#[derive(Clone, Debug)]
pub struct Status {
    /// Who it is.
    pub id: NodeId,
    /// Its term.
    pub term: Term,
    /// Its role.
    pub role: RoleKind,
    /// Whom it follows; itself, if it leads.
    pub leader: Option<NodeId>,
    /// Whether it leads and has applied the entry its term began with, so that it knows what is
    /// committed (§6.4).
    pub serving: bool,
    /// The end of its log.
    pub last: LogId,
    /// Up to here the log is on its disk.
    pub durable: Index,
    /// Up to here the log is committed, as far as it knows.
    pub commit: Index,
    /// Up to here the leader has committed, as far as this node has been told; 0 without a leader.
    pub leader_commit: Index,
    /// Up to here the state machine has applied it.
    pub applied: Index,
    /// The number that the next client command takes, if this node leads.
    pub next_number: CommandNumber,
    /// The snapshot that the durable log begins after.
    pub snapshot: Snapshot,
    /// The membership in force: the latest in the log, committed or not.
    pub membership: Membership,
    /// If set, part of the log is lost and is being repaired from the peers.
    pub lost: Option<LogId>,
    /// A write has been out for so long that the disk counts as stalled: the node does not campaign.
    pub disk_stalled: bool,
    /// This node has applied something else than a quorum, or its state machine gave other answers. It
    /// has forgotten its log and must stop; after a restart it is repaired by the others.
    pub diverged: bool,
    /// The snapshot that the log begins after cannot be read here; another one is being taken.
    pub base_unreadable: bool,
    /// A peer has told this node that it is no member: its disk was wiped, or it was removed.
    pub outcast: bool,
    /// How far each peer is. Only a leader knows.
    pub peers: Vec<PeerStatus>,
    /// What was ignored, and why.
    pub counters: Counters,
}

/// What a leader knows of a peer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PeerStatus {
    /// Which peer.
    pub id: NodeId,
    /// Up to here its durable log agrees with the leader's.
    pub matched: Index,
    /// The next entry to send.
    pub next: Index,
    /// It was heard within the last election timeout.
    pub active: bool,
    /// It is being sent a snapshot.
    pub in_snapshot: bool,
    /// Ticks since it last answered, or since this node became leader.
    pub silent_ticks: u32,
    /// Whether what it has applied is what this leader has, as of its last report; `None` if that is
    /// not known.
    pub agrees: Option<bool>,
    /// How many times this leader has found that the peer lost entries which it had acknowledged.
    pub losses: u64,
}

/// What a node has ignored since it started, and why. Peers are never trusted; what does not fit is
/// counted here.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counters {
    /// Messages addressed to another node.
    pub misaddressed: u64,
    /// Messages of a member's other life (a wiped disk).
    pub wrong_incarnation: u64,
    /// Messages that no correct peer sends.
    pub nonsense: u64,
    /// Receipts of another node, an earlier start, or an order that is not out.
    pub stale_receipts: u64,
    /// Elections started.
    pub campaigns: u64,
    /// Times this node became leader.
    pub elected: u64,
    /// Times this node gave up leading.
    pub stepped_down: u64,
    /// Times a leader has found that a peer which agreed with it, or was not known yet, has applied
    /// something else.
    pub states_differ: u64,
    /// Of the times it gave up leading: because its disk was stalled while the others could commit.
    pub disk_stepped_down: u64,
}
