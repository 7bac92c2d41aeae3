//! The observer sees every node at once, and everything that was ever committed. After each event
//! it checks what the event may have changed, and reports which promise is broken.
//!
//! The cost of a check is in proportion to what changed: a run has hundreds of thousands of events.

mod members;
mod sessions;

use crate::checks::Check;
use crate::copies::{self, Copies};
use crate::describe::{Describe, Plain};
use crate::in_force::InForce;
use crate::marks::Marks;
use crate::plan::Swarm;
use crate::shadow::Shadow;
use crate::timekeeping::Timekeeping;
use crate::violation::{About, Violation, violation};
use crate::workload::ClientRequest;
use bytes::Bytes;
use driver::{Answer, Replica, SessionId, SessionLimits, SessionNumber, StateMachine};
use members::Memberships;
use raft::{
    Body, CommandNumber, Entries, Entry, Incarnation, Index, LogId, Membership, Message, NodeId,
    Payload, RawNode, Term,
};
use sessions::{Counted, Once};
use std::collections::BTreeMap;

/// The state of a node when the observer last checked it.
#[derive(Clone, Copy, Debug, Default)]
struct Seen {
    term: Term,
    commit: Index,
    leads: bool,
    last: LogId,
    /// It leads, does not vote any more, and hands leadership over.
    retires: bool,
}

/// The entry that was committed at one index.
#[derive(Debug)]
struct Committed {
    id: LogId,
    /// The term of the leader that committed it; that of the entry may be earlier.
    term: Term,
    hash: u64,
    /// The answer of the reference machine, unless the entry is one of the protocol itself.
    answer: Option<Answer>,
}

/// The disk of a node, as the observer knows it.
#[derive(Clone, Copy, Debug)]
pub struct Observed<'a> {
    /// The contents that it must have.
    pub shadow: &'a Shadow,
    /// Whether it has lost data that it may have acknowledged.
    pub forgot: bool,
    /// The incarnation of its directory, if it is known. Another incarnation of the same node has
    /// promised what this disk does not hold.
    pub incarnation: Option<Incarnation>,
}

impl Observed<'_> {
    /// Whether the member with this id has lost what it promised: data was damaged, or its disk was
    /// replaced.
    pub(crate) fn has_forgotten(&self, id: NodeId, membership: &Membership) -> bool {
        let member = membership.members.get(&id).map(|member| member.incarnation);
        self.forgot || self.incarnation.is_some_and(|incarnation| member != Some(incarnation))
    }
}

/// Sees all nodes, and all that was ever committed. `M` is the state machine.
#[derive(Debug)]
pub struct Observer<M> {
    seen: Vec<Seen>,
    /// The memberships in the log of each node.
    in_force: Vec<InForce>,
    memberships: Memberships,
    /// How often noteworthy events happened.
    pub(crate) marks: Marks,
    leaders: BTreeMap<Term, u64>,
    /// The vote of each disk in each term, as sent in messages.
    votes: BTreeMap<(NodeId, Incarnation, Term), NodeId>,
    /// The logs that leaders have announced in their appends, by term.
    announced: BTreeMap<Term, BTreeMap<Index, LogId>>,
    /// Everything that was ever committed, from index 1 on.
    committed: Vec<Committed>,
    next_number: CommandNumber,
    /// The checks of the log's time against the clocks of the nodes.
    pub time: Timekeeping,
    /// Applies the committed log, once and in order.
    reference: Replica<Counted<M>>,
    /// What became of the commands of sessions.
    pub(crate) once: Once,
    /// Its states, if those of the nodes are compared with them.
    copies: Option<Copies>,
}

impl<M: StateMachine> Observer<M> {
    /// Creates an observer of this number of nodes; `reference` is a state machine in its initial
    /// state.
    pub fn new(nodes: u64, reference: M) -> Self {
        Observer {
            seen: vec![Seen::default(); nodes as usize],
            in_force: (0..nodes).map(|_| InForce::default()).collect(),
            memberships: Memberships::default(),
            marks: Marks::default(),
            leaders: BTreeMap::new(),
            votes: BTreeMap::new(),
            announced: BTreeMap::new(),
            committed: Vec::new(),
            next_number: CommandNumber(0),
            time: Timekeeping::default(),
            reference: Replica::new(Counted { inner: reference, executed: 0 }),
            once: Once::default(),
            copies: None,
        }
    }

    /// The messages of the run are as late as in this plan.
    #[must_use]
    pub fn with_delays(mut self, swarm: &Swarm) -> Self {
        self.time.allow_delays(swarm);
        self
    }

    /// Compares the states of the nodes with that of the reference machine from now on.
    pub(crate) fn with_copies(mut self) -> Self {
        self.copies = Some(Copies::new(self.seen.len() as u64));
        self
    }

    /// Checks sessions of these limits: see [`Once::with_limits`].
    pub(crate) fn with_sessions(mut self, limits: SessionLimits, large: bool) -> Self {
        self.once = Once::with_limits(limits, large);
        self
    }

    /// A node has the state after this index from elsewhere.
    pub(crate) fn restored(&mut self, node: usize, at: Index) {
        if let Some(copies) = &mut self.copies {
            copies.restored(node, at);
        }
    }

    /// Checks the state of a node that has applied this entry.
    pub(crate) fn has_state(
        &mut self,
        node: usize,
        id: LogId,
        replica: &Replica<M>,
        describe: &dyn Describe,
    ) -> Result<(), Violation> {
        match &mut self.copies {
            Some(copies) => {
                copies.applied(node, id, || copies::bytes_of(&replica.freeze()), describe)
            }
            None => Ok(()),
        }
    }

    /// The highest index that any node has committed.
    pub fn committed_index(&self) -> Index {
        Index(self.committed.len() as u64)
    }

    /// Number of terms that had a leader.
    pub fn elections(&self) -> usize {
        self.leaders.len()
    }

    /// The latest term that had a leader, and the leader's id.
    pub fn latest_leader(&self) -> Option<(Term, u64)> {
        self.leaders.last_key_value().map(|(term, node)| (*term, *node))
    }

    /// The reference machine's answer to the command at `index`, if a command is committed there.
    pub fn answer(&self, index: Index) -> Option<&Answer> {
        self.committed.get(index.0 as usize - 1)?.answer.as_ref()
    }

    /// The id of the entry that is committed at `index`.
    pub fn id_at(&self, index: Index) -> Option<LogId> {
        let at = (index.0 as usize).checked_sub(1)?;
        self.committed.get(at).map(|committed| committed.id)
    }

    /// A node has started: it has lost what it had only in memory.
    pub fn started(&mut self, at: usize, node: &RawNode) {
        self.time.started();
        if node.base().last == LogId::ZERO {
            self.memberships.begins(&node.base().membership);
        }
        self.in_force[at].started(node);
        self.seen[at] = Seen {
            term: node.term(),
            commit: node.commit(),
            leads: false,
            last: node.last(),
            retires: false,
        };
    }

    /// Checks a node after an event. `disks` are the disks of all nodes. Returns whether the node
    /// was just elected.
    pub fn look(
        &mut self,
        at: usize,
        node: &RawNode,
        disks: &[Observed<'_>],
    ) -> Result<bool, Violation> {
        let before = self.seen[at];
        let mut now = Seen {
            term: node.term(),
            commit: node.commit(),
            leads: node.is_leader(),
            last: node.last(),
            retires: false,
        };
        self.seen[at] = now;
        if let Some(broken) = node.broken_invariant() {
            return violation(Check::Invariant, at, format!("node {at}: {broken}"));
        }
        if node.is_diverged() {
            // It has dropped its log and stops.
            return Ok(false);
        }
        let news = self.in_force[at].follow(node);
        now.retires = now.leads
            && !self.membership(at).is_voter(NodeId(at as u64))
            && node.transferring().is_some();
        self.seen[at] = now;
        if before.retires && !now.leads && now.term > before.term {
            self.marks.hit("a leader that was demoted handed over");
        }
        if now.term < before.term {
            return violation(
                Check::TermGrows,
                (at, [before.term, now.term]),
                format!("node {at}: {} → {}", before.term, now.term),
            );
        }
        if now.commit < before.commit {
            let detail = format!("node {at}: {} → {}", before.commit, now.commit);
            return violation(Check::CommitGrows, (at, now.commit), detail);
        }
        if before.leads && now.leads && now.term == before.term && now.last < before.last {
            let detail = format!("node {at}: {} → {}", before.last, now.last);
            return violation(Check::LeaderOnlyAppends, (at, [before.last, now.last]), detail);
        }
        if now.leads && now.last.index > before.last.index {
            let entry = |index| node.entry(index);
            self.time.made(now.term, before.last.index, now.last.index, entry)?;
        }
        if *node.durable_hard_state() != disks[at].shadow.hard_state {
            return violation(Check::WhatIsDurableIsOnTheDisk, at, format!("node {at}"));
        }
        if news.changed {
            self.look_at_memberships(at, node, (before, now), news)?;
        }
        let elected = now.leads && (!before.leads || now.term > before.term);
        if elected {
            self.elected(at, node, disks)?;
        }
        if now.commit > before.commit {
            // A leader may commit and step down at one tick: it removes voters, and hears no quorum
            // of the rest.
            let led = now.leads || (before.leads && now.term == before.term);
            self.look_at_commits((at, led), node, before.commit, disks)?;
        }
        Ok(elected)
    }

    fn elected(
        &mut self,
        at: usize,
        node: &RawNode,
        disks: &[Observed<'_>],
    ) -> Result<(), Violation> {
        let known = *self.leaders.entry(node.term()).or_insert(at as u64);
        if known != at as u64 {
            let detail = format!("nodes {known} and {at} in term {}", node.term());
            return violation(Check::OneLeaderATerm, ([known as usize, at], node.term()), detail);
        }
        // A voter may have entered a later term since.
        let membership = self.membership(at);
        let voted = |id: NodeId| {
            disks.get(id.0 as usize).is_some_and(|disk| {
                let hard = &disk.shadow.hard_state;
                let for_it = hard.term == node.term() && hard.vote == Some(NodeId(at as u64));
                disk.has_forgotten(id, membership) || hard.term > node.term() || for_it
            })
        };
        if !membership.is_quorum(voted) {
            let detail = format!("node {at} in term {}", node.term());
            return violation(Check::LeaderHasAQuorumOfDurableVotes, (at, node.term()), detail);
        }
        let first = node.base().last.index;
        for committed in self.committed.iter().skip(first.0 as usize) {
            let has = node.entry(committed.id.index).map(|entry| entry.id);
            // §3.6.3 is about entries committed in earlier terms. A node that was paused may be
            // elected late, in a term after which others have committed entries, among them entries
            // of earlier terms.
            if has != Some(committed.id) && committed.term < node.term() {
                let detail =
                    format!("node {at} leads term {} without {}", node.term(), committed.id);
                return violation(
                    Check::LeaderCompleteness,
                    (at, (node.term(), committed.id)),
                    detail,
                );
            }
        }
        Ok(())
    }

    /// Checks what a node has committed since `from`, and whether it led meanwhile.
    fn look_at_commits(
        &mut self,
        (at, led): (usize, bool),
        node: &RawNode,
        from: Index,
        disks: &[Observed<'_>],
    ) -> Result<(), Violation> {
        let commit = node.commit();
        let mut index = from.next();
        while index <= commit {
            // Entries that a snapshot covers were committed before, or the check of the snapshot
            // fails.
            if let Some(entry) = node.entry(index) {
                self.committed_entry((at, led), node, entry, disks)?;
            } else if index == node.base().last.index {
                let known = self.id_at(index);
                if known != Some(node.base().last) {
                    let detail = format!("node {at}: {} is {known:?}", node.base().last);
                    return violation(
                        Check::SnapshotHoldsWhatWasCommitted,
                        (at, (node.base().last, known)),
                        detail,
                    );
                }
            }
            index = index.next();
        }
        if led {
            let term = node.entry(commit).map(|entry| entry.id.term);
            if term.is_some_and(|term| term != node.term()) {
                let detail = format!("node {at} commits {commit} of {term:?} in {}", node.term());
                return violation(
                    Check::LeaderCommitsByAnEntryOfItsTerm,
                    (at, (node.term(), commit)),
                    detail,
                );
            }
        }
        Ok(())
    }

    fn committed_entry(
        &mut self,
        (at, led): (usize, bool),
        node: &RawNode,
        entry: &Entry,
        disks: &[Observed<'_>],
    ) -> Result<(), Violation> {
        let (id, hash) = (entry.id, hash(entry));
        if let Some(known) = self.committed.get(id.index.0 as usize - 1) {
            if known.id != id || known.hash != hash {
                let detail = format!("node {at} has {id} where {} was committed", known.id);
                return violation(Check::WhatIsCommittedNeverChanges, (at, [id, known.id]), detail);
            }
            return Ok(());
        }
        if id.index != self.committed_index().next() {
            let detail = format!("node {at}: {id} after {}", self.committed_index());
            return violation(Check::CommitsFollowOneAnother, (at, id), detail);
        }
        if !led {
            let detail = format!("node {at} knew first that {id} is committed");
            return violation(Check::LeaderCommitsFirst, (at, id), detail);
        }
        let membership = self.membership(at);
        let on_disk = |id_: NodeId| {
            disks
                .get(id_.0 as usize)
                .is_some_and(|disk| disk.has_forgotten(id_, membership) || disk.shadow.holds(id))
        };
        if !membership.is_quorum(on_disk) {
            let detail = format!("{id} is committed without being on the disks of a quorum");
            return violation(Check::CommitIsDurableOnAQuorum, (at, id), detail);
        }
        if entry.number != self.next_number {
            let detail = format!("{id} has {} where {} is due", entry.number, self.next_number);
            return violation(Check::CommandsAreNumberedDensely, (at, id), detail);
        }
        if let Payload::Membership(membership) = &entry.payload
            && let Some(again) = self.memberships.commit(id.index, membership)
        {
            let detail = format!("{id} has node {again} with a directory that was removed");
            return violation(Check::RemovedDirectoryIsNotAddedAgain, (again, id), detail);
        }
        self.next_number = entry.number_after();
        self.time.committed(id, entry)?;
        let answer = self.apply(entry)?;
        self.committed.push(Committed { id, term: node.term(), hash, answer });
        Ok(())
    }

    /// Applies a committed entry to the reference machine.
    fn apply(&mut self, entry: &Entry) -> Result<Option<Answer>, Violation> {
        let before = self.reference.machine().executed;
        let answers = self.reference.apply(std::slice::from_ref(entry));
        let answer = answers.ok().and_then(|mut answers| answers.pop());
        let answer = answer.unwrap_or_else(|| Ok(Bytes::new()));
        let executed = self.reference.machine().executed - before;
        let (id, time) = (entry.id, entry.time);
        self.once.time(time, matches!(entry.payload, Payload::NoOp));
        match &entry.payload {
            Payload::SessionCommand(bytes) => {
                if let Some((number, _)) = SessionNumber::decode(bytes) {
                    self.once.applied((id, time), number, executed, &answer)?;
                    if executed == 0 && answer.is_ok() {
                        self.marks.hit("a repeat got the first reply");
                    }
                }
            }
            Payload::System(_) => {
                // The reply to a session that was closed is no id.
                if let Some(session) = answer.as_deref().ok().and_then(SessionId::of_reply) {
                    self.once.opened(session, time);
                }
            }
            _ => {}
        }
        let has_answer = has_answer(&entry.payload);
        // The clock may end sessions.
        let may_change = has_answer || matches!(entry.payload, Payload::Clock);
        if let Some(copies) = self.copies.as_mut().filter(|_| may_change) {
            let reference = &self.reference;
            let command = command_of(&entry.payload);
            copies.committed(id.index, &command, || copies::bytes_of(&reference.freeze()));
        }
        Ok(has_answer.then_some(answer))
    }

    /// The machine that has applied every committed entry, once and in order.
    pub fn reference(&self) -> &M {
        &self.reference.machine().inner
    }

    /// Checks an entry that a node applies: it must be the next one, committed, and its answer must
    /// be that of the reference machine.
    pub fn applied(
        &self,
        at: usize,
        before: Index,
        entry: &Entry,
        answer: Option<&Answer>,
    ) -> Result<(), Violation> {
        self.applied_as(at, before, entry, answer, &Plain)
    }

    /// Like [`applied`](Observer::applied), with descriptions of commands and answers.
    pub fn applied_as(
        &self,
        at: usize,
        before: Index,
        entry: &Entry,
        answer: Option<&Answer>,
        describe: &dyn Describe,
    ) -> Result<(), Violation> {
        if entry.id.index != before.next() {
            let detail = format!("node {at} applies {} after {before}", entry.id);
            return violation(Check::AppliedOnceAndInOrder, (at, (entry.id, before)), detail);
        }
        let known = self.committed.get(entry.id.index.0 as usize - 1);
        if known.is_none_or(|known| known.id != entry.id || known.hash != hash(entry)) {
            let detail = format!("node {at} applies {}, which is not committed", entry.id);
            return violation(Check::OnlyWhatIsCommittedIsApplied, (at, entry.id), detail);
        }
        if let Some(known) = known
            && known.answer.as_ref() != answer
        {
            let command = command_of(&entry.payload);
            let request = ClientRequest::Command(command.clone());
            let text = |answer: Option<&Answer>| match answer {
                Some(Ok(answer)) => describe.answer(&request, answer),
                Some(Err(error)) => error.to_string(),
                None => "nothing".to_owned(),
            };
            let detail = format!(
                "node {at} answers {} with {}; the reference machine answered {}; the command: {}",
                entry.id,
                text(answer),
                text(known.answer.as_ref()),
                describe.command(&command),
            );
            return violation(Check::StateMachineIsDeterministic, (at, entry.id), detail);
        }
        Ok(())
    }

    /// Checks a message that a node sends: what the message promises must be on the node's disk.
    pub fn said(&mut self, at: usize, message: &Message, shadow: &Shadow) -> Result<(), Violation> {
        // This must hold even if the disk has lost its vote since.
        let vote = match message.body {
            Body::Vote { .. } => Some(message.from),
            Body::VoteReply { granted: true, .. } => Some(message.to),
            _ => None,
        };
        if let Some(vote) = vote {
            let voter = (message.from, message.incarnation, message.term);
            let known = *self.votes.entry(voter).or_insert(vote);
            if known != vote {
                let detail = format!("node {at} in {}: for {known} and {vote}", message.term);
                return violation(Check::OneVoteATerm, (at, message.term), detail);
            }
        }
        let hard = &shadow.hard_state;
        let (kept, promise, about) = match &message.body {
            Body::Vote { last, .. } => (
                hard.term == message.term && hard.vote == Some(message.from) && shadow.holds(*last),
                "a request for votes",
                About::from(*last),
            ),
            Body::VoteReply { granted: true, .. } => (
                hard.term == message.term && hard.vote == Some(message.to),
                "a vote",
                About::from(message.to),
            ),
            Body::Appended { matched, .. } => {
                let holds = self.holds_the_leaders(message.term, *matched, shadow);
                (hard.term == message.term && holds, "an acknowledgement", About::from(*matched))
            }
            Body::Append { prev, entries, .. } => {
                self.announce(message.term, *prev, entries);
                let voted = hard.vote == Some(message.from);
                (hard.term == message.term && voted, "an append", About::default())
            }
            _ => return Ok(()),
        };
        if !kept {
            let detail = format!(
                "node {at}: {promise} is not on its disk, which has {hard:?} and ends with {}: {:?}",
                shadow.last(),
                message.body
            );
            return violation(Check::DurabilityBeforeSpeech, (at, (message.term, about)), detail);
        }
        Ok(())
    }

    /// Records the log that a leader announces in an append. Old terms are dropped: no node
    /// acknowledges anything in them.
    fn announce(&mut self, term: Term, prev: LogId, entries: &Entries) {
        let log = self.announced.entry(term).or_default();
        log.extend(entries.iter().map(|entry| (entry.id.index, entry.id)));
        log.insert(prev.index, prev);
        while self.announced.len() > ANNOUNCED_TERMS_MAX {
            self.announced.pop_first();
        }
    }

    /// Whether a node's disk holds what it acknowledges to the leader of a term: a log up to the
    /// acknowledged index, and at that index the leader's entry. A log of the same length may be a
    /// different one.
    fn holds_the_leaders(&self, term: Term, matched: Index, shadow: &Shadow) -> bool {
        let announced = self.announced.get(&term).and_then(|log| log.get(&matched));
        // Entries that arrived in a snapshot were never announced in an append, and are committed.
        let at = (matched.0 as usize).checked_sub(1);
        let committed = at.and_then(|at| self.committed.get(at));
        let committed = committed.filter(|committed| committed.term <= term);
        let id = announced.copied().or(committed.map(|committed| committed.id));
        matched <= shadow.last().index && id.is_none_or(|id| shadow.holds(id))
    }
}

/// Number of latest terms of which the leaders' logs are kept.
const ANNOUNCED_TERMS_MAX: usize = 8;

/// Whether clients get an answer to such an entry.
pub fn has_answer(payload: &Payload) -> bool {
    payload.is_command() || matches!(payload, Payload::System(_))
}

/// A client's command, without the header of its session.
pub(crate) fn command_of(payload: &Payload) -> Bytes {
    match payload {
        Payload::Command(command) => command.clone(),
        Payload::SessionCommand(bytes) => {
            SessionNumber::decode(bytes).map(|(_, command)| command).unwrap_or_default()
        }
        _ => Bytes::new(),
    }
}

fn hash(entry: &Entry) -> u64 {
    let membership;
    let (kind, bytes): (u64, &[u8]) = match &entry.payload {
        Payload::NoOp => (1, &[]),
        Payload::Command(bytes) => (2, bytes),
        Payload::System(bytes) => (3, bytes),
        Payload::SessionCommand(bytes) => (6, bytes),
        Payload::Membership(content) => {
            membership = format!("{content:?}");
            (4, membership.as_bytes())
        }
        Payload::Clock => (5, &[]),
    };
    let mut hash = 0xcbf2_9ce4_8422_2325 ^ kind ^ entry.time.0 ^ entry.number.0.rotate_left(32);
    for byte in bytes {
        hash = (hash ^ u64::from(*byte)).wrapping_mul(0x0100_0000_01b3);
    }
    hash
}
