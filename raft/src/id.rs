//! The numbers of the protocol. Each has a type of its own, so that a term cannot be passed as an
//! index.

use serde::{Deserialize, Serialize};
use std::fmt;

macro_rules! number {
    ($(#[$doc:meta])* $name:ident) => {
        $(#[$doc])*
        #[derive(
            Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize,
        )]
        #[serde(transparent)]
        pub struct $name(pub u64);

        impl $name {
            /// The next number.
            #[must_use]
            pub fn next(self) -> Self {
                Self(self.0 + 1)
            }

            /// The previous number. Panics at 0: the caller knows that there is one.
            #[must_use]
            pub fn before(self) -> Self {
                Self(self.0.checked_sub(1).expect("a number before zero: a bug of the caller"))
            }
        }

        impl From<u64> for $name {
            fn from(number: u64) -> Self {
                Self(number)
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, "{}", self.0)
            }
        }
    };
}

number! {
    /// A term (§3.3): a logical clock. At most one leader is elected in each. The first election
    /// is in term 1; term 0 is the term of the empty log.
    Term
}
number! {
    /// The position of an entry in the log. The first entry has index 1; index 0 is the empty log.
    Index
}
number! {
    /// Identifies a member of the cluster. It is never given to another node.
    NodeId
}
number! {
    /// Distinguishes the data directories that a member has had. It is drawn at random when the
    /// directory is created. A node whose disk was wiped comes back with another incarnation, and
    /// its peers ignore it.
    Incarnation
}
number! {
    /// The dense number of a client command: the n-th command of the log has number n - 1. Other
    /// entries take no number.
    CommandNumber
}
number! {
    /// Log time in milliseconds since the Unix epoch: one clock for the whole cluster.
    ///
    /// No single wall clock decides it. Let ρ be the drift of a monotonic clock (one in a thousand
    /// at most; one in ten while a daemon slews it to correct the time of day). Then:
    ///
    /// - It never goes backwards along the log.
    /// - As long as one node of each electing quorum has been running since its last message from a
    ///   leader, log time runs at most ρ faster than real time, whatever the wall clocks show. It
    ///   falls behind by at most ρ and the delay of one message per election. That counts from the
    ///   beginning: a change of leader may move log time forward at once, by what the fastest node
    ///   has gained on the leaders so far.
    /// - After all nodes of a quorum were down, it continues from the time that the wall clocks of
    ///   a quorum have reached. One wrong clock of three cannot make it leap; two can.
    ///
    /// Log time is not the time of day. It starts from it, and may drift away from it as the
    /// cluster runs.
    LogTime
}
number! {
    /// Identifies one read. The node assigns it; it is unique across restarts of the node.
    ReadId
}
number! {
    /// The number of a round of heartbeats of one leader. A reply to round r proves that its sender
    /// still followed the leader after round r had started.
    Round
}

/// Identifies an entry by term and index. Printed as `7@4`: index 7 of term 4.
///
/// Ordered by term, then by index: the up-to-date comparison of §3.6.1.
#[derive(Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct LogId {
    /// The term of the leader that made the entry.
    pub term: Term,
    /// The position in the log.
    pub index: Index,
}

impl LogId {
    /// The position before the first entry.
    pub const ZERO: LogId = LogId { term: Term(0), index: Index(0) };

    /// The entry at `index` made in `term`.
    pub fn new(index: u64, term: u64) -> Self {
        LogId { term: Term(term), index: Index(index) }
    }
}

/// As short as its display, since it stands in the debug text of most of what a log holds.
impl fmt::Debug for LogId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl fmt::Display for LogId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}@{}", self.index, self.term)
    }
}

/// The clocks of the node's machine, read by the driver when it passes an event in.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct Now {
    /// A monotonic clock in nanoseconds that keeps running while the machine is suspended. Log time
    /// advances by it.
    pub monotonic_ns: u64,
    /// The wall clock in milliseconds since the Unix epoch. It is used only when no node of a
    /// quorum knows the log time: when a cluster is bootstrapped, and after all nodes were down.
    pub wall_ms: u64,
}
