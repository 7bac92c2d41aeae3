//! The limits that a round is checked against.

use std::time::Duration;

/// How long to wait for the first leader after the start of the processes, and for any other event
/// on a busy machine. A longer wait is a failure.
pub const PATIENCE: Duration = Duration::from_secs(30);
/// The most time from the end of all faults until writes are served through every node and all
/// copies are equal.
pub const RECOVERY_MAX: Duration = Duration::from_secs(30);

/// A node lists all commits within this time. There are up to 70 MB of them, and the machine may be
/// busy.
pub const LISTING_TIMEOUT: Duration = Duration::from_secs(20);
/// A healthy quorum replaces a leader with a faulty disk within this time, whatever the fault. It
/// covers some ten election timeouts, and the time that a client needs to find the new leader.
pub const FAILOVER_MAX: Duration = Duration::from_secs(10);
/// How long a node may report ready while no read through it succeeds.
pub const FALSE_READY_MAX: Duration = Duration::from_secs(5);
/// A ready node must have applied what was committed this long ago.
pub const READY_LAG_MAX: Duration = Duration::from_secs(5);
/// The most time from SIGTERM to the end of a healthy node.
pub const STOP_MAX: Duration = Duration::from_secs(10);
/// The most resident memory of a node.
pub const RSS_BYTES_MAX: u64 = 512 << 20;
/// The most open descriptors of a node, in a scenario that opens no extra connections to it.
pub const DESCRIPTORS_MAX: u64 = 256;
/// The log lines that each start and each change of leader may add.
pub const LOG_LINES_PER_CHANGE: u64 = 40;
/// The most log lines per second beyond those, averaged over the round.
pub const LOG_LINES_PER_S_MAX: u64 = 3;
/// The most messages that a node may send to its peers in any second, under the load of the clients
/// here.
pub const MESSAGES_PER_S_MAX: u64 = 5_000;
/// The limit for the 99th percentile of the response times of `/healthz` and `/is_leader`. A node
/// alone on a core stays below 20 ms; here nodes, clients and probes share the machine.
pub const HEALTH_P99_MAX: Duration = Duration::from_millis(500);
/// How long a client waits for a response. After that, the outcome is unknown.
pub const REQUEST_TIMEOUT: Duration = Duration::from_secs(3);
/// How long a client repeats a write of its session. After that, the outcome may be unknown.
pub const SESSION_PATIENCE: Duration = Duration::from_secs(20);
/// The most bytes of one response that a client reads into memory.
pub const ANSWER_BYTES_MAX: usize = 256 << 20;
