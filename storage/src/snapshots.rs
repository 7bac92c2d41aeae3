//! The snapshot store. Each snapshot is one file, named after the last entry it contains.
//!
//! A file is written under a temporary name, synced, and then renamed, so a file with a final name
//! is complete. A reader verifies it all the same. It returns bytes only after the checksum of
//! their chunk is correct, and reports the end of the state only where the trailer confirms it.
//!
//! ```text
//! "raft-snp", version: u8, length: u32, raft::Snapshot (codec), checksum: u32
//! chunk:   length: u32, checksum: u32, bytes    the checksum continues the previous one, so chunks
//! ...                                           can be neither reordered nor omitted
//! trailer: 0: u32, checksum: u32, bytes of state: u64
//! ```
//!
//! A snapshot that is received from a peer is written to a file of its own kind (`.part`), which
//! stays when the process ends. The next start reads and verifies it, and the transfer continues
//! after the chunks that are intact. There is at most one.
//!
//! The store does not know which snapshots are needed. The caller keeps the one that the durable
//! log begins after. When the log durably begins after a later snapshot, the caller calls
//! [`Snapshots::remove_before`]. Snapshots later than that remain.

use crate::disk::{named, read_exact_at};
use crate::{Disk, DiskFile, codec};
use raft::{LogId, Snapshot};
use std::io::{self, Read, Write};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

const DIR: &str = "snapshots";
const MAGIC: &[u8; 8] = b"raft-snp";
/// Magic, version, and length of the description.
const HEAD_BYTES: usize = 8 + 1 + 4;
/// Length and checksum of a chunk.
const CHUNK_HEAD_BYTES: usize = 8;
const TRAILER_BYTES: usize = 16;
/// The most bytes of state in a chunk.
const CHUNK_BYTES: usize = 64 << 10;
/// The state is synced each time this many bytes of it were written. A single sync at the end would
/// let the log's syncs wait behind all of it.
const SYNC_BYTES: u64 = 4 << 20;
/// The most bytes of an encoded description ([`Snapshot`]).
const DESCRIPTION_BYTES_MAX: u32 = 16 << 20;

/// The snapshots of a data directory. A clone is another handle to them.
#[derive(Clone, Debug)]
pub struct Snapshots<D> {
    disk: D,
    /// The number of the next temporary file.
    temporaries: Arc<AtomicU64>,
}

impl<D: Disk> Snapshots<D> {
    /// Opens the snapshots in `disk`, which the caller has locked. Removes unfinished files of an
    /// earlier process, but not what it has received from a peer.
    pub fn new(disk: D) -> io::Result<Self> {
        disk.create_dir(DIR)?;
        disk.sync_dir("")?;
        for name in disk.list(DIR)?.iter().filter(|name| name.ends_with(".tmp")) {
            disk.remove(&format!("{DIR}/{name}"))?;
        }
        Ok(Snapshots { disk, temporaries: Arc::default() })
    }

    /// Begins a snapshot. Write the state to the returned writer, an [`io::Write`]. The snapshot
    /// exists only after [`SnapshotWriter::finish`].
    pub fn create(&self, snapshot: &Snapshot) -> io::Result<SnapshotWriter<D>> {
        let number = self.temporaries.fetch_add(1, Ordering::Relaxed);
        self.begin(snapshot, format!("{DIR}/{number}.tmp"), false)
    }

    /// Begins the reception of a snapshot from a peer. Unlike [`Snapshots::create`], what has been
    /// written stays if the writer is dropped: [`Snapshots::unfinished`] finds it at the next
    /// start. It replaces any earlier part.
    pub fn receive(&self, snapshot: &Snapshot) -> io::Result<SnapshotWriter<D>> {
        for part in self.parts()? {
            self.disk.remove(&path(part, PART))?;
        }
        self.begin(snapshot, path(snapshot.last, PART), true)
    }

    /// The part of a snapshot that an earlier process has received. Reads and verifies it. Call it
    /// at most once, before [`Snapshots::receive`]: two writers of one file would mix.
    pub fn unfinished(&self) -> io::Result<Option<Part<D>>> {
        let mut parts = self.parts()?;
        let Some(id) = parts.pop() else { return Ok(None) };
        // A removal may have been undone by a power failure.
        for older in parts {
            self.disk.remove(&path(older, PART))?;
        }
        let file = self.disk.open(&path(id, PART))?;
        let Some(mut reader) = SnapshotReader::of_part(id, file) else {
            self.disk.remove(&path(id, PART))?;
            return Ok(None);
        };
        let mut checksum = 0;
        while reader.next_chunk().is_ok() && !reader.ended {
            checksum = crc32c::crc32c_append(checksum, &reader.chunk);
        }
        let SnapshotReader { mut file, snapshot, offset, read_bytes, .. } = reader;
        // The bytes after this are damaged. They must not be read as the end of the snapshot.
        file.set_len(offset)?;
        file.sync_data()?;
        let writer = SnapshotWriter {
            disk: self.disk.clone(),
            file: Some(file),
            temporary: path(id, PART),
            stays: true,
            id,
            buffer: vec![0; CHUNK_HEAD_BYTES],
            offset,
            checksum: reader.checksum,
            state_bytes: read_bytes,
            synced: offset,
        };
        Ok(Some(Part { snapshot, bytes: read_bytes, checksum, writer }))
    }

    fn parts(&self) -> io::Result<Vec<LogId>> {
        Ok(self.disk.list(DIR)?.iter().filter_map(|name| parse(name, PART)).collect())
    }

    fn begin(
        &self,
        snapshot: &Snapshot,
        temporary: String,
        stays: bool,
    ) -> io::Result<SnapshotWriter<D>> {
        let created = self.disk.create(&temporary);
        let file = created.map_err(|error| named(&self.disk, &temporary, error))?;
        let mut description = Vec::new();
        codec::encode(snapshot, &mut description);
        let length = u32::try_from(description.len()).map_err(io::Error::other)?;
        let mut buffer = MAGIC.to_vec();
        buffer.push(codec::VERSION);
        buffer.extend_from_slice(&length.to_le_bytes());
        buffer.extend_from_slice(&description);
        let checksum = crc32c::crc32c(&buffer);
        buffer.extend_from_slice(&checksum.to_le_bytes());
        let mut writer = SnapshotWriter {
            disk: self.disk.clone(),
            file: Some(file),
            temporary,
            stays,
            id: snapshot.last,
            buffer,
            offset: 0,
            checksum,
            state_bytes: 0,
            synced: 0,
        };
        writer.write_out()?;
        Ok(writer)
    }

    /// Opens a snapshot to read its state. Chunks are verified as they are read.
    pub fn open(&self, id: LogId) -> Result<SnapshotReader<D::File>, SnapshotError> {
        let file = match self.disk.open(&path(id, FINISHED)) {
            Ok(file) => file,
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                return Err(SnapshotError::Missing { id });
            }
            Err(source) => return Err(SnapshotError::Io { id, source }),
        };
        SnapshotReader::open(id, file)
    }

    /// Reads and verifies a whole snapshot. Returns its description.
    pub fn verify(&self, id: LogId) -> Result<Snapshot, SnapshotError> {
        let mut reader = self.open(id)?;
        while !reader.ended {
            reader.next_chunk()?;
        }
        Ok(reader.snapshot)
    }

    /// The finished snapshots, ordered by the index of their last entry.
    pub fn list(&self) -> io::Result<Vec<LogId>> {
        Ok(self.disk.list(DIR)?.iter().filter_map(|name| parse(name, FINISHED)).collect())
    }

    /// Removes the snapshots that are not needed once the durable log begins after `base`. It keeps
    /// `base`, those in `kept`, and later ones, which the log may be about to begin after.
    pub fn remove_before(&self, base: LogId, kept: &[LogId]) -> io::Result<()> {
        for id in self.list()? {
            if id != base && id.index <= base.index && !kept.contains(&id) {
                self.remove(id)?;
            }
        }
        for id in self.parts()? {
            if id.index <= base.index {
                self.disk.remove(&path(id, PART))?;
            }
        }
        Ok(())
    }

    /// Removes a finished snapshot.
    pub(crate) fn remove(&self, id: LogId) -> io::Result<()> {
        self.disk.remove(&path(id, FINISHED))
    }
}

/// The ending of the name of a finished snapshot.
const FINISHED: &str = ".snap";
/// The ending of the name of a snapshot that is received.
const PART: &str = ".part";

fn path(id: LogId, ending: &str) -> String {
    format!("{DIR}/{:016x}-{:016x}{ending}", id.index.0, id.term.0)
}

fn parse(name: &str, ending: &str) -> Option<LogId> {
    let (index, term) = name.strip_suffix(ending)?.split_once('-')?;
    let number = |text: &str| match text.len() {
        16 => u64::from_str_radix(text, 16).ok(),
        _ => None,
    };
    Some(LogId::new(number(index)?, number(term)?))
}

/// The first bytes of a snapshot, which an earlier process has received.
pub struct Part<D: Disk> {
    /// The description of the snapshot.
    pub snapshot: Snapshot,
    /// The bytes of state that are there, and their CRC-32C.
    pub bytes: u64,
    /// See `bytes`.
    pub checksum: u32,
    /// Continues after them.
    pub writer: SnapshotWriter<D>,
}

/// Writes the state of a snapshot. If it is dropped before `finish`, the file is removed, unless
/// the snapshot is one that is [received](Snapshots::receive).
pub struct SnapshotWriter<D: Disk> {
    disk: D,
    /// `None` once it is finished.
    file: Option<D::File>,
    temporary: String,
    /// The file stays if the writer is dropped.
    stays: bool,
    id: LogId,
    /// The chunk being filled, after space for its head.
    buffer: Vec<u8>,
    /// The offset of the buffer in the file.
    offset: u64,
    /// The running checksum of everything before the buffer.
    checksum: u32,
    state_bytes: u64,
    /// The file is synced up to here.
    synced: u64,
}

impl<D: Disk> SnapshotWriter<D> {
    /// The bytes of state written so far.
    pub fn state_bytes(&self) -> u64 {
        self.state_bytes
    }

    /// Removes what was written.
    pub fn discard(mut self) {
        self.stays = false;
    }

    /// Makes the snapshot durable: after this returns it survives a power failure. If it fails,
    /// nothing stays.
    pub fn finish(mut self) -> io::Result<()> {
        self.stays = false;
        self.end_chunk()?;
        self.buffer.clear();
        self.buffer.extend_from_slice(&0u32.to_le_bytes());
        let total = self.state_bytes.to_le_bytes();
        self.buffer.extend_from_slice(&crc32c::crc32c_append(self.checksum, &total).to_le_bytes());
        self.buffer.extend_from_slice(&total);
        self.write_out()?;
        let Some(mut file) = self.file.take() else { return Ok(()) };
        let done = file
            .sync_data()
            .and_then(|()| self.disk.rename(&self.temporary, &path(self.id, FINISHED)))
            .and_then(|()| self.disk.sync_dir(DIR));
        if done.is_err() {
            self.file = Some(file);
        }
        done.map_err(|error| named(&self.disk, &self.temporary, error))
    }

    fn end_chunk(&mut self) -> io::Result<()> {
        let length = self.buffer.len() - CHUNK_HEAD_BYTES;
        if length == 0 {
            return Ok(());
        }
        self.checksum = crc32c::crc32c_append(self.checksum, &self.buffer[CHUNK_HEAD_BYTES..]);
        self.buffer[..4].copy_from_slice(&(length as u32).to_le_bytes());
        self.buffer[4..8].copy_from_slice(&self.checksum.to_le_bytes());
        self.write_out()
    }

    /// Writes the buffer and begins the next chunk.
    fn write_out(&mut self) -> io::Result<()> {
        self.try_write_out().map_err(|error| named(&self.disk, &self.temporary, error))
    }

    fn try_write_out(&mut self) -> io::Result<()> {
        if let Some(file) = &mut self.file {
            file.write_at(self.offset, &self.buffer)?;
        }
        self.offset += self.buffer.len() as u64;
        self.buffer.clear();
        self.buffer.resize(CHUNK_HEAD_BYTES, 0);
        if self.offset - self.synced >= SYNC_BYTES
            && let Some(file) = &mut self.file
        {
            file.sync_data()?;
            self.synced = self.offset;
        }
        Ok(())
    }
}

impl<D: Disk> Write for SnapshotWriter<D> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let room = CHUNK_HEAD_BYTES + CHUNK_BYTES - self.buffer.len();
        let taken = room.min(bytes.len());
        self.buffer.extend_from_slice(&bytes[..taken]);
        self.state_bytes += taken as u64;
        if taken == room {
            self.end_chunk()?;
        }
        Ok(taken)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl<D: Disk> Drop for SnapshotWriter<D> {
    fn drop(&mut self) {
        if self.file.take().is_some() && !self.stays {
            // If it cannot be removed now, the next start removes it.
            let _ = self.disk.remove(&self.temporary);
        }
    }
}

/// Reads the state of a snapshot, as an [`io::Read`]. All bytes that it returns are verified.
#[derive(Debug)]
pub struct SnapshotReader<F> {
    file: F,
    id: LogId,
    snapshot: Snapshot,
    /// The current chunk, and how many of its bytes were returned.
    chunk: Vec<u8>,
    given: usize,
    /// The offset of the next chunk.
    offset: u64,
    /// The running checksum of everything before the next chunk.
    checksum: u32,
    /// The bytes of state read so far, and their total according to the trailer.
    read_bytes: u64,
    state_bytes: u64,
    ended: bool,
}

impl<F: DiskFile> SnapshotReader<F> {
    fn open(id: LogId, file: F) -> Result<Self, SnapshotError> {
        let damaged = |what| SnapshotError::Damaged { id, what };
        let io = |source: io::Error| match source.kind() {
            io::ErrorKind::UnexpectedEof => damaged("it is cut short"),
            _ => SnapshotError::Io { id, source },
        };
        let mut reader = Self::begin(id, file)?;
        let mut trailer = [0; TRAILER_BYTES];
        let len = reader.file.len().map_err(io)?;
        let trailer_at = len.checked_sub(TRAILER_BYTES as u64).ok_or(damaged("it is cut short"))?;
        read_exact_at(&reader.file, trailer_at, &mut trailer).map_err(io)?;
        reader.state_bytes = u64_at(&trailer, 8);
        Ok(reader)
    }

    /// A reader of a snapshot that may be cut off. `None` if its head is damaged.
    fn of_part(id: LogId, file: F) -> Option<Self> {
        Self::begin(id, file).ok()
    }

    /// A reader that has read the head. It does not know the length of the state.
    fn begin(id: LogId, file: F) -> Result<Self, SnapshotError> {
        let (snapshot, offset, checksum) = Self::head(id, &file)?;
        Ok(SnapshotReader {
            file,
            id,
            snapshot,
            chunk: Vec::new(),
            given: 0,
            offset,
            checksum,
            read_bytes: 0,
            state_bytes: 0,
            ended: false,
        })
    }

    /// Reads the head. Returns the description, the bytes of the head, and their checksum.
    fn head(id: LogId, file: &F) -> Result<(Snapshot, u64, u32), SnapshotError> {
        let damaged = |what| SnapshotError::Damaged { id, what };
        let io = |source: io::Error| match source.kind() {
            io::ErrorKind::UnexpectedEof => damaged("it is cut short"),
            _ => SnapshotError::Io { id, source },
        };
        let mut head = vec![0; HEAD_BYTES];
        read_exact_at(file, 0, &mut head).map_err(io)?;
        if &head[..8] != MAGIC {
            return Err(damaged("it is no snapshot"));
        }
        let length = u32_at(&head, 9);
        if length > DESCRIPTION_BYTES_MAX {
            return Err(damaged("its head"));
        }
        let end = HEAD_BYTES + length as usize;
        head.resize(end + 4, 0);
        read_exact_at(file, HEAD_BYTES as u64, &mut head[HEAD_BYTES..]).map_err(io)?;
        let checksum = u32_at(&head, end);
        if checksum != crc32c::crc32c(&head[..end]) {
            return Err(damaged("its head"));
        }
        // Checked after the checksum: the version byte itself may be damaged. Every version has
        // this head and checksum.
        let version = head[8];
        if version != codec::VERSION {
            return Err(SnapshotError::OtherVersion { id, version });
        }
        let snapshot: Snapshot =
            codec::decode(&head[HEAD_BYTES..end]).map_err(|_| damaged("its head"))?;
        if snapshot.last != id {
            return Err(damaged("it is another snapshot"));
        }
        Ok((snapshot, head.len() as u64, checksum))
    }

    /// The description of the snapshot.
    pub fn snapshot(&self) -> &Snapshot {
        &self.snapshot
    }

    /// The bytes of state according to the trailer. Verified only when the whole state has been
    /// read.
    pub fn state_bytes(&self) -> u64 {
        self.state_bytes
    }

    /// Reads and verifies the next chunk, or the trailer.
    fn next_chunk(&mut self) -> Result<(), SnapshotError> {
        let id = self.id;
        let damaged = |what| SnapshotError::Damaged { id, what };
        let io = |source: io::Error| match source.kind() {
            io::ErrorKind::UnexpectedEof => damaged("it is cut short"),
            _ => SnapshotError::Io { id, source },
        };
        let mut head = [0; CHUNK_HEAD_BYTES];
        read_exact_at(&self.file, self.offset, &mut head).map_err(io)?;
        let (length, checksum) = (u32_at(&head, 0) as usize, u32_at(&head, 4));
        if length > CHUNK_BYTES {
            return Err(damaged("the length of a chunk"));
        }
        let trailer = length == 0;
        self.chunk.resize(if trailer { 8 } else { length }, 0);
        let at = self.offset + CHUNK_HEAD_BYTES as u64;
        read_exact_at(&self.file, at, &mut self.chunk).map_err(io)?;
        if crc32c::crc32c_append(self.checksum, &self.chunk) != checksum {
            return Err(damaged("the checksum of a chunk is wrong"));
        }
        if trailer {
            let total = u64_at(&self.chunk, 0);
            self.chunk.clear();
            let whole = total == self.read_bytes && total == self.state_bytes;
            self.ended = true;
            return if whole { Ok(()) } else { Err(damaged("bytes are missing")) };
        }
        self.given = 0;
        self.checksum = checksum;
        self.offset = at + length as u64;
        self.read_bytes += length as u64;
        Ok(())
    }
}

impl<F: DiskFile> Read for SnapshotReader<F> {
    fn read(&mut self, into: &mut [u8]) -> io::Result<usize> {
        if self.given == self.chunk.len()
            && !self.ended
            && let Err(error) = self.next_chunk()
        {
            // No byte of an unverified chunk is ever returned.
            self.chunk.clear();
            self.given = 0;
            return Err(error.into());
        }
        let rest = &self.chunk[self.given.min(self.chunk.len())..];
        let given = rest.len().min(into.len());
        into[..given].copy_from_slice(&rest[..given]);
        self.given += given;
        Ok(given)
    }
}

fn u32_at(bytes: &[u8], at: usize) -> u32 {
    let mut word = [0; 4];
    word.copy_from_slice(&bytes[at..at + 4]);
    u32::from_le_bytes(word)
}

fn u64_at(bytes: &[u8], at: usize) -> u64 {
    let mut word = [0; 8];
    word.copy_from_slice(&bytes[at..at + 8]);
    u64::from_le_bytes(word)
}

/// Why a snapshot cannot be read.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum SnapshotError {
    /// There is no such snapshot.
    #[error("there is no snapshot {id}")]
    Missing {
        /// The last entry of the snapshot.
        id: LogId,
    },
    /// The file is not as it was written. Get the snapshot from a peer.
    #[error("the snapshot {id} is damaged: {what}")]
    Damaged {
        /// The last entry of the snapshot.
        id: LogId,
        /// The part that is damaged.
        what: &'static str,
    },
    /// The snapshot was written by another version of this software. Run that version.
    #[error(
        "the snapshot {id} has format {version}, and this version of the software reads format \
         {ours} only; run the version that wrote it", ours = codec::VERSION
    )]
    OtherVersion {
        /// The last entry of the snapshot.
        id: LogId,
        /// The format version of the file.
        version: u8,
    },
    /// An operation on the disk failed.
    #[error("the snapshot {id} cannot be read: {source}")]
    Io {
        /// The last entry of the snapshot.
        id: LogId,
        /// The error of the disk.
        source: io::Error,
    },
}

impl From<SnapshotError> for io::Error {
    /// Keeps the error kind. [`is_damage`] uses it to distinguish a lost snapshot from one that
    /// cannot be read at the moment.
    fn from(error: SnapshotError) -> Self {
        let kind = match &error {
            SnapshotError::Missing { .. } => io::ErrorKind::NotFound,
            SnapshotError::Damaged { .. } => io::ErrorKind::InvalidData,
            SnapshotError::OtherVersion { .. } => io::ErrorKind::Unsupported,
            SnapshotError::Io { source, .. } if is_damage(source) => io::ErrorKind::InvalidData,
            SnapshotError::Io { source, .. } => source.kind(),
        };
        io::Error::new(kind, error)
    }
}

/// The operating system's error number for an unreadable medium.
const EIO: i32 = 5;

/// Whether an error in reading a snapshot means that it is lost: it is missing, damaged, or on an
/// unreadable part of the medium. After any other error (no file descriptor, memory or permission)
/// it may be readable at the next attempt.
pub fn is_damage(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::InvalidData)
        || error.raw_os_error() == Some(EIO)
}
