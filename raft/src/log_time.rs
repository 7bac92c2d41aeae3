//! Log time: one clock for the whole cluster. A state machine may expire things by it.
//!
//! [`LogTime`] states what it promises. No single wall clock decides it: a clock that is wrong by
//! an hour would end everything that expires, or keep it alive. Where the wall clocks of a quorum
//! disagree the earlier one counts, so something may expire later but not early.
//!
//! A leader's log time advances by its monotonic clock from its starting value. Every append
//! carries the log time. Each follower keeps the latest value and advances it by its own monotonic
//! clock. A granted vote carries the voter's reading, and a new leader starts from the latest
//! reading of its voters. A node that was just started has no log time and reports its wall clock
//! instead.

use crate::validation::NUMBER_MAX;
use crate::{LogTime, Membership, NodeId, Now};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

/// A voter's reading of the clock.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Reading {
    /// The log time, received from a leader and advanced since.
    Running(LogTime),
    /// The voter's wall clock: it has received nothing from a leader since its start.
    Wall(LogTime),
}

impl Reading {
    /// The time of the reading, from either source.
    pub fn time(self) -> LogTime {
        match self {
            Reading::Running(time) | Reading::Wall(time) => time,
        }
    }
}

impl Default for Reading {
    fn default() -> Self {
        Reading::Wall(LogTime(0))
    }
}

/// A time that is further ahead of this node's wall clock is not taken over: 139 years, so that a
/// wall clock that was never set does no harm. Without this limit, one wrong message could set the
/// cluster's clock so far ahead that it reaches the end of its range.
const AHEAD_MAX_MS: u64 = 1 << 42;

/// The log's time as one node knows it.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct LogClock {
    /// The latest known log time, and the monotonic clock in nanoseconds at that moment.
    known: Option<(LogTime, u64)>,
    /// The latest reading of the monotonic clock, in nanoseconds.
    seen_ns: u64,
}

impl LogClock {
    /// A reading of the clocks. If the monotonic clock has gone back, as when a virtual machine was
    /// moved, the log time goes on from where it was. It would stand still until the clock reads as
    /// much again.
    pub fn see(&mut self, now: Now) {
        let before = Now { monotonic_ns: self.seen_ns, ..now };
        if now.monotonic_ns < self.seen_ns
            && let Some(time) = self.time(before)
        {
            self.known = Some((time, now.monotonic_ns));
        }
        self.seen_ns = now.monotonic_ns;
    }

    /// The log time now; `None` if this node has no log time yet.
    pub fn time(&self, now: Now) -> Option<LogTime> {
        self.known.map(|(time, at_ns)| {
            let passed_ms = now.monotonic_ns.saturating_sub(at_ns) / 1_000_000;
            LogTime(time.0.saturating_add(passed_ms).min(NUMBER_MAX))
        })
    }

    /// Takes over a leader's log time (perhaps this node's own), unless this node already knows a
    /// later one. Messages take time to arrive.
    pub fn observe(&mut self, time: LogTime, now: Now) {
        if is_plausible(time, now) && self.time(now).is_none_or(|known| known < time) {
            self.known = Some((time, now.monotonic_ns));
        }
    }

    pub fn reading(&self, now: Now) -> Reading {
        match self.time(now) {
            Some(time) => Reading::Running(time),
            None => Reading::Wall(LogTime(now.wall_ms)),
        }
    }
}

fn is_plausible(time: LogTime, now: Now) -> bool {
    time.0 <= now.wall_ms.saturating_add(AHEAD_MAX_MS)
}

/// The log time that a new leader starts with: the latest that one of its voters knows. If none
/// knows it, the time that the wall clocks of a quorum have reached. Never before `last`, the time
/// of the leader's last entry.
pub(crate) fn start(
    membership: &Membership,
    readings: &BTreeMap<NodeId, Reading>,
    last: LogTime,
    now: Now,
) -> LogTime {
    let known = readings.values().filter_map(|reading| match reading {
        Reading::Running(time) if is_plausible(*time, now) => Some(*time),
        Reading::Running(_) | Reading::Wall(_) => None,
    });
    let agreed = || membership.reached(|id| readings.get(&id).map_or(LogTime(0), |r| r.time()));
    known.max().unwrap_or_else(agreed).max(last)
}

#[cfg(test)]
mod tests {
    use super::*;
    use Reading::{Running, Wall};
    use std::collections::BTreeSet;

    fn at(monotonic_ms: u64) -> Now {
        Now { monotonic_ns: monotonic_ms * 1_000_000, wall_ms: 777 }
    }

    #[test]
    fn the_time_goes_on_when_the_monotonic_clock_has_gone_back() {
        let mut clock = LogClock::default();
        clock.see(at(10_000));
        clock.observe(LogTime(1_000), at(10_000));
        clock.see(at(10_500));
        clock.see(at(20));
        assert_eq!(clock.time(at(20)), Some(LogTime(1_500)));
        clock.see(at(70));
        assert_eq!(clock.time(at(70)), Some(LogTime(1_550)));
    }

    #[test]
    fn a_node_runs_the_time_it_has_heard_on_by_its_monotonic_clock() {
        let mut clock = LogClock::default();
        assert_eq!((clock.time(at(5)), clock.reading(at(5))), (None, Wall(LogTime(777))));
        clock.observe(LogTime(1_000), at(10));
        assert_eq!(clock.reading(at(60_010)), Running(LogTime(61_000)));
        clock.observe(LogTime(60_900), at(60_010));
        assert_eq!(
            clock.time(at(60_020)),
            Some(LogTime(61_010)),
            "a late message sets nothing back"
        );
        clock.observe(LogTime(62_000), at(60_020));
        assert_eq!(clock.time(at(60_021)), Some(LogTime(62_001)));
    }

    #[test]
    fn a_time_that_no_clock_can_show_is_not_taken_over() {
        let mut clock = LogClock::default();
        clock.observe(LogTime(1_000), at(10));
        clock.observe(LogTime(NUMBER_MAX - 5), at(20));
        assert_eq!(clock.time(at(20)), Some(LogTime(1_010)));
        // A clock at the end of its range stays in it.
        clock.known = Some((LogTime(NUMBER_MAX - 5), 0));
        assert_eq!(clock.time(at(60_000)), Some(LogTime(NUMBER_MAX)));
    }

    #[test]
    fn a_leader_begins_with_what_its_voters_know_and_else_with_what_a_quorum_of_clocks_has_reached()
    {
        let last = LogTime(50);
        // The readings of nodes 0, 1, 2; the time that the leader starts with.
        let cases: [(&[Option<Reading>; 3], u64); 9] = [
            (&[Some(Running(LogTime(90))), Some(Wall(LogTime(9_999))), None], 90),
            (&[Some(Running(LogTime(90))), Some(Running(LogTime(95))), None], 95),
            (&[Some(Running(LogTime(40))), None, None], 50),
            (&[Some(Wall(LogTime(100))), Some(Wall(LogTime(101))), None], 100),
            (&[Some(Wall(LogTime(9_999))), Some(Wall(LogTime(101))), None], 101),
            (&[Some(Wall(LogTime(1))), Some(Wall(LogTime(101))), None], 50),
            (&[Some(Wall(LogTime(1))), Some(Wall(LogTime(101))), Some(Wall(LogTime(102)))], 101),
            (&[Some(Wall(LogTime(9_999))), None, None], 50),
            (&[None, None, None], 50),
        ];
        let voters: BTreeSet<NodeId> = (0..3).map(NodeId).collect();
        let membership = Membership { voters, ..Membership::default() };
        for (readings, begins) in cases {
            let readings: BTreeMap<NodeId, Reading> = (0..)
                .map(NodeId)
                .zip(readings)
                .filter_map(|(id, reading)| reading.map(|r| (id, r)))
                .collect();
            assert_eq!(start(&membership, &readings, last, at(0)), LogTime(begins), "{readings:?}");
        }
    }
}
