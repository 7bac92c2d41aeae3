//! The HTTP transport: carries Raft messages and snapshots between peers.
//!
//! Each node keeps one long-lived streaming `POST /raft/v1/stream` to each peer. Its body is a
//! sequence of length-prefixed frames, one per message. All messages that are ready go out in one
//! write, so a message does not cost a request. Replies to Raft messages arrive on the peer's own
//! stream. Snapshots use requests of their own (`POST /raft/v1/snapshot`). Before a cluster exists,
//! its founders exchange their identities (`POST /raft/v1/bootstrap`).
//!
//! A stream opens with a frame that names the protocol version, the cluster, the sender, the
//! sender's incarnation and the receiver. A stream of another version, of another cluster or for
//! another node is rejected with a clear error. Every frame has a checksum; a damaged frame closes
//! the stream. Both ends send keep-alive frames. A stream that is silent for too long is closed and
//! dialled again, with backoff. The number of connections and the memory of unfinished frames are
//! bounded.
//!
//! Messages may be lost. The queue to each peer is bounded; a message that does not fit is dropped
//! and reported to the driver. So a blocked or dead peer slows down no other peer.
//!
//! This transport does not encrypt and does not authenticate. Its limits protect against faults and
//! against strangers that flood the port. A stranger that knows the protocol and the cluster's id
//! can still forge messages. The peer port belongs behind a firewall.

mod allowance;
mod body;
mod bootstrap;
mod config;
mod dial;
mod founders;
mod frame;
mod hello;
mod link;
pub mod net;
mod places;
mod repeats;
mod server;
mod shared;
mod signs;
mod snapshot;
mod transfer;
mod transport;
pub mod wire;

pub use bootstrap::{
    AdmitError, BootstrapError, BootstrapService, Bootstrapped, bootstrap, bootstrap_on,
    identity_of, identity_of_on, join, join_on,
};
pub use config::TransportConfig;
pub use founders::{Founder, Listed};
pub use hello::PROTOCOL_VERSION;
pub use places::PEER_CONNECTIONS_MAX;
pub use server::PeerServer;
pub use shared::TransportFigures;
pub use transport::HttpTransport;
