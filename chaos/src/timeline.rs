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
    /// Something worth a mark.
    Note,
    /// A violation.
    Violation,
}

/// A span of time on a lane.
#[derive(Clone, Debug)]
pub struct Span {
    /// Its kind.
    pub kind: Kind,
    /// The node, or none for the cluster.
    pub node: Option<u64>,
    /// Since the start of the round.
    pub from: Duration,
    /// `None` while it lasts.
    pub to: Option<Duration>,
    /// For the reader.
    pub text: String,
}

/// The spans of a round. Clones share them.
#[derive(Clone)]
pub struct Timeline {
    start: Instant,
    spans: Arc<Mutex<Vec<Span>>>,
}

impl Timeline {
    /// An empty one that starts now.
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

    /// Ends all spans of this kind on this lane that last and whose text begins with `text`.
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

    /// Ends every fault that lasts.
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
