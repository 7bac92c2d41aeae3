//! State machines: applying entries, taking snapshots, and transferring snapshots to a peer.

use super::*;
use crate::checks::Check;
use crate::node::command_begins_at;
use crate::observer::command_of;

/// The longest time that a receiver takes to write a snapshot.
const RECEIVE_US: u64 = 20_000;
/// The sender gives up one in this many transfers, as if the connection had broken, although the
/// receiver completes it.
const GIVEN_UP_ONE_IN: u64 = 4;
/// The longest time until such a snapshot is installed, in election timeouts.
const LATE_INSTALL_ELECTIONS: u64 = 20;
/// The sender's life of such a transfer: no sender waits for its result.
const NO_LIFE: u64 = u64::MAX;

impl World<'_> {
    pub(super) fn applied(&mut self, node: usize, life: u64) -> Result<(), Violation> {
        if self.hosts[node].life != life {
            return Ok(());
        }
        let now = self.now(node);
        let host = &mut self.hosts[node];
        let Some(running) = &mut host.up else { return Ok(()) };
        let (flips, mut flipped, mut flipped_at) = (host.flips, host.flipped, host.flipped_at);
        let observer = &mut self.observer;
        let workload = &self.workload;
        let mut done = Vec::new();
        let mut latest = LogId::ZERO;
        let mut unknown = Vec::new();
        self.replay.applies(self.now_us, self.events, running.apply.as_ref());
        running.apply(now, &mut host.flips, |before, entry, answer, machine| {
            // A diverged copy must be detected: see `is_well`. Until then the checks exempt it.
            if flips && !flipped && command_begins_at(&entry.payload).is_some() {
                (flipped, flipped_at) = (true, entry.id.index);
            }
            if flipped {
                latest = entry.id;
                if answer.is_some() {
                    unknown.push(entry.id);
                }
                return Ok(());
            }
            observer.applied_as(node, before, entry, answer, workload.describe())?;
            let describe = workload.describe();
            if let Some(machine) = machine {
                observer.has_state(node, entry.id, machine, describe)?;
            }
            if let Some(Err(detail)) = machine.map(|replica| workload.invariant(replica.machine()))
            {
                let command = command_of(&entry.payload);
                let command = match entry.payload.is_command() {
                    true => format!(": {}", describe.command(&command)),
                    false => String::new(),
                };
                let detail = format!("{detail}; node {node}, after {}{command}", entry.id);
                return violation(Check::InvariantOfTheStateMachine, (node, entry.id), detail);
            }
            latest = entry.id;
            if let Some(answer) = answer {
                done.push((entry.id, answer.clone()));
            }
            Ok(())
        })?;
        let unknown: Vec<usize> =
            unknown.iter().filter_map(|id| running.proposals.remove(id)).collect();
        let mut concluded = Vec::new();
        for (id, answer) in done {
            if let Some(operation) = running.proposals.remove(&id) {
                concluded.push((operation, Some((id.index, answer))));
            }
        }
        // Terms never decrease along the log. A proposal at an applied index, or of an earlier
        // term, that was not applied by now never will be.
        let over: Vec<LogId> = running
            .proposals
            .keys()
            .copied()
            .filter(|id| id.index <= latest.index || id.term < latest.term)
            .collect();
        for id in over {
            if let Some(operation) = running.proposals.remove(&id) {
                concluded.push((operation, None));
            }
        }
        host.flipped_at = flipped_at;
        if flipped {
            self.differed_until = self.differed_until.max(latest.index);
        }
        if flipped && !std::mem::replace(&mut host.flipped, true) {
            self.marks.hit("a bit flipped in what a node applied");
        }
        for operation in unknown {
            self.conclude(operation, None, ClientOutcome::Unknown)?;
        }
        for (operation, answer) in concluded {
            match answer {
                Some((index, Ok(answer))) => {
                    self.conclude(operation, Some(index), ClientOutcome::Done(&answer))?;
                }
                Some((index, Err(error))) => self.refused(operation, index, error)?,
                None => {
                    self.marks.hit("a proposal was certainly not done");
                    self.conclude(operation, None, ClientOutcome::NotDone)?;
                }
            }
        }
        self.note(7, node, latest.index.0);
        self.poll(node)
    }

    pub(super) fn snapshot_written(&mut self, node: usize, life: u64) -> Result<(), Violation> {
        if self.hosts[node].life != life {
            return Ok(());
        }
        let now = self.now(node);
        let Some(running) = &mut self.hosts[node].up else { return Ok(()) };
        let Some((order, state)) = running.snapshot.take() else { return Ok(()) };
        let written = running.snapshots.create(&order.snapshot).and_then(|mut writer| {
            writer.write_all(&state)?;
            writer.finish()
        });
        let done = match written {
            Ok(()) => {
                self.marks.hit("a snapshot was taken");
                running.ordered = None;
                running.unreadable.remove(&order.snapshot.last);
                running.node.set_snapshot_bytes(state.len() as u64);
                order.durable()
            }
            Err(_) => order.failed(),
        };
        running.node.compact(now, done);
        self.poll(node)
    }

    pub(super) fn send_snapshot(
        &mut self,
        node: usize,
        offer: SnapshotOffer,
    ) -> Result<(), Violation> {
        let (life, to, snapshot) = (self.hosts[node].life, offer.to, offer.snapshot.last);
        let failed = Event::TransferFailed { node, life, to, snapshot };
        let host = &mut self.hosts[node];
        let Some(running) = &mut host.up else { return Ok(()) };
        if running.unreadable.contains(&snapshot) {
            let detail = format!("node {node} offers {snapshot} to node {to}");
            let about = (node, snapshot);
            return violation(Check::UnreadableSnapshotIsNotOfferedAgain, about, detail);
        }
        // Drawn from a stream of its own, so that no other draw depends on it.
        let mut draw = Stream::new(self.plan.seed, Purpose::Unread, 1 + self.events);
        let fails = !self.calm && draw.chance(self.plan.swarm.unread_ppm);
        let state = crate::shadow::read(&running.snapshots, snapshot);
        let Some(state) = state.ok().filter(|_| !fails) else {
            self.marks.hit("a snapshot that was to be sent could not be read");
            running.node.snapshot_unreadable(snapshot);
            running.unreadable.insert(snapshot);
            self.queue.push(self.now_us + 1_000, failed);
            return Ok(());
        };
        let is_cut = self.network.is_cut(node as u64, to.0);
        let passage =
            self.network.pass(self.now_us, (node as u64, to.0), &self.plan.swarm, self.calm);
        self.timeline.snapshot_sent(&offer, passage, is_cut);
        match passage {
            Passage::Arrives { after_us, .. } => {
                let transfer = Event::Transfer(Box::new((offer, state, life)));
                self.queue.push(self.now_us + after_us, transfer);
            }
            Passage::Lost { .. } => self.queue.push(self.now_us + 10_000, failed),
        }
        Ok(())
    }

    /// A snapshot begins to arrive. The receiver decides once whether to accept it.
    pub(super) fn transfer(&mut self, transfer: Box<Transfer>) -> Result<(), Violation> {
        let to = transfer.0.to.0 as usize;
        let running = self.hosts[to].up.as_mut();
        let Some(order) = running.and_then(|running| running.node.accept(transfer.0.clone()))
        else {
            return self.transferred(&transfer.0, transfer.2, false);
        };
        let (order, life) = (Box::new(order), self.hosts[to].life);
        let write_us = self.machines[to].below(RECEIVE_US);
        // Drawn from a stream of its own, so that the draws of the receiver do not depend on it.
        let mut draw = Stream::new(self.plan.seed, Purpose::Ending, 1 + self.events);
        if !self.calm && draw.below(GIVEN_UP_ONE_IN) == 0 {
            return self.given_up(
                transfer,
                order,
                life,
                write_us + draw.below(self.late_install_us()),
            );
        }
        self.queue.push(self.now_us + write_us, Event::Install(transfer, order, life));
        Ok(())
    }

    /// The sender takes the connection for broken, but the receiver gets the whole snapshot. It
    /// finishes much later, perhaps when the sender is not the leader any more.
    fn given_up(
        &mut self,
        mut transfer: Box<Transfer>,
        order: Box<ReceiveSnapshot>,
        life: u64,
        after_us: u64,
    ) -> Result<(), Violation> {
        let SnapshotOffer { from, to, snapshot, .. } = &transfer.0;
        let (node, to, snapshot) = (from.0 as usize, *to, snapshot.last);
        let failed = Event::TransferFailed { node, life: transfer.2, to, snapshot };
        self.queue.push(self.now_us + 1, failed);
        transfer.2 = NO_LIFE;
        self.marks.hit("a snapshot was given up and came late");
        self.queue.push(self.now_us + after_us, Event::Install(transfer, order, life));
        Ok(())
    }

    /// A snapshot that its sender has given up is installed within this time.
    pub(super) fn late_install_us(&self) -> u64 {
        LATE_INSTALL_ELECTIONS * self.plan.election_us()
    }

    pub(super) fn install(
        &mut self,
        (offer, state, sender_life): Transfer,
        order: ReceiveSnapshot,
        life: u64,
    ) -> Result<(), Violation> {
        let to = offer.to.0 as usize;
        let now = self.now(to);
        let mut delivered = false;
        let host = &mut self.hosts[to];
        if host.life == life
            && let Some(running) = &mut host.up
        {
            let written = running.snapshots.create(&offer.snapshot).and_then(|mut writer| {
                writer.write_all(&state)?;
                writer.finish()?;
                running.snapshots.verify(offer.snapshot.last).map_err(std::io::Error::from)
            });
            if written.is_ok() {
                delivered = true;
                running.unreadable.remove(&offer.snapshot.last);
                running.node.install(now, order.durable());
                // It may have come too late: the log begins after a later one.
                let base = host.shadow.base.last;
                if offer.snapshot.last.index < base.index {
                    let kept = running.node.offered_snapshots();
                    let _ = running.snapshots.remove_before(base, &kept);
                }
            }
        }
        self.transferred(&offer, sender_life, delivered)
    }

    fn transferred(
        &mut self,
        offer: &SnapshotOffer,
        life: u64,
        delivered: bool,
    ) -> Result<(), Violation> {
        let (from, to) = (offer.from.0 as usize, offer.to.0 as usize);
        let (snapshot, link, term) = (offer.snapshot.last, (offer.from, offer.to), offer.term);
        self.timeline.snapshot_arrived(link, term, snapshot, delivered);
        self.poll(to)?;
        let still = self.hosts[from].life == life;
        if still {
            let to = NodeId(to as u64);
            let status = SnapshotStatus::of(delivered, 0);
            self.on(from, |running| running.node.snapshot_sent(to, snapshot, status))?;
        }
        Ok(())
    }
}
