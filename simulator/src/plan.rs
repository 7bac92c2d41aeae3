//! A plan: everything that a run depends on. It is drawn from a seed and small enough to read.
//!
//! The swarm (loss, delays, sizes) is drawn parameter by parameter, and most parameters can be
//! "off": no single distribution finds every bug. Faults are a list, each with its time, so a
//! failing plan can be shrunk by removing faults. A plan prints as one line and parses from it.

use crate::random::{Purpose, Stream};
use raft::LeaseConfig;
use std::fmt;
use std::ops::RangeInclusive;
use std::str::FromStr;
use std::time::Duration;

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

macro_rules! swarm {
    ($($(#[$doc:meta])* $name:ident),* $(,)?) => {
        /// The parameters of a run. Times in microseconds, chances in millionths (at most
        /// 1,000,000), sizes in bytes.
        ///
        /// [`Plan::drawn`] draws each of them from a few values, given below in the order from
        /// mild to harsh. Where they begin with 0, a third of the runs have 0.
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
    /// Number of clients: 1, 3, 6 or 20.
    clients,
    /// The pause of a client between two operations: 0, 1,000 or 20,000, or longer, so that all
    /// faults strike before the run reaches its limit of events.
    think_us,
    /// A client gives up an operation after this time: 1,000,000, 200,000 or 50,000.
    patience_us,
    /// Share of operations that are reads: 100,000 or 500,000.
    reads_ppm,
    /// Share of messages that are lost: 0, 1,000, 20,000 or 150,000.
    loss_ppm,
    /// Share of lost messages that the transport reports to the sender.
    report_ppm,
    /// Share of messages that arrive twice: 0, 10,000 or 100,000.
    duplicate_ppm,
    /// Mean delay of a message: 100, 500 or 5,000.
    delay_us,
    /// Share of messages that are late: 0, 5,000, 50,000 or 300,000.
    tail_ppm,
    /// Maximum additional delay of a late message: 50,000, 500,000 or 3,000,000.
    tail_us,
    /// Mean duration of a sync: 10, 200 or 10,000.
    sync_us,
    /// Share of syncs that stall: 0, 1,000 or 20,000.
    stall_ppm,
    /// Maximum additional duration of a stalled sync: 50,000 or 1,000,000.
    stall_us,
    /// Mean time to apply a batch: 0, 50 or 10,000.
    apply_us,
    /// Share of unsynced sectors that survive a crash.
    keep_ppm,
    /// Share of the surviving unsynced sectors in which a crash flips a bit.
    tear_ppm,
    /// Duration of a tick: 1,000 or 10,000.
    tick_us,
    /// `heartbeat_ticks` of [`raft::Config`]: 1, 2 or 5.
    heartbeat_ticks,
    /// `election_ticks` of [`raft::Config`]: once, twice or four times what the delays and syncs
    /// require. At least twice `heartbeat_ticks`.
    election_ticks,
    /// `append_bytes_max` of [`raft::Config`].
    append_bytes,
    /// `write_bytes_max` of [`raft::Config`].
    write_bytes,
    /// `apply_bytes_max` of [`raft::Config`].
    apply_bytes,
    /// `inflight_messages_max` of [`raft::Config`].
    inflight,
    /// `inflight_bytes_max` of [`raft::Config`]; 0: the default.
    inflight_bytes,
    /// `snapshot_log_bytes` of [`raft::Config`].
    snapshot_bytes,
    /// `retained_bytes` of [`raft::Config`].
    retained_bytes,
    /// `uncommitted_bytes_max` of [`raft::Config`]; 0: the default.
    uncommitted_bytes,
    /// `reads_max` of [`raft::Config`]; 0: the default.
    reads_max,
    /// Capacity of each queue of a node's driver; 0: the default. Layer 2 only.
    queues_max,
    /// The size of a segment of the log.
    segment_bytes,
    /// Number of freed segments that the log keeps for reuse. Layer 1 only.
    recycled_segments,
    /// Maximum number of bytes of padding that are added to a command.
    padding_bytes,
    /// The faults that remain when the others stop. 0: none; 1: a minority stays down; 2: a
    /// minority stays isolated; 3: a minority receives nothing; 4: nothing that a minority sends
    /// arrives; 5: the leader's disk stays full; 6: the leader's disk stays stalled.
    lasting,
    /// `catch_up_bytes_max` of [`raft::Config`]; 0: a leader keeps nothing for a lagging peer.
    catch_up_bytes,
    /// `clock_ticks` of [`raft::Config`]; 0: the default.
    clock_ticks,
    /// `snapshot_log_bytes_max` of [`raft::Config`]; 0: as `snapshot_bytes`, so that the size of
    /// the last snapshot does not count.
    snapshot_bytes_max,
    /// 1: an operator replaces nodes whose disks were wiped, and makes all nodes voters in the end.
    /// One plan in three. Layer 1 only.
    churn,
    /// 1: three of four clients use sessions, and propose a command again whose outcome they do not
    /// know; 2: with small limits. Half of the plans. Layer 1 only.
    sessions,
    /// The time that a session lives without a use, in milliseconds: 60,000, 2,000 or 300.
    session_ttl_ms,
    /// The bound on clock drift of leases: 10,000, 100,000 or 250,000, which no clock exceeds then;
    /// 0 in half of the plans: there are no leases, and clocks run at any rate.
    lease_drift_ppm,
    /// Share of starts of a node at which leases are off: 0, or 300,000 in one plan of three. At as
    /// many of the others, promises are half as long.
    lease_off_ppm,
    /// The priorities of the nodes, from 0 to 3: two bits for each, those of node 0 last. Not 0 in
    /// a third of the plans. Layer 1 only.
    priorities,
    /// The time until the peers of a process learn that it has ended, in microseconds: 20,000 or
    /// 300,000, when it may run again. 0 in half of the plans: they do not. Layer 1 only.
    gone_us,
}

impl Swarm {
    /// The priority of a node.
    pub fn priority(&self, node: u64) -> u8 {
        (self.priorities.checked_shr(2 * node as u32).unwrap_or(0) & 3) as u8
    }

    /// The settings of leases of a node at one of its starts. Where some starts have none, others
    /// have a tick that counts as half as long, so their promises are shorter than earlier ones.
    pub fn lease(&self, draw: &mut Stream) -> Option<LeaseConfig> {
        let (is_off, is_short) = (draw.chance(self.lease_off_ppm), draw.chance(self.lease_off_ppm));
        if self.lease_drift_ppm == 0 || is_off {
            return None;
        }
        let half = self.tick() / 2;
        let is_short = is_short && self.has_room_for_leases(half, self.lease_drift_ppm);
        let tick = if is_short { half } else { self.tick() };
        Some(LeaseConfig { tick, drift_ppm: self.lease_drift_ppm })
    }

    /// Whether a lease lasts from one heartbeat to the next.
    fn has_room_for_leases(&self, tick: Duration, drift_ppm: u32) -> bool {
        LeaseConfig { tick, drift_ppm }.lasts(self.election_ticks) > tick * self.heartbeat_ticks
    }

    fn tick(&self) -> Duration {
        Duration::from_micros(u64::from(self.tick_us))
    }

    /// The rate of a clock in per mille of simulated time, within the bound on drift if there are
    /// leases.
    pub fn clock_rate(&self, per_mille: u64) -> u64 {
        match u64::from(self.lease_drift_ppm / 1_000) {
            0 => per_mille,
            drift => per_mille.clamp(1_000 - drift, 1_000 + drift),
        }
    }
}

/// As the node of a fault: the node that leads when the fault strikes.
pub const LEADER: u64 = u64::MAX;

/// A fault: one thing that goes wrong at one time.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Fault {
    /// When it strikes, in microseconds of simulated time.
    pub at_us: u64,
    /// The node, or [`LEADER`]; for [`FaultKind::Split`] a bit mask of nodes.
    pub node: u64,
    /// A duration in microseconds or another quantity: see the kind.
    pub amount: u64,
    /// The kind of fault; it defines the meaning of `node` and `amount`.
    pub kind: FaultKind,
}

impl Fault {
    /// The fault with [`LEADER`] replaced by `leader`, or by an arbitrary node if there is none.
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
        /// The kind of a fault. `node` and `amount` are the fields of [`Fault`].
        #[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
        pub enum FaultKind {
            $($(#[$doc])* $variant,)*
        }

        impl FaultKind {
            /// Every kind, in the order of declaration.
            pub const ALL: &'static [FaultKind] = &[$(FaultKind::$variant),*];

            /// Whether the node loses or damages data that it once held: log, snapshots or state.
            pub fn forgets(self) -> bool {
                use FaultKind::*;
                matches!(
                    self,
                    Rot | RotEnd
                        | Misdirect
                        | LostWrite
                        | Unreadable
                        | SnapshotRot
                        | Flip
                        | Wipe
                        | RotWriting
                )
            }

            /// Whether synced data of a log or a snapshot is damaged or lost, and a part of it
            /// stays.
            pub fn damages_files(self) -> bool {
                use FaultKind::*;
                matches!(
                    self,
                    Rot | RotEnd | Misdirect | LostWrite | Unreadable | SnapshotRot | RotWriting
                )
            }

            /// Whether a leader may lose its leadership to the fault without going down.
            fn deposes(self) -> bool {
                use FaultKind::*;
                matches!(self, Pause | Isolate | Deaf | Mute | Split)
            }

            /// Whether `amount` is a duration.
            fn lasts(self) -> bool {
                use FaultKind::*;
                !matches!(
                    self,
                    Clock | WallJump | IoError | CrashAt | Transfer | Members | Replace
                )
            }

            /// Whether it is a change of the membership. These are drawn by themselves.
            pub fn changes_members(self) -> bool {
                matches!(self, FaultKind::Members | FaultKind::Replace)
            }

            /// The word for the kind in a printed plan.
            pub fn word(self) -> &'static str {
                match self { $(FaultKind::$variant => $word,)* }
            }
        }
    };
}

kinds! {
    /// The node's power fails, and comes back after `amount` µs.
    Crash = "crash",
    /// The process ends but the power stays on: unsynced writes survive. It restarts after `amount`
    /// µs.
    Kill = "kill",
    /// The node shuts down cleanly. It restarts after `amount` µs.
    Stop = "stop",
    /// The node's power fails the next time a write is outstanding. It comes back after `amount`
    /// µs.
    CrashWriting = "crashw",
    /// The node's power fails right after the node sends its next message. It comes back after
    /// `amount` µs.
    CrashSending = "crashs",
    /// The process is suspended for `amount` µs and then continues.
    Pause = "pause",
    /// No link to or from the node carries anything for `amount` µs.
    Isolate = "isolate",
    /// The node receives no message for `amount` µs.
    Deaf = "deaf",
    /// No message that the node sends arrives for `amount` µs.
    Mute = "mute",
    /// The nodes whose bits are set are partitioned from the others for `amount` µs.
    Split = "split",
    /// Only the node connects two halves of the cluster for `amount` µs.
    Bridge = "bridge",
    /// Each node reaches only its two neighbours for `amount` µs.
    Ring = "ring",
    /// Messages to and from the node are held back for `amount` µs and then arrive together.
    Clog = "clog",
    /// The node's clock runs at `amount` per mille of simulated time from now on.
    Clock = "clock",
    /// The node's wall clock jumps by `amount` ms: forwards if that is even, backwards if it is
    /// odd.
    WallJump = "wall",
    /// The node's next sync fails and its unsynced data is discarded. The node must stop. It
    /// restarts a little later.
    SyncError = "syncerr",
    /// The node's disk is full for `amount` µs.
    Full = "full",
    /// The node's disk completes no write for `amount` µs.
    Stall = "stall",
    /// Each write of the node takes up to an election timeout longer, for `amount` µs.
    Slow = "slow",
    /// The `amount mod 32`-th operation of the node's disk from now fails; of a write, a part is
    /// done.
    IoError = "ioerr",
    /// The node's power fails within its `amount mod 32`-th disk operation from now.
    CrashAt = "crashat",
    /// The node's power fails, and a byte of its synced log is damaged.
    Rot = "rot",
    /// The node shuts down cleanly, and the end of its log is damaged when it restarts: no later
    /// write proves that the damaged one existed.
    RotEnd = "rotend",
    /// The node's power fails, and a block of its log was written over another block instead of to
    /// its own place.
    Misdirect = "misdirect",
    /// The node's power fails, and a write that was reported durable is missing: the disk still has
    /// the data from before it.
    LostWrite = "lostw",
    /// The node's power fails, and a sector of its log cannot be read any more.
    Unreadable = "unreadable",
    /// A byte of one of the node's snapshots is damaged. If `amount` is odd, the node's power fails
    /// too, for `amount` µs.
    SnapshotRot = "snaprot",
    /// The node's state machine applies a command in which a bit has flipped in memory.
    Flip = "flip",
    /// The node's disk is wiped. It comes back after `amount` µs under its old id, with a new
    /// incarnation.
    Wipe = "wipe",
    /// The leader hands leadership over to node `amount` modulo the number of nodes, or to the best
    /// one if that is the leader itself.
    Transfer = "transfer",
    /// The node's power fails within a write, and the last batch that was synced before it is
    /// damaged. It comes back after `amount` µs. Nothing is damaged unless the durable mark or a
    /// part of the write that is left proves that the batch was synced: otherwise nothing can tell
    /// such damage from a torn write.
    RotWriting = "rotw",
    /// An operator declares a membership at the leader: all members stay, and the bits of `amount`
    /// below [`MEMBERS_FORCED`] are the voters; all vote if there is no bit. Layer 1 only.
    Members = "members",
    /// An operator removes the node from the membership, wipes its disk, and adds it again with its
    /// new incarnation. Layer 1 only.
    Replace = "replace",
}

/// A bit in the amount of [`FaultKind::Members`]: the change is forced.
pub const MEMBERS_FORCED: u64 = 1 << 15;
/// A bit in the amount of [`FaultKind::Members`]: new voters have only an election timeout to catch
/// up.
pub const MEMBERS_HURRIED: u64 = 1 << 16;

/// The number of nodes that a run can have.
pub const NODES: RangeInclusive<u64> = 1..=15;

/// Maximum number of faults in a drawn plan.
const FAULTS_MAX: u64 = 100;

/// Maximum number of changes of the membership in a drawn plan.
const CHANGES_MAX: u64 = 40;

/// A fault that deposes leaders is this many times as likely as another.
const OFTEN: usize = 3;

impl Plan {
    /// The plan of a seed, with a drawn number of nodes and every kind of fault.
    pub fn from_seed(seed: u64) -> Plan {
        Plan::drawn(seed, None, FaultKind::ALL)
    }

    /// The plan of a seed, with this number of nodes if given, and with faults of these kinds only.
    pub fn drawn(seed: u64, nodes: Option<u64>, among: &[FaultKind]) -> Plan {
        Plan::drawn_with(seed, nodes, among, &[])
    }

    /// As [`Plan::drawn`], but each kind in `always` strikes in the run, whatever the seed draws.
    /// One that loses data needs three nodes, and a change of the membership two.
    pub fn drawn_with(
        seed: u64,
        nodes: Option<u64>,
        among: &[FaultKind],
        always: &[FaultKind],
    ) -> Plan {
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
        // Raft's timing requirement: a round trip, syncs included, is much shorter than an election
        // timeout (§3.9).
        let round_us = 4 * (delay_us + sync_us);
        let least = (round_us * 2 / tick_us + 1).max(3 * heartbeat_ticks);
        let election_ticks = least * draw.pick(&[1, 2, 4]);
        // A number of election timeouts, independent of the drawn delays.
        let faults_until_us = election_ticks * tick_us * draw.pick(&[20, 60, 150]);
        let clients = draw.pick(&[1, 3, 6, 20]);
        // In most runs clients send requests so rarely that all faults strike before the run
        // reaches its limit of events.
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
            // The largest values exceed the smallest segment.
            padding_bytes: off_or(&mut draw, &[100, 5_000, 20_000]),
            lasting: draw.pick(&[0, 0, 1, 2, 3, 4, 5, 6]),
            catch_up_bytes: off_or(&mut draw, &[500, 5_000, 100_000]),
            clock_ticks: election_ticks * off_or(&mut draw, &[1, 10]),
            snapshot_bytes_max: off_or(&mut draw, &[5_000, 1 << 30]),
            churn: 0,
            sessions: 0,
            session_ttl_ms: 0,
            lease_drift_ppm: 0,
            lease_off_ppm: 0,
            priorities: 0,
            gone_us: 0,
        };
        let mut plan = Plan { seed, nodes, swarm, faults: Vec::new() };
        let also = always.iter().filter(|kind| !among.contains(kind));
        let among: Vec<FaultKind> = among.iter().chain(also).copied().collect();
        plan.draw_faults(&among, always);
        plan.draw_churn(&among, always);
        plan.draw_sessions();
        plan.draw_leases();
        plan.draw_priorities();
        let mut draw = Stream::new(seed, Purpose::Gone, 0);
        plan.swarm.gone_us = draw.pick(&[0, 0, 20_000, 300_000]);
        plan
    }

    /// The shortest election timeout, in microseconds.
    pub fn election_us(&self) -> u64 {
        u64::from(self.swarm.election_ticks) * u64::from(self.swarm.tick_us)
    }

    fn draw_faults(&mut self, among: &[FaultKind], always: &[FaultKind]) {
        let mut draw = Stream::new(self.seed, Purpose::Faults, 0);
        // The kinds that occur in this run.
        let one_in = draw.pick(&[2, 2, 6]);
        let mut kinds: Vec<FaultKind> =
            among.iter().copied().filter(|kind| !kind.changes_members()).collect();
        kinds.retain(|kind| draw.below(one_in) == 0 || always.contains(kind));
        let always: Vec<FaultKind> =
            always.iter().copied().filter(|kind| !kind.changes_members()).collect();
        // Changes of leader exercise most of the protocol, so faults that cause them are more
        // likely.
        let often: Vec<FaultKind> = kinds.iter().copied().filter(|kind| kind.deposes()).collect();
        (1..OFTEN).for_each(|_| kinds.extend(&often));
        let election_us = self.election_us();
        let elections = u64::from(self.swarm.faults_until_us) / election_us.max(1);
        // Zero, or a number in proportion to the run's election timeouts. With too many faults the
        // cluster never makes enough progress to break a promise.
        let count = elections * draw.pick(&[0, 125, 250, 250, 500, 700]) / 1_000;
        let count = count.min(FAULTS_MAX).max(always.len() as u64);
        // Faults with time to recover in between find other bugs than faults that overlap.
        let paced = draw.below(2) == 0;
        let pause = draw.pick(&[2, 4, 8]);
        let mut free_us = 0;
        let at_leader_ppm = draw.pick(&[0, 300_000, 700_000, 900_000]);
        // Only one node may lose data: the others have copies of it.
        let victim = draw.below(self.nodes);
        let alone = self.nodes < 3;
        for n in 0..count {
            let mut draw = Stream::new(self.seed, Purpose::Faults, n + 1);
            let Some(kind) = (!kinds.is_empty()).then(|| draw.pick(&kinds)) else { break };
            let sure = always.get(n as usize).copied();
            let kind = sure.unwrap_or(kind);
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
                FaultKind::Transfer => LEADER,
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
            let at_us = if sure.is_some() { at_us % until.max(1) } else { at_us };
            free_us = at_us + if kind.lasts() { amount } else { 0 };
            if at_us < until {
                self.faults.push(Fault { at_us, node, amount, kind });
            }
        }
        self.faults.sort_by_key(|fault| fault.at_us);
    }

    /// Draws the sessions of clients. They have a stream of their own, so that they change nothing
    /// else in a plan.
    fn draw_sessions(&mut self) {
        let mut draw = Stream::new(self.seed, Purpose::Sessions, 0);
        self.swarm.sessions = draw.pick(&[0, 0, 1, 2]);
        if self.swarm.sessions > 0 {
            self.swarm.session_ttl_ms = draw.pick(&[60_000, 2_000, 300]);
        }
    }

    /// Draws the sessions of clients anew, so that there are some, or none.
    pub(crate) fn set_sessions(&mut self, used: bool) {
        let mut draw = Stream::new(self.seed, Purpose::Sessions, 1);
        self.swarm.sessions = if used { draw.pick(&[1, 2]) } else { 0 };
        self.swarm.session_ttl_ms = if used { draw.pick(&[60_000, 2_000, 300]) } else { 0 };
    }

    /// Draws the priorities of the nodes. If a disk fails for good, nobody else can tell that its
    /// node should not be preferred, until something is written.
    fn draw_priorities(&mut self) {
        let mut draw = Stream::new(self.seed, Purpose::Priority, 0);
        if draw.below(3) == 0 && self.swarm.lasting < 5 {
            self.swarm.priorities = draw.below(1 << 32) as u32;
        }
    }

    /// Draws the settings of leases. They have a stream of their own, so that they change nothing
    /// else in a plan.
    fn draw_leases(&mut self) {
        let mut draw = Stream::new(self.seed, Purpose::Lease, 0);
        if draw.below(2) == 0 {
            return;
        }
        let drift_ppm = draw.pick(&[10_000, 100_000, 250_000]);
        let off_ppm = draw.pick(&[0, 0, 300_000]);
        if self.swarm.has_room_for_leases(self.swarm.tick(), drift_ppm) {
            (self.swarm.lease_drift_ppm, self.swarm.lease_off_ppm) = (drift_ppm, off_ppm);
        }
    }

    /// Draws changes of the membership, in one plan of three. They have streams of their own, so
    /// that they change nothing else in a plan.
    fn draw_churn(&mut self, among: &[FaultKind], always: &[FaultKind]) {
        let mut draw = Stream::new(self.seed, Purpose::Churn, 0);
        let always = always.iter().any(|kind| kind.changes_members());
        let may = among.contains(&FaultKind::Members);
        if !(draw.below(3) == 0 && may || always) || self.nodes < 2 {
            return;
        }
        self.swarm.churn = 1;
        let election_us = self.election_us();
        let until = u64::from(self.swarm.faults_until_us);
        let elections = until / election_us.max(1);
        let count = (elections * draw.pick(&[100, 250, 500]) / 1_000).clamp(1, CHANGES_MAX);
        // Faults that may strike the leader while its change is in progress.
        let deposing = [FaultKind::Crash, FaultKind::Kill, FaultKind::Isolate, FaultKind::Transfer];
        let deposing: Vec<FaultKind> =
            deposing.into_iter().filter(|kind| among.contains(kind)).collect();
        for n in 0..count {
            let mut draw = Stream::new(self.seed, Purpose::Churn, n + 1);
            let at_us = draw.below(until);
            let replaces = among.contains(&FaultKind::Replace) && draw.below(6) == 0;
            let node = if replaces { draw.below(self.nodes) } else { LEADER };
            let amount = match replaces {
                true => 0,
                false => {
                    let voters = draw.below(1 << self.nodes) | draw.below(1 << self.nodes);
                    let forced = if draw.below(4) == 0 { MEMBERS_FORCED } else { 0 };
                    let hurried = if draw.below(3) == 0 { MEMBERS_HURRIED } else { 0 };
                    voters | forced | hurried
                }
            };
            let kind = if replaces { FaultKind::Replace } else { FaultKind::Members };
            self.faults.push(Fault { at_us, node, amount, kind });
            if draw.below(2) == 0 && !deposing.is_empty() {
                let at_us = at_us + draw.below(election_us);
                let amount = draw.pick(&[1, 4]) * election_us;
                let kind = draw.pick(&deposing);
                self.faults.push(Fault { at_us, node: LEADER, amount, kind });
            }
        }
        self.faults.retain(|fault| fault.at_us < until);
        self.faults.sort_by_key(|fault| fault.at_us);
    }
}

impl fmt::Display for Plan {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "seed={} nodes={}", self.seed, self.nodes)?;
        // Parameters that are 0 are left out and parse as 0: a small plan is a short line.
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

/// The word for which a line does not parse as a plan.
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
