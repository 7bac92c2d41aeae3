//! Work orders and their receipts: writes of the log, applies, and snapshots that are taken,
//! received and restored.
//!
//! At most one write, one apply or restore, and one snapshot are out at a time. A receipt counts
//! only if it is for an order of this start that is out.

use super::Core;
use crate::digest::Hashes;
use crate::work::Ticket;
use crate::{
    Action, Applied, Apply, Config, Durable, Index, LogId, LogStart, ReceiveSnapshot, Restore,
    Snapshot, SnapshotDurable, SnapshotOffer, SnapshotReceived, StateHash, TakeSnapshot, Write,
};

/// The most entries removed from memory in one tick.
const TRIM_ENTRIES: usize = 4096;

impl Core {
    pub(super) fn ticket(&mut self) -> Ticket {
        self.orders += 1;
        Ticket { node: self.config.id, start_nonce: self.config.start_nonce, number: self.orders }
    }

    /// Whether a receipt is for the pending order. Others are counted as stale.
    fn is_due(&mut self, ticket: Ticket, out: Option<u64>) -> bool {
        let due = ticket.node == self.config.id
            && ticket.start_nonce == self.config.start_nonce
            && out == Some(ticket.number);
        if !due {
            self.counters.stale_receipts += 1;
        }
        due
    }

    #[cfg(feature = "clone-work")]
    pub fn has_write_out(&self) -> bool {
        self.write_out.is_some()
    }

    /// The next write, if there is anything to write and no write is pending.
    pub fn next_write(&mut self) -> Option<Write> {
        if self.write_out.is_some() {
            return None;
        }
        let written = !self.log.has_unwritten() && self.hard == self.durable;
        if written && self.log_start.is_none() {
            return None;
        }
        let ticket = self.ticket();
        let entries = self.log.fill_write(self.config.write_bytes_max);
        self.write_out = Some((ticket.number, self.hard));
        self.write_ticks = 0;
        self.snapshots.wrote();
        Some(Write { ticket, hard_state: self.hard, log_start: self.log_start.take(), entries })
    }

    /// The write to attempt in place of a pending one for which the disk had no room.
    pub fn renew_write(&mut self, write: Write) -> Write {
        let is_pending = write.ticket.start_nonce == self.config.start_nonce
            && self.write_out.is_some_and(|(number, _)| number == write.ticket.number);
        if !is_pending {
            return write;
        }
        self.snapshots.no_room(&self.config);
        self.log.take_back();
        // Without entries it takes one block, for which there may be room: a vote is due, or a
        // start of the log that frees room for the entries.
        let is_urgent =
            self.hard != self.durable || self.log_start.is_some() || write.log_start.is_some();
        let entries = match is_urgent {
            true => self.log.fill_nothing(),
            false => self.log.fill_write(self.config.write_bytes_max),
        };
        // The pending time goes on: the disk has stored nothing since.
        self.write_out = Some((write.ticket.number, self.hard));
        let log_start = self.log_start.take().or(write.log_start);
        Write { ticket: write.ticket, hard_state: self.hard, log_start, entries }
    }

    /// The order to receive the snapshot of an offer.
    pub fn receive_snapshot(&mut self, offer: SnapshotOffer) -> ReceiveSnapshot {
        ReceiveSnapshot { ticket: self.ticket(), offer }
    }

    /// Whether the receipt is for an order of this start. There is one receipt for each order, and
    /// several orders may be out, so the number does not matter.
    pub fn is_received(&mut self, done: &SnapshotReceived) -> bool {
        self.is_due(done.ticket, Some(done.ticket.number))
    }

    /// A write is durable. Returns whether it was the pending one.
    pub fn persisted(&mut self, done: Durable) -> bool {
        if !self.is_due(done.ticket, self.write_out.map(|(number, _)| number)) {
            return false;
        }
        let Some((_, hard)) = self.write_out.take() else { return false };
        self.durable = hard;
        self.log.written();
        if self.hard.lost.is_some_and(|lost| self.log.durable_last() >= lost) {
            self.hard.lost = None;
        }
        true
    }

    /// The next order for the state machine, if one is due and none is pending.
    pub fn next_machine_order(&mut self) -> Option<Action> {
        if self.apply_out.is_some() || self.diverged {
            return None;
        }
        if let Some(snapshot) = &self.restore {
            // The log on disk must begin after the snapshot before the state machine's state does.
            if self.log.durable() < snapshot.last.index {
                return None;
            }
            let snapshot = self.restore.take()?;
            let ticket = self.ticket();
            self.apply_out = Some(ticket.number);
            return Some(Action::Restore(Restore { ticket, snapshot }));
        }
        let place = self.snapshots.place(&self.config, self.applied);
        if place.is_some_and(|place| place <= self.applied)
            && let Some(order) = self.snapshot_order()
        {
            return Some(Action::TakeSnapshot(order));
        }
        let mut to = self.commit.min(self.log.durable());
        if let Some(place) = place.filter(|place| *place > self.applied) {
            to = to.min(place);
        }
        if self.applied >= to {
            return None;
        }
        let bytes_max = self.config.apply_bytes_max;
        let (entries, bytes) = self.log.share(self.applied.next(), to, bytes_max);
        let last = entries.last().map_or(self.applied, |entry| entry.id.index);
        self.snapshots.applied(self.applied, last, bytes);
        let ticket = self.ticket();
        self.apply_out = Some(ticket.number);
        Some(Action::Apply(Apply { ticket, entries }))
    }

    fn snapshot_order(&mut self) -> Option<TakeSnapshot> {
        self.snapshots.begins(self.applied);
        let base = self.log.base();
        if self.applied == base.last.index && self.snapshots.is_base_unreadable() {
            // Take the same snapshot again: it replaces the unreadable one.
            let snapshot = base.clone();
            let ticket = self.ticket();
            self.snapshots.ordered(ticket.number);
            return Some(TakeSnapshot { ticket, snapshot });
        }
        if self.applied <= base.last.index {
            return None;
        }
        let entry = self.log.entry(self.applied)?;
        let (membership_index, membership) = self.log.membership_at(self.applied);
        let snapshot = Snapshot {
            last: entry.id,
            time: entry.time,
            number: entry.number_after(),
            membership: Box::new(membership.clone()),
            membership_index,
            hash: self.hashes.at(self.applied),
        };
        let ticket = self.ticket();
        self.snapshots.ordered(ticket.number);
        Some(TakeSnapshot { ticket, snapshot })
    }

    /// The state machine has applied a batch or restored a snapshot.
    pub fn applied(&mut self, done: Applied) {
        if !self.is_due(done.ticket, self.apply_out) {
            return;
        }
        self.apply_out = None;
        self.applied = self.applied.max(done.to);
        if done.to == self.log.base().last.index && done.hashes.is_empty() {
            self.hashes = Hashes::starting(done.to, self.log.base().hash);
        } else {
            self.hashes.applied(done.to, &done.hashes);
        }
        while self.reads.first().is_some_and(|(index, _)| *index <= self.applied) {
            if let Some((_, read)) = self.reads.pop_first() {
                self.answers.push_back(Action::Serve(read));
            }
        }
    }

    /// A snapshot of the state machine is durable, or could not be written.
    pub fn compact(&mut self, done: SnapshotDurable) {
        if !self.is_due(done.ticket, self.snapshots.out()) {
            return;
        }
        let Some(snapshot) = done.snapshot else { return self.snapshots.failed(&self.config) };
        self.snapshots.done();
        if snapshot.last == self.log.base().last {
            self.snapshots.base_is_readable();
        }
        // A snapshot from the leader may have replaced the log meanwhile.
        if snapshot.last.index > self.log.base().last.index && self.log.contains(snapshot.last) {
            self.log.compact(snapshot.clone());
            self.log_start = Some(LogStart::Compact(snapshot));
            self.snapshots.base_is_readable();
        }
    }

    /// This node's state is wrong, and its log and snapshots may be wrong too. It resets its log
    /// and records the loss in the hard state. Its peers repair it after a restart.
    pub fn diverge(&mut self, state: StateHash) {
        // The state has been restored since the report: the verdict does not apply to it.
        if self.diverged || self.hashes.at(state.index) != Some(state.hash) {
            return;
        }
        self.diverged = true;
        self.hard.lost = self.hard.lost.max(Some(self.log.last()));
        let initial = Snapshot::initial(self.log.membership().clone());
        self.log.reset(initial.clone());
        (self.commit, self.applied) = (Index(0), Index(0));
        self.log_start = Some(LogStart::Reset(initial));
        (self.apply_out, self.restore) = (None, None);
        self.snapshots.forget_order();
        self.outbox.forget_held();
        for (_, read) in std::mem::take(&mut self.reads) {
            self.answers.push_back(Action::Refuse(read));
        }
    }

    pub fn is_diverged(&self) -> bool {
        self.diverged
    }

    /// Whether this node's state was found to be wrong, and its disk records that. The hard state
    /// alone does not tell: an earlier loss may have set it already.
    pub fn has_given_up(&self) -> bool {
        self.diverged
            && self.log_start.is_none()
            && self.write_out.is_none()
            && self.durable == self.hard
    }

    /// Removes entries that a snapshot covers from memory, a limited number per call.
    pub fn trim(&mut self, needed_after: Option<Index>) {
        let Config { retained_bytes, catch_up_bytes_max, .. } = self.config;
        self.log.trim(retained_bytes, needed_after, catch_up_bytes_max, TRIM_ENTRIES);
    }

    /// Records that the snapshot that the log begins after is unreadable, and makes another one
    /// due.
    pub fn base_unreadable(&mut self, snapshot: LogId) {
        if snapshot == self.log.base().last && snapshot != LogId::ZERO {
            self.snapshots.base_is_unreadable();
        }
    }

    /// Replaces the log by a leader's snapshot, which is durable.
    pub fn replace_log(&mut self, snapshot: Snapshot) {
        self.commit = snapshot.last.index;
        self.log.reset(snapshot.clone());
        self.snapshots.begins(snapshot.last.index);
        self.snapshots.base_is_readable();
        self.log_start = Some(LogStart::Reset(snapshot.clone()));
        self.restore = Some(snapshot);
    }
}
