//! The reads of a node that the core has not confirmed yet.
//!
//! All reads of one turn with one kind of proof are confirmed by one read of the core. A read that
//! is refused, for instance because there is no leader, is asked again at the next tick, as a
//! linearizable one, until its caller times out.

use crate::messages::Read;
use raft::{Now, ReadId, ReadProof};
use std::collections::BTreeMap;

/// Reads that are confirmed together, by one read of the core.
pub(crate) struct ReadBatch {
    pub proof: ReadProof,
    /// When the core was asked, in monotonic time.
    pub asked_ns: u64,
    pub reads: Vec<Read>,
}

/// All reads that wait.
pub(crate) struct Reads {
    /// Reads that the core has been asked to confirm.
    asked: BTreeMap<ReadId, ReadBatch>,
    /// The reads of this turn: linearizable ones, and those for which a lease is enough.
    new: Vec<Read>,
    new_by_lease: Vec<Read>,
    /// Reads that were refused. They are retried at the next tick.
    refused: Vec<Read>,
}

impl Reads {
    pub fn new() -> Self {
        Reads {
            asked: BTreeMap::new(),
            new: Vec::new(),
            new_by_lease: Vec::new(),
            refused: Vec::new(),
        }
    }

    /// Adds a read to those of this turn.
    pub fn add(&mut self, proof: ReadProof, read: Read) {
        match proof {
            ReadProof::Linearizable => self.new.push(read),
            ReadProof::Lease => self.new_by_lease.push(read),
        }
    }

    /// Adds the reads that were refused, unless their callers have stopped waiting.
    pub fn retry(&mut self) {
        for read in std::mem::take(&mut self.refused) {
            if !read.is_abandoned() {
                self.add(ReadProof::Linearizable, read);
            }
        }
    }

    /// The next reads of this turn, if there are any: at most one batch of each kind of proof.
    pub fn next(&mut self, now: Now) -> Option<ReadBatch> {
        let (proof, new) = match self.new.is_empty() {
            true => (ReadProof::Lease, &mut self.new_by_lease),
            false => (ReadProof::Linearizable, &mut self.new),
        };
        if new.is_empty() {
            return None;
        }
        let reads = std::mem::take(new);
        Some(ReadBatch { proof, asked_ns: now.monotonic_ns, reads })
    }

    /// The core has been asked to confirm this batch.
    pub fn asked(&mut self, id: ReadId, batch: ReadBatch) {
        self.asked.insert(id, batch);
    }

    /// Removes and returns a batch that the core has confirmed or refused.
    pub fn take(&mut self, id: ReadId) -> Option<ReadBatch> {
        self.asked.remove(&id)
    }

    /// These reads are retried at the next tick.
    pub fn refused(&mut self, mut reads: Vec<Read>) {
        self.refused.append(&mut reads);
    }

    /// Drops all reads: this node cannot serve them, and their callers had better ask another one.
    pub fn give_up(&mut self) {
        *self = Reads::new();
    }

    /// Whether the core has been asked for reads and has not answered.
    pub fn any_asked(&self) -> bool {
        !self.asked.is_empty()
    }

    /// The number of reads that wait.
    pub fn len(&self) -> usize {
        let asked: usize = self.asked.values().map(|batch| batch.reads.len()).sum();
        asked + self.new.len() + self.new_by_lease.len() + self.refused.len()
    }
}
