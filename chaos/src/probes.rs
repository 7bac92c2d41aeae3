//! Samples every node during a round: whether it is as ready as it reports, how long probes take,
//! and which resources the process uses.

use crate::bounds::{FALSE_READY_MAX, READY_LAG_MAX};
use crate::cluster::figure;
use crate::http::Connection;
use crate::timeline::{Kind, Timeline};
use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};
use tokio::runtime::Handle;

/// How often a node is probed.
const EVERY: Duration = Duration::from_millis(100);
/// How long a probe waits. A node that takes longer is down, paused or cut off.
const PROBE_TIMEOUT: Duration = Duration::from_secs(2);

/// The samples of a round.
#[derive(Clone, Default)]
pub struct Seen {
    /// The response times of `/healthz` and `/is_leader`.
    pub latencies: Vec<Duration>,
    /// The most resident memory of a node, in bytes.
    pub rss_bytes: u64,
    /// The most open descriptors of a node.
    pub descriptors: u64,
    /// The most messages that a node sent in a second.
    pub messages_per_s: u64,
    /// Violations, as texts.
    pub violations: Vec<String>,
    /// Each new highest commit index, with the time when it was seen.
    commits: Vec<(Instant, u64)>,
    /// The process of each node; none while it is down or paused.
    pids: BTreeMap<u64, u32>,
}

/// The sampler. Clones share the samples.
#[derive(Clone, Default)]
pub struct Probes(Arc<Mutex<Seen>>);

impl Probes {
    fn with<T>(&self, change: impl FnOnce(&mut Seen) -> T) -> T {
        change(&mut self.0.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// Records the process of a node; `None` if it does not run.
    pub fn runs(&self, node: u64, pid: Option<u32>) {
        self.with(|seen| match pid {
            Some(pid) => seen.pids.insert(node, pid),
            None => seen.pids.remove(&node),
        });
    }

    /// The samples so far.
    pub fn seen(&self) -> Seen {
        self.with(|seen| seen.clone())
    }

    /// Starts to probe a node, until the runtime of the round ends.
    pub fn start(&self, handle: &Handle, timeline: &Timeline, node: u64, address: SocketAddr) {
        let (probes, timeline) = (self.clone(), timeline.clone());
        handle.spawn(probes.clone().health(node, address, timeline.clone()));
        handle.spawn(probes.clone().readiness(node, address, timeline));
        handle.spawn(probes.use_of(node, address));
    }

    async fn health(self, node: u64, address: SocketAddr, timeline: Timeline) {
        let mut leads = false;
        let mut connection = Connection::new(address);
        loop {
            for path in ["/healthz", "/is_leader"] {
                let begun = Instant::now();
                let pid = self.with(|seen| seen.pids.get(&node).copied());
                let answer = connection.get(path, PROBE_TIMEOUT).await;
                let same = pid.is_some() && self.with(|seen| seen.pids.get(&node).copied()) == pid;
                if answer.is_ok() && same {
                    self.with(|seen| seen.latencies.push(begun.elapsed()));
                }
                if path == "/is_leader" {
                    let now = answer.is_ok_and(|answer| answer.json()["is_leader"] == true);
                    if now && !leads {
                        timeline.begin(Kind::Leads, Some(node), "leads");
                    } else if leads && !now {
                        timeline.end(Kind::Leads, Some(node), "leads");
                    }
                    leads = now;
                }
            }
            tokio::time::sleep(EVERY).await;
        }
    }

    /// Checks that a node that reports ready serves reads, and has applied what was committed.
    async fn readiness(self, node: u64, address: SocketAddr, timeline: Timeline) {
        let mut connection = Connection::new(address);
        let (mut unserved, mut behind) = (None::<Instant>, None::<Instant>);
        let mut reported = false;
        loop {
            tokio::time::sleep(EVERY).await;
            let ready = connection.get("/readyz", PROBE_TIMEOUT).await;
            if !ready.is_ok_and(|answer| answer.status == 200) {
                (unserved, behind) = (None, None);
                continue;
            }
            let read = connection.get("/v1/kv/probe", PROBE_TIMEOUT).await;
            let served = read.is_ok_and(|answer| matches!(answer.status, 200 | 404));
            let since = match served {
                true => None,
                false => Some(*unserved.get_or_insert_with(Instant::now)),
            };
            unserved = since;
            let status = connection.get("/v1/cluster?local=true", PROBE_TIMEOUT).await;
            if let Ok(status) = status.map(|answer| answer.json())
                && let Some(applied) = status["applied_index"].as_u64()
            {
                let commit = status["commit_index"].as_u64().unwrap_or(0);
                let due = self.due(commit);
                behind = match applied < due {
                    true => Some(*behind.get_or_insert_with(Instant::now)),
                    false => None,
                };
            }
            let what = match (unserved, behind) {
                (Some(since), _) if since.elapsed() > FALSE_READY_MAX => "serves no read",
                (_, Some(since)) if since.elapsed() > FALSE_READY_MAX => {
                    "has not applied what was committed seconds ago"
                }
                _ => continue,
            };
            if !reported {
                reported = true;
                let text = format!("node {node} reports ready and {what}");
                timeline.mark(Kind::Violation, Some(node), text.clone());
                self.with(|seen| seen.violations.push(text));
            }
        }
    }

    /// Records a commit index. Returns the highest one that was known [`READY_LAG_MAX`] ago.
    fn due(&self, commit: u64) -> u64 {
        let now = Instant::now();
        self.with(|seen| {
            let highest = seen.commits.last().map_or(0, |(_, commit)| *commit);
            if commit > highest {
                seen.commits.push((now, commit));
            }
            let old = seen.commits.iter().rev();
            let mut old = old.filter(|(at, _)| now.duration_since(*at) > READY_LAG_MAX);
            old.next().map_or(0, |(_, commit)| *commit)
        })
    }

    async fn use_of(self, node: u64, address: SocketAddr) {
        let mut connection = Connection::new(address);
        let mut last = None::<(u32, Instant, u64)>;
        loop {
            tokio::time::sleep(EVERY * 5).await;
            let Some(pid) = self.with(|seen| seen.pids.get(&node).copied()) else {
                last = None;
                continue;
            };
            let (rss, descriptors) = (rss_bytes(pid), descriptors(pid));
            self.with(|seen| {
                seen.rss_bytes = seen.rss_bytes.max(rss.unwrap_or(0));
                seen.descriptors = seen.descriptors.max(descriptors);
            });
            let Ok(answer) = connection.get("/metrics", PROBE_TIMEOUT).await else { continue };
            let text = String::from_utf8_lossy(&answer.body);
            let Some(sent) = figure(&text, "driver_messages_sent_total") else { continue };
            if let Some((of, at, before)) = last {
                let seconds = at.elapsed().as_secs_f64();
                if of != pid {
                    last = None;
                    continue;
                }
                if seconds < 1.0 {
                    continue;
                }
                let rate = (sent.saturating_sub(before) as f64 / seconds) as u64;
                self.with(|seen| seen.messages_per_s = seen.messages_per_s.max(rate));
            }
            last = Some((pid, Instant::now(), sent));
        }
    }
}

/// The resident memory of a process, in bytes.
pub fn rss_bytes(pid: u32) -> Option<u64> {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).ok()?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"))?;
    let kib: u64 = line.split_whitespace().next()?.parse().ok()?;
    Some(kib << 10)
}

/// The number of open descriptors of a process.
pub fn descriptors(pid: u32) -> u64 {
    std::fs::read_dir(format!("/proc/{pid}/fd")).map_or(0, |entries| entries.count() as u64)
}

/// The number of lines in a log file; 0 if the log of the node goes elsewhere.
pub fn log_lines(path: &PathBuf) -> u64 {
    let bytes = std::fs::read(path).unwrap_or_default();
    bytes.iter().filter(|byte| **byte == b'\n').count() as u64
}
