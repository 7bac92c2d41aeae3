//! Being asked to stop: Ctrl-C, SIGTERM, and a terminal that goes away.
//!
//! A program that was started with SIGHUP ignored, as by `nohup`, goes on ignoring it. Whether that
//! is so can be read on Linux only; elsewhere SIGHUP always stops the program.

use super::exit;
use std::io;
use tokio::signal::unix::{Signal, SignalKind, signal};

/// The number of SIGHUP, on all systems.
const SIGHUP: u8 = 1;
/// The number of the signal that a write beyond `ulimit -f` causes, on Linux and macOS.
const SIGXFSZ: i32 = 25;

/// Why the program is to stop.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stop {
    /// A person or a supervisor asked for it.
    Asked,
    /// The terminal is gone.
    Hangup,
}

impl Stop {
    /// The exit code of a program after a clean stop.
    pub fn exit_code(self) -> u8 {
        match self {
            Stop::Asked => exit::DONE,
            Stop::Hangup => exit::SIGNALLED + SIGHUP,
        }
    }
}

/// The signals that mean "stop", listened to from the moment this is made.
pub struct StopSignals {
    interrupt: Signal,
    terminate: Signal,
    /// `None`: it was ignored when the program was started.
    hangup: Option<Signal>,
}

impl StopSignals {
    /// Starts to listen. Needs a tokio runtime.
    pub fn listen() -> io::Result<Self> {
        // Listening to a signal would end that it is ignored.
        let hangup = match is_ignored(SIGHUP) {
            true => None,
            false => Some(signal(SignalKind::hangup())?),
        };
        // A file that may not grow further then fails to be written, which is reported, and does
        // not end the process without a word.
        drop(signal(SignalKind::from_raw(SIGXFSZ))?);
        Ok(StopSignals {
            interrupt: signal(SignalKind::interrupt())?,
            terminate: signal(SignalKind::terminate())?,
            hangup,
        })
    }

    /// Resolves when one has come.
    pub async fn wait(&mut self) -> Stop {
        let hangup = async {
            match &mut self.hangup {
                Some(hangup) => {
                    hangup.recv().await;
                }
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            biased;
            _ = self.interrupt.recv() => Stop::Asked,
            _ = self.terminate.recv() => Stop::Asked,
            () = hangup => Stop::Hangup,
        }
    }
}

/// Whether this process ignores a signal, where the system tells.
fn is_ignored(number: u8) -> bool {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let mask = status.lines().find_map(|line| line.strip_prefix("SigIgn:"));
    let mask = mask.and_then(|mask| u64::from_str_radix(mask.trim(), 16).ok());
    mask.is_some_and(|mask| mask & (1 << (number - 1)) != 0)
}
