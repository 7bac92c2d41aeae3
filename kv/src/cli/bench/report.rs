//! The result of a benchmark, as text or JSON.

use super::Args;
use super::input;
use super::pace::{Pace, Schedule};
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
    delay_us: Histogram<u64>,
    errors: BTreeMap<String, u64>,
}

impl Totals {
    /// Totals without any client.
    pub fn new() -> Self {
        let (latency_us, delay_us) = (histogram(), histogram());
        Totals { done: 0, latency_us, delay_us, errors: BTreeMap::new() }
    }

    /// Adds the result of one client.
    pub fn add(&mut self, finding: &Finding) {
        self.done += finding.done;
        self.latency_us.add(&finding.latency_us).expect("all histograms have the same bounds");
        self.delay_us.add(&finding.delay_us).expect("all histograms have the same bounds");
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
    #[serde(skip_serializing_if = "Option::is_none")]
    open_loop: Option<OpenLoop>,
    seconds: f64,
    /// Operations that were acknowledged.
    pub done: u64,
    done_per_second: f64,
    /// Latency of successful requests, in microseconds. In an open loop it counts from when a
    /// request was due.
    latency_us: Latency,
    /// The longest time without a successful answer. In a failover, its duration.
    longest_gap_ms: f64,
    /// Failed requests by kind, including those with unknown outcome.
    errors: BTreeMap<String, u64>,
}

/// How well the clients of an open loop kept to the rate.
#[derive(Serialize)]
struct OpenLoop {
    /// Requests per second.
    rate: u32,
    /// Requests that became due.
    due: u64,
    /// Of these, the ones that were due while every connection waited for an answer.
    waited: u64,
    /// Of these, the ones that were not sent.
    not_sent: u64,
    /// The time from when a request was due until it was sent.
    delay_us: Latency,
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

impl Latency {
    fn of(times_us: &Histogram<u64>) -> Self {
        Latency {
            mean: times_us.mean(),
            p50: times_us.value_at_quantile(0.5),
            p90: times_us.value_at_quantile(0.9),
            p99: times_us.value_at_quantile(0.99),
            p99_9: times_us.value_at_quantile(0.999),
            max: times_us.max(),
        }
    }
}

impl OpenLoop {
    fn of(rate: u32, schedule: &Schedule, delay_us: &Histogram<u64>) -> Self {
        OpenLoop {
            rate,
            due: schedule.total(),
            waited: schedule.waited(),
            not_sent: schedule.left(),
            delay_us: Latency::of(delay_us),
        }
    }

    fn as_text(&self) -> String {
        let OpenLoop { rate, due, waited, not_sent, delay_us } = self;
        let mut text = format!(
            "open loop {rate} a second; {due} due, of which {waited} waited for a free connection; \
             sent late by p50 {:.2}  p99 {:.2}  max {:.2} ms",
            milliseconds(delay_us.p50),
            milliseconds(delay_us.p99),
            milliseconds(delay_us.max),
        );
        if *not_sent > 0 {
            text += &format!("\n          {not_sent} not sent: every connection was busy");
        }
        if waited * WAITED_PARTS > *due {
            text += "\n          the clients did not keep to the rate: give more --clients, or the \
                     cluster cannot do it";
        }
        text
    }
}

/// If more than one request in this many waited for a connection, the report says so.
const WAITED_PARTS: u64 = 100;

fn milliseconds(us: u64) -> f64 {
    us as f64 / 1000.0
}

impl Report {
    /// The report of a run that took `elapsed`.
    pub fn new(args: &Args, totals: Totals, shared: &Shared, elapsed: Duration) -> Self {
        let open_loop = match (args.rate, &shared.pace) {
            (Some(rate), Pace::Open(schedule)) => {
                Some(OpenLoop::of(rate, schedule, &totals.delay_us))
            }
            _ => None,
        };
        Report {
            op: args.op,
            clients: args.clients,
            value_bytes: args.value_size,
            keys: args.keys,
            batch_size: (args.op == Operation::Batch).then_some(args.batch_size),
            open_loop,
            seconds: elapsed.as_secs_f64(),
            done: totals.done,
            done_per_second: totals.done as f64 / elapsed.as_secs_f64(),
            latency_us: Latency::of(&totals.latency_us),
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
        if let Some(open_loop) = &self.open_loop {
            text += &format!("\n{}", open_loop.as_text());
        }
        if self.errors.is_empty() {
            text += "\nno errors";
        }
        for (kind, count) in &self.errors {
            text += &format!("\nerror     {kind}: {count}");
        }
        text
    }
}
