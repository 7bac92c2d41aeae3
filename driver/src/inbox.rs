//! The inbox: a transport passes messages, reports and snapshots from peers to the node here.

use crate::limits::in_range;
use crate::messages::{PeerReports, PeerSnapshot};
use crate::snapshots::{SnapshotSink, SnapshotStore};
use raft::{LogId, Message, NodeId, ReceiveSnapshot, SnapshotOffer, SnapshotReceived};
use std::io::{self, Write};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use tokio::sync::{mpsc, oneshot};

/// The most messages that wait for the core, by default.
const MESSAGES_MAX: usize = 256;
/// The most offers and received snapshots that wait for the core.
const OFFERS_MAX: usize = 8;

/// Creates the inbox of a node, before its driver. The transport gets the [`Inbox`], the driver the
/// [`InboxReceiver`]. Received snapshots are written to `store`.
pub fn inbox(store: Arc<dyn SnapshotStore>) -> (Inbox, InboxReceiver) {
    inbox_limited(store, MESSAGES_MAX)
}

/// Like [`inbox`], with another limit than 256 for the messages that wait (0 counts as 1). A
/// transport that waits in [`Inbox::message`] stops reading from its peer.
pub fn inbox_limited(store: Arc<dyn SnapshotStore>, messages_max: usize) -> (Inbox, InboxReceiver) {
    let (messages, messages_out) = mpsc::channel(in_range(messages_max));
    let (offers, offers_out) = mpsc::channel(OFFERS_MAX);
    let reports = Arc::new(PeerReports::default());
    let inbox =
        Inbox { messages, offers, reports: reports.clone(), store, receiving: Arc::default() };
    (inbox, InboxReceiver { messages: messages_out, offers: offers_out, reports })
}

/// The transport's end of the inbox. A clone is another handle to it.
#[derive(Clone)]
pub struct Inbox {
    messages: mpsc::Sender<Message>,
    offers: mpsc::Sender<PeerSnapshot>,
    reports: Arc<PeerReports>,
    store: Arc<dyn SnapshotStore>,
    /// Whether a snapshot is being received. Only one is received at a time.
    receiving: Arc<AtomicBool>,
}

/// The driver's end of an [`Inbox`].
pub struct InboxReceiver {
    pub(crate) messages: mpsc::Receiver<Message>,
    pub(crate) offers: mpsc::Receiver<PeerSnapshot>,
    pub(crate) reports: Arc<PeerReports>,
}

/// Why a snapshot is rejected.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum OfferError {
    /// This node does not need it. Stop offering it.
    #[error("the snapshot is of no use here")]
    Unwanted,
    /// Another snapshot is being received. Retry later.
    #[error("another snapshot is being received")]
    Busy,
    /// The snapshot could not be stored. See the cause.
    #[error("the snapshot cannot be stored: {0}")]
    Io(io::Error),
    /// The node is stopping or has stopped.
    #[error("this node has stopped")]
    Stopped,
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

    /// Reports that messages to `peer` were lost.
    pub fn unreachable(&self, peer: NodeId) {
        self.reports.unreachable(peer);
    }

    /// Reports that the transfer of a snapshot has ended. `delivered`: the snapshot is durable at
    /// the peer.
    pub fn snapshot_sent(&self, to: NodeId, snapshot: LogId, delivered: bool) {
        self.reports.snapshot_sent(to, snapshot, delivered);
    }

    /// Offers a snapshot. If this node needs it, write its bytes to the returned [`Reception`].
    pub async fn offer(&self, offer: SnapshotOffer) -> Result<Reception, OfferError> {
        let (reply, answer) = oneshot::channel();
        let event = PeerSnapshot::Offered { offer: Box::new(offer), reply };
        self.offers.send(event).await.map_err(|_| OfferError::Stopped)?;
        let order = answer.await.map_err(|_| OfferError::Stopped)?;
        let order = order.ok_or(OfferError::Unwanted)?;
        if self.receiving.swap(true, Ordering::AcqRel) {
            return Err(OfferError::Busy);
        }
        let turn = Turn(self.receiving.clone());
        Ok(Reception { order, store: self.store.clone(), sink: None, _turn: turn })
    }

    /// Passes a received snapshot to the core. Returns false if the node has stopped.
    pub async fn install(&self, received: Received) -> bool {
        let event = PeerSnapshot::Received(Box::new(received.0));
        self.offers.send(event).await.is_ok()
    }

    /// Whether the driver has ended.
    pub fn is_closed(&self) -> bool {
        self.messages.is_closed()
    }
}

/// A snapshot that is being received. Writing blocks. If it is dropped before `finish`, nothing
/// remains of it.
pub struct Reception {
    order: Box<ReceiveSnapshot>,
    store: Arc<dyn SnapshotStore>,
    /// Opened at the first write, since opening may block.
    sink: Option<Box<dyn SnapshotSink>>,
    _turn: Turn,
}

/// The right to receive a snapshot, which only one reception has at a time.
struct Turn(Arc<AtomicBool>);

impl Drop for Turn {
    fn drop(&mut self) {
        self.0.store(false, Ordering::Release);
    }
}

/// A snapshot that has been received and is durable, for [`Inbox::install`].
pub struct Received(SnapshotReceived);

impl Reception {
    fn sink(&mut self) -> io::Result<&mut Box<dyn SnapshotSink>> {
        let sink = match self.sink.take() {
            Some(sink) => sink,
            None => self.store.create(self.order.snapshot())?,
        };
        Ok(self.sink.insert(sink))
    }

    /// Writes the next bytes of the state. Blocks.
    pub fn write(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.sink()?.write_all(bytes)
    }

    /// Makes the snapshot durable after all its bytes were written, and reads it back to verify it:
    /// the log is reset to it next. Blocks.
    pub fn finish(mut self) -> io::Result<Received> {
        self.sink()?;
        if let Some(sink) = self.sink.take() {
            sink.finish()?;
        }
        io::copy(&mut self.store.open(self.order.snapshot().last)?, &mut io::sink())?;
        Ok(Received(self.order.durable()))
    }
}
