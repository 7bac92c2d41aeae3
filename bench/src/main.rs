//! Benchmarks of each layer: the core, the log, the driver, and a whole cluster.
//!
//! Each figure is the median of several rounds, in which the contestants take turns, so that a busy
//! neighbour strikes all of them. The counts (messages, writes, syncs, allocations) hardly depend
//! on the machine, and `tests/counts.rs` holds their bounds.
//!
//! With the feature `peers`, other projects take their turns too: see `src/peers`. For etcd,
//! see `compare-etcd.sh`.

mod allocations;
mod cluster;
mod http;
mod layers;
#[cfg(feature = "peers")]
mod peers;
mod plot;
mod rounds;
mod table;

use rounds::{Error, Span};
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

#[global_allocator]
static ALLOCATOR: allocations::Counting = allocations::Counting;

/// Benchmarks of each layer; build with --release, or the times mean nothing
#[derive(clap::Parser)]
#[command(name = "bench")]
struct Args {
    /// What to measure
    bench: Bench,
    /// Seconds of each measurement
    #[arg(long, default_value_t = 2.0, conflicts_with = "ops")]
    seconds: f64,
    /// Operations of each measurement, instead of a time
    #[arg(long, value_parser = clap::value_parser!(u64).range(1..))]
    ops: Option<u64>,
    /// Rounds, in which all contestants take turns
    #[arg(long, default_value_t = 5, value_parser = clap::value_parser!(u32).range(1..=1000))]
    rounds: u32,
    /// Bytes of a value
    #[arg(long, default_value_t = 256, value_parser = clap::value_parser!(u32).range(0..=1_048_576))]
    value_bytes: u32,
    /// Where `log` and `counts` make a temporary directory: it must be on the disk to be measured
    #[arg(long, default_value = ".")]
    dir: PathBuf,
    /// Print the result as JSON
    #[arg(long)]
    json: bool,
    /// Also draw the first figure of each row, as an SVG file
    #[arg(long, value_name = "FILE")]
    svg: Option<PathBuf>,
}

#[derive(clap::ValueEnum, Clone, Copy, serde::Serialize)]
#[serde(rename_all = "lowercase")]
enum Bench {
    /// The protocol alone: three nodes in one thread, in memory
    Core,
    /// Three nodes of the driver in one process, in memory
    Driver,
    /// The log alone, synced, beside fdatasync of the same bytes
    Log,
    /// What one write costs in a cluster of three nodes over HTTP, in counts
    Counts,
}

impl Bench {
    fn name(self) -> &'static str {
        match self {
            Bench::Core => "core",
            Bench::Driver => "driver",
            Bench::Log => "log",
            Bench::Counts => "counts",
        }
    }
}

fn main() -> ExitCode {
    let args = <Args as clap::Parser>::parse();
    let span = match args.ops {
        Some(ops) => Span::Operations(ops),
        None => Span::Time(Duration::from_secs_f64(args.seconds.clamp(0.001, 86_400.0))),
    };
    match run(&args, span) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("{error}");
            ExitCode::FAILURE
        }
    }
}

fn run(args: &Args, span: Span) -> Result<(), Error> {
    let value = bytes::Bytes::from(vec![b'x'; args.value_bytes as usize]);
    let rows = match args.bench {
        Bench::Core => layers::core::measure(args.rounds, span, &value),
        Bench::Driver => layers::driver::measure(args.rounds, span, &value),
        Bench::Log => layers::log::measure(args.rounds, span, &value, &args.dir),
        Bench::Counts => layers::counts::measure(args.rounds, span, &value, &args.dir),
    }?;
    table::print(args.bench, args.value_bytes, args.rounds, &rows, args.json);
    if let Some(file) = &args.svg {
        std::fs::write(file, plot::svg(args.bench.name(), &rows))?;
    }
    Ok(())
}
