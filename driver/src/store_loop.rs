//! The part that makes writes durable: the connection between the core loop and a blocking store.

use crate::StopReason;
use crate::messages::Receipt;
use crate::shared::{PartGuard, Shared, panic_message};
use crate::status::{add, count};
use raft::{Entry, Write};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use storage::{LogStore, PersistError};
use tokio::sync::mpsc;

/// The receiving end of the writes. Production runs it on a thread ([`StorePort::run_blocking`]); a
/// simulation runs it inline ([`StorePort::run`]). A simulation may also take a write with
/// [`StorePort::next`], let time pass, and pass it to [`StorePort::persist`].
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

    /// Persists writes until the node ends or the store fails, then returns the store to be closed.
    /// Blocks: call it on a thread of its own.
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

    /// Persists writes until the node ends or the store fails. Blocks the task that it runs in: for
    /// a simulation, or a store in memory.
    pub async fn run<L: LogStore>(mut self, mut store: L) -> L {
        while let Some(write) = self.next().await {
            if !self.persist(&mut store, write).await {
                break;
            }
        }
        store
    }

    /// The next write; `None` once the node has ended.
    pub async fn next(&mut self) -> Option<Write> {
        self.writes.recv().await
    }

    /// Persists a write and reports the result. Returns false if the node has ended or the store
    /// has failed.
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
        // Stops the node now, before the core loop takes the receipt: callers should not wait.
        self.shared.stop(reason.clone());
        Receipt::StoreFailed(reason)
    }
}
