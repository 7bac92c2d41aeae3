//! When this node takes the next snapshot of its state machine.
//!
//! A snapshot is due when enough entries have been applied since the last order, when one has
//! failed some time ago, when the log has no room, or when the one that the log begins after cannot
//! be read. At most one order is pending.
//!
//! A snapshot falls on a round index: a multiple of a power of two, which is between an eighth and
//! a quarter of the number of entries since the last one. So nodes that would order it a few
//! entries apart take it at the same entry, and hold the same snapshot. A leader can then continue
//! the transfer that another one has begun. The nodes agree on nothing for that: one that takes
//! its snapshot elsewhere only sends another one.

use crate::{Config, Index};

/// After a snapshot could not be written, the wait before the next attempt is an election timeout.
/// It doubles with each failure, at most this many times.
const DOUBLINGS_MAX: u32 = 7;

/// While the log has no room, the wait is at most this many election timeouts. The node can store
/// nothing meanwhile.
const NO_ROOM_ELECTIONS: u32 = 8;

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
    /// The entries up to here were in the log at the start. Each counts as a write once it is
    /// applied.
    restored: Index,
    /// The last entry that was applied at the last order.
    ordered_at: Index,
    /// The entry at which the snapshot that is due falls.
    place: Option<Index>,
    /// The size of the last snapshot, as far as it is known.
    last_bytes: u64,
    /// The snapshot that the log begins after cannot be read.
    base_unreadable: bool,
}

impl SnapshotSchedule {
    /// The schedule of a node whose log begins after a snapshot at `base` and ends at `last`.
    pub fn new(base: Index, last: Index) -> Self {
        SnapshotSchedule { restored: last, ordered_at: base, ..SnapshotSchedule::default() }
    }

    /// One tick of the clock has passed.
    pub fn tick(&mut self) {
        if self.wait > 0 {
            self.wait -= 1;
            self.is_wanted |= self.wait == 0;
        }
    }

    /// Whether no order is pending, and no tick will make one due.
    pub fn is_at_rest(&self) -> bool {
        self.out.is_none() && self.wait == 0 && !self.is_wanted
    }

    /// The entries after `from`, up to `to`, are applied. They have this size.
    pub fn applied(&mut self, from: Index, to: Index, bytes: usize) {
        self.applied_bytes += bytes;
        let restored = to.min(self.restored).0.saturating_sub(from.0);
        self.writes += usize::try_from(restored).unwrap_or(usize::MAX);
    }

    /// A write found no room, and a snapshot may free some: it is due now, unless one is pending or
    /// has just failed.
    pub fn no_room(&mut self, config: &Config) {
        self.wait = self.wait.min(config.election_ticks.saturating_mul(NO_ROOM_ELECTIONS));
        self.is_wanted |= self.out.is_none() && self.wait == 0;
    }

    /// The log is written once more.
    pub fn wrote(&mut self) {
        self.writes += 1;
    }

    /// The size of the last snapshot that was taken or restored.
    pub fn set_last_bytes(&mut self, bytes: u64) {
        self.last_bytes = bytes;
    }

    /// The entry at which a snapshot is to be ordered, if one is due and the entries up to
    /// `applied` are applied: in proportion to the last one, see `Config::snapshot_log_bytes`.
    pub fn place(&mut self, config: &Config, applied: Index) -> Option<Index> {
        if self.out.is_some() {
            return None;
        }
        let (least, most) = (config.snapshot_log_bytes, config.snapshot_log_bytes_max);
        let last = usize::try_from(self.last_bytes).unwrap_or(usize::MAX);
        let (bytes_max, writes_max) =
            (last.clamp(least, most.max(least)), config.snapshot_log_writes);
        let is_over =
            |bytes: usize, writes: usize| self.applied_bytes >= bytes || self.writes >= writes;
        if self.is_wanted || is_over(with_a_quarter(bytes_max), with_a_quarter(writes_max)) {
            return Some(applied);
        }
        if !is_over(bytes_max, writes_max) {
            return None;
        }
        let entries = applied.0.saturating_sub(self.ordered_at.0);
        Some(*self.place.get_or_insert_with(|| round_up(applied, entries)))
    }

    /// Counts anew from here, because a snapshot was ordered, or none is possible, or the log was
    /// replaced. The entries up to `applied` are applied.
    pub fn begins(&mut self, applied: Index) {
        self.ordered_at = applied;
        self.place = None;
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

fn with_a_quarter(limit: usize) -> usize {
    limit.saturating_add(limit / 4)
}

/// The first round index from `applied` on. This many entries have been applied since the last
/// snapshot.
fn round_up(applied: Index, entries: u64) -> Index {
    let step = (entries / 4).max(1).ilog2();
    Index(applied.0.div_ceil(1 << step) << step)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Incarnation, NodeId};

    #[test]
    fn a_log_without_room_does_not_wait_for_long() {
        let config = Config::new(NodeId(1), Incarnation(1), 1);
        let mut schedule = SnapshotSchedule::default();
        for number in 0..20 {
            schedule.ordered(number);
            schedule.failed(&config);
        }
        schedule.no_room(&config);
        let until = (1..).find(|_| {
            schedule.tick();
            schedule.place(&config, Index(1)).is_some()
        });
        assert_eq!(until, Some(8 * config.election_ticks));
    }

    #[test]
    fn nodes_that_are_a_few_entries_apart_take_the_same_snapshot() {
        // (applied, entries since the last order, the place)
        let cases = [
            (7, 7, 7),
            (9, 8, 10),
            (103, 100, 112),
            (112, 109, 112),
            (65_000, 60_000, 65_536),
            (65_300, 60_300, 65_536),
            (65_536, 65_536, 65_536),
        ];
        for (applied, entries, place) in cases {
            assert_eq!(round_up(Index(applied), entries), Index(place), "{applied} {entries}");
        }
    }
}
