//! The program and its API, driven as a whole.
//! One program, because each links, and compiles the generic parts of, a whole node.

#![allow(clippy::unwrap_used, reason = "a test ends where it cannot go on")]

mod api;
mod bench;
mod cluster;
mod commands;
mod descriptors;
mod local;
mod members;
mod output;
mod overload;
mod python;
mod replies;
mod serve;
mod stops;
