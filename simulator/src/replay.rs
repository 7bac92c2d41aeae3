//! Which commands led to a wrong state or a wrong answer of a state machine.
//!
//! The commands of a recorded run are applied again to fresh machines, with fewer and fewer of them
//! as long as the result stays wrong. What is left is the story that a user needs: usually a
//! handful of commands, and a snapshot if a restored machine differs.
//!
//! It needs nothing but the machine, so it knows no cause outside of it: if a replay does not go
//! wrong, the latest commands are shown.

use crate::copies;
use crate::observer::command_of;
use bytes::Bytes;
use driver::{ApplyContext, SessionId, SessionNumber, StateMachine};
use raft::{Apply, Index, LogId, Payload};
use std::collections::{BTreeMap, BTreeSet};
use std::panic::{self, AssertUnwindSafe};

/// Commands that are applied in all attempts together, at most.
const APPLIED_MAX: usize = 300_000;

/// Attempts that may panic. A machine may assert what only the whole log provides.
const PANICS_MAX: u32 = 2;

/// Number of commands that are shown if no replay goes wrong.
const LATEST: usize = 12;

/// What happened to the state machines of a recorded run.
#[derive(Debug)]
pub(crate) struct Replay {
    is_on: bool,
    commands: BTreeMap<Index, Applied>,
    restores: Vec<Restore>,
    /// The operation that proposed each entry.
    operations: BTreeMap<LogId, usize>,
    /// The first entry with each number of a session.
    numbers: BTreeMap<(SessionId, u64), LogId>,
}

/// A command, and when a node first applied it.
#[derive(Clone, Debug)]
pub(crate) struct Applied {
    pub at: ApplyContext,
    pub command: Bytes,
    pub at_us: u64,
    pub event: u64,
}

/// A node restored its state from a snapshot.
#[derive(Clone, Debug)]
pub(crate) struct Restore {
    pub node: usize,
    pub last: LogId,
    pub at_us: u64,
    pub event: u64,
}

/// What is wrong after the commands.
pub(crate) enum Wrong<'a, M> {
    /// The state breaks the invariant.
    State(&'a dyn Fn(&M) -> Result<(), String>),
    /// The answer to the last command is not that of a machine that was never restored.
    Answer,
    /// Together the commands at these indexes have these answers, which is wrong.
    Answers(BTreeMap<Index, Bytes>),
    /// A query is not answered as by a machine that was never restored.
    Queries(Vec<Bytes>),
    /// The state is not that of a machine that was never restored.
    Copy,
    /// The state cannot be restored, or is another one afterwards.
    Snapshot,
}

/// The commands that lead to something wrong, and the snapshots that were restored on the way.
pub(crate) struct Led<'a> {
    pub commands: Vec<&'a Applied>,
    pub restores: Vec<&'a Restore>,
}

impl Replay {
    /// Creates an empty one. Unless it `is_on`, nothing is ever added.
    pub fn new(is_on: bool) -> Self {
        Replay {
            is_on,
            commands: BTreeMap::new(),
            restores: Vec::new(),
            operations: BTreeMap::new(),
            numbers: BTreeMap::new(),
        }
    }

    /// Records the commands that a node is about to apply.
    pub fn applies(&mut self, at_us: u64, event: u64, apply: Option<&Apply>) {
        let Some(apply) = apply.filter(|_| self.is_on) else { return };
        for entry in &apply.entries {
            // A repeat within a session is not executed.
            if let Payload::SessionCommand(bytes) = &entry.payload
                && let Some((number, _)) = SessionNumber::decode(bytes)
                && *self.numbers.entry((number.session, number.number)).or_insert(entry.id)
                    != entry.id
            {
                continue;
            }
            if !entry.payload.is_command() {
                continue;
            }
            let command = command_of(&entry.payload);
            let at = ApplyContext { id: entry.id, time: entry.time, number: entry.number };
            let applied = Applied { at, command, at_us, event };
            self.commands.entry(entry.id.index).or_insert(applied);
        }
    }

    /// Records that a node restored its state.
    pub fn restores(&mut self, at_us: u64, event: u64, node: usize, last: LogId) {
        if self.is_on {
            self.restores.push(Restore { node, last, at_us, event });
        }
    }

    /// Records the operation that an entry belongs to.
    pub fn asked(&mut self, id: LogId, operation: usize) {
        if self.is_on {
            self.operations.insert(id, operation);
        }
    }

    /// The entry of an operation, if it is known.
    pub fn id_of(&self, operation: usize) -> Option<LogId> {
        self.operations.iter().find(|(_, known)| **known == operation).map(|(id, _)| *id)
    }

    /// The operation that an entry belongs to, if a client is known.
    pub fn operation(&self, id: LogId) -> Option<usize> {
        self.operations.get(&id).copied()
    }

    /// The fewest commands up to `upto` after which the state of `node` or its answer is `wrong`.
    pub fn led<M: StateMachine>(
        &self,
        machine: &dyn Fn() -> M,
        wrong: &Wrong<'_, M>,
        node: Option<usize>,
        upto: Index,
    ) -> Led<'_> {
        let commands: Vec<&Applied> = self.commands.range(..=upto).map(|(_, it)| it).collect();
        let mut attempts = Attempts { machine, wrong, applied: 0, panics: 0 };
        // The latest of each index, since an earlier life of the node matters less.
        let restores = |of: Option<usize>| {
            let known = self.restores.iter().filter(|it| it.last.index <= upto);
            let mine = known.filter(|it| of.is_none_or(|node| it.node == node));
            let by_index: BTreeMap<Index, &Restore> = mine.map(|it| (it.last.index, it)).collect();
            by_index.into_values().collect::<Vec<_>>()
        };
        let latest = restores(node).into_iter().rev().take(1).collect();
        for restores in [Vec::new(), latest, restores(None)] {
            if let Some(led) = attempts.smallest(&commands, restores) {
                return led;
            }
        }
        let from = commands.len().saturating_sub(LATEST);
        Led { commands: commands[from..].to_vec(), restores: Vec::new() }
    }
}

struct Attempts<'a, M> {
    machine: &'a dyn Fn() -> M,
    wrong: &'a Wrong<'a, M>,
    applied: usize,
    panics: u32,
}

impl<M: StateMachine> Attempts<'_, M> {
    /// Removes commands and restores while the result is wrong. `None` if it is not wrong at all.
    fn smallest<'a>(
        &mut self,
        commands: &[&'a Applied],
        restores: Vec<&'a Restore>,
    ) -> Option<Led<'a>> {
        let mut led = Led { commands: commands.to_vec(), restores };
        if !self.goes_wrong(&led) {
            return None;
        }
        let mut chunk = led.commands.len().div_ceil(2);
        while chunk > 0 {
            let before = led.commands.len();
            let mut at = 0;
            while at < led.commands.len() && !self.is_over() {
                let mut fewer = led.commands.clone();
                fewer.drain(at..(at + chunk).min(fewer.len()));
                let fewer = Led { commands: fewer, restores: led.restores.clone() };
                match self.goes_wrong(&fewer) {
                    true => led = fewer,
                    false => at += chunk,
                }
            }
            // The last round is repeated: without one command, an earlier one may not matter.
            if chunk > 1 || led.commands.len() == before || self.is_over() {
                chunk /= 2;
            }
        }
        for at in (0..led.restores.len()).rev() {
            let mut restores = led.restores.clone();
            restores.remove(at);
            let fewer = Led { commands: led.commands.clone(), restores };
            if self.goes_wrong(&fewer) {
                led = fewer;
            }
        }
        Some(led)
    }

    fn is_over(&self) -> bool {
        self.applied >= APPLIED_MAX || self.panics > PANICS_MAX
    }

    fn goes_wrong(&mut self, led: &Led<'_>) -> bool {
        if self.is_over() {
            return false;
        }
        self.applied += led.commands.len();
        let wrong = panic::catch_unwind(AssertUnwindSafe(|| self.is_wrong_after(led)));
        self.panics += u32::from(wrong.is_err());
        wrong.unwrap_or(false)
    }

    fn is_wrong_after(&self, led: &Led<'_>) -> bool {
        let (mut copy, mut reference) = ((self.machine)(), (self.machine)());
        let mut restores: BTreeSet<Index> = led.restores.iter().map(|it| it.last.index).collect();
        let mut last = None;
        let mut answered = 0;
        for Applied { at, command, .. } in led.commands.iter().copied() {
            while let Some(index) = restores.first().filter(|index| **index < at.id.index).copied()
            {
                restores.remove(&index);
                copy = match self.restored(&copy) {
                    Some((restored, _)) => restored,
                    None => return false,
                };
            }
            let answers = [copy.apply(*at, command.clone()), reference.apply(*at, command.clone())];
            last = Some((at.time, answers[0] != answers[1]));
            if let Wrong::Answers(known) = self.wrong
                && known.get(&at.id.index) == Some(&answers[0])
            {
                answered += 1;
            }
            if let Wrong::State(holds) = self.wrong
                && holds(&copy).is_err()
            {
                return true;
            }
        }
        let time = last.map_or_else(Default::default, |(time, _)| time);
        let differs =
            |copy: &M, query: &Bytes| copy.query(time, query) != reference.query(time, query);
        match self.wrong {
            Wrong::State(holds) => {
                !restores.is_empty()
                    && self.restored(&copy).is_some_and(|(restored, _)| holds(&restored).is_err())
            }
            Wrong::Answers(known) => answered == known.len(),
            Wrong::Answer => last.is_some_and(|(_, differs)| differs),
            // The check restores a machine from the state at the end too.
            Wrong::Queries(queries) => queries.iter().any(|query| {
                let restored = self.restored(&copy);
                differs(&copy, query) || restored.is_some_and(|(copy, _)| differs(&copy, query))
            }),
            Wrong::Copy => copies::state(&copy) != copies::state(&reference),
            Wrong::Snapshot => self.restored(&copy).is_none_or(|(_, is_same)| !is_same),
        }
    }

    /// A machine with the state of another one, restored from its snapshot, and whether its own
    /// snapshot is the same again. `None` if it cannot be restored.
    fn restored(&self, machine: &M) -> Option<(M, bool)> {
        let before = copies::state(machine);
        let mut restored = (self.machine)();
        restored.restore(&mut before.as_slice()).ok()?;
        let is_same = copies::state(&restored) == before;
        Some((restored, is_same))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use driver::{Frozen, LogTime, RestoreError};
    use raft::{CommandNumber, Term};
    use std::io::{self, Read, Write};

    /// Holds a set of numbers. Its snapshots lack the number 7.
    #[derive(Clone, Default)]
    struct Numbers(BTreeSet<u8>);

    impl StateMachine for Numbers {
        type Frozen = Numbers;

        fn apply(&mut self, _at: ApplyContext, command: Bytes) -> Bytes {
            Bytes::copy_from_slice(&[u8::from(self.0.insert(command[0]))])
        }

        fn query(&self, _time: LogTime, _query: &[u8]) -> Bytes {
            self.0.iter().copied().collect()
        }

        fn freeze(&self) -> Numbers {
            self.clone()
        }

        fn restore(&mut self, from: &mut dyn Read) -> Result<(), RestoreError> {
            let mut bytes = Vec::new();
            from.read_to_end(&mut bytes)?;
            self.0 = bytes.into_iter().collect();
            Ok(())
        }
    }

    impl Frozen for Numbers {
        fn write(&self, to: &mut dyn Write) -> io::Result<()> {
            self.0.iter().filter(|number| **number != 7).try_for_each(|it| to.write_all(&[*it]))
        }
    }

    /// A run that applied these numbers, from index 1 on. Node 2 restored its state after
    /// `restored`.
    fn replay(numbers: &[u8], restored: u64) -> Replay {
        let mut replay = Replay::new(true);
        for (index, number) in (1..).zip(numbers) {
            let id = LogId { index: Index(index), term: Term(1) };
            let at = ApplyContext { id, time: LogTime(0), number: CommandNumber(index) };
            let command = Bytes::copy_from_slice(&[*number]);
            replay.commands.insert(id.index, Applied { at, command, at_us: 0, event: 0 });
        }
        replay.restores(0, 0, 2, LogId { index: Index(restored), term: Term(1) });
        replay
    }

    fn led(replay: &Replay, wrong: &Wrong<'_, Numbers>, upto: u64) -> (Vec<u8>, usize) {
        let led = replay.led(&Numbers::default, wrong, Some(2), Index(upto));
        (led.commands.iter().map(|it| it.command[0]).collect(), led.restores.len())
    }

    #[test]
    fn only_the_commands_that_matter_are_left() {
        let replay = replay(&[5, 1, 9, 3, 8, 2, 4], 3);
        let holds = |numbers: &Numbers| match numbers.0.contains(&9) && numbers.0.contains(&2) {
            true => Err(String::new()),
            false => Ok(()),
        };
        assert_eq!(led(&replay, &Wrong::State(&holds), 7), (vec![9, 2], 0));
    }

    #[test]
    fn a_snapshot_that_lacks_something_is_part_of_the_story() {
        let replay = replay(&[5, 7, 9, 3, 8, 7], 4);
        assert_eq!(led(&replay, &Wrong::Answer, 6), (vec![7, 7], 1));
        let everything = Wrong::Queries(vec![Bytes::new()]);
        assert_eq!(led(&replay, &everything, 3), (vec![7], 0));
    }

    #[test]
    fn what_explains_an_answer_is_left() {
        let replay = replay(&[5, 1, 9, 5, 8, 9], 3);
        let repeated = [(Index(4), Bytes::from_static(&[0])), (Index(5), Bytes::from_static(&[1]))];
        let wrong = Wrong::Answers(repeated.into());
        assert_eq!(led(&replay, &wrong, 6), (vec![5, 5, 8], 0));
    }

    #[test]
    fn without_a_cause_in_the_machine_the_latest_commands_are_shown() {
        let numbers: Vec<u8> = (100..140).collect();
        let (commands, restores) = led(&replay(&numbers, 4), &Wrong::Answer, 30);
        assert_eq!((commands, restores), ((118..130).collect(), 0));
    }
}
