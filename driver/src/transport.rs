//! The interface to the transport, which carries messages between nodes.

use raft::{Membership, Message, NodeId, SnapshotOffer};
use std::io::Read;

/// Carries messages to peers. It passes received messages and reports of lost messages to the
/// [`Inbox`](crate::Inbox).
///
/// The contract, which `driver::testing::transport` (feature `testing`) tests an implementation
/// for:
///
/// - **Messages arrive unchanged, or not at all.** A message may be lost, delayed, duplicated and
///   overtaken by others; the protocol bears all of it. It must not be altered, cut off, or passed
///   to another node than `message.to`. A checksum is the transport's own affair, and advisable.
/// - **Reordering costs time.** The protocol is correct if messages overtake one another, but an
///   append that comes before its predecessor is rejected and sent again. So keep the order where
///   that is free: one stream for each peer.
/// - **A loss is reported**, with [`Inbox::unreachable`](crate::Inbox::unreachable), as soon as the
///   transport knows of it, at least once for each time that a peer became unreachable. Without
///   that a leader waits for answers that never come. What was sent and is on its way may be lost
///   without a report.
/// - **No method blocks.** The queue for each peer is bounded; a message that does not fit is
///   dropped and reported. A slow or dead peer delays no other peer.
/// - **An ended process may be reported**, with [`Inbox::gone`](crate::Inbox::gone), if the
///   transport can tell it from a broken network. It shortens the time without a leader.
/// - **Size.** A message of up to [`Transport::message_bytes_max`] bytes is carried. A larger one
///   would be lost each time that it is sent, so the driver refuses settings that allow it.
/// - **Cluster, incarnation, version.** A receiver accepts only senders of its own cluster that
///   mean this node, and speak its version of the encoding; two clusters with the same addresses
///   must not mix. `message.incarnation` travels unchanged: the core rejects members with a wrong
///   one. It cannot see the cluster or the version, so the transport has to.
/// - **Nodes that are no members are answered.** The core sends requests to members only. A node
///   that was removed, and a leader of a membership that this node does not have yet, send requests
///   here all the same. The replies have to reach them: at the address that the membership had for
///   them, or one that they give when they connect. Otherwise a removed node never stops.
/// - **Delivered**, for a snapshot, means: durable at the receiver and passed to its core, that is,
///   [`Reception::finish`](crate::Reception::finish) has returned. Each
///   [`Transport::send_snapshot`] ends with exactly one report, delivered or not, also if the peer
///   is gone, does not need the snapshot, or the state cannot be read. The bytes arrive whole, in
///   order, or the transfer has failed.
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

    /// The most messages that may wait for one peer. A node whose settings let a leader have more
    /// in flight is not started: the rest would be dropped each time.
    fn queue_messages_max(&self) -> usize {
        usize::MAX
    }

    /// How many messages to `peer` the transport takes now without dropping one. A node that does
    /// not lead takes no more commands in one turn than it can forward.
    fn room(&self, _peer: NodeId) -> usize {
        usize::MAX
    }

    /// Takes over the current members and their addresses. Called when the membership changes.
    fn set_members(&self, membership: &Membership);
}
