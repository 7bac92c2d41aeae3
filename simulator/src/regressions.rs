//! The regressions file: plans that once broke a promise, one per line, with comments that begin
//! with `#`.
//!
//! A line that does not parse is an error and is not skipped: a regression that silently does not
//! run is worse than none.

use crate::plan::{NoPlan, Plan};
use std::path::Path;
use std::{fmt, fs, io};

/// A line of a regressions file that does not parse as a plan.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BadLine {
    /// Number of the line, from 1.
    pub number: usize,
    /// The text of the line.
    pub line: String,
    /// The word that is not understood.
    pub error: NoPlan,
}

impl fmt::Display for BadLine {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "line {} is no plan ({}); correct or remove it: {}",
            self.number, self.error, self.line
        )
    }
}

impl std::error::Error for BadLine {}

/// Parses the text of a regressions file.
pub fn plans(text: &str) -> Result<Vec<Plan>, BadLine> {
    let lines = text.lines().enumerate().map(|(at, line)| (at + 1, line.trim()));
    lines
        .filter(|(_, line)| !line.is_empty() && !line.starts_with('#'))
        .map(|(number, line)| {
            let bad = |error| BadLine { number, line: line.to_owned(), error };
            line.parse().map_err(bad)
        })
        .collect()
}

/// Adds a `new` plan to a file, unless it is there already. Returns a sentence for the report.
pub(crate) fn keep(path: &Path, plan: &Plan, new: bool) -> String {
    let shown = path.display();
    if !new {
        return format!("it is in {shown}");
    }
    match add_line(path, &plan.to_string()) {
        Ok(()) => format!("added to {shown}, whose plans are run first"),
        Err(error) => format!("could not be added to {shown}: {error}"),
    }
}

fn add_line(path: &Path, line: &str) -> io::Result<()> {
    let mut text = match fs::read_to_string(path) {
        Ok(text) => text,
        Err(error) if error.kind() == io::ErrorKind::NotFound => String::new(),
        Err(error) => return Err(error),
    };
    if text.lines().any(|known| known == line) {
        return Ok(());
    }
    if !text.is_empty() && !text.ends_with('\n') {
        text.push('\n');
    }
    fs::write(path, text + line + "\n")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_that_is_no_plan_is_named() {
        let bad = plans("# one\n\nseed=1 nodes=3\nseed=1 node=3\n").expect_err("line 4 is wrong");
        assert_eq!((bad.number, bad.line.as_str()), (4, "seed=1 node=3"));
        assert!(bad.to_string().starts_with("line 4 is no plan"), "{bad}");
        assert_eq!(plans("# none\n"), Ok(Vec::new()));
    }
}
