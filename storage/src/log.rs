//! The write-ahead log.
//!
//! Each write is one batch, with one `write_at` and one `sync_data`, on blocks that hold nothing
//! acknowledged. The log keeps no entries in memory; the core does. It only knows its position, and
//! which segments hold something that is still needed.
//!
//! Segments are freed oldest first, once the base covers all their entries or later batches have
//! replaced them. Nothing else in them is needed, since every batch carries hard state and base.
//! Freeing is not recorded: a start comes to the same result.
//!
//! A failed sync is final, and so is a failed write unless the disk is full. All later writes fail
//! too.

mod start;

pub use start::Recovery;

use crate::batch::{self, Draft};
use crate::block::{BLOCK_BYTES, BlockWriter, Place};
use crate::disk::{self, Disk};
use crate::mark::{Mark, MarkFile};
use crate::segment::{self, Order, Preparer, Segment, Spare};
use crate::{DiskFile, Identity, LogStore, PersistError, codec};
use raft::{Durable, Entry, HardState, Index, LogId, LogStart, Payload, Snapshot, Write};
use std::collections::VecDeque;
use std::io;

/// Spare segments up to this many bytes are kept however little room there is: the log may need
/// them more than others do.
const SPARE_BYTES_ALWAYS: u64 = 256 << 20;
/// Bytes that must be free for each byte of more spare segments.
const FREE_PER_SPARE: u64 = 4;

/// The mark is written after this many batches.
const MARK_BATCHES: u32 = 64;

/// The size of a log's first segment. Each further one is twice as large until they have the
/// standard size, so that a node with little data takes little room.
const FIRST_SEGMENT_BYTES: u64 = 2 << 20;

/// An invariant of the full segments is checked on this many of them.
const CHECKED_MAX: usize = 16;

/// Settings of a log. Start from [`LogConfig::default`] and change its fields.
///
/// The log keeps one encoded batch in memory, as large as the largest write so far (1 MiB with the
/// default settings of the core), and while it starts, one segment and all entries.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct LogConfig {
    /// The size of a segment in bytes, 16 MiB by default. A positive multiple of 4 KiB. The first
    /// segments of a log are smaller, from 2 MiB on. A batch that needs more gets a larger segment.
    pub segment_bytes: u64,
    /// The most bytes of all segments on disk, spare ones included; 4 GiB by default. A write that
    /// needs more is rejected as [`PersistError::Full`], and the node becomes read-only until a
    /// snapshot frees some. A small write takes up to 4 KiB until the log is compacted.
    ///
    /// At least two segments. Ordinary writes leave one of them. Beyond the bound go writes
    /// without which the node could not go on: what an election or a change of the members writes
    /// (a restart with an election takes up to 12 KiB), a write that frees a segment because it
    /// moves the start of the log, one write after a snapshot that covers the whole log, and those
    /// of a start. From a start until the start of the log moves, the bound is twice as large: such
    /// a node does not know what is committed, and can take no snapshot before it has stored what
    /// its leader has.
    ///
    /// It should exceed the log between two snapshots ([`raft::Config::snapshot_log_bytes_max`] and
    /// a quarter more, counted in blocks of 4 KiB a batch) plus the writes that arrive while a
    /// snapshot is taken. The crate `quorate` lowers these limits to a quarter of the bound. A log
    /// that is full all the same makes a snapshot due, and the node is read-only until that is
    /// durable. The bound must exceed the entries that can wait for their commit
    /// ([`raft::Config::uncommitted_bytes_max`], and a block for each of
    /// [`raft::Config::uncommitted_entries_max`]): no snapshot covers these.
    pub bytes_max: u64,
    /// The most bytes of spare segments kept for reuse, 1.25 GiB by default: the log between two
    /// snapshots of a large state. A new segment is filled with zeros, which is one more write of
    /// each byte. Beyond 256 MiB, they take at most a fifth of the room that there would be without
    /// them, which a snapshot may need more: looked at whenever a segment is ordered or freed.
    pub recycled_bytes_max: u64,
    /// Prepare segments in a background thread (the default). Without it, the write that needs a
    /// new segment prepares it.
    pub background: bool,
}

impl Default for LogConfig {
    fn default() -> Self {
        LogConfig {
            segment_bytes: 16 << 20,
            bytes_max: 4 << 30,
            recycled_bytes_max: 1280 << 20,
            background: true,
        }
    }
}

/// The disk space that a log takes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Usage {
    /// The bytes of all segments, spare ones included.
    pub bytes: u64,
    /// The limit, see [`LogConfig::bytes_max`].
    pub bytes_max: u64,
}

/// The durable log of a node. See [`LogStore`].
///
/// Invariants, between two batches:
/// - `full` and then `current` are in the order of their generations, and `next_generation` is
///   later than all; spare segments are none of these.
/// - A segment's bytes in use are whole blocks within it.
/// - The log ends at its base or after it.
pub struct Log<D: Disk> {
    disk: D,
    config: LogConfig,
    identity: Option<Identity>,
    /// The seed of all checksums, derived from the incarnation.
    seed: u32,
    /// The segment of the next batch; `None` before the first.
    current: Option<Current<D::File>>,
    /// Full segments, oldest first.
    full: VecDeque<Full>,
    /// Spare segments, oldest first. They have the standard size.
    spares: VecDeque<Spare>,
    /// The generation of the next segment.
    next_generation: u64,
    preparer: Preparer<D>,
    mark: Option<MarkFile<D::File>>,
    batches_since_mark: u32,
    /// The log has begun, or its start has moved, since it was opened.
    has_moved: bool,
    state: State,
    /// The batch being written.
    writer: BlockWriter,
    /// The encoded base of the batch being written.
    new_base: Vec<u8>,
    /// The error with which the disk has failed, if it has.
    failed: Option<(io::ErrorKind, String)>,
}

impl<D: Disk> std::fmt::Debug for Log<D> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let State { number, base, last, .. } = &self.state;
        f.debug_struct("Log")
            .field("identity", &self.identity)
            .field("batch", number)
            .field("base", base)
            .field("last", last)
            .finish_non_exhaustive()
    }
}

/// The content of the latest batch.
#[derive(Debug, Default)]
struct State {
    /// The number of the batch; 0 if there is none.
    number: u64,
    checksum: u32,
    hard_state: HardState,
    base: LogId,
    /// The encoded snapshot whose last entry is `base`.
    encoded_base: Vec<u8>,
    last: LogId,
}

impl State {
    /// The statement that this batch and all before it are synced.
    fn mark(&self) -> Mark {
        let HardState { term, lost, .. } = self.hard_state;
        Mark { batch: self.number, term, end: lost.map_or(self.last, |lost| lost.max(self.last)) }
    }
}

#[derive(Debug)]
struct Current<F> {
    segment: Segment<F>,
    /// The bytes in use, from the start of the segment.
    used: u64,
    highest: Index,
}

#[derive(Clone, Copy, Debug)]
struct Full {
    generation: u64,
    len: u64,
    /// The highest index of an entry in it that no later batch has replaced.
    highest: Index,
}

/// One change of the durable state: a [`raft::Write`] without its receipt.
#[derive(Clone, Copy, Debug)]
pub(crate) struct BatchRef<'a> {
    pub hard_state: HardState,
    pub log_start: Option<&'a LogStart>,
    /// The entries in order, in any number of slices.
    pub entries: &'a [&'a [Entry]],
}

/// Why a batch is not durable; see [`PersistError`].
#[derive(Debug)]
pub(crate) enum AppendError {
    Full(io::Error),
    Failed(io::Error),
}

impl AppendError {
    pub fn into_io(self) -> io::Error {
        match self {
            AppendError::Full(error) | AppendError::Failed(error) => error,
        }
    }

    /// An error of a write, or of preparing a segment. Not of a sync, where each error is final.
    ///
    /// Without room, memory or descriptors, the operating system refuses a write. Some part of it
    /// may have been written, to blocks that hold nothing acknowledged. So the same blocks can be
    /// written again.
    pub(crate) fn of(error: io::Error) -> Self {
        match error.kind() {
            io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => AppendError::Full(error),
            _ if disk::is_want_of_resources(&error) => AppendError::Full(error),
            _ => AppendError::Failed(error),
        }
    }
}

impl<D: Disk> Log<D> {
    /// The identity of the directory; `None` if it has none yet.
    pub fn identity(&self) -> Option<&Identity> {
        self.identity.as_ref()
    }

    /// Writes the identity of the directory, durably.
    ///
    /// # Panics
    ///
    /// If a log has begun and the incarnation is another one: its checksums would no longer match.
    pub(crate) fn identify(&mut self, identity: Identity) -> io::Result<()> {
        let new_seed = seed(Some(&identity));
        assert!(self.state.number == 0 || new_seed == self.seed, "an incarnation is for life");
        identity.write(&self.disk)?;
        self.seed = new_seed;
        self.identity = Some(identity);
        Ok(())
    }

    /// The disk space that it takes, and the limit.
    pub fn usage(&self) -> Usage {
        let standard = self.config.segment_bytes;
        let ahead = self.preparer.ordered_bytes().unwrap_or_default();
        let spare = self.spares.len() as u64 * standard;
        let current = self.current.as_ref().map_or(0, |current| current.segment.len);
        let full: u64 = self.full.iter().map(|full| full.len).sum();
        Usage { bytes: ahead + spare + current + full, bytes_max: self.config.bytes_max }
    }

    pub(crate) fn disk(&self) -> &D {
        &self.disk
    }

    /// Closes the log. It marks all batches as synced, so that the next start can tell damage from
    /// a write that was cut off.
    pub fn close(mut self) -> io::Result<()> {
        if self.failed.is_some() || self.state.number == 0 {
            return Ok(());
        }
        let Some(mark) = &mut self.mark else { return self.open_mark() };
        mark.write(self.state.mark())?;
        mark.sync()
    }

    /// Writes one batch and makes it durable.
    pub(crate) fn append(&mut self, batch: BatchRef<'_>) -> Result<(), AppendError> {
        assert!(self.state.number > 0, "the log has not begun");
        let is_rare =
            |entry: &Entry| matches!(entry.payload, Payload::NoOp | Payload::Membership(_));
        self.commit(Change {
            hard_state: batch.hard_state,
            base: batch.log_start.map(LogStart::snapshot),
            reset: matches!(batch.log_start, Some(LogStart::Reset(_))),
            repeats_after: None,
            share: match batch.log_start {
                Some(start) if self.would_free(start) => Share::Any,
                _ if batch.entries.iter().copied().flatten().all(is_rare) => Share::Any,
                _ if self.is_covered() => Share::Any,
                _ => Share::Ordinary,
            },
            entries: batch.entries,
        })?;
        self.batches_since_mark += 1;
        if self.batches_since_mark >= MARK_BATCHES && self.write_mark().is_err() {
            // The mark matters only after damage, and its file is separate from the log: go on
            // without it.
            self.mark = None;
        }
        Ok(())
    }

    fn write_mark(&mut self) -> io::Result<()> {
        self.batches_since_mark = 0;
        if self.mark.as_ref().is_some_and(|mark| !mark.has_name()) {
            self.mark = None;
            return self.open_mark();
        }
        match &mut self.mark {
            Some(mark) => mark.write(self.state.mark()),
            None => Ok(()),
        }
    }
}

/// The most bytes of spare segments, given the free bytes of the file system, if they are known.
pub(crate) fn spare_bytes_max(free: Option<u64>) -> u64 {
    free.map_or(u64::MAX, |free| SPARE_BYTES_ALWAYS.max(free / FREE_PER_SPARE))
}

/// The first of these entries.
pub(crate) fn first_of<'a>(slices: &[&'a [Entry]]) -> Option<&'a Entry> {
    slices.iter().find_map(|entries| entries.first())
}

/// The last of these entries.
fn last_of<'a>(slices: &[&'a [Entry]]) -> Option<&'a Entry> {
    slices.iter().rev().find_map(|entries| entries.last())
}

fn seed(identity: Option<&Identity>) -> u32 {
    identity.map_or(0, |identity| crc32c::crc32c(&identity.incarnation.0.to_le_bytes()))
}

/// The content of the next batch.
#[derive(Clone, Copy, Debug)]
struct Change<'a> {
    hard_state: HardState,
    /// The new base, if it changes.
    base: Option<&'a Snapshot>,
    reset: bool,
    /// Set if the batch repeats those after this one, which may not be on the disk.
    repeats_after: Option<Mark>,
    share: Share,
    entries: &'a [&'a [Entry]],
}

/// How much of [`LogConfig::bytes_max`] a batch may take.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Share {
    /// All but a segment.
    Ordinary,
    /// More than all, if need be, as the node could not go on without it: what an election or a
    /// change of the members writes, what frees room, and what a start writes.
    Any,
}

// Writing.
impl<D: Disk> Log<D> {
    /// Writes one batch and syncs it. After an error the state of the log is unchanged, apart from
    /// blocks on disk beyond its end.
    fn commit(&mut self, change: Change<'_>) -> Result<(), AppendError> {
        if let Some((kind, message)) = &self.failed {
            return Err(AppendError::Failed(io::Error::new(*kind, message.clone())));
        }
        let result = self.try_commit(change);
        if let Err(AppendError::Failed(error)) = &result {
            self.failed = Some((error.kind(), error.to_string()));
        }
        result
    }

    fn try_commit(&mut self, change: Change<'_>) -> Result<(), AppendError> {
        let base = change.base.map_or(self.state.base, |base| base.last);
        if let Some(base) = change.base {
            self.new_base.clear();
            codec::encode(base, &mut self.new_base);
        }
        let last = match last_of(change.entries) {
            Some(entry) => entry.id,
            None if change.reset || self.state.last.index < base.index => base,
            None => self.state.last,
        };
        let draft = Draft {
            reset: change.reset,
            previous: self.state.checksum,
            hard_state: change.hard_state,
            base: if change.base.is_some() { &self.new_base } else { &self.state.encoded_base },
            last,
            entries: change.entries,
        };
        draft.encode(&mut self.writer);
        let bytes = (self.writer.blocks() * BLOCK_BYTES) as u64;

        if change.share == Share::Ordinary && !self.leaves_reserve(bytes) {
            return Err(AppendError::Full(self.is_at_bound()));
        }
        self.make_room(bytes, change.share)?;
        let current = self.current.as_mut().expect("make_room has seen to it");
        let place = Place {
            generation: current.segment.generation,
            batch: self.state.number + 1,
            synced: change.repeats_after.unwrap_or_else(|| self.state.mark()),
            position: (current.used / BLOCK_BYTES as u64) as u32,
        };
        let (checksum, blocks) = batch::seal(&mut self.writer, self.seed, place);
        current.segment.file.write_at(current.used, blocks).map_err(AppendError::of)?;
        current.segment.file.sync_data().map_err(AppendError::Failed)?;
        // After the sync: what is acknowledged was at its place when it was durable.
        let has_name = current.segment.file.has_name().map_err(AppendError::Failed)?;
        self.disk.check_in_place().map_err(AppendError::Failed)?;
        if !has_name {
            return Err(AppendError::Failed(disk::out_of_place("the log segment was removed")));
        }

        current.used += bytes;
        current.segment.len = current.segment.len.max(current.used);
        self.state.number = place.batch;
        self.state.checksum = checksum;
        self.state.hard_state = change.hard_state;
        self.state.last = last;
        if change.base.is_some() {
            self.state.base = base;
            std::mem::swap(&mut self.state.encoded_base, &mut self.new_base);
        }
        self.note_entries(&change);
        if change.base.is_some() {
            self.has_moved = true;
            self.free(change.reset);
        }
        debug_assert_eq!(self.broken_invariant(), None);
        Ok(())
    }

    /// The first invariant that does not hold, if any. Checked after every batch in debug builds.
    /// Of the segments, only the latest [`CHECKED_MAX`] are looked at.
    fn broken_invariant(&self) -> Option<&'static str> {
        let State { base, last, .. } = self.state;
        let full = || self.full.iter().rev().take(CHECKED_MAX);
        let current = self.current.iter();
        let generations = current.clone().map(|current| current.segment.generation);
        let generations = || generations.clone().chain(full().map(|full| full.generation));
        let is_whole = |current: &Current<D::File>| {
            current.used.is_multiple_of(BLOCK_BYTES as u64) && current.used <= current.segment.len
        };
        let spare = |generation| self.spares.iter().any(|spare| spare.generation == generation);
        let rules = [
            ("the segments are out of order", generations().is_sorted_by(|a, b| a > b)),
            (
                "a segment is later than the next one",
                generations().all(|g| g < self.next_generation),
            ),
            ("a segment in use is spare", !generations().any(spare)),
            ("a part of a block is in use", current.clone().all(is_whole)),
            ("the log ends before its base", last.index >= base.index),
        ];
        rules.into_iter().find(|(_, holds)| !holds).map(|(name, _)| name)
    }

    /// Whether the next `bytes` go to the current segment. A batch larger than a segment extends
    /// the segment that it begins.
    fn fits(&self, bytes: u64) -> bool {
        self.current
            .as_ref()
            .is_some_and(|current| current.used == 0 || current.used + bytes <= current.segment.len)
    }

    /// Ensures that the next `bytes` can be written to the current segment.
    fn make_room(&mut self, bytes: u64, share: Share) -> Result<(), AppendError> {
        if self.fits(bytes) {
            return Ok(());
        }
        let ordered = match self.preparer.ordered_bytes() {
            Some(bytes) => bytes,
            None => self.order_next(share).map_err(AppendError::Full)?,
        };
        let segment = self.preparer.take().map_err(|error| {
            let named = |error| segment::unprepared(&self.disk, ordered, error);
            match AppendError::of(error) {
                AppendError::Full(error) => AppendError::Full(named(error)),
                AppendError::Failed(error) => AppendError::Failed(named(error)),
            }
        })?;
        let next = Current { segment, used: 0, highest: Index(0) };
        if let Some(current) = self.current.replace(next) {
            self.full.push_back(Full {
                generation: current.segment.generation,
                len: current.segment.len,
                highest: current.highest,
            });
        }
        // If the disk is full now, it may have room when the segment is needed.
        let _ = self.order_next(Share::Ordinary);
        Ok(())
    }

    /// Whether the snapshot that the log begins after covers all entries. Then no snapshot can free
    /// room, and only the next write makes its segment the one that holds nothing needed.
    fn is_covered(&self) -> bool {
        self.state.last.index <= self.state.base.index
    }

    /// The bound that holds now. A node that has started does not know what is committed, so it
    /// applies nothing, and no snapshot frees room. It may have to store all that its leader has
    /// before the leader commits anything: otherwise nodes that all start with full logs would wait
    /// for one another for ever.
    fn bound(&self) -> u64 {
        let bytes_max = self.config.bytes_max;
        if self.has_moved { bytes_max } else { bytes_max.saturating_mul(2) }
    }

    /// Whether a segment is free once the log begins there. If none were, the entries that come
    /// with each new start of the log would fill it beyond its bound.
    fn would_free(&self, start: &LogStart) -> bool {
        let oldest = self.full.front().map(|full| full.highest);
        let oldest = oldest.or(self.current.as_ref().map(|current| current.highest));
        let base = start.snapshot().last.index;
        matches!(start, LogStart::Reset(_)) || oldest.is_none_or(|highest| highest <= base)
    }

    /// Whether a whole segment can still be had within the limit once `bytes` are written. The rest
    /// of the current segment is none: what does not fit into it leaves it unused.
    fn leaves_reserve(&self, bytes: u64) -> bool {
        let (standard, usage) = (self.config.segment_bytes, self.usage());
        let extends = bytes.saturating_sub(standard);
        let can_order = self.bound().saturating_sub(usage.bytes + extends) / standard;
        let ready = self.spares.len() as u64 + u64::from(self.preparer.ordered_bytes().is_some());
        can_order + ready > u64::from(!self.fits(bytes))
    }

    fn is_at_bound(&self) -> io::Error {
        let message = format!("the log has reached its bound of {} bytes", self.config.bytes_max);
        io::Error::new(io::ErrorKind::StorageFull, message)
    }

    /// Orders the next segment. Returns its size.
    fn order_next(&mut self, share: Share) -> io::Result<u64> {
        let usage = self.usage();
        let recycled = self.spares.pop_front();
        // Others may have taken the room since the rest was kept.
        self.limit_spares();
        let generation = self.next_generation;
        let standard = self.config.segment_bytes;
        let bytes = match recycled {
            Some(_) => standard,
            // Generations count from 1.
            None => standard.min(FIRST_SEGMENT_BYTES << generation.saturating_sub(1).min(32)),
        };
        let is_over = usage.bytes + bytes > self.bound();
        if recycled.is_none() && is_over && share != Share::Any {
            return Err(self.is_at_bound());
        }
        self.next_generation += 1;
        self.preparer.order(Order { generation, bytes, recycled });
        Ok(bytes)
    }

    /// Updates the highest needed index of each segment.
    fn note_entries(&mut self, change: &Change<'_>) {
        let Some(current) = &mut self.current else { return };
        if change.reset {
            current.highest = Index(0);
        }
        let (Some(first), Some(last)) = (first_of(change.entries), last_of(change.entries)) else {
            return;
        };
        let kept = Index(first.id.index.0.saturating_sub(1));
        for full in &mut self.full {
            full.highest = full.highest.min(kept);
        }
        current.highest = last.id.index;
    }

    /// Frees the segments that hold nothing needed, oldest first.
    fn free(&mut self, reset: bool) {
        while let Some(full) = self.full.front().copied() {
            if !reset && full.highest > self.state.base.index {
                break;
            }
            self.full.pop_front();
            self.retire(full.generation, full.len);
        }
    }

    /// Keeps a segment for reuse, within the limit. The oldest are removed first, so that the
    /// segments found by a start have no gaps.
    ///
    /// All but the latest get another name, so that a start need not read them. If all that follows
    /// it rots, the latest still tells a start what this node has promised.
    fn retire(&mut self, generation: u64, len: u64) {
        // A file that cannot be removed or renamed is found by the next start.
        if len != self.config.segment_bytes {
            let _ = self.disk.remove(&segment::path(generation));
            return;
        }
        if let Some(last) = self.spares.back_mut().filter(|last| !last.is_renamed) {
            let former = last.path();
            last.is_renamed = true;
            if self.disk.rename(&former, &last.path()).is_err() {
                self.spares.pop_back();
            }
        }
        self.spares.push_back(Spare { generation, is_renamed: false });
        self.limit_spares();
    }

    /// Removes the spare segments that are too many.
    fn limit_spares(&mut self) {
        let Usage { bytes, bytes_max } = self.usage();
        let spare = self.spares.len() as u64 * self.config.segment_bytes;
        let most = spare_bytes_max(self.disk.free_bytes())
            .min(self.config.recycled_bytes_max)
            .min(bytes_max.saturating_sub(bytes - spare));
        while self.spares.len() as u64 * self.config.segment_bytes > most {
            let Some(oldest) = self.spares.pop_front() else { break };
            let _ = self.disk.remove(&oldest.path());
        }
    }
}

impl<D: Disk> LogStore for Log<D>
where
    D::File: Send,
{
    fn persist(&mut self, write: Write) -> Result<Durable, PersistError> {
        let entries: Vec<&[Entry]> = write.entries.slices().collect();
        let batch = BatchRef {
            hard_state: write.hard_state,
            log_start: write.log_start.as_ref(),
            entries: &entries,
        };
        match self.append(batch) {
            Ok(()) => Ok(write.durable()),
            Err(AppendError::Full(source)) => {
                let source = self.named(source);
                Err(PersistError::Full { write: Box::new(write), source })
            }
            Err(AppendError::Failed(source)) => {
                Err(PersistError::Failed { source: self.named(source) })
            }
        }
    }
}

impl<D: Disk> Log<D> {
    /// An error of writing, with the file in its text.
    fn named(&self, error: io::Error) -> io::Error {
        let cause = error.get_ref();
        let is_named = cause.is_some_and(|cause| cause.is::<segment::Unprepared>())
            || error.kind() == io::ErrorKind::FileTooLarge;
        if is_named {
            return error;
        }
        let file = match &self.current {
            Some(current) => segment::path(current.segment.generation),
            None => segment::DIR.to_owned(),
        };
        let text = format!("{}: {error}", self.disk.describe(&file));
        disk::with_text(error, text)
    }
}
