//! Messages in flight: when they left, and their fate.

use super::{KEPT_MAX, Timeline};
use crate::network::Passage;
use raft::{Body, Forwarded, LogId, Message, NodeId, SnapshotOffer, Term};

/// A message in flight, or the transfer of a snapshot.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Flight {
    /// Number of the event at which it was sent.
    pub event: u64,
    /// When it was sent.
    pub sent_us: u64,
    /// When it is due to arrive, or would have been due if it was lost.
    pub due_us: u64,
    /// When and at which event it arrived.
    pub arrived: Option<(u64, u64)>,
    /// The fate of the message.
    pub fate: Fate,
    /// The sender.
    pub from: u64,
    /// The receiver.
    pub to: u64,
    /// The sender's term.
    pub term: Term,
    /// The kind of the message.
    pub kind: FlightKind,
    /// The first and the last of the entries in it.
    pub entries: Option<(LogId, LogId)>,
    /// The contents of the message, in a few words.
    pub says: String,
}

/// The fate of a message.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fate {
    /// The run ended before it arrived.
    UnderWay,
    /// It arrived.
    Arrived,
    /// It was lost by chance.
    Lost,
    /// It was lost because the link was cut.
    Cut,
    /// It reached a node that did not run.
    Down,
    /// It was a snapshot that the receiver did not accept, or could not store.
    Refused,
}

/// Kinds of messages that a page distinguishes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum FlightKind {
    /// An append without entries.
    Heartbeat,
    /// An append with entries.
    Entries,
    /// An acknowledgement of an append.
    Matched,
    /// A rejection of an append.
    Rejected,
    /// A request for a pre-vote, or a reply to one.
    PreVote,
    /// A request for a vote, or a refusal.
    Vote,
    /// A granted vote.
    Granted,
    /// A follower's request for a read index, or the reply.
    Read,
    /// A snapshot.
    Snapshot,
    /// Any other message: leadership transfer, forwarded commands, notices that a node is no member
    /// or has diverged.
    Other,
}

impl Timeline {
    /// Records that a message leaves.
    pub fn sent(&mut self, message: &Message, passage: Passage, is_cut: bool) {
        if !self.on {
            return;
        }
        let flight = self.flight(message);
        self.depart(flight, passage, is_cut);
    }

    /// The flight of a message that leaves now.
    fn flight(&self, message: &Message) -> Flight {
        self.leaving((message.from, message.to), message.term, says(&message.body))
    }

    fn leaving(
        &self,
        (from, to): (NodeId, NodeId),
        term: Term,
        (kind, entries, says): (FlightKind, Option<(LogId, LogId)>, String),
    ) -> Flight {
        Flight {
            event: self.event,
            sent_us: self.now_us,
            due_us: self.now_us + 1,
            arrived: None,
            fate: Fate::UnderWay,
            from: from.0,
            to: to.0,
            term,
            kind,
            entries,
            says,
        }
    }

    /// Records that a snapshot leaves.
    pub fn snapshot_sent(&mut self, offer: &SnapshotOffer, passage: Passage, is_cut: bool) {
        if !self.on {
            return;
        }
        let last = offer.snapshot.last;
        let says = (FlightKind::Snapshot, Some((last, last)), snapshot_words(last));
        let flight = self.leaving((offer.from, offer.to), offer.term, says);
        self.depart(flight, passage, is_cut);
    }

    fn depart(&mut self, flight: Flight, passage: Passage, is_cut: bool) {
        if self.flights.len() >= 2 * KEPT_MAX {
            let gone = self.flights.len() - KEPT_MAX;
            self.flights.drain(..gone);
            self.left_out += gone as u64;
            let left = std::mem::take(&mut self.under_way).into_iter();
            let left = left.filter(|(_, _, _, at)| *at >= gone);
            self.under_way = left.map(|(from, to, due, at)| (from, to, due, at - gone)).collect();
        }
        match passage {
            Passage::Lost { .. } => {
                let fate = if is_cut { Fate::Cut } else { Fate::Lost };
                self.flights.push(Flight { fate, ..flight });
            }
            Passage::Arrives { after_us, again_after_us } => {
                for after_us in [Some(after_us), again_after_us].into_iter().flatten() {
                    let (due_us, at) = (self.now_us + after_us, self.flights.len());
                    self.under_way.insert((flight.from, flight.to, due_us, at));
                    self.flights.push(Flight { due_us, ..flight.clone() });
                }
            }
        }
    }

    /// Records that a message has arrived, at a node that is running or down.
    pub fn arrived(&mut self, message: &Message, is_up: bool) {
        if self.on {
            let (_, _, says) = says(&message.body);
            let fate = if is_up { Fate::Arrived } else { Fate::Down };
            self.land(message.from.0, message.to.0, message.term, &says, fate);
        }
    }

    /// Records that a snapshot has arrived, and was accepted or not.
    pub fn snapshot_arrived(
        &mut self,
        (from, to): (NodeId, NodeId),
        term: Term,
        last: LogId,
        is_taken: bool,
    ) {
        if self.on {
            let fate = if is_taken { Fate::Arrived } else { Fate::Refused };
            self.land(from.0, to.0, term, &snapshot_words(last), fate);
        }
    }

    /// Records that a second copy of a message that left at `sent_us` arrives.
    pub fn arrived_again(&mut self, message: &Message, sent_us: u64) {
        if !self.on {
            return;
        }
        self.flights.push(Flight {
            sent_us,
            due_us: self.now_us,
            arrived: Some((self.now_us, self.event)),
            fate: Fate::Arrived,
            ..self.flight(message)
        });
    }

    /// Records that a connection is lost with all messages in flight on it, except snapshots, which
    /// have their own connection.
    pub fn connection_lost(&mut self, from: u64, to: u64) {
        self.lose(from, to, |flight| flight.kind != FlightKind::Snapshot);
    }

    /// Records that a snapshot is lost in flight, unless its fate is already known.
    pub fn snapshot_lost(&mut self, offer: &SnapshotOffer) {
        let last = offer.snapshot.last;
        let is_it = |flight: &Flight| {
            let is_last =
                flight.kind == FlightKind::Snapshot && flight.entries == Some((last, last));
            is_last && flight.term == offer.term
        };
        self.lose(offer.from.0, offer.to.0, is_it);
    }

    fn lose(&mut self, from: u64, to: u64, is_it: impl Fn(&Flight) -> bool) {
        let way = (from, to, 0, 0)..=(from, to, u64::MAX, usize::MAX);
        let gone = self.under_way.range(way).filter(|(_, _, _, at)| is_it(&self.flights[*at]));
        for flight in gone.copied().collect::<Vec<_>>() {
            self.under_way.remove(&flight);
            self.flights[flight.3].fate = Fate::Lost;
        }
    }

    /// Ends the flight of a message: the earliest due one with the same contents. Between two equal
    /// ones the choice does not matter.
    fn land(&mut self, from: u64, to: u64, term: Term, says: &str, fate: Fate) {
        // Only those that are due are searched: in a message storm many thousands may be in flight.
        let due = (from, to, 0, 0)..=(from, to, self.now_us, usize::MAX);
        let found = self.under_way.range(due).find(|(_, _, _, at)| {
            let flight = &self.flights[*at];
            flight.term == term && flight.says == says
        });
        let Some(found) = found.copied() else { return };
        self.under_way.remove(&found);
        let at = found.3;
        self.flights[at].fate = fate;
        self.flights[at].arrived = Some((self.now_us, self.event));
    }
}

fn snapshot_words(last: LogId) -> String {
    format!("snapshot up to {last}")
}

/// Describes a message: its kind, its entries, and its contents in words.
fn says(body: &Body) -> (FlightKind, Option<(LogId, LogId)>, String) {
    let (kind, words) = match body {
        Body::PreVote { next, last } => {
            (FlightKind::PreVote, format!("pre-vote? for term {next}, log ends {last}"))
        }
        Body::PreVoteReply { granted, next, .. } => {
            (FlightKind::PreVote, format!("pre-vote for term {next} {}", yes(*granted)))
        }
        Body::Vote { last, .. } => (FlightKind::Vote, format!("vote? log ends {last}")),
        Body::VoteReply { granted: true, .. } => (FlightKind::Granted, "vote granted".to_owned()),
        Body::VoteReply { granted: false, .. } => (FlightKind::Vote, "vote refused".to_owned()),
        Body::Append { prev, entries, commit, .. } => {
            let ends = entries.first().zip(entries.last());
            let (kind, what) = match ends {
                None => (FlightKind::Heartbeat, "heartbeat".to_owned()),
                Some((one, last)) if one.id == last.id => {
                    (FlightKind::Entries, format!("append {}", one.id))
                }
                Some((first, last)) => {
                    (FlightKind::Entries, format!("append {}..{}", first.id, last.id))
                }
            };
            let words = format!("{what} after {prev}, commit {commit}");
            return (kind, ends.map(|(first, last)| (first.id, last.id)), words);
        }
        Body::Appended { matched, .. } => (FlightKind::Matched, format!("matched up to {matched}")),
        Body::Rejected { prev, hint, lost, .. } => {
            let lost = if *lost { ", entries lost" } else { "" };
            (FlightKind::Rejected, format!("rejected: no {prev}; try after {hint}{lost}"))
        }
        Body::ReadIndex { .. } => (FlightKind::Read, "read index?".to_owned()),
        Body::ReadIndexReply { index: Some(index), .. } => {
            (FlightKind::Read, format!("read index {index}"))
        }
        Body::ReadIndexReply { index: None, .. } => (FlightKind::Read, "no read index".to_owned()),
        Body::Diverged { .. } => (FlightKind::Other, "your copy is wrong".to_owned()),
        Body::TimeoutNow => (FlightKind::Other, "campaign now".to_owned()),
        Body::NotAMember { .. } => (FlightKind::Other, "you are no member".to_owned()),
        Body::Forward { .. } => (FlightKind::Other, "append this command".to_owned()),
        Body::ForwardReply { outcome, .. } => {
            let words = match outcome {
                Forwarded::Appended { id, .. } => format!("your command is {id}"),
                outcome => format!("your command: {outcome:?}"),
            };
            (FlightKind::Other, words)
        }
    };
    (kind, None, words)
}

fn yes(granted: bool) -> &'static str {
    if granted { "granted" } else { "refused" }
}
