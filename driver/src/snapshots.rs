//! Snapshots: the seam to their store, and the part that writes them out.
//!
//! The state machine is frozen in the machine task, in order with the commands; writing the frozen
//! state out takes long and happens here, on a thread of its own in production.

use crate::core_loop::Receipt;
use crate::inbox::Reports;
use crate::report::report;
use crate::shared::{PartGuard, Shared, panic_message};
use crate::status::count;
use crate::{Frozen, Sleep, StopReason};
use raft::{LogId, Snapshot, SnapshotDurable, TakeSnapshot};
use std::io::{self, BufWriter, Read, Write};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use storage::Disk;
use tokio::sync::mpsc;

/// A frozen state is written in pieces of at least so many bytes.
const WRITE_BUFFER_BYTES: usize = 64 << 10;

/// Keeps snapshots. `storage::Snapshots` is one.
pub trait SnapshotStore: Send + Sync + 'static {
    /// Begins a snapshot. Blocks.
    fn create(&self, snapshot: &Snapshot) -> io::Result<Box<dyn SnapshotSink>>;
    /// Opens a snapshot: its verified state. Where the snapshot is not there, the error's kind is
    /// `NotFound`; where it is damaged, `InvalidData`, here or from a later read. Blocks.
    fn open(&self, id: LogId) -> io::Result<Box<dyn Read + Send>>;
    /// Removes what is of no use once the durable log begins after `base`: all but that and those of a
    /// higher index. One that is finished meanwhile must stay. Blocks.
    fn remove_before(&self, base: LogId) -> io::Result<()>;
}

/// Takes the state of a snapshot. Dropped unfinished, it leaves nothing.
pub trait SnapshotSink: Write + Send {
    /// Makes it durable: it survives a power failure once this returns.
    fn finish(self: Box<Self>) -> io::Result<()>;
}

impl<D: Disk + Sync> SnapshotStore for storage::Snapshots<D> {
    fn create(&self, snapshot: &Snapshot) -> io::Result<Box<dyn SnapshotSink>> {
        Ok(Box::new(storage::Snapshots::create(self, snapshot)?))
    }

    fn open(&self, id: LogId) -> io::Result<Box<dyn Read + Send>> {
        let reader = storage::Snapshots::open(self, id)?;
        Ok(Box::new(reader))
    }

    fn remove_before(&self, base: LogId) -> io::Result<()> {
        storage::Snapshots::remove_before(self, base)
    }
}

impl<D: Disk> SnapshotSink for storage::SnapshotWriter<D> {
    fn finish(self: Box<Self>) -> io::Result<()> {
        storage::SnapshotWriter::finish(*self)
    }
}

/// What the part that writes snapshots is to do.
pub(crate) enum Job<F> {
    /// Write this state out.
    Write { order: TakeSnapshot, frozen: F },
    /// The durable log begins after `base`: what is older is of no use.
    Clean { base: LogId },
}

/// The end of the channel at which snapshots are written. Production gives it a thread
/// ([`SnapshotPort::run_blocking`]); a simulation runs it inline ([`SnapshotPort::run`]).
pub struct SnapshotPort<F> {
    jobs: mpsc::Receiver<Job<F>>,
    writer: Writer,
}

struct Writer {
    store: Arc<dyn SnapshotStore>,
    receipts: mpsc::Sender<Receipt>,
    shared: Arc<Shared>,
    _guard: PartGuard,
}

impl<F: Frozen> SnapshotPort<F> {
    pub(crate) fn new(
        jobs: mpsc::Receiver<Job<F>>,
        store: Arc<dyn SnapshotStore>,
        receipts: mpsc::Sender<Receipt>,
        shared: Arc<Shared>,
    ) -> Self {
        let guard = shared.part("snapshot writer");
        SnapshotPort { jobs, writer: Writer { store, receipts, shared, _guard: guard } }
    }

    /// Works until the node ends. Blocks: to be called on a thread of its own.
    pub fn run_blocking(mut self) {
        while let Some(job) = self.jobs.blocking_recv() {
            if let Some(receipt) = self.writer.work(job) {
                let _ = self.writer.receipts.blocking_send(Receipt::Snapshot(receipt));
            }
        }
    }

    /// Works until the node ends, blocking the task that it runs in: for a simulation. Each job takes
    /// as long as `pause` says.
    pub async fn run(mut self, mut pause: impl FnMut() -> Sleep) {
        while let Some(job) = self.jobs.recv().await {
            pause().await;
            if let Some(receipt) = self.writer.work(job) {
                let _ = self.writer.receipts.send(Receipt::Snapshot(receipt)).await;
            }
        }
    }
}

impl Writer {
    fn work<F: Frozen>(&self, job: Job<F>) -> Option<SnapshotDurable> {
        match job {
            Job::Write { order, frozen } => Some(self.write(order, &frozen)),
            Job::Clean { base } => {
                if let Err(error) = self.store.remove_before(base) {
                    report(|| tracing::warn!(%error, "old snapshots cannot be removed"));
                }
                None
            }
        }
    }

    fn write(&self, order: TakeSnapshot, frozen: &impl Frozen) -> SnapshotDurable {
        let written = catch_unwind(AssertUnwindSafe(|| {
            let mut sink = self.store.create(&order.snapshot)?;
            let mut buffered = BufWriter::with_capacity(WRITE_BUFFER_BYTES, &mut sink);
            frozen.write(&mut buffered)?;
            buffered.flush()?;
            drop(buffered);
            sink.finish()
        }));
        match written {
            Ok(Ok(())) => {
                count(&self.shared.metrics.snapshots_taken);
                report(|| tracing::info!(last = %order.snapshot.last, "took a snapshot"));
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

/// Opens a snapshot when it is first read, so that the core loop, which hands it out, waits for no
/// disk.
pub(crate) struct OpenedLater {
    pub store: Arc<dyn SnapshotStore>,
    pub id: LogId,
    pub reader: Option<Box<dyn Read + Send>>,
    /// Where to report that the snapshot cannot be read.
    pub reports: Arc<Reports>,
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
