//! How much may wait at once in the queues of a node.
//!
//! They bound a node's memory, and decide when a caller is refused with `Busy`. Not among them: the
//! queues between the node's parts (receipts, orders), which hold what the core has out at once, and what
//! comes from peers, see [`inbox_limited`](crate::inbox_limited).

use tokio::sync::Semaphore;

/// The limits of a node's queues. 0 counts as 1, and more than a queue can hold as that.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// Calls of clients (proposals and reads) that may wait for the core; beyond it they are refused.
    pub calls_max: usize,
    /// Questions to the state machine (reads, batches of confirmed reads, and waits) that may wait
    /// for it. Beyond it calls are refused; a batch of confirmed reads is asked again.
    pub asks_max: usize,
    /// Jobs that may wait for the part that writes snapshots. The core has at most one snapshot out;
    /// the others are orders to clean up. A snapshot that does not fit has failed.
    pub jobs_max: usize,
    /// Reads that may be unanswered; beyond it they are refused.
    pub reads_max: usize,
    /// Proposals that may be undecided; beyond it they are refused.
    pub proposals_max: usize,
    /// Those who may wait for a command to be applied; beyond it they are refused.
    pub waiters_max: usize,
}

impl Default for Limits {
    fn default() -> Self {
        Limits {
            calls_max: 8192,
            asks_max: 16_384,
            jobs_max: 8,
            reads_max: 16_384,
            proposals_max: 65_536,
            waiters_max: 65_536,
        }
    }
}

impl Limits {
    /// The same, as far as queues can be made: one without room would refuse everything for ever.
    pub(crate) fn in_range(self) -> Self {
        Limits {
            calls_max: in_range(self.calls_max),
            asks_max: in_range(self.asks_max),
            jobs_max: in_range(self.jobs_max),
            reads_max: in_range(self.reads_max),
            proposals_max: in_range(self.proposals_max),
            waiters_max: in_range(self.waiters_max),
        }
    }
}

/// The length nearest to this that a queue can have.
pub(crate) fn in_range(max: usize) -> usize {
    max.clamp(1, Semaphore::MAX_PERMITS)
}
