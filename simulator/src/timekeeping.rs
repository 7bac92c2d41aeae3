//! Whether the log's time keeps its promises (see the module `log_time` of `raft`), whatever the clocks
//! of single nodes do.
//!
//! - It runs no faster than the fastest monotonic clock, or it is what the wall clocks of a quorum have
//!   reached: so no lease ends early because one wall clock is wrong.
//! - While no node starts anew, it runs no slower than the slowest: so no lease outlives its time because
//!   nobody proposed, or because the leader changed.

use crate::checks::Check;
use crate::observer::{Violation, violation};
use raft::{Entry, Index, LogId, LogTime, Now, Term};
use std::collections::BTreeMap;

/// Each change of leader may round down to a millisecond, and so may each reading.
const ROUNDING_MS: u64 = 10;

/// More entries than this that were made and never committed are not remembered.
const UNCOMMITTED_MAX: usize = 4096;

/// What is known of the clocks and of the log's time.
#[derive(Debug, Default)]
pub struct Timekeeping {
    clocks: Vec<Now>,
    /// The wall clocks, the latest first. Kept for its buffer.
    walls: Vec<u64>,
    /// How long it has been, by the fastest clock in each interval, and by the slowest.
    fast_ns: u64,
    slow_ns: u64,
    /// The latest time that a quorum of wall clocks has ever reached.
    reached_ms: u64,
    /// The time of the latest committed entry.
    latest: Option<LogTime>,
    /// By how many milliseconds the log's time has led `fast_ns` at most, when an entry was made.
    lead_ms: i64,
    /// The same, and `slow_ns` when it was found to be committed, if no node has started since.
    unbroken: Option<(LogTime, u64)>,
    /// `fast_ns` and `slow_ns` when a leader made the entry that is not yet committed.
    made: BTreeMap<LogId, (u64, u64)>,
}

impl Timekeeping {
    /// Time has passed, or a clock is about to be changed, or has been: these are the clocks of all nodes.
    pub fn pass(&mut self, clocks: &[Now]) {
        let passed = || {
            let since =
                |(now, before): (&Now, &Now)| now.monotonic_ns.saturating_sub(before.monotonic_ns);
            clocks.iter().zip(&self.clocks).map(since)
        };
        let (fast, slow) = (passed().max().unwrap_or(0), passed().min().unwrap_or(0));
        self.fast_ns += fast;
        self.slow_ns += slow;
        self.clocks.clear();
        self.clocks.extend_from_slice(clocks);
        self.walls.clear();
        self.walls.extend(clocks.iter().map(|now| now.wall_ms));
        // A majority has reached what the one in the middle has.
        self.walls.sort_unstable_by(|a, b| b.cmp(a));
        let reached_ms = self.walls.get(clocks.len() / 2).copied().unwrap_or(0);
        self.reached_ms = self.reached_ms.max(reached_ms);
    }

    /// A node has started: it may be the last one that knew the time.
    pub fn started(&mut self) {
        self.unbroken = None;
    }

    /// A leader has made the entries after `from` up to `to`.
    pub fn made(&mut self, term: Term, from: Index, to: Index) {
        for index in (from.0 + 1..=to.0).map(Index) {
            self.made.insert(LogId { term, index }, (self.fast_ns, self.slow_ns));
        }
    }

    /// An entry is committed, the next one.
    pub fn committed(&mut self, id: LogId, entry: &Entry) -> Result<(), Violation> {
        let time = entry.time;
        // A leader that steps down at once is not seen making it.
        let made = self.made.remove(&id);
        let made_fast_ns = made.map_or(self.fast_ns, |(fast_ns, _)| fast_ns);
        if self.made.len() > UNCOMMITTED_MAX {
            self.made.retain(|made, _| made.index > id.index);
        }
        let lead_ms = time.0 as i64 - (made_fast_ns / 1_000_000) as i64;
        if let Some(latest) = self.latest {
            if time < latest {
                let detail = format!("{id} is of {time}, after {latest}");
                return violation(Check::TimeOfTheLogDoesNotGoBack, detail);
            }
            // A follower whose clock is fast knows a later time than the leader, and may lead next.
            let faster = lead_ms > self.lead_ms + ROUNDING_MS as i64;
            if faster && time.0 > self.reached_ms {
                let most_ms = time.0 as i64 - lead_ms + self.lead_ms;
                let detail = format!("{id} is of {time}, after {latest}: at most {most_ms}");
                return violation(Check::TimeOfTheLogRunsNoFasterThanAClock, detail);
            }
        }
        self.lead_ms = match self.latest {
            None => lead_ms,
            Some(_) => self.lead_ms.max(lead_ms),
        };
        if let (Some((before, at_ns)), Some((_, made_ns))) = (self.unbroken, made) {
            let least_ms = before.0 + made_ns.saturating_sub(at_ns) / 1_000_000;
            if time.0 + ROUNDING_MS < least_ms {
                let detail = format!("{id} is of {time}, after {before}: at least {least_ms}");
                return violation(Check::TimeOfTheLogRunsNoSlowerThanAClock, detail);
            }
        }
        self.latest = Some(time);
        self.unbroken = Some((time, self.slow_ns));
        Ok(())
    }
}
