//! Disks: when a write becomes durable, and what survives when a node goes down.

use super::*;
use crate::checks::Check;
use crate::faults::{self, BEGUN_PPM};
use crate::log::AnyLog;

impl World<'_> {
    pub(super) fn synced(&mut self, node: usize, life: u64) -> Result<(), Violation> {
        if self.hosts[node].life != life {
            return Ok(());
        }
        let now = self.now(node);
        let is_outstanding = |up: &node::Running<ErasedMachine>| up.write.is_some();
        if self.hosts[node].up.as_ref().is_some_and(is_outstanding) && self.rots_within_write(node)
        {
            return Ok(());
        }
        let before = self.before_write(node);
        let host = &mut self.hosts[node];
        let Some(running) = &mut host.up else { return Ok(()) };
        let Some(write) = running.write.take() else { return Ok(()) };
        let write = if host.tries_again { running.node.renew_write(write) } else { write };
        let change = LogChange::of(&write);
        match running.log.persist(write) {
            Ok(done) => {
                if host.shadow.is_taken_back(&change) && !host.rotten {
                    return violation(Check::OneVoteATerm, node, format!("node {node}"));
                }
                host.shadow.records_its_loss(node, &change)?;
                host.shadow.apply(&change);
                running.node.persisted(now, done);
                // Older snapshots are not needed once the log on disk begins after this one. A
                // failed removal is retried later.
                let kept = running.node.offered_snapshots();
                let _ = running.snapshots.remove_before(host.shadow.base.last, &kept);
                self.note(5, node, host_last(&self.hosts[node].shadow));
                self.timeline.durable(node, &self.hosts[node].shadow);
                self.hosts[node].written(&change);
                // A refused write must have left nothing behind that could mislead a start.
                let again = std::mem::take(&mut self.hosts[node].tries_again);
                let rebased = change.rebases() && self.events.is_multiple_of(AUDIT_REBASED_ONE_IN);
                if again || rebased || self.events.is_multiple_of(AUDIT_ONE_IN) {
                    let host = &self.hosts[node];
                    host.audit(node as u64, &self.plan.swarm)?;
                    // After the power has failed nothing can be removed.
                    if let Some(running) = &host.up
                        && !host.is_dark()
                    {
                        self.log_bounds(node, running)?;
                    }
                }
                self.loses_write(node);
                if let Some(before) = before {
                    self.finds_end(node, before);
                }
                self.poll(node)?;
                self.rots(node);
                Ok(())
            }
            Err(PersistError::Full { write, .. }) => {
                running.write = Some(*write);
                host.tries_again = true;
                self.marks.hit(match host.full {
                    true => "a disk was full",
                    false => "a log reached its bound",
                });
                self.queue.push(self.now_us + FULL_RETRY_US, Event::Synced { node, life });
                // A snapshot may be due, which would free room.
                self.poll(node)
            }
            Err(error) => {
                if !host.failing {
                    return violation(Check::NodeGoesOn, node, format!("node {node}: {error}"));
                }
                self.marks.hit("a sync failed and the node stopped");
                host.maybe = Some(change);
                let down_us = 1_000 + self.disks[node].below(200_000);
                match host.is_dark() || self.disks[node].chance(POWER_FAILS_TOO_PPM) {
                    true => self.power_fails(node, down_us),
                    false => self.process_ends(node, down_us),
                }
                Ok(())
            }
        }
    }

    /// The power fails. An outstanding write may be on the disk, in part or whole.
    pub(super) fn crash(&mut self, node: usize, down_us: u64) {
        self.cut_off(node);
        self.power_fails(node, down_us);
    }

    /// Interrupts an outstanding write: it is written and not synced, or not begun.
    pub(super) fn cut_off(&mut self, node: usize) {
        let begun = self.disks[node].chance(BEGUN_PPM);
        let host = &mut self.hosts[node];
        if let Some(running) = &mut host.up
            && let Some(write) = running.write.take()
            && begun
        {
            host.maybe = Some(LogChange::of(&write));
            // It was written and not yet synced.
            faults::fail_syncs(&host.disk);
            let _ = running.log.persist(write);
            self.marks.hit("a crash met a write");
        }
    }

    pub(super) fn power_fails(&mut self, node: usize, down_us: u64) {
        if self.goes_down(node, down_us).is_some() {
            self.lose_unsynced(node);
        }
    }

    pub(super) fn process_ends(&mut self, node: usize, down_us: u64) {
        if self.hosts[node].is_dark() {
            return self.power_fails(node, down_us);
        }
        if self.goes_down(node, down_us).is_some() {
            self.hosts[node].disk.kill();
            self.marks.hit("a process ended");
        }
    }

    /// Shuts a node down cleanly: it completes its write and closes its log.
    pub(super) fn stops(&mut self, node: usize, down_us: u64) -> Result<(), Violation> {
        let life = self.hosts[node].life;
        self.synced(node, life)?;
        if self.hosts[node].is_dark() {
            self.power_fails(node, down_us);
            return Ok(());
        }
        // A write that is still outstanding did not fit on the disk, or was handed out afterwards;
        // it is not begun.
        let Some(log) = self.goes_down(node, down_us) else { return Ok(()) };
        let closed = log.close();
        let host = &mut self.hosts[node];
        host.closed = closed.is_ok();
        host.disk.kill();
        self.marks.hit("a node stopped cleanly");
        closed.or_else(|error| violation(Check::NodeStopsCleanly, node, error.to_string()))
    }

    /// Each unsynced sector is lost, kept or torn.
    pub(super) fn lose_unsynced(&mut self, node: usize) {
        let (disk, draw) = (&self.hosts[node].disk, &mut self.disks[node]);
        if faults::lose_unsynced(disk, &self.plan.swarm, draw) {
            self.marks.hit("a write was torn");
        }
    }

    /// Takes a node down. Returns its log, if the node was running.
    pub(super) fn goes_down(&mut self, node: usize, down_us: u64) -> Option<AnyLog> {
        let host = &mut self.hosts[node];
        let running = host.up.take()?;
        host.restore_disk();
        (host.losing, host.rotting_end) = (None, None);
        host.tries_again = false;
        let open = running.proposals.into_values().chain(running.forwards.into_values());
        let open: Vec<usize> = open.collect();
        let reads: Vec<usize> = running.reads.into_values().collect();
        // Events of the life that ends must not take effect any more.
        host.life += 1;
        for operation in open {
            // Clients receive no answer from the node any more.
            let _ = self.conclude(operation, None, ClientOutcome::Unknown);
        }
        for operation in reads {
            let _ = self.conclude(operation, None, ClientOutcome::NotDone);
        }
        self.note(6, node, down_us);
        self.timeline.add(node, What::Down);
        self.queue.push(self.now_us + down_us, Event::Start(node));
        let gone_us = u64::from(self.plan.swarm.gone_us);
        if gone_us > 0 {
            // The report may come after the node has started again.
            for peer in (0..self.hosts.len()).filter(|peer| *peer != node) {
                let after_us = gone_us + 1_000 * peer as u64;
                self.queue.push(self.now_us + after_us, Event::Gone { node: peer, peer: node });
            }
        }
        Some(running.log)
    }
}
