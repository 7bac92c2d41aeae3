//! Runs the real driver of a Raft node, with the user's state machine and the real log, on
//! simulated time, network and disk, under the fault plans and the checks of the `simulator` crate.
//!
//! The `simulator` crate drives only the core, and much faster. This crate covers what that one
//! cannot reach: races between the parts of a node, tasks that are dropped at any await point, full
//! queues, timers, framing, and a node that restarts while remains of its last life still exist.
//! One seed decides everything, including the order in which tasks run.
//!
//! [`simulate`] takes a plan and an [`App`]: a state machine, a [`Service`] that answers requests
//! in front of it (as a task of its node), and clients. A [`simulator::Workload`] runs here too,
//! with [`Calls`].
//!
//! It runs no real sockets, files or threads. The crate is empty unless it is built with
//! `--cfg madsim`.
#![cfg(madsim)]

mod app;
mod bounds;
mod call;
mod clock;
mod cluster;
mod cuts;
mod disk;
mod down;
mod ending;
mod faults;
mod finished;
mod founding;
mod link;
mod net;
mod operator;
mod outcomes;
mod picture;
mod pipe;
mod run;
mod sockets;
mod store;
mod time;
mod transfer;
mod watch;
mod workload;
mod world;

pub use app::{App, Boot, Service, Started, Task};
pub use call::CallError;
pub use clock::SimClock;
pub use cluster::Cluster;
pub use run::{Run, simulate, simulate_for};
pub use time::{Pause, now_us, run, sleep_us};
pub use workload::{Calls, Reply};
pub use world::{Limits, client_address, node_at};
