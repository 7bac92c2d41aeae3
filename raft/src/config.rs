//! The input of a node at start-up: its settings, and what was recovered from its disk.

use crate::{Entry, HardState, Incarnation, LeaseConfig, NodeId, Snapshot};

/// Multiples of an election timeout are counted in `u32`. With ticks of 10 ms this is two days.
const ELECTION_TICKS_MAX: u32 = 1 << 24;

/// The settings of a node. Times are in ticks; the driver chooses the length of a tick (10 ms by
/// default). Make one with [`Config::new`] and change its fields.
///
/// With the defaults a node keeps in memory, apart from its state machine:
///
/// - entries that are applied: `retained_bytes` (16 MiB) and, until the next snapshot is durable,
///   `snapshot_log_bytes` (64 MiB), or as many bytes as the last snapshot has, if that is more, up
///   to `snapshot_log_bytes_max` (1 GiB), and a quarter more;
/// - entries that are not committed: up to `uncommitted_bytes_max` (64 MiB), and at most
///   `uncommitted_entries_max` (131,072) of them;
/// - on a leader with a peer that catches up: another `catch_up_bytes_max` (256 MiB).
///
/// Messages and writes share the memory of the entries in them.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct Config {
    /// The id of this node in the membership.
    pub id: NodeId,
    /// The incarnation of its data directory.
    pub incarnation: Incarnation,
    /// Differs between any two starts of this node, so that receipts of an earlier start are
    /// detected. A random number is enough.
    pub start_nonce: u64,
    /// The seed for election timeouts, by default made of `start_nonce` and `id`. The nodes of a
    /// cluster need different ones.
    pub seed: u64,
    /// Ticks between two rounds of heartbeats, 5 by default (50 ms). At least 1.
    pub heartbeat_ticks: u32,
    /// The shortest election timeout in ticks, 30 by default (300 ms). Each timeout is drawn at
    /// random from here up to one and a half times this (§3.4). At least 2 × `heartbeat_ticks`.
    /// Raise it if messages between nodes or syncs of the disk often take longer than a third.
    pub election_ticks: u32,
    /// Start an election at the first tick instead of after an election timeout. Off by default.
    pub campaign_at_start: bool,
    /// The most bytes of entries in one `Append`, 256 KiB by default. One entry always fits. A
    /// message with it must fit into what the transport carries.
    pub append_bytes_max: usize,
    /// The most `Append`s with entries in flight to one peer, 64 by default.
    pub inflight_messages_max: usize,
    /// The most bytes of entries in flight to one peer, 8 MiB by default. The transport may hold
    /// as many encoded bytes for each peer.
    pub inflight_bytes_max: usize,
    /// The most bytes of entries in one `Write`, 1 MiB by default. One entry always fits. The
    /// store keeps a buffer of this size.
    pub write_bytes_max: usize,
    /// The most bytes of entries in one `Apply`, 1 MiB by default. One entry always fits.
    pub apply_bytes_max: usize,
    /// The most bytes of uncommitted entries, of all terms, 64 MiB by default, all of it in memory.
    /// A leader that has reached it rejects proposals as `Busy`. As long as it has committed
    /// nothing in its term, it may count entries that are committed; it then rejects them as
    /// `NotLeader`.
    pub uncommitted_bytes_max: usize,
    /// The most entries that are not committed, 131,072 by default, counted and rejected likewise.
    /// On the disk, an entry that is written by itself takes a block of 4 KiB at least, and no
    /// snapshot covers it before it is committed.
    pub uncommitted_entries_max: usize,
    /// The most bytes of one command, 8 MiB by default. A larger one is rejected. A message with
    /// it must fit into what the transport carries.
    pub command_bytes_max: usize,
    /// The most reads that wait at once, 4096 by default. Further ones are rejected as `Busy`. A
    /// driver asks one read of the core for all that arrive in one turn.
    pub reads_max: usize,
    /// A snapshot is ordered once this many bytes of entries have been applied since the last
    /// order, 64 MiB by default. If the last snapshot is larger, its size counts instead (thesis
    /// §5.1.2): then the log and the snapshots together cost about two bytes of disk writes for
    /// each byte of the log. A state above `snapshot_log_bytes_max` costs more, and so does one of
    /// more than a gigabyte with small commands (`snapshot_log_writes`). Until the snapshot is
    /// durable, the entries are kept in memory and on disk. The order may be up to a quarter later,
    /// so that all nodes take their snapshots at the same entries.
    pub snapshot_log_bytes: usize,
    /// However large the last snapshot is, the next one is ordered after this many bytes of
    /// entries, 1 GiB by default. Lower it to save memory; the disk then writes more for a state
    /// that is larger. A value below `snapshot_log_bytes` counts as that.
    pub snapshot_log_bytes_max: usize,
    /// A snapshot is also ordered after this many writes since the last order, 262,144 by default.
    /// On the disk, each takes a block of 4 KiB at least, so the log has about 1 GiB by then,
    /// however small the commands are. After a start each entry in the log counts as a write.
    pub snapshot_log_writes: usize,
    /// How many bytes of entries that the snapshot covers stay in memory, 16 MiB by default, so
    /// that a peer slightly behind needs no snapshot.
    pub retained_bytes: usize,
    /// The most bytes of such entries that a leader keeps in memory for a peer that is behind and
    /// still replies, or is receiving a snapshot, 256 MiB by default. They spare the peer another
    /// snapshot after this one. A cluster that writes faster, or has larger snapshots, needs more.
    pub catch_up_bytes_max: usize,
    /// A leader appends a `Clock` entry after this many ticks without any other entry, 3000 by
    /// default (30 s).
    pub clock_ticks: u32,
    /// Leases: a leader answers reads of [`ReadProof::Lease`](crate::ReadProof) without a round of
    /// heartbeats. They rest on a bound on clock drift. `None`, the default: there are none.
    pub lease: Option<LeaseConfig>,
    /// A leader hands leadership over to a voter with a higher priority, once that has been healthy
    /// for four election timeouts. A node that loses leadership without handing it over, or is not
    /// elected when a leader hands over to it, states priority 0 for 16 election timeouts. The
    /// pause doubles each time, up to 1,024, until it has led for that long. 0 by default.
    pub priority: u8,
}

impl Config {
    /// Settings that suit a cluster on one network, with ticks of 10 ms.
    pub fn new(id: NodeId, incarnation: Incarnation, start_nonce: u64) -> Self {
        Config {
            id,
            incarnation,
            start_nonce,
            seed: start_nonce ^ id.0.rotate_left(32),
            heartbeat_ticks: 5,
            election_ticks: 30,
            campaign_at_start: false,
            append_bytes_max: 256 << 10,
            inflight_messages_max: 64,
            inflight_bytes_max: 8 << 20,
            write_bytes_max: 1 << 20,
            apply_bytes_max: 1 << 20,
            uncommitted_bytes_max: 64 << 20,
            uncommitted_entries_max: 1 << 17,
            command_bytes_max: 8 << 20,
            reads_max: 4096,
            snapshot_log_bytes: 64 << 20,
            snapshot_log_bytes_max: 1 << 30,
            snapshot_log_writes: 1 << 18,
            retained_bytes: 16 << 20,
            catch_up_bytes_max: 256 << 20,
            clock_ticks: 3_000,
            lease: None,
            priority: 0,
        }
    }

    /// The first setting that is out of range, if there is one. [`RawNode::new`](crate::RawNode)
    /// checks it too.
    pub fn check(&self) -> Result<(), ConfigError> {
        let are_apart =
            self.heartbeat_ticks >= 1 && self.election_ticks / 2 >= self.heartbeat_ticks;
        if !are_apart || self.election_ticks > ELECTION_TICKS_MAX {
            return Err(ConfigError::Ticks { max: ELECTION_TICKS_MAX });
        }
        if let Some(lease) = self.lease {
            if !(1..=LeaseConfig::DRIFT_PPM_MAX).contains(&lease.drift_ppm) {
                return Err(ConfigError::Drift { max_ppm: LeaseConfig::DRIFT_PPM_MAX });
            }
            let between_rounds = lease.tick.saturating_mul(self.heartbeat_ticks);
            if lease.lasts(self.election_ticks) <= between_rounds {
                return Err(ConfigError::NoRoomForLease);
            }
        }
        let limits = [
            ("append_bytes_max", self.append_bytes_max),
            ("inflight_messages_max", self.inflight_messages_max),
            ("inflight_bytes_max", self.inflight_bytes_max),
            ("write_bytes_max", self.write_bytes_max),
            ("apply_bytes_max", self.apply_bytes_max),
            ("uncommitted_bytes_max", self.uncommitted_bytes_max),
            ("uncommitted_entries_max", self.uncommitted_entries_max),
            ("command_bytes_max", self.command_bytes_max),
            ("reads_max", self.reads_max),
            ("snapshot_log_bytes", self.snapshot_log_bytes),
            ("snapshot_log_writes", self.snapshot_log_writes),
            ("clock_ticks", self.clock_ticks as usize),
        ];
        match limits.iter().find(|(_, limit)| *limit == 0) {
            Some((name, _)) => Err(ConfigError::ZeroLimit { name }),
            None => Ok(()),
        }
    }
}

/// The state that recovery has read from the disk.
#[derive(Clone, Debug)]
pub struct Restored {
    /// Term, vote and the end of a lost log, if any.
    pub hard_state: HardState,
    /// The snapshot that the log begins after. The state machine starts with its state.
    pub snapshot: Snapshot,
    /// The entries after the snapshot, contiguous.
    pub entries: Vec<Entry>,
}

impl Restored {
    /// The state of a node of a new cluster.
    pub fn initial(snapshot: Snapshot) -> Self {
        Restored { hard_state: HardState::default(), snapshot, entries: Vec::new() }
    }
}

/// Why a node cannot be created.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum ConfigError {
    /// The tick settings contradict each other.
    #[error(
        "heartbeat_ticks must be at least 1, and election_ticks at least twice as many and at most \
         {max}"
    )]
    Ticks {
        /// The most ticks of an election timeout.
        max: u32,
    },
    /// The length of a tick is 0, or above the longest. The driver checks this.
    #[error("the length of a tick must be above 0 and at most {max:?}")]
    Tick {
        /// The longest tick.
        max: std::time::Duration,
    },
    /// The bound on clock drift is 0, which no clock keeps, or leaves too little of a lease.
    #[error("the bound on clock drift must be from 1 to {max_ppm} parts per million")]
    Drift {
        /// The greatest bound.
        max_ppm: u32,
    },
    /// A lease would end before the next round of heartbeats could extend it.
    #[error(
        "a lease would not last from one heartbeat to the next: raise election_ticks, or lower \
         heartbeat_ticks or the bound on clock drift"
    )]
    NoRoomForLease,
    /// A limit of zero would let nothing through.
    #[error("{name} must not be zero")]
    ZeroLimit {
        /// The name of the setting.
        name: &'static str,
    },
    /// Commands, or appends, may be larger than the transport's messages.
    #[error(
        "{name} is {bytes}, and the transport carries messages of at most {limit_bytes} bytes: lower it"
    )]
    LargerThanMessages {
        /// The setting.
        name: &'static str,
        /// Its value.
        bytes: usize,
        /// The most that it may be.
        limit_bytes: usize,
    },
    /// A leader may have more messages in flight to a peer than the transport keeps for it. The
    /// driver checks this.
    #[error("{name} is {value}, and the transport keeps at most {limit} messages a peer: lower it")]
    MoreThanQueued {
        /// The setting.
        name: &'static str,
        /// Its value.
        value: usize,
        /// The most that it may be.
        limit: usize,
    },
    /// The entries do not follow the snapshot or each other. The store has a bug.
    #[error("the restored log is not contiguous at index {at}")]
    Gap {
        /// The index of the first entry that does not follow.
        at: crate::Index,
    },
    /// The log holds an entry of a later term than the hard state. The store has a bug.
    #[error(
        "the restored log has entries of term {log}, later than the restored term {hard_state}"
    )]
    TermBehindLog {
        /// The last term of the log.
        log: crate::Term,
        /// The restored term.
        hard_state: crate::Term,
    },
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    fn config(heartbeat_ticks: u32, election_ticks: u32) -> Config {
        let config = Config::new(NodeId(1), Incarnation(1), 1);
        Config { heartbeat_ticks, election_ticks, ..config }
    }

    #[test]
    fn an_election_timeout_is_at_least_two_heartbeats_and_has_a_limit() {
        let ticks = Err(ConfigError::Ticks { max: ELECTION_TICKS_MAX });
        for (heartbeat_ticks, election_ticks, expected) in [
            (1, 2, Ok(())),
            (5, 30, Ok(())),
            (5, 10, Ok(())),
            (5, ELECTION_TICKS_MAX, Ok(())),
            (5, 9, ticks.clone()),
            (0, 30, ticks.clone()),
            (u32::MAX, u32::MAX, ticks.clone()),
            (5, ELECTION_TICKS_MAX + 1, ticks),
        ] {
            assert_eq!(config(heartbeat_ticks, election_ticks).check(), expected);
        }
    }

    #[test]
    fn a_lease_lasts_from_one_heartbeat_to_the_next() {
        let ms = Duration::from_millis;
        for (tick, heartbeat_ticks, election_ticks, drift_ppm, is_enough) in [
            (ms(10), 5, 30, 100_000, true),
            (ms(10), 5, 30, LeaseConfig::DRIFT_PPM_MAX, true),
            // The promise lasts two ticks, and the lease a little less.
            (ms(10), 2, 4, 1, false),
            (ms(10), 1, 4, LeaseConfig::DRIFT_PPM_MAX, false),
            (ms(10), 1, 4, LeaseConfig::DRIFT_PPM_MAX - 1, true),
            // The length of a promise is in whole milliseconds.
            (Duration::from_micros(100), 1, 11, 1, false),
            (Duration::from_micros(100), 1, 12, 1, true),
            (Duration::MAX, 5, 30, 1, false),
            (Duration::ZERO, 5, 30, 1, false),
        ] {
            let lease = Some(LeaseConfig { tick, drift_ppm });
            let config = Config { lease, ..config(heartbeat_ticks, election_ticks) };
            let expected = if is_enough { Ok(()) } else { Err(ConfigError::NoRoomForLease) };
            assert_eq!(config.check(), expected, "{tick:?} {heartbeat_ticks} {election_ticks}");
        }
    }
}
