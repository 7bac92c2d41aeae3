//! `cargo run --release -p sim-tests -- hunt`: searches until it is stopped or finds something.

use clap::{Parser, Subcommand};
use sim_tests::hunt::{Hunt, line};
use sim_tests::limit::SEED_SECONDS_MAX;
use sim_tests::planted;
use sim_tests::progress::Progress;
use simulator::{Plan, Run};
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Duration;

#[derive(Parser)]
#[command(about = "Searches simulated runs for broken promises")]
struct Arguments {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Runs seed after seed until something breaks or Ctrl-C is pressed.
    Hunt {
        /// 1: the core, the log and a state machine. 2: whole nodes and clients.
        #[arg(long, default_value_t = 1, value_parser = clap::value_parser!(u8).range(1..=2))]
        layer: u8,
        /// Stop after this many seeds.
        #[arg(long)]
        seeds: Option<u64>,
        /// The first seed.
        #[arg(long, default_value_t = 1_000_000)]
        from: u64,
        /// Stop after this many events.
        #[arg(long)]
        events: Option<u64>,
        /// Threads, in layer 1. The findings do not depend on it.
        #[arg(long, default_value_t = 1)]
        jobs: usize,
        /// Seconds that one seed may run. One that runs for longer is a finding and ends the hunt.
        #[arg(long, default_value_t = SEED_SECONDS_MAX)]
        seed_seconds: u64,
    },
    /// Draws the run of a plan, whether or not it breaks anything, without making it smaller.
    Draw {
        /// 1: the core, the log and a state machine. 2: whole nodes and clients.
        #[arg(long, default_value_t = 1, value_parser = clap::value_parser!(u8).range(1..=2))]
        layer: u8,
        /// The plan, as a failure prints it.
        #[arg(long, conflicts_with = "seed", required_unless_present = "seed")]
        plan: Option<Plan>,
        /// The seed from which to derive the plan.
        #[arg(long)]
        seed: Option<u64>,
        /// Path of the page.
        #[arg(long, default_value = "run.html")]
        to: PathBuf,
    },
    /// Searches one range of seeds. The runner of planted bugs calls this in each broken copy.
    #[command(hide = true)]
    Range {
        #[arg(long)]
        layer: u8,
        #[command(flatten)]
        search: planted::Search,
    },
    /// Plants each known bug in a copy of the tree, and hunts for it.
    Planted {
        /// Only those whose name contains one of these.
        only: Vec<String>,
        /// The folder: without this, `sim-tests/planted` itself, the bugs of the literature.
        /// `further` has those that reviewers wrote to get past the simulator and that it finds,
        /// `missed` those that it does not find.
        #[arg(long = "in", default_value = "", hide_default_value = true)]
        #[arg(value_parser = ["", "further", "missed"], hide_possible_values = true)]
        #[arg(value_name = "further|missed")]
        folder: String,
        /// Folder for the copy of the tree. It is kept, so that the next build is faster.
        #[arg(long)]
        copy: Option<PathBuf>,
        /// Number of ranges. A bug counts as found if at most one range misses it and at least one
        /// finds it.
        #[arg(long, default_value_t = 10)]
        ranges: u64,
        /// File with a table of results. Bugs that have a row there are not hunted again, and each
        /// result is added.
        #[arg(long)]
        results: Option<PathBuf>,
        /// Hunt only this part of the bugs, for several processes at once, each with a copy of its
        /// own.
        #[arg(long, default_value = "1/1")]
        part: planted::Part,
        #[command(flatten)]
        search: planted::Search,
    },
}

fn main() -> ExitCode {
    match Arguments::parse().command {
        Command::Hunt { layer, from, events, seeds, jobs, seed_seconds } => {
            let seed_max = Duration::from_secs(seed_seconds);
            let hunted = Hunt { from, events_max: events, seeds_max: seeds, jobs, seed_max };
            match layer {
                2 => hunt_layer_2(hunted),
                _ => hunt(hunted),
            }
        }
        Command::Draw { layer, plan, seed, to } => {
            let plan = plan.unwrap_or_else(|| Plan::from_seed(seed.unwrap_or_default()));
            match layer {
                2 => draw_layer_2(&plan, &to),
                _ => draw(sim_tests::drawn(&plan), &to),
            }
        }
        Command::Range { layer, search } => search.run(layer),
        Command::Planted { only, folder, copy, ranges, results, part, search } => {
            let which = planted::Which { folder, only, copy, results, part };
            plant(&which, ranges, &search)
        }
    }
}

fn plant(which: &planted::Which, ranges: u64, search: &planted::Search) -> ExitCode {
    match planted::run(which, ranges, search) {
        Ok(0) => ExitCode::SUCCESS,
        Ok(_) => ExitCode::FAILURE,
        Err(error) => {
            eprintln!("{error}");
            ExitCode::FAILURE
        }
    }
}

#[cfg(all(madsim, feature = "layer2"))]
fn hunt_layer_2(hunt: Hunt) -> ExitCode {
    sim_tests::layer2::hunt(hunt)
}

#[cfg(all(madsim, feature = "layer2"))]
fn draw_layer_2(plan: &Plan, to: &Path) -> ExitCode {
    draw(sim_tests::layer2::drawn(plan), to)
}

#[cfg(not(all(madsim, feature = "layer2")))]
fn hunt_layer_2(_hunt: Hunt) -> ExitCode {
    with_layer_2()
}

#[cfg(not(all(madsim, feature = "layer2")))]
fn draw_layer_2(_plan: &Plan, _to: &Path) -> ExitCode {
    with_layer_2()
}

/// The flag was lost: builds and runs the whole program again with it.
#[cfg(not(all(madsim, feature = "layer2")))]
fn with_layer_2() -> ExitCode {
    eprintln!("built without --cfg madsim, which layer 2 takes: building again with it");
    let arguments = std::env::args_os().skip(1);
    let status = sim_tests::rerun::cargo("run").arg("--").args(arguments).status();
    match status {
        Ok(status) if status.success() => ExitCode::SUCCESS,
        Ok(_) => ExitCode::FAILURE,
        Err(error) => {
            eprintln!("cargo does not start: {error}");
            ExitCode::FAILURE
        }
    }
}

fn draw((run, page): (Run, String), to: &Path) -> ExitCode {
    println!("{}", simulator::page::summary(&run));
    if let Some(broken) = &run.violation {
        println!("broken: {}: {}", broken.check, broken.detail);
    }
    match std::fs::write(to, page) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("cannot write {}: {error}", to.display());
            ExitCode::FAILURE
        }
    }
}

fn hunt(hunt: Hunt) -> ExitCode {
    let mut progress = Progress::begin();
    let stop = progress.stop();
    let batch = hunt.run(&stop, |batch| progress.show(|passed| line(batch, passed)));
    let said = line(&batch, progress.passed());
    progress.end(&said, &batch.marks, &batch.marks.missed(), batch.failure.as_ref())
}
