//! State machines whose commands, replies and state are types of their own.
//!
//! [`TypedMachine`] is for services whose state is small enough to be copied for each snapshot.
//! [`Typed`] turns it into a [`StateMachine`], with the workspace's codec.

use crate::{
    Builder, Consistency, ExecuteError, Node, Proposal, ProposeError, ReadError, StartError,
};
use bytes::Bytes;
use driver::{
    ApplyContext, Frozen, LogTime, RestoreError, SessionNumber, StateMachine, StopReason,
};
use serde::Serialize;
use serde::de::DeserializeOwned;
use std::io::{self, Read, Write};
use std::ops::Deref;
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
/// The codec writes no names and no types of fields. So none of the four types, nor the state, may
/// contain a `serde_json::Value` or use serde's `untagged`, `tag`, `flatten` or
/// `skip_serializing_if`, and a sequence must know its length. What happens otherwise:
///
/// - A command or query that cannot be encoded and decoded again is refused as
///   [`TypedError::NotCodable`], and nothing is sent. A state that cannot be is refused at the
///   start ([`StartError::State`]), by a test of the initial one.
/// - A reply that cannot be encoded stops the node, like a panic in `apply`.
/// - **A field that `skip_serializing_if` leaves out is not noticed**: what follows is decoded as
///   other fields, and the nodes execute another command.
///
/// # Upgrades
///
/// The encoding of a type changes with its fields. So a service that is upgraded in place keeps the
/// types of its commands and of its state, or adds variants at the end of an enum. It upgrades
/// every node before any node sends a new variant. An old command must get its old reply, since
/// nodes compare a hash of the replies: see [`StateMachine`].
///
/// So wrap the state in an enum of its versions from the first release on, for instance with
/// `#[serde(from = "Versions", into = "Versions")]` on the machine and
/// `enum Versions { V1(StateV1) }`: the next release adds `V2`, and still reads `V1`. A field that
/// is added to a plain struct cannot be told from other data, whatever `#[serde(default)]` says:
/// the node does not start with the old snapshot, or reads it wrongly.
///
/// If the type of the commands is changed in another way, commands that are still in the log cannot
/// be decoded. The node then stops with [`StopReason::StateMachine`], since a state without them
/// would differ from what clients were told. Start the version that wrote the log.
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

    /// Answers a query, without a change to the state. `time` is the time of the log. It moves with
    /// commands; without any it stands still for up to 30 s: see [`StateMachine::query`].
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

    /// Decodes what [`StateMachine::apply`] returns. `None` if it is of another version.
    pub fn decode_reply(reply: &[u8]) -> Option<M::Reply> {
        codec::decode(reply).ok()
    }

    /// Decodes what [`StateMachine::query`] returns. `None` if it is of another version, or if the
    /// state machine could not decode the query.
    pub fn decode_answer(answer: &[u8]) -> Option<M::Answer> {
        codec::decode(answer).ok().flatten()
    }
}

impl<M: TypedMachine> StateMachine for Typed<M> {
    type Frozen = Typed<M>;

    /// Panics if the command cannot be decoded, which stops the node.
    fn apply(&mut self, at: ApplyContext, command: Bytes) -> Bytes {
        // Without it the state would differ from what the client was told.
        let command = codec::decode(&command).unwrap_or_else(|error| {
            panic!(
                "the command at index {} cannot be decoded ({error}): if the type of the commands was changed, start \
                 the version that wrote the log",
                at.id.index
            )
        });
        encode(&self.0.apply(at, command))
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
    /// The codec cannot encode this command or query, or not decode what it made of it: see the
    /// types of a [`TypedMachine`]. Nothing was sent.
    #[error("the codec does not support values of this type, so nothing was sent: {why}")]
    NotCodable {
        /// The error of the codec.
        why: String,
    },
    /// The reply could not be decoded here, or the query at the state machine: a node runs another
    /// version of the state machine. A command was applied all the same.
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
        reply(&self.0.execute(checked(command)?).await?)
    }

    /// Appends a command to the log and returns without waiting for its outcome, on the leader
    /// only: see [`Node::propose`]. [`Typed::decode_reply`] decodes the reply.
    pub async fn propose(
        &self,
        command: &M::Command,
    ) -> Result<Proposal, TypedError<ProposeError>> {
        Ok(self.0.propose(checked(command)?).await?)
    }

    /// Executes a command of a session once: see [`Node::execute_in_session`].
    pub async fn execute_in_session(
        &self,
        number: SessionNumber,
        command: &M::Command,
    ) -> Result<M::Reply, TypedError<ExecuteError>> {
        reply(&self.0.execute_in_session(number, checked(command)?).await?)
    }

    /// Queries the state machine: see [`Node::read`].
    pub async fn read(
        &self,
        query: &M::Query,
        consistency: Consistency,
    ) -> Result<M::Answer, TypedError<ReadError>> {
        let answer = self.0.read(checked(query)?, consistency).await?;
        reply::<Option<_>, _>(&answer)?.ok_or(TypedError::OtherVersion)
    }

    /// Stops the node cleanly: see [`Node::shutdown`]. A node that is shared is stopped by
    /// [`Handle::shutdown`](driver::Handle::shutdown), which hands over too. Its ports are free
    /// when the last handle to it is dropped.
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
        codable(&self.machine.0).map_err(StartError::State)?;
        self.start().await.map(TypedNode)
    }
}

impl<M: TypedMachine> Deref for TypedNode<M> {
    type Target = Node<Typed<M>>;

    fn deref(&self) -> &Self::Target {
        &self.0
    }
}

/// The encoding of a value, if it can be decoded again: a command that cannot would stop all nodes.
fn checked<T: Serialize + DeserializeOwned, E>(value: &T) -> Result<Bytes, TypedError<E>> {
    codable(value).map_err(|why| TypedError::NotCodable { why })
}

fn codable<T: Serialize + DeserializeOwned>(value: &T) -> Result<Bytes, String> {
    let mut bytes = Vec::new();
    codec::try_encode(value, &mut bytes).map_err(|error| error.to_string())?;
    codec::decode::<T>(&bytes).map_err(|error| error.to_string())?;
    Ok(bytes.into())
}

fn reply<T: DeserializeOwned, E>(bytes: &[u8]) -> Result<T, TypedError<E>> {
    codec::decode(bytes).map_err(|_| TypedError::OtherVersion)
}
