//! A node: its parts, and the channels between them.

use crate::core_loop::{CoreLoop, State};
use crate::machine_task::MachineTask;
use crate::messages::{MACHINE_ORDERS_MAX, RECEIPTS_MAX};
use crate::report::report;
use crate::session::own::OwnSession;
use crate::shared::{Shared, Supervised};
use crate::waiters::Waiters;
use crate::{
    Clock, DriverStatus, ErasedMachine, Handle, InboxReceiver, Inspect, Limits, Load, NotReady,
    Replica, SessionLimits, SnapshotPort, SnapshotStore, StateMachine, StorePort, Transport,
};
use raft::{Config, ConfigError, RawNode, Restored};
use std::future::Future;
use std::marker::PhantomData;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::mpsc;

/// The settings of a node and its driver. Make them with [`DriverConfig::new`] and change the
/// fields. For the memory that a node takes, see [`raft::Config`] and [`Limits`].
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct DriverConfig {
    /// The settings of the protocol.
    pub raft: Config,
    /// The length of a tick, 10 ms by default; more than zero, which is not checked. All times in
    /// [`raft::Config`] are in ticks, so `election_ticks` and `heartbeat_ticks` have to change
    /// with it. The tick in [`raft::Config::lease`] is set to this one.
    pub tick: Duration,
    /// The timeout of calls that specify none, 5 s by default.
    pub timeout: Duration,
    /// The limits of the node's queues.
    pub limits: Limits,
    /// The limits of the sessions that this node opens.
    pub sessions: SessionLimits,
}

impl DriverConfig {
    /// Ticks of 10 ms, a timeout of 5 s, and the default limits.
    pub fn new(raft: Config) -> Self {
        let (tick, timeout) = (Duration::from_millis(10), Duration::from_secs(5));
        let (limits, sessions) = (Limits::default(), SessionLimits::default());
        DriverConfig { raft, tick, timeout, limits, sessions }
    }
}

/// The components that a node is connected to.
pub struct Dependencies<S> {
    /// The user's state machine, in its initial state.
    pub machine: S,
    /// Carries messages to peers.
    pub transport: Arc<dyn Transport>,
    /// The driver's end of the inbox whose other end the transport has.
    pub inbox_receiver: InboxReceiver,
    /// Stores snapshots.
    pub snapshots: Arc<dyn SnapshotStore>,
    /// Provides the time.
    pub clock: Arc<dyn Clock>,
}

/// A part of a node, to be run as a task.
pub type DriverTask = Pin<Box<dyn Future<Output = ()> + Send>>;

/// A node that is assembled but not running. All of its parts must be run: dropping one stops the
/// node.
pub struct Driver<S: StateMachine> {
    /// For clients of the node.
    pub handle: Handle<S>,
    /// The task that owns the core.
    pub core: DriverTask,
    /// The task that owns the state machine.
    pub machine: DriverTask,
    /// Makes writes durable. Run it on a thread of its own.
    pub store: StorePort,
    /// Writes snapshots. Run it on a thread of its own.
    pub snapshots: SnapshotPort,
}

impl<S: StateMachine> Driver<S> {
    /// Assembles a node. `restored` is the state that its log has kept. The machine part restores
    /// the state machine from the snapshot that the log begins after when it starts.
    pub fn new(
        config: DriverConfig,
        restored: Restored,
        dependencies: Dependencies<S>,
    ) -> Result<Self, ConfigError> {
        Self::inspected(config, restored, dependencies, Arc::new(()))
    }

    /// Like [`Driver::new`], with an observer of the core and the state machine, for a simulation.
    pub fn inspected(
        config: DriverConfig,
        restored: Restored,
        dependencies: Dependencies<S>,
        inspect: Arc<dyn Inspect>,
    ) -> Result<Self, ConfigError> {
        let Dependencies { machine, transport, inbox_receiver, snapshots, clock } = dependencies;
        let machine = ErasedMachine::new(machine);
        let dependencies = Dependencies { machine, transport, inbox_receiver, snapshots, clock };
        let Driver { handle, core, machine, store, snapshots } =
            assemble(config, restored, dependencies, inspect)?;
        Ok(Driver { handle: handle.of_machine(), core, machine, store, snapshots })
    }
}

fn assemble(
    mut config: DriverConfig,
    restored: Restored,
    dependencies: Dependencies<ErasedMachine>,
    inspect: Arc<dyn Inspect>,
) -> Result<Driver<ErasedMachine>, ConfigError> {
    let Dependencies { machine, transport, inbox_receiver, snapshots, clock } = dependencies;
    if let Some(lease) = &mut config.raft.lease {
        lease.tick = config.tick;
    }
    config.check(transport.message_bytes_max(), transport.queue_messages_max())?;
    let base = restored.snapshot.clone();
    if let Err(error) = snapshots.remove_before(base.last, &[]) {
        report(|| tracing::warn!(%error, "old snapshots cannot be removed"));
    }
    let election_timeout = config.tick * config.raft.election_ticks;
    // Two heartbeats at least: a stream that is dialled again makes no node unready.
    let heartbeats = config.tick * (2 * config.raft.heartbeat_ticks);
    let leader_absence_max = heartbeats.max(election_timeout / 4);
    let limits = config.limits.in_range();
    let sessions = config.sessions.in_range();
    let own_session = OwnSession::new(config.raft.start_nonce, config.raft.command_bytes_max);
    let node = RawNode::new(config.raft, restored)?;
    inspect.started(&node);
    let status = DriverStatus {
        raft: node.status(),
        read_only: None,
        load: Load::default(),
        sessions: 0,
        session_bytes: 0,
        stopped: None,
        not_ready: Some(NotReady::Starting),
        tick: config.tick,
    };
    let shared = Shared::new(status, limits, sessions, own_session);

    let (calls, calls_out) = mpsc::channel(limits.calls_max);
    let (machine_calls, machine_calls_out) = mpsc::channel(limits.machine_calls_max);
    let (receipts, receipts_out) = mpsc::channel(RECEIPTS_MAX);
    let (writes, writes_out) = mpsc::channel(1);
    let (machine_orders, machine_orders_out) = mpsc::channel(MACHINE_ORDERS_MAX);
    let (snapshot_orders, snapshot_orders_out) = mpsc::channel(limits.snapshot_orders_max);

    let store = StorePort::new(writes_out, receipts.clone(), shared.clone());
    let writer =
        SnapshotPort::new(snapshot_orders_out, snapshots.clone(), receipts.clone(), shared.clone());
    let machine = MachineTask {
        replica: Replica::new(machine),
        waiters: Waiters::new(limits.waiters_max),
        base,
        store: snapshots.clone(),
        orders: machine_orders_out,
        calls: machine_calls_out,
        receipts,
        snapshot_orders: snapshot_orders.clone(),
        shared: shared.clone(),
        inspect: inspect.clone(),
    };
    let handle = Handle {
        calls,
        machine_calls: machine_calls.clone(),
        shared: shared.clone(),
        clock: clock.clone(),
        timeout: config.timeout,
        machine: PhantomData,
    };
    let base = node.base().last;
    let core = CoreLoop {
        node,
        clock,
        transport,
        store: snapshots,
        tick: config.tick,
        election_timeout,
        leader_absence_max,
        shared: shared.clone(),
        calls: calls_out,
        inbox_receiver,
        receipts: receipts_out,
        writes,
        machine_orders,
        machine_calls,
        snapshot_orders,
        state: State::new(base),
        inspect,
    };
    Ok(Driver {
        handle,
        core: Box::pin(Supervised::new(core.run(), shared.part("core loop"))),
        machine: Box::pin(Supervised::new(machine.run(), shared.part("machine task"))),
        store,
        snapshots: writer,
    })
}

/// The longest tick.
const TICK_MAX: Duration = Duration::from_secs(60);

impl DriverConfig {
    /// The first setting that is out of range, or that contradicts another one or the transport's
    /// limits ([`Transport::message_bytes_max`], [`Transport::queue_messages_max`]).
    /// [`Driver::new`] checks it too; a program may want to know before it founds a cluster.
    pub fn check(
        &self,
        message_bytes_max: usize,
        queue_messages_max: usize,
    ) -> Result<(), ConfigError> {
        if self.tick.is_zero() || self.tick > TICK_MAX {
            return Err(ConfigError::Tick { max: TICK_MAX });
        }
        let mut raft = self.raft.clone();
        if let Some(lease) = &mut raft.lease {
            lease.tick = self.tick;
        }
        raft.check()?;
        fits(&raft, message_bytes_max, queue_messages_max)
    }
}

/// Everything in a message but commands takes less than this, in bytes.
const MESSAGE_OVERHEAD_BYTES: usize = 64 << 10;

/// Whether every message fits into what the transport carries. One that did not would be lost each
/// time that it is sent, and the log would end there for good. If there were more in flight than
/// the transport's queue holds, some would be lost whenever a peer is slow.
fn fits(
    config: &raft::Config,
    message_bytes_max: usize,
    queue_messages_max: usize,
) -> Result<(), ConfigError> {
    let limit = queue_messages_max;
    if config.inflight_messages_max > limit {
        let value = config.inflight_messages_max;
        return Err(ConfigError::MoreThanQueued { name: "inflight_messages_max", value, limit });
    }
    let limit_bytes = message_bytes_max.saturating_sub(MESSAGE_OVERHEAD_BYTES);
    let sizes = [
        ("command_bytes_max", config.command_bytes_max),
        ("append_bytes_max", config.append_bytes_max),
    ];
    match sizes.into_iter().find(|(_, bytes)| *bytes > limit_bytes) {
        Some((name, bytes)) => Err(ConfigError::LargerThanMessages { name, bytes, limit_bytes }),
        None => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use raft::{Config, Incarnation, NodeId};

    #[test]
    fn settings_whose_messages_the_transport_does_not_carry_are_refused() {
        let mut config = Config::new(NodeId(1), Incarnation(1), 1);
        assert_eq!(fits(&config, usize::MAX, usize::MAX), Ok(()));
        assert_eq!(fits(&config, 64 << 20, 256), Ok(()));
        config.inflight_messages_max = 257;
        let refused = fits(&config, 64 << 20, 256).unwrap_err();
        assert!(refused.to_string().contains("inflight_messages_max is 257"), "{refused}");
        config.inflight_messages_max = 256;
        config.command_bytes_max = 64 << 20;
        let refused = fits(&config, 64 << 20, 256).unwrap_err();
        assert!(refused.to_string().contains("command_bytes_max is 67108864"), "{refused}");
        (config.command_bytes_max, config.append_bytes_max) = (1 << 20, 65 << 20);
        assert!(fits(&config, 64 << 20, 256).is_err());
    }
}
