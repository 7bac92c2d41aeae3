//! Tests that need the internals of the log. Only the core creates receipts, so these tests use the
//! log below [`crate::LogStore`].

mod base;
mod bound;
mod cases;
mod conformance;
mod crash;
mod log;
mod model;
mod room;
mod snapshots;
mod two_faults;
mod unreadable;

use crate::log::BatchRef;
use crate::testing::MemDisk;
use crate::{Disk, Identity, Log, LogConfig, Recovery};
use bytes::Bytes;
use raft::{
    CommandNumber, Entry, HardState, Incarnation, LogId, LogStart, LogTime, Member, Membership,
    NodeId, Payload, Restored, Snapshot, Term,
};
use std::collections::BTreeMap;

const NODE: NodeId = NodeId(1);

/// Segments of four blocks, without background threads.
fn config() -> LogConfig {
    LogConfig {
        segment_bytes: 4 * 4096,
        bytes_max: 1 << 30,
        recycled_bytes_max: 8 * 4096,
        background: false,
    }
}

fn identity() -> Identity {
    Identity { node: NODE, incarnation: Incarnation(77), cluster: None, peers: vec![NODE] }
}

fn membership() -> Membership {
    let member = |id| Member {
        incarnation: Incarnation(id),
        peer_address: format!("127.0.0.1:908{id}"),
        client_address: format!("127.0.0.1:808{id}"),
    };
    Membership::of_voters((1..=3).map(|id| (NodeId(id), member(id))).collect::<BTreeMap<_, _>>())
}

fn snapshot(last: LogId) -> Snapshot {
    Snapshot { last, ..Snapshot::initial(membership()) }
}

fn hard(term: u64, vote: Option<u64>) -> HardState {
    HardState { term: Term(term), vote: vote.map(NodeId), lost: None, promise_ms: 7 }
}

/// A command of `len` bytes that is unique to its entry.
fn entry(index: u64, term: u64, len: usize) -> Entry {
    let id = LogId::new(index, term);
    let payload = format!("{id}/").into_bytes().into_iter().cycle().take(len);
    Entry {
        id,
        time: LogTime(1000 + index),
        number: CommandNumber(index - 1),
        payload: Payload::Command(Bytes::from_iter(payload)),
    }
}

fn entries(from: u64, to: u64, term: u64) -> Vec<Entry> {
    (from..=to).map(|index| entry(index, term, 100)).collect()
}

fn open(disk: &MemDisk) -> (Log<MemDisk>, Recovery) {
    Log::open(disk.clone(), config()).unwrap_or_else(|error| panic!("cannot be opened: {error}"))
}

/// Kills the process, and opens the log in another one.
fn reopen(disk: &MemDisk) -> (Log<MemDisk>, Recovery) {
    disk.kill();
    open(disk)
}

/// A log that has begun, on this disk.
fn begun(disk: &MemDisk) -> Log<MemDisk> {
    let (mut log, _) = open(disk);
    log.identify(identity()).unwrap();
    log.begin(snapshot(LogId::ZERO)).unwrap();
    log
}

fn write<D: Disk>(log: &mut Log<D>, hard_state: HardState, entries: &[Entry]) {
    log.append(BatchRef { hard_state, log_start: None, entries: &[entries] }).unwrap();
}

fn log_start<D: Disk>(
    log: &mut Log<D>,
    hard_state: HardState,
    log_start: &LogStart,
    entries: &[Entry],
) {
    log.append(BatchRef { hard_state, log_start: Some(log_start), entries: &[entries] }).unwrap();
}

fn ids(restored: &Restored) -> Vec<String> {
    restored.entries.iter().map(|entry| entry.id.to_string()).collect()
}
