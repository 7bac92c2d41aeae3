//! The processes that run, so that Ctrl-C kills them, and whether it was pressed.

use rustix::process::{Pid, Signal, kill_process_group};
use std::collections::BTreeSet;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

static GROUPS: Mutex<BTreeSet<i32>> = Mutex::new(BTreeSet::new());
static INTERRUPTED: AtomicBool = AtomicBool::new(false);

/// Adds a process group that has to be killed with this process.
pub(crate) fn add(group: u32) {
    GROUPS.lock().unwrap_or_else(PoisonError::into_inner).insert(group as i32);
}

/// Removes a process group whose leader was waited for.
pub(crate) fn remove(group: u32) {
    GROUPS.lock().unwrap_or_else(PoisonError::into_inner).remove(&(group as i32));
}

/// Ends all rounds: every process is killed, every wait returns.
pub fn interrupt() {
    INTERRUPTED.store(true, Ordering::SeqCst);
    for group in GROUPS.lock().unwrap_or_else(PoisonError::into_inner).iter() {
        if let Some(group) = Pid::from_raw(*group) {
            // It may have ended already.
            let _ = kill_process_group(group, Signal::KILL);
        }
    }
}

/// Whether all rounds have to end.
pub fn interrupted() -> bool {
    INTERRUPTED.load(Ordering::SeqCst)
}

/// Sleeps for this time, or until an interrupt.
pub(crate) fn sleep(time: Duration) {
    let end = Instant::now() + time;
    while !interrupted() {
        let left = end.saturating_duration_since(Instant::now());
        if left.is_zero() {
            return;
        }
        std::thread::sleep(left.min(Duration::from_millis(50)));
    }
}

/// Waits until `holds` returns true, for at most `limit`. Returns whether it did.
pub(crate) fn wait_until(limit: Duration, mut holds: impl FnMut() -> bool) -> bool {
    let end = Instant::now() + limit;
    loop {
        if holds() {
            return true;
        }
        if Instant::now() >= end || interrupted() {
            return false;
        }
        std::thread::sleep(Duration::from_millis(20));
    }
}
