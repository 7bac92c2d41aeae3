//! State machines whose commands, replies and state are types of their own.
//!
//! [`TypedMachine`] is for services whose state is small enough to be copied when a snapshot is
//! taken. [`Typed`] makes a [`StateMachine`] of one: it encodes with the workspace's codec. The
//! encoding of a type changes when its fields do: a service that is upgraded in place has to keep
//! the types of its commands, or to add variants at the end of an enum.

use crate::{Builder, Consistency, ExecuteError, Node, ReadError, StartError};
use bytes::Bytes;
use driver::{At, Frozen, RestoreError, StateMachine};
use serde::Serialize;
use serde::de::DeserializeOwned;
use std::io::{self, Read, Write};
use std::ops::Deref;
use storage::codec;

/// A deterministic state machine: the same commands in the same order give the same replies and
/// leave the same state on every node. It may look at its state, the command and `at`, and at
/// nothing else: not at a clock, a random number or the order of a hash map.
///
/// The state itself is what implements it. It is copied when a snapshot is taken; for a state of
/// more than some megabytes implement [`StateMachine`] instead.
pub trait TypedMachine: Clone + Serialize + DeserializeOwned + Send + 'static {
    /// What clients want done.
    type Command: Serialize + DeserializeOwned;
    /// The answer to a command.
    type Reply: Serialize + DeserializeOwned;
    /// What clients ask.
    type Query: Serialize + DeserializeOwned;
    /// The answer to a query.
    type Answer: Serialize + DeserializeOwned;

    /// Applies a command. `at` has its place in the log and the time of the log.
    fn apply(&mut self, at: At, command: Self::Command) -> Self::Reply;

    /// Answers a query; changes nothing.
    fn query(&self, query: Self::Query) -> Self::Answer;
}

/// A [`TypedMachine`] as a [`StateMachine`].
#[derive(Clone, Debug, Default)]
pub struct Typed<M>(pub M);

impl<M: TypedMachine> Typed<M> {
    /// The bytes of a command, as [`StateMachine::apply`] takes them: for a simulation, for
    /// instance.
    pub fn encode_command(command: &M::Command) -> Bytes {
        encode(command)
    }

    /// The bytes of a query, as [`StateMachine::query`] takes them.
    pub fn encode_query(query: &M::Query) -> Bytes {
        encode(query)
    }
}

impl<M: TypedMachine> StateMachine for Typed<M> {
    type Frozen = Typed<M>;

    fn apply(&mut self, at: At, command: Bytes) -> Bytes {
        // A command that this version does not understand is refused by every node of this version.
        let reply = codec::decode(&command).ok().map(|command| self.0.apply(at, command));
        encode(&reply)
    }

    fn query(&self, query: &[u8]) -> Bytes {
        encode(&codec::decode(query).ok().map(|query| self.0.query(query)))
    }

    fn freeze(&self) -> Typed<M> {
        self.clone()
    }

    fn restore(&mut self, from: &mut dyn Read) -> Result<(), RestoreError> {
        let mut state = Vec::new();
        from.read_to_end(&mut state)?;
        let state = codec::decode(&state);
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

/// Why there is no reply of a typed machine.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum TypedError<E> {
    /// There is no answer of the state machine at all.
    #[error(transparent)]
    Node(#[from] E),
    /// The state machine of another version did not understand the command, or this one its reply.
    /// The command has changed nothing.
    #[error("another version of the state machine runs here: it does not understand the request")]
    OtherVersion,
}

/// A [`Node`] with a [`TypedMachine`]. Everything else that a node can do, it can do as well.
#[derive(Debug)]
pub struct TypedNode<M: TypedMachine>(Node<Typed<M>>);

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

    /// Asks the state machine: see [`Node::read`].
    pub async fn read(
        &self,
        query: &M::Query,
        consistency: Consistency,
    ) -> Result<M::Answer, TypedError<ReadError>> {
        reply(&self.0.read(encode(query), consistency).await?)
    }

    /// The node itself, for instance to shut it down.
    pub fn into_inner(self) -> Node<Typed<M>> {
        self.0
    }
}

impl<M: TypedMachine> Builder<Typed<M>> {
    /// The same as [`Builder::start`], for a node that takes commands and queries of its machine's
    /// types.
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
