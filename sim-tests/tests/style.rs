//! Checks some house rules for comments and documents: no line of them is longer than 100 columns,
//! and none uses a phrase that readers found hard to understand.

use std::fs;
use std::path::{Path, PathBuf};

const COLUMNS_MAX: usize = 100;

/// Phrases that comments and documents must not contain, in lower case.
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

/// All files of the workspace whose names end with `ending`.
fn files(ending: &str) -> Vec<PathBuf> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("..");
    let mut found = Vec::new();
    let mut open = vec![root];
    while let Some(directory) = open.pop() {
        for entry in fs::read_dir(&directory).expect("it is there") {
            let path = entry.expect("it can be read").path();
            let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
            if path.is_dir() && name != "target" && !name.starts_with('.') {
                open.push(path);
            } else if name.ends_with(ending) {
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

/// The banned phrases in a line.
fn banned(line: &str) -> impl Iterator<Item = &'static str> {
    let lower = line.to_lowercase();
    BANNED.into_iter().filter(move |phrase| lower.contains(*phrase))
}

fn is_wide(line: &str) -> bool {
    line.chars().count() > COLUMNS_MAX
}

fn assert_none(faults: &[String]) {
    assert!(faults.is_empty(), "{} lines:\n{}", faults.len(), faults.join("\n"));
}

#[test]
fn comments_are_narrow_and_plain() {
    let mut faults = Vec::new();
    for path in files(".rs") {
        let text = fs::read_to_string(&path).expect("it can be read");
        for (number, line) in text.lines().enumerate() {
            let at = format!("{}:{}", path.display(), number + 1);
            let Some(comment) = comment(line) else { continue };
            if is_wide(line) {
                faults.push(format!("{at}: longer than {COLUMNS_MAX} columns"));
            }
            faults.extend(banned(comment).map(|phrase| format!("{at}: \"{phrase}\"")));
        }
    }
    assert_none(&faults);
}

/// Tables, code and lines with a link may be longer, since they cannot be broken. Tables and code
/// name checks and patches, so their words are not checked either.
#[test]
fn documents_are_narrow_and_plain() {
    let mut faults = Vec::new();
    for path in files(".md") {
        let text = fs::read_to_string(&path).expect("it can be read");
        let mut in_code = false;
        for (number, line) in text.lines().enumerate() {
            let at = format!("{}:{}", path.display(), number + 1);
            if line.trim_start().starts_with("```") {
                in_code = !in_code;
                continue;
            }
            if in_code || line.starts_with('|') {
                continue;
            }
            if is_wide(line) && !line.contains("](") {
                faults.push(format!("{at}: longer than {COLUMNS_MAX} columns"));
            }
            faults.extend(banned(line).map(|phrase| format!("{at}: \"{phrase}\"")));
        }
    }
    assert_none(&faults);
}
