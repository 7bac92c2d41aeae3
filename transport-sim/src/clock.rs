//! The clock of a simulated machine: it may run fast or slow, and its wall clock may jump.

use crate::time::{now_ns, sleep_us};
use driver::{Clock, Sleep};
use raft::Now;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

/// The wall clock at the start, in milliseconds since 1970.
const WALL_MS: u64 = 1_700_000_000_000;

/// The clock of one machine. It keeps running when the node on it ends.
#[derive(Debug)]
pub struct SimClock {
    state: Mutex<State>,
}

#[derive(Debug)]
struct State {
    per_mille: u64,
    /// The time of the last change of the rate, in simulated time and by this clock.
    since_ns: u64,
    local_ns: u64,
    wall_offset_ms: i64,
}

impl State {
    fn local_ns(&self) -> u64 {
        let passed = now_ns().saturating_sub(self.since_ns);
        self.local_ns + passed * self.per_mille / 1_000
    }
}

impl SimClock {
    /// A clock that is right.
    #[allow(clippy::new_without_default, reason = "a clock has a start, which is no default")]
    pub fn new() -> Self {
        // Never 0, which would mean that no time is known.
        let state = State { per_mille: 1_000, since_ns: 0, local_ns: 1, wall_offset_ms: 0 };
        SimClock { state: Mutex::new(state) }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Sets the rate from now on, in per mille of simulated time.
    pub(crate) fn set_rate(&self, per_mille: u64) {
        let mut state = self.state();
        state.local_ns = state.local_ns();
        state.since_ns = now_ns();
        state.per_mille = per_mille.max(1);
    }

    /// Makes the wall clock jump.
    pub(crate) fn jump(&self, by_ms: i64) {
        self.state().wall_offset_ms += by_ms;
    }
}

impl Clock for SimClock {
    fn now(&self) -> Now {
        let state = self.state();
        let monotonic_ns = state.local_ns();
        let wall_ms = WALL_MS + monotonic_ns / 1_000_000;
        Now { monotonic_ns, wall_ms: wall_ms.saturating_add_signed(state.wall_offset_ms) }
    }

    fn sleep(&self, duration: Duration) -> Sleep {
        let per_mille = self.state().per_mille;
        let local_us = u64::try_from(duration.as_micros()).unwrap_or(u64::MAX);
        Box::pin(sleep_us(local_us.saturating_mul(1_000).div_ceil(per_mille)))
    }
}
