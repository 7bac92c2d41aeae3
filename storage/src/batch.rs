//! Batches: the on-disk form of one write.
//!
//! A batch occupies whole blocks. It holds the complete durable state except the entries of earlier
//! batches: hard state, start of the log, end of the log. So recovery needs only the latest intact
//! batch for everything but entries, even if earlier batches are damaged. Old segments can be
//! removed without copying anything out of them.
//!
//! ```text
//!  0  blocks: u32
//!  4  rest: u32          checksum of the checksums of the blocks after the first
//!  8  length: u32        of the batch without the padding of its last block
//! 12  previous: u32      checksum of the batch before
//! 16  flags: u8          1 reset, 4 there is a vote, 8 there is a loss
//! 17  term: u64, vote: u64, lost: (term: u64, index: u64)
//! 49  last: (term: u64, index: u64)      the end of the log after this batch
//! 65  first: u64         the index of the first entry
//! 73  entries: u32, base length: u32
//! 81  promise: u32      of the hard state, in milliseconds
//! 85  base: raft::Snapshot (codec)
//!     entries, each: term: u64, time: u64, number: u64, kind: u8, length: u32, payload
//! ```
//!
//! The checksum of a batch is that of its first block, which covers `rest` and so the whole batch.
//! Entries do not use the codec: the log must remain readable if the encoder is replaced. A payload
//! that is read is a copy: a state machine that keeps it does not keep the whole batch in memory.

use crate::block::{self, BLOCK_BYTES, Block, BlockWriter, CONTENT_BYTES, Place, u32_at, u64_at};
use crate::codec;
use crate::log::first_of;
use crate::mark::Mark;
use bytes::{Bytes, BytesMut};
use raft::{
    CommandNumber, Entry, HardState, Index, LogId, LogTime, NodeId, Payload, Snapshot, Term,
};

const HEAD_BYTES: usize = 85;
const ENTRY_HEAD_BYTES: usize = 29;
/// The most bytes of a batch. The core's limits keep writes far below it; a larger one panics.
const BATCH_BYTES_MAX: usize = 1 << 30;

const RESET: u8 = 1;
const VOTE: u8 = 4;
const LOST: u8 = 8;

/// The content of a batch to write.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Draft<'a> {
    /// Whether the batch discards all entries of earlier batches.
    pub reset: bool,
    pub previous: u32,
    pub hard_state: HardState,
    /// The snapshot that the log begins after, encoded by the codec.
    pub base: &'a [u8],
    pub last: LogId,
    /// In order, in any number of slices.
    pub entries: &'a [&'a [Entry]],
}

/// A batch that was read back, completely and with correct checksums.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Batch {
    pub number: u64,
    pub checksum: u32,
    pub blocks: u32,
    pub reset: bool,
    /// The end of the log that was synced before it. Batches between that and this one are repeated
    /// by this one, which replaces any of them that is damaged.
    pub synced: Mark,
    pub previous: u32,
    pub hard_state: HardState,
    pub base: Snapshot,
    pub last: LogId,
    pub entries: Vec<Entry>,
}

impl Draft<'_> {
    /// Encodes the batch into `into`. It must be sealed before it is written.
    pub fn encode(&self, into: &mut BlockWriter) {
        into.clear();
        let hard = self.hard_state;
        let mut flags = 0;
        flags |= if self.reset { RESET } else { 0 };
        flags |= if hard.vote.is_some() { VOTE } else { 0 };
        flags |= if hard.lost.is_some() { LOST } else { 0 };
        let lost = hard.lost.unwrap_or(LogId::ZERO);
        let first = first_of(self.entries).map_or(0, |entry| entry.id.index.0);
        let count: usize = self.entries.iter().map(|entries| entries.len()).sum();

        let mut head = [0; HEAD_BYTES];
        head[12..16].copy_from_slice(&self.previous.to_le_bytes());
        head[16] = flags;
        let numbers = [
            hard.term.0,
            hard.vote.map_or(0, |vote| vote.0),
            lost.term.0,
            lost.index.0,
            self.last.term.0,
            self.last.index.0,
            first,
        ];
        for (place, number) in head[17..73].chunks_exact_mut(8).zip(numbers) {
            place.copy_from_slice(&number.to_le_bytes());
        }
        head[73..77].copy_from_slice(&(count as u32).to_le_bytes());
        head[77..81].copy_from_slice(&(self.base.len() as u32).to_le_bytes());
        head[81..85].copy_from_slice(&hard.promise_ms.to_le_bytes());
        into.put(&head);
        into.put(self.base);
        for entry in self.entries.iter().copied().flatten() {
            put_entry(entry, into);
        }
        assert!(into.len() <= BATCH_BYTES_MAX, "a write of more than 1 GiB: a bug of the core");
        let length = into.len() as u32;
        into.patch(0, &(into.blocks() as u32).to_le_bytes());
        into.patch(8, &length.to_le_bytes());
        into.pad();
    }
}

/// Sets the position of an encoded batch. Returns its checksum, and the bytes to write there.
pub(crate) fn seal(batch: &mut BlockWriter, seed: u32, place: Place) -> (u32, &[u8]) {
    let rest = batch.seal_rest(seed, place);
    batch.patch(4, &rest.to_le_bytes());
    batch.seal_first(seed, place)
}

fn put_entry(entry: &Entry, into: &mut BlockWriter) {
    let mut encoded = Vec::new();
    let (kind, payload): (u8, &[u8]) = match &entry.payload {
        Payload::NoOp => (0, &[]),
        Payload::Command(bytes) => (1, bytes),
        Payload::System(bytes) => (2, bytes),
        Payload::Membership(membership) => {
            codec::encode(membership, &mut encoded);
            (3, &encoded)
        }
        Payload::Clock => (4, &[]),
        Payload::SessionCommand(bytes) => (5, bytes),
    };
    let mut head = [0; ENTRY_HEAD_BYTES];
    head[..8].copy_from_slice(&entry.id.term.0.to_le_bytes());
    head[8..16].copy_from_slice(&entry.time.0.to_le_bytes());
    head[16..24].copy_from_slice(&entry.number.0.to_le_bytes());
    head[24] = kind;
    head[25..29].copy_from_slice(&(payload.len() as u32).to_le_bytes());
    into.put(&head);
    into.put(payload);
}

/// Reads the batch whose first block is the first of `blocks`, at `position`. `None` if no batch
/// begins there or part of it is damaged.
pub(crate) fn read(blocks: &[u8], seed: u32, generation: u64, position: u32) -> Option<Batch> {
    let first = blocks.get(..BLOCK_BYTES)?;
    let Block::Ours { batch: number, index: 0, checksum, synced } =
        block::classify(first, seed, generation, position)
    else {
        return None;
    };
    let head = block::content(first);
    let (count, rest, length) = (u32_at(head, 0), u32_at(head, 4), u32_at(head, 8) as usize);
    let blocks = blocks.get(..(count as usize).checked_mul(BLOCK_BYTES)?)?;
    if length < HEAD_BYTES || length.div_ceil(CONTENT_BYTES) != count as usize {
        return None;
    }
    let mut found_rest = 0;
    let mut content = BytesMut::with_capacity(count as usize * CONTENT_BYTES);
    for (at, block) in (0..).zip(blocks.chunks_exact(BLOCK_BYTES)) {
        if at > 0 {
            let expected = block::classify(block, seed, generation, position + at);
            let Block::Ours { batch, index, checksum, .. } = expected else { return None };
            if batch != number || index != at {
                return None;
            }
            found_rest = crc32c::crc32c_append(found_rest, &checksum.to_le_bytes());
        }
        content.extend_from_slice(block::content(block));
    }
    if found_rest != rest {
        return None;
    }
    content.truncate(length);
    decode(content.freeze(), number, checksum, count, synced)
}

/// `None` is impossible for the output of [`Draft::encode`]: the checksums have been checked.
fn decode(content: Bytes, number: u64, checksum: u32, blocks: u32, synced: Mark) -> Option<Batch> {
    let head = content.get(..HEAD_BYTES)?;
    let flags = head[16];
    let id = |at| LogId { term: Term(u64_at(head, at)), index: Index(u64_at(head, at + 8)) };
    let hard_state = HardState {
        term: Term(u64_at(head, 17)),
        vote: (flags & VOTE != 0).then(|| NodeId(u64_at(head, 25))),
        lost: (flags & LOST != 0).then(|| id(33)),
        promise_ms: u32_at(head, 81),
    };
    let base_end = HEAD_BYTES.checked_add(u32_at(head, 77) as usize)?;
    let base = codec::decode(content.get(HEAD_BYTES..base_end)?).ok()?;
    let (mut index, count) = (Index(u64_at(head, 65)), u32_at(head, 73) as usize);
    let mut rest = content.slice(base_end..);
    let mut entries = Vec::with_capacity(count.min(rest.len() / ENTRY_HEAD_BYTES));
    for _ in 0..count {
        entries.push(take_entry(&mut rest, index)?);
        index = Index(index.0.checked_add(1)?);
    }
    let batch = Batch {
        number,
        checksum,
        blocks,
        reset: flags & RESET != 0,
        synced,
        previous: u32_at(head, 12),
        hard_state,
        base,
        last: id(49),
        entries,
    };
    rest.is_empty().then_some(batch)
}

fn take_entry(rest: &mut Bytes, index: Index) -> Option<Entry> {
    if rest.len() < ENTRY_HEAD_BYTES {
        return None;
    }
    let head = rest.split_to(ENTRY_HEAD_BYTES);
    let length = u32_at(&head, 25) as usize;
    if rest.len() < length {
        return None;
    }
    let payload = Bytes::copy_from_slice(&rest.split_to(length));
    Some(Entry {
        id: LogId { term: Term(u64_at(&head, 0)), index },
        time: LogTime(u64_at(&head, 8)),
        number: CommandNumber(u64_at(&head, 16)),
        payload: match head[24] {
            0 if length == 0 => Payload::NoOp,
            1 => Payload::Command(payload),
            2 => Payload::System(payload),
            3 => Payload::Membership(Box::new(codec::decode(&payload).ok()?)),
            4 if length == 0 => Payload::Clock,
            5 => Payload::SessionCommand(payload),
            _ => return None,
        },
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use raft::Membership;

    const SEED: u32 = 5;
    const SYNCED: Mark = Mark { batch: 8, term: Term(1), end: LogId::ZERO };
    const PLACE: Place = Place { generation: 3, batch: 9, position: 2, synced: SYNCED };

    /// A batch of three blocks.
    fn sealed(byte: u8) -> Vec<u8> {
        let mut base = Vec::new();
        codec::encode(&Snapshot::initial(Membership::default()), &mut base);
        let entry = Entry {
            id: LogId::new(4, 1),
            time: LogTime(1),
            number: CommandNumber(3),
            payload: Payload::Command(Bytes::from(vec![byte; 2 * BLOCK_BYTES])),
        };
        let draft = Draft {
            reset: false,
            previous: 8,
            hard_state: HardState::default(),
            base: &base,
            last: entry.id,
            entries: &[&[entry]],
        };
        let mut writer = BlockWriter::default();
        draft.encode(&mut writer);
        seal(&mut writer, SEED, PLACE).1.to_vec()
    }

    #[test]
    fn a_batch_of_blocks_of_two_attempts_is_none() {
        let (mut first, second) = (sealed(1), sealed(2));
        assert_eq!(first.len(), 3 * BLOCK_BYTES);
        assert!(read(&first, SEED, PLACE.generation, PLACE.position).is_some());
        assert!(read(&second, SEED, PLACE.generation, PLACE.position).is_some());
        // Each block is intact and claims to be the second of batch 9.
        first[BLOCK_BYTES..2 * BLOCK_BYTES].copy_from_slice(&second[BLOCK_BYTES..2 * BLOCK_BYTES]);
        assert!(read(&first, SEED, PLACE.generation, PLACE.position).is_none());
    }

    #[test]
    fn a_batch_is_read_only_where_it_was_written() {
        let batch = sealed(1);
        assert!(read(&batch, SEED + 1, PLACE.generation, PLACE.position).is_none());
        assert!(read(&batch, SEED, PLACE.generation + 1, PLACE.position).is_none());
        assert!(read(&batch, SEED, PLACE.generation, PLACE.position + 1).is_none());
    }

    #[test]
    fn a_batch_with_any_byte_changed_is_none() {
        let batch = sealed(1);
        for at in (0..batch.len()).step_by(37) {
            let mut changed = batch.clone();
            changed[at] ^= 1;
            assert!(read(&changed, SEED, PLACE.generation, PLACE.position).is_none(), "byte {at}");
        }
    }
}
