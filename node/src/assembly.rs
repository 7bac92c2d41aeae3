//! Puts a node together from parts: the only place in the workspace where a log, snapshots, a
//! transport, a clock and a state machine become a driver.
//!
//! [`Node`](crate::Node) uses it with a real disk, HTTP and the clock of the operating system; a
//! simulation with a disk in memory, a simulated network and simulated time. It starts nothing:
//! what it returns are futures, to be run on tokio ([`driver::spawn`]) or on the executor of a
//! simulation.

use driver::{
    Clock, Driver, DriverConfig, Inbox, Inspect, Seams, SnapshotStore, StateMachine, Transport,
};
use raft::ConfigError;
use std::sync::Arc;
use storage::{Disk, Log, Member, Snapshots};

/// The parts of a node.
#[derive(Debug)]
pub struct Parts<S, D: Disk, C, I = ()> {
    /// The state machine, in its initial state.
    pub machine: S,
    /// The data directory. What its log begins after has been checked: see [`Member::check_base`].
    pub member: Member<D>,
    /// The snapshots in it.
    pub snapshots: Snapshots<D>,
    /// Tells the time.
    pub clock: Arc<C>,
    /// Settings. The node and its incarnation are those of `member`, whatever is set here.
    pub config: DriverConfig,
    /// Messages of peers that may wait for the core; `None` for the usual limit.
    pub messages_max: Option<usize>,
    /// Looks at the node while it runs: for the checks of a simulation.
    pub inspect: I,
}

/// A node that is put together and does not run yet.
pub struct Assembled<S: StateMachine, D: Disk, T> {
    /// Its parts, to be run.
    pub driver: Driver<S>,
    /// The log, for the part that writes to it.
    pub log: Log<D>,
    /// The transport that [`Parts::assemble`] has made.
    pub transport: Arc<T>,
    /// Where that hands over what peers send.
    pub inbox: Inbox,
}

impl<S, D, C, I> Parts<S, D, C, I>
where
    S: StateMachine,
    D: Disk + Sync,
    C: Clock,
    I: Inspect<S>,
{
    /// Puts the node together. `transport` makes the transport, which hands what peers send to the
    /// inbox.
    pub fn assemble<T: Transport>(
        self,
        transport: impl FnOnce(Inbox) -> Arc<T>,
    ) -> Result<Assembled<S, D, T>, ConfigError> {
        let Parts { machine, member, snapshots, clock, mut config, messages_max, inspect } = self;
        config.raft.id = member.who().node();
        config.raft.incarnation = member.who().incarnation();
        let snapshots: Arc<dyn SnapshotStore> = Arc::new(snapshots);
        let (inbox, mailbox) = match messages_max {
            None => driver::inbox(snapshots.clone()),
            Some(max) => driver::inbox_limited(snapshots.clone(), max),
        };
        let transport = transport(inbox.clone());
        let (log, restored) = member.into_log();
        let seams = Seams { machine, transport: transport.clone(), mailbox, snapshots, clock };
        let driver = Driver::inspected(config, restored, seams, inspect)?;
        Ok(Assembled { driver, log, transport, inbox })
    }
}
