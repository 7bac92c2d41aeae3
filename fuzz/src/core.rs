//! Fuzzes the core with sequences of all its inputs: from correct peers, from faulty peers and from
//! the node's own parts.

use crate::Input;
use bytes::Bytes;
use raft::{
    Action, Apply, Body, CommandNumber, Config, Entry, Forwarded, Incarnation, Index, LogId,
    LogTime, Member, Membership, Message, NodeId, Now, Payload, RawNode, ReadId, ReadProof,
    Reading, ReceiveSnapshot, Request, Restore, Restored, Round, Snapshot, SnapshotOffer,
    SnapshotStatus, StateHash, TakeSnapshot, Term, Write,
};

/// The most actions after one event. A correct core returns far fewer.
const ACTIONS_MAX: usize = 20_000;

struct Driven {
    node: RawNode,
    now: Now,
    write: Option<Write>,
    apply: Option<Apply>,
    restore: Option<Restore>,
    snapshot: Option<TakeSnapshot>,
    /// A snapshot whose bytes are on their way.
    received: Option<ReceiveSnapshot>,
}

/// Draws events from the bytes until they are used up.
pub fn run(data: &[u8]) {
    let mut input = Input::new(data);
    let mut driven = Driven::new(1 + input.below(4));
    while !input.is_empty() {
        driven.event(&mut input);
    }
}

fn membership(voters: u64) -> Membership {
    let member = |id: u64| Member {
        incarnation: Incarnation(100 + id),
        peer_address: String::new(),
        client_address: String::new(),
    };
    Membership::of_voters((0..voters).map(|id| (NodeId(id), member(id))).collect())
}

impl Driven {
    fn new(voters: u64) -> Self {
        let mut config = Config::new(NodeId(0), Incarnation(100), 1);
        config.heartbeat_ticks = 2;
        config.election_ticks = 5;
        config.append_bytes_max = 100;
        config.write_bytes_max = 100;
        config.apply_bytes_max = 100;
        config.snapshot_log_bytes = 100;
        config.retained_bytes = 50;
        config.catch_up_bytes_max = 200;
        config.inflight_messages_max = 3;
        config.clock_ticks = 7;
        let restored = Restored::initial(Snapshot::initial(membership(voters)));
        let node = RawNode::new(config, restored).expect("a sound configuration");
        let now = Now { monotonic_ns: 1, wall_ms: 1_000 };
        Driven {
            node,
            now,
            write: None,
            apply: None,
            restore: None,
            snapshot: None,
            received: None,
        }
    }

    fn event(&mut self, input: &mut Input<'_>) {
        self.now.monotonic_ns += input.below(3) * 1_000_000;
        let (node, now) = (&mut self.node, self.now);
        match input.below(16) {
            0..=5 => node.step(now, message(input)),
            6 => (0..1 + input.below(12)).for_each(|_| node.tick(now)),
            7 => {
                let len = input.below(64) as usize;
                let _ = node.propose(now, Bytes::copy_from_slice(input.bytes(len)));
            }
            8 => drop(node.read(now, ReadProof::Linearizable)),
            9 => node.campaign(now),
            10 => {
                if let Some(write) = self.write.take() {
                    node.persisted(now, write.durable());
                }
            }
            11 => {
                if let Some(apply) = self.apply.take() {
                    let hash = |entry: &Entry| raft::entry_hash(entry, b"");
                    let hashes = apply.entries.iter().map(hash).collect();
                    node.applied(now, apply.applied_with(hashes));
                } else if let Some(restore) = self.restore.take() {
                    node.applied(now, restore.restored());
                }
            }
            12 => {
                if let Some(order) = self.snapshot.take() {
                    let done = if input.below(3) == 0 { order.failed() } else { order.durable() };
                    node.compact(now, done);
                }
            }
            13 => node.unreachable(NodeId(input.below(6))),
            14 => match input.below(2) {
                0 => {
                    let (to, snapshot) = (NodeId(input.below(6)), log_id(input));
                    let status = SnapshotStatus::of(input.below(2) == 0, input.below(3));
                    node.snapshot_sent(to, snapshot, status);
                }
                _ => node.snapshot_unreadable(log_id(input)),
            },
            _ => {
                let offer = offer(input);
                // Some transfers end after whatever comes before the next offer.
                let order = node.accept(offer);
                let late = std::mem::replace(&mut self.received, order);
                let due = if input.below(4) == 0 { late } else { self.received.take() };
                if let Some(order) = due {
                    node.install(now, order.durable());
                }
            }
        }
        self.poll();
    }

    fn poll(&mut self) {
        for _ in 0..ACTIONS_MAX {
            match self.node.poll() {
                None => return assert_eq!(self.node.broken_invariant(), None),
                Some(Action::Persist(write)) => {
                    assert!(self.write.replace(write).is_none(), "one write is out at a time");
                }
                Some(Action::Apply(apply)) => {
                    assert!(self.restore.is_none(), "an apply during a restore");
                    assert!(self.apply.replace(apply).is_none(), "one apply is out at a time");
                }
                Some(Action::Restore(restore)) => {
                    assert!(self.restore.replace(restore).is_none(), "one restore is out");
                }
                Some(Action::TakeSnapshot(order)) => {
                    assert!(self.snapshot.replace(order).is_none(), "one snapshot is out");
                }
                Some(
                    Action::Send(_)
                    | Action::SendSnapshot(_)
                    | Action::Serve(_)
                    | Action::Refuse(_)
                    | Action::Forwarded { .. },
                ) => {}
            }
        }
        panic!("a node gives out work without end");
    }
}

fn log_id(input: &mut Input<'_>) -> LogId {
    LogId { term: Term(input.number()), index: Index(input.number()) }
}

fn reading(input: &mut Input<'_>) -> Reading {
    match input.below(2) {
        0 => Reading::Running(LogTime(input.number())),
        _ => Reading::Wall(LogTime(input.number())),
    }
}

fn state(input: &mut Input<'_>) -> StateHash {
    StateHash { index: Index(input.number()), hash: input.below(3) }
}

fn entries(input: &mut Input<'_>, prev: LogId) -> Vec<Entry> {
    let mut before = prev;
    let mut entry = |input: &mut Input<'_>| {
        let follows = LogId {
            term: Term(before.term.0.saturating_add(input.below(2))),
            index: Index(before.index.0.saturating_add(1)),
        };
        let id = if input.below(20) == 0 { log_id(input) } else { follows };
        before = id;
        let payload = match input.below(6) {
            0 => Payload::NoOp,
            1 => Payload::Clock,
            2 => Payload::System(Bytes::from_static(b"system")),
            3 => Payload::Membership(Box::new(membership(input.below(5)))),
            4 => Payload::SessionCommand(Bytes::from_static(b"command")),
            _ => Payload::Command(Bytes::from_static(b"command")),
        };
        let number = CommandNumber(input.number());
        Entry { id, time: LogTime(input.number()), number, payload }
    };
    (0..input.below(4)).map(|_| entry(input)).collect()
}

fn message(input: &mut Input<'_>) -> Message {
    let round = |input: &mut Input<'_>| Round(input.number());
    let body = match input.below(16) {
        0 => Body::PreVote { next: Term(input.number()), last: log_id(input) },
        1 => Body::PreVoteReply {
            next: Term(input.number()),
            granted: input.below(2) == 0,
            candidate: Incarnation(100 + input.below(2)),
        },
        2 => Body::Vote { last: log_id(input), transfer: input.below(4) == 0 },
        3 => Body::VoteReply {
            granted: input.below(4) > 0,
            clock: reading(input),
            candidate: Incarnation(100 + input.below(2)),
        },
        4..=6 => {
            let prev = log_id(input);
            let (entries, commit) = (entries(input, prev), Index(input.number()));
            let (round, time) = (round(input), LogTime(input.number()));
            Body::Append { prev, entries: entries.into(), commit, round, time }
        }
        7 => {
            let (matched, round) = (Index(input.number()), round(input));
            let state = (input.below(2) == 0).then(|| state(input));
            let promise_ms = input.number() as u32;
            Body::Appended { matched, round, state, promise_ms, priority: input.below(4) as u8 }
        }
        8 => {
            let (prev, hint) = (Index(input.number()), log_id(input));
            Body::Rejected { prev, hint, lost: input.below(4) == 0, round: round(input) }
        }
        9 => {
            let read = ReadId(input.number());
            Body::ReadIndex { read, lease: input.below(2) == 0 }
        }
        10 => {
            let read = ReadId(input.number());
            let index = (input.below(2) == 0).then(|| Index(input.number()));
            Body::ReadIndexReply { read, index }
        }
        11 => Body::TimeoutNow,
        12 => Body::Diverged { state: state(input) },
        13 => {
            let (start, number) = (input.below(3), input.number());
            let bytes = Bytes::from(vec![7; input.below(9) as usize]);
            let request = match input.below(3) {
                0 => Request::Command(bytes),
                1 => Request::SessionCommand(bytes),
                _ => Request::System(bytes),
            };
            Body::Forward { start, number, request }
        }
        14 => {
            let (start, number) = (input.below(3), input.number());
            let number_of = CommandNumber(input.number());
            let outcome = Forwarded::Appended { id: log_id(input), number: number_of };
            Body::ForwardReply { start, number, outcome }
        }
        _ => {
            let refused = Incarnation(100 + input.below(3));
            Body::NotAMember { commit: Index(input.number()), refused }
        }
    };
    let from = input.below(6);
    let incarnation = if input.below(12) == 0 { 5 } else { 100 + from };
    Message {
        from: NodeId(from),
        to: NodeId(if input.below(20) == 0 { 3 } else { 0 }),
        term: Term(input.number()),
        incarnation: Incarnation(incarnation),
        body,
    }
}

fn offer(input: &mut Input<'_>) -> SnapshotOffer {
    let from = 1 + input.below(4);
    SnapshotOffer {
        from: NodeId(from),
        to: NodeId(0),
        term: Term(input.number()),
        incarnation: Incarnation(100 + from),
        snapshot: Snapshot {
            last: log_id(input),
            time: LogTime(input.number()),
            number: CommandNumber(input.number()),
            membership: membership(input.below(5)).into(),
            membership_index: Index(input.number()),
            hash: (input.below(2) == 0).then_some(1),
        },
    }
}
