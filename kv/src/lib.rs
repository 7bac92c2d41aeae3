//! A replicated key-value store over HTTP, built on the `raft`, `storage` and `driver` crates.
//!
//! A node is a [`machine::Machine`] (a persistent map and the history of the commands that made it)
//! behind a driver, and an HTTP API in front of it: the compatible API of an older system, field
//! for field, and the v1 API for people with curl. [`serve::run`] puts all of it together; the
//! `raft-kv` program is a thin shell around that.
//!
//! What it is not: it decides nothing about consensus or durability. A command goes to the driver,
//! and whatever the driver says about it is what the client hears.

mod admission;
mod answers;
pub mod api;
mod canned;
pub mod client;
pub mod command;
mod commits;
mod connection;
pub mod descriptors;
mod front;
mod heavy;
pub mod history;
mod leader_client;
pub mod limits;
pub mod machine;
mod metrics;
mod patient;
mod pieces;
mod places;
mod query;
#[cfg(test)]
mod replay_tests;
pub mod serve;
mod server;
mod snapshot;
pub mod store;
