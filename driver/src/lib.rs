//! The event loop of a node. It connects the core, the store, the transport and the state machine.
//!
//! ```text
//!            Handle ──proposals, reads──▶ core loop ──writes──▶ store (a thread)
//!              ▲                           │  ▲  ▲ ◀─receipts──┘
//!   results    │                    orders │  │  └─messages── Inbox ◀── transport
//!              └────── machine task ◀──────┘  └─receipts── machine, snapshots (a thread)
//! ```
//!
//! One task owns the core and one owns the state machine. One thread owns the store and one writes
//! snapshots. [`Driver::new`] creates these parts and starts nothing. Time comes from the [`Clock`]
//! trait, and the parts are plain futures, so the same code runs on tokio ([`spawn`]; without
//! threads [`spawn_tasks`]) and in a simulation. Every queue is bounded; calls that do not fit are
//! rejected as `Busy`.
//!
//! The driver has no protocol rules (those are in `raft`), and moves no bytes between nodes (a
//! [`Transport`] does).

mod changes;
mod cleaning;
mod clock;
mod core_loop;
mod erased;
mod error;
mod events;
mod execute;
mod handle;
mod inbox;
mod inspect;
mod limits;
mod machine;
mod machine_task;
mod messages;
mod node;
mod paced;
mod pending;
mod preflight;
mod readiness;
mod reads;
mod reception;
mod replica;
mod report;
mod session;
mod shared;
mod snapshot_store;
mod snapshots;
#[cfg(feature = "tokio")]
mod spawn;
mod status;
mod store_loop;
#[cfg(any(test, feature = "testing"))]
pub mod testing;
mod transport;
mod waiters;

pub use changes::{Changes, View};
pub use clock::{Clock, Sleep};
pub use erased::{ErasedFrozen, ErasedMachine};
pub use error::{
    AttemptError, MembersError, NotReady, OfferError, Outcome, ProposeError, ReadError, StopReason,
    TransferError, WaitError,
};
pub use handle::{Consistency, Done, Handle, Proposal};
pub use inbox::{Inbox, InboxReceiver, inbox, inbox_limited};
pub use inspect::{Decision, Inspect};
pub use limits::Limits;
pub use machine::{ApplyContext, Frozen, RestoreError, StateMachine};
pub use node::{Dependencies, Driver, DriverConfig, DriverTask};
pub use raft::LogTime;
pub use reception::Reception;
pub use replica::{Answer, FrozenReplica, Replica, WrongBatch, hashed};
pub use report::report;
pub use session::{SessionError, SessionId, SessionLimits, SessionNumber, Sessions};
pub use snapshot_store::{Prefix, SnapshotSink, SnapshotStore, Unfinished};
pub use snapshots::SnapshotPort;
#[cfg(feature = "tokio")]
pub use spawn::{TokioClock, spawn, spawn_tasks};
pub use status::{DriverStatus, Load, Metrics, MetricsReading};
pub use store_loop::StorePort;
pub use transport::Transport;
