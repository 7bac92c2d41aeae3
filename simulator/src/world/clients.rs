//! Clients: their requests, the nodes that they choose, and what they may conclude from an answer.

use super::*;
use crate::checks::Check;
use bytes::Bytes;
use driver::SessionError;
use raft::Forwarded;

/// A client that closes its sessions does so after this many commands.
const CLOSED_AFTER: u64 = 8;

/// A client that can repeat a command waits for this many times its patience.
const SESSION_PATIENCE: u64 = 6;

impl World<'_> {
    pub(super) fn client(&mut self, client: usize) -> Result<(), Violation> {
        if self.clients[client].operation.is_some() || self.at_rest {
            return Ok(());
        }
        let request = self.workload.request(client as u64, &mut self.clients[client].draw);
        self.ask(client, request)
    }

    pub(super) fn ask(&mut self, client: usize, request: ClientRequest) -> Result<(), Violation> {
        let operation = self.operations.len();
        if self.calm {
            self.asked.note(&request);
        }
        let in_session = self.session_for(client, &request);
        if let InSession::Closes(session) = in_session {
            self.observer.once.may_be_closed(session);
        }
        let Client { draw, leader, .. } = &mut self.clients[client];
        // Reads go to any node; most commands go to the node that the client takes for the leader.
        let anywhere = matches!(request, ClientRequest::Query(_)) || draw.below(10) == 0;
        let any = draw.below(self.plan.nodes);
        let node = if anywhere { any } else { *leader } as usize;
        let after_us = 1 + draw.below(2 * u64::from(self.plan.swarm.delay_us) + 1);
        self.operations.push(ClientOperation {
            client,
            node,
            request,
            begun_us: self.now_us,
            floor: self.observer.committed_index(),
            came_at: u64::MAX,
            by_lease: self.plan.swarm.lease_drift_ppm > 0 && operation.is_multiple_of(2),
            open: true,
            in_session,
        });
        self.clients[client].operation = Some(operation);
        let patience_us = u64::from(self.plan.swarm.patience_us);
        let patience_us = if self.calm { patience_us.max(CALM_PATIENCE_US) } else { patience_us };
        let has_number = matches!(in_session, InSession::Has { .. });
        let patience_us = if has_number { SESSION_PATIENCE * patience_us } else { patience_us };
        self.queue.push(self.now_us + patience_us, Event::GiveUp { client, operation });
        self.queue.push(self.now_us + after_us, Event::Ask { operation, node });
        Ok(())
    }

    /// The part that a new request of a client has in a session.
    fn session_for(&mut self, client: usize, request: &ClientRequest) -> InSession {
        let Client { uses_sessions, session, .. } = &mut self.clients[client];
        if !*uses_sessions || matches!(request, ClientRequest::Query(_)) {
            return InSession::No;
        }
        let Some(session) = session else { return InSession::Opens };
        // Half of the clients tell that they repeat no earlier number, and close their sessions.
        let is_tidy = client / 2 % 2 == 1;
        if is_tidy && !session.is_closed && session.next > CLOSED_AFTER {
            return InSession::Closes(session.id);
        }
        let repeats_from = if is_tidy { session.next } else { 0 };
        let number = SessionNumber { session: session.id, number: session.next, repeats_from };
        session.next += 1;
        InSession::Has { number, may_be_done: false, is_repeated: true }
    }

    /// What a node is asked to append for an operation.
    fn proposal(&self, operation: &ClientOperation, command: &Bytes) -> raft::Request {
        match operation.in_session {
            InSession::No => raft::Request::Command(command.clone()),
            InSession::Opens => session_limits(&self.plan.swarm).request(operation.client as u32),
            InSession::Closes(session) => session.close_request(),
            InSession::Has { number, .. } => raft::Request::SessionCommand(number.encode(command)),
        }
    }

    /// A request has reached a node. Its client may have given up already.
    pub(super) fn asked(&mut self, operation: usize, node: usize) -> Result<(), Violation> {
        let now = self.now(node);
        self.operations[operation].came_at = self.events;
        let asked = &self.operations[operation];
        let ClientOperation { client, request, .. } = asked;
        let client = *client;
        let proposal = match request {
            ClientRequest::Command(command) => Some(self.proposal(asked, command)),
            ClientRequest::Query(_) => None,
        };
        let taken = match (&mut self.hosts[node].up, proposal) {
            (Some(running), Some(proposal)) => {
                match running.node.propose(now, proposal.clone()) {
                    Ok(proposed) => {
                        self.replay.asked(proposed.id, operation);
                        running.proposals.insert(proposed.id, operation);
                        true
                    }
                    // Half of the clients let a follower forward the command to the leader.
                    Err(raft::ProposeRefused::NotLeader { leader: Some(_) }) if client % 2 == 1 => {
                        match running.node.forward(now, proposal) {
                            Ok(number) => running.forwards.insert(number, operation).is_none(),
                            Err(_) => false,
                        }
                    }
                    Err(error) => {
                        if let raft::ProposeRefused::NotLeader { leader: Some(leader) } = error
                            && self.operations[operation].open
                        {
                            self.clients[client].leader = leader.0;
                        }
                        false
                    }
                }
            }
            (Some(running), None) => {
                let mode = match self.operations[operation].by_lease {
                    true => ReadProof::Lease,
                    false => ReadProof::Linearizable,
                };
                if self.leases.look(node, &running.node, now, self.events)?
                    && mode == ReadProof::Lease
                {
                    self.marks.hit("a leader answered a read from its lease");
                }
                match running.node.read(now, mode) {
                    Ok(read) => {
                        running.reads.insert(read, operation);
                        true
                    }
                    Err(_) => false,
                }
            }
            (None, _) => false,
        };
        if taken {
            self.waiting(node)?;
        } else {
            let next = (self.clients[client].leader + 1) % self.plan.nodes;
            let lost = self.hosts[node].up.as_ref().is_none_or(|up| up.node.leader().is_none());
            if lost && self.operations[operation].open {
                self.clients[client].leader = next;
            }
            self.conclude(operation, None, ClientOutcome::NotDone)?;
        }
        self.poll(node)
    }

    /// The leader has replied to a command that this node forwarded, or the command is lost.
    pub(super) fn forwarded(
        &mut self,
        node: usize,
        number: u64,
        outcome: Forwarded,
    ) -> Result<(), Violation> {
        let Some(running) = &mut self.hosts[node].up else { return Ok(()) };
        let Some(operation) = running.forwards.remove(&number) else { return Ok(()) };
        match outcome {
            Forwarded::Appended { id, .. } if id.index > running.machine_at => {
                self.replay.asked(id, operation);
                running.proposals.insert(id, operation);
                self.marks.hit("a leader appended a command that a follower forwarded");
                Ok(())
            }
            // The entry was applied here already, so its answer is gone; or the command is lost.
            Forwarded::Appended { .. } | Forwarded::Lost => {
                self.conclude(operation, None, ClientOutcome::Unknown)
            }
            Forwarded::Busy | Forwarded::TooLarge { .. } | Forwarded::NotTaken => {
                self.conclude(operation, None, ClientOutcome::NotDone)
            }
        }
    }

    pub(super) fn serve(&mut self, node: usize, read: raft::ReadId) -> Result<(), Violation> {
        let Some(running) = &mut self.hosts[node].up else { return Ok(()) };
        let Some(operation) = running.reads.remove(&read) else { return Ok(()) };
        let ClientOperation { request, came_at, by_lease, .. } = &self.operations[operation];
        if !by_lease || !self.leases.held_since(*came_at) {
            self.contact.served(node, &running.node, *came_at)?;
        }
        if self.hosts[node].flipped {
            return self.conclude(operation, None, ClientOutcome::NotDone);
        }
        let Some(running) = &self.hosts[node].up else { return Ok(()) };
        let ClientRequest::Query(query) = request else { return Ok(()) };
        let answer =
            driver::StateMachine::query(running.replica.machine(), running.replica.time(), query);
        let at = running.machine_at;
        self.conclude(operation, Some(at), ClientOutcome::Done(&answer))
    }

    /// The client waits no longer. The operation may still be done.
    pub(super) fn waits_no_longer(&mut self, operation: usize) -> Result<(), Violation> {
        if let InSession::Has { is_repeated, .. } = &mut self.operations[operation].in_session {
            *is_repeated = false;
        }
        self.conclude(operation, None, ClientOutcome::Unknown)
    }

    /// Proposes a command of a session again, on any node.
    fn try_again(&mut self, operation: usize) {
        self.marks.hit("a command of a session was proposed again");
        let client = self.operations[operation].client;
        let Client { draw, .. } = &mut self.clients[client];
        let node = draw.below(self.plan.nodes) as usize;
        let after_us = BACKOFF_US + draw.below(2 * u64::from(self.plan.swarm.delay_us) + 1);
        self.queue.push(self.now_us + after_us, Event::Ask { operation, node });
    }

    /// The operation is the client's no longer. Returns the client and its request.
    fn ended(&mut self, operation: usize) -> (usize, ClientRequest) {
        let ClientOperation { client, request, .. } = &self.operations[operation];
        let (client, request) = (*client, request.clone());
        self.clients[client].operation = None;
        (client, request)
    }

    /// A client's attempt to open a session has ended. If there is one now, the client sends its
    /// command.
    fn session_opened(
        &mut self,
        operation: usize,
        outcome: ClientOutcome<'_>,
    ) -> Result<(), Violation> {
        let (client, request) = self.ended(operation);
        let ClientOutcome::Done(reply) = outcome else {
            self.queue.push(self.now_us + 2 * BACKOFF_US, Event::Client(client));
            return Ok(());
        };
        self.marks.hit("a session was opened");
        let session =
            SessionId::of_reply(reply).map(|id| ClientSession { id, next: 1, is_closed: false });
        self.clients[client].session = session;
        self.ask(client, request)
    }

    /// A client's attempt to close its session has ended. It sends its command: in the closed
    /// session, which does not execute it, or in another if the outcome is not known.
    fn session_closed(
        &mut self,
        operation: usize,
        outcome: ClientOutcome<'_>,
    ) -> Result<(), Violation> {
        let (client, request) = self.ended(operation);
        let session = &mut self.clients[client].session;
        match (outcome, &mut *session) {
            (ClientOutcome::Done([1]), Some(session)) => {
                session.is_closed = true;
                self.observer.once.closed(session.id);
                self.marks.hit("a session was closed");
            }
            _ => *session = None,
        }
        self.ask(client, request)
    }

    /// A session has not executed a command, at this index.
    pub(super) fn refused(
        &mut self,
        operation: usize,
        index: Index,
        error: SessionError,
    ) -> Result<(), Violation> {
        let known = &mut self.operations[operation];
        let InSession::Has { may_be_done, is_repeated, .. } = &mut known.in_session else {
            return Ok(());
        };
        *is_repeated = false;
        let may_be_done = *may_be_done;
        let client = known.client;
        let outcome = match error {
            SessionError::Ended | SessionError::Gap { .. } => {
                self.marks.hit("a session ended");
                self.clients[client].session = None;
                if may_be_done { ClientOutcome::Unknown } else { ClientOutcome::NotDone }
            }
            SessionError::Forgotten | SessionError::TooLow => ClientOutcome::Unknown,
            error => {
                let detail = format!("at {index}: {error}");
                return violation(Check::RepeatsGetTheFirstReply, index, detail);
            }
        };
        self.conclude(operation, None, outcome)
    }

    /// Ends an operation from the client's point of view.
    pub(super) fn conclude(
        &mut self,
        operation: usize,
        at: Option<Index>,
        outcome: ClientOutcome<'_>,
    ) -> Result<(), Violation> {
        let known = &mut self.operations[operation];
        if !known.open {
            return Ok(());
        }
        if let InSession::Has { may_be_done, is_repeated: true, .. } = &mut known.in_session
            && !matches!(outcome, ClientOutcome::Done(_))
        {
            *may_be_done |= outcome == ClientOutcome::Unknown;
            self.try_again(operation);
            return Ok(());
        }
        known.open = false;
        let client = known.client;
        match known.in_session {
            InSession::Opens => return self.session_opened(operation, outcome),
            InSession::Closes(_) => return self.session_closed(operation, outcome),
            InSession::No | InSession::Has { .. } => {}
        }
        if let (Some(at), ClientOutcome::Done(answer)) = (at, outcome) {
            match &known.request {
                ClientRequest::Command(_) if at <= known.floor => {
                    let detail = format!("a command has index {at}, below {}", known.floor);
                    return violation(
                        Check::LaterCommandsComeLater,
                        (known.node, [at, known.floor]),
                        detail,
                    );
                }
                ClientRequest::Command(_)
                    if self.observer.answer(at).is_none_or(|a| a.as_deref() != Ok(answer)) =>
                {
                    return violation(
                        Check::ClientsHearWhatWasDone,
                        (known.node, at),
                        format!("at {at}"),
                    );
                }
                ClientRequest::Query(_) if at < known.floor => {
                    let detail = format!("a read of {at}, though {} was committed", known.floor);
                    return violation(
                        Check::ReadsAreFresh,
                        (known.node, [at, known.floor]),
                        detail,
                    );
                }
                _ => {}
            }
            self.marks.hit(match known.request {
                ClientRequest::Command(_) => "a command was done",
                ClientRequest::Query(_) => "a read was served",
            });
            if self.calm {
                self.served.note(&known.request);
            }
        }
        self.workload.answered(&Answered {
            client: client as u64,
            request: &known.request,
            begun_us: known.begun_us,
            ended_us: self.now_us,
            outcome,
        });
        let asked = (client, known.node);
        let describe = self.workload.describe();
        self.timeline.operation(known.begun_us, asked, &known.request, at, outcome, describe);
        self.workload.objection()?;
        self.clients[client].operation = None;
        let think_us = 1 + u64::from(self.plan.swarm.think_us);
        let calm_us = CALM_THINK_US * self.clients.len() as u64;
        let think_us = if self.calm { think_us.max(calm_us) } else { think_us };
        let backoff_us = &mut self.clients[client].backoff_us;
        let pause_us = match outcome {
            ClientOutcome::Done(_) => {
                *backoff_us = BACKOFF_US;
                think_us
            }
            // The next request goes to another node.
            ClientOutcome::NotDone => think_us + BACKOFF_US,
            ClientOutcome::Unknown => {
                *backoff_us = (2 * *backoff_us).min(BACKOFF_MAX_US);
                think_us + *backoff_us
            }
        };
        self.queue.push(self.now_us + pause_us, Event::Client(client));
        Ok(())
    }
}
