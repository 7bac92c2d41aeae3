//! Work that takes long, away from where other requests wait.

use super::App;
use std::future::Future;
use std::pin::Pin;
use std::task::Poll;
use tokio::sync::oneshot;

/// Working on less than this many bytes takes no longer than handing it over.
const HEAVY_BYTES: usize = 64 << 10;

/// Does what takes long, somewhere else.
pub trait Offload: Send + Sync + 'static {
    /// Does `work`; ready when it is done, or has panicked.
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
            // The client may have gone.
            let _ = tell.send(work());
        };
        offload.run(Box::new(work)).await;
        result.await.ok()
    }
}

/// Lets other tasks have their turn.
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
