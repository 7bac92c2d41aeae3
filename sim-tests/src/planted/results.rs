//! The file with the results of planted bugs: a table in Markdown, a row a bug, in the order of
//! their names.
//!
//! Each result is written at once, by whichever process has it. Processes that hunt different parts
//! may add to one file: it is read and written anew under a lock.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::{fmt, io};

/// The first lines of the table.
const HEAD: &str = "| planted bug | layer | found by | ranges | seeds | first seed | code of |\n\
                    |---|---|---|---|---|---|---|\n";

/// The result for one bug. A column without a value is `-`.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Row {
    /// Its name, with its folder.
    pub bug: String,
    /// 1, or 2 for whole nodes.
    pub layer: u8,
    /// The checks that found it, or why nothing did.
    pub found_by: String,
    /// In how many ranges of those that were searched.
    pub ranges: String,
    /// Seeds until it was found, in the median range.
    pub seeds: String,
    /// The first seed that shows it.
    pub first_seed: String,
    /// The day of the commit that was measured.
    pub code_of: String,
}

impl fmt::Display for Row {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Row { bug, layer, found_by, ranges, seeds, first_seed, code_of } = self;
        write!(
            f,
            "| {bug} | {layer} | {found_by} | {ranges} | {seeds} | {first_seed} | {code_of} |"
        )
    }
}

impl Row {
    fn read(line: &str) -> Option<Row> {
        let cells: Vec<&str> = line.split('|').map(str::trim).collect();
        let [_, bug, layer, found_by, ranges, seeds, first_seed, code_of, _] = cells[..] else {
            return None;
        };
        let layer = layer.parse().ok()?;
        let text = str::to_owned;
        Some(Row {
            bug: text(bug),
            layer,
            found_by: text(found_by),
            ranges: text(ranges),
            seeds: text(seeds),
            first_seed: text(first_seed),
            code_of: text(code_of),
        })
    }
}

/// The file. Text before and after the table stays as it is.
#[derive(Debug)]
pub struct Results {
    file: PathBuf,
}

impl Results {
    /// Of this file, which need not exist yet.
    pub fn in_file(file: &Path) -> Results {
        Results { file: file.to_owned() }
    }

    /// The rows by the names of the bugs.
    pub(super) fn read(&self) -> io::Result<BTreeMap<String, Row>> {
        let text = self.text()?;
        let rows = text.lines().filter_map(Row::read).map(|row| (row.bug.clone(), row));
        Ok(rows.collect())
    }

    /// Adds a row, or replaces the one that the bug has.
    pub(super) fn add(&self, row: Row) -> io::Result<()> {
        // The folder is locked: the file is replaced.
        let folder = self.file.parent().filter(|folder| !folder.as_os_str().is_empty());
        let lock = File::open(folder.unwrap_or(Path::new(".")))?;
        lock.lock()?;
        let mut rows = self.read()?;
        rows.insert(row.bug.clone(), row);
        let table: String = rows.values().map(|row| format!("{row}\n")).collect();
        let text = self.text()?;
        let (before, rest) = text.split_once(HEAD).unwrap_or((&text, ""));
        let after: String = rest
            .lines()
            .skip_while(|line| line.starts_with('|'))
            .map(|l| format!("{l}\n"))
            .collect();
        let new = self.file.with_extension("new");
        fs::write(&new, format!("{before}{HEAD}{table}{after}"))?;
        fs::rename(&new, &self.file)
    }

    fn text(&self) -> io::Result<String> {
        match fs::read_to_string(&self.file) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(String::new()),
            text => text,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn row(bug: &str, seeds: &str) -> Row {
        Row {
            bug: bug.to_owned(),
            layer: 2,
            found_by: "a; b".to_owned(),
            ranges: "9 of 10".to_owned(),
            seeds: seeds.to_owned(),
            first_seed: "17".to_owned(),
            code_of: "2026-11-30".to_owned(),
        }
    }

    #[test]
    fn rows_are_kept_in_order_and_replaced_and_the_text_around_them_stays() {
        let directory = tempfile::tempdir().expect("a directory");
        let file = directory.path().join("results.md");
        let results = Results::in_file(&file);
        assert!(results.read().expect("no file is no row").is_empty());
        fs::write(&file, format!("# Before\n\n{HEAD}\nAfter.\n")).expect("written");
        for (bug, seeds) in [("further/c", "1"), ("a", "2"), ("further/c", "3")] {
            results.add(row(bug, seeds)).expect("added");
        }
        let (a, c) = (row("a", "2"), row("further/c", "3"));
        let text = fs::read_to_string(&file).expect("read");
        assert_eq!(text, format!("# Before\n\n{HEAD}{a}\n{c}\n\nAfter.\n"));
        let read = results.read().expect("read");
        assert_eq!(read.into_values().collect::<Vec<_>>(), [a, c]);
        assert_eq!(fs::read_dir(directory.path()).expect("listed").count(), 1, "nothing else");
    }
}
