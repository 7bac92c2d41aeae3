//! The state changes that a node logs for its operator, each of them once.
//!
//! They are found by comparing each published status with the previous one. So the path of a
//! message or proposal writes no log lines.

use raft::{Index, LogId, NodeId, PeerStatus, RoleKind, Status, Term};
use std::collections::BTreeMap;
use std::time::Duration;

/// A peer that has not answered its leader for this many election timeouts is reported.
const SILENT_ELECTIONS: u32 = 3;

/// A change of a node's state.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Event {
    Leads { term: Term },
    SteppedDown { term: Term, disk: bool },
    Follows { leader: NodeId, term: Term },
    LostLeader { term: Term },
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
            Event::SteppedDown { term, disk: false } => {
                tracing::info!(%term, "this node leads no longer");
            }
            Event::SteppedDown { term, disk: true } => tracing::warn!(
                %term,
                "this node leads no longer: its disk is full or does not answer, and the others can \
                 commit without it; it does not campaign until the disk takes writes"
            ),
            Event::Follows { leader, term } => tracing::info!(%leader, %term, "follows a leader"),
            Event::LostLeader { term } => tracing::info!(%term, "knows no leader"),
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

/// The state that was reported last.
#[derive(Debug, Default)]
pub(crate) struct Events {
    term: Term,
    leader: Option<NodeId>,
    leads: bool,
    disk_stepped_down: u64,
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
    pub fn since(
        &mut self,
        status: &Status,
        disk_full: bool,
        election_timeout: Duration,
        tick: Duration,
    ) -> Vec<Event> {
        let mut events = Vec::new();
        self.leadership(status, &mut events);
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
            let disk = status.counters.disk_stepped_down > self.disk_stepped_down;
            events.push(Event::SteppedDown { term: self.term, disk });
        }
        match leader {
            Some(_) if leads => events.push(Event::Leads { term }),
            Some(leader) => events.push(Event::Follows { leader, term }),
            None if self.leader.is_some() && !self.leads => events.push(Event::LostLeader { term }),
            None => {}
        }
        (self.leads, self.leader, self.term) = (leads, leader, term);
        self.disk_stepped_down = status.counters.disk_stepped_down;
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
