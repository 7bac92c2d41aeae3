//! Damage to the log of a node that is planned and not done yet.
//!
//! Damage is done when later writes prove that the damaged one was durable. Without them nothing
//! can tell it from a torn write. How it is chosen is in `world/faults.rs` and
//! `world/last_batch.rs`.

use std::collections::BTreeMap;

/// Damage that will be done to the log. It waits for later writes, so that recovery can distinguish
/// it from a torn write. In the very last write it cannot.
pub(crate) struct Rotting {
    /// Number of durable writes at which the node's power fails and the damage is done.
    pub at_write: u64,
    /// How long the node is down then.
    pub down_us: u64,
    /// The file to damage.
    pub path: String,
    /// Offsets in the file, and the bytes that replace those there.
    pub damage: Vec<(u64, Vec<u8>)>,
    /// The offset that becomes unreadable.
    pub unreadable: Option<u64>,
    /// The beginning of the file when the damage was planned. If the file begins with something
    /// else by then, it was freed or recycled, and no damage is done.
    pub found: Vec<u8>,
    /// The mark that is counted, see [`crate::Marks`].
    pub mark: &'static str,
}

/// The log as it was before a write that will be lost.
pub(crate) struct Losing {
    /// How long the node is down when the loss takes effect.
    pub down_us: u64,
    /// The files of the log, by path.
    pub files: BTreeMap<String, Vec<u8>>,
}

/// The last synced batch, which will be damaged when the power fails within the write after it.
pub(crate) struct RottingEnd {
    /// How long the node is down when the damage is done.
    pub down_us: u64,
    /// The batch, once one was synced.
    pub batch: Option<EndBatch>,
}

/// The last batch that was synced.
pub(crate) struct EndBatch {
    /// The file of the log.
    pub path: String,
    /// The offset of its first block, and its blocks.
    pub offset: usize,
    pub bytes: Vec<u8>,
    /// The content of the mark's file, if the mark covers the batch.
    pub mark: Option<Vec<u8>>,
}
