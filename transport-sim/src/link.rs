//! The driver's transport on a simulated network, in one of two ways.
//!
//! In some runs it is the product's own transport, on the simulated sockets of `sockets.rs`. In the
//! others it is a transport of this file, which is faster and can also reorder and duplicate
//! messages.
//!
//! The network is our own and not a shim over madsim's `Endpoint`. That one has no settings per
//! link and no duplicates, is not safe to cancel, and takes a millisecond for each send. Here, as
//! in the product, a task keeps a stream to each peer, reconnects when it breaks, and encodes ready
//! messages with the product's framing. `simulator::network` draws the fate of messages, as in
//! layer 1.
//!
//! In half of these runs messages go in streams. Late bytes delay those behind them, and a loss
//! breaks the connection in the middle of a frame, which the sender may learn late. In the others
//! every message is delivered on its own and may overtake. In both, copies may arrive later, even
//! at a node that has restarted meanwhile.

use crate::app::App;
use crate::clock::SimClock;
use crate::cluster::Cluster;
use crate::cuts::Cut;
use crate::disk::Life;
use crate::net::SimNet;
use crate::picture::Heard;
use crate::pipe::{Piece, pipe};
use crate::time::{now_us, sleep_us};
use crate::transfer;
use crate::world::{World, client_address};
use bytes::Bytes;
use driver::{Handle, Inbox, Transport};
use madsim::runtime::NodeHandle;
use raft::{Incarnation, Membership, Message, NodeId, SnapshotOffer, SnapshotStatus};
use simulator::network::Passage;
use simulator::plan::FaultKind;
use std::collections::BTreeMap;
use std::io::Read;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;
use storage::DurableIncarnation;
use tokio::sync::mpsc;
use transport_http::wire::{
    FRAME_BYTES_MAX, FrameDecoder, Frames, Hello, receive_messages, write_first, write_message,
};
use transport_http::{Founder, HttpTransport, TransportConfig};

/// Capacity of the queue of messages to a peer, as in the product.
const QUEUE_MESSAGES_MAX: usize = 256;
/// The most messages that are sent at once.
const BATCH_MESSAGES: usize = 64;
/// The timeout of a connection attempt. This and the following are the product's values, which are
/// scaled to the run's election timeout.
const DIAL_TIMEOUT_US: u64 = 500_000;
/// The first backoff before reconnecting; it doubles up to the last.
const PAUSE_FIRST_US: u64 = 20_000;
/// The longest backoff.
const PAUSE_LAST_US: u64 = 1_000_000;
/// The time after which a sender detects a broken connection of which it was not notified.
const SILENCE_US: u64 = 1_000_000;
/// The time after which a sender is notified of a broken connection.
const TOLD_US: u64 = 1_000;

/// A node's transport.
pub(crate) struct SimTransport<A: App> {
    link: Link<A>,
    machine: NodeHandle,
    queues: Mutex<BTreeMap<NodeId, mpsc::Sender<Message>>>,
    /// The product's transport and its machine, if this run uses it.
    http: Option<(SimNet<A>, HttpTransport<SimNet<A>>)>,
}

/// The state that the tasks of a node's transport share.
pub(crate) struct Link<A: App> {
    pub cluster: Cluster<A>,
    pub node: u64,
    pub incarnation: Incarnation,
    pub life: Life,
    pub inbox: Inbox,
}

impl<A: App> Clone for Link<A> {
    fn clone(&self) -> Self {
        Link {
            cluster: self.cluster.clone(),
            node: self.node,
            incarnation: self.incarnation,
            life: self.life.clone(),
            inbox: self.inbox.clone(),
        }
    }
}

impl<A: App> SimTransport<A> {
    pub fn new(
        cluster: Cluster<A>,
        node: u64,
        incarnation: Incarnation,
        life: Life,
        (machine, clock): (NodeHandle, Arc<SimClock>),
        inbox: Inbox,
    ) -> Self {
        let link = Link { cluster, node, incarnation, life, inbox };
        let has_sockets = link.cluster.world().sockets;
        let http = has_sockets.then(|| link.clone().http(machine.clone(), clock));
        SimTransport { link, machine, queues: Mutex::default(), http }
    }

    /// Listens for peers, until the node has stopped.
    pub fn listen(self: &Arc<Self>, handle: Handle<A::Machine>) {
        let Some((net, _)) = &self.http else { return };
        let (net, transport, node) = (net.clone(), self.clone(), self.link.node);
        let who = DurableIncarnation::assumed(NodeId(node), self.link.incarnation);
        let (cluster, address) = {
            let world = self.link.cluster.world();
            (world.cluster, world.peer_address(node).to_string())
        };
        let founder = Founder::new(who, address, client_address(node));
        let membership = handle.status().raft.membership.clone();
        self.machine.spawn(async move {
            let server = net.listen().await.expect("the life before this one is over");
            // A wiped node sends its requests here: see `founding.rs`.
            server.bootstrap_service().answer_as_member(founder.clone(), cluster, membership);
            if let Some((_, http)) = &transport.http {
                server.open(http);
            }
            drop(transport);
            let mut changes = handle.changes();
            while let Some(view) = changes.next().await {
                server.bootstrap_service().answer_as_member(
                    founder.clone(),
                    cluster,
                    view.membership,
                );
            }
        });
    }

    /// The node crashes right after it has sent something.
    fn crashes(&self, down_us: Option<u64>) {
        if let Some(down_us) = down_us {
            let node = self.link.node as usize;
            self.link.cluster.crash(node, down_us, "a node crashed at an awkward moment");
        }
    }

    fn queues(&self) -> std::sync::MutexGuard<'_, BTreeMap<NodeId, mpsc::Sender<Message>>> {
        self.queues.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl<A: App> Transport for SimTransport<A> {
    fn send(&self, message: Message) {
        if self.link.life.is_over() {
            return;
        }
        let crash = self.link.says(&message);
        let peer = message.to;
        if let Some((_, http)) = &self.http {
            http.send(message);
            return self.crashes(crash);
        }
        let refused = self.queues().get(&peer).and_then(|queue| queue.try_send(message).err());
        if let Some(refused) = refused {
            self.link.leaves(&refused.into_inner(), None);
            self.link.inbox.unreachable(peer);
        }
        self.crashes(crash);
    }

    fn is_connected(&self, peer: NodeId) -> bool {
        self.http.as_ref().is_none_or(|(_, http)| http.is_connected(peer))
    }

    fn send_snapshot(&self, offer: SnapshotOffer, state: Box<dyn Read + Send>) {
        if let Some((_, http)) = &self.http {
            return http.send_snapshot(offer, state);
        }
        let link = self.link.clone();
        self.machine.spawn(async move {
            let (to, snapshot) = (offer.to, offer.snapshot.last);
            let mut resumed_at = 0;
            let delivered = transfer::send(&link, offer, state, &mut resumed_at).await;
            link.cluster.mark(match delivered {
                true => "a snapshot was delivered",
                false => "a snapshot was not delivered",
            });
            link.inbox.snapshot_sent(to, snapshot, SnapshotStatus::of(delivered, resumed_at));
        });
    }

    fn set_members(&self, membership: &Membership) {
        if let Some((_, http)) = &self.http {
            return http.set_members(membership);
        }
        let peers = membership.members.keys().filter(|id| id.0 != self.link.node);
        let peers: Vec<NodeId> = peers.copied().collect();
        let mut queues = self.queues();
        queues.retain(|id, _| peers.contains(id));
        for peer in peers {
            queues.entry(peer).or_insert_with(|| {
                let (queue, messages) = mpsc::channel(QUEUE_MESSAGES_MAX);
                self.machine.spawn(keep(self.link.clone(), peer, messages));
                queue
            });
        }
    }
}

impl<A: App> Link<A> {
    /// The product's transport, with the product's settings.
    fn http(
        self,
        machine: NodeHandle,
        clock: Arc<SimClock>,
    ) -> (SimNet<A>, HttpTransport<SimNet<A>>) {
        let election_us = self.cluster.plan().election_us();
        let net = SimNet::new(self.cluster.clone(), self.node, self.life, machine, clock);
        let (cluster, mut addresses, has_lists) = {
            let world = self.cluster.world();
            (world.cluster, world.peer_addresses(), world.has_lists)
        };
        let mut config = TransportConfig::new(cluster, NodeId(self.node), self.incarnation);
        config.peer_address = addresses.remove(&NodeId(self.node)).unwrap_or_default();
        if has_lists {
            config.listed = addresses;
        }
        config.silence = config.silence.max(Duration::from_micros(election_us));
        self.cluster.mark("nodes talked over sockets");
        (net.clone(), HttpTransport::on(net, config, self.inbox))
    }

    pub fn hello(&self, to: NodeId) -> Hello {
        let cluster = self.cluster.world().cluster;
        Hello {
            cluster,
            from: NodeId(self.node),
            incarnation: self.incarnation,
            to,
            address: String::new(),
            election_timeout_ms: 0,
            heartbeat_ms: 0,
            process: 0,
        }
    }

    /// Checks a message that the node sends: what it promises must be on the disk. Returns how long
    /// the node must go down right after it, if it must crash.
    fn says(&self, message: &Message) -> Option<u64> {
        let node = self.node as usize;
        let mut world = self.cluster.world();
        world.messages += 1;
        let World { observer, hosts, .. } = &mut *world;
        let broken = observer.said(node, message, &hosts[node].shadow).err();
        world.note(4, node, message.to.0 << 8 ^ message.term.0);
        let crash = world.armed.remove(&(node, FaultKind::CrashSending));
        drop(world);
        self.cluster.broken(broken);
        crash
    }

    /// Draws the fate of a message or a piece of a stream to `peer`.
    pub fn pass(&self, peer: NodeId) -> Passage {
        let mut world = self.cluster.world();
        let world = &mut *world;
        let link = (self.node, peer.0);
        world.network.pass(now_us(), link, &world.plan.swarm, world.calm)
    }

    /// Draws how the transfer of a snapshot goes, in a run in which that is drawn.
    pub fn cuts(&self) -> Option<Cut> {
        let mut world = self.cluster.world();
        let calm = world.calm;
        world.cuts.next(calm)
    }

    /// Draws a number below `below` from the stream of the link to `peer`.
    pub fn draw(&self, peer: NodeId, below: u64) -> u64 {
        self.cluster.world().link(self.node, peer.0).below(below)
    }

    /// The current life of `peer`, if a connection to it can be made at the moment.
    pub fn reaches(&self, peer: NodeId) -> Option<(NodeHandle, Inbox, Hello)> {
        let mut world = self.cluster.world();
        let cluster = world.cluster;
        let cut = world.network.is_cut(self.node, peer.0)
            || (world.streams && world.network.is_cut(peer.0, self.node));
        let host = world.hosts.get_mut(peer.0 as usize)?;
        let up = host.up.as_ref().filter(|_| !cut)?;
        let incarnation = host.incarnation;
        let own = Hello {
            cluster,
            from: peer,
            incarnation,
            to: peer,
            address: String::new(),
            election_timeout_ms: 0,
            heartbeat_ms: 0,
            process: 0,
        };
        Some((up.machine.clone(), up.inbox.clone(), own))
    }
}

/// Keeps a stream to the peer, until the queue is closed.
async fn keep<A: App>(link: Link<A>, peer: NodeId, mut queue: mpsc::Receiver<Message>) {
    let first_us = link.cluster.in_proportion(PAUSE_FIRST_US);
    let last_us = link.cluster.in_proportion(PAUSE_LAST_US);
    let dial_us = link.cluster.in_proportion(DIAL_TIMEOUT_US);
    let mut pause_us = first_us;
    loop {
        let pipe = match link.pass(peer) {
            Passage::Arrives { after_us, .. } => {
                sleep_us(after_us).await;
                dial(&link, peer)
            }
            Passage::Lost { reported } => {
                sleep_us(noticed_us(reported, dial_us)).await;
                None
            }
        };
        if let Some(pipe) = pipe {
            let connected_us = now_us();
            talk(&link, peer, &mut queue, pipe).await;
            if now_us() - connected_us > last_us {
                pause_us = first_us;
            }
            link.cluster.mark("a connection broke");
        }
        // Drops the rest of the queue: it is stale by the time the peer is back.
        while let Ok(message) = queue.try_recv() {
            link.leaves(&message, None);
        }
        if queue.is_closed() {
            return;
        }
        link.inbox.unreachable(peer);
        sleep_us(pause_us / 2 + link.draw(peer, pause_us / 2 + 1)).await;
        pause_us = (pause_us * 2).min(last_us);
    }
}

/// Connects to the peer, and starts a task there that receives.
fn dial<A: App>(link: &Link<A>, peer: NodeId) -> Option<mpsc::Sender<Piece>> {
    let (machine, inbox, own) = link.reaches(peer)?;
    let (sender, frames) = pipe();
    let mut frames = Heard::new(frames, link.cluster.clone());
    let cluster = link.cluster.clone();
    machine.spawn(async move {
        let Ok(Some(first)) = frames.first().await else { return };
        let Ok(hello) = Hello::check(&first, &own) else { return };
        let at = peer.0 as usize;
        let heard = |from: NodeId| {
            cluster.world().note(2, at, from.0);
            true
        };
        receive_messages(&inbox, hello, &mut frames, heard).await;
    });
    Some(sender)
}

/// The time after which a sender knows that a connection is broken: soon if it is notified, and
/// otherwise after `silence_us` of silence.
fn noticed_us(told: bool, silence_us: u64) -> u64 {
    if told { TOLD_US.min(silence_us) } else { silence_us }
}

/// The delay until it arrives for the first time; `None` if it is lost.
pub(crate) fn after_us(passage: Passage) -> Option<u64> {
    match passage {
        Passage::Arrives { after_us, .. } => Some(after_us),
        Passage::Lost { .. } => None,
    }
}

/// Sends the messages of the queue, until the connection is known to be broken.
async fn talk<A: App>(
    link: &Link<A>,
    peer: NodeId,
    queue: &mut mpsc::Receiver<Message>,
    pipe: mpsc::Sender<Piece>,
) {
    let mut first = Vec::new();
    write_first(&mut first, &link.hello(peer).encode());
    let mut last_us = now_us() + 1;
    let _ = pipe.send(Piece { due_us: last_us, bytes: Some(first.into()) }).await;
    let streams = link.cluster.world().streams;
    let silence_us = link.cluster.in_proportion(SILENCE_US);
    let mut batch = Vec::with_capacity(BATCH_MESSAGES);
    loop {
        let taken = tokio::select! {
            biased;
            // The other end is gone. The sender may learn that only later.
            () = pipe.closed() => {
                let told = link.draw(peer, 2) == 0;
                link.is_lost(peer);
                return lost(link, queue, noticed_us(told, silence_us)).await;
            }
            taken = queue.recv_many(&mut batch, BATCH_MESSAGES) => taken,
        };
        if taken == 0 {
            return;
        }
        if !streams {
            for message in batch.drain(..) {
                let mut bytes = Vec::new();
                write_message(&mut bytes, &message);
                let bytes = Bytes::from(bytes);
                let passage = link.pass(peer);
                link.leaves(&message, after_us(passage));
                match passage {
                    Passage::Arrives { after_us, again_after_us } => {
                        late_copy(link, peer, &bytes, again_after_us);
                        send(link, peer, &pipe, now_us() + after_us, bytes).await;
                    }
                    Passage::Lost { reported: true } => link.inbox.unreachable(peer),
                    Passage::Lost { reported: false } => {}
                }
            }
            continue;
        }
        let mut bytes = Vec::new();
        batch.iter().for_each(|message| write_message(&mut bytes, message));
        let bytes = Bytes::from(bytes);
        let passage = link.pass(peer);
        // In a stream it waits for the bytes before it.
        let due_us = after_us(passage).map(|after_us| last_us.max(now_us() + after_us));
        for message in batch.drain(..) {
            link.leaves(&message, due_us.map(|due_us| due_us - now_us()));
        }
        match passage {
            Passage::Arrives { after_us, again_after_us } => {
                last_us = last_us.max(now_us() + after_us);
                late_copy(link, peer, &bytes, again_after_us);
                send(link, peer, &pipe, last_us, bytes).await;
            }
            Passage::Lost { reported } => {
                let cut = link.draw(peer, bytes.len() as u64) as usize;
                let due_us = last_us.max(now_us() + 1);
                let _ = pipe.send(Piece { due_us, bytes: Some(bytes.slice(..cut)) }).await;
                let _ = pipe.send(Piece { due_us, bytes: None }).await;
                link.cluster.mark("a stream was cut off within a frame");
                return lost(link, queue, noticed_us(reported, silence_us)).await;
            }
        }
    }
}

/// Sends bytes in two pieces, split at a random place.
async fn send<A: App>(
    link: &Link<A>,
    peer: NodeId,
    pipe: &mpsc::Sender<Piece>,
    due_us: u64,
    bytes: Bytes,
) {
    let cut = link.draw(peer, bytes.len() as u64) as usize;
    if cut > 0 && link.cluster.world().streams {
        let _ = pipe.send(Piece { due_us, bytes: Some(bytes.slice(..cut)) }).await;
        let _ = pipe.send(Piece { due_us, bytes: Some(bytes.slice(cut..)) }).await;
    } else {
        let _ = pipe.send(Piece { due_us, bytes: Some(bytes) }).await;
    }
}

/// The connection is broken, but the sender does not know for this time: all messages that it sends
/// are lost.
async fn lost<A: App>(link: &Link<A>, queue: &mut mpsc::Receiver<Message>, for_us: u64) {
    let mut over = sleep_us(for_us);
    loop {
        tokio::select! {
            biased;
            () = &mut over => return,
            message = queue.recv() => match message {
                Some(message) => link.leaves(&message, None),
                None => return,
            },
        }
    }
}

/// The same bytes arrive again later, at the life of the peer that is running by then.
fn late_copy<A: App>(link: &Link<A>, peer: NodeId, bytes: &Bytes, after_us: Option<u64>) {
    let Some(after_us) = after_us else { return };
    let (cluster, bytes) = (link.cluster.clone(), bytes.clone());
    let (sent_to, sent_us) = (cluster.life_of(peer), now_us());
    link.cluster.shared.outside.spawn(async move {
        sleep_us(after_us).await;
        let now_at = cluster.life_of(peer);
        let target = {
            let world = cluster.world();
            let up = world.hosts.get(peer.0 as usize).and_then(|host| host.up.as_ref());
            up.map(|up| (up.machine.clone(), up.inbox.clone()))
        };
        let Some((machine, inbox)) = target else { return };
        cluster.mark(match sent_to == now_at {
            true => "a message arrived twice",
            false => "a message for an earlier life arrived",
        });
        machine.spawn(async move {
            let mut decoder = FrameDecoder::default();
            decoder.push(&bytes);
            while let Ok(Some(frame)) = decoder.take(FRAME_BYTES_MAX) {
                let Ok(message) = storage::codec::decode::<Message>(&frame) else { return };
                cluster.world().note(10, peer.0 as usize, 0);
                cluster.arrives_again(&message, sent_us);
                if !inbox.message(message).await {
                    return;
                }
            }
        });
    });
}

impl<A: App> Cluster<A> {
    fn life_of(&self, node: NodeId) -> u64 {
        self.world().hosts.get(node.0 as usize).map_or(0, |host| host.lives)
    }
}
