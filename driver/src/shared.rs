//! What the parts of a node share: the published status, the counters, and the end of it all.

use crate::{DriverStatus, Metrics, StopReason};
use arc_swap::ArcSwap;
use std::any::Any;
use std::future::Future;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize};
use std::task::{Context, Poll};
use tokio::sync::{Notify, watch};

pub(crate) struct Shared {
    pub status: ArcSwap<DriverStatus>,
    pub metrics: Arc<Metrics>,
    /// Reads that have not been answered.
    pub reads_waiting: AtomicUsize,
    /// The state machine's state is at least as new as the log was at this time (monotonic, in
    /// nanoseconds); 0 as long as nothing is known.
    pub fresh_at_ns: AtomicU64,
    shutdown_notify: Notify,
    stop: watch::Sender<Option<StopReason>>,
    parts_alive: watch::Sender<usize>,
}

impl Shared {
    pub fn new(status: DriverStatus) -> Arc<Self> {
        Arc::new(Shared {
            status: ArcSwap::from_pointee(status),
            metrics: Arc::default(),
            reads_waiting: AtomicUsize::new(0),
            fresh_at_ns: AtomicU64::new(0),
            shutdown_notify: Notify::new(),
            stop: watch::Sender::new(None),
            parts_alive: watch::Sender::new(0),
        })
    }

    /// Asks the core loop to finish.
    pub fn ask_shutdown(&self) {
        self.shutdown_notify.notify_one();
    }

    pub async fn shutdown_asked(&self) {
        self.shutdown_notify.notified().await;
    }

    /// Stops the node. The first reason stands.
    pub fn stop(&self, reason: StopReason) {
        let first = self.stop.send_if_modified(|stop| {
            let first = stop.is_none();
            if first {
                *stop = Some(reason.clone());
            }
            first
        });
        if !first {
            return;
        }
        match &reason {
            StopReason::Shutdown => tracing::info!("the node has shut down"),
            reason => tracing::error!(%reason, "the node stops"),
        }
        let status = DriverStatus { stopped: Some(reason), ..(**self.status.load()).clone() };
        self.status.store(Arc::new(status));
    }

    /// Publishes a status, unless the node has stopped meanwhile.
    pub fn publish(&self, status: DriverStatus) {
        let stop = self.stop.borrow();
        let status = DriverStatus { stopped: stop.clone(), ..status };
        self.status.store(Arc::new(status));
    }

    /// Waits until the node stops.
    pub async fn stopped(&self) -> StopReason {
        let mut stop = self.stop.subscribe();
        let reason = stop.wait_for(Option::is_some).await;
        // The sender is in `self`, so it is not gone.
        reason.ok().and_then(|reason| reason.clone()).unwrap_or(StopReason::Shutdown)
    }

    /// Waits until all parts have ended.
    pub async fn ended(&self) {
        let mut alive = self.parts_alive.subscribe();
        let _ = alive.wait_for(|alive| *alive == 0).await;
    }

    /// Counts a part as running, until the guard is dropped.
    pub fn part(self: &Arc<Self>, part: &'static str) -> PartGuard {
        self.parts_alive.send_modify(|alive| *alive += 1);
        PartGuard { part, shared: self.clone() }
    }
}

/// Lives as long as its part. A part that is dropped before the node has stopped stops it: no caller
/// may wait for a part that is gone.
pub(crate) struct PartGuard {
    part: &'static str,
    shared: Arc<Shared>,
}

impl Drop for PartGuard {
    fn drop(&mut self) {
        self.shared.stop(StopReason::Dropped { part: self.part });
        self.shared.parts_alive.send_modify(|alive| *alive -= 1);
    }
}

/// Runs a part; a panic in it stops the node instead of leaving the others waiting.
pub(crate) struct Supervised<F> {
    part: Option<Pin<Box<F>>>,
    guard: Option<PartGuard>,
}

impl<F: Future<Output = ()>> Supervised<F> {
    pub fn new(part: F, guard: PartGuard) -> Self {
        Supervised { part: Some(Box::pin(part)), guard: Some(guard) }
    }
}

impl<F: Future<Output = ()>> Future for Supervised<F> {
    type Output = ();

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<()> {
        let Some(part) = &mut self.part else { return Poll::Ready(()) };
        let polled = catch_unwind(AssertUnwindSafe(|| part.as_mut().poll(context)));
        if let (Err(panic), Some(guard)) = (&polled, &self.guard) {
            let message = panic_message(panic.as_ref());
            guard.shared.stop(StopReason::Panic { part: guard.part, message });
        }
        if matches!(polled, Ok(Poll::Pending)) {
            return Poll::Pending;
        }
        // The part's channels close before it counts as ended.
        self.part = None;
        self.guard = None;
        Poll::Ready(())
    }
}

/// What a panic said.
pub(crate) fn panic_message(panic: &(dyn Any + Send)) -> Arc<str> {
    if let Some(message) = panic.downcast_ref::<&str>() {
        Arc::from(*message)
    } else if let Some(message) = panic.downcast_ref::<String>() {
        Arc::from(message.as_str())
    } else {
        Arc::from("(no message)")
    }
}
