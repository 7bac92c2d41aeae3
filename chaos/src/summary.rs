//! The summary table of a run.

use crate::outcome::Outcome;
use std::collections::BTreeMap;
use std::time::Duration;

/// The sums of one scenario.
#[derive(Clone, Debug, Default)]
struct Row {
    rounds: u64,
    skipped: Option<String>,
    violated: u64,
    done: u64,
    refused: u64,
    unknown: u64,
    in_sessions: u64,
    sessions_failed: u64,
    lost: u64,
    doubled: u64,
    stale: u64,
    gap: Duration,
    rss_bytes: u64,
    descriptors: u64,
    log_lines_per_s: u64,
    messages_per_s: u64,
    health_p99: Duration,
}

impl Row {
    fn add(&mut self, outcome: &Outcome) {
        if outcome.skipped.is_some() {
            self.skipped.clone_from(&outcome.skipped);
            return;
        }
        self.rounds += 1;
        self.violated += u64::from(!outcome.violations.is_empty());
        let counts = &outcome.counts;
        for (sum, value) in [
            (&mut self.done, counts.done),
            (&mut self.refused, counts.refused),
            (&mut self.unknown, counts.unknown),
            (&mut self.in_sessions, counts.in_sessions),
            (&mut self.sessions_failed, counts.sessions_failed),
            (&mut self.lost, counts.lost),
            (&mut self.doubled, counts.doubled),
            (&mut self.stale, counts.stale),
        ] {
            *sum += value;
        }
        self.gap = self.gap.max(outcome.worst_gap);
        self.health_p99 = self.health_p99.max(outcome.health_p99);
        for (most, value) in [
            (&mut self.rss_bytes, outcome.rss_bytes),
            (&mut self.descriptors, outcome.descriptors),
            (&mut self.log_lines_per_s, outcome.log_lines_per_s),
            (&mut self.messages_per_s, outcome.messages_per_s),
        ] {
            *most = value.max(*most);
        }
    }

    fn cells(&self) -> Vec<String> {
        let verdict = match (&self.skipped, self.violated) {
            (Some(_), _) if self.rounds == 0 => "skipped".to_owned(),
            (_, 0) => "ok".to_owned(),
            (_, violated) => format!("{violated} VIOLATED"),
        };
        vec![
            self.rounds.to_string(),
            self.done.to_string(),
            self.refused.to_string(),
            self.unknown.to_string(),
            self.in_sessions.to_string(),
            self.sessions_failed.to_string(),
            self.lost.to_string(),
            self.doubled.to_string(),
            self.stale.to_string(),
            format!("{:.1} s", self.gap.as_secs_f64()),
            format!("{} MiB", self.rss_bytes >> 20),
            self.descriptors.to_string(),
            self.log_lines_per_s.to_string(),
            self.messages_per_s.to_string(),
            format!("{} ms", self.health_p99.as_millis()),
            verdict,
        ]
    }
}

/// The names of the columns.
pub const COLUMNS: [&str; 17] = [
    "scenario",
    "rounds",
    "done",
    "refused",
    "unknown",
    "session",
    "failed",
    "lost",
    "doubled",
    "stale",
    "worst gap",
    "max RSS",
    "max fds",
    "log/s",
    "msg/s",
    "probe p99",
    "verdict",
];

/// The rows of the table, each as its cells; the last is the sum.
pub fn rows(outcomes: &[Outcome]) -> Vec<Vec<String>> {
    let (mut order, mut rows, mut sum) = (Vec::new(), BTreeMap::<&str, Row>::new(), Row::default());
    for outcome in outcomes {
        if !rows.contains_key(outcome.scenario) {
            order.push(outcome.scenario);
        }
        rows.entry(outcome.scenario).or_default().add(outcome);
        sum.add(outcome);
    }
    let line = |name: &str, row: &Row| {
        let mut cells = vec![name.to_owned()];
        cells.extend(row.cells());
        cells
    };
    let mut table: Vec<Vec<String>> = order.iter().map(|name| line(name, &rows[name])).collect();
    sum.skipped = None;
    table.push(line("all", &sum));
    table
}

/// The table as text.
pub fn table(outcomes: &[Outcome]) -> String {
    let mut all = vec![COLUMNS.iter().map(|name| (*name).to_owned()).collect::<Vec<_>>()];
    all.extend(rows(outcomes));
    let width = |column: usize| all.iter().map(|cells| cells[column].chars().count()).max();
    let widths: Vec<usize> = (0..COLUMNS.len()).map(|column| width(column).unwrap_or(0)).collect();
    let mut text = String::new();
    for cells in &all {
        for (column, (cell, width)) in cells.iter().zip(&widths).enumerate() {
            if column == 0 || column == COLUMNS.len() - 1 {
                text.push_str(&format!("{cell:<width$}  "));
            } else {
                text.push_str(&format!("{cell:>width$}  "));
            }
        }
        text.truncate(text.trim_end().len());
        text.push('\n');
    }
    text
}
