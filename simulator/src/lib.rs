//! A deterministic fault simulator for Raft clusters and for the state machines on them.
//!
//! The real core, the real log and the real snapshot code run on a simulated network, disk and
//! clock, in one thread, without a runtime. A seed determines a whole run: which node is
//! partitioned when, which sector of which write survives a crash, what each client requests. After
//! every event an observer that sees all nodes checks the promises of the protocol.
//!
//! To test your own state machine, begin with [`conformance`]: one call, without a cluster, finds
//! most mistakes. Then [`Simulation`] runs it on a cluster under faults:
//!
//! | | |
//! |---|---|
//! | [`Simulation::new`] | clients that send requests and remember nothing |
//! | [`Simulation::with_clients`] | clients that use answers, for protocols with tokens |
//! | [`Simulation::of`] | a whole [`Workload`]: clients that share what they know |
//! | [`Simulation::invariant`] | a check of the state after each command |
//! | [`Simulation::history`] | a check of all requests and answers together |
//! | [`Simulation::always`] | faults for every run: changes of members, transfers of leadership |
//! | [`Simulation::sessions`] | whether clients use sessions |
//! | [`Simulation::describe`] | how commands and answers read in a report |
//! | [`Simulation::log_store`] | your own log store instead of the library's |
//!
//! A simulation in a debug build is slow. These lines in the workspace's `Cargo.toml` make it about
//! sixteen times faster:
//!
//! ```toml
//! [profile.dev.package.quorate-core]
//! opt-level = 2
//! [profile.dev.package.quorate-storage]
//! opt-level = 2
//! [profile.dev.package.quorate-sim]
//! opt-level = 2
//! ```
//!
//! It does not run the driver, sockets or real files. It finds bugs in the protocol, the log and a
//! state machine, not in the code that connects them.

pub mod bounds;
pub mod checks;
mod clients;
pub mod conformance;
mod contact;
mod copies;
mod describe;
mod electable;
pub mod ending;
mod erased;
pub mod failure;
pub mod faults;
mod hush;
mod in_force;
mod joint;
mod kit;
mod leases;
mod limits;
pub mod linearizability;
mod log;
mod marks;
pub mod network;
mod node;
mod observer;
pub mod page;
mod pauses;
pub mod plan;
mod queue;
pub mod random;
pub mod regressions;
mod replay;
mod shadow;
mod shrink;
mod timekeeping;
pub mod timeline;
mod violation;
mod workload;
mod world;

/// The examples in the README.
#[cfg(doctest)]
#[doc = include_str!("../README.md")]
pub struct Readme;

pub use checks::Check;
pub use clients::{Client, Objection};
pub use describe::{Describe, Plain};
pub use driver::{ErasedFrozen, ErasedMachine};
pub use erased::Erased;
pub use failure::Failed;
pub use kit::{Passed, Simulation, SimulationError};
pub use log::{OpenStore, Opened};
pub use marks::{EXPECTED, Marks};
pub use plan::Plan;
pub use shrink::{Broken, Shrunk, shrink};
pub use storage::testing::MemDisk;
pub use timeline::{Ended, Fate, Flight, FlightKind, LastLog, Moment, Span, Step, Timeline, What};
pub use violation::{About, Violation};
pub use workload::{Answered, ClientOutcome, ClientRequest, RegisterWorkload, Registers, Workload};
pub use world::{EVENTS_MAX, Run, run, run_for};
