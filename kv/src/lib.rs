//! A replicated key-value store over HTTP, built on the `raft`, `storage` and `driver` crates.
//!
//! A node is a [`machine::Machine`] (a persistent map and the history of the commands that made it)
//! behind a driver, and an HTTP API in front of it: the compatible API, which has the calls and
//! fields of an older system, and the v1 API, which is easy to use with curl. [`serve::run`] puts
//! all of it together; the `raft-kv` program is a thin shell around it.
//!
//! Consensus and durability are the driver's part. This crate passes each command to the driver,
//! and passes the driver's result on to the client.

pub mod address;
mod admission;
mod answers;
pub mod api;
pub mod base;
mod canned;
pub mod client;
pub mod command;
mod commits;
mod connection;
pub mod deletions;
pub mod descriptors;
mod front;
mod heavy;
pub mod history;
mod leader_client;
pub mod leaving;
pub mod limits;
pub mod lingering;
pub mod machine;
mod metrics;
mod patient;
mod pieces;
mod places;
pub mod plain;
mod query;
#[cfg(test)]
mod replay_tests;
pub mod serve;
mod server;
pub mod shared_bytes;
mod snapshot;
pub use snapshot::FORMAT as STORE_VERSION;
pub mod state;
pub mod store;
