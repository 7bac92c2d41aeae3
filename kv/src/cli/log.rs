//! The log of a node, on standard error.

use super::lines::Lines;
use std::backtrace::{Backtrace, BacktraceStatus};
use std::io::{self, IsTerminal};
use tracing_subscriber::EnvFilter;

/// Starts logging. The caller has to flush the returned writer before the program ends.
pub fn start(filter: EnvFilter) -> io::Result<Lines> {
    let lines = Lines::start("log", io::stderr())?;
    let writer = lines.clone();
    tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(move || writer.clone())
        .with_ansi(io::stderr().is_terminal())
        // Otherwise a line that cannot be formatted is reported with `eprintln!`, which panics if
        // standard error fails.
        .log_internal_errors(false)
        .init();
    // Panics go to the log. The standard hook would block on a standard error that is not read.
    std::panic::set_hook(Box::new(|panic| {
        let backtrace = Backtrace::capture();
        driver::report(|| match backtrace.status() {
            BacktraceStatus::Captured => tracing::error!("{panic}\n{backtrace}"),
            _ => tracing::error!("{panic}"),
        });
    }));
    Ok(lines)
}
