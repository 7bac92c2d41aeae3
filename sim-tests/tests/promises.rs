//! Every check has a sentence that says what it means, for the page of whoever sees it broken.

use simulator::page::meaning;
use std::fs;
use std::path::{Path, PathBuf};

/// Where checks are made, from the root of the workspace.
const FOLDERS: &[&str] = &["simulator/src", "transport-sim/src", "sim-tests/src"];

/// What comes before the name of a check.
const BEFORE: &[&str] = &[
    "violation(",
    "violation::<()>(",
    "check: ",
    "check = ",
    "CHECK: &str = ",
    "CONSENT: &str = ",
    "FIELDS: &str = ",
    "MISSING: &str = ",
    "PANICS: &str = ",
];

fn sources(folder: &Path, into: &mut Vec<PathBuf>) {
    for entry in fs::read_dir(folder).expect("it is there") {
        let path = entry.expect("it can be read").path();
        match path.is_dir() {
            true => sources(&path, into),
            false if path.extension().is_some_and(|ending| ending == "rs") => into.push(path),
            false => {}
        }
    }
}

/// The names of checks in a file, but for its tests.
fn checks(text: &str) -> Vec<String> {
    let code = text.split("#[cfg(test)]").next().unwrap_or_default();
    let mut names = Vec::new();
    for before in BEFORE {
        for after in code.split(before).skip(1) {
            let literal = after.trim_start().strip_prefix('"');
            names.extend(literal.and_then(|rest| rest.split('"').next()).map(str::to_owned));
        }
    }
    names
}

#[test]
fn every_check_has_a_sentence() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).parent().expect("a workspace");
    let mut files = Vec::new();
    FOLDERS.iter().for_each(|folder| sources(&root.join(folder), &mut files));
    let texts = files.iter().map(|path| fs::read_to_string(path).expect("it is text"));
    let names: Vec<String> = texts.flat_map(|text| checks(&text)).collect();
    assert!(names.len() > 60, "only {} checks were found", names.len());
    // What is said of a run that broke nothing.
    let without = names.iter().filter(|name| *name != "nothing" && meaning(name).is_none());
    assert_eq!(without.collect::<Vec<_>>(), Vec::<&String>::new(), "they have no sentence");
}
