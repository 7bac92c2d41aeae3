//! Performs the actions of a node: writes, messages, work for the state machine, answers.

use super::*;
use crate::checks::Check;

impl World<'_> {
    pub(super) fn act(&mut self, node: usize, action: Action) -> Result<(), Violation> {
        let life = self.hosts[node].life;
        let swarm = &self.plan.swarm;
        match action {
            Action::Persist(write) => {
                self.limits.writes(node, &write.entries)?;
                let draw = &mut self.disks[node];
                let stalled = draw.chance(swarm.stall_ppm) && !self.calm;
                let stall_us = if stalled { draw.below(u64::from(swarm.stall_us) + 1) } else { 0 };
                let mut after_us = 1 + draw.below(2 * u64::from(swarm.sync_us)) + stall_us;
                let host = &mut self.hosts[node];
                if host.slow_until_us > self.now_us {
                    after_us += draw.below(self.plan.election_us() + 1);
                }
                host.write_ticks = 0;
                // A disk that is stalled for good never completes the write.
                let stalled_us = host.stalled_until_us.saturating_sub(self.now_us);
                if host.stalled_until_us < u64::MAX {
                    let at_us = self.now_us + stalled_us + after_us;
                    self.queue.push(at_us, Event::Synced { node, life });
                }
                if let Some(running) = &mut self.hosts[node].up {
                    if running.write.is_some() {
                        return violation(
                            Check::OneWriteIsOutAtATime,
                            node,
                            format!("node {node}"),
                        );
                    }
                    running.write = Some(write);
                }
                Ok(())
            }
            Action::Send(message) => {
                self.observer.said(node, &message, &self.hosts[node].shadow)?;
                self.contact.said(node, &message, &self.hosts[node].shadow)?;
                self.leases.said(node, &message, self.now(node))?;
                self.pauses.said(node, &message)?;
                self.limits.said(node, &message, self.now_us)?;
                self.send(node, message);
                Ok(())
            }
            Action::Apply(apply) => {
                self.limits.applies(node, &apply.entries)?;
                if let Some(last) = apply.entries.last().map(|entry| entry.id)
                    && !self.hosts[node].shadow.holds(last)
                {
                    let detail = format!("node {node} applies {last}, which its disk lacks");
                    return violation(Check::OnlyWhatIsDurableIsApplied, (node, last), detail);
                }
                let slow_us = self.machines[node].below(2 * u64::from(swarm.apply_us) + 1);
                // A slow state machine may have a backlog longer than the time to converge.
                let apply_us = if self.calm { 0 } else { slow_us };
                self.queue.push(self.now_us + apply_us, Event::Applied { node, life });
                if let Some(running) = &mut self.hosts[node].up {
                    running.apply = Some(apply);
                }
                Ok(())
            }
            Action::Serve(read) => self.serve(node, read),
            Action::Forwarded { number, outcome } => self.forwarded(node, number, outcome),
            Action::Refuse(read) => {
                let operation =
                    self.hosts[node].up.as_mut().and_then(|running| running.reads.remove(&read));
                match operation {
                    Some(operation) => self.conclude(operation, None, ClientOutcome::NotDone),
                    None => Ok(()),
                }
            }
            Action::TakeSnapshot(order) => {
                let write_us = 1 + self.machines[node].below(50_000);
                self.queue.push(self.now_us + write_us, Event::Snapshot { node, life });
                if let Some(running) = &mut self.hosts[node].up {
                    if order.snapshot.last.index != running.machine_at {
                        let detail = format!("node {node}: {}", order.snapshot.last);
                        return violation(
                            Check::SnapshotIsOfWhatIsApplied,
                            (node, order.snapshot.last),
                            detail,
                        );
                    }
                    if self.hosts[node].flipped {
                        self.wrong_snapshots.insert(order.snapshot.hash);
                    }
                    let Some(running) = &mut self.hosts[node].up else { return Ok(()) };
                    let state = running.state();
                    running.ordered = Some(order.snapshot.last.index);
                    running.snapshot = Some((order, state));
                }
                Ok(())
            }
            Action::SendSnapshot(offer) => {
                self.limits.sends_snapshot(node, offer.to.0 as usize);
                self.send_snapshot(node, offer)
            }
            Action::Restore(order) => {
                self.marks.hit("a snapshot was installed");
                let now = self.now(node);
                let host = &mut self.hosts[node];
                let Some(running) = &mut host.up else { return Ok(()) };
                let last = order.snapshot.last;
                if host.shadow.base.last != last {
                    let detail = format!("node {node}: {last} and {}", host.shadow.base.last);
                    return violation(Check::LogBeginsAfterWhatIsRestored, (node, last), detail);
                }
                let (id, snapshots) = (node as u64, &running.snapshots);
                match node::restore(id, snapshots, &order.snapshot, &mut running.replica)? {
                    Restoration::Done { bytes } => running.node.set_snapshot_bytes(bytes),
                    Restoration::Unreadable(_) if host.failing || host.snapshot_rotten => {
                        self.marks.hit("a node could not restore a snapshot and stopped");
                        self.process_ends(node, START_RETRY_US);
                        return Ok(());
                    }
                    Restoration::Unreadable(detail) => {
                        return violation(MISSING, (node, last), detail);
                    }
                }
                self.timeline.add(node, What::Installed(last));
                self.replay.restores(self.now_us, self.events, node, last);
                self.observer.restored(node, last.index);
                if self.observer.id_at(last.index) != Some(last) || running.apply.is_some() {
                    return violation(
                        Check::RestoredSnapshotIsCommitted,
                        (node, last),
                        format!("node {node}"),
                    );
                }
                running.machine_at = last.index;
                // It now has the state of another node, which may have diverged unnoticed.
                host.flipped = self.wrong_snapshots.contains(&order.snapshot.hash);
                host.flipped_at = Index(0);
                running.node.applied(now, order.restored());
                // Proposals that the snapshot skips were done or not: this node cannot tell.
                let jumped: Vec<LogId> =
                    running.proposals.keys().copied().filter(|id| id.index <= last.index).collect();
                let operations: Vec<usize> =
                    jumped.iter().filter_map(|id| running.proposals.remove(id)).collect();
                for operation in operations {
                    self.conclude(operation, None, ClientOutcome::Unknown)?;
                }
                Ok(())
            }
        }
    }

    fn send(&mut self, node: usize, message: Message) {
        let to = message.to.0;
        if to >= self.plan.nodes {
            return;
        }
        self.note(4, node, to << 8 ^ body_number(&message.body));
        let is_cut = self.network.is_cut(node as u64, to);
        let passage =
            self.network.pass(self.now_us, (node as u64, to), &self.plan.swarm, self.calm);
        self.timeline.sent(&message, passage, is_cut);
        match passage {
            Passage::Arrives { after_us, again_after_us } => {
                if let Some(again_us) = again_after_us {
                    let again = Event::Deliver(Box::new(message.clone()), self.events);
                    self.queue.push(self.now_us + again_us, again);
                }
                let arrival = Event::Deliver(Box::new(message), self.events);
                self.queue.push(self.now_us + after_us, arrival);
            }
            Passage::Lost { reported } => {
                if reported {
                    let peer = message.to;
                    self.queue.push(self.now_us + 1, Event::Unreachable { node, peer });
                }
            }
        }
    }
}

/// Encodes a message as a number, for the hash of the run.
pub(super) fn body_number(body: &Body) -> u64 {
    match body {
        Body::PreVote { .. } => 1,
        Body::PreVoteReply { granted, .. } => 2 + (u64::from(*granted) << 4),
        Body::Vote { .. } => 3,
        Body::VoteReply { granted, .. } => 4 + (u64::from(*granted) << 4),
        Body::Append { entries, .. } => 5 + ((entries.len() as u64) << 4),
        Body::Appended { matched, .. } => 6 + (matched.0 << 4),
        Body::Rejected { prev, .. } => 7 + (prev.0 << 4),
        Body::ReadIndex { lease, .. } => 8 + (u64::from(*lease) << 4),
        Body::ReadIndexReply { .. } => 9,
        Body::TimeoutNow => 10,
        Body::Diverged { .. } => 12,
        Body::NotAMember { .. } => 11,
        Body::Forward { number, .. } => 13 + (number << 4),
        Body::ForwardReply { number, .. } => 14 + (number << 4),
    }
}
