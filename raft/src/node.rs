//! The node: takes events, applies the rules that all roles share, and returns work orders.

use crate::candidate::Candidate;
use crate::core::Core;
use crate::follower::Follower;
use crate::leader::Leader;
use crate::log::Log;
use crate::role::Next;
use crate::{
    Action, Applied, Body, Change, ChangeError, Config, ConfigError, Durable, Incarnation, Index,
    LogId, Message, NodeId, Now, ProposeRefused, Proposed, ReadId, ReadProof, ReadRefused,
    ReceiveSnapshot, Request, Restored, RoleKind, Round, SnapshotDurable, SnapshotOffer,
    SnapshotReceived, SnapshotStatus, Status, TransferRefused, Write,
};
use std::collections::BTreeMap;

/// A member of a cluster: the protocol's state machine.
///
/// Events are passed to its methods. After one or more events, call [`RawNode::poll`] until it
/// returns `None`. The actions that it returns may be started at once, in any order and in
/// parallel. The loop of a driver, in outline:
///
/// ```text
/// loop {
///     match the next event {
///         a tick length has passed  => node.tick(now),
///         a message of a peer       => node.step(now, message),
///         a command of a client     => node.propose(now, command),
///         a query of a client       => node.read(now, mode),
///         a write is durable        => node.persisted(now, write.durable()),
///         entries are applied       => node.applied(now, apply.applied(..)),
///     }
///     while let Some(action) = node.poll() {
///         start it: persist, send, apply, answer a read, take, send or restore a snapshot
///     }
/// }
/// ```
#[derive(Debug)]
#[cfg_attr(feature = "clone-work", derive(Clone))]
pub struct RawNode {
    core: Core,
    role: Role,
}

/// The role of a node, with what only that role keeps.
#[derive(Debug)]
#[cfg_attr(feature = "clone-work", derive(Clone))]
pub(crate) enum Role {
    Follower(Follower),
    /// Pre-candidates too: see `Candidate::pre`.
    Candidate(Candidate),
    Leader(Leader),
}

impl RawNode {
    /// Creates a node from its recovered state. Its state machine must have the state of
    /// `restored.snapshot`. An error names the setting that is out of range, or what contradicts
    /// itself in `restored`, which is a bug of the store.
    pub fn new(config: Config, restored: Restored) -> Result<RawNode, ConfigError> {
        config.check()?;
        let mut before = restored.snapshot.last;
        for entry in &restored.entries {
            if entry.id.index != before.index.next() || entry.id.term < before.term {
                return Err(ConfigError::Gap { at: entry.id.index });
            }
            before = entry.id;
        }
        if before.term > restored.hard_state.term {
            let hard_state = restored.hard_state.term;
            return Err(ConfigError::TermBehindLog { log: before.term, hard_state });
        }
        let campaign = config.campaign_at_start;
        let log = Log::new(restored.snapshot, restored.entries);
        let mut core = Core::new(config, restored.hard_state, log);
        let mut follower = Follower::new(&mut core, None);
        if campaign {
            follower.hurry();
        }
        Ok(RawNode { core, role: Role::Follower(follower) })
    }

    // Events in.

    /// One tick of the clock has passed. Call it once for each tick length; ticks that were missed
    /// are not made up for, except those of [`RawNode::idle_ticks`]. `now` never goes backwards,
    /// over the calls of all methods.
    pub fn tick(&mut self, now: Now) {
        self.core.set_now(now);
        let leader = self.leader();
        self.core.tick(leader);
        let next = match &mut self.role {
            Role::Follower(follower) => follower.tick(&mut self.core),
            Role::Candidate(candidate) => candidate.tick(&mut self.core),
            Role::Leader(leader) => leader.tick(&mut self.core),
        };
        self.enter(next);
        self.trim();
    }

    /// The number of ticks that will do nothing but count, if no other event comes before; at most
    /// two heartbeat intervals. A driver may let that many pass, and call [`RawNode::tick`] as many
    /// times when it next wakes up, before it hands in anything else. Call it when
    /// [`RawNode::poll`] has returned `None`.
    ///
    /// A follower that woke up after one interval would often do so just before the heartbeat.
    /// It is 0 while anybody waits for the node, in elections and changes, and with leases.
    pub fn idle_ticks(&self) -> u32 {
        if !self.core.is_at_rest() {
            return 0;
        }
        let ticks = match &self.role {
            Role::Leader(leader) => leader.idle_ticks(&self.core),
            Role::Follower(follower) => follower.idle_ticks(),
            Role::Candidate(_) => 0,
        };
        ticks.min(self.core.config.heartbeat_ticks.saturating_mul(2))
    }

    /// Handles one message from a peer.
    ///
    /// The rules that all roles share are applied here, once, so a role only receives messages of
    /// its own term (§3.3). A peer may be stale or faulty: it is corrected or ignored, never
    /// trusted.
    pub fn step(&mut self, now: Now, message: Message) {
        self.core.set_now(now);
        // The log of a diverged node is reset and its state is wrong: it only waits to be stopped.
        if self.core.is_diverged() || !self.core.admits(&message) {
            return;
        }
        if let Body::NotAMember { commit, refused } = message.body {
            // A node that was removed hears no leader: a leader of which it is no member sends it
            // nothing.
            if self.refuses_stranger(message.from, message.incarnation) {
                return;
            }
            let by_leader =
                message.term == self.core.term() && self.follows(message.from, message.incarnation);
            return self.core.leave_the_membership(commit, refused, by_leader);
        }
        if let Body::ForwardReply { start, number, outcome } = message.body {
            self.core.forward_answered(message.from, start, number, outcome);
        }
        // Requests for votes are ignored while the leader is live (§4.2.3). This precedes any
        // change of term.
        if asks_to_disturb(&message.body) && (self.has_live_leader() || self.core.promise.holds()) {
            return;
        }
        // A leader of a later membership has to be followed (§4.1), although this node does not
        // know it. But while a member leads, what a stranger sends changes nothing.
        let acts = message.term > self.core.term()
            || leads(&message.body)
            || matches!(message.body, Body::Forward { .. } | Body::ReadIndex { .. });
        if acts && self.refuses_stranger(message.from, message.incarnation) {
            return;
        }
        // A granted pre-vote may come from a node that is behind: it names the term it is about.
        let of_its_own_term = matches!(message.body, Body::PreVoteReply { granted: true, .. });
        if message.term < self.core.term() && !of_its_own_term {
            return self.core.correct_stale(&message);
        }
        if message.term > self.core.term() && raises_term(&message.body) {
            self.enter(Next::Follower { term: message.term, leader: None });
        }
        if matches!(message.body, Body::Append { .. }) {
            self.yield_to(message.from);
        }
        let next = match &mut self.role {
            Role::Follower(follower) => follower.step(&mut self.core, message),
            Role::Candidate(candidate) => candidate.step(&mut self.core, message),
            Role::Leader(leader) => leader.step(&mut self.core, message),
        };
        self.enter(next);
    }

    /// Appends a request to the log, if this node leads.
    pub fn propose(
        &mut self,
        now: Now,
        request: impl Into<Request>,
    ) -> Result<Proposed, ProposeRefused> {
        self.core.set_now(now);
        let request = request.into();
        let limit_bytes = self.core.config.command_bytes_max;
        if request.len() > limit_bytes {
            return Err(ProposeRefused::TooLarge { limit_bytes });
        }
        let leader = self.leader();
        let Role::Leader(role) = &mut self.role else {
            return Err(ProposeRefused::NotLeader { leader });
        };
        let proposed = role.propose(&mut self.core, request);
        self.check();
        proposed
    }

    /// Sends a request to the leader, if this node follows one. [`Action::Forwarded`] with the
    /// returned number follows, unless the node stops first. Once the request is appended, this
    /// node's own log shows whether it is committed, even if the leader fails.
    pub fn forward(
        &mut self,
        now: Now,
        request: impl Into<Request>,
    ) -> Result<u64, ProposeRefused> {
        self.core.set_now(now);
        let request = request.into();
        let limit_bytes = self.core.config.command_bytes_max;
        if request.len() > limit_bytes {
            return Err(ProposeRefused::TooLarge { limit_bytes });
        }
        match &mut self.role {
            Role::Follower(follower) => follower.forward(&mut self.core, request),
            Role::Candidate(_) | Role::Leader(_) => Err(ProposeRefused::NotLeader { leader: None }),
        }
    }

    /// Requests a read, on any node. [`Action::Serve`] or [`Action::Refuse`] follows, unless the
    /// node stops first.
    pub fn read(&mut self, now: Now, mode: ReadProof) -> Result<ReadId, ReadRefused> {
        self.core.set_now(now);
        match &mut self.role {
            Role::Follower(follower) => follower.read(&mut self.core, mode),
            Role::Candidate(_) => Err(ReadRefused::NoLeader),
            Role::Leader(leader) => leader.read(&mut self.core, mode),
        }
    }

    /// Starts a pre-vote without waiting for the election timeout, unless this node leads, may not
    /// campaign, or has promised not to (see [`LeaseConfig`](crate::LeaseConfig)). A live leader is
    /// not disturbed by it.
    pub fn campaign(&mut self, now: Now) {
        self.core.set_now(now);
        let may_campaign = self.core.may_campaign() && !self.core.promise.holds();
        if !matches!(self.role, Role::Leader(_)) && may_campaign {
            self.enter(Next::PreCandidate);
        }
    }

    /// Begins to hand leadership over to a voter: `to`, or the one with the highest priority of
    /// those that have stored everything lately, or else the one with the longest log. Returns the
    /// target. Until that node leads, or two election timeouts have passed, this one takes no
    /// proposals: they are rejected as `NotLeader` without a leader, and can be repeated. If the
    /// target does not lead by then, this node goes on. If the target's disk hangs, and has not
    /// been needed since, there is no leader until an election timeout is over.
    pub fn transfer(&mut self, now: Now, to: Option<NodeId>) -> Result<NodeId, TransferRefused> {
        self.core.set_now(now);
        let leader = self.leader();
        let Role::Leader(role) = &mut self.role else {
            return Err(TransferRefused::NotLeader { leader });
        };
        role.transfer(&mut self.core, to)
    }

    /// Sends a heartbeat to all peers at once, if this node leads. Returns its round, for
    /// [`Change::since`].
    pub fn ask_peers(&mut self, now: Now) -> Option<Round> {
        self.core.set_now(now);
        match &mut self.role {
            Role::Leader(leader) => Some(leader.ask_peers(&mut self.core)),
            Role::Follower(_) | Role::Candidate(_) => None,
        }
    }

    /// Begins a change of the membership, if this node leads. Returns the index of its first entry,
    /// or that of the membership in force if the change changes nothing.
    ///
    /// The change is done once the membership in force ([`Status::membership`]) is the declared one
    /// and its entry ([`Status::membership_index`]) is committed. It is given up, and the
    /// membership is the previous one, if its new voters do not catch up in time.
    pub fn set_members(&mut self, now: Now, change: Change) -> Result<Index, ChangeError> {
        self.core.set_now(now);
        let leader = self.leader();
        let Role::Leader(role) = &mut self.role else {
            return Err(ChangeError::NotLeader { leader });
        };
        let index = role.change(&mut self.core, change);
        self.check();
        index
    }

    /// The target, while this node hands leadership over.
    pub fn transferring(&self) -> Option<NodeId> {
        match &self.role {
            Role::Leader(leader) => leader.transfer.map(|transfer| transfer.to),
            Role::Follower(_) | Role::Candidate(_) => None,
        }
    }

    /// The transport reports that a message to this peer was lost.
    pub fn unreachable(&mut self, peer: NodeId) {
        if let Role::Leader(leader) = &mut self.role {
            leader.unreachable(peer);
        }
        self.check();
    }

    /// The transport reports that the process of this peer has ended, for instance because its
    /// connection was closed and a new one is refused. If it was the leader, the next election
    /// begins without waiting for an election timeout: the voters campaign in turn, a tenth of the
    /// shortest election timeout apart, until one of them is elected. A wrong
    /// report deposes no leader that a majority still receives from, since these nodes grant no
    /// pre-vote. It is never unsafe.
    pub fn gone(&mut self, peer: NodeId) {
        if let Role::Follower(follower) = &mut self.role {
            follower.gone(&self.core, peer);
        }
        self.check();
    }

    /// A leader offers a snapshot. Returns the order to receive it if this node needs it.
    pub fn accept(&mut self, offer: SnapshotOffer) -> Option<ReceiveSnapshot> {
        if !self.core.admits_offer(&offer) || self.refuses_stranger(offer.from, offer.incarnation) {
            return None;
        }
        // A term has one leader.
        let is_anothers = offer.term == self.core.term()
            && self.leader().is_some_and(|leader| leader != offer.from);
        let is_needed = !self.core.is_diverged()
            && offer.term >= self.core.term()
            && !is_anothers
            && offer.snapshot.last.index > self.core.commit
            && !self.core.log.contains(offer.snapshot.last);
        is_needed.then(|| self.core.receive_snapshot(offer))
    }

    // Receipts in.

    /// The write to attempt next in place of `write`, for which the disk had no room, and of which
    /// nothing counts as written. It contains what has become due since. If a vote or the start of
    /// the log after a snapshot is due, which frees room, it has no entries, and takes one block. A
    /// write that is not pending is returned as it is.
    ///
    /// If entries have been applied since the last snapshot, a snapshot is due at once, so a log
    /// that has reached its bound frees room by itself.
    pub fn renew_write(&mut self, write: Write) -> Write {
        self.core.renew_write(write)
    }

    /// Whether a write takes so much time that the disk counts as stalled, as in
    /// [`Status::disk_stalled`].
    pub fn is_disk_stalled(&self) -> bool {
        self.core.is_disk_stalled()
    }

    /// A write is durable. Receipts that are not for the pending write are ignored and counted.
    pub fn persisted(&mut self, now: Now, done: Durable) {
        self.core.set_now(now);
        if !self.core.persisted(done) {
            return;
        }
        let next = match &mut self.role {
            Role::Follower(_) => Next::Stay,
            Role::Candidate(candidate) => candidate.persisted(&self.core),
            Role::Leader(leader) => {
                leader.persisted(&mut self.core);
                Next::Stay
            }
        };
        self.enter(next);
    }

    /// The state machine has applied a batch or restored a snapshot.
    pub fn applied(&mut self, now: Now, done: Applied) {
        self.core.set_now(now);
        self.core.applied(done);
        self.check();
    }

    /// A snapshot is durable, or could not be written. Only a durable snapshot frees log entries.
    pub fn compact(&mut self, now: Now, done: SnapshotDurable) {
        self.core.set_now(now);
        self.core.compact(done);
        self.trim();
        self.check();
    }

    /// The driver reports the size of the snapshot that was last taken or restored. It decides how
    /// much log is kept until the next one, see
    /// [`Config::snapshot_log_bytes`](crate::Config::snapshot_log_bytes). Until the first call
    /// the size counts as 0.
    pub fn set_snapshot_bytes(&mut self, bytes: u64) {
        self.core.snapshots.set_last_bytes(bytes);
    }

    /// This snapshot is damaged or missing on this node. It is no longer offered to peers. If the
    /// log begins after it, another snapshot is ordered.
    pub fn snapshot_unreadable(&mut self, snapshot: LogId) {
        if let Role::Leader(leader) = &mut self.role {
            leader.forget_offers(snapshot);
        }
        self.core.base_unreadable(snapshot);
    }

    /// The snapshots older than [`RawNode::base`] that a leader has offered to peers and may offer
    /// again, in order. A driver keeps them: a transfer that has failed continues with the same
    /// snapshot, even if a newer one has been taken meanwhile.
    pub fn offered_snapshots(&self) -> Vec<LogId> {
        let Role::Leader(leader) = &self.role else { return Vec::new() };
        let (before, base) = (self.core.log.before(), self.core.log.base().last);
        let older = leader.offered().filter(|id| (before.index..base.index).contains(&id.index));
        let unique: std::collections::BTreeSet<LogId> = older.collect();
        unique.into_iter().collect()
    }

    /// Removes entries that neither this node nor a peer needs any more.
    fn trim(&mut self) {
        let needed_after = match &self.role {
            Role::Leader(leader) => leader.needed_after(&self.core),
            Role::Follower(_) | Role::Candidate(_) => None,
        };
        self.core.trim(needed_after);
    }

    /// A snapshot received from a leader is durable. Receipts of another start are ignored and
    /// counted. One of a leader that has been deposed meanwhile counts too: a snapshot holds
    /// committed entries only, so it is true in every later term.
    pub fn install(&mut self, now: Now, done: SnapshotReceived) {
        self.core.set_now(now);
        if !self.core.is_received(&done) {
            return;
        }
        if self.core.is_diverged() {
            return;
        }
        let (from, term) = (done.offer.from, done.offer.term);
        if term > self.core.term() {
            self.enter(Next::Follower { term, leader: None });
        }
        let is_current = term == self.core.term();
        if is_current {
            self.yield_to(from);
        }
        if let Role::Follower(follower) = &mut self.role
            && (!is_current || follower.accept_leader(&mut self.core, from, done.offer.incarnation))
        {
            follower.install(&mut self.core, done.offer.snapshot);
        }
        self.check();
    }

    /// The transport has finished sending a snapshot. Delivered or not, the leader then probes what
    /// the peer has.
    pub fn snapshot_sent(&mut self, to: NodeId, snapshot: LogId, status: SnapshotStatus) {
        if let Role::Leader(leader) = &mut self.role {
            leader.snapshot_sent(&self.core, to, snapshot, status);
        }
        self.check();
    }

    // Work out.

    /// The next work order, if there is one.
    pub fn poll(&mut self) -> Option<Action> {
        if let Some(write) = self.core.next_write() {
            return Some(Action::Persist(write));
        }
        if let Role::Leader(leader) = &mut self.role
            && let Some(action) = leader.next_message(&mut self.core)
        {
            return Some(action);
        }
        let (durable, log) = (*self.core.durable_hard_state(), self.core.log.durable());
        if let Some(message) = self.core.outbox.next(&durable, log) {
            return Some(Action::Send(message));
        }
        if let Role::Follower(follower) = &mut self.role
            && let Some(message) = follower.acknowledgement(&self.core)
        {
            return Some(Action::Send(message));
        }
        self.core.next_answer().or_else(|| self.core.next_machine_order())
    }

    /// A copy of the node's current status.
    pub fn status(&self) -> Status {
        let core = &self.core;
        let leader_commit = match &self.role {
            Role::Follower(follower) => follower.leader_commit,
            Role::Candidate(_) => Index(0),
            Role::Leader(_) => core.commit,
        };
        let (role, serving, peers) = match &self.role {
            Role::Follower(_) => (RoleKind::Follower, false, Vec::new()),
            Role::Candidate(Candidate { pre: true, .. }) => {
                (RoleKind::PreCandidate, false, Vec::new())
            }
            Role::Candidate(_) => (RoleKind::Candidate, false, Vec::new()),
            Role::Leader(leader) => (RoleKind::Leader, leader.is_serving(core), leader.peers()),
        };
        Status {
            id: core.id(),
            term: core.term(),
            role,
            leader: self.leader(),
            transferring: self.transferring(),
            serving,
            lease: self.holds_lease(core.now()),
            last: core.log.last(),
            durable: core.log.durable(),
            commit: core.commit,
            leader_commit,
            applied: core.applied,
            next_number: core.log.next_number(),
            snapshot: core.log.base().clone(),
            membership: core.log.membership().clone(),
            membership_index: core.log.membership_index(),
            given_up: core.log.given_up(),
            lost: core.hard_state().lost,
            disk_stalled: core.is_disk_stalled(),
            diverged: core.is_diverged(),
            base_unreadable: core.snapshots.is_base_unreadable(),
            not_a_member: role != RoleKind::Leader && core.is_not_a_member(),
            removed: role != RoleKind::Leader && core.is_removed(),
            peers,
            counters: core.counters,
        }
    }

    /// The leader that this node follows; its own id if it leads.
    pub fn leader(&self) -> Option<NodeId> {
        match &self.role {
            Role::Follower(follower) => follower.leader,
            Role::Candidate(_) => None,
            Role::Leader(_) => Some(self.core.id()),
        }
    }

    pub(crate) fn leads_with_lease(&self, now_ns: u64) -> bool {
        match &self.role {
            Role::Leader(leader) => leader.holds_lease(&self.core, now_ns),
            Role::Follower(_) | Role::Candidate(_) => false,
        }
    }

    pub(crate) fn core(&self) -> &Core {
        &self.core
    }

    #[cfg(feature = "clone-work")]
    pub(crate) fn role(&self) -> &Role {
        &self.role
    }

    // Roles.

    fn has_live_leader(&self) -> bool {
        match &self.role {
            Role::Follower(follower) => follower.has_live_leader(&self.core),
            Role::Candidate(_) => false,
            // A leader that has lost its quorum steps down within an election timeout.
            Role::Leader(_) => true,
        }
    }

    /// Whether a message that would change something here comes from a node that is not among our
    /// members, while another node leads. It is counted.
    fn refuses_stranger(&mut self, from: NodeId, incarnation: Incarnation) -> bool {
        let refuses = self.core.is_stranger(from, incarnation)
            && self.has_live_leader()
            && !self.follows(from, incarnation);
        self.core.counters.strangers += u64::from(refuses);
        refuses
    }

    fn follows(&self, leader: NodeId, incarnation: Incarnation) -> bool {
        matches!(&self.role, Role::Follower(follower) if follower.follows(leader, incarnation))
    }

    /// A message of this term's leader has arrived: a candidate becomes its follower (§3.4).
    fn yield_to(&mut self, leader: NodeId) {
        if matches!(self.role, Role::Candidate(_)) {
            self.enter(Next::Follower { term: self.core.term(), leader: Some(leader) });
        }
    }

    /// Changes the role. This is the only place where the role changes.
    fn enter(&mut self, mut next: Next) {
        while next != Next::Stay {
            match &mut self.role {
                Role::Follower(follower) => follower.refuse_reads(&mut self.core),
                Role::Leader(leader) => leader.resign(&mut self.core),
                Role::Candidate(candidate) => candidate.end(&mut self.core, next),
            }
            (self.role, next) = self.take_role(next);
        }
        self.check();
    }

    /// Creates the role for a transition, and returns the transition that follows from it at once.
    fn take_role(&mut self, next: Next) -> (Role, Next) {
        let core = &mut self.core;
        match next {
            Next::Stay => unreachable!("nothing to enter"),
            Next::Follower { term, leader } => {
                if term > core.term() {
                    core.enter_term(term);
                }
                (Role::Follower(Follower::new(core, leader)), Next::Stay)
            }
            Next::PreCandidate => {
                let candidate = Candidate::pre(core);
                let next = candidate.outcome(core);
                (Role::Candidate(candidate), next)
            }
            Next::Candidate { transfer } => {
                core.enter_own_term();
                (Role::Candidate(Candidate::real(core, transfer)), Next::Stay)
            }
            Next::Leader => {
                let readings = match &self.role {
                    Role::Candidate(candidate) => candidate.readings().clone(),
                    Role::Follower(_) | Role::Leader(_) => BTreeMap::new(),
                };
                (Role::Leader(Leader::new(core, &readings)), Next::Stay)
            }
        }
    }

    /// The first invariant of the structs that does not hold, if any.
    pub fn broken_invariant(&self) -> Option<&'static str> {
        let of_role = match &self.role {
            Role::Follower(_) => None,
            Role::Candidate(candidate) => candidate.broken_invariant(&self.core),
            Role::Leader(leader) => leader.broken_invariant(&self.core),
        };
        of_role.or_else(|| self.core.broken_invariant())
    }

    fn check(&self) {
        debug_assert_eq!(self.broken_invariant(), None);
    }
}

/// Whether the message requests a vote without an order from the leader, and would disturb it.
fn asks_to_disturb(body: &Body) -> bool {
    matches!(body, Body::PreVote { .. } | Body::Vote { transfer: false, .. })
}

/// Whether only a leader sends such a message, or one that is about to hand over.
fn leads(body: &Body) -> bool {
    matches!(body, Body::Append { .. } | Body::TimeoutNow | Body::Diverged { .. })
}

/// Whether a message of a later term moves its receiver to that term. A pre-vote changes nothing,
/// and a granted one may come from a node that is behind. A rejected pre-vote does: otherwise a
/// candidate that is behind would repeat its pre-vote for ever.
fn raises_term(body: &Body) -> bool {
    !matches!(body, Body::PreVote { .. } | Body::PreVoteReply { granted: true, .. })
}
