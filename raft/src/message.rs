//! The messages that peers send to each other.

use crate::{
    CommandNumber, Entries, Entry, Incarnation, Index, LogId, LogTime, NodeId, ReadId, Reading,
    Request, Round, Snapshot, StateHash, Term,
};
use serde::{Deserialize, Serialize};

/// A message from one member to another. It may be lost, duplicated, delayed and reordered.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Message {
    /// The sender.
    pub from: NodeId,
    /// The receiver. A node ignores and counts messages addressed to another.
    pub to: NodeId,
    /// The sender's current term.
    pub term: Term,
    /// Identifies the sender's data directory. See [`Incarnation`].
    pub incarnation: Incarnation,
    /// The kind of message, and its content.
    pub body: Body,
}

/// The content of a message. Each kind carries only the fields that it needs.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Body {
    /// Asks whether the receiver would grant its vote (pre-vote, §9.6). Changes nothing at the
    /// receiver.
    PreVote {
        /// The term of the election that the sender would start.
        next: Term,
        /// The last entry of the sender's log.
        last: LogId,
    },
    /// The reply to a `PreVote`.
    PreVoteReply {
        /// The term that the `PreVote` named.
        next: Term,
        /// Whether the sender would grant the receiver its vote in that term.
        granted: bool,
        /// The incarnation of the candidate. Another node with its id ignores the reply.
        candidate: Incarnation,
    },
    /// Requests the receiver's vote in the message's term (§3.4).
    Vote {
        /// The last entry of the sender's log. It is durable there.
        last: LogId,
        /// The election was ordered by the leader (leadership transfer, §3.10). A receiver that
        /// has a live leader considers the request all the same.
        transfer: bool,
    },
    /// The reply to a `Vote`.
    VoteReply {
        /// Whether the sender has voted for the receiver in the message's term. A granted vote is
        /// durable.
        granted: bool,
        /// The sender's log clock. The next leader continues the log time from it.
        clock: Reading,
        /// The incarnation of the candidate. Another node with its id ignores the reply.
        candidate: Incarnation,
    },
    /// Entries that follow `prev`. Without entries it is a heartbeat (§3.5).
    Append {
        /// The entry right before `entries`.
        prev: LogId,
        /// The entries after `prev`, contiguous, at most 65,536. May be empty.
        entries: Entries,
        /// The leader's commit index.
        commit: Index,
        /// The round of heartbeats that this message belongs to. The reply repeats it.
        round: Round,
        /// The log time when it was sent.
        time: LogTime,
    },
    /// Acknowledges that the sender's log agrees with the leader's.
    Appended {
        /// The last index up to which the logs agree and the sender's log is durable.
        matched: Index,
        /// The latest round that the sender has received from this leader.
        round: Round,
        /// The hash of what the sender has applied. Set only in the reply to a new round, if it is
        /// known.
        state: Option<StateHash>,
        /// For how long the sender grants no vote, in milliseconds of its own clock since it
        /// received the latest message of this leader. 0 without leases.
        promise_ms: u32,
        /// The sender's priority. 0 while it could not lead, for instance because its disk is
        /// stalled, and for a while after it has failed as a leader.
        priority: u8,
    },
    /// Reports that the sender's log has no entry `prev`.
    Rejected {
        /// The index of the `prev` that the sender does not have.
        prev: Index,
        /// The last entry of the sender's log at or below `prev` whose term is not above that of
        /// `prev`. The leader tries there next, which skips whole terms that cannot agree (§3.5).
        hint: LogId,
        /// The sender has lost entries that it had acknowledged (disk damage). Its replies to
        /// rounds before this message's round are void.
        lost: bool,
        /// The latest round that the sender has received from this leader.
        round: Round,
    },
    /// A follower requests the read index for one of its reads from its leader (§6.4).
    ReadIndex {
        /// The follower's token for the read.
        read: ReadId,
        /// The leader may answer from its lease.
        lease: bool,
    },
    /// The reply to a `ReadIndex`. The follower may serve the read once it has applied up to
    /// `index`.
    ReadIndexReply {
        /// The token from the `ReadIndex`.
        read: ReadId,
        /// The leader's commit index, confirmed by a quorum after the request arrived, or by a
        /// lease that held then. `None` if
        /// the sender is not the leader, or has too many reads waiting.
        index: Option<Index>,
    },
    /// The receiver's state differs from that of a quorum: it has applied other entries, or its
    /// state machine gave other answers. Its copy is wrong.
    Diverged {
        /// The hash that the receiver reported.
        state: StateHash,
    },
    /// The sender, a leader, orders the receiver to start an election at once (leadership transfer,
    /// §3.10).
    TimeoutNow,
    /// A client's request that a follower forwards to the leader of the message's term. The leader
    /// appends it at most once, even if the message arrives twice. No other node replies: a node
    /// that led earlier in this term may have appended a previous copy.
    Forward {
        /// The sender's start nonce.
        start: u64,
        /// Numbers the commands that the sender has forwarded since that start, from 1.
        number: u64,
        /// The request.
        request: Request,
    },
    /// The reply to a `Forward`.
    ForwardReply {
        /// The start nonce from the `Forward`.
        start: u64,
        /// The number from the `Forward`.
        number: u64,
        /// The leader's decision, or `Lost` if it is not known.
        outcome: Forwarded,
    },
    /// The receiver's incarnation is not the one in the sender's membership: its disk was wiped, or
    /// it was removed. The receiver must stop taking part.
    NotAMember {
        /// The sender's commit index when it sent this.
        commit: Index,
        /// The incarnation that was rejected. A receiver with another incarnation ignores the
        /// message.
        refused: Incarnation,
    },
}

impl Body {
    /// The incarnation that the message is meant for, where the id does not suffice: the sender's
    /// membership may list another node under it.
    pub fn meant_for(&self) -> Option<Incarnation> {
        match self {
            Body::PreVoteReply { candidate, .. } | Body::VoteReply { candidate, .. } => {
                Some(*candidate)
            }
            Body::NotAMember { refused, .. } => Some(*refused),
            _ => None,
        }
    }
}

/// A leader's offer of a snapshot to a peer that needs entries from before the start of the
/// leader's log (§5.1). It travels outside the stream of messages, followed by the snapshot's
/// bytes.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct SnapshotOffer {
    /// The leader that offers the snapshot.
    pub from: NodeId,
    /// The peer that needs the snapshot.
    pub to: NodeId,
    /// The leader's term when it made the offer.
    pub term: Term,
    /// Identifies the leader's data directory. See [`Incarnation`].
    pub incarnation: Incarnation,
    /// Describes the snapshot.
    pub snapshot: Snapshot,
}

/// The outcome of a command that a follower forwarded to its leader.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Forwarded {
    /// The command is in the leader's log. The follower's own log shows whether it is committed.
    Appended {
        /// The entry that holds it.
        id: LogId,
        /// Its number among the client commands.
        number: CommandNumber,
    },
    /// Not appended: the leader has too much that is not committed yet.
    Busy,
    /// Not appended: the command is larger than the limit.
    TooLarge {
        /// The leader's limit for one command, in bytes.
        limit_bytes: u64,
    },
    /// Unknown: the leader did not reply in time, or the follower lost its leader. The command may
    /// have been appended. Never sent in a message.
    Lost,
    /// Not appended: the leader hands leadership over. The command may be repeated.
    NotTaken,
}

impl Body {
    /// The bytes of entries or command that the message carries. Other content counts as 0.
    pub fn cost_bytes(&self) -> usize {
        match self {
            Body::Append { entries, .. } => entries.iter().map(Entry::cost_bytes).sum(),
            Body::Forward { request, .. } => request.len(),
            _ => 0,
        }
    }
}
