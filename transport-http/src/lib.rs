//! Peers talk over HTTP.
//!
//! Each node keeps one long-lived streaming `POST /raft/v1/stream` to each peer: length-framed
//! messages, as many as are ready in one write, so that a message costs no request. Answers come by
//! the peer's own stream. Snapshots go over requests of their own (`POST /raft/v1/snapshot`), and
//! before there is a cluster its founders exchange who they are (`POST /raft/v1/bootstrap`).
//!
//! A stream opens with a frame that names the sender and the receiver: cluster, node, incarnation and
//! version. A stranger is refused with a clear error. Every frame has a checksum; a damaged one closes
//! the stream. Both ends send signs of life all the time; a stream that is silent is closed and
//! dialled anew, with a growing pause. Connections, and the memory of unfinished frames, are bounded.
//!
//! Messages may be lost: a queue per peer is bounded, and what does not fit is dropped and reported,
//! so a blocked or dead peer slows nobody else.
//!
//! What it is not: it encrypts nothing and authenticates nobody. The bounds are against faults and
//! strangers who flood the port; a stranger who knows the protocol and the cluster's name can still
//! forge messages. The peer port belongs behind a firewall.

mod body;
mod bootstrap;
mod dial;
mod founders;
mod frame;
mod hello;
mod link;
pub mod net;
mod places;
mod repeats;
mod server;
mod snapshot;
mod transfer;
mod transport;
pub mod wire;

pub use bootstrap::{Desk, FoundError, Founded, cluster_of, cluster_of_on, found, found_on};
pub use founders::{Founder, Listed};
pub use places::PEER_CONNECTIONS_MAX;
pub use server::PeerServer;
pub use transport::{HttpTransport, TransportConfig, TransportFigures};
