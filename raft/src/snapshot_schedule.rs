//! When this node takes the next snapshot of its state machine.
//!
//! A snapshot is due when enough entries have been applied since the last order, when one has
//! failed some time ago, or when the one that the log begins after cannot be read. At most one
//! order is pending.

use crate::Config;

/// After a snapshot could not be written, the wait before the next attempt is an election timeout.
/// It doubles with each failure, at most this many times.
const DOUBLINGS_MAX: u32 = 7;

#[derive(Clone, Debug, Default)]
pub(crate) struct SnapshotSchedule {
    /// The number of the pending order.
    out: Option<u64>,
    /// Consecutive failures, and the ticks until the next attempt.
    failures: u32,
    wait: u32,
    /// A snapshot is due, however little has been applied since the last order.
    is_wanted: bool,
    /// Bytes of entries applied since the last order, and writes.
    applied_bytes: usize,
    writes: usize,
    /// The size of the last snapshot, as far as it is known.
    last_bytes: u64,
    /// The snapshot that the log begins after cannot be read.
    base_unreadable: bool,
}

impl SnapshotSchedule {
    /// The schedule of a node that starts with this many entries in its log.
    pub fn new(entries: usize) -> Self {
        SnapshotSchedule { writes: entries, ..SnapshotSchedule::default() }
    }

    /// One tick of the clock has passed.
    pub fn tick(&mut self) {
        if self.wait > 0 {
            self.wait -= 1;
            self.is_wanted |= self.wait == 0;
        }
    }

    /// Entries of this size are applied.
    pub fn applied(&mut self, bytes: usize) {
        self.applied_bytes += bytes;
    }

    /// The log is written once more.
    pub fn wrote(&mut self) {
        self.writes += 1;
    }

    /// The size of the last snapshot that was taken or restored.
    pub fn set_last_bytes(&mut self, bytes: u64) {
        self.last_bytes = bytes;
    }

    /// Whether a snapshot is to be ordered: in proportion to the last one, see
    /// `Config::snapshot_log_bytes`.
    pub fn is_due(&self, config: &Config) -> bool {
        let (least, most) = (config.snapshot_log_bytes, config.snapshot_log_bytes_max);
        let last = usize::try_from(self.last_bytes).unwrap_or(usize::MAX);
        let is_due = self.is_wanted
            || self.applied_bytes >= last.clamp(least, most.max(least))
            || self.writes >= config.snapshot_log_writes;
        is_due && self.out.is_none()
    }

    /// What made a snapshot due is dealt with: an order follows, or none is possible.
    pub fn begins(&mut self) {
        self.applied_bytes = 0;
        self.writes = 0;
        self.is_wanted = false;
        self.wait = 0;
    }

    /// The order with this number is pending.
    pub fn ordered(&mut self, number: u64) {
        self.out = Some(number);
    }

    /// The number of the pending order.
    pub fn out(&self) -> Option<u64> {
        self.out
    }

    /// The pending order has failed. Another one follows after a pause.
    pub fn failed(&mut self, config: &Config) {
        self.out = None;
        let doublings = self.failures.min(DOUBLINGS_MAX);
        self.wait = config.election_ticks.saturating_mul(1 << doublings);
        self.failures = self.failures.saturating_add(1);
    }

    /// The pending order is done.
    pub fn done(&mut self) {
        self.out = None;
        self.failures = 0;
    }

    /// The pending order no longer counts: the state is to be replaced.
    pub fn forget_order(&mut self) {
        self.out = None;
    }

    /// The snapshot that the log begins after is unreadable. Another one is wanted.
    pub fn base_is_unreadable(&mut self) {
        if !self.base_unreadable {
            self.base_unreadable = true;
            self.is_wanted = true;
        }
    }

    /// The log begins after a snapshot that can be read.
    pub fn base_is_readable(&mut self) {
        self.base_unreadable = false;
    }

    /// Whether the snapshot that the log begins after is unreadable.
    pub fn is_base_unreadable(&self) -> bool {
        self.base_unreadable
    }
}
