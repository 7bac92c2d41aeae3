//! The interface to the transport, which carries messages between nodes.

use raft::{Membership, Message, NodeId, SnapshotOffer};
use std::io::Read;

/// Carries messages to peers. It passes received messages and reports of lost messages to the
/// [`Inbox`](crate::Inbox).
///
/// No method blocks. The queue for each peer is bounded. A message that does not fit is dropped,
/// and the loss is reported with [`Inbox::unreachable`](crate::Inbox::unreachable), once per loss.
pub trait Transport: Send + Sync + 'static {
    /// Sends a message to `message.to`.
    fn send(&self, message: Message);

    /// Sends a snapshot to `offer.to`. Read its bytes from `state`. Those reads block, so do
    /// them on a blocking thread. The result is reported with
    /// [`Inbox::snapshot_sent`](crate::Inbox::snapshot_sent), exactly once.
    fn send_snapshot(&self, offer: SnapshotOffer, state: Box<dyn Read + Send>);

    /// Whether there is a connection to `peer` now, as far as the transport knows. Without one, a
    /// client's command is not forwarded there, and is known not to be done. If a forwarded message
    /// is lost instead, its outcome is unknown.
    fn is_connected(&self, _peer: NodeId) -> bool {
        true
    }

    /// The largest message that the transport carries, in bytes of its encoding. A node whose
    /// settings allow larger ones is not started.
    fn message_bytes_max(&self) -> usize {
        usize::MAX
    }

    /// Takes over the current members and their addresses. Called when the membership changes.
    fn set_members(&self, membership: &Membership);
}
