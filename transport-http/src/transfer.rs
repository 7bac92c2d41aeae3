//! The transfer of a snapshot: an offer, the state in chunks, and a trailer with the length and the
//! checksum of the state. The receiver installs the snapshot only if both match. The transfer
//! succeeds once the snapshot is durable at the receiver. Each frame has a checksum of its own; the
//! trailer detects chunks that were lost, duplicated or reordered.
//!
//! Before it, the sender asks how much of the snapshot an earlier transfer has left at the
//! receiver, and then sends only what follows. It reads the rest as well, so the trailer proves the
//! whole state, even if another node sent its first part.

use crate::frame::{FrameDecoder, FrameError, Frames, OFFER_BYTES_MAX, write_first, write_frame};
use crate::hello::{Hello, Refusal};
use bytes::Bytes;
use driver::{Inbox, OfferError, Prefix};
use raft::SnapshotOffer;
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

/// Appends the question how much of a snapshot is at the receiver: the sender, and the offer.
pub fn write_question(into: &mut Vec<u8>, hello: &Hello, offer: &SnapshotOffer) {
    write_first(into, &hello.encode());
    write_frame(into, |into| codec::encode(offer, into));
}

/// Appends the beginning of a transfer: the sender, the offer, and the part that is not sent
/// because it is at the receiver.
pub fn write_offer(into: &mut Vec<u8>, hello: &Hello, offer: &SnapshotOffer, start: Prefix) {
    write_question(into, hello, offer);
    write_frame(into, |into| encode_prefix(start, into));
}

fn encode_prefix(prefix: Prefix, into: &mut Vec<u8>) {
    codec::encode(&(prefix.bytes, prefix.checksum), into);
}

fn decode_prefix(bytes: &[u8]) -> Option<Prefix> {
    let (bytes, checksum) = codec::decode(bytes).ok()?;
    Some(Prefix { bytes, checksum })
}

/// Writes the state of one snapshot as frames.
#[derive(Debug, Default)]
pub struct ChunkWriter {
    totals: Prefix,
}

impl ChunkWriter {
    /// Passes over a chunk that is at the receiver already.
    pub fn skip(&mut self, chunk: &[u8]) {
        self.totals.add(chunk);
    }

    /// The length and checksum of the bytes that were written or passed over so far.
    pub fn prefix(&self) -> Prefix {
        self.totals
    }

    /// Appends a chunk of the state. An empty chunk appends the trailer, which ends the transfer.
    pub fn write(&mut self, into: &mut Vec<u8>, chunk: &[u8]) {
        self.totals.add(chunk);
        write_frame(into, |into| match chunk {
            [] => {
                into.push(TRAILER);
                encode_prefix(self.totals, into);
            }
            chunk => {
                into.push(CHUNK);
                into.extend(chunk);
            }
        });
    }
}

/// Answers how much of the offered snapshot an earlier transfer has left at the node that `own`
/// describes. The answer is one frame, for [`read_answer`].
pub async fn answer_question(
    own: &Hello,
    inbox: &Inbox,
    frames: &mut impl Frames,
    passes: impl Fn(&Hello) -> bool,
) -> Result<Vec<u8>, Refused> {
    let offer = read_offer(own, frames, passes).await?;
    let mut answer = Vec::new();
    write_frame(&mut answer, |into| encode_prefix(inbox.prefix(&offer.snapshot), into));
    Ok(answer)
}

/// Reads the answer of [`answer_question`]. `None` if it is damaged or something else.
pub fn read_answer(answer: &[u8]) -> Option<Prefix> {
    let mut decoder = FrameDecoder::default();
    decoder.push(answer);
    decode_prefix(&decoder.take(answer.len()).ok()??)
}

/// Receives a snapshot for the node that `own` describes. Returns once the snapshot is durable and
/// handed to `inbox`. `passes` decides whether this sender is accepted at the moment. `arrived`
/// gets the size of each part of the state.
pub async fn receive_snapshot(
    own: &Hello,
    inbox: &Inbox,
    frames: &mut impl Frames,
    offload: &impl Offload,
    passes: impl Fn(&Hello) -> bool,
    arrived: impl Fn(u64),
) -> Result<(), Refused> {
    let offer = read_offer(own, frames, passes).await?;
    let start = decode_prefix(&next(frames.next().await)?);
    let start = start.ok_or_else(|| bad("the offer does not say where it begins"))?;
    let mut reception = inbox.resume(offer, start).await.map_err(|error| match error {
        OfferError::Unwanted => Refused::Unwanted(error.to_string()),
        _ => Refused::Unavailable(error.to_string()),
    })?;
    let lost = |error: std::io::Error| Refused::Disk(error.to_string());
    loop {
        let frame = next(frames.next().await)?;
        match frame.split_first() {
            Some((&CHUNK, _)) => {}
            Some((&TRAILER, trailer)) => {
                if decode_prefix(trailer) != Some(reception.prefix()) {
                    reception.discard();
                    return Err(bad("the snapshot is not the one that was sent"));
                }
                break;
            }
            _ => return Err(bad("neither a part of a snapshot nor its end")),
        }
        let chunk = frame.slice(1..);
        arrived(chunk.len() as u64);
        let write = move || reception.write(&chunk).map(|()| reception);
        reception = offload.run(write).await.ok_or(Refused::Gone)?.map_err(lost)?;
    }
    // This may take longer than the sender waits. It ends all the same, and the sender then learns
    // that its next offer is not needed.
    offload.run(move || reception.finish()).await.ok_or(Refused::Gone)?.map_err(lost)
}

async fn read_offer(
    own: &Hello,
    frames: &mut impl Frames,
    passes: impl Fn(&Hello) -> bool,
) -> Result<SnapshotOffer, Refused> {
    let hello = Hello::check(&next(frames.first().await)?, own).map_err(Refused::Peer)?;
    let offer: SnapshotOffer = codec::decode(&next(frames.next_within(OFFER_BYTES_MAX).await)?)
        .map_err(|error| Refused::Bad(error.to_string()))?;
    if offer.from != hello.from || offer.to != own.from || !passes(&hello) {
        return Err(bad("the offer is not for this node"));
    }
    Ok(offer)
}

fn bad(text: &str) -> Refused {
    Refused::Bad(text.to_owned())
}

fn next(frame: Result<Option<Bytes>, FrameError>) -> Result<Bytes, Refused> {
    match frame {
        Ok(Some(frame)) => Ok(frame),
        Ok(None) => Err(bad("the snapshot is cut off")),
        Err(error @ FrameError::Damaged { .. }) => Err(Refused::Damaged(error.to_string())),
        Err(error) => Err(Refused::Bad(error.to_string())),
    }
}
