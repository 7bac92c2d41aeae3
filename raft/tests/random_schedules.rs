//! A few thousand random schedules of a small cluster, with the whole protocol and an ideal disk.
//! This is the fastest check after a change; the simulator searches much further.

use bytes::Bytes;
use raft::{
    Action, Applied, Change, Config, Entry, HardState, Incarnation, Index, LogId, LogStart, Member,
    Membership, Message, NodeId, Now, Payload, RawNode, ReadProof, Restored, Snapshot,
    SnapshotOffer, SnapshotStatus, TakeSnapshot, Write,
};
use std::collections::{BTreeMap, BTreeSet};

/// The content of a node's disk.
#[derive(Clone)]
struct Disk {
    hard_state: HardState,
    snapshot: Snapshot,
    entries: Vec<Entry>,
}

impl Disk {
    /// That of a node which knows no membership.
    fn empty() -> Self {
        let snapshot = Snapshot::initial(Membership::default());
        Disk { hard_state: HardState::default(), snapshot, entries: Vec::new() }
    }

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
    node: RawNode,
    incarnation: Incarnation,
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
    /// The membership changes now and then.
    churns: bool,
    /// Changes that were begun, and memberships that came into force by them.
    changes: u64,
    entered: u64,
    wiped: u64,
    /// Ticks that a node had declared idle.
    idled: u64,
}

impl Cluster {
    /// A cluster of `size` voters, and of `spares` nodes that are no members yet.
    fn new(size: u64, spares: u64, seed: u64) -> Self {
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
            churns: spares > 0,
            changes: 0,
            entered: 0,
            wiped: 0,
            idled: 0,
        };
        for id in 0..size + spares {
            let disk = if id < size { disk.clone() } else { Disk::empty() };
            let incarnation = Incarnation(id + 100);
            let node = start(id, incarnation, 0, seed, disk.clone());
            cluster.members.push(Peer {
                node,
                incarnation,
                disk,
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
            0..12 => self.tick(at),
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
                if let Ok(read) =
                    self.members[at].node.read(Now::default(), ReadProof::Linearizable)
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
                return self.transfer();
            }
            98.. => match self.draw(40) {
                14..26 if self.churns => self.change_members(),
                0..12 => self.restart(at),
                12 => self.cut = Some(NodeId(at as u64)),
                13 => self.cut = None,
                _ => {}
            },
            _ => {}
        }
        self.poll(at);
    }

    fn tick(&mut self, at: usize) {
        let node = &mut self.members[at].node;
        let idle = node.idle_ticks();
        node.tick(Now::default());
        if idle > 0 {
            assert_eq!(node.poll().map(|action| format!("{action:?}")), None, "an idle tick acts");
            let left = node.idle_ticks();
            assert!(left + 1 >= idle, "of {idle} idle ticks {left} are left after one");
            self.idled += 1;
        }
    }

    /// A step of a time in which nothing fails: every node ticks, every message arrives, every
    /// write reaches the disk.
    fn calm(&mut self, round: usize) {
        for at in 0..self.members.len() {
            self.tick(at);
            if round.is_multiple_of(10) {
                let _ = self.members[at].node.propose(Now::default(), Bytes::from_static(b"y"));
            }
            self.poll(at);
        }
        for _ in 0..20 {
            for message in std::mem::take(&mut self.network) {
                let to = message.to.0 as usize;
                self.members[to].node.step(Now::default(), message);
                self.poll(to);
            }
            for at in 0..self.members.len() {
                if let Some(write) = self.members[at].write.take() {
                    self.members[at].disk.write(&write);
                    self.members[at].node.persisted(Now::default(), write.durable());
                }
                if let Some(order) = self.members[at].snapshot.take() {
                    self.members[at].node.compact(Now::default(), order.durable());
                }
                self.poll(at);
            }
            if !self.offers.is_empty() {
                self.transfer();
            }
        }
    }

    fn transfer(&mut self) {
        let offer = self.offers.remove(0);
        let (from, to) = (offer.from.0 as usize, offer.to.0 as usize);
        let snapshot = offer.snapshot.last;
        let order = self.members[to].node.accept(offer);
        let accepted = order.is_some();
        if let Some(order) = order {
            self.members[to].node.install(Now::default(), order.durable());
        }
        self.poll(to);
        let status = SnapshotStatus::of(accepted, 0);
        self.members[from].node.snapshot_sent(NodeId(to as u64), snapshot, status);
        self.poll(from);
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
        let (incarnation, disk) = (member.incarnation, member.disk.clone());
        member.node = start(at as u64, incarnation, member.starts, seed, disk);
    }

    /// Declares a random membership at each node that leads. A node that was removed gets a new
    /// disk first.
    fn change_members(&mut self) {
        for at in 0..self.members.len() {
            if !self.members[at].node.is_leader() {
                continue;
            }
            let status = self.members[at].node.status();
            let is_committed = status.membership_index <= status.commit;
            let (mut members, mut voters) = (BTreeMap::new(), BTreeSet::new());
            for id in 0..self.members.len() {
                let node = NodeId(id as u64);
                let was_removed = status.membership.removed.get(&node);
                if was_removed == Some(&self.members[id].incarnation) {
                    if is_committed {
                        self.wipe(id);
                    }
                    continue;
                }
                let member = status.membership.members.get(&node).cloned();
                let is_voter = self.draw(2) == 0;
                if is_voter || self.draw(4) == 0 {
                    let new = Member {
                        incarnation: self.members[id].incarnation,
                        peer_address: String::new(),
                        client_address: String::new(),
                    };
                    members.insert(node, member.unwrap_or(new));
                }
                if is_voter {
                    voters.insert(node);
                }
            }
            let mut change = Change::to(members, voters);
            change.force = self.draw(4) == 0;
            change.catch_up_ms = 200;
            let begun = self.members[at].node.set_members(Now::default(), change);
            self.changes += u64::from(begun.is_ok());
            self.poll(at);
        }
    }

    fn wipe(&mut self, at: usize) {
        let member = &mut self.members[at];
        member.incarnation.0 += 100;
        member.disk = Disk::empty();
        (member.write, member.snapshot) = (None, None);
        member.reads.clear();
        member.starts += 1;
        let (incarnation, disk) = (member.incarnation, member.disk.clone());
        member.node = start(at as u64, incarnation, member.starts, self.random, disk);
        self.wiped += 1;
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
                        let is_new = !self.committed.contains_key(&entry.id.index);
                        if let Payload::Membership(membership) = &entry.payload {
                            self.entered += u64::from(is_new && !membership.is_changing());
                        }
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

fn start(id: u64, incarnation: Incarnation, starts: u64, seed: u64, disk: Disk) -> RawNode {
    let mut config = Config::new(NodeId(id), incarnation, starts);
    config.seed = seed ^ id;
    config.heartbeat_ticks = 2;
    config.election_ticks = 10;
    config.snapshot_log_bytes = 2_000;
    config.retained_bytes = 400;
    config.append_bytes_max = 200;
    config.write_bytes_max = 200;
    config.apply_bytes_max = 300;
    let Disk { hard_state, snapshot, entries } = disk;
    RawNode::new(config, Restored { hard_state, snapshot, entries }).expect("a sound configuration")
}

#[test]
fn no_schedule_breaks_a_promise_and_all_of_the_protocol_is_exercised() {
    let (mut commands, mut served, mut restored, mut terms) = (0, 0, 0, 0);
    for seed in 1..=200 {
        let mut cluster = Cluster::new(if seed % 3 == 0 { 5 } else { 3 }, 0, seed);
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
    assert!(commands > 5_000 && served > 1_000 && restored > 10 && terms > 300);
}

/// Between one and seven nodes, any of which may become voters, learners or strangers at any time.
#[test]
fn no_change_of_the_membership_breaks_a_promise() {
    let (mut commands, mut changes, mut entered, mut wiped, mut stuck) = (0, 0, 0, 0, 0);
    let mut idled = 0;
    let seeds = std::env::var("SIM_SEEDS").ok().and_then(|n| n.parse().ok()).unwrap_or(200);
    for seed in 1..=seeds {
        let size = 1 + seed % 4;
        let mut cluster = Cluster::new(size, 6 - size, seed);
        for _ in 0..8_000 {
            cluster.step();
        }
        // Then nothing fails any more: there is a leader, and whatever was begun is finished.
        (cluster.cut, cluster.churns) = (None, false);
        let before = cluster.committed.len();
        for round in 0..400 {
            cluster.calm(round);
        }
        stuck += u64::from(cluster.committed.len() == before);
        let is_command = |entry: &&Entry| matches!(entry.payload, Payload::Command(_));
        commands += cluster.committed.values().filter(is_command).count();
        changes += cluster.changes;
        entered += cluster.entered;
        wiped += cluster.wiped;
        idled += cluster.idled;
        let leads = |peer: &&Peer| peer.node.is_leader() && peer.node.status().serving;
        let leader = cluster.members.iter().find(leads).map(|peer| peer.node.status());
        if leader.is_none() {
            for peer in &cluster.members {
                let s = peer.node.status();
                println!(
                    "{} inc {} {:?} t{} leader {:?} last {} durable {} commit {} base {} notmem {} removed {} m@{} v{:?} o{:?} members {:?} t{:?} removed {:?} lost {:?}",
                    s.id,
                    peer.incarnation,
                    s.role,
                    s.term,
                    s.leader,
                    s.last,
                    s.durable,
                    s.commit,
                    s.snapshot.last,
                    s.not_a_member,
                    s.removed,
                    s.membership_index,
                    s.membership.voters,
                    s.membership.outgoing,
                    s.membership
                        .members
                        .iter()
                        .map(|(i, m)| (i.0, m.incarnation.0))
                        .collect::<Vec<_>>(),
                    s.membership.target,
                    s.membership.removed,
                    s.lost
                );
            }
        }
        let leader = leader.unwrap_or_else(|| panic!("seed {seed}: nobody leads"));
        assert!(!leader.membership.is_joint(), "seed {seed}: {:?}", leader.membership);
    }
    println!("{commands} commands, {changes} changes, {entered} entered, {wiped} wiped");
    assert_eq!(stuck, 0, "clusters that commit nothing any more");
    assert!(commands as u64 > 10 * seeds && changes > seeds && entered > seeds && wiped > seeds);
    assert!(idled > seeds, "only {idled} ticks were idle");
}

#[test]
fn a_cluster_of_one_commits_only_what_is_on_its_disk() {
    let mut cluster = Cluster::new(1, 0, 7);
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
