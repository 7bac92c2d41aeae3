//! raft-rs next to `core`: the core of TiKV, a port of etcd's.
//!
//! Three nodes in one thread exchange messages through a queue, as in `layers::core`, which also
//! measures them. They keep their log in the crate's own `MemStorage`, and carry out a `Ready` as
//! its documentation says. Writes are durable and entries applied at once.
//!
//! Comparable: the values, the batches, the ticks, the limit of an append, check-quorum and
//! pre-vote. Both pass on the commit index with the next append or heartbeat, and both share the
//! bytes of a value among the nodes; neither encodes a message.
//!
//! Not comparable: entries are proposed one by one with `RawNode::propose`, as ours are, but it
//! takes ownership of a `Vec`, so each proposal allocates and copies its value. A host of raft-rs
//! keeps the log; here the core does, with the clocks and checks that it has in addition.
//!
//! `batch_append` and `skip_bcast_commit` are on, which are off by default. Of the four ways to set
//! them, this was the fastest for batches; for single entries, `batch_append` makes no difference.

use crate::cluster;
use crate::layers::core::{self, Counts, Subject};
use crate::rounds::{Contestant, Span};
use bytes::Bytes;
use raft_rs::eraftpb::{Entry, EntryType, Message};
use raft_rs::storage::MemStorage;
use raft_rs::{Config, RawNode, StateRole};
use std::collections::VecDeque;

/// raft-rs in the setting of `core`.
pub fn contestant(batch: u64, setting: String, value: &Bytes) -> Contestant<'_> {
    let measure = move |span: Span| {
        let mut cluster = Cluster::new();
        let sample = core::sample(&mut cluster, span, batch, value);
        cluster.check(value);
        Ok(sample)
    };
    Contestant { system: "raft-rs", setting, measure: Box::new(measure) }
}

/// A node, and what it has applied.
struct Peer {
    node: RawNode<MemStorage>,
    applied: Applied,
}

/// The commands that a node has applied.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
struct Applied {
    entries: u64,
    bytes: u64,
}

/// Three nodes of which the first one leads.
struct Cluster {
    peers: Vec<Peer>,
    mail: VecDeque<Message>,
    counts: Counts,
    proposed: u64,
}

impl Subject for Cluster {
    fn commit(&mut self, batch: u64, value: &Bytes) {
        self.proposed += batch;
        for _ in 0..batch {
            let leader = &mut self.peers[0].node;
            leader.propose(Vec::new(), value.to_vec()).expect("the first node leads");
        }
        self.settle();
        assert_eq!(
            self.peers[0].applied.entries, self.proposed,
            "all that was proposed is applied"
        );
    }

    fn tick(&mut self) {
        for Peer { node, .. } in &mut self.peers {
            node.tick();
            // Applied entries are no longer needed, since no peer is behind.
            let applied = node.raft.raft_log.applied;
            node.store().wl().compact(applied).expect("the log has what is applied");
        }
        self.settle();
    }

    fn counts(&self) -> Counts {
        self.counts
    }
}

impl Cluster {
    fn new() -> Self {
        let logger = slog::Logger::root(slog::Discard, slog::o!());
        let ids = cluster::IDS.map(|id| id.0);
        let peer = |id: u64| {
            let store = MemStorage::new_with_conf_state((ids.to_vec(), Vec::new()));
            let node = RawNode::new(&config(id), store, &logger);
            Peer { node: node.expect("the configuration is right"), applied: Applied::default() }
        };
        let mut cluster = Cluster {
            peers: ids.map(peer).into(),
            mail: VecDeque::new(),
            counts: Counts::default(),
            proposed: 0,
        };
        cluster.peers[0].node.campaign().expect("it is a voter");
        cluster.settle();
        assert_eq!(cluster.peers[0].node.raft.state, StateRole::Leader);
        // The entry of the election is no command.
        cluster.pass_on_commit();
        for peer in &mut cluster.peers {
            peer.applied = Applied::default();
        }
        cluster
    }

    /// Runs until there is nothing left to do.
    fn settle(&mut self) {
        loop {
            for at in 0..self.peers.len() {
                while self.peers[at].node.has_ready() {
                    self.carry_out(at);
                }
            }
            if self.mail.is_empty() {
                return;
            }
            while let Some(message) = self.mail.pop_front() {
                let node = &mut self.peers[message.to as usize - 1].node;
                node.step(message).expect("all nodes are members");
            }
        }
    }

    /// Sends, stores and applies what a node has ready.
    fn carry_out(&mut self, at: usize) {
        let Peer { node, applied } = &mut self.peers[at];
        let mut ready = node.ready();
        assert!(ready.snapshot().is_empty(), "no node is behind");
        self.counts.writes += u64::from(ready.must_sync());
        let mut send = |messages: Vec<Message>| {
            self.counts.messages += messages.len() as u64;
            self.mail.extend(messages);
        };
        send(ready.take_messages());
        applied.add(&ready.take_committed_entries());
        {
            let mut store = node.store().wl();
            store.append(ready.entries()).expect("entries follow each other");
            if let Some(state) = ready.hs() {
                store.set_hardstate(state.clone());
            }
        }
        send(ready.take_persisted_messages());
        let mut light = node.advance(ready);
        if let Some(commit) = light.commit_index() {
            node.store().wl().mut_hard_state().set_commit(commit);
        }
        send(light.take_messages());
        applied.add(&light.take_committed_entries());
        node.advance_apply();
    }

    /// Waits for a heartbeat, with which the followers get the last commit index.
    fn pass_on_commit(&mut self) {
        for _ in 0..=cluster::config(cluster::IDS[0]).heartbeat_ticks {
            self.tick();
        }
    }

    /// Checks that each node has applied each command.
    fn check(&mut self, value: &Bytes) {
        self.pass_on_commit();
        let bytes = self.proposed * value.len() as u64;
        let all = Applied { entries: self.proposed, bytes };
        for peer in &self.peers {
            assert_eq!(peer.applied, all, "each node has applied each command once");
        }
    }
}

impl Applied {
    fn add(&mut self, entries: &[Entry]) {
        for entry in entries {
            assert_eq!(entry.entry_type, EntryType::EntryNormal, "the members do not change");
            self.entries += 1;
            self.bytes += entry.data.len() as u64;
        }
    }
}

/// The settings of a node. Where both have a setting, it is that of this project.
fn config(id: u64) -> Config {
    let own = cluster::config(cluster::IDS[0]);
    Config {
        election_tick: own.election_ticks as usize,
        heartbeat_tick: own.heartbeat_ticks as usize,
        max_size_per_msg: own.append_bytes_max as u64,
        check_quorum: true,
        pre_vote: true,
        // Entries join an append that was not sent yet.
        batch_append: true,
        // No append is sent only to pass on the commit index. This project sends none either.
        skip_bcast_commit: true,
        ..Config::new(id)
    }
}
