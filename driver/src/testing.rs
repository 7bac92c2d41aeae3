//! Conformance kits for what a user may implement: does a [`SnapshotStore`](crate::SnapshotStore)
//! or a [`Transport`](crate::Transport) keep its promises? (The kit for log stores is
//! `storage::testing::conformance`, that for state machines is in the simulator.)
//!
//! Each kit is a function that a test calls with a closure that makes the implementation. It
//! panics with the broken promise. The tests here plant mistakes, and the kits have to find them.

mod snapshots;
#[cfg(test)]
mod tests;
mod transport;

pub use snapshots::{SnapshotStart, snapshot_store};
pub use transport::{Connected, Peer, transport};
