//! When keep-alives are due: on all streams of a node at the same times, four within the longest
//! silence. So they share one wake-up, here and at the peers.

use std::time::{Duration, Instant};

/// The times at which keep-alives are due.
#[derive(Clone, Copy, Debug)]
pub(crate) struct SignTimes {
    first: Instant,
    every: Duration,
}

impl SignTimes {
    /// The times from now on, for streams that may be silent for `silence`.
    pub fn new(now: Instant, silence: Duration) -> Self {
        SignTimes { first: now, every: (silence / 4).max(Duration::from_millis(1)) }
    }

    /// How long it takes until the next one.
    pub fn next_after(&self, now: Instant) -> Duration {
        let since = now.saturating_duration_since(self.first).as_nanos();
        let into = since % self.every.as_nanos();
        self.every - Duration::from_nanos(u64::try_from(into).unwrap_or_default())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn they_are_the_same_whenever_a_stream_begins() {
        let now = Instant::now();
        let times = SignTimes::new(now, Duration::from_secs(1));
        let ms = Duration::from_millis;
        for (after, left) in [(0, 250), (1, 249), (249, 1), (250, 250), (10_100, 150)] {
            assert_eq!(times.next_after(now + ms(after)), ms(left), "{after} ms after the first");
        }
    }
}
