//! The history of what clients have observed of the store, and the checks of it.
//!
//! There are three checks:
//!
//! - The history of each register must be linearizable.
//! - Every answered write has a version, and versions grow: a write that ended before another began
//!   has the lower version.
//! - The log of commands is the same for all clients, has no gaps, and contains every command that
//!   was reported as done.

use super::conditions::Condition;
use super::replay::Replica;
use serde_json::Value;
use simulator::checks::{Check, Violation, violation};
use simulator::linearizability::{self, Action, Operation};
use std::collections::BTreeMap;

/// The check of fields that no other check uses.
pub(super) const FIELDS: Check = Check::FieldsOfAnAnswerAreTrue;
/// Stands for the value of a version that is a removal.
const REMOVED: u64 = u64::MAX - 2;

/// The history of all clients.
#[derive(Debug)]
pub struct History {
    registers: BTreeMap<u8, Vec<Operation>>,
    last_seen: BTreeMap<u8, u64>,
    next_value: u64,
    /// The register and the value that each version wrote.
    versions: BTreeMap<u64, (u8, u64)>,
    /// The versions in answers, with the time of the latest answer that had each.
    answered: BTreeMap<u64, u64>,
    /// Whether the listing has every command.
    complete: bool,
    /// Whether old deletions may be missing in a listing. A copy that has missed them never gets
    /// them.
    forgets: bool,
    /// Commands by number, as in the first listing or answer that had them.
    commands: BTreeMap<u64, Value>,
    /// The highest number of a command that a client knows to be done.
    done: Option<u64>,
    /// The commits of each number, as in the first listing that had them.
    listed: BTreeMap<u64, Vec<Value>>,
    /// The observations of refused writes: register, begin and end, and the version that was there.
    glimpses: Vec<(u8, (u64, u64), u64)>,
    /// The copies of the store that clients keep.
    replicas: BTreeMap<u64, Replica>,
}

impl History {
    /// Creates an empty history. `complete`: nodes retain every command; `forgets`: they retain few
    /// deletions.
    pub fn new(complete: bool, forgets: bool) -> Self {
        History {
            registers: BTreeMap::new(),
            last_seen: BTreeMap::new(),
            next_value: 0,
            versions: BTreeMap::new(),
            answered: BTreeMap::new(),
            complete,
            forgets: forgets && !complete,
            commands: BTreeMap::new(),
            done: None,
            listed: BTreeMap::new(),
            glimpses: Vec::new(),
            replicas: BTreeMap::new(),
        }
    }

    /// A value that no client has written yet.
    pub fn next_value(&mut self) -> u64 {
        self.next_value += 1;
        self.next_value
    }

    /// The next value for which `is_wanted` returns true.
    pub fn next_value_that(&mut self, is_wanted: impl Fn(u64) -> bool) -> u64 {
        loop {
            let value = self.next_value();
            if is_wanted(value) {
                return value;
            }
        }
    }

    /// The value that was last observed in a register, or one that no client has written.
    pub fn last_seen(&self, register: u8) -> u64 {
        self.last_seen.get(&register).copied().unwrap_or(u64::MAX)
    }

    /// Records an operation on a register; `ended_us` is `None` if it has no answer.
    pub fn record(&mut self, register: u8, begun_us: u64, ended_us: Option<u64>, action: Action) {
        let seen = match action {
            Action::Read(value) => value,
            Action::Write(_, before) | Action::Swap { before, .. } => before.flatten(),
            Action::Remove { .. } => None,
        };
        if let Some(value) = seen {
            self.last_seen.insert(register, value);
        }
        let operation = Operation { begun: begun_us, ended: ended_us, action };
        self.registers.entry(register).or_default().push(operation);
    }

    /// The highest version that has been answered by now. A write that begins now must get a higher
    /// one.
    pub fn floor(&self) -> u64 {
        self.answered.last_key_value().map_or(0, |(version, _)| *version)
    }

    /// Checks the version and value in the answer to a write or a read. For a write, `floor` is
    /// [`History::floor`] when it began.
    pub fn version(
        &mut self,
        version: u64,
        register: u8,
        value: u64,
        floor: Option<u64>,
        now_us: u64,
    ) -> Result<(), Violation> {
        if floor.is_some_and(|floor| version <= floor) {
            let detail = format!("version {version} after {floor:?} was answered");
            return violation(Check::LaterWritesHaveHigherVersions, (), detail);
        }
        let known = *self.versions.entry(version).or_insert((register, value));
        if known != (register, value) {
            let detail = format!("version {version} is {known:?} and {:?}", (register, value));
            return violation(Check::VersionIsOneValue, (), detail);
        }
        self.answered.insert(version, now_us);
        Ok(())
    }

    /// Checks the version in the answer to a removal, which no value may have. `floor` is
    /// [`History::floor`] when it began.
    pub fn removal(
        &mut self,
        version: u64,
        register: u8,
        floor: u64,
        now_us: u64,
    ) -> Result<(), Violation> {
        self.version(version, register, REMOVED, Some(floor), now_us)
    }

    /// The value of a version, if an answer has named it.
    pub fn value_of(&self, version: u64) -> Option<u64> {
        self.versions.get(&version).map(|(_, value)| *value)
    }

    /// The latest version of a register in an answer, and its value.
    pub fn last_version(&self, register: u8) -> Option<(u64, u64)> {
        let mut latest = self.versions.iter().rev();
        let is_of = |(of, value): &(u8, u64)| *of == register && *value != REMOVED;
        let (version, (_, value)) = latest.find(|(_, found)| is_of(found))?;
        Some((*version, *value))
    }

    /// Checks the refusal of a write. `current` is the version that was there, which must not meet
    /// the condition.
    pub fn refused(
        &mut self,
        register: u8,
        (begun_us, ended_us): (u64, u64),
        condition: Condition,
        current: Option<u64>,
    ) -> Result<(), Violation> {
        if !condition.refuses(current) {
            let detail = format!("{condition:?} of register {register} is met by {current:?}");
            return violation(Check::WriteIsRefusedOnlyIfItsConditionIsNotMet, (), detail);
        }
        match current {
            Some(version) => self.glimpses.push((register, (begun_us, ended_us), version)),
            None => self.record(register, begun_us, Some(ended_us), Action::Read(None)),
        }
        Ok(())
    }

    /// The highest number of a command that is known to be done.
    pub fn done(&self) -> Option<u64> {
        self.done
    }

    /// Whether nodes retain every command.
    pub fn is_complete(&self) -> bool {
        self.complete
    }

    /// Whether old deletions may be missing in a listing.
    pub fn forgets(&self) -> bool {
        self.forgets
    }

    /// The copy of the store that a client keeps.
    pub fn replica(&self, client: u64) -> Replica {
        self.replicas.get(&client).cloned().unwrap_or_else(Replica::new)
    }

    /// Stores the copy of a client.
    pub fn keep(&mut self, client: u64, replica: Replica) {
        self.replicas.insert(client, replica);
    }

    /// The copies of all clients.
    pub fn replicas(&self) -> BTreeMap<u64, Replica> {
        self.replicas.clone()
    }

    /// Checks a command that `wait_commit` has reported to a client as done.
    pub fn commit(&mut self, number: u64, command: &Value) -> Result<(), Violation> {
        self.done = self.done.max(Some(number));
        self.same_command(number, command)
    }

    fn same_command(&mut self, number: u64, command: &Value) -> Result<(), Violation> {
        let known = self.commands.entry(number).or_insert_with(|| command.clone());
        if known != command {
            let detail = format!("command {number} is {known} and {command}");
            return violation(Check::WhatIsCommittedNeverChangesForClients, (), detail);
        }
        Ok(())
    }

    /// Checks a listing of the commands after `since`. When it was requested, `floor` was known to
    /// be done.
    pub fn listing(
        &mut self,
        listing: &Value,
        since: i64,
        floor: Option<u64>,
    ) -> Result<(), Violation> {
        let Some(commits) = listing["commits"].as_array() else {
            return violation(Check::ListingIsAListing, (), listing.to_string());
        };
        if listing["count"].as_u64() != Some(commits.len() as u64) {
            let detail = format!("{} commits, count {}", commits.len(), listing["count"]);
            return violation(FIELDS, (), detail);
        }
        let mut term = 0;
        let mut last = None;
        let mut groups: Vec<(u64, Vec<&Value>)> = Vec::new();
        for commit in commits {
            let Some(number) = commit["index"].as_u64() else {
                return violation(Check::ListingIsAListing, (), commit.to_string());
            };
            let (of, command) = (commit["term"].as_u64(), &commit["command"]);
            let is_whole = command["key"].is_string() && command["id"].is_number();
            // The terms of the log never decrease.
            if !is_whole || of.is_none_or(|of| of < term) {
                return violation(FIELDS, (), format!("after one of term {term}: {commit}"));
            }
            term = of.unwrap_or(term);
            let expected = last.map_or((since + 1) as u64, |last| last + 1);
            // A batch is listed as the puts that it amounts to, which share its number.
            if self.complete && number != expected && Some(number) != last {
                let detail = format!("{number} where {expected} is due");
                return violation(Check::ListingHasNoGaps, (), detail);
            }
            if last.is_some_and(|last| number < last) {
                return violation(Check::ListingIsInOrder, (), format!("{number} after {last:?}"));
            }
            let repeated = Some(number) == last;
            last = Some(number);
            if !repeated {
                groups.push((number, Vec::new()));
            }
            groups.last_mut().expect("one was pushed for the first").1.push(commit);
            // An old command may be listed by its remaining effect, and one without any as a get.
            let is_compat = commit["command"].get("id").is_some_and(|id| *id != 0)
                && commit["command"]["kind"] != "get";
            if self.complete && is_compat && !repeated {
                self.same_command(number, &commit["command"])?;
            }
        }
        // The remaining effect of an old command depends on later ones.
        for (number, commits) in groups.into_iter().filter(|_| self.complete) {
            let known = self.listed.entry(number);
            let known = known.or_insert_with(|| commits.iter().copied().cloned().collect());
            if !known.iter().eq(commits.iter().copied()) {
                let detail = format!("number {number} is {known:?} and {commits:?}");
                return violation(Check::WhatIsCommittedNeverChangesForClients, (), detail);
            }
        }
        if last.map_or(since, |last| last as i64) < floor.map_or(-1, |floor| floor as i64) {
            let detail = format!("ends with {last:?}, though {floor:?} was done");
            return violation(Check::ListingIsFresh, (), detail);
        }
        self.done = self.done.max(last);
        Ok(())
    }

    /// Checks that the history is linearizable.
    pub fn verdict(&self) -> Result<(), Violation> {
        let mut registers = self.registers.clone();
        for (register, (begun, ended), version) in &self.glimpses {
            // The value of a version is unknown if no answer has named it.
            let Some((of, value)) = self.versions.get(version) else { continue };
            if of != register {
                let detail = format!("version {version} of register {register} is one of {of}");
                return violation(Check::VersionIsOneValue, (), detail);
            }
            let action = Action::Read(Some(*value));
            let read = Operation { begun: *begun, ended: Some(*ended), action };
            registers.entry(*register).or_default().push(read);
        }
        let mut registers = registers.iter();
        registers.try_for_each(|(register, of)| linearizability::holds(u64::from(*register), of))
    }
}
