//! What proposers are told, held against what became of their proposals.
//!
//! A driver says of each proposal that it was done, with its result, that it was certainly not done, or
//! that nobody can tell. Whether that is so is checked where it is said, for the ears of no client: a
//! client may have gone, or see nothing wrong for long.

use crate::app::App;
use crate::world::World;
use bytes::Bytes;
use driver::Outcome;
use raft::LogId;
use simulator::checks::{Check, Violation, violation};

const CHECK: Check = Check::ProposalIsAnsweredWithWhatBecameOfIt;

impl<A: App> World<A> {
    /// A node tells the proposer of `id` its outcome.
    pub fn decided(
        &mut self,
        node: usize,
        id: LogId,
        outcome: &Result<Bytes, Outcome>,
    ) -> Result<(), Violation> {
        let committed = self.observer.id_at(id.index) == Some(id);
        match outcome {
            Ok(answer) => {
                let known = self.observer.answer(id.index);
                if !committed || known.is_some_and(|known| known != answer) {
                    let there = self.observer.id_at(id.index);
                    let detail =
                        format!("node {node}: {id} is done, it says, and {there:?} is there");
                    return violation(CHECK, detail);
                }
            }
            Err(Outcome::NotDone) if committed => {
                return violation(
                    CHECK,
                    format!("node {node}: {id} is not done, it says, and it is"),
                );
            }
            Err(Outcome::NotDone) => {
                self.marks.hit("a proposer heard that it was not done");
                self.not_done.insert(id);
            }
            Err(Outcome::Unknown) => self.marks.hit("a proposer heard that nobody knows"),
        }
        Ok(())
    }

    /// What was not done has not been done later.
    pub fn not_done_stays_so(&self) -> Result<(), Violation> {
        let done = |id: &&LogId| self.observer.id_at(id.index) == Some(**id);
        match self.not_done.iter().find(done) {
            Some(id) => {
                violation(CHECK, format!("{id} was not done, it was said, and it was later"))
            }
            None => Ok(()),
        }
    }
}
