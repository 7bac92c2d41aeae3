//! A conformance kit for state machines: the rules of [`StateMachine`] that one machine alone can
//! break.
//!
//! It needs no cluster and takes milliseconds, so it comes before a
//! [`Simulation`](crate::Simulation), which looks for what only shows among several nodes and under
//! faults.

use bytes::Bytes;
use driver::{ApplyContext, Frozen, LogTime, StateMachine};
use raft::{CommandNumber, LogId};
use std::io::{self, Read, Write};

/// Milliseconds of the log's time between two commands.
const STEP_MS: u64 = 250;
/// A machine is restored after each command, or after about this many of them.
const RESTORES_MAX: usize = 100;
/// The index of the first command. Other entries have taken the indexes before it.
const FIRST_INDEX: u64 = 10;

/// Tests a state machine.
///
/// `machine` makes one in its initial state. `commands` are applied in order, so choose such that
/// change the state in all ways. `queries` are asked at many points; their answers are how the kit
/// sees the state, so choose such that show all of it. Machines are restored after each of up to a
/// hundred commands, or after about a hundred of more. The log's time advances by 250 ms with each
/// command.
///
/// ```
/// use bytes::Bytes;
/// use quorate::{ApplyContext, Frozen, LogTime, RestoreError, StateMachine};
/// use simulator::conformance::state_machine;
/// use std::io::{self, Read, Write};
///
/// /// Adds up bytes.
/// #[derive(Clone, Default)]
/// struct Sum(u64);
///
/// impl StateMachine for Sum {
///     type Frozen = Sum;
///     fn apply(&mut self, at: ApplyContext, command: Bytes) -> Bytes {
///         self.0 += command.iter().map(|byte| u64::from(*byte)).sum::<u64>();
///         self.query(at.time, &[])
///     }
///     fn query(&self, _time: LogTime, _query: &[u8]) -> Bytes {
///         Bytes::copy_from_slice(&self.0.to_le_bytes())
///     }
///     fn freeze(&self) -> Sum {
///         self.clone()
///     }
///     fn restore(&mut self, from: &mut dyn Read) -> Result<(), RestoreError> {
///         let mut bytes = [0; 8];
///         from.read_exact(&mut bytes)?;
///         self.0 = u64::from_le_bytes(bytes);
///         Ok(())
///     }
/// }
/// impl Frozen for Sum {
///     fn write(&self, to: &mut dyn Write) -> io::Result<()> {
///         to.write_all(&self.0.to_le_bytes())
///     }
/// }
///
/// let commands: Vec<Bytes> = (0..50).map(|n| Bytes::from(vec![n, 1])).collect();
/// state_machine(Sum::default, &commands, &[Bytes::new()]);
/// ```
///
/// # Panics
///
/// If the machine breaks a rule. The message says which, and after which command.
pub fn state_machine<M: StateMachine>(
    machine: impl Fn() -> M,
    commands: &[Bytes],
    queries: &[Bytes],
) {
    let kit = Kit { machine: &machine, commands, queries };
    let truth = kit.run();
    kit.commands_change_the_state(&truth);
    kit.two_machines_agree(&truth);
    kit.queries_change_nothing(&truth);
    kit.a_frozen_state_stays_as_it_is(&truth);
    kit.batches_are_as_single_commands(&truth);
    kit.a_restored_machine_goes_on(&truth);
    kit.a_part_of_a_state_is_refused();
}

/// The answers of a machine, and its answers to queries, command by command.
struct Truth {
    answers: Vec<Bytes>,
    /// The answers to the queries before the first command, and after each.
    shown: Vec<Vec<Bytes>>,
    /// The state before the first command, and after each.
    states: Vec<Vec<u8>>,
}

struct Kit<'a, M> {
    machine: &'a dyn Fn() -> M,
    commands: &'a [Bytes],
    queries: &'a [Bytes],
}

impl<M: StateMachine> Kit<'_, M> {
    fn at(&self, command: usize) -> ApplyContext {
        let command = command as u64;
        ApplyContext {
            id: LogId::new(FIRST_INDEX + command, 3),
            time: LogTime(1_700_000_000_000 + command * STEP_MS),
            number: CommandNumber(command),
        }
    }

    /// Commands that the machine cannot decode would pass all the rules.
    fn commands_change_the_state(&self, truth: &Truth) {
        let first = truth.states.first();
        if truth.states.iter().all(|state| Some(state) == first) {
            panic!(
                "no command has changed the state: give commands that do, in the encoding that the \
                 machine expects (for a `TypedMachine`, `Typed::<M>::encode_command`)"
            );
        }
    }

    /// The log's time once `count` commands are applied.
    fn time(&self, count: usize) -> LogTime {
        self.at(count.saturating_sub(1)).time
    }

    fn apply(&self, machine: &mut M, command: usize) -> Bytes {
        machine.apply(self.at(command), self.commands[command].clone())
    }

    /// The answers to all queries once `count` commands are applied.
    fn show(&self, machine: &M, count: usize) -> Vec<Bytes> {
        let time = self.time(count);
        self.queries.iter().map(|query| machine.query(time, query)).collect()
    }

    fn run(&self) -> Truth {
        let mut machine = (self.machine)();
        let mut truth = Truth {
            answers: Vec::new(),
            shown: vec![self.show(&machine, 0)],
            states: vec![state(&machine.freeze())],
        };
        for command in 0..self.commands.len() {
            truth.answers.push(self.apply(&mut machine, command));
            truth.shown.push(self.show(&machine, command + 1));
            truth.states.push(state(&machine.freeze()));
        }
        truth
    }

    fn compare(&self, machine: &M, truth: &Truth, count: usize, rule: &str) {
        if self.show(machine, count) != truth.shown[count] {
            fails(rule, count, "a query has another answer");
        }
        if state(&machine.freeze()) != truth.states[count] {
            fails(rule, count, "the state that it writes is another one");
        }
    }

    fn two_machines_agree(&self, truth: &Truth) {
        let rule = "the same commands give the same answers and the same state";
        let mut machine = (self.machine)();
        // Asks exactly as often as the first run: what asking changes is for another rule.
        self.compare(&machine, truth, 0, rule);
        for command in 0..self.commands.len() {
            if self.apply(&mut machine, command) != truth.answers[command] {
                fails(rule, command + 1, "the answer is another one");
            }
            self.compare(&machine, truth, command + 1, rule);
        }
    }

    fn batches_are_as_single_commands(&self, truth: &Truth) {
        let rule = "apply_batch gives what apply gives on each command";
        for length in [1, 2, 3, 7, self.commands.len().max(1)] {
            let mut machine = (self.machine)();
            let mut done = 0;
            while done < self.commands.len() {
                let to = self.commands.len().min(done + length);
                let batch = (done..to).map(|at| (self.at(at), self.commands[at].clone())).collect();
                let answers = machine.apply_batch(batch);
                if answers != truth.answers[done..to] {
                    fails(rule, to, "the answers are others");
                }
                done = to;
                self.compare(&machine, truth, done, rule);
            }
        }
    }

    fn queries_change_nothing(&self, truth: &Truth) {
        let rule = "a query changes nothing";
        let mut machine = (self.machine)();
        for command in 0..self.commands.len() {
            for _ in 0..3 {
                self.show(&machine, command);
            }
            self.compare(&machine, truth, command, rule);
            if self.apply(&mut machine, command) != truth.answers[command] {
                fails(rule, command + 1, "the answer to a command is another one");
            }
        }
    }

    fn a_frozen_state_stays_as_it_is(&self, truth: &Truth) {
        let rule = "a frozen state does not change with the machine, and freezing changes nothing";
        let mut never_frozen = (self.machine)();
        for command in 0..self.commands.len() {
            if self.apply(&mut never_frozen, command) != truth.answers[command] {
                fails(rule, command + 1, "a machine that was never frozen has another answer");
            }
        }
        let mut machine = (self.machine)();
        let mut frozen = Vec::new();
        for command in 0..self.commands.len() {
            frozen.push(machine.freeze());
            if self.apply(&mut machine, command) != truth.answers[command] {
                fails(rule, command + 1, "the answer to a command is another one");
            }
        }
        for (count, frozen) in frozen.iter().enumerate() {
            if state(frozen) != truth.states[count] {
                fails(rule, count, "the frozen state has changed");
            }
            if state(frozen) != truth.states[count] {
                fails(rule, count, "writing it twice gives two states");
            }
        }
    }

    fn a_restored_machine_goes_on(&self, truth: &Truth) {
        let rule = "a machine that is restored is the one that was frozen";
        let end = self.commands.len();
        let step = (end / RESTORES_MAX).max(1);
        for count in (0..end).step_by(step).chain([end]) {
            // One machine is new, the other has a state of its own, which has to go.
            let mut used = (self.machine)();
            for command in 0..end {
                self.apply(&mut used, command);
            }
            for mut machine in [(self.machine)(), used] {
                let mut reader = Slow(&truth.states[count]);
                if let Err(error) = machine.restore(&mut reader) {
                    fails(rule, count, &format!("it refuses its own state: {error}"));
                }
                if !reader.0.is_empty() {
                    fails(rule, count, "it leaves a part of the state unread");
                }
                self.compare(&machine, truth, count, rule);
                for command in count..end {
                    if self.apply(&mut machine, command) != truth.answers[command] {
                        fails(rule, command + 1, "the answer to a later command is another one");
                    }
                }
                self.compare(&machine, truth, end, rule);
            }
        }
    }

    /// A part of a state must not pass for one, nor a reader's error for the end.
    fn a_part_of_a_state_is_refused(&self) {
        let rule = "an error of the reader is an error of restore";
        let mut machine = (self.machine)();
        for command in 0..self.commands.len() {
            self.apply(&mut machine, command);
        }
        let whole = state(&machine.freeze());
        for at in [0, whole.len() / 2, whole.len().saturating_sub(1)] {
            if whole.is_empty() {
                return;
            }
            let mut reader = Slow(&whole[..at]).chain(Broken);
            if (self.machine)().restore(&mut reader).is_ok() {
                let what = format!("reading fails after {at} of {} bytes", whole.len());
                fails(rule, self.commands.len(), &what);
            }
        }
    }
}

fn fails(rule: &str, count: usize, what: &str) -> ! {
    panic!("the state machine breaks a rule ({rule}): after {count} commands, {what}")
}

/// The bytes of a state, written to something that takes few at a time.
fn state(frozen: &impl Frozen) -> Vec<u8> {
    let mut into = Narrow(Vec::new());
    if let Err(error) = frozen.write(&mut into) {
        panic!("the state machine breaks a rule: it cannot write its state to memory: {error}");
    }
    into.0
}

/// Takes at most five bytes at a time, as a writer may.
struct Narrow(Vec<u8>);

impl Write for Narrow {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let taken = bytes.len().min(5);
        self.0.extend_from_slice(&bytes[..taken]);
        Ok(taken)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// Gives at most three bytes at a time, as a reader may.
struct Slow<'a>(&'a [u8]);

impl Read for Slow<'_> {
    fn read(&mut self, into: &mut [u8]) -> io::Result<usize> {
        let given = into.len().min(self.0.len()).min(3);
        into[..given].copy_from_slice(&self.0[..given]);
        self.0 = &self.0[given..];
        Ok(given)
    }
}

/// A reader whose device has failed.
struct Broken;

impl Read for Broken {
    fn read(&mut self, _: &mut [u8]) -> io::Result<usize> {
        Err(io::Error::other("the disk cannot be read"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use driver::RestoreError;
    use std::cell::Cell;
    use std::panic::{AssertUnwindSafe, catch_unwind};
    use std::sync::Arc;
    use std::sync::atomic::{AtomicU64, Ordering};

    /// A mistake of a state machine.
    #[derive(Clone, Copy, Debug, PartialEq, Eq)]
    enum Mistake {
        None,
        /// Answers depend on what other machines of the process have done.
        SharedCounter,
        /// The state has something that differs from machine to machine.
        OwnNumber,
        /// A batch answers once for all commands.
        BatchAnswersLast,
        /// A batch takes the time of its first command for all.
        BatchHasOneTime,
        /// A query counts itself.
        QueryCounts,
        /// A frozen state shares the values.
        FreezeShares,
        /// Freezing clears what it froze.
        FreezeTakes,
        /// The latest time is missing in the state.
        TimeNotWritten,
        /// Restoring adds to what is there.
        RestoreAdds,
        /// One call of `read` is taken for all of the state.
        OneRead,
        /// One call of `write` is taken to write all.
        OneWrite,
        /// An error of the reader is the end.
        ErrorIsTheEnd,
    }

    /// Remembers its commands and the time of the last one.
    struct Machine {
        mistake: Mistake,
        values: Arc<std::sync::Mutex<Vec<u8>>>,
        time: u64,
        own: u64,
        asked: Cell<u64>,
        others: Arc<AtomicU64>,
    }

    struct State(Mistake, Arc<std::sync::Mutex<Vec<u8>>>, u64);

    impl Frozen for State {
        fn write(&self, to: &mut dyn Write) -> io::Result<()> {
            let mut bytes = self.2.to_le_bytes().to_vec();
            bytes.extend_from_slice(&self.1.lock().unwrap());
            match self.0 {
                Mistake::OneWrite => to.write(&bytes).map(drop),
                _ => to.write_all(&bytes),
            }
        }
    }

    impl Machine {
        fn apply_at(&mut self, time: LogTime, command: &Bytes) -> Bytes {
            self.values.lock().unwrap().extend_from_slice(command);
            let mut answer = (time.0 - self.time.min(time.0)).to_le_bytes().to_vec();
            self.time = time.0;
            answer.push(self.values.lock().unwrap().len() as u8);
            if self.mistake == Mistake::SharedCounter {
                answer.push(self.others.fetch_add(1, Ordering::Relaxed) as u8);
            }
            answer.into()
        }
    }

    impl StateMachine for Machine {
        type Frozen = State;

        fn apply(&mut self, at: ApplyContext, command: Bytes) -> Bytes {
            self.apply_at(at.time, &command)
        }

        fn apply_batch(&mut self, commands: Vec<(ApplyContext, Bytes)>) -> Vec<Bytes> {
            let (first, count) = (commands.first().map(|(at, _)| at.time), commands.len());
            let one_time = self.mistake == Mistake::BatchHasOneTime;
            let times = |at: ApplyContext| first.filter(|_| one_time).unwrap_or(at.time);
            let answers =
                commands.into_iter().map(|(at, command)| self.apply_at(times(at), &command));
            let answers: Vec<Bytes> = answers.collect();
            match (self.mistake, answers.last()) {
                (Mistake::BatchAnswersLast, Some(last)) => vec![last.clone(); count],
                _ => answers,
            }
        }

        fn query(&self, _time: LogTime, _query: &[u8]) -> Bytes {
            let mut shown = self.values.lock().unwrap().clone();
            shown.push(self.time as u8);
            if self.mistake == Mistake::QueryCounts {
                self.asked.set(self.asked.get() + 1);
                shown.push(self.asked.get() as u8);
            }
            shown.into()
        }

        fn freeze(&self) -> State {
            let values = self.values.lock().unwrap().clone();
            let time = match self.mistake {
                Mistake::TimeNotWritten => 0,
                Mistake::OwnNumber => self.own,
                _ => self.time,
            };
            match self.mistake {
                Mistake::FreezeShares => State(self.mistake, self.values.clone(), time),
                Mistake::FreezeTakes => {
                    self.values.lock().unwrap().clear();
                    State(self.mistake, Arc::new(values.into()), time)
                }
                _ => State(self.mistake, Arc::new(values.into()), time),
            }
        }

        fn restore(&mut self, from: &mut dyn Read) -> Result<(), RestoreError> {
            let mut bytes = Vec::new();
            match self.mistake {
                Mistake::OneRead => {
                    bytes.resize(1 << 10, 0);
                    let read = from.read(&mut bytes)?;
                    bytes.truncate(read.max(8));
                }
                Mistake::ErrorIsTheEnd => {
                    let _ = from.read_to_end(&mut bytes);
                    bytes.resize(bytes.len().max(8), 0);
                }
                _ => drop(from.read_to_end(&mut bytes)?),
            }
            let short = || RestoreError::Malformed("it is too short".to_owned());
            let (time, values) = bytes.split_at_checked(8).ok_or_else(short)?;
            self.time = u64::from_le_bytes(time.try_into().unwrap());
            let mut own = self.values.lock().unwrap();
            if self.mistake != Mistake::RestoreAdds {
                own.clear();
            }
            own.extend_from_slice(values);
            Ok(())
        }
    }

    fn run(mistake: Mistake) -> Option<String> {
        let others = Arc::new(AtomicU64::new(0));
        let machine = || Machine {
            mistake,
            values: Arc::default(),
            time: 0,
            own: others.fetch_add(1, Ordering::Relaxed),
            asked: Cell::new(0),
            others: others.clone(),
        };
        let commands: Vec<Bytes> = (0..20).map(|n| Bytes::from(vec![n; 3])).collect();
        let kit = || state_machine(machine, &commands, &[Bytes::new()]);
        let panic = catch_unwind(AssertUnwindSafe(kit)).err()?;
        Some(panic.downcast_ref::<String>().cloned().unwrap_or_default())
    }

    /// Adds up bytes. A 255 is only remembered, and doubles the next one; snapshots lack that.
    #[derive(Clone, Default)]
    struct Doubles {
        sum: u64,
        is_doubled: bool,
    }

    impl StateMachine for Doubles {
        type Frozen = Doubles;

        fn apply(&mut self, at: ApplyContext, command: Bytes) -> Bytes {
            match command[0] {
                255 => self.is_doubled = true,
                byte => {
                    self.sum += u64::from(byte) << u8::from(std::mem::take(&mut self.is_doubled))
                }
            }
            self.query(at.time, &[])
        }

        fn query(&self, _time: LogTime, _query: &[u8]) -> Bytes {
            Bytes::copy_from_slice(&self.sum.to_le_bytes())
        }

        fn freeze(&self) -> Doubles {
            self.clone()
        }

        fn restore(&mut self, from: &mut dyn Read) -> Result<(), RestoreError> {
            let mut sum = [0; 8];
            from.read_exact(&mut sum)?;
            *self = Doubles { sum: u64::from_le_bytes(sum), is_doubled: false };
            Ok(())
        }
    }

    impl Frozen for Doubles {
        fn write(&self, to: &mut dyn Write) -> io::Result<()> {
            to.write_all(&self.sum.to_le_bytes())
        }
    }

    #[test]
    fn what_is_missing_from_the_snapshot_after_one_command_only_is_found() {
        for at in 0..40 {
            let byte = |n| if n == at { 255 } else { 1 };
            let commands: Vec<Bytes> = (0..41).map(|n| Bytes::from(vec![byte(n)])).collect();
            let found =
                catch_unwind(|| state_machine(Doubles::default, &commands, &[Bytes::new()]));
            let said = found.expect_err("the snapshot lacks something");
            let said = said.downcast_ref::<String>().expect("it says what");
            let rule = "a machine that is restored is the one that was frozen";
            assert!(said.contains(rule), "command {at}: {said}");
        }
    }

    #[test]
    fn every_planted_mistake_is_found_by_the_rule_that_it_breaks() {
        assert_eq!(run(Mistake::None), None);
        let same = "(the same commands give the same answers and the same state)";
        let restored = "(a machine that is restored is the one that was frozen)";
        let expected = [
            (Mistake::SharedCounter, same),
            (Mistake::OwnNumber, same),
            (Mistake::BatchAnswersLast, "(apply_batch gives what apply gives on each command)"),
            (Mistake::BatchHasOneTime, "(apply_batch gives what apply gives on each command)"),
            (Mistake::QueryCounts, "(a query changes nothing)"),
            (Mistake::FreezeShares, "(a frozen state does not change with the machine"),
            (Mistake::FreezeTakes, "(a frozen state does not change with the machine"),
            (Mistake::TimeNotWritten, restored),
            (Mistake::RestoreAdds, restored),
            (Mistake::OneRead, restored),
            (Mistake::OneWrite, restored),
            (Mistake::ErrorIsTheEnd, "(an error of the reader is an error of restore)"),
        ];
        for (mistake, rule) in expected {
            let found = run(mistake).unwrap_or_else(|| panic!("{mistake:?} is not found"));
            assert!(found.contains(rule), "{mistake:?}: {found}");
        }
    }
}
