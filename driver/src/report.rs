//! Log lines that cannot hurt who writes them.
//!
//! A subscriber is the user's. tracing's own formatter prints a failed write with `eprintln!`,
//! which panics when standard error is a closed pipe or a full disk. Such a panic would end the
//! task that wrote the line, and with it a stream to a peer or the core loop itself.

use std::panic::{AssertUnwindSafe, catch_unwind};

/// Writes a log line: a panic of the subscriber ends here. The caller changes its state and
/// notifies others before it calls this: a subscriber may also block.
pub fn report(line: impl FnOnce()) {
    // The line is lost. There is no place left where that could be reported.
    let _ = catch_unwind(AssertUnwindSafe(line));
}
