//! The numbers of the protocol, each a type of its own, so that a term is never taken for an index.

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
            /// The number that follows.
            #[must_use]
            pub fn next(self) -> Self {
                Self(self.0 + 1)
            }

            /// The number before. The caller knows that there is one.
            #[must_use]
            pub fn before(self) -> Self {
                Self(self.0.checked_sub(1).expect("a number before zero: a bug of the caller"))
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
    /// A term of office (§3.3): a logical clock in which at most one leader is elected. Terms of
    /// elections start at 1; term 0 is the term of the empty log.
    Term
}
number! {
    /// The position of an entry in the log. The first entry has index 1; index 0 is the empty log.
    Index
}
number! {
    /// Names a member of the cluster, for good.
    NodeId
}
number! {
    /// Tells one life of a member's disk from another: drawn at random when the data directory is
    /// made. A wiped disk under a known id comes back with another incarnation, and whatever it says
    /// counts for nothing.
    Incarnation
}
number! {
    /// The dense number of a client command: the n-th command of the log has number n - 1, whatever
    /// other entries stand between.
    CommandNumber
}
number! {
    /// Log time in milliseconds since the Unix epoch: a clock of the cluster's own, see the module
    /// `log_time`. It never goes backwards along the log.
    LogTime
}
number! {
    /// A token for one `read`, made by the library and unique for the life of the node.
    ReadId
}
number! {
    /// Numbers the rounds of heartbeats of one leader: the answer to round r proves that its sender
    /// still followed after round r had started.
    Round
}

/// Identifies an entry: the term it was made in and its index. Printed as `7@4`: index 7 of term 4.
///
/// The order is that of the up-to-date comparison of §3.6.1: by term, then by index.
#[derive(
    Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize,
)]
pub struct LogId {
    /// The term of the leader that made the entry.
    pub term: Term,
    /// The position in the log.
    pub index: Index,
}

impl LogId {
    /// The place before the first entry.
    pub const ZERO: LogId = LogId { term: Term(0), index: Index(0) };

    /// The entry at `index` made in `term`.
    pub fn new(index: u64, term: u64) -> Self {
        LogId { term: Term(term), index: Index(index) }
    }
}

impl fmt::Display for LogId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}@{}", self.index, self.term)
    }
}

/// The time as the driver sees it when it hands an event in.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct Now {
    /// A monotonic clock in nanoseconds that goes on while the machine is suspended. The log's time
    /// runs by it.
    pub monotonic_ns: u64,
    /// The wall clock in milliseconds since the Unix epoch. It counts only where no node of a quorum
    /// knows the log's time: when a cluster begins, and after all were down.
    pub wall_ms: u64,
}
