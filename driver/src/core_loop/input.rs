//! The inputs of the core loop: receipts, reports of the transport, snapshots of peers, calls of
//! clients, and ticks.
//!
//! Each of these is passed to the core at once. The actions that the core orders are in
//! `output.rs`, and the outcome of a command is in `commands.rs`.

use super::{CoreLoop, FULL_RETRY_TICKS, FULL_RETRY_TICKS_MAX};
use crate::messages::{CoreCall, PeerSnapshot, Receipt, SnapshotOrder};
use crate::pending::Caller;
use crate::report::report;
use crate::status::count;
use raft::{Now, ReadProof};
use std::sync::atomic::Ordering;
use tokio::sync::mpsc::error::TrySendError;

impl CoreLoop {
    pub(super) fn take_receipt(&mut self, now: Now, receipt: Receipt) {
        match receipt {
            Receipt::Durable(done) => {
                let had_no_room = self.state.read_only.take().is_some();
                self.state.full_retry_ticks = FULL_RETRY_TICKS;
                if had_no_room {
                    self.state.published = None;
                }
                self.node.persisted(now, done);
                self.state.cleaning.moved();
                self.clean();
                if had_no_room {
                    report(|| tracing::info!("there is room for the log again"));
                }
            }
            Receipt::StoreFull { write, reason } => {
                count(&self.shared.metrics.store_full);
                let before = self.state.read_only.replace(reason.clone());
                let pause = self.state.full_retry_ticks;
                self.state.full = Some((write, pause));
                self.state.full_retry_ticks = (pause * 2).min(FULL_RETRY_TICKS_MAX);
                self.state.published = None;
                if before.is_none() {
                    report(|| {
                        tracing::error!(%reason, "no room for the log: read-only until there is");
                    });
                }
            }
            Receipt::StoreFailed(reason) => self.shared.stop(reason),
            Receipt::Applied(done) => {
                // The machine task may have restored a snapshot.
                self.know_snapshot_size();
                self.node.applied(now, done);
                self.state.cleaning.restored();
                self.clean();
            }
            Receipt::Snapshot(done) => {
                self.know_snapshot_size();
                self.node.compact(now, done);
            }
        }
    }

    fn know_snapshot_size(&mut self) {
        self.node.set_snapshot_bytes(self.shared.snapshot_bytes.load(Ordering::Relaxed));
    }

    fn clean(&mut self) {
        if let Some((base, kept)) = self.state.cleaning.take(self.node.offered_snapshots())
            && let Err(TrySendError::Full(_)) =
                self.snapshot_orders.try_send(SnapshotOrder::Clean { base, kept })
        {
            self.state.cleaning.put_off(base);
        }
    }

    /// Removes what was left of a snapshot that this node has not needed after all.
    fn discard_reception(&self) {
        let Ok(room) = self.snapshot_orders.try_reserve() else { return };
        if let Some(part) = self.inbox_receiver.receptions.unneeded(self.node.commit()) {
            room.send(SnapshotOrder::Discard(part));
        }
    }

    pub(super) fn take_reports(&mut self) {
        let reports = self.inbox_receiver.reports.take();
        for peer in reports.unreachable {
            count(&self.shared.metrics.peers_unreachable);
            self.node.unreachable(peer);
        }
        for peer in reports.gone {
            self.node.gone(peer);
        }
        for ((to, snapshot), status) in reports.snapshots_sent {
            self.node.snapshot_sent(to, snapshot, status);
        }
        for snapshot in reports.unreadable {
            self.node.snapshot_unreadable(snapshot);
        }
    }

    pub(super) fn take_offer(&mut self, now: Now, event: PeerSnapshot) {
        match event {
            PeerSnapshot::Offered { offer, reply } => {
                let order = self.node.accept(*offer).map(Box::new);
                // The transport may have given the transfer up.
                let _ = reply.send(order);
            }
            PeerSnapshot::Received(done) => {
                count(&self.shared.metrics.snapshots_received);
                self.state.cleaning.received(done.snapshot().last);
                self.node.install(now, *done);
            }
        }
    }

    pub(super) fn take_call(&mut self, now: Now, call: CoreCall) {
        match call {
            CoreCall::Propose { command, taken, done } => {
                self.shared.calls_bytes.fetch_sub(command.len(), Ordering::Relaxed);
                let proposed = self.propose(now, command.into());
                match &proposed {
                    Ok(proposed) => {
                        count(&self.shared.metrics.proposals);
                        self.state.pending.push(proposed.id, Caller::Propose(done));
                    }
                    Err(_) => count(&self.shared.metrics.proposals_refused),
                }
                let _ = taken.send(proposed);
            }
            CoreCall::Execute { request, done } => {
                self.shared.calls_bytes.fetch_sub(request.len(), Ordering::Relaxed);
                self.execute(now, request, done);
            }
            CoreCall::Read { proof, read } => self.state.reads.add(proof, read),
            CoreCall::Campaign => self.node.campaign(now),
            CoreCall::Transfer { to, begun } => {
                let taken = self.node.transfer(now, to);
                // The caller learns the outcome from the status, so it has to show the transfer.
                self.publish();
                let _ = begun.send(taken);
            }
            CoreCall::SetMembers { change, begun } => {
                self.state.preflight.add(
                    &mut self.node,
                    now,
                    self.election_timeout,
                    *change,
                    begun,
                );
            }
        }
    }

    pub(super) fn after_tick(&mut self, now: Now) {
        self.clean();
        self.discard_reception();
        self.confirm_readiness(now);
        self.state.pending.forget_abandoned();
        self.state.forwarded.retain(|_, done| !done.is_closed());
        // As the status says that handles look at.
        match self.shared.status.load().falls_behind() {
            true => self.state.reads.give_up(),
            false => self.state.reads.retry(),
        }
        if let Some((write, ticks)) = self.state.full.take() {
            if ticks > 0 {
                self.state.full = Some((write, ticks - 1));
            } else {
                let write = self.node.renew_write(*write);
                self.persist(write);
            }
        }
        if let Some(ticks) = &mut self.state.shutdown_ticks {
            *ticks = ticks.saturating_sub(1);
        }
    }

    /// After the start, reads the commit index until a quorum has confirmed it.
    fn confirm_readiness(&mut self, now: Now) {
        if self.state.readiness.wants_confirmation()
            && let Ok(read) = self.node.read(now, ReadProof::Linearizable)
        {
            self.state.readiness.asked(read);
        }
    }

    /// Requests one read of the core for all reads of this turn with one kind of proof. The clock
    /// was read after they arrived: a lease that holds then confirms them.
    pub(super) fn ask_reads(&mut self, now: Now) {
        while let Some(batch) = self.state.reads.next(now) {
            count(&self.shared.metrics.read_rounds);
            match self.node.read(now, batch.proof) {
                Ok(id) => self.state.reads.asked(id, batch),
                Err(_) => self.state.reads.refused(batch.reads),
            }
        }
    }
}
