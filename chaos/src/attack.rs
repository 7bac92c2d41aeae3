//! Runs one round: a cluster, clients, a scenario, the end of all faults, the checks.

use crate::clients::Clients;
use crate::cluster::Cluster;
use crate::history::History;
use crate::judge;
use crate::live;
use crate::outcome::{Outcome, Step, Trouble};
use crate::probes::Probes;
use crate::round::{Round, Setup};
use crate::scenarios::Scenario;
use crate::timeline::{Kind, Timeline};
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use simulator::random::{Purpose, Stream};
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};
use tokio::runtime::{Builder, Runtime};

/// The resources that all rounds share.
pub struct Stage {
    /// The binary under attack.
    pub binary: PathBuf,
    /// The library to preload, or why there is none.
    pub shim: Result<PathBuf, String>,
    /// Where the directories of failed rounds are kept; `None` keeps none.
    pub out: Option<PathBuf>,
    _scratch: tempfile::TempDir,
}

impl Stage {
    /// Prepares rounds of this binary.
    pub fn new(binary: PathBuf, out: Option<PathBuf>) -> Result<Stage, String> {
        if !cfg!(target_os = "linux") {
            return Err("the proxies and probes read /proc, which is Linux's".to_owned());
        }
        raise_descriptors();
        let scratch = tempfile::tempdir().map_err(|error| error.to_string())?;
        let shim = crate::shim::build(scratch.path());
        Ok(Stage { binary, shim, out, _scratch: scratch })
    }
}

/// Raises the limit of open descriptors to the hard limit: the clients here need more than many
/// shells allow. If the hard limit is low too, the scenarios open fewer connections.
fn raise_descriptors() {
    let limit = getrlimit(Resource::Nofile);
    // A refusal leaves the limit as it is.
    let _ = setrlimit(Resource::Nofile, Rlimit { current: limit.maximum, ..limit });
}

/// One scenario in one round, with its environment.
pub struct Attack<'a> {
    /// The resources that all rounds share.
    pub stage: &'a Stage,
    /// The seed of the faults and of the clients.
    pub seed: u64,
    /// The directory of the round.
    pub root: PathBuf,
    /// The runtime of the clients.
    pub runtime: Runtime,
    /// The runtime of the proxies and probes. It is separate, so that a busy client cannot delay a
    /// link.
    pub links: Runtime,
    /// Records the events of the round, for the report.
    pub timeline: Timeline,
    /// The outcome, which is complete at the end of the round.
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
    let runtime = || Builder::new_multi_thread().worker_threads(2).enable_all().build();
    let (runtime, links) = match (runtime(), runtime()) {
        (Ok(runtime), Ok(links)) => (runtime, links),
        (Err(error), _) | (_, Err(error)) => return failed(format!("no runtime: {error}")),
    };
    let outcome = Outcome { scenario: scenario.name, seed, ..Outcome::default() };
    let root_path = root.path().to_owned();
    let timeline = Timeline::new();
    let mut attack = Attack { stage, seed, root: root_path, runtime, links, timeline, outcome };
    match (scenario.run)(&mut attack) {
        Ok(()) => {}
        Err(Trouble::Skipped(why)) => attack.outcome.skipped = Some(why),
        Err(Trouble::Violated(what)) => attack.violated(what),
    }
    let Attack { mut outcome, runtime, links, timeline, .. } = attack;
    runtime.shutdown_background();
    links.shutdown_background();
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

/// Moves the logs and data of a failed round to `kept`.
fn keep(root: &Path, kept: &Path) -> std::io::Result<()> {
    let _ = std::fs::remove_dir_all(kept);
    crate::damage::copy_tree(root, kept)?;
    std::fs::remove_dir_all(root)
}

impl Attack<'_> {
    /// Records a violation.
    pub fn violated(&mut self, text: String) {
        self.timeline.mark(Kind::Violation, None, text.clone());
        self.outcome.violations.push(text);
    }

    /// The random numbers for the faults of this round.
    pub fn draw(&self) -> Stream {
        Stream::new(self.seed, Purpose::Faults, 0)
    }

    /// Runs `faults` against a cluster with clients, then ends all faults and checks the results.
    pub fn on_cluster(
        &mut self,
        setup: Setup,
        faults: impl FnOnce(&mut Round<'_>) -> Step,
    ) -> Step {
        self.outcome.nodes = setup.nodes;
        let (work, handle) = (setup.work, self.runtime.handle().clone());
        let (mut outcome, mut violations) = (self.outcome.clone(), Vec::new());
        let mut round = self.begin(setup)?;
        let (history, addresses) = (History::default(), round.cluster.addresses());
        let clients =
            Clients::start(&handle, &addresses, &history, &self.timeline, self.seed, work);
        round.sleep_ms(400);
        let faults_done = faults(&mut round);
        let recovered = round.recover(&mut violations);
        for step in [&faults_done, &recovered] {
            if let Err(Trouble::Violated(text)) = step {
                violations.push(text.clone());
            }
        }
        clients.stop(&handle);
        let end = self.timeline.micros();
        let copies = match recovered {
            Ok(()) => round.copies(&history, &mut violations),
            Err(_) => BTreeMap::new(),
        };
        let is_whole = |id| round.cluster.metric(id, "kv_history_first") == Some(0);
        let complete = round.cluster.ids().into_iter().all(is_whole);
        let records = history.records();
        violations.extend(history.complaints());
        outcome.counts = judge::judge(&records, &copies, complete, &mut violations);
        outcome.worst_gap = Duration::from_micros(judge::worst_gap_micros(&records, end));
        let writes = records.iter().filter(|record| record.writes().is_some());
        outcome.operations = writes.map(|record| (record.ended, record.heard)).collect();
        round.resources(&mut outcome, &mut violations);
        round.end(&mut violations);
        drop(round);
        self.outcome = outcome;
        violations.into_iter().for_each(|text| self.violated(text));
        match faults_done {
            Err(Trouble::Skipped(why)) => Err(Trouble::Skipped(why)),
            _ => Ok(()),
        }
    }

    /// Starts a cluster, waits for a leader, and starts the probes.
    fn begin(&self, mut setup: Setup) -> Result<Round<'_>, Trouble> {
        if setup.shim {
            let shim = self.stage.shim.clone().map_err(Trouble::Skipped)?;
            setup.settings.shim = Some(shim);
        }
        let (links, binary) = (self.links.handle(), &self.stage.binary);
        let (host, settings) = (setup.host, setup.settings.clone());
        let settings = |_| settings.clone();
        let cluster =
            Cluster::new(&self.root, binary, links, (setup.nodes, setup.spares), host, settings)?;
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
            round.probes.start(links, &self.timeline, node.id, node.client);
        }
        Ok(round)
    }
}
