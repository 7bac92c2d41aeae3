//! Errors. Each says what to do next.

use driver::StopReason;
use raft::NodeId;
use std::fmt;
use std::io;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;
use storage::{BaseError, ClaimError, LockError, OpenError};
use transport_http::FoundError;

/// Why a node could not be started.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum StartError {
    /// A setting is missing.
    #[error("the builder needs {0}")]
    Missing(&'static str),
    /// The node is not in the list of members.
    #[error("node {0} is not in the list of members, which has to name this node too")]
    NotAMember(NodeId),
    /// The address of this node is a name, and a listener needs an IP address.
    #[error("{0} is not an IP address to listen on: set the address with listen()")]
    ListenAddress(String),
    /// The address cannot be listened on.
    #[error("cannot listen on {address}: {source}")]
    Listen {
        /// The address.
        address: SocketAddr,
        /// The error of the operating system.
        source: io::Error,
    },
    /// Other machines reach the address, and peers are not authenticated.
    #[error(
        "other machines reach {0}, and peers are not authenticated yet: listen on a loopback address, or \
         set insecure(true) if only trusted machines reach it"
    )]
    Insecure(SocketAddr),
    /// Another process uses the data directory, or it may not be written to.
    #[error(transparent)]
    Lock(#[from] LockError),
    /// The log cannot be opened. The cause says what to do.
    #[error("{}: {source}", .directory.display())]
    Open {
        /// The data directory.
        directory: PathBuf,
        /// The cause.
        source: OpenError,
    },
    /// The snapshot that the log begins after cannot be used. The cause says what to do.
    #[error("{}: {source}", .directory.display())]
    Base {
        /// The data directory.
        directory: PathBuf,
        /// The cause.
        source: BaseError,
    },
    /// The data directory cannot be written to.
    #[error("{}: {source}", .directory.display())]
    Disk {
        /// The data directory.
        directory: PathBuf,
        /// The error of the operating system.
        source: io::Error,
    },
    /// The data directory belongs to another node, or to another cluster that was begun.
    #[error("{}: {source}", .directory.display())]
    Claim {
        /// The data directory.
        directory: PathBuf,
        /// The cause.
        source: ClaimError,
    },
    /// The data directory is empty, and the settings do not say how to begin.
    #[error(
        "{}: the data directory is empty: set bootstrap() to create a cluster together with the other \
         members, or join() to be added to one that exists", .directory.display()
    )]
    NoState {
        /// The data directory.
        directory: PathBuf,
    },
    /// The cluster cannot be bootstrapped.
    #[error(transparent)]
    Bootstrap(#[from] FoundError),
    /// The settings contradict one another, or what the disk has kept.
    #[error(transparent)]
    Config(#[from] raft::ConfigError),
    /// A thread cannot be started.
    #[error("cannot start a thread: {0}")]
    Thread(io::Error),
}

/// The leader, as far as this node knows.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Leader {
    /// Its number.
    pub id: NodeId,
    /// Where its peers reach it.
    pub peer_address: String,
    /// Where its clients reach it; empty if the cluster was not told.
    pub client_address: String,
}

impl fmt::Display for Leader {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Leader { id, peer_address, client_address } = self;
        match client_address.is_empty() {
            true => write!(f, "node {id} at {peer_address}"),
            false => write!(f, "node {id} at {client_address}"),
        }
    }
}

/// Why a command has certainly not been done.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum NotDone {
    /// There was no leader that takes it, for as long as the command could wait.
    #[error("no leader was found in time; try again when a majority of the nodes is up")]
    NoLeader,
    /// Too many commands are waiting.
    #[error("too many commands are waiting; try again later")]
    Busy,
    /// The command is too large.
    #[error("the command is larger than {limit_bytes} bytes")]
    TooLarge {
        /// The limit.
        limit_bytes: usize,
    },
    /// The disk of the leader has no room.
    #[error("the disk of the leader has no room: {reason}")]
    ReadOnly {
        /// The error of the disk.
        reason: Arc<str>,
    },
    /// This node is stopping or has stopped.
    #[error("this node has stopped: {0}")]
    Stopped(StopReason),
}

/// What became of a command that is not known to be done.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ExecuteError {
    /// It has certainly not been done, and never will be. It may be executed again.
    #[error("not done: {why}")]
    NotDone {
        /// The reason.
        why: NotDone,
        /// The leader, if one is known.
        leader: Option<Leader>,
    },
    /// It may have been done, or may be done later. Executed again, it may be done twice: read
    /// first.
    #[error("unknown: the command may have been done, or may still be; read before you repeat it")]
    Unknown {
        /// The leader, if one is known.
        leader: Option<Leader>,
    },
}
