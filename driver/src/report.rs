//! Log lines that cannot harm the code that writes them.
//!
//! The subscriber is chosen by the user. tracing's own formatter reports a failed write with
//! `eprintln!`, which panics if standard error is a closed pipe or on a full disk. Such a panic
//! would end the task that writes the line: a stream to a peer, or the core loop itself.

use std::panic::{AssertUnwindSafe, catch_unwind};

/// Writes a log line and catches a panic of the subscriber. Callers change their state and notify
/// others before they call this, since a subscriber may also block.
pub fn report(line: impl FnOnce()) {
    // The line is lost, and there is nowhere to report that.
    let _ = catch_unwind(AssertUnwindSafe(line));
}
