//! The task that owns the state machine: it applies, answers reads, freezes and restores.
//!
//! It sends results directly to the waiting callers. A panic of the user's code stops the node; the
//! callers' channels close, so no caller waits for ever.

use crate::erased::ErasedMachine;
use crate::messages::{MachineCall, MachineOrder, Receipt, SnapshotOrder};
use crate::pending::{Undecided, jump, resolve};
use crate::replica::hashed;
use crate::shared::{Shared, panic_message};
use crate::snapshot_store::SnapshotStore;
use crate::snapshots::Counted;
use crate::status::{add, count};
use crate::waiters::Waiters;
use crate::{Inspect, Replica, RestoreError, StopReason};
use raft::{Apply, Snapshot, TakeSnapshot, entry_hash};
use std::collections::VecDeque;
use std::io::{self, BufReader};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use tokio::sync::mpsc;

/// The most calls taken in one turn, before the next order.
const CALLS_PER_TURN: usize = 256;

pub(crate) struct MachineTask {
    pub replica: Replica<ErasedMachine>,
    pub waiters: Waiters,
    /// The snapshot that the state starts with.
    pub base: Snapshot,
    pub store: Arc<dyn SnapshotStore>,
    pub orders: mpsc::Receiver<MachineOrder>,
    pub calls: mpsc::Receiver<MachineCall>,
    pub receipts: mpsc::Sender<Receipt>,
    pub snapshot_orders: mpsc::Sender<SnapshotOrder>,
    pub shared: Arc<Shared>,
    pub inspect: Arc<dyn Inspect>,
}

impl MachineTask {
    pub async fn run(mut self) {
        let base = self.base.clone();
        if !self.guarded(|task| task.restore(&base)) {
            return;
        }
        let mut calls = Vec::with_capacity(CALLS_PER_TURN);
        let shared = self.shared.clone();
        loop {
            tokio::select! {
                biased;
                order = self.orders.recv() => {
                    // The core loop has ended. This task ends too, which drops all waiters.
                    let Some(order) = order else { return };
                    let mut receipt = None;
                    if !self.guarded(|task| {
                        receipt = task.carry_out(order)?;
                        Ok(())
                    }) {
                        return;
                    }
                    if let Some(receipt) = receipt
                        && self.receipts.send(receipt).await.is_err()
                    {
                        return;
                    }
                }
                () = shared.given_up() => self.waiters.forget_abandoned(),
                taken = self.calls.recv_many(&mut calls, CALLS_PER_TURN) => {
                    if taken == 0 {
                        // The core loop holds a sender until it ends.
                        return;
                    }
                    if !self.guarded(|task| {
                        calls.drain(..).for_each(|call| task.answer(call));
                        Ok(())
                    }) {
                        return;
                    }
                }
            }
            self.shared.waiters.store(self.waiters.len(), Ordering::Relaxed);
        }
    }

    /// Runs a function that calls the user's code. Returns false if that has stopped the node.
    fn guarded(&mut self, work: impl FnOnce(&mut Self) -> Result<(), StopReason>) -> bool {
        let reason = match catch_unwind(AssertUnwindSafe(|| work(self))) {
            Ok(Ok(())) => return true,
            Ok(Err(reason)) => reason,
            Err(panic) => StopReason::StateMachine(panic_message(panic.as_ref())),
        };
        self.shared.stop(reason);
        false
    }

    fn carry_out(&mut self, order: MachineOrder) -> Result<Option<Receipt>, StopReason> {
        match order {
            MachineOrder::Apply { apply, decided } => {
                let hashes = self.apply(&apply, decided)?;
                Ok(Some(Receipt::Applied(apply.applied_with(hashes))))
            }
            MachineOrder::Restore { restore, decided } => {
                self.restore(&restore.snapshot)?;
                let told = |id, outcome: &_| self.inspect.decided(id, outcome);
                jump(decided, &restore.snapshot, told);
                Ok(Some(Receipt::Applied(restore.restored())))
            }
            MachineOrder::TakeSnapshot(order) => Ok(self.freeze(order)),
        }
    }

    /// Applies a batch. Returns the hash of each entry with its answer, for comparison between
    /// nodes.
    fn apply(
        &mut self,
        apply: &Apply,
        mut decided: VecDeque<Undecided>,
    ) -> Result<Vec<u64>, StopReason> {
        let mut hashes = Vec::with_capacity(apply.entries.len());
        let answers = self.replica.apply(&apply.entries);
        let answers =
            answers.map_err(|error| StopReason::StateMachine(error.to_string().into()))?;
        for (entry, answer) in apply.entries.iter().zip(answers) {
            self.inspect.applied(entry, &answer, &self.replica);
            hashes.push(entry_hash(entry, &hashed(&answer)));
            let told = |id, outcome: &_| self.inspect.decided(id, outcome);
            resolve(&mut decided, entry, answer, told);
            self.waiters.applied(entry.id.term, entry.number_after());
        }
        add(&self.shared.metrics.applied, apply.entries.len());
        self.publish_sessions();
        Ok(hashes)
    }

    fn publish_sessions(&self) {
        let sessions = self.replica.sessions();
        self.shared.sessions.store(sessions.len(), Ordering::Relaxed);
        self.shared.session_bytes.store(sessions.bytes(), Ordering::Relaxed);
    }

    fn restore(&mut self, snapshot: &Snapshot) -> Result<(), StopReason> {
        // A log that begins at index zero has no snapshot.
        if snapshot.last.index.0 > 0 {
            let unreadable =
                |error: io::Error| StopReason::SnapshotUnreadable(error.to_string().into());
            let state = self.store.open(snapshot.last).map_err(unreadable)?;
            let mut counted = Counted { inner: state, bytes: 0, has_failed: false };
            let mut state = BufReader::new(&mut counted);
            let restored = self.replica.restore(snapshot.time, &mut state);
            restored.map_err(|error| match (counted.has_failed, error) {
                (true, RestoreError::Io(error)) => unreadable(error),
                (_, error) => StopReason::Restore(error.to_string().into()),
            })?;
            self.shared.snapshot_bytes.store(counted.bytes, Ordering::Relaxed);
        } else {
            self.replica.start_at(snapshot.time);
        }
        self.publish_sessions();
        self.inspect.restored(snapshot, &self.replica);
        self.waiters.jumped(snapshot.last.term, snapshot.number);
        Ok(())
    }

    /// Freezes the state and queues it for writing. Returns a receipt only if it cannot be queued.
    fn freeze(&mut self, order: TakeSnapshot) -> Option<Receipt> {
        let (order, frozen) = (Box::new(order), self.replica.freeze());
        match self.snapshot_orders.try_send(SnapshotOrder::Write { order, frozen }) {
            Ok(()) => None,
            Err(
                mpsc::error::TrySendError::Full(SnapshotOrder::Write { order, .. })
                | mpsc::error::TrySendError::Closed(SnapshotOrder::Write { order, .. }),
            ) => {
                count(&self.shared.metrics.snapshots_failed);
                Some(Receipt::Snapshot(order.failed()))
            }
            Err(_) => None,
        }
    }

    fn answer(&mut self, call: MachineCall) {
        match call {
            MachineCall::Read(read) => read.answer(self.replica.machine(), self.replica.time()),
            MachineCall::Reads(reads) => {
                let (machine, time) = (self.replica.machine(), self.replica.time());
                reads.into_iter().for_each(|read| read.answer(machine, time));
            }
            MachineCall::Wait { number, term, reply } => self.waiters.add(number, term, reply),
            MachineCall::Forget(number) => self.waiters.forget(number),
        }
    }
}
