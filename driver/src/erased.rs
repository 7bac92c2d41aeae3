//! A state machine of any type behind a trait object.
//!
//! The parts of a node run this one. So the core loop and the machine task are compiled once, in
//! this crate. Were they generic over the user's state machine, each program and each test would
//! compile them anew. A batch of commands costs a virtual call instead. The simulator uses it too.

use crate::{ApplyContext, Frozen, RestoreError, StateMachine};
use bytes::Bytes;
use raft::LogTime;
use std::any::Any;
use std::io::{self, Read, Write};

/// A state machine whose type is known only where it was made.
pub struct ErasedMachine(Box<dyn AnyMachine>);

/// The state of an [`ErasedMachine`] at one moment.
pub struct ErasedFrozen(Box<dyn AnyFrozen>);

impl ErasedMachine {
    /// Hides the type of a state machine.
    pub fn new(machine: impl StateMachine) -> Self {
        ErasedMachine(Box::new(machine))
    }

    /// The state machine, if it has this type.
    pub fn downcast_ref<M: StateMachine>(&self) -> Option<&M> {
        // Not the method of the box, which is a machine of no type.
        (*self.0).as_any().downcast_ref()
    }
}

impl ErasedFrozen {
    /// The frozen state, if it has this type.
    pub fn downcast<F: Frozen + Send + 'static>(self) -> Option<F> {
        self.0.into_any().downcast().ok().map(|frozen| *frozen)
    }
}

impl std::fmt::Debug for ErasedMachine {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("ErasedMachine").finish_non_exhaustive()
    }
}

impl std::fmt::Debug for ErasedFrozen {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("ErasedFrozen").finish_non_exhaustive()
    }
}

/// The methods of [`StateMachine`], without its associated type.
trait AnyMachine: Send {
    fn apply_any(&mut self, at: ApplyContext, command: Bytes) -> Bytes;
    fn apply_any_batch(&mut self, commands: Vec<(ApplyContext, Bytes)>) -> Vec<Bytes>;
    fn skip_any(&mut self, at: ApplyContext);
    fn query_any(&self, time: LogTime, query: &[u8]) -> Bytes;
    fn freeze_any(&self) -> ErasedFrozen;
    fn restore_any(&mut self, from: &mut dyn Read) -> Result<(), RestoreError>;
    fn as_any(&self) -> &dyn Any;
}

impl<M: StateMachine> AnyMachine for M {
    fn apply_any(&mut self, at: ApplyContext, command: Bytes) -> Bytes {
        self.apply(at, command)
    }

    fn apply_any_batch(&mut self, commands: Vec<(ApplyContext, Bytes)>) -> Vec<Bytes> {
        self.apply_batch(commands)
    }

    fn skip_any(&mut self, at: ApplyContext) {
        self.skip(at);
    }

    fn query_any(&self, time: LogTime, query: &[u8]) -> Bytes {
        self.query(time, query)
    }

    fn freeze_any(&self) -> ErasedFrozen {
        ErasedFrozen(Box::new(self.freeze()))
    }

    fn restore_any(&mut self, from: &mut dyn Read) -> Result<(), RestoreError> {
        self.restore(from)
    }

    fn as_any(&self) -> &dyn Any {
        self
    }
}

impl StateMachine for ErasedMachine {
    type Frozen = ErasedFrozen;

    fn apply(&mut self, at: ApplyContext, command: Bytes) -> Bytes {
        self.0.apply_any(at, command)
    }

    fn apply_batch(&mut self, commands: Vec<(ApplyContext, Bytes)>) -> Vec<Bytes> {
        self.0.apply_any_batch(commands)
    }

    fn skip(&mut self, at: ApplyContext) {
        self.0.skip_any(at);
    }

    fn query(&self, time: LogTime, query: &[u8]) -> Bytes {
        self.0.query_any(time, query)
    }

    fn freeze(&self) -> ErasedFrozen {
        self.0.freeze_any()
    }

    fn restore(&mut self, from: &mut dyn Read) -> Result<(), RestoreError> {
        self.0.restore_any(from)
    }
}

/// The method of [`Frozen`], and the way back to its type.
trait AnyFrozen: Send {
    fn write_any(&self, to: &mut dyn Write) -> io::Result<()>;
    fn into_any(self: Box<Self>) -> Box<dyn Any>;
}

impl<F: Frozen + Send + 'static> AnyFrozen for F {
    fn write_any(&self, to: &mut dyn Write) -> io::Result<()> {
        self.write(to)
    }

    fn into_any(self: Box<Self>) -> Box<dyn Any> {
        self
    }
}

impl Frozen for ErasedFrozen {
    fn write(&self, to: &mut dyn Write) -> io::Result<()> {
        self.0.write_any(to)
    }
}
