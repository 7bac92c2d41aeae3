//! The part that writes snapshots, and reads of those that are sent.
//!
//! The machine task freezes the state, in order with the commands. Writing the frozen state takes
//! long, so it happens here, on a thread of its own in production.

use crate::messages::{PeerReports, Receipt, SnapshotOrder};
use crate::paced::Paced;
use crate::report::report;
use crate::shared::{PartGuard, Shared, panic_message};
use crate::snapshot_store::SnapshotStore;
use crate::status::count;
use crate::{Frozen, Sleep, StopReason};
use raft::{LogId, SnapshotDurable, TakeSnapshot};
use std::io::{self, Read, Write};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use tokio::sync::mpsc;

/// The receiving end of the orders to write snapshots. Production runs it on a thread
/// ([`SnapshotPort::run_blocking`]); a simulation and [`spawn_tasks`](crate::spawn_tasks) run it
/// inline ([`SnapshotPort::run`]).
pub struct SnapshotPort {
    orders: mpsc::Receiver<SnapshotOrder>,
    writer: Writer,
}

struct Writer {
    store: Arc<dyn SnapshotStore>,
    receipts: mpsc::Sender<Receipt>,
    shared: Arc<Shared>,
    /// Whether it rests while it writes a snapshot.
    rests: bool,
    _guard: PartGuard,
}

impl SnapshotPort {
    pub(crate) fn new(
        orders: mpsc::Receiver<SnapshotOrder>,
        store: Arc<dyn SnapshotStore>,
        receipts: mpsc::Sender<Receipt>,
        shared: Arc<Shared>,
    ) -> Self {
        let guard = shared.part("snapshot writer");
        SnapshotPort {
            orders,
            writer: Writer { store, receipts, shared, rests: false, _guard: guard },
        }
    }

    /// Works until the node ends. Blocks: call it on a thread of its own.
    pub fn run_blocking(mut self) {
        self.writer.rests = true;
        while let Some(order) = self.orders.blocking_recv() {
            if let Some(receipt) = self.writer.work(order) {
                let _ = self.writer.receipts.blocking_send(Receipt::Snapshot(receipt));
            }
        }
    }

    /// Works until the node ends, and blocks the task that it runs in: for a simulation, or a store
    /// in memory. It waits for the future from `pause` before each order.
    pub async fn run(mut self, mut pause: impl FnMut() -> Sleep) {
        while let Some(order) = self.orders.recv().await {
            pause().await;
            if let Some(receipt) = self.writer.work(order) {
                let _ = self.writer.receipts.send(Receipt::Snapshot(receipt)).await;
            }
        }
    }
}

impl Writer {
    fn work(&self, order: SnapshotOrder) -> Option<SnapshotDurable> {
        match order {
            SnapshotOrder::Write { order, frozen } => Some(self.write(*order, &frozen)),
            SnapshotOrder::Clean { base, kept } => {
                if let Err(error) = self.store.remove_before(base, &kept) {
                    report(|| tracing::warn!(%error, "old snapshots cannot be removed"));
                }
                None
            }
            SnapshotOrder::Discard(part) => {
                part.discard();
                None
            }
        }
    }

    fn write(&self, order: TakeSnapshot, frozen: &impl Frozen) -> SnapshotDurable {
        let written = catch_unwind(AssertUnwindSafe(|| -> io::Result<u64> {
            let mut sink = self.store.create(&order.snapshot)?;
            // It collects chunks, so small writes cost no system call.
            let mut counted = Counted { inner: &mut sink, bytes: 0, has_failed: false };
            match self.rests {
                true => frozen.write(&mut Paced::new(&mut counted))?,
                false => frozen.write(&mut counted)?,
            }
            let bytes = counted.bytes;
            sink.finish()?;
            Ok(bytes)
        }));
        match written {
            Ok(Ok(bytes)) => {
                self.shared.snapshot_bytes.store(bytes, Ordering::Relaxed);
                count(&self.shared.metrics.snapshots_taken);
                report(|| tracing::info!(last = %order.snapshot.last, bytes, "took a snapshot"));
                return order.durable();
            }
            Ok(Err(error)) => {
                report(|| tracing::error!(%error, "a snapshot cannot be written"));
            }
            Err(panic) => {
                self.shared.stop(StopReason::StateMachine(panic_message(panic.as_ref())));
            }
        }
        count(&self.shared.metrics.snapshots_failed);
        order.failed()
    }
}

/// Counts the bytes that pass through it.
pub(crate) struct Counted<I> {
    pub inner: I,
    pub bytes: u64,
    /// Whether a read or a write of `inner` has failed.
    pub has_failed: bool,
}

impl<W: Write> Write for Counted<W> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let taken = self.inner.write(bytes).inspect_err(|_| self.has_failed = true)?;
        self.bytes += taken as u64;
        Ok(taken)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.inner.flush()
    }
}

impl<R: Read> Read for Counted<R> {
    fn read(&mut self, into: &mut [u8]) -> io::Result<usize> {
        let read = self.inner.read(into).inspect_err(|_| self.has_failed = true)?;
        self.bytes += read as u64;
        Ok(read)
    }
}

/// Opens a snapshot at the first read, so that the core loop, which creates it, does not wait for
/// the disk.
pub(crate) struct OpenedLater {
    pub store: Arc<dyn SnapshotStore>,
    pub id: LogId,
    pub reader: Option<Box<dyn Read + Send>>,
    /// Receives a report if the snapshot is missing or damaged.
    pub reports: Arc<PeerReports>,
}

impl OpenedLater {
    fn try_read(&mut self, into: &mut [u8]) -> io::Result<usize> {
        let reader = match &mut self.reader {
            Some(reader) => reader,
            None => self.reader.insert(self.store.open(self.id)?),
        };
        reader.read(into)
    }
}

impl Read for OpenedLater {
    fn read(&mut self, into: &mut [u8]) -> io::Result<usize> {
        let read = self.try_read(into);
        if read.as_ref().is_err_and(storage::is_damage) {
            self.reports.unreadable(self.id);
        }
        read
    }
}
