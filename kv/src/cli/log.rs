//! The log of a node, on standard error.

use super::lines::Lines;
use std::backtrace::{Backtrace, BacktraceStatus};
use std::io::{self, IsTerminal};
use tracing_subscriber::EnvFilter;

/// Begins the log. What is returned is flushed before the program ends.
pub fn start(filter: EnvFilter) -> io::Result<Lines> {
    let lines = Lines::start("log", io::stderr())?;
    let writer = lines.clone();
    tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(move || writer.clone())
        .with_ansi(io::stderr().is_terminal())
        // A line that cannot be formatted would be reported with `eprintln!`, which panics.
        .log_internal_errors(false)
        .init();
    // A panic is reported like anything else: the standard hook would wait for the reader of
    // standard error.
    std::panic::set_hook(Box::new(|panic| {
        let backtrace = Backtrace::capture();
        driver::report(|| match backtrace.status() {
            BacktraceStatus::Captured => tracing::error!("{panic}\n{backtrace}"),
            _ => tracing::error!("{panic}"),
        });
    }));
    Ok(lines)
}
