//! A check at the start that the system permits the threads of the program.
//!
//! Runtimes panic when they cannot start a thread, and a node with only a part of its threads would
//! not serve. So a limit (`ulimit -u`, the cgroup's `pids.max`) that is too low is found before
//! anything else is started. Another process of the same user may still take the threads later.

use super::exit;
use std::io;
use std::num::NonZeroUsize;
use std::sync::mpsc;

/// The threads of a node besides the workers of the clients' runtime: the log's lines, standard
/// input, `http-front`, `raft-core`, `raft-machine`, `raft-store`, `raft-snapshots` and
/// `log-segments`; and for blocking work two on each of the three runtimes.
const NODE: usize = 8 + 3 * 2;
/// The threads of a supervisor: its output, and the blocking work of its runtime.
const SUPERVISOR: usize = 4;

/// Checks that the threads of a node can be started.
pub fn check_node() -> Result<(), ThreadError> {
    // As many as tokio starts, and one more for each that parses long requests.
    let processors = std::thread::available_parallelism().map_or(1, NonZeroUsize::get);
    check(NODE + 2 * processors)
}

/// Checks that the threads of the supervisor of a local cluster can be started.
pub fn check_supervisor() -> Result<(), ThreadError> {
    check(SUPERVISOR)
}

/// The system does not permit the threads that are needed.
#[derive(Debug, thiserror::Error)]
#[error(
    "cannot start a thread: {} (see ulimit -u and ulimit -v, or pids.max of the cgroup; {needed} \
     threads are needed, and {started} could be started)", exit::with_limit(.source)
)]
pub struct ThreadError {
    needed: usize,
    started: usize,
    source: io::Error,
}

/// Starts this many threads at once, and ends them again.
fn check(needed: usize) -> Result<(), ThreadError> {
    let mut threads = Vec::new();
    let mut result = Ok(());
    for started in 0..needed {
        let (end, ended) = mpsc::channel::<()>();
        // Nothing is sent. The drop of the sender ends the thread.
        match std::thread::Builder::new().spawn(move || ended.recv().is_ok()) {
            Ok(thread) => threads.push((end, thread)),
            Err(source) => {
                result = Err(ThreadError { needed, started, source });
                break;
            }
        }
    }
    for (end, thread) in threads {
        drop(end);
        // It cannot panic.
        let _ = thread.join();
    }
    result
}
