//! Long replies, and the memory budget that they share.
//!
//! If a client does not read its reply, the reply keeps a value of the store in memory, and the
//! parts that are ready to be sent. Both count. When the budget is used up, further long replies
//! are refused.

use super::App;
use super::offload::yield_now;
use super::routes::json;
use crate::pieces::Pieces;
use axum::body::Body;
use axum::response::Response;
use bytes::Bytes;
use hyper::StatusCode;
use hyper::body::{Body as HttpBody, Frame, SizeHint};
use std::convert::Infallible;
use std::pin::Pin;
use std::sync::atomic::{AtomicU64, Ordering};
use std::task::{Context, Poll};
use tokio::sync::OwnedSemaphorePermit;

/// A reply up to this many bytes is not counted: the number of connections bounds those.
const UNCOUNTED_BYTES: usize = 64 << 10;
/// A long reply is sent in parts of about this many bytes.
const PART_BYTES: usize = 64 << 10;
/// How many parts of a reply count as in memory, in addition to the value: those on the way to the
/// socket.
const PARTS_READY: usize = 3;

/// A share of the memory budget for replies, released on drop.
#[derive(Debug)]
pub struct Share {
    _permit: Option<OwnedSemaphorePermit>,
}

impl Share {
    /// The share of a short reply, which is not counted.
    pub fn none() -> Self {
        Share { _permit: None }
    }
}

/// Counts how often a long reply was refused or had to wait for memory, since the start. When the
/// count rises, clients that do not read their replies are disconnected sooner: see `patient.rs`.
#[derive(Debug, Default)]
pub struct Pressure(AtomicU64);

impl Pressure {
    /// Counts one more time.
    pub fn raise(&self) {
        self.0.fetch_add(1, Ordering::Relaxed);
    }

    /// The count so far.
    pub fn times(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }
}

/// The memory budget for long replies is used up.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("this node has as many long replies under way as it can hold; try again later")]
pub struct NoRoom;

impl App {
    /// Takes a share of the budget for a reply that keeps `bytes` bytes in memory.
    pub(super) fn room(&self, bytes: usize) -> Result<Share, NoRoom> {
        if bytes <= UNCOUNTED_BYTES {
            return Ok(Share { _permit: None });
        }
        let permit = self.replies.clone().try_acquire_many_owned(counted(bytes));
        let permit = permit.map_err(|_| {
            self.pressure.raise();
            NoRoom
        })?;
        Ok(Share { _permit: Some(permit) })
    }

    /// Like [`App::room`], but waits for a share. `None` if there is none within the client
    /// timeout.
    pub(super) async fn room_in_time(&self, bytes: usize) -> Option<Share> {
        if let Ok(share) = self.room(bytes) {
            return Some(share);
        }
        let permit = self.replies.clone().acquire_many_owned(counted(bytes));
        tokio::select! {
            biased;
            permit = permit => Some(Share { _permit: Some(permit.ok()?) }),
            () = self.sleep(self.limits.client_timeout) => None,
        }
    }
}

fn counted(bytes: usize) -> u32 {
    u32::try_from(bytes + PARTS_READY * PART_BYTES).unwrap_or(u32::MAX)
}

/// A JSON reply, which keeps its share until it is sent.
pub fn pieces(mut pieces: Pieces, share: Share) -> Response {
    if pieces.bytes() <= UNCOUNTED_BYTES {
        let mut body = Vec::with_capacity(pieces.bytes());
        pieces.write(&mut body, usize::MAX);
        return json(StatusCode::OK, body);
    }
    let parts = futures_util::stream::unfold((pieces, share), async |(mut pieces, share)| {
        yield_now().await;
        let mut part = Vec::with_capacity(PART_BYTES + PART_BYTES / 4);
        pieces.write(&mut part, PART_BYTES);
        let next = (!part.is_empty()).then_some(part)?;
        Some((Ok::<_, Infallible>(Bytes::from(next)), (pieces, share)))
    });
    json(StatusCode::OK, Body::from_stream(parts))
}

/// A body of bytes that are shared with the store. It keeps its share until it is sent.
pub fn bytes(bytes: Bytes, share: Share) -> Body {
    match share._permit {
        None => Body::from(bytes),
        Some(_) => Body::new(Kept { bytes: Some(bytes), _share: share }),
    }
}

struct Kept {
    bytes: Option<Bytes>,
    _share: Share,
}

impl HttpBody for Kept {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        _: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        // The value is sent in parts, so that the share is held until the last part is sent.
        let Some(mut rest) = self.bytes.take().filter(|rest| !rest.is_empty()) else {
            return Poll::Ready(None);
        };
        let part = rest.split_to(rest.len().min(PART_BYTES));
        self.bytes = Some(rest);
        Poll::Ready(Some(Ok(Frame::data(part))))
    }

    fn is_end_stream(&self) -> bool {
        self.bytes.as_ref().is_none_or(Bytes::is_empty)
    }

    fn size_hint(&self) -> SizeHint {
        SizeHint::with_exact(self.bytes.as_ref().map_or(0, Bytes::len) as u64)
    }
}
