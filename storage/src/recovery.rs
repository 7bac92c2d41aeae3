//! Recovery: decides what a start finds in a directory, and what is restored.
//!
//! The decision table stands at [`Case`]. Each of its lines has a test (`tests/cases.rs`).

use crate::batch;
use crate::block::{self, BLOCK_BYTES, Block};
use crate::mark::Mark;
use crate::replay::{Replay, Replayed};
use crate::segment::{self, Content};
use crate::{IdentityError, LockError};
use raft::{LogId, NodeId};
use std::fmt;
use std::io;

/// A finding of a start. More than one may apply. The decision table:
///
/// | finding | result |
/// |---|---|
/// | no identity, no log | [`Case::Empty`]: nothing is restored |
/// | no identity, but a log | error [`OpenError::IdentityMissing`] |
/// | a damaged identity, or one of another version | error [`OpenError::Identity`] |
/// | an identity, and no batch was ever begun | [`Case::NotBegun`] |
/// | an identity, and only remains of the very first batch | [`Case::NotBegun`]; they are erased |
/// | an identity, no intact batch, and proof that there were some | error [`OpenError::LogGone`] |
/// | an identity that names its cluster, and no log at all | error [`OpenError::LogGone`] |
/// | a block of another version | error [`OpenError::OtherVersion`] |
/// | every batch follows the one before, and nothing else is there | [`Case::Clean`] |
/// | the same, and blocks left over from earlier uses of a segment | [`Case::Clean`] |
/// | damage after the highest intact batch, no proof of a sync | [`Case::TornTail`]; it is erased |
/// | the same, and the disk cannot read such a block | error [`OpenError::Unreadable`] |
/// | damage or a gap below an intact batch, no longer needed | [`Case::HarmlessDamage`] |
/// | damage or a gap in batches that a later one repeats | [`Case::Repeated`] |
/// | damage or a gap below an intact batch, still needed | [`Case::Rotten`] |
/// | an intact batch that does not match its successor | as if it were damaged |
/// | damage after the highest intact batch, covered by the mark | [`Case::RottenEnd`] |
/// | the same, and a block of a later batch is readable | [`Case::RottenEnd`] |
/// | a file in `log/` that is not a segment | [`Case::ForeignFile`]: left alone |
///
/// A batch is begun only after the sync of the one before, and each of its blocks states which
/// batches were synced, how far the log went and in which term. So any readable block of batch
/// N + 1 proves that batch N was synced, and what is lost with it. The exception is a repetition: a
/// start repeats the latest batch because that may not be on the disk. Without proof, the batch
/// after the highest intact one was never acknowledged. A batch does not match its successor if the
/// successor has recorded another checksum for it.
///
/// After `Rotten` and `RottenEnd` the node may have lost acknowledged entries. The restored log is
/// that from just before the damage. It omits entries that cannot have been in the damaged log:
/// those were overwritten there, and would make the end of the log look later. `hard_state.lost`
/// records how far the log went; the node does not vote until it is repaired to there. All of this
/// is written at once as a new log, so no later start knows less. After `RottenEnd` the latest vote
/// is unknown, so the node counts as having voted for itself.
///
/// One window remains: damage in the highest batch looks like a torn write if the batch was synced
/// after the last mark, and no block of a later batch is readable (repetitions do not count). A
/// batch that a power failure cuts off cannot be distinguished from one that is damaged before the
/// next is written. No log with one sync per batch can distinguish them.
///
/// A torn write leaves blocks that can be read. So a block that the disk cannot read, where the
/// batch after the highest intact one would be, may be acknowledged. Nothing is erased on the word
/// of a read that failed. Below an intact batch, such a block counts as damaged.
///
/// An operator does nothing about `Empty`, `NotBegun`, `Clean`, `TornTail` and `HarmlessDamage`,
/// and may leave the file of `ForeignFile`. After `Repeated` and `NewerSnapshot`, synced bytes are
/// damaged: watch the disk. After `Rotten`, `RottenEnd` and `SnapshotLost`, let the peers repair
/// the node, and replace its disk if it happens again.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Case {
    /// The directory has neither an identity nor a log.
    Empty,
    /// There is an identity, and a log that was never begun.
    NotBegun,
    /// The log is complete.
    Clean,
    /// The write of this batch was cut off, and its remains are erased. It was never acknowledged.
    TornTail {
        /// The number of the batch.
        batch: u64,
    },
    /// This batch is damaged or missing, and its content is no longer needed. Such a gap also
    /// results when a segment larger than usual is removed because it is no longer needed.
    HarmlessDamage {
        /// The number of the batch.
        batch: u64,
    },
    /// This batch is damaged or missing, and a later one repeats it.
    Repeated {
        /// The number of the batch.
        batch: u64,
    },
    /// This batch is damaged or missing, later ones are intact, and entries are lost.
    Rotten {
        /// The number of the batch; 0 if the oldest segments are missing.
        batch: u64,
    },
    /// This batch was synced and is damaged or missing. No later batch is intact.
    RottenEnd {
        /// The number of the batch.
        batch: u64,
    },
    /// Where to look for entries that are lost, for an operator. At most 8 files.
    LossFiles {
        /// Segments with blocks that are damaged or belong to no intact batch.
        damaged: Vec<String>,
        /// Segments that are not there although an earlier and a later one is. A segment that
        /// could not be prepared leaves such a gap too.
        absent: Vec<String>,
    },
    /// The snapshot that the log began after is lost. The log now begins after a later snapshot.
    NewerSnapshot {
        /// The last entry of the lost snapshot.
        lost: LogId,
        /// The last entry of the later snapshot.
        snapshot: LogId,
    },
    /// The snapshot that the log began after is lost, and the log is unusable without it.
    SnapshotLost {
        /// The last entry of the lost snapshot.
        snapshot: LogId,
    },
    /// A file in `log/` that is not a segment. It is left alone.
    ForeignFile {
        /// The name of the file.
        name: String,
    },
}

/// The most files of one kind in a [`Case::LossFiles`].
const FILES_SHOWN_MAX: usize = 8;

impl Case {
    /// Whether something acknowledged may be lost, or where.
    pub fn is_loss(&self) -> bool {
        matches!(
            self,
            Case::Rotten { .. }
                | Case::RottenEnd { .. }
                | Case::SnapshotLost { .. }
                | Case::LossFiles { .. }
        )
    }
}

impl fmt::Display for Case {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Case::Empty => f.write_str("the directory is empty"),
            Case::NotBegun => f.write_str("the log was never begun"),
            Case::Clean => f.write_str("the log is whole"),
            Case::TornTail { batch } => {
                write!(f, "batch {batch} was cut off before it was acknowledged; it is erased")
            }
            Case::HarmlessDamage { batch } => {
                write!(f, "batch {batch} is damaged or gone, and no longer needed")
            }
            Case::Repeated { batch } => {
                write!(f, "batch {batch} is damaged or gone, and repeated in a later one")
            }
            Case::Rotten { batch: 0 } => f.write_str(
                "the oldest segments are missing; what was lost will be repaired from the peers",
            ),
            Case::Rotten { batch } | Case::RottenEnd { batch } => write!(
                f,
                "batch {batch} was durable and is damaged; what was lost will be repaired from the \
                 peers"
            ),
            Case::LossFiles { damaged, absent } => {
                let list = |files: &[String]| match files {
                    [] => "none".to_owned(),
                    files => files.join(", "),
                };
                let (damaged, absent) = (list(damaged), list(absent));
                write!(f, "files with damage: {damaged}; perhaps missing: {absent}")
            }
            Case::NewerSnapshot { lost, snapshot } => write!(
                f,
                "the snapshot {lost} is damaged or gone; the log goes on from the later snapshot \
                 {snapshot}"
            ),
            Case::SnapshotLost { snapshot } => write!(
                f,
                "the snapshot {snapshot}, which the log began after, is damaged or gone; what was \
                 lost will be repaired from the peers"
            ),
            Case::ForeignFile { name } => write!(f, "log/{name} does not belong here"),
        }
    }
}

/// Why a log cannot be opened.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum OpenError {
    /// Another process holds the directory, or the directory cannot be used.
    #[error(transparent)]
    Lock(#[from] LockError),
    /// The identity cannot be read.
    #[error(transparent)]
    Identity(#[from] IdentityError),
    /// There is a log but no identity. Restore the file.
    #[error(
        "the directory has a log but no file IDENTITY; put that file back. Without it this member is \
         lost: the cluster goes on while a majority of the members is up. Then remove it from the \
         cluster, and add it again with an empty directory"
    )]
    IdentityMissing,
    /// The directory once had a log, and no batch of it can be read.
    #[error(
        "the log is gone: the directory once had one, and nothing of it can be read. If IDENTITY or \
         the log is that of another node, put back this node's. Put back the files themselves if \
         they were moved, never an older copy of them: what was acknowledged since would be lost. \
         Without them this member is lost: the cluster goes on while a \
         majority of the members is up. Then remove it from the cluster, and add it again with an \
         empty directory"
    )]
    LogGone,
    /// The log was written by another version of this software. Run that version.
    #[error(
        "{path} has format {version}, and this version of the software reads format {ours} only; \
         run the version that wrote it", ours = crate::block::VERSION
    )]
    OtherVersion {
        /// The path of the file.
        path: String,
        /// The format version of the file.
        version: u8,
    },
    /// The disk cannot read a block that may be the last one acknowledged. Nothing was changed.
    /// Start again; if the error stays, the disk has lost the block.
    #[error(
        "{path}: the disk cannot read the block at byte {offset}, at the end of the log: {source}. \
         What was acknowledged may be in it, so nothing was changed. Start again when the disk works. \
         If it has lost the block for good, this member is lost: the cluster goes on while a \
         majority of the members is up. Then remove it from the cluster, and add it again with an \
         empty directory"
    )]
    Unreadable {
        /// The path of the file.
        path: String,
        /// The offset of the block in the file.
        offset: u64,
        /// The error of the disk.
        source: io::Error,
    },
    /// The disk cannot read the file `MARK`, which says how much of the log is synced. Nothing was
    /// changed. Start again; if the error stays, the disk has lost the file.
    #[error(
        "the disk cannot read the file MARK: {source}. It says how much of the log was synced, so \
         nothing was changed. Start again when the disk works. If it has lost the file for good, \
         remove this member from the cluster, and add it again with an empty directory. If no other \
         member has the data, remove the file: then damage to what was written last looks like a \
         write that a power failure has cut off"
    )]
    MarkUnreadable {
        /// The error of the disk.
        source: io::Error,
    },
    /// A setting is out of range.
    #[error("segment_bytes is {bytes}, and must be a positive multiple of 4096")]
    SegmentSize {
        /// Its value.
        bytes: u64,
    },
    /// The bound of the log is less than two segments.
    #[error("bytes_max is {bytes_max}, and must be at least two segments of {segment_bytes} bytes")]
    Bound {
        /// The bound.
        bytes_max: u64,
        /// The size of a segment.
        segment_bytes: u64,
    },
    /// An operation on the disk failed.
    #[error("{path}: {source}")]
    Io {
        /// The path of the file or directory.
        path: String,
        /// The error of the disk.
        source: io::Error,
    },
}

/// Reads the segments of a log, oldest first, and decides what to restore.
#[derive(Debug, Default)]
pub(crate) struct Scan {
    fold: Replay,
    segments: Vec<ScannedSegment>,
    /// The end of the latest intact batch: the index of its segment, and the position of the next
    /// block.
    end: Option<(usize, u32)>,
    /// Damaged or incomplete blocks after it.
    remains: Vec<Remains>,
    /// The highest batch number in any intact block.
    highest_seen: u64,
    /// The latest statement of any intact block about the batches before its own.
    proof: Option<Mark>,
    /// A block that cannot be read, where the batch after the latest intact one would be.
    unreadable: Option<(Remains, io::Error)>,
}

#[derive(Clone, Copy, Debug)]
pub(crate) struct ScannedSegment {
    pub generation: u64,
    pub len: u64,
    /// Some of its blocks are damaged, or belong to no intact batch.
    pub damaged: bool,
}

/// The position of a block to be erased.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Remains {
    pub generation: u64,
    pub position: u32,
}

/// The result of a scan.
#[derive(Debug)]
pub(crate) struct Scanned {
    /// The state that the batches result in. `None` if the log was never begun.
    pub replayed: Option<Replayed>,
    pub segments: Vec<ScannedSegment>,
    pub end: Option<(usize, u32)>,
    /// Blocks to erase before anything is written, unless the log is rewritten.
    pub remains: Vec<Remains>,
    /// The highest number that any batch may have had.
    pub highest_number: u64,
    pub batches: u64,
    pub cases: Vec<Case>,
}

impl Scan {
    /// Reads a segment. Its generation is greater than that of the previous one. The error is the
    /// version of a block of another version.
    pub fn segment(&mut self, content: Content, seed: u32, generation: u64) -> Result<(), u8> {
        let Content { blocks, mut unreadable } = content;
        let at = self.segments.len();
        let (mut damaged, mut position) = (false, 0);
        // Whether the block may belong to the batch after the latest intact one.
        let mut is_next = true;
        while let Some(rest) = blocks.get(position as usize * BLOCK_BYTES..) {
            if rest.len() < BLOCK_BYTES {
                break;
            }
            match block::classify(&rest[..BLOCK_BYTES], seed, generation, position) {
                Block::OtherVersion { version } => return Err(version),
                Block::Empty | Block::Stale => is_next = false,
                Block::Damaged => {
                    damaged = true;
                    let place = Remains { generation, position };
                    self.remains.push(place);
                    if let Some(error) = unreadable.remove(&position).filter(|_| is_next) {
                        self.unreadable.get_or_insert((place, error));
                    }
                }
                Block::Ours { batch: number, index, synced, .. } => {
                    self.proof = latest(self.proof, Some(synced));
                    let batch = (index == 0 && number > self.fold.number())
                        .then(|| batch::read(rest, seed, generation, position))
                        .flatten();
                    if let Some(batch) = batch {
                        position += batch.blocks;
                        self.highest_seen = self.highest_seen.max(number);
                        self.end = Some((at, position));
                        self.remains.clear();
                        self.unreadable = None;
                        is_next = true;
                        self.fold.push(batch, at);
                        continue;
                    }
                    damaged = true;
                    self.highest_seen = self.highest_seen.max(number);
                    self.remains.push(Remains { generation, position });
                }
            }
            position += 1;
        }
        let len = blocks.len() as u64;
        self.segments.push(ScannedSegment { generation, len, damaged });
        Ok(())
    }

    /// The segments in which something is lost.
    fn loss_files(&self) -> Case {
        let damaged = self.segments.iter().filter(|segment| segment.damaged);
        let gaps = self
            .segments
            .windows(2)
            .flat_map(|pair| pair[0].generation.saturating_add(1)..pair[1].generation);
        Case::LossFiles {
            damaged: damaged
                .map(|segment| segment::path(segment.generation))
                .take(FILES_SHOWN_MAX)
                .collect(),
            absent: gaps.map(segment::path).take(FILES_SHOWN_MAX).collect(),
        }
    }

    /// Decides what to restore. `node` is the owner of the directory.
    pub fn finish(mut self, mark: Option<Mark>, node: NodeId) -> Result<Scanned, OpenError> {
        let number = self.fold.number();
        // The latest batch that was synced, if it is missing.
        let missing = latest(mark, self.proof).filter(|synced| synced.batch > number);
        match (missing, self.unreadable.take()) {
            (Some(synced), _) if number > 0 => self.fold.end_in_hole(synced.end),
            (_, Some((Remains { generation, position }, source))) => {
                let offset = u64::from(position) * BLOCK_BYTES as u64;
                return Err(OpenError::Unreadable {
                    path: segment::path(generation),
                    offset,
                    source,
                });
            }
            (Some(_), None) => return Err(OpenError::LogGone),
            (None, None) => {}
        }
        let mut cases = Vec::new();
        let batches = self.fold.batches + u64::from(number > 0 && missing.is_none());
        let (mut replayed, harmless, repeated) = std::mem::take(&mut self.fold).finish();
        cases.extend(harmless.into_iter().map(|batch| Case::HarmlessDamage { batch }));
        cases.extend(repeated.into_iter().map(|batch| Case::Repeated { batch }));
        match &mut replayed {
            None => cases.push(Case::NotBegun),
            Some(Replayed { hole: Some(_), .. }) if missing.is_some() => {
                cases.push(Case::RottenEnd { batch: number + 1 });
            }
            Some(Replayed { hole: Some(hole), .. }) => cases.push(Case::Rotten { batch: *hole }),
            Some(_) if !self.remains.is_empty() => {
                cases.push(Case::TornTail { batch: number + 1 });
            }
            Some(_) => cases.push(Case::Clean),
        }
        if cases.iter().any(Case::is_loss) {
            cases.push(self.loss_files());
        }
        if let Some(replayed) = replayed.as_mut().filter(|replayed| replayed.hole.is_some()) {
            note_loss(replayed, missing, node);
        }
        Ok(Scanned {
            replayed,
            segments: self.segments,
            end: self.end,
            remains: self.remains,
            highest_number: number.max(self.highest_seen).max(mark.map_or(0, |mark| mark.batch)),
            batches,
            cases,
        })
    }
}

/// Of two statements, the one about the later batch.
fn latest(a: Option<Mark>, b: Option<Mark>) -> Option<Mark> {
    a.into_iter().chain(b).max_by_key(|synced| synced.batch)
}

/// Records in the hard state how far the log went. If the batches up to `missing` are missing, the
/// latest hard state is lost too: `node` counts as having voted for itself in the latest term, so
/// it grants no vote in that term.
fn note_loss(replayed: &mut Replayed, missing: Option<Mark>, node: NodeId) {
    let hard = &mut replayed.state.hard_state;
    hard.lost = hard.lost.max(Some(replayed.last));
    let Some(missing) = missing else { return };
    if missing.term > hard.term {
        hard.term = missing.term;
        hard.vote = None;
    }
    hard.vote = hard.vote.or(Some(node));
}
