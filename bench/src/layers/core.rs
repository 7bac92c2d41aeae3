//! `core`: the protocol alone. Three nodes in one thread exchange messages through a queue. Writes
//! are durable and entries applied at once, so nothing but the protocol is measured.

use crate::allocations;
use crate::cluster::{self, TICK};
#[cfg(feature = "peers")]
use crate::peers;
use crate::rounds::{Base, Contestant, Error, Row, Sample, Span, in_turn};
use bytes::Bytes;
use raft::{Action, Message, NodeId, Now, RawNode, Restored, RoleKind, Snapshot};
use std::collections::VecDeque;

/// How many entries are proposed at once; the next ones follow when these are committed.
const BATCHES: [u64; 3] = [1, 64, 1024];

/// The nodes get a tick after this many entries: at 400,000 entries a second, each 10 ms.
const TICK_ENTRIES: u64 = 4096;

const RAFT_RS: Base = Base { system: "raft-rs", ratio: "ratio to raft-rs" };

/// Measures the core.
pub fn measure(rounds: u32, span: Span, value: &Bytes) -> Result<Vec<Row>, Error> {
    let mut contestants = Vec::new();
    for batch in BATCHES {
        let setting = format!("{batch} at once");
        contestants.push(Contestant {
            system: "quorate-core",
            setting: setting.clone(),
            measure: Box::new(move |span| Ok(sample(&mut Cluster::new(), span, batch, value))),
        });
        #[cfg(feature = "peers")]
        contestants.push(peers::raft_rs::contestant(batch, setting, value));
    }
    in_turn(rounds, span, contestants, &[RAFT_RS])
}

/// A cluster that is measured.
pub trait Subject {
    /// Proposes `batch` entries, and runs until all of them are committed, and applied on the
    /// leader.
    fn commit(&mut self, batch: u64, value: &Bytes);

    /// Passes a tick to each node, and runs until there is nothing left to do.
    fn tick(&mut self);

    /// The totals of all nodes so far.
    fn counts(&self) -> Counts;
}

/// The totals of a cluster.
#[derive(Clone, Copy, Debug, Default)]
pub struct Counts {
    /// Messages that were sent.
    pub messages: u64,
    /// Writes that were ordered, each of which would be a sync.
    pub writes: u64,
}

/// Measures a new cluster once.
pub fn sample(cluster: &mut impl Subject, span: Span, batch: u64, value: &Bytes) -> Sample {
    // The first snapshots and the buffers are there before the measurement.
    for _ in 0..TICK_ENTRIES {
        cluster.commit(1, value);
    }
    cluster.tick();
    let before = cluster.counts();
    let (allocations, watch) = (allocations::count(), span.start());
    let (mut done, mut since_tick) = (0, 0);
    while watch.goes_on(done) {
        // Reading the clock for each entry would be a part of its cost.
        for _ in 0..(64 / batch).max(1) {
            cluster.commit(batch, value);
            done += batch;
            since_tick += batch;
            if since_tick >= TICK_ENTRIES {
                since_tick = 0;
                cluster.tick();
            }
        }
    }
    let seconds = watch.seconds();
    let (after, entry) = (cluster.counts(), done as f64);
    vec![
        ("entries/s", entry / seconds),
        ("ns/entry", seconds * 1e9 / entry),
        ("messages/entry", (after.messages - before.messages) as f64 / entry),
        ("writes/entry", (after.writes - before.writes) as f64 / entry),
        ("allocations/entry", (allocations::count() - allocations) as f64 / entry),
    ]
}

/// Three nodes of which the first one leads.
struct Cluster {
    nodes: Vec<RawNode>,
    now: Now,
    mail: VecDeque<Message>,
    counts: Counts,
    /// Entries that the leader has applied.
    applied: u64,
}

impl Subject for Cluster {
    fn commit(&mut self, batch: u64, value: &Bytes) {
        let end = self.applied + batch;
        for _ in 0..batch {
            self.nodes[0].propose(self.now, value.clone()).expect("the first node leads");
        }
        self.settle();
        assert_eq!(self.applied, end, "all that was proposed is applied");
    }

    fn tick(&mut self) {
        self.now.monotonic_ns += TICK.as_nanos() as u64;
        for node in &mut self.nodes {
            node.tick(self.now);
        }
        self.settle();
    }

    fn counts(&self) -> Counts {
        self.counts
    }
}

impl Cluster {
    fn new() -> Self {
        let initial = Snapshot::initial(cluster::membership());
        let nodes = cluster::IDS.map(|id| {
            let restored = Restored::initial(initial.clone());
            RawNode::new(cluster::config(id), restored).expect("the configuration is right")
        });
        let mut cluster = Cluster {
            nodes: nodes.into(),
            now: Now { monotonic_ns: 1, wall_ms: 1 },
            mail: VecDeque::new(),
            counts: Counts::default(),
            applied: 0,
        };
        cluster.nodes[0].campaign(cluster.now);
        cluster.settle();
        assert_eq!(cluster.nodes[0].status().role, RoleKind::Leader);
        cluster
    }

    /// Runs until there is nothing left to do.
    fn settle(&mut self) {
        loop {
            for at in 0..self.nodes.len() {
                while let Some(action) = self.nodes[at].poll() {
                    self.carry_out(at, action);
                }
            }
            if self.mail.is_empty() {
                return;
            }
            while let Some(message) = self.mail.pop_front() {
                let NodeId(to) = message.to;
                self.nodes[to as usize - 1].step(self.now, message);
            }
        }
    }

    fn carry_out(&mut self, at: usize, action: Action) {
        let node = &mut self.nodes[at];
        match action {
            Action::Persist(write) => {
                self.counts.writes += 1;
                node.persisted(self.now, write.durable());
            }
            Action::Send(message) => {
                self.counts.messages += 1;
                self.mail.push_back(message);
            }
            Action::Apply(apply) => {
                if at == 0 {
                    let commands = apply.entries.iter().filter(|e| e.payload.is_command());
                    self.applied += commands.count() as u64;
                }
                node.applied(self.now, apply.applied());
            }
            Action::TakeSnapshot(order) => node.compact(self.now, order.durable()),
            other => panic!("nothing here leads to {other:?}"),
        }
    }
}
