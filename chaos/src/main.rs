//! Attacks the `raft-kv` binary until the time is over, then prints a table and writes a report.

use chaos::scenarios::{self, Scenario};
use chaos::{Outcome, Stage, binary, live, run, summary};
use clap::Parser;
use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

#[derive(Parser)]
#[command(about = "Attacks the raft-kv binary with real processes, files and sockets")]
struct Args {
    /// Run for this long; every scenario has at least one round [default: one round of each]
    #[arg(long)]
    minutes: Option<f64>,
    /// Only these scenarios, separated by commas
    #[arg(long, value_name = "NAME", value_delimiter = ',')]
    scenario: Vec<String>,
    /// Rounds of each scenario
    #[arg(long)]
    rounds: Option<u64>,
    /// The seed of the first round; each further round has the next
    #[arg(long, default_value_t = 1)]
    seed: u64,
    /// The binary to attack [default: that of this workspace, built if needed]
    #[arg(long)]
    binary: Option<PathBuf>,
    /// Directory for the report and the files of failed rounds
    #[arg(long, default_value = "target/chaos")]
    out: PathBuf,
    /// Rounds that run at the same time; too many for the machine cause false alarms
    #[arg(long, default_value_t = 1)]
    jobs: usize,
    /// Print the scenarios and exit
    #[arg(long)]
    list: bool,
}

fn main() -> ExitCode {
    let args = Args::parse();
    match attack(&args) {
        _ if live::interrupted() => ExitCode::from(130),
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::from(1),
        Err(error) => {
            eprintln!("chaos: {error}");
            ExitCode::from(2)
        }
    }
}

fn attack(args: &Args) -> Result<bool, String> {
    let mut chosen = scenarios::all();
    if args.list {
        for scenario in &chosen {
            println!("{:<22} {}", scenario.name, scenario.about);
        }
        return Ok(true);
    }
    for name in &args.scenario {
        if !chosen.iter().any(|scenario| scenario.name == name) {
            return Err(format!("there is no scenario {name}; --list prints all"));
        }
    }
    if !args.scenario.is_empty() {
        chosen.retain(|scenario| args.scenario.iter().any(|name| name == scenario.name));
    }
    ctrlc::set_handler(live::interrupt).map_err(|error| error.to_string())?;
    let program = match &args.binary {
        Some(binary) => binary.canonicalize().map_err(|e| format!("{}: {e}", binary.display()))?,
        None => binary::find()?,
    };
    std::fs::create_dir_all(&args.out).map_err(|e| format!("{}: {e}", args.out.display()))?;
    let stage = Stage::new(program, Some(args.out.clone()))?;
    let limit = args.minutes.map(|minutes| Duration::from_secs_f64(minutes * 60.0));
    let rounds = args.rounds.unwrap_or(if limit.is_some() { u64::MAX } else { 1 });
    let outcomes = rounds_of(&stage, &chosen, args, rounds, limit);
    println!("\n{}", summary::table(&outcomes));
    let page = args.out.join("report.html");
    std::fs::write(&page, chaos::report(&outcomes)).map_err(|e| format!("{page:?}: {e}"))?;
    println!("report: {}", page.display());
    Ok(outcomes.iter().all(|outcome| outcome.violations.is_empty()))
}

/// Runs rounds of each scenario in turn, until the time is over. Returns the outcomes in the order
/// of their seeds.
fn rounds_of(
    stage: &Stage,
    chosen: &[Scenario],
    args: &Args,
    rounds: u64,
    limit: Option<Duration>,
) -> Vec<Outcome> {
    let (begun, next, outcomes) = (Instant::now(), AtomicU64::new(0), Mutex::new(Vec::new()));
    let worker = || loop {
        let turn = next.fetch_add(1, Ordering::Relaxed);
        let (round, which) = (turn / chosen.len() as u64, turn as usize % chosen.len());
        let over = limit.is_some_and(|limit| begun.elapsed() >= limit);
        if live::interrupted() || round >= rounds || (over && round > 0) {
            return;
        }
        let outcome = run(stage, &chosen[which], args.seed + turn);
        report_round(&outcome);
        outcomes.lock().unwrap_or_else(PoisonError::into_inner).push(outcome);
    };
    std::thread::scope(|scope| {
        for _ in 0..args.jobs.max(1) {
            scope.spawn(worker);
        }
    });
    let mut outcomes = outcomes.into_inner().unwrap_or_else(PoisonError::into_inner);
    outcomes.sort_by_key(|outcome: &Outcome| outcome.seed);
    outcomes
}

fn report_round(outcome: &Outcome) {
    let (name, seed, seconds) = (outcome.scenario, outcome.seed, outcome.time.as_secs_f64());
    let done = outcome.counts.done;
    match &outcome.skipped {
        Some(why) => println!("{name:<22} seed {seed:<5} skipped: {why}"),
        None if outcome.violations.is_empty() => {
            println!("{name:<22} seed {seed:<5} ok, {done} operations in {seconds:.1} s");
        }
        None => {
            println!("{name:<22} seed {seed:<5} VIOLATED, {done} operations in {seconds:.1} s");
            for violation in &outcome.violations {
                println!("    {violation}");
            }
        }
    }
}
