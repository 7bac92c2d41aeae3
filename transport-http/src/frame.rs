//! Frames: a length of four bytes, little-endian, and so many bytes. A frame of length 0 is a sign of
//! life and nothing else.

use bytes::{Buf, Bytes, BytesMut};
use http_body_util::BodyExt;
use hyper::body::Incoming;
use std::time::Duration;
use tokio::time::timeout;

/// The most bytes of one frame. The core bounds an append by bytes, but one entry always fits; this
/// is above the largest command that a node may be configured to take.
pub(crate) const FRAME_BYTES_MAX: usize = 64 << 20;

/// The most bytes of a first frame: nobody knows yet who speaks.
pub(crate) const FIRST_BYTES_MAX: usize = 4 << 10;

/// The frame that says nothing.
pub(crate) const SIGN_OF_LIFE: [u8; 4] = [0; 4];

/// Why a stream of frames ended.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub(crate) enum FrameError {
    #[error("the stream ended within a frame")]
    Cut,
    #[error("a frame of {bytes} bytes, more than {limit}")]
    TooLarge { bytes: usize, limit: usize },
    #[error("nothing was heard for {0:?}")]
    Silent(Duration),
    #[error("{0}")]
    Body(hyper::Error),
}

/// Appends a frame whose bytes `fill` appends.
pub(crate) fn write_frame(into: &mut Vec<u8>, fill: impl FnOnce(&mut Vec<u8>)) {
    let start = into.len();
    into.extend([0; 4]);
    fill(into);
    let len = u32::try_from(into.len() - start - 4).expect("messages are bounded by the core");
    into[start..start + 4].copy_from_slice(&len.to_le_bytes());
}

/// Takes frames from a body.
pub(crate) struct FrameReader {
    body: Incoming,
    buffer: BytesMut,
    silence: Duration,
}

impl FrameReader {
    /// A body that is silent for `silence` ends with an error.
    pub fn new(body: Incoming, silence: Duration) -> Self {
        FrameReader { body, buffer: BytesMut::new(), silence }
    }

    /// The first frame, which must be a short one.
    pub async fn first(&mut self) -> Result<Option<Bytes>, FrameError> {
        self.next_of(FIRST_BYTES_MAX).await
    }

    /// The next frame, signs of life included; `None` at the end.
    pub async fn next(&mut self) -> Result<Option<Bytes>, FrameError> {
        self.next_of(FRAME_BYTES_MAX).await
    }

    async fn next_of(&mut self, limit: usize) -> Result<Option<Bytes>, FrameError> {
        loop {
            if let Some(frame) = self.take(limit)? {
                return Ok(Some(frame));
            }
            let next = timeout(self.silence, self.body.frame()).await;
            match next.map_err(|_| FrameError::Silent(self.silence))? {
                Some(Ok(frame)) => {
                    if let Ok(data) = frame.into_data() {
                        self.buffer.extend_from_slice(&data);
                    }
                }
                Some(Err(error)) => return Err(FrameError::Body(error)),
                None if self.buffer.is_empty() => return Ok(None),
                None => return Err(FrameError::Cut),
            }
        }
    }

    fn take(&mut self, limit: usize) -> Result<Option<Bytes>, FrameError> {
        let Some(head) = self.buffer.first_chunk::<4>() else { return Ok(None) };
        let len = u32::from_le_bytes(*head) as usize;
        if len > limit {
            return Err(FrameError::TooLarge { bytes: len, limit });
        }
        if self.buffer.len() < 4 + len {
            return Ok(None);
        }
        self.buffer.advance(4);
        Ok(Some(self.buffer.split_to(len).freeze()))
    }
}
