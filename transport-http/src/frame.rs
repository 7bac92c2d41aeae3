//! The framing of a stream between peers.
//!
//! A frame is a head of twelve bytes, followed by the content. The head holds three little-endian
//! numbers: the length of the content, the CRC-32C of the content, and the CRC-32C of these two. So
//! a flipped bit, wherever it is, is detected before the frame is used. A damaged length is
//! detected as soon as the head has arrived, before the decoder waits for bytes that never come. A
//! frame of length 0 is a keep-alive.
//!
//! The first frame of a stream has another format: four bytes of length, then a
//! [`Hello`](crate::hello). This format never changes, so nodes of different versions can at least
//! report why they do not communicate.
//!
//! This module does not depend on the source of the bytes. Over HTTP it is a body (`body.rs`), in
//! the simulation a simulated connection.

use bytes::{Buf, Bytes, BytesMut};
use raft::Message;
use std::future::Future;
use std::time::Duration;
use storage::codec::{self, DecodeError};

/// The most bytes in the content of one frame. The core limits the size of an append, but one entry
/// always fits into it. This limit is above the largest command that a node may be configured to
/// accept.
pub const FRAME_BYTES_MAX: usize = 64 << 20;

/// The most bytes of the offer of a snapshot. It describes a membership: 64 members with two
/// addresses of up to 261 bytes, and up to 1,024 nodes that were removed.
pub const OFFER_BYTES_MAX: usize = 256 << 10;

/// The most bytes of a first frame. It is small because the sender is not known yet.
pub const FIRST_BYTES_MAX: usize = 4 << 10;

/// The size of the head of a frame.
pub const HEAD_BYTES: usize = 12;

/// The size of the length that precedes a first frame.
const LENGTH_BYTES: usize = 4;

/// A decoder frees its buffer after a frame that is larger than this.
const KEPT_BUFFER_BYTES: usize = 1 << 20;

/// Why a stream of frames ended.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum FrameError {
    /// The stream ended in the middle of a frame.
    #[error("the stream ended within a frame")]
    Cut,
    /// A checksum does not match.
    #[error("a damaged frame: the checksum of its {part} does not match")]
    Damaged {
        /// The damaged part: `head` or `content`.
        part: &'static str,
    },
    /// The frame claims to be larger than any frame of a peer.
    #[error("a frame of {bytes} bytes, more than {limit}")]
    TooLarge {
        /// The claimed size.
        bytes: usize,
        /// The limit.
        limit: usize,
    },
    /// No byte arrived for this long: the peer or the network is down.
    #[error("no bytes came within {0:?}")]
    Silent(Duration),
    /// A frame was not complete after this long, and would hold its memory for too long.
    #[error("a frame was not complete within {0:?}")]
    Slow(Duration),
    /// Other connections hold all of the memory for unfinished frames.
    #[error("no room for unfinished frames: other connections hold all of it")]
    NoRoom,
    /// The underlying connection has failed, with this error.
    #[error("{0}")]
    Broken(String),
}

/// A source of frames.
pub trait Frames: Send {
    /// Reads the first frame, of at most [`FIRST_BYTES_MAX`] bytes; `None` if there is none.
    fn first(&mut self) -> impl Future<Output = Result<Option<Bytes>, FrameError>> + Send;
    /// Reads the next frame, of at most `bytes_max` bytes, keep-alives included; `None` at the end
    /// of the stream.
    fn next_within(
        &mut self,
        bytes_max: usize,
    ) -> impl Future<Output = Result<Option<Bytes>, FrameError>> + Send;
    /// Reads the next frame, of at most [`FRAME_BYTES_MAX`] bytes.
    fn next(&mut self) -> impl Future<Output = Result<Option<Bytes>, FrameError>> + Send {
        self.next_within(FRAME_BYTES_MAX)
    }
    /// Decodes the message that is the content of a frame. A source that knows nothing of the
    /// sender need not do more than this.
    fn message(
        &mut self,
        frame: Bytes,
    ) -> impl Future<Output = Result<Message, DecodeError>> + Send {
        std::future::ready(codec::decode(&frame))
    }
}

/// Appends the first frame of a stream.
pub fn write_first(into: &mut Vec<u8>, hello: &[u8]) {
    into.extend(length_of(hello.len()));
    into.extend(hello);
}

/// Appends a frame whose content `fill` appends.
pub fn write_frame(into: &mut Vec<u8>, fill: impl FnOnce(&mut Vec<u8>)) {
    let start = into.len();
    into.extend([0; HEAD_BYTES]);
    fill(into);
    let (head, content) = into[start..].split_at_mut(HEAD_BYTES);
    head[..4].copy_from_slice(&length_of(content.len()));
    head[4..8].copy_from_slice(&crc32c::crc32c(content).to_le_bytes());
    let checksum = crc32c::crc32c(&head[..8]);
    head[8..].copy_from_slice(&checksum.to_le_bytes());
}

/// Appends a message as a frame.
pub fn write_message(into: &mut Vec<u8>, message: &Message) {
    write_frame(into, |into| codec::encode(message, into));
}

/// Appends a keep-alive: a frame without content.
pub fn write_sign_of_life(into: &mut Vec<u8>) {
    write_frame(into, |_| {});
}

fn length_of(bytes: usize) -> [u8; LENGTH_BYTES] {
    u32::try_from(bytes).expect("messages are bounded by the core").to_le_bytes()
}

/// Extracts frames from bytes that arrive in pieces of any size. It stores only the bytes that have
/// arrived, whatever length a frame claims to have.
#[derive(Debug, Default)]
pub struct FrameDecoder {
    buffer: BytesMut,
}

impl FrameDecoder {
    /// Adds bytes that have arrived.
    pub fn push(&mut self, bytes: &[u8]) {
        self.buffer.extend_from_slice(bytes);
    }

    /// Whether all bytes that have arrived were taken out as frames.
    pub fn is_empty(&self) -> bool {
        self.buffer.is_empty()
    }

    /// The number of buffered bytes: of an unfinished frame, or of frames not taken out yet.
    pub fn len(&self) -> usize {
        self.buffer.len()
    }

    /// Takes out the first frame of a stream, of at most `limit` bytes; `None` until it is
    /// complete.
    pub fn take_first(&mut self, limit: usize) -> Result<Option<Bytes>, FrameError> {
        let Some(head) = self.buffer.first_chunk::<LENGTH_BYTES>() else { return Ok(None) };
        let len = u32::from_le_bytes(*head) as usize;
        if len > limit {
            return Err(FrameError::TooLarge { bytes: len, limit });
        }
        Ok(self.split(LENGTH_BYTES, len))
    }

    /// Takes out the content of the next frame, of at most `limit` bytes; `None` until it is
    /// complete.
    pub fn take(&mut self, limit: usize) -> Result<Option<Bytes>, FrameError> {
        let Some(head) = self.buffer.first_chunk::<HEAD_BYTES>() else { return Ok(None) };
        let field =
            |at: usize| u32::from_le_bytes([head[at], head[at + 1], head[at + 2], head[at + 3]]);
        let (len, content, checksum) = (field(0) as usize, field(4), field(8));
        if crc32c::crc32c(&head[..8]) != checksum {
            return Err(FrameError::Damaged { part: "head" });
        }
        if len > limit {
            return Err(FrameError::TooLarge { bytes: len, limit });
        }
        let Some(frame) = self.split(HEAD_BYTES, len) else { return Ok(None) };
        if crc32c::crc32c(&frame) != content {
            return Err(FrameError::Damaged { part: "content" });
        }
        Ok(Some(frame))
    }

    /// Removes a head of `head` bytes and returns the `len` bytes after it; `None` until all of
    /// them have arrived.
    fn split(&mut self, head: usize, len: usize) -> Option<Bytes> {
        if self.buffer.len() < head + len {
            return None;
        }
        self.buffer.advance(head);
        let frame = self.buffer.split_to(len).freeze();
        if len > KEPT_BUFFER_BYTES {
            // The frame owns the large allocation, which is freed with it.
            self.buffer = BytesMut::from(&self.buffer[..]);
        }
        Some(frame)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn frame(content: &[u8]) -> Vec<u8> {
        let mut bytes = Vec::new();
        write_frame(&mut bytes, |into| into.extend(content));
        bytes
    }

    #[test]
    fn frames_come_out_as_they_went_in_however_they_are_cut() {
        let contents = [&b"one"[..], b"", b"three"];
        let bytes: Vec<u8> = contents.iter().flat_map(|content| frame(content)).collect();
        for size in 1..=bytes.len() {
            let (mut decoder, mut frames) = (FrameDecoder::default(), Vec::new());
            for piece in bytes.chunks(size) {
                decoder.push(piece);
                while let Some(frame) = decoder.take(5).unwrap() {
                    frames.push(frame);
                }
            }
            assert_eq!(frames, contents);
            assert!(decoder.is_empty());
        }
    }

    #[test]
    fn a_flipped_bit_in_any_byte_is_found() {
        let intact = frame(b"a command that must not change on its way");
        for at in 0..intact.len() {
            for bit in 0..8 {
                let mut bytes = intact.clone();
                bytes[at] ^= 1 << bit;
                let mut decoder = FrameDecoder::default();
                decoder.push(&bytes);
                let part = if at < HEAD_BYTES { "head" } else { "content" };
                let found = decoder.take(FRAME_BYTES_MAX);
                let is_found = matches!(&found, Err(FrameError::Damaged { part: p }) if *p == part);
                assert!(is_found, "byte {at}, bit {bit}: {found:?}");
            }
        }
    }

    #[test]
    fn a_damaged_length_is_found_before_the_content_comes() {
        let mut bytes = frame(&[7; 100]);
        bytes[3] ^= 1;
        let mut decoder = FrameDecoder::default();
        decoder.push(&bytes[..HEAD_BYTES]);
        assert!(matches!(decoder.take(FRAME_BYTES_MAX), Err(FrameError::Damaged { part: "head" })));
    }

    #[test]
    fn a_frame_that_is_not_complete_is_no_frame_and_takes_no_room_in_advance() {
        let bytes = frame(&[7; 1000]);
        for len in 0..bytes.len() {
            let mut decoder = FrameDecoder::default();
            decoder.push(&bytes[..len]);
            assert!(decoder.take(FRAME_BYTES_MAX).unwrap().is_none(), "{len} bytes");
            assert!(decoder.len() == len && decoder.buffer.capacity() < 2 * bytes.len());
        }
    }

    #[test]
    fn a_length_beyond_the_limit_is_refused_before_anything_is_kept_for_it() {
        let mut decoder = FrameDecoder::default();
        decoder.push(&frame(b"123456")[..HEAD_BYTES]);
        assert!(matches!(decoder.take(5), Err(FrameError::TooLarge { bytes: 6, limit: 5 })));
        let mut decoder = FrameDecoder::default();
        decoder.push(&u32::MAX.to_le_bytes());
        assert!(matches!(decoder.take_first(5), Err(FrameError::TooLarge { limit: 5, .. })));
    }

    #[test]
    fn the_memory_of_a_large_frame_is_not_kept() {
        let mut decoder = FrameDecoder::default();
        decoder.push(&frame(&vec![7; 8 << 20]));
        assert!(decoder.take(FRAME_BYTES_MAX).unwrap().is_some());
        assert!(decoder.buffer.capacity() < KEPT_BUFFER_BYTES);
    }
}
