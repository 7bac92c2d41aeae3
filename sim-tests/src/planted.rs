//! Planted bugs: a tester is only believed for what it finds.
//!
//! Each file in `planted/` is one small patch that breaks the protocol or the log, with a line above it
//! that says how. The runner applies each to a copy of the tree, builds it, hunts in it within a budget
//! of events, and prints a line of the table: found by which check, after how many seeds and seconds,
//! or MISSED.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Instant;
use std::{fs, io};

/// The first line of the table.
pub const HEAD: &str = "| planted bug | found by | seeds | seconds |\n|---|---|---|---|";

/// What is copied of the tree: all that the hunt is built from.
const PARTS: &[&str] = &[
    "Cargo.toml",
    "Cargo.lock",
    ".cargo",
    "raft",
    "storage",
    "driver",
    "transport-http",
    "simulator",
    "transport-sim",
    "sim-tests",
    "kv",
];

/// Runs every planted bug whose name contains `only`, and prints the table. Returns how many were
/// missed.
pub fn run(only: &str, events: u64, from: u64) -> io::Result<u32> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("..").canonicalize()?;
    let mut patches: Vec<PathBuf> = fs::read_dir(root.join("sim-tests/planted"))?
        .map(|entry| Ok(entry?.path()))
        .collect::<io::Result<_>>()?;
    patches.retain(|path| path.to_string_lossy().contains(only));
    patches.sort();
    let copy = std::env::temp_dir().join(format!("planted-{}", std::process::id()));
    println!("{HEAD}");
    let mut missed = 0;
    for patch in patches {
        make_copy(&root, &copy)?;
        missed += u32::from(!one(&copy, &patch, events, from)?);
    }
    fs::remove_dir_all(&copy)?;
    Ok(missed)
}

/// Copies the tree, but keeps what was built in the copy before.
fn make_copy(root: &Path, copy: &Path) -> io::Result<()> {
    fs::create_dir_all(copy)?;
    for part in PARTS {
        let _ = fs::remove_dir_all(copy.join(part));
        let copied = Command::new("cp").arg("-r").arg(root.join(part)).arg(copy).status()?;
        if !copied.success() {
            return Err(io::Error::other(format!("cannot copy {part}")));
        }
    }
    Ok(())
}

/// Hunts one bug. Returns whether it was found.
fn one(copy: &Path, patch: &Path, events: u64, from: u64) -> io::Result<bool> {
    let name = patch.file_stem().unwrap_or_default().to_string_lossy().into_owned();
    let applied = Command::new("patch")
        .args(["-p1", "--silent", "-i"])
        .arg(patch)
        .current_dir(copy)
        .status()?;
    if !applied.success() {
        println!("| {name} | does not apply any more | | |");
        return Ok(false);
    }
    let mut build = Command::new("cargo");
    build.args(["build", "--release", "-p", "sim-tests"]).current_dir(copy);
    // Of a hunt of seconds, linking slowly would be the longer part.
    build.env("CARGO_PROFILE_RELEASE_LTO", "off").env("CARGO_TARGET_DIR", copy.join("target"));
    let built = build.output()?;
    if !built.status.success() {
        println!("| {name} | does not compile any more | | |");
        return Ok(false);
    }
    let started = Instant::now();
    let hunt = Command::new(copy.join("target/release/sim-tests"))
        .args(["hunt", "--from", &from.to_string(), "--events", &events.to_string()])
        .current_dir(copy)
        .env("RUST_BACKTRACE", "0")
        .output()?;
    let seconds = started.elapsed().as_secs_f64();
    let said = String::from_utf8_lossy(&hunt.stdout).into_owned();
    let seeds = said.split_whitespace().next().unwrap_or("?").to_owned();
    let check = said
        .lines()
        .find_map(|line| line.strip_prefix("broken: "))
        .and_then(|line| line.split(": ").next())
        .map(str::to_owned)
        .or_else(|| (!hunt.status.success()).then(|| "an assertion".to_owned()));
    match &check {
        Some(check) => println!("| {name} | {check} | {seeds} | {seconds:.0} |"),
        None => println!("| {name} | MISSED | {seeds} | {seconds:.0} |"),
    }
    Ok(check.is_some())
}
