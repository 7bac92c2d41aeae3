//! The lock service of the examples under simulated faults: crashes, partitions, full and broken
//! disks.

use crate::machine::{Command, Grant, Locks};
use quorate::{ApplyContext, LogTime, Typed, TypedMachine};
use serde::{Deserialize, Serialize};
use simulator::checks::Check;
use simulator::random::Stream;
use simulator::{Answered, Client, ClientOutcome, ClientRequest, Failed, Objection, Simulation};
use std::collections::BTreeSet;

/// A client of the lock service. It releases a lock with the token that it was granted.
struct Holder {
    name: String,
    granted: Option<(String, Grant)>,
}

impl Holder {
    fn new(number: u64) -> Self {
        Holder { name: format!("client {number}"), granted: None }
    }
}

impl Client for Holder {
    fn request(&mut self, draw: &mut Stream) -> ClientRequest {
        let lock = format!("lock {}", draw.below(2));
        if draw.below(4) == 0 {
            return ClientRequest::Query(Typed::<Locks>::encode_query(&lock));
        }
        let command = match &self.granted {
            Some((lock, grant)) => Command::Release { lock: lock.clone(), token: grant.token },
            None => {
                let (owner, for_ms) = (self.name.clone(), 1 + draw.below(1000));
                Command::Acquire { lock, owner, for_ms }
            }
        };
        ClientRequest::Command(Typed::<Locks>::encode_command(&command))
    }

    fn answered(&mut self, answered: &Answered<'_>) -> Result<(), String> {
        let Some((command, grant)) = reply(answered) else { return Ok(()) };
        let mine = grant.filter(|grant| grant.owner == self.name);
        self.granted = match command {
            Command::Acquire { lock, .. } => mine.map(|grant| (lock, grant)),
            Command::Release { token, .. } if mine.as_ref().is_some_and(|it| it.token == token) => {
                return Err(format!("token {token} was released and is still granted"));
            }
            Command::Release { .. } => None,
        };
        Ok(())
    }
}

/// A command and its reply, if it was done.
fn reply(answered: &Answered<'_>) -> Option<(Command, Option<Grant>)> {
    let (ClientRequest::Command(command), ClientOutcome::Done(reply)) =
        (answered.request, answered.outcome)
    else {
        return None;
    };
    Some((Typed::<Locks>::decode_command(command)?, Typed::<Locks>::decode_reply(reply)?))
}

/// A storage that is protected by the tokens rejects a token below one that it has seen. So a grant
/// of a lock must have a higher token than all grants of that lock that were answered before it was
/// requested; only the same grant, which its owner extends, has the same token.
fn tokens_rise(history: &[Answered<'_>]) -> Result<(), Objection> {
    let grants: Vec<(&Answered<'_>, String, Grant)> = history
        .iter()
        .filter_map(|answered| match reply(answered)? {
            (Command::Acquire { lock, owner, .. }, Some(grant)) if grant.owner == owner => {
                Some((answered, lock, grant))
            }
            _ => None,
        })
        .collect();
    for (at, (later, lock, grant)) in grants.iter().enumerate() {
        for (earlier, same_lock, before) in &grants[..at] {
            let is_before = same_lock == lock && earlier.ended_us < later.begun_us;
            let is_same = before.token == grant.token && before.owner == grant.owner;
            if is_before && before.token >= grant.token && !is_same {
                let detail = format!(
                    "{lock}: token {} for {} after token {} for {}",
                    grant.token, grant.owner, before.token, before.owner
                );
                return Err(Objection::to(detail, [*earlier, *later]));
            }
        }
    }
    Ok(())
}

fn simulation<M>() -> Simulation<Typed<M>>
where
    M: TypedMachine<Command = Command, Reply = Option<Grant>, Query = String> + Default,
{
    let told = |grant: Option<Grant>| match grant {
        Some(Grant { owner, token, .. }) => format!("token {token} of {owner}"),
        None => "free".to_owned(),
    };
    Simulation::with_clients(Typed::<M>::default, Holder::new)
        .history(tokens_rise)
        .describe(|command| format!("{:?}", Typed::<Locks>::decode_command(command)))
        .describe_query(|query| Typed::<Locks>::decode_query(query).unwrap_or_default())
        .describe_answer(move |_, answer| told(Typed::<Locks>::decode_reply(answer).flatten()))
}

fn broken<M: TypedMachine>(simulation: &Simulation<Typed<M>>) -> Failed {
    simulation.check().expect_err("it is broken").failed().expect("a promise is")
}

#[test]
fn no_token_is_given_twice_whatever_fails() {
    simulation::<Locks>()
        .seeds(0..20)
        .invariant(|Typed(locks)| {
            let tokens: BTreeSet<u64> = locks.held.values().map(|grant| grant.token).collect();
            match tokens.len() == locks.held.len() && tokens.iter().all(|t| *t <= locks.tokens) {
                true => Ok(()),
                false => Err(format!("a token was given twice: {:?}", locks.held)),
            }
        })
        .run();
}

/// A mistake that no test of a single node finds: the snapshot does not contain the last token.
#[derive(Clone, Default, Serialize, Deserialize)]
struct Forgetful {
    #[serde(skip)]
    tokens: u64,
    locks: Locks,
}

impl TypedMachine for Forgetful {
    type Command = Command;
    type Reply = <Locks as TypedMachine>::Reply;
    type Query = String;
    type Answer = <Locks as TypedMachine>::Answer;

    fn apply(&mut self, at: ApplyContext, command: Command) -> Self::Reply {
        self.locks.tokens = self.tokens;
        let reply = self.locks.apply(at, command);
        self.tokens = std::mem::take(&mut self.locks.tokens);
        reply
    }

    fn query(&self, time: LogTime, lock: String) -> Self::Answer {
        self.locks.query(time, lock)
    }
}

#[test]
fn a_token_that_a_snapshot_forgets_is_found() {
    let failed = broken(&simulation::<Forgetful>().seeds(0..100));
    assert!(failed.to_string().contains("Acquire"), "{failed}");
    assert!(failed.steps.iter().any(|step| step.contains("restores its state")), "{failed}");
}

/// A mistake that clients reach by releasing what they were granted: a lock that is released gives
/// its token back.
#[derive(Clone, Default, Serialize, Deserialize)]
struct Thrifty(Locks);

impl TypedMachine for Thrifty {
    type Command = Command;
    type Reply = <Locks as TypedMachine>::Reply;
    type Query = String;
    type Answer = <Locks as TypedMachine>::Answer;

    fn apply(&mut self, at: ApplyContext, command: Command) -> Self::Reply {
        let held = self.0.held.len();
        let latest = self.0.tokens;
        let releases = matches!(command, Command::Release { token, .. } if token == latest);
        let reply = self.0.apply(at, command);
        self.0.tokens -= u64::from(releases && self.0.held.len() < held);
        reply
    }

    fn query(&self, time: LogTime, lock: String) -> Self::Answer {
        self.0.query(time, lock)
    }
}

#[test]
fn a_token_that_is_given_to_the_next_client_too_is_found() {
    let failed = broken(&simulation::<Thrifty>().seeds(0..20));
    assert_eq!(failed.violation.check, Check::HistoryOfTheTest, "{failed}");
    assert_eq!(failed.violation.about.requests.len(), 2, "{failed}");
}
