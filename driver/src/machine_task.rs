//! The task that owns the state machine: it applies, answers reads, freezes and restores.
//!
//! It sends results directly to the waiting callers. A panic of the user's code stops the node; the
//! callers' channels close, so no caller waits for ever.

use crate::core_loop::Receipt;
use crate::pending::{Waiting, jump, resolve};
use crate::shared::{Shared, panic_message};
use crate::snapshots::{Job, SnapshotStore};
use crate::status::{add, count};
use crate::waiters::{WaitReply, Waiters};
use crate::{ApplyContext, Inspect, RestoreError, StateMachine, StopReason};
use bytes::Bytes;
use raft::{Apply, CommandNumber, LogTime, Restore, Snapshot, TakeSnapshot, Term, entry_hash};
use std::collections::VecDeque;
use std::io::BufReader;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use tokio::sync::{mpsc, oneshot};

/// Orders of the core that may wait. At most one `Apply` or `Restore` and one `TakeSnapshot` are
/// pending.
pub(crate) const ORDERS_MAX: usize = 4;
/// The most questions taken in one turn, before the next order.
const ASKS_PER_TURN: usize = 256;

/// Orders from the core loop, carried out in the order in which they arrive.
pub(crate) enum Order {
    Apply { apply: Apply, decided: VecDeque<Waiting> },
    Restore { restore: Restore, decided: VecDeque<Waiting> },
    TakeSnapshot(TakeSnapshot),
}

/// Questions about the current state.
pub(crate) enum Ask<S: StateMachine> {
    Read(Question<S>),
    /// Reads that one read of the core has confirmed.
    Reads(Vec<Question<S>>),
    Wait {
        number: CommandNumber,
        term: Option<Term>,
        reply: WaitReply,
    },
    /// A caller has stopped waiting for the command with this number.
    Forget(CommandNumber),
}

/// One read.
pub(crate) enum Question<S: StateMachine> {
    Query { query: Bytes, reply: oneshot::Sender<Bytes> },
    Freeze { reply: oneshot::Sender<S::Frozen> },
}

impl<S: StateMachine> Question<S> {
    /// Whether the caller has stopped waiting.
    pub fn is_abandoned(&self) -> bool {
        match self {
            Question::Query { reply, .. } => reply.is_closed(),
            Question::Freeze { reply } => reply.is_closed(),
        }
    }

    fn answer(self, machine: &S, time: LogTime) {
        match self {
            Question::Query { query, reply } => drop(reply.send(machine.query(time, &query))),
            Question::Freeze { reply } => drop(reply.send(machine.freeze())),
        }
    }
}

pub(crate) struct MachineTask<S: StateMachine, I> {
    pub machine: S,
    /// The log time of the last entry that was applied.
    pub time: LogTime,
    pub waiters: Waiters,
    /// The snapshot that the state starts with.
    pub base: Snapshot,
    pub store: Arc<dyn SnapshotStore>,
    pub orders: mpsc::Receiver<Order>,
    pub asks: mpsc::Receiver<Ask<S>>,
    pub receipts: mpsc::Sender<Receipt>,
    pub jobs: mpsc::Sender<Job<S::Frozen>>,
    pub shared: Arc<Shared>,
    pub inspect: I,
}

impl<S: StateMachine, I: Inspect<S>> MachineTask<S, I> {
    pub async fn run(mut self) {
        let base = self.base.clone();
        if !self.guarded(|task| task.restore(&base)) {
            return;
        }
        let mut asks = Vec::with_capacity(ASKS_PER_TURN);
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
                taken = self.asks.recv_many(&mut asks, ASKS_PER_TURN) => {
                    if taken == 0 {
                        // The core loop holds a sender until it ends.
                        return;
                    }
                    if !self.guarded(|task| {
                        asks.drain(..).for_each(|ask| task.answer(ask));
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
    fn guarded(&mut self, work: impl FnOnce(&mut Self) -> Result<(), RestoreError>) -> bool {
        let reason = match catch_unwind(AssertUnwindSafe(|| work(self))) {
            Ok(Ok(())) => return true,
            Ok(Err(error)) => StopReason::Restore(error.to_string().into()),
            Err(panic) => StopReason::StateMachine(panic_message(panic.as_ref())),
        };
        self.shared.stop(reason);
        false
    }

    fn carry_out(&mut self, order: Order) -> Result<Option<Receipt>, RestoreError> {
        match order {
            Order::Apply { apply, decided } => {
                let hashes = self.apply(&apply, decided);
                Ok(Some(Receipt::Applied(apply.applied_with(hashes))))
            }
            Order::Restore { restore, decided } => {
                self.restore(&restore.snapshot)?;
                let told = |id, outcome: &_| self.inspect.decided(id, outcome);
                jump(decided, &restore.snapshot, told);
                Ok(Some(Receipt::Applied(restore.restored())))
            }
            Order::TakeSnapshot(order) => Ok(self.freeze(order)),
        }
    }

    /// Applies a batch. Returns the hash of each entry with its answer, for comparison between
    /// nodes.
    fn apply(&mut self, apply: &Apply, mut decided: VecDeque<Waiting>) -> Vec<u64> {
        let mut hashes = Vec::with_capacity(apply.entries.len());
        let commands: Vec<(ApplyContext, Bytes)> = apply
            .entries
            .iter()
            .filter_map(|entry| {
                let at = ApplyContext { id: entry.id, time: entry.time, number: entry.number };
                Some((at, entry.payload.command()?.clone()))
            })
            .collect();
        let expected = commands.len();
        let answers = self.machine.apply_batch(commands);
        assert_eq!(answers.len(), expected, "apply_batch returns one answer for each command");
        let mut answers = answers.into_iter();
        for entry in &apply.entries {
            let result = match entry.payload.command() {
                Some(_) => answers.next().unwrap_or_default(),
                None => Bytes::new(),
            };
            self.inspect.applied(entry, &result, &self.machine);
            hashes.push(entry_hash(entry, &result));
            let told = |id, outcome: &_| self.inspect.decided(id, outcome);
            resolve(&mut decided, entry, result, told);
            self.waiters.applied(entry.id.term, entry.number_after());
        }
        self.time = apply.entries.last().map_or(self.time, |entry| entry.time);
        add(&self.shared.metrics.applied, apply.entries.len());
        hashes
    }

    fn restore(&mut self, snapshot: &Snapshot) -> Result<(), RestoreError> {
        // A log that begins at index zero has no snapshot.
        if snapshot.last.index.0 > 0 {
            let state = self.store.open(snapshot.last)?;
            self.machine.restore(&mut BufReader::new(state))?;
        }
        self.time = snapshot.time;
        self.inspect.restored(snapshot, &self.machine);
        self.waiters.jumped(snapshot.last.term, snapshot.number);
        Ok(())
    }

    /// Freezes the state and queues it for writing. Returns a receipt only if it cannot be queued.
    fn freeze(&mut self, order: TakeSnapshot) -> Option<Receipt> {
        let frozen = self.machine.freeze();
        match self.jobs.try_send(Job::Write { order, frozen }) {
            Ok(()) => None,
            Err(
                mpsc::error::TrySendError::Full(Job::Write { order, .. })
                | mpsc::error::TrySendError::Closed(Job::Write { order, .. }),
            ) => {
                count(&self.shared.metrics.snapshots_failed);
                Some(Receipt::Snapshot(order.failed()))
            }
            Err(_) => None,
        }
    }

    fn answer(&mut self, ask: Ask<S>) {
        match ask {
            Ask::Read(question) => question.answer(&self.machine, self.time),
            Ask::Reads(questions) => {
                questions
                    .into_iter()
                    .for_each(|question| question.answer(&self.machine, self.time));
            }
            Ask::Wait { number, term, reply } => self.waiters.add(number, term, reply),
            Ask::Forget(number) => self.waiters.forget(number),
        }
    }
}
