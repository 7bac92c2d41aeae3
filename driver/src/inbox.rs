//! The inbox: a transport passes messages, reports and snapshots from peers to the node here.

use crate::error::OfferError;
use crate::limits::in_range;
use crate::messages::{PeerReports, PeerSnapshot};
use crate::reception::{Reception, Receptions};
use crate::snapshot_store::{Prefix, SnapshotStore};
use raft::{LogId, Message, NodeId, Snapshot, SnapshotOffer, SnapshotStatus};
use std::sync::Arc;
use tokio::sync::{mpsc, oneshot};

/// The most messages that wait for the core, by default.
const MESSAGES_MAX: usize = 256;
/// The most offers and received snapshots that wait for the core.
const OFFERS_MAX: usize = 8;

/// Creates the inbox of a node, before its driver. The transport gets the [`Inbox`], the driver the
/// [`InboxReceiver`]. Received snapshots are written to `store`. Blocks: if an earlier process has
/// received part of a snapshot, it is read.
pub fn inbox(store: Arc<dyn SnapshotStore>) -> (Inbox, InboxReceiver) {
    inbox_limited(store, MESSAGES_MAX)
}

/// Like [`inbox`], with another limit than 256 for the messages that wait (0 counts as 1). A
/// transport that waits in [`Inbox::message`] stops reading from its peer.
pub fn inbox_limited(store: Arc<dyn SnapshotStore>, messages_max: usize) -> (Inbox, InboxReceiver) {
    let (messages, messages_out) = mpsc::channel(in_range(messages_max));
    let (offers, offers_out) = mpsc::channel(OFFERS_MAX);
    let reports = Arc::new(PeerReports::default());
    let receptions = Receptions::of(store.as_ref());
    let inbox =
        Inbox { messages, offers, reports: reports.clone(), store, receptions: receptions.clone() };
    (inbox, InboxReceiver { messages: messages_out, offers: offers_out, reports, receptions })
}

/// The transport's end of the inbox. A clone is another handle to it.
#[derive(Clone)]
pub struct Inbox {
    messages: mpsc::Sender<Message>,
    offers: mpsc::Sender<PeerSnapshot>,
    reports: Arc<PeerReports>,
    store: Arc<dyn SnapshotStore>,
    receptions: Receptions,
}

/// The driver's end of an [`Inbox`].
pub struct InboxReceiver {
    pub(crate) messages: mpsc::Receiver<Message>,
    pub(crate) offers: mpsc::Receiver<PeerSnapshot>,
    pub(crate) reports: Arc<PeerReports>,
    pub(crate) receptions: Receptions,
}

impl Inbox {
    /// Passes a message to the core, and waits while the queue is full. Returns false if the node
    /// has stopped.
    pub async fn message(&self, message: Message) -> bool {
        self.messages.send(message).await.is_ok()
    }

    /// Passes a message to the core, or drops it if the queue is full. Returns whether it was
    /// passed.
    pub fn try_message(&self, message: Message) -> bool {
        self.messages.try_send(message).is_ok()
    }

    /// Reports that messages to `peer` were lost: once for each outage, and for each message that
    /// the transport drops. Several reports before the core's next turn count as one.
    pub fn unreachable(&self, peer: NodeId) {
        self.reports.unreachable(peer);
    }

    /// Reports that the process of `peer` has ended: the connection to it was closed, and nothing
    /// accepts a new one at its address. If it led, a successor is elected at once, and not after
    /// an election timeout. A transport that cannot tell an ended process from a slow one, or from
    /// a broken network, does not report this. Report it once for each loss of a connection.
    pub fn gone(&self, peer: NodeId) {
        self.reports.gone(peer);
    }

    /// Reports that the transfer of a snapshot has ended.
    pub fn snapshot_sent(&self, to: NodeId, snapshot: LogId, status: SnapshotStatus) {
        self.reports.snapshot_sent(to, snapshot, status);
    }

    /// The part of a snapshot that an earlier transfer has left here, for [`Inbox::resume`].
    pub fn prefix(&self, snapshot: &Snapshot) -> Prefix {
        self.receptions.prefix(snapshot)
    }

    /// Offers a snapshot. If this node needs it, write its bytes to the returned [`Reception`].
    pub async fn offer(&self, offer: SnapshotOffer) -> Result<Reception, OfferError> {
        self.resume(offer, Prefix::default()).await
    }

    /// Like [`Inbox::offer`], for the bytes after a prefix that [`Inbox::prefix`] has returned. At
    /// the end, the transport must compare the checksum of the whole state: the prefix may be of
    /// another sender.
    pub async fn resume(
        &self,
        offer: SnapshotOffer,
        start: Prefix,
    ) -> Result<Reception, OfferError> {
        let (reply, answer) = oneshot::channel();
        let event = PeerSnapshot::Offered { offer: Box::new(offer), reply };
        self.offers.send(event).await.map_err(|_| OfferError::Stopped)?;
        let order = answer.await.map_err(|_| OfferError::Stopped)?;
        let order = order.ok_or(OfferError::Unwanted)?;
        let core = self.offers.clone().reserve_owned().await.map_err(|_| OfferError::Stopped)?;
        self.receptions.begin(order, start, self.store.clone(), core)
    }

    /// Whether the driver has ended.
    pub fn is_closed(&self) -> bool {
        self.messages.is_closed()
    }
}
