//! The replicated state: the user's state machine and the sessions of its clients.

use crate::session::{SessionError, SessionId, SessionNumber, Sessions, SystemCommand, Verdict};
use crate::{ApplyContext, Frozen, RestoreError, StateMachine};
use bytes::Bytes;
use raft::{Entry, LogTime, Payload};
use std::io::{self, Read, Write};

/// The result of applying an entry. Empty for an entry that is no command.
pub type Answer = Result<Bytes, SessionError>;

/// The bytes of an answer that [`raft::entry_hash`] takes.
pub fn hashed(answer: &Answer) -> Bytes {
    answer.clone().unwrap_or_else(SessionError::hashed)
}

/// A bug of a state machine: [`StateMachine::apply_batch`] returns one answer for each command.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("apply_batch returned {answers} answers to {commands} commands")]
pub struct WrongBatch {
    answers: usize,
    commands: usize,
}

/// Applies the entries of the log to a state machine, and executes commands of sessions once. It
/// depends on nothing but the entries. A driver owns one, and a simulation may.
#[derive(Debug)]
pub struct Replica<S> {
    machine: S,
    sessions: Sessions,
    time: LogTime,
}

impl<S: StateMachine> Replica<S> {
    /// A replica with this machine, which is in its initial state, and no sessions.
    pub fn new(machine: S) -> Self {
        Replica { machine, sessions: Sessions::default(), time: LogTime::default() }
    }

    /// The state machine.
    pub fn machine(&self) -> &S {
        &self.machine
    }

    /// The open sessions.
    pub fn sessions(&self) -> &Sessions {
        &self.sessions
    }

    /// The log time of the last entry.
    pub fn time(&self) -> LogTime {
        self.time
    }

    /// Applies entries. Returns one answer for each.
    pub fn apply<'a>(
        &mut self,
        entries: impl IntoIterator<Item = &'a Entry>,
    ) -> Result<Vec<Answer>, WrongBatch> {
        let entries = entries.into_iter();
        let mut answers: Vec<Answer> = Vec::with_capacity(entries.size_hint().0);
        // Commands without a session, to be applied at once, and their places among the answers.
        let mut commands: Vec<(ApplyContext, Bytes)> = Vec::new();
        let mut places = Vec::new();
        for entry in entries {
            let at = ApplyContext { id: entry.id, time: entry.time, number: entry.number };
            let before = std::mem::replace(&mut self.time, entry.time);
            let answer = match &entry.payload {
                Payload::Command(command) => {
                    places.push(answers.len());
                    commands.push((at, command.clone()));
                    Ok(Bytes::new())
                }
                Payload::SessionCommand(bytes) => {
                    self.execute(&mut commands, &mut places, &mut answers)?;
                    self.in_session(at, bytes)
                }
                Payload::System(bytes) => Ok(self.system(at, bytes)),
                Payload::Clock => {
                    self.sessions.expire(at.time);
                    Ok(Bytes::new())
                }
                Payload::NoOp => {
                    self.sessions.term_begins(entry.time.0.saturating_sub(before.0));
                    Ok(Bytes::new())
                }
                Payload::Membership(_) => Ok(Bytes::new()),
            };
            answers.push(answer);
        }
        self.execute(&mut commands, &mut places, &mut answers)?;
        Ok(answers)
    }

    /// Applies the collected commands.
    fn execute(
        &mut self,
        commands: &mut Vec<(ApplyContext, Bytes)>,
        places: &mut Vec<usize>,
        answers: &mut [Answer],
    ) -> Result<(), WrongBatch> {
        if commands.is_empty() {
            return Ok(());
        }
        let replies = self.machine.apply_batch(std::mem::take(commands));
        if replies.len() != places.len() {
            return Err(WrongBatch { answers: replies.len(), commands: places.len() });
        }
        for (place, reply) in places.drain(..).zip(replies) {
            answers[place] = Ok(reply);
        }
        Ok(())
    }

    /// Applies a command of a session. What it does to the sessions depends on the replies before
    /// it, so these commands are applied one by one.
    fn in_session(&mut self, at: ApplyContext, bytes: &Bytes) -> Answer {
        let Some((number, command)) = SessionNumber::decode(bytes) else {
            self.machine.skip(at);
            return Err(SessionError::Ended);
        };
        match self.sessions.judge(at.time, number, &command) {
            Verdict::Execute => {
                let reply = self.machine.apply(at, command.clone());
                self.sessions.executed(number, &command, reply.clone());
                Ok(reply)
            }
            Verdict::Repeat(reply) => {
                self.machine.skip(at);
                Ok(reply)
            }
            Verdict::Refuse(error) => {
                self.machine.skip(at);
                Err(error)
            }
        }
    }

    fn system(&mut self, at: ApplyContext, bytes: &[u8]) -> Bytes {
        match SystemCommand::decode(bytes) {
            Some(SystemCommand::Open { limits, salt }) => {
                let id = SessionId::new(salt, at.id.index);
                self.sessions.open(at.time, id, limits);
                id.encode()
            }
            Some(SystemCommand::Close(id)) => {
                Bytes::copy_from_slice(&[u8::from(self.sessions.close(at.time, id))])
            }
            None => Bytes::new(),
        }
    }

    /// The whole state at this moment.
    pub fn freeze(&self) -> FrozenReplica<S::Frozen> {
        FrozenReplica { sessions: self.sessions.clone(), machine: self.machine.freeze() }
    }

    /// Replaces the whole state by one that [`FrozenReplica`] has written, as of `time`.
    pub fn restore(&mut self, time: LogTime, from: &mut dyn Read) -> Result<(), RestoreError> {
        self.sessions = Sessions::read(from)?;
        self.machine.restore(from)?;
        self.time = time;
        Ok(())
    }

    /// Sets the time of a replica that starts without a snapshot.
    pub(crate) fn start_at(&mut self, time: LogTime) {
        self.time = time;
    }
}

/// The state of a [`Replica`] at one moment: the sessions, and then the machine's state.
#[derive(Clone, Debug)]
pub struct FrozenReplica<F> {
    sessions: Sessions,
    machine: F,
}

impl<F: Frozen> Frozen for FrozenReplica<F> {
    fn write(&self, to: &mut dyn Write) -> io::Result<()> {
        self.sessions.write(to)?;
        self.machine.write(to)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::SessionLimits;
    use raft::{CommandNumber, LogId, Request};
    use std::time::Duration;

    /// Appends each command to a text, and answers with the length before. Writes `-` for each
    /// number that is skipped.
    #[derive(Clone, Default)]
    struct Text(Vec<u8>);

    impl StateMachine for Text {
        type Frozen = Text;

        fn apply(&mut self, _: ApplyContext, command: Bytes) -> Bytes {
            let before = self.0.len().to_string();
            self.0.extend_from_slice(&command);
            before.into()
        }
        fn skip(&mut self, _: ApplyContext) {
            self.0.push(b'-');
        }
        fn query(&self, _: LogTime, _: &[u8]) -> Bytes {
            self.0.clone().into()
        }
        fn freeze(&self) -> Text {
            self.clone()
        }
        fn restore(&mut self, from: &mut dyn Read) -> Result<(), RestoreError> {
            self.0.clear();
            from.read_to_end(&mut self.0)?;
            Ok(())
        }
    }

    impl Frozen for Text {
        fn write(&self, to: &mut dyn Write) -> io::Result<()> {
            to.write_all(&self.0)
        }
    }

    /// A replica, and the log that it applies.
    struct Applied {
        replica: Replica<Text>,
        index: u64,
        time_ms: u64,
    }

    impl Applied {
        fn new() -> Self {
            Applied { replica: Replica::new(Text::default()), index: 0, time_ms: 1_000_000 }
        }

        fn entry(&mut self, request: Request) -> Entry {
            self.index += 1;
            Entry {
                id: LogId::new(self.index, 1),
                time: LogTime(self.time_ms),
                number: CommandNumber(self.index),
                payload: request.into(),
            }
        }

        fn apply(&mut self, request: Request) -> Answer {
            let entry = self.entry(request);
            self.replica.apply(&[entry]).unwrap().remove(0)
        }

        fn clock(&mut self) {
            self.other(Payload::Clock);
        }

        fn other(&mut self, payload: Payload) {
            let mut entry = self.entry(Request::Command(Bytes::new()));
            entry.payload = payload;
            self.replica.apply(&[entry]).unwrap().remove(0).unwrap();
        }

        fn open(&mut self, limits: SessionLimits) -> SessionId {
            SessionId::of_reply(&self.apply(limits.request(7)).unwrap()).unwrap()
        }

        fn run(&mut self, session: SessionId, number: u64, command: &str) -> Answer {
            self.apply(in_session(session, number, 0, command))
        }

        fn text(&self) -> &str {
            std::str::from_utf8(&self.replica.machine().0).unwrap()
        }

        fn restart(&mut self) {
            let mut state = Vec::new();
            self.replica.freeze().write(&mut state).unwrap();
            let mut again = Replica::new(Text(b"another state".to_vec()));
            again.restore(LogTime(self.time_ms), &mut state.as_slice()).unwrap();
            assert_eq!(again.sessions(), self.replica.sessions());
            let mut state_again = Vec::new();
            again.freeze().write(&mut state_again).unwrap();
            assert_eq!(state_again, state);
            self.replica = again;
        }
    }

    fn in_session(session: SessionId, number: u64, repeats_from: u64, command: &str) -> Request {
        let number = SessionNumber { session, number, repeats_from };
        Request::SessionCommand(number.encode(command.as_bytes()))
    }

    fn reply(text: &'static str) -> Answer {
        Ok(Bytes::from_static(text.as_bytes()))
    }

    #[test]
    fn a_repeat_is_not_executed_and_gets_the_first_reply() {
        let mut log = Applied::new();
        let session = log.open(SessionLimits::default());
        assert_eq!(log.run(session, 1, "ab"), reply("0"));
        assert_eq!(log.run(session, 2, "c"), reply("2"));
        assert_eq!(log.run(session, 1, "ab"), reply("0"));
        assert_eq!(log.text(), "abc-");
        // Also after a restart from a snapshot.
        log.restart();
        assert_eq!(log.run(session, 2, "c"), reply("2"));
        assert_eq!(log.text(), "abc--");
    }

    #[test]
    fn a_batch_does_what_its_entries_do_one_by_one() {
        let mut one = Applied::new();
        let mut at_once = Applied::new();
        let session = one.open(SessionLimits::default());
        at_once.open(SessionLimits::default());
        let requests = [
            Request::Command(Bytes::from_static(b"x")),
            in_session(session, 1, 0, "ab"),
            in_session(session, 1, 0, "ab"),
            Request::Command(Bytes::from_static(b"y")),
            Request::Command(Bytes::from_static(b"z")),
            in_session(session, 2, 0, "c"),
            Request::System(Bytes::from_static(b"\xff\xffnonsense")),
            Request::SessionCommand(Bytes::from_static(b"short")),
            Request::Command(Bytes::from_static(b"w")),
        ];
        let answers: Vec<Answer> = requests.iter().map(|it| one.apply(it.clone())).collect();
        let entries: Vec<Entry> = requests.into_iter().map(|it| at_once.entry(it)).collect();
        assert_eq!(at_once.replica.apply(&entries).unwrap(), answers);
        assert_eq!(one.text(), "xab-yzc-w");
        assert_eq!(at_once.text(), one.text());
        assert_eq!(at_once.replica.sessions(), one.replica.sessions());
        assert_eq!(answers[7], Err(SessionError::Ended));
    }

    #[test]
    fn what_is_outside_of_the_window_is_never_executed() {
        let mut log = Applied::new();
        let limits = SessionLimits { window: 3, ..SessionLimits::default() };
        let session = log.open(limits);
        assert_eq!(log.run(session, 4, "x"), Err(SessionError::Gap { highest: 0 }));
        assert_eq!(log.run(session, 0, "x"), Err(SessionError::Gap { highest: 0 }));
        // In any order within the window.
        assert_eq!(log.run(session, 3, "c"), reply("2"));
        assert_eq!(log.run(session, 1, "a"), reply("3"));
        assert_eq!(log.run(session, 5, "e"), reply("4"));
        assert_eq!(log.run(session, 1, "a"), Err(SessionError::TooLow));
        // It was not executed, but the session cannot tell any more.
        assert_eq!(log.run(session, 2, "b"), Err(SessionError::TooLow));
        assert_eq!(log.run(session, 4, "d"), reply("7"));
        assert_eq!(log.run(session, 5, "other"), Err(SessionError::Reused));
        assert_eq!(log.text(), "--cae--d-");
        log.restart();
        assert_eq!(log.run(session, 3, "c"), reply("2"));
    }

    #[test]
    fn a_client_can_say_what_it_does_not_repeat_any_more() {
        let mut log = Applied::new();
        let session = log.open(SessionLimits::default());
        let empty = log.replica.sessions().bytes();
        for number in 1..=5 {
            log.apply(in_session(session, number, number, "x")).unwrap();
        }
        assert_eq!(log.replica.sessions().bytes(), empty + 160 + 1);
        assert_eq!(log.run(session, 4, "x"), Err(SessionError::TooLow));
        assert_eq!(log.run(session, 5, "x"), reply("4"));
        // It cannot say so of the number itself and those above.
        log.apply(in_session(session, 6, 100, "x")).unwrap();
        assert_eq!(log.run(session, 6, "x"), reply("7"));
    }

    #[test]
    fn a_session_ends_by_log_time() {
        let mut log = Applied::new();
        let limits =
            SessionLimits { ttl: Duration::from_millis(1_600), ..SessionLimits::default() };
        let (used, idle) = (log.open(limits), log.open(limits));
        for number in 1..=4 {
            log.time_ms += 1_600;
            assert!(log.run(used, number, "x").is_ok());
        }
        assert_eq!(log.run(idle, 1, "x"), Err(SessionError::Ended));
        assert_eq!(log.replica.sessions().len(), 1);
        // A repeat counts as a use.
        log.time_ms += 1_600;
        log.restart();
        assert_eq!(log.run(used, 4, "x"), reply("3"));
        log.time_ms += 1_600;
        assert_eq!(log.run(used, 4, "x"), reply("3"));
        log.time_ms += 1_600 + 101;
        assert_eq!(log.run(used, 4, "x"), Err(SessionError::Ended));
        assert!(log.replica.sessions().is_empty());
        assert_eq!(log.replica.sessions().bytes(), 0);
    }

    #[test]
    fn time_without_a_leader_does_not_count() {
        let mut log = Applied::new();
        let limits =
            SessionLimits { ttl: Duration::from_millis(1_600), ..SessionLimits::default() };
        let session = log.open(limits);
        log.run(session, 1, "x").unwrap();
        log.time_ms += 1_000;
        log.clock();
        log.time_ms += 100_000;
        log.other(Payload::NoOp);
        log.restart();
        log.time_ms += 600;
        assert_eq!(log.run(session, 1, "x"), reply("0"));
        log.time_ms += 1_701;
        assert_eq!(log.run(session, 1, "x"), Err(SessionError::Ended));
    }

    #[test]
    fn everything_is_bounded() {
        let mut log = Applied::new();
        let mut limits = SessionLimits { reply_bytes_max: 2, ..SessionLimits::default() };
        let session = log.open(limits);
        for number in 1..=4 {
            log.run(session, number, "x").unwrap();
        }
        assert_eq!(log.run(session, 2, "x"), Err(SessionError::Forgotten));
        assert_eq!(log.run(session, 3, "x"), reply("2"));
        // The newest reply is kept, whatever its size.
        let _ = log.apply(Request::Command(Bytes::from(vec![b'.'; 1_000])));
        assert_eq!(log.run(session, 5, "x"), reply("1006"));
        assert_eq!(log.run(session, 5, "x"), reply("1006"));
        assert_eq!(log.run(session, 4, "x"), Err(SessionError::Forgotten));

        limits.sessions_max = 2;
        let second = log.open(limits);
        log.time_ms += 10_000;
        log.run(session, 6, "x").unwrap();
        let third = log.open(limits);
        assert_eq!(log.replica.sessions().len(), 2);
        assert_eq!(log.run(second, 1, "x"), Err(SessionError::Ended));
        assert!(log.run(third, 1, "x").is_ok());

        // No room for a second session.
        limits.bytes_max = 1_800;
        let last = log.open(limits);
        assert!(log.run(last, 1, "x").is_ok());
        assert_eq!(log.run(session, 7, "x"), Err(SessionError::Ended));
        assert!(log.replica.sessions().bytes() <= 1_800);
    }

    #[test]
    fn replies_are_dropped_in_any_order_of_numbers() {
        let mut log = Applied::new();
        let limits = SessionLimits { reply_bytes_max: 3, ..SessionLimits::default() };
        let session = log.open(limits);
        let fresh = log.replica.sessions().bytes();
        // The texts before are of one byte, then of two.
        for number in [9, 7, 8, 5, 6, 20, 3, 4, 2, 1] {
            log.run(session, number, "x").unwrap();
        }
        assert_eq!(log.run(session, 1, "x"), reply("9"));
        assert_eq!(log.run(session, 20, "x"), reply("5"));
        for number in [2, 3, 4, 5, 6, 7, 8, 9] {
            let answer = log.run(session, number, "x");
            assert!(matches!(answer, Err(SessionError::Forgotten) | Ok(_)), "{number}: {answer:?}");
        }
        assert_eq!(log.replica.sessions().bytes(), fresh + 10 * 160 + 3);
    }

    #[test]
    fn the_clock_ends_sessions_in_steps() {
        let mut log = Applied::new();
        let sessions: Vec<_> = (0..1_500).map(|_| log.open(SessionLimits::default())).collect();
        log.time_ms += 100_000;
        log.clock();
        assert_eq!(log.replica.sessions().len(), 500);
        // The time of these is over too, whether they are still there or not.
        for session in [sessions[0], sessions[1_499]] {
            assert_eq!(log.run(session, 1, "x"), Err(SessionError::Ended));
        }
        log.clock();
        assert!(log.replica.sessions().is_empty());
    }

    #[test]
    fn an_id_of_another_history_is_no_session() {
        let (mut log, mut other) = (Applied::new(), Applied::new());
        let open = |salt| SessionLimits::default().request(salt);
        let session = SessionId::of_reply(&log.apply(open(1)).unwrap()).unwrap();
        assert_ne!(Ok(session.encode()), other.apply(open(2)));
        assert_eq!(other.run(session, 1, "x"), Err(SessionError::Ended));
    }

    /// The sessions are computed by every node alike. If this fails, nodes of two versions of the
    /// program differ: raise the versions of the codec and of the peers' protocol.
    #[test]
    fn the_rules_of_sessions_are_fixed() {
        let mut log = Applied::new();
        let limits = SessionLimits {
            window: 4,
            reply_bytes_max: 3,
            sessions_max: 3,
            bytes_max: 3_600,
            ttl: Duration::from_secs(2),
        };
        let sessions: Vec<_> = (0..4).map(|_| log.open(limits)).collect();
        // The answers, and the state after each.
        let mut all = Vec::new();
        for step in 0..400_u64 {
            log.time_ms += step % 7 * step / 8;
            let session = sessions[(step % 5 % 4) as usize];
            let out = [2, 2, 2, 0, 9][(step % 23 % 5) as usize];
            let number = step / 16 + step % 3 + out;
            let text = ["text", "other text"][usize::from(step % 11 == 10)];
            all.extend(hashed(&log.apply(in_session(session, number, 0, text))));
            log.replica.sessions.write(&mut all).unwrap();
        }
        let count = |what: &[u8]| all.windows(what.len()).filter(|it| *it == what).count();
        let refusals = [&b"ended"[..], b"forgotten", b"too low", b"reused", b"gap"].map(count);
        assert_eq!(
            (refusals, raft::bytes_hash(&all)),
            ([236, 42, 2, 14, 29], 15_669_783_307_002_365_774)
        );
    }

    #[test]
    fn a_session_that_was_closed_has_ended() {
        let mut log = Applied::new();
        let session = log.open(SessionLimits::default());
        log.run(session, 1, "x").unwrap();
        let close = || session.close_request();
        assert_eq!(log.apply(close()), Ok(Bytes::from_static(&[1])));
        assert_eq!(log.apply(close()), Ok(Bytes::from_static(&[0])));
        assert_eq!(log.run(session, 1, "x"), Err(SessionError::Ended));
    }

    #[test]
    fn damaged_sessions_are_an_error() {
        let mut log = Applied::new();
        let session = log.open(SessionLimits::default());
        log.run(session, 1, "x").unwrap();
        let mut state = Vec::new();
        log.replica.freeze().write(&mut state).unwrap();
        for length in 0..state.len() - 1 {
            let mut again = Replica::new(Text::default());
            assert!(again.restore(LogTime(0), &mut &state[..length]).is_err(), "{length}");
        }
    }
}
