//! The end of a run: the faults stop, and everything must work again.

use super::*;
use crate::checks::Check;
use crate::timeline::shown;
use bytes::Bytes;
use driver::StateMachine;

/// Number of queries by which the copies are compared at the end.
const QUERIES_MAX: usize = 64;

impl<W: Workload> World<'_, W> {
    pub(super) fn timeout_us(&self) -> u64 {
        let swarm = &self.plan.swarm;
        2 * u64::from(swarm.election_ticks) * u64::from(swarm.tick_us)
    }

    pub(super) fn calm_down(&mut self) -> Result<(), Violation> {
        if self.calm {
            return Ok(());
        }
        self.calm = true;
        self.armed.clear();
        for host in &mut self.hosts {
            (host.rotting, host.losing) = (None, None);
        }
        self.network.lift_all();
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
            host.disk.set_capacity(None);
            host.restore_disk();
            host.full = false;
            host.flips = false;
            (host.stalled_until_us, host.slow_until_us) = (0, 0);
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
            + self.late_install_us();
        let converge_us = CONVERGE_TIMEOUTS * self.timeout_us() + slack_us;
        let until_us = self.now_us + converge_us;
        self.queue.push(self.now_us + self.timeout_us(), Event::Converged { until_us });
        Ok(())
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
        {
            return;
        }
        let mut draw = Stream::new(self.plan.seed, Purpose::Ending, 0);
        let nodes = self.hosts.len();
        if matches!(kind, FaultKind::Full | FaultKind::Stall) {
            if nodes >= 3 {
                let node = self.leader().unwrap_or(draw.below(nodes as u64) as usize);
                self.let_disk_fail(node, kind);
            }
            return;
        }
        for _ in 0..(nodes - 1) / 2 {
            let node = draw.below(nodes as u64) as usize;
            if std::mem::replace(&mut self.hosts[node].gone, true) {
                continue;
            }
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
        if kind == FaultKind::Full {
            host.full = true;
            let used = host.disk.used_bytes();
            host.disk.set_capacity(Some(used));
        } else {
            host.stalled_until_us = u64::MAX;
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
        let right = self.hosts.iter().filter(|host| {
            let applied = host.up.as_ref().map(|running| running.machine_at);
            !host.flipped && applied.is_some_and(|applied| applied >= from)
        });
        self.hosts.len() >= 3 && right.count() > self.hosts.len() / 2
    }

    /// Whether a majority with right copies has applied as much as any diverged copy. One of two
    /// copies that differ may be lost before a third node has applied as much. Then the cluster
    /// cannot tell any more which one was wrong, and a leader sends no snapshot of its own to a
    /// node that needs one (`disputed_at`).
    fn difference_was_decided(&self) -> bool {
        let right = self.hosts.iter().filter(|host| {
            let applied = host.up.as_ref().map(|running| running.machine_at);
            !host.flipped && applied.is_some_and(|applied| applied >= self.differed_until)
        });
        self.differed_until == Index(0) || right.count() > self.hosts.len() / 2
    }

    /// Whether a quorum can serve: nodes that are dead or whose disk was wiped do not count.
    pub(super) fn is_able(&self) -> bool {
        let able = self
            .hosts
            .iter()
            .enumerate()
            .filter(|(id, host)| !host.dead && host.incarnation.0 == INCARNATION + *id as u64)
            .count();
        able > self.hosts.len() / 2
    }

    pub(super) fn healthy(&self) -> impl Iterator<Item = (usize, &node::Running<W::Machine>)> {
        self.hosts
            .iter()
            .enumerate()
            .filter(|(id, host)| host.incarnation.0 == INCARNATION + *id as u64 && !host.gone)
            .filter_map(|(id, host)| host.up.as_ref().map(|running| (id, running)))
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
            let leads = |running: &node::Running<W::Machine>| running.node.status().serving;
            host.gone && host.full && host.up.as_ref().is_some_and(leads)
        });
        if self.now_us >= until_us && (full_leads || !can_be_told) {
            self.done = true;
            return Ok(());
        }
        if let Err(missing) = self.is_well() {
            if self.now_us >= until_us {
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
        let resting = self.hosts.iter().enumerate().find(|(id, host)| {
            let stranger = host.incarnation.0 != INCARNATION + *id as u64;
            let away = host.up.is_none() || host.paused_until_us > self.now_us;
            away && !host.dead && !host.gone && !stranger
        });
        if let Some((node, _)) = resting {
            return violation(Check::EveryNodeIsBackInTheEnd, node, format!("node {node} is not"));
        }
        let leaders: Vec<usize> = self
            .healthy()
            .filter(|(_, running)| running.node.status().serving)
            .map(|(id, _)| id)
            .collect();
        if leaders.len() != 1 {
            let detail = format!("nodes {leaders:?} serve, long after the faults have stopped");
            return violation(Check::OneLeaderServesInTheEnd, leaders.as_slice(), detail);
        }
        let committed = self.observer.committed_index();
        for (id, running) in self.healthy() {
            // Clients continue, so the last few entries may be in flight.
            let behind = committed.0.saturating_sub(running.machine_at.0);
            if behind > BEHIND_MAX {
                let detail = format!("node {id} is {behind} entries behind");
                return violation(Check::EveryNodeCatchesUpInTheEnd, id, detail);
            }
            // Of only two copies that differ the cluster cannot tell which is wrong: see
            // `copies_can_be_told`.
            if self.hosts[id].flipped {
                let detail = format!("node {id} goes on with a copy that differs");
                return violation(Check::CopyThatDiffersIsFoundOut, id, detail);
            }
            if running.node.hard_state().lost.is_some() {
                return violation(Check::WhatWasLostIsRepairedInTheEnd, id, format!("node {id}"));
            }
        }
        if self.served != self.asked {
            let detail = format!("asked for {:?}, served {:?}", self.asked, self.served);
            return violation(Check::ClientsAreServedInTheEnd, (), detail);
        }
        Ok(())
    }

    fn is_settled(&self) -> Result<(), Violation> {
        let committed = self.observer.committed_index();
        for (id, running) in self.healthy() {
            let (applied, last) = (running.machine_at, running.node.last().index);
            if applied != committed || last != committed {
                let detail =
                    format!("node {id} ends with {last}, applied {applied} of {committed}");
                return violation(Check::EveryNodeCatchesUpInTheEnd, id, detail);
            }
            let reads = running.reads.len();
            let proposals = running.proposals.len() + running.forwards.len();
            if reads + proposals > 0 {
                let detail = format!("at node {id} {reads} reads and {proposals} proposals wait");
                return violation(Check::ClientsGetAnAnswerInTheEnd, id, detail);
            }
        }
        Ok(())
    }

    pub(super) fn quiet(&mut self, leader: Option<(Term, u64)>) -> Result<(), Violation> {
        if self.observer.latest_leader() != leader {
            let detail = format!("{leader:?}, then {:?}", self.observer.latest_leader());
            return violation(Check::NoLeaderChangesWithoutAFault, (), detail);
        }
        let until_us = self.now_us + SETTLE_TIMEOUTS * self.timeout_us();
        self.settled(until_us)
    }

    /// Clients send nothing any more. Checks whether every entry is applied and every request has
    /// ended, and repeats the check until `until_us`, when it must be so.
    pub(super) fn settled(&mut self, until_us: u64) -> Result<(), Violation> {
        if let Err(missing) = self.is_settled() {
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
        let mut states: BTreeMap<Index, (usize, Vec<u8>)> = BTreeMap::new();
        let mut differing = None;
        for (id, running) in self.healthy() {
            let state = running.state();
            let known = states.entry(running.machine_at).or_insert_with(|| (id, state.clone()));
            if known.1 != state {
                differing = Some(format!("nodes {} and {id} at {}", known.0, running.machine_at));
            }
        }
        if let Some(detail) = differing {
            return violation(Check::EqualLogsMakeEqualStates, (), detail);
        }
        self.queries_agree()?;
        self.bounds()?;
        if self.observer.elections() > 3 {
            self.marks.hit("leaders changed");
        }
        self.done = true;
        Ok(())
    }

    /// Checks that all copies answer the queries of clients as the reference machine does, and so
    /// does a machine restored from the state of a copy. A gap in a snapshot may show only in an
    /// answer.
    fn queries_agree(&self) -> Result<(), Violation> {
        let mut queries: Vec<&Bytes> = Vec::new();
        for operation in &self.operations {
            if let Request::Query(query) = &operation.request
                && queries.len() < QUERIES_MAX
                && !queries.contains(&query)
            {
                queries.push(query);
            }
        }
        let reference = self.observer.reference();
        let committed = self.observer.committed_index();
        for (id, running) in self.healthy().filter(|(_, up)| up.machine_at == committed) {
            let mut restored = self.workload.machine();
            if let Err(error) = restored.restore(&mut running.state().as_slice()) {
                return violation(Check::SnapshotIsTheState, id, format!("node {id}: {error}"));
            }
            for query in &queries {
                let expected = reference.query(running.machine_time, query);
                let answers = [
                    (running.machine.query(running.machine_time, query), ""),
                    (
                        restored.query(running.machine_time, query),
                        ", restored from its own snapshot,",
                    ),
                ];
                for (answer, how) in answers {
                    if answer != expected {
                        let (query, answer) = (shown(query), shown(&answer));
                        let detail = format!(
                            "node {id}{how} answers {query} with {answer}; the reference machine \
                             answers {}",
                            shown(&expected)
                        );
                        return violation(Check::QueriesAreAnsweredAlike, id, detail);
                    }
                }
            }
        }
        Ok(())
    }
}
