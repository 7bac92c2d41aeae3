//! The life of a node: its start, its ticks, the messages that reach it, and the checks after each.
//!
//! The core is called here and nowhere else, but for clients (`clients.rs`) and receipts of disks
//! and state machines. What it wants done is in `actions.rs`.

use super::*;
use bytes::Bytes;

/// A command that no node takes: it is larger than the default of `command_bytes_max`, and all
/// nodes have the default.
static TOO_LARGE: [u8; (8 << 20) + 1] = [0; (8 << 20) + 1];

impl World<'_> {
    pub(super) fn start(&mut self, node: usize) -> Result<(), Violation> {
        let host = &mut self.hosts[node];
        if host.up.is_some() || host.dead {
            return Ok(());
        }
        let seed = Stream::new(self.plan.seed, Purpose::Node, node as u64).draw();
        let machine = self.workload.machine();
        if !host.start(node as u64, &self.plan.swarm, seed, machine)? {
            if host.dead {
                self.marks.hit("a node noticed a damaged disk and stopped");
            } else {
                self.marks.hit("a node did not start from a failing disk");
                let dark = host.is_dark();
                host.restore_disk();
                // The power may have failed meanwhile; then the unsynced writes of the start are
                // lost.
                match dark || self.disks[node].chance(POWER_FAILS_TOO_PPM) {
                    true => self.lose_unsynced(node),
                    false => self.hosts[node].disk.kill(),
                }
                self.queue.push(self.now_us + START_RETRY_US, Event::Start(node));
            }
            return Ok(());
        }
        host.started_us = self.now_us;
        let Some(running) = &host.up else { return Ok(()) };
        if running.node.hard_state().lost.is_some() {
            self.marks.hit("a node knew what it had lost");
        }
        if running.machine_at > Index(0) {
            self.marks.hit("a node restarted from a snapshot");
        }
        match host.found_base_lost {
            Some(storage::Case::NewerSnapshot { .. }) => {
                self.marks.hit("a log went on from a later snapshot");
            }
            Some(_) => self.marks.hit("a node had lost the snapshot its log began after"),
            None => {}
        }
        let life = host.life;
        if self.hosts[node].flipped && !self.copies_can_be_told() {
            self.undecided_us = Some(self.now_us);
        }
        // Its state is rebuilt from its snapshot and log. Both are right, unless the snapshot was
        // taken of a diverged state.
        let host = &mut self.hosts[node];
        host.flipped = self.wrong_snapshots.contains(&host.shadow.base.hash);
        host.flipped_at = if host.flipped { Index(0) } else { host.flipped_at };
        let Some(running) = &self.hosts[node].up else { return Ok(()) };
        self.observer.started(node, &running.node);
        self.observer.restored(node, running.machine_at);
        self.timeline.started(node, &running.node, running.machine_at);
        if running.machine_at > Index(0) {
            let last = running.node.base().last;
            self.replay.restores(self.now_us, self.events, node, last);
        }
        self.contact.started(node, &running.node);
        let now = self.now(node);
        let is_bound = self.leases.is_bound(node, now) && !self.hosts[node].rotten;
        if let Some(running) = self.hosts[node].up.as_mut().filter(|_| is_bound) {
            running.node.campaign(now);
            self.leases.stays(node, &running.node)?;
            self.marks.hit("a node started while it was bound by a promise");
        }
        let Some(running) = &self.hosts[node].up else { return Ok(()) };
        self.pauses.started(node, &running.node);
        self.joint.started(node);
        self.note(1, node, life);
        self.queue.push(self.now_us, Event::Tick { node, life });
        self.poll(node)
    }

    pub(super) fn tick(&mut self, node: usize, life: u64) -> Result<(), Violation> {
        if self.hosts[node].life != life || self.hosts[node].up.is_none() {
            return Ok(());
        }
        let rate = self.hosts[node].clock_per_mille.max(1);
        let next_us = (u64::from(self.plan.swarm.tick_us) * 1_000 / rate).max(1);
        self.queue.push(self.now_us + next_us, Event::Tick { node, life });
        self.hosts[node].ticked_us = self.hosts[node].monotonic_us(self.now_us);
        let now = self.now(node);
        self.pauses.tick(node);
        self.joint.tick(node);
        let (mut gave_way, mut acted) = (false, None);
        self.on(node, |running| {
            let (before, is_idle) =
                (running.node.counters().gave_way, running.node.idle_ticks() > 0);
            running.node.tick(now);
            gave_way = running.node.counters().gave_way > before;
            acted = if is_idle { running.node.poll() } else { None };
        })?;
        if let Some(action) = acted {
            let detail = format!("node {node} acts on a tick that it declared idle: {action:?}");
            return violation(Check::Invariant, node, detail);
        }
        if gave_way {
            self.marks.hit("a leader gave way to a preferred node");
        }
        self.no_sick_leader(node)?;
        match &self.hosts[node].up {
            Some(running) => {
                let membership = self.observer.membership(node);
                let in_force_at = self.observer.membership_id(node).index;
                self.contact.ticked(node, &running.node, membership, in_force_at)
            }
            None => Ok(()),
        }
    }

    /// The monotonic clock of a node goes back to an earlier reading. The node reads it at once,
    /// since it is asked for something that it refuses. If it had not ticked since that reading, or
    /// read the clock later, it could not notice.
    pub(super) fn clock_goes_back(&mut self, node: usize, to_us: u64) -> Result<(), Violation> {
        let host = &self.hosts[node];
        if self.calm || host.up.is_none() || host.ticked_us <= to_us {
            return Ok(());
        }
        self.pass_time();
        let back_ns = self.hosts[node].set_back(self.now_us, to_us) * 1_000;
        self.pass_time();
        self.observer.time.went_back(back_ns);
        self.leases.clock_went_back(node, back_ns);
        self.marks.hit("a clock went back");
        self.note(10, node, to_us);
        self.refuses_too_large(node)?;
        self.poll(node)
    }

    /// Checks that a leader whose own disk lags behind the commit index steps down within a few
    /// election timeouts.
    fn no_sick_leader(&mut self, node: usize) -> Result<(), Violation> {
        let host = &mut self.hosts[node];
        let Some(running) = &host.up else { return Ok(()) };
        let core = &running.node;
        let held_back = running.write.is_some() && core.commit() > core.durable_index();
        host.write_ticks = if held_back { host.write_ticks + 1 } else { 0 };
        let most = SICK_ELECTIONS * u64::from(self.plan.swarm.election_ticks);
        if host.write_ticks <= most || !core.is_leader() {
            return Ok(());
        }
        let detail = format!("node {node}, whose write is out for {} ticks", host.write_ticks);
        violation(Check::LeaderWhoseDiskIsStalledStepsDown, node, detail)
    }

    pub(super) fn deliver(&mut self, message: Message, sent_at: u64) -> Result<(), Violation> {
        let (node, from) = (message.to.0 as usize, message.from.0 as usize);
        if self.hosts[node].up.is_none() {
            self.timeline.arrived(&message, false);
            let reported = !self.calm && self.disks[from].chance(self.plan.swarm.report_ppm);
            if reported {
                let peer = message.to;
                self.queue.push(self.now_us, Event::Unreachable { node: from, peer });
            }
            return Ok(());
        }
        self.note(2, node, message.term.0 << 8 ^ body_number(&message.body));
        self.mark_message(&message);
        self.timeline.arrived(&message, true);
        let now = self.now(node);
        if let Some(running) = &self.hosts[node].up {
            let governed = (&running.node, self.observer.membership(node));
            self.contact.arrives(node, governed, &message, sent_at);
            self.limits.arrives(node, &message);
            self.pauses.arrives(node, &message);
        }
        let append = matches!(message.body, Body::Append { .. });
        if matches!(message.body, Body::ReadIndex { lease: true, .. })
            && self.hosts[node].up.as_ref().is_some_and(|running| running.node.holds_lease(now))
        {
            self.marks.hit("a leader answered a follower from its lease");
        }
        if append {
            self.leases.arrives(node, now);
        }
        let (sender, term) = (message.from, message.term);
        if let Some(running) = &self.hosts[node].up
            && append
            && running.node.leader() == Some(sender)
            && running.node.term() == term
        {
            self.leases.heard_leader(node, term, now);
        }
        self.on(node, |running| running.node.step(now, message))?;
        if let Some(running) = &self.hosts[node].up
            && append
            && running.node.leader() == Some(sender)
            && running.node.term() == term
        {
            self.contact.heard_leader(node, &running.node);
            self.leases.heard_leader(node, term, now);
        }
        Ok(())
    }

    fn mark_message(&mut self, message: &Message) {
        match &message.body {
            Body::Rejected { lost: true, .. } => self.marks.hit("a leader heard of lost entries"),
            Body::Rejected { .. } => self.marks.hit("a probe was rejected"),
            Body::NotAMember { .. } => self.marks.hit("a wiped node was told so"),
            Body::ReadIndexReply { index: Some(_), .. } => {
                self.marks.hit("a follower got a read index");
            }
            _ => {}
        }
    }

    /// Performs the actions of a node until there are none, then checks the node.
    pub(super) fn poll(&mut self, node: usize) -> Result<(), Violation> {
        let mut sent = false;
        loop {
            let Some(running) = &mut self.hosts[node].up else { return Ok(()) };
            let Some(action) = running.node.poll() else { break };
            sent |= matches!(action, Action::Send(_));
            self.act(node, action)?;
        }
        self.look(node)?;
        if self.hosts[node].up.as_ref().is_some_and(|running| running.node.has_given_up()) {
            let can_be_told = self.copies_can_be_told() && self.difference_was_decided();
            if !self.hosts[node].flipped && can_be_told && !self.was_undecided() {
                let detail = format!("node {node} takes its copy for wrong");
                return violation(Check::OnlyACopyThatDiffersIsGivenUp, node, detail);
            }
            self.marks.hit("a node with a wrong copy stopped");
            self.hosts[node].rotten = true;
            self.process_ends(node, START_RETRY_US);
            return Ok(());
        }
        let writing = self.hosts[node].up.as_ref().is_some_and(|running| running.write.is_some());
        for (kind, due) in [(FaultKind::CrashWriting, writing), (FaultKind::CrashSending, sent)] {
            if due && let Some(down_us) = self.armed.remove(&(node, kind)) {
                self.marks.hit("a node crashed at an awkward moment");
                self.crash(node, down_us);
            }
        }
        Ok(())
    }

    /// Checks the leases of all nodes, those that are paused included.
    fn check_leases(&mut self) -> Result<(), Violation> {
        for node in 0..self.hosts.len() {
            let now = self.now(node);
            if let Some(running) = &self.hosts[node].up {
                self.leases.look(node, &running.node, now, self.events)?;
            }
        }
        Ok(())
    }

    /// Checks that a leader refuses a command that is larger than its limit.
    fn refuses_too_large(&mut self, node: usize) -> Result<(), Violation> {
        let now = self.now(node);
        let Some(running) = &mut self.hosts[node].up else { return Ok(()) };
        match running.node.propose(now, Bytes::from_static(&TOO_LARGE)) {
            Err(raft::ProposeRefused::TooLarge { .. }) => Ok(()),
            taken => {
                let detail = format!("node {node}: {} bytes: {taken:?}", TOO_LARGE.len());
                violation(Check::LimitsAreKept, node, detail)
            }
        }
    }

    pub(super) fn look(&mut self, node: usize) -> Result<(), Violation> {
        self.pass_time();
        let Some(running) = &self.hosts[node].up else { return Ok(()) };
        let disks: Vec<Observed<'_>> = self
            .hosts
            .iter()
            .map(|host| Observed {
                shadow: &host.shadow,
                forgot: host.rotten,
                incarnation: Some(host.incarnation),
            })
            .collect();
        let elected = self.observer.look(node, &running.node, &disks)?;
        let membership = self.observer.membership(node);
        self.contact.look(node, &running.node, membership, self.events)?;
        self.pauses.look(node, &running.node, membership)?;
        let in_force = (self.observer.membership_id(node), membership);
        let silent_ticks = |id| self.contact.silent_ticks(node, id);
        self.joint.look(node, &running.node, in_force, &disks, silent_ticks)?;
        let term = running.node.term();
        self.timeline.look(node, &running.node, running.machine_at);
        if self.leases.look(node, &running.node, self.now(node), self.events)? {
            let leader = (&running.node, membership);
            self.leases.rests_on(node, leader, &disks, |voter| self.now(voter))?;
        }
        if elected {
            self.check_leases()?;
            self.refuses_too_large(node)?;
            self.marks.hit("a leader was elected");
            self.note(3, node, term.0);
        }
        Ok(())
    }
}
