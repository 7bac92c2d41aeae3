//! Checks of leases (see the module `lease` of `raft`), at every moment and by each node's own
//! clock.
//!
//! - When a leader is elected, no leader of an earlier term holds a lease, and none gets one later.
//!   Nobody needs to read at that moment, and a paused leader counts too.
//! - A leader that has ordered another node to campaign holds no lease any more in that term.
//! - As long as a leader holds a lease, a quorum of the voters is bound by promises that it has
//!   stated: each half, if the membership is joint.
//! - A node that has stated a promise neither votes nor campaigns before the promise ends, even if
//!   it crashes and starts with other settings. Elections that a leader has ordered are exempt.

use crate::checks::Check;
use crate::observer::Observed;
use crate::violation::{Violation, violation};
use raft::{Body, Membership, Message, NodeId, Now, RawNode, RoleKind, Term};
use std::collections::BTreeSet;

#[derive(Debug)]
pub(crate) struct Leases {
    /// The latest term that had a leader.
    latest: Term,
    /// For each node: the latest event at which it held a lease.
    held_at: Vec<u64>,
    /// For each node: the latest term in which it has ordered another node to campaign.
    gave_up: Vec<Term>,
    promises: Vec<Stated>,
    /// The elections that a leader has ordered: candidate and term.
    ordered: BTreeSet<(NodeId, Term)>,
}

/// The promise of one node, by its own clock.
#[derive(Clone, Copy, Debug, Default)]
struct Stated {
    /// When it last heard from a leader, and of which term that was. A vote of that term, which may
    /// have waited for the disk, elects no other one.
    heard_ns: u64,
    term: Term,
    /// When what it has stated to a leader ends.
    until_ns: u64,
    /// When it last received an append, from whomever: a leader whom it does not follow yet may be
    /// its leader by the time of its reply.
    appended_ns: u64,
    /// When what it has stated ends at the latest.
    latest_ns: u64,
}

impl Leases {
    pub fn new(nodes: u64) -> Self {
        Leases {
            latest: Term(0),
            held_at: vec![0; nodes as usize],
            gave_up: vec![Term(0); nodes as usize],
            promises: vec![Stated::default(); nodes as usize],
            ordered: BTreeSet::new(),
        }
    }

    /// A node has a new disk and incarnation: it is another node, whose votes count for nothing
    /// until it is added to the membership.
    pub fn wiped(&mut self, at: usize) {
        self.promises[at] = Stated::default();
        self.gave_up[at] = Term(0);
    }

    /// The clock of a node has gone back. What is left of its promises stays the same.
    pub fn clock_went_back(&mut self, at: usize, back_ns: u64) {
        let Stated { heard_ns, until_ns, appended_ns, latest_ns, .. } = &mut self.promises[at];
        for time_ns in [heard_ns, until_ns, appended_ns, latest_ns] {
            *time_ns = time_ns.saturating_sub(back_ns);
        }
    }

    /// A node has processed an append and follows its sender.
    pub fn heard_leader(&mut self, at: usize, term: Term, now: Now) {
        let Stated { heard_ns, term: of, .. } = &mut self.promises[at];
        (*heard_ns, *of) = (now.monotonic_ns, term);
    }

    /// A node is about to process an append.
    pub fn arrives(&mut self, at: usize, now: Now) {
        self.promises[at].appended_ns = now.monotonic_ns;
    }

    /// Checks a message that a node sends.
    pub fn said(&mut self, at: usize, message: &Message, now: Now) -> Result<(), Violation> {
        let (candidate, term) = match message.body {
            Body::Appended { promise_ms, .. } => {
                let Stated { heard_ns, until_ns, appended_ns, latest_ns, .. } =
                    &mut self.promises[at];
                let promise_ns = u64::from(promise_ms) * 1_000_000;
                *until_ns = (*until_ns).max(*heard_ns + promise_ns);
                if promise_ns > 0 {
                    *latest_ns = (*latest_ns).max(*appended_ns + promise_ns);
                }
                return Ok(());
            }
            Body::TimeoutNow => {
                self.gave_up[at] = message.term;
                return Ok(());
            }
            Body::Vote { transfer: true, .. } => {
                self.ordered.insert((message.from, message.term));
                return Ok(());
            }
            Body::Vote { .. } => (message.from, message.term),
            Body::VoteReply { granted: true, .. } => (message.to, message.term),
            Body::PreVoteReply { next, granted: true, .. } => (message.to, next),
            _ => return Ok(()),
        };
        let Stated { until_ns, term: led, .. } = self.promises[at];
        let is_over = now.monotonic_ns >= until_ns;
        if is_over || term <= led || self.ordered.contains(&(candidate, term)) {
            return Ok(());
        }
        let left_us = (until_ns - now.monotonic_ns) / 1_000;
        let detail =
            format!("node {at} is bound for another {left_us} µs of its clock: {:?}", message.body);
        violation(Check::PromiseToALeaderIsKept, (at, term), detail)
    }

    /// A node that is bound by what it has stated in an earlier life has started, and was told to
    /// campaign. It may not.
    pub fn stays(&self, at: usize, node: &RawNode) -> Result<(), Violation> {
        if node.status().role == RoleKind::Follower {
            return Ok(());
        }
        let detail = format!("node {at} starts and campaigns");
        violation(Check::PromiseToALeaderIsKept, (at, node.term()), detail)
    }

    /// Whether a node is bound by what it has stated.
    pub fn is_bound(&self, at: usize, now: Now) -> bool {
        now.monotonic_ns < self.promises[at].until_ns
    }

    /// Notes whether a node holds a lease at this event, and checks that no later leader has been
    /// elected, and that the node has not ordered any such election.
    pub fn look(
        &mut self,
        at: usize,
        node: &RawNode,
        now: Now,
        event: u64,
    ) -> Result<bool, Violation> {
        if node.is_leader() {
            self.latest = self.latest.max(node.term());
        }
        let holds = node.holds_lease(now);
        if holds {
            self.held_at[at] = event;
        }
        if holds && node.term() < self.latest {
            let (term, latest) = (node.term(), self.latest);
            let detail = format!("node {at} holds one in term {term}, after {latest} has begun");
            return violation(Check::LeaseEndsBeforeAnotherLeads, (at, [term, latest]), detail);
        }
        if holds && node.term() == self.gave_up[at] {
            let term = node.term();
            let detail = format!("node {at} holds one, and has sent TimeoutNow in {term}");
            return violation(Check::NoLeaseAfterAnOrderToCampaign, (at, term), detail);
        }
        Ok(holds)
    }

    /// Checks the promises that the lease of a leader rests on. `now` is the clock of each node.
    pub fn rests_on(
        &self,
        at: usize,
        (node, membership): (&RawNode, &Membership),
        disks: &[Observed<'_>],
        now: impl Fn(usize) -> Now,
    ) -> Result<(), Violation> {
        let is_bound = |id: NodeId| {
            let voter = id.0 as usize;
            voter == at
                || disks.get(voter).is_some_and(|disk| disk.has_forgotten(id, membership))
                || self
                    .promises
                    .get(voter)
                    .is_some_and(|stated| stated.latest_ns > now(voter).monotonic_ns)
        };
        if membership.is_quorum(is_bound) {
            return Ok(());
        }
        let detail = format!("node {at} holds one in term {}", node.term());
        violation(Check::LeaseRestsOnPromisesOfAQuorum, (at, node.term()), detail)
    }

    /// Whether some node held a lease at or after an event.
    pub fn held_since(&self, event: u64) -> bool {
        self.held_at.iter().any(|at| *at >= event)
    }
}
