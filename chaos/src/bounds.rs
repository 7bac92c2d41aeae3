//! The bounds that a round is held to, each with its unit.

use std::time::Duration;

/// From the start of the processes to the first leader, and for everything else that has to come
/// about on a busy machine. Passing it is a failure, not a slow pass.
pub const PATIENCE: Duration = Duration::from_secs(30);
/// From the end of all faults until writes are served through every node and all copies are equal.
pub const RECOVERY_MAX: Duration = Duration::from_secs(30);
/// A healthy quorum replaces a sick leader within this, however its disk is sick: some ten election
/// timeouts, and the time that a client needs to find out.
pub const FAILOVER_MAX: Duration = Duration::from_secs(10);
/// A node may report ready this long while no read through it succeeds.
pub const FALSE_READY_MAX: Duration = Duration::from_secs(5);
/// A ready node has applied what was committed this long ago.
pub const READY_LAG_MAX: Duration = Duration::from_secs(5);
/// From SIGTERM to the end of a healthy node.
pub const STOP_MAX: Duration = Duration::from_secs(10);
/// Resident memory of a node.
pub const RSS_BYTES_MAX: u64 = 512 << 20;
/// Open descriptors of a node, without a scenario that opens connections to it.
pub const DESCRIPTORS_MAX: u64 = 256;
/// Log lines that each start and each change of leader may add.
pub const LOG_LINES_PER_CHANGE: u64 = 40;
/// Log lines a second on top of that, averaged over the round.
pub const LOG_LINES_PER_S_MAX: u64 = 3;
/// Messages that a node sends to its peers in any second under the load of the clients here.
pub const MESSAGES_PER_S_MAX: u64 = 5_000;
/// 99 of 100 answers to `/healthz` and `/is_leader` come within this. A node alone on a core stays
/// below 20 ms; here nodes, clients and probes share the machine.
pub const HEALTH_P99_MAX: Duration = Duration::from_millis(500);
/// A client gives a request up after this; the outcome is then unknown.
pub const REQUEST_TIMEOUT: Duration = Duration::from_secs(3);
/// Bytes of one answer that a client reads into memory.
pub const ANSWER_BYTES_MAX: usize = 256 << 20;
