//! The results of a scenario and of a round.

use crate::history::Heard;
use crate::judge::Counts;
use crate::timeline::Span;
use std::time::Duration;

/// Why a scenario did not end as it should.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Trouble {
    /// The binary broke a requirement, or the harness failed.
    Violated(String),
    /// This machine lacks something that the scenario needs, which the text names.
    Skipped(String),
}

impl Trouble {
    /// A [`Trouble::Violated`] with this text.
    pub fn violated(text: impl Into<String>) -> Self {
        Trouble::Violated(text.into())
    }
}

impl From<std::io::Error> for Trouble {
    fn from(error: std::io::Error) -> Self {
        Trouble::Violated(format!("the harness met an error: {error}"))
    }
}

/// The result of a step of a scenario.
pub type Step = Result<(), Trouble>;

/// The result of a round.
#[derive(Clone, Debug, Default)]
pub struct Outcome {
    /// The name of the scenario.
    pub scenario: &'static str,
    /// The seed of its faults.
    pub seed: u64,
    /// Violations, as texts.
    pub violations: Vec<String>,
    /// Why the round was skipped, if it was.
    pub skipped: Option<String>,
    /// The counts of the judgement.
    pub counts: Counts,
    /// The longest time without an acknowledged write.
    pub worst_gap: Duration,
    /// The most resident memory of a node, in bytes.
    pub rss_bytes: u64,
    /// The most open descriptors of a node.
    pub descriptors: u64,
    /// Log lines of a node per second, without those of starts and changes of leader.
    pub log_lines_per_s: u64,
    /// The most messages that a node sent in a second.
    pub messages_per_s: u64,
    /// The 99th percentile of the response times of `/healthz` and `/is_leader`.
    pub health_p99: Duration,
    /// How long the round took.
    pub time: Duration,
    /// The timeline of the round, for the report.
    pub spans: Vec<Span>,
    /// When each write ended, in microseconds since the start, and its outcome; for the report.
    pub operations: Vec<(u64, Heard)>,
    /// The number of nodes.
    pub nodes: u64,
}
