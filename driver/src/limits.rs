//! The limits of a node's queues.
//!
//! They bound a node's memory, and determine when a call is rejected as `Busy`. They do not include
//! the queues between the node's parts (receipts, orders), whose length the core bounds. For
//! messages from peers see [`inbox_limited`](crate::inbox_limited).

use tokio::sync::Semaphore;

/// The limits of a node's queues. Start from [`Limits::default`] and change its fields. Values are
/// clamped to the range from 1 to the longest possible queue.
///
/// A queue takes memory only for what waits in it: about 100 bytes for each item, and the bytes of
/// commands and queries. The bytes of queries have no limit here.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Limits {
    /// The most client calls (proposals and reads) that wait for the core, 8192 by default.
    /// Further ones are rejected.
    pub calls_max: usize,
    /// The most bytes of commands that wait for the core, 256 MiB by default. A further command is
    /// rejected, unless none waits.
    pub calls_bytes_max: usize,
    /// The most calls (reads, batches of confirmed reads, and waits) that wait for the state
    /// machine, 16,384 by default. Further calls are rejected; a batch of confirmed reads is
    /// retried.
    pub machine_calls_max: usize,
    /// The most orders that wait for the part that writes snapshots, 8 by default. At most one is a
    /// snapshot; the others order it to clean up. A snapshot that does not fit counts as failed and
    /// is ordered again.
    pub snapshot_orders_max: usize,
    /// The most unanswered reads, 16,384 by default. Further ones are rejected.
    pub reads_waiting_max: usize,
    /// The most undecided proposals, 65,536 by default. Further ones are rejected.
    pub proposals_max: usize,
    /// The most callers that wait for a command to be applied, 65,536 by default. Further ones are
    /// rejected.
    pub waiters_max: usize,
}

impl Default for Limits {
    fn default() -> Self {
        Limits {
            calls_max: 8192,
            calls_bytes_max: 256 << 20,
            machine_calls_max: 16_384,
            snapshot_orders_max: 8,
            reads_waiting_max: 16_384,
            proposals_max: 65_536,
            waiters_max: 65_536,
        }
    }
}

impl Limits {
    /// The limits with each clamped: a queue without room would reject everything.
    pub(crate) fn in_range(self) -> Self {
        Limits {
            calls_max: in_range(self.calls_max),
            calls_bytes_max: self.calls_bytes_max,
            machine_calls_max: in_range(self.machine_calls_max),
            snapshot_orders_max: in_range(self.snapshot_orders_max),
            reads_waiting_max: in_range(self.reads_waiting_max),
            proposals_max: in_range(self.proposals_max),
            waiters_max: in_range(self.waiters_max),
        }
    }
}

/// The nearest length that a queue can have.
pub(crate) fn in_range(max: usize) -> usize {
    max.clamp(1, Semaphore::MAX_PERMITS)
}
