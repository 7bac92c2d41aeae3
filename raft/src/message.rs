//! What peers say to one another.

use crate::{
    CommandNumber, Entry, Incarnation, Index, LogId, LogTime, NodeId, ReadId, Reading, Round,
    Snapshot, StateHash, Term,
};
use bytes::Bytes;
use serde::{Deserialize, Serialize};

/// A message from one member to another. It may be lost, repeated, delayed and overtaken.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Message {
    /// Who says it.
    pub from: NodeId,
    /// To whom.
    pub to: NodeId,
    /// The sender's term when it said it.
    pub term: Term,
    /// The life of the sender's disk. See [`Incarnation`].
    pub incarnation: Incarnation,
    /// What it says.
    pub body: Body,
}

/// What a message says.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Body {
    /// Would you vote for me, if I asked? (§9.6) Changes nothing at the receiver.
    PreVote {
        /// The term that the sender would campaign in.
        next: Term,
        /// The last entry of the sender's log.
        last: LogId,
    },
    /// The answer to a `PreVote`.
    PreVoteReply {
        /// The term that was asked about.
        next: Term,
        /// Whether the sender would vote for the receiver in it.
        granted: bool,
    },
    /// Vote for me in the message's term (§3.4).
    Vote {
        /// The last entry of the sender's log, which is durable there.
        last: LogId,
        /// The leader told the sender to campaign (§3.10), so whoever hears a leader may grant it.
        transfer: bool,
    },
    /// The answer to a `Vote`.
    VoteReply {
        /// Whether the sender's vote in the message's term is the receiver's. It is durable.
        granted: bool,
        /// The sender's clock: the next leader carries the log's time on.
        clock: Reading,
    },
    /// Entries that follow `prev`, or none: a heartbeat (§3.5).
    Append {
        /// The entry that the first of `entries` follows.
        prev: LogId,
        /// What follows it, in order.
        entries: Vec<Entry>,
        /// How far the leader has committed.
        commit: Index,
        /// The round of heartbeats that this message belongs to; the reply repeats it.
        round: Round,
        /// The log's time when it was sent.
        time: LogTime,
    },
    /// The sender's log agrees with the leader's.
    Appended {
        /// Up to here it agrees and is durable.
        matched: Index,
        /// The latest round seen from this leader.
        round: Round,
        /// What the sender has applied, if it answers a new round.
        state: Option<StateHash>,
    },
    /// The sender's log has no entry `prev`.
    Rejected {
        /// The index of the `prev` that was not found.
        prev: Index,
        /// The last entry of the sender's log at or below `prev` whose term is not above that of
        /// `prev`: where the leader may try next. Terms that cannot agree are skipped whole (§3.5).
        hint: LogId,
        /// The sender has lost entries that it had acknowledged (rot); whatever it said of its log
        /// before this message's round counts no longer.
        lost: bool,
        /// The latest round seen from this leader.
        round: Round,
    },
    /// What is the read index? (§6.4) From a follower that serves a read, to its leader.
    ReadIndex {
        /// The asker's token.
        read: ReadId,
    },
    /// The answer to a `ReadIndex`: whoever has applied up to `index` may serve the read.
    ReadIndexReply {
        /// The asker's token.
        read: ReadId,
        /// The commit index that a quorum has confirmed since the question came; `None` if this
        /// node cannot tell (it leads no more, or has too many reads waiting).
        index: Option<Index>,
    },
    /// The receiver has applied something else than a quorum, or given other answers: its copy is wrong.
    Diverged {
        /// What it reported.
        state: StateHash,
    },
    /// Campaign at once (§3.10): the sender, a leader, hands over its office.
    TimeoutNow,
    /// A command for the leader of the message's term, from a follower whose client waits for it. A
    /// leader takes it once, however often it arrives. Nobody else answers it: a node that led in this
    /// term and does so no more may have taken it when it arrived before.
    Forward {
        /// The start of the sender.
        start: u64,
        /// Its number among those that the sender has forwarded since its start.
        number: u64,
        /// The command.
        command: Bytes,
    },
    /// The answer to a `Forward`.
    ForwardReply {
        /// What the `Forward` said.
        start: u64,
        /// What the `Forward` said.
        number: u64,
        /// What became of the command so far.
        outcome: Forwarded,
    },
    /// The receiver is not who the sender's membership says: its disk was wiped, or a committed
    /// configuration has removed it. It must stop taking part.
    Outcast {
        /// The sender's commit index, when it knew this.
        commit: Index,
        /// The incarnation that was refused. Any other life of the receiver ignores the message.
        refused: Incarnation,
    },
}

/// A leader's offer of a snapshot to a peer that is further behind than the leader's log reaches
/// (§5.3). It travels beside the stream of messages, followed by the snapshot's bytes.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Offer {
    /// The leader.
    pub from: NodeId,
    /// The peer that needs it.
    pub to: NodeId,
    /// The leader's term.
    pub term: Term,
    /// The life of the leader's disk.
    pub incarnation: Incarnation,
    /// What is offered.
    pub snapshot: Snapshot,
}

/// What became of a command that a follower forwarded to its leader, so far.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Forwarded {
    /// It is in the leader's log. What becomes of it there, the follower's own log tells.
    Appended {
        /// Its place.
        id: LogId,
        /// Its number among the client commands.
        number: CommandNumber,
    },
    /// Certainly not done: too much waits to be committed.
    Busy,
    /// Certainly not done: the command is larger than this many bytes.
    TooLarge {
        /// The limit.
        limit_bytes: u64,
    },
    /// Unknown: the leader did not answer before it was lost, or for too long. It is never sent.
    Lost,
}

impl Body {
    /// The number of bytes that the entries in it count as.
    pub fn cost_bytes(&self) -> usize {
        match self {
            Body::Append { entries, .. } => entries.iter().map(Entry::cost_bytes).sum(),
            Body::Forward { command, .. } => command.len(),
            _ => 0,
        }
    }
}
