//! The signals that stop the program: SIGINT, SIGTERM and SIGHUP.
//!
//! If SIGHUP was ignored when the program was started, as by `nohup`, it stays ignored. This can be
//! detected on Linux only. On other systems SIGHUP always stops the program.

use super::exit;
use std::io;
use std::time::{Duration, Instant};
use tokio::signal::unix::{Signal, SignalKind, signal};

/// The number of SIGHUP, on all systems.
const SIGHUP: u8 = 1;
/// The number of the signal that a write beyond `ulimit -f` causes, on Linux and macOS.
const SIGXFSZ: i32 = 25;

/// A further stop signal within this time after the first one is taken for the same request:
/// `timeout` and some container runtimes send two, and a supervisor closes a pipe and sends one.
pub const GRACE: Duration = Duration::from_secs(1);

/// The cause of a stop.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stop {
    /// SIGINT or SIGTERM, or the request of a supervisor.
    Asked,
    /// SIGHUP: the terminal is gone.
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

/// Receives the stop signals from [`StopSignals::listen`] on.
pub struct StopSignals {
    interrupt: Signal,
    terminate: Signal,
    /// `None` if SIGHUP was ignored when the program was started.
    hangup: Option<Signal>,
}

impl StopSignals {
    /// Installs the signal handlers. Needs a tokio runtime.
    pub fn listen() -> io::Result<Self> {
        // A handler would replace the ignored state.
        let hangup = match is_ignored(SIGHUP) {
            true => None,
            false => Some(signal(SignalKind::hangup())?),
        };
        // These would end the process too. Tools that rotate logs send SIGUSR1.
        for ignored in [SignalKind::user_defined1(), SignalKind::user_defined2()] {
            drop(signal(ignored)?);
        }
        // With a handler for SIGXFSZ, a write beyond the file size limit fails with an error that
        // is reported. Without one, the signal would kill the process.
        drop(signal(SignalKind::from_raw(SIGXFSZ))?);
        Ok(StopSignals {
            interrupt: signal(SignalKind::interrupt())?,
            terminate: signal(SignalKind::terminate())?,
            hangup,
        })
    }

    /// Waits for a stop signal that arrives at least [`GRACE`] after the time of the first one.
    pub async fn wait_again(&mut self, first: Instant) {
        loop {
            self.wait().await;
            if first.elapsed() >= GRACE {
                return;
            }
        }
    }

    /// Waits for the next stop signal.
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

/// Whether this process ignores a signal. False on systems without `/proc`.
fn is_ignored(number: u8) -> bool {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let mask = status.lines().find_map(|line| line.strip_prefix("SigIgn:"));
    let mask = mask.and_then(|mask| u64::from_str_radix(mask.trim(), 16).ok());
    mask.is_some_and(|mask| mask & (1 << (number - 1)) != 0)
}
