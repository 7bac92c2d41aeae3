//! Runs a node on tokio. Only this file depends on the runtime.
// With `paced.rs`, the only file of the driver that asks the operating system for the time.
#![allow(clippy::disallowed_methods)]

use crate::{Clock, Driver, Handle, Sleep, StateMachine};
use raft::Now;
use std::io;
use std::thread;
use std::time::{Duration, SystemTime, UNIX_EPOCH};
use storage::LogStore;

/// How much less than the other threads the snapshot writer gets of a busy processor: about a
/// tenth of the time of one that also wants it.
#[cfg(any(target_os = "linux", target_os = "android"))]
const SNAPSHOT_NICENESS: i32 = 10;

/// The clock of the operating system, and the timers of the current tokio runtime.
#[derive(Clone, Debug)]
pub struct TokioClock {
    start_ns: u64,
    gives_way: bool,
}

/// Nanoseconds of a monotonic clock that keeps running while the machine is suspended, as log time
/// requires.
fn monotonic_ns() -> u64 {
    // On macOS the clock of this name keeps running anyway.
    #[cfg(any(target_os = "linux", target_os = "android"))]
    let clock = rustix::time::ClockId::Boottime;
    #[cfg(not(any(target_os = "linux", target_os = "android")))]
    let clock = rustix::time::ClockId::Monotonic;
    let time = rustix::time::clock_gettime(clock);
    time.tv_sec as u64 * 1_000_000_000 + time.tv_nsec as u64
}

impl TokioClock {
    /// A clock that starts now.
    #[allow(clippy::new_without_default, reason = "a clock has a start, which is no default")]
    pub fn new() -> Self {
        TokioClock { start_ns: monotonic_ns(), gives_way: true }
    }

    /// Like [`TokioClock::new`], for a node without threads of its own ([`spawn_tasks`]): all that
    /// it could wait for is in its runtime, so it does not give way to other threads.
    pub fn for_tasks() -> Self {
        TokioClock { gives_way: false, ..TokioClock::new() }
    }
}

impl Clock for TokioClock {
    fn now(&self) -> Now {
        // A wall clock before 1970 counts as 1970.
        let wall = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        Now {
            // Never 0, which would mean that no time is known.
            monotonic_ns: monotonic_ns().saturating_sub(self.start_ns) + 1,
            wall_ms: wall.as_millis() as u64,
        }
    }

    fn sleep(&self, duration: Duration) -> Sleep {
        Box::pin(tokio::time::sleep(duration))
    }

    fn give_way(&self) {
        if self.gives_way {
            std::thread::yield_now();
        }
    }
}

/// Runs all parts of a node. The core runs as a task of this runtime. The state machine, the store
/// and the snapshot writer run on threads of their own, so the core waits for none of them. When
/// the node ends, `close` is called with the store, on the store's thread. [`Handle::shutdown`]
/// returns after that. If a thread cannot be started, the node does not run, and `close` may not be
/// called. Panics outside of a tokio runtime.
pub fn spawn<S: StateMachine, L: LogStore + 'static>(
    driver: Driver<S>,
    store: L,
    close: impl FnOnce(L) + Send + 'static,
) -> io::Result<Handle<S>> {
    let Driver { handle, core, machine, store: writes, snapshots } = driver;
    let open = handle.shared.part("closing of the store");
    thread::Builder::new().name("raft-store".into()).spawn(move || {
        close(writes.run_blocking(store));
        drop(open);
    })?;
    thread::Builder::new().name("raft-snapshots".into()).spawn(move || {
        // No client waits for a snapshot. On Linux this lowers the priority of the calling thread
        // only. If it fails, the snapshot competes with the writes.
        #[cfg(any(target_os = "linux", target_os = "android"))]
        let _ = rustix::process::nice(SNAPSHOT_NICENESS);
        snapshots.run_blocking();
    })?;
    let runtime = tokio::runtime::Handle::current();
    let machine = move || runtime.block_on(machine);
    thread::Builder::new().name("raft-machine".into()).spawn(machine)?;
    tokio::spawn(core);
    Ok(handle)
}

/// Like [`spawn`], with all parts as tasks of this runtime, and no threads: for a store and a state
/// machine in memory, which take microseconds. The clock should be [`TokioClock::for_tasks`].
/// Whatever blocks one of the tasks, such as a sync or
/// a long query, holds up the others, and a leader whose heartbeats are late is replaced.
pub fn spawn_tasks<S: StateMachine, L: LogStore + 'static>(
    driver: Driver<S>,
    store: L,
    close: impl FnOnce(L) + Send + 'static,
) -> Handle<S> {
    let Driver { handle, core, machine, store: writes, snapshots } = driver;
    let open = handle.shared.part("closing of the store");
    tokio::spawn(async move {
        close(writes.run(store).await);
        drop(open);
    });
    tokio::spawn(snapshots.run(|| Box::pin(std::future::ready(()))));
    tokio::spawn(machine);
    tokio::spawn(core);
    handle
}
