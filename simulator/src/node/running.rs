//! A node that runs: the core, its log and its state machine, and the orders that are out.

use crate::checks::Check;
use crate::copies;
use crate::hush::Hushed;
use crate::log::AnyLog;
use crate::observer::has_answer;
use crate::violation::{Violation, violation};
use bytes::Bytes;
use driver::{Answer, Replica, SessionNumber, StateMachine, WrongBatch, hashed};
use raft::{Apply, Entry, Index, LogId, Payload, RawNode, ReadId, TakeSnapshot, Write, entry_hash};
use std::collections::{BTreeMap, BTreeSet};
use std::panic::{AssertUnwindSafe, catch_unwind};
use storage::Snapshots;
use storage::testing::MemDisk;

/// A running node.
pub(crate) struct Running<M> {
    pub node: RawNode,
    pub log: AnyLog,
    pub snapshots: Snapshots<MemDisk>,
    pub replica: Replica<M>,
    /// The last index that the replica has applied.
    pub machine_at: Index,
    pub write: Option<Write>,
    pub apply: Option<Apply>,
    pub snapshot: Option<(TakeSnapshot, Vec<u8>)>,
    /// The index of the latest ordered snapshot, if it is not written yet or could not be written.
    pub ordered: Option<Index>,
    /// The snapshots that could not be read to be sent, and have not been stored again since.
    pub unreadable: BTreeSet<LogId>,
    /// The client operation that each proposal and read belongs to.
    pub proposals: BTreeMap<LogId, usize>,
    pub reads: BTreeMap<ReadId, usize>,
    /// The client operation that each command forwarded to the leader belongs to.
    pub forwards: BTreeMap<u64, usize>,
}

impl<M: StateMachine> Running<M> {
    /// Applies the outstanding batch and calls `each` for every entry. If `flips` is set, clears it
    /// and flips a bit of the first command before that. `each` gets the machine if its state is
    /// that after the entry: of a batch that the machine applies at once, for the last entry only.
    pub fn apply(
        &mut self,
        now: raft::Now,
        flips: &mut bool,
        mut each: impl FnMut(
            Index,
            &raft::Entry,
            Option<&Answer>,
            Option<&Replica<M>>,
        ) -> Result<(), Violation>,
    ) -> Result<(), Violation> {
        let Some(apply) = self.apply.take() else { return Ok(()) };
        let mut hashes = Vec::with_capacity(apply.entries.len());
        let mut flipped = None;
        let mut entries = apply.entries.to_vec();
        for entry in &mut entries {
            let Some(first) = command_begins_at(&entry.payload) else { continue };
            if let Payload::Command(bytes) | Payload::SessionCommand(bytes) = &mut entry.payload
                && std::mem::take(flips)
            {
                let mut changed = bytes.to_vec();
                changed[first] ^= 1;
                *bytes = changed.into();
                flipped = Some(entry.id.index);
            }
        }
        // Some batches go to the replica at once. One by one, the invariants of its machine are
        // checked more often.
        let at_once = flipped.is_some() || self.machine_at.0.is_multiple_of(2);
        let mut answers = Vec::new();
        if at_once {
            let applied = match flipped {
                Some(_) => self.apply_or_undo(&entries),
                None => Some(self.replica.apply(&entries)),
            };
            answers = match applied.unwrap_or_else(|| self.replica.apply(&apply.entries)) {
                Ok(answers) => answers,
                Err(error) => {
                    let first = apply.entries.first().map(|entry| entry.id);
                    return violation(
                        Check::BatchHasAnAnswerForEachCommand,
                        first,
                        error.to_string(),
                    );
                }
            };
        }
        let mut answers = answers.into_iter();
        for (entry, given) in apply.entries.iter().zip(&entries) {
            let answer = match at_once {
                true => answers.next(),
                false => {
                    let applied = self.replica.apply(std::slice::from_ref(given));
                    applied.ok().and_then(|mut answers| answers.pop())
                }
            };
            let answer = answer.unwrap_or_else(|| Ok(Bytes::new()));
            let hash = entry_hash(entry, &hashed(&answer));
            // A machine's answer need not depend on the flipped bit, so the hash must.
            hashes.push(hash ^ u64::from(flipped == Some(entry.id.index)));
            let is_after = !at_once || apply.entries.last().is_some_and(|last| last.id == entry.id);
            let answer = has_answer(&entry.payload).then_some(&answer);
            each(self.machine_at, entry, answer, is_after.then_some(&self.replica))?;
            self.machine_at = entry.id.index;
        }
        self.node.applied(now, apply.applied_with(hashes));
        Ok(())
    }

    /// Applies entries with a flipped bit. A machine may panic at a command that no client can have
    /// sent. Then nothing is applied, and only the hash shows the flip.
    fn apply_or_undo(&mut self, entries: &[Entry]) -> Option<Result<Vec<Answer>, WrongBatch>> {
        let (time, before) = (self.replica.time(), self.state());
        let _hushed = Hushed::new();
        let applied = catch_unwind(AssertUnwindSafe(|| self.replica.apply(entries)));
        if applied.is_err() {
            self.replica.restore(time, &mut before.as_slice()).expect("what it has written itself");
        }
        applied.ok()
    }

    /// The state, as encoded in a snapshot.
    pub fn state(&self) -> Vec<u8> {
        copies::bytes_of(&self.replica.freeze())
    }
}

/// Where the bytes of a client's command begin in an entry, if there are any. A bit of the first of
/// them may flip.
pub(crate) fn command_begins_at(payload: &Payload) -> Option<usize> {
    let (bytes, first) = match payload {
        Payload::Command(bytes) => (bytes, 0),
        Payload::SessionCommand(bytes) => (bytes, SessionNumber::BYTES),
        _ => return None,
    };
    (bytes.len() > first).then_some(first)
}
