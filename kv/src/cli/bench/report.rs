//! The result of a benchmark, as text or JSON.

use super::Args;
use super::input;
use super::worker::{Finding, Shared, histogram};
use super::workload::Operation;
use hdrhistogram::Histogram;
use serde::Serialize;
use std::collections::BTreeMap;
use std::io;
use std::time::Duration;

/// The sum of the results of all clients.
pub struct Totals {
    done: u64,
    latency_us: Histogram<u64>,
    errors: BTreeMap<String, u64>,
}

impl Totals {
    /// Totals without any client.
    pub fn new() -> Self {
        Totals { done: 0, latency_us: histogram(), errors: BTreeMap::new() }
    }

    /// Adds the result of one client.
    pub fn add(&mut self, finding: &Finding) {
        self.done += finding.done;
        self.latency_us.add(&finding.latency_us).expect("all histograms have the same bounds");
        for (kind, count) in &finding.errors {
            *self.errors.entry(kind.clone()).or_default() += count;
        }
    }
}

/// The result of a benchmark.
#[derive(Serialize)]
pub struct Report {
    op: Operation,
    clients: u32,
    value_bytes: u32,
    keys: u32,
    #[serde(skip_serializing_if = "Option::is_none")]
    batch_size: Option<u32>,
    seconds: f64,
    /// Operations that were acknowledged.
    pub done: u64,
    done_per_second: f64,
    /// Latency of successful requests, in microseconds.
    latency_us: Latency,
    /// The longest time without a successful answer. In a failover, its duration.
    longest_gap_ms: f64,
    /// Failed requests by kind, including those with unknown outcome.
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
    /// The report of a run that took `elapsed`.
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

    /// Prints the report on standard output.
    pub fn print(&self, json: bool) -> io::Result<()> {
        input::print_line(&if json { self.as_json() } else { self.as_text() })
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
