//! raft-engine next to `log`: the log of TiKV, for many raft groups; here for one.
//!
//! It writes the entries that our log writes, in the same directory: one batch, then `fdatasync`.
//! Entries are those of raft-rs, encoded with protobuf.
//!
//! Comparable: the time includes the encoding of the entries, the write and the sync, and nothing
//! else. Both write into files of the same size that are filled with zeros and were synced before
//! the measurement, and both use old files again. The entries are read again at the end.
//!
//! Not comparable: our log also writes term and vote with the entries, on blocks of their own. TiKV
//! writes its state next to the entries too, but that is left out here. raft-engine indexes in
//! memory where each entry is; here the core keeps the entries. Its removal of old entries and
//! files is not in its time. Compression is off, since it is of no use for random values; the
//! values here are all alike.

use crate::layers::log;
use crate::rounds::{Contestant, Error, Sample, Span};
use bytes::Bytes;
use raft_engine::{Config, Engine, LogBatch, MessageExt, ReadableSize};
use raft_rs::eraftpb::Entry;
use std::fs::{self, File};
use std::path::Path;
use std::time::{Duration, Instant};
use storage::LogConfig;

/// The raft group.
const GROUP: u64 = 1;

/// Files with entries, above which old ones are used again. Half as many more are filled with zeros
/// at the start.
const FILES: u64 = 4;

/// The bytes of a write before the measurement.
const FIRST_WRITE_BYTES: u64 = 1 << 20;

/// Old entries are removed after this many bytes of values.
const PURGE_BYTES: u64 = 8 << 20;

/// raft-engine in the setting of `log`.
pub fn contestant<'a>(
    batch: u64,
    setting: String,
    value: &'a Bytes,
    dir: &'a Path,
) -> Contestant<'a> {
    let measure = move |span| sample(span, batch, value, dir);
    Contestant { system: "raft-engine", setting, measure: Box::new(measure) }
}

fn sample(span: Span, batch: u64, value: &Bytes, dir: &Path) -> Result<Sample, Error> {
    let directory = tempfile::tempdir_in(dir)?;
    let config = config(directory.path())?;
    let mut log = Log::open(config.clone())?;
    // The files that were filled with zeros are on the disk before the measurement.
    for file in fs::read_dir(directory.path())? {
        File::open(file?.path())?.sync_all()?;
    }
    log.leave_first_file(value)?;
    log.write(batch, value)?;
    log.times.clear();
    log.bytes.clear();
    let watch = span.start();
    while watch.goes_on(log.times.len() as u64) {
        log.write(batch, value)?;
    }
    let Log { engine, last, mut times, mut bytes, .. } = log;
    drop(engine);
    check(config, last, batch, value)?;
    bytes.sort_unstable();
    let mut sample = log::of_times(&mut times, batch);
    sample.push(("bytes/write", bytes[bytes.len() / 2] as f64));
    Ok(sample)
}

/// The log of one group.
struct Log {
    engine: Engine,
    batch: LogBatch,
    /// The index of the last entry.
    last: u64,
    /// Bytes of values since old entries were removed.
    since_purge: u64,
    /// The time of each write.
    times: Vec<Duration>,
    /// The bytes of each write.
    bytes: Vec<usize>,
}

impl Log {
    fn open(config: Config) -> Result<Self, Error> {
        Ok(Log {
            engine: Engine::open(config)?,
            batch: LogBatch::default(),
            last: 0,
            since_purge: 0,
            times: Vec::new(),
            bytes: Vec::new(),
        })
    }

    /// Writes `batch` entries at once.
    fn write(&mut self, batch: u64, value: &Bytes) -> Result<(), Error> {
        let indexes = self.last + 1..=self.last + batch;
        let entries: Vec<Entry> = indexes.map(|index| entry(index, value)).collect();
        let began = Instant::now();
        self.batch.add_entries::<Entries>(GROUP, &entries)?;
        let bytes = self.engine.write(&mut self.batch, true)?;
        self.times.push(began.elapsed());
        self.bytes.push(bytes);
        self.last += batch;
        self.since_purge += batch * value.len() as u64;
        if self.since_purge >= PURGE_BYTES {
            self.purge(batch)?;
        }
        Ok(())
    }

    /// Removes all entries but the last ones.
    fn purge(&mut self, kept: u64) -> Result<(), Error> {
        self.since_purge = 0;
        self.engine.compact_to(GROUP, self.last + 1 - kept);
        self.engine.purge_expired_files()?;
        Ok(())
    }

    /// Writes until the first file is full. Only that one is new and not filled with zeros, and its
    /// syncs would take longer than those of all others.
    fn leave_first_file(&mut self, value: &Bytes) -> Result<(), Error> {
        let entries = (FIRST_WRITE_BYTES / value.len().max(1) as u64).clamp(1, 4096);
        let (mut written, file_bytes) = (0, LogConfig::default().segment_bytes as usize);
        while written < file_bytes {
            let indexes = self.last + 1..=self.last + entries;
            let new: Vec<Entry> = indexes.map(|index| entry(index, value)).collect();
            self.batch.add_entries::<Entries>(GROUP, &new)?;
            written += self.engine.write(&mut self.batch, false)?;
            self.last += entries;
        }
        // The next write begins the second file.
        self.purge(1)
    }
}

/// Opens the log again, and checks that it has all that was counted.
fn check(config: Config, last: u64, batch: u64, value: &Bytes) -> Result<(), Error> {
    let engine = Engine::open(config)?;
    assert_eq!(engine.last_index(GROUP), Some(last), "the last entry is in the log");
    let mut read = Vec::new();
    let first = last + 1 - batch;
    engine.fetch_entries_to::<Entries>(GROUP, first, last + 1, None, &mut read)?;
    let written: Vec<Entry> = (first..=last).map(|index| entry(index, value)).collect();
    assert!(read == written, "the last entries are as they were written");
    Ok(())
}

fn entry(index: u64, value: &Bytes) -> Entry {
    Entry { index, term: 1, data: value.clone(), ..Entry::default() }
}

/// Tells raft-engine what an entry is.
struct Entries;

impl MessageExt for Entries {
    type Entry = Entry;

    fn index(entry: &Entry) -> u64 {
        entry.index
    }
}

fn config(directory: &Path) -> Result<Config, Error> {
    let file_bytes = LogConfig::default().segment_bytes;
    Ok(Config {
        dir: directory.to_str().ok_or("the directory's name is not UTF-8")?.to_owned(),
        batch_compression_threshold: ReadableSize(0),
        target_file_size: ReadableSize(file_bytes),
        purge_threshold: ReadableSize(FILES * file_bytes),
        prefill_for_recycle: true,
        ..Config::default()
    })
}
