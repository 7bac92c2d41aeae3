//! A follower: appends the leader's entries, acknowledges them once they are durable, and sends its
//! reads and its clients' commands to the leader.

use crate::core::Core;
use crate::outbox::Outbox;
use crate::role::Next;
use crate::{
    Body, Entries, Entry, Incarnation, Index, LogId, Message, NodeId, ProposeRefused, ReadId,
    ReadProof, ReadRefused, Request, Round, Snapshot,
};
use std::collections::BTreeMap;

/// Invariants: `acknowledged ≤ verified`; reads wait only while there is a leader.
#[derive(Clone, Debug)]
pub(crate) struct Follower {
    /// The leader, once a message from it has arrived.
    pub leader: Option<NodeId>,
    /// The incarnation with which it has sent that message.
    leader_incarnation: Option<Incarnation>,
    /// Ticks since the last message from the leader, or the last granted vote.
    elapsed: u32,
    /// The election timeout in ticks.
    timeout: u32,
    /// The leader's commit index, as far as it is known here.
    pub leader_commit: Index,
    /// The log is known to agree with the leader's up to here.
    verified: Index,
    /// The follower has acknowledged its log up to here.
    acknowledged: Index,
    /// The latest round received from the leader.
    round: Round,
    /// The commit index that the leader sent in that round, and in the round before. All peers
    /// report their state hash at the latter, so that their reports can be compared.
    round_commit: Index,
    compared_at: Index,
    /// An acknowledgement is due even if it contains no news.
    reply_due: bool,
    /// Reads sent to the leader.
    reads: BTreeMap<ReadId, Asked>,
}

/// A read sent to the leader.
#[derive(Clone, Copy, Debug)]
struct Asked {
    /// The leader may answer from its lease.
    lease: bool,
    /// The ticks it has waited.
    waited: u32,
}

impl Follower {
    pub fn new(core: &mut Core, leader: Option<NodeId>) -> Self {
        Follower {
            leader,
            leader_incarnation: None,
            elapsed: 0,
            timeout: core.election_timeout(),
            leader_commit: Index(0),
            verified: Index(0),
            acknowledged: Index(0),
            round: Round(0),
            round_commit: Index(0),
            compared_at: Index(0),
            reply_due: false,
            reads: BTreeMap::new(),
        }
    }

    /// Whether a message of the leader arrived within the shortest election timeout. Then no quorum
    /// that includes this node can have elected another leader since (§4.2.3).
    pub fn has_live_leader(&self, core: &Core) -> bool {
        self.leader.is_some() && self.elapsed < core.config.election_ticks
    }

    /// Makes the election timeout expire at the next tick.
    pub fn hurry(&mut self) {
        self.timeout = 0;
    }

    /// After [`Follower::hurry`], waits for an election timeout again.
    fn wait_in_full(&mut self, core: &mut Core) {
        if self.timeout == 0 {
            self.timeout = core.election_timeout();
        }
    }

    /// The process of a peer has ended. If that is the leader, this node waits for it no longer: it
    /// grants pre-votes, and its own timeout expires soon. The next message of the leader, if there
    /// is one after all, makes it wait again.
    pub fn gone(&mut self, core: &Core, peer: NodeId) {
        if self.leader == Some(peer) {
            self.elapsed = self.elapsed.max(core.config.election_ticks);
            self.timeout = self.timeout.min(self.elapsed + 1 + core.turn_after(peer));
        }
    }

    /// The number of ticks that only count: see
    /// [`RawNode::idle_ticks`](crate::RawNode::idle_ticks).
    pub fn idle_ticks(&self) -> u32 {
        match self.reads.is_empty() && !self.reply_due {
            true => self.timeout.saturating_sub(self.elapsed).saturating_sub(1),
            false => 0,
        }
    }

    pub fn tick(&mut self, core: &mut Core) -> Next {
        self.elapsed += 1;
        self.tick_reads(core);
        if self.elapsed < self.timeout {
            return Next::Stay;
        }
        if core.may_campaign() {
            // With a clock that is slow the promise may outlast the timeout.
            return if core.promise.holds() { Next::Stay } else { Next::PreCandidate };
        }
        self.elapsed = 0;
        self.wait_in_full(core);
        self.lose_leader(core);
        core.ask_whether_removed();
        Next::Stay
    }

    pub fn step(&mut self, core: &mut Core, message: Message) -> Next {
        match message.body {
            Body::Append { prev, entries, commit, round, time } => {
                if self.accept_leader(core, message.from, message.incarnation) {
                    core.observe_time(time);
                    self.append(core, prev, entries, commit, round);
                }
            }
            Body::Vote { last, .. } => {
                if core.answer_vote((message.from, message.incarnation), last) {
                    self.elapsed = 0;
                }
            }
            Body::PreVote { next, last } => {
                core.answer_pre_vote((message.from, message.incarnation), next, last);
            }
            Body::ReadIndexReply { read, index } if self.leader == Some(message.from) => {
                self.read_confirmed(core, read, index);
            }
            // The sender still takes this node for the leader.
            Body::ReadIndex { read, .. } => {
                let reply = core.message(message.from, Body::ReadIndexReply { read, index: None });
                core.outbox.send(reply);
            }
            Body::Diverged { state } if self.leader == Some(message.from) => core.diverge(state),
            Body::TimeoutNow if self.leader == Some(message.from) && core.may_campaign() => {
                return Next::Candidate { transfer: true };
            }
            _ => {}
        }
        Next::Stay
    }

    /// Whether this node follows this leader, as it was when its first message arrived.
    pub fn follows(&self, leader: NodeId, incarnation: Incarnation) -> bool {
        let is_same = self.leader_incarnation.is_none_or(|known| known == incarnation);
        self.leader == Some(leader) && is_same
    }

    /// Records a message from `leader`. Returns false if it cannot be the leader of this term.
    pub fn accept_leader(
        &mut self,
        core: &mut Core,
        leader: NodeId,
        incarnation: Incarnation,
    ) -> bool {
        if self.leader.is_some() && !self.follows(leader, incarnation) {
            core.counters.invalid_messages += 1;
            return false;
        }
        (self.leader, self.leader_incarnation) = (Some(leader), Some(incarnation));
        self.elapsed = 0;
        core.is_counted_on = false;
        self.wait_in_full(core);
        core.promise.make(core.promise_ms());
        true
    }

    fn append(
        &mut self,
        core: &mut Core,
        prev: LogId,
        mut entries: Entries,
        commit: Index,
        round: Round,
    ) {
        if round > self.round {
            self.round = round;
            self.compared_at = std::mem::replace(&mut self.round_commit, commit);
            self.reply_due = true;
        }
        self.leader_commit = self.leader_commit.max(commit);
        // All logs agree below the commit index, and this one may have trimmed those entries.
        let agrees = prev.index <= core.commit || core.log.contains(prev);
        if !agrees {
            return self.reject(core, prev);
        }
        if contradicts(core, prev, &entries) {
            core.counters.invalid_messages += 1;
            return;
        }
        let had = core.log.last();
        let end = prev.index.0 + entries.len() as u64;
        if prev == had {
            // Most appends follow the end of the log, and all their entries are new.
            let mut number = core.log.next_number();
            let follows = |entry: &Entry| {
                entry.number == std::mem::replace(&mut number, entry.number_after())
            };
            if !entries.iter().all(follows) {
                core.counters.invalid_messages += 1;
                return;
            }
            core.log.extend(std::mem::take(&mut entries));
        }
        for entry in entries {
            if entry.id.index <= core.commit || core.log.contains(entry.id) {
                continue;
            }
            if entry.id.index <= core.log.last().index {
                if entry.id.index <= self.verified {
                    // It contradicts an earlier message of the same leader.
                    core.counters.invalid_messages += 1;
                    return;
                }
                core.log.truncate_from(entry.id.index);
            }
            if entry.number != core.log.next_number() {
                // Logs that agree up to here have the same commands up to here.
                core.counters.invalid_messages += 1;
                return;
            }
            core.log.append(entry);
        }
        self.verified = self.verified.max(Index(end)).max(core.commit).min(core.log.last().index);
        core.commit_to(commit.min(self.verified));
        if core.log.last() == had && end > prev.index.0 {
            // The leader has sent only entries that are here: it missed the acknowledgement.
            self.reply_due = true;
        }
    }

    fn reject(&mut self, core: &mut Core, prev: LogId) {
        let body = Body::Rejected {
            prev: prev.index,
            hint: core.log.last_agreeing(prev.index, prev.term),
            lost: core.hard_state().lost.is_some(),
            round: self.round,
        };
        if let Some(leader) = self.leader {
            let reply = core.message(leader, body);
            core.outbox.send(reply);
        }
        self.reply_due = false;
    }

    /// A snapshot from the leader is durable.
    pub fn install(&mut self, core: &mut Core, snapshot: Snapshot) {
        let last = snapshot.last;
        self.reply_due = true;
        if last.index > core.commit {
            if core.log.contains(last) {
                // The whole snapshot is here already, and is now known to be committed.
                core.commit_to(last.index);
            } else {
                core.replace_log(snapshot);
            }
        }
        self.verified = self.verified.max(core.commit);
    }

    /// The acknowledgement that is due, if it may be sent. One acknowledgement covers all the
    /// appends that a sync made durable.
    pub fn acknowledgement(&mut self, core: &Core) -> Option<Message> {
        let leader = self.leader?;
        if !Outbox::may_acknowledge(core.durable_hard_state(), core.term()) {
            return None;
        }
        let matched = self.verified.min(core.log.durable());
        if matched <= self.acknowledged && !self.reply_due {
            return None;
        }
        let state = if self.reply_due { core.hashes.upto(self.compared_at) } else { None };
        self.reply_due = false;
        self.acknowledged = matched;
        let (round, promise_ms) = (self.round, core.may_state_promise_ms());
        let priority = if core.may_campaign() { core.priority() } else { 0 };
        Some(core.message(leader, Body::Appended { matched, round, state, promise_ms, priority }))
    }

    // Reads (§6.4): the leader provides the read index, and the state is this node's own.

    pub fn read(&mut self, core: &mut Core, mode: ReadProof) -> Result<ReadId, ReadRefused> {
        let Some(leader) = self.leader else { return Err(ReadRefused::NoLeader) };
        if self.reads.len() + core.reads_waiting() >= core.config.reads_max {
            return Err(ReadRefused::Busy);
        }
        let read = core.new_read();
        let lease = mode == ReadProof::Lease;
        self.reads.insert(read, Asked { lease, waited: 0 });
        let question = core.message(leader, Body::ReadIndex { read, lease });
        core.outbox.send(question);
        Ok(read)
    }

    fn read_confirmed(&mut self, core: &mut Core, read: ReadId, index: Option<Index>) {
        if self.reads.remove(&read).is_none() {
            return;
        }
        match index {
            Some(index) => {
                core.commit_to(index.min(self.verified));
                core.confirm_read(read, index);
            }
            None => core.refuse_read(read),
        }
    }

    /// Repeats the requests for waiting reads, and rejects those that have waited too long.
    fn tick_reads(&mut self, core: &mut Core) {
        let Some(leader) = self.leader else { return };
        let (again, patience) = (core.config.heartbeat_ticks, 2 * core.config.election_ticks);
        self.reads.retain(|read, Asked { lease, waited }| {
            *waited += 1;
            if *waited > patience {
                core.refuse_read(*read);
                return false;
            }
            if waited.is_multiple_of(again) {
                let question = core.message(leader, Body::ReadIndex { read: *read, lease: *lease });
                core.outbox.send(question);
            }
            true
        });
    }

    /// Rejects the reads that the leader has not confirmed.
    pub fn refuse_reads(&mut self, core: &mut Core) {
        for read in std::mem::take(&mut self.reads).into_keys() {
            core.refuse_read(read);
        }
    }

    // Forwarded requests of this node's clients.

    /// Sends a request to the leader. Returns its number;
    /// [`Action::Forwarded`](crate::Action::Forwarded) follows.
    pub fn forward(&mut self, core: &mut Core, request: Request) -> Result<u64, ProposeRefused> {
        let Some(leader) = self.leader else {
            return Err(ProposeRefused::NotLeader { leader: None });
        };
        Ok(core.forward(leader, request))
    }

    fn lose_leader(&mut self, core: &mut Core) {
        self.leader = None;
        self.refuse_reads(core);
    }
}

/// Whether an append contradicts committed entries, where all logs agree. No correct leader sends
/// that, and its later entries would not fit onto this log.
fn contradicts(core: &Core, prev: LogId, entries: &Entries) -> bool {
    let said = std::iter::once(prev).chain(entries.iter().map(|entry| entry.id));
    said.take_while(|id| id.index <= core.commit)
        .any(|id| core.log.id_at(id.index).is_some_and(|here| here != id))
}
