//! Planted bugs: a tester is only believed for what it finds.
//!
//! Each file in `planted/` and its folders is one small patch that breaks the protocol, the log or the
//! wiring, with a line above it that says how, and perhaps a line `# layer: 2`. The runner applies each to
//! a copy of the tree, builds it, searches several ranges of seeds for a broken promise, and prints a line
//! of the table: found by which check, in how many of the ranges, after how many seeds, or MISSED.

mod search;

pub use search::Search;

use search::{MISSES_MAX, NOTHING};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Instant;
use std::{fs, io};

/// The first line of the table.
pub const HEAD: &str =
    "| planted bug | layer | found by | ranges | seeds | seconds |\n|---|---|---|---|---|---|";

/// What is copied of the tree: all that the search is built from.
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
    "chaos",
    "fuzz",
];

/// Runs every planted bug in a folder of `planted/` (empty: itself) whose name contains `only`, and prints
/// the table. Returns how many were missed.
pub fn run(folder: &str, only: &str, search: &Search) -> io::Result<u32> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("..").canonicalize()?;
    let mut patches: Vec<PathBuf> = fs::read_dir(root.join("sim-tests/planted").join(folder))?
        .map(|entry| Ok(entry?.path()))
        .collect::<io::Result<_>>()?;
    patches.retain(|path| path.extension().is_some_and(|extension| extension == "patch"));
    patches.retain(|path| name(path).contains(only));
    patches.sort();
    let copy = std::env::temp_dir().join(format!("planted-{}", std::process::id()));
    println!("{HEAD}");
    let mut missed = 0;
    make_copy(&root, &copy)?;
    for patch in patches {
        if !apply(&copy, &patch, &[])? {
            println!("| {} | | does not apply any more | | | |", name(&patch));
            missed += 1;
            make_copy(&root, &copy)?;
            continue;
        }
        missed += u32::from(!one(&copy, &patch, search)?);
        // Taken out again, so that only what it touched is built anew.
        if !apply(&copy, &patch, &["--reverse"])? {
            make_copy(&root, &copy)?;
        }
    }
    fs::remove_dir_all(&copy)?;
    Ok(missed)
}

fn name(patch: &Path) -> String {
    patch.file_stem().unwrap_or_default().to_string_lossy().into_owned()
}

fn apply(copy: &Path, patch: &Path, how: &[&str]) -> io::Result<bool> {
    let mut command = Command::new("patch");
    command.args(["-p1", "--silent", "--force"]).args(how).arg("-i").arg(patch).current_dir(copy);
    Ok(command.status()?.success())
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

/// Hunts the bug that is in the copy. Returns whether it was found.
fn one(copy: &Path, patch: &Path, search: &Search) -> io::Result<bool> {
    let name = name(patch);
    let layer =
        if fs::read_to_string(patch)?.lines().any(|line| line == "# layer: 2") { 2 } else { 1 };
    let mut build = Command::new("cargo");
    build.args(["build", "--release", "-p", "sim-tests"]).current_dir(copy);
    if layer == 1 {
        build.arg("--no-default-features");
    }
    // Of a hunt of seconds, building slowly would be the longer part. The copy has its own flags.
    build.env("CARGO_PROFILE_RELEASE_LTO", "off").env("CARGO_TARGET_DIR", copy.join("target"));
    build.env("CARGO_PROFILE_RELEASE_INCREMENTAL", "true").env_remove("RUSTFLAGS");
    let built = build.output()?;
    if !built.status.success() {
        println!("| {name} | {layer} | does not compile any more | | | |");
        return Ok(false);
    }
    let started = Instant::now();
    let number = |value: u64| value.to_string();
    let found = Command::new(copy.join("target/release/sim-tests"))
        .args(["ranges", "--layer", &number(layer), "--from", &number(search.from)])
        .args(["--seeds", &number(search.seeds), "--ranges", &number(search.ranges)])
        .current_dir(copy)
        .env("RUST_BACKTRACE", "0")
        .output()?;
    let seconds = started.elapsed().as_secs();
    let said = String::from_utf8_lossy(&found.stdout).into_owned();
    let (found, row) = row(&said, search.ranges);
    println!("| {name} | {layer} | {row} | {seconds} |");
    Ok(found)
}

/// What the lines of a search come to.
fn row(said: &str, ranges: u64) -> (bool, String) {
    let lines: Vec<(u64, &str)> = said
        .lines()
        .filter_map(|line| line.split_once(' '))
        .filter_map(|(tried, check)| Some((tried.parse().ok()?, check)))
        .collect();
    let mut hits: Vec<(u64, &str)> =
        lines.iter().copied().filter(|(_, check)| *check != NOTHING).collect();
    hits.sort_unstable();
    let mut checks: Vec<&str> = hits.iter().map(|(_, check)| *check).collect();
    checks.sort_unstable();
    checks.dedup();
    let missed = lines.len() - hits.len();
    let found = lines.len() as u64 == ranges && missed as u64 <= MISSES_MAX && !hits.is_empty();
    let median = hits.get(hits.len() / 2).map_or("-".to_owned(), |(tried, _)| tried.to_string());
    let by = if found { checks.join("; ") } else { "MISSED".to_owned() };
    (found, format!("{by} | {} of {} | {median}", hits.len(), lines.len()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn found_is_what_all_ranges_but_one_have_found() {
        assert_eq!(row("7 a\n9 b\n8 a\n", 3), (true, "a; b | 3 of 3 | 8".to_owned()));
        assert_eq!(row("7 a\n2000 nothing\n", 2), (true, "a | 1 of 2 | 7".to_owned()));
        assert!(!row("2000 nothing\n2000 nothing\n", 10).0);
        assert!(!row("2000 nothing\n", 1).0);
        assert!(!row("7 a\n", 2).0, "it ended early");
    }
}
