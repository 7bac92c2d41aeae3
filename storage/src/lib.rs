//! The durable log, snapshots, and the disk interface below them.
//!
//! The protocol's promises depend on the disk. This crate provides:
//!
//! - a [`Log`] that makes every [`raft::Write`] one batch on disk with one data sync, recovers
//!   exactly what was acknowledged, and reports it when it cannot (apart from one window, see
//!   [`Case`]);
//! - a store of [`Snapshots`];
//! - the [`Identity`] of a data directory.
//!
//! All of it uses the disk through the [`Disk`] trait, so the same code runs on a real disk
//! ([`RealDisk`]) and on a simulated one with faults (`testing::MemDisk`, with the feature
//! `testing`).
//!
//! The layout of a data directory:
//!
//! ```text
//! LOCK                        held by the process that uses the directory
//! IDENTITY                    which node of which cluster this is
//! MARK                        how far the log was known to be synced, some time ago
//! log/0000000000000001.seg    segments of the log, by generation
//! snapshots/<index>-<term>.snap
//! snapshots/<index>-<term>.part   one that is being received; a later transfer continues it
//! *.tmp                       being written; removed by the next start
//! ```
//!
//! The module [`codec`] is public for the other crates of this family. Its functions may change
//! with any version; a change of its format changes [`codec::VERSION`].
//!
//! This crate contains no protocol logic, event loop or async code.
//! [`Log::persist`](LogStore::persist) blocks until the write is durable; the driver runs it in a
//! thread of its own.

mod base;
mod batch;
mod block;
pub mod codec;
#[cfg(any(test, feature = "testing"))]
mod conformance;
mod directory;
mod disk;
mod identity;
mod log;
mod mark;
#[cfg(any(test, feature = "testing"))]
mod mem_disk;
mod real_disk;
mod recovery;
mod replay;
mod segment;
mod snapshots;
mod store;
#[cfg(test)]
mod tests;

pub use base::BaseError;
pub use block::VERSION as LOG_VERSION;
pub use directory::{
    Announced, ClaimError, Directory, DurableIncarnation, MemberDirectory, Unclaimed,
};
pub use disk::{Disk, DiskFile, LockError};
pub use identity::{ClusterId, Identity, IdentityError};
pub use log::{Log, LogConfig, Recovery, Usage};
pub use real_disk::{DIRECTORY_MODE, FILE_MODE, RealDisk, RealFile};
pub use recovery::{Case, OpenError};
pub use snapshots::{Part, SnapshotError, SnapshotReader, SnapshotWriter, Snapshots, is_damage};
pub use store::{LogStore, PersistError};

/// For tests: a disk in memory with injected faults and power failures, and a conformance kit for
/// log stores.
#[cfg(any(test, feature = "testing"))]
pub mod testing {
    /// The conformance kit for log stores.
    pub mod conformance {
        pub use crate::conformance::{Start, log_store, membership};
    }
    pub use crate::mem_disk::{
        DiskOperation, DiskVerdict, Faults, MemDisk, MemFile, SECTOR_BYTES, SectorFate, Unsynced,
    };
}
