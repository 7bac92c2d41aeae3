//! Accepted proposals whose outcome is not known yet.
//!
//! A proposal `i@t` is done once the entry with exactly that id is applied. It is not done once an
//! entry of a later term is applied at or before index `i`, since terms never decrease along the
//! log. Its outcome is unknown once a snapshot has skipped index `i`.

use crate::{Answer, AttemptError, Decision, Outcome};
use bytes::Bytes;
use raft::{Entry, LogId, Snapshot};
use std::collections::VecDeque;
use tokio::sync::oneshot;

pub(crate) type Reply<E> = oneshot::Sender<Result<Bytes, E>>;

/// The caller that waits for the outcome of a proposal.
pub(crate) enum Caller {
    /// A caller of `propose`. It has already received the id of the proposal.
    Propose(Reply<Outcome>),
    /// A caller of `execute`.
    Execute(Reply<AttemptError>),
}

impl Caller {
    fn is_gone(&self) -> bool {
        match self {
            Caller::Propose(reply) => reply.is_closed(),
            Caller::Execute(reply) => reply.is_closed(),
        }
    }

    fn answer(self, outcome: Decision) {
        // The caller may have stopped waiting.
        match self {
            // Its command is in no session, so there is no error.
            Caller::Propose(reply) => {
                drop(reply.send(outcome.and_then(|answer| answer.map_err(|_| Outcome::Unknown))));
            }
            Caller::Execute(reply) => drop(reply.send(match outcome {
                Ok(answer) => answer.map_err(AttemptError::from),
                Err(outcome) => Err(outcome.into()),
            })),
        }
    }
}

/// A proposal and its caller.
pub(crate) struct Undecided {
    pub id: LogId,
    pub caller: Caller,
}

impl Undecided {
    /// Passes the outcome to `told`, and then to the caller.
    fn answer(self, outcome: Decision, told: &impl Fn(LogId, &Decision)) {
        told(self.id, &outcome);
        self.caller.answer(outcome);
    }
}

/// The undecided proposals of this node.
///
/// Invariants: sorted by id (term, then index), and no id twice. Proposals of this node arrive in
/// that order: a leader only appends, and terms never decrease. Replies for forwarded commands may
/// arrive out of order and are inserted at their place.
#[derive(Default)]
pub(crate) struct Pending {
    waiting: VecDeque<Undecided>,
}

/// An invariant is checked on this many proposals at each end, so that a check costs the same
/// however many wait.
const CHECKED_MAX: usize = 16;

impl Pending {
    pub fn len(&self) -> usize {
        self.waiting.len()
    }

    pub fn push(&mut self, id: LogId, caller: Caller) {
        match self.waiting.back().is_none_or(|last| last.id < id) {
            true => self.waiting.push_back(Undecided { id, caller }),
            false => {
                let at = self.waiting.partition_point(|waiting| waiting.id < id);
                self.waiting.insert(at, Undecided { id, caller });
            }
        }
        debug_assert_eq!(self.broken_invariant(), None);
    }

    /// Removes and returns the proposals that are decided once everything up to `last` is applied.
    pub fn decided_by(&mut self, last: LogId) -> VecDeque<Undecided> {
        let decided = self.waiting.partition_point(|waiting| waiting.id <= last);
        let undecided = self.waiting.split_off(decided);
        let decided = std::mem::replace(&mut self.waiting, undecided);
        debug_assert_eq!(self.broken_invariant(), None);
        decided
    }

    /// The first invariant that does not hold, if any. Checked after every change in debug builds.
    fn broken_invariant(&self) -> Option<&'static str> {
        let ids = || self.waiting.iter().map(|waiting| waiting.id);
        let from_end = ids().rev().take(CHECKED_MAX);
        let rules = [
            (
                "the first proposals are out of order",
                ids().take(CHECKED_MAX).is_sorted_by(|a, b| a < b),
            ),
            ("the last proposals are out of order", from_end.is_sorted_by(|a, b| a > b)),
        ];
        rules.into_iter().find(|(_, holds)| !holds).map(|(name, _)| name)
    }

    /// Removes the proposals whose caller has stopped waiting.
    pub fn forget_abandoned(&mut self) {
        self.waiting.retain(|waiting| !waiting.caller.is_gone());
    }
}

/// Answers the proposals that are decided by applying `entry`. `result` is the answer to it. Each
/// outcome is also passed to `told`.
pub(crate) fn resolve(
    decided: &mut VecDeque<Undecided>,
    entry: &Entry,
    result: Answer,
    told: impl Fn(LogId, &Decision),
) {
    while decided.front().is_some_and(|waiting| waiting.id <= entry.id) {
        let Some(waiting) = decided.pop_front() else { return };
        if waiting.id == entry.id {
            waiting.answer(Ok(result), &told);
            return;
        }
        // An entry of a later term is at or before its index.
        waiting.answer(Err(Outcome::NotDone), &told);
    }
}

/// Answers the proposals that are decided by restoring `snapshot`. Each outcome is also passed to
/// `told`.
pub(crate) fn jump(
    decided: VecDeque<Undecided>,
    snapshot: &Snapshot,
    told: impl Fn(LogId, &Decision),
) {
    for waiting in decided {
        let jumped_over = waiting.id.index <= snapshot.last.index;
        let outcome = if jumped_over { Outcome::Unknown } else { Outcome::NotDone };
        waiting.answer(Err(outcome), &told);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use raft::{CommandNumber, LogTime, Membership, Payload};

    type Answer = oneshot::Receiver<Result<Bytes, Outcome>>;

    fn propose(pending: &mut Pending, index: u64, term: u64) -> Answer {
        let (reply, answer) = oneshot::channel();
        pending.push(LogId::new(index, term), Caller::Propose(reply));
        answer
    }

    fn entry(index: u64, term: u64) -> Entry {
        Entry {
            id: LogId::new(index, term),
            time: LogTime(0),
            number: CommandNumber(0),
            payload: Payload::NoOp,
        }
    }

    fn apply(pending: &mut Pending, entries: &[Entry]) {
        let mut decided = pending.decided_by(entries.last().unwrap().id);
        for entry in entries {
            resolve(&mut decided, entry, Ok(Bytes::from_static(b"result")), |_, _| ());
        }
        assert!(decided.is_empty());
    }

    #[test]
    fn an_invariant_that_is_broken_is_named() {
        let mut pending = Pending::default();
        let _answers: Vec<Answer> = (5..8).map(|i| propose(&mut pending, i, 2)).collect();
        assert_eq!(pending.broken_invariant(), None);
        pending.waiting.swap(0, 2);
        assert_eq!(pending.broken_invariant(), Some("the first proposals are out of order"));
    }

    #[test]
    fn a_proposal_is_done_when_its_own_entry_is_applied() {
        let mut pending = Pending::default();
        let (mut first, mut second) = (propose(&mut pending, 5, 2), propose(&mut pending, 6, 2));
        apply(&mut pending, &[entry(4, 2), entry(5, 2)]);
        assert_eq!(first.try_recv().unwrap(), Ok(Bytes::from_static(b"result")));
        assert!(second.try_recv().is_err());
        apply(&mut pending, &[entry(6, 2)]);
        assert!(second.try_recv().unwrap().is_ok());
    }

    #[test]
    fn a_later_term_at_or_before_its_place_means_not_done() {
        let mut pending = Pending::default();
        let mut answers: Vec<Answer> = (5..8).map(|i| propose(&mut pending, i, 2)).collect();
        apply(&mut pending, &[entry(5, 2), entry(6, 3)]);
        assert!(answers[0].try_recv().unwrap().is_ok());
        assert_eq!(answers[1].try_recv().unwrap(), Err(Outcome::NotDone));
        assert_eq!(answers[2].try_recv().unwrap(), Err(Outcome::NotDone));
    }

    #[test]
    fn an_own_proposal_of_a_later_term_is_not_mistaken_for_one_of_an_earlier() {
        let mut pending = Pending::default();
        let mut old = propose(&mut pending, 6, 2);
        let mut new = propose(&mut pending, 6, 4);
        apply(&mut pending, &[entry(5, 4)]);
        assert_eq!(old.try_recv().unwrap(), Err(Outcome::NotDone));
        apply(&mut pending, &[entry(6, 4)]);
        assert!(new.try_recv().unwrap().is_ok());
    }

    #[test]
    fn a_snapshot_that_jumps_over_a_proposal_leaves_it_unknown() {
        let mut pending = Pending::default();
        let mut inside = propose(&mut pending, 6, 2);
        let mut beyond = propose(&mut pending, 11, 2);
        let mut snapshot = Snapshot::initial(Membership::default());
        snapshot.last = LogId::new(10, 3);
        jump(pending.decided_by(snapshot.last), &snapshot, |_, _| ());
        assert_eq!(inside.try_recv().unwrap(), Err(Outcome::Unknown));
        assert_eq!(beyond.try_recv().unwrap(), Err(Outcome::NotDone));
    }
}
