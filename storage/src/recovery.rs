//! What a directory holds, and what follows from it: the decision table of a start.
//!
//! | what is found | what follows |
//! |---|---|
//! | no identity, no log | [`Case::Empty`]: nothing is restored |
//! | no identity, but a log | refused: [`OpenError::IdentityMissing`] |
//! | a damaged identity, or one of another version | refused: [`OpenError::Identity`] |
//! | an identity, and no batch was ever begun | [`Case::NotBegun`] |
//! | an identity, and only the remains of the very first batch | [`Case::NotBegun`]; they are erased |
//! | an identity, no intact batch, and proof that there were some | refused: [`OpenError::LogGone`] |
//! | an identity that names its cluster, and no log at all | refused: [`OpenError::LogGone`] |
//! | a block of a later version | refused: [`OpenError::OtherVersion`] |
//! | every batch follows the one before, and nothing else is there | [`Case::Clean`] |
//! | the same, and blocks left over from earlier uses of a segment | [`Case::Clean`]; they say who they are |
//! | damage after the highest intact batch, and no proof that it was synced | [`Case::TornTail`]: it was never acknowledged; it is erased |
//! | damage or a gap below an intact batch, in what is no longer needed | [`Case::HarmlessDamage`] |
//! | damage or a gap in batches that a later one repeats | [`Case::Repeated`] |
//! | damage or a gap below an intact batch, in what is still needed | [`Case::Rotten`] |
//! | an intact batch whose successor says that another one stood there | as if it were damaged |
//! | damage after the highest intact batch, which the mark covers | [`Case::RottenEnd`] |
//! | damage after the highest intact batch, and a block of the batch after it | [`Case::RottenEnd`]: that batch was begun after the sync of the damaged one |
//! | a file in `log/` that is no segment | [`Case::ForeignFile`]: left alone |
//!
//! After `Rotten` and `RottenEnd` the node has lost something that it may have acknowledged. What is
//! restored is the log just before the damage, without what cannot have been in the log that was damaged
//! (it was overwritten in there, and its end would look later), and `hard_state.lost` says how far it once
//! went; this is written at once, as a log that begins anew, so that no later start knows less. After
//! `RottenEnd` the latest vote is in doubt, so the node counts as having voted for itself.
//!
//! The remaining window: damage in the highest batch, synced after the last mark, looks torn. Batches
//! that a power failure cuts off and batches that rot before the next one is written, while no mark
//! covers them, cannot be told apart by any log that is synced once a batch.

use crate::batch;
use crate::block::{self, BLOCK_BYTES, Block};
use crate::fold::{Fold, Folded};
use crate::mark::Mark;
use crate::{IdentityError, LockError};
use raft::{LogId, NodeId};
use std::fmt;
use std::io;

/// What a start found. More than one case may hold.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Case {
    /// Nothing at all.
    Empty,
    /// An identity, and a log that was never begun.
    NotBegun,
    /// Everything is there.
    Clean,
    /// The remains of this batch, whose write was cut off, are erased. It was never acknowledged.
    TornTail {
        /// Its number.
        batch: u64,
    },
    /// This batch is damaged or missing, and nothing in it is needed any more. A segment larger than
    /// usual that was removed when it was needed no more leaves such a gap.
    HarmlessDamage {
        /// Its number.
        batch: u64,
    },
    /// This batch is damaged or missing, and the next one says the same again.
    Repeated {
        /// Its number.
        batch: u64,
    },
    /// This batch is damaged or missing, later ones are intact, and entries are lost with it.
    Rotten {
        /// Its number; 0, if the oldest segments are missing.
        batch: u64,
    },
    /// This batch, the highest or one of the highest, was synced, and is damaged or missing.
    RottenEnd {
        /// Its number.
        batch: u64,
    },
    /// The snapshot that the log began after is lost. The log begins after a later one.
    NewerSnapshot {
        /// The one that is lost.
        lost: LogId,
        /// The one that is there.
        snapshot: LogId,
    },
    /// The snapshot that the log began after is lost, and with it what the log builds upon.
    SnapshotLost {
        /// Which one.
        snapshot: LogId,
    },
    /// This file does not belong here. It is left alone.
    ForeignFile {
        /// Its name.
        name: String,
    },
}

impl Case {
    /// Whether something acknowledged may be lost.
    pub fn is_loss(&self) -> bool {
        matches!(self, Case::Rotten { .. } | Case::RottenEnd { .. } | Case::SnapshotLost { .. })
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

/// Why a log cannot be opened. Each variant says what an operator can do.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum OpenError {
    /// Another process has the directory, or it cannot be used.
    #[error(transparent)]
    Lock(#[from] LockError),
    /// The identity cannot be told.
    #[error(transparent)]
    Identity(#[from] IdentityError),
    /// There is a log, but no identity to it.
    #[error(
        "the directory has a log but no file IDENTITY; put that file back. Without it this member is \
         lost: the cluster goes on while a majority of the other members is up, but this version \
         cannot replace a member"
    )]
    IdentityMissing,
    /// There was a log, and no batch of it is left.
    #[error(
        "the log is gone: the directory once had one, and nothing of it can be read. Put back the \
         files themselves if they were moved, never an older copy of them: what was acknowledged \
         since would be lost. Without them this member is lost: the cluster goes on while a \
         majority of the other members is up, but this version cannot replace a member"
    )]
    LogGone,
    /// It was written by another version of this software. Run that.
    #[error(
        "{path} has format {version}, and this version of the software reads format {ours} only; \
         run the version that wrote it", ours = crate::block::VERSION
    )]
    OtherVersion {
        /// Which file.
        path: String,
        /// Its format.
        version: u8,
    },
    /// The disk failed.
    #[error("{path}: {source}")]
    Io {
        /// Which file or directory.
        path: String,
        /// What the disk said.
        source: io::Error,
    },
}

/// Reads the segments of a log, oldest first.
#[derive(Debug, Default)]
pub(crate) struct Scan {
    fold: Fold,
    segments: Vec<ScannedSegment>,
    /// Where the latest intact batch ends: which segment, and at which block.
    end: Option<(usize, u32)>,
    /// What stands behind it and says nothing.
    remains: Vec<Remains>,
    /// The highest number of a batch of which there is an intact block.
    highest_seen: u64,
}

#[derive(Clone, Copy, Debug)]
pub(crate) struct ScannedSegment {
    pub generation: u64,
    pub len: u64,
    /// It has blocks that cannot be read as what they were.
    pub damaged: bool,
}

/// A block to be erased.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Remains {
    pub generation: u64,
    pub position: u32,
}

/// What the segments say, and what is to be done about it.
#[derive(Debug)]
pub(crate) struct Scanned {
    /// `None`, if the log was never begun.
    pub folded: Option<Folded>,
    pub segments: Vec<ScannedSegment>,
    pub end: Option<(usize, u32)>,
    /// To be erased before anything is written, unless the log begins anew.
    pub remains: Vec<Remains>,
    /// The highest number that any batch may have had.
    pub highest_number: u64,
    pub batches: u64,
    pub cases: Vec<Case>,
}

impl Scan {
    /// Reads a segment. Its generation is greater than that of the one before.
    pub fn segment(&mut self, content: &[u8], seed: u32, generation: u64) -> Result<(), u8> {
        let at = self.segments.len();
        let mut damaged = !content.len().is_multiple_of(BLOCK_BYTES);
        let mut position = 0;
        while let Some(rest) = content.get(position as usize * BLOCK_BYTES..) {
            if rest.len() < BLOCK_BYTES {
                break;
            }
            match block::classify(&rest[..BLOCK_BYTES], seed, generation, position) {
                Block::OtherVersion { version } => return Err(version),
                Block::Blank | Block::Stale => {}
                Block::Damaged => {
                    damaged = true;
                    self.remains.push(Remains { generation, position });
                }
                Block::Ours { batch: number, index, .. } => {
                    let batch = (index == 0 && number > self.fold.number())
                        .then(|| batch::read(rest, seed, generation, position))
                        .flatten();
                    if let Some(batch) = batch {
                        position += batch.blocks;
                        self.highest_seen = self.highest_seen.max(number);
                        self.end = Some((at, position));
                        self.remains.clear();
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
        let len = content.len() as u64;
        self.segments.push(ScannedSegment { generation, len, damaged });
        Ok(())
    }

    /// Decides. `node` is who the directory belongs to.
    pub fn finish(mut self, mark: Option<Mark>, node: NodeId) -> Result<Scanned, OpenError> {
        let number = self.fold.number();
        let marked = mark.filter(|mark| mark.batch > number);
        // Batch N + 2 is begun after the receipt for N + 1, so N + 1 was synced.
        let proven = self.highest_seen > number + 1;
        let synced = marked.is_some() || proven;
        if number == 0 && synced {
            return Err(OpenError::LogGone);
        }
        if synced {
            self.fold.end_in_hole();
        }
        let mut cases = Vec::new();
        let batches = self.fold.batches + u64::from(number > 0 && !synced);
        let (mut folded, harmless, repeated) = self.fold.finish();
        cases.extend(harmless.into_iter().map(|batch| Case::HarmlessDamage { batch }));
        cases.extend(repeated.into_iter().map(|batch| Case::Repeated { batch }));
        match &mut folded {
            None => cases.push(Case::NotBegun),
            Some(Folded { hole: Some(_), .. }) if synced => {
                cases.push(Case::RottenEnd { batch: number + 1 });
            }
            Some(Folded { hole: Some(hole), .. }) => cases.push(Case::Rotten { batch: *hole }),
            Some(_) if !self.remains.is_empty() => {
                cases.push(Case::TornTail { batch: number + 1 });
            }
            Some(_) => cases.push(Case::Clean),
        }
        if let Some(folded) = folded.as_mut().filter(|folded| folded.hole.is_some()) {
            note_loss(folded, mark.filter(|mark| mark.batch >= number), synced.then_some(node));
        }
        Ok(Scanned {
            folded,
            segments: self.segments,
            end: self.end,
            remains: self.remains,
            highest_number: number.max(self.highest_seen).max(mark.map_or(0, |mark| mark.batch)),
            batches,
            cases,
        })
    }
}

/// Notes in the hard state how far the log once went. If `abstain` is given, the latest hard state is
/// lost too: that node counts as having voted for itself, so that it votes for nobody in that term.
fn note_loss(folded: &mut Folded, mark: Option<Mark>, abstain: Option<NodeId>) {
    let hard = &mut folded.state.hard_state;
    let known = [Some(folded.last), hard.lost, mark.map(|mark| mark.last)];
    hard.lost = known.into_iter().flatten().max();
    let Some(node) = abstain else { return };
    if let Some(mark) = mark.filter(|mark| mark.term > hard.term) {
        hard.term = mark.term;
        hard.vote = None;
    }
    hard.vote = hard.vote.or(Some(node));
}
