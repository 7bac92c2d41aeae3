//! Blocks: the units that segments consist of.
//!
//! A segment is a sequence of 4 KiB blocks. Each has its own head, with a checksum, the segment's
//! generation, the block's batch, and its position. So every block can be classified on its own: it
//! is part of this segment, left over from an earlier use of the segment, or damaged. A head is
//! only read at a block boundary, where no payload can be, so clients cannot forge one.
//!
//! ```text
//!  0  checksum: u32      of all that follows, begun with the log's seed
//!  4  "RfL", version: u8
//!  8  generation: u64    of the segment; a recycled segment has a new one
//! 16  batch: u64         its number; batches of a log are numbered from 1
//! 24  position: u32      of the block in the segment: a misdirected write is no block
//! 28  index: u32         of the block in the batch
//! 32  synced: u64        this batch and all before it were synced before the block was written
//! 40  term: u64          the term in that batch
//! 48  end: (term: u64, index: u64)       the end of the log after it, see `Mark`
//! 64  content
//! ```
//!
//! So any block that is readable proves how far the log went before it, even if the rest of its
//! batch is torn and the batch before it is damaged.
//!
//! The checksum starts from a seed derived from the directory's incarnation, so a block of another
//! node's log counts as damaged. Every later version keeps the position and meaning of the first
//! eight bytes.

use crate::mark::Mark;
use raft::{Index, LogId, Term};

/// Writes begin and end at multiples of this.
pub(crate) const BLOCK_BYTES: usize = 4096;
const HEAD_BYTES: usize = 64;
/// The bytes of a batch that one block holds.
pub(crate) const CONTENT_BYTES: usize = BLOCK_BYTES - HEAD_BYTES;
const MAGIC: &[u8; 3] = b"RfL";
/// The format version of segments.
pub const VERSION: u8 = 5;

/// The position of a batch.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Place {
    pub generation: u64,
    pub batch: u64,
    /// The position of its first block in the segment.
    pub position: u32,
    /// The end of the log that was synced before it.
    pub synced: Mark,
}

/// The classification of a block.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Block {
    /// Never written, or erased.
    Empty,
    /// Left over from an earlier use of the segment.
    Stale,
    /// Part of a batch of this segment.
    Ours { batch: u64, index: u32, checksum: u32, synced: Mark },
    /// Written in another format version.
    OtherVersion { version: u8 },
    /// Everything else.
    Damaged,
}

/// Classifies the block at `position` of a segment.
pub(crate) fn classify(block: &[u8], seed: u32, generation: u64, position: u32) -> Block {
    if block.len() < BLOCK_BYTES {
        return Block::Damaged;
    }
    if block.iter().all(|byte| *byte == 0) {
        return Block::Empty;
    }
    let checksum = u32_at(block, 0);
    if &block[4..7] != MAGIC || checksum != crc32c::crc32c_append(seed, &block[4..BLOCK_BYTES]) {
        return Block::Damaged;
    }
    let version = block[7];
    if version != VERSION {
        return Block::OtherVersion { version };
    }
    match u64_at(block, 8) {
        found if found < generation => Block::Stale,
        found if found > generation || u32_at(block, 24) != position => Block::Damaged,
        _ => Block::Ours {
            batch: u64_at(block, 16),
            index: u32_at(block, 28),
            checksum,
            synced: Mark {
                batch: u64_at(block, 32),
                term: Term(u64_at(block, 40)),
                end: LogId { term: Term(u64_at(block, 48)), index: Index(u64_at(block, 56)) },
            },
        },
    }
}

/// The content of a block, without its head.
pub(crate) fn content(block: &[u8]) -> &[u8] {
    &block[HEAD_BYTES..BLOCK_BYTES]
}

/// Splits a byte stream into blocks, in a reusable buffer.
#[derive(Debug, Default)]
pub(crate) struct BlockWriter {
    buffer: Vec<u8>,
    /// The number of content bytes so far, without heads.
    len: usize,
}

impl BlockWriter {
    /// A buffer that has grown beyond this is shrunk to it on reuse.
    const KEPT_BYTES_MAX: usize = 4 << 20;

    /// Empties the buffer for the next batch.
    pub fn clear(&mut self) {
        self.buffer.clear();
        self.buffer.shrink_to(Self::KEPT_BYTES_MAX);
        self.len = 0;
    }

    /// The number of content bytes so far.
    pub fn len(&self) -> usize {
        self.len
    }

    /// The number of blocks that the content takes.
    pub fn blocks(&self) -> usize {
        self.len.div_ceil(CONTENT_BYTES)
    }

    pub fn put(&mut self, mut bytes: &[u8]) {
        self.len += bytes.len();
        while !bytes.is_empty() {
            let used = self.buffer.len() % BLOCK_BYTES;
            if used == 0 {
                self.buffer.extend_from_slice(&[0; HEAD_BYTES]);
                continue;
            }
            let taken = bytes.len().min(BLOCK_BYTES - used);
            self.buffer.extend_from_slice(&bytes[..taken]);
            bytes = &bytes[taken..];
        }
    }

    /// Fills the last block with zeros.
    pub fn pad(&mut self) {
        self.buffer.resize(self.buffer.len().next_multiple_of(BLOCK_BYTES), 0);
    }

    /// Overwrites content bytes, all of which must be in the first block.
    pub fn patch(&mut self, at: usize, bytes: &[u8]) {
        self.buffer[HEAD_BYTES + at..HEAD_BYTES + at + bytes.len()].copy_from_slice(bytes);
    }

    /// Writes the heads of all blocks except the first. Returns the checksum of their checksums.
    pub fn seal_rest(&mut self, seed: u32, place: Place) -> u32 {
        let mut rest = 0;
        for index in 1..self.buffer.len() / BLOCK_BYTES {
            rest = crc32c::crc32c_append(rest, &self.seal(index, seed, place).to_le_bytes());
        }
        rest
    }

    /// Writes the head of the first block. Returns its checksum and the finished blocks.
    pub fn seal_first(&mut self, seed: u32, place: Place) -> (u32, &[u8]) {
        (self.seal(0, seed, place), &self.buffer)
    }

    fn seal(&mut self, index: usize, seed: u32, place: Place) -> u32 {
        let block = &mut self.buffer[index * BLOCK_BYTES..(index + 1) * BLOCK_BYTES];
        block[4..7].copy_from_slice(MAGIC);
        block[7] = VERSION;
        block[8..16].copy_from_slice(&place.generation.to_le_bytes());
        block[16..24].copy_from_slice(&place.batch.to_le_bytes());
        block[24..28].copy_from_slice(&(place.position + index as u32).to_le_bytes());
        block[28..32].copy_from_slice(&(index as u32).to_le_bytes());
        let Mark { batch, term, end } = place.synced;
        for (at, number) in (32..).step_by(8).zip([batch, term.0, end.term.0, end.index.0]) {
            block[at..at + 8].copy_from_slice(&number.to_le_bytes());
        }
        let checksum = crc32c::crc32c_append(seed, &block[4..]);
        block[..4].copy_from_slice(&checksum.to_le_bytes());
        checksum
    }
}

pub(crate) fn u32_at(bytes: &[u8], at: usize) -> u32 {
    let mut word = [0; 4];
    word.copy_from_slice(&bytes[at..at + 4]);
    u32::from_le_bytes(word)
}

pub(crate) fn u64_at(bytes: &[u8], at: usize) -> u64 {
    let mut word = [0; 8];
    word.copy_from_slice(&bytes[at..at + 8]);
    u64::from_le_bytes(word)
}
