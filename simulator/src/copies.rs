//! Compares the state of every node with that of the reference machine while they apply the log.
//!
//! Nodes compare answers among themselves, and a simulation does too. A state that differs may show
//! in no answer for a long time. The reference machine's state is kept after some entries, and a
//! node that has applied the same entry must have the same one, byte for byte. So a difference is
//! found near the command that made it.
//!
//! While the state is small, it is kept after each entry; later, such that the cost of an entry
//! stays the same.

use crate::checks::Check;
use crate::describe::Describe;
use crate::violation::{Violation, violation};
use bytes::Bytes;
use driver::{Frozen, StateMachine};
use raft::{Index, LogId};
use std::collections::BTreeMap;

/// The number of entries between two states is such that an entry costs this many bytes of state
/// on average.
const ENTRY_BYTES: usize = 512;

/// States, and commands, that are kept have this many bytes at most. The oldest are dropped first.
const KEPT_BYTES_MAX: usize = 4 << 20;

/// Number of commands in the text of a difference.
const COMMANDS_TOLD: usize = 4;

/// Number of bytes that are shown before the first difference, and from there on.
const AROUND_BYTES: usize = 40;

/// The usual causes of a difference, for the report.
pub(crate) const CAUSES: &str = "a clock, a random number, the order of a hash map?";

/// The states and commands of the reference machine, and how far each node agreed with it.
#[derive(Debug)]
pub(crate) struct Copies {
    states: Kept<Vec<u8>>,
    commands: Kept<Bytes>,
    /// The next entry after which the state is kept.
    due: Index,
    /// The entry after which each node had the right state, or restored its state.
    since: Vec<Index>,
}

/// Bytes by index, of which the oldest are dropped.
#[derive(Debug)]
struct Kept<T> {
    by_index: BTreeMap<Index, T>,
    bytes: usize,
}

impl Copies {
    /// Creates an empty record of this number of nodes.
    pub fn new(nodes: u64) -> Self {
        Copies {
            states: Kept { by_index: BTreeMap::new(), bytes: 0 },
            commands: Kept { by_index: BTreeMap::new(), bytes: 0 },
            due: Index(1),
            since: vec![Index(0); nodes as usize],
        }
    }

    /// The reference machine has applied the command at this index.
    pub fn committed(&mut self, at: Index, command: &Bytes, state: impl FnOnce() -> Vec<u8>) {
        self.commands.keep(at, command.clone());
        if at < self.due {
            return;
        }
        let state = state();
        self.due = Index(at.0 + 1 + (state.len() / ENTRY_BYTES) as u64);
        self.states.keep(at, state);
    }

    /// A node has a state from elsewhere: that after this index.
    pub fn restored(&mut self, node: usize, at: Index) {
        self.since[node] = at;
    }

    /// Checks the state of a node that has applied this entry, if that of the reference machine is
    /// known.
    pub fn applied(
        &mut self,
        node: usize,
        id: LogId,
        found: impl FnOnce() -> Vec<u8>,
        describe: &dyn Describe,
    ) -> Result<(), Violation> {
        let Some(expected) = self.states.by_index.get(&id.index) else { return Ok(()) };
        let found = found();
        if found == *expected {
            self.since[node] = id.index;
            return Ok(());
        }
        let detail = format!(
            "node {node} and the reference machine have other states after {id}: {}; {}; {CAUSES}",
            difference(&found, expected),
            self.commands_since(self.since[node], id.index, describe),
        );
        violation(Check::EqualLogsMakeEqualStates, (node, id), detail)
    }

    /// The commands after `from`, up to `to`, as text.
    fn commands_since(&self, from: Index, to: Index, describe: &dyn Describe) -> String {
        let commands = self.commands.by_index.range(from.next()..=to);
        let told: Vec<String> = commands
            .clone()
            .rev()
            .take(COMMANDS_TOLD)
            .map(|(index, command)| format!("{index}: {}", describe.command(command)))
            .collect();
        let more = commands.count() - told.len();
        let more = if more > 0 { format!(" ({more} more)") } else { String::new() };
        let told: Vec<String> = told.into_iter().rev().collect();
        format!("the commands after index {from}{more}: {}", told.join(", "))
    }
}

impl<T: AsRef<[u8]>> Kept<T> {
    fn keep(&mut self, at: Index, bytes: T) {
        self.bytes += bytes.as_ref().len();
        self.by_index.insert(at, bytes);
        while self.bytes > KEPT_BYTES_MAX && self.by_index.len() > 1 {
            let Some((_, dropped)) = self.by_index.pop_first() else { break };
            self.bytes -= dropped.as_ref().len();
        }
    }
}

/// The state of a machine, as in a snapshot.
pub(crate) fn state<M: StateMachine>(machine: &M) -> Vec<u8> {
    bytes_of(&machine.freeze())
}

/// A frozen state, as in a snapshot.
pub(crate) fn bytes_of(frozen: &impl Frozen) -> Vec<u8> {
    let mut bytes = Vec::new();
    frozen.write(&mut bytes).expect("memory takes it");
    bytes
}

/// Where two states begin to differ, and the bytes around that, as text.
pub(crate) fn difference(found: &[u8], expected: &[u8]) -> String {
    let at = found.iter().zip(expected).take_while(|(one, other)| one == other).count();
    let around = |bytes: &[u8]| {
        let (from, to) = (at.saturating_sub(AROUND_BYTES), bytes.len().min(at + AROUND_BYTES));
        let before = if from > 0 { "…" } else { "" };
        let after = if to < bytes.len() { "…" } else { "" };
        format!("\"{before}{}{after}\"", bytes[from..to].escape_ascii())
    };
    format!(
        "of {} and {} bytes, byte {at} is the first that differs: {} and {}",
        found.len(),
        expected.len(),
        around(found),
        around(expected),
    )
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::describe::Plain;
    use crate::workload::Registers;
    use driver::ApplyContext;

    fn set(key: u8, to: u64) -> Bytes {
        [&[key][..], &0_u64.to_le_bytes(), &to.to_le_bytes()].concat().into()
    }

    fn at(index: u64) -> ApplyContext {
        ApplyContext {
            id: LogId::new(index, 1),
            time: driver::LogTime(0),
            number: raft::CommandNumber(index),
        }
    }

    #[test]
    fn a_difference_is_shown_with_its_surroundings() {
        let long = |middle: &str| [&[b'a'; 50][..], middle.as_bytes(), &[b'b'; 50]].concat();
        let text = difference(&long("1\n"), &long("2"));
        let a = "a".repeat(40);
        let found = format!("\"…{a}1\\n{}…\"", "b".repeat(38));
        let expected = format!("\"…{a}2{}…\"", "b".repeat(39));
        assert!(text.ends_with(&format!("{found} and {expected}")), "{text}");
        assert!(text.starts_with("of 102 and 101 bytes, byte 50 "), "{text}");
        assert!(
            difference(b"ab", b"a").ends_with("byte 1 is the first that differs: \"ab\" and \"a\"")
        );
    }

    #[test]
    fn the_commands_since_the_states_were_equal_are_named() {
        let (mut copies, mut reference) = (Copies::new(2), Registers::default());
        let mut node = reference.clone();
        for index in 1..=3 {
            let command = set(b'k', index);
            reference.apply(at(index), command.clone());
            node.apply(at(index), if index == 3 { set(b'k', 9) } else { command.clone() });
            copies.committed(Index(index), &command, || state(&reference));
            let compared = copies.applied(1, LogId::new(index, 1), || state(&node), &Plain);
            match compared {
                Ok(()) => assert!(index < 3),
                Err(found) => {
                    assert_eq!((index, found.check), (3, Check::EqualLogsMakeEqualStates));
                    assert!(
                        found.detail.contains("the commands after index 2: 3: 6b"),
                        "{found:?}"
                    );
                }
            }
        }
        assert_eq!(copies.since, [Index(0), Index(2)]);
    }

    #[test]
    fn what_is_kept_is_bounded() {
        let mut kept = Kept { by_index: BTreeMap::new(), bytes: 0 };
        for index in 0..10 {
            kept.keep(Index(index), vec![0; KEPT_BYTES_MAX / 4]);
        }
        assert_eq!((kept.by_index.len(), kept.bytes), (4, KEPT_BYTES_MAX));
        kept.keep(Index(10), vec![0; 2 * KEPT_BYTES_MAX]);
        assert_eq!(kept.by_index.len(), 1, "the latest is kept whatever its size");
    }
}
