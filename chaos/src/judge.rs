//! Checks the histories of the clients against the copies of all nodes.

use crate::clients::{KEYS, Replay, SESSION_PUT, key_name};
use crate::history::{Heard, Record, by_key};
use serde_json::Value;
use simulator::linearizability::{Verdict, check, explain};
use std::collections::BTreeMap;

/// This many writes in sessions may fail although none is done.
const SESSIONS_FAILED_MAX: u64 = 10;

/// The counts of a round.
#[derive(Clone, Debug, Default)]
pub struct Counts {
    /// Operations whose response confirms that they were done.
    pub done: u64,
    /// Operations that were certainly not done.
    pub refused: u64,
    /// Operations whose outcome is unknown.
    pub unknown: u64,
    /// Writes in sessions that got their reply.
    pub in_sessions: u64,
    /// Writes in sessions that got none within [`crate::bounds::SESSION_PATIENCE`].
    pub sessions_failed: u64,
    /// Acknowledged writes that a copy lacks, counted once for each such copy.
    pub lost: u64,
    /// Writes that were done more than once, counted once for each copy.
    pub doubled: u64,
    /// Keys whose history is not linearizable.
    pub stale: u64,
    /// Writes answered "not done" that were done, counted once for each copy.
    pub done_after_all: u64,
    /// Copies that differ from the first.
    pub different: u64,
    /// Keys on which the checker gave up after its limit of steps.
    pub undecided: u64,
}

/// Checks the records against the copies, and the history of each key for linearizability.
/// `complete` is true if the copies hold every commit. Appends a text for each kind of violation in
/// each copy, and for each key that is not linearizable, to `violations`.
pub fn judge(
    records: &[Record],
    copies: &BTreeMap<u64, Vec<Value>>,
    complete: bool,
    violations: &mut Vec<String>,
) -> Counts {
    let count = |heard| records.iter().filter(|record| record.heard == heard).count() as u64;
    let in_session = |record: &&Record| record.api.starts_with("session");
    // A put without a condition is never refused.
    let failed = |record: &&Record| match record.api {
        SESSION_PUT => record.heard != Heard::Done,
        _ => record.heard == Heard::Unknown,
    };
    let sessions_failed = records.iter().filter(in_session).filter(failed).count() as u64;
    let mut counts = Counts {
        in_sessions: records.iter().filter(in_session).count() as u64 - sessions_failed,
        sessions_failed,
        done: count(Heard::Done),
        refused: count(Heard::NotDone),
        unknown: count(Heard::Unknown),
        ..Counts::default()
    };
    if counts.in_sessions == 0 && sessions_failed >= SESSIONS_FAILED_MAX {
        violations.push(format!("none of {sessions_failed} writes in sessions was done"));
    }
    compare(copies, &mut counts, violations);
    // Listings that lack old commits prove nothing about a single write. The reads at the end still
    // do.
    for (node, commits) in copies.iter().filter(|_| complete) {
        let mut replay = Replay::default();
        commits.iter().for_each(|commit| replay.take(commit));
        against_copy(records, *node, &replay, &mut counts, violations);
    }
    for (key, operations) in by_key(records) {
        match check(&operations) {
            Verdict::Linearizable => {}
            Verdict::Unknown => counts.undecided += 1,
            Verdict::Violated => {
                counts.stale += 1;
                let around: Vec<String> =
                    explain(&operations).iter().map(|operation| operation.to_string()).collect();
                let around = around.join("; ");
                violations
                    .push(format!("the history of {} fits no register: {around}", key_name(key)));
            }
        }
    }
    counts
}

/// Checks that all copies are the same, commit by commit.
fn compare(copies: &BTreeMap<u64, Vec<Value>>, counts: &mut Counts, violations: &mut Vec<String>) {
    let Some((first, expected)) = copies.iter().next() else { return };
    for (node, commits) in copies.iter().skip(1) {
        if commits == expected {
            continue;
        }
        counts.different += 1;
        let at = expected.iter().zip(commits).position(|(a, b)| a != b);
        let at = at.unwrap_or(expected.len().min(commits.len()));
        let show = |commits: &[Value]| {
            commits.get(at).map_or("nothing".to_owned(), |commit| commit.to_string())
        };
        violations.push(format!(
            "nodes {first} and {node} have different copies: {} and {} commits; at position {at} \
             {} and {}",
            expected.len(),
            commits.len(),
            show(expected),
            show(commits)
        ));
    }
}

/// Checks the outcome of each write against one copy.
fn against_copy(
    records: &[Record],
    node: u64,
    replay: &Replay,
    counts: &mut Counts,
    violations: &mut Vec<String>,
) {
    let written = |value: u64| replay.written.get(&value).copied().unwrap_or(0);
    let mut texts = BTreeMap::<&str, Vec<String>>::new();
    let mut note = |what, record: &Record, value| {
        let (api, through) = (record.api, record.node);
        let text = format!("{value} ({api} through node {through}, key {})", record.key);
        texts.entry(what).or_default().push(text);
    };
    for record in records {
        if let Some(value) = record.has_written()
            && written(value) == 0
        {
            counts.lost += 1;
            note("lost: acknowledged and not there", record, value);
        }
        if let Some(value) = record.has_not_written()
            && written(value) > 0
        {
            counts.done_after_all += 1;
            note("answered \"not done\" and there", record, value);
        }
        if let Some(value) = record.writes()
            && written(value) > 1
        {
            counts.doubled += 1;
            note("doubled: asked once and there more often", record, value);
        }
    }
    for (what, values) in texts {
        let (count, some) = (values.len(), &values[..values.len().min(5)]);
        violations.push(format!("node {node}: {what}: {count} values: {}", some.join(", ")));
    }
}

/// The longest time without an acknowledged write, in microseconds.
pub fn worst_gap_micros(records: &[Record], end: u64) -> u64 {
    let writes = records.iter().filter(|record| record.has_written().is_some());
    let mut ends: Vec<u64> = writes.map(|record| record.ended).collect();
    ends.push(end);
    ends.sort_unstable();
    let gaps = ends.windows(2).map(|pair| pair[1] - pair[0]);
    gaps.max().unwrap_or(0)
}

/// The keys that are read at the end.
pub fn keys() -> impl Iterator<Item = u64> {
    0..KEYS
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;
    use simulator::linearizability::Action;

    fn write(value: u64, heard: Heard) -> Record {
        let action = Action::Write(value, None);
        Record { key: 0, api: "v1 put", node: 0, begun: value, ended: value, action, heard }
    }

    fn copy(values: &[u64]) -> Vec<Value> {
        let commits = values.iter().enumerate().map(|(index, value)| {
            let value = value.to_string();
            json!({ "index": index, "command": { "kind": "put", "key": "key-0", "value": value } })
        });
        commits.collect()
    }

    fn judged(records: &[Record], copies: &[&[u64]]) -> (Counts, Vec<String>) {
        let copies = (0..).zip(copies).map(|(node, values)| (node, copy(values))).collect();
        let mut violations = Vec::new();
        let counts = judge(records, &copies, true, &mut violations);
        (counts, violations)
    }

    #[test]
    fn a_round_in_which_every_promise_holds_has_no_violation() {
        let records = [write(1, Heard::Done), write(2, Heard::NotDone), write(3, Heard::Unknown)];
        let (counts, violations) = judged(&records, &[&[1, 3], &[1, 3]]);
        assert_eq!(violations, Vec::<String>::new());
        assert_eq!((counts.done, counts.refused, counts.unknown), (1, 1, 1));
    }

    #[test]
    fn lost_doubled_and_done_after_all_are_told_apart() {
        let records = [write(1, Heard::Done), write(2, Heard::NotDone), write(3, Heard::Unknown)];
        let (counts, violations) = judged(&records, &[&[2, 3, 3]]);
        assert_eq!((counts.lost, counts.done_after_all, counts.doubled), (1, 1, 1));
        assert_eq!(violations.len(), 3, "{violations:?}");
    }

    #[test]
    fn a_write_that_one_copy_lacks_is_lost_and_the_copies_differ() {
        let (counts, _) = judged(&[write(1, Heard::Done)], &[&[1], &[]]);
        assert_eq!((counts.lost, counts.different), (1, 1));
    }

    #[test]
    fn a_read_of_an_old_value_is_stale() {
        let mut records = vec![write(1, Heard::Done), write(2, Heard::Done)];
        let read =
            Record { begun: 3, ended: 3, action: Action::Read(Some(1)), ..write(9, Heard::Done) };
        records.push(read);
        let (counts, _) = judged(&records, &[&[1, 2]]);
        assert_eq!(counts.stale, 1);
    }

    #[test]
    fn the_worst_gap_counts_acknowledged_writes_only() {
        let records = [write(10, Heard::Done), write(50, Heard::Unknown), write(90, Heard::Done)];
        assert_eq!(worst_gap_micros(&records, 100), 80);
    }
}
