//! Whole nodes, their state machines in a simulation, and the conformance kit.
//! One program, because each links, and compiles the generic parts of, a whole node.

#![allow(clippy::unwrap_used, reason = "a test ends where it cannot go on")]
#![allow(missing_docs, reason = "an example is compiled into this program")]

mod conformance;
#[path = "../../examples/locks/machine.rs"]
mod machine;
mod restart;
mod simulated;
mod snapshots;
