//! Threads that clients' requests cannot starve.
//!
//! The core loop and the streams of the peers need little time, but without delay. On a runtime
//! that they share with clients' requests they would wait for those, and a leader whose heartbeats
//! are late is replaced. So they have a runtime of one thread of their own, and the operating
//! system divides the processors among threads fairly.

use std::io;
use std::time::Duration;
use tokio::runtime::{Builder, Handle};
use tokio::sync::oneshot;

/// The change of the `nice` value of the core's threads, where the system permits it. A negative
/// value makes them more urgent.
const URGENT: i32 = -5;
/// How long a runtime keeps a thread for blocking work that has nothing to do: for as long as the
/// process runs. A runtime that has no such thread and is refused one panics, and the work that it
/// has queued waits until the next one. With one that stays, that thread does the work.
const KEEP_BLOCKING: Duration = Duration::from_secs(100 * 365 * 24 * 3600);
/// How long the shutdown of a runtime waits for its blocking work.
const BLOCKING_GRACE: Duration = Duration::from_secs(1);

/// A thread with a tokio runtime of its own. Dropping it ends its tasks soon.
#[derive(Debug)]
pub struct OwnThread {
    runtime: Handle,
    /// Never sent: dropping it ends the thread.
    stop: Option<oneshot::Sender<()>>,
    ended: oneshot::Receiver<()>,
}

impl OwnThread {
    /// Starts the thread. If `urgent`, it gets a higher priority, which the threads that its tasks
    /// start inherit.
    pub fn start(name: &'static str, urgent: bool) -> io::Result<Self> {
        let mut builder = Builder::new_current_thread();
        builder.enable_all().thread_name(name).thread_keep_alive(KEEP_BLOCKING);
        let runtime = builder.build()?;
        let handle = runtime.handle().clone();
        let (stop, stopped) = oneshot::channel();
        let (end, ended) = oneshot::channel();
        std::thread::Builder::new().name(name.into()).spawn(move || {
            if urgent {
                change_priority(URGENT);
            }
            // The first thread for blocking work: see [`KEEP_BLOCKING`].
            drop(runtime.spawn_blocking(|| ()));
            let _ = runtime.block_on(stopped);
            runtime.shutdown_timeout(BLOCKING_GRACE);
            drop(end);
        })?;
        Ok(OwnThread { runtime: handle, stop: Some(stop), ended })
    }

    /// The runtime, to spawn tasks on.
    pub fn runtime(&self) -> &Handle {
        &self.runtime
    }

    /// Stops the thread, and returns when its tasks are gone.
    pub async fn stop(mut self) {
        self.stop = None;
        let _ = self.ended.await;
    }
}

/// Adds `by` to the `nice` value of this thread; a negative number makes it more urgent. Without
/// the permission for it, the priority stays as it is.
pub fn change_priority(by: i32) {
    // On other systems this would change the whole process.
    #[cfg(target_os = "linux")]
    let _ = rustix::process::nice(by);
    #[cfg(not(target_os = "linux"))]
    let _ = by;
}
