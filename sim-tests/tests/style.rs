//! Checks some house rules for comments: no comment line is longer than 100 columns, and no comment
//! uses a phrase that readers found hard to understand.

use std::fs;
use std::path::{Path, PathBuf};

const COLUMNS_MAX: usize = 100;

/// Phrases that comments must not contain, in lower case.
const BANNED: [&str; 12] = [
    "so many",
    "so long",
    "is looked",
    "otherwise than",
    "manieth",
    "whoever",
    "hears of",
    "is told",
    "believes",
    "in good order",
    "no more than it",
    "how many so",
];

/// All Rust files of the workspace.
fn sources() -> Vec<PathBuf> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("..");
    let mut found = Vec::new();
    let mut open = vec![root];
    while let Some(directory) = open.pop() {
        for entry in fs::read_dir(&directory).expect("it is there") {
            let path = entry.expect("it can be read").path();
            let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
            if path.is_dir() && name != "target" && !name.starts_with('.') {
                open.push(path);
            } else if name.ends_with(".rs") {
                found.push(path);
            }
        }
    }
    found.sort();
    found
}

/// The text of a line's comment, if all of the line is one.
fn comment(line: &str) -> Option<&str> {
    line.trim_start().strip_prefix("//").map(|text| text.trim_start_matches(['/', '!']))
}

#[test]
fn comments_are_narrow_and_plain() {
    let mut faults = Vec::new();
    for path in sources() {
        let text = fs::read_to_string(&path).expect("it can be read");
        for (number, line) in text.lines().enumerate() {
            let at = || format!("{}:{}", path.display(), number + 1);
            let Some(comment) = comment(line) else { continue };
            if line.chars().count() > COLUMNS_MAX {
                faults.push(format!("{}: longer than {COLUMNS_MAX} columns", at()));
            }
            let lower = comment.to_lowercase();
            for phrase in BANNED {
                if lower.contains(phrase) {
                    faults.push(format!("{}: \"{phrase}\"", at()));
                }
            }
        }
    }
    assert!(faults.is_empty(), "{} lines:\n{}", faults.len(), faults.join("\n"));
}
