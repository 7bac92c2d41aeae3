//! The transfer of a snapshot: an offer, the state in chunks, and a trailer with the length and the
//! checksum of the state. The receiver installs the snapshot only if both match. The transfer
//! succeeds once the snapshot is durable at the receiver. Each frame has a checksum of its own; the
//! trailer detects chunks that were lost, duplicated or reordered.
//!
//! A transfer that breaks starts again from the beginning; it is not resumed.

use crate::frame::{FrameError, Frames, write_first, write_frame};
use crate::hello::{Hello, Refusal};
use driver::{Inbox, OfferError};
use raft::SnapshotOffer;
use serde::{Deserialize, Serialize};
use std::future::Future;
use storage::codec;

/// Runs blocking work outside of the async tasks.
pub trait Offload: Sync {
    /// Runs `work` and returns its result; `None` if the work did not finish, for instance because
    /// the node is stopping.
    fn run<T: Send + 'static>(
        &self,
        work: impl FnOnce() -> T + Send + 'static,
    ) -> impl Future<Output = Option<T>> + Send;
}

/// Why a snapshot was rejected. The text is for the sender's operator.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Refused {
    /// The sender belongs to another cluster, has another version, or dialled another node.
    #[error("{0}")]
    Peer(Refusal),
    /// A frame was damaged in transit.
    #[error("{0}")]
    Damaged(String),
    /// The snapshot is cut off, incomplete, or not for this node.
    #[error("{0}")]
    Bad(String),
    /// The receiver does not need the snapshot.
    #[error("{0}")]
    Unwanted(String),
    /// The receiver cannot take the snapshot now. The sender may try again later.
    #[error("{0}")]
    Unavailable(String),
    /// The disk failed to store the snapshot.
    #[error("{0}")]
    Disk(String),
    /// The node is stopping.
    #[error("a task ended")]
    Gone,
}

/// The first byte of a frame that holds a chunk of the state.
const CHUNK: u8 = 0;
/// The first byte of the trailer, which is the last frame.
const TRAILER: u8 = 1;

/// The length and the checksum of all bytes so far.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
struct Totals {
    bytes: u64,
    checksum: u32,
}

impl Totals {
    fn add(&mut self, chunk: &[u8]) {
        self.bytes += chunk.len() as u64;
        self.checksum = crc32c::crc32c_append(self.checksum, chunk);
    }
}

/// Appends the beginning of a transfer: the sender, and the offer.
pub fn write_offer(into: &mut Vec<u8>, hello: &Hello, offer: &SnapshotOffer) {
    write_first(into, &hello.encode());
    write_frame(into, |into| codec::encode(offer, into));
}

/// Writes the state of one snapshot as frames.
#[derive(Debug, Default)]
pub struct ChunkWriter {
    totals: Totals,
}

impl ChunkWriter {
    /// Appends a chunk of the state. An empty chunk appends the trailer, which ends the transfer.
    pub fn write(&mut self, into: &mut Vec<u8>, chunk: &[u8]) {
        self.totals.add(chunk);
        write_frame(into, |into| match chunk {
            [] => {
                into.push(TRAILER);
                codec::encode(&self.totals, into);
            }
            chunk => {
                into.push(CHUNK);
                into.extend(chunk);
            }
        });
    }
}

/// Receives a snapshot for the node that `own` describes. Returns once the snapshot is durable and
/// handed to `inbox`. `passes` decides whether this sender is accepted at the moment.
pub async fn receive_snapshot(
    own: &Hello,
    inbox: &Inbox,
    frames: &mut impl Frames,
    offload: &impl Offload,
    passes: impl Fn(&Hello) -> bool,
) -> Result<(), Refused> {
    let bad = |text: &str| Refused::Bad(text.to_owned());
    let next = |frame: Result<_, FrameError>| match frame {
        Ok(Some(frame)) => Ok(frame),
        Ok(None) => Err(bad("the snapshot is cut off")),
        Err(error @ FrameError::Damaged { .. }) => Err(Refused::Damaged(error.to_string())),
        Err(error) => Err(Refused::Bad(error.to_string())),
    };
    let first = next(frames.first().await)?;
    let hello = Hello::check(&first, own).map_err(Refused::Peer)?;
    let offer: SnapshotOffer = codec::decode(&next(frames.next().await)?)
        .map_err(|error| Refused::Bad(error.to_string()))?;
    if offer.from != hello.from || offer.to != own.from || !passes(&hello) {
        return Err(bad("the offer is not for this node"));
    }
    let mut reception = inbox.offer(offer).await.map_err(|error| match error {
        OfferError::Unwanted => Refused::Unwanted(error.to_string()),
        _ => Refused::Unavailable(error.to_string()),
    })?;
    let lost = |error: std::io::Error| Refused::Disk(error.to_string());
    let mut totals = Totals::default();
    loop {
        let frame = next(frames.next().await)?;
        match frame.split_first() {
            None => continue,
            Some((&CHUNK, chunk)) => totals.add(chunk),
            Some((&TRAILER, trailer)) => {
                if codec::decode::<Totals>(trailer).ok() != Some(totals) {
                    return Err(bad("the snapshot is not the one that was sent"));
                }
                break;
            }
            Some(_) => return Err(bad("neither a part of a snapshot nor its end")),
        }
        let chunk = frame.slice(1..);
        let write = move || reception.write(&chunk).map(|()| reception);
        reception = offload.run(write).await.ok_or(Refused::Gone)?.map_err(lost)?;
    }
    let received =
        offload.run(move || reception.finish()).await.ok_or(Refused::Gone)?.map_err(lost)?;
    match inbox.install(received).await {
        true => Ok(()),
        false => Err(Refused::Unavailable("this node is stopping".to_owned())),
    }
}
