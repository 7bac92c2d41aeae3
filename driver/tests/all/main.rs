//! The driver with simulated and real time.
//! One program, because each links, and compiles the generic parts of, a whole node.

#![allow(clippy::unwrap_used, reason = "a test ends where it cannot go on")]

mod changes;
mod cluster;
mod idle;
mod leases;
mod members;
mod sessions;
mod support;
