//! The node: takes events, applies the rules that all roles share, and gives out work.

use crate::candidate::Candidate;
use crate::core::{Core, is_sane_offer};
use crate::follower::Follower;
use crate::leader::Leader;
use crate::log::Log;
use crate::role::{Next, Role};
use crate::{
    Action, Applied, Body, CommandNumber, Config, ConfigError, Durable, LogId, Message, NodeId,
    Now, Offer, OfferDurable, Payload, ReadId, Restored, RoleKind, SnapshotDurable, Status,
};
use bytes::Bytes;
use std::collections::BTreeMap;

/// A member of a cluster: the protocol's state machine.
///
/// Events go in through its methods. After each event, or after several, [`Node::poll`] is called
/// until it returns `None`; what it returns may be started at once, in any order and in parallel.
#[derive(Debug)]
#[cfg_attr(feature = "clone-work", derive(Clone))]
pub struct Node {
    core: Core,
    role: Role,
}

/// What became of a proposal so far: it is in the leader's log. Whether it will be committed is not
/// known yet. It is, once an entry with this very id is applied; it never will be, once another one
/// is applied at its index, or any entry of a later term before it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Proposed {
    /// Its place in the log.
    pub id: LogId,
    /// Its number among the client commands.
    pub number: CommandNumber,
}

/// Why a proposal was not taken. It has certainly not been done.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum ProposeError {
    /// Only a leader takes proposals.
    #[error("this node does not lead")]
    NotLeader {
        /// Who does, if this node knows.
        leader: Option<NodeId>,
    },
    /// Too much is waiting to be committed. Try again later.
    #[error("too much is waiting to be committed")]
    Busy,
    /// The command is larger than the configuration allows.
    #[error("the command is larger than {limit_bytes} bytes")]
    TooLarge {
        /// The limit.
        limit_bytes: usize,
    },
}

/// How a read is confirmed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ReadMode {
    /// By a round of heartbeats to a quorum (§6.4): it sees all that was done before it was asked.
    Linearizable,
    /// By the leader's lease, where there is one (§6.4.1). There is none yet: it is confirmed as a
    /// linearizable read is.
    Lease,
}

/// Why a read was not taken.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum ReadError {
    /// There is nobody to confirm it at the moment.
    #[error("no leader is known")]
    NoLeader,
    /// Too many reads are waiting. Try again later.
    #[error("too many reads are waiting")]
    Busy,
}

impl Node {
    /// A node with what its disk has kept. Its state machine has the state of `restored.snapshot`.
    pub fn new(config: Config, restored: Restored) -> Result<Node, ConfigError> {
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
        Ok(Node { core, role: Role::Follower(follower) })
    }

    // Events in.

    /// One tick of the clock has passed.
    pub fn tick(&mut self, now: Now) {
        self.core.now = now;
        self.core.tick();
        let next = match &mut self.role {
            Role::Follower(follower) => follower.tick(&mut self.core),
            Role::Candidate(candidate) => candidate.tick(&mut self.core),
            Role::Leader(leader) => leader.tick(&mut self.core),
        };
        self.enter(next);
        self.trim();
    }

    /// Takes one message from a peer.
    ///
    /// The rules that all roles share are applied here, once, so a role only ever sees messages of
    /// its own term (§3.3). A peer may be stale or confused: it is corrected or ignored, never
    /// trusted.
    pub fn step(&mut self, now: Now, message: Message) {
        self.core.now = now;
        // Its log is forgotten and its state wrong: it only waits for its end.
        if self.core.is_diverged() || !self.core.admits(&message) {
            return;
        }
        if let Body::Outcast { commit, refused } = message.body {
            return self.core.cast_out(commit, refused);
        }
        // Whoever hears a leader lets nobody disturb it (§4.2.3); before any term is raised.
        if asks_to_disturb(&message.body) && self.hears_a_leader() {
            return;
        }
        // A pre-vote's grant may come from a node that is behind: it names the term it is about.
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

    /// Takes a client's command into the log, if this node leads.
    pub fn propose(&mut self, now: Now, command: Bytes) -> Result<Proposed, ProposeError> {
        self.propose_payload(now, command.len(), Payload::Command(command))
            .map(|(id, number)| Proposed { id, number })
    }

    /// Takes a command of the driver's own into the log, if this node leads. It takes no number.
    pub fn propose_system(&mut self, now: Now, command: Bytes) -> Result<LogId, ProposeError> {
        self.propose_payload(now, command.len(), Payload::System(command)).map(|(id, _)| id)
    }

    fn propose_payload(
        &mut self,
        now: Now,
        bytes: usize,
        payload: Payload,
    ) -> Result<(LogId, CommandNumber), ProposeError> {
        self.core.now = now;
        let limit_bytes = self.core.config.command_bytes_max;
        if bytes > limit_bytes {
            return Err(ProposeError::TooLarge { limit_bytes });
        }
        let leader = self.leader();
        let Role::Leader(role) = &mut self.role else {
            return Err(ProposeError::NotLeader { leader });
        };
        let proposed = role.propose(&mut self.core, payload);
        self.check();
        proposed
    }

    /// Sends a client's command to the leader, if this node follows one. [`Action::Forwarded`] with the
    /// number that is returned follows, unless the node stops first. Once it has been appended, this
    /// node's own log tells what becomes of it, whatever becomes of the leader.
    pub fn forward(&mut self, now: Now, command: Bytes) -> Result<u64, ProposeError> {
        self.core.now = now;
        let limit_bytes = self.core.config.command_bytes_max;
        if command.len() > limit_bytes {
            return Err(ProposeError::TooLarge { limit_bytes });
        }
        match &mut self.role {
            Role::Follower(follower) => follower.forward(&mut self.core, command),
            Role::Candidate(_) | Role::Leader(_) => Err(ProposeError::NotLeader { leader: None }),
        }
    }

    /// Asks for a read, on any node. [`Action::Serve`] or [`Action::Refuse`] follows, unless the
    /// node stops first.
    pub fn read(&mut self, now: Now, mode: ReadMode) -> Result<ReadId, ReadError> {
        self.core.now = now;
        let (ReadMode::Linearizable | ReadMode::Lease) = mode;
        match &mut self.role {
            Role::Follower(follower) => follower.read(&mut self.core),
            Role::Candidate(_) => Err(ReadError::NoLeader),
            Role::Leader(leader) => leader.read(&mut self.core),
        }
    }

    /// Campaigns without waiting for an election timeout, unless it leads already. Nobody who hears
    /// a leader is disturbed by it.
    pub fn campaign(&mut self, now: Now) {
        self.core.now = now;
        if !matches!(self.role, Role::Leader(_)) && self.core.may_campaign() {
            self.enter(Next::PreCandidate);
        }
    }

    /// A message to this peer was lost, as far as the transport can tell.
    pub fn unreachable(&mut self, peer: NodeId) {
        if let Role::Leader(leader) = &mut self.role {
            leader.unreachable(peer);
        }
        self.check();
    }

    /// Whether a snapshot with this offer would be of use. To be asked before its bytes are received.
    pub fn accepts(&self, offer: &Offer) -> bool {
        is_sane_offer(offer)
            && !self.core.is_diverged()
            && offer.to == self.core.id()
            && offer.from != self.core.id()
            && offer.term >= self.core.term()
            && self.core.is_plausible(offer.term)
            && offer.snapshot.last.index > self.core.commit
            && !self.core.log.contains(offer.snapshot.last)
    }

    // Receipts in.

    /// A write is durable.
    pub fn persisted(&mut self, now: Now, done: Durable) {
        self.core.now = now;
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

    /// The state machine has applied a batch, or has been restored.
    pub fn applied(&mut self, now: Now, done: Applied) {
        self.core.now = now;
        self.core.applied(done);
        self.check();
    }

    /// A snapshot is durable. This alone frees log.
    pub fn compact(&mut self, now: Now, done: SnapshotDurable) {
        self.core.now = now;
        self.core.compact(done);
        self.trim();
        self.check();
    }

    /// The snapshot that the log begins after cannot be read on this node: it is damaged or gone. It is
    /// offered to nobody, and another one is asked for.
    pub fn snapshot_unreadable(&mut self, snapshot: LogId) {
        self.core.base_unreadable(snapshot);
    }

    /// Lets go of entries that are needed no more.
    fn trim(&mut self) {
        let needed_after = match &self.role {
            Role::Leader(leader) => leader.needed_after(&self.core),
            Role::Follower(_) | Role::Candidate(_) => None,
        };
        self.core.trim(needed_after);
    }

    /// A snapshot from a leader is durable.
    pub fn install(&mut self, now: Now, done: OfferDurable) {
        self.core.now = now;
        let offer = &done.offer;
        if offer.to != self.core.id() || offer.from == self.core.id() {
            self.core.counters.misaddressed += 1;
            return;
        }
        if !is_sane_offer(offer) {
            self.core.counters.nonsense += 1;
            return;
        }
        if self.core.is_diverged()
            || offer.term < self.core.term()
            || !self.core.is_plausible(offer.term)
        {
            return;
        }
        if offer.term > self.core.term() {
            self.enter(Next::Follower { term: offer.term, leader: None });
        }
        self.yield_to(done.offer.from);
        if let Role::Follower(follower) = &mut self.role {
            follower.install(&mut self.core, done);
        }
        self.check();
    }

    /// The transport is done with sending a snapshot. Delivered or not, what the peer has now is found
    /// out by asking it.
    pub fn snapshot_sent(&mut self, to: NodeId, snapshot: LogId, delivered: bool) {
        if let Role::Leader(leader) = &mut self.role {
            leader.snapshot_sent(&self.core, to, snapshot, delivered);
        }
        self.check();
    }

    // Work out.

    /// The next thing to do, if there is one.
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

    /// Its state at this moment.
    pub fn status(&self) -> Status {
        let core = &self.core;
        let leader_commit = match &self.role {
            Role::Follower(follower) => follower.leader_commit,
            Role::Candidate(_) => crate::Index(0),
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
            serving,
            last: core.log.last(),
            durable: core.log.durable(),
            commit: core.commit,
            leader_commit,
            applied: core.applied,
            next_number: core.log.next_number(),
            snapshot: core.log.base().clone(),
            membership: core.log.membership().clone(),
            lost: core.hard_state().lost,
            disk_stalled: core.is_disk_stalled(),
            diverged: core.is_diverged(),
            base_unreadable: core.is_base_unreadable(),
            outcast: core.is_outcast(),
            peers,
            counters: core.counters,
        }
    }

    /// Whom it follows; itself, if it leads.
    pub fn leader(&self) -> Option<NodeId> {
        match &self.role {
            Role::Follower(follower) => follower.leader,
            Role::Candidate(_) => None,
            Role::Leader(_) => Some(self.core.id()),
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

    fn hears_a_leader(&self) -> bool {
        match &self.role {
            Role::Follower(follower) => follower.hears_a_leader(&self.core),
            Role::Candidate(_) => false,
            // A leader that has lost its quorum steps down within an election timeout.
            Role::Leader(_) => true,
        }
    }

    /// A leader of this term has spoken: a candidate follows it (§3.4).
    fn yield_to(&mut self, leader: NodeId) {
        if matches!(self.role, Role::Candidate(_)) {
            self.enter(Next::Follower { term: self.core.term(), leader: Some(leader) });
        }
    }

    /// The one place where roles change.
    fn enter(&mut self, mut next: Next) {
        while next != Next::Stay {
            match &mut self.role {
                Role::Follower(follower) => {
                    follower.refuse_reads(&mut self.core);
                    follower.lose_forwards(&mut self.core);
                }
                Role::Leader(leader) => leader.resign(&mut self.core),
                Role::Candidate(_) => self.core.outbox.forget_requests(),
            }
            (self.role, next) = self.take_role(next);
        }
        self.check();
    }

    /// Makes a role, and says what follows from it at once.
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

    /// What does not hold, if anything: the invariants that stand on the structs.
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

/// Whether the message would disturb a leader: asks for a vote that the leader itself did not ask for.
fn asks_to_disturb(body: &Body) -> bool {
    matches!(body, Body::PreVote { .. } | Body::Vote { transfer: false, .. })
}

/// Whether a message of a later term takes its receiver there. A pre-vote only asks; its grant may
/// come from a node that is behind; a rejection spreads the later term, or a candidate that is
/// behind would ask for ever.
fn raises_term(body: &Body) -> bool {
    !matches!(body, Body::PreVote { .. } | Body::PreVoteReply { granted: true, .. })
}
