//! The network: the fate of each message, per link and direction.

use crate::plan::{Fault, FaultKind, Swarm};
use crate::random::{Purpose, Stream};

/// The fate of a message.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Passage {
    /// It arrives, once or twice.
    Arrives {
        /// Delay until it arrives, in microseconds.
        after_us: u64,
        /// Delay until its copy arrives, in microseconds, if there is one.
        again_after_us: Option<u64>,
    },
    /// It is lost.
    Lost {
        /// Whether the transport reports the loss to the sender.
        reported: bool,
    },
}

/// Every link between two nodes, in each direction.
#[derive(Debug)]
pub struct Network {
    nodes: u64,
    links: Vec<Stream>,
    /// How many cuts are in force on each link.
    cut: Vec<u32>,
    /// Nothing arrives by the link before this time.
    clogged_until_us: Vec<u64>,
}

impl Network {
    /// Creates the links between this number of nodes.
    pub fn new(seed: u64, nodes: u64) -> Self {
        let links = (0..nodes * nodes).map(|link| Stream::new(seed, Purpose::Network, link));
        Network {
            nodes,
            links: links.collect(),
            cut: vec![0; (nodes * nodes) as usize],
            clogged_until_us: vec![0; (nodes * nodes) as usize],
        }
    }

    fn link(&self, from: u64, to: u64) -> usize {
        (from * self.nodes + to) as usize
    }

    /// Whether a cut blocks all messages from one node to the other.
    pub fn is_cut(&self, from: u64, to: u64) -> bool {
        self.cut[self.link(from, to)] > 0
    }

    /// Draws the fate of a message. If `calm`, when the faults are over, it arrives soon unless the
    /// link is still cut.
    pub fn pass(
        &mut self,
        now_us: u64,
        (from, to): (u64, u64),
        swarm: &Swarm,
        calm: bool,
    ) -> Passage {
        let cut = self.is_cut(from, to);
        let link = self.link(from, to);
        let held_us = self.clogged_until_us[link].saturating_sub(now_us);
        let draw = &mut self.links[link];
        let base_us = 1 + draw.below(2 * u64::from(swarm.delay_us) + 1);
        if calm && cut {
            return Passage::Lost { reported: false };
        }
        if calm {
            let after_us = 1 + base_us.min(1_000);
            return Passage::Arrives { after_us, again_after_us: None };
        }
        let (lost, late) = (draw.chance(swarm.loss_ppm), draw.chance(swarm.tail_ppm));
        let late_us = draw.below(u64::from(swarm.tail_us) + 1);
        let again = draw.chance(swarm.duplicate_ppm);
        let again_us = draw.below(u64::from(swarm.tail_us) + 1);
        let reported = draw.chance(swarm.report_ppm);
        if cut || lost {
            return Passage::Lost { reported };
        }
        Passage::Arrives {
            after_us: (base_us + if late { late_us } else { 0 }).max(held_us),
            again_after_us: again.then_some((base_us + again_us).max(held_us)),
        }
    }

    /// Holds back all messages to and from a node until a time.
    pub fn clog(&mut self, node: u64, until_us: u64) {
        for peer in 0..self.nodes {
            for link in [self.link(node, peer), self.link(peer, node)] {
                self.clogged_until_us[link] = self.clogged_until_us[link].max(until_us);
            }
        }
    }

    /// Puts a cut into force, or lifts it.
    pub fn cut(&mut self, fault: &Fault, in_force: bool) {
        for from in 0..self.nodes {
            for to in 0..self.nodes {
                if from == to || !self.cuts(fault, from, to) {
                    continue;
                }
                let link = self.link(from, to);
                let count = &mut self.cut[link];
                *count = if in_force { *count + 1 } else { count.saturating_sub(1) };
            }
        }
    }

    /// Lifts all cuts and clogs.
    pub fn lift_all(&mut self) {
        self.cut.fill(0);
        self.clogged_until_us.fill(0);
    }

    fn cuts(&self, fault: &Fault, from: u64, to: u64) -> bool {
        // A plan may have been drawn for more nodes than it is run with.
        let node = fault.node % self.nodes;
        // With the nodes in a circle, the halves are the nodes on either side of the bridge.
        let side = |id: u64| (id + self.nodes - node) % self.nodes <= self.nodes / 2;
        let inside = |id: u64| fault.node >> id & 1 == 1;
        match fault.kind {
            FaultKind::Isolate => from == node || to == node,
            FaultKind::Deaf => to == node,
            FaultKind::Mute => from == node,
            FaultKind::Split => inside(from) != inside(to),
            FaultKind::Bridge => from != node && to != node && side(from) != side(to),
            FaultKind::Ring => {
                let distance = (from + self.nodes - to) % self.nodes;
                distance != 1 && distance != self.nodes - 1
            }
            _ => false,
        }
    }
}
