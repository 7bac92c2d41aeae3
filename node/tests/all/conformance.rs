//! A machine with types of its own keeps the rules of a state machine: the lock service of the
//! examples, through `Typed`.

use crate::machine::{Command, Locks};
use bytes::Bytes;
use quorate::Typed;
use simulator::conformance::state_machine;

#[test]
fn the_lock_service_conforms() {
    let commands: Vec<Bytes> = (0..60_u64)
        .map(|n| {
            let lock = format!("lock {}", n % 3);
            Typed::<Locks>::encode_command(&match n % 4 {
                0 => Command::Release { lock, token: n / 3 },
                _ => Command::Acquire { lock, owner: format!("client {}", n % 5), for_ms: n * 40 },
            })
        })
        .collect();
    let queries = ["lock 0", "lock 1", "lock 2", "none"];
    let queries = queries.map(|lock| Typed::<Locks>::encode_query(&lock.to_owned()));
    state_machine(Typed::<Locks>::default, &commands, &queries);
}
