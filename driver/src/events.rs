//! The state changes that a node logs for its operator, each of them once.
//!
//! They are found by comparing each published status with the previous one. So the path of a
//! message or proposal writes no log lines.

use crate::NotReady;
use raft::{Index, LogId, Membership, NodeId, Now, PeerStatus, RoleKind, Status, Term};
use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

/// A peer that has not answered its leader for this many election timeouts is reported.
const SILENT_ELECTIONS: u32 = 3;

/// A node that has known no leader for this many election timeouts reports it.
const LEADERLESS_ELECTIONS: u32 = 10;

/// Why a node leads no longer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Why {
    Disk,
    NoQuorum,
    Other,
}

/// A change of a node's state.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Event {
    Leads { term: Term },
    SteppedDown { term: Term, why: Why },
    Follows { leader: NodeId, term: Term },
    LostLeader { term: Term },
    Leaderless { without: Duration },
    NotCommitting { waiting: Duration },
    Commits,
    SnapshotNotStored { reason: Arc<str> },
    Members { before: Box<Membership>, now: Box<Membership> },
    DiskStalled,
    DiskAnswers,
    Repairing { lost: LogId },
    Repaired { last: LogId },
    PeerLost { peer: NodeId, matched: Index },
    PeerSilent { peer: NodeId, silent: Duration },
    PeerAnswers { peer: NodeId },
    NotAMember,
    PeerDiffers { peer: NodeId, from: Index },
    Diverged,
    SnapshotUnreadable { snapshot: LogId },
    Refused { messages: u64 },
}

impl Event {
    pub fn log(self) {
        match self {
            Event::Leads { term } => tracing::info!(%term, "this node leads"),
            Event::SteppedDown { term, why: Why::Other } => {
                tracing::info!(%term, "this node leads no longer");
            }
            Event::SteppedDown { term, why: Why::NoQuorum } => tracing::warn!(
                %term,
                "this node leads no longer: no majority of the voters has answered for an election \
                 timeout"
            ),
            Event::SteppedDown { term, why: Why::Disk } => tracing::warn!(
                %term,
                "this node leads no longer: its disk is full or does not answer, and the others can \
                 commit without it; it does not campaign until the disk takes writes"
            ),
            Event::Follows { leader, term } => tracing::info!(%leader, %term, "follows a leader"),
            Event::LostLeader { term } => tracing::info!(%term, "knows no leader"),
            Event::Leaderless { without } => tracing::warn!(
                ?without,
                "this node knows no leader; the cluster serves nobody unless a majority of its voters \
                 runs and reaches one another"
            ),
            Event::NotCommitting { waiting } => tracing::warn!(
                ?waiting,
                "this leader commits nothing: no majority of the voters stores its entries (they are \
                 catching up, or have no room)"
            ),
            Event::Commits => tracing::info!("this leader commits again"),
            Event::SnapshotNotStored { reason } => tracing::error!(
                %reason,
                "a snapshot of the leader cannot be stored, and without it this node does not catch \
                 up; the leader sends it again from time to time"
            ),
            Event::Members { before, now } => tracing::info!(
                "the members change: {}; before: {}",
                members_text(&now),
                members_text(&before)
            ),
            Event::DiskStalled => tracing::warn!("the disk does not answer"),
            Event::DiskAnswers => tracing::info!("the disk answers again"),
            Event::Repairing { lost } => tracing::warn!(
                %lost,
                "entries that this node had acknowledged are lost, by damage on the disk or because \
                 it gave up a state that differed; until they are back from the other nodes it \
                 neither votes nor campaigns"
            ),
            Event::Repaired { last } => {
                tracing::info!(%last, "the entries that were lost are back");
            }
            Event::PeerLost { peer, matched } => tracing::warn!(
                %peer, %matched,
                "a peer has lost entries that it had acknowledged; they are sent again"
            ),
            Event::PeerSilent { peer, silent } => {
                tracing::warn!(%peer, ?silent, "a peer has not answered");
            }
            Event::PeerAnswers { peer } => tracing::info!(%peer, "a peer answers again"),
            Event::NotAMember => tracing::error!(
                "this node is not a member of the cluster any more: it was removed, or its disk was \
                 wiped; it takes no part and stops"
            ),
            Event::PeerDiffers { peer, from } => tracing::error!(
                %peer, %from,
                "a peer's state differs from this leader's: its state machine has given another \
                 answer to the same commands. Either the state machine is not deterministic (a \
                 clock, a random number, the order of a hash map, another version), or the memory \
                 of a machine is bad. Until a quorum has one state, no snapshot is sent"
            ),
            Event::Diverged => tracing::error!(
                "this node's state differs from that of a quorum; it forgets its log and stops, \
                 and is repaired by the other nodes when it is started again"
            ),
            Event::SnapshotUnreadable { snapshot } => tracing::error!(
                %snapshot,
                "a snapshot of this node cannot be read; it takes another one"
            ),
            Event::Refused { messages } => tracing::warn!(
                messages,
                "messages that no correct peer sends were ignored; only the first are reported"
            ),
        }
    }
}

/// The inputs of the events, apart from the status of the core.
#[derive(Clone, Copy)]
pub(crate) struct Conditions<'a> {
    pub disk_full: bool,
    pub not_ready: Option<&'a NotReady>,
    pub election_timeout: Duration,
    pub tick: Duration,
    pub now: Now,
}

/// The state that was reported last.
#[derive(Debug, Default)]
pub(crate) struct Events {
    term: Term,
    leader: Option<NodeId>,
    leads: bool,
    disk_stepped_down: u64,
    quorum_stepped_down: u64,
    /// Since when no leader is known, on the monotonic clock in nanoseconds, and whether that was
    /// reported.
    leaderless: Option<(u64, bool)>,
    commits_nothing: bool,
    not_stored: bool,
    membership: Option<Membership>,
    disk_stalled: bool,
    lost: Option<LogId>,
    not_a_member: bool,
    diverged: bool,
    base_unreadable: bool,
    invalid_messages: u64,
    peers: BTreeMap<NodeId, Peer>,
}

#[derive(Clone, Copy, Debug, Default)]
struct Peer {
    silent: bool,
    differs: bool,
    losses: u64,
    matched: Index,
}

impl Events {
    /// The changes since the last call. A disk that is full, and was reported as that, is not
    /// reported as stalled too: the write that is out waits for room.
    pub fn since(&mut self, status: &Status, conditions: Conditions<'_>) -> Vec<Event> {
        let Conditions { disk_full, election_timeout, tick, .. } = conditions;
        let mut events = Vec::new();
        self.leadership(status, &mut events);
        self.service(status, &conditions, &mut events);
        self.condition(status, status.disk_stalled && !disk_full, &mut events);
        let known = std::mem::take(&mut self.peers);
        let silent_max = election_timeout * SILENT_ELECTIONS;
        for peer in &status.peers {
            let before = known.get(&peer.id).copied().unwrap_or_default();
            let now = of_peer(peer, before, silent_max, tick, &mut events);
            self.peers.insert(peer.id, now);
        }
        events
    }

    fn leadership(&mut self, status: &Status, events: &mut Vec<Event>) {
        let leads = status.role == RoleKind::Leader;
        let (term, leader) = (status.term, status.leader);
        if (self.leads, self.leader) == (leads, leader) && (self.term == term || leader.is_none()) {
            return;
        }
        if self.leads && (!leads || self.term != term) {
            let counters = &status.counters;
            let why = match () {
                () if counters.disk_stepped_down > self.disk_stepped_down => Why::Disk,
                () if counters.quorum_stepped_down > self.quorum_stepped_down => Why::NoQuorum,
                () => Why::Other,
            };
            events.push(Event::SteppedDown { term: self.term, why });
        }
        match leader {
            Some(_) if leads => events.push(Event::Leads { term }),
            Some(leader) => events.push(Event::Follows { leader, term }),
            None if self.leader.is_some() && !self.leads => events.push(Event::LostLeader { term }),
            None => {}
        }
        (self.leads, self.leader, self.term) = (leads, leader, term);
        self.disk_stepped_down = status.counters.disk_stepped_down;
        self.quorum_stepped_down = status.counters.quorum_stepped_down;
    }

    /// Reports the conditions under which this node, or the whole cluster, serves nobody.
    fn service(&mut self, status: &Status, conditions: &Conditions<'_>, events: &mut Vec<Event>) {
        let now_ns = conditions.now.monotonic_ns;
        self.leaderless = match (status.leader, self.leaderless) {
            (Some(_), _) => None,
            (None, known) => Some(known.unwrap_or((now_ns, false))),
        };
        if let Some((since_ns, is_reported @ false)) = &mut self.leaderless {
            let without = Duration::from_nanos(now_ns.saturating_sub(*since_ns));
            if without >= conditions.election_timeout * LEADERLESS_ELECTIONS {
                *is_reported = true;
                events.push(Event::Leaderless { without });
            }
        }
        let commits_nothing = match conditions.not_ready {
            Some(NotReady::NotCommitting { waiting }) => Some(*waiting),
            _ => None,
        };
        match (self.commits_nothing, commits_nothing) {
            (false, Some(waiting)) => events.push(Event::NotCommitting { waiting }),
            (true, None) if status.role == RoleKind::Leader => events.push(Event::Commits),
            _ => {}
        }
        self.commits_nothing = commits_nothing.is_some();
        match conditions.not_ready {
            Some(NotReady::SnapshotNotStored { reason }) if !self.not_stored => {
                self.not_stored = true;
                events.push(Event::SnapshotNotStored { reason: reason.clone() });
            }
            None => self.not_stored = false,
            Some(_) => {}
        }
        if self.membership.as_ref() != Some(&status.membership) {
            let before = self.membership.replace(status.membership.clone());
            if let Some(before) = before.filter(|before| !before.members.is_empty()) {
                let now = Box::new(status.membership.clone());
                events.push(Event::Members { before: Box::new(before), now });
            }
        }
    }

    fn condition(&mut self, status: &Status, stalled: bool, events: &mut Vec<Event>) {
        match (self.disk_stalled, stalled) {
            (false, true) => events.push(Event::DiskStalled),
            (true, false) => events.push(Event::DiskAnswers),
            _ => {}
        }
        match (self.lost, status.lost) {
            (None, Some(lost)) => events.push(Event::Repairing { lost }),
            (Some(_), None) => events.push(Event::Repaired { last: status.last }),
            _ => {}
        }
        if status.diverged && !self.diverged {
            events.push(Event::Diverged);
        }
        self.diverged = status.diverged;
        if status.not_a_member && !self.not_a_member {
            events.push(Event::NotAMember);
        }
        if status.base_unreadable && !self.base_unreadable {
            events.push(Event::SnapshotUnreadable { snapshot: status.snapshot.last });
        }
        if self.invalid_messages == 0 && status.counters.invalid_messages > 0 {
            events.push(Event::Refused { messages: status.counters.invalid_messages });
        }
        (self.disk_stalled, self.lost) = (stalled, status.lost);
        (self.not_a_member, self.base_unreadable) = (status.not_a_member, status.base_unreadable);
        self.invalid_messages = status.counters.invalid_messages;
    }
}

/// The members in words: voters, learners, and what a change in progress leads to.
fn members_text(membership: &Membership) -> String {
    let list = |ids: &mut dyn Iterator<Item = NodeId>| {
        let ids: Vec<String> = ids.map(|id| id.to_string()).collect();
        format!("[{}]", ids.join(", "))
    };
    let voters = list(&mut membership.voters.iter().copied());
    let learners =
        list(&mut membership.members.keys().copied().filter(|id| membership.is_learner(*id)));
    let mut text = format!("voters {voters}, learners {learners}");
    if let Some(outgoing) = &membership.outgoing {
        text +=
            &format!(", together with the former voters {}", list(&mut outgoing.iter().copied()));
    }
    if let Some(target) = &membership.target {
        let voters = list(&mut target.voters.iter().copied());
        let learners = list(&mut target.learners.iter().copied());
        text += &format!(", on the way to voters {voters}, learners {learners}");
    }
    text
}

fn of_peer(
    peer: &PeerStatus,
    before: Peer,
    silent_max: Duration,
    tick: Duration,
    events: &mut Vec<Event>,
) -> Peer {
    if peer.losses > before.losses {
        events.push(Event::PeerLost { peer: peer.id, matched: before.matched });
    }
    let silent = tick * peer.silent_ticks;
    let is_silent = silent >= silent_max;
    match (before.silent, is_silent) {
        (false, true) => events.push(Event::PeerSilent { peer: peer.id, silent }),
        (true, false) => events.push(Event::PeerAnswers { peer: peer.id }),
        _ => {}
    }
    if let (Some(from), false) = (peer.differs_at, before.differs) {
        events.push(Event::PeerDiffers { peer: peer.id, from });
    }
    Peer {
        silent: is_silent,
        differs: peer.differs_at.is_some(),
        losses: peer.losses,
        matched: peer.matched,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use raft::{Config, Incarnation, Member, RawNode, Restored};

    /// The status of the only voter of a cluster, which has not campaigned.
    fn status() -> Status {
        let member = Member {
            incarnation: Incarnation(1),
            peer_address: String::new(),
            client_address: String::new(),
        };
        let membership = Membership::of_voters([(NodeId(1), member)].into());
        let restored = Restored::initial(raft::Snapshot::initial(membership));
        RawNode::new(Config::new(NodeId(1), Incarnation(1), 1), restored).unwrap().status()
    }

    fn conditions(seconds: u64, not_ready: Option<&NotReady>) -> Conditions<'_> {
        Conditions {
            disk_full: false,
            not_ready,
            election_timeout: Duration::from_millis(300),
            tick: Duration::from_millis(10),
            now: Now { monotonic_ns: seconds * 1_000_000_000, ..Now::default() },
        }
    }

    #[test]
    fn a_node_that_knows_no_leader_for_long_reports_it_once() {
        let (mut events, mut status) = (Events::default(), status());
        assert_eq!(events.since(&status, conditions(1, None)), []);
        assert_eq!(events.since(&status, conditions(3, None)), []);
        let without = Duration::from_secs(3);
        assert_eq!(events.since(&status, conditions(4, None)), [Event::Leaderless { without }]);
        assert_eq!(events.since(&status, conditions(90, None)), []);
        status.leader = Some(NodeId(2));
        assert_eq!(events.since(&status, conditions(91, None)).len(), 1, "it follows a leader");
        status.leader = None;
        assert_eq!(events.since(&status, conditions(92, None)).len(), 1, "it knows no leader");
        let without = Duration::from_secs(8);
        assert_eq!(events.since(&status, conditions(100, None)), [Event::Leaderless { without }]);
    }

    #[test]
    fn what_keeps_a_node_from_serving_is_reported_when_it_begins_and_ends() {
        let (mut events, mut status) = (Events::default(), status());
        (status.role, status.leader) = (RoleKind::Leader, Some(NodeId(1)));
        events.since(&status, conditions(1, None));
        let waiting = Duration::from_secs(2);
        let stuck = NotReady::NotCommitting { waiting };
        let reported = events.since(&status, conditions(2, Some(&stuck)));
        assert_eq!(reported, [Event::NotCommitting { waiting }]);
        assert_eq!(events.since(&status, conditions(3, Some(&stuck))), []);
        assert_eq!(events.since(&status, conditions(4, None)), [Event::Commits]);

        let reason: Arc<str> = "no room".into();
        let not_stored = NotReady::SnapshotNotStored { reason: reason.clone() };
        let reported = events.since(&status, conditions(5, Some(&not_stored)));
        assert_eq!(reported, [Event::SnapshotNotStored { reason }]);
        // It is sent again, and again there is no room.
        events.since(&status, conditions(6, Some(&NotReady::CatchingUp)));
        assert_eq!(events.since(&status, conditions(7, Some(&not_stored))), []);
        events.since(&status, conditions(8, None));
        assert_eq!(events.since(&status, conditions(9, Some(&not_stored))).len(), 1);
    }

    #[test]
    fn each_step_of_a_change_of_the_members_is_reported() {
        let (mut events, mut status) = (Events::default(), status());
        assert_eq!(events.since(&status, conditions(1, None)), [], "not those of the start");
        let member = status.membership.members[&NodeId(1)].clone();
        status.membership.members.insert(NodeId(2), member);
        let reported = events.since(&status, conditions(1, None));
        let [Event::Members { before, now }] = &reported[..] else { panic!("{reported:?}") };
        assert_eq!(members_text(before), "voters [1], learners []");
        assert_eq!(members_text(now), "voters [1], learners [2]");
        status.membership.outgoing = Some([NodeId(1)].into());
        status.membership.voters = [NodeId(1), NodeId(2)].into();
        let text = members_text(&status.membership);
        assert_eq!(text, "voters [1, 2], learners [], together with the former voters [1]");
        assert_eq!(events.since(&status, conditions(1, None)).len(), 1);
        assert_eq!(events.since(&status, conditions(1, None)), []);
    }
}
