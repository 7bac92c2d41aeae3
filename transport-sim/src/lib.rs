//! Runs the real driver of a Raft node, with the user's state machine and the real log, on simulated
//! time, network and disk, under the fault plans and the checks of the `simulator` crate.
//!
//! It is empty unless it is built with `--cfg madsim`.
#![cfg(madsim)]

mod time;

pub use time::{now_us, run, sleep_us};
