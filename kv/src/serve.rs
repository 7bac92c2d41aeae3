//! One node, put together: data directory, log, snapshots, driver, transport and listeners.

pub use crate::limits::Limits;
use raft::NodeId;
use std::net::SocketAddr;
use std::path::PathBuf;

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
    /// Let clients cut and restore links between nodes.
    pub fault_injection: bool,
    /// Pass the requests that only a leader can serve on to it; otherwise answer with a redirect.
    pub forward: bool,
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
            fault_injection: false,
            forward: true,
            limits: Limits::default(),
        }
    }
}

/// Why a node could not be started, or had to stop. Each variant says what an operator can do.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ServeError {
    /// It cannot listen there. Stop what uses the port, or choose another one.
    #[error("cannot listen on {address}: {source}")]
    Listen {
        /// Where.
        address: SocketAddr,
        /// Why.
        source: std::io::Error,
    },
}

/// A node that runs. It stops when this is dropped, but only [`Running::stop`] is graceful.
#[derive(Debug)]
pub struct Running {
    client_addr: SocketAddr,
    peer_addr: SocketAddr,
}

impl Running {
    /// Where it listens for clients.
    pub fn client_addr(&self) -> SocketAddr {
        self.client_addr
    }

    /// Where it listens for the other nodes.
    pub fn peer_addr(&self) -> SocketAddr {
        self.peer_addr
    }

    /// Stops it: no new requests, those under way are answered, the log is synced.
    pub async fn stop(self) -> Result<(), ServeError> {
        Ok(())
    }

    /// Returns when it has stopped by itself, and why: a disk that failed, mostly.
    pub async fn wait(&mut self) -> Result<(), ServeError> {
        Ok(())
    }
}

/// Starts a node, on the current tokio runtime. Returns when it takes part in its cluster, which
/// for a cluster that is being founded is when all peers are up. `/healthz` answers before that.
/// Dropping the future stops what it has started.
pub async fn run(config: ServeConfig) -> Result<Running, ServeError> {
    let source = std::io::ErrorKind::Unsupported.into();
    Err(ServeError::Listen { address: config.listen, source })
}
