//! Peers are never trusted. Arbitrary messages, with arbitrary numbers, reach a node in any role.
//! It must not panic (its invariants are asserted in debug builds), and its work must come to an
//! end.

use bytes::Bytes;
use proptest::collection::{btree_set, vec};
use proptest::prelude::*;
use raft::{
    Action, Apply, Body, Change, CommandNumber, Config, Entries, Entry, Forwarded, Incarnation,
    Index, LogId, LogTime, Member, Membership, Message, NodeId, Now, Payload, RawNode, ReadId,
    ReadProof, Reading, ReceiveSnapshot, Request, Restore, Restored, Round, Snapshot,
    SnapshotOffer, SnapshotStatus, StateHash, TakeSnapshot, Target, Term, Write,
};

/// Far more actions than one event can cause.
const ACTIONS_MAX: usize = 5_000;

#[derive(Clone, Debug)]
enum Event {
    Message(Message),
    Install(SnapshotOffer),
    Tick(u8),
    Propose(u8),
    Read,
    Campaign,
    Change(Membership, bool),
    /// The pending write is done.
    Sync,
    /// The pending order of the state machine is done.
    Machine,
    /// The pending snapshot is done.
    Snapshot,
    Unreachable(NodeId),
    SnapshotSent(NodeId, LogId, SnapshotStatus),
}

/// Mostly small, so that it fits the node's log; sometimes absurd.
fn number() -> impl Strategy<Value = u64> {
    let edge = 1u64 << 62;
    prop_oneof![
        20 => 0..7u64,
        1 => prop::sample::select(vec![edge - 1, edge, edge + 1, 1 << 63, u64::MAX - 1, u64::MAX]),
    ]
}

fn index() -> impl Strategy<Value = Index> {
    number().prop_map(Index)
}

fn term() -> impl Strategy<Value = Term> {
    number().prop_map(Term)
}

fn log_id() -> impl Strategy<Value = LogId> {
    (index(), term()).prop_map(|(index, term)| LogId { term, index })
}

fn node_id() -> impl Strategy<Value = NodeId> {
    (0..5u64).prop_map(NodeId)
}

fn membership() -> impl Strategy<Value = Membership> {
    let ids = || btree_set(node_id(), 0..4);
    let target = (ids(), ids(), ids(), number()).prop_map(|(voters, learners, added, until)| {
        Target { voters, learners, added, until: LogTime(until) }
    });
    let removed = ids().prop_map(|ids| ids.into_iter().map(|id| (id, Incarnation(id.0 + 100))));
    let (outgoing, target) = (prop::option::of(ids()), prop::option::of(target));
    (ids(), ids(), outgoing, target, removed).prop_map(
        |(members, voters, outgoing, target, removed)| Membership {
            members: members.into_iter().map(|id| (id, member(id))).collect(),
            voters,
            outgoing,
            target,
            removed: removed.collect(),
        },
    )
}

fn member(id: NodeId) -> Member {
    Member {
        incarnation: Incarnation(id.0 + 100),
        peer_address: String::new(),
        client_address: String::new(),
    }
}

fn payload() -> impl Strategy<Value = Payload> {
    prop_oneof![
        4 => Just(Payload::NoOp),
        1 => Just(Payload::Clock),
        4 => Just(Payload::Command(Bytes::from_static(b"junk"))),
        1 => membership().prop_map(|membership| Payload::Membership(Box::new(membership))),
    ]
}

/// Entries that mostly follow `prev` and each other.
fn entries() -> impl Strategy<Value = (LogId, Vec<Entry>)> {
    let entry = (payload(), number(), number(), prop::option::weighted(0.05, log_id()), 0..2u64);
    (log_id(), vec(entry, 0..5)).prop_map(|(prev, drawn)| {
        let mut before = prev;
        let mut entries = Vec::new();
        for (payload, time, number, other, later) in drawn {
            let follows = LogId {
                term: Term(before.term.0.saturating_add(later)),
                index: Index(before.index.0.saturating_add(1)),
            };
            let id = other.unwrap_or(follows);
            let (time, number) = (LogTime(time), CommandNumber(number));
            entries.push(Entry { id, time, number, payload });
            before = id;
        }
        (prev, entries)
    })
}

fn state() -> impl Strategy<Value = StateHash> {
    (index(), 0..3_u64).prop_map(|(index, hash)| StateHash { index, hash })
}

fn body() -> impl Strategy<Value = Body> {
    let round = || number().prop_map(Round);
    let read = || number().prop_map(ReadId);
    prop_oneof![
        (term(), log_id()).prop_map(|(next, last)| Body::PreVote { next, last }),
        (term(), any::<bool>(), 99..102_u64).prop_map(|(next, granted, candidate)| {
            Body::PreVoteReply { next, granted, candidate: Incarnation(candidate) }
        }),
        (log_id(), any::<bool>()).prop_map(|(last, transfer)| Body::Vote { last, transfer }),
        (any::<bool>(), any::<bool>(), number(), 99..102_u64).prop_map(
            |(granted, running, time, id)| {
                let time = LogTime(time);
                let clock = if running { Reading::Running(time) } else { Reading::Wall(time) };
                Body::VoteReply { granted, clock, candidate: Incarnation(id) }
            }
        ),
        (entries(), index(), round(), number()).prop_map(
            |((prev, entries), commit, round, time)| {
                let time = LogTime(time);
                Body::Append { prev, entries: entries.into(), commit, round, time }
            }
        ),
        (entries(), index(), round(), number()).prop_map(
            |((prev, entries), commit, round, time)| {
                let time = LogTime(time);
                Body::Append { prev, entries: entries.into(), commit, round, time }
            }
        ),
        (index(), round(), prop::option::of(state())).prop_map(|(matched, round, state)| {
            let promise_ms = (round.0 % 3) as u32 * 50;
            Body::Appended { matched, round, state, promise_ms, priority: 1 }
        }),
        state().prop_map(|state| Body::Diverged { state }),
        (index(), log_id(), any::<bool>(), round())
            .prop_map(|(prev, hint, lost, round)| Body::Rejected { prev, hint, lost, round }),
        (read(), any::<bool>()).prop_map(|(read, lease)| Body::ReadIndex { read, lease }),
        (read(), prop::option::of(index()))
            .prop_map(|(read, index)| Body::ReadIndexReply { read, index }),
        Just(Body::TimeoutNow),
        (number(), number(), 0_usize..3000).prop_map(|(start, number, len)| {
            let bytes = vec![7; len].into();
            let request = match number % 3 {
                0 => Request::Command(bytes),
                1 => Request::SessionCommand(bytes),
                _ => Request::System(bytes),
            };
            Body::Forward { start, number, request }
        }),
        (number(), number(), log_id(), number()).prop_map(|(start, number, id, command)| {
            let outcome = Forwarded::Appended { id, number: CommandNumber(command) };
            Body::ForwardReply { start, number, outcome }
        }),
        (index(), number()).prop_map(|(commit, refused)| Body::NotAMember {
            commit,
            refused: Incarnation(refused)
        }),
    ]
}

fn message() -> impl Strategy<Value = Message> {
    let life = prop_oneof![9 => Just(None), 1 => number().prop_map(Some)];
    let to = prop_oneof![20 => Just(NodeId(0)), 1 => node_id()];
    (node_id(), to, term(), life, body()).prop_map(|(from, to, term, life, body)| Message {
        from,
        to,
        term,
        incarnation: Incarnation(life.unwrap_or(from.0 + 100)),
        body,
    })
}

fn offer() -> impl Strategy<Value = SnapshotOffer> {
    (node_id(), term(), log_id(), number(), number(), membership(), number()).prop_map(
        |(from, term, last, time, number, membership, membership_index)| SnapshotOffer {
            from,
            to: NodeId(0),
            term,
            incarnation: Incarnation(from.0 + 100),
            snapshot: Snapshot {
                last,
                time: LogTime(time),
                number: CommandNumber(number),
                membership: Box::new(membership),
                membership_index: Index(membership_index),
                hash: None,
            },
        },
    )
}

fn event() -> impl Strategy<Value = Event> {
    prop_oneof![
        12 => message().prop_map(Event::Message),
        1 => offer().prop_map(Event::Install),
        2 => (1..15u8).prop_map(Event::Tick),
        1 => (1..4u8).prop_map(Event::Propose),
        1 => Just(Event::Read),
        1 => Just(Event::Campaign),
        1 => (membership(), any::<bool>())
            .prop_map(|(membership, force)| Event::Change(membership, force)),
        5 => Just(Event::Sync),
        3 => Just(Event::Machine),
        1 => Just(Event::Snapshot),
        1 => node_id().prop_map(Event::Unreachable),
        1 => (node_id(), log_id(), any::<bool>())
            .prop_map(|(to, snapshot, delivered)| {
                    let status = SnapshotStatus::of(delivered, snapshot.index.0 % 3);
                    Event::SnapshotSent(to, snapshot, status)
                }),
    ]
}

/// A node with its pending orders.
struct Driven {
    node: RawNode,
    write: Option<Write>,
    apply: Option<Apply>,
    restore: Option<Restore>,
    snapshot: Option<TakeSnapshot>,
    /// A snapshot whose bytes are on their way.
    received: Option<ReceiveSnapshot>,
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
        config.inflight_messages_max = 3;
        let members = (0..voters).map(|id| (NodeId(id), member(NodeId(id)))).collect();
        let restored = Restored::initial(Snapshot::initial(Membership::of_voters(members)));
        let node = RawNode::new(config, restored).expect("a sound configuration");
        Driven { node, write: None, apply: None, restore: None, snapshot: None, received: None }
    }

    fn handle(&mut self, event: Event) {
        let (node, now) = (&mut self.node, Now { monotonic_ns: 0, wall_ms: 1_000 });
        match event {
            Event::Message(message) => node.step(now, message),
            Event::Install(offer) => {
                // Every other transfer ends after whatever comes before the next offer.
                let is_late = offer.term.0 % 2 == 0;
                let order = node.accept(offer);
                let late = std::mem::replace(&mut self.received, order);
                let now_due = if is_late { late } else { self.received.take() };
                if let Some(order) = now_due {
                    node.install(now, order.durable());
                }
            }
            Event::Tick(times) => (0..times).for_each(|_| node.tick(now)),
            Event::Propose(times) => {
                for _ in 0..times {
                    let _ = node.propose(now, Bytes::from_static(b"x"));
                }
            }
            Event::Read => drop(node.read(now, ReadProof::Linearizable)),
            Event::Campaign => node.campaign(now),
            Event::Change(membership, force) => {
                let mut change = Change::to(membership.members, membership.voters);
                change.force = force;
                let _ = node.set_members(now, change);
            }
            Event::Sync => {
                if let Some(write) = self.write.take() {
                    node.persisted(now, write.durable());
                }
            }
            Event::Machine => {
                if let Some(apply) = self.apply.take() {
                    node.applied(now, apply.applied());
                } else if let Some(restore) = self.restore.take() {
                    node.applied(now, restore.restored());
                }
            }
            Event::Snapshot => {
                if let Some(order) = self.snapshot.take() {
                    node.compact(now, order.durable());
                }
            }
            Event::Unreachable(peer) => node.unreachable(peer),
            Event::SnapshotSent(to, snapshot, status) => {
                node.snapshot_sent(to, snapshot, status);
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
                    assert!(self.apply.is_none(), "a restore during an apply");
                    assert!(self.restore.replace(restore).is_none(), "one restore is out");
                }
                Some(Action::TakeSnapshot(order)) => {
                    assert!(self.snapshot.replace(order).is_none(), "one snapshot is out");
                }
                Some(Action::Send(_) | Action::SendSnapshot(_)) => {}
                Some(Action::Serve(_) | Action::Refuse(_) | Action::Forwarded { .. }) => {}
            }
        }
        panic!("poll does not end");
    }

    /// Makes it leader with the votes of its peers, or a follower of node 1, or neither.
    fn take_role(&mut self, role: u8) {
        let say = |body, term| {
            Event::Message(Message {
                from: NodeId(1),
                to: NodeId(0),
                term: Term(term),
                incarnation: Incarnation(101),
                body,
            })
        };
        match role {
            0 => {}
            1 => {
                let (prev, commit, round) = (LogId::ZERO, Index(0), Round(1));
                self.handle(say(
                    Body::Append {
                        prev,
                        entries: Entries::default(),
                        commit,
                        round,
                        time: LogTime(0),
                    },
                    1,
                ));
            }
            _ => {
                self.handle(Event::Campaign);
                if role >= 3 {
                    self.handle(say(
                        Body::PreVoteReply {
                            next: Term(1),
                            granted: true,
                            candidate: Incarnation(100),
                        },
                        0,
                    ));
                    self.handle(Event::Sync);
                }
                if role >= 4 {
                    self.handle(say(
                        Body::VoteReply {
                            granted: true,
                            clock: Reading::default(),
                            candidate: Incarnation(100),
                        },
                        1,
                    ));
                    assert!(self.node.is_leader(), "elected by its peer");
                }
            }
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 2_000, ..ProptestConfig::default() })]

    #[test]
    fn nothing_that_arrives_panics_a_node_or_keeps_it_busy_for_ever(
        role in 0..5u8,
        voters in 2..4u64,
        events in vec(event(), 1..60),
    ) {
        let mut driven = Driven::new(voters);
        driven.take_role(role);
        for event in events {
            driven.handle(event);
        }
    }
}
