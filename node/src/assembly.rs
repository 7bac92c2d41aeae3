//! Builds a node from its parts. Only here in the workspace do a log, snapshots, a transport, a
//! clock and a state machine become a driver.
//!
//! [`Node`](crate::Node) uses it with a real disk, HTTP and the clock of the operating system. A
//! simulation uses it with a disk in memory, a simulated network and simulated time. It starts
//! nothing: it returns futures, which run on tokio ([`driver::spawn`]) or on the executor of a
//! simulation.

use driver::{
    Clock, Dependencies, Driver, DriverConfig, Inbox, Inspect, SnapshotStore, StateMachine,
    Transport,
};
use raft::{Config, ConfigError};
use std::sync::Arc;
use storage::{Disk, Log, MemberDirectory, Snapshots};

/// The parts of a node.
pub struct Parts<S, D: Disk> {
    /// The state machine, in its initial state.
    pub machine: S,
    /// The data directory. The snapshot that its log begins after must have been checked: see
    /// [`MemberDirectory::check_base`].
    pub member: MemberDirectory<D>,
    /// The snapshots in the data directory.
    pub snapshots: Snapshots<D>,
    /// The clock of the driver.
    pub clock: Arc<dyn Clock>,
    /// The settings. The node and incarnation in it are replaced by those of `member`.
    pub config: DriverConfig,
    /// The most messages of peers that may wait for the core; `None` for the default limit.
    pub messages_max: Option<usize>,
    /// Observes the node while it runs, for the checks of a simulation. `()` does nothing.
    pub inspect: Arc<dyn Inspect>,
}

/// A node that is built and does not run yet.
pub struct Assembled<S: StateMachine, D: Disk, T> {
    /// The driver, whose parts have to be run.
    pub driver: Driver<S>,
    /// The log, for the part that writes to it.
    pub log: Log<D>,
    /// The transport that the argument of [`Parts::assemble`] has made.
    pub transport: Arc<T>,
    /// The inbox to which the transport delivers what peers send.
    pub inbox: Inbox,
}

impl<S: StateMachine, D: Disk + Sync> Parts<S, D> {
    /// Builds the node. `transport` makes the transport, which delivers what peers send to the
    /// inbox.
    pub fn assemble<T: Transport>(
        self,
        transport: impl FnOnce(Inbox) -> Arc<T>,
    ) -> Result<Assembled<S, D, T>, ConfigError> {
        let Parts { machine, member, snapshots, clock, mut config, messages_max, inspect } = self;
        config.raft.id = member.who().node();
        config.raft.incarnation = member.who().incarnation();
        let snapshots: Arc<dyn SnapshotStore> = Arc::new(snapshots);
        let (inbox, inbox_receiver) = match messages_max {
            None => driver::inbox(snapshots.clone()),
            Some(max) => driver::inbox_limited(snapshots.clone(), max),
        };
        let transport = transport(inbox.clone());
        let (log, restored) = member.into_log();
        fit_to_log(&mut config.raft, log.usage().bytes_max);
        let dependencies = Dependencies {
            machine,
            transport: transport.clone(),
            inbox_receiver,
            snapshots,
            clock,
        };
        let driver = Driver::inspected(config, restored, dependencies, inspect)?;
        Ok(Assembled { driver, log, transport, inbox })
    }
}

/// The least bytes of a write on the disk.
const WRITE_BYTES: u64 = 4096;

/// Lowers the limits for the log between two snapshots, and for what waits for its commit, to a
/// quarter of the log's bound each. The latter is counted in blocks: an eighth for the bytes, and
/// an eighth for what each entry takes beyond them. The rest is for what is written while a
/// snapshot is taken.
fn fit_to_log(config: &mut Config, bytes_max: u64) {
    let most = usize::try_from(bytes_max / 4).unwrap_or(usize::MAX);
    let writes = usize::try_from(bytes_max / 4 / WRITE_BYTES).unwrap_or(usize::MAX).max(1);
    config.snapshot_log_bytes = config.snapshot_log_bytes.min(most);
    config.snapshot_log_bytes_max = config.snapshot_log_bytes_max.min(most);
    config.snapshot_log_writes = config.snapshot_log_writes.min(writes);
    config.uncommitted_bytes_max = config.uncommitted_bytes_max.min((most / 2).max(1));
    config.uncommitted_entries_max = config.uncommitted_entries_max.min((writes / 2).max(1));
}

#[cfg(test)]
mod tests {
    use super::*;
    use raft::{Incarnation, NodeId};

    #[test]
    fn the_log_between_two_snapshots_fits_into_the_bound() {
        let usual = || Config::new(NodeId(1), Incarnation(1), 1);
        let limits = |config: &Config| {
            let Config { snapshot_log_bytes, snapshot_log_bytes_max, .. } = *config;
            let uncommitted = (config.uncommitted_bytes_max, config.uncommitted_entries_max);
            (snapshot_log_bytes, snapshot_log_bytes_max, config.snapshot_log_writes, uncommitted)
        };
        let mut config = usual();
        fit_to_log(&mut config, storage::LogConfig::default().bytes_max);
        assert_eq!(limits(&config), limits(&usual()), "the defaults suit each other");
        fit_to_log(&mut config, 128 << 20);
        assert_eq!(limits(&config), (32 << 20, 32 << 20, 8192, (16 << 20, 4096)));
        fit_to_log(&mut config, 2 * WRITE_BYTES);
        assert_eq!(limits(&config), (2048, 2048, 1, (1024, 1)));
        assert_eq!(config.check(), Ok(()));
    }
}
