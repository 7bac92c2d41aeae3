//! The HTTP API, driven over sockets on real nodes with real disks.

mod bad_input;
mod cluster;
mod compat;
mod heads;
mod members;
pub mod node;
mod sessions;
mod slow;
mod v1;
