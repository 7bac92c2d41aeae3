//! A snapshot that is written rests half of the time, so that the log and the state machine, which
//! share the disk and the processors with it, are held up less. A fixed rate would also limit the
//! writes of the cluster, since the log grows until the snapshot is complete.

#![allow(clippy::disallowed_methods)]

use std::io::{self, Write};
use std::time::{Duration, Instant};

/// The bytes that are written between two rests.
const PACE_BYTES: u64 = 4 << 20;
/// The longest rest.
const REST_MAX: Duration = Duration::from_millis(200);
/// The longest rest in all: the snapshot of a very large state must not come too late for the bound
/// of the log.
const RESTS_MAX: Duration = Duration::from_secs(10);

/// After each [`PACE_BYTES`], rests for as long as writing them took. Blocks the thread.
pub(crate) struct Paced<W> {
    inner: W,
    /// The end of the last rest, and the bytes since then.
    since: Instant,
    bytes: u64,
    /// How long it may still rest.
    left: Duration,
}

impl<W> Paced<W> {
    pub fn new(inner: W) -> Self {
        Paced { inner, since: Instant::now(), bytes: 0, left: RESTS_MAX }
    }
}

impl<W: Write> Write for Paced<W> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let taken = self.inner.write(bytes)?;
        self.bytes += taken as u64;
        if self.bytes >= PACE_BYTES {
            let rest = self.since.elapsed().min(REST_MAX).min(self.left);
            std::thread::sleep(rest);
            self.left -= rest;
            (self.since, self.bytes) = (Instant::now(), 0);
        }
        Ok(taken)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.inner.flush()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn everything_arrives_and_it_rests_after_each_part() {
        let mut all = Vec::new();
        let mut paced = Paced::new(&mut all);
        let part = vec![7; PACE_BYTES as usize / 2];
        let begun = paced.since;
        paced.write_all(&part).unwrap();
        assert_eq!(paced.since, begun, "it has not rested yet");
        paced.write_all(&part).unwrap();
        assert!(paced.since > begun);
        assert_eq!(paced.bytes, 0);
        paced.write_all(b"end").unwrap();
        assert_eq!(all.len(), 2 * part.len() + 3);
    }
}
