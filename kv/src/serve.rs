//! One node, put together: data directory, log, snapshots, driver, transport and listeners.

use crate::api::{self, Forward, Hosts, Links};
use crate::descriptors::Share;
use crate::history::Retention;
use crate::leader_client::LeaderClient;
pub use crate::limits::Limits;
use crate::machine::Machine;
use crate::server::ClientServer;
use crate::threads::{Heavy, OwnThread};
use driver::{Driver, DriverConfig, Handle, Seams, SnapshotStore, StopReason, TokioClock};
use raft::{Incarnation, Membership, NodeId, Payload, Restored, Snapshot};
use std::io;
use std::net::SocketAddr;
use std::ops::RangeInclusive;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;
use storage::{
    BaseError, ClusterId, Identity, LockError, Log, LogConfig, OpenError, RealDisk, Recovery,
    Snapshots,
};
use transport_http::{Founder, HttpTransport, Listed, PeerServer, TransportConfig};

/// The election timeout of a node that is not told another one.
pub const ELECTION_TIMEOUT: Duration = Duration::from_millis(300);
/// Shorter ones take an ordinary pause for a leader's end, longer ones help nobody.
pub const ELECTION_TIMEOUTS: RangeInclusive<Duration> =
    Duration::from_millis(100)..=Duration::from_secs(60);
/// So many heartbeats go out in an election timeout at least: a few may be lost.
const HEARTBEATS: u32 = 6;
/// And at least this often, in ticks: from a heartbeat the others hear what is committed.
const HEARTBEAT_TICKS_MAX: u32 = 10;

/// A member of the cluster, as the operator names it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Peer {
    /// Which node.
    pub id: NodeId,
    /// Where clients reach it, as `host:port`.
    pub client_address: String,
    /// Where the other nodes reach it, as `host:port`.
    pub peer_address: String,
}

impl Peer {
    fn listed(&self) -> Listed {
        Listed {
            node: self.id,
            client_address: self.client_address.clone(),
            peer_address: self.peer_address.clone(),
        }
    }
}

/// What a node is started with.
#[derive(Clone, Debug)]
pub struct ServeConfig {
    /// Who it is.
    pub id: NodeId,
    /// Where it listens for clients. Port 0 takes a free one.
    pub listen: SocketAddr,
    /// Where it listens for the other nodes.
    pub peer_listen: SocketAddr,
    /// All members, this one included. Read only when a cluster is founded; later on the membership
    /// in the log counts.
    pub peers: Vec<Peer>,
    /// The directory of its log and snapshots.
    pub data_dir: PathBuf,
    /// On an empty directory: found a new cluster together with the peers.
    pub bootstrap: bool,
    /// On an empty directory: wait to be added to a cluster that exists.
    pub join: bool,
    /// Stand for election at once instead of waiting for an election timeout.
    pub campaign_at_start: bool,
    /// A leader that is not heard of for so long, or up to twice as long, is replaced. Longer than the
    /// network and the disks ever stall; the same on all nodes. What is outside of [`ELECTION_TIMEOUTS`]
    /// counts as the nearest in it.
    pub election_timeout: Duration,
    /// Let clients cut and restore links between nodes.
    pub fault_injection: bool,
    /// Pass the requests that only a leader can serve on to it; otherwise answer with a redirect.
    pub forward: bool,
    /// Listen on addresses that other machines reach, though neither clients nor peers are
    /// authenticated.
    pub insecure: bool,
    /// Names, besides those of the peers, under which clients reach this node: of a load balancer, for
    /// instance. A request for another name is refused; `*` admits all.
    pub hosts: Vec<String>,
    /// The bounds on what clients may ask for.
    pub limits: Limits,
}

impl ServeConfig {
    /// A node with the usual settings, that neither founds nor joins a cluster.
    pub fn new(
        id: NodeId,
        listen: SocketAddr,
        peer_listen: SocketAddr,
        peers: Vec<Peer>,
        data_dir: PathBuf,
    ) -> Self {
        ServeConfig {
            id,
            listen,
            peer_listen,
            peers,
            data_dir,
            bootstrap: false,
            join: false,
            campaign_at_start: false,
            election_timeout: ELECTION_TIMEOUT,
            fault_injection: false,
            forward: true,
            insecure: false,
            hosts: Vec::new(),
            limits: Limits::default(),
        }
    }
}

/// What an operator can do about a listener that could not be made.
fn listen_advice(source: &io::Error) -> &'static str {
    match source.kind() {
        io::ErrorKind::AddrInUse => "stop what uses the port, or choose another one",
        io::ErrorKind::PermissionDenied => "choose a port above 1023, or give the right to use it",
        io::ErrorKind::AddrNotAvailable => "choose an address of this machine",
        // No descriptor left, for this process or the whole system (EMFILE, ENFILE).
        _ if matches!(source.raw_os_error(), Some(23 | 24)) => "raise the limit: ulimit -n 1024",
        _ => "check the address and the limits of this process",
    }
}

/// Why a node could not be started, or had to stop. Each variant says what an operator can do.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ServeError {
    /// It cannot listen there. Stop what uses the port, or choose another one.
    #[error("cannot listen on {address}: {source}; {}", listen_advice(.source))]
    Listen {
        /// Where.
        address: SocketAddr,
        /// Why.
        source: io::Error,
    },
    /// Other machines would reach a listener that asks nobody for a password.
    #[error(
        "{address} (for {users}) can be reached from other machines, and there is no authentication \
         and no TLS yet: everybody who reaches it can read and change all data. Listen on 127.0.0.1, \
         or give --insecure if only trusted machines reach it (a firewall, a private network)"
    )]
    Insecure {
        /// Where it was to listen.
        address: SocketAddr,
        /// For clients or for peers.
        users: &'static str,
    },
    /// The founders were others when this directory began to found a cluster.
    #[error(
        "{}: this data directory began to found a cluster of nodes {began}, and has told others so; \
         now --peers lists nodes {given}. Start it with the nodes it began with; or, if no node has \
         founded the cluster yet, remove the data directories of all of them and start again",
        .directory.display()
    )]
    OtherFounders {
        /// Which directory.
        directory: PathBuf,
        /// The nodes that it began with.
        began: String,
        /// The nodes that it was started with.
        given: String,
    },
    /// The data directory cannot be used. The cause says what to do.
    #[error("{}: {source}", .directory.display())]
    Open {
        /// Which directory.
        directory: PathBuf,
        /// Why.
        source: OpenError,
    },
    /// The snapshot that the log begins after cannot be used. The cause says what to do.
    #[error("{}: {source}", .directory.display())]
    Base {
        /// Which directory.
        directory: PathBuf,
        /// Why.
        source: BaseError,
    },
    /// Another process holds the directory, or it may not be written to.
    #[error(transparent)]
    Lock(#[from] LockError),
    /// The directory cannot be written.
    #[error("{}: {source}", .directory.display())]
    Disk {
        /// Which directory.
        directory: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// The directory is another node's. Name the right one.
    #[error(
        "{}: this data directory belongs to node {found}, not to node {expected}; \
         check --id and --data-dir", .directory.display()
    )]
    WrongNode {
        /// Which directory.
        directory: PathBuf,
        /// Whose it is.
        found: NodeId,
        /// Who was started with it.
        expected: NodeId,
    },
    /// There is no state, and nobody said how to begin.
    #[error(
        "{}: this data directory is empty; start the node with --bootstrap to found a new cluster \
         together with its peers, or with --join to wait until it is added to a cluster that \
         exists", .directory.display()
    )]
    NoState {
        /// Which directory.
        directory: PathBuf,
    },
    /// The node is not among the members that would found the cluster.
    #[error("node {0} is not among the peers that it was given")]
    NotAPeer(NodeId),
    /// The cluster cannot be founded.
    #[error(transparent)]
    Found(#[from] transport_http::FoundError),
    /// The restored state contradicts itself, or the settings do.
    #[error("{0}")]
    Config(#[from] raft::ConfigError),
    /// A thread cannot be started.
    #[error("cannot start a thread: {0}")]
    Thread(io::Error),
    /// The node has stopped by itself.
    #[error("the node has stopped: {0}")]
    Stopped(StopReason),
}

/// A node that runs. Dropping it stops it; [`Running::stop`] does so gracefully.
pub struct Running {
    handle: Handle<Machine>,
    clients: ClientServer,
    peers: PeerServer,
    core: OwnThread,
}

impl std::fmt::Debug for Running {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let addresses = (self.client_addr(), self.peer_addr());
        f.debug_tuple("Running").field(&addresses).finish()
    }
}

impl Running {
    /// Where it listens for clients.
    pub fn client_addr(&self) -> SocketAddr {
        self.clients.local_addr()
    }

    /// Where it listens for the other nodes.
    pub fn peer_addr(&self) -> SocketAddr {
        self.peers.local_addr()
    }

    /// Stops it: no new requests, those under way are answered, the log is synced.
    pub async fn stop(self) -> Result<(), ServeError> {
        let Running { handle, clients, peers, core } = self;
        clients.stop().await;
        handle.shutdown().await;
        drop(peers);
        core.stop().await;
        match handle.stopped().await {
            StopReason::Shutdown => Ok(()),
            reason => Err(ServeError::Stopped(reason)),
        }
    }

    /// Returns when it has stopped by itself, and why: a disk that failed, mostly.
    pub async fn wait(&mut self) -> Result<(), ServeError> {
        match self.handle.stopped().await {
            StopReason::Shutdown => Ok(()),
            reason => Err(ServeError::Stopped(reason)),
        }
    }
}

/// Starts a node, on the current tokio runtime. Returns when it takes part in its cluster, which
/// for a cluster that is being founded is when all peers are up. `/healthz` answers before that.
/// Dropping the future stops what it has started.
pub async fn run(config: ServeConfig) -> Result<Running, ServeError> {
    let listen = |address| move |source| ServeError::Listen { address, source };
    let own = own_addresses(&config)?;
    refuse_insecure(&config)?;
    let share = Share::of_this_process(config.limits.connections_max);
    let clients =
        ClientServer::bind(config.listen, own.id, own.peer_address.clone(), &config.limits, share)
            .await
            .map_err(listen(config.listen))?;
    let core = OwnThread::start("raft-core", true).map_err(ServeError::Thread)?;
    let peers = core.runtime().spawn(PeerServer::bind_limited(config.peer_listen, share.peers));
    let peers = peers.await.map_err(|error| ServeError::Thread(io::Error::other(error)))?;
    let peers = peers.map_err(listen(config.peer_listen))?;
    tracing::info!(clients = %clients.local_addr(), peers = %peers.local_addr(), "listening");

    let disk = RealDisk::new(&config.data_dir);
    let (log, recovery) = open(&config, disk.clone()).await?;
    let Begun { log, restored, cluster, incarnation } =
        begin(&config, &own, &peers, log, recovery).await?;
    let founder = Founder {
        node: config.id,
        incarnation,
        peer_address: own.peer_address.clone(),
        client_address: own.client_address.clone(),
    };
    let membership = membership_of(&restored);
    warn_of_other_peers(&config, &membership);
    peers.desk().belong(founder, cluster, membership);

    let snapshots = Snapshots::new(disk)
        .map_err(|source| ServeError::Disk { directory: config.data_dir.clone(), source })?;
    let (log, restored) = check_base(&config, log, &snapshots, restored).await?;
    let snapshots: Arc<dyn SnapshotStore> = Arc::new(snapshots);
    let (inbox, mailbox) = driver::inbox(snapshots.clone());
    let mut transport_config = TransportConfig::new(cluster, config.id, incarnation);
    // What a leader is forgiven, a connection is too.
    transport_config.silence = transport_config.silence.max(election_timeout(&config));
    let transport = {
        let _on_core = core.runtime().enter();
        Arc::new(HttpTransport::new(transport_config, inbox))
    };
    let clock = Arc::new(TokioClock::new());
    let machine = Machine::new(Retention {
        commands_max: config.limits.history_commands_max,
        bytes_max: config.limits.history_bytes_max,
        ..Retention::default()
    });
    let (figures, answers) = (machine.figures(), machine.answers());
    let seams =
        Seams { machine, transport: transport.clone(), mailbox, snapshots, clock: clock.clone() };
    let driver = Driver::new(driver_config(&config, incarnation), restored, seams)?;
    let spawning = core.runtime().spawn(async move { driver::spawn(driver, log, close) });
    let spawned = spawning.await.unwrap_or_else(|error| Err(io::Error::other(error)));
    let handle = spawned.map_err(ServeError::Thread)?;
    peers.open(&transport);
    clients.open(api::router(api::Parts {
        handle: handle.clone(),
        clock,
        figures,
        answers,
        id: config.id,
        cluster: Some(cluster),
        peer_address: own.peer_address,
        hosts: Hosts::of(config.peers.iter().map(|p| &p.client_address).chain(&config.hosts)),
        limits: config.limits.clone().for_elections(election_timeout(&config)),
        forward: config
            .forward
            .then(|| Arc::new(LeaderClient::new(share.forwards)) as Arc<dyn Forward>),
        offload: Some(Arc::new(Heavy::new(tokio::runtime::Handle::current()))),
        links: config.fault_injection.then(|| Arc::new(Cuts(transport.clone())) as Arc<dyn Links>),
        peers: Some(Box::new(move || transport.figures())),
    }));
    Ok(Running { handle, clients, peers, core })
}

fn election_timeout(config: &ServeConfig) -> Duration {
    config.election_timeout.clamp(*ELECTION_TIMEOUTS.start(), *ELECTION_TIMEOUTS.end())
}

/// The protocol's settings, in ticks.
fn driver_config(config: &ServeConfig, incarnation: Incarnation) -> DriverConfig {
    let raft = raft::Config::new(config.id, incarnation, rand::random());
    let mut driver = DriverConfig::new(raft);
    let ticks = election_timeout(config).as_millis() / driver.tick.as_millis();
    driver.raft.election_ticks = u32::try_from(ticks).unwrap_or(u32::MAX);
    driver.raft.heartbeat_ticks =
        (driver.raft.election_ticks / HEARTBEATS).clamp(1, HEARTBEAT_TICKS_MAX);
    driver.raft.campaign_at_start = config.campaign_at_start;
    driver
}

/// How others reach this node: as the operator says among the peers.
fn own_addresses(config: &ServeConfig) -> Result<Peer, ServeError> {
    let own = config.peers.iter().find(|peer| peer.id == config.id);
    own.cloned().ok_or(ServeError::NotAPeer(config.id))
}

/// Without authentication only this machine may reach a listener, unless the operator says otherwise.
fn refuse_insecure(config: &ServeConfig) -> Result<(), ServeError> {
    let listeners = [(config.listen, "clients"), (config.peer_listen, "peers")];
    for (address, users) in listeners {
        if !config.insecure && !address.ip().to_canonical().is_loopback() {
            return Err(ServeError::Insecure { address, users });
        }
    }
    Ok(())
}

/// Other founders may count on this node since an earlier start: then it cannot go with others.
fn refuse_other_founders(config: &ServeConfig, identity: &Identity) -> Result<(), ServeError> {
    let sorted = |ids: &mut dyn Iterator<Item = NodeId>| -> Vec<NodeId> {
        let mut ids: Vec<NodeId> = ids.collect();
        ids.sort();
        ids
    };
    let began = sorted(&mut identity.peers.iter().copied());
    let given = sorted(&mut config.peers.iter().map(|peer| peer.id));
    if began.is_empty() || began == given {
        return Ok(());
    }
    let text = |ids: &[NodeId]| {
        let ids: Vec<String> = ids.iter().map(NodeId::to_string).collect();
        ids.join(", ")
    };
    let directory = config.data_dir.clone();
    Err(ServeError::OtherFounders { directory, began: text(&began), given: text(&given) })
}

/// What --peers says counts only when a cluster is founded. An operator who changes it later should
/// know that nothing follows from it.
fn warn_of_other_peers(config: &ServeConfig, membership: &Membership) {
    let text = |listed: &mut dyn Iterator<Item = Listed>| {
        let mut listed: Vec<Listed> = listed.collect();
        listed.sort();
        let listed: Vec<String> = listed.iter().map(Listed::to_string).collect();
        listed.join(",")
    };
    let given = text(&mut config.peers.iter().map(Peer::listed));
    let known = text(&mut membership.members.iter().map(|(node, member)| Listed {
        node: *node,
        client_address: member.client_address.clone(),
        peer_address: member.peer_address.clone(),
    }));
    if !membership.members.is_empty() && given != known {
        tracing::warn!(
            "--peers is {given}, but the members in the log are {known}: the log counts, and the \
             nodes reach one another at the addresses in it"
        );
    }
}

async fn open(
    config: &ServeConfig,
    disk: RealDisk,
) -> Result<(Log<RealDisk>, Recovery), ServeError> {
    // Reading a long log takes a while, and the listeners are to answer meanwhile.
    let opened = tokio::task::spawn_blocking(move || Log::open(disk, LogConfig::default()));
    let opened = opened.await.map_err(|error| ServeError::Thread(io::Error::other(error)))?;
    let (log, recovery) = opened.map_err(|error| match error {
        OpenError::Lock(error) => ServeError::Lock(error),
        source => ServeError::Open { directory: config.data_dir.clone(), source },
    })?;
    for case in &recovery.cases {
        if case.is_loss() {
            tracing::error!("{case}");
        } else {
            tracing::debug!("{case}");
        }
    }
    Ok((log, recovery))
}

/// Reads the snapshot that the log begins after. If it is lost, the node is repaired by the others.
async fn check_base(
    config: &ServeConfig,
    mut log: Log<RealDisk>,
    snapshots: &Snapshots<RealDisk>,
    restored: Restored,
) -> Result<(Log<RealDisk>, Restored), ServeError> {
    let (snapshots, id) = (snapshots.clone(), config.id);
    // A large one takes a while, and the listeners are to answer meanwhile.
    let checked = tokio::task::spawn_blocking(move || {
        log.check_base(&snapshots, id, restored).map(|(restored, case)| (log, restored, case))
    });
    let checked = checked.await.map_err(|error| ServeError::Thread(io::Error::other(error)))?;
    let directory = || config.data_dir.clone();
    let (log, restored, case) =
        checked.map_err(|source| ServeError::Base { directory: directory(), source })?;
    match case {
        Some(case) if case.is_loss() => tracing::error!("{case}"),
        Some(case) => tracing::warn!("{case}"),
        None => {}
    }
    Ok((log, restored))
}

/// A node whose log has begun.
struct Begun {
    log: Log<RealDisk>,
    restored: Restored,
    cluster: ClusterId,
    incarnation: Incarnation,
}

/// Goes on where the log ends; of a node without a log, founds or joins a cluster.
async fn begin(
    config: &ServeConfig,
    own: &Peer,
    server: &PeerServer,
    mut log: Log<RealDisk>,
    recovery: Recovery,
) -> Result<Begun, ServeError> {
    let directory = || config.data_dir.clone();
    let disk = |source| ServeError::Disk { directory: directory(), source };
    let identity = recovery.identity;
    if let Some(found) = identity.as_ref().map(|identity| identity.node)
        && found != config.id
    {
        return Err(ServeError::WrongNode { directory: directory(), found, expected: config.id });
    }
    if let (Some(identity), Some(restored)) = (&identity, &recovery.restored)
        && let Some(cluster) = identity.cluster
    {
        let (incarnation, restored) = (identity.incarnation, restored.clone());
        return Ok(Begun { log, restored, cluster, incarnation });
    }
    if !config.bootstrap && !config.join {
        return Err(ServeError::NoState { directory: directory() });
    }
    // An earlier start may have got so far as to draw an incarnation, and told it to others.
    let mut identity = identity.unwrap_or_else(|| Identity {
        node: config.id,
        incarnation: Incarnation(rand::random()),
        cluster: None,
        peers: Vec::new(),
    });
    if config.bootstrap {
        refuse_other_founders(config, &identity)?;
    }
    identity.peers = config.peers.iter().map(|peer| peer.id).collect();
    log.identify(identity.clone()).map_err(disk)?;
    let incarnation = identity.incarnation;
    let founder = Founder {
        node: config.id,
        incarnation,
        peer_address: own.peer_address.clone(),
        client_address: own.client_address.clone(),
    };
    let list: Vec<Listed> = config.peers.iter().map(Peer::listed).collect();
    let (cluster, membership) = if config.bootstrap {
        server.desk().sit(founder.clone(), list.clone());
        let founded = match transport_http::found(server.desk(), &founder, &list).await {
            Ok(founded) => founded,
            Err(error) => {
                if !server.desk().has_told() {
                    // No node counts on this one: it may found another cluster.
                    identity.peers.clear();
                    log.identify(identity).map_err(disk)?;
                }
                return Err(error.into());
            }
        };
        tracing::info!(cluster = %founded.cluster, "founded a cluster");
        (founded.cluster, founded.membership)
    } else {
        let cluster = transport_http::cluster_of(&founder, &list).await;
        tracing::info!(%cluster, "waiting to be added to a cluster");
        (cluster, Membership::default())
    };
    // The log comes first: a directory that names its cluster and has no log has lost it.
    let restored = match recovery.restored {
        Some(restored) => restored,
        None => log.begin(Snapshot::initial(membership)).map_err(disk)?,
    };
    identity.cluster = Some(cluster);
    log.identify(identity).map_err(disk)?;
    Ok(Begun { log, restored, cluster, incarnation })
}

/// The latest membership in what the disk has kept.
fn membership_of(restored: &Restored) -> Membership {
    let latest = restored.entries.iter().rev().find_map(|entry| match &entry.payload {
        Payload::Membership(membership) => Some(membership.clone()),
        Payload::Blank | Payload::Command(_) | Payload::System(_) | Payload::Clock => None,
    });
    latest.unwrap_or_else(|| restored.snapshot.membership.clone())
}

fn close(log: Log<RealDisk>) {
    if let Err(error) = log.close() {
        tracing::error!(%error, "the log was not closed in good order");
    }
}

/// The links of a transport, for fault injection.
struct Cuts(Arc<HttpTransport>);

impl Links for Cuts {
    fn connect(&self, peer: NodeId) {
        self.0.connect(peer);
    }

    fn disconnect(&self, peer: NodeId) {
        self.0.disconnect(peer);
    }
}
