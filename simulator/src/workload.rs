//! The workload: the requests of clients and the state machine that answers them. It is the user's
//! part of a simulation.

use crate::describe::{Describe, Plain};
use crate::linearizability::{self, Operation};
use crate::log::OpenStore;
use crate::random::Stream;
use crate::timeline::shown;
use crate::violation::Violation;
use bytes::Bytes;
use driver::{ApplyContext, Frozen, LogTime, RestoreError, StateMachine};
use std::collections::BTreeMap;
use std::io::{self, Read, Write};

/// A state machine under test, and what its clients do.
pub trait Workload {
    /// The state machine.
    type Machine: StateMachine;

    /// Creates a state machine in its initial state.
    fn machine(&self) -> Self::Machine;

    /// Returns the next request of a client. It must take all randomness from `draw`.
    fn request(&mut self, client: u64, draw: &mut Stream) -> ClientRequest;

    /// Reports the outcome of a request.
    fn answered(&mut self, _answered: &Answered<'_>) {}

    /// An invariant of the state, checked on every node after it applies an entry or a batch.
    fn invariant(&self, _machine: &Self::Machine) -> Result<(), String> {
        Ok(())
    }

    /// What a client has found wrong with the latest answer. It is called after each
    /// [`answered`](Workload::answered).
    fn objection(&mut self) -> Result<(), Violation> {
        Ok(())
    }

    /// The log store of the nodes, instead of the library's own.
    fn log_store(&self) -> Option<OpenStore> {
        None
    }

    /// How commands, queries and answers read in a report.
    fn describe(&self) -> &dyn Describe {
        &Plain
    }

    /// Checks the history of all requests when the run is over.
    fn verdict(&mut self) -> Result<(), Violation> {
        Ok(())
    }
}

/// A request of a client.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ClientRequest {
    /// A command for the log.
    Command(Bytes),
    /// A linearizable read.
    Query(Bytes),
}

impl ClientRequest {
    /// Whether it is a read, and the request as text for the page of a run.
    pub fn shown(&self) -> (bool, String) {
        match self {
            ClientRequest::Command(bytes) => (false, format!("command {}", shown(bytes))),
            ClientRequest::Query(bytes) => (true, format!("read {}", shown(bytes))),
        }
    }
}

/// A request and its outcome. Times are in microseconds of simulated time.
#[derive(Clone, Copy, Debug)]
pub struct Answered<'a> {
    /// Number of the client.
    pub client: u64,
    /// The request.
    pub request: &'a ClientRequest,
    /// When the client sent it.
    pub begun_us: u64,
    /// When the answer arrived, or the client gave up.
    pub ended_us: u64,
    /// How the request ended.
    pub outcome: ClientOutcome<'a>,
}

/// How a request ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ClientOutcome<'a> {
    /// Done, with this answer.
    Done(&'a [u8]),
    /// Certainly not done, now or later.
    NotDone,
    /// It may have been done, or may still be done later.
    Unknown,
}

/// The built-in workload: clients read, write and compare-and-swap a few registers with unique
/// values, and the history is checked for linearizability.
#[derive(Debug)]
pub struct RegisterWorkload {
    keys: u8,
    padding_bytes: u32,
    reads_ppm: u32,
    next_value: u64,
    last_seen: BTreeMap<u8, u64>,
    histories: BTreeMap<u8, Vec<Operation>>,
}

impl RegisterWorkload {
    /// Creates a workload of `keys` registers. Commands get up to `padding_bytes` bytes of padding.
    pub fn new(keys: u8, padding_bytes: u32) -> Self {
        RegisterWorkload {
            keys,
            padding_bytes,
            reads_ppm: 333_333,
            next_value: 0,
            last_seen: BTreeMap::new(),
            histories: BTreeMap::new(),
        }
    }

    /// Sets the share of reads, in millionths; by default it is a third.
    #[must_use]
    pub fn with_reads(mut self, reads_ppm: u32) -> Self {
        self.reads_ppm = reads_ppm;
        self
    }
}

impl Workload for RegisterWorkload {
    type Machine = Registers;

    fn machine(&self) -> Registers {
        Registers::default()
    }

    fn request(&mut self, _client: u64, draw: &mut Stream) -> ClientRequest {
        let key = draw.below(u64::from(self.keys)) as u8;
        self.next_value += 1;
        if draw.chance(self.reads_ppm) {
            return ClientRequest::Query(Bytes::copy_from_slice(&[key]));
        }
        let (from, to) = match draw.below(2) {
            0 => (0, self.next_value),
            _ => (self.last_seen.get(&key).copied().unwrap_or(1), self.next_value),
        };
        let padding = draw.below(u64::from(self.padding_bytes) + 1) as usize;
        let mut command = vec![key];
        command.extend(from.to_le_bytes());
        command.extend(to.to_le_bytes());
        command.resize(command.len() + padding, 0);
        ClientRequest::Command(command.into())
    }

    fn answered(&mut self, answered: &Answered<'_>) {
        let (ClientOutcome::Done(_) | ClientOutcome::Unknown) = answered.outcome else { return };
        let value = match answered.outcome {
            ClientOutcome::Done(bytes) => Some(decode(bytes)),
            _ => None,
        };
        let (key, action) = match answered.request {
            ClientRequest::Query(query) => {
                (query[0], linearizability::Action::Read(value.unwrap_or_default()))
            }
            ClientRequest::Command(command) => {
                let (key, from, to) = parse(command);
                let action = match from {
                    0 => linearizability::Action::Write(to, value),
                    from => linearizability::Action::Swap { from, to, before: value },
                };
                (key, action)
            }
        };
        if let Some(Some(value)) = value {
            self.last_seen.insert(key, value);
        }
        self.histories.entry(key).or_default().push(Operation {
            begun: answered.begun_us,
            ended: value.is_some().then_some(answered.ended_us),
            action,
        });
    }

    fn verdict(&mut self) -> Result<(), Violation> {
        let mut histories = self.histories.iter();
        histories.try_for_each(|(key, history)| linearizability::holds(u64::from(*key), history))
    }
}

/// The state machine of [`RegisterWorkload`]: values by key.
#[derive(Clone, Debug, Default)]
pub struct Registers {
    values: BTreeMap<u8, u64>,
}

/// Decodes a command: the register, the expected value (0: any), and the new value.
fn parse(command: &[u8]) -> (u8, u64, u64) {
    let number = |at: usize| {
        let mut bytes = [0; 8];
        bytes.copy_from_slice(&command[at..at + 8]);
        u64::from_le_bytes(bytes)
    };
    (command[0], number(1), number(9))
}

fn decode(answer: &[u8]) -> Option<u64> {
    let mut bytes = [0; 8];
    bytes.copy_from_slice(answer);
    Some(u64::from_le_bytes(bytes)).filter(|value| *value != 0)
}

impl StateMachine for Registers {
    type Frozen = Registers;

    fn apply(&mut self, _at: ApplyContext, command: Bytes) -> Bytes {
        let (key, from, to) = parse(&command);
        let before = self.values.get(&key).copied().unwrap_or_default();
        if from == 0 || from == before {
            self.values.insert(key, to);
        }
        Bytes::copy_from_slice(&before.to_le_bytes())
    }

    fn query(&self, _time: LogTime, query: &[u8]) -> Bytes {
        let value = self.values.get(&query[0]).copied().unwrap_or_default();
        Bytes::copy_from_slice(&value.to_le_bytes())
    }

    fn freeze(&self) -> Registers {
        self.clone()
    }

    fn restore(&mut self, from: &mut dyn Read) -> Result<(), RestoreError> {
        let mut bytes = Vec::new();
        from.read_to_end(&mut bytes)?;
        self.values = bytes
            .chunks_exact(9)
            .map(|chunk| (chunk[0], decode(&chunk[1..]).unwrap_or_default()))
            .collect();
        Ok(())
    }
}

impl Frozen for Registers {
    fn write(&self, to: &mut dyn Write) -> io::Result<()> {
        for (key, value) in &self.values {
            to.write_all(&[*key])?;
            to.write_all(&value.to_le_bytes())?;
        }
        Ok(())
    }
}
