//! Prints results as a table or as JSON.

use crate::Bench;
use crate::rounds::{Figure, Row};
use std::fmt::Write as _;
use std::io::Write as _;

#[derive(serde::Serialize)]
struct Report<'a> {
    bench: Bench,
    value_bytes: u32,
    rounds: u32,
    /// The times of a build without optimisation mean nothing.
    optimised: bool,
    rows: &'a [Row],
}

/// Prints the rows on standard output.
pub fn print(bench: Bench, value_bytes: u32, rounds: u32, rows: &[Row], json: bool) {
    let optimised = !cfg!(debug_assertions);
    let text = if json {
        let report = Report { bench, value_bytes, rounds, optimised, rows };
        serde_json::to_string_pretty(&report).expect("numbers and strings are always JSON")
    } else {
        let what = if rounds == 1 { "one round" } else { "median (min to max)" };
        let mut text = format!("values of {value_bytes} bytes, {rounds} rounds, {what}\n");
        if !optimised {
            text += "not built with --release: the times mean nothing\n";
        }
        text + &table(rows)
    };
    // An error is ignored: the reader of the output has closed it.
    let _ = writeln!(std::io::stdout(), "{}", text.trim_end());
}

/// The rows as columns of equal width.
fn table(rows: &[Row]) -> String {
    let mut names: Vec<&str> = Vec::new();
    for figure in rows.iter().flat_map(|row| &row.figures) {
        if !names.contains(&figure.name) {
            names.push(figure.name);
        }
    }
    let head = ["system", "setting"].into_iter().chain(names.iter().copied());
    let mut lines: Vec<Vec<String>> = vec![head.map(str::to_owned).collect()];
    for row in rows {
        let cell = |name: &&str| {
            let figure = row.figures.iter().find(|figure| figure.name == *name);
            figure.map(text_of).unwrap_or_default()
        };
        let mut line = vec![row.system.to_owned(), row.setting.clone()];
        line.extend(names.iter().map(cell));
        lines.push(line);
    }
    let width = |column: usize| lines.iter().map(|line| line[column].len()).max().unwrap_or(0);
    let widths: Vec<usize> = (0..lines[0].len()).map(width).collect();
    let mut text = String::new();
    for line in &lines {
        for (cell, width) in line.iter().zip(&widths) {
            // Writing into a String does not fail.
            let _ = write!(text, "{cell:<width$}  ");
        }
        text.truncate(text.trim_end().len());
        text.push('\n');
    }
    text
}

fn text_of(figure: &Figure) -> String {
    let Figure { median, min, max, .. } = *figure;
    let digits = match median.abs() {
        1000.0.. => 0,
        10.0.. => 1,
        1.0.. => 2,
        _ => 4,
    };
    match min == max {
        true => format!("{median:.digits$}"),
        false => format!("{median:.digits$} ({min:.digits$} to {max:.digits$})"),
    }
}
