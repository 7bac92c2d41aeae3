//! Counts of noteworthy events. A batch of runs without a failure proves little if the interesting
//! events never happened.

use std::collections::BTreeMap;

/// How often each noteworthy event happened.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Marks {
    hits: BTreeMap<&'static str, u64>,
}

/// The events that a large enough batch of runs must have seen.
pub const EXPECTED: &[&str] = &[
    "a bit flipped in what a node applied",
    "a change of the membership began",
    "a change of the membership was given up",
    "a change was refused because of another one",
    "a clock went back",
    "a command of a session was proposed again",
    "a command was done",
    "a crash met a write",
    "a directory that was removed was refused",
    "a disk was full",
    "a disk was wiped",
    "a follower got a read index",
    "a joint membership was left by another leader",
    "a joint membership was left",
    "a leader answered a follower from its lease",
    "a leader answered a read from its lease",
    "a leader gave way to a preferred node",
    "a leader handed over",
    "a leader heard of lost entries",
    "a leader that was demoted handed over",
    "a leader was elected",
    "a leader's disk failed for good",
    "a learner was promoted",
    "a log reached its bound",
    "a log rotted",
    "a log went on from a later snapshot",
    "a membership was rolled back with the log",
    "a minority never came back",
    "a node crashed at an awkward moment",
    "a node did not start from a failing disk",
    "a node had lost the snapshot its log began after",
    "a node knew what it had lost",
    "a node learned that its leader's process has ended",
    "a node restarted from a snapshot",
    "a node started while it was bound by a promise",
    "a node stopped cleanly",
    "a node with a wrong copy stopped",
    "a probe was rejected",
    "a process ended",
    "a proposal was certainly not done",
    "a repeat got the first reply",
    "a read was served",
    "a sector became unreadable",
    "a session ended",
    "a session was closed",
    "a session was opened",
    "a snapshot had a joint membership",
    "a snapshot rotted",
    "a snapshot that was to be sent could not be read",
    "a snapshot was installed",
    "a snapshot was taken",
    "a sync failed and the node stopped",
    "a wiped node was added again",
    "a wiped node was told so",
    "a write was lost",
    "a write was torn",
    "a write went to the wrong place",
    "leaders changed",
    "the cluster came back",
    "the end of a log rotted",
    "the last batch rotted in a crash",
    "the power failed within an operation of the disk",
];

impl Marks {
    /// Counts an event.
    pub fn hit(&mut self, name: &'static str) {
        *self.hits.entry(name).or_default() += 1;
    }

    /// How often an event happened.
    pub fn count(&self, name: &str) -> u64 {
        self.hits.get(name).copied().unwrap_or_default()
    }

    /// Adds the counts of another run.
    pub fn add(&mut self, other: &Marks) {
        for (name, hits) in &other.hits {
            *self.hits.entry(name).or_default() += hits;
        }
    }

    /// The expected events that never happened.
    pub fn missed(&self) -> Vec<&'static str> {
        EXPECTED.iter().copied().filter(|name| self.count(name) == 0).collect()
    }

    /// All counts, ordered by name.
    pub fn all(&self) -> impl Iterator<Item = (&'static str, u64)> {
        self.hits.iter().map(|(name, hits)| (*name, *hits))
    }
}
