//! Peers talk over HTTP.
//!
//! Each node keeps one long-lived streaming `POST /raft/v1/stream` to each peer: length-framed
//! messages, as many as are ready in one write, so that a message costs no request. Answers come by
//! the peer's own stream. Snapshots go over requests of their own (`POST /raft/v1/snapshot`), and
//! before there is a cluster its founders exchange who they are (`POST /raft/v1/bootstrap`).
//!
//! A stream opens with a frame that says who speaks to whom: cluster, node, incarnation and version.
//! A stranger is refused with a clear error. Both ends show signs of life all the time; a stream that
//! is silent is closed and dialled anew, with a growing pause.
//!
//! Messages may be lost: a queue per peer is bounded, and what does not fit is dropped and reported,
//! so a blocked or dead peer slows nobody else.
//!
//! What it is not: it encrypts nothing and authenticates nobody. The peer port belongs behind a
//! firewall.

mod body;
mod bootstrap;
mod frame;
mod hello;
mod link;
mod server;
mod snapshot;
mod transfer;
mod transport;
pub mod wire;

pub use bootstrap::{Desk, FoundError, Founded, Founder, cluster_of, found};
pub use server::{PEER_CONNECTIONS_MAX, PeerServer};
pub use transport::{HttpTransport, TransportConfig};
