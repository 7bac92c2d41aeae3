//! `raft-kv serve`: one node, in the foreground, until a signal stops it.

use super::exit;
use super::log;
use super::settings::{self, Flags, Settings};
use super::signals::{Stop, StopSignals};
use super::threads;
use driver::StopReason;
use kv::serve::ServeError;
use std::io::{self, Read};
use std::os::unix::ffi::OsStrExt as _;
use std::path::Path;
use std::time::Instant;
use tokio::sync::oneshot;
use tracing_subscriber::EnvFilter;
use transport_http::BootstrapError;

/// The levels of the log.
const LEVELS: [&str; 6] = ["off", "error", "warn", "info", "debug", "trace"];

/// Reads the filter of the log. A word alone has to be a level: the parser takes any other for a
/// part of the program, and would silence all the rest because of a misspelt level.
fn filter(text: &str) -> Result<EnvFilter, String> {
    let mut words = text.split(',').map(str::trim).filter(|word| !word.is_empty());
    let is_level = |word: &str| LEVELS.iter().any(|level| level.eq_ignore_ascii_case(word));
    if let Some(word) = words.find(|word| !word.contains(['=', '[']) && !is_level(word)) {
        let levels = LEVELS.join(", ");
        return Err(format!(
            "{word} is no level, which are {levels}; write {word}=LEVEL for a part"
        ));
    }
    EnvFilter::builder().parse(text).map_err(|error| error.to_string())
}

/// Runs a node.
pub fn run(flags: Flags) -> u8 {
    name_process();
    let settings = match settings::resolve(flags) {
        Ok(settings) => settings,
        Err(error) => return refuse(error),
    };
    let filter = match filter(&settings.log) {
        Ok(filter) => filter,
        Err(error) => return refuse(format_args!("--log {}: {error}", settings.log)),
    };
    if let Err(error) = threads::check_node() {
        return refuse(error);
    }
    let log = match log::start(filter) {
        Ok(log) => log,
        Err(error) => return refuse(exit::with_limit(&error)),
    };
    let runtime = match tokio::runtime::Builder::new_multi_thread().enable_all().build() {
        Ok(runtime) => runtime,
        Err(error) => return refuse(exit::with_limit(&error)),
    };
    let ended = runtime.block_on(node(settings));
    // After a graceful stop, remaining tasks only wait for clients and can be dropped.
    runtime.shutdown_background();
    log.flush();
    match ended {
        Ended::Told(stop) => stop.exit_code(),
        Ended::Refused(why) => refuse(why),
        Ended::Cut => {
            exit::complain(
                "stopped at once by a second signal; no acknowledged write is lost, requests in \
                 progress were cut",
            );
            exit::FAILED
        }
        Ended::Failed(error) => {
            let code = failure(&error);
            exit::complain(error);
            code
        }
    }
}

/// Names this process after its program, on Linux. A local cluster executes `/proc/self/exe`, and
/// `ps` and `pkill` would otherwise know the node as `exe`.
fn name_process() {
    let program = std::env::args_os().next().unwrap_or_default();
    let name = Path::new(&program).file_name().unwrap_or_default();
    // On other systems there is no such file, and no need of it.
    let _ = std::fs::write("/proc/self/comm", name.as_bytes());
}

/// How a node has ended.
enum Ended {
    /// It stopped cleanly after a signal or a request of the supervisor.
    Told(Stop),
    /// It could not start.
    Refused(String),
    Failed(ServeError),
    /// A second signal ended the wait for a graceful stop.
    Cut,
}

/// The exit code of a node that has failed.
fn failure(error: &ServeError) -> u8 {
    match error {
        ServeError::Stopped(StopReason::Diverged) => exit::DIFFERS,
        ServeError::Stopped(StopReason::NotAMember)
        | ServeError::Found(BootstrapError::Removed { .. }) => exit::REMOVED,
        _ => exit::FAILED,
    }
}

/// Whether the node did not start because its disk is full, has failed, or is read-only, which file
/// systems become after an error. It starts once that is mended, so a service manager may start it
/// again.
fn is_of_the_disk(error: &(dyn std::error::Error + 'static)) -> bool {
    // The number is the same on Linux and macOS.
    const EIO: i32 = 5;
    let of_the_disk = |error: &io::Error| {
        use io::ErrorKind::{QuotaExceeded, ReadOnlyFilesystem, StorageFull};
        matches!(error.kind(), QuotaExceeded | ReadOnlyFilesystem | StorageFull)
            || error.raw_os_error() == Some(EIO)
    };
    let mut cause = Some(error);
    while let Some(error) = cause {
        if error.downcast_ref().is_some_and(of_the_disk) {
            return true;
        }
        cause = error.source();
    }
    false
}

fn refuse(why: impl std::fmt::Display) -> u8 {
    exit::complain(why);
    exit::CONFIGURATION
}

async fn node(settings: Settings) -> Ended {
    let mut signals = match StopSignals::listen() {
        Ok(signals) => signals,
        Err(error) => {
            return Ended::Refused(format!(
                "cannot listen to signals: {}",
                exit::with_limit(&error)
            ));
        }
    };
    let abandoned = abandoned(settings.stop_on_stdin_eof);
    tokio::pin!(abandoned);
    let id = settings.serve.id;
    let started = tokio::select! {
        biased;
        stop = signals.wait() => Err(stop),
        () = &mut abandoned => Err(Stop::Asked),
        started = kv::serve::run(settings.serve) => Ok(started),
    };
    let started = match started {
        Ok(started) => started,
        Err(stop) => {
            log_stop(stop);
            return Ended::Told(stop);
        }
    };
    let mut running = match started {
        Ok(running) => running,
        Err(error @ ServeError::Found(BootstrapError::Removed { .. })) => {
            return Ended::Failed(error);
        }
        Err(error) if is_of_the_disk(&error) => return Ended::Failed(error),
        Err(error) => return Ended::Refused(error.to_string()),
    };
    tracing::info!(
        node = %id, clients = %running.client_addr(), peers = %running.peer_addr(), "serving"
    );
    let ended = tokio::select! {
        biased;
        stop = signals.wait() => Err(stop),
        () = &mut abandoned => Err(Stop::Asked),
        ended = running.wait() => Ok(ended),
    };
    let told = match ended {
        Err(stop) => stop,
        // Its clients still get their answers.
        Ok(ended) => {
            tokio::select! {
                biased;
                _ = running.stop() => {}
                _ = signals.wait() => {}
            }
            return ended.map_or_else(Ended::Failed, |()| Ended::Told(Stop::Asked));
        }
    };
    log_stop(told);
    let first = Instant::now();
    tokio::select! {
        biased;
        stopped = running.stop() => stopped.map_or_else(Ended::Failed, |()| Ended::Told(told)),
        () = signals.wait_again(first) => Ended::Cut,
    }
}

fn log_stop(cause: Stop) {
    match cause {
        Stop::Asked => tracing::info!("stopping: asked to by a signal or the supervisor"),
        Stop::Hangup => tracing::info!("stopping: SIGHUP has come (nohup prevents that)"),
    }
}

/// Resolves when standard input ends. Never resolves if `asked` is false.
async fn abandoned(asked: bool) {
    if !asked {
        return std::future::pending().await;
    }
    let (end, ended) = oneshot::channel::<()>();
    // A detached thread, because it may block in its read until the process ends.
    std::thread::spawn(move || {
        let mut input = std::io::stdin().lock();
        let mut ignored = [0; 64];
        while matches!(input.read(&mut ignored), Ok(bytes) if bytes > 0) {}
        drop(end);
    });
    // Nothing is sent. The drop of the sender completes this.
    let _ = ended.await;
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_misspelt_level_of_the_log_is_refused() {
        for right in ["", "info", "WARN", "warn,driver=debug", "raft=off, info", "driver=trace"] {
            assert!(filter(right).is_ok(), "{right}");
        }
        for wrong in ["wanr", "Warning", "driver=debug,inof", "driver", "driver=inof"] {
            assert!(filter(wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn a_start_on_a_full_or_failed_disk_may_be_tried_again() {
        let error = |source| ServeError::Disk { directory: "data".into(), source };
        let kind = |kind: io::ErrorKind| error(io::Error::from(kind));
        assert!(is_of_the_disk(&kind(io::ErrorKind::StorageFull)));
        assert!(is_of_the_disk(&kind(io::ErrorKind::ReadOnlyFilesystem)));
        assert!(is_of_the_disk(&error(io::Error::from_raw_os_error(5))));
        assert!(!is_of_the_disk(&kind(io::ErrorKind::PermissionDenied)));
    }

    #[test]
    fn a_node_whose_copy_differs_has_an_exit_code_of_its_own() {
        assert_eq!(failure(&ServeError::Stopped(StopReason::Diverged)), exit::DIFFERS);
        let failed = StopReason::Store("no disk".into());
        assert_eq!(failure(&ServeError::Stopped(failed)), exit::FAILED);
    }
}
