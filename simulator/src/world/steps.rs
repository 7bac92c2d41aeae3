//! The steps that led to a wrong state or answer, for the report of a recorded run.

use super::*;
use crate::replay::{Led, Wrong};
use crate::timeline::{Ended, Step};
use bytes::Bytes;

impl World<'_> {
    /// The commands that led to a violation which a state machine may have caused by itself.
    pub(super) fn steps_to(&self, violation: &Violation) -> Vec<Step> {
        let holds = |machine: &ErasedMachine| self.workload.invariant(machine);
        let wrong = match violation.check {
            _ if !self.timeline.is_on() => return Vec::new(),
            Check::InvariantOfTheStateMachine => Wrong::State(&holds),
            Check::StateMachineIsDeterministic => Wrong::Answer,
            Check::QueriesAreAnsweredAlike => {
                Wrong::Queries(self.queries().into_iter().cloned().collect())
            }
            Check::HistoryOfTheTest | Check::AnswerSuitsTheClient => {
                Wrong::Answers(self.answers(violation))
            }
            Check::EqualLogsMakeEqualStates => Wrong::Copy,
            Check::SnapshotIsTheState | Check::SnapshotIsRestored => Wrong::Snapshot,
            _ => return Vec::new(),
        };
        let node = violation.about.nodes.first().map(|node| node.0 as usize);
        let named = match &wrong {
            Wrong::Answers(answers) => answers.keys().next_back().or(Some(&Index(0))),
            _ => violation.about.indexes.last(),
        };
        let upto = named.copied().unwrap_or(Index(u64::MAX));
        let machine = || self.workload.machine();
        let Led { commands, restores } = self.replay.led(&machine, &wrong, node, upto);
        let told: BTreeSet<Index> = commands.iter().map(|applied| applied.at.id.index).collect();
        let describe = self.workload.describe();
        let mut steps = Vec::new();
        for applied in commands {
            let id = applied.at.id;
            let asked = self.replay.operation(id).map(|number| &self.operations[number]);
            let is_named = asked.is_some_and(|asked| {
                violation.about.requests.contains(&(asked.client as u64, asked.begun_us))
            });
            let client = asked.map(|asked| asked.client);
            let client = client.map_or("a client".to_owned(), |number| format!("client {number}"));
            let request = ClientRequest::Command(applied.command.clone());
            let answer = self.observer.answer(id.index);
            let answer = answer.and_then(|answer| answer.as_ref().ok());
            let answer = answer.map(|answer| describe.answer(&request, answer));
            let answer = answer.map_or(String::new(), |answer| format!(" → {answer}"));
            let command = describe.command(&applied.command);
            let text = format!("{client}: {command}{answer} ({id})");
            let (at_us, event, node) = (applied.at_us, applied.event, None);
            steps.push(Step { at_us, event, node, is_named, text });
        }
        for restore in restores {
            let text = format!("restores its state from the snapshot {}", restore.last);
            let (at_us, event, node) = (restore.at_us, restore.event, Some(restore.node as u64));
            steps.push(Step { at_us, event, node, is_named: false, text });
        }
        for span in &self.timeline.spans {
            let is_told = span.index.is_some_and(|index| !span.is_read && told.contains(&index));
            let asked = (span.client as u64, span.begun_us);
            if violation.about.requests.contains(&asked) && !is_told {
                let answer = match span.outcome {
                    Ended::Done => format!(" → {}", span.answer),
                    Ended::NotDone => "; not done".to_owned(),
                    Ended::Unknown | Ended::Open => "; the outcome is unknown".to_owned(),
                };
                let text = format!("client {}: {}{answer}", span.client, span.request);
                let (at_us, event, node) = (span.ended_us, span.event, None);
                steps.push(Step { at_us, event, node, is_named: true, text });
            }
        }
        steps.sort_by_key(|step| step.event);
        steps
    }

    /// The answers to the commands that a violation names, by index.
    fn answers(&self, violation: &Violation) -> BTreeMap<Index, Bytes> {
        let named = self.operations.iter().enumerate().filter(|(_, operation)| {
            violation.about.requests.contains(&(operation.client as u64, operation.begun_us))
        });
        let answered = named.filter_map(|(number, _)| {
            let index = self.replay.id_of(number)?.index;
            Some((index, self.observer.answer(index)?.clone().ok()?))
        });
        answered.collect()
    }
}
