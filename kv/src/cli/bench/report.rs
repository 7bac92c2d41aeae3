//! The result, for people and for programs.

use super::Args;
use super::worker::{Finding, Shared, histogram};
use super::workload::Operation;
use hdrhistogram::Histogram;
use serde::Serialize;
use std::collections::BTreeMap;
use std::io::Write;
use std::time::Duration;

/// The findings of all clients together.
pub struct Totals {
    done: u64,
    latency_us: Histogram<u64>,
    errors: BTreeMap<String, u64>,
}

impl Totals {
    /// Of no client yet.
    pub fn new() -> Self {
        Totals { done: 0, latency_us: histogram(), errors: BTreeMap::new() }
    }

    /// Adds a client's.
    pub fn add(&mut self, finding: &Finding) {
        self.done += finding.done;
        self.latency_us.add(&finding.latency_us).expect("all histograms have the same bounds");
        for (kind, count) in &finding.errors {
            *self.errors.entry(kind.clone()).or_default() += count;
        }
    }
}

/// What was measured.
#[derive(Serialize)]
pub struct Report {
    op: Operation,
    clients: u32,
    value_bytes: u32,
    keys: u32,
    #[serde(skip_serializing_if = "Option::is_none")]
    batch_size: Option<u32>,
    seconds: f64,
    /// Operations answered "done".
    pub done: u64,
    done_per_second: f64,
    /// Of requests answered "done".
    latency_us: Latency,
    /// The longest time in which nothing was answered "done": at a failover, its length.
    longest_gap_ms: f64,
    /// Everything that was not done, or not known to be, by kind.
    errors: BTreeMap<String, u64>,
}

#[derive(Serialize)]
struct Latency {
    mean: f64,
    p50: u64,
    p90: u64,
    p99: u64,
    #[serde(rename = "p99.9")]
    p99_9: u64,
    max: u64,
}

impl Report {
    /// Of a run that took `elapsed`.
    pub fn new(args: &Args, totals: Totals, shared: &Shared, elapsed: Duration) -> Self {
        let latency = &totals.latency_us;
        Report {
            op: args.op,
            clients: args.clients,
            value_bytes: args.value_size,
            keys: args.keys,
            batch_size: (args.op == Operation::Batch).then_some(args.batch_size),
            seconds: elapsed.as_secs_f64(),
            done: totals.done,
            done_per_second: totals.done as f64 / elapsed.as_secs_f64(),
            latency_us: Latency {
                mean: latency.mean(),
                p50: latency.value_at_quantile(0.5),
                p90: latency.value_at_quantile(0.9),
                p99: latency.value_at_quantile(0.99),
                p99_9: latency.value_at_quantile(0.999),
                max: latency.max(),
            },
            longest_gap_ms: shared.longest_gap().as_secs_f64() * 1000.0,
            errors: totals.errors,
        }
    }

    /// Prints it.
    pub fn print(&self, json: bool) {
        let text = if json { self.as_json() } else { self.as_text() };
        // If our output was closed, its reader needs no more of it.
        let _ = writeln!(std::io::stdout(), "{text}");
    }

    fn as_json(&self) -> String {
        serde_json::to_string_pretty(self).expect("numbers and strings are always JSON")
    }

    fn as_text(&self) -> String {
        let Latency { mean, p50, p90, p99, p99_9, max } = self.latency_us;
        let milliseconds = |us: u64| us as f64 / 1000.0;
        let op = serde_json::to_value(self.op).unwrap_or_default();
        let batch = self.batch_size.map(|n| format!(" of {n}")).unwrap_or_default();
        let mut text = format!(
            "{}{batch}, {} clients, values of {} bytes, {} keys, {:.1} s\n\
             done      {} ({:.0} a second)\n\
             latency   p50 {:.2}  p90 {:.2}  p99 {:.2}  p99.9 {:.2}  max {:.2}  mean {:.2} ms\n\
             longest gap without an answer \"done\": {:.1} ms",
            op.as_str().unwrap_or_default(),
            self.clients,
            self.value_bytes,
            self.keys,
            self.seconds,
            self.done,
            self.done_per_second,
            milliseconds(p50),
            milliseconds(p90),
            milliseconds(p99),
            milliseconds(p99_9),
            milliseconds(max),
            mean / 1000.0,
            self.longest_gap_ms,
        );
        if self.errors.is_empty() {
            text += "\nno errors";
        }
        for (kind, count) in &self.errors {
            text += &format!("\nerror     {kind}: {count}");
        }
        text
    }
}
