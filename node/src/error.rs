//! The errors of a node. The text of each says what happened, and where there is a next step, names
//! it. Errors of the disk and the listener end with the cause of the operating system.

use driver::{SessionError, StopReason};
use raft::{AddressError, NodeId};
use std::fmt;
use std::io;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;
use storage::{BaseError, ClaimError, LockError, OpenError};
use transport_http::BootstrapError;

/// Why a node could not be started.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum StartError {
    /// The wall clock of this machine shows a time before 1970. Set it.
    #[error("the wall clock of this machine shows a time before 1970: set it")]
    WallClock,
    /// A required setting is missing. The text names its builder method.
    #[error("the builder needs {0}")]
    Missing(&'static str),
    /// The codec does not support the type of the state, see the types of a
    /// [`TypedMachine`](crate::TypedMachine): change the type.
    #[error("the codec does not support the type of the state machine's state: {0}")]
    State(String),
    /// The node is not in the list of members.
    #[error("node {0} is not in the list of members, which has to name this node too")]
    NotAMember(NodeId),
    /// The list of members has a node twice.
    #[error("node {0} is in the list of members twice")]
    DuplicateMember(NodeId),
    /// The list has more members than a cluster can have.
    #[error("the list has {0} members, and a cluster has at most {1}")]
    TooManyMembers(usize, usize),
    /// Two members have one address for peers.
    #[error("nodes {0} and {1} both have the address {2} in the list of members")]
    DuplicateAddress(NodeId, NodeId, String),
    /// A member's address for peers is not of the form `host:port`.
    #[error("node {0} has the address {1:?} in the list of members, which is not host:port")]
    MemberAddress(NodeId, String),
    /// An address of a member is too long, or has characters that no address has.
    #[error("in the list of members, an address of node {0} {1}")]
    BadAddress(NodeId, AddressError),
    /// The address of this node in the list of members is a name, and a listener needs an IP
    /// address.
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
    /// The log cannot be opened. The cause states the next step.
    #[error("{}: {source}", .directory.display())]
    Open {
        /// The data directory.
        directory: PathBuf,
        /// The cause.
        source: OpenError,
    },
    /// The snapshot that the log begins after cannot be used. The cause states the next step.
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
    /// The data directory belongs to another node, or began to bootstrap another cluster.
    #[error("{}: {source}", .directory.display())]
    Claim {
        /// The data directory.
        directory: PathBuf,
        /// The cause.
        source: ClaimError,
    },
    /// The data directory is empty, and neither `bootstrap()` nor `join()` is set.
    #[error(
        "{}: the data directory is empty: set bootstrap() to create a cluster together with the other \
         members, or join() to be added to one that exists", .directory.display()
    )]
    NoState {
        /// The data directory.
        directory: PathBuf,
    },
    /// The node is to join a cluster, and its list of members names no node of one.
    #[error(
        "node {0} is to join a cluster, and its list of members names only itself: it has to name at \
         least one member of that cluster too"
    )]
    JoinsNobody(NodeId),
    /// The cluster cannot be bootstrapped.
    #[error(transparent)]
    Bootstrap(#[from] BootstrapError),
    /// The settings contradict one another, or the state on the disk.
    #[error(transparent)]
    Config(#[from] raft::ConfigError),
    /// A thread cannot be started, or a thread of the start has panicked, which is a bug.
    #[error("cannot start a thread: {0}")]
    Thread(io::Error),
}

/// The leader, as far as this node knows.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Leader {
    /// The id of the leader.
    pub id: NodeId,
    /// The `host:port` where its peers reach it.
    pub peer_address: String,
    /// The `host:port` where its clients reach it; empty if the membership has none.
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

/// Why a command was certainly not done.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum NotDone {
    /// No leader accepted the command within the time that a command waits for one. Or this node is
    /// not ready yet, for instance because it still applies its log:
    /// [`DriverStatus::not_ready`](driver::DriverStatus::not_ready) has the reason.
    #[error(
        "no leader took the command in time; try again when a majority of the nodes is up and this \
         node is ready"
    )]
    NoLeader,
    /// Too many commands are waiting: the queue is full.
    #[error("too many commands are waiting; try again later")]
    Busy,
    /// The command is too large.
    #[error("the command is larger than {limit_bytes} bytes")]
    TooLarge {
        /// The most bytes of a command.
        limit_bytes: usize,
    },
    /// The disk of this node has no room, or does not answer. The command was not sent. Ask another
    /// node.
    #[error("the disk of this node stores nothing: {reason}")]
    ReadOnly {
        /// The error of the disk, or that it does not answer.
        reason: Arc<str>,
    },
    /// This node is stopping or has stopped.
    #[error("this node has stopped: {0}")]
    Stopped(StopReason),
}

/// Why a command is not known to be done.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ExecuteError {
    /// The command was certainly not done by this call, and never will be. It may be executed
    /// again. In a session: if an earlier call with this number was unknown, it still is.
    #[error("not done: {why}")]
    NotDone {
        /// The reason.
        why: NotDone,
        /// The leader, if one is known.
        leader: Option<Leader>,
    },
    /// The command may have been done, or may be done later. If it is executed again, it may be
    /// done twice. A read does not settle it, since the command may be done after the read. A
    /// command of a session can be repeated safely: see
    /// [`Node::execute_in_session`](crate::Node::execute_in_session).
    #[error(
        "unknown: the command may have been done, or may still be; it can be repeated safely only in \
         a session"
    )]
    Unknown {
        /// The leader, if one is known.
        leader: Option<Leader>,
    },
    /// The session does not execute the command. Only calls for a session return this.
    #[error(transparent)]
    Session(#[from] SessionError),
}
