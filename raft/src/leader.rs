//! A leader: takes proposals, replicates the log, commits entries that a quorum has on disk, and
//! confirms reads by rounds of heartbeats.

mod idle;
mod reads;

use crate::core::Core;
use crate::lease::Lease;
use crate::progress::{Progress, State};
use crate::role::Next;
use crate::transfer::Transfer;
use crate::{
    Action, Body, Entries, Forwarded, Index, LogId, Message, NodeId, Payload, PeerStatus,
    ProposeRefused, Proposed, ReadId, Reading, Request, Round, SnapshotOffer, SnapshotStatus, Term,
};
use std::collections::{BTreeMap, VecDeque};

/// Invariants: every other member has a progress; rounds in `confirming` never decrease; a round
/// confirms reads only if it starts after an entry of this term is committed.
#[derive(Clone, Debug)]
pub(crate) struct Leader {
    pub(crate) progress: BTreeMap<NodeId, Progress>,
    /// The no-op that began the term. Once it is committed, the leader knows what is committed
    /// (§6.4).
    pub(crate) term_start: Index,
    /// The latest round of heartbeats.
    round: Round,
    /// Ticks since the latest round that a tick has begun. Rounds for reads do not count: under
    /// constant reads, nothing would be probed again.
    ticks_since_round: u32,
    ticks_since_quorum: u32,
    /// Reads that wait for the next round to start.
    reads: Vec<Asker>,
    /// Reads that wait for their round to be confirmed, with their read index.
    confirming: VecDeque<(Round, Index, Asker)>,
    /// Bytes of the entries that are not committed as far as this leader knows.
    uncommitted_bytes: usize,
    /// The end of the log when it last grew, and the ticks since then.
    last: Index,
    ticks_since_entry: u32,
    /// While this node's disk is stalled: a `Clock` entry was appended to test whether the others
    /// can commit.
    stall_probed: bool,
    /// For each peer: the nonces of its latest starts, oldest first, each with the number of the
    /// latest command that was forwarded in this term.
    forwards: BTreeMap<NodeId, VecDeque<(u64, u64)>>,
    /// Leadership is being handed over. No proposals are taken meanwhile.
    pub(crate) transfer: Option<Transfer>,
    /// The end of the log at the latest heartbeat, and at the one before. A learner that has the
    /// latter has caught up.
    pub(crate) round_last: (Index, Index),
    /// The entry that shows which voters take part in a change: those that have it on disk. It is
    /// the latest membership, the no-op of the term, or a `Clock` entry appended since.
    pub(crate) change_probe: Index,
    pub(crate) ticks_since_probe: u32,
    /// The round that began with the probe. Only replies to it or to a later one count.
    pub(crate) change_round: Round,
    /// This node votes no longer, and has tried to hand leadership over.
    pub(crate) retiring: bool,
    pub(crate) lease: Lease,
}

/// The most starts of a peer that a leader remembers in one term. A command that a still earlier
/// start forwarded, and that arrives only now, could be appended twice.
const FORWARDING_STARTS_MAX: usize = 256;

/// The origin of a read.
#[derive(Clone, Copy, Debug)]
enum Asker {
    Own(ReadId),
    Peer(NodeId, ReadId),
}

impl Leader {
    /// Begins the term with a no-op, so that entries of earlier terms can be committed (§3.6.2).
    ///
    /// `readings` are the log clocks of its voters. The log time continues from them.
    pub fn new(core: &mut Core, readings: &BTreeMap<NodeId, Reading>) -> Self {
        core.counters.elected += 1;
        core.start_time(readings);
        let next = core.log.last().index.next();
        let others = core.log.membership().members.keys().filter(|id| **id != core.id());
        let progress = others.map(|id| (*id, Progress::new(next))).collect();
        let term_start = core.append(Payload::NoOp).index;
        let mut leader = Leader {
            progress,
            term_start,
            round: Round(0),
            ticks_since_round: 0,
            ticks_since_quorum: 0,
            reads: Vec::new(),
            confirming: VecDeque::new(),
            uncommitted_bytes: core.log.cost_bytes(core.commit, term_start),
            last: term_start,
            ticks_since_entry: 0,
            stall_probed: false,
            forwards: BTreeMap::new(),
            transfer: None,
            round_last: (term_start, term_start),
            change_probe: term_start,
            ticks_since_probe: 0,
            change_round: Round(0),
            retiring: false,
            lease: Lease::default(),
        };
        leader.start_round(core);
        leader.try_commit(core);
        leader
    }

    pub fn is_serving(&self, core: &Core) -> bool {
        core.applied >= self.term_start
    }

    pub fn tick(&mut self, core: &mut Core) -> Next {
        let base = core.log.base().last.index;
        let election_ticks = core.config.election_ticks;
        self.progress.values_mut().for_each(|progress| progress.tick(base, election_ticks));
        if self.holds_others_back(core) {
            core.counters.disk_stepped_down += 1;
            return Next::Follower { term: core.term(), leader: None };
        }
        self.keep_time(core);
        self.tick_transfer(core);
        self.ticks_since_probe = self.ticks_since_probe.saturating_add(1);
        if self.tick_change(core) {
            return Next::Follower { term: core.term(), leader: None };
        }
        self.tick_priorities(core);
        self.ticks_since_quorum += 1;
        if self.ticks_since_quorum >= core.config.election_ticks {
            self.ticks_since_quorum = 0;
            if !self.has_quorum(core) {
                core.counters.quorum_stepped_down += 1;
                return Next::Follower { term: core.term(), leader: None };
            }
        }
        self.ticks_since_round += 1;
        if self.ticks_since_round >= core.config.heartbeat_ticks {
            for progress in self.progress.values_mut() {
                if let State::Probe { asked } = &mut progress.state {
                    *asked = false;
                }
            }
            self.round_last = (core.log.last().index, self.round_last.0);
            self.ticks_since_round = 0;
            self.start_round(core);
        }
        // Followers learn the commit index from the next entries. If none are due, send it now.
        for progress in self.progress.values_mut() {
            if progress.sent_commit < core.commit && progress.state == State::Replicate {
                progress.commit_due = true;
            }
        }
        Next::Stay
    }

    /// Whether this node's disk alone blocks the cluster: its write has been pending for too long,
    /// and a quorum without this node has committed entries of that write. If nobody else can
    /// commit either (all share one disk, for instance), another leader would not help.
    fn holds_others_back(&mut self, core: &mut Core) -> bool {
        if !core.is_disk_stalled() {
            self.stall_probed = false;
            return false;
        }
        let alone = self.progress.is_empty();
        if !alone && !self.stall_probed && core.log.durable() == core.log.last().index {
            // The others have nothing to commit: no client proposes, or proposals are rejected
            // because the disk is full.
            self.stall_probed = true;
            self.append(core, Payload::Clock);
        }
        core.commit > core.log.durable()
    }

    /// Advances the log time while there are no proposals.
    fn keep_time(&mut self, core: &mut Core) {
        let last = core.log.last().index;
        if last != self.last {
            (self.last, self.ticks_since_entry) = (last, 0);
            return;
        }
        self.ticks_since_entry += 1;
        let committed = core.commit == last && self.transfer.is_none();
        if committed && self.ticks_since_entry >= core.config.clock_ticks {
            self.append(core, Payload::Clock);
        }
    }

    /// Whether a quorum has replied since the previous check (CheckQuorum, §6.2).
    fn has_quorum(&mut self, core: &Core) -> bool {
        let heard = |id: NodeId| match self.progress.get(&id) {
            Some(progress) => progress.active,
            None => id == core.id() && core.votes(),
        };
        let quorum = core.log.membership().is_quorum(heard);
        for progress in self.progress.values_mut() {
            progress.active = false;
        }
        quorum
    }

    pub fn step(&mut self, core: &mut Core, message: Message) -> Next {
        let from = message.from;
        if let Some(progress) = self.progress.get_mut(&from) {
            progress.active = true;
            progress.silent_ticks = 0;
        }
        match message.body {
            Body::Appended { matched, round, state, promise_ms, priority } => {
                if let Some(progress) = self.progress.get_mut(&from) {
                    progress.priority = priority;
                }
                // A peer that knows its state hash sends it in the reply to each new round.
                if let Some(progress) = self.progress.get_mut(&from)
                    && state.is_none()
                    && round > progress.round
                {
                    (progress.agrees, progress.incomparable) = (None, true);
                    progress.other = None;
                }
                self.appended(core, from, matched, round);
                self.rely_on(core, from, round, promise_ms);
                if let Some(state) = state
                    && self.compare(core, from, state)
                {
                    return Next::Follower { term: core.term(), leader: None };
                }
            }
            Body::Rejected { prev, hint, lost, round } => {
                self.rejected(core, from, prev, hint, lost, round);
            }
            Body::ReadIndex { read, lease } => self.peer_read(core, from, read, lease),
            Body::Forward { start, number, request } => {
                self.take_forward(core, from, start, number, request);
            }
            Body::Vote { last, .. } => {
                core.answer_vote((from, message.incarnation), last);
            }
            Body::Append { .. } => core.counters.invalid_messages += 1,
            _ => {}
        }
        Next::Stay
    }

    /// A write of this node is durable: its own copies count now.
    pub fn persisted(&mut self, core: &mut Core) {
        self.try_commit(core);
    }

    // Proposals.

    pub fn propose(
        &mut self,
        core: &mut Core,
        request: Request,
    ) -> Result<Proposed, ProposeRefused> {
        if self.transfer.is_some() {
            // The target leads soon.
            return Err(ProposeRefused::NotLeader { leader: None });
        }
        let entries = core.log.last().index.0 - core.commit.0;
        if self.uncommitted_bytes >= core.config.uncommitted_bytes_max
            || entries >= core.config.uncommitted_entries_max as u64
        {
            // Before the first commit of its term a leader does not know what is committed. After a
            // restart, all of the log counts. This ends soon, so callers wait as in an election.
            return Err(match core.commit < self.term_start {
                true => ProposeRefused::NotLeader { leader: None },
                false => ProposeRefused::Busy,
            });
        }
        let number = core.log.next_number();
        Ok(Proposed { id: self.append(core, request.into()), number })
    }

    /// Appends a request that a follower forwards, at most once: the message may be duplicated or
    /// delayed. A number that is not new gets no reply, since that command may have been appended.
    fn take_forward(
        &mut self,
        core: &mut Core,
        from: NodeId,
        start: u64,
        number: u64,
        request: Request,
    ) {
        let starts = self.forwards.entry(from).or_default();
        match starts.iter_mut().rfind(|(known, _)| *known == start) {
            Some((_, latest)) if number <= *latest => return,
            Some((_, latest)) => *latest = number,
            None => {
                if starts.len() >= FORWARDING_STARTS_MAX {
                    starts.pop_front();
                }
                starts.push_back((start, number));
            }
        }
        let limit_bytes = core.config.command_bytes_max;
        let outcome = if request.len() > limit_bytes {
            Forwarded::TooLarge { limit_bytes: limit_bytes as u64 }
        } else {
            match self.propose(core, request) {
                Ok(Proposed { id, number }) => {
                    if let Some(progress) = self.progress.get_mut(&from) {
                        progress.forwarded = id.index;
                    }
                    Forwarded::Appended { id, number }
                }
                Err(ProposeRefused::NotLeader { .. }) => Forwarded::NotTaken,
                Err(_) => Forwarded::Busy,
            }
        };
        core.answer_forward(from, start, number, outcome);
    }

    pub(crate) fn append(&mut self, core: &mut Core, payload: Payload) -> LogId {
        let id = core.append(payload);
        self.uncommitted_bytes += core.log.entry(id.index).map_or(0, crate::Entry::cost_bytes);
        id
    }

    // Replication.

    fn appended(&mut self, core: &mut Core, from: NodeId, matched: Index, round: Round) {
        let last = core.log.last().index;
        let Some(progress) = self.progress.get_mut(&from) else { return };
        if matched > last || round > self.round {
            core.counters.invalid_messages += 1;
            return;
        }
        if round < progress.ignore_before {
            return;
        }
        progress.acknowledge(matched, self.round);
        progress.round = progress.round.max(round);
        self.try_commit(core);
        self.confirm_reads(core);
        self.hand_over(core);
    }

    fn rejected(
        &mut self,
        core: &mut Core,
        from: NodeId,
        prev: Index,
        hint: LogId,
        lost: bool,
        round: Round,
    ) {
        let latest = self.round;
        let Some(progress) = self.progress.get_mut(&from) else { return };
        if round < progress.ignore_before {
            return;
        }
        // A peer never rejects what it has acknowledged, unless it has lost the entries. Either it
        // reports the loss, or its reply is to a round that started after the acknowledgement.
        let proven = lost || round > progress.matched_round;
        if proven && prev <= progress.matched {
            // Everything the peer sent before is void, messages in flight included. Only replies to
            // the round that starts now count.
            progress.forget(latest.next());
            self.start_round(core);
        }
        let Some(progress) = self.progress.get_mut(&from) else { return };
        let stale = match progress.state {
            State::Probe { .. } => prev.next() != progress.next,
            State::Replicate => prev <= progress.matched,
            State::Snapshot(_) => true,
        };
        if stale {
            return;
        }
        let agreeing = core.log.last_agreeing(hint.index.min(prev), hint.term);
        // The next probe must move back, or it would reveal nothing new.
        let next = agreeing.index.next().min(prev.max(Index(1)));
        progress.probe(next);
    }

    pub fn unreachable(&mut self, peer: NodeId) {
        if let Some(progress) = self.progress.get_mut(&peer)
            && progress.state == State::Replicate
        {
            progress.probe(progress.matched.next());
        }
    }

    /// The transfer of a snapshot has ended: delivered, declined or lost. In each case the next
    /// heartbeat probes whether the peer has the log up to there. A peer that declined because it
    /// already has the log confirms it, and is not offered the snapshot for ever. A peer that does
    /// not have it reports where its log ends. Unless the snapshot was delivered, the probe carries
    /// no entries: they would most likely be rejected, once for each attempt.
    pub fn snapshot_sent(
        &mut self,
        core: &Core,
        to: NodeId,
        snapshot: LogId,
        status: SnapshotStatus,
    ) {
        let Some(progress) = self.progress.get_mut(&to) else { return };
        progress.snapshot_ended(status, core.config.election_ticks);
        if progress.state != State::Snapshot(snapshot) {
            return;
        }
        progress.probe(snapshot.index.next());
        progress.state = State::Probe { asked: true };
        progress.bare = status != SnapshotStatus::Delivered;
    }

    /// This snapshot of this node is unreadable: it is not offered again.
    pub fn forget_offers(&mut self, snapshot: LogId) {
        self.progress.values_mut().for_each(|progress| progress.forget_offer(snapshot));
    }

    /// The snapshots that were offered to peers and may be offered again.
    pub fn offered(&self) -> impl Iterator<Item = LogId> {
        self.progress.values().filter_map(|p| p.offered.as_ref()).map(|offered| offered.last)
    }

    /// Commits the entries that a quorum has on disk, if the last of them is of this term
    /// (§3.6.2).
    pub(crate) fn try_commit(&mut self, core: &mut Core) {
        if core.commit == core.log.last().index {
            return;
        }
        let reached = core.log.membership().reached(|id| self.on_disk(core, id));
        let of_this_term = core.log.id_at(reached).is_some_and(|id| id.term == core.term());
        if reached <= core.commit || !of_this_term {
            return;
        }
        let cost_bytes = core.log.cost_bytes(core.commit, reached);
        self.uncommitted_bytes = self.uncommitted_bytes.saturating_sub(cost_bytes);
        core.commit_to(reached);
        for progress in self.progress.values_mut() {
            let waits = progress.sent_commit < progress.forwarded && progress.forwarded <= reached;
            progress.commit_due |= waits && progress.state == State::Replicate;
        }
    }

    /// The last entry that the member has on disk, as far as this leader knows.
    pub(crate) fn on_disk(&self, core: &Core, node: NodeId) -> Index {
        match self.progress.get(&node) {
            Some(progress) => progress.matched,
            None if node == core.id() && core.votes() => core.log.durable(),
            None => Index(0),
        }
    }

    /// The next message to a peer, if one is due and there is room for it. Appends are built here
    /// from the peer's progress, so a hundred proposals can become one message.
    pub fn next_message(&mut self, core: &mut Core) -> Option<Action> {
        self.start_read_round(core);
        let round = self.round;
        let wants = |progress: &Progress| progress.wants_snapshot(core.log.before().index);
        let may_offer = self.progress.values().any(wants) && self.may_offer_base(core);
        for (id, progress) in &mut self.progress {
            if may_offer && progress.wants_snapshot(core.log.before().index) {
                let snapshot = progress.offer(core.log.before().index, core.log.base());
                return Some(Action::SendSnapshot(SnapshotOffer {
                    from: core.id(),
                    to: *id,
                    term: core.term(),
                    incarnation: core.config.incarnation,
                    snapshot,
                }));
            }
            if let Some(body) = append(core, progress, round) {
                return Some(Action::Send(core.message(*id, body)));
            }
        }
        None
    }

    /// This node stops leading. Its own reads are rejected; a follower repeats its reads at the
    /// next leader. A leader that has not handed over has failed.
    pub fn resign(&mut self, core: &mut Core) {
        core.counters.stepped_down += 1;
        let confirming =
            std::mem::take(&mut self.confirming).into_iter().map(|(_, _, asker)| asker);
        for asker in std::mem::take(&mut self.reads).into_iter().chain(confirming) {
            if let Asker::Own(read) = asker {
                core.refuse_read(read);
            }
        }
        if self.transfer.is_none() && !self.retiring {
            core.probation.begin(core.config.election_ticks);
        }
    }

    pub fn peers(&self) -> Vec<PeerStatus> {
        let status = |(id, p): (&NodeId, &Progress)| PeerStatus {
            id: *id,
            matched: p.matched,
            next: p.next,
            active: p.active,
            in_snapshot: matches!(p.state, State::Snapshot(_)),
            silent_ticks: p.silent_ticks,
            behind_ticks: p.chase_ticks,
            losses: p.losses,
            priority: p.priority,
            agrees: p.agrees,
            differs_at: (p.agrees == Some(false)).then_some(p.differs_at),
        };
        self.progress.iter().map(status).collect()
    }

    /// The last entry that all peers are known to have, of those that reply or receive a snapshot.
    /// Later entries have yet to be sent to one of them.
    pub fn needed_after(&self, core: &Core) -> Option<Index> {
        let silent_ticks_max = core.config.election_ticks;
        self.progress.values().filter_map(|p| p.position(silent_ticks_max)).min()
    }

    /// The first invariant that does not hold, if any.
    pub fn broken_invariant(&self, core: &Core) -> Option<&'static str> {
        let last = core.log.last().index;
        let term_start = core.log.id_at(self.term_start).map(|id| id.term);
        let each =
            |rule: fn(&Progress, Index) -> bool| self.progress.values().all(|p| rule(p, last));
        let mut rounds = self.confirming.iter().map(|(round, _, _)| *round);
        let reads_wait = rounds.next().is_none_or(|round| round > self.confirmed_round(core));
        let rules = [
            ("a read waits although its round is confirmed", reads_wait),
            ("a peer's match is not below its next", each(|p, _| p.matched < p.next)),
            ("a peer has more than the leader", each(|p, last| p.matched <= last)),
            ("a peer is to be sent what is not there", each(|p, last| p.next <= last.next())),
            ("a leader follows its own progress", !self.progress.contains_key(&core.id())),
            (
                "the term did not begin with an entry of its own",
                term_start.is_none_or(|term: Term| term == core.term()),
            ),
        ];
        rules.into_iter().find(|(_, holds)| !holds).map(|(name, _)| name)
    }
}

/// The next append to a peer, if one is due and there is room for it.
fn append(core: &Core, progress: &mut Progress, round: Round) -> Option<Body> {
    let last = core.log.last().index;
    if progress.next > last && !progress.heartbeat_due && !progress.commit_due {
        return None;
    }
    let full = || {
        let config = &core.config;
        progress.inflight.is_full(config.inflight_messages_max, config.inflight_bytes_max)
    };
    let prev = match progress.state {
        State::Snapshot(_) => None,
        State::Probe { .. } | State::Replicate => core.log.id_at(progress.next.before()),
    };
    // A peer that needs or receives a snapshot still gets heartbeats. Their `prev` is the position
    // before the first entry, where all logs agree.
    let Some(prev) = prev else {
        let due = std::mem::take(&mut progress.heartbeat_due);
        let (prev, commit, entries) = (LogId::ZERO, core.commit, Entries::default());
        let time = core.log_time();
        return due.then_some(Body::Append { prev, entries, commit, round, time });
    };
    let has_entries = match progress.state {
        State::Probe { asked } => !asked && !progress.bare && progress.next <= last,
        State::Replicate => progress.next <= last && !full(),
        State::Snapshot(_) => false,
    };
    if !has_entries && !progress.heartbeat_due && !progress.commit_due {
        return None;
    }
    let mut entries = Entries::default();
    if has_entries {
        let bytes_max = core.config.append_bytes_max;
        let bytes;
        (entries, bytes) = core.log.share(progress.next, last, bytes_max);
        match (&mut progress.state, entries.last()) {
            (State::Probe { asked }, _) => (*asked, progress.bare) = (true, true),
            (State::Replicate, Some(entry)) => progress.sent(entry.id.index, bytes),
            (State::Replicate | State::Snapshot(_), _) => {}
        }
    }
    progress.heartbeat_due = false;
    progress.commit_due = false;
    progress.sent_commit = core.commit;
    let time = core.log_time();
    Some(Body::Append { prev, entries, commit: core.commit, round, time })
}
