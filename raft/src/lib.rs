//! The Raft consensus protocol as a pure function of its inputs.
//!
//! A [`RawNode`] takes events (ticks, messages, proposals, receipts for finished work) and returns
//! work orders ([`Action`]) from [`RawNode::poll`]. It does no I/O, reads no clock and starts no
//! thread. The same inputs give the same outputs, bit for bit, so a simulator can run it through
//! millions of schedules.
//!
//! Numbers such as §3.4 refer to Diego Ongaro's thesis, *Consensus: Bridging Theory and Practice*.

mod address;
mod bounded;
mod candidate;
mod change;
mod config;
mod copies;
mod core;
mod digest;
mod entries;
mod entry;
#[cfg(feature = "clone-work")]
mod fingerprint;
mod follower;
mod id;
mod inspect;
mod leader;
mod lease;
mod log;
mod log_time;
mod membership;
mod message;
mod node;
mod outbox;
mod priority;
mod probation;
mod progress;
mod request;
mod role;
mod snapshot_schedule;
mod status;
mod transfer;
mod validation;
mod work;

pub use address::{ADDRESS_BYTES_MAX, AddressError, check_address};
pub use bounded::CLUSTER_MEMBERS_MAX;
pub use change::{Change, ChangeError};
pub use config::{Config, ConfigError, Restored};
pub use digest::{StateHash, bytes_hash, entry_hash};
pub use entries::Entries;
pub use entry::{Entry, Payload, Snapshot};
pub use id::{CommandNumber, Incarnation, Index, LogId, LogTime, NodeId, Now, ReadId, Round, Term};
pub use lease::LeaseConfig;
pub use log_time::Reading;
pub use membership::{Member, Membership, Target};
pub use message::{Body, Forwarded, Message, SnapshotOffer};
pub use node::RawNode;
pub use request::{ProposeRefused, Proposed, ReadProof, ReadRefused, Request};
pub use status::{Counters, PeerStatus, RoleKind, Status};
pub use transfer::TransferRefused;
pub use work::{
    Action, Applied, Apply, Durable, HardState, LogStart, ReceiveSnapshot, Restore,
    SnapshotDurable, SnapshotReceived, SnapshotStatus, TakeSnapshot, Write,
};
