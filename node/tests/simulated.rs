//! The lock service of the examples under simulated faults: crashes, partitions, full and broken
//! disks.

#![allow(missing_docs, reason = "the example is compiled into this test")]

#[path = "../examples/locks/machine.rs"]
mod machine;

use machine::{Command, Locks};
use quorate::{ApplyContext, LogTime, Typed, TypedMachine};
use serde::{Deserialize, Serialize};
use simulator::{Request, Simulation};
use std::collections::BTreeSet;

fn simulation<M>(machine: fn() -> Typed<M>) -> Simulation<Typed<M>>
where
    M: TypedMachine<Command = Command, Query = String>,
{
    Simulation::new(machine, |client, draw| {
        let lock = format!("lock {}", draw.below(2));
        match draw.below(4) {
            0 => Request::Query(Typed::<M>::encode_query(&lock)),
            1 => {
                let token = draw.below(20);
                Request::Command(Typed::<M>::encode_command(&Command::Release { lock, token }))
            }
            _ => {
                let (owner, for_ms) = (format!("client {client}"), 1 + draw.below(1000));
                let command = Command::Acquire { lock, owner, for_ms };
                Request::Command(Typed::<M>::encode_command(&command))
            }
        }
    })
}

#[test]
fn no_token_is_given_twice_whatever_fails() {
    simulation(Typed::<Locks>::default)
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
    let found = simulation(Typed::<Forgetful>::default).seeds(0..100).check();
    assert!(found.is_err(), "nothing was found");
}
