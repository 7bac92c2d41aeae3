//! Whole nodes, their state machines in a simulation, and the conformance kit.
//! One program, because each links, and compiles the generic parts of, a whole node.

#![allow(clippy::unwrap_used, reason = "a test ends where it cannot go on")]
#![allow(missing_docs, reason = "an example is compiled into this program")]

use std::net::{Ipv4Addr, TcpListener};

/// A listener on a port that no outgoing connection gets by chance: a node that is started on it
/// later finds it free.
fn listener() -> TcpListener {
    let ports = std::iter::repeat_with(|| 10_000 + rand::random::<u16>() % 20_000);
    let mut listeners =
        ports.filter_map(|port| TcpListener::bind((Ipv4Addr::LOCALHOST, port)).ok());
    listeners.next().unwrap()
}

mod conformance;
#[path = "../../examples/locks/machine.rs"]
mod machine;
mod restart;
mod simulated;
mod snapshots;
