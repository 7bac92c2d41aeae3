//! Assembles one node: data directory, log, snapshots, driver, transport and listeners.

use crate::api::{self, Api, AskLeader, Hosts, Links};
use crate::descriptors::{self, Share};
use crate::heavy::Heavy;
use crate::history::Retention;
use crate::leader_client::LeaderClient;
pub use crate::limits::Limits;
use crate::lingering::{LINGERING, is_lingering};
use crate::machine::Machine;
use crate::server::ClientServer;
use driver::StopReason;
pub use quorate::{ELECTION_TIMEOUT, ELECTION_TIMEOUTS};
use quorate::{Node, StartError};
use raft::NodeId;
use std::io;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;
use storage::{BaseError, ClaimError, LockError, OpenError};
use transport_http::{BootstrapError, HttpTransport};

/// A member of the cluster, as given by `--peers`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Peer {
    /// The id of the member.
    pub id: NodeId,
    /// The address at which clients reach it, as `host:port`.
    pub client_address: String,
    /// The address at which the other nodes reach it, as `host:port`.
    pub peer_address: String,
}

/// The configuration of a node.
#[derive(Clone, Debug)]
pub struct ServeConfig {
    /// The id of this node. It must be among `peers`.
    pub id: NodeId,
    /// The address to listen on for clients. Port 0 selects a free port.
    pub listen: SocketAddr,
    /// The address to listen on for the other nodes.
    pub peer_listen: SocketAddr,
    /// All members, including this one. The list has an effect only when a cluster is bootstrapped
    /// or joined. Afterwards the membership in the log is used.
    pub peers: Vec<Peer>,
    /// The directory of the log and the snapshots. It belongs to this node alone.
    pub data_dir: PathBuf,
    /// On an empty directory: bootstrap a new cluster together with the peers. Ignored if there is
    /// data.
    pub bootstrap: bool,
    /// On an empty directory: wait to be added to an existing cluster. Ignored if there is data.
    pub join: bool,
    /// Become a candidate at once instead of waiting for an election timeout.
    pub campaign_at_start: bool,
    /// A follower campaigns when its leader has been silent for 1 to 1.5 times this long. Set it
    /// above the longest stalls of network and disks, and to the same value on all nodes. Default
    /// [`ELECTION_TIMEOUT`]. A value outside [`ELECTION_TIMEOUTS`] is clamped to it.
    pub election_timeout: Duration,
    /// The bound on clock drift for leases, in parts per million: see
    /// [`quorate::Builder::lease_drift_ppm`].
    /// `None`, the default: no leases.
    pub lease_drift_ppm: Option<u32>,
    /// A leader gives way to a healthy voter with a higher priority: see
    /// [`quorate::Builder::priority`]. Default 0.
    pub priority: u8,
    /// Let clients cut and restore links between nodes. For tests only.
    pub fault_injection: bool,
    /// True: writes are forwarded to the leader. False: they are answered with a redirect to it.
    /// Default true.
    pub forward: bool,
    /// Permits listening on addresses that other machines can reach. Neither clients nor peers are
    /// authenticated.
    pub insecure: bool,
    /// Host names, besides those of the peers, under which clients reach this node, for instance
    /// that of a load balancer. A request for any other name is refused. `*` admits all.
    pub hosts: Vec<String>,
    /// The limits on clients.
    pub limits: Limits,
}

impl ServeConfig {
    /// A configuration with defaults, for a directory that has data: it neither bootstraps nor
    /// joins a cluster.
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
            lease_drift_ppm: None,
            priority: 0,
            fault_injection: false,
            forward: true,
            insecure: false,
            hosts: Vec::new(),
            limits: Limits::default(),
        }
    }
}

/// The advice to an operator for an error of bind.
fn listen_advice(source: &io::Error) -> &'static str {
    match source.kind() {
        io::ErrorKind::AddrInUse => {
            "stop what uses the port, or choose another one; if ss -ltn shows no listener, a \
             connection holds it, for up to 60 s after its end (TIME-WAIT)"
        }
        io::ErrorKind::PermissionDenied => "choose a port above 1023, or give the right to use it",
        io::ErrorKind::AddrNotAvailable => "choose an address of this machine",
        // No file descriptor is left, for this process or the whole system (EMFILE, ENFILE).
        _ if matches!(source.raw_os_error(), Some(23 | 24)) => "raise the limit: ulimit -n 1024",
        _ => "check the address and the limits of this process",
    }
}

/// The commands that help after an error of bootstrapping or joining.
fn bootstrap_advice(error: &BootstrapError) -> String {
    match error {
        BootstrapError::Wiped { node, .. } => format!(
            ": raft-kv members remove {node}; then start this node with --join; then raft-kv members \
             add {node}=CLIENT/PEER"
        ),
        BootstrapError::Stranger { node, .. } => {
            format!(" (--join), then raft-kv members add {node}=CLIENT/PEER")
        }
        _ => String::new(),
    }
}

/// Why a node could not be started, or had to stop. The message of each variant tells an operator
/// what to do.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ServeError {
    /// The node cannot listen on an address. Stop the program that uses the port, or choose another
    /// port.
    #[error("cannot listen on {address}: {source}; {}", listen_advice(.source))]
    Listen {
        /// The address that was configured.
        address: SocketAddr,
        /// The error of bind.
        source: io::Error,
    },
    /// The node cannot listen on an address although nobody else does. Wait for a minute.
    #[error("cannot listen on {address}: {source}: {LINGERING}")]
    Lingering {
        /// The address that was configured.
        address: SocketAddr,
        /// The error of bind.
        source: io::Error,
    },
    /// Other machines could reach a listener that has no authentication.
    #[error(
        "{address} (for {users}) can be reached from other machines, and there is no authentication \
         and no TLS yet: everybody who reaches it can read and change all data. Listen on 127.0.0.1, \
         or give --insecure if only trusted machines reach it (a firewall, a private network)"
    )]
    Insecure {
        /// The address that was configured.
        address: SocketAddr,
        /// `clients` or `peers`.
        users: &'static str,
    },
    /// Clients and peers are to be listened for at one address.
    #[error(
        "{address} is given for clients and for peers: give them different ports (--listen and \
         --peer-listen, or the two addresses of this node in --peers)"
    )]
    OneAddress {
        /// The address.
        address: SocketAddr,
    },
    /// The node would run out of file descriptors for its own files.
    #[error(
        "the limit on open files is {limit}, and a node needs at least {least}: raise it (ulimit -n, \
         LimitNOFILE= of systemd)", least = descriptors::LEAST
    )]
    Descriptors {
        /// The limit of the process, after the soft limit was raised to the hard limit.
        limit: u64,
    },
    /// This directory began to bootstrap a cluster with other members.
    #[error(
        "{}: this data directory began to found a cluster of nodes {began}, and has told others so; \
         now --peers lists nodes {given}. Start it with the nodes it began with; or, if no node has \
         founded the cluster yet, remove the data directories of all of them and start again",
        .directory.display()
    )]
    OtherFounders {
        /// The data directory, from `--data-dir`.
        directory: PathBuf,
        /// The members with which the bootstrap began.
        began: String,
        /// The members that the node was started with.
        given: String,
    },
    /// The log in the data directory cannot be opened. The cause tells what to do.
    #[error("{}: {source}", .directory.display())]
    Open {
        /// The data directory, from `--data-dir`.
        directory: PathBuf,
        /// The error of opening the log.
        source: OpenError,
    },
    /// The snapshot at the start of the log cannot be used. The cause tells what to do.
    #[error("{}: {source}", .directory.display())]
    Base {
        /// The data directory, from `--data-dir`.
        directory: PathBuf,
        /// The error of reading the snapshot.
        source: BaseError,
    },
    /// Another process holds the directory, or it may not be written to.
    #[error(transparent)]
    Lock(LockError),
    /// The data directory cannot be written.
    #[error("{}: {source}", .directory.display())]
    Disk {
        /// The data directory, from `--data-dir`.
        directory: PathBuf,
        /// The I/O error.
        source: io::Error,
    },
    /// The directory belongs to another node. Check `--id` and `--data-dir`.
    #[error(
        "{}: this data directory belongs to node {found}, not to node {expected}; \
         check --id and --data-dir", .directory.display()
    )]
    WrongNode {
        /// The data directory, from `--data-dir`.
        directory: PathBuf,
        /// The node that the directory belongs to.
        found: NodeId,
        /// The node that was started with it.
        expected: NodeId,
    },
    /// The directory is empty, and neither `bootstrap` nor `join` is set.
    #[error(
        "{}: this data directory is empty; start the node with --bootstrap to found a new cluster \
         together with its peers, or with --join to wait until it is added to a cluster that \
         exists (raft-kv members add)", .directory.display()
    )]
    NoState {
        /// The data directory, from `--data-dir`.
        directory: PathBuf,
    },
    /// The node is not in its own list of peers.
    #[error("node {0} is not among the peers that it was given")]
    NotAPeer(NodeId),
    /// The node is to join a cluster, and `--peers` names no node of one.
    #[error(
        "--join: --peers lists only node {0} itself; list at least one member of the cluster that it \
         is to join, too"
    )]
    JoinsNobody(NodeId),
    /// The cluster cannot be bootstrapped or joined.
    #[error("{source}{advice}", source = .0, advice = bootstrap_advice(.0))]
    Found(BootstrapError),
    /// Any other error at start. The cause tells what to do.
    #[error(transparent)]
    Start(StartError),
    /// The node ran, and stopped without being asked to.
    #[error("the node has stopped: {0}")]
    Stopped(StopReason),
    /// The disk did not answer while the log was to be closed. Nothing acknowledged is lost: the
    /// next start reads the log as after a power failure.
    #[error("the disk does not answer, so the log was not closed within {0:?}")]
    NotClosed(Duration),
}

impl ServeError {
    /// Translates an error of the library into one that names this program's flags.
    fn of(error: StartError, config: &ServeConfig) -> Self {
        match error {
            StartError::NotAMember(node) => ServeError::NotAPeer(node),
            StartError::Listen { address, source } => ServeError::Listen { address, source },
            StartError::Insecure(address) => ServeError::Insecure { address, users: "peers" },
            StartError::Lock(error) => ServeError::Lock(error),
            StartError::Open { directory, source } => ServeError::Open { directory, source },
            StartError::Base { directory, source } => ServeError::Base { directory, source },
            StartError::Disk { directory, source } => ServeError::Disk { directory, source },
            StartError::NoState { directory } => ServeError::NoState { directory },
            StartError::JoinsNobody(node) => ServeError::JoinsNobody(node),
            StartError::Bootstrap(error) => ServeError::Found(error),
            StartError::Claim { directory, source } => match source {
                ClaimError::OtherNode { found, expected } => {
                    ServeError::WrongNode { directory, found, expected }
                }
                ClaimError::OtherFounders { began } => {
                    let mut given: Vec<NodeId> = config.peers.iter().map(|peer| peer.id).collect();
                    given.sort();
                    let (began, given) = (list(&began), list(&given));
                    ServeError::OtherFounders { directory, began, given }
                }
                source => ServeError::Start(StartError::Claim { directory, source }),
            },
            error => ServeError::Start(error),
        }
    }

    /// Tells a port that nobody listens on from one that another program listens on.
    async fn looked_into(self) -> Self {
        match self {
            ServeError::Listen { address, source }
                if source.kind() == io::ErrorKind::AddrInUse && is_lingering(address).await =>
            {
                ServeError::Lingering { address, source }
            }
            error => error,
        }
    }
}

fn list(ids: &[NodeId]) -> String {
    let ids: Vec<String> = ids.iter().map(NodeId::to_string).collect();
    ids.join(", ")
}

/// How long a node that is stopped waits for another one to take over.
const HAND_OVER: Duration = Duration::from_secs(2);
/// How long a stop waits for the log to be closed.
const CLOSE_MAX: Duration = Duration::from_secs(10);

/// A running node. Dropping it stops the node at once; [`Running::stop`] does so gracefully.
pub struct Running {
    node: Node<Machine>,
    clients: ClientServer,
}

impl std::fmt::Debug for Running {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let addresses = (self.client_addr(), self.peer_addr());
        f.debug_tuple("Running").field(&addresses).finish()
    }
}

impl Running {
    /// The address that clients connect to, with the actual port.
    pub fn client_addr(&self) -> SocketAddr {
        self.clients.local_addr()
    }

    /// The address that the other nodes connect to, with the actual port.
    pub fn peer_addr(&self) -> SocketAddr {
        self.node.peer_addr()
    }

    /// Stops the node gracefully: a leader hands over, clients are asked to close their
    /// connections, requests in progress are answered, and the log is synced. A disk that hangs
    /// does not delay it for ever.
    pub async fn stop(self) -> Result<(), ServeError> {
        let Running { node, clients } = self;
        clients.leave();
        // While another node takes over, requests still arrive here and wait for it.
        let _ = tokio::time::timeout(HAND_OVER, node.transfer(None)).await;
        clients.stop().await;
        match tokio::time::timeout(CLOSE_MAX, node.shutdown()).await {
            Ok(reason) => of_reason(reason),
            Err(_) => Err(ServeError::NotClosed(CLOSE_MAX)),
        }
    }

    /// Waits until the node stops without being asked to, usually because of a disk error.
    pub async fn wait(&mut self) -> Result<(), ServeError> {
        of_reason(self.node.stopped().await)
    }
}

fn of_reason(reason: StopReason) -> Result<(), ServeError> {
    match reason {
        StopReason::Shutdown => Ok(()),
        reason => Err(ServeError::Stopped(reason)),
    }
}

/// Starts a node on the current tokio runtime. Returns when the node has joined its cluster. A new
/// cluster is bootstrapped only once all peers are up. `/healthz` answers before that. Dropping the
/// future stops everything that it has started.
pub async fn run(config: ServeConfig) -> Result<Running, ServeError> {
    match start(config).await {
        Ok(running) => Ok(running),
        Err(error) => Err(error.looked_into().await),
    }
}

async fn start(config: ServeConfig) -> Result<Running, ServeError> {
    let own = own_addresses(&config)?;
    refuse_insecure(&config)?;
    if config.listen == config.peer_listen && config.listen.port() != 0 {
        return Err(ServeError::OneAddress { address: config.listen });
    }
    let heavy = Heavy::start()
        .map_err(|error| ServeError::of(quorate::StartError::Thread(error), &config))?;
    let share = Share::of_this_process(config.limits.connections_max)
        .map_err(|limit| ServeError::Descriptors { limit })?;
    let clients =
        ClientServer::bind(config.listen, own.id, own.peer_address.clone(), &config.limits, share)
            .await
            .map_err(|source| ServeError::Listen { address: config.listen, source })?;

    match begin(config, own, heavy, share, &clients).await {
        Ok(node) => Ok(Running { node, clients }),
        Err(error) => {
            // The next start finds the address free.
            clients.close().await;
            Err(error)
        }
    }
}

/// Starts the node, and serves its clients.
async fn begin(
    config: ServeConfig,
    own: Peer,
    heavy: Heavy,
    share: Share,
    clients: &ClientServer,
) -> Result<Node<Machine>, ServeError> {
    let machine = Machine::new(Retention {
        commands_max: config.limits.history_commands_max,
        bytes_max: config.limits.history_bytes_max,
        ..Retention::default()
    });
    let (figures, answers) = (machine.figures(), machine.answers());
    let mut builder = Node::builder(machine)
        .id(config.id.0)
        .data_dir(&config.data_dir)
        .listen(config.peer_listen)
        .campaign_at_start(config.campaign_at_start)
        .election_timeout(config.election_timeout)
        .priority(config.priority)
        .insecure(config.insecure)
        .peer_connections_max(share.peers);
    for peer in &config.peers {
        builder = builder.member(peer.id.0, &peer.peer_address, &peer.client_address);
    }
    if let Some(drift_ppm) = config.lease_drift_ppm {
        builder = builder.lease_drift_ppm(drift_ppm);
    }
    if config.bootstrap {
        builder = builder.bootstrap();
    } else if config.join {
        builder = builder.join().on_wait(clients.waiting(waits_to_be_added(&own, &config)));
    }
    let node = builder.start().await.map_err(|error| ServeError::of(error, &config))?;

    tracing::info!(clients = %clients.local_addr(), "listening for clients");
    let transport = node.transport().clone();
    clients.open(Api::new(api::Parts {
        handle: node.handle().clone(),
        clock: node.clock(),
        figures,
        answers,
        id: config.id,
        cluster: Some(node.cluster()),
        peer_address: own.peer_address,
        hosts: Hosts::of(config.peers.iter().map(|p| &p.client_address).chain(&config.hosts)),
        limits: Limits {
            connections_max: share.clients,
            ..config.limits.clone().for_elections(election_timeout(&config))
        },
        forward: config.forward,
        admission: Some(node.admission()),
        leader: Some(Arc::new(LeaderClient::new(descriptors::ASKING)) as Arc<dyn AskLeader>),
        offload: Some(Arc::new(heavy)),
        links: config.fault_injection.then(|| Arc::new(Cuts(transport.clone())) as Arc<dyn Links>),
        peers: Some(Box::new(move || transport.figures())),
        pressure: clients.pressure(),
        leaving: clients.leaving(),
    }));
    Ok(node)
}

/// What a node that joins waits for, and the command that ends it.
fn waits_to_be_added(own: &Peer, config: &ServeConfig) -> String {
    let entry = |peer: &Peer| format!("{}={}/{}", peer.id, peer.client_address, peer.peer_address);
    let others: Vec<&Peer> = config.peers.iter().filter(|peer| peer.id != own.id).collect();
    let named: Vec<String> = others.iter().map(|peer| entry(peer)).collect();
    let server = others.first().map_or("HOST:PORT", |peer| &peer.client_address);
    format!(
        "node {} waits to be added as a member to the cluster of {}: \
         raft-kv members add {} --server http://{server}",
        own.id,
        named.join(","),
        entry(own)
    )
}

fn election_timeout(config: &ServeConfig) -> Duration {
    config.election_timeout.clamp(*ELECTION_TIMEOUTS.start(), *ELECTION_TIMEOUTS.end())
}

/// The entry of this node in `peers`, with the addresses at which others reach it.
fn own_addresses(config: &ServeConfig) -> Result<Peer, ServeError> {
    let own = config.peers.iter().find(|peer| peer.id == config.id);
    own.cloned().ok_or(ServeError::NotAPeer(config.id))
}

/// Rejects listeners that other machines can reach, unless `insecure` is set.
fn refuse_insecure(config: &ServeConfig) -> Result<(), ServeError> {
    let listeners = [(config.listen, "clients"), (config.peer_listen, "peers")];
    for (address, users) in listeners {
        if !config.insecure && !address.ip().to_canonical().is_loopback() {
            return Err(ServeError::Insecure { address, users });
        }
    }
    Ok(())
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
