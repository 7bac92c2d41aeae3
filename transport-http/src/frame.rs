//! Frames: a length of four bytes, little-endian, and so many bytes. A frame of length 0 is a sign of
//! life and nothing else.
//!
//! Nothing here knows where the bytes come from: over HTTP they are a body (`body.rs`), in the
//! simulation a simulated connection.

use bytes::{Buf, Bytes, BytesMut};
use raft::Message;
use std::future::Future;
use std::time::Duration;
use storage::codec;

/// The most bytes of one frame. The core bounds an append by bytes, but one entry always fits; this
/// is above the largest command that a node may be configured to take.
pub const FRAME_BYTES_MAX: usize = 64 << 20;

/// The most bytes of a first frame: nobody knows yet who speaks.
pub const FIRST_BYTES_MAX: usize = 4 << 10;

/// The frame that says nothing.
pub const SIGN_OF_LIFE: [u8; 4] = [0; 4];

/// Why a stream of frames ended.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum FrameError {
    /// The other side is gone, or what is between.
    #[error("the stream ended within a frame")]
    Cut,
    /// No peer sends so large a frame.
    #[error("a frame of {bytes} bytes, more than {limit}")]
    TooLarge {
        /// How large it claims to be.
        bytes: usize,
        /// How large it may be.
        limit: usize,
    },
    /// The other side is gone, or the network.
    #[error("nothing was heard for {0:?}")]
    Silent(Duration),
    /// Whatever carries the bytes has failed.
    #[error("{0}")]
    Broken(String),
}

/// Where frames come from.
pub trait Frames: Send {
    /// The first frame, which must be a short one.
    fn first(&mut self) -> impl Future<Output = Result<Option<Bytes>, FrameError>> + Send;
    /// The next frame, signs of life included; `None` at the end.
    fn next(&mut self) -> impl Future<Output = Result<Option<Bytes>, FrameError>> + Send;
}

/// Appends a frame whose bytes `fill` appends.
pub fn write_frame(into: &mut Vec<u8>, fill: impl FnOnce(&mut Vec<u8>)) {
    let start = into.len();
    into.extend([0; 4]);
    fill(into);
    let len = u32::try_from(into.len() - start - 4).expect("messages are bounded by the core");
    into[start..start + 4].copy_from_slice(&len.to_le_bytes());
}

/// Appends a message as a frame.
pub fn write_message(into: &mut Vec<u8>, message: &Message) {
    write_frame(into, |into| codec::encode(message, into));
}

/// Takes frames out of bytes that come in pieces of any size.
#[derive(Debug, Default)]
pub struct FrameDecoder {
    buffer: BytesMut,
}

impl FrameDecoder {
    /// Adds what has come.
    pub fn push(&mut self, bytes: &[u8]) {
        self.buffer.extend_from_slice(bytes);
    }

    /// Whether the bytes that have come end with a frame.
    pub fn is_empty(&self) -> bool {
        self.buffer.is_empty()
    }

    /// The next frame, of at most `limit` bytes; `None` as long as it has not come whole.
    pub fn take(&mut self, limit: usize) -> Result<Option<Bytes>, FrameError> {
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn frames_come_out_as_they_went_in_however_they_are_cut() {
        let mut bytes = Vec::new();
        for frame in [&b"one"[..], b"", b"three"] {
            write_frame(&mut bytes, |into| into.extend(frame));
        }
        for size in 1..=bytes.len() {
            let (mut decoder, mut frames) = (FrameDecoder::default(), Vec::new());
            for piece in bytes.chunks(size) {
                decoder.push(piece);
                while let Some(frame) = decoder.take(5).unwrap() {
                    frames.push(frame);
                }
            }
            assert_eq!(frames, [&b"one"[..], b"", b"three"]);
            assert!(decoder.is_empty());
        }
    }

    #[test]
    fn a_length_beyond_the_limit_is_refused_before_anything_is_kept_for_it() {
        let mut decoder = FrameDecoder::default();
        decoder.push(&6_u32.to_le_bytes());
        assert!(matches!(decoder.take(5), Err(FrameError::TooLarge { bytes: 6, limit: 5 })));
    }
}
