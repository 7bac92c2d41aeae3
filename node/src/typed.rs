//! State machines whose commands, replies and state are types of their own.
//!
//! [`TypedMachine`] is for services whose state is small enough to be copied for each snapshot.
//! [`Typed`] turns it into a [`StateMachine`], with the workspace's codec.

use crate::{
    Builder, Consistency, ExecuteError, Node, Proposal, ProposeError, ReadError, StartError,
};
use bytes::Bytes;
use driver::{
    ApplyContext, Frozen, LogTime, RestoreError, SessionNumber, StateMachine, StopReason, report,
};
use serde::Serialize;
use serde::de::DeserializeOwned;
use std::io::{self, Read, Write};
use std::ops::Deref;
use std::sync::atomic::{AtomicBool, Ordering};
use storage::codec;

/// A deterministic state machine: the same commands in the same order give the same replies and
/// leave the same state on every node. It may use only its state, the command and `at`: no clock,
/// no random number, no order of a hash map.
///
/// The state itself implements this trait. `freeze` clones it while commands wait, and a snapshot
/// encodes the clone as a whole: for a moment the state is three times in memory. For a state of
/// more than some megabytes implement [`StateMachine`] instead.
///
/// # Types
///
/// The codec does not describe itself: no `serde_json::Value`, no `untagged`, `flatten` or
/// `skip_serializing_if`. Values of such types cannot be decoded, which shows as
/// [`TypedError::OtherVersion`]. A sequence must know its length, or encoding it panics.
///
/// # Upgrades
///
/// The encoding of a type changes with its fields. So a service that is upgraded in place keeps the
/// types of its commands and of its state, or adds variants at the end of an enum. It upgrades
/// every node before any node sends a new variant. An old command must get its old reply, since
/// nodes compare a hash of the replies: see [`StateMachine`].
///
/// If the type of the commands is changed in another way, the commands that are still in the log
/// cannot be decoded, and **the state lacks them**, also after a restart of all nodes. A node logs
/// an error for the first command that it cannot decode. Stop it then, and start the version that
/// wrote the log: once a snapshot has been taken, the commands are gone.
pub trait TypedMachine: Clone + Serialize + DeserializeOwned + Send + 'static {
    /// A command of a client.
    type Command: Serialize + DeserializeOwned;
    /// The answer to a command.
    type Reply: Serialize + DeserializeOwned;
    /// A query of a client.
    type Query: Serialize + DeserializeOwned;
    /// The answer to a query.
    type Answer: Serialize + DeserializeOwned;

    /// Applies a command. `at` is its position in the log and the time of the log.
    fn apply(&mut self, at: ApplyContext, command: Self::Command) -> Self::Reply;

    /// Answers a query, without a change to the state.
    fn query(&self, time: LogTime, query: Self::Query) -> Self::Answer;
}

/// A [`TypedMachine`] as a [`StateMachine`].
#[derive(Clone, Debug, Default)]
pub struct Typed<M>(pub M);

impl<M: TypedMachine> Typed<M> {
    /// The bytes of a command, as [`StateMachine::apply`] takes them. A simulation needs them, for
    /// instance.
    pub fn encode_command(command: &M::Command) -> Bytes {
        encode(command)
    }

    /// The bytes of a query, as [`StateMachine::query`] takes them.
    pub fn encode_query(query: &M::Query) -> Bytes {
        encode(query)
    }

    /// Decodes a command. `None` if it is of another version.
    pub fn decode_command(command: &[u8]) -> Option<M::Command> {
        codec::decode(command).ok()
    }

    /// Decodes a query. `None` if it is of another version.
    pub fn decode_query(query: &[u8]) -> Option<M::Query> {
        codec::decode(query).ok()
    }

    /// Decodes what [`StateMachine::apply`] returns. `None` if it is of another version, or if the
    /// state machine could not decode the command.
    pub fn decode_reply(reply: &[u8]) -> Option<M::Reply> {
        codec::decode(reply).ok().flatten()
    }

    /// Decodes what [`StateMachine::query`] returns. `None` if it is of another version, or if the
    /// state machine could not decode the query.
    pub fn decode_answer(answer: &[u8]) -> Option<M::Answer> {
        codec::decode(answer).ok().flatten()
    }
}

impl<M: TypedMachine> StateMachine for Typed<M> {
    type Frozen = Typed<M>;

    fn apply(&mut self, at: ApplyContext, command: Bytes) -> Bytes {
        // A command that this version cannot decode is rejected by every node of this version. It
        // may be a client's mistake, so the node goes on.
        let command = codec::decode(&command).ok();
        if command.is_none() && !HAS_REPORTED.swap(true, Ordering::Relaxed) {
            report(|| {
                tracing::error!(
                    index = %at.id.index,
                    "a command in the log cannot be decoded, so it changes nothing: if the type of \
                     the commands was changed, stop all nodes and start the earlier version; later \
                     ones are not reported"
                );
            });
        }
        encode(&command.map(|command| self.0.apply(at, command)))
    }

    fn query(&self, time: LogTime, query: &[u8]) -> Bytes {
        encode(&codec::decode(query).ok().map(|query| self.0.query(time, query)))
    }

    fn freeze(&self) -> Typed<M> {
        self.clone()
    }

    fn restore(&mut self, from: &mut dyn Read) -> Result<(), RestoreError> {
        let mut state = Vec::new();
        from.read_to_end(&mut state)?;
        // The snapshot store has verified it.
        let state = codec::decode_unlimited(&state);
        self.0 = state.map_err(|error| RestoreError::Malformed(error.to_string()))?;
        Ok(())
    }
}

impl<M: TypedMachine> Frozen for Typed<M> {
    fn write(&self, to: &mut dyn Write) -> io::Result<()> {
        let mut state = Vec::new();
        codec::encode(&self.0, &mut state);
        to.write_all(&state)
    }
}

/// Whether a command that cannot be decoded was reported. Once for each process: there may be many.
static HAS_REPORTED: AtomicBool = AtomicBool::new(false);

fn encode(value: &impl Serialize) -> Bytes {
    let mut bytes = Vec::new();
    codec::encode(value, &mut bytes);
    bytes.into()
}

/// Why a typed machine gave no reply.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum TypedError<E> {
    /// The node returned an error instead of a reply.
    #[error(transparent)]
    Node(#[from] E),
    /// A command, a query or its answer could not be decoded. Another version of the state machine
    /// runs on a node, or the codec cannot decode the type: see [`TypedMachine`]. If the command
    /// could not be decoded, it has changed nothing; if the reply could not, the command was
    /// applied.
    #[error("another version of the state machine runs in the cluster: upgrade all nodes")]
    OtherVersion,
}

/// A [`Node`] with a [`TypedMachine`]. It dereferences to the [`Node`] for everything else. What
/// takes or returns bytes there uses the encoding of [`Typed`].
pub struct TypedNode<M: TypedMachine>(Node<Typed<M>>);

impl<M: TypedMachine> std::fmt::Debug for TypedNode<M> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        self.0.fmt(f)
    }
}

impl<M: TypedMachine> TypedNode<M> {
    /// The settings of a node with this machine, in its initial state. Start it with
    /// [`Builder::start_typed`].
    pub fn builder(machine: M) -> Builder<Typed<M>> {
        Builder::new(Typed(machine))
    }

    /// Executes a command and returns the reply: see [`Node::execute`].
    pub async fn execute(
        &self,
        command: &M::Command,
    ) -> Result<M::Reply, TypedError<ExecuteError>> {
        reply(&self.0.execute(encode(command)).await?)
    }

    /// Appends a command to the log and returns without waiting for its outcome, on the leader
    /// only: see [`Node::propose`]. [`Typed::decode_reply`] decodes the reply.
    pub async fn propose(&self, command: &M::Command) -> Result<Proposal, ProposeError> {
        self.0.propose(encode(command)).await
    }

    /// Executes a command of a session once: see [`Node::execute_in_session`].
    pub async fn execute_in_session(
        &self,
        number: SessionNumber,
        command: &M::Command,
    ) -> Result<M::Reply, TypedError<ExecuteError>> {
        reply(&self.0.execute_in_session(number, encode(command)).await?)
    }

    /// Queries the state machine: see [`Node::read`].
    pub async fn read(
        &self,
        query: &M::Query,
        consistency: Consistency,
    ) -> Result<M::Answer, TypedError<ReadError>> {
        reply(&self.0.read(encode(query), consistency).await?)
    }

    /// Stops the node cleanly: see [`Node::shutdown`]. A node that is shared is stopped by
    /// [`Handle::shutdown`](driver::Handle::shutdown), which hands over too.
    pub async fn shutdown(self) -> StopReason {
        self.0.shutdown().await
    }

    /// The node itself.
    pub fn into_inner(self) -> Node<Typed<M>> {
        self.0
    }
}

impl<M: TypedMachine> Builder<Typed<M>> {
    /// Like [`Builder::start`], for a node that takes commands and queries of its machine's types.
    pub async fn start_typed(self) -> Result<TypedNode<M>, StartError> {
        self.start().await.map(TypedNode)
    }
}

impl<M: TypedMachine> Deref for TypedNode<M> {
    type Target = Node<Typed<M>>;

    fn deref(&self) -> &Self::Target {
        &self.0
    }
}

fn reply<T: DeserializeOwned, E>(bytes: &[u8]) -> Result<T, TypedError<E>> {
    let reply: Option<T> = codec::decode(bytes).map_err(|_| TypedError::OtherVersion)?;
    reply.ok_or(TypedError::OtherVersion)
}
