//! Threads that no request of a client can starve.
//!
//! The core loop, the streams of the peers and the answers about a node's health each need a little
//! time, soon. On a runtime that they share with the requests of clients they would wait behind
//! those, and a leader that is late is replaced. So they have runtimes of one thread of their own,
//! and the operating system divides the processors among threads fairly.

use crate::api::Offload;
use std::cell::Cell;
use std::future::Future;
use std::io;
use std::num::NonZeroUsize;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;
use tokio::runtime::{Builder, Handle};
use tokio::sync::{Semaphore, oneshot};

/// How much more urgent the threads of the core are, where that is permitted (`nice`).
const URGENT: i32 = -5;
/// How much less urgent parsing of large requests is.
const HEAVY: i32 = 10;
/// How long blocking work of a runtime may go on after its end.
const BLOCKING_GRACE: Duration = Duration::from_secs(1);

/// A thread with a runtime of its own. Dropped, its tasks end soon.
#[derive(Debug)]
pub(crate) struct OwnThread {
    runtime: Handle,
    /// Only ever dropped, which ends the thread.
    stop: Option<oneshot::Sender<()>>,
    ended: oneshot::Receiver<()>,
}

impl OwnThread {
    /// Starts one. The threads that its tasks start are as urgent as it is.
    pub fn start(name: &'static str, urgent: bool) -> io::Result<Self> {
        let runtime = Builder::new_current_thread().enable_all().thread_name(name).build()?;
        let handle = runtime.handle().clone();
        let (stop, stopped) = oneshot::channel();
        let (end, ended) = oneshot::channel();
        std::thread::Builder::new().name(name.into()).spawn(move || {
            if urgent {
                change_priority(URGENT);
            }
            let _ = runtime.block_on(stopped);
            runtime.shutdown_timeout(BLOCKING_GRACE);
            drop(end);
        })?;
        Ok(OwnThread { runtime: handle, stop: Some(stop), ended })
    }

    /// Where its tasks are spawned.
    pub fn runtime(&self) -> &Handle {
        &self.runtime
    }

    /// Ends it, and returns when its tasks are gone.
    pub async fn stop(mut self) {
        self.stop = None;
        let _ = self.ended.await;
    }
}

/// Changes how urgent this thread is. It is only slower, or the others are, if that is not
/// permitted.
fn change_priority(by: i32) {
    // Elsewhere it would be that of the whole process.
    #[cfg(target_os = "linux")]
    let _ = rustix::process::nice(by);
    #[cfg(not(target_os = "linux"))]
    let _ = by;
}

/// Does what takes long on threads that are less urgent than all others, a few at a time.
pub(crate) struct Heavy {
    slots: Arc<Semaphore>,
    runtime: Handle,
}

impl Heavy {
    /// On the blocking threads of this runtime.
    pub fn new(runtime: Handle) -> Self {
        let processors = std::thread::available_parallelism().map_or(1, NonZeroUsize::get);
        let slots = Arc::new(Semaphore::new((processors - 1).max(1)));
        Heavy { slots, runtime }
    }
}

impl Offload for Heavy {
    fn run(&self, work: Box<dyn FnOnce() + Send>) -> Pin<Box<dyn Future<Output = ()> + Send>> {
        let (slots, runtime) = (self.slots.clone(), self.runtime.clone());
        Box::pin(async move {
            let slot = slots.acquire_owned().await;
            let done = runtime.spawn_blocking(move || {
                thread_local!(static IS_LESS_URGENT: Cell<bool> = const { Cell::new(false) });
                if !IS_LESS_URGENT.replace(true) {
                    change_priority(HEAVY);
                }
                work();
                drop(slot);
            });
            // It has ended, or panicked; the caller finds out which.
            let _ = done.await;
        })
    }
}
