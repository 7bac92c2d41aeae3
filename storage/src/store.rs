//! The seam between the driver and whatever keeps the log.

use std::io;

/// Keeps the durable state of a node: its hard state, where its log begins, and its entries.
///
/// Whoever writes another one: a write is durable whole or not at all, and [`raft::Write::durable`] is
/// called right after the sync that made it so. Everything hangs on that.
pub trait LogStore: Send {
    /// Makes a write durable. Blocks until it is.
    fn persist(&mut self, write: raft::Write) -> Result<raft::Durable, PersistError>;
}

/// Why a write is not durable.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum PersistError {
    /// There is no room. Nothing of it counts as written: the same write may be tried again, and
    /// succeeds when there is room.
    #[error("no room for the log: {source}; free some disk space, or raise the bound")]
    Full {
        /// The write, to be tried again.
        write: Box<raft::Write>,
        /// What the disk said.
        source: io::Error,
    },
    /// The disk has failed, in this call or an earlier one. Nobody knows what it holds: the node must
    /// stop, and every later write fails likewise.
    #[error("the disk failed: {source}; the node must stop")]
    Failed {
        /// What the disk said when it failed.
        source: io::Error,
    },
}
