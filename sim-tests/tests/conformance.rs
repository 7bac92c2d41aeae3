//! The store's machine keeps the rules of a state machine.

use bytes::Bytes;
use kv::command::{Command, Compat, Kind};
use kv::history::Retention;
use kv::machine::Machine;
use simulator::conformance::state_machine;

/// Writes, reads and comparisons on five keys.
fn commands() -> Vec<Bytes> {
    let command = |n: u64| {
        let kind = match n % 5 {
            0 => Kind::Get,
            1 => Kind::Cas,
            _ => Kind::Put,
        };
        let text = |n: u64| Bytes::from(n.to_string());
        let (key, value) = (Bytes::from(format!("key {}", n % 7 % 5)), text(n));
        let compare_value = text(n.saturating_sub(5));
        Command::Compat(Compat { kind, key, value, compare_value, id: i128::from(n) }).encode()
    };
    (0..80).map(command).chain([Bytes::from_static(b"no command")]).collect()
}

/// Its queries store their results outside of the state, so the kit sees it by answers and
/// snapshots alone.
#[test]
fn the_store_conforms_while_its_history_is_whole_and_when_it_is_compacted() {
    for commands_max in [1_000, 10, 1] {
        let retention = Retention { commands_max, ..Retention::default() };
        state_machine(|| Machine::new(retention), &commands(), &[]);
    }
}
