//! A conformance kit for transports: does an implementation of [`Transport`] keep its contract?
//!
//! The kit plays the cores of three nodes. It sends messages and snapshots from one to another, and
//! looks at what arrives and at what is reported. It needs a network that works: what a transport
//! does on a bad one is for simulations.

use crate::messages::PeerSnapshot;
use crate::{Clock, Inbox, InboxReceiver, SnapshotSink, SnapshotStore, Transport, inbox};
use bytes::Bytes;
use raft::{
    Body, CommandNumber, Config, Entry, Forwarded, Incarnation, Index, LogId, LogTime, Member,
    Membership, Message, NodeId, Payload, RawNode, ReadId, Reading, Request, Restored, Round,
    Snapshot, SnapshotOffer, SnapshotStatus, StateHash, Term,
};
use std::any::Any;
use std::collections::BTreeMap;
use std::future::Future;
use std::io::{self, Read, Write};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

const NODES: u64 = 3;
const FIRST: NodeId = NodeId(1);
const SECOND: NodeId = NodeId(2);
const THIRD: NodeId = NodeId(3);

/// The kit waits this long for an event that has to happen.
const PATIENCE: Duration = Duration::from_secs(30);
/// The kit waits this long for an event that must not happen.
const QUIET: Duration = Duration::from_millis(300);
/// The pause between two looks.
const PAUSE: Duration = Duration::from_millis(2);
/// A message that has not arrived is sent again after this time.
const AGAIN: Duration = Duration::from_millis(250);
/// The kit sends no message with a command of more bytes, whatever the transport carries.
const COMMAND_BYTES_MAX: usize = 4 << 20;
/// Room in a message for everything but its command.
const OVERHEAD_BYTES: usize = 64 << 10;
/// This many messages are sent to a peer that is gone.
const FLOOD: u64 = 2_000;
/// `send` does not block: [`FLOOD`] calls end within this time.
const FLOOD_WITHIN: Duration = Duration::from_secs(2);

/// A node for which the kit wants a transport.
#[derive(Clone)]
pub struct Peer {
    /// The id of the node.
    pub node: NodeId,
    /// The incarnation of the node.
    pub incarnation: Incarnation,
    /// Where the node's transport delivers what it receives, and reports what it has lost.
    pub inbox: Inbox,
}

/// The transport of a [`Peer`], listening.
pub struct Connected<T> {
    /// The transport.
    pub transport: Arc<T>,
    /// The address at which other transports reach it, for the membership.
    pub address: String,
    /// Dropped together with the transport when the kit ends the node: a listener, for instance.
    pub keep: Box<dyn Any + Send>,
}

/// Tests a transport. `connect` makes the transports of the given nodes, in the same order. They
/// learn each other's addresses from [`Transport::set_members`] after that.
///
/// It takes a few seconds of the clock's time.
///
/// # Panics
///
/// If the transport breaks its contract. The message says how.
pub async fn transport<T: Transport, F>(clock: &dyn Clock, connect: impl FnOnce(Vec<Peer>) -> F)
where
    F: Future<Output = Vec<Connected<T>>>,
{
    let (ends, peers): (Vec<_>, Vec<_>) = (1..=NODES).map(|id| End::new(NodeId(id))).unzip();
    let connected = connect(peers).await;
    assert_eq!(connected.len(), ends.len(), "`connect` returns a transport for each node");
    let members: BTreeMap<NodeId, Member> = (ends.iter().zip(&connected))
        .map(|(end, connected)| (end.node, member(end.node, connected.address.clone())))
        .collect();
    let nodes =
        ends.into_iter().zip(connected).map(|(end, connected)| (end.node, (end, connected)));
    let nodes = nodes.collect();
    let mut kit =
        Kit { clock, nodes, membership: Membership::of_voters(members), sent: Vec::new() };
    for (_, connected) in kit.nodes.values() {
        connected.transport.set_members(&kit.membership);
    }
    kit.every_kind_of_message_arrives_as_it_was().await;
    kit.a_burst_arrives_or_is_reported().await;
    kit.a_removed_node_is_answered().await;
    kit.a_snapshot_is_delivered_when_it_is_durable().await;
    kit.a_snapshot_that_is_not_needed_is_not_delivered().await;
    kit.a_state_that_cannot_be_read_is_not_delivered().await;
    kit.a_peer_that_is_gone_is_reported().await;
}

fn member(node: NodeId, peer_address: String) -> Member {
    Member { incarnation: incarnation(node), peer_address, client_address: String::new() }
}

fn incarnation(node: NodeId) -> Incarnation {
    Incarnation(1_000 + node.0)
}

/// The driver's end of a node.
struct End {
    node: NodeId,
    receiver: InboxReceiver,
    store: Arc<Kept>,
}

impl End {
    fn new(node: NodeId) -> (End, Peer) {
        let store = Arc::new(Kept::default());
        let (inbox, receiver) = inbox(store.clone());
        (End { node, receiver, store }, Peer { node, incarnation: incarnation(node), inbox })
    }
}

struct Kit<'a, T> {
    clock: &'a dyn Clock,
    nodes: BTreeMap<NodeId, (End, Connected<T>)>,
    membership: Membership,
    /// Everything that was sent. Copies of it may arrive at any time.
    sent: Vec<Message>,
}

/// The result of a transfer.
#[derive(Default)]
struct Transferred {
    /// The reports to the sender.
    reports: Vec<bool>,
    /// The state in the receiver's store when the first report came.
    state: Option<Vec<u8>>,
    /// Whether the receiver's core knows at the end that the snapshot is durable.
    installed: bool,
}

// The checks.
impl<T: Transport> Kit<'_, T> {
    async fn every_kind_of_message_arrives_as_it_was(&mut self) {
        let carried = self.nodes[&FIRST].1.transport.message_bytes_max();
        let large = carried.saturating_sub(OVERHEAD_BYTES).min(COMMAND_BYTES_MAX);
        for body in bodies(large) {
            for (from, to) in [(FIRST, SECOND), (SECOND, FIRST), (THIRD, SECOND)] {
                self.deliver(message(from, to, 7, body.clone())).await;
            }
        }
        let connected = |kit: &Self| kit.nodes[&FIRST].1.transport.is_connected(SECOND);
        if !self.eventually(connected).await {
            fails("messages arrive, and `is_connected` is false for the peer");
        }
    }

    /// On a network that works, a message that does not arrive was dropped, and that is reported.
    async fn a_burst_arrives_or_is_reported(&mut self) {
        self.reports(FIRST);
        let burst = (0..200).map(|number| {
            let (start, command) = (1, Bytes::from(vec![number as u8; 2_000]));
            message(FIRST, THIRD, 8, Body::Forward { start, number, request: command.into() })
        });
        let mut missing: Vec<Message> = burst.collect();
        for message in missing.clone() {
            self.send(message);
        }
        let until = self.until(PATIENCE);
        while !missing.is_empty() && self.now() < until {
            let arrived = self.arrived(THIRD);
            missing.retain(|message| !arrived.contains(message));
            if self.reports(FIRST).unreachable.contains(&THIRD) {
                return;
            }
            self.clock.sleep(PAUSE).await;
        }
        if !missing.is_empty() {
            let count = missing.len();
            fails(&format!("{count} of 200 messages were lost, and no loss was reported"));
        }
    }

    async fn a_removed_node_is_answered(&mut self) {
        let mut without = self.membership.clone();
        without = Membership::of_voters(
            without.members.into_iter().filter(|(node, _)| *node != SECOND).collect(),
        );
        self.nodes[&FIRST].1.transport.set_members(&without);
        self.clock.sleep(QUIET).await;
        // It does not know yet that it was removed, and sends requests.
        self.deliver(message(SECOND, FIRST, 9, Body::TimeoutNow)).await;
        let body = Body::NotAMember { commit: Index(3), refused: incarnation(SECOND) };
        self.deliver(message(FIRST, SECOND, 9, body)).await;
        self.nodes[&FIRST].1.transport.set_members(&self.membership);
        self.deliver(message(FIRST, SECOND, 10, Body::TimeoutNow)).await;
    }

    async fn a_snapshot_is_delivered_when_it_is_durable(&mut self) {
        for (index, bytes) in [(10, 700_000), (11, 0), (12, 1)] {
            let state = state(bytes);
            let reader = Box::new(io::Cursor::new(state.clone()));
            let done = self.transfer(offer(index), reader, true).await;
            if done.reports != [true] {
                let reports = done.reports;
                fails(&format!(
                    "a snapshot of {bytes} bytes was needed, and reported as {reports:?}"
                ));
            }
            match done.state {
                None => fails("a snapshot was reported as delivered before it was durable"),
                Some(found) if found != state => {
                    let at = found.iter().zip(&state).take_while(|(a, b)| a == b).count();
                    let len = found.len();
                    fails(&format!(
                        "of a snapshot of {bytes} bytes, {len} arrived, and differ at byte {at}"
                    ));
                }
                Some(_) => {}
            }
        }
    }

    async fn a_snapshot_that_is_not_needed_is_not_delivered(&mut self) {
        let reader = Box::new(io::Cursor::new(state(10_000)));
        let done = self.transfer(offer(20), reader, false).await;
        if done.reports != [false] {
            let reports = done.reports;
            fails(&format!("a snapshot was not needed, and reported as {reports:?}"));
        }
        if done.installed {
            fails("a snapshot was not needed, and installed");
        }
    }

    async fn a_state_that_cannot_be_read_is_not_delivered(&mut self) {
        let broken = io::Cursor::new(state(300_000)).chain(Broken);
        let done = self.transfer(offer(30), Box::new(broken), true).await;
        if done.reports != [false] {
            let reports = done.reports;
            fails(&format!(
                "a state could not be read to its end, and was reported as {reports:?}"
            ));
        }
        if done.installed || done.state.is_some() {
            fails("a state could not be read to its end, and a part of it was installed");
        }
    }

    async fn a_peer_that_is_gone_is_reported(&mut self) {
        self.nodes.remove(&THIRD);
        self.reports(FIRST);
        let begun = self.now();
        for number in 0..FLOOD {
            let (start, command) = (2, Bytes::from_static(b"lost"));
            self.send(message(
                FIRST,
                THIRD,
                11,
                Body::Forward { start, number, request: command.into() },
            ));
        }
        if self.now() - begun > FLOOD_WITHIN {
            fails("`send` blocks while the peer is gone");
        }
        let until = self.until(PATIENCE);
        while !self.reports(FIRST).unreachable.contains(&THIRD) {
            if self.now() > until {
                fails("messages to a peer that is gone are lost, and no loss is reported");
            }
            self.send(message(FIRST, THIRD, 11, Body::TimeoutNow));
            self.clock.sleep(PAUSE * 10).await;
        }
        // The others do not suffer from it.
        self.deliver(message(FIRST, SECOND, 12, Body::TimeoutNow)).await;
        let offer = SnapshotOffer { to: THIRD, ..offer(40) };
        let reader = Box::new(io::Cursor::new(state(10_000)));
        let reports = self.transfer(offer, reader, true).await.reports;
        if reports != [false] {
            fails(&format!("a snapshot to a peer that is gone was reported as {reports:?}"));
        }
    }
}

// The operations that the checks consist of.
impl<T: Transport> Kit<'_, T> {
    fn now(&self) -> Duration {
        Duration::from_nanos(self.clock.now().monotonic_ns)
    }

    fn until(&self, time: Duration) -> Duration {
        self.now() + time
    }

    async fn eventually(&self, holds: impl Fn(&Self) -> bool) -> bool {
        let until = self.until(PATIENCE);
        while !holds(self) {
            if self.now() > until {
                return false;
            }
            self.clock.sleep(PAUSE).await;
        }
        true
    }

    fn send(&mut self, message: Message) {
        if self.sent.last() != Some(&message) {
            self.sent.push(message.clone());
        }
        self.nodes[&message.from].1.transport.send(message);
    }

    /// The messages that have arrived at a node. Each is one that was sent to it, unchanged.
    fn arrived(&mut self, node: NodeId) -> Vec<Message> {
        let mut arrived = Vec::new();
        let (end, _) = self.nodes.get_mut(&node).expect("it has not ended");
        while let Ok(message) = end.receiver.messages.try_recv() {
            arrived.push(message);
        }
        for message in &arrived {
            if message.to != node {
                fails(&format!("a message to {} arrived at {node}", message.to));
            }
            if !self.sent.contains(message) {
                let text: String = format!("{message:?}").chars().take(200).collect();
                fails(&format!("a message arrived that nobody has sent: {text}"));
            }
        }
        arrived
    }

    /// Sends a message until it arrives. A transport may lose some, for instance while it dials.
    async fn deliver(&mut self, message: Message) {
        let until = self.until(PATIENCE);
        loop {
            self.send(message.clone());
            let again = self.until(AGAIN);
            while self.now() < again {
                // Of all nodes, so that a message that went astray is noticed.
                let nodes: Vec<NodeId> = self.nodes.keys().copied().collect();
                let mut arrived = nodes.into_iter().flat_map(|node| self.arrived(node));
                if arrived.any(|arrived| arrived == message) {
                    return;
                }
                self.clock.sleep(PAUSE).await;
            }
            if self.now() > until {
                let text: String = format!("{message:?}").chars().take(200).collect();
                fails(&format!("a message never arrives, however often it is sent: {text}"));
            }
        }
    }

    fn reports(&self, node: NodeId) -> crate::messages::NewPeerReports {
        self.nodes[&node].0.receiver.reports.take()
    }

    /// Sends a snapshot, and plays the cores of both ends.
    async fn transfer(
        &mut self,
        offer: SnapshotOffer,
        state: Box<dyn Read + Send>,
        is_needed: bool,
    ) -> Transferred {
        let (from, to, last) = (offer.from, offer.to, offer.snapshot.last);
        self.nodes[&from].1.transport.send_snapshot(offer.clone(), state);
        let mut core = core(to, &self.membership);
        let mut done = Transferred::default();
        let mut until = self.until(PATIENCE);
        while self.now() < until {
            if let Some((end, _)) = self.nodes.get_mut(&to) {
                while let Ok(event) = end.receiver.offers.try_recv() {
                    match event {
                        PeerSnapshot::Offered { offer: arrived, reply } => {
                            if *arrived != offer {
                                fails("an offer of a snapshot is not the one that was sent");
                            }
                            let order = core.accept(*arrived).filter(|_| is_needed);
                            let _ = reply.send(order.map(Box::new));
                        }
                        PeerSnapshot::Received(_) => done.installed = true,
                    }
                }
            }
            // Taken after the receiver's events: by the time of the report they are all there.
            for ((peer, snapshot), status) in self.reports(from).snapshots_sent {
                if (peer, snapshot) != (to, last) {
                    fails(&format!("snapshot {snapshot} to {peer} was reported, and not sent"));
                }
                if done.reports.is_empty() {
                    until = self.until(QUIET);
                    let receiver = self.nodes.get(&to);
                    done.state =
                        receiver.and_then(|(end, _)| end.store.states().get(&last).cloned());
                }
                done.reports.push(status == SnapshotStatus::Delivered);
            }
            self.clock.sleep(PAUSE).await;
        }
        done
    }
}

fn fails(what: &str) -> ! {
    panic!("the transport breaks its contract: {what}")
}

fn message(from: NodeId, to: NodeId, term: u64, body: Body) -> Message {
    Message { from, to, term: Term(term), incarnation: incarnation(from), body }
}

/// Every kind of message. One has a command of `large` bytes.
fn bodies(large: usize) -> Vec<Body> {
    let (at, round, read) = (LogId::new(1 << 40, 3), Round(9), ReadId(u64::MAX));
    let hash = StateHash { index: Index(5), hash: u64::MAX - 1 };
    let entry = |index, payload| Entry {
        id: LogId::new(index, 3),
        time: LogTime(1_700_000_000_000),
        number: CommandNumber(index),
        payload,
    };
    let bytes = Bytes::from_iter((0..=u8::MAX).cycle().take(3_000));
    let commands = [Bytes::new(), bytes, Bytes::from(state(large))];
    let mut entries = vec![entry((1 << 40) + 1, Payload::NoOp)];
    entries.extend(
        (2..)
            .zip(commands)
            .map(|(index, command)| entry((1 << 40) + index, Payload::Command(command))),
    );
    entries.push(entry((1 << 40) + 5, Payload::SessionCommand(Bytes::from_static(b"\xff"))));
    entries.push(entry((1 << 40) + 6, Payload::System(Bytes::from_static(b"\xff"))));
    entries.push(entry((1 << 40) + 7, Payload::Clock));
    let (commit, time) = (Index(77), LogTime(5));
    let members = [(FIRST, member(FIRST, "a name:1".to_owned()))];
    let membership = Payload::Membership(Box::new(Membership::of_voters(members.into())));
    let append = |entries: Vec<Entry>| Body::Append {
        prev: at,
        entries: entries.into(),
        commit,
        round,
        time,
    };
    let text = Bytes::from_static(b"\xff\x00");
    let outcome = Forwarded::Appended { id: at, number: CommandNumber(4) };
    vec![
        Body::PreVote { next: Term(8), last: at },
        Body::PreVoteReply { next: Term(8), granted: true, candidate: incarnation(SECOND) },
        Body::Vote { last: at, transfer: true },
        Body::VoteReply {
            granted: true,
            clock: Reading::default(),
            candidate: incarnation(SECOND),
        },
        append(Vec::new()),
        append(entries),
        append(vec![entry((1 << 40) + 1, membership)]),
        Body::Appended { matched: Index(3), round, state: Some(hash), promise_ms: 0, priority: 0 },
        Body::Appended {
            matched: Index(3),
            round,
            state: None,
            promise_ms: u32::MAX,
            priority: u8::MAX,
        },
        Body::Rejected { prev: Index(9), hint: at, lost: true, round },
        Body::ReadIndex { read, lease: false },
        Body::ReadIndex { read, lease: true },
        Body::ReadIndexReply { read, index: Some(Index(1)) },
        Body::ReadIndexReply { read, index: None },
        Body::Diverged { state: hash },
        Body::TimeoutNow,
        Body::Forward { start: 3, number: 4, request: Request::Command(text.clone()) },
        Body::Forward { start: 3, number: 4, request: Request::SessionCommand(text.clone()) },
        Body::Forward { start: 3, number: 4, request: Request::System(text) },
        Body::ForwardReply { start: 3, number: 4, outcome },
        Body::NotAMember { commit, refused: Incarnation(u64::MAX) },
    ]
}

/// A state in which no two kilobytes are the same.
fn state(bytes: usize) -> Vec<u8> {
    (0..bytes).map(|at| (at.wrapping_mul(31) ^ (at >> 8).wrapping_mul(7)) as u8).collect()
}

/// An offer of the first node to the second.
fn offer(index: u64) -> SnapshotOffer {
    let snapshot = Snapshot {
        last: LogId::new(index, 5),
        time: LogTime(1_000 + index),
        number: CommandNumber(index),
        membership: Membership::of_voters([(FIRST, member(FIRST, String::new()))].into()).into(),
        membership_index: Index(0),
        hash: Some(index),
    };
    SnapshotOffer {
        from: FIRST,
        to: SECOND,
        term: Term(6),
        incarnation: incarnation(FIRST),
        snapshot,
    }
}

/// A core without entries, which needs every snapshot.
fn core(node: NodeId, membership: &Membership) -> RawNode {
    let restored = Restored::initial(Snapshot::initial(membership.clone()));
    RawNode::new(Config::new(node, incarnation(node), 1), restored).expect("the settings are sound")
}

/// A reader whose device has failed.
struct Broken;

impl Read for Broken {
    fn read(&mut self, _: &mut [u8]) -> io::Result<usize> {
        Err(io::Error::other("the disk cannot be read"))
    }
}

/// Keeps finished snapshots in memory.
#[derive(Clone, Default)]
struct Kept(Arc<Mutex<BTreeMap<LogId, Vec<u8>>>>);

impl Kept {
    fn states(&self) -> std::sync::MutexGuard<'_, BTreeMap<LogId, Vec<u8>>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

struct Sink {
    kept: Kept,
    id: LogId,
    state: Vec<u8>,
}

impl SnapshotStore for Kept {
    fn create(&self, snapshot: &Snapshot) -> io::Result<Box<dyn SnapshotSink>> {
        Ok(Box::new(Sink { kept: self.clone(), id: snapshot.last, state: Vec::new() }))
    }

    fn open(&self, id: LogId) -> io::Result<Box<dyn Read + Send>> {
        let state = self.states().get(&id).cloned().ok_or(io::ErrorKind::NotFound)?;
        Ok(Box::new(io::Cursor::new(state)))
    }

    fn remove_before(&self, _base: LogId, _kept: &[LogId]) -> io::Result<()> {
        Ok(())
    }
}

impl Write for Sink {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.state.extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl SnapshotSink for Sink {
    fn finish(self: Box<Self>) -> io::Result<()> {
        self.kept.states().insert(self.id, self.state);
        Ok(())
    }
}
