//! Moves long computations off the threads that serve other requests.

use super::App;
use std::future::Future;
use std::pin::Pin;
use std::task::Poll;
use tokio::sync::oneshot;

/// Work on fewer bytes than this is done in place: moving it to another thread would take as long.
const HEAVY_BYTES: usize = 64 << 10;

/// Runs long computations on other threads.
pub trait Offload: Send + Sync + 'static {
    /// Runs `work`. The future is ready when the work has ended or panicked.
    fn run(&self, work: Box<dyn FnOnce() + Send>) -> Pin<Box<dyn Future<Output = ()> + Send>>;
}

impl App {
    /// Does work on `bytes` bytes: on another thread if they are many. `None`: it panicked.
    pub(super) async fn offload<T: Send + 'static>(
        &self,
        bytes: usize,
        work: impl FnOnce() -> T + Send + 'static,
    ) -> Option<T> {
        let Some(offload) = self.offload.as_ref().filter(|_| bytes >= HEAVY_BYTES) else {
            return Some(work());
        };
        let (tell, result) = oneshot::channel();
        let work = move || {
            // The receiver is gone if the request was cancelled.
            let _ = tell.send(work());
        };
        offload.run(Box::new(work)).await;
        result.await.ok()
    }
}

/// Yields to other tasks once.
pub async fn yield_now() {
    let mut yielded = false;
    std::future::poll_fn(|context| match std::mem::replace(&mut yielded, true) {
        true => Poll::Ready(()),
        false => {
            context.waker().wake_by_ref();
            Poll::Pending
        }
    })
    .await;
}
