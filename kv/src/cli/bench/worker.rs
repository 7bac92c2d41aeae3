//! One client of the benchmark: sends requests, counts results, and reconnects after a failure.

use super::connection::Connection;
use super::leader::Leader;
use super::pace::Pace;
use super::workload::{Task, Workload};
use crate::cli::http::{Failure, Response};
use hdrhistogram::Histogram;
use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::Duration;
use tokio::time::Instant;

/// The pause after a refusal, so that clients do not retry in a tight loop.
const REFUSED_PAUSE: Duration = Duration::from_millis(5);
/// The longest latency that is recorded, in microseconds. A longer one counts as this.
const LATENCY_MAX_US: u64 = 120_000_000;

/// State that all clients share. They run on one thread, so the atomics are needed only by the type
/// system.
pub struct Shared {
    pub leader: Leader,
    pub started: Instant,
    pub duration: Duration,
    pub pace: Pace,
    timeout: Duration,
    done: AtomicU64,
    errors: AtomicU64,
    last_done_us: AtomicU64,
    longest_gap_us: AtomicU64,
}

impl Shared {
    /// The state at the start of a run.
    pub fn new(
        leader: Leader,
        started: Instant,
        duration: Duration,
        pace: Pace,
        timeout: Duration,
    ) -> Self {
        Shared {
            leader,
            started,
            duration,
            pace,
            timeout,
            done: AtomicU64::new(0),
            errors: AtomicU64::new(0),
            last_done_us: AtomicU64::new(0),
            longest_gap_us: AtomicU64::new(0),
        }
    }

    /// The end of the run: no request is sent after it. In an open loop, requests that became due
    /// within the duration may be sent for the time of one timeout after it.
    fn deadline(&self) -> Instant {
        let end = self.started + self.duration;
        match &self.pace {
            Pace::Closed => end,
            Pace::Open(_) => end + self.timeout,
        }
    }

    /// Whether no further request is sent.
    fn is_over(&self) -> bool {
        let all_taken = match &self.pace {
            Pace::Closed => false,
            Pace::Open(schedule) => schedule.left() == 0,
        };
        all_taken || Instant::now() >= self.deadline()
    }

    /// Waits until a client sends its next request, and returns the moment from which its latency
    /// counts. `None` if no further request is sent.
    async fn next_due(&self) -> Option<Instant> {
        match &self.pace {
            Pace::Closed => {
                let now = Instant::now();
                (now < self.deadline()).then_some(now)
            }
            Pace::Open(schedule) => schedule.next(self.deadline()).await,
        }
    }

    /// Operations done and errors so far.
    pub fn counts(&self) -> (u64, u64) {
        (self.done.load(Relaxed), self.errors.load(Relaxed))
    }

    /// The longest time in which no client had a successful answer, up to the end of the run.
    pub fn longest_gap(&self) -> Duration {
        let end = micros(self.duration);
        let last = self.last_done_us.load(Relaxed);
        Duration::from_micros(self.longest_gap_us.load(Relaxed).max(end.saturating_sub(last)))
    }

    fn note_done(&self, at: Instant, operations: u64) {
        let now = micros(at - self.started);
        let before = self.last_done_us.swap(now, Relaxed);
        self.longest_gap_us.fetch_max(now.saturating_sub(before), Relaxed);
        self.done.fetch_add(operations, Relaxed);
    }
}

fn micros(duration: Duration) -> u64 {
    u64::try_from(duration.as_micros()).unwrap_or(u64::MAX)
}

/// The result of one client.
pub struct Finding {
    /// Operations that were acknowledged.
    pub done: u64,
    /// Latency of successful requests, in microseconds.
    pub latency_us: Histogram<u64>,
    /// The time from when a request was due until it was sent, in microseconds.
    pub delay_us: Histogram<u64>,
    /// The number of errors of each kind.
    pub errors: BTreeMap<String, u64>,
}

/// An empty histogram of latencies.
pub fn histogram() -> Histogram<u64> {
    Histogram::new_with_bounds(1, LATENCY_MAX_US, 3).expect("the bounds are fixed and in order")
}

/// One client.
pub struct Worker {
    number: u32,
    of: u32,
    shared: Arc<Shared>,
    workload: Arc<Workload>,
    random: u64,
    finding: Finding,
}

impl Worker {
    /// Client `number` of `of`.
    pub fn new(number: u32, of: u32, shared: Arc<Shared>, workload: Arc<Workload>) -> Self {
        let (latency_us, delay_us) = (histogram(), histogram());
        let finding = Finding { done: 0, latency_us, delay_us, errors: BTreeMap::new() };
        Worker { number, of, shared, workload, random: u64::from(number), finding }
    }

    /// Runs until the end of the run.
    pub async fn run(mut self) -> Finding {
        let mut turn = 0;
        while !self.shared.is_over() {
            let deadline = self.shared.deadline();
            let Some(address) = self.shared.leader.find(deadline).await else { break };
            match Connection::open(&address).await {
                Ok(connection) => self.use_up(connection, &mut turn).await,
                Err(failure) => self.note_failure(&failure),
            }
            if !self.shared.is_over() {
                self.shared.leader.lost(&address).await;
            }
        }
        self.finding
    }

    /// Sends requests on one connection until it fails, the node is not a usable leader, or the
    /// end of the run.
    async fn use_up(&mut self, mut connection: Connection, turn: &mut u64) {
        while let Some(due) = self.shared.next_due().await {
            let chance = self.next_random();
            let task = self.workload.task(self.number, self.of, *turn, chance);
            *turn += 1;
            self.finding.delay_us.saturating_record(micros(due.elapsed()));
            let answer = connection.exchange(&task.request, self.shared.timeout).await;
            let now = Instant::now();
            match answer {
                Ok(answer) if answer.status.is_success() => {
                    self.note_done(&task, task.done(&answer.body), due, now);
                }
                Ok(answer) => {
                    self.note_refusal(&answer);
                    // An open loop has a rate already.
                    if matches!(self.shared.pace, Pace::Closed) {
                        tokio::time::sleep(REFUSED_PAUSE).await;
                    }
                    if answer.status.is_server_error() || answer.status.is_redirection() {
                        return;
                    }
                }
                Err(failure) => return self.note_failure(&failure),
            }
        }
    }

    fn note_done(&mut self, task: &Task, operations: u64, due: Instant, now: Instant) {
        self.finding.latency_us.saturating_record(micros(now - due).max(1));
        self.finding.done += operations;
        self.shared.note_done(now, operations);
        self.workload.acknowledged(task);
    }

    fn note_refusal(&mut self, answer: &Response) {
        let problem = answer.json();
        let outcome = problem["outcome"].as_str().unwrap_or("no outcome named");
        self.note_error(format!("{} ({outcome})", answer.status));
    }

    fn note_failure(&mut self, failure: &Failure) {
        self.note_error(match failure {
            Failure::NotSent(_) => "cannot connect (not_done)".to_owned(),
            Failure::Nobody(why) => why.clone(),
            Failure::Lost(why) => format!("{why} (unknown)"),
        });
    }

    fn note_error(&mut self, kind: String) {
        *self.finding.errors.entry(kind).or_default() += 1;
        self.shared.errors.fetch_add(1, Relaxed);
    }

    /// The splitmix64 generator, which is sufficient for choosing keys.
    fn next_random(&mut self) -> u64 {
        self.random = self.random.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mixed = (self.random ^ (self.random >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ (mixed >> 31)
    }
}
