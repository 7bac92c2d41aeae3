//! What a node is told when it starts: its settings, and what its disk has kept.

use crate::{Entry, HardState, Incarnation, NodeId, Snapshot};

/// The settings of a node. Times are in ticks; the driver says how long a tick is.
#[derive(Clone, Debug)]
pub struct Config {
    /// Who this node is.
    pub id: NodeId,
    /// The life of its disk.
    pub incarnation: Incarnation,
    /// Differs from start to start of this node, so that receipts of an earlier start are known as
    /// such. A random number will do.
    pub start_nonce: u64,
    /// Seeds the choice of election timeouts. Nodes of a cluster need different ones.
    pub seed: u64,
    /// Ticks between two rounds of heartbeats. At least 1.
    pub heartbeat_ticks: u32,
    /// The least number of ticks without a leader after which a node campaigns. Each wait is drawn
    /// from here up to one less than twice this (§3.4). At least 2 × `heartbeat_ticks`.
    pub election_ticks: u32,
    /// Campaign at once after the start instead of waiting for an election timeout.
    pub campaign_at_start: bool,
    /// The most bytes of entries in one `Append`; one entry always fits.
    pub append_bytes_max: usize,
    /// The most `Append`s with entries under way to one peer.
    pub inflight_messages_max: usize,
    /// The most bytes of entries under way to one peer.
    pub inflight_bytes_max: usize,
    /// The most bytes of entries in one `Write`; one entry always fits.
    pub write_bytes_max: usize,
    /// The most bytes of entries in one `Apply`; one entry always fits.
    pub apply_bytes_max: usize,
    /// The most bytes of entries that a leader takes beyond what is committed; then it is `Busy`.
    pub uncommitted_bytes_max: usize,
    /// The most bytes that one command may have; a larger one is refused.
    pub command_bytes_max: usize,
    /// The most reads waiting for confirmation at once.
    pub reads_max: usize,
    /// A snapshot is asked for when the log since the last one has this many bytes.
    pub snapshot_log_bytes: usize,
    /// How many bytes of entries that a snapshot already stands for are kept in memory, so that a
    /// peer slightly behind needs no snapshot.
    pub retained_bytes: usize,
    /// The most bytes of such entries that a leader keeps for a peer that receives a snapshot or is
    /// behind, and answers: so that it needs no other snapshot after this one.
    pub catch_up_bytes_max: usize,
    /// A leader appends an entry that holds only the time after this many ticks without any other.
    pub clock_ticks: u32,
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
            command_bytes_max: 8 << 20,
            reads_max: 4096,
            snapshot_log_bytes: 64 << 20,
            retained_bytes: 16 << 20,
            catch_up_bytes_max: 256 << 20,
            clock_ticks: 3_000,
        }
    }

    /// What is wrong with the settings, if anything.
    pub(crate) fn check(&self) -> Result<(), ConfigError> {
        if self.heartbeat_ticks < 1 || self.election_ticks < 2 * self.heartbeat_ticks {
            return Err(ConfigError::Ticks);
        }
        let limits = [
            ("append_bytes_max", self.append_bytes_max),
            ("inflight_messages_max", self.inflight_messages_max),
            ("inflight_bytes_max", self.inflight_bytes_max),
            ("write_bytes_max", self.write_bytes_max),
            ("apply_bytes_max", self.apply_bytes_max),
            ("uncommitted_bytes_max", self.uncommitted_bytes_max),
            ("command_bytes_max", self.command_bytes_max),
            ("reads_max", self.reads_max),
            ("snapshot_log_bytes", self.snapshot_log_bytes),
            ("clock_ticks", self.clock_ticks as usize),
        ];
        match limits.iter().find(|(_, limit)| *limit == 0) {
            Some((name, _)) => Err(ConfigError::ZeroLimit { name }),
            None => Ok(()),
        }
    }
}

/// What the disk has kept, as recovery found it.
#[derive(Clone, Debug)]
pub struct Restored {
    /// Term, vote and what is known to be lost.
    pub hard_state: HardState,
    /// The snapshot that the log begins after. The state machine has its state when the node starts.
    pub snapshot: Snapshot,
    /// The entries after it, contiguous.
    pub entries: Vec<Entry>,
}

impl Restored {
    /// What the disk of a node of a new cluster holds.
    pub fn initial(snapshot: Snapshot) -> Self {
        Restored { hard_state: HardState::default(), snapshot, entries: Vec::new() }
    }
}

/// Why a node could not be made.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum ConfigError {
    /// The timeouts contradict one another.
    #[error("heartbeat_ticks must be at least 1 and election_ticks at least twice as many")]
    Ticks,
    /// A limit of zero lets nothing through.
    #[error("{name} must not be zero")]
    ZeroLimit {
        /// The setting.
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
    /// The entries do not follow the snapshot, or one another. The store has a bug.
    #[error("the restored log is not contiguous at index {at}")]
    Gap {
        /// Where it breaks.
        at: crate::Index,
    },
    /// The log holds a term later than the restored hard state. The store has a bug.
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
