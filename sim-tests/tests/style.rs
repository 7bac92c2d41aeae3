//! Checks some house rules for comments and documents: no line of them is longer than 100 columns,
//! none uses a phrase that readers found hard to understand, and each link to a file or a heading
//! leads somewhere.

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

/// The targets of the links in a document that are files or headings of this tree.
fn local_links(text: &str) -> impl Iterator<Item = &str> {
    let targets = text.split("](").skip(1).filter_map(|rest| rest.split(')').next());
    targets.filter(|target| !target.contains("://") && !target.starts_with("mailto:"))
}

/// The part of a link after the `#` that leads to this heading.
fn anchor(heading: &str) -> String {
    let kept = heading.trim_start_matches('#').trim().chars().filter_map(|c| match c {
        ' ' => Some('-'),
        '-' | '_' => Some(c),
        _ if c.is_alphanumeric() => Some(c.to_ascii_lowercase()),
        _ => None,
    });
    kept.collect()
}

/// The text without code, in which brackets mean something else.
fn without_code(text: &str) -> String {
    let blocks = text.split("```").step_by(2).collect::<String>();
    blocks.split('`').step_by(2).collect()
}

#[test]
fn every_link_between_documents_leads_somewhere() {
    let (mut faults, mut links) = (Vec::new(), 0);
    for path in files(".md") {
        let text = fs::read_to_string(&path).expect("it can be read");
        for target in local_links(&without_code(&text)) {
            links += 1;
            let (file, heading) = target.split_once('#').unwrap_or((target, ""));
            let linked = match file {
                "" => path.clone(),
                file => path.parent().expect("it is in a directory").join(file),
            };
            let leads = linked.exists()
                && (heading.is_empty()
                    || fs::read_to_string(&linked).is_ok_and(|text| {
                        text.lines()
                            .filter(|line| line.starts_with('#'))
                            .any(|line| anchor(line) == heading)
                    }));
            if !leads {
                faults.push(format!("{}: {target}", path.display()));
            }
        }
    }
    assert!(links > 30, "only {links} links were found");
    assert_none(&faults);
}
