//! A few thousand random schedules of a small cluster, with the whole protocol and an ideal disk.
//! This is the fastest check after a change; the simulator searches much further.

use bytes::Bytes;
use raft::{
    Action, Applied, Config, Entry, HardState, Incarnation, Index, LogId, LogStart, Member,
    Membership, Message, Node, NodeId, Now, Payload, ReadMode, Restored, Snapshot, SnapshotOffer,
    TakeSnapshot, Write,
};
use std::collections::BTreeMap;

/// The content of a node's disk.
#[derive(Clone)]
struct Disk {
    hard_state: HardState,
    snapshot: Snapshot,
    entries: Vec<Entry>,
}

impl Disk {
    fn write(&mut self, write: &Write) {
        self.hard_state = write.hard_state;
        match &write.log_start {
            Some(LogStart::Compact(snapshot)) => {
                self.entries.retain(|entry| entry.id.index > snapshot.last.index);
                self.snapshot = snapshot.clone();
            }
            Some(LogStart::Reset(snapshot)) => {
                self.entries.clear();
                self.snapshot = snapshot.clone();
            }
            None => {}
        }
        if let Some(first) = write.entries.first() {
            self.entries.retain(|entry| entry.id.index < first.id.index);
            self.entries.extend(write.entries.iter().cloned());
        }
    }
}

struct Peer {
    node: Node,
    disk: Disk,
    write: Option<Write>,
    snapshot: Option<TakeSnapshot>,
    starts: u64,
    reads: BTreeMap<raft::ReadId, Index>,
}

struct Cluster {
    members: Vec<Peer>,
    network: Vec<Message>,
    offers: Vec<SnapshotOffer>,
    committed: BTreeMap<Index, Entry>,
    leaders: BTreeMap<raft::Term, NodeId>,
    random: u64,
    /// The node that no message reaches for now.
    cut: Option<NodeId>,
    served: u64,
    restored: u64,
}

impl Cluster {
    fn new(size: u64, seed: u64) -> Self {
        let member = |id: u64| Member {
            incarnation: Incarnation(id + 100),
            peer_address: String::new(),
            client_address: String::new(),
        };
        let members = (0..size).map(|id| (NodeId(id), member(id))).collect();
        let snapshot = Snapshot::initial(Membership::of_voters(members));
        let disk = Disk { hard_state: HardState::default(), snapshot, entries: Vec::new() };
        let mut cluster = Cluster {
            members: Vec::new(),
            network: Vec::new(),
            offers: Vec::new(),
            committed: BTreeMap::new(),
            leaders: BTreeMap::new(),
            random: seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1,
            cut: None,
            served: 0,
            restored: 0,
        };
        for id in 0..size {
            let node = start(id, 0, seed, disk.clone());
            cluster.members.push(Peer {
                node,
                disk: disk.clone(),
                write: None,
                snapshot: None,
                starts: 0,
                reads: BTreeMap::new(),
            });
        }
        cluster
    }

    fn draw(&mut self, below: usize) -> usize {
        self.random ^= self.random << 13;
        self.random ^= self.random >> 7;
        self.random ^= self.random << 17;
        (self.random % below as u64) as usize
    }

    fn step(&mut self) {
        let at = self.draw(self.members.len());
        match self.draw(100) {
            0..12 => self.members[at].node.tick(Now::default()),
            12..66 if !self.network.is_empty() => {
                let which = self.draw(self.network.len().min(8));
                let message = self.network.remove(which);
                match self.draw(20) {
                    0 => return,
                    _ if self.cut == Some(message.from) || self.cut == Some(message.to) => return,
                    1 => self.network.push(message.clone()),
                    _ => {}
                }
                let to = message.to.0 as usize;
                self.members[to].node.step(Now::default(), message);
                return self.poll(to);
            }
            66..80 => {
                if let Some(write) = self.members[at].write.take() {
                    self.members[at].disk.write(&write);
                    self.members[at].node.persisted(Now::default(), write.durable());
                }
            }
            80..90 => {
                let _ = self.members[at].node.propose(Now::default(), Bytes::from_static(b"x"));
            }
            90..94 => {
                let newest = self.committed.last_key_value().map(|(at, _)| *at);
                if let Ok(read) = self.members[at].node.read(Now::default(), ReadMode::Linearizable)
                {
                    self.members[at].reads.insert(read, newest.unwrap_or_default());
                }
            }
            94..96 => {
                if let Some(order) = self.members[at].snapshot.take() {
                    self.members[at].node.compact(Now::default(), order.durable());
                }
            }
            96..=97 if !self.offers.is_empty() => {
                let offer = self.offers.remove(0);
                let (from, to) = (offer.from.0 as usize, offer.to.0 as usize);
                let snapshot = offer.snapshot.last;
                let order = self.members[to].node.accept(offer);
                let accepted = order.is_some();
                if let Some(order) = order {
                    self.members[to].node.install(Now::default(), order.durable());
                }
                self.poll(to);
                self.members[from].node.snapshot_sent(NodeId(to as u64), snapshot, accepted);
                return self.poll(from);
            }
            98.. => match self.draw(40) {
                0..12 => self.restart(at),
                12 => self.cut = Some(NodeId(at as u64)),
                13 => self.cut = None,
                _ => {}
            },
            _ => {}
        }
        self.poll(at);
    }

    fn restart(&mut self, at: usize) {
        let seed = self.random;
        let survived = self.draw(2) == 0;
        let member = &mut self.members[at];
        if let Some(write) = member.write.take().filter(|_| survived) {
            member.disk.write(&write);
        }
        member.snapshot = None;
        member.reads.clear();
        member.starts += 1;
        member.node = start(at as u64, member.starts, seed, member.disk.clone());
    }

    fn poll(&mut self, at: usize) {
        while let Some(action) = self.members[at].node.poll() {
            match action {
                Action::Persist(write) => {
                    assert!(self.members[at].write.is_none(), "one write is out at a time");
                    self.members[at].write = Some(write);
                }
                Action::Send(message) => self.network.push(message),
                Action::Apply(apply) => {
                    for entry in &apply.entries {
                        let known = self.committed.entry(entry.id.index).or_insert(entry.clone());
                        assert_eq!(known, entry, "what is committed changes");
                    }
                    let done: Applied = apply.applied();
                    self.members[at].node.applied(Now::default(), done);
                }
                Action::Serve(read) => {
                    let newest = self.members[at].reads.remove(&read).expect("a read of ours");
                    let applied = self.members[at].node.applied_index();
                    assert!(applied >= newest, "a stale read: {applied} < {newest}");
                    self.served += 1;
                }
                Action::Refuse(read) => {
                    self.members[at].reads.remove(&read).expect("a read of ours");
                }
                Action::Forwarded { .. } => unreachable!("nothing is forwarded here"),
                Action::TakeSnapshot(order) => self.members[at].snapshot = Some(order),
                Action::SendSnapshot(offer) => self.offers.push(offer),
                Action::Restore(order) => {
                    self.restored += 1;
                    self.members[at].node.applied(Now::default(), order.restored());
                }
            }
        }
        let node = &self.members[at].node;
        assert_eq!(node.broken_invariant(), None);
        if node.is_leader() {
            let known = *self.leaders.entry(node.term()).or_insert(NodeId(at as u64));
            assert_eq!(known, NodeId(at as u64), "two leaders in term {}", node.term());
        }
        if self.network.len() > 200 {
            self.network.drain(..100);
        }
    }
}

fn start(id: u64, starts: u64, seed: u64, disk: Disk) -> Node {
    let mut config = Config::new(NodeId(id), Incarnation(id + 100), starts);
    config.seed = seed ^ id;
    config.heartbeat_ticks = 2;
    config.election_ticks = 10;
    config.snapshot_log_bytes = 2_000;
    config.retained_bytes = 400;
    config.append_bytes_max = 200;
    config.write_bytes_max = 200;
    config.apply_bytes_max = 300;
    let Disk { hard_state, snapshot, entries } = disk;
    Node::new(config, Restored { hard_state, snapshot, entries }).expect("a sound configuration")
}

#[test]
fn no_schedule_breaks_a_promise_and_all_of_the_protocol_is_exercised() {
    let (mut commands, mut served, mut restored, mut terms) = (0, 0, 0, 0);
    for seed in 1..=200 {
        let mut cluster = Cluster::new(if seed % 3 == 0 { 5 } else { 3 }, seed);
        for _ in 0..5_000 {
            cluster.step();
        }
        let is_command = |entry: &&Entry| matches!(entry.payload, Payload::Command(_));
        commands += cluster.committed.values().filter(is_command).count();
        served += cluster.served;
        restored += cluster.restored;
        terms += cluster.leaders.len();
    }
    println!(
        "{commands} commands, {served} reads, {restored} snapshots installed, {terms} leaders"
    );
    assert!(commands > 5_000 && served > 1_000 && restored > 20 && terms > 300);
}

#[test]
fn a_cluster_of_one_commits_only_what_is_on_its_disk() {
    let mut cluster = Cluster::new(1, 7);
    while cluster.members[0].write.is_none() {
        cluster.members[0].node.tick(Now::default());
        cluster.poll(0);
    }
    assert!(!cluster.members[0].node.is_leader(), "its own vote is not durable yet");
    let write = cluster.members[0].write.take().expect("the vote is being written");
    cluster.members[0].node.persisted(Now::default(), write.durable());
    assert!(cluster.members[0].node.is_leader());
    cluster.poll(0);
    assert_eq!(cluster.members[0].node.last(), LogId::new(1, 1));
    assert_eq!(cluster.members[0].node.commit(), Index(0), "its own copy is not durable yet");
    let write = cluster.members[0].write.take().expect("the entry is being written");
    cluster.members[0].node.persisted(Now::default(), write.durable());
    assert_eq!(cluster.members[0].node.commit(), Index(1));
}
