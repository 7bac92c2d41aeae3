//! Blocks: what segments are made of.
//!
//! A segment is a row of blocks of 4 KiB. Each has a head of its own, with a checksum, the segment's
//! generation, the batch it belongs to, and where it stands. So any block can be told by itself: it
//! is ours, or left over from the segment's earlier use, or damaged; and no payload, whatever a client
//! puts into it, ever stands where a head is looked for.
//!
//! ```text
//!  0  checksum: u32      of all that follows, begun with the log's seed
//!  4  "RfL", version: u8
//!  8  generation: u64    of the segment; a recycled segment has a new one
//! 16  batch: u64         its number; batches of a log are numbered from 1
//! 24  position: u32      of the block in the segment: a misdirected write is no block
//! 28  index: u32         of the block in the batch
//! 32  content
//! ```
//!
//! The checksum begins with a seed made from the directory's incarnation, so that a block of another
//! node's log is as good as damaged. The first eight bytes keep their place and meaning in every later
//! version.

/// What is written at once begins and ends at multiples of this.
pub(crate) const BLOCK_BYTES: usize = 4096;
const HEAD_BYTES: usize = 32;
/// How much of a batch one block holds.
pub(crate) const CONTENT_BYTES: usize = BLOCK_BYTES - HEAD_BYTES;
const MAGIC: &[u8; 3] = b"RfL";
/// The version of the format of segments.
pub(crate) const VERSION: u8 = 2;

/// Where the blocks of a batch stand.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Place {
    pub generation: u64,
    pub batch: u64,
    /// Of its first block.
    pub position: u32,
}

/// What a block turns out to be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Block {
    /// Never written, or erased.
    Blank,
    /// Left over from an earlier use of the segment.
    Stale,
    /// Part of a batch of this segment.
    Ours { batch: u64, index: u32, checksum: u32 },
    /// Written by another version.
    OtherVersion { version: u8 },
    /// Anything else.
    Damaged,
}

/// Tells what the block at `position` of a segment is.
pub(crate) fn classify(block: &[u8], seed: u32, generation: u64, position: u32) -> Block {
    if block.len() < BLOCK_BYTES {
        return Block::Damaged;
    }
    if block.iter().all(|byte| *byte == 0) {
        return Block::Blank;
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
        _ => Block::Ours { batch: u64_at(block, 16), index: u32_at(block, 28), checksum },
    }
}

/// The content of a block.
pub(crate) fn content(block: &[u8]) -> &[u8] {
    &block[HEAD_BYTES..BLOCK_BYTES]
}

/// Puts bytes behind one another into blocks, in a buffer that is used again and again.
#[derive(Debug, Default)]
pub(crate) struct BlockWriter {
    buffer: Vec<u8>,
    /// Bytes put in so far.
    len: usize,
}

impl BlockWriter {
    /// A buffer that a huge batch has made larger than this is not kept.
    const KEPT_BYTES_MAX: usize = 4 << 20;

    /// Begins anew.
    pub fn clear(&mut self) {
        self.buffer.clear();
        self.buffer.shrink_to(Self::KEPT_BYTES_MAX);
        self.len = 0;
    }

    /// How many bytes were put in.
    pub fn len(&self) -> usize {
        self.len
    }

    /// How many blocks they take.
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

    /// Fills the last block up with zeros.
    pub fn pad(&mut self) {
        self.buffer.resize(self.buffer.len().next_multiple_of(BLOCK_BYTES), 0);
    }

    /// Overwrites bytes that were put in, all of them in the first block.
    pub fn patch(&mut self, at: usize, bytes: &[u8]) {
        self.buffer[HEAD_BYTES + at..HEAD_BYTES + at + bytes.len()].copy_from_slice(bytes);
    }

    /// Writes the heads of all blocks but the first. Returns the checksum of their checksums.
    pub fn seal_rest(&mut self, seed: u32, place: Place) -> u32 {
        let mut rest = 0;
        for index in 1..self.buffer.len() / BLOCK_BYTES {
            rest = crc32c::crc32c_append(rest, &self.seal(index, seed, place).to_le_bytes());
        }
        rest
    }

    /// Writes the head of the first block. Returns its checksum, and the finished blocks.
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
