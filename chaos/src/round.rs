//! The steps from which scenarios are made.

use crate::bounds::{DESCRIPTORS_MAX, RSS_BYTES_MAX, STOP_MAX};
use crate::clients::Work;
use crate::cluster::Cluster;
use crate::live;
use crate::node::Settings;
use crate::outcome::{Step, Trouble};
use crate::probes::Probes;
use crate::timeline::{Kind, Timeline};
use simulator::random::Stream;
use std::path::PathBuf;
use std::time::Duration;
use tokio::runtime::Runtime;

/// How a round is set up. Scenarios change what they need.
pub struct Setup {
    /// How many nodes.
    pub nodes: u64,
    /// The settings of each node.
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

/// A round while its faults last.
pub struct Round<'a> {
    /// The nodes.
    pub cluster: Cluster,
    /// Draws of this scenario.
    pub draw: Stream,
    /// Takes marks for the report.
    pub timeline: Timeline,
    /// The runtime of the clients.
    pub runtime: &'a Runtime,
    /// The directory of the round.
    pub root: PathBuf,
    pub(crate) probes: Probes,
    pub(crate) setup: Setup,
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
}
