//! The cluster: its nodes, the messages in flight, and the work orders that are pending.

use super::checks::Checks;
use super::disk::Disk;
use super::print::{self, Show};
use raft::{
    Action, Apply, Body, Config, Durable, Incarnation, Index, LeaseConfig, LogId, Member,
    Membership, Message, NodeId, Now, RawNode, ReceiveSnapshot, Restore, RoleKind, Snapshot,
    SnapshotOffer, SnapshotStatus, TakeSnapshot, Write, entry_hash,
};
use std::collections::{BTreeMap, BTreeSet};

/// More actions than any event can cause: `poll` must come to an end.
const ACTIONS_MAX: usize = 10_000;

pub struct Peer {
    pub disk: Disk,
    /// `None` while the node is down.
    pub node: Option<RawNode>,
    pub write: Option<Write>,
    /// Receipts for writes that are on disk, not passed to the node yet.
    pub receipts: Vec<Durable>,
    pub machine: Option<Machine>,
    pub applied: Index,
    pub taking: Option<TakeSnapshot>,
    /// Snapshots whose bytes have been received, not installed yet.
    pub received: Vec<ReceiveSnapshot>,
    pub starts: u64,
    pub now: Now,
    /// The state machine will apply something other than the next batch.
    pub flipped: bool,
}

/// A pending order for the state machine.
pub enum Machine {
    Apply(Apply),
    Restore(Box<Restore>),
}

#[derive(Default)]
pub struct Cluster {
    pub peers: BTreeMap<u64, Peer>,
    /// Messages in flight, in the order in which they were sent.
    pub network: Vec<Message>,
    /// Snapshots under way.
    pub offers: Vec<SnapshotOffer>,
    /// Links that lose everything, from and to.
    pub cut: BTreeSet<(u64, u64)>,
    /// Orders of state machines are finished only by the command `machine`.
    pub hold_machines: bool,
    /// State machines report hashes of the entries that they apply.
    pub compares: bool,
    pub show: Show,
    pub settings: Vec<(String, u64)>,
    pub checks: Checks,
    pub initial: Option<Snapshot>,
    /// The output since it was last taken.
    pub output: String,
}

impl Cluster {
    pub fn start(&mut self, size: u64) {
        let members = (1..=size).map(|id| (NodeId(id), self.member(id))).collect();
        let snapshot = Snapshot::initial(Membership::of_voters(members));
        self.initial = Some(snapshot.clone());
        for id in 1..=size {
            self.add(id, snapshot.clone());
        }
        for id in 1..=size {
            self.boot(id);
        }
    }

    /// A node whose log begins after `snapshot`. It is down.
    pub fn add(&mut self, id: u64, snapshot: Snapshot) {
        let peer = Peer {
            disk: Disk::new(Incarnation(100 + id), snapshot),
            node: None,
            write: None,
            receipts: Vec::new(),
            machine: None,
            applied: Index(0),
            taking: None,
            received: Vec::new(),
            starts: 0,
            now: Now::default(),
            flipped: false,
        };
        self.peers.insert(id, peer);
    }

    /// The member that the node is, with the incarnation of its disk.
    pub fn member(&self, id: u64) -> Member {
        let incarnation = self.peers.get(&id).map_or(100 + id, |peer| peer.disk.incarnation.0);
        Member {
            incarnation: Incarnation(incarnation),
            peer_address: String::new(),
            client_address: String::new(),
        }
    }

    fn config(&self, id: u64, incarnation: Incarnation, starts: u64) -> Config {
        let mut config = Config::new(NodeId(id), incarnation, starts);
        config.seed = id;
        config.heartbeat_ticks = 2;
        config.election_ticks = 10;
        // Few ticks pass in a script, so every peer counts as replying.
        config.catch_up_bytes_max = 0;
        for (name, value) in &self.settings {
            let size = *value as usize;
            match name.as_str() {
                "append_bytes" => config.append_bytes_max = size,
                "inflight" => config.inflight_messages_max = size,
                "inflight_bytes" => config.inflight_bytes_max = size,
                "write_bytes" => config.write_bytes_max = size,
                "apply_bytes" => config.apply_bytes_max = size,
                "uncommitted_bytes" => config.uncommitted_bytes_max = size,
                "uncommitted_entries" => config.uncommitted_entries_max = size,
                "command_bytes" => config.command_bytes_max = size,
                "reads" => config.reads_max = size,
                "snapshot_bytes" => config.snapshot_log_bytes = size,
                "retained_bytes" => config.retained_bytes = size,
                "catch_up_bytes" => config.catch_up_bytes_max = size,
                // With 10 ticks of 10 ms a promise lasts 80 ms.
                "election_ticks" => config.election_ticks = *value as u32,
                "lease_drift_ppm" if *value == 0 => config.lease = None,
                "lease_drift_ppm" => {
                    let tick = std::time::Duration::from_millis(10);
                    config.lease = Some(LeaseConfig { tick, drift_ppm: *value as u32 });
                }
                // `priority_2=5`: n2 has priority 5.
                name if name.starts_with("priority_") => {
                    if name.ends_with(&format!("_{id}")) {
                        config.priority = *value as u8;
                    }
                }
                "campaign_at_start" => config.campaign_at_start = *value > 0,
                "clock_ticks" => config.clock_ticks = *value as u32,
                other => panic!("there is no setting {other}"),
            }
        }
        config
    }

    /// Starts a node from its disk.
    pub fn boot(&mut self, id: u64) {
        let peer = &self.peers[&id];
        assert!(peer.node.is_none(), "n{id} is up");
        let config = self.config(id, peer.disk.incarnation, peer.starts);
        let node =
            RawNode::new(config, peer.disk.restored()).expect("what the disk holds is sound");
        let peer = self.peer(id);
        peer.applied = peer.disk.snapshot.last.index;
        peer.node = Some(node);
        self.poll(id);
    }

    /// A power failure. The pending write is lost, or is kept if it was just done.
    pub fn crash(&mut self, id: u64, keep: bool) {
        let peer = self.peer(id);
        peer.node = None;
        if let Some(write) = peer.write.take().filter(|_| keep) {
            peer.disk.write(&write);
        }
        peer.machine = None;
        peer.taking = None;
        peer.received.clear();
        peer.starts += 1;
        self.offers.retain(|offer| offer.from.0 != id && offer.to.0 != id);
    }

    /// Passes an event to a node, if it is up, and carries out the resulting actions.
    pub fn event<T>(&mut self, id: u64, event: impl FnOnce(&mut RawNode, Now) -> T) -> Option<T> {
        let peer = self.peer(id);
        let now = peer.now;
        let result = peer.node.as_mut().map(|node| event(node, now));
        if result.is_some() {
            self.poll(id);
        }
        result
    }

    pub fn step(&mut self, message: Message) {
        let to = message.to.0;
        if self.event(to, |node, now| node.step(now, message)).is_none() {
            self.say(format!("n{to} is down"));
        }
    }

    /// The pending write reaches the disk. The receipt follows at once, or is held.
    pub fn sync(&mut self, id: u64, hold: bool) -> bool {
        let peer = self.peer(id);
        let Some(write) = peer.write.take() else { return false };
        peer.disk.write(&write);
        peer.receipts.push(write.durable());
        if !hold {
            self.receipt(id);
        }
        true
    }

    pub fn receipt(&mut self, id: u64) -> bool {
        let peer = self.peer(id);
        if peer.receipts.is_empty() {
            return false;
        }
        let done = peer.receipts.remove(0);
        self.event(id, |node, now| node.persisted(now, done));
        true
    }

    /// The state machine has carried out its order.
    pub fn machine_done(&mut self, id: u64) -> bool {
        let compares = self.compares;
        let Some(order) = self.peer(id).machine.take() else { return false };
        let done = match order {
            Machine::Apply(apply) => {
                let first = apply.entries[0].id.index;
                let peer = self.peer(id);
                assert_eq!(first, peer.applied.next(), "n{id} applies out of order");
                peer.applied = Index(peer.applied.0 + apply.entries.len() as u64);
                // Two nodes are wrong in different ways.
                let wrong = if std::mem::take(&mut peer.flipped) { id } else { 0 };
                let hashes = apply.entries.iter().map(|entry| entry_hash(entry, b"") ^ wrong);
                let hashes: Vec<u64> = hashes.collect();
                if compares { apply.applied_with(hashes) } else { apply.applied() }
            }
            Machine::Restore(restore) => {
                let peer = self.peer(id);
                assert_eq!(
                    peer.disk.snapshot, restore.snapshot,
                    "restored before the log is reset"
                );
                peer.applied = restore.snapshot.last.index;
                restore.restored()
            }
        };
        self.event(id, |node, now| node.applied(now, done));
        true
    }

    /// Carries out syncs, deliveries and snapshots until nothing is pending.
    pub fn stabilize(&mut self, among: &[u64]) {
        for _ in 0..1_000 {
            let mut quiet = true;
            for id in among {
                quiet &= !self.sync(*id, false);
                if let Some(order) = self.peer(*id).taking.take() {
                    quiet = false;
                    self.event(*id, |node, now| node.compact(now, order.durable()));
                }
            }
            let inside = |id: NodeId| among.contains(&id.0);
            let at = self.network.iter().position(|m| inside(m.from) && inside(m.to));
            // One message at a time, so links stay in order, but all messages of this round.
            let turn = self.network.iter().filter(|m| inside(m.from) && inside(m.to)).count();
            if at.is_some() {
                quiet = false;
                for _ in 0..turn {
                    let next = self.network.iter().position(|m| inside(m.from) && inside(m.to));
                    let message = self.network.remove(next.expect("counted"));
                    self.step(message);
                }
            }
            let at = self.offers.iter().position(|o| inside(o.from) && inside(o.to));
            if let Some(at) = at {
                quiet = false;
                let offer = self.offers.remove(at);
                self.transfer(offer);
            }
            if quiet {
                return;
            }
        }
        panic!("the cluster does not come to rest");
    }

    /// Carries out only what an election needs.
    pub fn elect(&mut self, id: u64, among: &[u64]) -> Result<(), String> {
        self.event(id, |node, now| node.campaign(now));
        for _ in 0..10 {
            for voter in among {
                // The leader's first entry is not part of the election.
                if !self.leads(id) {
                    self.sync(*voter, false);
                }
            }
            let of_election = |m: &Message| {
                let inside = among.contains(&m.from.0) && among.contains(&m.to.0);
                inside && (m.to.0 == id || m.from.0 == id) && is_about_votes(&m.body)
            };
            while let Some(at) = self.network.iter().position(of_election) {
                let message = self.network.remove(at);
                self.step(message);
            }
            if self.leads(id) {
                return Ok(());
            }
            let role = self.peers[&id].node.as_ref().map(|node| node.status().role);
            if role == Some(RoleKind::Follower) {
                // The pre-vote was rejected, but now the node knows the term.
                self.event(id, |node, now| node.campaign(now));
            }
        }
        Err(format!("n{id} is not elected\n{}", self.output))
    }

    fn leads(&self, id: u64) -> bool {
        self.peers[&id].node.as_ref().is_some_and(RawNode::is_leader)
    }

    /// A snapshot reaches its receiver whole, if it wants it.
    fn transfer(&mut self, offer: SnapshotOffer) {
        let (from, to, snapshot) = (offer.from.0, offer.to.0, offer.snapshot.last);
        let order = self.accept(offer);
        let accepted = order.is_some();
        if let Some(order) = order {
            self.event(to, |node, now| node.install(now, order.durable()));
        }
        self.sent(from, to, snapshot, SnapshotStatus::of(accepted, 0));
    }

    pub fn accept(&mut self, offer: SnapshotOffer) -> Option<ReceiveSnapshot> {
        let (to, last) = (offer.to.0, offer.snapshot.last);
        let order = self.peer(to).node.as_mut().and_then(|node| node.accept(offer));
        self.say(format!("n{to} {} {last}", if order.is_some() { "accepts" } else { "declines" }));
        order
    }

    pub fn sent(&mut self, from: u64, to: u64, snapshot: LogId, status: SnapshotStatus) {
        self.event(from, |node, _| node.snapshot_sent(NodeId(to), snapshot, status));
    }

    pub fn peer(&mut self, id: u64) -> &mut Peer {
        self.peers.get_mut(&id).unwrap_or_else(|| panic!("there is no n{id}"))
    }

    pub fn say(&mut self, line: String) {
        self.output += &line;
        self.output.push('\n');
    }

    fn poll(&mut self, id: u64) {
        for _ in 0..ACTIONS_MAX {
            let peer = self.peers.get_mut(&id).expect("a member");
            let Some(node) = &mut peer.node else { return };
            let Some(action) = node.poll() else {
                let node = self.peers[&id].node.as_ref().expect("it was just polled");
                self.checks.node(id, node, &self.peers);
                return;
            };
            self.act(id, action);
        }
        panic!("n{id} always has something to do");
    }

    fn act(&mut self, id: u64, action: Action) {
        let peer = self.peers.get_mut(&id).expect("a member");
        let line = match action {
            Action::Persist(write) => {
                assert!(peer.write.is_none(), "one write is out at a time");
                let line = format!("n{id} persist{}", print::write(&write, &peer.disk.hard_state));
                peer.write = Some(write);
                line
            }
            Action::Send(message) => {
                let node = peer.node.as_ref().expect("it was just polled");
                Checks::promise(&message, node, &peer.disk);
                let lost = self.cut.contains(&(message.from.0, message.to.0));
                let line = print::message(&message, if lost { "↛" } else { "→" }, self.show);
                if !lost {
                    self.network.push(message);
                }
                line
            }
            Action::Apply(apply) => {
                let line = format!("n{id} apply {}", print::entries(&apply.entries));
                peer.machine = Some(Machine::Apply(apply));
                line
            }
            Action::Restore(restore) => {
                let line = format!("n{id} restore {}", restore.snapshot.last);
                peer.machine = Some(Machine::Restore(Box::new(restore)));
                line
            }
            Action::Serve(read) => format!("n{id} serve {}", print::read(read)),
            Action::Refuse(read) => format!("n{id} refuse {}", print::read(read)),
            Action::Forwarded { number, outcome } => {
                format!("n{id} forwarded {number}: {outcome:?}")
            }
            Action::TakeSnapshot(order) => {
                let line = format!("n{id} take-snapshot {}", order.snapshot.last);
                peer.taking = Some(order);
                line
            }
            Action::SendSnapshot(offer) => {
                let line = format!("n{id} → n{} Snapshot {}", offer.to, offer.snapshot.last);
                self.offers.push(offer);
                line
            }
        };
        self.say(line);
        if !self.hold_machines && self.peers[&id].machine.is_some() {
            self.machine_done(id);
        }
    }
}

fn is_about_votes(body: &Body) -> bool {
    matches!(
        body,
        Body::PreVote { .. }
            | Body::PreVoteReply { .. }
            | Body::Vote { .. }
            | Body::VoteReply { .. }
    )
}
