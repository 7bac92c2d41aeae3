//! The actions that the core orders. Each goes to the part of the node that carries it out.
//!
//! Nothing waits here. The core has at most one order of each kind out, so the queues to the log
//! and the state machine have room for them. The queue of questions may be full: then reads are
//! retried.

use super::CoreLoop;
use crate::messages::{MachineCall, MachineOrder};
use crate::snapshots::OpenedLater;
use crate::status::count;
use raft::{Action, LogStart, ReadId, Write};
use std::sync::atomic::Ordering;
use tokio::sync::mpsc::error::TrySendError;

impl CoreLoop {
    pub(super) fn hand_out(&mut self) {
        while let Some(action) = self.node.poll() {
            match action {
                Action::Persist(write) => self.persist(write),
                Action::Send(message) => {
                    count(&self.shared.metrics.messages_sent);
                    self.transport.send(message);
                }
                Action::Apply(apply) => {
                    let last = apply.entries.last().map(|entry| entry.id).unwrap_or_default();
                    let decided = self.state.pending.decided_by(last);
                    self.state.ordered = self.state.ordered.max(last.index);
                    self.order(MachineOrder::Apply { apply, decided });
                }
                Action::Restore(restore) => {
                    let last = restore.snapshot.last;
                    let decided = self.state.pending.decided_by(last);
                    self.state.ordered = self.state.ordered.max(last.index);
                    self.state.cleaning.restores();
                    self.order(MachineOrder::Restore { restore, decided });
                }
                Action::TakeSnapshot(order) => self.order(MachineOrder::TakeSnapshot(order)),
                Action::Serve(id) => self.serve(id),
                Action::Forwarded { number, outcome } => self.forwarded(number, outcome),
                Action::Refuse(id) => {
                    if self.state.readiness.answered(id, false) {
                        continue;
                    }
                    if let Some(batch) = self.state.reads.take(id) {
                        self.state.reads.refused(batch.reads);
                    }
                }
                Action::SendSnapshot(offer) => {
                    count(&self.shared.metrics.snapshots_sent);
                    let id = offer.snapshot.last;
                    let (store, reports) =
                        (self.store.clone(), self.inbox_receiver.reports.clone());
                    let state = OpenedLater { store, id, reader: None, reports };
                    self.transport.send_snapshot(offer, Box::new(state));
                }
            }
        }
    }

    pub(super) fn persist(&mut self, write: Write) {
        if let Some(log_start) = write.log_start.as_ref().map(LogStart::snapshot) {
            self.state.cleaning.moves(log_start.last);
        }
        match self.writes.try_send(write) {
            // If the store is gone, its guard has stopped the node.
            Ok(()) | Err(TrySendError::Closed(_)) => {}
            Err(TrySendError::Full(_)) => unreachable!("the core has one write out at most"),
        }
    }

    fn order(&mut self, order: MachineOrder) {
        match self.machine_orders.try_send(order) {
            // If the machine task is gone, its guard has stopped the node.
            Ok(()) | Err(TrySendError::Closed(_)) => {}
            Err(TrySendError::Full(_)) => {
                unreachable!("the core has one of each order out at most")
            }
        }
    }

    fn serve(&mut self, id: ReadId) {
        if self.state.readiness.answered(id, true) {
            return;
        }
        let Some(batch) = self.state.reads.take(id) else { return };
        match self.machine_calls.try_send(MachineCall::Reads(batch.reads)) {
            Ok(()) => self.shared.fresh_at_ns.store(batch.asked_ns, Ordering::Relaxed),
            // The state machine is far behind: the reads are retried.
            Err(TrySendError::Full(MachineCall::Reads(reads))) => self.state.reads.refused(reads),
            Err(_) => {}
        }
    }
}
