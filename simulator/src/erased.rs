//! A workload whose state machine is behind a trait object.
//!
//! Layer 1 runs these, so that it is compiled once, in this crate. Were it generic over the user's
//! state machine, each of a user's tests would compile it anew, for every machine in it. A command
//! costs a virtual call instead. Layer 2 takes its built-in workloads in the same way.

use crate::describe::Describe;
use crate::log::OpenStore;
use crate::random::Stream;
use crate::violation::Violation;
use crate::workload::{Answered, ClientRequest, Workload};
use driver::ErasedMachine;

/// A workload with any state machine, as a workload with an [`ErasedMachine`].
#[derive(Debug)]
pub struct Erased<W>(pub W);

impl<W: Workload> Workload for Erased<W> {
    type Machine = ErasedMachine;

    fn machine(&self) -> ErasedMachine {
        ErasedMachine::new(self.0.machine())
    }

    fn request(&mut self, client: u64, draw: &mut Stream) -> ClientRequest {
        self.0.request(client, draw)
    }

    fn answered(&mut self, answered: &Answered<'_>) {
        self.0.answered(answered);
    }

    fn invariant(&self, machine: &ErasedMachine) -> Result<(), String> {
        let own = machine.downcast_ref().expect("this workload has made it");
        self.0.invariant(own)
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
