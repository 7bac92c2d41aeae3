//! The end of a run: the faults stop, and everything must work again.

use super::*;

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
        self.hosts.iter_mut().for_each(|host| host.rotting = None);
        self.network.lift_all();
        self.timeline.add_to_all(What::Calm);
        for node in 0..self.hosts.len() {
            let host = &mut self.hosts[node];
            host.disk.set_capacity(None);
            host.disk.clear_faults();
            host.full = false;
            host.failing = false;
            host.clock_per_mille = 1_000;
            self.queue.push(self.now_us, Event::Start(node));
        }
        // What is late, stalled or down is so for at most this long.
        let slack_us = 2 * u64::from(self.plan.swarm.tail_us)
            .max(u64::from(self.plan.swarm.stall_us))
            + 4_000_000;
        let converge_us = CONVERGE_TIMEOUTS * self.timeout_us() + slack_us;
        self.queue.push(self.now_us + converge_us, Event::Converged);
        Ok(())
    }

    /// Whether a quorum is there to serve: all but those that are gone for good.
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
            .filter(|(id, host)| host.incarnation.0 == INCARNATION + *id as u64)
            .filter_map(|(id, host)| host.up.as_ref().map(|running| (id, running)))
    }

    pub(super) fn converged(&mut self) -> Result<(), Violation> {
        if !self.is_able() {
            self.done = true;
            return Ok(());
        }
        let leaders: Vec<usize> = self
            .healthy()
            .filter(|(_, running)| running.node.status().serving)
            .map(|(id, _)| id)
            .collect();
        if leaders.len() != 1 {
            let detail = format!("nodes {leaders:?} serve, long after the faults have stopped");
            return violation("one leader serves in the end", detail);
        }
        let committed = self.observer.committed_index();
        for (id, running) in self.healthy() {
            // Clients go on, so the last few entries may be on their way.
            let behind = committed.0.saturating_sub(running.machine_at.0);
            if behind > 2_000 {
                let detail = format!("node {id} is {behind} entries behind");
                return violation("every node catches up in the end", detail);
            }
            if running.node.hard_state().lost.is_some() {
                return violation("what was lost is repaired in the end", format!("node {id}"));
            }
        }
        self.marks.hit("the cluster came back");
        let leader = self.observer.latest_leader();
        let quiet_us = QUIET_TIMEOUTS * self.timeout_us();
        self.queue.push(self.now_us + quiet_us, Event::Quiet { leader });
        Ok(())
    }

    pub(super) fn quiet(&mut self, leader: Option<(Term, u64)>) -> Result<(), Violation> {
        if self.observer.latest_leader() != leader {
            let detail = format!("{leader:?}, then {:?}", self.observer.latest_leader());
            return violation("no leader changes without a fault", detail);
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
            return violation("equal logs make equal states", detail);
        }
        if self.observer.elections() > 3 {
            self.marks.hit("leaders changed");
        }
        self.done = true;
        Ok(())
    }
}
