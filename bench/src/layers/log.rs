//! `log`: the log alone. Each write is synced. In the same rounds, a file that is preallocated and
//! filled with zeros gets as many bytes with a bare `fdatasync`: the limit of the disk.
//!
//! The writes are those of a real core with one node. Only the time in the log is counted.

use crate::cluster;
#[cfg(feature = "peers")]
use crate::peers;
use crate::rounds::{Base, Contestant, Error, Row, Sample, Span, in_turn};
use bytes::Bytes;
use raft::{Action, Incarnation, NodeId, Now, RawNode};
use std::cell::Cell;
use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::thread::{self, ThreadId};
use std::time::{Duration, Instant};
use storage::{
    ClusterId, Directory, Disk, DiskFile, LockError, Log, LogConfig, LogStore, RealDisk, RealFile,
};

/// Entries in a write.
const BATCHES: [u64; 2] = [1, 64];

const NODE: NodeId = NodeId(1);

/// The size of the file for the bare syncs.
const FILE_BYTES: u64 = 16 << 20;

const FDATASYNC: Base = Base { system: "fdatasync", ratio: "ratio to fdatasync" };
const RAFT_ENGINE: Base = Base { system: "raft-engine", ratio: "ratio to raft-engine" };

/// Measures the log below `dir`.
pub fn measure(rounds: u32, span: Span, value: &Bytes, dir: &Path) -> Result<Vec<Row>, Error> {
    let mut contestants = Vec::new();
    for batch in BATCHES {
        let setting = format!("{batch} a write");
        // The bytes of one write in the last round. The log is measured first.
        let write_bytes = Rc::new(Cell::new(0));
        let measured = write_bytes.clone();
        contestants.push(Contestant {
            system: "quorate-storage",
            setting: setting.clone(),
            measure: Box::new(move |span| {
                let (sample, bytes) = sample(span, batch, value, dir)?;
                measured.set(bytes);
                Ok(sample)
            }),
        });
        contestants.push(Contestant {
            system: "fdatasync",
            setting: setting.clone(),
            measure: Box::new(move |span| bare(span, batch, write_bytes.get(), dir)),
        });
        #[cfg(feature = "peers")]
        contestants.push(peers::raft_engine::contestant(batch, setting, value, dir));
    }
    in_turn(rounds, span, contestants, &[FDATASYNC, RAFT_ENGINE])
}

/// Measures the log once. Also returns the bytes of a write.
fn sample(span: Span, batch: u64, value: &Bytes, dir: &Path) -> Result<(Sample, u64), Error> {
    let directory = tempfile::tempdir_in(dir)?;
    let disk = CountingDisk::new(directory.path());
    let counts = disk.counts.clone();
    let mut node = SingleNode::open(disk)?;
    // The first entries are of the election.
    node.commit(batch, value)?;
    node.times.clear();
    let syncs = counts.syncs.load(Relaxed);
    let (watch, mut done) = (span.start(), 0);
    // The bytes of each write. Some also prepare a segment, so the median is what a write has.
    let mut bytes = Vec::new();
    while watch.goes_on(done) {
        let before = counts.bytes.load(Relaxed);
        node.commit(batch, value)?;
        bytes.push(counts.bytes.load(Relaxed) - before);
        done += 1;
    }
    bytes.sort_unstable();
    let bytes = bytes[bytes.len() / 2];
    let syncs = (counts.syncs.load(Relaxed) - syncs) as f64 / node.times.len() as f64;
    let mut sample = of_times(&mut node.times, batch);
    sample.extend([("bytes/write", bytes as f64), ("syncs/write", syncs)]);
    Ok((sample, bytes))
}

/// Writes and syncs as many bytes, without a log.
fn bare(span: Span, batch: u64, bytes: u64, dir: &Path) -> Result<Sample, Error> {
    let bytes = usize::try_from(bytes)?.max(1);
    let file = tempfile::tempfile_in(dir)?;
    fill(&file)?;
    let data = vec![b'x'; bytes];
    let mut times = Vec::new();
    let (watch, mut offset) = (span.start(), 0);
    while watch.goes_on(times.len() as u64) {
        if offset + bytes as u64 > FILE_BYTES {
            offset = 0;
        }
        let began = Instant::now();
        file.write_all_at(&data, offset)?;
        file.sync_data()?;
        times.push(began.elapsed());
        // The log begins each write on a block of its own.
        offset = (offset + bytes as u64).next_multiple_of(4096);
    }
    let mut sample = of_times(&mut times, batch);
    sample.extend([("bytes/write", bytes as f64), ("syncs/write", 1.0)]);
    Ok(sample)
}

/// Fills the file with zeros, so that a sync has no new blocks to record.
fn fill(file: &File) -> io::Result<()> {
    let zeros = vec![0; 1 << 20];
    for offset in (0..FILE_BYTES).step_by(zeros.len()) {
        file.write_all_at(&zeros, offset)?;
    }
    file.sync_all()
}

/// The figures of writes that took these times.
pub fn of_times(times: &mut [Duration], batch: u64) -> Sample {
    times.sort_unstable();
    let seconds: f64 = times.iter().map(Duration::as_secs_f64).sum();
    let writes = times.len() as f64 / seconds;
    let at = |part: f64| {
        let place = (times.len() as f64 * part) as usize;
        times[place.min(times.len() - 1)].as_secs_f64() * 1e6
    };
    vec![
        ("writes/s", writes),
        ("entries/s", writes * batch as f64),
        ("p50 us", at(0.5)),
        ("p99 us", at(0.99)),
    ]
}

/// A cluster of one node, with a log.
struct SingleNode<D: Disk> {
    node: RawNode,
    log: Log<D>,
    now: Now,
    /// The time of each write.
    times: Vec<Duration>,
}

impl<D: Disk> SingleNode<D> {
    fn open(disk: D) -> Result<Self, Error> {
        let (log, restored) = match Directory::open(disk, LogConfig::default())?.0 {
            Directory::Member(member) => member.into_log(),
            Directory::Unclaimed(unclaimed) => unclaimed
                .announce(NODE, Incarnation(NODE.0), &[NODE])?
                .join(ClusterId(1), cluster::of(&[NODE]))?
                .into_log(),
        };
        let node = RawNode::new(cluster::config(NODE), restored)?;
        let now = Now { monotonic_ns: 1, wall_ms: 1 };
        let mut single = SingleNode { node, log, now, times: Vec::new() };
        single.node.campaign(now);
        single.settle()?;
        Ok(single)
    }

    /// Writes `batch` entries at once.
    fn commit(&mut self, batch: u64, value: &Bytes) -> Result<(), Error> {
        for _ in 0..batch {
            self.node.propose(self.now, value.clone())?;
        }
        self.settle()
    }

    fn settle(&mut self) -> Result<(), Error> {
        while let Some(action) = self.node.poll() {
            match action {
                Action::Persist(write) => {
                    let began = Instant::now();
                    let durable = self.log.persist(write)?;
                    self.times.push(began.elapsed());
                    self.node.persisted(self.now, durable);
                }
                Action::Apply(apply) => self.node.applied(self.now, apply.applied()),
                // The log may free what is behind it. The snapshot itself is not what is measured.
                Action::TakeSnapshot(order) => self.node.compact(self.now, order.durable()),
                other => panic!("a single node does not {other:?}"),
            }
        }
        Ok(())
    }
}

/// What one thread has written and synced. The thread that prepares segments does not count.
#[derive(Debug)]
struct Counts {
    of: ThreadId,
    bytes: AtomicU64,
    syncs: AtomicU64,
}

impl Counts {
    fn add(&self, counter: &AtomicU64, number: u64) {
        if thread::current().id() == self.of {
            counter.fetch_add(number, Relaxed);
        }
    }
}

/// A disk that counts what this thread writes to its files and syncs.
#[derive(Clone, Debug)]
struct CountingDisk {
    disk: RealDisk,
    counts: Arc<Counts>,
}

impl CountingDisk {
    fn new(directory: &Path) -> Self {
        let (bytes, syncs) = (AtomicU64::new(0), AtomicU64::new(0));
        let counts = Counts { of: thread::current().id(), bytes, syncs };
        CountingDisk { disk: RealDisk::new(directory), counts: Arc::new(counts) }
    }

    fn counted(&self, file: RealFile) -> CountingFile {
        CountingFile { file, counts: self.counts.clone() }
    }
}

impl Disk for CountingDisk {
    type File = CountingFile;

    fn lock(&self) -> Result<(), LockError> {
        self.disk.lock()
    }

    fn create_dir(&self, dir: &str) -> io::Result<()> {
        self.disk.create_dir(dir)
    }

    fn list(&self, dir: &str) -> io::Result<Vec<String>> {
        self.disk.list(dir)
    }

    fn create(&self, path: &str) -> io::Result<CountingFile> {
        self.disk.create(path).map(|file| self.counted(file))
    }

    fn open(&self, path: &str) -> io::Result<CountingFile> {
        self.disk.open(path).map(|file| self.counted(file))
    }

    fn rename(&self, from: &str, to: &str) -> io::Result<()> {
        self.disk.rename(from, to)
    }

    fn remove(&self, path: &str) -> io::Result<()> {
        self.disk.remove(path)
    }

    fn sync_dir(&self, dir: &str) -> io::Result<()> {
        self.disk.sync_dir(dir)
    }

    fn free_bytes(&self) -> Option<u64> {
        self.disk.free_bytes()
    }

    fn describe(&self, path: &str) -> String {
        self.disk.describe(path)
    }
}

struct CountingFile {
    file: RealFile,
    counts: Arc<Counts>,
}

impl DiskFile for CountingFile {
    fn len(&self) -> io::Result<u64> {
        self.file.len()
    }

    fn read_at(&self, offset: u64, buf: &mut [u8]) -> io::Result<usize> {
        self.file.read_at(offset, buf)
    }

    fn reserve(&mut self, bytes: u64) -> io::Result<()> {
        self.file.reserve(bytes)
    }

    fn write_at(&mut self, offset: u64, data: &[u8]) -> io::Result<()> {
        self.counts.add(&self.counts.bytes, data.len() as u64);
        self.file.write_at(offset, data)
    }

    fn sync_data(&mut self) -> io::Result<()> {
        self.counts.add(&self.counts.syncs, 1);
        self.file.sync_data()
    }

    fn set_len(&mut self, len: u64) -> io::Result<()> {
        self.file.set_len(len)
    }
}
