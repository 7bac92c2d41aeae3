//! A workload and its state machine behind trait objects.
//!
//! Layer 1 runs these, so that it is compiled once, in this crate. Were it generic over the user's
//! state machine, each of a user's tests would compile it anew, for every machine in it. A command
//! costs a virtual call instead. Layer 2 takes its built-in workloads in the same way.

use crate::describe::Describe;
use crate::log::OpenStore;
use crate::random::Stream;
use crate::violation::Violation;
use crate::workload::{Answered, Request, Workload};
use bytes::Bytes;
use driver::{ApplyContext, Frozen, LogTime, RestoreError, StateMachine};
use std::any::Any;
use std::io::{self, Read, Write};

/// The state machine of an [`Erased`] workload.
pub struct ErasedMachine(Box<dyn AnyMachine>);

/// The frozen state of an [`ErasedMachine`].
pub struct ErasedFrozen(Box<dyn Frozen + Send>);

/// A workload with any state machine, as a workload with an [`ErasedMachine`].
#[derive(Debug)]
pub struct Erased<W>(pub W);

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

impl Frozen for ErasedFrozen {
    fn write(&self, to: &mut dyn Write) -> io::Result<()> {
        self.0.write(to)
    }
}

impl<W: Workload> Workload for Erased<W> {
    type Machine = ErasedMachine;

    fn machine(&self) -> ErasedMachine {
        ErasedMachine(Box::new(self.0.machine()))
    }

    fn request(&mut self, client: u64, draw: &mut Stream) -> Request {
        self.0.request(client, draw)
    }

    fn answered(&mut self, answered: &Answered<'_>) {
        self.0.answered(answered);
    }

    fn invariant(&self, machine: &ErasedMachine) -> Result<(), String> {
        let own = (*machine.0).as_any().downcast_ref();
        self.0.invariant(own.expect("the machine was made by this workload"))
    }

    fn objection(&mut self) -> Result<(), Violation> {
        self.0.objection()
    }

    fn log_store(&self) -> Option<OpenStore> {
        self.0.log_store()
    }

    fn describe(&self) -> &dyn Describe {
        self.0.describe()
    }

    fn verdict(&mut self) -> Result<(), Violation> {
        self.0.verdict()
    }
}
