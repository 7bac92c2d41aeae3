//! The state that the tasks of a transport share: its peers, its counters, and its machine.

use crate::body::Budgets;
use crate::config::TransportConfig;
use crate::dial::Names;
use crate::frame::FrameError;
use crate::hello::Hello;
use crate::net::Net;
use crate::repeats::Repeats;
use crate::signs::SignTimes;
use driver::{Inbox, report};
use raft::{Incarnation, LogId, Membership, NodeId, check_address};
use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;
use tokio::sync::Notify;

/// The most nodes that are no members whose addresses are kept.
const VISITORS_MAX: usize = 16;

/// The state that the tasks of a transport share.
pub(crate) struct Shared<N> {
    pub net: N,
    pub config: TransportConfig,
    /// When keep-alives are sent.
    pub signs: SignTimes,
    pub inbox: Inbox,
    addresses: Mutex<BTreeMap<NodeId, String>>,
    /// The address that each node of this cluster gave when it last opened a stream, oldest first.
    /// The membership may have another one, or get another one later: that of a member that has
    /// moved again meanwhile. It may have none, for a leader of a later membership or a removed
    /// node, or another node under the same id; of these at most [`VISITORS_MAX`] are kept.
    visitors: Mutex<VecDeque<Visitor>>,
    /// The streams to this node that are open, in the order in which they were opened.
    guests: Mutex<BTreeMap<u64, Guest>>,
    /// The recent reports of members that have given another address.
    moved: Mutex<Repeats>,
    /// This process, see [`Hello::process`].
    process: u64,
    /// The election timeouts and heartbeats of peers that differ from those of this node, in
    /// milliseconds. At most one for each member.
    settings: Mutex<BTreeMap<NodeId, (u32, u32)>>,
    incarnations: Mutex<BTreeMap<NodeId, Incarnation>>,
    /// The stream to each peer.
    streams: Mutex<BTreeMap<NodeId, Stream>>,
    /// How many streams have begun.
    begun: AtomicU64,
    /// How often a stream to or from each member has opened, or one from it has ended.
    contacts: Mutex<BTreeMap<NodeId, u64>>,
    /// Notified whenever one of `contacts` changes.
    contact: Notify,
    /// Links that a test has cut.
    cut: Mutex<BTreeSet<NodeId>>,
    any_cut: AtomicBool,
    pub names: Names<N>,
    pub budgets: Budgets,
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
    doubled: AtomicU64,
    snapshot_bytes_sent: AtomicU64,
    snapshot_bytes_received: AtomicU64,
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

    /// The counters as they are now.
    pub fn figures(&self) -> TransportFigures {
        let read = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        TransportFigures {
            damaged_frames: read(&self.damaged),
            frames_without_room: read(&self.no_room),
            refused_streams: read(&self.refused),
            doubled_peers: read(&self.doubled),
            snapshot_bytes_sent: read(&self.snapshot_bytes_sent),
            snapshot_bytes_received: read(&self.snapshot_bytes_received),
            elsewhere: BTreeMap::new(),
        }
    }

    /// Counts a part of a snapshot that was handed to a connection.
    pub fn snapshot_sent(&self, bytes: u64) {
        self.snapshot_bytes_sent.fetch_add(bytes, Ordering::Relaxed);
    }

    /// Counts a part of a snapshot that has arrived.
    pub fn snapshot_received(&self, bytes: u64) {
        self.snapshot_bytes_received.fetch_add(bytes, Ordering::Relaxed);
    }

    /// Counts a rejected stream or snapshot.
    pub fn refused(&self) {
        self.refused.fetch_add(1, Ordering::Relaxed);
    }
}

/// The stream that carries the messages to a peer. A peer that is removed and added again gets
/// another one, while the task of the former one may still be ending.
struct Stream {
    number: u64,
    /// The address at which it is open.
    open_at: Option<String>,
}

/// A node that has opened a stream here, or was a member.
#[derive(Clone)]
struct Visitor {
    node: NodeId,
    incarnation: Incarnation,
    /// Where its peers reach it, as it says, or as the membership had it.
    address: String,
    /// It is not the member with its id, and a message to it is on its way.
    is_told: bool,
    /// It was the member with its id, and is no more.
    was_member: bool,
}

/// Where a node with another incarnation than the member of its id is reached.
pub(crate) enum Tell {
    /// At this address of its own.
    At(String),
    /// A message is on its way already.
    Already,
    /// At the address of the member with its id.
    AtMember,
}

/// The counters of a transport, since its start, and which peers it reaches elsewhere.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct TransportFigures {
    /// Frames whose checksum did not match. Each of them closed its stream.
    pub damaged_frames: u64,
    /// Streams closed because the shared memory for unfinished frames was used up.
    pub frames_without_room: u64,
    /// Streams and snapshots rejected: another cluster, another version or another node; for
    /// streams also if no connection slot was free.
    pub refused_streams: u64,
    /// Times that two processes were found to run as one member: one of them has a copy of the
    /// data directory.
    pub doubled_peers: u64,
    /// Bytes of state of snapshots that were handed to connections. One that breaks may not have
    /// sent the last of them. A transfer that goes on does not send again what the receiver has.
    pub snapshot_bytes_sent: u64,
    /// Bytes of state received in snapshots.
    pub snapshot_bytes_received: u64,
    /// The members to which a stream is open at another address than the membership has, and that
    /// address: they have moved.
    pub elsewhere: BTreeMap<NodeId, String>,
}

/// A process that has a stream open to this node, as it has introduced itself there.
#[derive(Clone)]
struct Guest {
    node: NodeId,
    incarnation: Incarnation,
    process: u64,
    /// Where its peers reach it. May be empty.
    address: String,
}

impl Guest {
    fn is(&self, node: NodeId, incarnation: Incarnation) -> bool {
        (self.node, self.incarnation) == (node, incarnation)
    }
}

/// Forgets the oldest visitors that are not wanted, if they are too many. Those that are wanted are
/// not counted: the membership and the streams have limits of their own.
fn limit(visitors: &mut VecDeque<Visitor>, is_wanted: impl Fn(&Visitor) -> bool) {
    let others = visitors.iter().filter(|visitor| !is_wanted(visitor)).count();
    let mut excess = others.saturating_sub(VISITORS_MAX);
    visitors.retain(|visitor| {
        let goes = excess > 0 && !is_wanted(visitor);
        excess -= usize::from(goes);
        !goes
    });
}

/// Whether an address that was given can be one.
fn is_plain(address: &str) -> bool {
    !address.is_empty() && check_address(address).is_ok()
}

/// A time in whole milliseconds, as it is sent.
fn millis(time: Duration) -> u32 {
    u32::try_from(time.as_millis()).unwrap_or(u32::MAX)
}

pub(crate) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl<N: Net> Shared<N> {
    pub fn new(net: N, config: TransportConfig, inbox: Inbox) -> Self {
        Shared {
            process: net.draw(),
            names: Names::new(net.clone()),
            signs: SignTimes::new(net.now(), config.silence),
            net,
            config,
            inbox,
            addresses: Mutex::default(),
            visitors: Mutex::default(),
            guests: Mutex::default(),
            moved: Mutex::default(),
            settings: Mutex::default(),
            incarnations: Mutex::default(),
            streams: Mutex::default(),
            begun: AtomicU64::new(0),
            contacts: Mutex::default(),
            contact: Notify::new(),
            cut: Mutex::default(),
            any_cut: AtomicBool::new(false),
            budgets: Budgets::default(),
            counters: Counters::default(),
            failed: Mutex::default(),
            members_changed: Notify::new(),
        }
    }

    /// The address of the peer: that in the membership, or else the one that it gave.
    pub fn address(&self, peer: NodeId) -> Option<String> {
        let known = lock(&self.addresses).get(&peer).cloned();
        known.or_else(|| self.given_address(peer))
    }

    /// The address to dial at the attempt with this number.
    pub fn address_at(&self, peer: NodeId, attempt: usize) -> Option<String> {
        let mut all = self.addresses_of(peer);
        let at = attempt.checked_rem(all.len())?;
        Some(all.swap_remove(at))
    }

    /// Where a peer may be reached: a member at the address that it gave, that in the membership,
    /// or that in this node's configuration, in this order. If there is a node with its id and
    /// another data directory, at last where that is: the member may have been replaced by it, and
    /// it may lead, as far as this node's membership is old.
    fn addresses_of(&self, peer: NodeId) -> Vec<String> {
        let (given, known) = (self.given_address(peer), lock(&self.addresses).get(&peer).cloned());
        let listed = known.as_ref().and_then(|_| self.config.listed.get(&peer).cloned());
        let other = self.latest_other(peer);
        let mut all: Vec<String> = Vec::new();
        for address in given.into_iter().chain(known).chain(listed).chain(other) {
            if !all.contains(&address) {
                all.push(address);
            }
        }
        all
    }

    /// Whether the peer is at this address, as far as it was heard of.
    pub fn is_latest_address(&self, peer: NodeId, address: &str) -> bool {
        self.given_address(peer).or_else(|| self.address(peer)).is_some_and(|at| at == address)
    }

    /// The address that the member with this id gave; if there is none, the node with this id that
    /// gave one last.
    fn given_address(&self, peer: NodeId) -> Option<String> {
        let member = self.member(peer);
        let is_it = |visitor: &&Visitor| {
            visitor.node == peer && member.is_none_or(|member| visitor.incarnation == member)
        };
        lock(&self.visitors).iter().rev().find(is_it).map(|visitor| visitor.address.clone())
    }

    /// The address that a node with this id gave last that is not the member, nor was it before.
    /// None while a stream of the member itself is open here: it has not been replaced.
    fn latest_other(&self, peer: NodeId) -> Option<String> {
        let member = self.member(peer);
        let is_here = |guest: &Guest| member.is_some_and(|member| guest.is(peer, member));
        if lock(&self.guests).values().any(is_here) {
            return None;
        }
        let is_it = |visitor: &&Visitor| {
            visitor.node == peer && !visitor.was_member && member != Some(visitor.incarnation)
        };
        lock(&self.visitors).iter().rev().find(is_it).map(|visitor| visitor.address.clone())
    }

    /// A node of this cluster has opened a stream. The address that it gave is kept, so that it can
    /// be answered.
    pub fn visited(&self, hello: &Hello) {
        let known = lock(&self.addresses).get(&hello.from).cloned();
        let is_impostor = known.is_some() && !self.is_member(hello.from, hello.incarnation);
        if !is_plain(&hello.address) || hello.from == self.config.node {
            return;
        }
        let is_here = self.open_streams();
        let mut visitors = lock(&self.visitors);
        let is_it = |visitor: &Visitor| {
            (visitor.node, visitor.incarnation) == (hello.from, hello.incarnation)
        };
        let same = |visitor: &Visitor| is_it(visitor) && visitor.address == hello.address;
        if let Some(at) = visitors.iter().position(same) {
            // It is the latest.
            let visitor = visitors.remove(at);
            visitors.extend(visitor);
            return;
        }
        visitors.retain(|visitor| !is_it(visitor));
        // A copy that ends again and again is reported as rarely as any other fault that lasts.
        if !is_impostor
            && known.is_some_and(|known| known != hello.address)
            && lock(&self.moved).is_news(&format!("{} {}", hello.from, hello.address))
        {
            let (peer, address) = (hello.from, hello.address.clone());
            report(|| {
                tracing::warn!(
                    %peer, %address,
                    "a peer is reached at another address than the membership has; if it has \
                     moved, declare the members with the new address"
                );
            });
        }
        visitors.push_back(Visitor {
            node: hello.from,
            incarnation: hello.incarnation,
            address: hello.address.clone(),
            is_told: false,
            was_member: false,
        });
        limit(&mut visitors, |visitor| {
            self.is_member(visitor.node, visitor.incarnation) || is_here(visitor)
        });
        self.forget_names(&visitors, &lock(&self.addresses));
        drop(visitors);
        self.members_changed.notify_waiters();
    }

    /// Tells the nodes that have streams open to this one. It may be the leader that is one of them
    /// and no member, and it has to be answered.
    fn open_streams(&self) -> impl Fn(&Visitor) -> bool + use<N> {
        let here: BTreeSet<(NodeId, Incarnation)> =
            lock(&self.guests).values().map(|guest| (guest.node, guest.incarnation)).collect();
        move |visitor| here.contains(&(visitor.node, visitor.incarnation))
    }

    /// Forgets the names at which nobody is reached any more.
    fn forget_names(&self, visitors: &VecDeque<Visitor>, addresses: &BTreeMap<NodeId, String>) {
        let visited = |name: &str| visitors.iter().any(|visitor| visitor.address == name);
        let listed = |name: &str| self.config.listed.values().any(|listed| listed == name);
        self.names.retain(|name| {
            addresses.values().any(|known| known == name) || visited(name) || listed(name)
        });
    }

    /// A stream to this node is open from now on. Returns its number, for [`Shared::leaves`].
    pub fn arrives(&self, hello: &Hello) -> u64 {
        let number = self.begun.fetch_add(1, Ordering::Relaxed);
        let guest = Guest {
            node: hello.from,
            incarnation: hello.incarnation,
            process: hello.process,
            address: hello.address.clone(),
        };
        lock(&self.guests).insert(number, guest);
        // A stream to another node of its id has to end.
        self.members_changed.notify_waiters();
        number
    }

    /// The stream has ended. If the node's address is the one that was given on it, and it has
    /// given another one on a stream that is open, it is there: what it gave last may have come
    /// from a copy of it, or late.
    pub fn leaves(&self, number: u64) {
        let mut guests = lock(&self.guests);
        let Some(Guest { node, incarnation, address: gone, .. }) = guests.remove(&number) else {
            return;
        };
        let others = guests.values().rev().filter(|guest| guest.is(node, incarnation));
        let given: Vec<&String> =
            others.map(|guest| &guest.address).filter(|address| is_plain(address)).collect();
        let latest = given.first().filter(|_| !given.contains(&&gone)).map(ToString::to_string);
        drop(guests);
        let Some(latest) = latest else { return };
        let is_it = |visitor: &&mut Visitor| {
            (visitor.node, visitor.incarnation) == (node, incarnation) && visitor.address == gone
        };
        if let Some(visitor) = lock(&self.visitors).iter_mut().find(is_it) {
            visitor.address = latest;
        }
        self.members_changed.notify_waiters();
    }

    /// A process of the same node as that of this stream, and another one, with a stream that is
    /// open too. The former may have ended, and its stream not yet.
    fn other_process(&self, number: u64) -> Option<(Guest, Guest)> {
        let guests = lock(&self.guests);
        let own = guests.get(&number)?;
        let is_other =
            |guest: &&Guest| guest.is(own.node, own.incarnation) && guest.process != own.process;
        guests.values().find(is_other).map(|other| (own.clone(), other.clone()))
    }

    /// Reports two processes that both have streams open as one node when the stream of a process
    /// that has ended would have been closed. One of them has a copy of the other's data directory:
    /// each acknowledges entries that the other does not store.
    pub async fn look_for_a_copy(&self, number: u64) {
        if self.other_process(number).is_none() {
            return;
        }
        self.net.sleep(2 * self.config.silence).await;
        let Some((own, other)) = self.other_process(number) else { return };
        self.counters.doubled.fetch_add(1, Ordering::Relaxed);
        let peer = own.node;
        if !lock(&self.moved).is_news(&format!("{peer} twice")) {
            return;
        }
        report(|| {
            tracing::error!(
                %peer, at = %own.address, and_at = %other.address,
                "two processes run as this peer: one of them has a copy of the other's data \
                 directory; stop the copy, and remove its directory"
            );
        });
    }

    /// The address of the node with this id and incarnation, if messages to this id do not reach
    /// it, and no message is on its way to it. The caller sends one, and reports it with
    /// [`Shared::has_told_namesake`].
    pub fn tell_namesake(&self, node: NodeId, incarnation: Incarnation) -> Tell {
        let is_known = self.is_known(node);
        let mut visitors = lock(&self.visitors);
        let latest = visitors.iter().rfind(|visitor| visitor.node == node);
        let is_latest = latest.is_some_and(|visitor| visitor.incarnation == incarnation);
        let is_it =
            |visitor: &&mut Visitor| (visitor.node, visitor.incarnation) == (node, incarnation);
        match visitors.iter_mut().find(is_it) {
            None => Tell::AtMember,
            Some(_) if self.is_member(node, incarnation) => Tell::AtMember,
            // Of nodes that are no members, the one that came last has the messages to its id.
            Some(_) if !is_known && is_latest => Tell::AtMember,
            Some(known) if known.is_told => Tell::Already,
            Some(known) => {
                known.is_told = true;
                Tell::At(known.address.clone())
            }
        }
    }

    /// An attempt to send a namesake a message has ended.
    pub fn has_told_namesake(&self, incarnation: Incarnation) {
        for known in lock(&self.visitors).iter_mut() {
            known.is_told &= known.incarnation != incarnation;
        }
    }

    /// Whether the membership has an address of the node.
    pub fn is_known(&self, node: NodeId) -> bool {
        lock(&self.addresses).contains_key(&node)
    }

    /// The incarnation of the member with this id.
    pub fn member(&self, node: NodeId) -> Option<Incarnation> {
        lock(&self.incarnations).get(&node).copied()
    }

    /// Whether a node with this incarnation is a member.
    pub fn is_member(&self, node: NodeId, incarnation: Incarnation) -> bool {
        self.member(node) == Some(incarnation)
    }

    pub fn hello(&self, to: NodeId) -> Hello {
        Hello {
            cluster: self.config.cluster,
            from: self.config.node,
            incarnation: self.config.incarnation,
            process: self.process,
            to,
            address: self.config.peer_address.clone(),
            election_timeout_ms: millis(self.config.election_timeout),
            heartbeat_ms: millis(self.config.heartbeat),
        }
    }

    /// Warns of a member that has other settings of time than this node, once for each.
    pub fn compare_settings(&self, hello: &Hello) {
        let own = self.hello(hello.from);
        let times = |hello: &Hello| (hello.election_timeout_ms, hello.heartbeat_ms);
        let is_same = times(&own) == times(hello) || [&own, hello].iter().any(|h| times(h).0 == 0);
        if is_same || !self.is_member(hello.from, hello.incarnation) {
            return;
        }
        let known = lock(&self.settings).insert(hello.from, times(hello));
        if known == Some(times(hello)) {
            return;
        }
        let (peer, ours, theirs) = (hello.from, times(&own), times(hello));
        report(|| {
            tracing::warn!(
                "node {peer} has an election timeout of {} ms and a heartbeat of {} ms, and this node \
                 {} ms and {} ms: start all nodes with the same settings. With different ones, a node \
                 may depose leaders that are healthy",
                theirs.0,
                theirs.1,
                ours.0,
                ours.1
            );
        });
    }

    /// The messages to the peer go to another stream from now on. Returns its number.
    pub fn begin_stream(&self, peer: NodeId) -> u64 {
        let number = self.begun.fetch_add(1, Ordering::Relaxed);
        lock(&self.streams).insert(peer, Stream { number, open_at: None });
        number
    }

    /// The stream is open at this address, or not any more.
    pub fn set_open(&self, peer: NodeId, number: u64, at: Option<&str>) {
        if let Some(stream) = lock(&self.streams).get_mut(&peer)
            && stream.number == number
        {
            stream.open_at = at.map(str::to_owned);
        }
    }

    /// Nobody keeps the stream any more.
    pub fn end_stream(&self, peer: NodeId, number: u64) {
        let mut streams = lock(&self.streams);
        if streams.get(&peer).is_some_and(|stream| stream.number == number) {
            streams.remove(&peer);
        }
    }

    /// A stream to or from this member has opened, or one from it has ended.
    pub fn note_contact(&self, peer: NodeId) {
        *lock(&self.contacts).entry(peer).or_default() += 1;
        self.contact.notify_waiters();
    }

    /// How often [`Shared::note_contact`] was called for the peer.
    pub fn contacts(&self, peer: NodeId) -> u64 {
        lock(&self.contacts).get(&peer).copied().unwrap_or_default()
    }

    /// Returns when the number of contacts is not `known` any more.
    pub async fn other_contact(&self, peer: NodeId, known: u64) {
        loop {
            let changed = self.contact.notified();
            if self.contacts(peer) != known {
                return;
            }
            changed.await;
        }
    }

    /// The address at which a stream to the peer is open.
    pub fn connected_at(&self, peer: NodeId) -> Option<String> {
        lock(&self.streams).get(&peer)?.open_at.clone()
    }

    /// See [`TransportFigures::elsewhere`].
    fn elsewhere(&self) -> BTreeMap<NodeId, String> {
        let known = lock(&self.addresses).clone();
        let at = known.into_iter().map(|(peer, address)| (peer, address, self.connected_at(peer)));
        at.filter_map(|(peer, address, at)| Some((peer, at.filter(|at| *at != address)?))).collect()
    }

    pub fn figures(&self) -> TransportFigures {
        TransportFigures { elsewhere: self.elsewhere(), ..self.counters.figures() }
    }

    /// Whether messages to and from a peer pass: false if a test has cut the link.
    pub fn passes(&self, peer: NodeId) -> bool {
        !self.any_cut.load(Ordering::Relaxed) || !lock(&self.cut).contains(&peer)
    }

    pub fn is_connected(&self, peer: NodeId) -> bool {
        let is_open = |stream: &Stream| stream.open_at.is_some();
        self.passes(peer) && lock(&self.streams).get(&peer).is_some_and(is_open)
    }

    /// The peers to which a stream is open.
    pub fn connected(&self) -> BTreeSet<NodeId> {
        let streams = lock(&self.streams);
        let open = streams.iter().filter(|(_, stream)| stream.open_at.is_some());
        open.map(|(peer, _)| *peer).collect()
    }

    /// Cuts the link to a peer.
    pub fn disconnect(&self, peer: NodeId) {
        lock(&self.cut).insert(peer);
        self.any_cut.store(true, Ordering::Relaxed);
    }

    /// Cuts the links to all peers.
    pub fn disconnect_all(&self) {
        let peers: Vec<NodeId> = lock(&self.addresses).keys().copied().collect();
        peers.into_iter().for_each(|peer| self.disconnect(peer));
    }

    /// Restores a link that was cut.
    pub fn connect(&self, peer: NodeId) {
        let mut cut = lock(&self.cut);
        cut.remove(&peer);
        self.any_cut.store(!cut.is_empty(), Ordering::Relaxed);
    }

    /// Takes over the members. Returns the peers among them: all but this node.
    pub fn set_members(&self, membership: &Membership) -> BTreeSet<NodeId> {
        let own = self.config.node;
        let peers = || membership.members.iter().filter(|(id, _)| **id != own);
        let addresses: BTreeMap<NodeId, String> =
            peers().map(|(id, member)| (*id, member.peer_address.clone())).collect();
        lock(&self.failed).retain(|id, _| addresses.contains_key(id));
        lock(&self.settings).retain(|id, _| addresses.contains_key(id));
        lock(&self.contacts).retain(|id, _| addresses.contains_key(id));
        let incarnations: BTreeMap<NodeId, Incarnation> =
            peers().map(|(id, member)| (*id, member.incarnation)).collect();
        let is_member = |id: NodeId, incarnation| incarnations.get(&id) == Some(&incarnation);
        let is_here = self.open_streams();
        let mut visitors = lock(&self.visitors);
        let earlier = std::mem::replace(&mut *lock(&self.incarnations), incarnations.clone());
        // A node that has been removed learns it from a reply. Its stream may be an earlier one.
        let mut before = lock(&self.addresses).clone();
        for (node, incarnation) in earlier.into_iter().filter(|(id, own)| !is_member(*id, *own)) {
            let is_it =
                |visitor: &Visitor| (visitor.node, visitor.incarnation) == (node, incarnation);
            let address = before.remove(&node);
            match (visitors.iter_mut().find(|visitor| is_it(visitor)), address) {
                (Some(visitor), _) => visitor.was_member = true,
                (None, Some(address)) => {
                    let (is_told, was_member) = (false, true);
                    visitors.push_back(Visitor { node, incarnation, address, is_told, was_member });
                }
                (None, None) => {}
            }
        }
        limit(&mut visitors, |visitor| {
            is_member(visitor.node, visitor.incarnation) || is_here(visitor)
        });
        self.forget_names(&visitors, &addresses);
        drop(visitors);
        let ids = addresses.keys().copied().collect();
        *lock(&self.addresses) = addresses;
        self.members_changed.notify_waiters();
        ids
    }

    /// Logs that a peer did not accept a snapshot. The core offers it again, with backoff.
    pub fn report_failed_snapshot(&self, to: NodeId, snapshot: LogId, error: &str) {
        let is_news = lock(&self.failed).entry(to).or_default().is_news(error);
        if is_news {
            report(|| {
                tracing::warn!(%to, %snapshot, "a snapshot was not sent: {error}; trying again");
            });
        }
    }

    /// A peer has accepted a snapshot: its next failure is news.
    pub fn forget_failed_snapshots(&self, to: NodeId) {
        lock(&self.failed).remove(&to);
    }

    /// Returns when the peer says that it is at another address than this one.
    pub async fn given_elsewhere(&self, peer: NodeId, address: &str) {
        let before = self.given_address(peer);
        loop {
            let changed = self.members_changed.notified();
            let given = self.given_address(peer);
            if given != before && given.is_some_and(|given| given != address) {
                return;
            }
            changed.await;
        }
    }

    /// Returns when the peer, which is this member or none, is no longer that, or is not expected
    /// at this address any more. A stream that is open at one of several addresses goes on.
    pub async fn forgotten(&self, peer: NodeId, member: Option<Incarnation>, address: &str) {
        loop {
            let changed = self.members_changed.notified();
            let is_replaced = member.is_some() && self.member(peer) != member;
            if is_replaced || !self.addresses_of(peer).iter().any(|known| known == address) {
                return;
            }
            changed.await;
        }
    }
}

#[cfg(test)]
mod tests;
