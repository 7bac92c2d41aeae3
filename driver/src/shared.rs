//! The state that the parts of a node share: the published status, the counters, and the stop
//! signal.

use crate::report::report;
use crate::session::own::OwnSession;
use crate::{DriverStatus, Limits, Metrics, SessionLimits, StopReason};
use arc_swap::ArcSwap;
use std::any::Any;
use std::future::Future;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::pin::Pin;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, OnceLock};
use std::task::{Context, Poll};
use tokio::sync::Notify;
use tokio::sync::futures::Notified;

pub(crate) struct Shared {
    pub status: ArcSwap<DriverStatus>,
    pub metrics: Arc<Metrics>,
    pub limits: Limits,
    pub session_limits: SessionLimits,
    pub own_session: OwnSession,
    /// The number of open sessions, and their bytes.
    pub sessions: AtomicUsize,
    pub session_bytes: AtomicU64,
    /// The bytes of the commands that wait for the core.
    pub calls_bytes: AtomicUsize,
    /// Reads that have not been answered.
    pub reads_waiting: AtomicUsize,
    /// Callers that wait for a command to be applied.
    pub waiters: AtomicUsize,
    /// The bytes of state in the snapshot that was last written or restored.
    pub snapshot_bytes: AtomicU64,
    /// The state machine's state is at least as new as the log was at this time (monotonic, in
    /// nanoseconds). 0 while that is not known.
    pub fresh_at_ns: AtomicU64,
    /// Notified when what a `Changes` shows has changed, and when the node stops.
    changed_notify: Notify,
    shutdown_notify: Notify,
    /// A caller has stopped waiting, and the queue had no room for `MachineCall::Forget`.
    given_up: Notify,
    /// Why the node has stopped. (A `watch` would wake its waiters in a random order.)
    stop: OnceLock<StopReason>,
    stop_notify: Notify,
    parts_alive: AtomicUsize,
    ended_notify: Notify,
}

impl Shared {
    pub fn new(
        status: DriverStatus,
        limits: Limits,
        session_limits: SessionLimits,
        own_session: OwnSession,
    ) -> Arc<Self> {
        Arc::new(Shared {
            status: ArcSwap::from_pointee(status),
            metrics: Arc::default(),
            limits,
            session_limits,
            own_session,
            sessions: AtomicUsize::new(0),
            session_bytes: AtomicU64::new(0),
            calls_bytes: AtomicUsize::new(0),
            reads_waiting: AtomicUsize::new(0),
            waiters: AtomicUsize::new(0),
            snapshot_bytes: AtomicU64::new(0),
            fresh_at_ns: AtomicU64::new(0),
            changed_notify: Notify::new(),
            shutdown_notify: Notify::new(),
            given_up: Notify::new(),
            stop: OnceLock::new(),
            stop_notify: Notify::new(),
            parts_alive: AtomicUsize::new(0),
            ended_notify: Notify::new(),
        })
    }

    /// Requests the core loop to finish.
    pub fn ask_shutdown(&self) {
        self.shutdown_notify.notify_one();
    }

    pub async fn shutdown_asked(&self) {
        self.shutdown_notify.notified().await;
    }

    /// Makes the machine task remove all abandoned waiters.
    pub fn give_up(&self) {
        self.given_up.notify_one();
    }

    pub async fn given_up(&self) {
        self.given_up.notified().await;
    }

    /// Stops the node. Only the first reason counts.
    pub fn stop(&self, reason: StopReason) {
        if self.stop.set(reason.clone()).is_err() {
            return;
        }
        let stopped = Some(reason.clone());
        let status = DriverStatus { stopped, ..(**self.status.load()).clone() };
        self.status.store(Arc::new(status));
        self.stop_notify.notify_waiters();
        self.changed_notify.notify_waiters();
        // Logged last: waiters must not wait for the log.
        report(|| match &reason {
            StopReason::Shutdown => tracing::info!("the node has shut down"),
            // The program ended it. What was acknowledged is durable.
            reason @ StopReason::Dropped { .. } => tracing::warn!(%reason, "the node stops"),
            reason => tracing::error!(%reason, "the node stops"),
        });
    }

    /// Publishes a status, unless the node has stopped meanwhile.
    pub fn publish(&self, status: DriverStatus) {
        let status = DriverStatus { stopped: self.stop.get().cloned(), ..status };
        let mut changed = !self.status.load().shows_the_same(&status);
        self.status.store(Arc::new(status));
        // The node may have been stopped between the load and the store.
        if let Some(reason) = self.stop.get() {
            let status = (**self.status.load()).clone();
            self.status.store(Arc::new(DriverStatus { stopped: Some(reason.clone()), ..status }));
            // A task that `stop` woke may have seen the status without the reason.
            changed = true;
        }
        if changed {
            self.changed_notify.notify_waiters();
        }
    }

    /// Waits until something that a `Changes` shows has changed after this call, or the node has
    /// stopped.
    pub fn changed(&self) -> Notified<'_> {
        self.changed_notify.notified()
    }

    /// Waits until the node stops.
    pub async fn stopped(&self) -> StopReason {
        loop {
            // Register before the check, or the notification could be missed.
            let notified = self.stop_notify.notified();
            if let Some(reason) = self.stop.get() {
                return reason.clone();
            }
            notified.await;
        }
    }

    /// Waits until all parts have ended.
    pub async fn ended(&self) {
        loop {
            let notified = self.ended_notify.notified();
            if self.parts_alive.load(Ordering::Acquire) == 0 {
                return;
            }
            notified.await;
        }
    }

    /// Counts a part as running until the guard is dropped.
    pub fn part(self: &Arc<Self>, part: &'static str) -> PartGuard {
        self.parts_alive.fetch_add(1, Ordering::AcqRel);
        PartGuard { part, shared: self.clone() }
    }
}

/// Held by a part as long as it runs. Dropping it before the node has stopped stops the node: no
/// caller may wait for a part that is gone.
pub(crate) struct PartGuard {
    part: &'static str,
    shared: Arc<Shared>,
}

impl Drop for PartGuard {
    fn drop(&mut self) {
        self.shared.stop(StopReason::Dropped { part: self.part });
        if self.shared.parts_alive.fetch_sub(1, Ordering::AcqRel) == 1 {
            self.shared.ended_notify.notify_waiters();
        }
    }
}

/// Runs a part. A panic in it stops the node instead of leaving the other parts waiting.
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

/// The message of a panic.
pub(crate) fn panic_message(panic: &(dyn Any + Send)) -> Arc<str> {
    if let Some(message) = panic.downcast_ref::<&str>() {
        Arc::from(*message)
    } else if let Some(message) = panic.downcast_ref::<String>() {
        Arc::from(message.as_str())
    } else {
        Arc::from("(no message)")
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use tracing::span::{Attributes, Id, Record};
    use tracing::{Event, Metadata, Subscriber};

    /// Behaves like tracing's own subscriber when it cannot write to standard error.
    struct Panics;

    impl Subscriber for Panics {
        fn enabled(&self, _: &Metadata<'_>) -> bool {
            true
        }
        fn new_span(&self, _: &Attributes<'_>) -> Id {
            Id::from_u64(1)
        }
        fn record(&self, _: &Id, _: &Record<'_>) {}
        fn record_follows_from(&self, _: &Id, _: &Id) {}
        fn event(&self, _: &Event<'_>) {
            panic!("failed printing to stderr");
        }
        fn enter(&self, _: &Id) {}
        fn exit(&self, _: &Id) {}
    }

    #[test]
    fn a_log_that_cannot_be_written_keeps_no_node_from_stopping() {
        let config = raft::Config::new(raft::NodeId(0), raft::Incarnation(1), 1);
        let restored = raft::Restored::initial(raft::Snapshot::initial(Default::default()));
        let raft = raft::RawNode::new(config, restored).unwrap().status();
        let status = DriverStatus {
            raft,
            read_only: None,
            load: Default::default(),
            sessions: 0,
            session_bytes: 0,
            stopped: None,
            not_ready: None,
            tick: std::time::Duration::from_millis(10),
        };
        let shared = Shared::new(
            status,
            Limits::default(),
            SessionLimits::default(),
            OwnSession::new(1, 1 << 20),
        );
        let reason = StopReason::Store("the disk failed".into());
        tracing::subscriber::with_default(Panics, || shared.stop(reason.clone()));
        assert_eq!(shared.status.load().stopped, Some(reason));
        let mut stopped = std::pin::pin!(shared.stopped());
        let mut context = Context::from_waker(std::task::Waker::noop());
        assert!(stopped.as_mut().poll(&mut context).is_ready());
    }
}
