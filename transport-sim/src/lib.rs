//! Runs the real driver of a Raft node, with the user's state machine and the real log, on simulated
//! time, network and disk, under the fault plans and the checks of the `simulator` crate.
//!
//! The `simulator` crate drives the core alone, and much faster. What it cannot reach is here: races
//! between the parts of a node, work that is dropped at any point where it waits, queues that are
//! full, timers, framing, and a node that starts again while the remains of its last life are still
//! there. One seed decides everything, the order in which tasks run included.
//!
//! [`simulate`] takes a plan and an [`App`]: a state machine, what answers requests in front of it
//! (a [`Service`], a task of its node), and clients. Whoever has a [`simulator::Workload`] for their
//! state machine runs that, with [`Calls`].
//!
//! What it is not: it runs no real sockets or files, and no threads. It is empty unless it is built
//! with `--cfg madsim`.
#![cfg(madsim)]

mod app;
mod bounds;
mod call;
mod clock;
mod cluster;
mod disk;
mod down;
mod ending;
mod faults;
mod founding;
mod link;
mod net;
mod outcomes;
mod picture;
mod pipe;
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
pub use ending::{Run, simulate, simulate_for};
pub use time::{Pause, now_us, run, sleep_us};
pub use workload::{Calls, Reply};
pub use world::{Limits, client_address, node_at};
