//! One round: a cluster, clients, a scenario, the end of all faults, the judgement.

use crate::bounds::{
    DESCRIPTORS_MAX, HEALTH_P99_MAX, LOG_LINES_PER_CHANGE, LOG_LINES_PER_S_MAX, MESSAGES_PER_S_MAX,
    RECOVERY_MAX, RSS_BYTES_MAX, STOP_MAX,
};
use crate::clients::{Clients, Work, key_name, parse_value};
use crate::cluster::Cluster;
use crate::history::{Heard, History, Record};
use crate::judge::{self, Counts};
use crate::live;
use crate::node::{Settings, Stderr};
use crate::probes::{Probes, log_lines};
use crate::scenarios::Scenario;
use crate::timeline::{Kind, Span, Timeline};
use simulator::linearizability::Action;
use simulator::random::{Purpose, Stream};
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};
use tokio::runtime::{Builder, Runtime};

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

/// What all rounds have in common.
pub struct Stage {
    /// The binary under attack.
    pub binary: PathBuf,
    /// The library to preload, or why there is none.
    pub shim: Result<PathBuf, String>,
    /// Directories of failed rounds are kept here.
    pub out: Option<PathBuf>,
    _scratch: tempfile::TempDir,
}

impl Stage {
    /// Prepares rounds of this binary.
    pub fn new(binary: PathBuf, out: Option<PathBuf>) -> Result<Stage, String> {
        if !cfg!(target_os = "linux") {
            return Err("the proxies and probes read /proc, which is Linux's".to_owned());
        }
        let scratch = tempfile::tempdir().map_err(|error| error.to_string())?;
        let shim = crate::shim::build(scratch.path());
        Ok(Stage { binary, shim, out, _scratch: scratch })
    }
}

/// What a round came to.
#[derive(Clone, Debug, Default)]
pub struct Outcome {
    /// The scenario.
    pub scenario: &'static str,
    /// The seed of its faults.
    pub seed: u64,
    /// What must not have been.
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
    pub operations: Vec<(u64, u64, Heard)>,
    /// The number of nodes.
    pub nodes: u64,
}

/// How a round is set up. Scenarios change what they need.
pub struct Setup {
    /// How many nodes.
    pub nodes: u64,
    /// What each is started with.
    pub settings: Settings,
    /// Preload the library of faults.
    pub shim: bool,
    /// How the clients work.
    pub work: Work,
    /// The name of node `id` in `--peers`.
    pub host: fn(u64) -> String,
    /// The most descriptors of a node.
    pub descriptors_max: u64,
    /// The most resident memory of a node.
    pub rss_bytes_max: u64,
    /// Whether the time of probes and the rate of messages are judged: not if the machine is loaded
    /// on purpose beyond what it can do.
    pub judge_rates: bool,
    /// Whether a node may end by itself (with a failed disk, say) and be started again at the end.
    pub nodes_may_end: bool,
}

impl Default for Setup {
    fn default() -> Self {
        Setup {
            nodes: 3,
            settings: Settings::default(),
            shim: false,
            work: Work::default(),
            host: |_| "127.0.0.1".to_owned(),
            descriptors_max: DESCRIPTORS_MAX,
            rss_bytes_max: RSS_BYTES_MAX,
            judge_rates: true,
            nodes_may_end: false,
        }
    }
}

/// What a scenario works with.
pub struct Round<'a> {
    /// The nodes.
    pub cluster: Cluster,
    /// Draws of this scenario.
    pub draw: Stream,
    /// What happens.
    pub timeline: Timeline,
    /// The runtime of clients, proxies and probes.
    pub runtime: &'a Runtime,
    /// The directory of the round.
    pub root: PathBuf,
    probes: Probes,
    setup: Setup,
}

/// The stage of one scenario in one round.
pub struct Attack<'a> {
    /// What all rounds have in common.
    pub stage: &'a Stage,
    /// The seed.
    pub seed: u64,
    /// The directory of the round.
    pub root: PathBuf,
    /// The runtime of the round.
    pub runtime: Runtime,
    /// What happens.
    pub timeline: Timeline,
    /// Filled by the end.
    pub outcome: Outcome,
}

/// Runs one round.
pub fn run(stage: &Stage, scenario: &Scenario, seed: u64) -> Outcome {
    let begun = Instant::now();
    let failed = |text: String| Outcome {
        scenario: scenario.name,
        seed,
        violations: vec![text],
        ..Outcome::default()
    };
    let root = match tempfile::Builder::new().prefix("chaos-").tempdir() {
        Ok(root) => root,
        Err(error) => return failed(format!("no temporary directory: {error}")),
    };
    let runtime = match Builder::new_multi_thread().worker_threads(2).enable_all().build() {
        Ok(runtime) => runtime,
        Err(error) => return failed(format!("no runtime: {error}")),
    };
    let outcome = Outcome { scenario: scenario.name, seed, ..Outcome::default() };
    let root_path = root.path().to_owned();
    let timeline = Timeline::new();
    let mut attack = Attack { stage, seed, root: root_path, runtime, timeline, outcome };
    match (scenario.run)(&mut attack) {
        Ok(()) => {}
        Err(Trouble::Skipped(why)) => attack.outcome.skipped = Some(why),
        Err(Trouble::Violated(what)) => attack.violated(what),
    }
    let Attack { mut outcome, runtime, timeline, .. } = attack;
    runtime.shutdown_background();
    outcome.time = begun.elapsed();
    outcome.spans = timeline.spans();
    if live::interrupted() {
        outcome.violations.clear();
        outcome.skipped = Some("interrupted".to_owned());
    }
    if !outcome.violations.is_empty()
        && let Some(out) = &stage.out
    {
        let kept = out.join(format!("{}-{seed}", scenario.name));
        match keep(&root.keep(), &kept) {
            Ok(()) => outcome.violations.push(format!("kept in {}", kept.display())),
            Err(error) => outcome.violations.push(format!("not kept: {error}")),
        }
    }
    outcome
}

/// Keeps the logs and data of a failed round.
fn keep(root: &Path, kept: &Path) -> std::io::Result<()> {
    let _ = std::fs::remove_dir_all(kept);
    crate::damage::copy_tree(root, kept)?;
    std::fs::remove_dir_all(root)
}

impl Attack<'_> {
    /// Notes a violation.
    pub fn violated(&mut self, text: String) {
        self.timeline.mark(Kind::Violation, None, text.clone());
        self.outcome.violations.push(text);
    }

    /// Draws of this round.
    pub fn draw(&self) -> Stream {
        Stream::new(self.seed, Purpose::Faults, 0)
    }

    /// Runs faults against a cluster with clients, then judges.
    pub fn on_cluster(
        &mut self,
        mut setup: Setup,
        faults: impl FnOnce(&mut Round<'_>) -> Step,
    ) -> Step {
        if setup.shim {
            let shim = self.stage.shim.clone().map_err(Trouble::Skipped)?;
            setup.settings.shim = Some(shim);
        }
        let handle = self.runtime.handle().clone();
        let (host, settings) = (setup.host, setup.settings.clone());
        let settings = |_| settings.clone();
        let cluster =
            Cluster::new(&self.root, &self.stage.binary, &handle, setup.nodes, host, settings)?;
        self.outcome.nodes = setup.nodes;
        let mut round = Round {
            cluster,
            draw: self.draw(),
            timeline: self.timeline.clone(),
            runtime: &self.runtime,
            root: self.root.clone(),
            probes: Probes::default(),
            setup,
        };
        for id in round.cluster.ids() {
            round.start(id)?;
        }
        round.cluster.leader()?;
        for node in &round.cluster.nodes {
            round.probes.start(&handle, &self.timeline, node.id, node.client);
        }
        let history = History::default();
        let (addresses, work) = (round.cluster.addresses(), round.setup.work);
        let clients =
            Clients::start(&handle, &addresses, &history, &self.timeline, self.seed, work);
        round.sleep_ms(400);
        let faults_done = faults(&mut round);
        let mut violations = Vec::new();
        if let Err(Trouble::Violated(text)) = &faults_done {
            violations.push(text.clone());
        }
        let recovered = round.recover(&mut violations);
        if let Err(Trouble::Violated(text)) = &recovered {
            violations.push(text.clone());
        }
        clients.stop(&handle);
        let end = self.timeline.micros();
        let copies = match recovered {
            Ok(()) => round.copies(&history, &mut violations),
            Err(_) => BTreeMap::new(),
        };
        let complete = round
            .cluster
            .ids()
            .into_iter()
            .all(|id| round.cluster.metric(id, "kv_history_first") == Some(0));
        let records = history.records();
        violations.extend(history.complaints());
        self.outcome.counts = judge::judge(&records, &copies, complete, &mut violations);
        self.outcome.worst_gap = Duration::from_micros(judge::worst_gap_micros(&records, end));
        let writes = records.iter().filter(|record| record.writes().is_some());
        self.outcome.operations =
            writes.map(|record| (record.ended, record.node, record.heard)).collect();
        round.resources(&mut self.outcome, &mut violations);
        round.end(&mut violations);
        for text in violations {
            self.violated(text);
        }
        match faults_done {
            Err(Trouble::Skipped(why)) => Err(Trouble::Skipped(why)),
            _ => Ok(()),
        }
    }
}

impl Round<'_> {
    /// Starts a node.
    pub fn start(&mut self, id: u64) -> Step {
        self.cluster.start(id)?;
        self.timeline.end(Kind::Down, Some(id), "");
        let pid = self.cluster.nodes[id as usize].pid();
        self.probes.runs(id, pid);
        Ok(())
    }

    /// kill -9.
    pub fn kill(&mut self, id: u64) {
        self.timeline.begin(Kind::Down, Some(id), "killed");
        self.probes.runs(id, None);
        self.cluster.nodes[id as usize].kill();
    }

    /// The power of these nodes fails: what they had not synced is gone. Their fault "undo" is on.
    pub fn lose_power(&mut self, ids: &[u64]) -> Step {
        ids.iter().for_each(|id| self.kill(*id));
        for id in ids {
            let undone = self.cluster.nodes[*id as usize].forget_unsynced()?;
            self.timeline.mark(Kind::Note, Some(*id), format!("{undone} unsynced writes undone"));
        }
        Ok(())
    }

    /// SIGTERM, waited for; the node must end in good order.
    pub fn stop(&mut self, id: u64) -> Step {
        self.timeline.begin(Kind::Down, Some(id), "stopped");
        self.probes.runs(id, None);
        let status = self.cluster.nodes[id as usize].stop(STOP_MAX);
        match status {
            Some(status) if status.success() => Ok(()),
            Some(status) => Err(Trouble::violated(format!("node {id} ended with {status}"))),
            None => Err(Trouble::violated(format!("node {id} runs {STOP_MAX:?} after SIGTERM"))),
        }
    }

    /// SIGSTOP.
    pub fn pause(&mut self, id: u64) {
        self.timeline.begin(Kind::Fault, Some(id), "paused");
        self.probes.runs(id, None);
        self.cluster.nodes[id as usize].pause();
    }

    /// SIGCONT.
    pub fn resume(&mut self, id: u64) {
        self.cluster.nodes[id as usize].resume();
        let pid = self.cluster.nodes[id as usize].pid();
        self.probes.runs(id, pid);
        self.timeline.end(Kind::Fault, Some(id), "paused");
    }

    /// Switches a fault of the preloaded library on.
    pub fn fault(&mut self, id: u64, name: &str, size: i64) -> Step {
        self.timeline.begin(Kind::Fault, Some(id), name);
        Ok(self.cluster.nodes[id as usize].fault(name, size)?)
    }

    /// Switches it off.
    pub fn heal(&mut self, id: u64, name: &str) {
        self.cluster.nodes[id as usize].heal(name);
        self.timeline.end(Kind::Fault, Some(id), name);
    }

    /// Lets time pass.
    pub fn sleep_ms(&self, ms: u64) {
        live::sleep(Duration::from_millis(ms));
    }

    /// Lets a drawn time pass, in milliseconds.
    pub fn sleep_between(&mut self, from: u64, to: u64) {
        let time = self.draw.between(from, to);
        self.sleep_ms(time);
    }

    /// A node, drawn.
    pub fn any(&mut self) -> u64 {
        self.draw.below(self.cluster.nodes.len() as u64)
    }

    /// All nodes but this one.
    pub fn others(&self, id: u64) -> Vec<u64> {
        self.cluster.ids().into_iter().filter(|other| *other != id).collect()
    }

    /// A follower, drawn.
    pub fn follower(&mut self) -> Result<u64, Trouble> {
        let leader = self.cluster.leader()?;
        let others = self.others(leader);
        Ok(self.draw.pick(&others))
    }

    /// Ends all faults, starts what is down, and waits until all nodes serve and are equal.
    fn recover(&mut self, violations: &mut Vec<String>) -> Step {
        self.cluster.network.heal();
        self.timeline.end_faults();
        for id in self.cluster.ids() {
            let node = &mut self.cluster.nodes[id as usize];
            node.heal_all();
            if node.paused {
                self.resume(id);
            }
            let node = &mut self.cluster.nodes[id as usize];
            if let Some(status) = node.ended() {
                if !self.setup.nodes_may_end {
                    violations.push(format!("node {id} ended by itself: {status}"));
                }
                self.probes.runs(id, None);
                self.timeline.mark(Kind::Note, Some(id), format!("had ended: {status}"));
            }
            if !self.cluster.nodes[id as usize].runs() {
                self.start(id)?;
            }
        }
        self.timeline.mark(Kind::Note, None, "all faults are over");
        self.cluster.leader_within(&self.cluster.ids(), RECOVERY_MAX)?;
        for id in self.cluster.ids() {
            self.cluster.served_within(&[id], RECOVERY_MAX)?;
            self.cluster.caught_up_within(id, RECOVERY_MAX)?;
        }
        Ok(())
    }

    /// The listing of every node, and a last read of each key through each node.
    fn copies(
        &self,
        history: &History,
        violations: &mut Vec<String>,
    ) -> BTreeMap<u64, Vec<serde_json::Value>> {
        let mut copies = BTreeMap::new();
        for id in self.cluster.ids() {
            match self.cluster.get(id, "/get_commits_since?since_index=-1") {
                Ok(answer) if answer.status == 200 => {
                    let commits = answer.json()["commits"].as_array().cloned().unwrap_or_default();
                    copies.insert(id, commits);
                }
                other => violations.push(format!("node {id} lists no commits: {other:?}")),
            }
            for key in judge::keys() {
                let begun = self.timeline.micros();
                let path = format!("/v1/kv/{}", key_name(key));
                let found = match self.cluster.get(id, &path) {
                    Ok(answer) if answer.status == 200 => {
                        parse_value(&String::from_utf8_lossy(&answer.body))
                    }
                    Ok(answer) if answer.status == 404 => None,
                    other => {
                        violations.push(format!("node {id} does not read at the end: {other:?}"));
                        continue;
                    }
                };
                let (ended, action) = (self.timeline.micros(), Action::Read(found));
                let (api, heard) = ("last read", Heard::Done);
                history.add(Record { key, api, node: id, begun, ended, action, heard });
            }
        }
        copies
    }

    fn resources(&self, outcome: &mut Outcome, violations: &mut Vec<String>) {
        let mut seen = self.probes.seen();
        violations.append(&mut seen.violations);
        seen.latencies.sort_unstable();
        let p99 = seen.latencies.len() * 99 / 100;
        outcome.health_p99 = seen.latencies.get(p99).copied().unwrap_or_default();
        (outcome.rss_bytes, outcome.descriptors) = (seen.rss_bytes, seen.descriptors);
        outcome.messages_per_s = seen.messages_per_s;
        let seconds = self.timeline.now().as_secs() + 1;
        let spans = self.timeline.spans();
        let elections = spans.iter().filter(|span| span.kind == Kind::Leads).count() as u64;
        for node in &self.cluster.nodes {
            let free = LOG_LINES_PER_CHANGE * (node.starts + elections);
            let rate = log_lines(&node.log).saturating_sub(free) / seconds;
            outcome.log_lines_per_s = outcome.log_lines_per_s.max(rate);
        }
        let setup = &self.setup;
        for (what, value, max) in [
            ("bytes of resident memory", outcome.rss_bytes, setup.rss_bytes_max),
            ("descriptors", outcome.descriptors, setup.descriptors_max),
            ("log lines a second", outcome.log_lines_per_s, LOG_LINES_PER_S_MAX),
        ] {
            if value > max {
                violations.push(format!("a node had {value} {what}; the bound is {max}"));
            }
        }
        if setup.judge_rates && outcome.messages_per_s > MESSAGES_PER_S_MAX {
            let rate = outcome.messages_per_s;
            violations.push(format!(
                "a node sent {rate} messages in a second; the bound is {MESSAGES_PER_S_MAX}"
            ));
        }
        if setup.judge_rates && outcome.health_p99 > HEALTH_P99_MAX {
            let time = outcome.health_p99;
            violations.push(format!(
                "/healthz and /is_leader took {time:?} (p99); the bound is {HEALTH_P99_MAX:?}"
            ));
        }
    }

    /// Every node ends when it is told to, and none has panicked.
    fn end(&mut self, violations: &mut Vec<String>) {
        for id in self.cluster.ids() {
            if let Err(Trouble::Violated(text)) = self.stop(id) {
                violations.push(text);
            }
            let node = &self.cluster.nodes[id as usize];
            let logged = matches!(node.settings.stderr, Stderr::File | Stderr::Closed);
            if logged && let Some(line) = node.log_text().lines().find(|l| l.contains("panicked")) {
                violations.push(format!("node {id}: {line}"));
            }
        }
    }
}
