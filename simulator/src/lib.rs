//! A deterministic fault simulator for Raft clusters and for the state machines on them.
//!
//! The real core, the real log and the real snapshot code run on a simulated network, disk and
//! clock, in one thread, without a runtime. A seed determines a whole run: which node is
//! partitioned when, which sector of which write survives a crash, what each client requests. After
//! every event an observer that sees all nodes checks the promises of the protocol.
//!
//! It does not run the driver, sockets or real files. It finds bugs in the protocol, the log and a
//! state machine, not in the code that connects them.

pub mod bounds;
pub mod checks;
mod clients;
pub mod conformance;
mod contact;
mod describe;
pub mod ending;
pub mod failure;
pub mod faults;
mod kit;
mod limits;
pub mod linearizability;
mod log;
mod marks;
pub mod network;
mod node;
mod observer;
pub mod page;
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

pub use checks::Check;
pub use clients::{Client, Objection};
pub use describe::{Describe, Plain};
pub use failure::Failed;
pub use kit::{Passed, Simulation, SimulationError};
pub use log::{OpenStore, Opened};
pub use marks::{EXPECTED, Marks};
pub use plan::Plan;
pub use shrink::{Broken, Shrunk, shrink};
pub use storage::testing::MemDisk;
pub use timeline::{Ended, Fate, Flight, FlightKind, LastLog, Moment, Span, Step, Timeline, What};
pub use violation::{About, Violation};
pub use workload::{Answered, Outcome, RegisterWorkload, Registers, Request, Workload};
pub use world::{EVENTS_MAX, Run, run, run_for};
