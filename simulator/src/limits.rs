//! Checks of limits: each append, write and applied batch, and the appends in flight to each peer,
//! stay within the node's configuration. They are counted where they leave the node, in the unit of
//! all limits ([`raft::Entry::cost_bytes`]).
//!
//! A rejection or an acknowledgement always frees appends in flight here, even if the node itself
//! ignores it. So these checks do not notice a node that frees too much.
//!
//! A single entry is always allowed, whatever its size: a limit below the size of a command must
//! not block progress.

use crate::checks::Check;
use crate::plan::Swarm;
use crate::violation::{Violation, violation};
use raft::{Body, Entries, Index, Message, Term};
use std::collections::VecDeque;

const CHECK: Check = Check::LimitsAreKept;

#[derive(Debug)]
pub(crate) struct Limits {
    append_bytes: u64,
    write_bytes: u64,
    apply_bytes: u64,
    inflight_messages: usize,
    /// 0 stands for the default, which no run reaches.
    inflight_bytes: u64,
    /// How often the same append may be sent to the same peer within [`Limits::repeat_us`].
    repeats: u64,
    repeat_us: u64,
    /// Indexed by sender, then by receiver.
    under_way: Vec<Vec<UnderWay>>,
}

/// The period in which repetitions are counted, in election timeouts.
const REPEAT_ELECTIONS: u64 = 4;
/// The rate of the fastest clock of a node, relative to simulated time.
const CLOCK_RATE_MAX: u64 = 5;
/// Repetitions that are allowed in addition to one per heartbeat.
const REPEATS_BESIDES: u64 = 16;

/// The consecutive appends with entries that one node has sent to another and that are not
/// acknowledged.
#[derive(Clone, Debug, Default)]
struct UnderWay {
    term: Term,
    last: Index,
    appends: VecDeque<(Index, u64)>,
    /// The latest append begins after this entry; `repeated` counts how often it was sent since
    /// `since_us`.
    prev: Index,
    repeated: u64,
    since_us: u64,
}

impl Limits {
    pub fn new(nodes: u64, swarm: &Swarm) -> Self {
        Limits {
            append_bytes: swarm.append_bytes.into(),
            write_bytes: swarm.write_bytes.into(),
            apply_bytes: swarm.apply_bytes.into(),
            inflight_messages: swarm.inflight as usize,
            inflight_bytes: swarm.inflight_bytes.into(),
            repeats: REPEATS_BESIDES
                + REPEAT_ELECTIONS * CLOCK_RATE_MAX * u64::from(swarm.election_ticks)
                    / u64::from(swarm.heartbeat_ticks.max(1)),
            repeat_us: REPEAT_ELECTIONS
                * u64::from(swarm.election_ticks)
                * u64::from(swarm.tick_us),
            under_way: vec![vec![UnderWay::default(); nodes as usize]; nodes as usize],
        }
    }

    /// Checks a write that a node hands out.
    pub fn writes(&self, at: usize, entries: &Entries) -> Result<(), Violation> {
        is_within(at, "a write", entries, self.write_bytes)
    }

    /// Checks a batch that a node hands to its state machine.
    pub fn applies(&self, at: usize, entries: &Entries) -> Result<(), Violation> {
        is_within(at, "what is applied at once", entries, self.apply_bytes)
    }

    /// Checks a message that a node sends.
    pub fn said(&mut self, at: usize, message: &Message, now_us: u64) -> Result<(), Violation> {
        let Body::Append { prev, entries, .. } = &message.body else { return Ok(()) };
        let Some(last) = entries.last() else { return Ok(()) };
        is_within(at, "an append", entries, self.append_bytes)?;
        let Some(to) = self.under_way[at].get_mut(message.to.0 as usize) else { return Ok(()) };
        // A peer that lost acknowledged entries, or rejects appends for another reason, gets the
        // same append again with the next heartbeat, not immediately after each of its replies.
        let elapsed = now_us - to.since_us > self.repeat_us;
        if to.term != message.term || to.prev != prev.index || elapsed {
            (to.prev, to.repeated, to.since_us) = (prev.index, 0, now_us);
        }
        to.repeated += 1;
        if to.repeated > self.repeats {
            let detail = format!(
                "node {at} sends {} what follows {prev} for the {}th time in {} µs",
                message.to.0, to.repeated, self.repeat_us
            );
            return violation(Check::NoStormOfMessages, at, detail);
        }
        // A sender that continues from another index treats the appends in flight as lost.
        if to.term != message.term || to.last != prev.index {
            to.appends.clear();
        }
        let bytes: u64 = to.appends.iter().map(|(_, bytes)| bytes).sum();
        let is_full = self.inflight_bytes > 0 && bytes >= self.inflight_bytes;
        if is_full || to.appends.len() >= self.inflight_messages {
            let detail = format!(
                "node {at} sends {} more while {} appends of {bytes} bytes are under way, at most {} \
                 of {}",
                message.to.0,
                to.appends.len(),
                self.inflight_messages,
                self.inflight_bytes,
            );
            return violation(CHECK, at, detail);
        }
        (to.term, to.last) = (message.term, last.id.index);
        to.appends.push_back((last.id.index, cost_bytes(entries)));
        Ok(())
    }

    /// A node is about to receive a message.
    pub fn arrives(&mut self, at: usize, message: &Message) {
        let from = self.under_way[at].get_mut(message.from.0 as usize);
        let Some(from) = from.filter(|from| from.term == message.term) else { return };
        match message.body {
            Body::Appended { matched, .. } => from.appends.retain(|(last, _)| *last > matched),
            // A rejection tells the leader where to continue: earlier appends have arrived, and the
            // rest are lost.
            Body::Rejected { .. } => from.appends.clear(),
            _ => {}
        }
    }

    /// The transport reports to a node that a peer is unreachable: the node sends its last append
    /// again.
    pub fn lost(&mut self, at: usize, to: usize) {
        if let Some(to) = self.under_way[at].get_mut(to) {
            to.repeated = 0;
        }
    }

    /// A node sends a snapshot in place of entries.
    pub fn sends_snapshot(&mut self, at: usize, to: usize) {
        if let Some(to) = self.under_way[at].get_mut(to) {
            to.appends.clear();
        }
    }
}

fn cost_bytes(entries: &Entries) -> u64 {
    entries.iter().map(|entry| entry.cost_bytes() as u64).sum()
}

fn is_within(at: usize, what: &str, entries: &Entries, most: u64) -> Result<(), Violation> {
    let bytes = cost_bytes(entries);
    if entries.len() > 1 && bytes > most {
        let detail = format!("node {at}: {what} has {bytes} bytes, at most {most}");
        return violation(CHECK, at, detail);
    }
    Ok(())
}
