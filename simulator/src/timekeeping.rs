//! Checks the promises of the log's time (see the module `log_time` of `raft`), whatever the clocks
//! of single nodes do.
//!
//! - It runs no faster than the fastest monotonic clock, except up to the time that the wall clocks
//!   of a quorum have reached. So no lease ends early because one wall clock is wrong.
//! - While no node restarts, it runs no slower than the slowest monotonic clock. So no lease lasts
//!   too long because no command was proposed, or because the leader changed. A clock that goes
//!   back is slower by as much. A new leader may have got the latest entry late, and the readings
//!   of its voters too: then the time stands for as long.

use crate::checks::Check;
use crate::plan::Swarm;
use crate::violation::{Violation, violation};
use raft::{Entry, Index, LogId, LogTime, Membership, NodeId, Now, Term};
use std::collections::BTreeMap;

/// Tolerance: each change of leader and each reading may round down to a millisecond.
const ROUNDING_MS: u64 = 10;

/// Limit of tracked uncommitted entries. Beyond it, those that cannot be committed any more are
/// dropped.
const UNCOMMITTED_MAX: usize = 4096;

/// The state of the checks: the clocks, and the log's time.
#[derive(Debug, Default)]
pub struct Timekeeping {
    clocks: Vec<Now>,
    /// The memberships in force at some node. A quorum of each may decide the log's time.
    memberships: Vec<Membership>,
    /// Elapsed time by the fastest clock in each interval, and by the slowest.
    fast_ns: u64,
    slow_ns: u64,
    /// The latest time that a quorum of wall clocks has ever reached.
    reached_ms: u64,
    /// The time of the latest committed entry.
    latest: Option<LogTime>,
    /// The largest lead of the log's time over `fast_ns` when an entry was made, in milliseconds.
    /// The entry need not be committed: the time of its leader goes on at the nodes that know it.
    lead_ms: Option<i64>,
    /// The term and the time of the latest committed entry, and `slow_ns` when it was committed.
    /// `None` if a node has started since.
    unbroken: Option<(Term, LogTime, u64)>,
    /// The longest time that a message is on its way, in milliseconds.
    late_ms: u64,
    /// The clock of some node has gone back. The log's time may stand at that node until the clock
    /// reads as much again.
    went_back: bool,
    /// `fast_ns` and `slow_ns` when a leader made each entry that is not yet committed.
    made: BTreeMap<LogId, (u64, u64)>,
}

impl Timekeeping {
    /// Messages are as late as in this plan.
    pub(crate) fn allow_delays(&mut self, swarm: &Swarm) {
        let tail_us = if swarm.tail_ppm > 0 { swarm.tail_us } else { 0 };
        self.late_ms = u64::from(2 * swarm.delay_us + tail_us).div_ceil(1_000);
    }

    /// Takes the readings of all clocks: whenever time has passed, and before and after a change of
    /// a clock.
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
        let wall_ms = |id: NodeId| clocks.get(id.0 as usize).map_or(0, |now| now.wall_ms);
        let reached_ms = self.memberships.iter().map(|one| one.reached(wall_ms)).max();
        self.reached_ms = self.reached_ms.max(reached_ms.unwrap_or(0));
    }

    /// These memberships are in force at the nodes from now on.
    pub(crate) fn decides<'a>(&mut self, memberships: impl Iterator<Item = &'a Membership>) {
        self.memberships.clear();
        for membership in memberships {
            let same = |known: &Membership| {
                (&known.voters, &known.outgoing) == (&membership.voters, &membership.outgoing)
            };
            if !self.memberships.iter().any(same) {
                self.memberships.push(membership.clone());
            }
        }
    }

    /// A node has started. It may have been the only one that knew the latest time.
    pub fn started(&mut self) {
        self.unbroken = None;
    }

    /// The monotonic clock of a node has gone back. The log's time may stand for as long. A later
    /// entry cannot be compared with one from that time, since it stands no more.
    pub(crate) fn went_back(&mut self, back_ns: u64) {
        self.went_back = true;
        if let Some((.., at_ns)) = &mut self.unbroken {
            *at_ns += back_ns;
        }
    }

    /// A leader has appended the entries after `from` up to `to`. `entry` returns them.
    pub fn made<'a>(
        &mut self,
        term: Term,
        from: Index,
        to: Index,
        entry: impl Fn(Index) -> Option<&'a Entry>,
    ) -> Result<(), Violation> {
        for index in (from.0 + 1..=to.0).map(Index) {
            let id = LogId { term, index };
            self.made.insert(id, (self.fast_ns, self.slow_ns));
            if let Some(entry) = entry(index) {
                self.leads(id, entry.time, self.fast_ns)?;
            }
        }
        Ok(())
    }

    /// Checks the lead of an entry's time over the fastest clock.
    fn leads(&mut self, id: LogId, time: LogTime, made_fast_ns: u64) -> Result<(), Violation> {
        let lead_ms = time.0 as i64 - (made_fast_ns / 1_000_000) as i64;
        if let Some(known_ms) = self.lead_ms
            && lead_ms > known_ms + ROUNDING_MS as i64
            && time.0 > self.reached_ms
        {
            let most_ms = time.0 as i64 - lead_ms + known_ms;
            let detail = format!("{id} is of {time}: at most {most_ms}");
            return violation(Check::TimeOfTheLogRunsNoFasterThanAClock, id, detail);
        }
        self.lead_ms = self.lead_ms.max(Some(lead_ms));
        Ok(())
    }

    /// Checks the time of the next committed entry.
    pub fn committed(&mut self, id: LogId, entry: &Entry) -> Result<(), Violation> {
        let time = entry.time;
        // A leader that steps down in the same event is not observed appending the entry.
        let made = self.made.remove(&id);
        let made_fast_ns = made.map_or(self.fast_ns, |(fast_ns, _)| fast_ns);
        if self.made.len() > UNCOMMITTED_MAX {
            self.made.retain(|made, _| made.index > id.index);
        }
        if let Some(latest) = self.latest.filter(|latest| time < *latest) {
            let detail = format!("{id} is of {time}, after {latest}");
            return violation(Check::TimeOfTheLogDoesNotGoBack, id, detail);
        }
        // A follower whose clock is fast knows a later time than the leader, and may lead next.
        self.leads(id, time, made_fast_ns)?;
        if let (Some((term, before, at_ns)), Some((_, made_ns))) = (self.unbroken, made) {
            let least_ms = before.0 + made_ns.saturating_sub(at_ns) / 1_000_000;
            let late_ms = if term == id.term { 0 } else { self.late_ms };
            if time.0 + ROUNDING_MS + late_ms < least_ms {
                let detail = format!("{id} is of {time}, after {before}: at least {least_ms}");
                return violation(Check::TimeOfTheLogRunsNoSlowerThanAClock, id, detail);
            }
        }
        self.latest = Some(time);
        if !self.went_back {
            self.unbroken = Some((id.term, time, self.slow_ns));
        }
        Ok(())
    }
}
