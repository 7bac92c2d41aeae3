//! The durable mark: a recent lower bound of the batches that are synced.
//!
//! Damage in the highest batch looks the same in two cases: its write was cut off, or it was
//! synced, acknowledged and damaged later. The mark distinguishes them, for the batches it covers.
//! Each block of the log makes the same statement about the batches before its own (`block.rs`).
//! The file covers the last batch too, which nothing follows. It is written every 64 batches, after
//! a sync, and nothing waits for it. It is synced only when it is created, when a start has
//! repeated the latest batch, and when the log is closed. A missing, damaged or old mark covers
//! fewer batches and has no other effect. One that the disk cannot read fails the start: it may
//! cover the last batch.
//!
//! The file has two slots that are written in turn, so a torn write leaves the previous mark
//! intact.

use crate::block::{u32_at, u64_at};
use crate::disk::read_exact_at;
use crate::{Disk, DiskFile};
use raft::{Index, LogId, Term};
use std::io;

const FILE: &str = "MARK";
const SLOT_BYTES: usize = 4096;
const MARK_BYTES: usize = 40;
const MAGIC: &[u8; 4] = b"RfM\x01";

/// A statement about which batches are synced.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Mark {
    /// All batches up to this number are synced.
    pub batch: u64,
    /// The term in the last of them.
    pub term: Term,
    /// The end of the log after it. If the node had already lost entries and has not been repaired,
    /// the end of what it had lost. A node that loses these batches must be repaired to this end.
    pub end: LogId,
}

/// The open file `MARK`.
#[derive(Debug)]
pub(crate) struct MarkFile<F> {
    file: F,
    slot: u64,
    seed: u32,
}

/// Whether there is a file for the mark, even a damaged one.
pub(crate) fn exists(disk: &impl Disk) -> io::Result<bool> {
    Ok(disk.list("")?.iter().any(|name| name == FILE))
}

impl<F: DiskFile> MarkFile<F> {
    /// Opens the file, or creates it. Returns the latest mark in it. A slot that the disk cannot
    /// read may have that one: an error.
    pub fn open<D: Disk<File = F>>(disk: &D, seed: u32) -> io::Result<(Self, Option<Mark>)> {
        let mut file = match disk.open(FILE) {
            Ok(file) => file,
            Err(error) if error.kind() == io::ErrorKind::NotFound => disk.create(FILE)?,
            Err(error) => return Err(error),
        };
        let (first, second) = (read_slot(&file, 0, seed)?, read_slot(&file, 1, seed)?);
        let latest = first.into_iter().chain(second).max_by_key(|mark| mark.batch);
        if file.len()? < 2 * SLOT_BYTES as u64 {
            file.write_at(SLOT_BYTES as u64, &[0; SLOT_BYTES])?;
            file.sync_data()?;
            disk.sync_dir("")?;
        }
        // The slot that does not hold the latest mark is overwritten first.
        let slot = u64::from(latest.is_some() && latest == first);
        Ok((MarkFile { file, slot, seed }, latest))
    }

    /// Whether the file is still in its directory.
    pub fn has_name(&self) -> bool {
        self.file.has_name().unwrap_or(true)
    }

    /// Writes a mark for synced batches. Does not wait for the disk.
    pub fn write(&mut self, mark: Mark) -> io::Result<()> {
        let mut bytes = [0; MARK_BYTES];
        bytes[4..8].copy_from_slice(MAGIC);
        bytes[8..16].copy_from_slice(&mark.batch.to_le_bytes());
        bytes[16..24].copy_from_slice(&mark.term.0.to_le_bytes());
        bytes[24..32].copy_from_slice(&mark.end.term.0.to_le_bytes());
        bytes[32..40].copy_from_slice(&mark.end.index.0.to_le_bytes());
        let checksum = crc32c::crc32c_append(self.seed, &bytes[4..]);
        bytes[..4].copy_from_slice(&checksum.to_le_bytes());
        self.file.write_at(self.slot * SLOT_BYTES as u64, &bytes)?;
        self.slot = 1 - self.slot;
        Ok(())
    }

    pub fn sync(&mut self) -> io::Result<()> {
        self.file.sync_data()
    }
}

fn read_slot(file: &impl DiskFile, slot: u64, seed: u32) -> io::Result<Option<Mark>> {
    let mut bytes = [0; MARK_BYTES];
    match read_exact_at(file, slot * SLOT_BYTES as u64, &mut bytes) {
        Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => return Ok(None),
        read => read?,
    }
    if &bytes[4..8] != MAGIC || u32_at(&bytes, 0) != crc32c::crc32c_append(seed, &bytes[4..]) {
        return Ok(None);
    }
    Ok(Some(Mark {
        batch: u64_at(&bytes, 8),
        term: Term(u64_at(&bytes, 16)),
        end: LogId { term: Term(u64_at(&bytes, 24)), index: Index(u64_at(&bytes, 32)) },
    }))
}
