//! A plan: everything that a run depends on. It is drawn from a seed and small enough to read.
//!
//! The swarm (loss, delays, sizes) is drawn parameter by parameter, and most parameters can be
//! "off": no single distribution finds every bug. Faults are a list, each with its time, so a
//! failing plan can be shrunk by removing faults. A plan prints as one line and parses from it.

mod change;
mod draw;
mod fault;
mod line;
mod swarm;

pub use fault::{Fault, FaultKind, LEADER, MEMBERS_FORCED, MEMBERS_HURRIED};
pub use line::NoPlan;
pub use swarm::Swarm;

use std::ops::RangeInclusive;

/// The number of nodes that a run can have.
pub const NODES: RangeInclusive<u64> = 1..=15;

/// Everything that a run depends on.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Plan {
    /// Seeds every stream of draws.
    pub seed: u64,
    /// Number of nodes in the cluster, within [`NODES`].
    pub nodes: u64,
    /// The run's parameters.
    pub swarm: Swarm,
    /// The faults, ordered by time.
    pub faults: Vec<Fault>,
}

impl Plan {
    /// The plan of a seed, with a drawn number of nodes and every kind of fault.
    pub fn from_seed(seed: u64) -> Plan {
        Plan::drawn(seed, None, FaultKind::ALL)
    }

    /// The shortest election timeout, in microseconds.
    pub fn election_us(&self) -> u64 {
        u64::from(self.swarm.election_ticks) * u64::from(self.swarm.tick_us)
    }

    /// The lowest rate of any clock, in per mille of simulated time: at most 1,000, at least 1.
    pub fn slowest_clock(&self) -> u64 {
        let clocks = self.faults.iter().filter(|fault| fault.kind == FaultKind::Clock);
        let slowest = clocks.map(|fault| self.swarm.clock_rate(fault.amount)).min();
        slowest.unwrap_or(1_000).clamp(1, 1_000)
    }
}
