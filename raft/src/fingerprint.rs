//! A number that two nodes share when nothing that either does next can differ: for a search that
//! must know where it has been. Only with the feature `clone-work`.

use crate::Node;
use std::fmt::Write;
use std::hash::{DefaultHasher, Hasher};

impl Node {
    /// Fingerprints what decides this node's answers: not the counters, nor the numbers of orders,
    /// nor the state of the random generator.
    pub fn fingerprint(&self) -> u64 {
        let mut sink = Sink(DefaultHasher::new());
        let (core, role) = (self.core(), self.role());
        // Writing to a hasher cannot fail.
        let _ = write!(
            sink,
            "{:?}{:?}{:?}{:?}{:?}{:?}{:?}{}",
            core.hard_state(),
            core.durable_hard_state(),
            core.log,
            core.commit,
            core.applied,
            core.outbox,
            role,
            core.has_write_out(),
        );
        sink.0.finish()
    }
}

struct Sink(DefaultHasher);

impl Write for Sink {
    fn write_str(&mut self, s: &str) -> std::fmt::Result {
        self.0.write(s.as_bytes());
        Ok(())
    }
}
