//! The exit codes, which scripts rely on.

use super::lines::Lines;
use kv::plain::escaped;
use std::io::{self, Write};

/// Done; for `serve` and `cluster`: stopped as asked.
pub const DONE: u8 = 0;
/// The answer is negative: the key does not exist, or the comparison failed. For `bench --check`: a
/// write was lost.
pub const NO: u8 = 1;
/// Certainly not done: no server could be reached, there is no leader, or the request was refused.
/// For `status` and `members`: there is no leader.
pub const NOT_DONE: u8 = 3;
/// The request was sent, but no answer came. It may have been executed.
pub const UNKNOWN: u8 = 4;
/// A node or a cluster failed while it ran, or did not stop gracefully.
pub const FAILED: u8 = 70;
/// A node has stopped because its copy of the state differs from those of the others. It has
/// forgotten its log, and the others repair it when it is started again.
pub const DIFFERS: u8 = 75;
/// A node has stopped because it was removed from its cluster, its addition was given up, or its
/// disk is that of an earlier member. A restart does not help.
pub const REMOVED: u8 = 76;
/// A node or a cluster cannot start with its settings. A restart does not help.
pub const CONFIGURATION: u8 = 78;
/// A clean stop by SIGHUP has this value plus the number of the signal as its exit code, as shells
/// do.
pub const SIGNALLED: u8 = 128;

/// Printed below `--help`.
pub const HELP: &str = "\
Exit codes:
  0   done
  1   negative: the key does not exist, the comparison failed, or (bench --check) a write was lost
  2   the command line is invalid
  3   certainly not done: no server reached, no leader, or refused; status, members: no leader; or
      the result could not be printed
  4   unknown: sent, but no answer arrived; it may have been done
  70  a node or cluster failed while running, or at its start because of the disk, or its nodes were
      killed because they did not stop in time or a second signal came (later than 1 s after the
      first); no acknowledged write is lost
  75  a node stopped because its copy of the data differs; after a restart, the others repair it
  76  a node stopped because it is not a member of its cluster any more; do not restart it
  78  a node or cluster cannot start with its settings (port, directory, members)
  129 a node or cluster stopped cleanly because its terminal was closed (SIGHUP)";

/// An error of the operating system for an operator, with the limit that it comes from.
pub fn with_limit(error: &io::Error) -> String {
    // The number is the same on Linux and macOS.
    const EMFILE: i32 = 24;
    match error.raw_os_error() {
        Some(EMFILE) => format!("{error} (see ulimit -n: raise it, to 1024 at least)"),
        _ => error.to_string(),
    }
}

/// Prints on standard error why the program ends. Characters that a terminal acts on are escaped,
/// since the reason may contain what a server or a file says. Returns after at most a second, even
/// if nothing could be printed.
pub fn complain(what: impl std::fmt::Display) {
    let line = format!("raft-kv: {}\n", escaped(&what.to_string()));
    // A thread writes the line: standard error may be a pipe that is not read, and the program has
    // to end.
    match Lines::start("complaint", std::io::stderr()) {
        Ok(lines) => {
            lines.add(line.as_bytes());
            lines.flush();
        }
        // There is no thread for it. This may block, but silence would be worse.
        Err(_) => drop(std::io::stderr().write_all(line.as_bytes())),
    }
}
