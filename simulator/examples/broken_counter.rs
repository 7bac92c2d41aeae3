//! A state machine that is broken on purpose, and the simulator's report of it.
//!
//! It counts how often each key was touched, and leaves one of its fields out of its snapshots. A
//! test on one node does not find that, since it never restores a snapshot.
//!
//! `cargo run --release -p quorate-sim --example broken_counter`

use bytes::Bytes;
use quorate::{ApplyContext, Frozen, LogTime, RestoreError, StateMachine};
use simulator::{ClientRequest, Simulation};
use std::io::{self, Read, Write};

#[derive(Clone, Default)]
struct Counter {
    touched: [u8; 4],
    /// The mistake: it is not in the snapshot.
    latest: u8,
}

impl StateMachine for Counter {
    type Frozen = Counter;

    /// Answers with the key that was touched before.
    fn apply(&mut self, _at: ApplyContext, command: Bytes) -> Bytes {
        let before = self.latest;
        self.latest = command[0] % 4;
        let touched = &mut self.touched[usize::from(self.latest)];
        *touched = touched.wrapping_add(1);
        Bytes::copy_from_slice(&[before])
    }

    fn query(&self, _time: LogTime, _query: &[u8]) -> Bytes {
        Bytes::copy_from_slice(&self.touched)
    }

    fn freeze(&self) -> Counter {
        self.clone()
    }

    fn restore(&mut self, from: &mut dyn Read) -> Result<(), RestoreError> {
        from.read_exact(&mut self.touched)?;
        Ok(())
    }
}

impl Frozen for Counter {
    fn write(&self, to: &mut dyn Write) -> io::Result<()> {
        to.write_all(&self.touched)
    }
}

fn main() {
    let found = Simulation::new(Counter::default, |_client, draw| match draw.below(3) {
        0 => ClientRequest::Query(Bytes::new()),
        _ => ClientRequest::Command(Bytes::copy_from_slice(&[draw.below(4) as u8])),
    })
    .seeds(0..200)
    .check();
    match found {
        Ok(passed) => println!("{} runs found nothing: that is the surprise", passed.runs),
        Err(failed) => println!("{failed}"),
    }
}
