//! Frames out of the body of a request or an answer.

use crate::frame::{FIRST_BYTES_MAX, FRAME_BYTES_MAX, FrameDecoder, FrameError, Frames};
use bytes::Bytes;
use http_body_util::BodyExt;
use hyper::body::Incoming;
use std::time::Duration;
use tokio::time::timeout;

/// Takes frames from a body.
pub(crate) struct FrameReader {
    body: Incoming,
    decoder: FrameDecoder,
    silence: Duration,
}

impl FrameReader {
    /// A body that is silent for `silence` ends with an error.
    pub fn new(body: Incoming, silence: Duration) -> Self {
        FrameReader { body, decoder: FrameDecoder::default(), silence }
    }

    async fn next_of(&mut self, limit: usize) -> Result<Option<Bytes>, FrameError> {
        loop {
            if let Some(frame) = self.decoder.take(limit)? {
                return Ok(Some(frame));
            }
            let next = timeout(self.silence, self.body.frame()).await;
            match next.map_err(|_| FrameError::Silent(self.silence))? {
                Some(Ok(frame)) => {
                    if let Ok(data) = frame.into_data() {
                        self.decoder.push(&data);
                    }
                }
                Some(Err(error)) => return Err(FrameError::Broken(error.to_string())),
                None if self.decoder.is_empty() => return Ok(None),
                None => return Err(FrameError::Cut),
            }
        }
    }
}

impl Frames for FrameReader {
    async fn first(&mut self) -> Result<Option<Bytes>, FrameError> {
        self.next_of(FIRST_BYTES_MAX).await
    }

    async fn next(&mut self) -> Result<Option<Bytes>, FrameError> {
        self.next_of(FRAME_BYTES_MAX).await
    }
}
