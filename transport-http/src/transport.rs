//! The transport that the driver uses.

use crate::body::Budget;
use crate::dial::Names;
use crate::frame::{FRAME_BYTES_MAX, FrameError};
use crate::hello::Hello;
use crate::link::{self, QUEUE_MESSAGES_MAX, passes};
use crate::net::{Net, Running as _, TokioNet};
use crate::repeats::Repeats;
use crate::snapshot;
use driver::{Inbox, Transport, report};
use raft::{Incarnation, LogId, Membership, Message, NodeId, SnapshotOffer};
use std::collections::{BTreeMap, BTreeSet};
use std::io::Read;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;
use storage::ClusterId;
use tokio::sync::{Notify, mpsc};

/// The settings of a transport.
#[derive(Clone, Debug)]
pub struct TransportConfig {
    /// The cluster of this node. Streams of other clusters are rejected.
    pub cluster: ClusterId,
    /// The id of this node.
    pub node: NodeId,
    /// The incarnation of this node's data directory, sent at the start of each stream.
    pub incarnation: Incarnation,
    /// A stream on which no byte arrives for this long is closed. Keep-alives are sent every
    /// quarter of it. Default: 1 s.
    pub silence: Duration,
    /// The most bytes per second at which a snapshot is sent. Default: 64 MiB/s.
    pub snapshot_bytes_per_second: u64,
}

impl TransportConfig {
    /// The default settings: 1 s of silence, 64 MiB/s.
    pub fn new(cluster: ClusterId, node: NodeId, incarnation: Incarnation) -> Self {
        TransportConfig {
            cluster,
            node,
            incarnation,
            silence: Duration::from_secs(1),
            snapshot_bytes_per_second: 64 << 20,
        }
    }
}

/// Carries messages and snapshots to peers over HTTP.
///
/// It works in tasks of its [`Net`], which is a tokio runtime unless it is simulated. Dropping it
/// ends its streams.
pub struct HttpTransport<N: Net = TokioNet> {
    shared: Arc<Shared<N>>,
    queues: Mutex<BTreeMap<NodeId, mpsc::Sender<Message>>>,
}

/// The state that the tasks of a transport share.
pub(crate) struct Shared<N> {
    pub net: N,
    pub config: TransportConfig,
    pub inbox: Inbox,
    addresses: Mutex<BTreeMap<NodeId, String>>,
    incarnations: Mutex<BTreeMap<NodeId, Incarnation>>,
    connected: Mutex<BTreeSet<NodeId>>,
    /// Links that a test has cut.
    cut: Mutex<BTreeSet<NodeId>>,
    pub any_cut: AtomicBool,
    pub names: Names<N>,
    pub budget: Budget,
    pub counters: Counters,
    /// The recent reports of failed snapshot transfers, per peer.
    failed: Mutex<BTreeMap<NodeId, Repeats>>,
    /// Notified whenever the members change.
    members_changed: Notify,
}

/// The counters of a transport, since the start.
#[derive(Debug, Default)]
pub(crate) struct Counters {
    damaged: AtomicU64,
    no_room: AtomicU64,
    refused: AtomicU64,
}

impl Counters {
    /// Counts a stream that ended with this error.
    pub fn count(&self, error: &FrameError) {
        match error {
            FrameError::Damaged { .. } => self.damaged(),
            FrameError::NoRoom => {
                self.no_room.fetch_add(1, Ordering::Relaxed);
            }
            _ => {}
        }
    }

    /// Counts a damaged frame.
    pub fn damaged(&self) {
        self.damaged.fetch_add(1, Ordering::Relaxed);
    }

    /// Counts a rejected stream or snapshot.
    pub fn refused(&self) {
        self.refused.fetch_add(1, Ordering::Relaxed);
    }
}

/// The counters of a transport, since its start.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct TransportFigures {
    /// Frames whose checksum did not match. Each of them closed its stream.
    pub damaged_frames: u64,
    /// Streams closed because the shared memory for unfinished frames was used up.
    pub frames_without_room: u64,
    /// Streams and snapshots rejected: another cluster, another version or another node; for
    /// streams also if no connection slot was free.
    pub refused_streams: u64,
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl<N: Net> Shared<N> {
    pub fn address(&self, peer: NodeId) -> Option<String> {
        lock(&self.addresses).get(&peer).cloned()
    }

    /// Whether a node with this incarnation is a member.
    pub fn is_member(&self, node: NodeId, incarnation: Incarnation) -> bool {
        lock(&self.incarnations).get(&node) == Some(&incarnation)
    }

    pub fn hello(&self, to: NodeId) -> Hello {
        Hello {
            cluster: self.config.cluster,
            from: self.config.node,
            incarnation: self.config.incarnation,
            to,
        }
    }

    pub fn set_connected(&self, peer: NodeId, connected: bool) {
        let mut set = lock(&self.connected);
        if connected {
            set.insert(peer)
        } else {
            set.remove(&peer)
        };
    }

    pub fn is_cut(&self, peer: NodeId) -> bool {
        lock(&self.cut).contains(&peer)
    }

    /// Logs that a peer did not accept a snapshot. The core offers it again, with backoff.
    fn report_failed_snapshot(&self, to: NodeId, snapshot: LogId, error: &str) {
        let is_news = lock(&self.failed).entry(to).or_default().is_news(error);
        if is_news {
            report(|| {
                tracing::warn!(%to, %snapshot, "a snapshot was not sent: {error}; trying again");
            });
        }
    }

    /// Returns when the peer is no longer a member, or has another address.
    pub async fn forgotten(&self, peer: NodeId) {
        let address = self.address(peer);
        loop {
            let changed = self.members_changed.notified();
            if self.address(peer) != address {
                return;
            }
            changed.await;
        }
    }
}

impl HttpTransport {
    /// A transport that delivers received messages to `inbox`. Must be called on a tokio runtime.
    pub fn new(config: TransportConfig, inbox: Inbox) -> Self {
        HttpTransport::on(TokioNet::current(), config, inbox)
    }
}

impl<N: Net> HttpTransport<N> {
    /// Like [`HttpTransport::new`], with a given [`Net`].
    pub fn on(net: N, config: TransportConfig, inbox: Inbox) -> Self {
        let shared = Shared {
            names: Names::new(net.clone()),
            net,
            config,
            inbox,
            addresses: Mutex::default(),
            incarnations: Mutex::default(),
            connected: Mutex::default(),
            cut: Mutex::default(),
            any_cut: AtomicBool::new(false),
            budget: Budget::default(),
            counters: Counters::default(),
            failed: Mutex::default(),
            members_changed: Notify::new(),
        };
        HttpTransport { shared: Arc::new(shared), queues: Mutex::default() }
    }

    pub(crate) fn shared(&self) -> Arc<Shared<N>> {
        self.shared.clone()
    }

    /// The counters since the start.
    pub fn figures(&self) -> TransportFigures {
        let counters = &self.shared.counters;
        let read = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        TransportFigures {
            damaged_frames: read(&counters.damaged),
            frames_without_room: read(&counters.no_room),
            refused_streams: read(&counters.refused),
        }
    }

    /// The peers to which a stream is open at the moment.
    pub fn connected(&self) -> BTreeSet<NodeId> {
        lock(&self.shared.connected).clone()
    }

    /// Cuts the link to a peer in both directions, for the traffic of this node. For tests.
    pub fn disconnect(&self, peer: NodeId) {
        lock(&self.shared.cut).insert(peer);
        self.shared.any_cut.store(true, Ordering::Relaxed);
    }

    /// Cuts the links to all peers.
    pub fn disconnect_all(&self) {
        let peers: Vec<NodeId> = lock(&self.shared.addresses).keys().copied().collect();
        peers.into_iter().for_each(|peer| self.disconnect(peer));
    }

    /// Restores a link that was cut.
    pub fn connect(&self, peer: NodeId) {
        let mut cut = lock(&self.shared.cut);
        cut.remove(&peer);
        self.shared.any_cut.store(!cut.is_empty(), Ordering::Relaxed);
    }
}

impl<N: Net> Transport for HttpTransport<N> {
    fn send(&self, message: Message) {
        let peer = message.to;
        if !passes(&self.shared, peer) {
            return self.shared.inbox.unreachable(peer);
        }
        let sent = match lock(&self.queues).get(&peer) {
            Some(queue) => queue.try_send(message).is_ok(),
            // The receiver is not a member: a reply to a stranger is dropped. A stranger is
            // answered once it is a member.
            None => return,
        };
        if !sent {
            self.shared.inbox.unreachable(peer);
        }
    }

    fn message_bytes_max(&self) -> usize {
        FRAME_BYTES_MAX
    }

    fn is_connected(&self, peer: NodeId) -> bool {
        passes(&self.shared, peer) && lock(&self.shared.connected).contains(&peer)
    }

    fn send_snapshot(&self, offer: SnapshotOffer, state: Box<dyn Read + Send>) {
        let shared = self.shared.clone();
        let sending = self.shared.net.spawn(async move {
            let (to, snapshot) = (offer.to, offer.snapshot.last);
            let sent = match passes(&shared, to) {
                true => snapshot::send(&shared, offer, state).await,
                false => Err("the link is cut".into()),
            };
            shared.inbox.snapshot_sent(to, snapshot, sent.is_ok());
            match &sent {
                Ok(()) => {
                    lock(&shared.failed).remove(&to);
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
        let own = self.shared.config.node;
        let peers: BTreeMap<NodeId, String> = (membership.members.iter())
            .filter(|(id, _)| **id != own)
            .map(|(id, member)| (*id, member.peer_address.clone()))
            .collect();
        let mut queues = lock(&self.queues);
        queues.retain(|id, _| peers.contains_key(id));
        lock(&self.shared.failed).retain(|id, _| peers.contains_key(id));
        self.shared.names.retain(|name| peers.values().any(|address| address == name));
        *lock(&self.shared.addresses) = peers.clone();
        *lock(&self.shared.incarnations) = (membership.members.iter())
            .filter(|(id, _)| **id != own)
            .map(|(id, member)| (*id, member.incarnation))
            .collect();
        self.shared.members_changed.notify_waiters();
        for peer in peers.into_keys() {
            queues.entry(peer).or_insert_with(|| {
                let (queue, messages) = mpsc::channel(QUEUE_MESSAGES_MAX);
                // The task ends when its queue is closed.
                let keep = link::keep(self.shared.clone(), peer, messages);
                self.shared.net.spawn(keep).detach();
                queue
            });
        }
    }
}
