//! The steps that led to a wrong state or answer, for the report of a recorded run.

use super::*;
use crate::replay::{Led, Wrong};
use crate::timeline::Step;

impl<W: Workload> World<'_, W> {
    /// The commands that led to a violation which a state machine may have caused by itself.
    pub(super) fn steps_to(&self, violation: &Violation) -> Vec<Step> {
        let holds = |machine: &W::Machine| self.workload.invariant(machine);
        let wrong = match violation.check {
            _ if !self.timeline.is_on() => return Vec::new(),
            Check::InvariantOfTheStateMachine => Wrong::State(&holds),
            Check::StateMachineIsDeterministic => Wrong::Answer,
            Check::QueriesAreAnsweredAlike => {
                Wrong::Queries(self.queries().into_iter().cloned().collect())
            }
            Check::SnapshotIsTheState | Check::SnapshotIsRestored => Wrong::Snapshot,
            _ => return Vec::new(),
        };
        let node = violation.about.nodes.first().map(|node| node.0 as usize);
        let upto = violation.about.indexes.last().copied().unwrap_or(Index(u64::MAX));
        let machine = || self.workload.machine();
        let Led { commands, restores } = self.replay.led(&machine, &wrong, node, upto);
        let describe = self.workload.describe();
        let mut steps = Vec::new();
        for applied in commands {
            let id = applied.at.id;
            let client = self.replay.operation(id).map(|number| self.operations[number].client);
            let client = client.map_or("a client".to_owned(), |number| format!("client {number}"));
            let request = Request::Command(applied.command.clone());
            let answer = self.observer.answer(id.index);
            let answer = answer.map(|answer| describe.answer(&request, answer));
            let answer = answer.map_or(String::new(), |answer| format!(" → {answer}"));
            let command = describe.command(&applied.command);
            let text = format!("{client}: {command}{answer} ({id})");
            steps.push(Step { at_us: applied.at_us, event: applied.event, node: None, text });
        }
        for restore in restores {
            let text = format!("restores its state from the snapshot {}", restore.last);
            let node = Some(restore.node as u64);
            steps.push(Step { at_us: restore.at_us, event: restore.event, node, text });
        }
        steps.sort_by_key(|step| step.event);
        steps
    }
}
