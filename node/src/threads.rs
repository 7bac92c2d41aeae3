//! Threads that no request of a client can starve.
//!
//! The core loop and the streams of the peers need a little time, soon. On a runtime that they
//! share with the requests of clients they would wait behind those, and a leader that is late is
//! replaced. So they have a runtime of one thread of their own, and the operating system divides
//! the processors among threads fairly.

use std::io;
use std::time::Duration;
use tokio::runtime::{Builder, Handle};
use tokio::sync::oneshot;

/// How much more urgent the threads of the core are, where that is permitted (`nice`).
const URGENT: i32 = -5;
/// How long blocking work of a runtime may go on after its end.
const BLOCKING_GRACE: Duration = Duration::from_secs(1);

/// A thread with a runtime of its own. Dropped, its tasks end soon.
#[derive(Debug)]
pub struct OwnThread {
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
pub fn change_priority(by: i32) {
    // Elsewhere it would be that of the whole process.
    #[cfg(target_os = "linux")]
    let _ = rustix::process::nice(by);
    #[cfg(not(target_os = "linux"))]
    let _ = by;
}
