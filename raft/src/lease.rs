//! Leases (§6.4.1): a leader answers reads without a round of heartbeats, since no other leader can
//! have been elected yet. Off by default.
//!
//! A lease rests on a promise of the followers. A node that has heard from its leader grants no
//! vote and no pre-vote, and does not campaign, for [`LeaseConfig::promise_ms`] of its own clock
//! ([`Promise`]). Its reply to a round of heartbeats states that length. The reply proves that the
//! node has heard from the leader after the round began. So the leader counts the time from the
//! beginning of the round, by its own clock, less what both clocks may drift ([`Lease`]). As long
//! as the promises to a quorum hold, no quorum can vote for another leader.
//!
//! The ways in which a lease could be wrong, and the rule against each:
//!
//! - The leader orders an election itself: after `TimeoutNow`, no lease for the rest of the term.
//! - A node forgets its promise in a crash: its disk has the length before it makes one, and it
//!   waits for as long after each start, whatever its settings are by then.
//! - A node with leases off: its replies state no promise and count for nothing.
//! - A new leader that does not know what is committed: no lease before it has applied the entry
//!   that began its term.
//! - A change of the membership: the membership in force decides which promises count; in a joint
//!   one, a quorum of both halves.
//! - The leader's clock goes back or stands: the rounds before that count no more.
//!
//! What remains is the assumption that a clock gains or loses at most
//! [`LeaseConfig::drift_ppm`].

use crate::core::Core;
use crate::{Membership, NodeId, Round};
use std::collections::VecDeque;
use std::time::Duration;

/// The settings of leases. All voters of a cluster should have the same: the promises of voters
/// without leases do not count, so with too few others there is no lease.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LeaseConfig {
    /// The length of a tick: the least time between two calls of
    /// [`RawNode::tick`](crate::RawNode::tick).
    pub tick: Duration,
    /// The bound on clock drift, in parts per million: in a second, the monotonic clock of each
    /// node gains or loses at most this many microseconds. From 1 to
    /// [`LeaseConfig::DRIFT_PPM_MAX`]. A daemon that corrects the time of day also slews the
    /// monotonic clock, chrony by up to 83,333 by default and Linux by up to 100,000.
    pub drift_ppm: u32,
}

impl LeaseConfig {
    /// The greatest bound on clock drift: 25 %. A lease then lasts half as long as a promise.
    pub const DRIFT_PPM_MAX: u32 = 250_000;

    /// For how long a node that has heard from its leader grants no vote, in milliseconds: two
    /// ticks less than the shortest election timeout. The promise is over before the timeout,
    /// unless ticks come sooner than [`LeaseConfig::tick`] by the node's clock. A restarted node
    /// waits for as long in any case.
    pub fn promise_ms(&self, election_ticks: u32) -> u32 {
        let promise = self.tick.saturating_mul(election_ticks.saturating_sub(2));
        u32::try_from(promise.as_millis()).unwrap_or(u32::MAX)
    }

    /// How long a lease lasts by the leader's clock, from the beginning of a round that a quorum
    /// with the same settings acknowledges. It has to be longer than the time between two rounds.
    pub fn lasts(&self, election_ticks: u32) -> Duration {
        Duration::from_nanos(self.relied_on_ns(self.promise_ms(election_ticks)))
    }

    /// How long a leader may rely on a promise of this length, in nanoseconds of its own clock. Its
    /// clock may be slow and that of the other node fast, so the drift counts twice.
    fn relied_on_ns(&self, promise_ms: u32) -> u64 {
        let left_ppm = 1_000_000 - 2 * u64::from(self.drift_ppm.min(Self::DRIFT_PPM_MAX));
        u64::from(promise_ms) * left_ppm
    }
}

/// The promise of a node to grant no vote. It belongs to no role or term: it binds a node that has
/// lost its leader, entered a later term, or become a candidate.
#[derive(Clone, Debug, Default)]
pub(crate) struct Promise {
    /// An earlier start of this node may have promised for as long just before it ended. The wait
    /// begins with the first reading of the clock.
    inherited_ms: Option<u32>,
    /// When what an earlier start may have promised ends, by this node's clock.
    inherited_until_ns: u64,
    /// When the promise ends, by this node's clock.
    until_ns: u64,
    /// The latest reading of the clock.
    seen_ns: u64,
}

impl Promise {
    /// The promise of a node whose earlier starts have promised for at most this long.
    pub fn inherited(promise_ms: u32) -> Self {
        Promise { inherited_ms: Some(promise_ms), ..Promise::default() }
    }

    /// A reading of the clock. Returns whether the clock has gone back. Then what is left of the
    /// promise stays the same.
    pub fn see(&mut self, now_ns: u64) -> bool {
        let back_ns = self.seen_ns.saturating_sub(now_ns);
        self.until_ns = self.until_ns.saturating_sub(back_ns);
        self.inherited_until_ns = self.inherited_until_ns.saturating_sub(back_ns);
        self.seen_ns = now_ns;
        if let Some(promise_ms) = self.inherited_ms.take() {
            self.make(promise_ms);
            self.inherited_until_ns = self.until_ns;
        }
        back_ns > 0
    }

    /// Promises from now on for this long.
    pub fn make(&mut self, promise_ms: u32) {
        let until_ns = self.seen_ns.saturating_add(u64::from(promise_ms) * 1_000_000);
        self.until_ns = self.until_ns.max(until_ns);
    }

    /// Whether a promise of an earlier start may still bind this node. This start's own promises
    /// are renewed with each message of a leader, so they may hold all the time.
    pub fn is_inherited(&self) -> bool {
        self.inherited_ms.is_some() || self.seen_ns < self.inherited_until_ns
    }

    /// Whether the node may grant no vote now.
    pub fn holds(&self) -> bool {
        self.seen_ns < self.until_ns
    }
}

/// The most rounds of heartbeats whose beginning is remembered. Later replies to earlier rounds
/// extend no lease.
const ROUNDS_MAX: usize = 1024;

/// A leader's lease, without the promises of its peers: those are in each
/// [`Progress`](crate::progress::Progress).
#[derive(Clone, Debug, Default)]
pub(crate) struct Lease {
    /// When the latest rounds began, by this node's clock.
    began_ns: VecDeque<(Round, u64)>,
    /// This leader has ordered another node to campaign.
    given_up: bool,
    /// The failures of this node's clock that are known here. Promises from before the latest one
    /// count for nothing.
    clock_failures: u64,
}

impl Lease {
    /// A round of heartbeats begins.
    pub fn round_begins(&mut self, core: &Core, round: Round) {
        if core.config.lease.is_none() {
            return;
        }
        if self.clock_failures != core.clock_failures {
            self.clock_failures = core.clock_failures;
            self.began_ns.clear();
        }
        if self.began_ns.len() >= ROUNDS_MAX {
            self.began_ns.pop_front();
        }
        self.began_ns.push_back((round, core.now().monotonic_ns));
    }

    /// Until when this leader may rely on a peer that has replied to this round with a promise of
    /// this length. `None` if it may not.
    pub fn relies_until(&self, core: &Core, round: Round, promise_ms: u32) -> Option<Relied> {
        let lease = core.config.lease?;
        if promise_ms == 0 || self.clock_failures != core.clock_failures {
            return None;
        }
        let at = self.began_ns.binary_search_by_key(&round, |(round, _)| *round).ok()?;
        let (_, began_ns) = *self.began_ns.get(at)?;
        let until_ns = began_ns.saturating_add(lease.relied_on_ns(promise_ms));
        Some(Relied { until_ns, clock_failures: self.clock_failures })
    }

    /// This leader has ordered another node to campaign: that node's election needs no promise to
    /// end. However the transfer ends, a vote may be under way until the term is over.
    pub fn give_up(&mut self) {
        self.given_up = true;
    }

    /// Whether the lease holds at this reading of the clock. `relied` is until when the leader may
    /// rely on each peer. The leader itself grants no vote while it leads.
    pub fn holds(
        &self,
        core: &Core,
        now_ns: u64,
        membership: &Membership,
        relied: impl Fn(NodeId) -> Relied,
    ) -> bool {
        let until_ns = |id: NodeId| match relied(id) {
            _ if id == core.id() && core.votes() => u64::MAX,
            relied if relied.clock_failures == core.clock_failures => relied.until_ns,
            _ => 0,
        };
        core.config.lease.is_some() && !self.given_up && now_ns < membership.reached(until_ns)
    }
}

/// Until when a leader may rely on the promise of a peer, by the leader's clock.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Relied {
    until_ns: u64,
    /// The failures of the clock before that.
    clock_failures: u64,
}

impl Relied {
    /// The later one of both.
    #[must_use]
    pub fn or(self, other: Relied) -> Relied {
        match (self.clock_failures, self.until_ns) < (other.clock_failures, other.until_ns) {
            true => other,
            false => self,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MS: u64 = 1_000_000;

    #[test]
    fn a_promise_is_shorter_than_the_shortest_election_timeout() {
        // (tick in milliseconds, election_ticks, promise)
        for (tick_ms, election_ticks, promise_ms) in [(10, 30, 280), (1, 3, 1), (1, 2, 0)] {
            let lease = LeaseConfig { tick: Duration::from_millis(tick_ms), drift_ppm: 1 };
            assert_eq!(lease.promise_ms(election_ticks), promise_ms);
        }
    }

    #[test]
    fn the_drift_of_both_clocks_counts() {
        // At the bound the leader's clock is as slow as it may be, and the other one as fast.
        for drift_ppm in [1, 1_000, 100_000, LeaseConfig::DRIFT_PPM_MAX] {
            let lease = LeaseConfig { tick: Duration::from_millis(1), drift_ppm };
            let drift = f64::from(drift_ppm) / 1e6;
            let lease_lasts = lease.relied_on_ns(1_000) as f64 / (1.0 - drift);
            let promise_lasts = (1_000 * MS) as f64 / (1.0 + drift);
            assert!(lease_lasts <= promise_lasts, "{drift_ppm}");
            assert!(lease_lasts >= promise_lasts * (0.99 - 3.0 * drift * drift), "{drift_ppm}");
        }
    }

    #[test]
    fn a_promise_ends_by_the_clock_and_the_later_one_counts() {
        let mut promise = Promise::inherited(0);
        assert!(!promise.see(5 * MS));
        assert!(!promise.holds());
        promise.make(100);
        promise.make(10);
        promise.see(105 * MS - 1);
        assert!(promise.holds());
        promise.see(105 * MS);
        assert!(!promise.holds());
    }

    #[test]
    fn a_restarted_node_waits_from_its_first_reading_of_the_clock() {
        let mut promise = Promise::inherited(100);
        promise.see(70 * MS);
        promise.make(20);
        promise.see(169 * MS);
        assert!(promise.holds());
        promise.see(170 * MS);
        assert!(!promise.holds());
    }

    #[test]
    fn what_is_inherited_ends_although_the_promise_is_renewed() {
        let mut promise = Promise::inherited(100);
        assert!(promise.is_inherited(), "before the first reading");
        promise.see(1_000 * MS);
        promise.make(500);
        // The clock goes back: 60 ms are left.
        promise.see(1_040 * MS);
        promise.see(700 * MS);
        promise.see(760 * MS - 1);
        assert!(promise.is_inherited());
        promise.see(760 * MS);
        assert!(!promise.is_inherited() && promise.holds());
    }

    #[test]
    fn a_clock_that_goes_back_ends_no_promise_and_prolongs_none() {
        let mut promise = Promise::inherited(0);
        promise.see(1_000 * MS);
        promise.make(100);
        promise.see(1_040 * MS);
        assert!(promise.see(500 * MS), "it has gone back");
        promise.see(559 * MS);
        assert!(promise.holds());
        promise.see(560 * MS);
        assert!(!promise.holds());
    }
}
