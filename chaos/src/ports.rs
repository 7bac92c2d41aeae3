//! Free ports for nodes.

use std::net::{Ipv4Addr, SocketAddr, TcpListener};
use std::sync::atomic::{AtomicU16, Ordering};

/// The first port. The ports are below those that the system gives to outgoing connections, which
/// could take the port of a node while it is down.
const FIRST: u16 = 12_000;
const COUNT: u16 = 7_000;

static NEXT: AtomicU16 = AtomicU16::new(0);

/// A port of 127.0.0.1 on which nothing listens. No other call in this process returns it soon.
pub fn free() -> SocketAddr {
    let start = (std::process::id() % u32::from(COUNT)) as u16;
    for _ in 0..COUNT {
        let next = NEXT.fetch_add(1, Ordering::Relaxed);
        let port = FIRST + start.wrapping_add(next) % COUNT;
        if TcpListener::bind((Ipv4Addr::LOCALHOST, port)).is_ok() {
            return SocketAddr::from((Ipv4Addr::LOCALHOST, port));
        }
    }
    panic!("no port of 127.0.0.1 from {FIRST} on is free");
}

/// Rows use a range of their own, because [`free`] does not check the ports 1000 higher.
const ROWS_FIRST: u16 = 10_000;
const ROWS_COUNT: u16 = 900;

static NEXT_ROW: AtomicU16 = AtomicU16::new(0);

/// The first of `count` consecutive free ports. The ports 1000 higher are free too, as `raft-kv
/// cluster` needs. No other call in this process returns any of them soon.
pub fn free_row(count: u16) -> u16 {
    let start = (std::process::id() % u32::from(ROWS_COUNT)) as u16;
    for _ in 0..ROWS_COUNT {
        let next = NEXT_ROW.fetch_add(count, Ordering::Relaxed);
        let first = ROWS_FIRST + start.wrapping_add(next) % ROWS_COUNT;
        let mut all = (first..first + count).flat_map(|port| [port, port + 1000]);
        if all.all(|port| TcpListener::bind((Ipv4Addr::LOCALHOST, port)).is_ok()) {
            return first;
        }
    }
    panic!("no {count} free ports in a row");
}
