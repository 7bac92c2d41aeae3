//! Attacks on the shipped `raft-kv` binary.
//!
//! The simulator tests the protocol; this crate tests the process around it: real files, sockets,
//! signals, descriptors and clocks. A *round* starts a cluster in a temporary directory and runs
//! clients on it through every API. It runs one *scenario* of faults, then ends all faults. Last,
//! it checks the histories of the clients, the copies of all nodes and the resources that the nodes
//! used.
//!
//! No process outlives its round: a process is killed when its handle is dropped, stops when its
//! standard input ends, and is killed on Ctrl-C.
//!
//! It is not a benchmark, and it is not deterministic: a seed fixes the faults, not the schedule.

mod attack;
pub mod binary;
pub mod bounds;
mod clients;
mod cluster;
mod damage;
mod ending;
mod history;
mod http;
mod judge;
pub mod live;
mod network;
mod node;
mod outcome;
mod page;
mod ports;
mod probes;
mod round;
pub mod scenarios;
mod shim;
pub mod summary;
mod timeline;

pub use attack::{Stage, run};
pub use outcome::Outcome;
pub use page::report;
