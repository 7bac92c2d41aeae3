//! The transport, as the driver sees it.

use crate::hello::Hello;
use crate::link::{self, QUEUE_MESSAGES_MAX, passes};
use crate::snapshot;
use driver::{Inbox, Transport, report};
use raft::{Incarnation, Membership, Message, NodeId, Offer};
use std::collections::{BTreeMap, BTreeSet};
use std::io::Read;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;
use storage::ClusterId;
use tokio::runtime::Handle;
use tokio::sync::{mpsc, watch};

/// The settings of a transport.
#[derive(Clone, Debug)]
pub struct TransportConfig {
    /// The cluster.
    pub cluster: ClusterId,
    /// This node.
    pub node: NodeId,
    /// The life of its disk.
    pub incarnation: Incarnation,
    /// A stream over which nothing is heard for so long is closed. Signs of life are sent four times
    /// as often.
    pub silence: Duration,
    /// Snapshots are sent at no more than so many bytes a second.
    pub snapshot_bytes_per_second: u64,
}

impl TransportConfig {
    /// The usual settings: 1 s of silence, 64 MiB/s.
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
/// Made on a tokio runtime, in whose tasks it works. Dropped, its streams end.
pub struct HttpTransport {
    shared: Arc<Shared>,
    runtime: Handle,
    queues: Mutex<BTreeMap<NodeId, mpsc::Sender<Message>>>,
}

/// What the tasks of a transport share.
pub(crate) struct Shared {
    pub config: TransportConfig,
    pub inbox: Inbox,
    addresses: Mutex<BTreeMap<NodeId, String>>,
    connected: Mutex<BTreeSet<NodeId>>,
    /// Links that are cut on purpose, to test what is built on this.
    cut: Mutex<BTreeSet<NodeId>>,
    pub any_cut: AtomicBool,
    /// Changes whenever the members do.
    members: watch::Sender<u64>,
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Shared {
    pub fn address(&self, peer: NodeId) -> Option<String> {
        lock(&self.addresses).get(&peer).cloned()
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

    /// Returns when the peer is no member any more.
    pub async fn forgotten(&self, peer: NodeId) {
        let mut members = self.members.subscribe();
        let address = self.address(peer);
        while self.address(peer) == address {
            if members.changed().await.is_err() {
                return;
            }
        }
    }
}

impl HttpTransport {
    /// A transport that hands what comes to `inbox`. To be made on a tokio runtime.
    pub fn new(config: TransportConfig, inbox: Inbox) -> Self {
        let shared = Shared {
            config,
            inbox,
            addresses: Mutex::default(),
            connected: Mutex::default(),
            cut: Mutex::default(),
            any_cut: AtomicBool::new(false),
            members: watch::Sender::new(0),
        };
        HttpTransport {
            shared: Arc::new(shared),
            runtime: Handle::current(),
            queues: Mutex::default(),
        }
    }

    pub(crate) fn shared(&self) -> Arc<Shared> {
        self.shared.clone()
    }

    /// The peers that a stream leads to at the moment.
    pub fn connected(&self) -> BTreeSet<NodeId> {
        lock(&self.shared.connected).clone()
    }

    /// Cuts the link to a peer, both ways, as far as this node's traffic goes: to test what is built
    /// on this.
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

impl Transport for HttpTransport {
    fn send(&self, message: Message) {
        let peer = message.to;
        if !passes(&self.shared, peer) {
            return self.shared.inbox.unreachable(peer);
        }
        let sent = match lock(&self.queues).get(&peer) {
            Some(queue) => queue.try_send(message).is_ok(),
            // Not a member: an answer to a stranger, who gets it once it is one.
            None => return,
        };
        if !sent {
            self.shared.inbox.unreachable(peer);
        }
    }

    fn send_snapshot(&self, offer: Offer, state: Box<dyn Read + Send>) {
        let shared = self.shared.clone();
        self.runtime.spawn(async move {
            let (to, snapshot) = (offer.to, offer.snapshot.last);
            let sent = match passes(&shared, to) {
                true => snapshot::send(&shared, offer, state).await,
                false => Err("the link is cut".into()),
            };
            shared.inbox.snapshot_sent(to, snapshot, sent.is_ok());
            report(|| match &sent {
                Ok(()) => tracing::info!(%to, %snapshot, "sent a snapshot"),
                Err(error) => tracing::warn!(%to, %snapshot, %error, "a snapshot was not sent"),
            });
        });
    }

    fn set_members(&self, membership: &Membership) {
        let own = self.shared.config.node;
        let peers: BTreeMap<NodeId, String> = (membership.members.iter())
            .filter(|(id, _)| **id != own)
            .map(|(id, member)| (*id, member.peer_address.clone()))
            .collect();
        let mut queues = lock(&self.queues);
        queues.retain(|id, _| peers.contains_key(id));
        *lock(&self.shared.addresses) = peers.clone();
        self.shared.members.send_modify(|version| *version += 1);
        for peer in peers.into_keys() {
            queues.entry(peer).or_insert_with(|| {
                let (queue, messages) = mpsc::channel(QUEUE_MESSAGES_MAX);
                self.runtime.spawn(link::keep(self.shared.clone(), peer, messages));
                queue
            });
        }
    }
}
