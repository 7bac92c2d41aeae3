//! The seam to whatever carries messages between nodes.

use raft::{Membership, Message, NodeId, SnapshotOffer};
use std::io::Read;

/// Carries messages to peers. What arrives goes to the [`Inbox`](crate::Inbox), and so do reports of
/// loss.
///
/// No method blocks or waits: a queue per peer is bounded, and what does not fit is lost and
/// reported with [`Inbox::unreachable`](crate::Inbox::unreachable), once per loss.
pub trait Transport: Send + Sync + 'static {
    /// Sends a message to `message.to`.
    fn send(&self, message: Message);

    /// Sends a snapshot to `offer.to`, whose bytes `state` gives (it blocks: read it off the async
    /// threads). Whatever becomes of it is reported with
    /// [`Inbox::snapshot_sent`](crate::Inbox::snapshot_sent), once.
    fn send_snapshot(&self, offer: SnapshotOffer, state: Box<dyn Read + Send>);

    /// Whether there is a connection to `peer` at this moment, as far as the transport knows. Without
    /// one, a client's command is not forwarded there: it is certainly not done then, where a message
    /// that is lost on its way leaves that unknown.
    fn is_connected(&self, _peer: NodeId) -> bool {
        true
    }

    /// The largest message that it carries, in bytes of its encoding. A node whose settings allow
    /// larger ones is not started.
    fn message_bytes_max(&self) -> usize {
        usize::MAX
    }

    /// The members there are now, with their addresses.
    fn set_members(&self, membership: &Membership);
}
