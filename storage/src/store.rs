//! The interface between the driver and the storage of the log.

use std::io;

/// Stores the durable state of a node: its hard state, the start of its log, and its entries.
///
/// An implementation must make each write durable completely or not at all, and call
/// [`raft::Write::durable`] only after the sync that made it durable. The safety of the protocol
/// depends on both. `storage::testing::conformance::log_store` (feature `testing`) tests an
/// implementation.
pub trait LogStore: Send {
    /// Makes a write durable. Blocks until it is.
    fn persist(&mut self, write: raft::Write) -> Result<raft::Durable, PersistError>;
}

/// Why a write is not durable.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum PersistError {
    /// The disk is full, the log has reached its limit, or the system has no memory or descriptors
    /// for the write. Nothing of the write counts as written. It may be retried, or another write
    /// may take its place (`raft::RawNode::renew_write`), and succeeds once there is room.
    #[error("no room for the log: {source}; {}", room_advice(.source))]
    Full {
        /// The write, for a retry.
        write: Box<raft::Write>,
        /// The error of the disk.
        source: io::Error,
    },
    /// The disk has failed, in this call or an earlier one. Its content is unknown: the node must
    /// stop. Every later write fails too.
    #[error("the disk failed: {source}; the node must stop")]
    Failed {
        /// The error with which the disk failed.
        source: io::Error,
    },
}

/// What an operator can do for a write that may be retried.
fn room_advice(source: &io::Error) -> &'static str {
    match source.kind() {
        io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => {
            "free some disk space, or raise the bound"
        }
        _ => "free some memory, or raise the limits of the process (ulimit -n)",
    }
}
