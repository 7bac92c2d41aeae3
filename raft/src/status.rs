//! The status of a node, for operators and tests.

use crate::{CommandNumber, Index, LogId, Membership, NodeId, Snapshot, Term};

/// The role of a node (§3.3).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RoleKind {
    /// Follows a leader, or waits for one to be elected.
    Follower,
    /// Has started a pre-vote (§9.6).
    PreCandidate,
    /// Has requested votes in a new term (§3.4).
    Candidate,
    /// Replicates its log to the other members.
    Leader,
}

/// The state of a node at one moment.
#[derive(Clone, Debug)]
pub struct Status {
    /// The id of the node.
    pub id: NodeId,
    /// The current term, which may not be durable yet.
    pub term: Term,
    /// The role of the node in that term.
    pub role: RoleKind,
    /// The leader that the node follows; its own id if it leads.
    pub leader: Option<NodeId>,
    /// The target, while this node hands leadership over. It takes no proposals meanwhile.
    pub transferring: Option<NodeId>,
    /// Whether the node leads and has applied the no-op of its term. Only then does it know what is
    /// committed (§6.4).
    pub serving: bool,
    /// Whether the node leads and holds a lease: it answers lease reads without a round of
    /// heartbeats.
    pub lease: bool,
    /// The last entry of its log.
    pub last: LogId,
    /// The last index that is on its disk.
    pub durable: Index,
    /// The commit index, as far as the node knows it.
    pub commit: Index,
    /// The leader's commit index, as far as this node has received it. 0 without a leader.
    pub leader_commit: Index,
    /// The last index that the state machine has applied.
    pub applied: Index,
    /// The number that the next client command takes if this node leads.
    pub next_number: CommandNumber,
    /// The snapshot that the durable log begins after.
    pub snapshot: Snapshot,
    /// The membership in force: the latest in the log, committed or not.
    pub membership: Membership,
    /// The index of its entry, which is its version. 0 if it is that of the beginning.
    pub membership_index: Index,
    /// If a change was given up, and the membership in force came of that: the index of the
    /// change's first entry. `None` once that is compacted.
    pub given_up: Option<Index>,
    /// If set, part of the log is lost and is being repaired from the peers. The value is the end
    /// of the lost log.
    pub lost: Option<LogId>,
    /// A write takes so much time that the disk counts as stalled. The node does not campaign.
    pub disk_stalled: bool,
    /// This node's state differs from that of a quorum: it has applied other entries, or its state
    /// machine gave other answers. It has reset its log and must stop. After a restart its peers
    /// repair it.
    pub diverged: bool,
    /// The snapshot that the log begins after is unreadable on this node. Another one is being
    /// taken.
    pub base_unreadable: bool,
    /// This node is no member: a peer has rejected it (its disk was wiped, or it was removed), or a
    /// committed membership has removed it. It must stop.
    pub not_a_member: bool,
    /// A committed membership in this node's own log has removed it. Then `not_a_member` is set. A
    /// leader that is removed first hands leadership over.
    pub removed: bool,
    /// The replication progress of each peer. Empty unless this node leads.
    pub peers: Vec<PeerStatus>,
    /// Messages and receipts that were ignored, and elections.
    pub counters: Counters,
}

/// The replication progress of a peer, as its leader knows it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PeerStatus {
    /// The id of the peer.
    pub id: NodeId,
    /// The last index up to which its durable log agrees with the leader's.
    pub matched: Index,
    /// The next entry to send.
    pub next: Index,
    /// Whether it has replied since the leader last checked for a quorum (once per election
    /// timeout).
    pub active: bool,
    /// Whether a snapshot is being sent to it.
    pub in_snapshot: bool,
    /// Ticks since its last reply, or since this node became leader.
    pub silent_ticks: u32,
    /// Ticks since it last had on its disk all that the leader's log held when this count began. A
    /// peer that replies and is behind for long has a slow connection, or a disk that is slow, full
    /// or hangs.
    pub behind_ticks: u32,
    /// Whether its state agrees with this leader's, as of its last report. `None` if that is not
    /// known.
    pub agrees: Option<bool>,
    /// If it does not agree: the first index at which it was found to differ. While no quorum has
    /// one state from there on, the leader sends no snapshot to anybody.
    pub differs_at: Option<Index>,
    /// Its priority, as of its latest reply; 0 while it could not lead, or has lately failed to.
    pub priority: u8,
    /// How many times this leader has found that the peer lost entries that it had acknowledged.
    pub losses: u64,
}

/// Counts since the node started. Peers are never trusted: a message that does not fit is ignored
/// and counted here.
///
/// An operator should look at every increase of `wrong_incarnation` (a member runs with a wiped or
/// wrong directory), `states_differ` (a copy is wrong) and `disk_stepped_down` (a sick disk). A
/// `stepped_down` that grows steadily shows that the election timeout is too short for the network
/// or the disks.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counters {
    /// Messages addressed to another node.
    pub misaddressed: u64,
    /// Messages with another incarnation than the member's (a wiped disk).
    pub wrong_incarnation: u64,
    /// Messages of nodes that are not members, ignored because another node leads.
    pub strangers: u64,
    /// Messages that no correct peer sends.
    pub invalid_messages: u64,
    /// Receipts of another node, of an earlier start, or for an order that is not pending.
    pub stale_receipts: u64,
    /// Elections started.
    pub campaigns: u64,
    /// Times this node became leader.
    pub elected: u64,
    /// Times this node stopped leading.
    pub stepped_down: u64,
    /// Times this node, as leader, has found that a peer's state differs. A peer that is already
    /// known to differ is not counted again.
    pub states_differ: u64,
    /// The times it stopped leading because its disk was stalled while the others could commit.
    pub disk_stepped_down: u64,
    /// The times it stopped leading because no majority of the voters had answered for an election
    /// timeout (CheckQuorum, §6.2).
    pub quorum_stepped_down: u64,
    /// Lease reads that this node has answered from its lease: its own and those of followers.
    pub lease_reads: u64,
    /// Times this node, as leader, began to hand leadership over to a voter with a higher priority.
    pub gave_way: u64,
}
