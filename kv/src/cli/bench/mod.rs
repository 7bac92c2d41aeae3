//! `raft-kv bench`: measures a cluster.
//!
//! Without `--rate` the benchmark is a closed loop: each of `--clients` clients has one connection,
//! and sends its next request when the last one is answered. With `--rate` it is an open loop, see
//! [`pace`]. Only requests answered with success count; errors are reported by kind. The clients
//! send to the leader directly, and search for the new one when it is lost. So killing the leader
//! during a benchmark measures the failover: the longest time in which nothing was acknowledged.
//! With `--record`, acknowledged writes are recorded in a file. With `--check`, that file is read
//! later, and lost writes are reported.
//!
//! All clients share one thread, to leave the cores of a small machine to the nodes.

mod connection;
mod leader;
mod pace;
mod progress;
mod record;
mod report;
mod worker;
mod workload;

use super::client::CallError;
use super::{duration, exit, http, input};
use leader::Leader;
use pace::{Pace, Schedule};
use record::Record;
use report::Report;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;
use tokio::task::JoinSet;
use tokio::time::Instant;
use worker::{Shared, Worker};
use workload::{Operation, Workload};

#[derive(clap::Args, Clone)]
pub struct Args {
    /// The address of one node or several; the others are looked up in the cluster
    #[arg(
        long = "server",
        short = 's',
        env = "RAFT_KV_SERVER",
        value_delimiter = ',',
        default_value = "http://127.0.0.1:8080",
        value_parser = http::address_of
    )]
    servers: Vec<String>,
    /// What to do
    #[arg(long, value_enum, default_value_t = Operation::Put)]
    op: Operation,
    /// How many clients at once, each with a connection of its own
    #[arg(long, short, default_value_t = 64, value_parser = clap::value_parser!(u32).range(1..=4096))]
    clients: u32,
    /// Requests per second of all clients together, sent at even distances whatever the cluster
    /// does (an open loop). The latency of a request then counts from when it was due. Without it,
    /// each client sends its next request when the last one is answered
    #[arg(long, value_name = "REQUESTS", conflicts_with = "check", value_parser = clap::value_parser!(u32).range(1..=1_000_000))]
    rate: Option<u32>,
    /// Bytes of a value
    #[arg(long, default_value_t = 256, value_parser = clap::value_parser!(u32).range(0..=1_048_576))]
    value_size: u32,
    /// How long, as 10, 10s, 500ms or 2m
    #[arg(long, short, default_value = "10s", value_parser = duration::parse)]
    duration: Duration,
    /// How many different keys
    #[arg(long, default_value_t = 100_000, value_parser = clap::value_parser!(u32).range(1..=10_000_000))]
    keys: u32,
    /// Operations in one request of `--op batch`
    #[arg(long, default_value_t = 100, value_parser = clap::value_parser!(u32).range(1..=1024))]
    batch_size: u32,
    /// A request without an answer within this time counts as failed
    #[arg(long, default_value = "5s", value_parser = duration::parse)]
    timeout: Duration,
    /// Print the result as JSON
    #[arg(long)]
    json: bool,
    /// Write every acknowledged write to this file (with `--op put`); each value is then unique
    #[arg(long, value_name = "FILE", conflicts_with = "check")]
    record: Option<PathBuf>,
    /// Measure nothing: check that all writes of a file made with --record are still there
    #[arg(long, value_name = "FILE")]
    check: Option<PathBuf>,
}

/// Runs the benchmark, or the check of a record.
pub fn run(args: &Args) -> u8 {
    let runtime = match tokio::runtime::Builder::new_current_thread().enable_all().build() {
        Ok(runtime) => runtime,
        Err(error) => return super::client::report(&CallError::NotDone(exit::with_limit(&error))),
    };
    let outcome = match &args.check {
        Some(file) => runtime.block_on(record::check(file, &args.servers, args.timeout)),
        None => runtime.block_on(measure(args)).map(|report| {
            if let Err(error) = report.print(args.json) {
                return input::not_printed(&error);
            }
            if report.done == 0 { exit::NOT_DONE } else { exit::DONE }
        }),
    };
    outcome.unwrap_or_else(|error| super::client::report(&error))
}

async fn measure(args: &Args) -> Result<Report, CallError> {
    if args.record.is_some() && args.op != Operation::Put {
        return Err(CallError::NotDone("--record goes with --op put".into()));
    }
    let leader = Leader::new(leader::members(&args.servers).await);
    let record = args.record.as_ref().map(|path| Record::create(path)).transpose()?;
    let workload = Arc::new(Workload::new(args, record));
    // A cluster without a leader is an error, not a result of zero.
    leader.find_within(args.timeout).await?;
    if args.op.reads() {
        fill(args, &leader, &workload).await?;
    }

    let started = Instant::now();
    let pace = match args.rate {
        None => Pace::Closed,
        Some(rate) => {
            let schedule = Arc::new(Schedule::new(started, args.duration, rate));
            schedule.start().map_err(|error| CallError::NotDone(error.to_string()))?;
            Pace::Open(schedule)
        }
    };
    let shared = Arc::new(Shared::new(leader, started, args.duration, pace, args.timeout));
    let bar = progress::show(&shared, args.json);
    let mut workers = JoinSet::new();
    for number in 0..args.clients {
        let worker = Worker::new(number, args.clients, shared.clone(), workload.clone());
        workers.spawn(worker.run());
    }
    let mut totals = report::Totals::new();
    while let Some(finished) = workers.join_next().await {
        // A panic of a worker is a bug, and the result without it would be wrong.
        totals.add(&finished.expect("a worker does not panic"));
    }
    let elapsed = started.elapsed();
    bar.finish();
    workload.finish_record()?;
    Ok(Report::new(args, totals, &shared, elapsed))
}

/// Writes every key once, for the reads of the benchmark.
async fn fill(args: &Args, leader: &Leader, workload: &Workload) -> Result<(), CallError> {
    let address = leader.find_within(args.timeout).await?;
    let mut connection = connection::Connection::open(&address).await.map_err(not_filled)?;
    let batch = workload.fill_batch();
    for first in (0..args.keys).step_by(batch as usize) {
        let last = args.keys.min(first + batch);
        let request = workload.batch_of(first..last);
        let answer = connection.exchange(&request, args.timeout).await.map_err(not_filled)?;
        if !answer.status.is_success() {
            return Err(CallError::NotDone(format!(
                "cannot fill in the keys to read: {}",
                answer.explanation()
            )));
        }
    }
    Ok(())
}

fn not_filled(failure: http::Failure) -> CallError {
    CallError::NotDone(format!("cannot fill in the keys to read: {failure}"))
}
