//! How a log starts: it is opened, takes over what a scan has found, and makes that durable again.
//!
//! `recovery.rs` decides what the disk holds, and writes nothing. This file carries the decision
//! out: it erases what was never acknowledged, writes the latest batch once more, or writes the
//! whole log anew after a loss. The writer (`log.rs`) is ready after that.

use super::{AppendError, Change, Current, Full, Log, LogConfig, Share, State, seed};
use crate::block::{BLOCK_BYTES, BlockWriter};
use crate::disk::Disk;
use crate::mark::{self, Mark, MarkFile};
use crate::recovery::{Case, OpenError, Remains, Scan, Scanned};
use crate::replay::Latest;
use crate::segment::{self, Preparer, Segment, Spare};
use crate::{DiskFile, Identity, codec};
use raft::{Entry, Restored, Snapshot};
use std::collections::VecDeque;
use std::io;

/// The size in bytes of a batch when entries are rewritten after a loss.
const REWRITE_BYTES: usize = 1 << 20;

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

impl<D: Disk> Log<D> {
    /// Locks a directory and reads its content. See [`Case`] for the possible findings.
    pub fn open(disk: D, config: LogConfig) -> Result<(Log<D>, Recovery), OpenError> {
        let segment_bytes = config.segment_bytes;
        if segment_bytes == 0 || !segment_bytes.is_multiple_of(BLOCK_BYTES as u64) {
            return Err(OpenError::SegmentSize { bytes: segment_bytes });
        }
        let bytes_max = config.bytes_max;
        if bytes_max / 2 < segment_bytes {
            return Err(OpenError::Bound { bytes_max, segment_bytes });
        }
        disk.lock()?;
        let io = |path: &str| {
            let path = path.to_owned();
            move |source| OpenError::Io { path, source }
        };
        disk.create_dir(segment::DIR).map_err(io(segment::DIR))?;
        disk.sync_dir("").map_err(io("."))?;
        let identity = Identity::read(&disk)?;
        let Found { generations, spares, mut cases } = list(&disk).map_err(io(segment::DIR))?;
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
            next_generation: generations.last().max(spares.last()).map_or(1, |last| last + 1),
            preparer,
            mark: None,
            batches_since_mark: 0,
            has_moved: false,
            state: State::default(),
            writer: BlockWriter::default(),
            new_base: Vec::new(),
            failed: None,
        };
        let Some(identity) = log.identity.clone() else {
            if marked || !generations.is_empty() || !spares.is_empty() {
                return Err(OpenError::IdentityMissing);
            }
            cases.push(Case::Empty);
            return Ok((log, Recovery { identity: None, restored: None, cases, batches: 0 }));
        };
        log.take_spares(spares, &generations);
        let mut mark = None;
        if marked {
            let opened = MarkFile::open(&log.disk, log.seed);
            let (file, found) = opened.map_err(|source| OpenError::MarkUnreadable { source })?;
            (log.mark, mark) = (Some(file), found);
        }
        let mut scan = Scan::default();
        for generation in &generations {
            let path = segment::path(*generation);
            let content =
                (log.disk.open(&path)).and_then(|file| segment::read(&file)).map_err(io(&path))?;
            scan.segment(content, log.seed, *generation)
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
            repeats_after: None,
            share: Share::Any,
            entries: &[],
        };
        self.commit(change).map_err(AppendError::into_io)?;
        self.open_mark()?;
        Ok(restored)
    }

    /// Creates the file of the mark if there is none, with a first mark.
    pub(super) fn open_mark(&mut self) -> io::Result<()> {
        if self.mark.is_none() {
            self.mark = Some(MarkFile::open(&self.disk, self.seed)?.0);
            self.write_mark()?;
            if let Some(mark) = &mut self.mark {
                mark.sync()?;
            }
        }
        Ok(())
    }

    /// Takes over the spare segments that earlier starts have left. One of another size is removed,
    /// and one whose generation is that of a segment too: an earlier version, which knows no spare
    /// segments, has used the generation again.
    fn take_spares(&mut self, found: Vec<u64>, generations: &[u64]) {
        for generation in found {
            let spare = Spare { generation, is_renamed: true };
            let len = self.disk.open(&spare.path()).and_then(|file| file.len());
            let is_usual = len.is_ok_and(|len| len == self.config.segment_bytes);
            // One that cannot be removed is found by the next start.
            match is_usual && !generations.contains(&generation) {
                true => self.spares.push_back(spare),
                false => drop(self.disk.remove(&spare.path())),
            }
        }
        self.limit_spares();
    }

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
        debug_assert_eq!(self.broken_invariant(), None);
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
    /// a new write is certain. The latest batch may itself be a repetition whose sync failed, so
    /// the new one repeats all that it repeats.
    fn repeat(&mut self, restored: &Restored, latest: Latest, count: usize) -> io::Result<()> {
        let (reset, repeats_after) = (latest.reset, Some(latest.synced));
        let entries: &[&[Entry]] = &[&restored.entries[restored.entries.len() - count..]];
        let hard_state = restored.hard_state;
        let share = Share::Any;
        let change = Change { hard_state, base: None, reset, repeats_after, share, entries };
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
            let entries: &[&[Entry]] = &[entries];
            let hard_state = restored.hard_state;
            let change = Change {
                hard_state,
                base: None,
                reset,
                repeats_after: None,
                share: Share::Any,
                entries,
            };
            self.commit(change).map_err(AppendError::into_io)?;
            (rest, reset) = (later, false);
        }
        Ok(())
    }

    /// Erases blocks that were never acknowledged, so that they cannot pass for part of a later
    /// batch.
    fn erase(&mut self, remains: &[Remains]) -> io::Result<()> {
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

/// The contents of the log's directory.
#[derive(Default)]
struct Found {
    /// The generations of the segments, ascending.
    generations: Vec<u64>,
    /// The former generations of the spare segments, ascending.
    spares: Vec<u64>,
    /// The files that are not segments.
    cases: Vec<Case>,
}

/// Lists the directory, and removes a segment that was not finished.
fn list(disk: &impl Disk) -> io::Result<Found> {
    let mut found = Found::default();
    for name in disk.list(segment::DIR)? {
        if let Some(generation) = segment::parse(&name) {
            found.generations.push(generation);
        } else if let Some(generation) = segment::parse_spare(&name) {
            found.spares.push(generation);
        } else if segment::is_temporary(&name) {
            disk.remove(&format!("{}/{name}", segment::DIR))?;
        } else {
            found.cases.push(Case::ForeignFile { name });
        }
    }
    Ok(found)
}
