//! The log's time: one clock for the whole cluster, by which sessions, expiry and leases run.
//!
//! No node's wall clock decides it: one that is wrong by an hour would end every lease, or keep it alive.
//! What it promises, with ρ the drift of a monotonic clock (at most one in a thousand, say):
//!
//! - It never goes backwards along the log.
//! - As long as one node of each electing quorum has been running since it last heard a leader, it runs
//!   no faster than real time by more than ρ, whatever the wall clocks say, and falls behind by no more
//!   than ρ and the delay of one message an election.
//! - After all nodes of a quorum were down, it goes on from what the wall clocks of a quorum have
//!   reached: one wrong clock of three cannot make it leap, and two can. Where they disagree the
//!   earlier one counts, so that a lease may live on, but does not end early.
//!
//! How: a leader's time runs by its monotonic clock from where it began. Every append carries it, so every
//! follower knows it too, and runs it on by its own monotonic clock; it keeps the latest that it can
//! tell. A granted vote carries the voter's reading, and a new leader begins with the latest that any of
//! its voters knows. A node that was just started knows none and reports its wall clock instead.
//!
//! What it is not: the time of day. It begins with it, and may drift away from it within a long life.

use crate::{LogTime, Membership, NodeId, Now};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

/// What a voter knows of the time.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Reading {
    /// The log's time, heard from a leader and run on since.
    Running(LogTime),
    /// It has heard no leader since its start: its wall clock.
    Wall(LogTime),
}

impl Reading {
    /// The time, wherever it comes from.
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

/// The log's time as one node knows it.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct LogClock {
    /// The log's time, and the monotonic clock when it was that.
    known: Option<(LogTime, u64)>,
}

impl LogClock {
    /// The log's time at this moment; `None` if no leader was heard yet.
    pub fn time(&self, now: Now) -> Option<LogTime> {
        self.known.map(|(time, at_ns)| {
            let passed_ms = now.monotonic_ns.saturating_sub(at_ns) / 1_000_000;
            LogTime(time.0.saturating_add(passed_ms))
        })
    }

    /// A leader, perhaps this node, has this time. What was known before may be later: a message takes
    /// its time.
    pub fn hear(&mut self, time: LogTime, now: Now) {
        if self.time(now).is_none_or(|known| known < time) {
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

/// The time that a new leader begins with: the latest that one of its voters knows; if none does, what
/// the wall clocks of a quorum have reached. Never before `last`, the time of its last entry.
pub(crate) fn start(
    membership: &Membership,
    readings: &BTreeMap<NodeId, Reading>,
    last: LogTime,
) -> LogTime {
    let known = readings.values().filter_map(|reading| match reading {
        Reading::Running(time) => Some(*time),
        Reading::Wall(_) => None,
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
    fn a_node_runs_the_time_it_has_heard_on_by_its_monotonic_clock() {
        let mut clock = LogClock::default();
        assert_eq!((clock.time(at(5)), clock.reading(at(5))), (None, Wall(LogTime(777))));
        clock.hear(LogTime(1_000), at(10));
        assert_eq!(clock.reading(at(60_010)), Running(LogTime(61_000)));
        clock.hear(LogTime(60_900), at(60_010));
        assert_eq!(
            clock.time(at(60_020)),
            Some(LogTime(61_010)),
            "a late message sets nothing back"
        );
        clock.hear(LogTime(62_000), at(60_020));
        assert_eq!(clock.time(at(60_021)), Some(LogTime(62_001)));
    }

    #[test]
    fn a_leader_begins_with_what_its_voters_know_and_else_with_what_a_quorum_of_clocks_has_reached()
    {
        let last = LogTime(50);
        // The readings of nodes 0, 1, 2; the time that the leader begins with.
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
            assert_eq!(start(&membership, &readings, last), LogTime(begins), "{readings:?}");
        }
    }
}
