//! Where writes become durable: the seam between the core loop and a blocking store.

use crate::StopReason;
use crate::core_loop::Receipt;
use crate::shared::{PartGuard, Shared, panic_message};
use crate::status::{add, count};
use raft::{Entry, Write};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use storage::{LogStore, PersistError};
use tokio::sync::mpsc;

/// The end of the channel at which writes are made durable. Production gives it a thread
/// ([`StorePort::run_blocking`]); a simulation runs it inline ([`StorePort::run`]), or takes writes
/// with [`StorePort::next`] and lets time pass before it hands them to [`StorePort::persist`].
pub struct StorePort {
    writes: mpsc::Receiver<Write>,
    receipts: mpsc::Sender<Receipt>,
    shared: Arc<Shared>,
    _guard: PartGuard,
}

impl StorePort {
    pub(crate) fn new(
        writes: mpsc::Receiver<Write>,
        receipts: mpsc::Sender<Receipt>,
        shared: Arc<Shared>,
    ) -> Self {
        let guard = shared.part("store");
        StorePort { writes, receipts, shared, _guard: guard }
    }

    /// Persists until the node ends or the store has failed, and gives the store back to be closed.
    /// Blocks: to be called on a thread of its own.
    pub fn run_blocking<L: LogStore>(mut self, mut store: L) -> L {
        while let Some(write) = self.writes.blocking_recv() {
            let receipt = self.attempt(&mut store, write);
            let failed = matches!(receipt, Receipt::StoreFailed(_));
            if self.receipts.blocking_send(receipt).is_err() || failed {
                break;
            }
        }
        store
    }

    /// Persists until the node ends or the store has failed, blocking the task that it runs in: for a
    /// simulation.
    pub async fn run<L: LogStore>(mut self, mut store: L) -> L {
        while let Some(write) = self.next().await {
            if !self.persist(&mut store, write).await {
                break;
            }
        }
        store
    }

    /// The next write; `None` once the node ends.
    pub async fn next(&mut self) -> Option<Write> {
        self.writes.recv().await
    }

    /// Persists a write and reports it. False: the node has ended, or the store has failed.
    pub async fn persist<L: LogStore>(&self, store: &mut L, write: Write) -> bool {
        let receipt = self.attempt(store, write);
        let failed = matches!(receipt, Receipt::StoreFailed(_));
        self.receipts.send(receipt).await.is_ok() && !failed
    }

    fn attempt<L: LogStore>(&self, store: &mut L, write: Write) -> Receipt {
        let entries = write.entries.len();
        let bytes = write.entries.iter().map(Entry::cost_bytes).sum();
        match catch_unwind(AssertUnwindSafe(|| store.persist(write))) {
            Ok(Ok(durable)) => {
                let metrics = &self.shared.metrics;
                count(&metrics.persists);
                add(&metrics.persisted_entries, entries);
                add(&metrics.persisted_bytes, bytes);
                Receipt::Durable(durable)
            }
            Ok(Err(PersistError::Full { write, source })) => {
                Receipt::StoreFull { write, reason: source.to_string().into() }
            }
            Ok(Err(error)) => self.failed(StopReason::Store(error.to_string().into())),
            Err(panic) => {
                let message = panic_message(panic.as_ref());
                self.failed(StopReason::Panic { part: "store", message })
            }
        }
    }

    fn failed(&self, reason: StopReason) -> Receipt {
        // At once, not when the core loop comes to it: callers should not wait.
        self.shared.stop(reason.clone());
        Receipt::StoreFailed(reason)
    }
}
