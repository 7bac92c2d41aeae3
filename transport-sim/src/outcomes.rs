//! Checks the outcomes that proposers receive against the fate of their proposals.
//!
//! A driver reports each proposal as done with its result, certainly not done, or unknown. The
//! report is checked where the driver makes it, even if no client receives it: the client may be
//! gone, or may not notice an error for a long time.

use crate::app::App;
use crate::world::World;
use driver::{Decision, Outcome};
use raft::LogId;
use simulator::checks::{Check, Violation, violation};

const CHECK: Check = Check::ProposalIsAnsweredWithWhatBecameOfIt;

impl<A: App> World<A> {
    /// Checks the outcome that a node reports to the proposer of `id`.
    pub fn decided(&mut self, node: usize, id: LogId, outcome: &Decision) -> Result<(), Violation> {
        let committed = self.observer.id_at(id.index) == Some(id);
        match outcome {
            Ok(answer) => {
                let known = self.observer.answer(id.index);
                if !committed || known.is_some_and(|known| known != answer) {
                    let there = self.observer.id_at(id.index);
                    let detail =
                        format!("node {node}: {id} is done, it says, and {there:?} is there");
                    return violation(CHECK, (node, (id, there)), detail);
                }
            }
            Err(Outcome::NotDone) if committed => {
                return violation(
                    CHECK,
                    (node, id),
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

    /// Checks that proposals that were reported as not done have not been committed later.
    pub fn not_done_stays_so(&self) -> Result<(), Violation> {
        let done = |id: &&LogId| self.observer.id_at(id.index) == Some(**id);
        match self.not_done.iter().find(done) {
            Some(id) => {
                violation(CHECK, *id, format!("{id} was not done, it was said, and it was later"))
            }
            None => Ok(()),
        }
    }
}
