//! The end of a run: the faults stop, and everything must work again.

use super::*;
use crate::bounds::nothing_waits;
use crate::checks::Check;
use crate::electable;
use crate::ending::{CONVERGE_TIMEOUTS, Ending, QUIET_TIMEOUTS, Seen, Up, states_are_equal};
use crate::faults::{self, Faulty};
use bytes::Bytes;
use driver::{ErasedMachine, Replica, StateMachine};

/// Number of queries by which the copies are compared at the end.
const QUERIES_MAX: usize = 64;

impl Ending for World<'_> {
    type Machine = ErasedMachine;

    fn plan(&self) -> &Plan {
        self.plan
    }

    fn observer(&self) -> &Observer<ErasedMachine> {
        &self.observer
    }

    fn nodes(&self) -> Vec<Seen> {
        let up = |running: &node::Running<ErasedMachine>| Up {
            serves: running.node.status().serving,
            hands_over: running.node.status().transferring.is_some(),
            has_lost: running.node.hard_state().lost.is_some(),
            applied: running.machine_at,
            last: running.node.last().index,
        };
        let hosts = self.hosts.iter().enumerate();
        let seen = hosts.map(|(id, host)| Seen {
            is_stranger: self.is_stranger(id),
            is_dead: host.dead,
            is_gone: host.gone,
            is_paused: host.paused_until_us > self.now_us,
            // Of only two copies that differ the cluster cannot tell which is wrong: see
            // `copies_can_be_told`.
            differs: host.flipped,
            up: host.up.as_ref().map(up),
        });
        seen.collect()
    }
}

impl World<'_> {
    pub(super) fn calm_down(&mut self) -> Result<(), Violation> {
        if self.calm {
            return Ok(());
        }
        self.calm = true;
        self.operator.replaces.clear();
        for host in &mut self.hosts {
            (host.rotting, host.losing, host.rotting_end) = (None, None, None);
        }
        faults::lift_all(self, self.hosts.len());
        self.struck.clear();
        // Messages with a long delay are dropped, or stale ones would keep arriving for seconds.
        let late = self.queue.take_out(self.now_us + LATE_US, |event| {
            matches!(event, Event::Deliver(..) | Event::Transfer(_) | Event::Ask { .. })
        });
        for event in late {
            if let Event::Transfer(transfer) = event {
                let (offer, _, life) = *transfer;
                let (node, to) = (offer.from.0 as usize, offer.to);
                let snapshot = offer.snapshot.last;
                let failed = Event::TransferFailed { node, life, to, snapshot };
                self.queue.push(self.now_us + 1, failed);
            }
        }
        // Stalled writes complete soon. A cluster with a stalled write has not recovered: the node
        // follows a leader that receives nothing from it.
        let mut stalled = self
            .queue
            .take_out(self.now_us + LATE_US, |event| matches!(event, Event::Synced { .. }));
        stalled.sort_by_key(|event| self.place(event));
        for event in stalled {
            self.queue.push(self.now_us + LATE_US, event);
        }
        self.timeline.add_to_all(What::Calm);
        for node in 0..self.hosts.len() {
            let host = &mut self.hosts[node];
            host.restore_disk();
            host.flips = false;
            host.set_clock_rate(self.now_us, 1_000);
            if host.snapshot_rotten {
                // Only a start shows whether it still needs the snapshot.
                self.crash(node, 1);
            }
            self.queue.push(self.now_us, Event::Start(node));
        }
        self.let_faults_last();
        // The longest time that anything is still late, stalled or down.
        let slack_us = 2 * u64::from(self.plan.swarm.tail_us)
            .max(u64::from(self.plan.swarm.stall_us))
            + 20_000_000
            + self.late_install_us()
            + self.copies_us();
        // A node whose clock was slow does nothing until its next tick, which keeps its time.
        let tick_us = u64::from(self.plan.swarm.tick_us) * 1_000 / self.plan.slowest_clock();
        let first_us = self.now_us + self.timeout_us() + tick_us;
        let until_us = first_us + CONVERGE_TIMEOUTS * self.timeout_us() + slack_us;
        self.queue.push(first_us, Event::Converged { until_us });
        Ok(())
    }

    /// How long it takes until all nodes, one after the other, have written the longest log. It
    /// counts only if the plan sends or writes entry by entry.
    fn copies_us(&self) -> u64 {
        let swarm = &self.plan.swarm;
        let ends = self.hosts.iter().map(|host| host.shadow.last().index.0);
        let entries = ends.max().unwrap_or_default() * self.hosts.len() as u64;
        let each_us = 2 * u64::from(swarm.sync_us) + 4 * u64::from(swarm.delay_us);
        match swarm.goes_one_by_one() {
            true => entries * each_us,
            false => 0,
        }
    }

    /// Heals a quorum and leaves the others faulty: the cluster must work without them.
    fn let_faults_last(&mut self) {
        let kind = match self.plan.swarm.lasting {
            1 => FaultKind::Crash,
            2 => FaultKind::Isolate,
            3 => FaultKind::Deaf,
            4 => FaultKind::Mute,
            5 => FaultKind::Full,
            6 => FaultKind::Stall,
            _ => return,
        };
        // If a node has lost data, all others must be available.
        if self
            .hosts
            .iter()
            .any(|host| host.rotten || host.flipped || host.snapshot_rotten || host.dead)
            || (0..self.hosts.len()).any(|node| self.is_leaving(node))
        {
            return;
        }
        let mut draw = Stream::new(self.plan.seed, Purpose::Ending, 0);
        let nodes = self.hosts.len();
        if matches!(kind, FaultKind::Full | FaultKind::Stall) {
            if nodes >= 3 {
                let node = self.leader().unwrap_or(draw.below(nodes as u64) as usize);
                if self.can_spare(node) {
                    self.let_disk_fail(node, kind);
                }
            }
            return;
        }
        for _ in 0..(nodes - 1) / 2 {
            let node = draw.below(nodes as u64) as usize;
            if self.hosts[node].gone || !self.can_spare(node) {
                continue;
            }
            self.hosts[node].gone = true;
            self.marks.hit("a minority never came back");
            if kind == FaultKind::Crash {
                self.crash(node, 1);
                self.hosts[node].dead = true;
            }
            let at_us = self.now_us;
            let fault = Fault { at_us, node: node as u64, amount: 0, kind };
            self.network.cut(&fault, true);
            self.timeline.add(node, What::Fault(fault));
        }
    }

    /// Fills or stalls the disk of a node for good, usually that of the leader. The others must
    /// serve without it.
    fn let_disk_fail(&mut self, node: usize, kind: FaultKind) {
        let host = &mut self.hosts[node];
        host.gone = true;
        match kind {
            FaultKind::Full => faults::fill(&mut self.drive(node)),
            _ => host.stalled_until_us = u64::MAX,
        }
        self.marks.hit("a leader's disk failed for good");
        let fault = Fault { at_us: self.now_us, node: node as u64, amount: 0, kind };
        self.timeline.add(node, What::Fault(fault));
    }

    /// Whether the cluster can tell which copies diverged: a majority has a right copy and has
    /// applied as much.
    pub(super) fn copies_can_be_told(&self) -> bool {
        let flipped = self.hosts.iter().filter(|host| host.flipped);
        let Some(from) = flipped.map(|host| host.flipped_at).min() else { return true };
        self.hosts.len() >= 3 && self.right_copies_decide(from)
    }

    /// Whether the nodes that have a right copy, and have applied as much, are a quorum of each
    /// membership that may be in force, and at least two: a lone voter proves nothing to a learner.
    fn right_copies_decide(&self, from: Index) -> bool {
        let is_right = |id: NodeId| {
            let host = &self.hosts[id.0 as usize];
            let applied = host.up.as_ref().map(|running| running.machine_at);
            !host.flipped && applied.is_some_and(|applied| applied >= from)
        };
        self.observer.possible_memberships().all(|membership| {
            let right = membership.members.keys().filter(|id| is_right(**id)).count();
            membership.is_quorum(is_right) && right >= 2
        })
    }

    /// Whether a majority with right copies has applied as much as any diverged copy. One of two
    /// copies that differ may be lost before a third node has applied as much. Then the cluster
    /// cannot tell any more which one was wrong, and a leader sends no snapshot of its own to a
    /// node that needs one (`may_offer_base`).
    pub(super) fn difference_was_decided(&self) -> bool {
        self.differed_until == Index(0) || self.right_copies_decide(self.differed_until)
    }

    /// Whether a node with a wrong copy has started again a while ago, when no majority of right
    /// copies could tell. What was concluded until then may still be on its way, or wait for a
    /// disk.
    pub(super) fn was_undecided(&self) -> bool {
        let swarm = &self.plan.swarm;
        let while_us = 2 * u64::from(swarm.tail_us.max(swarm.stall_us)) + 8 * self.timeout_us();
        self.undecided_us.is_some_and(|at_us| self.now_us - at_us < while_us)
    }

    pub(super) fn healthy(&self) -> impl Iterator<Item = (usize, &node::Running<ErasedMachine>)> {
        self.hosts
            .iter()
            .enumerate()
            .filter(|(id, host)| !self.is_stranger(*id) && !host.gone)
            .filter_map(|(id, host)| host.up.as_ref().map(|running| (id, running)))
    }

    /// Whether a node leads, or the rules let one that runs win an election.
    fn has_or_can_elect_a_leader(&self) -> bool {
        let nodes: Vec<_> = self.healthy().map(|(_, running)| &running.node).collect();
        nodes.iter().any(|node| node.is_leader()) || electable::any_can_win(&nodes)
    }

    /// Checks whether everything works again, and repeats the check until `until_us`, when it must.
    pub(super) fn converged(&mut self, until_us: u64) -> Result<(), Violation> {
        if !self.is_able() {
            self.done = true;
            return Ok(());
        }
        let can_be_told = self.copies_can_be_told() && self.difference_was_decided();
        // A leader whose disk is full may keep leading as long as its writes need no space.
        let full_leads = self.hosts.iter().any(|host| {
            let leads = |running: &node::Running<ErasedMachine>| running.node.status().serving;
            host.gone && host.full && host.up.as_ref().is_some_and(leads)
        });
        let is_stuck = || !self.has_or_can_elect_a_leader();
        if self.now_us >= until_us && (full_leads || !can_be_told || is_stuck()) {
            self.done = true;
            return Ok(());
        }
        if let Err(missing) = self.is_well() {
            if self.now_us >= until_us && !self.is_just_back(&missing) {
                return Err(missing);
            }
            let again = Event::Converged { until_us };
            self.queue.push(self.now_us + self.timeout_us(), again);
            return Ok(());
        }
        self.marks.hit("the cluster came back");
        let leader = self.observer.latest_leader();
        let quiet_us = QUIET_TIMEOUTS * self.timeout_us();
        let rest_us = quiet_us - REST_TIMEOUTS * self.timeout_us();
        self.queue.push(self.now_us + rest_us, Event::Rest);
        self.queue.push(self.now_us + quiet_us, Event::Quiet { leader });
        Ok(())
    }

    fn is_well(&self) -> Result<(), Violation> {
        self.recovered()?;
        if self.served != self.asked {
            let detail = format!("asked for {:?}, served {:?}", self.asked, self.served);
            return violation(Check::ClientsAreServedInTheEnd, (), detail);
        }
        if self.operator.is_there && !self.operator.is_done {
            let detail = format!("{:?}", self.observer.committed_membership());
            return violation(Check::DeclaredMembershipIsReachedInTheEnd, (), detail);
        }
        self.is_preferred_leader()
    }

    /// Whether only a preferred node does not lead yet, and a node has started a moment ago: one
    /// whose copy differed, for instance, which may be found out at any time.
    fn is_just_back(&self, missing: &Violation) -> bool {
        let since_us = self.now_us.saturating_sub(PREFERRED_TIMEOUTS * self.timeout_us());
        missing.check == Check::PreferredNodeLeadsInTheEnd
            && self.healthy().any(|(id, _)| self.hosts[id].started_us > since_us)
    }

    /// Checks that no healthy voter has a higher priority than the leader, for now: the faults may
    /// have made nodes fail as leaders, which are not preferred for a while. A lasting fault may
    /// keep away a node that only the others take for healthy: so such nodes do not count at all.
    fn is_preferred_leader(&self) -> Result<(), Violation> {
        let Some((term, leader)) = self.observer.latest_leader() else { return Ok(()) };
        let own = self.plan.swarm.priority(leader);
        let membership = self.observer.membership(leader as usize);
        let mut preferred = self.healthy().filter(|(id, running)| {
            membership.is_voter(NodeId(*id as u64)) && running.node.stated_priority() > own
        });
        match preferred.next() {
            None => Ok(()),
            Some((id, _)) => {
                let detail = format!("node {leader} leads in term {term}, node {id} is preferred");
                violation(Check::PreferredNodeLeadsInTheEnd, ([id, leader as usize], term), detail)
            }
        }
    }

    fn is_at_rest(&self) -> Result<(), Violation> {
        self.settled()?;
        for (id, running) in self.healthy() {
            let proposals = running.proposals.len() + running.forwards.len();
            nothing_waits(id, [("reads", running.reads.len()), ("proposals", proposals)])?;
        }
        Ok(())
    }

    /// Whether the leader has a higher priority than this earlier one: it was not preferred for a
    /// while, since it had failed as a leader.
    fn is_more_preferred(&self, earlier: Option<(Term, u64)>) -> bool {
        let priority =
            |leader: Option<(Term, u64)>| leader.map_or(0, |(_, id)| self.plan.swarm.priority(id));
        priority(self.observer.latest_leader()) > priority(earlier)
    }

    pub(super) fn quiet(&mut self, leader: Option<(Term, u64)>) -> Result<(), Violation> {
        if !self.is_more_preferred(leader) {
            self.leads_still(leader)?;
        }
        let until_us = self.now_us + SETTLE_TIMEOUTS * self.timeout_us();
        self.rests(until_us)
    }

    /// Clients send nothing any more. Checks whether every entry is applied and every request has
    /// ended, and repeats the check until `until_us`, when it must be so.
    pub(super) fn rests(&mut self, until_us: u64) -> Result<(), Violation> {
        if let Err(missing) = self.is_at_rest() {
            if self.now_us >= until_us {
                return Err(missing);
            }
            self.queue.push(self.now_us + self.timeout_us(), Event::Settled { until_us });
            return Ok(());
        }
        if self.hosts.iter().any(|host| host.flipped) {
            self.done = true;
            return Ok(());
        }
        let states = self.healthy().map(|(id, running)| (id, running.machine_at, running.state()));
        states_are_equal(states)?;
        self.queries_agree()?;
        self.bounds()?;
        if self.leaders_changed() {
            self.marks.hit("leaders changed");
        }
        self.done = true;
        Ok(())
    }

    /// The first different queries of clients.
    pub(super) fn queries(&self) -> Vec<&Bytes> {
        let mut queries: Vec<&Bytes> = Vec::new();
        for operation in &self.operations {
            if let ClientRequest::Query(query) = &operation.request
                && queries.len() < QUERIES_MAX
                && !queries.contains(&query)
            {
                queries.push(query);
            }
        }
        queries
    }

    /// Checks that all copies answer the queries of clients as the reference machine does, and so
    /// does a machine restored from the state of a copy. A gap in a snapshot may show only in an
    /// answer.
    fn queries_agree(&self) -> Result<(), Violation> {
        let queries = self.queries();
        let reference = self.observer.reference();
        let committed = self.observer.committed_index();
        for (id, running) in self.healthy().filter(|(_, up)| up.machine_at == committed) {
            let time = running.replica.time();
            let mut restored = Replica::new(self.workload.machine());
            if let Err(error) = restored.restore(time, &mut running.state().as_slice()) {
                return violation(Check::SnapshotIsTheState, id, format!("node {id}: {error}"));
            }
            for query in &queries {
                let expected = reference.query(time, query);
                let answers = [
                    (running.replica.machine().query(time, query), ""),
                    (restored.machine().query(time, query), ", restored from its own snapshot,"),
                ];
                for (answer, how) in answers {
                    if answer != expected {
                        let describe = self.workload.describe();
                        let asked = ClientRequest::Query((*query).clone());
                        let (query, answer) =
                            (describe.query(query), describe.answer(&asked, &answer));
                        let detail = format!(
                            "node {id}{how} answers {query} with {answer}; the reference machine \
                             answers {}",
                            describe.answer(&asked, &expected)
                        );
                        return violation(Check::QueriesAreAnsweredAlike, id, detail);
                    }
                }
            }
        }
        Ok(())
    }
}
