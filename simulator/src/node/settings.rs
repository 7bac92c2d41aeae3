//! The settings of a node and of its log, from the parameters of a plan.

use crate::plan::Swarm;
use crate::random::{Purpose, Stream};
use raft::{Config, Incarnation, NodeId};
use storage::LogConfig;

pub(crate) fn log_config(swarm: &Swarm) -> LogConfig {
    let segment_bytes = u64::from(swarm.segment_bytes);
    let mut config = LogConfig::default();
    config.segment_bytes = segment_bytes;
    config.recycled_bytes_max = u64::from(swarm.recycled_segments) * segment_bytes;
    if swarm.log_bytes > 0 {
        config.bytes_max = swarm.log_bytes.into();
    }
    config.background = false;
    config
}

pub(super) fn config(
    id: u64,
    swarm: &Swarm,
    incarnation: Incarnation,
    life: u64,
    seed: u64,
) -> Config {
    let mut config = Config::new(NodeId(id), incarnation, life);
    config.seed = seed;
    config.heartbeat_ticks = swarm.heartbeat_ticks;
    config.election_ticks = swarm.election_ticks;
    config.append_bytes_max = swarm.append_bytes as usize;
    config.write_bytes_max = swarm.write_bytes as usize;
    config.apply_bytes_max = swarm.apply_bytes as usize;
    config.inflight_messages_max = swarm.inflight as usize;
    config.snapshot_log_bytes = swarm.snapshot_bytes as usize;
    config.snapshot_log_bytes_max = swarm.snapshot_bytes_max as usize;
    config.retained_bytes = swarm.retained_bytes as usize;
    config.catch_up_bytes_max = swarm.catch_up_bytes as usize;
    if swarm.clock_ticks > 0 {
        config.clock_ticks = swarm.clock_ticks;
    }
    if swarm.inflight_bytes > 0 {
        config.inflight_bytes_max = swarm.inflight_bytes as usize;
    }
    if swarm.uncommitted_bytes > 0 {
        config.uncommitted_bytes_max = swarm.uncommitted_bytes as usize;
    }
    if swarm.log_bytes > 0 {
        config.uncommitted_bytes_max =
            config.uncommitted_bytes_max.min(swarm.uncommitted_bytes_of_a_bounded_log());
        config.uncommitted_entries_max = swarm.uncommitted_entries_of_a_bounded_log();
    }
    if let Some(writes) = swarm.writes_of_a_bounded_log() {
        config.snapshot_log_writes = writes;
    }
    if swarm.reads_max > 0 {
        config.reads_max = swarm.reads_max as usize;
    }
    config.priority = swarm.priority(id);
    config.lease = swarm.lease(&mut Stream::new(seed, Purpose::Lease, life));
    config
}
