//! The steps that scenarios consist of.

use crate::bounds::{DESCRIPTORS_MAX, RECOVERY_MAX, RSS_BYTES_MAX, STOP_MAX};
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

/// The setup of a round. Scenarios change the fields that they need.
pub struct Setup {
    /// The number of nodes.
    pub nodes: u64,
    /// The number of further nodes, which may be added to the cluster.
    pub spares: u64,
    /// The settings of each node.
    pub settings: Settings,
    /// Whether to preload the library of faults.
    pub shim: bool,
    /// The load of the clients.
    pub work: Work,
    /// The host name of a node in `--peers`, by its id.
    pub host: fn(u64) -> String,
    /// The most open descriptors that a node may have.
    pub descriptors_max: u64,
    /// The most resident memory that a node may have, in bytes.
    pub rss_bytes_max: u64,
    /// Whether the response time of probes and the rate of messages are checked. False in a
    /// scenario that overloads the machine on purpose.
    pub judge_rates: bool,
    /// Whether a node may end by itself, for instance with a failed disk. The end of the round
    /// starts it again.
    pub nodes_may_end: bool,
}

impl Default for Setup {
    fn default() -> Self {
        Setup {
            nodes: 3,
            spares: 0,
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

/// A round during its faults.
pub struct Round<'a> {
    /// The nodes.
    pub cluster: Cluster,
    /// The random numbers of this scenario.
    pub draw: Stream,
    /// Records the events of the round, for the report.
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

    /// Kills a node (SIGKILL).
    pub fn kill(&mut self, id: u64) {
        self.timeline.begin(Kind::Down, Some(id), "killed");
        self.probes.runs(id, None);
        self.cluster.nodes[id as usize].kill();
    }

    /// Simulates a power failure of these nodes: kills them and undoes the writes that they had not
    /// synced. Their fault "undo" must be on.
    pub fn lose_power(&mut self, ids: &[u64]) -> Step {
        ids.iter().for_each(|id| self.kill(*id));
        for id in ids {
            let undone = self.cluster.nodes[*id as usize].forget_unsynced()?;
            self.timeline.mark(Kind::Note, Some(*id), format!("{undone} unsynced writes undone"));
        }
        Ok(())
    }

    /// Stops a node (SIGTERM) and waits for its end. It must exit successfully.
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

    /// Stops and starts one node after the other. Each waits until the one before has caught up.
    pub fn restart_each(&mut self) -> Step {
        for id in self.cluster.ids() {
            self.stop(id)?;
            self.start(id)?;
            self.cluster.caught_up_within(id, RECOVERY_MAX)?;
        }
        Ok(())
    }

    /// Stops the execution of a node (SIGSTOP).
    pub fn pause(&mut self, id: u64) {
        self.timeline.begin(Kind::Fault, Some(id), "paused");
        self.probes.runs(id, None);
        self.cluster.nodes[id as usize].pause();
    }

    /// Continues the execution of a node (SIGCONT).
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

    /// Switches a fault off.
    pub fn heal(&mut self, id: u64, name: &str) {
        self.cluster.nodes[id as usize].heal(name);
        self.timeline.end(Kind::Fault, Some(id), name);
    }

    /// Sleeps for this time, or until an interrupt.
    pub fn sleep_ms(&self, ms: u64) {
        live::sleep(Duration::from_millis(ms));
    }

    /// Sleeps for a random time between these limits, in milliseconds.
    pub fn sleep_between(&mut self, from: u64, to: u64) {
        let time = self.draw.between(from, to);
        self.sleep_ms(time);
    }

    /// A random member.
    pub fn any(&mut self) -> u64 {
        let ids = self.cluster.ids();
        self.draw.pick(&ids)
    }

    /// All nodes but this one.
    pub fn others(&self, id: u64) -> Vec<u64> {
        self.cluster.ids().into_iter().filter(|other| *other != id).collect()
    }

    /// A random follower.
    pub fn follower(&mut self) -> Result<u64, Trouble> {
        let leader = self.cluster.leader()?;
        let others = self.others(leader);
        Ok(self.draw.pick(&others))
    }
}
