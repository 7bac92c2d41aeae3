//! A conformance kit for snapshot stores: does an implementation of [`SnapshotStore`] keep its
//! promises?

use crate::{Prefix, SnapshotSink, SnapshotStore, Unfinished};
use raft::{
    CommandNumber, Incarnation, Index, LogId, LogTime, Member, Membership, NodeId, Snapshot,
};
use std::io::{self, ErrorKind, Read};

/// How a store under test starts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum SnapshotStart {
    /// On an empty medium.
    New,
    /// On the medium of the store before, which has been dropped, after a power failure: everything
    /// that was not synced is lost.
    PowerFailure,
}

/// Tests a snapshot store. `open` starts it.
///
/// ```
/// use driver::testing::{SnapshotStart, snapshot_store};
/// use storage::Snapshots;
/// use storage::testing::{SectorFate, MemDisk};
///
/// let mut disk = MemDisk::new();
/// snapshot_store(|start| {
///     match start {
///         SnapshotStart::New => disk = MemDisk::new(),
///         _ => disk.crash(|_| SectorFate::Lost),
///     }
///     Snapshots::new(disk.clone()).expect("a disk in memory can be written")
/// });
/// ```
///
/// # Panics
///
/// If the store breaks a promise. The message says which, and at which step.
pub fn snapshot_store<S: SnapshotStore>(mut open: impl FnMut(SnapshotStart) -> S) {
    let open: &mut dyn FnMut(SnapshotStart) -> S = &mut open;
    what_is_finished_lasts(open);
    what_is_not_finished_is_not_there(open);
    one_is_replaced_by_another_of_its_name(open);
    several_at_once_do_not_mix(open);
    what_is_old_is_removed(open);
    what_was_received_is_continued(open);
}

type Open<'a, S> = &'a mut dyn FnMut(SnapshotStart) -> S;

fn what_is_finished_lasts<S: SnapshotStore>(open: Open<'_, S>) {
    let mut store = open(SnapshotStart::New);
    expect(&store, id(7, 2), None, "nothing was written");
    let sizes = [0, 1, 64 << 10, (64 << 10) + 1, 300_000];
    for (index, bytes) in (10..).zip(sizes) {
        let state = state(bytes, index as u8);
        write(&store, id(index, 2), &state);
        expect(&store, id(index, 2), Some(&state), "it was finished");
        store = restart(open, store);
        expect(&store, id(index, 2), Some(&state), "it was finished before the power failed");
    }
    for (index, bytes) in (10..).zip(sizes) {
        let what = "later ones were finished";
        expect(&store, id(index, 2), Some(&state(bytes, index as u8)), what);
    }
    expect(&store, id(10, 3), None, "there is one of this index, of another term");
}

fn what_is_not_finished_is_not_there<S: SnapshotStore>(open: Open<'_, S>) {
    let store = open(SnapshotStart::New);
    let mut sink = begin(&store, id(5, 1));
    put(sink.as_mut(), &state(100_000, 5));
    expect(&store, id(5, 1), None, "it is being written");
    drop(sink);
    expect(&store, id(5, 1), None, "it was given up");
    let mut sink = begin(&store, id(6, 1));
    put(sink.as_mut(), &state(100_000, 6));
    // As a process that ends: nothing is dropped.
    std::mem::forget(sink);
    let store = restart(open, store);
    expect(&store, id(5, 1), None, "it was given up before the power failed");
    expect(&store, id(6, 1), None, "it was being written when the power failed");
    write(&store, id(6, 1), &state(50, 9));
    expect(&store, id(6, 1), Some(&state(50, 9)), "an earlier attempt was cut off");
}

fn one_is_replaced_by_another_of_its_name<S: SnapshotStore>(open: Open<'_, S>) {
    let store = open(SnapshotStart::New);
    let (first, second) = (state(90_000, 1), state(70_000, 2));
    write(&store, id(5, 1), &first);
    let mut sink = begin(&store, id(5, 1));
    put(sink.as_mut(), &second[..10]);
    drop(sink);
    expect(&store, id(5, 1), Some(&first), "another attempt of its name was given up");
    write(&store, id(5, 1), &second);
    expect(&store, id(5, 1), Some(&second), "it was taken again");
    let store = restart(open, store);
    expect(&store, id(5, 1), Some(&second), "it was taken again before the power failed");
}

fn several_at_once_do_not_mix<S: SnapshotStore>(open: Open<'_, S>) {
    let store = open(SnapshotStart::New);
    let (first, second) = (state(200_000, 1), state(200_000, 2));
    let mut sinks = [begin(&store, id(5, 1)), begin(&store, id(9, 1))];
    for (one, other) in first.chunks(30_000).zip(second.chunks(30_000)) {
        put(sinks[0].as_mut(), one);
        put(sinks[1].as_mut(), other);
    }
    let [one, other] = sinks;
    finish(other, id(9, 1));
    expect(&store, id(5, 1), None, "another one is finished, and this one is not");
    finish(one, id(5, 1));
    let store = restart(open, store);
    expect(&store, id(5, 1), Some(&first), "two were written at once");
    expect(&store, id(9, 1), Some(&second), "two were written at once");
}

fn what_was_received_is_continued<S: SnapshotStore>(open: Open<'_, S>) {
    let (store, whole) = (open(SnapshotStart::New), state(300_000, 1));
    let description = snapshot(id(5, 1));
    let begun = store.receive(&description);
    let mut sink = begun.unwrap_or_else(|error| fails(&format!("no reception begins: {error}")));
    put(sink.as_mut(), &whole[..200_000]);
    // As a process that ends: nothing is dropped.
    std::mem::forget(sink);
    let store = restart(open, store);
    expect(&store, id(5, 1), None, "part of it was received");
    let left = store.unfinished().unwrap_or_else(|error| fails(&format!("unfinished: {error}")));
    if let Some(Unfinished { snapshot, prefix, mut sink }) = left {
        let bytes = usize::try_from(prefix.bytes).unwrap_or(usize::MAX).min(whole.len());
        let mut expected = Prefix::default();
        expected.add(&whole[..bytes]);
        if snapshot != description || prefix != expected {
            fails("`unfinished` returns a part of something else");
        }
        put(sink.as_mut(), &whole[bytes..]);
        finish(sink, id(5, 1));
        let store = restart(open, store);
        expect(&store, id(5, 1), Some(&whole), "its parts were received before and after a start");
    }
}

fn what_is_old_is_removed<S: SnapshotStore>(open: Open<'_, S>) {
    let store = open(SnapshotStart::New);
    for (at, number) in [(id(5, 1), 1), (id(7, 1), 6), (id(8, 1), 2), (id(8, 2), 3), (id(9, 2), 4)]
    {
        write(&store, at, &state(1_000, number));
    }
    let mut sink = begin(&store, id(12, 2));
    put(sink.as_mut(), &state(1_000, 5));
    if let Err(error) = store.remove_before(id(8, 2), &[id(7, 1)]) {
        fails(&format!("old snapshots cannot be removed: {error}"));
    }
    finish(sink, id(12, 2));
    let kept = [(id(7, 1), 6), (id(8, 2), 3), (id(9, 2), 4), (id(12, 2), 5)];
    for (at, number) in kept {
        let what =
            "older ones were removed, and it is kept, or the log begins after it or before it";
        expect(&store, at, Some(&state(1_000, number)), what);
    }
    let removed = "the log begins after a later one, and what is older was removed";
    expect(&store, id(5, 1), None, removed);
    expect(&store, id(8, 1), None, removed);
    // Removals need not be durable; what is kept must be.
    let store = restart(open, store);
    for (at, number) in kept {
        expect(&store, at, Some(&state(1_000, number)), "older ones were removed");
    }
}

fn restart<S: SnapshotStore>(open: Open<'_, S>, store: S) -> S {
    drop(store);
    open(SnapshotStart::PowerFailure)
}

fn begin<S: SnapshotStore>(store: &S, at: LogId) -> Box<dyn SnapshotSink> {
    match store.create(&snapshot(at)) {
        Ok(sink) => sink,
        Err(error) => fails(&format!("snapshot {at} cannot be begun: {error}")),
    }
}

/// Writes in pieces of several lengths.
fn put(sink: &mut dyn SnapshotSink, state: &[u8]) {
    let mut rest = state;
    for length in [1, 3, 4_096, 65_536, 7].into_iter().cycle() {
        let (piece, later) = rest.split_at(rest.len().min(length));
        if let Err(error) = sink.write_all(piece) {
            fails(&format!("a part of a snapshot cannot be written: {error}"));
        }
        rest = later;
        if rest.is_empty() {
            return;
        }
    }
}

fn finish(sink: Box<dyn SnapshotSink>, at: LogId) {
    if let Err(error) = sink.finish() {
        fails(&format!("snapshot {at} cannot be finished: {error}"));
    }
}

fn write<S: SnapshotStore>(store: &S, at: LogId, state: &[u8]) {
    let mut sink = begin(store, at);
    put(sink.as_mut(), state);
    finish(sink, at);
}

/// Checks what a reader of the snapshot gets: this state, or that there is none.
fn expect<S: SnapshotStore>(store: &S, at: LogId, expected: Option<&[u8]>, what: &str) {
    let found = store.open(at).and_then(read);
    match (found, expected) {
        (Ok(found), Some(expected)) if found == expected => {}
        (Err(error), None) if error.kind() == ErrorKind::NotFound => {}
        (Ok(found), Some(expected)) => {
            let at_byte = found.iter().zip(expected).position(|(a, b)| a != b);
            let at_byte = at_byte.unwrap_or(found.len().min(expected.len()));
            let (found, expected) = (found.len(), expected.len());
            fails(&format!(
                "{what}, and snapshot {at} differs from byte {at_byte} on: it has {found} bytes, \
                 and should have {expected}"
            ));
        }
        (Ok(found), None) => {
            let found = found.len();
            fails(&format!("{what}, and snapshot {at} is there, with {found} bytes"));
        }
        (Err(error), Some(_)) => {
            fails(&format!("{what}, and snapshot {at} cannot be read: {error}"))
        }
        (Err(error), None) => {
            let kind = error.kind();
            fails(&format!("{what}, and opening snapshot {at} ends with {kind:?}, not NotFound"));
        }
    }
}

fn read(mut reader: impl Read) -> io::Result<Vec<u8>> {
    let mut state = Vec::new();
    reader.read_to_end(&mut state)?;
    Ok(state)
}

fn fails(what: &str) -> ! {
    panic!("the snapshot store breaks a promise: {what}")
}

fn id(index: u64, term: u64) -> LogId {
    LogId::new(index, term)
}

fn snapshot(last: LogId) -> Snapshot {
    let member = Member {
        incarnation: Incarnation(1),
        peer_address: "peer1:9080".to_owned(),
        client_address: "client1:8080".to_owned(),
    };
    Snapshot {
        last,
        time: LogTime(1_000),
        number: CommandNumber(last.index.0),
        membership: Box::new(Membership::of_voters([(NodeId(1), member)].into())),
        membership_index: Index(0),
        hash: Some(1),
    }
}

/// A state in which no two kilobytes are the same.
fn state(bytes: usize, number: u8) -> Vec<u8> {
    let byte = |at: usize| (at.wrapping_mul(31) ^ (at >> 8).wrapping_mul(7) ^ (at >> 16)) as u8;
    (0..bytes).map(|at| byte(at).wrapping_add(number)).collect()
}
