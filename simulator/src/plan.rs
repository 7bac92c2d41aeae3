//! A plan: everything that a run depends on, drawn from a seed, and small enough to be read.
//!
//! The swarm (how lossy, how slow, which sizes) is drawn parameter by parameter, "off" included: no
//! single distribution finds every bug. Faults are a list, each with its time, so that a plan that
//! fails can be made smaller by taking faults out. A plan prints as one line and is read back from it.

use crate::random::{Purpose, Stream};
use std::fmt;
use std::ops::RangeInclusive;
use std::str::FromStr;

/// Everything that a run depends on.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Plan {
    /// Seeds every stream of draws.
    pub seed: u64,
    /// Nodes of the cluster.
    pub nodes: u64,
    /// The run's parameters.
    pub swarm: Swarm,
    /// What goes wrong, by time.
    pub faults: Vec<Fault>,
}

macro_rules! swarm {
    ($($(#[$doc:meta])* $name:ident),* $(,)?) => {
        /// The parameters of a run. Times in microseconds, chances in millionths, sizes in bytes.
        #[derive(Clone, Debug, Default, PartialEq, Eq)]
        pub struct Swarm {
            $($(#[$doc])* pub $name: u32,)*
        }

        impl Swarm {
            fn fields(&self) -> Vec<(&'static str, u32)> {
                vec![$((stringify!($name), self.$name)),*]
            }

            pub(crate) fn set(&mut self, name: &str, value: u32) -> bool {
                match name {
                    $(stringify!($name) => self.$name = value,)*
                    _ => return false,
                }
                true
            }
        }
    };
}

swarm! {
    /// Faults stop at this time.
    faults_until_us,
    /// Clients.
    clients,
    /// The pause of a client between two operations.
    think_us,
    /// After this long a client gives an operation up.
    patience_us,
    /// How many of its operations are reads.
    reads_ppm,
    /// Messages lost.
    loss_ppm,
    /// Lost messages that the transport reports.
    report_ppm,
    /// Messages that arrive twice.
    duplicate_ppm,
    /// The delay of a message.
    delay_us,
    /// Messages that are late.
    tail_ppm,
    /// How late at most.
    tail_us,
    /// How long a sync takes.
    sync_us,
    /// Syncs that stall.
    stall_ppm,
    /// How long at most.
    stall_us,
    /// How long a batch takes to be applied.
    apply_us,
    /// Unsynced sectors that a crash keeps.
    keep_ppm,
    /// Unsynced sectors that a crash leaves torn or flipped.
    tear_ppm,
    /// A tick.
    tick_us,
    /// See `raft::Config`.
    heartbeat_ticks,
    /// See `raft::Config`.
    election_ticks,
    /// See `raft::Config`.
    append_bytes,
    /// See `raft::Config`.
    write_bytes,
    /// See `raft::Config`.
    apply_bytes,
    /// See `raft::Config`.
    inflight,
    /// See `raft::Config`; 0: as it is by default.
    inflight_bytes,
    /// See `raft::Config`.
    snapshot_bytes,
    /// See `raft::Config`.
    retained_bytes,
    /// See `raft::Config::uncommitted_bytes_max`; 0: as it is by default.
    uncommitted_bytes,
    /// See `raft::Config`; 0: as it is by default.
    reads_max,
    /// How much may wait in each queue of a node's driver; 0: as it is by default. Layer 2 only.
    queues_max,
    /// The size of a segment of the log.
    segment_bytes,
    /// Segments that are kept to be used again. Layer 1 only.
    recycled_segments,
    /// Bytes by which commands are made larger, at most.
    padding_bytes,
    /// What does not heal when the faults stop: 0: nothing; 1: a minority stays down; 2: is cut off;
    /// 3: hears nothing; 4: is heard by nobody; 5: the disk of the one that leads is full for good;
    /// 6: it does not answer for good.
    lasting,
    /// See `raft::Config::catch_up_bytes_max`; 0: nothing is kept for a peer that is behind.
    catch_up_bytes,
    /// See `raft::Config::clock_ticks`; 0: as it is by default.
    clock_ticks,
}

/// As the node of a fault: whoever leads when it strikes.
pub const LEADER: u64 = u64::MAX;

/// Something that goes wrong.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Fault {
    /// When, in microseconds of simulated time.
    pub at_us: u64,
    /// Which node, or which nodes as the bits of a number, or [`LEADER`].
    pub node: u64,
    /// For how long, or how much.
    pub amount: u64,
    /// What.
    pub kind: FaultKind,
}

impl Fault {
    /// The fault as it strikes while `leader` leads.
    #[must_use]
    pub fn resolved(self, leader: Option<u64>) -> Fault {
        match self.node {
            LEADER => Fault { node: leader.unwrap_or(self.at_us), ..self },
            _ => self,
        }
    }
}

macro_rules! kinds {
    ($($(#[$doc:meta])* $variant:ident = $word:literal),* $(,)?) => {
        /// What goes wrong. `node` and `amount` are the fault's.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
        pub enum FaultKind {
            $($(#[$doc])* $variant,)*
        }

        impl FaultKind {
            /// All of them.
            pub const ALL: &'static [FaultKind] = &[$(FaultKind::$variant),*];

            /// Whether the node's disk forgets what it once held.
            pub fn forgets(self) -> bool {
                use FaultKind::*;
                matches!(
                    self,
                    Rot | RotEnd | Misdirect | LostWrite | Unreadable | SnapshotRot | Flip | Wipe
                )
            }

            /// Whether a leader that it strikes, alone or with others, may lead no more when it is over, and
            /// lives.
            fn deposes(self) -> bool {
                use FaultKind::*;
                matches!(self, Pause | Isolate | Deaf | Mute | Split)
            }

            /// Whether it takes its amount as a time.
            fn lasts(self) -> bool {
                use FaultKind::*;
                !matches!(self, Clock | WallJump | IoError | CrashAt)
            }

            /// Its word in a printed plan.
            pub fn word(self) -> &'static str {
                match self { $(FaultKind::$variant => $word,)* }
            }
        }
    };
}

kinds! {
    /// The node's power fails, and comes back after `amount` µs.
    Crash = "crash",
    /// The process ends and the power stays: what was written and not synced is there still. It starts
    /// again after `amount` µs.
    Kill = "kill",
    /// The node is told to stop, and does so in good order. It starts again after `amount` µs.
    Stop = "stop",
    /// The node's power fails at the next moment when a write is out.
    CrashWriting = "crashw",
    /// The same, at the next moment right after the node has sent a message.
    CrashSending = "crashs",
    /// The node hears and says nothing for `amount` µs, and then goes on as if nothing were.
    Pause = "pause",
    /// No link to or from the node carries anything for `amount` µs.
    Isolate = "isolate",
    /// Nothing reaches the node for `amount` µs.
    Deaf = "deaf",
    /// Nothing from the node reaches anybody for `amount` µs.
    Mute = "mute",
    /// The nodes whose bits are set are cut off from the others for `amount` µs.
    Split = "split",
    /// The node alone connects two halves for `amount` µs.
    Bridge = "bridge",
    /// Each node reaches its two neighbours only, for `amount` µs.
    Ring = "ring",
    /// What is on its way to or from the node is held up for `amount` µs, and then comes at once.
    Clog = "clog",
    /// The node's clock runs at `amount` per mille.
    Clock = "clock",
    /// The node's wall clock jumps by `amount` ms: backwards, if it is odd.
    WallJump = "wall",
    /// The node's next sync fails, and the unsynced data is gone; it must stop. It starts again a little
    /// later.
    SyncError = "syncerr",
    /// The node's disk is full for `amount` µs.
    Full = "full",
    /// The node's disk does not answer for `amount` µs.
    Stall = "stall",
    /// Each write of the node takes up to an election timeout longer, for `amount` µs.
    Slow = "slow",
    /// The node's disk refuses its `amount mod 32`-th operation from now; of a write, a part is done.
    IoError = "ioerr",
    /// The node's power fails within its `amount mod 32`-th disk operation from now.
    CrashAt = "crashat",
    /// The node's power fails, and a byte of its synced log has rotted.
    Rot = "rot",
    /// The node stops in good order, and what it wrote last has rotted when it comes back: no later write
    /// tells that it was there.
    RotEnd = "rotend",
    /// The node's power fails, and a block that was written lies where another one was.
    Misdirect = "misdirect",
    /// The node's power fails, and a write that was reported durable is not there: what was there before
    /// still is.
    LostWrite = "lostw",
    /// The node's power fails, and a sector of its log can be read no more.
    Unreadable = "unreadable",
    /// A byte of a snapshot of the node has rotted. The node's power fails for `amount` µs, if `amount` is
    /// odd.
    SnapshotRot = "snaprot",
    /// The node's state machine applies a command of which a bit has flipped in memory.
    Flip = "flip",
    /// The node's disk is wiped. It comes back after `amount` µs as a stranger under its old id.
    Wipe = "wipe",
}

/// How many nodes a run can have.
pub const NODES: RangeInclusive<u64> = 1..=15;

/// Faults that a seed stands for, at most.
const FAULTS_MAX: u64 = 100;

/// A fault that deposes leaders is drawn so many times as often as another.
const OFTEN: usize = 3;

impl Plan {
    /// The plan that a seed stands for.
    pub fn from_seed(seed: u64) -> Plan {
        Plan::drawn(seed, None, FaultKind::ALL)
    }

    /// The same with a number of nodes that is given, and with faults of these kinds only.
    pub fn drawn(seed: u64, nodes: Option<u64>, among: &[FaultKind]) -> Plan {
        let mut draw = Stream::new(seed, Purpose::Swarm, 0);
        let drawn = draw.pick(&[3, 3, 3, 5, 5, 1, 2, 4]);
        let nodes = nodes.unwrap_or(drawn);
        let tick_us = draw.pick(&[1_000, 10_000]);
        let heartbeat_ticks = draw.pick(&[1, 2, 5]);
        let off_or = |draw: &mut Stream, values: &[u32]| match draw.below(3) {
            0 => 0,
            _ => draw.pick(values),
        };
        let (delay_us, sync_us) = (draw.pick(&[100, 500, 5_000]), draw.pick(&[10, 200, 10_000]));
        // The paper's one demand on time: a round trip, syncs included, is short beside an election
        // timeout (§3.9).
        let round_us = 4 * (delay_us + sync_us);
        let least = (round_us * 2 / tick_us + 1).max(3 * heartbeat_ticks);
        let election_ticks = least * draw.pick(&[1, 2, 4]);
        // As long as so many elections, whatever the sizes.
        let faults_until_us = election_ticks * tick_us * draw.pick(&[20, 60, 150]);
        let clients = draw.pick(&[1, 3, 6, 20]);
        // In most runs clients ask so seldom that there is time for all faults before the events that a
        // run may have are used up.
        let operations = draw.pick(&[500, 2_000, 1 << 20]);
        let think_us = draw.pick(&[0, 1_000, 20_000]);
        let swarm = Swarm {
            faults_until_us,
            clients,
            think_us: think_us.max(faults_until_us / operations * clients),
            patience_us: draw.pick(&[50_000, 200_000, 1_000_000]),
            reads_ppm: draw.pick(&[100_000, 500_000]),
            loss_ppm: off_or(&mut draw, &[1_000, 20_000, 150_000]),
            report_ppm: off_or(&mut draw, &[100_000, 1_000_000]),
            duplicate_ppm: off_or(&mut draw, &[10_000, 100_000]),
            delay_us,
            tail_ppm: off_or(&mut draw, &[5_000, 50_000, 300_000]),
            tail_us: draw.pick(&[50_000, 500_000, 3_000_000]),
            sync_us,
            stall_ppm: off_or(&mut draw, &[1_000, 20_000]),
            stall_us: draw.pick(&[50_000, 1_000_000]),
            apply_us: draw.pick(&[0, 50, 10_000]),
            keep_ppm: draw.pick(&[0, 100_000, 500_000, 900_000, 1_000_000]),
            tear_ppm: off_or(&mut draw, &[50_000, 500_000]),
            tick_us,
            heartbeat_ticks,
            election_ticks,
            append_bytes: draw.pick(&[1, 200, 4_000, 1 << 20]),
            write_bytes: draw.pick(&[1, 500, 1 << 20]),
            apply_bytes: draw.pick(&[1, 500, 1 << 20]),
            inflight: draw.pick(&[1, 4, 64]),
            inflight_bytes: off_or(&mut draw, &[300, 5_000, 100_000]),
            snapshot_bytes: draw.pick(&[600, 3_000, 20_000, 1 << 30]),
            retained_bytes: draw.pick(&[0, 500, 10_000]),
            uncommitted_bytes: off_or(&mut draw, &[300, 5_000, 100_000]),
            reads_max: off_or(&mut draw, &[1, 4, 100]),
            queues_max: off_or(&mut draw, &[1, 4, 32]),
            segment_bytes: draw.pick(&[8 << 10, 32 << 10, 256 << 10]),
            recycled_segments: draw.pick(&[0, 1, 2]),
            // The largest are larger than the smallest segments.
            padding_bytes: off_or(&mut draw, &[100, 5_000, 20_000]),
            lasting: draw.pick(&[0, 0, 1, 2, 3, 4, 5, 6]),
            catch_up_bytes: off_or(&mut draw, &[500, 5_000, 100_000]),
            clock_ticks: election_ticks * off_or(&mut draw, &[1, 10]),
        };
        let mut plan = Plan { seed, nodes, swarm, faults: Vec::new() };
        plan.draw_faults(among);
        plan
    }

    /// The shortest election timeout, in microseconds.
    pub fn election_us(&self) -> u64 {
        u64::from(self.swarm.election_ticks) * u64::from(self.swarm.tick_us)
    }

    fn draw_faults(&mut self, among: &[FaultKind]) {
        let mut draw = Stream::new(self.seed, Purpose::Faults, 0);
        // Which kinds there are in this run at all.
        let one_in = draw.pick(&[2, 2, 6]);
        let mut kinds: Vec<FaultKind> =
            among.iter().copied().filter(|_| draw.below(one_in) == 0).collect();
        // What makes leaders change is what the protocol is about.
        let often: Vec<FaultKind> = kinds.iter().copied().filter(|kind| kind.deposes()).collect();
        (1..OFTEN).for_each(|_| kinds.extend(&often));
        let election_us = self.election_us();
        let elections = u64::from(self.swarm.faults_until_us) / election_us.max(1);
        // None, or so many in an election timeout: where they are too many, nothing works long enough
        // to be broken.
        let count = elections * draw.pick(&[0, 125, 250, 250, 500, 700]) / 1_000;
        let count = count.min(FAULTS_MAX);
        // Faults that come one after another, with time to get over each, find other bugs than those
        // that pile up until nothing works any more.
        let paced = draw.below(2) == 0;
        let pause = draw.pick(&[2, 4, 8]);
        let mut free_us = 0;
        let at_leader_ppm = draw.pick(&[0, 300_000, 700_000, 900_000]);
        // Only one node's disk may forget: of what it had, the others have copies.
        let victim = draw.below(self.nodes);
        let alone = self.nodes < 3;
        for n in 0..count {
            let mut draw = Stream::new(self.seed, Purpose::Faults, n + 1);
            let Some(kind) = (!kinds.is_empty()).then(|| draw.pick(&kinds)) else { break };
            let until = u64::from(self.swarm.faults_until_us);
            let forgets = kind.forgets();
            if forgets && alone {
                continue;
            }
            let at_leader = draw.chance(match kind.deposes() {
                true => at_leader_ppm.max(500_000),
                false => at_leader_ppm,
            });
            let node = match kind {
                _ if forgets => victim,
                FaultKind::Split => 1 + draw.below((1 << self.nodes) - 1),
                _ if at_leader => LEADER,
                _ => draw.below(self.nodes),
            };
            let amount = match kind {
                FaultKind::Clock => draw.pick(&[100, 200, 900, 1_100, 5_000]),
                FaultKind::WallJump => draw.pick(&[10, 3_000, 3_600_000]) + draw.below(2),
                _ => (draw.pick(&[1, 8, 24, 80]) * election_us / 8) + draw.below(election_us),
            };
            let at_us = match paced {
                true => free_us + draw.below(pause * election_us),
                false => draw.below(until),
            };
            free_us = at_us + if kind.lasts() { amount } else { 0 };
            if at_us < until {
                self.faults.push(Fault { at_us, node, amount, kind });
            }
        }
        self.faults.sort_by_key(|fault| fault.at_us);
    }
}

impl fmt::Display for Plan {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "seed={} nodes={}", self.seed, self.nodes)?;
        // What is not named is 0 when the line is read: a small plan is a short line.
        for (name, value) in self.swarm.fields().into_iter().filter(|(_, value)| *value != 0) {
            write!(f, " {name}={value}")?;
        }
        for Fault { at_us, node, amount, kind } in &self.faults {
            match *node {
                LEADER => write!(f, " {}:leader@{at_us}+{amount}", kind.word())?,
                node => write!(f, " {}:{node}@{at_us}+{amount}", kind.word())?,
            }
        }
        Ok(())
    }
}

/// Why a line is no plan.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NoPlan(String);

impl fmt::Display for NoPlan {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "not understood in a plan: {}", self.0)
    }
}

impl std::error::Error for NoPlan {}

impl FromStr for Plan {
    type Err = NoPlan;

    fn from_str(line: &str) -> Result<Plan, NoPlan> {
        let mut plan = Plan { seed: 0, nodes: 3, swarm: Swarm::default(), faults: Vec::new() };
        for word in line.split_whitespace() {
            read_word(&mut plan, word).ok_or_else(|| NoPlan(word.to_owned()))?;
        }
        Ok(plan)
    }
}

fn read_word(plan: &mut Plan, word: &str) -> Option<()> {
    if let Some((name, value)) = word.split_once('=') {
        match name {
            "seed" => plan.seed = value.parse().ok()?,
            "nodes" => {
                plan.nodes = value.parse().ok().filter(|nodes| NODES.contains(nodes))?;
            }
            _ => return plan.swarm.set(name, value.parse().ok()?).then_some(()),
        }
        return Some(());
    }
    let (kind, rest) = word.split_once(':')?;
    let (node, rest) = rest.split_once('@')?;
    let (at_us, amount) = rest.split_once('+')?;
    plan.faults.push(Fault {
        at_us: at_us.parse().ok()?,
        node: if node == "leader" { LEADER } else { node.parse().ok()? },
        amount: amount.parse().ok()?,
        kind: *FaultKind::ALL.iter().find(|known| known.word() == kind)?,
    });
    Some(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_plan_is_read_back_from_its_line() {
        for seed in 0..200 {
            let plan = Plan::from_seed(seed);
            assert_eq!(plan.to_string().parse(), Ok(plan));
        }
    }

    #[test]
    fn a_line_that_is_no_plan_is_refused_with_the_word_that_is_wrong() {
        assert_eq!("seed=1 crsh:0@1+1".parse::<Plan>(), Err(NoPlan("crsh:0@1+1".to_owned())));
        assert_eq!("seed=x".parse::<Plan>(), Err(NoPlan("seed=x".to_owned())));
        for nodes in ["nodes=0", "nodes=16"] {
            assert_eq!(nodes.parse::<Plan>(), Err(NoPlan(nodes.to_owned())));
        }
    }

    #[test]
    fn every_kind_of_fault_is_drawn_and_so_is_a_run_without_any() {
        let plans: Vec<Plan> = (0..500).map(Plan::from_seed).collect();
        for kind in FaultKind::ALL {
            assert!(plans.iter().any(|plan| plan.faults.iter().any(|fault| fault.kind == *kind)));
        }
        assert!(plans.iter().any(|plan| plan.faults.is_empty()));
        assert!(plans.iter().any(|plan| plan.swarm.loss_ppm == 0));
    }
}
