//! Planted bugs: they measure what the simulator finds.
//!
//! Each file in `planted/` and its folders is one small patch that breaks the protocol, the log or
//! the wiring, with a line above it that says how, and perhaps a line `# layer: 2`. The runner
//! applies each to a copy of the tree, builds it, searches several ranges of seeds for a broken
//! promise, and prints a line of the table: found by which check, in how many of the ranges, after
//! how many seeds, or MISSED; then the first seed that shows it and the message. A seed that does
//! not end is a finding too: [`crate::limit::TOO_LONG`]. [`Results`] keeps the table, so that a
//! measurement of all bugs, which takes hours, can go on where it was stopped.

mod results;
mod search;

pub use results::Results;
pub use search::Search;

use results::Row;
use search::{Finding, NOTHING, OUT_OF_TIME};
use std::os::unix::process::ExitStatusExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::str::FromStr;
use std::time::Instant;
use std::{fs, io};

/// The first lines of the table that is printed.
const HEAD: &str = "| planted bug | layer | found by | ranges | seeds | first seed | code of \
                    | seconds | what it says |\n|---|---|---|---|---|---|---|---|---|";

/// A planted bug counts as found if at most this many ranges miss it.
const MISSES_MAX: u64 = 1;
/// The most characters of a message in the table.
const DETAIL_CHARS: usize = 160;
/// The finding if the process of a search ended by a signal of its own.
const ENDED: &str = "the process ended";
/// Signals that come from outside, and so are no finding: SIGHUP, SIGINT, SIGKILL, SIGTERM.
const SENT_BY_OTHERS: [i32; 4] = [1, 2, 9, 15];

/// The parts of the tree that are copied in addition to the members of the workspace.
const PARTS: [&str; 3] = ["Cargo.toml", "Cargo.lock", ".cargo"];

/// Which bugs to plant, and where.
#[derive(Clone, Debug)]
pub struct Which {
    /// The folder of `planted/`; empty: itself.
    pub folder: String,
    /// Only bugs whose name contains one of these; all if the list is empty.
    pub only: Vec<String>,
    /// Folder for the copy of the tree. If it is given, the copy is kept.
    pub copy: Option<PathBuf>,
    /// The file of [`Results`]. Bugs that have a row there are not hunted again.
    pub results: Option<PathBuf>,
    /// The share of these bugs to hunt, for processes that run at the same time.
    pub part: Part,
}

/// One of several parts of a list, as `1/2`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Part {
    at: usize,
    of: usize,
}

impl FromStr for Part {
    type Err = &'static str;

    fn from_str(text: &str) -> Result<Part, Self::Err> {
        let numbers = text.split_once('/').map(|(at, of)| (at.parse(), of.parse()));
        match numbers {
            Some((Ok(at), Ok(of))) if (1..=of).contains(&at) => Ok(Part { at, of }),
            _ => Err("not a part such as 1/2"),
        }
    }
}

/// Runs planted bugs, and prints the table. Returns how many were missed.
pub fn run(which: &Which, ranges: u64, search: &Search) -> io::Result<u32> {
    let Which { folder, only, copy, results, part } = which;
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("..").canonicalize()?;
    let mut patches: Vec<PathBuf> = fs::read_dir(root.join("sim-tests/planted").join(folder))?
        .map(|entry| Ok(entry?.path()))
        .collect::<io::Result<_>>()?;
    patches.retain(|path| path.extension().is_some_and(|extension| extension == "patch"));
    patches.retain(|path| {
        only.is_empty() || only.iter().any(|part| name(path).contains(part.as_str()))
    });
    patches.sort();
    let results = results.as_deref().map(Results::in_file);
    if let Some(results) = &results {
        let measured = results.read()?;
        patches.retain(|path| !measured.contains_key(&full_name(folder, path)));
    }
    let patches = patches.into_iter().skip(part.at - 1).step_by(part.of);
    let code_of = code_of(&root)?;
    let own = std::env::temp_dir().join(format!("planted-{}", std::process::id()));
    let is_kept = copy.is_some();
    let copy = copy.clone().unwrap_or(own);
    println!("{HEAD}");
    let mut missed = 0;
    make_copy(&root, &copy)?;
    for patch in patches {
        if !apply(&copy, &patch, &[])? {
            println!("| {} | | does not apply any more | | | | | | |", name(&patch));
            missed += 1;
            make_copy(&root, &copy)?;
            continue;
        }
        let (found, row, rest) = one(&copy, &patch, ranges, search)?;
        let row = Row { bug: full_name(folder, &patch), code_of: code_of.clone(), ..row };
        println!("{row} {rest} |");
        if let Some(results) = &results {
            results.add(row)?;
        }
        missed += u32::from(!found);
        // Reverses the patch, so that only the files that it touched are rebuilt.
        if !apply(&copy, &patch, &["--reverse"])? {
            make_copy(&root, &copy)?;
        }
    }
    if !is_kept {
        fs::remove_dir_all(&copy)?;
    }
    Ok(missed)
}

fn name(patch: &Path) -> String {
    patch.file_stem().unwrap_or_default().to_string_lossy().into_owned()
}

/// The name of a bug in the table, with its folder.
fn full_name(folder: &str, patch: &Path) -> String {
    if folder.is_empty() { name(patch) } else { format!("{folder}/{}", name(patch)) }
}

/// The day of the last commit, which says what code was measured.
fn code_of(root: &Path) -> io::Result<String> {
    let mut command = Command::new("git");
    command.args(["log", "-1", "--format=%cs"]).current_dir(root);
    Ok(String::from_utf8_lossy(&command.output()?.stdout).trim().to_owned())
}

fn apply(copy: &Path, patch: &Path, how: &[&str]) -> io::Result<bool> {
    let mut command = Command::new("patch");
    command.args(["-p1", "--silent", "--force"]).args(how).arg("-i").arg(patch).current_dir(copy);
    Ok(command.status()?.success())
}

/// Copies the tree, but keeps the build output of an earlier copy.
fn make_copy(root: &Path, copy: &Path) -> io::Result<()> {
    fs::create_dir_all(copy)?;
    let manifest = fs::read_to_string(root.join("Cargo.toml"))?;
    for part in PARTS.into_iter().chain(members(&manifest)) {
        let _ = fs::remove_dir_all(copy.join(part));
        let copied = Command::new("cp").arg("-r").arg(root.join(part)).arg(copy).status()?;
        if !copied.success() {
            return Err(io::Error::other(format!("cannot copy {part}")));
        }
    }
    Ok(())
}

/// The members of the workspace: it does not build if one is missing.
fn members(manifest: &str) -> impl Iterator<Item = &str> {
    let list = manifest.split_once("members = [").and_then(|(_, rest)| rest.split_once(']'));
    list.map_or("", |(list, _)| list).split('"').skip(1).step_by(2)
}

/// Hunts the bug that is in the copy. Returns whether it was found, its row, and what is printed
/// after that.
fn one(copy: &Path, patch: &Path, ranges: u64, search: &Search) -> io::Result<(bool, Row, String)> {
    let layer =
        if fs::read_to_string(patch)?.lines().any(|line| line == "# layer: 2") { 2 } else { 1 };
    let mut build = Command::new("cargo");
    build.args(["build", "--release", "-p", "sim-tests"]).current_dir(copy);
    if layer == 1 {
        build.arg("--no-default-features");
    }
    // A hunt may take only seconds, so the build must be fast. The copy has its own flags.
    build.env("CARGO_PROFILE_RELEASE_LTO", "off").env("CARGO_TARGET_DIR", copy.join("target"));
    build.env("CARGO_PROFILE_RELEASE_INCREMENTAL", "true").env_remove("RUSTFLAGS");
    let built = build.output()?;
    if !built.status.success() {
        let found_by = "does not compile any more".to_owned();
        return Ok((false, Row { layer, found_by, ..Row::default() }, " |".to_owned()));
    }
    let started = Instant::now();
    let mut findings = Vec::new();
    for range in 0..ranges {
        let spent = started.elapsed().as_secs();
        let search = Search {
            from: search.from + range * search.seeds,
            bug_seconds: search.bug_seconds.saturating_sub(spent),
            ..search.clone()
        };
        let finding = in_range(copy, layer, &search)?;
        let is_over = finding.check == OUT_OF_TIME;
        findings.push(finding);
        let misses = findings.iter().filter(|finding| !finding.is_hit()).count();
        if is_over || misses as u64 > MISSES_MAX {
            break;
        }
    }
    let (found, row, detail) = row(&findings, ranges);
    let seconds = started.elapsed().as_secs();
    Ok((found, Row { layer, ..row }, format!("{seconds} | {detail}")))
}

/// Searches one range, in a process of its own: a planted bug may crash it.
fn in_range(copy: &Path, layer: u8, search: &Search) -> io::Result<Finding> {
    let number = |value: u64| value.to_string();
    let output = Command::new(copy.join("target/release/sim-tests"))
        .args(["range", "--layer", &layer.to_string(), "--from", &number(search.from)])
        .args(["--seeds", &number(search.seeds), "--seed-seconds", &number(search.seed_seconds)])
        .args(["--bug-seconds", &number(search.bug_seconds)])
        .current_dir(copy)
        .env("RUST_BACKTRACE", "0")
        .output()?;
    if let Some(finding) = Finding::read(&String::from_utf8_lossy(&output.stdout)) {
        return Ok(finding);
    }
    let seed = search.from;
    match output.status.signal() {
        // A signal of the program itself: an abort, a stack overflow.
        Some(signal) if !SENT_BY_OTHERS.contains(&signal) => {
            let detail = output.status.to_string();
            Ok(Finding { tried: 1, seed, check: ENDED.to_owned(), detail })
        }
        _ => Err(io::Error::other(format!("the search from seed {seed}: {}", output.status))),
    }
}

impl Finding {
    fn is_hit(&self) -> bool {
        self.check != NOTHING && self.check != OUT_OF_TIME
    }
}

/// The row of the table: the checks that found the bug, in how many ranges, after how many seeds,
/// the first seed that shows it. Then the message.
fn row(findings: &[Finding], ranges: u64) -> (bool, Row, String) {
    let mut hits: Vec<&Finding> = findings.iter().filter(|finding| finding.is_hit()).collect();
    let first = hits.first().copied();
    let detail = first.map_or(String::new(), |first| {
        let detail: String = first.detail.replace('|', "/").chars().take(DETAIL_CHARS).collect();
        format!("{}: {detail}", first.check)
    });
    hits.sort_unstable();
    let mut checks: Vec<&str> = hits.iter().map(|hit| hit.check.as_str()).collect();
    checks.sort_unstable();
    checks.dedup();
    let is_over = findings.last().is_some_and(|last| last.check == OUT_OF_TIME);
    // A range that was cut short has missed nothing.
    let searched = findings.len() - usize::from(is_over);
    let found = searched as u64 == ranges
        && (searched - hits.len()) as u64 <= MISSES_MAX
        && !hits.is_empty();
    let tried: u64 = findings.iter().map(|finding| finding.tried).sum();
    let mut found_by = checks.join("; ");
    if is_over {
        let so_far = if hits.is_empty() { "" } else { ", " };
        found_by += &format!("{so_far}{OUT_OF_TIME} after {tried} seeds");
    } else if !found {
        found_by = format!("MISSED in {tried} seeds");
    }
    let row = Row {
        found_by,
        ranges: format!("{} of {searched}", hits.len()),
        seeds: hits.get(hits.len() / 2).map_or("-".to_owned(), |hit| hit.tried.to_string()),
        first_seed: first.map_or("-".to_owned(), |first| first.seed.to_string()),
        ..Row::default()
    };
    (found, row, detail)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::limit::TOO_LONG;

    fn found(tried: u64, check: &str) -> Finding {
        let detail = format!("a|b {tried}");
        Finding { tried, seed: tried + 100, check: check.to_owned(), detail }
    }

    #[test]
    fn found_is_what_all_ranges_but_one_have_found() {
        let ranges = [found(7, "a"), found(9, "b"), found(8, "a")];
        let (is_found, said, detail) = row(&ranges, 3);
        assert!(is_found);
        assert_eq!(said.to_string(), "|  | 0 | a; b | 3 of 3 | 8 | 107 |  |");
        assert_eq!(detail, "a: a/b 7");
        let nothing = || found(2_000, NOTHING);
        assert!(row(&[found(7, "a"), nothing()], 2).0);
        assert!(!row(&[nothing(), nothing()], 10).0);
        assert!(!row(&[nothing()], 1).0);
        assert!(!row(&[found(7, "a")], 2).0, "it ended early");
    }

    #[test]
    fn the_members_are_those_of_the_workspace() {
        let manifest = include_str!("../../Cargo.toml");
        let members: Vec<&str> = members(manifest).collect();
        assert!(members.contains(&"raft") && members.contains(&"sim-tests"), "{members:?}");
        let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("..");
        for member in members {
            assert!(root.join(member).join("Cargo.toml").is_file(), "{member}");
        }
    }

    #[test]
    fn a_seed_that_does_not_end_is_found_and_a_search_that_does_not_is_not() {
        let (is_found, said, detail) = row(&[found(7, TOO_LONG)], 1);
        assert!(is_found);
        assert_eq!((said.ranges.as_str(), said.found_by.as_str()), ("1 of 1", "ran too long"));
        assert_eq!(detail, "ran too long: a/b 7");
        let (is_found, said, _) = row(&[found(7, "a"), found(9, OUT_OF_TIME)], 2);
        assert!(!is_found);
        assert_eq!(said.ranges, "1 of 1", "the range that was cut short does not count");
        assert_eq!(said.found_by, "a, out of time after 16 seeds");
        let (_, said, _) = row(&[found(9, OUT_OF_TIME)], 2);
        assert_eq!(said.found_by, "out of time after 9 seeds");
    }

    #[test]
    fn a_part_is_one_of_so_many() {
        assert_eq!("2/3".parse(), Ok(Part { at: 2, of: 3 }));
        for wrong in ["", "2", "0/2", "3/2", "1/0", "a/b"] {
            assert!(wrong.parse::<Part>().is_err(), "{wrong}");
        }
    }
}
