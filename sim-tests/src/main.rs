//! `cargo run --release -p sim-tests -- hunt`: searches until it is stopped or finds something.

use clap::{Parser, Subcommand};
use sim_tests::hunt::{Hunt, line};
use sim_tests::planted;
use sim_tests::progress::Progress;
use simulator::{Plan, Run};
use std::path::{Path, PathBuf};
use std::process::ExitCode;

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
        /// Stop after so many seeds.
        #[arg(long)]
        seeds: Option<u64>,
        /// The first seed.
        #[arg(long, default_value_t = 1_000_000)]
        from: u64,
        /// Stop after so many events.
        #[arg(long)]
        events: Option<u64>,
        /// Threads, in layer 1. What is found does not depend on it.
        #[arg(long, default_value_t = 1)]
        jobs: usize,
    },
    /// Draws the run of a plan, whether or not it breaks anything, without making it smaller.
    Draw {
        /// 1: the core, the log and a state machine. 2: whole nodes and clients.
        #[arg(long, default_value_t = 1, value_parser = clap::value_parser!(u8).range(1..=2))]
        layer: u8,
        /// The plan, as a failure prints it.
        #[arg(long, conflicts_with = "seed", required_unless_present = "seed")]
        plan: Option<Plan>,
        /// The seed, for the plan that it stands for.
        #[arg(long)]
        seed: Option<u64>,
        /// Where the page goes.
        #[arg(long, default_value = "run.html")]
        to: PathBuf,
    },
    /// What the runner of planted bugs runs in each broken copy.
    #[command(hide = true)]
    Ranges(planted::Search),
    /// Plants each known bug in a copy of the tree, and hunts for it.
    Planted {
        /// Only those whose name contains this.
        #[arg(default_value = "")]
        only: String,
        /// Those in this folder of `planted/` instead: `further`, or `missed`.
        #[arg(long = "in", default_value = "")]
        folder: String,
        #[command(flatten)]
        search: planted::Search,
    },
}

fn main() -> ExitCode {
    match Arguments::parse().command {
        Command::Hunt { layer: 2, from, events, seeds, .. } => hunt_layer_2(from, seeds, events),
        Command::Hunt { from, events, seeds, jobs, .. } => {
            hunt(Hunt { from, events_max: events, seeds_max: seeds, jobs })
        }
        Command::Draw { layer, plan, seed, to } => {
            let plan = plan.unwrap_or_else(|| Plan::from_seed(seed.unwrap_or_default()));
            match layer {
                2 => draw_layer_2(&plan, &to),
                _ => draw(sim_tests::drawn(&plan), &to),
            }
        }
        Command::Ranges(search) => search.run(),
        Command::Planted { only, folder, search } => match planted::run(&folder, &only, &search) {
            Ok(0) => ExitCode::SUCCESS,
            Ok(_) => ExitCode::FAILURE,
            Err(error) => {
                eprintln!("{error}");
                ExitCode::FAILURE
            }
        },
    }
}

#[cfg(all(madsim, feature = "layer2"))]
fn hunt_layer_2(from: u64, seeds: Option<u64>, events: Option<u64>) -> ExitCode {
    sim_tests::layer2::hunt(from, seeds, events)
}

#[cfg(all(madsim, feature = "layer2"))]
fn draw_layer_2(plan: &Plan, to: &Path) -> ExitCode {
    draw(sim_tests::layer2::drawn(plan), to)
}

#[cfg(not(all(madsim, feature = "layer2")))]
fn hunt_layer_2(_from: u64, _seeds: Option<u64>, _events: Option<u64>) -> ExitCode {
    with_layer_2()
}

#[cfg(not(all(madsim, feature = "layer2")))]
fn draw_layer_2(_plan: &Plan, _to: &Path) -> ExitCode {
    with_layer_2()
}

/// The flag was lost: the whole program is built and run again with it.
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
