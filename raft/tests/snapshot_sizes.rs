//! A snapshot is ordered in proportion to the last one, within limits.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod alone;

use alone::settle;
use bytes::Bytes;
use raft::{CommandNumber, Entry, LogId, LogTime, Now, Payload, RawNode};

const COMMAND_BYTES: usize = 100;

/// A node that takes a snapshot after 1,000 to 5,000 bytes of entries, or after this many writes.
fn leader(writes: usize) -> RawNode {
    start(writes, Vec::new()).0
}

/// As [`leader`], with these entries in its log. Also returns whether it took a snapshot when it
/// had applied them.
fn start(writes: usize, entries: Vec<Entry>) -> (RawNode, bool) {
    alone::leader(entries, |config| {
        config.snapshot_log_bytes = 1_000;
        config.snapshot_log_bytes_max = 5_000;
        config.snapshot_log_writes = writes;
    })
}

/// The bytes of commands until the next snapshot.
fn bytes_until_snapshot(node: &mut RawNode) -> usize {
    let mut bytes = 0;
    loop {
        node.propose(Now::default(), Bytes::from(vec![0; COMMAND_BYTES])).unwrap();
        bytes += COMMAND_BYTES;
        if settle(node) {
            return bytes;
        }
    }
}

#[test]
fn the_log_grows_by_the_size_of_the_last_snapshot_within_limits() {
    let mut node = leader(usize::MAX);
    let smallest = bytes_until_snapshot(&mut node);
    assert!((500..=1_000).contains(&smallest), "{smallest}");
    node.set_snapshot_bytes(3_000);
    let proportional = bytes_until_snapshot(&mut node);
    assert!((2 * smallest..=3_000).contains(&proportional), "{proportional}");
    node.set_snapshot_bytes(1 << 40);
    let largest = bytes_until_snapshot(&mut node);
    assert!((3 * smallest..=5_000).contains(&largest), "{largest}");
    node.set_snapshot_bytes(0);
    assert!(bytes_until_snapshot(&mut node) <= 1_000);
}

#[test]
fn many_small_writes_need_a_snapshot_too() {
    // On the disk, each write takes a block, however small its entry is.
    let mut node = leader(5);
    assert!(bytes_until_snapshot(&mut node) <= 5 * COMMAND_BYTES);
    node.set_snapshot_bytes(1 << 40);
    // The write that moves the start of the log counts too.
    assert_eq!(bytes_until_snapshot(&mut node), 4 * COMMAND_BYTES);
}

#[test]
fn the_small_writes_before_a_start_count_too() {
    let entry = |index| Entry {
        id: LogId::new(index, 1),
        time: LogTime(index),
        number: CommandNumber(index),
        payload: Payload::Command(Bytes::from_static(b"small")),
    };
    let log = |len: u64| (1..=len).map(entry).collect();
    // The start itself writes twice: the term, and its first entry.
    assert!(!start(5, log(2)).1);
    assert!(start(5, log(10)).1);
}
