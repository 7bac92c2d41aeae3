//! The workload of a run of the kit: the user's, with what the builder adds to it.

use super::Simulation;
use crate::clients::Ended;
use crate::describe::Describe;
use crate::log::OpenStore;
use crate::random::Stream;
use crate::violation::Violation;
use crate::workload::{Answered, ClientRequest, Workload};
use driver::StateMachine;

/// The workload of a run: the user's, with what the builder adds to it.
pub(super) struct Built<'a, M> {
    pub simulation: &'a Simulation<M>,
    pub inner: Box<dyn Workload<Machine = M>>,
    /// All requests that have ended, if the history is checked.
    pub ended: Vec<Ended>,
}

impl<M: StateMachine> Workload for Built<'_, M> {
    type Machine = M;

    fn machine(&self) -> M {
        self.inner.machine()
    }

    fn request(&mut self, client: u64, draw: &mut Stream) -> ClientRequest {
        self.inner.request(client, draw)
    }

    fn answered(&mut self, answered: &Answered<'_>) {
        if self.simulation.history.is_some() {
            self.ended.push(Ended::of(answered));
        }
        self.inner.answered(answered);
    }

    fn objection(&mut self) -> Result<(), Violation> {
        self.inner.objection()
    }

    fn log_store(&self) -> Option<OpenStore> {
        self.simulation.log_store.clone().or_else(|| self.inner.log_store())
    }

    fn describe(&self) -> &dyn Describe {
        match self.simulation.words.is_empty() {
            true => self.inner.describe(),
            false => &self.simulation.words,
        }
    }

    fn invariant(&self, machine: &M) -> Result<(), String> {
        self.inner.invariant(machine)?;
        (self.simulation.invariant)(machine)
    }

    fn verdict(&mut self) -> Result<(), Violation> {
        self.inner.verdict()?;
        let Some(holds) = &self.simulation.history else { return Ok(()) };
        let history: Vec<Answered<'_>> = self.ended.iter().map(Ended::answered).collect();
        Ok(holds(&history)?)
    }
}
