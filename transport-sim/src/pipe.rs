//! A simulated connection, in one direction: pieces of bytes, each with the time when it arrives.
//!
//! In a stream, pieces arrive in order, and the stream may end in the middle of a frame. Without
//! streams, a piece holds whole frames and may overtake others. In both cases the product's
//! `transport_http::wire` assembles and decodes the frames.

use crate::time::{Pause, now_us, sleep_us};
use bytes::Bytes;
use std::collections::BTreeMap;
use std::time::Duration;
use tokio::sync::mpsc;
use transport_http::wire::{FIRST_BYTES_MAX, FrameDecoder, FrameError, Frames};

/// The most pieces in flight; beyond that the sender waits.
const PIECES_MAX: usize = 512;
/// A stream is given up after this time without data.
pub(crate) const SILENCE: Duration = Duration::from_secs(30);

/// Bytes in flight, or the break of the connection.
#[derive(Debug)]
pub(crate) struct Piece {
    pub due_us: u64,
    /// `None`: the connection breaks here.
    pub bytes: Option<Bytes>,
}

/// Creates a connection.
pub(crate) fn pipe() -> (mpsc::Sender<Piece>, PipeReader) {
    let (sender, pieces) = mpsc::channel(PIECES_MAX);
    let reader = PipeReader {
        pieces,
        closed: false,
        coming: BTreeMap::new(),
        taken: 0,
        timer: None,
        decoder: FrameDecoder::default(),
        heard_us: now_us(),
    };
    (sender, reader)
}

/// The receiving end of a connection, which decodes frames.
pub(crate) struct PipeReader {
    pieces: mpsc::Receiver<Piece>,
    closed: bool,
    /// Pieces in flight, by arrival time.
    coming: BTreeMap<(u64, u64), Option<Bytes>>,
    taken: u64,
    timer: Option<(u64, Pause)>,
    decoder: FrameDecoder,
    heard_us: u64,
}

impl PipeReader {
    async fn next_of(
        &mut self,
        is_first: bool,
        bytes_max: usize,
    ) -> Result<Option<Bytes>, FrameError> {
        loop {
            let taken = match is_first {
                true => self.decoder.take_first(bytes_max)?,
                false => self.decoder.take(bytes_max)?,
            };
            if let Some(frame) = taken {
                return Ok(Some(frame));
            }
            while !self.closed
                && let Ok(piece) = self.pieces.try_recv()
            {
                self.add(piece);
            }
            let first = self.coming.first_key_value().map(|((due_us, _), _)| *due_us);
            if let Some(due_us) = first
                && due_us <= now_us()
            {
                let Some((_, bytes)) = self.coming.pop_first() else { continue };
                self.heard_us = now_us();
                match bytes {
                    Some(bytes) => self.decoder.push(&bytes),
                    None => return Err(FrameError::Cut),
                }
                continue;
            }
            if self.closed && first.is_none() {
                return if self.decoder.is_empty() { Ok(None) } else { Err(FrameError::Cut) };
            }
            let silent_at = self.heard_us + SILENCE.as_micros() as u64;
            if now_us() >= silent_at {
                return Err(FrameError::Silent(SILENCE));
            }
            let wake_us = first.unwrap_or(u64::MAX).min(silent_at);
            if self.timer.as_ref().is_none_or(|(at_us, _)| *at_us != wake_us) {
                self.timer = Some((wake_us, sleep_us(wake_us - now_us())));
            }
            let Some((_, timer)) = &mut self.timer else { continue };
            tokio::select! {
                biased;
                piece = self.pieces.recv(), if !self.closed => match piece {
                    Some(piece) => self.add(piece),
                    None => self.closed = true,
                },
                () = timer => self.timer = None,
            }
        }
    }

    fn add(&mut self, piece: Piece) {
        self.taken += 1;
        self.coming.insert((piece.due_us, self.taken), piece.bytes);
    }
}

impl Frames for PipeReader {
    async fn first(&mut self) -> Result<Option<Bytes>, FrameError> {
        self.next_of(true, FIRST_BYTES_MAX).await
    }

    async fn next_within(&mut self, bytes_max: usize) -> Result<Option<Bytes>, FrameError> {
        self.next_of(false, bytes_max).await
    }
}
