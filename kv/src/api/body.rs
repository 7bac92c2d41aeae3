//! Request bodies: read whole, within a size, within a time, and within what the node can hold.

use super::App;
use axum::body::Body;
use bytes::{Bytes, BytesMut};
use futures_util::StreamExt;
use std::net::IpAddr;
use tokio::sync::OwnedSemaphorePermit;

/// So much of each body does not count in the budget of all bodies: the number of connections
/// bounds it.
const UNCOUNTED_BYTES: usize = 64 << 10;

/// So much of a body that is too large is read and thrown away, so that a client that writes it all
/// before it reads gets its answer. Of a larger one the connection is closed.
const DISCARDED_BYTES_MAX: usize = 64 << 20;

/// A body, and its share of the budget.
pub struct Held {
    /// The body.
    pub bytes: Bytes,
    _share: Option<OwnedSemaphorePermit>,
}

/// Where a request comes from, as the connection says.
#[derive(Clone, Copy, Debug)]
pub struct Source(pub IpAddr);

/// A body that has been read by [`super::routes::around`], within the bounds.
pub async fn whole(body: Body) -> Bytes {
    // It is in memory, so nothing can fail.
    axum::body::to_bytes(body, usize::MAX).await.unwrap_or_default()
}

/// Why there is no body. Nothing has been done.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum BodyError {
    /// It is larger than what is allowed here.
    #[error("the body is larger than {limit_bytes} bytes")]
    TooLarge {
        /// The limit.
        limit_bytes: usize,
    },
    /// It did not come in time.
    #[error("the body did not arrive in time")]
    Slow,
    /// The connection broke, or the framing was wrong.
    #[error("the body cannot be read")]
    Broken,
    /// The node holds too many bodies already.
    #[error("this node has too many large requests under way; try again later")]
    Busy,
}

impl App {
    /// Reads a body of at most `limit_bytes`.
    pub(super) async fn read_body(
        &self,
        body: Body,
        limit_bytes: usize,
    ) -> Result<Held, BodyError> {
        use http_body_util::BodyExt;
        use hyper::body::Body as _;
        if body.is_end_stream() {
            return Ok(Held { bytes: Bytes::new(), _share: None });
        }
        // The usual small body is there already, in one piece: no timer is needed for it.
        let claimed = body.size_hint().lower();
        let mut frames = BodyExt::into_data_stream(body);
        let mut late = self.sleep(self.limits.client_timeout);
        let read = async {
            if claimed > limit_bytes as u64 {
                discard(&mut frames, claimed).await;
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
                        // Not what the header claims: that is not in the budget before it is there.
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
