//! Checks linearizability: is there an order of the operations that a single register could have
//! executed, in which each operation precedes those that began after it had ended?
//!
//! The search is that of Wing and Gong with Lowe's memoization: a configuration (the set of
//! operations in the order so far, and the value after them) is tried only once. Two rules prune
//! it:
//!
//! - An operation that fits now and does not change the value is placed at once.
//! - A value is not replaced before every operation that observed it is placed, since values are
//!   unique. "No value" is exempt if the history removes values.
//!
//! Keys are independent, so each is checked alone. Operations with an unknown outcome are resolved
//! before the search where possible: values are unique, so either an operation observed the effect,
//! or the operation can be taken as not executed.
//!
//! The search is limited to [`STEPS_MAX`] steps; beyond that it returns [`Verdict::Unknown`].
// Only looked up in, never iterated.
#![allow(clippy::disallowed_types)]

use crate::checks::Check;
use crate::violation::{Violation, violation};
use std::collections::{HashMap, HashSet};
use std::fmt;

/// An operation on one register.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Operation {
    /// When the client sent the request, in microseconds.
    pub begun: u64,
    /// When the answer arrived; `None` if none arrived, or the answer left the outcome unknown.
    pub ended: Option<u64>,
    /// The request and its answer.
    pub action: Action,
}

/// The effect of an operation, and its answer. Values are unique, `None` is "no value".
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Action {
    /// Reads the value; the answer was this.
    Read(Option<u64>),
    /// Writes the value; the answer is the previous value, if it is known.
    Write(u64, Option<Option<u64>>),
    /// Writes `to` if the value is `from`; the answer is the previous value, if it is known.
    Swap {
        /// The value that must be there.
        from: u64,
        /// The value that is written then.
        to: u64,
        /// The previous value, if it is known.
        before: Option<Option<u64>>,
    },
    /// Removes the value if it is `from`. A removal that did not find it must be left out of the
    /// history.
    Remove {
        /// The value that must be there.
        from: u64,
    },
}

impl fmt::Display for Operation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.ended {
            Some(ended) => write!(f, "{}-{ended} µs: ", self.begun)?,
            None => write!(f, "{}-? µs: ", self.begun)?,
        }
        f.write_str(&self.words())
    }
}

impl Operation {
    /// The request and its answer, in words.
    pub fn words(&self) -> String {
        let value = |value: Option<u64>| value.map_or("nothing".to_owned(), |v| v.to_string());
        let before = |before: Option<Option<u64>>| match before {
            Some(before) => format!(", found {}", value(before)),
            None => ", not heard".to_owned(),
        };
        match self.action {
            Action::Read(found) => format!("read {}", value(found)),
            Action::Write(to, found) => format!("write {to}{}", before(found)),
            Action::Swap { from, to, before: found } => {
                format!("swap {from} for {to}{}", before(found))
            }
            Action::Remove { from } if self.ended.is_none() => format!("remove {from}, not heard"),
            Action::Remove { from } => format!("remove {from}, found it"),
        }
    }
}

/// Checks the history of a register, and reports a wrong one as a violation.
pub fn holds(register: u64, history: &[Operation]) -> Result<(), Violation> {
    if check(history) != Verdict::Violated {
        return Ok(());
    }
    let operations = explain(history);
    let mut detail = format!("the history of register {register} is not linearizable:");
    for operation in &operations {
        detail += &format!("\n    {operation}");
    }
    violation(Check::History, operations, detail)
}

/// The result of a check.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// A valid order exists.
    Linearizable,
    /// No valid order exists.
    Violated,
    /// The search reached [`STEPS_MAX`].
    Unknown,
}

/// Number of steps after which a search gives up.
pub const STEPS_MAX: u64 = 2_000_000;

/// Checks the operations on one register.
pub fn check(operations: &[Operation]) -> Verdict {
    let mut operations = resolve(operations);
    operations.sort_by_key(|operation| operation.begun);
    let mut observers: HashMap<Option<u64>, Vec<usize>> = HashMap::new();
    for (at, operation) in operations.iter().enumerate() {
        if operation.ended.is_some()
            && let Some(value) = found(operation)
        {
            observers.entry(value).or_default().push(at);
        }
    }
    let is_remove = |operation: &Operation| matches!(operation.action, Action::Remove { .. });
    let removes = operations.iter().any(is_remove);
    Search { operations: &operations, observers, removes, seen: HashSet::new(), steps: 0 }.run()
}

/// For a history that is not linearizable: the operations around the first impossible answer, in
/// the order in which they began.
pub fn explain(operations: &[Operation]) -> Vec<Operation> {
    let mut ends: Vec<u64> = operations.iter().filter_map(|operation| operation.ended).collect();
    ends.sort_unstable();
    // The history as known at `time`: operations that ended later have no answer yet.
    let known_at = |time: u64| -> Vec<Operation> {
        let begun = operations.iter().filter(|operation| operation.begun <= time);
        begun
            .map(|operation| Operation {
                ended: operation.ended.filter(|ended| *ended <= time),
                action: match (operation.action, operation.ended.is_some_and(|e| e <= time)) {
                    (Action::Write(value, _), false) => Action::Write(value, None),
                    (Action::Swap { from, to, .. }, false) => {
                        Action::Swap { from, to, before: None }
                    }
                    (action, _) => action,
                },
                begun: operation.begun,
            })
            .collect()
    };
    let first = ends.partition_point(|end| check(&known_at(*end)) != Verdict::Violated);
    let Some(end) = ends.get(first) else { return Vec::new() };
    let from = ends.get(first.saturating_sub(8)).copied().unwrap_or_default();
    let mut around = known_at(*end);
    around.retain(|operation| operation.ended.is_none_or(|ended| ended >= from));
    around.sort_by_key(|operation| operation.begun);
    around
}

/// Resolves operations without an answer. Values are unique. If an operation observed the value,
/// the write took effect before the first such operation ended. If none did, the write can be taken
/// as never executed. A read without an answer is dropped.
fn resolve(operations: &[Operation]) -> Vec<Operation> {
    let mut first_seen: HashMap<u64, u64> = HashMap::new();
    let mut unsettled: HashSet<u64> = HashSet::new();
    for operation in operations {
        let Some(ended) = operation.ended else {
            // It may have removed the value before any other operation observed it.
            if let Action::Remove { from } = operation.action {
                unsettled.insert(from);
            }
            continue;
        };
        let seen = match operation.action {
            Action::Read(value) => value,
            Action::Write(_, before) => before.flatten(),
            Action::Swap { from, before, .. } => {
                if before.is_none() {
                    // It may or may not have found its value.
                    unsettled.insert(from);
                }
                before.flatten()
            }
            Action::Remove { from } => Some(from),
        };
        if let Some(value) = seen {
            let first = first_seen.entry(value).or_insert(ended);
            *first = ended.min(*first);
        }
    }
    let open = operations.iter().filter(|operation| operation.ended.is_none());
    let swaps: Vec<(u64, u64)> = (open.clone())
        .filter_map(|operation| match operation.action {
            Action::Swap { from, to, .. } => Some((from, to)),
            _ => None,
        })
        .collect();
    // A swap that took effect has observed the value that it replaced.
    loop {
        let mut settled = true;
        for (from, to) in &swaps {
            let Some(end) = first_seen.get(to).copied() else { continue };
            let first = first_seen.entry(*from).or_insert(u64::MAX);
            settled &= *first <= end;
            *first = end.min(*first);
        }
        // A swap that may have taken effect may have observed it.
        for (from, to) in &swaps {
            settled &= !unsettled.contains(to) || !unsettled.insert(*from);
        }
        if settled {
            break;
        }
    }
    let mut resolved: Vec<Operation> =
        operations.iter().filter(|operation| operation.ended.is_some()).cloned().collect();
    for operation in open {
        let (value, action) = match operation.action {
            Action::Read(_) => continue,
            Action::Write(value, _) => (value, operation.action),
            Action::Swap { from, to, .. } => {
                (to, Action::Swap { from, to, before: Some(Some(from)) })
            }
            Action::Remove { .. } => {
                resolved.push(operation.clone());
                continue;
            }
        };
        match first_seen.get(&value) {
            Some(end) => resolved.push(Operation {
                begun: operation.begun,
                // If the value was observed before this began, the search must fail.
                ended: Some((*end).max(operation.begun)),
                action,
            }),
            None if unsettled.contains(&value) => resolved.push(operation.clone()),
            None => {}
        }
    }
    resolved
}

/// The operations that are in the order: all below the first number, and those from there on whose
/// bit is set.
type Placed = (usize, Vec<u64>);

struct Search<'a> {
    operations: &'a [Operation],
    /// The operations that observed each value.
    observers: HashMap<Option<u64>, Vec<usize>>,
    /// The history removes values: "no value" may occur more than once.
    removes: bool,
    seen: HashSet<(Placed, Option<u64>)>,
    steps: u64,
}

impl Search<'_> {
    fn run(&mut self) -> Verdict {
        let mut stack = vec![((0, Vec::new()), None)];
        while let Some((placed, value)) = stack.pop() {
            self.steps += 1;
            if self.steps > STEPS_MAX {
                return Verdict::Unknown;
            }
            if self.is_complete(&placed) {
                return Verdict::Linearizable;
            }
            let mut candidates = self.candidates(&placed);
            // An operation that fits now and changes nothing can be placed now: a valid order
            // remains valid if the operation is moved to its front.
            if let Some(idle) =
                candidates.iter().position(|at| is_idle(value, &self.operations[*at]))
            {
                candidates = vec![candidates[idle]];
            }
            for next in candidates {
                let Some(after) = step(value, &self.operations[next]) else { continue };
                if after != value && self.is_still_seen(&placed, value, next) {
                    continue;
                }
                let state = (self.place(&placed, next), after);
                if self.seen.insert(state.clone()) {
                    stack.push(state);
                }
            }
        }
        Verdict::Violated
    }

    /// Whether another operation observed this value and is not placed yet. Values are unique: a
    /// replaced value never comes back.
    fn is_still_seen(&self, placed: &Placed, value: Option<u64>, next: usize) -> bool {
        if value.is_none() && self.removes {
            return false;
        }
        let observers = self.observers.get(&value).into_iter().flatten();
        observers.copied().any(|at| at != next && !is_placed(placed, at))
    }

    /// Whether every operation that must be placed is placed. One that never ended may be left out.
    fn is_complete(&self, placed: &Placed) -> bool {
        (placed.0..self.operations.len())
            .all(|at| is_placed(placed, at) || self.operations[at].ended.is_none())
    }

    /// The operations that may come next: those that began before any unplaced one ended.
    fn candidates(&self, placed: &Placed) -> Vec<usize> {
        let open = (placed.0..self.operations.len()).filter(|at| !is_placed(placed, *at));
        let mut first_end = u64::MAX;
        let mut candidates = Vec::new();
        for at in open {
            let operation = &self.operations[at];
            if operation.begun > first_end {
                break;
            }
            first_end = first_end.min(operation.ended.unwrap_or(u64::MAX));
            candidates.push(at);
        }
        candidates.retain(|at| self.operations[*at].begun <= first_end);
        candidates
    }

    fn place(&self, placed: &Placed, at: usize) -> Placed {
        let (mut low, mut bits) = placed.clone();
        let offset = at - low;
        if bits.len() <= offset / 64 {
            bits.resize(offset / 64 + 1, 0);
        }
        bits[offset / 64] |= 1 << (offset % 64);
        // Full words at the front move the window forward.
        while bits.first() == Some(&u64::MAX) {
            bits.remove(0);
            low += 64;
        }
        while bits.last() == Some(&0) {
            bits.pop();
        }
        (low, bits)
    }
}

fn is_placed(placed: &Placed, at: usize) -> bool {
    let Some(offset) = at.checked_sub(placed.0) else { return true };
    placed.1.get(offset / 64).is_some_and(|word| word >> (offset % 64) & 1 == 1)
}

/// The value that the operation observed, if it is known.
fn found(operation: &Operation) -> Option<Option<u64>> {
    match operation.action {
        Action::Read(value) => Some(value),
        Action::Write(_, before) | Action::Swap { before, .. } => before,
        Action::Remove { from } => Some(Some(from)),
    }
}

/// Whether the operation fits the value and does not change it.
fn is_idle(value: Option<u64>, operation: &Operation) -> bool {
    match operation.action {
        Action::Read(answer) => answer == value,
        Action::Swap { from, before: Some(before), .. } => before == value && value != Some(from),
        _ => false,
    }
}

/// The value after the operation, if its answer fits the value before.
fn step(value: Option<u64>, operation: &Operation) -> Option<Option<u64>> {
    match operation.action {
        Action::Read(answer) => (operation.ended.is_none() || answer == value).then_some(value),
        Action::Write(new, before) => {
            (before.is_none() || before == Some(value)).then_some(Some(new))
        }
        Action::Swap { from, to, before } => {
            let after = if value == Some(from) { Some(to) } else { value };
            (before.is_none() || before == Some(value)).then_some(after)
        }
        Action::Remove { from } => (value == Some(from)).then_some(None),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use Action::{Read, Remove, Swap, Write};

    fn history(lines: &[(u64, u64, Action)]) -> Vec<Operation> {
        // An end of 0 stands for "never".
        let operation = |(begun, ended, action): &(u64, u64, Action)| Operation {
            begun: *begun,
            ended: (*ended > 0).then_some(*ended),
            action: *action,
        };
        lines.iter().map(operation).collect()
    }

    const fn put(value: u64) -> Action {
        Write(value, None)
    }

    const fn swap(from: u64, to: u64, before: Option<u64>) -> Action {
        Swap { from, to, before: Some(before) }
    }

    const fn open_swap(from: u64, to: u64) -> Action {
        Swap { from, to, before: None }
    }

    /// Histories known to be good.
    fn good() -> Vec<(&'static str, Vec<Operation>)> {
        vec![
            (
                "a value removed, and another one after it, with nothing between",
                history(&[
                    (1, 2, put(1)),
                    (3, 4, Remove { from: 1 }),
                    (5, 6, Read(None)),
                    (7, 8, put(2)),
                    (9, 10, Read(Some(2))),
                    (11, 12, Remove { from: 2 }),
                    (13, 14, Read(None)),
                ]),
            ),
            (
                "nothing is read before, between and after",
                history(&[
                    (1, 20, put(1)),
                    (2, 3, Read(None)),
                    (4, 5, Read(Some(1))),
                    (6, 19, Remove { from: 1 }),
                    (7, 8, Read(None)),
                ]),
            ),
            (
                "a removal without an answer that took effect",
                history(&[(1, 2, put(1)), (3, 0, Remove { from: 1 }), (5, 6, Read(None))]),
            ),
            (
                "a removal without an answer that did not",
                history(&[(1, 2, put(1)), (3, 0, Remove { from: 1 }), (5, 6, Read(Some(1)))]),
            ),
            (
                "a removal without an answer of a value that nobody else saw",
                history(&[
                    (1, 2, put(1)),
                    (3, 0, open_swap(1, 2)),
                    (4, 0, put(3)),
                    (5, 0, Remove { from: 3 }),
                    (6, 7, Read(None)),
                ]),
            ),
            (
                "a removal without an answer of what a swap without one wrote",
                history(&[
                    (1, 2, put(1)),
                    (3, 0, open_swap(1, 2)),
                    (4, 0, Remove { from: 2 }),
                    (6, 7, Read(None)),
                ]),
            ),
            ("nothing", history(&[])),
            ("a read of nothing", history(&[(1, 2, Read(None))])),
            ("a write, then a read", history(&[(1, 2, put(1)), (3, 4, Read(Some(1)))])),
            ("a read beside a write sees it", history(&[(1, 5, put(1)), (2, 3, Read(Some(1)))])),
            ("a read beside a write misses it", history(&[(1, 5, put(1)), (2, 3, Read(None))])),
            (
                "two writes at once, either is last",
                history(&[(1, 5, put(1)), (2, 6, put(2)), (7, 8, Read(Some(1)))]),
            ),
            (
                "two reads beside a write, in order",
                history(&[(1, 9, put(1)), (2, 3, Read(None)), (4, 5, Read(Some(1)))]),
            ),
            (
                "a write without an answer that took effect",
                history(&[(1, 0, put(1)), (5, 6, Read(Some(1)))]),
            ),
            (
                "a write without an answer that did not",
                history(&[(1, 0, put(1)), (5, 6, Read(None))]),
            ),
            (
                "a write without an answer that took effect late",
                history(&[(1, 0, put(1)), (2, 3, Read(None)), (4, 5, Read(Some(1)))]),
            ),
            ("a read without an answer says nothing", history(&[(1, 0, Read(Some(9)))])),
            (
                "a swap that found its value",
                history(&[(1, 2, put(1)), (3, 4, swap(1, 2, Some(1))), (5, 6, Read(Some(2)))]),
            ),
            (
                "a swap that did not",
                history(&[(1, 2, put(1)), (3, 4, swap(7, 2, Some(1))), (5, 6, Read(Some(1)))]),
            ),
            (
                "a swap without an answer that took effect",
                history(&[(1, 2, put(1)), (3, 0, open_swap(1, 2)), (5, 6, Read(Some(2)))]),
            ),
            (
                "of two swaps at once, one wins",
                history(&[
                    (1, 2, put(1)),
                    (3, 6, swap(1, 2, Some(1))),
                    (4, 7, swap(1, 3, Some(2))),
                    (8, 9, Read(Some(2))),
                ]),
            ),
            (
                "a write that hears what was before",
                history(&[(1, 2, put(1)), (3, 4, Write(2, Some(Some(1))))]),
            ),
            (
                "a chain of swaps through one without an answer",
                history(&[
                    (1, 2, put(1)),
                    (3, 0, open_swap(1, 2)),
                    (4, 9, swap(2, 3, Some(2))),
                    (10, 11, Read(Some(3))),
                ]),
            ),
        ]
    }

    /// Histories known to be bad.
    fn bad() -> Vec<(&'static str, Vec<Operation>)> {
        vec![
            (
                "what was removed is read again",
                history(&[(1, 2, put(1)), (3, 4, Remove { from: 1 }), (5, 6, Read(Some(1)))]),
            ),
            (
                "something is removed that was not there any more",
                history(&[(1, 2, put(1)), (3, 4, put(2)), (5, 6, Remove { from: 1 })]),
            ),
            (
                "two remove the same",
                history(&[(1, 2, put(1)), (3, 6, Remove { from: 1 }), (4, 7, Remove { from: 1 })]),
            ),
            (
                "nothing is there though nobody could have removed it",
                history(&[(1, 2, put(1)), (3, 0, Remove { from: 2 }), (5, 6, Read(None))]),
            ),
            ("a value from nowhere", history(&[(1, 2, Read(Some(1)))])),
            ("a stale read", history(&[(1, 2, put(1)), (3, 4, Read(None))])),
            ("a read from the future", history(&[(1, 2, Read(Some(1))), (3, 4, put(1))])),
            ("a lost write", history(&[(1, 2, put(1)), (3, 4, put(2)), (5, 6, Read(Some(1)))])),
            (
                "reads that go back",
                history(&[(1, 9, put(1)), (2, 3, Read(Some(1))), (4, 5, Read(None))]),
            ),
            (
                "reads that disagree about the order of two writes",
                history(&[
                    (1, 9, put(1)),
                    (1, 9, put(2)),
                    (10, 11, Read(Some(1))),
                    (12, 13, Read(Some(2))),
                ]),
            ),
            (
                "a write without an answer that took effect and was undone",
                history(&[(1, 0, put(1)), (2, 3, Read(Some(1))), (4, 5, Read(None))]),
            ),
            (
                "a write without an answer, seen before it was asked",
                history(&[(1, 2, Read(Some(1))), (3, 0, put(1))]),
            ),
            (
                "a swap that says it found what was not there",
                history(&[(1, 2, put(1)), (3, 4, swap(7, 2, Some(7)))]),
            ),
            (
                "a swap that found its value and did nothing",
                history(&[(1, 2, put(1)), (3, 4, swap(1, 2, Some(1))), (5, 6, Read(Some(1)))]),
            ),
            (
                "two swaps that both won",
                history(&[
                    (1, 2, put(1)),
                    (3, 6, swap(1, 2, Some(1))),
                    (4, 7, swap(1, 3, Some(1))),
                ]),
            ),
            (
                "a write that hears of a value that was gone",
                history(&[(1, 2, put(1)), (3, 4, put(2)), (5, 6, Write(3, Some(Some(1))))]),
            ),
            (
                "a write done twice",
                history(&[
                    (1, 2, put(1)),
                    (3, 4, put(2)),
                    (5, 6, Read(Some(2))),
                    (7, 8, Read(Some(1))),
                ]),
            ),
        ]
    }

    #[test]
    fn good_histories_pass() {
        for (name, history) in good() {
            assert_eq!(check(&history), Verdict::Linearizable, "{name}");
        }
    }

    #[test]
    fn bad_histories_are_found() {
        for (name, history) in bad() {
            assert_eq!(check(&history), Verdict::Violated, "{name}");
        }
    }

    #[test]
    fn neither_order_of_the_lines_nor_company_changes_a_verdict() {
        for (histories, verdict) in [(good(), Verdict::Linearizable), (bad(), Verdict::Violated)] {
            for (name, mut history) in histories {
                history.reverse();
                // A later operation that is fine in itself.
                history.push(Operation { begun: 100, ended: Some(101), action: put(99) });
                assert_eq!(check(&history), verdict, "{name}");
            }
        }
    }

    #[test]
    fn a_long_history_of_many_clients_is_checked_and_one_wrong_answer_in_it_is_found() {
        // Ten clients, each operation overlapping those of the others, in a known order.
        let mut history = Vec::new();
        let mut value = None;
        for n in 0..1_000_u64 {
            let (begun, ended) = (n * 10, Some(n * 10 + 95));
            let action = match n % 3 {
                0 => Write(n + 1, Some(value)),
                1 => Read(value),
                _ => Swap { from: value.unwrap_or(0), to: n + 1, before: Some(value) },
            };
            if n % 3 != 1 {
                value = Some(n + 1);
            }
            history.push(Operation { begun, ended, action });
        }
        assert_eq!(check(&history), Verdict::Linearizable);
        history[700].action = Read(Some(1));
        assert_eq!(check(&history), Verdict::Violated);
    }
}
