//! What a client of a node holds.

use crate::clock::Sleep;
use crate::core_loop::Call;
use crate::error::{ExecuteError, Outcome, ProposeError, ReadError, StopReason, WaitError};
use crate::machine_task::{Ask, Question};
use crate::shared::Shared;
use crate::status::count;
use crate::{Clock, DriverStatus, MetricsReading, StateMachine};
use bytes::Bytes;
use raft::{CommandNumber, LogId, Term};
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::task::{Context, Poll};
use std::time::Duration;
use tokio::sync::mpsc::error::TrySendError;
use tokio::sync::{mpsc, oneshot};

/// How fresh the state that answers a read must be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ReadMode {
    /// It contains all that was done before the read was asked, confirmed by a quorum (§6.4).
    Linearizable,
    /// Likewise, confirmed by the leader's lease where there is one, and otherwise by a quorum.
    Lease,
    /// It contains all that was done up to `max_age` ago. A node that knows that its state is so
    /// fresh answers at once; otherwise the read becomes a linearizable one. With `Duration::MAX` it
    /// is answered from whatever is there.
    Stale {
        /// How old the state may be.
        max_age: Duration,
    },
}

/// A client's handle to a node; a clone is another one. Any node takes any call.
pub struct Handle<S: StateMachine> {
    pub(crate) calls: mpsc::Sender<Call<S>>,
    pub(crate) asks: mpsc::Sender<Ask<S>>,
    pub(crate) shared: Arc<Shared>,
    pub(crate) clock: Arc<dyn Clock>,
    pub(crate) timeout: Duration,
}

/// A proposal that the leader has appended to its log.
#[derive(Debug)]
pub struct Proposal {
    /// Its place in the log.
    pub id: LogId,
    /// Its number among the commands.
    pub number: CommandNumber,
    /// What becomes of it.
    pub done: Done,
}

/// What becomes of a proposal: the state machine's answer once it is applied, or what is known
/// otherwise. It ends when the time given is over, with [`Outcome::Unknown`]; the time begins when it
/// is first polled.
pub struct Done {
    reply: oneshot::Receiver<Result<Bytes, Outcome>>,
    clock: Arc<dyn Clock>,
    timeout: Duration,
    sleep: Option<Sleep>,
}

impl std::fmt::Debug for Done {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Done").field("timeout", &self.timeout).finish_non_exhaustive()
    }
}

impl Future for Done {
    type Output = Result<Bytes, Outcome>;

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Self::Output> {
        if let Poll::Ready(reply) = Pin::new(&mut self.reply).poll(context) {
            // Without a reply: the node has stopped.
            return Poll::Ready(reply.unwrap_or(Err(Outcome::Unknown)));
        }
        let this = &mut *self;
        let sleep = this.sleep.get_or_insert_with(|| this.clock.sleep(this.timeout));
        sleep.as_mut().poll(context).map(|()| Err(Outcome::Unknown))
    }
}

impl<S: StateMachine> Handle<S> {
    /// Proposes a command. Returns as soon as the leader has appended it; [`Proposal::done`] tells
    /// what becomes of it, within the time of the configuration.
    pub async fn propose(&self, command: Bytes) -> Result<Proposal, ProposeError> {
        self.propose_within(command, self.timeout).await
    }

    /// Proposes a command, and gives it `timeout` to be applied.
    pub async fn propose_within(
        &self,
        command: Bytes,
        timeout: Duration,
    ) -> Result<Proposal, ProposeError> {
        let (taken, proposed) = oneshot::channel();
        let (done, reply) = oneshot::channel();
        self.calls.try_send(Call::Propose { command, taken, done }).map_err(
            |error| match error {
                TrySendError::Full(_) => ProposeError::Busy,
                TrySendError::Closed(_) => ProposeError::Stopped,
            },
        )?;
        // The core loop takes the call in its next turn, in which it waits for nothing. If it ends
        // before, the command has not been proposed.
        let proposed = proposed.await.map_err(|_| ProposeError::Stopped)??;
        let done = Done { reply, clock: self.clock.clone(), timeout, sleep: None };
        Ok(Proposal { id: proposed.id, number: proposed.number, done })
    }

    /// Has a command executed, on any node: a follower has the leader append it, and answers when it has
    /// applied it itself. Once the leader has appended it, its end changes nothing in that. Ends with
    /// [`ExecuteError::Unknown`] when the time of the configuration is over.
    pub async fn execute(&self, command: Bytes) -> Result<Bytes, ExecuteError> {
        self.execute_within(command, self.timeout).await
    }

    /// The same, with a time of its own.
    pub async fn execute_within(
        &self,
        command: Bytes,
        timeout: Duration,
    ) -> Result<Bytes, ExecuteError> {
        let (done, answer) = oneshot::channel();
        self.calls.try_send(Call::Execute { command, done }).map_err(|error| {
            ExecuteError::Refused(match error {
                TrySendError::Full(_) => ProposeError::Busy,
                TrySendError::Closed(_) => ProposeError::Stopped,
            })
        })?;
        let mut sleep = self.clock.sleep(timeout);
        tokio::select! {
            biased;
            // Without an answer: the node has stopped.
            answer = answer => answer.unwrap_or(Err(ExecuteError::Unknown)),
            () = &mut sleep => Err(ExecuteError::Unknown),
        }
    }

    /// Asks the state machine.
    pub async fn read(&self, mode: ReadMode, query: Bytes) -> Result<Bytes, ReadError> {
        self.read_within(mode, query, self.timeout).await
    }

    /// Asks the state machine, and gives up after `timeout`. Until then a read that no leader confirms
    /// is tried again.
    pub async fn read_within(
        &self,
        mode: ReadMode,
        query: Bytes,
        timeout: Duration,
    ) -> Result<Bytes, ReadError> {
        let (reply, answer) = oneshot::channel();
        self.ask(mode, Question::Query { query, reply }, answer, timeout).await
    }

    /// A handle to the whole state as of one moment.
    pub async fn freeze(&self, mode: ReadMode) -> Result<S::Frozen, ReadError> {
        self.freeze_within(mode, self.timeout).await
    }

    /// A handle to the whole state as of one moment; gives up after `timeout`.
    pub async fn freeze_within(
        &self,
        mode: ReadMode,
        timeout: Duration,
    ) -> Result<S::Frozen, ReadError> {
        let (reply, answer) = oneshot::channel();
        self.ask(mode, Question::Freeze { reply }, answer, timeout).await
    }

    async fn ask<A>(
        &self,
        mode: ReadMode,
        question: Question<S>,
        answer: oneshot::Receiver<A>,
        timeout: Duration,
    ) -> Result<A, ReadError> {
        let metrics = &self.shared.metrics;
        let _waiting = self.wait_for_read()?;
        let core_mode = match mode {
            ReadMode::Stale { max_age } if self.is_fresher_than(max_age) => None,
            ReadMode::Linearizable | ReadMode::Stale { .. } => Some(raft::ReadMode::Linearizable),
            ReadMode::Lease => Some(raft::ReadMode::Lease),
        };
        match core_mode {
            None => {
                count(&metrics.stale_reads);
                self.asks.try_send(Ask::Read(question)).map_err(refused)?;
            }
            Some(mode) => {
                count(&metrics.reads);
                self.calls.try_send(Call::Read { mode, question }).map_err(refused)?;
            }
        }
        let mut sleep = self.clock.sleep(timeout);
        tokio::select! {
            biased;
            answer = answer => answer.map_err(|_| ReadError::Stopped),
            () = &mut sleep => Err(match self.status().raft.leader {
                Some(_) => ReadError::Timeout,
                None => ReadError::NoLeader,
            }),
        }
    }

    fn wait_for_read(&self) -> Result<ReadWaiting<'_>, ReadError> {
        let waiting = self.shared.reads_waiting.fetch_add(1, Ordering::Relaxed);
        let guard = ReadWaiting(&self.shared);
        if waiting < self.shared.limits.reads_max { Ok(guard) } else { Err(ReadError::Busy) }
    }

    fn is_fresher_than(&self, max_age: Duration) -> bool {
        let now_ns = self.clock.now().monotonic_ns;
        match self.shared.fresh_at_ns.load(Ordering::Relaxed) {
            _ if max_age == Duration::MAX => true,
            0 => false,
            fresh_at => u128::from(now_ns.saturating_sub(fresh_at)) <= max_age.as_nanos(),
        }
    }

    /// Waits until the command of this number is applied on this node. With a term: until the command
    /// that was made in this term is, or is known never to be. A number that was applied earlier is
    /// there, whatever its term: the caller compares it with what the state machine has kept.
    ///
    /// The caller sets a limit to the time by dropping the future.
    pub async fn wait_applied(
        &self,
        number: CommandNumber,
        term: Option<Term>,
    ) -> Result<(), WaitError> {
        let (reply, answer) = oneshot::channel();
        self.asks.try_send(Ask::Wait { number, term, reply }).map_err(|error| match error {
            TrySendError::Full(_) => WaitError::Busy,
            TrySendError::Closed(_) => WaitError::Stopped,
        })?;
        let mut forget = Forget { handle: self, number: Some(number) };
        let answer = answer.await;
        forget.number = None;
        answer.map_err(|_| WaitError::Stopped)?
    }

    /// Campaigns at once, instead of waiting for an election timeout. Disturbs no leader that others
    /// hear. False: the node is too busy, or has stopped.
    pub fn campaign(&self) -> bool {
        self.calls.try_send(Call::Campaign).is_ok()
    }

    /// The state of the node as last published. Waits for nothing.
    pub fn status(&self) -> Arc<DriverStatus> {
        self.shared.status.load_full()
    }

    /// The counters of the node.
    pub fn metrics(&self) -> MetricsReading {
        self.shared.metrics.read()
    }

    /// Stops the node: nothing more is taken, what is under way is finished if that is possible within
    /// half a second or so, and all parts end. Returns when they have.
    pub async fn shutdown(&self) {
        self.shared.ask_shutdown();
        self.shared.ended().await;
    }

    /// Waits until the node stops, and says why.
    pub async fn stopped(&self) -> StopReason {
        self.shared.stopped().await
    }
}

impl<S: StateMachine> Clone for Handle<S> {
    fn clone(&self) -> Self {
        Handle {
            calls: self.calls.clone(),
            asks: self.asks.clone(),
            shared: self.shared.clone(),
            clock: self.clock.clone(),
            timeout: self.timeout,
        }
    }
}

fn refused<M>(error: TrySendError<M>) -> ReadError {
    match error {
        TrySendError::Full(_) => ReadError::Busy,
        TrySendError::Closed(_) => ReadError::Stopped,
    }
}

/// Has a wait forgotten that is given up: the command may never come.
struct Forget<'a, S: StateMachine> {
    handle: &'a Handle<S>,
    number: Option<CommandNumber>,
}

impl<S: StateMachine> Drop for Forget<'_, S> {
    fn drop(&mut self) {
        let Some(number) = self.number else { return };
        if let Err(TrySendError::Full(_)) = self.handle.asks.try_send(Ask::Forget(number)) {
            self.handle.shared.give_up();
        }
    }
}

/// Counts a read as waiting.
struct ReadWaiting<'a>(&'a Shared);

impl Drop for ReadWaiting<'_> {
    fn drop(&mut self) {
        self.0.reads_waiting.fetch_sub(1, Ordering::Relaxed);
    }
}
