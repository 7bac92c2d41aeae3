//! The settings of a node.

use crate::bootstrap::Begin;
use crate::{Node, StartError, start};
use driver::{DriverConfig, StateMachine};
use raft::NodeId;
use std::net::SocketAddr;
use std::ops::RangeInclusive;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;
use storage::LogConfig;
use transport_http::{Listed, PEER_CONNECTIONS_MAX};

/// The default election timeout.
pub const ELECTION_TIMEOUT: Duration = Duration::from_millis(300);
/// The range of election timeouts. Below it, an ordinary pause counts as the failure of a leader.
/// Above it, failover takes longer than any cluster needs.
pub const ELECTION_TIMEOUTS: RangeInclusive<Duration> =
    Duration::from_millis(100)..=Duration::from_secs(60);
/// An election timeout lasts at least this many heartbeats, since a few may be lost.
const HEARTBEATS: u32 = 6;
/// The longest time between two heartbeats, in ticks. Followers learn the commit index from them.
const HEARTBEAT_TICKS_MAX: u32 = 10;
/// A command waits for a leader for at least this long.
const LEADER_WAIT: Duration = Duration::from_secs(5);
/// A command also waits for at least this many election timeouts: the loss of a leader is detected
/// after one, an election takes another or two, and some elections fail.
const LEADER_WAIT_ELECTIONS: u32 = 10;

/// The settings of a [`Node`]. Made by [`Node::builder`].
///
/// Apart from the state machine, a node keeps about 160 MiB of log in memory while its
/// snapshots have up to 64 MiB, and about 1.6 GiB with large snapshots and a peer that
/// catches up: see [`raft::Config`]. The connections of peers take up to 128 MiB more.
#[derive(Clone, Debug)]
pub struct Builder<S> {
    pub(crate) machine: S,
    settings: Settings,
}

/// The settings without the state machine. What uses them is compiled once, and not for each state
/// machine.
#[derive(Clone, Debug)]
pub(crate) struct Settings {
    pub(crate) id: Option<NodeId>,
    pub(crate) data_dir: Option<PathBuf>,
    pub(crate) listen: Option<SocketAddr>,
    pub(crate) members: Vec<Listed>,
    pub(crate) begin: Option<Begin>,
    pub(crate) campaign_at_start: bool,
    pub(crate) election_timeout: Duration,
    pub(crate) lease_drift_ppm: Option<u32>,
    pub(crate) priority: u8,
    pub(crate) insecure: bool,
    pub(crate) connections_max: usize,
    pub(crate) timeout: Duration,
    pub(crate) leader_wait: Option<Duration>,
    pub(crate) log: LogConfig,
    pub(crate) snapshot_bytes_per_second: Option<u64>,
    pub(crate) tuning: Vec<Tuning>,
    pub(crate) on_wait: Option<OnWait>,
}

/// See [`Builder::on_wait`].
#[derive(Clone)]
pub(crate) struct OnWait(pub Arc<dyn Fn() + Send + Sync>);

impl std::fmt::Debug for OnWait {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("OnWait")
    }
}

/// A change of the driver's settings, see [`Builder::tune`].
#[derive(Clone)]
pub(crate) struct Tuning(Arc<dyn Fn(&mut DriverConfig) + Send + Sync>);

impl std::fmt::Debug for Tuning {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Tuning")
    }
}

impl<S: StateMachine> Builder<S> {
    pub(crate) fn new(machine: S) -> Self {
        let settings = Settings {
            id: None,
            data_dir: None,
            listen: None,
            members: Vec::new(),
            begin: None,
            campaign_at_start: false,
            election_timeout: ELECTION_TIMEOUT,
            lease_drift_ppm: None,
            priority: 0,
            insecure: false,
            connections_max: PEER_CONNECTIONS_MAX,
            timeout: Duration::from_secs(5),
            leader_wait: None,
            log: LogConfig::default(),
            snapshot_bytes_per_second: None,
            tuning: Vec::new(),
            on_wait: None,
        };
        Builder { machine, settings }
    }

    /// The id of this node among the members. A data directory belongs to one id for good.
    /// Required.
    #[must_use]
    pub fn id(mut self, id: u64) -> Self {
        self.settings.id = Some(NodeId(id));
        self
    }

    /// The directory of the log and the snapshots. It is created if it does not exist. Only one
    /// process at a time can use it. Required.
    #[must_use]
    pub fn data_dir(mut self, directory: impl Into<PathBuf>) -> Self {
        self.settings.data_dir = Some(directory.into());
        self
    }

    /// Where this node listens for its peers. Port 0 takes a free port. The default is this node's
    /// address in the list of members, if that is an IP address.
    #[must_use]
    pub fn listen(mut self, address: SocketAddr) -> Self {
        self.settings.listen = Some(address);
        self
    }

    /// Adds members: all of the cluster, this node included, each with the `host:port` where its
    /// peers reach it. An address has at most [`ADDRESS_BYTES_MAX`](crate::ADDRESS_BYTES_MAX)
    /// bytes. A second call adds to the first. Each id may occur once; 0 is a valid id.
    /// Give an odd number of members, usually 3 or 5; at most 64.
    ///
    /// When a cluster is bootstrapped or joined, this list counts; afterwards the membership in the
    /// log does, see [`Node::set_members`]. Then a peer is dialled at its address in the list only
    /// if it is not reached elsewhere. This node has to be in the list at every start.
    /// Required.
    #[must_use]
    pub fn members<A: Into<String>>(mut self, members: impl IntoIterator<Item = (u64, A)>) -> Self {
        self.settings.members.extend(members.into_iter().map(|(id, peer_address)| Listed {
            node: NodeId(id),
            client_address: String::new(),
            peer_address: peer_address.into(),
        }));
        self
    }

    /// Adds a member, with the address where its clients reach it as well. The cluster keeps that
    /// address for you, for instance to tell clients where the leader is: see [`crate::Leader`].
    #[must_use]
    pub fn member(
        mut self,
        id: u64,
        peer_address: impl Into<String>,
        client_address: impl Into<String>,
    ) -> Self {
        self.settings.members.push(Listed {
            node: NodeId(id),
            client_address: client_address.into(),
            peer_address: peer_address.into(),
        });
        self
    }

    /// If the data directory is empty, create a cluster together with the other members. All of
    /// them have to be up once, at the same time, with the same list of members. [`Builder::start`]
    /// waits for them without a limit, and after 5 s a log line names those that are missing. Drop
    /// its future to give up. A directory with state goes on from that, whether this is set or not,
    /// so a service can set it always. Of this and [`Builder::join`], the last call counts.
    ///
    /// Log lines go to `tracing`: a program that installs no subscriber sees none of them.
    #[must_use]
    pub fn bootstrap(mut self) -> Self {
        self.settings.begin = Some(Begin::Bootstrap);
        self
    }

    /// If the data directory is empty, wait until the node has been added to a cluster that exists.
    /// The list of members has to name this node and at least one that belongs to the cluster. Then
    /// add it there, with the same id and addresses: [`Node::set_members`]. [`Builder::start`]
    /// waits for that without a limit, and after 5 s a log line says so (see
    /// [`Builder::bootstrap`]). A directory with state goes on from that. Of this and
    /// [`Builder::bootstrap`], the last call counts.
    ///
    /// If the id is that of a member whose directory was lost, the start fails: remove the member
    /// first.
    #[must_use]
    pub fn join(mut self) -> Self {
        self.settings.begin = Some(Begin::Join);
        self
    }

    /// Calls `notify` once the node begins to wait until it is added to its cluster
    /// ([`Builder::join`]), so that an operator can learn what to do. It is not called if the data
    /// directory has state.
    #[must_use]
    pub fn on_wait(mut self, notify: impl Fn() + Send + Sync + 'static) -> Self {
        self.settings.on_wait = Some(OnWait(Arc::new(notify)));
        self
    }

    /// Campaign at once when the node starts, instead of after an election timeout. A new cluster
    /// has a leader sooner if one of its nodes does. Off by default.
    #[must_use]
    pub fn campaign_at_start(mut self, campaign: bool) -> Self {
        self.settings.campaign_at_start = campaign;
        self
    }

    /// A leader is replaced after it has sent nothing for this long, or half as long again (the
    /// time is random). Set it above the pauses of network and disks, and to the same value on all
    /// nodes. The default is [`ELECTION_TIMEOUT`], 300 ms; a value outside of [`ELECTION_TIMEOUTS`]
    /// counts as the nearest one inside.
    #[must_use]
    pub fn election_timeout(mut self, timeout: Duration) -> Self {
        self.settings.election_timeout =
            timeout.clamp(*ELECTION_TIMEOUTS.start(), *ELECTION_TIMEOUTS.end());
        self
    }

    /// Leases: the leader answers reads of [`Consistency::Lease`](crate::Consistency) at once,
    /// without asking a quorum. `drift_ppm` is the bound on clock drift, in parts per million, from
    /// 1 to 250,000: in each second, the monotonic clock of each node gains or loses at most this
    /// many microseconds. If a clock drifts more, or stands while a virtual machine is paused, a
    /// lease read may miss acknowledged writes. Set 100,000 (10 %) unless you know what may adjust
    /// the clocks: the monotonic clock follows the corrections of the time of day, and chrony slews
    /// by up to 8.3 % (`maxslewrate`) by default. A smaller bound needs a smaller `maxslewrate` on
    /// all nodes.
    ///
    /// Off by default. Set it on all nodes: voters without it do not count for a lease. A node that
    /// had leases on at an earlier start votes only once the longest promise of that start is over:
    /// two ticks less than its election timeout then.
    #[must_use]
    pub fn lease_drift_ppm(mut self, drift_ppm: u32) -> Self {
        self.settings.lease_drift_ppm = Some(drift_ppm);
        self
    }

    /// The priority of this node as a leader, 0 by default. A leader hands leadership over to a
    /// voter with a higher priority, once that has been healthy for four election timeouts: it
    /// replies and its log is up to date. A leader that [`Node::transfer`] or an election has
    /// chosen gives way too. The other nodes need no setting.
    ///
    /// A node that loses leadership without handing it over, or is not elected when a leader hands
    /// over to it, states priority 0 for 16 election timeouts. The pause doubles each time, up to
    /// 1,024 (five minutes by default), until it has led for that long.
    #[must_use]
    pub fn priority(mut self, priority: u8) -> Self {
        self.settings.priority = priority;
        self
    }

    /// Allow a listen address that other machines can reach. Peers are not authenticated yet:
    /// anyone who can reach the port can change everything. Off by default: only loopback addresses
    /// are accepted.
    #[must_use]
    pub fn insecure(mut self, insecure: bool) -> Self {
        self.settings.insecure = insecure;
        self
    }

    /// The most connections from peers at once. Lower it for a process with few file descriptors,
    /// but not below four for each other member: some are kept for connections that have not said
    /// who they are, and for nodes that are no members. A peer that finds no place is answered 503
    /// and tries again. The default is 128; fewer than 4 count as 4.
    #[must_use]
    pub fn peer_connections_max(mut self, connections: usize) -> Self {
        self.settings.connections_max = connections;
        self
    }

    /// How long a read may take, and one attempt of a command. For [`Node::propose`], it counts
    /// from when the outcome is waited for. With zero, commands are sent and their outcome is
    /// unknown. The default is 5 s. Before an attempt, [`Node::execute`] also waits for a leader:
    /// see [`Builder::leader_wait`].
    #[must_use]
    pub fn timeout(mut self, timeout: Duration) -> Self {
        self.settings.timeout = timeout;
        self
    }

    /// The settings of the log on the disk. The default is [`LogConfig::default`].
    /// `segment_bytes` has to be a positive multiple of 4 KiB. With a small `bytes_max`, snapshots
    /// are taken more often, segments have at most a sixteenth of it (but 1 MiB), and what waits
    /// for its commit may take at most a quarter: an eighth in bytes, and an eighth in blocks of 4
    /// KiB, one for each command. Beyond that, commands are refused as `Busy`. `bytes_max` should
    /// be several times what is written while a snapshot is taken.
    #[must_use]
    pub fn log(mut self, log: LogConfig) -> Self {
        self.settings.log = log;
        self
    }

    /// How long a command waits for a leader before it is sent, see [`Node::execute`]. The default
    /// is 5 s or ten election timeouts, whichever is longer.
    #[must_use]
    pub fn leader_wait(mut self, wait: Duration) -> Self {
        self.settings.leader_wait = Some(wait);
        self
    }

    /// The most bytes a second with which this node, as the leader, sends a snapshot to one peer.
    /// The default is 64 MiB. Less than 1 MiB counts as 1 MiB.
    #[must_use]
    pub fn snapshot_bytes_per_second(mut self, bytes: u64) -> Self {
        self.settings.snapshot_bytes_per_second = Some(bytes);
        self
    }

    /// Changes any setting of the protocol and of the driver: batches, queues, memory, the size of
    /// commands, when a snapshot is due, the length of a tick. Times in ticks, such as
    /// the election timeout, change with the length of a tick. The function gets the settings with
    /// the other methods' values in them. The node's id and incarnation cannot be changed.
    ///
    /// ```
    /// # struct Machine;
    /// # fn tuned<S: quorate::StateMachine>(builder: quorate::Builder<S>) -> quorate::Builder<S> {
    /// builder.tune(|config| {
    ///     config.raft.snapshot_log_bytes = 16 << 20; // a snapshot is due after as much log
    ///     config.sessions.window = 1_000;
    ///     config.raft.command_bytes_max = 1 << 20;
    ///     config.limits.proposals_max = 1_000;
    /// })
    /// # }
    /// ```
    #[must_use]
    pub fn tune(mut self, change: impl Fn(&mut DriverConfig) + Send + Sync + 'static) -> Self {
        self.settings.tuning.push(Tuning(Arc::new(change)));
        self
    }

    /// Starts the node on the current tokio runtime. Returns when the node takes part in its
    /// cluster. If a cluster is being bootstrapped, that is once all members are up. The state
    /// machine is restored after that: if it refuses its snapshot, the node stops
    /// ([`Node::ready`] and [`Node::stopped`] tell). Dropping the
    /// future stops what it has started. A log or snapshot that is being read is read to the end
    /// first, and the directory stays locked until then.
    pub async fn start(self) -> Result<Node<S>, StartError> {
        start::start(self.machine, self.settings).await
    }
}

impl Settings {
    /// How long a command waits for a leader.
    pub(crate) fn wait_for_leader(&self) -> Duration {
        let default = LEADER_WAIT.max(self.election_timeout * LEADER_WAIT_ELECTIONS);
        self.leader_wait.unwrap_or(default)
    }

    /// The settings of the driver, with times converted to ticks.
    pub(crate) fn driver_config(&self, id: NodeId) -> DriverConfig {
        // The assembly sets the incarnation.
        let raft = raft::Config::new(id, raft::Incarnation(0), rand::random());
        let mut driver = DriverConfig::new(raft);
        driver.timeout = self.timeout;
        let ticks = self.election_timeout.as_millis() / driver.tick.as_millis();
        driver.raft.election_ticks = u32::try_from(ticks).unwrap_or(u32::MAX);
        driver.raft.heartbeat_ticks =
            (driver.raft.election_ticks / HEARTBEATS).clamp(1, HEARTBEAT_TICKS_MAX);
        driver.raft.campaign_at_start = self.campaign_at_start;
        driver.raft.priority = self.priority;
        let tick = driver.tick;
        driver.raft.lease =
            self.lease_drift_ppm.map(|drift_ppm| raft::LeaseConfig { tick, drift_ppm });
        self.tuning.iter().for_each(|Tuning(change)| change(&mut driver));
        driver
    }
}
