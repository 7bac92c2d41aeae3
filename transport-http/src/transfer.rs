//! A snapshot on its way: an offer, then its bytes in chunks with a checksum each, the last one empty.
//! It counts as delivered once it is durable at the receiver.
//!
//! A transfer that breaks is begun anew; it is not resumed.

use crate::frame::{FrameError, Frames, write_frame};
use crate::hello::Hello;
use bytes::BufMut;
use driver::{Inbox, OfferError};
use raft::{NodeId, Offer};
use std::future::Future;
use storage::codec;

/// Where blocking work is done.
pub trait Offload: Sync {
    /// Does it; `None` if whoever should do it is gone.
    fn run<T: Send + 'static>(
        &self,
        work: impl FnOnce() -> T + Send + 'static,
    ) -> impl Future<Output = Option<T>> + Send;
}

/// Why a snapshot was not taken. The text is for the sender's operator.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Refused {
    /// It is cut off, damaged, or not for this node.
    #[error("{0}")]
    Bad(String),
    /// It is of no use.
    #[error("{0}")]
    Unwanted(String),
    /// Not now.
    #[error("{0}")]
    Unavailable(String),
    /// The disk does not take it.
    #[error("{0}")]
    Disk(String),
    /// The node is going down.
    #[error("a task ended")]
    Gone,
}

/// Appends the beginning of a transfer: who speaks, and what is offered.
pub fn write_offer(into: &mut Vec<u8>, hello: &Hello, offer: &Offer) {
    write_frame(into, |into| into.extend(hello.encode()));
    write_frame(into, |into| codec::encode(offer, into));
}

/// Appends a chunk of the state; an empty one ends it.
pub fn write_chunk(into: &mut Vec<u8>, chunk: &[u8]) {
    write_frame(into, |into| {
        into.put_u32_le(crc32c::crc32c(chunk));
        into.extend(chunk);
    });
}

/// Receives a snapshot for the node that `own` describes, and returns once it is durable and handed
/// over. `passes` tells whether anything of a peer is heard at the moment.
pub async fn receive_snapshot(
    own: &Hello,
    inbox: &Inbox,
    frames: &mut impl Frames,
    offload: &impl Offload,
    passes: impl Fn(NodeId) -> bool,
) -> Result<(), Refused> {
    let bad = |text: &str| Refused::Bad(text.to_owned());
    let next = |frame: Result<_, FrameError>| match frame {
        Ok(Some(frame)) => Ok(frame),
        Ok(None) => Err(bad("the snapshot is cut off")),
        Err(error) => Err(Refused::Bad(error.to_string())),
    };
    let first = frames.first().await.ok().flatten().ok_or_else(|| bad("no first frame"))?;
    let hello = Hello::check(&first, own).map_err(|refusal| Refused::Bad(refusal.to_string()))?;
    let offer: Offer = codec::decode(&next(frames.next().await)?)
        .map_err(|error| Refused::Bad(error.to_string()))?;
    if offer.from != hello.from || offer.to != own.from || !passes(offer.from) {
        return Err(bad("the offer is not for this node"));
    }
    let mut reception = inbox.offer(offer).await.map_err(|error| match error {
        OfferError::Unwanted => Refused::Unwanted(error.to_string()),
        _ => Refused::Unavailable(error.to_string()),
    })?;
    let lost = |error: std::io::Error| Refused::Disk(error.to_string());
    loop {
        let frame = next(frames.next().await)?;
        let Some((head, chunk)) = frame.split_first_chunk::<4>() else {
            return Err(bad("a chunk without a checksum"));
        };
        if crc32c::crc32c(chunk) != u32::from_le_bytes(*head) {
            return Err(bad("a chunk is damaged"));
        }
        if chunk.is_empty() {
            break;
        }
        let chunk = frame.slice(4..);
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
