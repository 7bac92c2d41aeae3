//! Long computations, on threads of low priority.

use crate::api::Offload;
use quorate::threads::change_priority;
use std::cell::Cell;
use std::future::Future;
use std::num::NonZeroUsize;
use std::pin::Pin;
use std::sync::Arc;
use tokio::runtime::Handle;
use tokio::sync::Semaphore;

/// The `nice` value of these threads.
const HEAVY: i32 = 10;

/// Runs long computations on low-priority threads, at most one less than there are processors.
pub(crate) struct Heavy {
    slots: Arc<Semaphore>,
    runtime: Handle,
}

impl Heavy {
    /// Uses the blocking threads of this runtime.
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
            // It has ended or panicked. The caller can distinguish the two.
            let _ = done.await;
        })
    }
}
