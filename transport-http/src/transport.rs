//! The transport that the driver uses.

use crate::config::TransportConfig;
use crate::frame::FRAME_BYTES_MAX;
use crate::link::{self, QUEUE_MESSAGES_MAX};
use crate::net::{Net, Running as _, TokioNet};
use crate::shared::{Shared, Tell, TransportFigures, lock};
use crate::snapshot;
use driver::{Inbox, Transport, report};
use raft::{Membership, Message, NodeId, SnapshotOffer, SnapshotStatus};
use std::collections::{BTreeMap, BTreeSet};
use std::io::Read;
use std::sync::{Arc, Mutex};
use tokio::sync::mpsc;

/// The transfer of a snapshot. Its end is reported whatever ends it: its task may also panic, or be
/// dropped. A leader that does not learn of it waits for ever.
struct Reported<R: FnMut(SnapshotStatus)> {
    report: R,
    delivered: bool,
    resumed_at: u64,
}

impl<R: FnMut(SnapshotStatus)> Reported<R> {
    fn new(report: R) -> Self {
        Reported { report, delivered: false, resumed_at: 0 }
    }
}

impl<R: FnMut(SnapshotStatus)> Drop for Reported<R> {
    fn drop(&mut self) {
        (self.report)(SnapshotStatus::of(self.delivered, self.resumed_at));
    }
}

/// Carries messages and snapshots to peers over HTTP.
///
/// It works in tasks of its [`Net`], which is a tokio runtime unless it is simulated. Dropping it
/// ends its streams.
pub struct HttpTransport<N: Net = TokioNet> {
    shared: Arc<Shared<N>>,
    queues: Mutex<Queues>,
}

/// For each peer, the messages that its stream has yet to send.
type Queues = BTreeMap<NodeId, mpsc::Sender<Message>>;

impl HttpTransport {
    /// A transport that delivers received messages to `inbox`. Must be called on a tokio runtime.
    pub fn new(config: TransportConfig, inbox: Inbox) -> Self {
        HttpTransport::on(TokioNet::current(), config, inbox)
    }
}

impl HttpTransport {
    /// The most bytes of a message: [`Transport::message_bytes_max`].
    pub const MESSAGE_BYTES_MAX: usize = FRAME_BYTES_MAX;
    /// The most messages that wait for a peer: [`Transport::queue_messages_max`].
    pub const QUEUE_MESSAGES_MAX: usize = link::QUEUE_MESSAGES_MAX;
}

impl<N: Net> HttpTransport<N> {
    /// Like [`HttpTransport::new`], with a given [`Net`].
    pub fn on(net: N, config: TransportConfig, inbox: Inbox) -> Self {
        let shared = Shared::new(net, config, inbox);
        HttpTransport { shared: Arc::new(shared), queues: Mutex::default() }
    }

    pub(crate) fn shared(&self) -> Arc<Shared<N>> {
        self.shared.clone()
    }

    /// The counters since the start.
    pub fn figures(&self) -> TransportFigures {
        self.shared.figures()
    }

    /// The peers to which a stream is open at the moment.
    pub fn connected(&self) -> BTreeSet<NodeId> {
        self.shared.connected()
    }

    /// Cuts the link to a peer in both directions, for the traffic of this node. For tests.
    pub fn disconnect(&self, peer: NodeId) {
        self.shared.disconnect(peer);
    }

    /// Cuts the links to all peers.
    pub fn disconnect_all(&self) {
        self.shared.disconnect_all();
    }

    /// Restores a link that was cut.
    pub fn connect(&self, peer: NodeId) {
        self.shared.connect(peer);
    }
}

impl<N: Net> HttpTransport<N> {
    /// Opens a queue of messages to the peer, and keeps a stream for it.
    fn open(&self, queues: &mut Queues, peer: NodeId) -> mpsc::Sender<Message> {
        let (queue, messages) = mpsc::channel(QUEUE_MESSAGES_MAX);
        let number = self.shared.begin_stream(peer);
        let shared = self.shared.clone();
        // The task ends when its queue is closed.
        let keep = async move {
            link::keep(&shared, peer, number, messages).await;
            shared.end_stream(peer, number);
        };
        self.shared.net.spawn(keep).detach();
        queues.insert(peer, queue.clone());
        queue
    }
}

impl<N: Net> Transport for HttpTransport<N> {
    fn send(&self, message: Message) {
        let peer = message.to;
        if !self.shared.passes(peer) {
            return self.shared.inbox.unreachable(peer);
        }
        if let Some(incarnation) = message.body.meant_for() {
            match self.shared.tell_namesake(peer, incarnation) {
                Tell::At(address) => {
                    let told = link::tell(self.shared.clone(), address, incarnation, message);
                    return self.shared.net.spawn(told).detach();
                }
                Tell::Already => return,
                Tell::AtMember => {}
            }
        }
        let mut queues = lock(&self.queues);
        let sent = match queues.get(&peer).filter(|queue| !queue.is_closed()) {
            Some(queue) => queue.try_send(message).is_ok(),
            // A reply to a node of this cluster that is no member here. Without its address it is
            // dropped.
            None if self.shared.address(peer).is_none() => return,
            None if !self.shared.is_known(peer) => {
                // The streams to other strangers have carried what they were opened for.
                queues.retain(|_, queue| !queue.is_closed());
                self.open(&mut queues, peer).try_send(message).is_ok()
            }
            None => self.open(&mut queues, peer).try_send(message).is_ok(),
        };
        drop(queues);
        if !sent {
            self.shared.inbox.unreachable(peer);
        }
    }

    fn queue_messages_max(&self) -> usize {
        link::QUEUE_MESSAGES_MAX
    }

    fn room(&self, peer: NodeId) -> usize {
        let queues = lock(&self.queues);
        queues.get(&peer).map_or(link::QUEUE_MESSAGES_MAX, mpsc::Sender::capacity)
    }

    fn message_bytes_max(&self) -> usize {
        FRAME_BYTES_MAX
    }

    fn is_connected(&self, peer: NodeId) -> bool {
        self.shared.is_connected(peer)
    }

    fn send_snapshot(&self, offer: SnapshotOffer, state: Box<dyn Read + Send>) {
        let (shared, inbox) = (self.shared.clone(), self.shared.inbox.clone());
        let (to, snapshot) = (offer.to, offer.snapshot.last);
        let mut transfer = Reported::new(move |status| inbox.snapshot_sent(to, snapshot, status));
        let sending = self.shared.net.spawn(async move {
            let sent = match shared.passes(to) {
                true => snapshot::send(&shared, offer, state, &mut transfer.resumed_at).await,
                false => Err("the link is cut".into()),
            };
            transfer.delivered = sent.is_ok();
            drop(transfer);
            match &sent {
                Ok(()) => {
                    shared.forget_failed_snapshots(to);
                    report(|| tracing::info!(%to, %snapshot, "sent a snapshot"));
                }
                Err(error) if error.is::<snapshot::Unwanted>() => {
                    report(|| tracing::debug!(%to, %snapshot, %error, "a snapshot was not sent"));
                }
                Err(error) => {
                    shared.report_failed_snapshot(to, snapshot, &error.to_string());
                }
            }
        });
        sending.detach();
    }

    fn set_members(&self, membership: &Membership) {
        let mut queues = lock(&self.queues);
        let peers = self.shared.set_members(membership);
        queues.retain(|id, queue| !queue.is_closed() && peers.contains(id));
        for peer in peers {
            if !queues.contains_key(&peer) {
                self.open(&mut queues, peer);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use tokio::sync::mpsc::unbounded_channel;

    #[tokio::test]
    async fn the_end_of_a_transfer_is_reported_whatever_ends_it() {
        let (tell, mut told) = unbounded_channel();
        let transfer = || {
            let tell = tell.clone();
            Reported::new(move |status| tell.send(status).expect("the test receives"))
        };
        let mut delivered = transfer();
        delivered.delivered = true;
        drop(delivered);
        assert_eq!(told.try_recv(), Ok(SnapshotStatus::Delivered));
        let mut panicking = transfer();
        panicking.resumed_at = 7;
        let task = tokio::spawn(async move {
            let _transfer = panicking;
            panic!("on purpose");
        });
        assert!(task.await.is_err());
        assert_eq!(told.try_recv(), Ok(SnapshotStatus::Failed { resumed_at: 7 }));
        let waiting = transfer();
        let task = tokio::spawn(async move {
            let _transfer = waiting;
            std::future::pending::<()>().await;
        });
        task.abort();
        assert!(task.await.is_err());
        assert_eq!(told.try_recv(), Ok(SnapshotStatus::Failed { resumed_at: 0 }));
        assert!(told.try_recv().is_err(), "each is reported once");
    }
}
