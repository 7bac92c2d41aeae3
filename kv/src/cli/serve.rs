//! `raft-kv serve`: one node, in the foreground, until it is told to stop.

use super::exit;
use super::settings::{self, Flags, Settings};
use super::signals::{Stop, StopSignals};
use std::io::Read;
use tokio::sync::oneshot;
use tracing_subscriber::EnvFilter;

/// Runs a node.
pub fn run(flags: Flags) -> u8 {
    let settings = match settings::resolve(flags) {
        Ok(settings) => settings,
        Err(error) => return refuse(error),
    };
    let filter = match EnvFilter::builder().parse(&settings.log) {
        Ok(filter) => filter,
        Err(error) => return refuse(format_args!("--log {}: {error}", settings.log)),
    };
    tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(std::io::stderr)
        .with_ansi(std::io::IsTerminal::is_terminal(&std::io::stderr()))
        .init();
    let runtime = match tokio::runtime::Builder::new_multi_thread().enable_all().build() {
        Ok(runtime) => runtime,
        Err(error) => return refuse(error),
    };
    let code = runtime.block_on(node(settings));
    // What still runs after a graceful stop waits for clients that no longer matter.
    runtime.shutdown_background();
    code
}

fn refuse(why: impl std::fmt::Display) -> u8 {
    exit::complain(why);
    exit::CONFIGURATION
}

async fn node(settings: Settings) -> u8 {
    let mut signals = match StopSignals::listen() {
        Ok(signals) => signals,
        Err(error) => return refuse(format_args!("cannot listen to signals: {error}")),
    };
    let abandoned = abandoned(settings.stop_on_stdin_eof);
    tokio::pin!(abandoned);
    let id = settings.serve.id;
    let started = tokio::select! {
        biased;
        stop = signals.wait() => return stop.exit_code(),
        () = &mut abandoned => return exit::DONE,
        started = kv::serve::run(settings.serve) => started,
    };
    let mut running = match started {
        Ok(running) => running,
        Err(error) => return refuse(error),
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
    let code = ended.as_ref().err().map_or(exit::DONE, |stop| stop.exit_code());
    let outcome = match ended {
        Ok(outcome) => outcome,
        Err(_) => {
            tracing::info!("stopping");
            tokio::select! {
                biased;
                stopped = running.stop() => stopped,
                // A second signal: somebody does not want to wait.
                _ = signals.wait() => Ok(()),
            }
        }
    };
    match outcome {
        Ok(()) => code,
        Err(error) => {
            exit::complain(error);
            exit::FAILED
        }
    }
}

/// Resolves when standard input ends, if that is asked for; otherwise never.
async fn abandoned(asked: bool) {
    if !asked {
        return std::future::pending().await;
    }
    let (end, ended) = oneshot::channel::<()>();
    // A plain thread: it may hang in its read for as long as the process lives.
    std::thread::spawn(move || {
        let mut input = std::io::stdin().lock();
        let mut ignored = [0; 64];
        while matches!(input.read(&mut ignored), Ok(bytes) if bytes > 0) {}
        drop(end);
    });
    // The sender is only ever dropped, and that is the news.
    let _ = ended.await;
}
