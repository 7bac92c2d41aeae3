//! Reads request bodies whole, within limits of size, time and memory.

use super::App;
use axum::body::Body;
use bytes::{Bytes, BytesMut};
use futures_util::StreamExt;
use std::net::IpAddr;
use tokio::sync::OwnedSemaphorePermit;

/// Up to this many bytes of a body do not count in the memory budget. The number of connections
/// bounds them.
const UNCOUNTED_BYTES: usize = 64 << 10;

/// The rest of an oversized body is read and discarded up to this many bytes. So a client that
/// sends the whole body before it reads gets its answer. Beyond this, the connection is closed.
const DISCARDED_BYTES_MAX: usize = 64 << 20;

/// A body, and its share of the memory budget. The share is released on drop.
pub struct Held {
    /// The whole body.
    pub bytes: Bytes,
    _share: Option<OwnedSemaphorePermit>,
}

/// The address that a request comes from.
#[derive(Clone, Copy, Debug)]
pub struct Source(pub IpAddr);

/// Returns the body that [`super::routes::around`] has read within the limits.
pub async fn whole(body: Body) -> Bytes {
    // It is in memory, so this cannot fail.
    axum::body::to_bytes(body, usize::MAX).await.unwrap_or_default()
}

/// Why a body could not be read. The request has not been executed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum BodyError {
    /// The body is larger than its route allows.
    #[error("the body is larger than {limit_bytes} bytes")]
    TooLarge {
        /// The most bytes of a body on this route.
        limit_bytes: usize,
    },
    /// The body did not arrive within [`crate::limits::Limits::client_timeout`].
    #[error("the body did not arrive in time")]
    Slow,
    /// The connection broke, or the HTTP framing was wrong.
    #[error("the body cannot be read")]
    Broken,
    /// The memory budget for bodies is used up.
    #[error("this node has too many large requests under way; try again later")]
    Busy,
}

impl App {
    /// Reads a body of at most `limit_bytes`. `awaits_continue` says that the client sends the body
    /// only once it is asked for it, which the first read does (RFC 9110, 10.1.1).
    pub(super) async fn read_body(
        &self,
        body: Body,
        limit_bytes: usize,
        awaits_continue: bool,
    ) -> Result<Held, BodyError> {
        use http_body_util::BodyExt;
        use hyper::body::Body as _;
        if body.is_end_stream() {
            return Ok(Held { bytes: Bytes::new(), _share: None });
        }
        // A small body usually is available at once in one piece, and this timer is then never
        // polled.
        let claimed = body.size_hint().lower();
        let mut frames = BodyExt::into_data_stream(body);
        let mut late = self.sleep(self.limits.client_timeout);
        let read = async {
            if claimed > limit_bytes as u64 {
                if !awaits_continue {
                    discard(&mut frames, claimed).await;
                }
                return Err(BodyError::TooLarge { limit_bytes });
            }
            let mut share: Option<OwnedSemaphorePermit> = None;
            let mut first = Bytes::new();
            let mut all = BytesMut::new();
            while let Some(frame) = frames.next().await {
                let frame = frame.map_err(|_| BodyError::Broken)?;
                let len = first.len() + all.len() + frame.len();
                if len > limit_bytes {
                    discard(&mut frames, 0).await;
                    return Err(BodyError::TooLarge { limit_bytes });
                }
                if len > UNCOUNTED_BYTES {
                    let more = u32::try_from(frame.len()).map_err(|_| BodyError::Busy)?;
                    let taken = self.bodies.clone().try_acquire_many_owned(more);
                    let taken = taken.map_err(|_| BodyError::Busy)?;
                    match &mut share {
                        Some(share) => share.merge(taken),
                        None => share = Some(taken),
                    }
                }
                if first.is_empty() && all.is_empty() {
                    first = frame;
                } else {
                    if all.is_empty() {
                        // Reserve what has arrived, not what the header claims: only arrived bytes
                        // are counted in the budget.
                        all.reserve(len);
                        all.extend_from_slice(&first);
                        first = Bytes::new();
                    }
                    all.extend_from_slice(&frame);
                }
            }
            let bytes = if all.is_empty() { first } else { all.freeze() };
            Ok(Held { bytes, _share: share })
        };
        tokio::select! {
            biased;
            held = read => held,
            () = &mut late => Err(BodyError::Slow),
        }
    }
}

async fn discard(frames: &mut http_body_util::BodyDataStream<Body>, claimed: u64) {
    if claimed > DISCARDED_BYTES_MAX as u64 {
        return;
    }
    let mut discarded = 0;
    while let Some(Ok(frame)) = frames.next().await {
        discarded += frame.len();
        if discarded > DISCARDED_BYTES_MAX {
            return;
        }
    }
}
