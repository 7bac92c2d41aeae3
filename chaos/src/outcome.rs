//! The results of a scenario and of a round.

use crate::history::Heard;
use crate::judge::Counts;
use crate::timeline::Span;
use std::time::Duration;

/// Why a scenario did not end as it should.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Trouble {
    /// The binary did not do what it must.
    Violated(String),
    /// This machine cannot do it; the text says what is missing.
    Skipped(String),
}

impl Trouble {
    /// The binary did not do what it must.
    pub fn violated(text: impl Into<String>) -> Self {
        Trouble::Violated(text.into())
    }
}

impl From<std::io::Error> for Trouble {
    fn from(error: std::io::Error) -> Self {
        Trouble::Violated(format!("the harness met an error: {error}"))
    }
}

/// A step of a scenario.
pub type Step = Result<(), Trouble>;

/// The result of a round.
#[derive(Clone, Debug, Default)]
pub struct Outcome {
    /// The scenario.
    pub scenario: &'static str,
    /// The seed of its faults.
    pub seed: u64,
    /// Violations, as texts.
    pub violations: Vec<String>,
    /// Why it was not run.
    pub skipped: Option<String>,
    /// The counts of the judgement.
    pub counts: Counts,
    /// The longest time without an acknowledged write.
    pub worst_gap: Duration,
    /// The most resident memory of a node, in bytes.
    pub rss_bytes: u64,
    /// The most descriptors of a node.
    pub descriptors: u64,
    /// Log lines a second of a node, without those of starts and changes of leader.
    pub log_lines_per_s: u64,
    /// The most messages of a node in a second.
    pub messages_per_s: u64,
    /// 99 of 100 answers to `/healthz` and `/is_leader` came within this.
    pub health_p99: Duration,
    /// How long it took.
    pub time: Duration,
    /// For the report.
    pub spans: Vec<Span>,
    /// For the report: when each write ended, in microseconds, and what was heard.
    pub operations: Vec<(u64, Heard)>,
    /// The number of nodes.
    pub nodes: u64,
}
