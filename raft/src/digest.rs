//! A rolling hash of what was applied. It detects nodes whose state differs.
//!
//! All nodes apply the same entries and give the same answers, except for faults that no protocol
//! can rule out: a bit flipped in memory, or a state machine that is not deterministic. The state
//! then differs for good, and nothing reveals it. So each node folds every applied entry and its
//! answer into one hash. Followers report their hash with each heartbeat reply, and the leader
//! compares it with its own at the same index.
//!
//! If a quorum, and at least one peer, agree with the leader, the node that differs is wrong. If a
//! quorum reports the same other hash at one index, the leader is wrong. So that such reports meet
//! at one index, every follower reports its hash as of the commit index that the leader sent one
//! round earlier. A node that is wrong durably resets its log and stops. After a restart it neither
//! votes nor campaigns until its peers have repaired it, like a node that has lost its log. If no
//! quorum has one hash (three nodes that all differ, or of which one is down), the difference is
//! only reported.
//!
//! This is not a checksum of the state. Damage to state in memory is detected only when an answer
//! shows it.

use crate::{Entry, Index, LogId, Payload};
use serde::{Deserialize, Serialize};
use std::collections::VecDeque;

/// The number of hashes kept. A peer that has applied less is compared once it has caught up.
const HASHES_MAX: usize = 8192;

/// The hash of everything that was applied up to an index.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct StateHash {
    /// The last entry that the hash covers.
    pub index: Index,
    /// The rolling hash of all entries up to there, with their answers.
    pub hash: u64,
}

/// The hash of one entry and of the answer that applying it gave. The answer is empty if the entry
/// is not a command. Pass it to [`Apply::applied_with`](crate::Apply::applied_with).
pub fn entry_hash(entry: &Entry, answer: &[u8]) -> u64 {
    let LogId { term, index } = entry.id;
    let mut hash = mix(mix(mix(SEED, term.0), index.0), entry.time.0);
    hash = match &entry.payload {
        Payload::NoOp => mix(hash, 1),
        Payload::Command(bytes) => mix_bytes(mix(hash, 2), bytes),
        Payload::SessionCommand(bytes) => mix_bytes(mix(hash, 6), bytes),
        Payload::System(bytes) => mix_bytes(mix(hash, 3), bytes),
        Payload::Membership(membership) => mix(mix(hash, 4), membership.members.len() as u64),
        Payload::Clock => mix(hash, 5),
    };
    mix_bytes(hash, answer)
}

/// A hash of some bytes, the same on every machine and in every version. For finding changes, not
/// against an adversary.
pub fn bytes_hash(bytes: &[u8]) -> u64 {
    mix_bytes(SEED, bytes)
}

const SEED: u64 = 0x9e37_79b9_7f4a_7c15;

fn mix(hash: u64, word: u64) -> u64 {
    let product = u128::from(hash ^ word.rotate_left(29)) * u128::from(0xa076_1d64_78bd_642f_u64);
    (product as u64) ^ ((product >> 64) as u64) ^ SEED
}

fn mix_bytes(mut hash: u64, bytes: &[u8]) -> u64 {
    let words = bytes.chunks_exact(8);
    let mut rest = [0; 8];
    rest[..words.remainder().len()].copy_from_slice(words.remainder());
    for word in words {
        let mut le = [0; 8];
        le.copy_from_slice(word);
        hash = mix(hash, u64::from_le_bytes(le));
    }
    mix(mix(hash, u64::from_le_bytes(rest)), bytes.len() as u64)
}

/// The latest hashes of a node.
///
/// Invariant: `hashes` holds the hashes of consecutive indexes, the last of which is `index`.
#[derive(Clone, Debug, Default)]
pub(crate) struct Hashes {
    index: Index,
    hashes: VecDeque<u64>,
}

impl Hashes {
    /// The hashes of a node that starts from a snapshot. With `None` nothing is known and nothing
    /// is compared.
    pub fn starting(index: Index, hash: Option<u64>) -> Self {
        Hashes { index, hashes: hash.into_iter().collect() }
    }

    /// Adds the hashes of the entries that were applied up to `to`. If there is not one hash for
    /// each entry, nothing is known from here on.
    pub fn applied(&mut self, to: Index, entries: &[u64]) {
        let complete = self.index.0 + entries.len() as u64 == to.0;
        let Some(mut latest) = self.hashes.back().copied().filter(|_| complete) else {
            *self = Hashes::starting(to, None);
            return;
        };
        for entry in entries {
            latest = mix(latest, *entry);
            self.hashes.push_back(latest);
        }
        self.index = to;
        let surplus = self.hashes.len().saturating_sub(HASHES_MAX);
        self.hashes.drain(..surplus);
    }

    /// The hash as of `index`, or of everything applied if the hash as of `index` is not known.
    pub fn upto(&self, index: Index) -> Option<StateHash> {
        let latest = || Some(StateHash { index: self.index, hash: *self.hashes.back()? });
        self.at(index).map(|hash| StateHash { index, hash }).or_else(latest)
    }

    /// The hash as of `index`, if it is known.
    pub fn at(&self, index: Index) -> Option<u64> {
        let back = usize::try_from(self.index.0.checked_sub(index.0)?).ok()?;
        self.hashes.len().checked_sub(back + 1).and_then(|at| self.hashes.get(at)).copied()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{CommandNumber, LogTime};
    use bytes::Bytes;

    fn entry(index: u64, command: &'static [u8]) -> Entry {
        Entry {
            id: LogId::new(index, 1),
            time: LogTime(0),
            number: CommandNumber(0),
            payload: Payload::Command(Bytes::from_static(command)),
        }
    }

    #[test]
    fn any_bit_of_command_or_answer_makes_another_hash() {
        let (command, answer) = (*b"0123456789abcdef!", *b"the answer");
        let hash = |command: &[u8], answer: &[u8]| {
            let payload = Payload::Command(Bytes::copy_from_slice(command));
            entry_hash(&Entry { payload, ..entry(1, b"") }, answer)
        };
        let right = hash(&command, &answer);
        for bit in 0..8 * command.len() {
            let mut flipped = command;
            flipped[bit / 8] ^= 1 << (bit % 8);
            assert_ne!(hash(&flipped, &answer), right, "bit {bit} of the command");
        }
        for bit in 0..8 * answer.len() {
            let mut flipped = answer;
            flipped[bit / 8] ^= 1 << (bit % 8);
            assert_ne!(hash(&command, &flipped), right, "bit {bit} of the answer");
        }
        assert_ne!(hash(b"ab", b"c"), hash(b"a", b"bc"));
        assert_ne!(hash(b"a", b""), hash(b"a\0", b""));
    }

    #[test]
    fn batches_of_any_size_come_to_the_same_hash() {
        let words: Vec<u64> = (1..=6).map(|n| n * 77).collect();
        let mut one = Hashes::starting(Index(0), Some(0));
        one.applied(Index(6), &words);
        let mut other = Hashes::starting(Index(0), Some(0));
        words.iter().zip(1..).for_each(|(word, to)| other.applied(Index(to), &[*word]));
        assert_eq!(one.upto(Index(7)), other.upto(Index(7)));
        for index in 0..=6 {
            assert_eq!(one.at(Index(index)), other.at(Index(index)));
            assert!(one.at(Index(index)).is_some());
        }
        assert_eq!(one.at(Index(7)), None);
    }

    #[test]
    fn the_latest_are_kept_and_after_a_gap_none() {
        let mut hashes = Hashes::starting(Index(5), Some(1));
        hashes.applied(Index(5 + HASHES_MAX as u64), &vec![3; HASHES_MAX]);
        assert_eq!(hashes.at(Index(5)), None);
        assert!(hashes.at(Index(6)).is_some());
        hashes.applied(Index(9_999_999), &[1]);
        assert_eq!((hashes.upto(Index(6)), hashes.at(Index(6))), (None, None));
    }
}
