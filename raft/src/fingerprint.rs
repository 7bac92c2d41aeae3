//! A fingerprint of a node's state, for a search that must recognise states it has seen. Two nodes
//! with the same fingerprint behave alike from then on. Only with the feature `clone-work`.

use crate::RawNode;
use std::fmt::Write;
use std::hash::{DefaultHasher, Hasher};

impl RawNode {
    /// Fingerprints the state that decides the node's behaviour. Counters, order numbers and the
    /// state of the random generator are left out.
    pub fn fingerprint(&self) -> u64 {
        let mut sink = Sink(DefaultHasher::new());
        let (core, role) = (self.core(), self.role());
        // Writing to a hasher cannot fail.
        let _ = write!(
            sink,
            "{:?}{:?}{:?}{:?}{:?}{:?}{:?}{:?}{}",
            core.hard_state(),
            core.durable_hard_state(),
            core.log,
            core.commit,
            core.applied,
            core.outbox,
            core.promise,
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
