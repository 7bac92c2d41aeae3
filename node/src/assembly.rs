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
use raft::ConfigError;
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
