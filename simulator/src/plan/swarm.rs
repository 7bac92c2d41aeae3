//! The parameters of a run: network, disks, clients and the settings of nodes.
//!
//! All of them are whole numbers under one name each, so that a plan prints as one line and
//! shrinking can try smaller ones without knowing what they mean. The distributions are in
//! `draw.rs`.

use crate::random::Stream;
use raft::LeaseConfig;
use std::time::Duration;

/// With lower limits on the bytes of a write or of an append, a node writes or sends one entry at a
/// time, or a few.
const ONE_BY_ONE_BYTES: u32 = 1_000;

macro_rules! swarm {
    ($($(#[$doc:meta])* $name:ident),* $(,)?) => {
        /// The parameters of a run. Times in microseconds, chances in millionths (at most
        /// 1,000,000), sizes in bytes.
        ///
        /// [`Plan::drawn`](super::Plan::drawn) draws each of them from a few values, given below in
        /// the order from mild to harsh. Where they begin with 0, a third of the runs have 0.
        #[derive(Clone, Debug, Default, PartialEq, Eq)]
        pub struct Swarm {
            $($(#[$doc])* pub $name: u32,)*
        }

        impl Swarm {
            pub(super) fn fields(&self) -> Vec<(&'static str, u32)> {
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
    /// 1: an operator replaces nodes whose disks were wiped, and makes all nodes voters in the end
    /// (layer 1). One plan in three.
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
    /// a third of the plans.
    priorities,
    /// The time until the peers of a process learn that it has ended, in microseconds: 20,000 or
    /// 300,000, when it may run again. 0 in half of the plans: they do not. Layer 1 only.
    gone_us,
    /// Share of transfers of a snapshot that fail because the sender's disk cannot read it: 0 in
    /// three quarters of the plans, or 300,000. Layer 1 only.
    unread_ppm,
    /// `bytes_max` of [`storage::LogConfig`]: 1 MiB or 4 MiB in a ninth of the plans; 0: the
    /// default.
    log_bytes,
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
    pub(super) fn has_room_for_leases(&self, tick: Duration, drift_ppm: u32) -> bool {
        LeaseConfig { tick, drift_ppm }.lasts(self.election_ticks) > tick * self.heartbeat_ticks
    }

    /// The most bytes of uncommitted entries if the log has a bound: as in the product.
    pub fn uncommitted_bytes_of_a_bounded_log(&self) -> usize {
        self.log_bytes as usize / 8
    }

    /// The most such entries, each of which may take a block: as in the product.
    pub fn uncommitted_entries_of_a_bounded_log(&self) -> usize {
        self.log_bytes as usize / 8 / 4096
    }

    /// After how many writes a snapshot is due if the log has a bound: as in the product, unless it
    /// may fill.
    pub fn writes_of_a_bounded_log(&self) -> Option<usize> {
        let has_room = self.log_bytes > 0 && !self.log_may_fill();
        has_room.then_some(self.log_bytes as usize / 4 / 4096)
    }

    /// Whether the log may reach its bound before a snapshot is due. In the product, one is due
    /// when the log has grown by a quarter of the bound.
    pub(crate) fn log_may_fill(&self) -> bool {
        self.log_bytes > 0 && self.snapshot_bytes > self.log_bytes / 4
    }

    /// Whether most entries are sent or written one by one.
    pub(crate) fn goes_one_by_one(&self) -> bool {
        self.write_bytes.min(self.append_bytes) < ONE_BY_ONE_BYTES
    }

    pub(super) fn tick(&self) -> Duration {
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
