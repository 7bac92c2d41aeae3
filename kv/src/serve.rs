//! One node, put together: data directory, log, snapshots, driver, transport and listeners.

use crate::api::{self, AskLeader, Hosts, Links};
use crate::descriptors::{self, Share};
use crate::heavy::Heavy;
use crate::history::Retention;
use crate::leader_client::LeaderClient;
pub use crate::limits::Limits;
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
use transport_http::HttpTransport;

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
    /// A leader that is silent for this long, or up to twice as long, is replaced. Longer than the
    /// network and the disks ever stall; the same on all nodes. A value outside of
    /// [`ELECTION_TIMEOUTS`] counts as the nearest in it.
    pub election_timeout: Duration,
    /// Let clients cut and restore links between nodes.
    pub fault_injection: bool,
    /// Forward writes to the leader; otherwise answer them with a redirect to it.
    pub forward: bool,
    /// Listen on addresses that other machines reach, though neither clients nor peers are
    /// authenticated.
    pub insecure: bool,
    /// Names, besides those of the peers, under which clients reach this node: of a load balancer,
    /// for instance. A request for another name is refused; `*` admits all.
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
    Lock(LockError),
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
    Found(transport_http::BootstrapError),
    /// The node cannot be started for another reason, which the cause says.
    #[error(transparent)]
    Start(StartError),
    /// The node has stopped by itself.
    #[error("the node has stopped: {0}")]
    Stopped(StopReason),
}

impl ServeError {
    /// In the words of this program's flags.
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
}

fn list(ids: &[NodeId]) -> String {
    let ids: Vec<String> = ids.iter().map(NodeId::to_string).collect();
    ids.join(", ")
}

/// A node that runs. Dropping it stops it; [`Running::stop`] does so gracefully.
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
    /// Where it listens for clients.
    pub fn client_addr(&self) -> SocketAddr {
        self.clients.local_addr()
    }

    /// Where it listens for the other nodes.
    pub fn peer_addr(&self) -> SocketAddr {
        self.node.peer_addr()
    }

    /// Stops it: no new requests, those under way are answered, the log is synced.
    pub async fn stop(self) -> Result<(), ServeError> {
        let Running { node, clients } = self;
        clients.stop().await;
        of_reason(node.shutdown().await)
    }

    /// Returns when it has stopped by itself, and why: a disk that failed, mostly.
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

/// Starts a node, on the current tokio runtime. Returns when it takes part in its cluster, which
/// for a cluster that is being founded is when all peers are up. `/healthz` answers before that.
/// Dropping the future stops what it has started.
pub async fn run(config: ServeConfig) -> Result<Running, ServeError> {
    let own = own_addresses(&config)?;
    refuse_insecure(&config)?;
    let share = Share::of_this_process(config.limits.connections_max);
    let clients =
        ClientServer::bind(config.listen, own.id, own.peer_address.clone(), &config.limits, share)
            .await
            .map_err(|source| ServeError::Listen { address: config.listen, source })?;

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
        .insecure(config.insecure)
        .peer_connections_max(share.peers);
    for peer in &config.peers {
        builder = builder.member(peer.id.0, &peer.peer_address, &peer.client_address);
    }
    if config.bootstrap {
        builder = builder.bootstrap();
    } else if config.join {
        builder = builder.join();
    }
    let node = builder.start().await.map_err(|error| ServeError::of(error, &config))?;

    tracing::info!(clients = %clients.local_addr(), "listening for clients");
    let transport = node.transport().clone();
    clients.open(api::router(api::Parts {
        handle: node.handle().clone(),
        clock: node.clock(),
        figures,
        answers,
        id: config.id,
        cluster: Some(node.cluster()),
        peer_address: own.peer_address,
        hosts: Hosts::of(config.peers.iter().map(|p| &p.client_address).chain(&config.hosts)),
        limits: config.limits.clone().for_elections(election_timeout(&config)),
        forward: config.forward,
        leader: Some(Arc::new(LeaderClient::new(descriptors::ASKING)) as Arc<dyn AskLeader>),
        offload: Some(Arc::new(Heavy::new(tokio::runtime::Handle::current()))),
        links: config.fault_injection.then(|| Arc::new(Cuts(transport.clone())) as Arc<dyn Links>),
        peers: Some(Box::new(move || transport.figures())),
        pressure: clients.pressure(),
    }));
    Ok(Running { node, clients })
}

fn election_timeout(config: &ServeConfig) -> Duration {
    config.election_timeout.clamp(*ELECTION_TIMEOUTS.start(), *ELECTION_TIMEOUTS.end())
}

/// How others reach this node: as the operator says among the peers.
fn own_addresses(config: &ServeConfig) -> Result<Peer, ServeError> {
    let own = config.peers.iter().find(|peer| peer.id == config.id);
    own.cloned().ok_or(ServeError::NotAPeer(config.id))
}

/// Without authentication only this machine may reach a listener, unless the operator says
/// otherwise.
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
