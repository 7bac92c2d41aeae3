//! The events of a run, and what each of them sets off.
//!
//! An event of a paused node waits until the node resumes, and the power of a node may fail within
//! one. What happens to a node, a client or a disk then is in the files of those.

use super::*;

pub(super) enum Event {
    Tick {
        node: usize,
        life: u64,
    },
    /// A message arrives. The number is the event at which it was sent.
    Deliver(Box<Message>, u64),
    Unreachable {
        node: usize,
        peer: NodeId,
    },
    /// A node learns that the process of a peer has ended.
    Gone {
        node: usize,
        peer: usize,
    },
    Synced {
        node: usize,
        life: u64,
    },
    Applied {
        node: usize,
        life: u64,
    },
    Snapshot {
        node: usize,
        life: u64,
    },
    Transfer(Box<Transfer>),
    /// The receiver has written a transferred snapshot, unless it has restarted since.
    Install(Box<Transfer>, Box<ReceiveSnapshot>, u64),
    TransferFailed {
        node: usize,
        life: u64,
        to: NodeId,
        snapshot: LogId,
    },
    ClockBack {
        node: usize,
        to_us: u64,
    },
    Start(usize),
    Strike(usize),
    Lift(usize),
    /// The operator looks at the cluster.
    Operate,
    Client(usize),
    Ask {
        operation: usize,
        node: usize,
    },
    GiveUp {
        client: usize,
        operation: usize,
    },
    Calm,
    Converged {
        until_us: u64,
    },
    Rest,
    Quiet {
        leader: Option<(Term, u64)>,
    },
    Settled {
        until_us: u64,
    },
}

/// A snapshot in transfer: the offer, the state, and the life of the sender.
pub(super) type Transfer = (SnapshotOffer, Vec<u8>, u64);

impl World<'_> {
    /// Processes an event. The power of its node may fail within it.
    pub(super) fn event(&mut self, event: Event) -> Result<(), Violation> {
        let place = self.place(&event);
        self.happens(event)?;
        if let Some(node) = place
            && self.hosts[node].is_dark()
            && self.hosts[node].up.is_some()
        {
            let down_us = 1_000 + self.disks[node].below(200_000);
            self.marks.hit("the power failed within an operation of the disk");
            self.power_fails(node, down_us);
        }
        Ok(())
    }

    fn happens(&mut self, event: Event) -> Result<(), Violation> {
        // A paused node processes the event when it resumes.
        if let Some(node) = self.place(&event)
            && self.hosts[node].paused_until_us > self.now_us
        {
            let until = self.hosts[node].paused_until_us;
            // Messages that arrived meanwhile are read from many sockets, in any order.
            let after_us = match event {
                Event::Deliver(..) | Event::Ask { .. } => self.machines[node].below(RESUME_US),
                _ => 0,
            };
            self.queue.push(until + after_us, event);
            return Ok(());
        }
        match event {
            Event::Tick { node, life } => self.tick(node, life),
            Event::Deliver(message, sent_at) => self.deliver(*message, sent_at),
            Event::Unreachable { node, peer } => {
                self.limits.lost(node, peer.0 as usize);
                self.on(node, |running| running.node.unreachable(peer))
            }
            // A report that comes too late is a fault.
            Event::Gone { peer, .. } if self.calm && self.hosts[peer].up.is_some() => Ok(()),
            Event::Gone { node, peer } => {
                if let Some(running) = &self.hosts[node].up
                    && self.contact.gone(node, &running.node, peer)
                {
                    self.marks.hit("a node learned that its leader's process has ended");
                }
                self.on(node, |running| running.node.gone(NodeId(peer as u64)))
            }
            Event::Synced { node, life } => self.synced(node, life),
            Event::Applied { node, life } => self.applied(node, life),
            Event::Snapshot { node, life } => self.snapshot_written(node, life),
            Event::Transfer(transfer) => self.transfer(transfer),
            Event::Install(transfer, order, life) => self.install(*transfer, *order, life),
            Event::TransferFailed { node, life, to, snapshot } => {
                if self.hosts[node].life != life {
                    return Ok(());
                }
                self.on(node, |running| {
                    let status = SnapshotStatus::Failed { resumed_at: 0 };
                    running.node.snapshot_sent(to, snapshot, status);
                })
            }
            Event::ClockBack { node, to_us } => self.clock_goes_back(node, to_us),
            Event::Start(node) => self.start(node),
            Event::Strike(fault) => self.strike(fault),
            Event::Lift(fault) => {
                self.lift(fault);
                Ok(())
            }
            Event::Operate => self.operate(),
            Event::Client(client) => self.client(client),
            Event::Ask { operation, node } => self.asked(operation, node),
            Event::GiveUp { client, operation } => {
                if self.clients[client].operation == Some(operation) {
                    self.waits_no_longer(operation)?;
                }
                Ok(())
            }
            Event::Calm => self.calm_down(),
            Event::Converged { until_us } => self.converged(until_us),
            Event::Rest => {
                self.at_rest = true;
                Ok(())
            }
            Event::Quiet { leader } => self.quiet(leader),
            Event::Settled { until_us } => self.rests(until_us),
        }
    }

    pub(super) fn place(&self, event: &Event) -> Option<usize> {
        match event {
            Event::Tick { node, .. }
            | Event::Ask { node, .. }
            | Event::Unreachable { node, .. }
            | Event::Gone { node, .. }
            | Event::Synced { node, .. }
            | Event::Applied { node, .. }
            | Event::Snapshot { node, .. }
            | Event::ClockBack { node, .. }
            | Event::TransferFailed { node, .. } => Some(*node),
            Event::Deliver(message, _) => Some(message.to.0 as usize),
            Event::Transfer(transfer) | Event::Install(transfer, _, _) => {
                Some(transfer.0.to.0 as usize)
            }
            _ => None,
        }
    }
}
