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

use crate::batch::{self, Draft};
use crate::block::{BLOCK_BYTES, BlockWriter, Place};
use crate::disk::{self, Disk};
use crate::mark::{self, Mark, MarkFile};
use crate::recovery::{Case, OpenError, Scan, Scanned};
use crate::replay::Latest;
use crate::segment::{self, Order, Preparer, Segment};
use crate::{DiskFile, Identity, LogStore, PersistError, codec};
use raft::{Durable, Entry, HardState, Index, LogId, LogStart, Restored, Snapshot, Write};
use std::collections::VecDeque;
use std::io;

/// The mark is written after this many batches.
const MARK_BATCHES: u32 = 64;
/// The size in bytes of a batch when entries are rewritten after a loss.
const REWRITE_BYTES: usize = 1 << 20;

/// Settings of a log.
#[derive(Clone, Debug)]
pub struct LogConfig {
    /// The size of a segment in bytes, 16 MiB by default. A multiple of 4 KiB. A batch that needs
    /// more gets a larger segment.
    pub segment_bytes: u64,
    /// The most bytes of all segments on disk, spare ones included; 16 GiB by default. A write that
    /// needs more is rejected as [`PersistError::Full`]. A small write takes up to 4 KiB until the
    /// log is compacted.
    pub bytes_max: u64,
    /// The most bytes of spare segments kept for reuse, 256 MiB by default.
    pub recycled_bytes_max: u64,
    /// Prepare segments in a background thread (the default). Without it, the write that needs a
    /// new segment prepares it.
    pub background: bool,
}

impl Default for LogConfig {
    fn default() -> Self {
        LogConfig {
            segment_bytes: 16 << 20,
            bytes_max: 16 << 30,
            recycled_bytes_max: 256 << 20,
            background: true,
        }
    }
}

/// The result of opening a log.
#[derive(Clone, Debug)]
pub struct Recovery {
    /// The identity of the directory; `None` if it is empty.
    pub identity: Option<Identity>,
    /// The state of the node; `None` if its log was never begun.
    pub restored: Option<Restored>,
    /// The cases of the decision table that apply.
    pub cases: Vec<Case>,
    /// The number of batches that were read.
    pub batches: u64,
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
    /// The generations of spare segments, oldest first. They have the standard size.
    spares: VecDeque<u64>,
    /// The generation of the next segment.
    next_generation: u64,
    preparer: Preparer<D>,
    mark: Option<MarkFile<D::File>>,
    batches_since_mark: u32,
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
    pub entries: &'a [Entry],
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

    pub(crate) fn of(error: io::Error) -> Self {
        match error.kind() {
            io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => AppendError::Full(error),
            _ => AppendError::Failed(error),
        }
    }

    /// Like `of`, for an error in preparing a new segment. The segment holds nothing acknowledged,
    /// so a lack of file descriptors or memory is not a failure of the disk.
    pub(crate) fn of_preparing(error: io::Error) -> Self {
        match disk::is_want_of_resources(&error) {
            true => AppendError::Full(error),
            false => AppendError::of(error),
        }
    }
}

impl<D: Disk> Log<D> {
    /// Locks a directory and reads its content. See [`Case`] for the possible findings.
    pub fn open(disk: D, config: LogConfig) -> Result<(Log<D>, Recovery), OpenError> {
        assert!(
            config.segment_bytes > 0 && config.segment_bytes.is_multiple_of(BLOCK_BYTES as u64),
            "segment_bytes must be a multiple of 4 KiB"
        );
        disk.lock()?;
        let io = |path: &str| {
            let path = path.to_owned();
            move |source| OpenError::Io { path, source }
        };
        disk.create_dir(segment::DIR).map_err(io(segment::DIR))?;
        disk.sync_dir("").map_err(io("."))?;
        let identity = Identity::read(&disk)?;
        let (generations, mut cases) = list(&disk).map_err(io(segment::DIR))?;
        let marked = mark::exists(&disk).map_err(io("."))?;
        let preparer = Preparer::new(disk.clone(), config.background).map_err(io(segment::DIR))?;
        let mut log = Log {
            disk,
            config,
            seed: seed(identity.as_ref()),
            identity,
            current: None,
            full: VecDeque::new(),
            spares: VecDeque::new(),
            next_generation: generations.last().map_or(1, |last| last + 1),
            preparer,
            mark: None,
            batches_since_mark: 0,
            state: State::default(),
            writer: BlockWriter::default(),
            new_base: Vec::new(),
            failed: None,
        };
        let Some(identity) = log.identity.clone() else {
            if marked || !generations.is_empty() {
                return Err(OpenError::IdentityMissing);
            }
            cases.push(Case::Empty);
            return Ok((log, Recovery { identity: None, restored: None, cases, batches: 0 }));
        };
        let mut mark = None;
        if marked {
            let (file, found) = MarkFile::open(&log.disk, log.seed).map_err(io("MARK"))?;
            (log.mark, mark) = (Some(file), found);
        }
        let mut scan = Scan::default();
        for generation in &generations {
            let path = segment::path(*generation);
            let content =
                (log.disk.open(&path)).and_then(|file| segment::read(&file)).map_err(io(&path))?;
            scan.segment(&content, log.seed, *generation)
                .map_err(|version| OpenError::OtherVersion { path, version })?;
        }
        let mut scanned = scan.finish(mark, identity.node)?;
        if scanned.replayed.is_none() && identity.cluster.is_some() {
            // The node was a member of its cluster: its promises are lost.
            return Err(OpenError::LogGone);
        }
        cases.append(&mut scanned.cases);
        let batches = scanned.batches;
        let restored = log.take_over(scanned, mark).map_err(io(segment::DIR))?;
        Ok((log, Recovery { identity: Some(identity), restored, cases, batches }))
    }

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

    /// Begins the log of a new node, durably, and returns what a restart would restore. Only after
    /// this may the identity name the cluster: a directory that names its cluster and has no log
    /// has lost the log.
    ///
    /// # Panics
    ///
    /// If the directory has no identity yet, or the log has begun already.
    pub(crate) fn begin(&mut self, snapshot: Snapshot) -> io::Result<Restored> {
        assert!(self.identity.is_some(), "the identity comes first");
        assert!(self.state.number == 0, "a log begins once");
        let restored = Restored::initial(snapshot);
        let change = Change {
            hard_state: restored.hard_state,
            base: Some(&restored.snapshot),
            reset: true,
            repeats: 0,
            entries: &[],
        };
        self.commit(change).map_err(AppendError::into_io)?;
        self.open_mark()?;
        Ok(restored)
    }

    /// The disk space that it takes, and the limit.
    pub fn usage(&self) -> Usage {
        let standard = self.config.segment_bytes;
        let ahead = self.spares.len() as u64 + u64::from(self.preparer.is_ordered());
        let current = self.current.as_ref().map_or(0, |current| current.segment.len);
        let full: u64 = self.full.iter().map(|full| full.len).sum();
        Usage { bytes: ahead * standard + current + full, bytes_max: self.config.bytes_max }
    }

    /// Closes the log. It marks all batches as synced, so that the next start can tell damage from
    /// a write that was cut off.
    pub fn close(mut self) -> io::Result<()> {
        if self.failed.is_some() || self.state.number == 0 {
            return Ok(());
        }
        let Some(mark) = &mut self.mark else { return self.open_mark() };
        let State { number, hard_state, last, .. } = &self.state;
        mark.write(Mark { batch: *number, term: hard_state.term, last: *last })?;
        mark.sync()
    }

    /// Writes one batch and makes it durable.
    pub(crate) fn append(&mut self, batch: BatchRef<'_>) -> Result<(), AppendError> {
        assert!(self.state.number > 0, "the log has not begun");
        self.commit(Change {
            hard_state: batch.hard_state,
            base: batch.log_start.map(LogStart::snapshot),
            reset: matches!(batch.log_start, Some(LogStart::Reset(_))),
            repeats: 0,
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
        let State { number, hard_state, last, .. } = &self.state;
        match &mut self.mark {
            Some(mark) => mark.write(Mark { batch: *number, term: hard_state.term, last: *last }),
            None => Ok(()),
        }
    }

    /// Creates the file of the mark if there is none, with a first mark.
    fn open_mark(&mut self) -> io::Result<()> {
        if self.mark.is_none() {
            self.mark = Some(MarkFile::open(&self.disk, self.seed)?.0);
            self.write_mark()?;
            if let Some(mark) = &mut self.mark {
                mark.sync()?;
            }
        }
        Ok(())
    }
}

/// The generations of the segments in the directory, and the files that are not segments.
fn list(disk: &impl Disk) -> io::Result<(Vec<u64>, Vec<Case>)> {
    let (mut generations, mut cases) = (Vec::new(), Vec::new());
    for name in disk.list(segment::DIR)? {
        match segment::parse(&name) {
            Some(generation) => generations.push(generation),
            None if segment::is_temporary(&name) => {
                disk.remove(&format!("{}/{name}", segment::DIR))?;
            }
            None => cases.push(Case::ForeignFile { name }),
        }
    }
    Ok((generations, cases))
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
    /// The number of preceding batches that this one repeats.
    repeats: u32,
    entries: &'a [Entry],
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
        let last = match change.entries.last() {
            Some(entry) => entry.id,
            None if change.reset || self.state.last.index < base.index => base,
            None => self.state.last,
        };
        let draft = Draft {
            reset: change.reset,
            repeats: change.repeats,
            previous: self.state.checksum,
            hard_state: change.hard_state,
            base: if change.base.is_some() { &self.new_base } else { &self.state.encoded_base },
            last,
            entries: change.entries,
        };
        draft.encode(&mut self.writer);
        let bytes = (self.writer.blocks() * BLOCK_BYTES) as u64;

        self.make_room(bytes)?;
        let current = self.current.as_mut().expect("make_room has seen to it");
        let place = Place {
            generation: current.segment.generation,
            batch: self.state.number + 1,
            position: (current.used / BLOCK_BYTES as u64) as u32,
        };
        let (checksum, blocks) = batch::seal(&mut self.writer, self.seed, place);
        current.segment.file.write_at(current.used, blocks).map_err(AppendError::of)?;
        current.segment.file.sync_data().map_err(AppendError::Failed)?;

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
            self.free(change.reset);
        }
        Ok(())
    }

    /// Ensures that the next `bytes` can be written to the current segment.
    fn make_room(&mut self, bytes: u64) -> Result<(), AppendError> {
        if let Some(current) = &self.current {
            // A batch larger than a segment extends the segment that it begins.
            if current.used == 0 || current.used + bytes <= current.segment.len {
                return Ok(());
            }
        }
        if !self.preparer.is_ordered() {
            self.order_next().map_err(AppendError::Full)?;
        }
        let segment = self.preparer.take().map_err(AppendError::of_preparing)?;
        let next = Current { segment, used: 0, highest: Index(0) };
        if let Some(current) = self.current.replace(next) {
            self.full.push_back(Full {
                generation: current.segment.generation,
                len: current.segment.len,
                highest: current.highest,
            });
        }
        // If the disk is full now, it may have room when the segment is needed.
        let _ = self.order_next();
        Ok(())
    }

    /// Orders the next segment.
    fn order_next(&mut self) -> io::Result<()> {
        let Usage { bytes, bytes_max } = self.usage();
        let standard = self.config.segment_bytes;
        let recycled = self.spares.pop_front();
        if recycled.is_none() && bytes + standard > bytes_max {
            let message = format!("the log has reached its bound of {bytes_max} bytes");
            return Err(io::Error::new(io::ErrorKind::StorageFull, message));
        }
        let generation = self.next_generation;
        self.next_generation += 1;
        self.preparer.order(Order { generation, bytes: standard, recycled });
        Ok(())
    }

    /// Updates the highest needed index of each segment.
    fn note_entries(&mut self, change: &Change<'_>) {
        let Some(current) = &mut self.current else { return };
        if change.reset {
            current.highest = Index(0);
        }
        let (Some(first), Some(last)) = (change.entries.first(), change.entries.last()) else {
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
    fn retire(&mut self, generation: u64, len: u64) {
        let standard = self.config.segment_bytes;
        // A file that cannot be removed is found by the next start.
        if len != standard {
            let _ = self.disk.remove(&segment::path(generation));
            return;
        }
        self.spares.push_back(generation);
        while self.spares.len() as u64 * standard > self.config.recycled_bytes_max {
            let Some(oldest) = self.spares.pop_front() else { break };
            let _ = self.disk.remove(&segment::path(oldest));
        }
    }
}

// Starting.
impl<D: Disk> Log<D> {
    /// Takes over the result of a scan: erases remains, and rewrites or repeats what must be
    /// durable.
    fn take_over(&mut self, scanned: Scanned, mark: Option<Mark>) -> io::Result<Option<Restored>> {
        let Scanned { replayed, segments, end, remains, highest_number, .. } = scanned;
        let Some(replayed) = replayed else {
            self.erase(&remains)?;
            for found in segments {
                self.retire(found.generation, found.len);
            }
            return Ok(None);
        };
        let state = replayed.state;
        let restored =
            Restored { hard_state: state.hard_state, snapshot: state.base, entries: state.entries };
        self.state.hard_state = restored.hard_state;
        self.state.base = restored.snapshot.last;
        codec::encode(&restored.snapshot, &mut self.state.encoded_base);
        self.state.last = restored.entries.last().map_or(self.state.base, |entry| entry.id);
        self.state.checksum = replayed.latest.checksum;
        if replayed.hole.is_some() {
            self.state.number = highest_number;
            self.rewrite(&restored)?;
            for found in &segments {
                self.disk.remove(&segment::path(found.generation))?;
            }
            self.disk.sync_dir(segment::DIR)?;
            self.open_mark()?;
            return Ok(Some(restored));
        }
        self.state.number = replayed.latest.number;
        self.erase(&remains)?;
        let (last_segment, position) = end.expect("there is an intact batch");
        let mut useless = Vec::new();
        for (at, found) in segments.iter().enumerate() {
            let (generation, len) = (found.generation, found.len);
            let highest = replayed.highest.get(at).copied().unwrap_or_default();
            if at > last_segment {
                self.retire(generation, len);
            } else if at == last_segment {
                let file = self.disk.open(&segment::path(generation))?;
                let used = u64::from(position) * BLOCK_BYTES as u64;
                let segment = Segment { generation, file, len };
                self.current = Some(Current { segment, used, highest });
            } else if found.damaged && self.full.is_empty() && highest <= self.state.base.index {
                useless.push(generation);
            } else {
                self.full.push_back(Full { generation, len, highest });
            }
        }
        let repeats = mark.is_none_or(|mark| mark.batch < self.state.number);
        if repeats {
            let count = replayed.latest.entries.min(restored.entries.len());
            self.repeat(&restored, replayed.latest, count)?;
        }
        // Only the latest batch makes a segment useless, and only its repetition makes that batch
        // certain to be on disk. Before that the batch may be lost, and the earlier ones are all
        // that is left.
        for generation in useless {
            self.disk.remove(&segment::path(generation))?;
        }
        self.free(false);
        self.open_mark()?;
        if repeats && (self.write_mark().is_err() || self.sync_mark().is_err()) {
            self.mark = None;
        }
        Ok(Some(restored))
    }

    /// The repetition is durable now. With a mark that covers it, the next start does not repeat
    /// it. Otherwise a node that restarts often without writing would fill its disk.
    fn sync_mark(&mut self) -> io::Result<()> {
        self.mark.as_mut().map_or(Ok(()), MarkFile::sync)
    }

    /// Writes the latest batch again, right after itself. Reading it does not prove that it is on
    /// disk. When the process ended it may have been in the system's cache only. Or its sync may
    /// have failed, after which the cache counts pages as written that never reached the disk. Only
    /// a new write is certain. `repeats` adds up: the latest batch may itself be a repetition whose
    /// sync failed.
    fn repeat(&mut self, restored: &Restored, latest: Latest, count: usize) -> io::Result<()> {
        let (reset, repeats) = (latest.reset, latest.repeats.saturating_add(1));
        let entries = &restored.entries[restored.entries.len() - count..];
        let hard_state = restored.hard_state;
        let change = Change { hard_state, base: None, reset, repeats, entries };
        self.commit(change).map_err(AppendError::into_io)
    }

    /// Writes what is left of the log to new segments.
    fn rewrite(&mut self, restored: &Restored) -> io::Result<()> {
        let mut rest = restored.entries.as_slice();
        let mut reset = true;
        while reset || !rest.is_empty() {
            let mut bytes = 0;
            let fits = |entry: &&Entry| {
                bytes += entry.cost_bytes();
                bytes <= REWRITE_BYTES
            };
            let count = rest.iter().take_while(fits).count().max(1).min(rest.len());
            let (entries, later) = rest.split_at(count);
            let hard_state = restored.hard_state;
            let change = Change { hard_state, base: None, reset, repeats: 0, entries };
            self.commit(change).map_err(AppendError::into_io)?;
            (rest, reset) = (later, false);
        }
        Ok(())
    }

    /// Erases blocks that were never acknowledged, so that they cannot pass for part of a later
    /// batch.
    fn erase(&mut self, remains: &[crate::recovery::Remains]) -> io::Result<()> {
        for of_segment in remains.chunk_by(|a, b| a.generation == b.generation) {
            let mut file = self.disk.open(&segment::path(of_segment[0].generation))?;
            for block in of_segment {
                file.write_at(u64::from(block.position) * BLOCK_BYTES as u64, &[0; BLOCK_BYTES])?;
            }
            file.sync_data()?;
        }
        Ok(())
    }
}

impl<D: Disk> LogStore for Log<D>
where
    D::File: Send,
{
    fn persist(&mut self, write: Write) -> Result<Durable, PersistError> {
        let batch = BatchRef {
            hard_state: write.hard_state,
            log_start: write.log_start.as_ref(),
            entries: &write.entries,
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
        let file = match &self.current {
            Some(current) => segment::path(current.segment.generation),
            None => segment::DIR.to_owned(),
        };
        io::Error::new(error.kind(), format!("{}: {error}", self.disk.describe(&file)))
    }
}
