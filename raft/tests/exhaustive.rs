//! An exhaustive search of all schedules of three real cores within a bound. It needs no seed and
//! no luck.
//!
//! The bound limits deviations. Without a deviation a world runs in order: messages arrive and
//! writes become durable in the order in which they were begun. A deviation is one of these:
//!
//! - the next event is postponed until after everything that is pending,
//! - a message is lost or arrives twice,
//! - a node crashes and restarts from its disk,
//! - a node campaigns (it has received nothing from a leader for long),
//! - a client proposes.
//!
//! A change of the membership is begun by the beginning of a run, and goes on by itself: the leader
//! ticks after each event for as long as its membership changes. Node 4, where there is one, is a
//! learner at first.
//!
//! Every way to place this number of deviations in a run is tried, from several beginnings. States
//! seen before are not searched again. A few deviations are enough: two leaders in one term, or a
//! lost entry, need two or three.
//!
//! `SIM_DEVIATIONS` raises the bound of the ordinary tests. The search with a change has a bound of
//! one less.
// Only looked up in, never iterated.
#![allow(clippy::disallowed_types)]

use bytes::Bytes;
use raft::{
    Action, Change, Config, Entry, HardState, Incarnation, Index, LogId, Member, Membership,
    Message, NodeId, Now, Payload, RawNode, Restored, Snapshot, Term, Write,
};
use std::collections::{BTreeMap, HashSet, VecDeque};
use std::hash::{DefaultHasher, Hash, Hasher};

/// The bound of the ordinary tests, which then take seconds.
const DEVIATIONS: u8 = 2;

/// Steps after which a run ends even if events are pending: some runs would never end.
const STEPS_MAX: usize = 80;

/// Ticks without a leader after which its followers would elect another.
const PATIENCE_TICKS: u32 = 100;

#[derive(Clone)]
struct Peer {
    node: RawNode,
    hard_state: HardState,
    entries: Vec<Entry>,
    write: Option<Write>,
    starts: u64,
}

/// A pending event, which happens without a deviation.
#[derive(Clone, Debug, PartialEq)]
enum Pending {
    Arrives(Message),
    Synced(usize),
}

#[derive(Clone, Copy, Debug)]
enum Event {
    /// The next pending event happens: the only event that is no deviation.
    Next,
    PutOff,
    Lose,
    Repeat,
    Campaign(usize),
    Propose(usize),
    Crash(usize),
    /// The node changes the membership to these voters.
    Change(usize, &'static [u64]),
}

#[derive(Clone)]
struct World {
    peers: Vec<Peer>,
    pending: VecDeque<Pending>,
    deviations: u8,
    /// The node with a slow disk: its writes become durable only when nothing else is pending.
    slow: Option<usize>,
    leaders: BTreeMap<Term, NodeId>,
    committed: BTreeMap<Index, LogId>,
    /// Memberships in which no change is in progress, other than the first, that are committed.
    changed: usize,
    /// The events that led here, for the message of a failure.
    path: Vec<Event>,
}

fn membership(nodes: u64) -> Membership {
    let member = |id: u64| Member {
        incarnation: Incarnation(id),
        peer_address: String::new(),
        client_address: String::new(),
    };
    let members = (1..=nodes).map(|id| (NodeId(id), member(id))).collect();
    let voters = (1..=3).map(NodeId).collect();
    Membership { members, voters, ..Membership::default() }
}

fn start(nodes: u64, id: u64, starts: u64, hard_state: HardState, entries: Vec<Entry>) -> RawNode {
    let mut config = Config::new(NodeId(id), Incarnation(id), starts);
    config.election_ticks = PATIENCE_TICKS;
    config.heartbeat_ticks = PATIENCE_TICKS / 2;
    let snapshot = Snapshot::initial(membership(nodes));
    RawNode::new(config, Restored { hard_state, snapshot, entries }).expect("a sound configuration")
}

impl World {
    fn new(nodes: u64) -> Self {
        let peer = |id| Peer {
            node: start(nodes, id, 0, HardState::default(), Vec::new()),
            hard_state: HardState::default(),
            entries: Vec::new(),
            write: None,
            starts: 0,
        };
        World {
            peers: (1..=nodes).map(peer).collect(),
            pending: VecDeque::new(),
            deviations: u8::MAX,
            slow: None,
            leaders: BTreeMap::new(),
            committed: BTreeMap::new(),
            changed: 0,
            path: Vec::new(),
        }
    }

    /// A beginning: each event, followed by the given number of pending events.
    fn begun_with(nodes: u64, events: &[(Event, usize)]) -> Self {
        let mut world = World::new(nodes);
        for (event, steps) in events {
            world = world.after(*event);
            for _ in 0..*steps {
                if !world.pending.is_empty() {
                    world = world.after(Event::Next);
                }
            }
        }
        world
    }

    /// The next events happen until the membership of the first node is like this.
    fn until(mut self, is_so: impl Fn(&Membership) -> bool) -> Self {
        while !is_so(self.peers[0].node.membership()) {
            assert!(!self.pending.is_empty(), "the change goes on");
            self = self.after(Event::Next);
        }
        self
    }

    fn without_messages_to(mut self, nodes: &[u64]) -> Self {
        let is_lost = |pending: &Pending| match pending {
            Pending::Arrives(message) => nodes.contains(&message.to.0),
            Pending::Synced(_) => false,
        };
        self.pending.retain(|pending| !is_lost(pending));
        self
    }

    fn events(&self) -> Vec<Event> {
        let mut events = Vec::new();
        match self.pending.front() {
            Some(Pending::Arrives(_)) => {
                events.extend([Event::Next, Event::PutOff, Event::Lose, Event::Repeat]);
            }
            Some(Pending::Synced(_)) => events.extend([Event::Next, Event::PutOff]),
            None => {}
        }
        for (at, peer) in self.peers.iter().enumerate() {
            events.push(match peer.node.is_leader() {
                true => Event::Propose(at),
                false => Event::Campaign(at),
            });
            events.push(Event::Crash(at));
        }
        if self.deviations == 0 {
            events.retain(|event| matches!(event, Event::Next));
        }
        events
    }

    fn after(&self, event: Event) -> World {
        let mut world = self.clone();
        world.path.push(event);
        if !matches!(event, Event::Next) {
            world.deviations -= 1;
        }
        if world.pending.iter().any(|pending| !world.is_slow(pending)) {
            while world.pending.front().is_some_and(|pending| world.is_slow(pending)) {
                world.pending.rotate_left(1);
            }
        }
        match event {
            Event::Next => match world.pending.pop_front() {
                Some(Pending::Arrives(message)) => world.arrives(message),
                Some(Pending::Synced(at)) => world.synced(at),
                None => {}
            },
            Event::PutOff => world.pending.rotate_left(1),
            Event::Lose => {
                world.pending.pop_front();
            }
            Event::Repeat => world.pending.extend(world.pending.front().cloned()),
            Event::Campaign(at) => {
                // Enough time has passed for every node to miss the leader.
                for other in 0..world.peers.len() {
                    let node = &mut world.peers[other].node;
                    if !node.is_leader() {
                        (0..PATIENCE_TICKS).for_each(|_| node.tick(Now::default()));
                    }
                    world.poll(other);
                }
                world.peers[at].node.campaign(Now::default());
                world.poll(at);
            }
            Event::Propose(at) => {
                let _ = world.peers[at].node.propose(Now::default(), Bytes::from_static(b"x"));
                world.poll(at);
            }
            Event::Crash(at) => world.crash(at),
            Event::Change(at, voters) => {
                let members = membership(world.peers.len() as u64).members;
                let change = Change::to(members, voters.iter().copied().map(NodeId).collect());
                let begun = world.peers[at].node.set_members(Now::default(), change);
                begun.expect("the leader is settled");
                world.poll(at);
            }
        }
        world.changes_go_on();
        world
    }

    /// A leader takes the next step of a change at a tick.
    fn changes_go_on(&mut self) {
        for at in 0..self.peers.len() {
            let node = &mut self.peers[at].node;
            let id = NodeId(at as u64 + 1);
            let goes_on = node.membership().is_changing() || !node.membership().is_voter(id);
            if node.is_leader() && goes_on {
                node.tick(Now::default());
                self.poll(at);
            }
        }
    }

    fn is_slow(&self, pending: &Pending) -> bool {
        self.slow.is_some_and(|slow| *pending == Pending::Synced(slow))
    }

    fn arrives(&mut self, message: Message) {
        let at = message.to.0 as usize - 1;
        self.peers[at].node.step(Now::default(), message);
        self.poll(at);
    }

    fn synced(&mut self, at: usize) {
        let peer = &mut self.peers[at];
        let Some(write) = peer.write.take() else { return };
        peer.hard_state = write.hard_state;
        if let Some(first) = write.entries.first() {
            peer.entries.truncate(first.id.index.0 as usize - 1);
            peer.entries.extend(write.entries.iter().cloned());
        }
        peer.node.persisted(Now::default(), write.durable());
        self.poll(at);
    }

    fn crash(&mut self, at: usize) {
        self.pending.retain(|pending| *pending != Pending::Synced(at));
        let nodes = self.peers.len() as u64;
        let peer = &mut self.peers[at];
        peer.write = None;
        peer.starts += 1;
        let (hard_state, entries) = (peer.hard_state, peer.entries.clone());
        peer.node = start(nodes, at as u64 + 1, peer.starts, hard_state, entries);
        self.poll(at);
    }

    fn poll(&mut self, at: usize) {
        let peer = &mut self.peers[at];
        while let Some(action) = peer.node.poll() {
            match action {
                Action::Persist(write) => {
                    peer.write = Some(write);
                    self.pending.push_back(Pending::Synced(at));
                }
                Action::Send(message) => self.pending.push_back(Pending::Arrives(message)),
                Action::Apply(apply) => peer.node.applied(Now::default(), apply.applied()),
                _ => {}
            }
        }
        self.check(at);
    }

    /// Checks the promises of the protocol that the event at this node may affect.
    fn check(&mut self, at: usize) {
        let Peer { node, hard_state, entries, .. } = &self.peers[at];
        assert_eq!(node.broken_invariant(), None, "after {:?}", self.path);
        if node.is_leader() {
            let known = *self.leaders.entry(node.term()).or_insert(NodeId(at as u64 + 1));
            assert_eq!(known.0 as usize, at + 1, "two leaders in a term, after {:?}", self.path);
            for (index, id) in &self.committed {
                let has = node.entry(*index).map(|entry| entry.id) == Some(*id);
                assert!(has || id.term > node.term(), "a leader lacks {id}, after {:?}", self.path);
            }
        }
        // The node counts only what is on its disk as durable.
        assert_eq!(hard_state, node.durable_hard_state(), "after {:?}", self.path);
        assert!(entries.len() as u64 >= node.durable_index().0, "after {:?}", self.path);
        let mut index = Index(1);
        while index <= node.commit() {
            let entry = node.entry(index).expect("nothing is compacted here");
            let (id, is_news) = (entry.id, !self.committed.contains_key(&index));
            if let (true, Payload::Membership(entered)) = (is_news, &entry.payload) {
                self.changed += usize::from(!entered.is_changing());
            }
            let known = *self.committed.entry(index).or_insert(id);
            assert_eq!(known, id, "what is committed changes, after {:?}", self.path);
            let on_disk = |node: NodeId| {
                let entries = &self.peers[node.0 as usize - 1].entries;
                entries.get(index.0 as usize - 1).map(|entry| entry.id) == Some(id)
            };
            if is_news {
                assert!(node.is_leader(), "{id} is committed first here, after {:?}", self.path);
                let membership = in_force(node, self.peers.len() as u64);
                // Not by the core's own function, which may be wrong.
                let halves = [Some(&membership.voters), membership.outgoing.as_ref()];
                let is_safe = halves.into_iter().flatten().all(|half| {
                    half.iter().filter(|node| on_disk(**node)).count() * 2 > half.len()
                });
                assert!(is_safe, "{id} is not on the disks of a quorum, after {:?}", self.path);
            }
            index = index.next();
        }
    }

    fn fingerprint(&self) -> u64 {
        let mut hasher = DefaultHasher::new();
        for peer in &self.peers {
            peer.node.fingerprint().hash(&mut hasher);
            format!("{:?}{:?}", peer.hard_state, peer.entries).hash(&mut hasher);
        }
        format!("{:?}", self.pending).hash(&mut hasher);
        self.deviations.hash(&mut hasher);
        hasher.finish()
    }
}

/// The membership in force on a node: the latest in its log (§4.1).
fn in_force(node: &RawNode, nodes: u64) -> Membership {
    let mut index = node.last().index;
    while index > Index(0) {
        if let Some(Payload::Membership(membership)) = node.entry(index).map(|e| &e.payload) {
            return (**membership).clone();
        }
        index = Index(index.0 - 1);
    }
    membership(nodes)
}

/// The results of a search.
#[derive(Default)]
struct Seen {
    states: HashSet<u64>,
    committed: usize,
    leaders: usize,
    changed: usize,
}

fn search(mut start: World, deviations: u8, seen: &mut Seen) {
    start.deviations = deviations;
    start.path.clear();
    let mut stack = vec![start];
    while let Some(world) = stack.pop() {
        seen.committed = seen.committed.max(world.committed.len());
        seen.leaders = seen.leaders.max(world.leaders.len());
        seen.changed = seen.changed.max(world.changed);
        if world.path.len() >= STEPS_MAX {
            continue;
        }
        for event in world.events() {
            let next = world.after(event);
            if seen.states.insert(next.fingerprint()) {
                stack.push(next);
            }
        }
    }
}

/// The bound of this run.
fn deviations() -> u8 {
    let given = std::env::var("SIM_DEVIATIONS").ok().and_then(|n| n.parse().ok());
    given.unwrap_or(DEVIATIONS)
}

#[test]
fn no_schedule_within_the_bound_breaks_a_promise() {
    let led = World::begun_with(3, &[(Event::Campaign(0), 200), (Event::Propose(0), 0)]);
    let beginnings = [
        // Two candidates at once.
        World::begun_with(3, &[(Event::Campaign(0), 0), (Event::Campaign(1), 0)]),
        // A leader that all nodes follow, and a command in flight.
        led.clone(),
        // The same with a slow disk at the leader, or at a follower.
        World { slow: Some(0), ..led.clone() },
        World { slow: Some(1), ..led },
        // Only the leader's own disk has the command, and another node is about to be elected (the
        // beginning of Figure 3.7 of the thesis).
        World::begun_with(
            3,
            &[
                (Event::Campaign(0), 200),
                (Event::Propose(0), 0),
                (Event::Lose, 0),
                (Event::Lose, 1),
                (Event::Crash(0), 100),
                (Event::Campaign(1), 6),
            ],
        ),
    ];
    let mut seen = Seen::default();
    for beginning in beginnings {
        search(beginning, deviations(), &mut seen);
        println!("{} states", seen.states.len());
    }
    assert!(seen.states.len() > 20_000, "it has hardly searched");
    assert!(seen.committed >= 3, "no search committed a command");
    assert!(seen.leaders >= 2, "no search saw a second leader");
}

#[test]
fn no_schedule_within_the_bound_breaks_a_change_of_the_membership() {
    const TARGETS: [&[u64]; 4] = [&[2, 3, 4], &[1, 4], &[1, 2, 3, 4], &[4]];
    let mut seen = Seen::default();
    for voters in TARGETS {
        let led = [(Event::Campaign(0), 200), (Event::Propose(0), 200)];
        let planned = World::begun_with(4, &[led[0], led[1], (Event::Change(0, voters), 0)]);
        let joint = planned.clone().until(|membership| membership.is_joint());
        let entered = joint.clone().until(|membership| !membership.is_changing());
        // The followers of the old configuration may not get the entry.
        for stage in [planned, joint, entered] {
            // The runs are longer than those without a change, and have more states.
            search(stage.clone().without_messages_to(&[2, 3]), deviations() - 1, &mut seen);
            search(stage, deviations() - 1, &mut seen);
        }
        println!("{voters:?}: {} states", seen.states.len());
    }
    assert!(seen.changed >= 1, "no search finished a change");
    assert!(seen.leaders >= 2, "no search saw a second leader");
}
