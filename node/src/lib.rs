//! A replicated state machine in a few lines.
//!
//! You write a state machine: what a command changes, and what a query answers. Each [`Node`] of a
//! cluster keeps a copy. The nodes agree on the order of all commands (the Raft protocol), survive
//! the crash of a minority, and lose nothing that was answered: commands are on the disks of a
//! majority before a client gets its answer.
//!
//! ```no_run
#![doc = include_str!("../examples/counter.rs")]
//! ```
//!
//! # Where to go from here
//!
//! - [`TypedMachine`] is the trait to implement first: commands, replies and the state are your own
//!   types. [`StateMachine`] is the same with bytes, for large states or an encoding of your own.
//! - [`Builder`] has the usual settings, with their defaults. [`Builder::tune`] reaches all others:
//!   the limits on memory, on queues and on commands, and when a snapshot is taken.
//! - [`Node::execute`] and [`Node::read`] work on every node of a cluster. An error of `execute`
//!   states whether the command was certainly not done, or may have been done.
//! - [`assembly`] builds a node from other parts: a simulated disk, network and clock.
//!
//! # What it needs
//!
//! A tokio runtime for your own code, preferably with several threads. The protocol runs on threads
//! of its own, so that your tasks cannot delay it.
//!
//! # What is stable
//!
//! The items at the root of this crate are its public interface. Until 1.0 a minor version may
//! change it; the changelog names each change. The modules [`assembly`], [`bootstrap`] and
//! [`threads`] are the interface for simulators and for programs that put a node together in
//! another way. They follow the inside of the library and may change with any version, as may the
//! crates `quorate-core`, `quorate-storage`, `quorate-driver` and `quorate-http`, apart from what
//! the root of this crate takes from them.
//!
//! # What it is not
//!
//! It does not authenticate peers and does not encrypt what they send: the peer port belongs on a
//! private network.

pub mod assembly;
pub mod bootstrap;
mod builder;
mod error;
mod execute;
mod members;
mod node;
mod start;
pub mod threads;
mod typed;

pub use builder::{Builder, ELECTION_TIMEOUT, ELECTION_TIMEOUTS};
pub use bytes::Bytes;
pub use driver::{
    ApplyContext, AttemptError, Changes, Clock, Consistency, Done, DriverConfig, DriverStatus,
    Frozen, Handle, Limits, Load, MembersError, MetricsReading, NotReady, Outcome, Proposal,
    ProposeError, ReadError, RestoreError, SessionError, SessionId, SessionLimits, SessionNumber,
    Sleep, StateMachine, StopReason, TransferError, View, WaitError,
};
pub use error::{ExecuteError, Leader, NotDone, StartError};
pub use members::{Admission, Members, SetMembersError};
pub use node::Node;
pub use raft::{
    ADDRESS_BYTES_MAX, AddressError, Change, ChangeError, CommandNumber, Config, ConfigError,
    Counters, Incarnation, Index, LeaseConfig, LogId, LogTime, Member, Membership, NodeId, Now,
    PeerStatus, Request, RoleKind, Round, Snapshot, Status, Target, Term, TransferRefused,
};
pub use storage::{
    BaseError, ClaimError, ClusterId, IdentityError, LockError, LogConfig, OpenError, SnapshotError,
};
pub use transport_http::{AdmitError, BootstrapError, HttpTransport, TransportFigures};
pub use typed::{Typed, TypedError, TypedMachine, TypedNode};
