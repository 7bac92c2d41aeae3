//! Segments: the files of the log.
//!
//! A segment is filled with zeros before its first use, and is reused when its content is no longer
//! needed. A data sync of space that was written before needs no journal commit, which about halves
//! its cost. A background thread prepares the next segment, so no write waits for that. Where
//! threads are not allowed (in a simulation), it is prepared on demand.
//!
//! A file has its final name, durably, before any batch is written to it. The name is its
//! generation. A segment that is kept for reuse has another extension, so that a start need not
//! read it.

use crate::block::BLOCK_BYTES;
use crate::disk::NO_INODES;
use crate::{Disk, DiskFile};
use std::collections::BTreeMap;
use std::io;
use std::sync::mpsc;
use std::thread::JoinHandle;

pub(crate) const DIR: &str = "log";
/// The name of a new segment while it is filled with zeros.
const TEMPORARY: &str = "log/next.tmp";
/// The size of one write of zeros.
const FILL_BYTES: usize = 1 << 20;
/// The size of one read.
const READ_BYTES: usize = 1 << 20;

pub(crate) fn path(generation: u64) -> String {
    format!("{DIR}/{generation:016x}.seg")
}

/// The path of a segment that was `generation` and is kept for reuse.
pub(crate) fn spare_path(generation: u64) -> String {
    format!("{DIR}/{generation:016x}.spare")
}

/// The generation of the segment with this name in [`DIR`].
pub(crate) fn parse(name: &str) -> Option<u64> {
    generation(name.strip_suffix(".seg")?)
}

/// The former generation of the spare segment with this name in [`DIR`].
pub(crate) fn parse_spare(name: &str) -> Option<u64> {
    generation(name.strip_suffix(".spare")?)
}

fn generation(digits: &str) -> Option<u64> {
    if digits.len() != 16 {
        return None;
    }
    u64::from_str_radix(digits, 16).ok().filter(|generation| format!("{generation:016x}") == digits)
}

/// Whether a name in [`DIR`] is that of a segment whose preparation did not finish.
pub(crate) fn is_temporary(name: &str) -> bool {
    TEMPORARY.strip_prefix(DIR).and_then(|rest| rest.strip_prefix('/')) == Some(name)
}

/// An open segment.
#[derive(Debug)]
pub(crate) struct Segment<F> {
    pub generation: u64,
    pub file: F,
    pub len: u64,
}

/// A segment that is no longer needed, and is kept for reuse.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Spare {
    /// The generation that it was.
    pub generation: u64,
    /// Whether it has the name of a spare one.
    pub is_renamed: bool,
}

impl Spare {
    pub fn path(self) -> String {
        match self.is_renamed {
            true => spare_path(self.generation),
            false => path(self.generation),
        }
    }
}

/// An order to prepare a segment.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Order {
    pub generation: u64,
    pub bytes: u64,
    /// A spare segment to be reused.
    pub recycled: Option<Spare>,
}

/// Prepares the next segment.
pub(crate) struct Preparer<D: Disk> {
    disk: D,
    /// The order that is pending.
    ordered: Option<Order>,
    worker: Option<Worker<D>>,
}

struct Worker<D: Disk> {
    orders: Option<mpsc::SyncSender<Order>>,
    done: mpsc::Receiver<io::Result<Segment<D::File>>>,
    thread: Option<JoinHandle<()>>,
}

impl<D: Disk> Preparer<D> {
    /// A preparer with a thread of its own, or one that prepares when the result is taken.
    pub fn new(disk: D, background: bool) -> io::Result<Self> {
        let worker = if background { Some(Worker::start(disk.clone())?) } else { None };
        Ok(Preparer { disk, ordered: None, worker })
    }

    /// The bytes of the segment that is ordered.
    pub fn ordered_bytes(&self) -> Option<u64> {
        self.ordered.map(|order| order.bytes)
    }

    /// Orders the next segment. No other order may be pending.
    pub fn order(&mut self, order: Order) {
        assert!(self.ordered.is_none(), "one segment is prepared at a time");
        self.ordered = Some(order);
        if let Some(worker) = &self.worker {
            worker.order(order);
        }
    }

    /// Waits for the ordered segment.
    pub fn take(&mut self) -> io::Result<Segment<D::File>> {
        let order = self.ordered.take().expect("the caller has ordered it");
        match &self.worker {
            // The order may have failed long ago. There may be room by now.
            Some(worker) => match worker.done.recv().map_err(io::Error::other)? {
                Err(error) if error.kind() == io::ErrorKind::StorageFull => {
                    prepare(&self.disk, order)
                }
                prepared => prepared,
            },
            None => prepare(&self.disk, order),
        }
    }
}

impl<D: Disk> Worker<D> {
    fn start(disk: D) -> io::Result<Self> {
        let (orders, work) = mpsc::sync_channel(1);
        let (results, done) = mpsc::sync_channel(1);
        let thread = std::thread::Builder::new().name("log-segments".into()).spawn(move || {
            while let Ok(order) = work.recv() {
                if results.send(prepare(&disk, order)).is_err() {
                    break;
                }
            }
        })?;
        Ok(Worker { orders: Some(orders), done, thread: Some(thread) })
    }

    fn order(&self, order: Order) {
        if let Some(orders) = &self.orders {
            // If the thread has ended, `take` reports it.
            let _ = orders.send(order);
        }
    }
}

impl<D: Disk> Drop for Worker<D> {
    /// Waits for the thread: nothing uses the directory after the log is dropped.
    fn drop(&mut self) {
        self.orders = None;
        if let Some(thread) = self.thread.take() {
            // A destructor cannot propagate a panic of the thread.
            let _ = thread.join();
        }
    }
}

/// Why there is no next segment, for an operator. It names the file.
#[derive(Debug, thiserror::Error)]
#[error("{text}")]
pub(crate) struct Unprepared {
    text: String,
    source: io::Error,
}

/// An error of preparing a segment of `bytes` bytes, with the file and the room in its text.
pub(crate) fn unprepared(disk: &impl Disk, bytes: u64, error: io::Error) -> io::Error {
    let file = disk.describe(TEMPORARY);
    let free = disk.free_bytes();
    let text = match (error.kind(), free.filter(|free| *free < bytes)) {
        (io::ErrorKind::StorageFull, Some(free)) => format!(
            "no room for the next log segment ({file}): {} are needed and {} are free",
            Size(bytes),
            Size(free)
        ),
        (io::ErrorKind::StorageFull, None) if disk.free_files() == Some(0) => {
            format!("no room for the next log segment ({file}): {NO_INODES}")
        }
        (io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded, _) => format!(
            "no room for the next log segment ({file}): {} are needed: {error}",
            Size(bytes)
        ),
        (io::ErrorKind::FileTooLarge, _) => error.to_string(),
        _ => format!("the next log segment ({file}) cannot be prepared: {error}"),
    };
    io::Error::new(error.kind(), Unprepared { text, source: error })
}

/// A number of bytes in the largest unit in which it is at least 1, rounded down.
struct Size(u64);

impl std::fmt::Display for Size {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self.0 {
            bytes if bytes >= 1 << 20 => write!(f, "{} MiB", bytes >> 20),
            bytes if bytes >= 1 << 10 => write!(f, "{} KiB", bytes >> 10),
            bytes => write!(f, "{bytes} bytes"),
        }
    }
}

fn prepare<D: Disk>(disk: &D, order: Order) -> io::Result<Segment<D::File>> {
    let prepared = try_prepare(disk, order);
    if prepared.is_err() {
        // The segment is not used; another generation is prepared instead. It holds only zeros or
        // content that is no longer needed. If it cannot be removed, the next start finds it.
        let _ = disk.remove(&path(order.generation));
    }
    prepared
}

fn try_prepare<D: Disk>(disk: &D, order: Order) -> io::Result<Segment<D::File>> {
    let name = path(order.generation);
    let recycled = match order.recycled {
        Some(old) => reuse(disk, old, &name)?,
        None => None,
    };
    let file = match recycled {
        Some(file) => file,
        None => {
            // An earlier attempt may have failed to remove it.
            match disk.remove(TEMPORARY) {
                Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
                _ => {}
            }
            // Checked first: without room not even the file is created, and a reservation on some
            // file systems takes all that is free before it fails.
            if disk.free_bytes().is_some_and(|free| free < order.bytes) {
                return Err(io::ErrorKind::StorageFull.into());
            }
            let mut file = disk.create(TEMPORARY)?;
            let filled = file.reserve(order.bytes).and_then(|()| fill(&mut file, order.bytes));
            if let Err(error) = filled {
                drop(file);
                // The disk may be full because of this file. If this fails, the next start removes
                // it.
                let _ = disk.remove(TEMPORARY);
                return Err(error);
            }
            disk.rename(TEMPORARY, &name)?;
            file
        }
    };
    disk.sync_dir(DIR)?;
    Ok(Segment { generation: order.generation, file, len: order.bytes })
}

/// Gives a spare segment its new name. `None` if somebody has removed it, or if the disk cannot
/// read all of it: a start would take such a block for one that may hold the next batch.
fn reuse<D: Disk>(disk: &D, old: Spare, name: &str) -> io::Result<Option<D::File>> {
    let path = old.path();
    if !is_readable(disk, &path) {
        return match disk.remove(&path) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
            _ => Ok(None),
        };
    }
    disk.rename(&path, name)?;
    disk.open(name).map(Some)
}

fn is_readable(disk: &impl Disk, path: &str) -> bool {
    let read = || -> io::Result<()> {
        let file = disk.open(path)?;
        let (len, mut buffer) = (file.len()?, vec![0; READ_BYTES]);
        let mut offset = 0;
        while offset < len {
            let part = (len - offset).min(READ_BYTES as u64) as usize;
            crate::disk::read_exact_at(&file, offset, &mut buffer[..part])?;
            offset += part as u64;
        }
        Ok(())
    };
    read().is_ok()
}

fn fill(file: &mut impl DiskFile, bytes: u64) -> io::Result<()> {
    let zeros = vec![0; FILL_BYTES.min(bytes as usize)];
    let mut offset = 0;
    while offset < bytes {
        let len = zeros.len().min((bytes - offset) as usize);
        file.write_at(offset, &zeros[..len])?;
        offset += len as u64;
    }
    file.sync_data()
}

/// The content of a segment.
#[derive(Debug, Default)]
pub(crate) struct Content {
    /// Whole blocks. One that the disk cannot read counts as damaged.
    pub blocks: Vec<u8>,
    /// The blocks that the disk cannot read, by position.
    pub unreadable: BTreeMap<u32, io::Error>,
}

/// Reads a whole segment. A part of a block at the end is filled up with zeros: a power failure may
/// leave only a part of a batch that extended its file.
pub(crate) fn read(file: &impl DiskFile) -> io::Result<Content> {
    let len = usize::try_from(file.len()?).map_err(io::Error::other)?;
    let mut blocks = vec![0; len];
    let mut unreadable = BTreeMap::new();
    for (chunk_at, chunk) in (0..).step_by(READ_BYTES).zip(blocks.chunks_mut(READ_BYTES)) {
        if crate::disk::read_exact_at(file, chunk_at, chunk).is_ok() {
            continue;
        }
        for (at, block) in (chunk_at..).step_by(BLOCK_BYTES).zip(chunk.chunks_mut(BLOCK_BYTES)) {
            if let Err(error) = crate::disk::read_exact_at(file, at, block) {
                block.fill(0xff);
                unreadable.insert((at / BLOCK_BYTES as u64) as u32, error);
            }
        }
    }
    blocks.resize(len.next_multiple_of(BLOCK_BYTES), 0);
    Ok(Content { blocks, unreadable })
}
