//! Callers that wait until a command with a certain number is applied on this node.

use crate::WaitError;
use raft::{CommandNumber, Term};
use std::collections::BTreeMap;
use tokio::sync::oneshot;

pub(crate) type WaitReply = oneshot::Sender<Result<(), WaitError>>;

/// An invariant of all waiters is checked while they wait for at most this many numbers.
const CHECKED_MAX: usize = 16;

struct Waiter {
    term: Option<Term>,
    reply: WaitReply,
}

/// The waiters by command number, and how far the state machine has applied.
///
/// Invariants: `count` is the number of waiters, at most `count_max`; no list is empty; nobody
/// waits for a command that is applied, or for one of an earlier term than the last entry's.
pub(crate) struct Waiters {
    by_number: BTreeMap<CommandNumber, Vec<Waiter>>,
    count: usize,
    /// The most waiters at once.
    count_max: usize,
    /// The number of the next command to be applied.
    next: CommandNumber,
    /// The term of the last applied entry.
    term: Term,
}

impl Waiters {
    /// No waiters yet, and at most `count_max`.
    pub fn new(count_max: usize) -> Self {
        let (next, term) = (CommandNumber::default(), Term::default());
        Waiters { by_number: BTreeMap::new(), count: 0, count_max, next, term }
    }

    /// The number of waiters.
    pub fn len(&self) -> usize {
        self.count
    }

    /// Adds a waiter for the command `number`. With `term`, only a command made in that term
    /// counts.
    pub fn add(&mut self, number: CommandNumber, term: Option<Term>, reply: WaitReply) {
        if number < self.next {
            // The term of that command is not known here. The state machine's history may have it.
            let _ = reply.send(Ok(()));
            return;
        }
        if term.is_some_and(|term| self.term > term) {
            let _ = reply.send(Err(WaitError::Superseded));
            return;
        }
        if reply.is_closed() {
            return;
        }
        if self.count >= self.count_max {
            self.forget_abandoned();
        }
        if self.count >= self.count_max {
            let _ = reply.send(Err(WaitError::Busy));
            return;
        }
        self.count += 1;
        self.by_number.entry(number).or_default().push(Waiter { term, reply });
        debug_assert_eq!(self.broken_invariant(), None);
    }

    /// An entry of `term` has been applied. `number_after` is the number of the next command.
    pub fn applied(&mut self, term: Term, number_after: CommandNumber) {
        let new_term = term > self.term;
        self.term = term;
        self.next = number_after;
        while let Some(first) = self.by_number.first_entry() {
            if *first.key() >= number_after {
                break;
            }
            for waiter in first.remove() {
                self.count -= 1;
                let own = waiter.term.is_none_or(|expected| expected == term);
                let _ = waiter.reply.send(if own { Ok(()) } else { Err(WaitError::Superseded) });
            }
        }
        if new_term {
            self.supersede(term);
        }
        debug_assert_eq!(self.broken_invariant(), None);
    }

    /// A snapshot has been restored whose last entry is of `term`.
    pub fn jumped(&mut self, term: Term, number_after: CommandNumber) {
        self.term = term;
        self.next = number_after;
        let later = self.by_number.split_off(&number_after);
        for waiter in std::mem::replace(&mut self.by_number, later).into_values().flatten() {
            self.count -= 1;
            let _ = waiter.reply.send(Ok(()));
        }
        self.supersede(term);
        debug_assert_eq!(self.broken_invariant(), None);
    }

    /// Commands of earlier terms than `term` that are not applied yet never will be.
    fn supersede(&mut self, term: Term) {
        self.retain(
            |waiter| waiter.term.is_none_or(|expected| expected >= term),
            |waiter| {
                let _ = waiter.reply.send(Err(WaitError::Superseded));
            },
        );
    }

    /// Removes the waiters for the command `number` whose caller has stopped waiting.
    pub fn forget(&mut self, number: CommandNumber) {
        let Some(waiters) = self.by_number.get_mut(&number) else { return };
        let before = waiters.len();
        waiters.retain(|waiter| !waiter.reply.is_closed());
        self.count -= before - waiters.len();
        if waiters.is_empty() {
            self.by_number.remove(&number);
        }
        debug_assert_eq!(self.broken_invariant(), None);
    }

    /// Removes all waiters whose caller has stopped waiting.
    pub fn forget_abandoned(&mut self) {
        self.retain(|waiter| !waiter.reply.is_closed(), drop);
        debug_assert_eq!(self.broken_invariant(), None);
    }

    /// The first invariant that does not hold, if any. Checked after every change in debug builds.
    /// The parts that grow with the number of waiters are checked only while there are few.
    fn broken_invariant(&self) -> Option<&'static str> {
        let few = self.by_number.len() <= CHECKED_MAX;
        let lists = || self.by_number.values().take(if few { CHECKED_MAX } else { 0 });
        let counted: usize = lists().map(Vec::len).sum();
        let late = |waiter: &Waiter| waiter.term.is_some_and(|term| term < self.term);
        let first = self.by_number.first_key_value();
        let rules = [
            ("the count is wrong", !few || counted == self.count),
            ("there are too many", self.count <= self.count_max),
            ("a number has an empty list", !lists().any(Vec::is_empty)),
            (
                "a command is waited for that is applied",
                first.is_none_or(|(at, _)| *at >= self.next),
            ),
            ("a command of an earlier term is waited for", !lists().flatten().any(late)),
        ];
        rules.into_iter().find(|(_, holds)| !holds).map(|(name, _)| name)
    }

    fn retain(&mut self, keep: impl Fn(&Waiter) -> bool, mut removed: impl FnMut(Waiter)) {
        self.by_number.retain(|_, waiters| {
            for waiter in waiters.extract_if(.., |waiter| !keep(waiter)) {
                self.count -= 1;
                removed(waiter);
            }
            !waiters.is_empty()
        });
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const WAITERS_MAX: usize = 20;

    fn wait(
        waiters: &mut Waiters,
        number: u64,
        term: Option<u64>,
    ) -> oneshot::Receiver<Result<(), WaitError>> {
        let (reply, answer) = oneshot::channel();
        waiters.add(CommandNumber(number), term.map(Term), reply);
        answer
    }

    #[test]
    fn an_invariant_that_is_broken_is_named() {
        let mut waiters = Waiters::new(WAITERS_MAX);
        let _answers = [wait(&mut waiters, 4, Some(2)), wait(&mut waiters, 5, None)];
        assert_eq!(waiters.broken_invariant(), None);
        waiters.count = 1;
        assert_eq!(waiters.broken_invariant(), Some("the count is wrong"));
        waiters.count = 2;
        waiters.next = CommandNumber(5);
        assert_eq!(waiters.broken_invariant(), Some("a command is waited for that is applied"));
        (waiters.next, waiters.term) = (CommandNumber(4), Term(3));
        let broken = waiters.broken_invariant();
        assert_eq!(broken, Some("a command of an earlier term is waited for"));
    }

    #[test]
    fn a_waiter_hears_when_its_command_is_applied_and_not_before() {
        let mut waiters = Waiters::new(WAITERS_MAX);
        let mut answer = wait(&mut waiters, 1, Some(2));
        waiters.applied(Term(2), CommandNumber(1));
        assert!(answer.try_recv().is_err());
        waiters.applied(Term(2), CommandNumber(2));
        assert_eq!(answer.try_recv().unwrap(), Ok(()));
        assert_eq!(wait(&mut waiters, 0, None).try_recv().unwrap(), Ok(()));
        assert_eq!(waiters.count, 0);
    }

    #[test]
    fn a_later_term_supersedes_those_who_wait_for_an_earlier_one() {
        let mut waiters = Waiters::new(WAITERS_MAX);
        waiters.applied(Term(2), CommandNumber(1));
        let mut of_term_2 = wait(&mut waiters, 4, Some(2));
        let mut of_any_term = wait(&mut waiters, 4, None);
        waiters.applied(Term(3), CommandNumber(1));
        assert_eq!(of_term_2.try_recv().unwrap(), Err(WaitError::Superseded));
        assert!(of_any_term.try_recv().is_err());
        let mut too_late = wait(&mut waiters, 4, Some(2));
        assert_eq!(too_late.try_recv().unwrap(), Err(WaitError::Superseded));
        assert_eq!(waiters.count, 1);
    }

    #[test]
    fn another_terms_command_under_the_number_is_not_the_one_waited_for() {
        let mut waiters = Waiters::new(WAITERS_MAX);
        let mut answer = wait(&mut waiters, 0, Some(2));
        waiters.applied(Term(3), CommandNumber(1));
        assert_eq!(answer.try_recv().unwrap(), Err(WaitError::Superseded));
    }

    #[test]
    fn who_waits_no_more_is_forgotten_and_the_others_of_the_number_are_not() {
        let mut waiters = Waiters::new(WAITERS_MAX);
        let (mut stays, goes) = (wait(&mut waiters, 9, None), wait(&mut waiters, 9, None));
        drop(goes);
        waiters.forget(CommandNumber(9));
        assert_eq!(waiters.len(), 1);
        waiters.applied(Term(1), CommandNumber(10));
        assert_eq!(stays.try_recv().unwrap(), Ok(()));
        assert_eq!(waiters.len(), 0);
    }

    #[test]
    fn too_many_are_refused_and_the_abandoned_do_not_count() {
        let mut waiters = Waiters::new(WAITERS_MAX);
        let mut answers: Vec<_> = (0..WAITERS_MAX).map(|_| wait(&mut waiters, 9, None)).collect();
        assert_eq!(wait(&mut waiters, 9, None).try_recv().unwrap(), Err(WaitError::Busy));
        answers.truncate(10);
        assert!(wait(&mut waiters, 9, None).try_recv().is_err());
        assert_eq!(waiters.count, 11);
    }
}
