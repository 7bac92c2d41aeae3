//! When the core gets its ticks, and how long the loop may sleep.
//!
//! The core gets one tick for each tick length that passes. Ticks that it has declared idle
//! ([`raft::RawNode::idle_ticks`]) wake nobody: they are handed in together at the next turn,
//! before whatever has begun that turn. All other ticks come after it, and those that were missed
//! are not made up for: to a node that was stalled itself, its peers have not been silent.

use std::time::Duration;

pub(super) struct Ticks {
    length_ns: u64,
    /// The time of the last tick that was handed in.
    last_ns: u64,
    /// The number of ticks after it that are idle.
    idle: u32,
    /// The end of the present sleep.
    wakes_ns: u64,
}

impl Ticks {
    /// The first tick is due after one tick length.
    pub fn new(length: Duration, now_ns: u64) -> Self {
        let length_ns = length.as_nanos() as u64;
        Ticks { length_ns, last_ns: now_ns, idle: 0, wakes_ns: now_ns + length_ns }
    }

    /// Takes the idle ticks that have passed.
    pub fn take_idle(&mut self, now_ns: u64) -> u32 {
        let passed = now_ns.saturating_sub(self.last_ns) / self.length_ns.max(1);
        let taken = u32::try_from(passed).unwrap_or(u32::MAX).min(self.idle);
        self.idle -= taken;
        self.last_ns += u64::from(taken) * self.length_ns;
        taken
    }

    /// Takes the tick that is due, if one is.
    pub fn take(&mut self, now_ns: u64) -> bool {
        let is_due = now_ns >= self.last_ns + self.length_ns;
        if is_due {
            self.last_ns = now_ns;
        }
        is_due
    }

    /// The next ticks, this many, are idle. Returns for how long to sleep from now on, unless the
    /// present sleep goes on and ends at the right time. `slept`: it is over.
    pub fn sleep(&mut self, idle: u32, slept: bool, now_ns: u64) -> Option<Duration> {
        self.idle = idle;
        let wakes_ns = self.last_ns + self.length_ns * (u64::from(idle) + 1);
        if !slept && wakes_ns == self.wakes_ns {
            return None;
        }
        self.wakes_ns = wakes_ns;
        Some(Duration::from_nanos(wakes_ns.saturating_sub(now_ns)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ns(ticks: f64) -> u64 {
        1_000 + (ticks * 10.0) as u64
    }

    fn sleep_of(ticks: f64) -> Option<Duration> {
        Some(Duration::from_nanos((ticks * 10.0) as u64))
    }

    fn ticks() -> Ticks {
        Ticks::new(Duration::from_nanos(10), ns(0.0))
    }

    #[test]
    fn without_idle_ticks_each_tick_wakes_the_loop_and_missed_ones_are_not_made_up_for() {
        let mut ticks = ticks();
        assert_eq!((ticks.take_idle(ns(0.5)), ticks.take(ns(0.5))), (0, false));
        assert_eq!(ticks.sleep(0, false, ns(0.5)), None, "the sleep goes on");
        assert_eq!((ticks.take_idle(ns(1.0)), ticks.take(ns(1.0))), (0, true));
        assert_eq!(ticks.sleep(0, true, ns(1.0)), sleep_of(1.0));
        // A stall of seven ticks.
        assert_eq!((ticks.take_idle(ns(8.5)), ticks.take(ns(8.5))), (0, true));
        assert!(!ticks.take(ns(8.5)));
        assert_eq!(ticks.sleep(0, true, ns(8.5)), sleep_of(1.0));
    }

    #[test]
    fn idle_ticks_are_slept_through_and_handed_in_together() {
        let mut ticks = ticks();
        assert!(ticks.take(ns(1.0)));
        assert_eq!(ticks.sleep(4, true, ns(1.0)), sleep_of(5.0));
        // A sleep that ends too early goes on.
        assert_eq!((ticks.take_idle(ns(5.9)), ticks.take(ns(5.9))), (4, false));
        assert_eq!(ticks.sleep(0, true, ns(5.9)), sleep_of(0.1));
        assert_eq!((ticks.take_idle(ns(6.0)), ticks.take(ns(6.0))), (0, true));
        assert_eq!(ticks.sleep(4, true, ns(6.0)), sleep_of(5.0));
        assert_eq!((ticks.take_idle(ns(11.0)), ticks.take(ns(11.0))), (4, true));
    }

    #[test]
    fn a_message_within_idle_ticks_finds_those_that_have_passed_handed_in() {
        let mut ticks = ticks();
        assert_eq!(ticks.sleep(4, false, ns(0.0)), sleep_of(5.0));
        assert_eq!((ticks.take_idle(ns(2.5)), ticks.take(ns(2.5))), (2, false));
        // The message has made work: the next tick is the third.
        assert_eq!(ticks.sleep(0, false, ns(2.5)), sleep_of(0.5));
        assert_eq!((ticks.take_idle(ns(3.0)), ticks.take(ns(3.0))), (0, true));
    }

    #[test]
    fn after_a_stall_no_more_ticks_are_handed_in_than_were_idle_and_one() {
        let mut ticks = ticks();
        assert_eq!(ticks.sleep(4, false, ns(0.0)), sleep_of(5.0));
        assert_eq!((ticks.take_idle(ns(900.0)), ticks.take(ns(900.0))), (4, true));
        assert_eq!((ticks.take_idle(ns(900.0)), ticks.take(ns(900.0))), (0, false));
    }
}
