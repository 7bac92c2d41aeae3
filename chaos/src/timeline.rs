//! The events of a round, for the report.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

/// The kind of a moment or a span.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// A fault, from its beginning to its end.
    Fault,
    /// A node was down.
    Down,
    /// A node led.
    Leads,
    /// A remark about a moment.
    Note,
    /// A violation.
    Violation,
}

/// A span of time of a node or of the cluster; a moment if it ends when it begins.
#[derive(Clone, Debug)]
pub struct Span {
    /// Its kind.
    pub kind: Kind,
    /// The node, or none for the cluster.
    pub node: Option<u64>,
    /// When it began, since the start of the round.
    pub from: Duration,
    /// When it ended, since the start of the round; `None` while it lasts.
    pub to: Option<Duration>,
    /// The description that the report shows.
    pub text: String,
}

/// The spans of a round. Clones share them.
#[derive(Clone)]
pub struct Timeline {
    start: Instant,
    spans: Arc<Mutex<Vec<Span>>>,
}

impl Timeline {
    /// An empty timeline that starts now.
    pub fn new() -> Self {
        Timeline { start: Instant::now(), spans: Arc::default() }
    }

    /// The time since the start.
    pub fn now(&self) -> Duration {
        self.start.elapsed()
    }

    /// The time since the start, in microseconds.
    pub fn micros(&self) -> u64 {
        self.now().as_micros() as u64
    }

    fn with<T>(&self, change: impl FnOnce(&mut Vec<Span>) -> T) -> T {
        change(&mut self.spans.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// Begins a span.
    pub fn begin(&self, kind: Kind, node: Option<u64>, text: impl Into<String>) {
        let span = Span { kind, node, from: self.now(), to: None, text: text.into() };
        self.with(|spans| spans.push(span));
    }

    /// Ends all open spans of this kind and node whose text begins with `text`.
    pub fn end(&self, kind: Kind, node: Option<u64>, text: &str) {
        let now = self.now();
        self.with(|spans| {
            for span in spans.iter_mut() {
                let same = span.kind == kind && span.node == node && span.text.starts_with(text);
                if same && span.to.is_none() {
                    span.to = Some(now);
                }
            }
        });
    }

    /// Ends every open fault.
    pub fn end_faults(&self) {
        let now = self.now();
        self.with(|spans| {
            for span in spans.iter_mut().filter(|span| span.kind == Kind::Fault) {
                span.to.get_or_insert(now);
            }
        });
    }

    /// Marks a moment.
    pub fn mark(&self, kind: Kind, node: Option<u64>, text: impl Into<String>) {
        let (from, text) = (self.now(), text.into());
        self.with(|spans| spans.push(Span { kind, node, from, to: Some(from), text }));
    }

    /// All spans so far.
    pub fn spans(&self) -> Vec<Span> {
        self.with(|spans| spans.clone())
    }
}
