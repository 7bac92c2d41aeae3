//! The stream of a client's connection, as hyper sees it. A write fails if the client does not read
//! for too long, and hyper's own error responses are not sent.
//!
//! Hyper answers a head that it cannot parse with a status and no body, but the API promises a
//! problem document. Such a response is the last thing that hyper writes. So it is held back here
//! until the connection ends, and [`crate::connection`] then sends a complete one. Bytes that only
//! look like such a response, for instance the end of a value, are sent as soon as hyper reads or
//! writes again.

use crate::api::Pressure;
use crate::places::Place;
use std::future::Future;
use std::io;
use std::pin::Pin;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll, ready};
use std::time::Duration;
use tokio::io::{AsyncRead, AsyncWrite, Interest, ReadBuf};
use tokio::net::TcpStream;
use tokio::time::{Instant, Sleep};

/// The most bytes of an error response of hyper.
const OWN_ANSWER_BYTES_MAX: usize = 256;

/// A write without progress fails after this time if, since it began, another client's long reply
/// was refused or delayed for lack of memory. Otherwise it fails after the client timeout.
const PATIENCE_UNDER_PRESSURE: Duration = Duration::from_secs(2);

/// State that a connection shares with the request on it.
#[derive(Debug, Default)]
pub(crate) struct Talk {
    /// A request is in progress.
    is_calling: AtomicBool,
    /// Its answer has not begun.
    awaits_answer: AtomicBool,
    /// Bytes have arrived since the last request was answered.
    has_part: AtomicBool,
    /// A request was answered before its whole body was read. The connection ends after it.
    has_unread: AtomicBool,
    /// The stream after hyper has finished with it.
    left: Mutex<Option<Left>>,
}

/// A connection after hyper has finished with it.
#[derive(Debug)]
pub(crate) struct Left {
    pub stream: TcpStream,
    /// The bytes that were not sent because they look like an error response of hyper.
    pub held: Vec<u8>,
    /// The client does not read an earlier answer, of which a part was not sent.
    pub is_stuck: bool,
}

impl Talk {
    /// A request begins: its head has been read.
    pub fn begin(&self) {
        self.is_calling.store(true, Ordering::Relaxed);
        self.awaits_answer.store(true, Ordering::Relaxed);
    }

    /// The answer to the request begins.
    pub fn answer(&self) {
        self.awaits_answer.store(false, Ordering::Relaxed);
    }

    /// Whether a request is in progress whose answer has not begun.
    pub fn awaits_answer(&self) -> bool {
        self.awaits_answer.load(Ordering::Relaxed)
    }

    /// The request has been answered.
    pub fn end(&self) {
        self.is_calling.store(false, Ordering::Relaxed);
        self.has_part.store(false, Ordering::Relaxed);
    }

    /// A request is answered, and the rest of its body is not read.
    pub fn leave_unread(&self) {
        self.has_unread.store(true, Ordering::Relaxed);
    }

    /// Whether the client may still send a body that nobody reads.
    pub fn has_unread(&self) -> bool {
        self.has_unread.load(Ordering::Relaxed)
    }

    /// Whether a head has arrived only in part.
    pub fn waits_for_head(&self) -> bool {
        !self.is_calling.load(Ordering::Relaxed) && self.has_part.load(Ordering::Relaxed)
    }

    /// Takes the stream. `None` if it was taken before, or if hyper still has it.
    pub fn take_left(&self) -> Option<Left> {
        self.left.lock().unwrap_or_else(PoisonError::into_inner).take()
    }
}

/// A write that has made no progress yet.
struct Waiting {
    since: Instant,
    /// The value of [`Pressure::times`] when the write began to wait.
    pressure: u64,
    sleep: Pin<Box<Sleep>>,
}

/// A stream on which a write without progress fails after a time.
pub(crate) struct Patient {
    /// `None` only during drop.
    stream: Option<TcpStream>,
    talk: Arc<Talk>,
    place: Arc<Place>,
    pressure: Arc<Pressure>,
    patience: Duration,
    /// Set while a write waits.
    waiting: Option<Waiting>,
    /// Bytes that may be an error response of hyper.
    held: Vec<u8>,
    /// A part of the first line of a head has arrived.
    in_first_line: bool,
}

impl Patient {
    pub fn new(
        stream: TcpStream,
        patience: Duration,
        talk: Arc<Talk>,
        place: Arc<Place>,
        pressure: Arc<Pressure>,
    ) -> Self {
        let (stream, held) = (Some(stream), Vec::new());
        let in_first_line = false;
        Patient { stream, talk, place, pressure, patience, waiting: None, held, in_first_line }
    }

    /// Fails if the client has reset the connection during a request: nobody reads the answer. If
    /// it has only closed its side, it may still read, or be gone: the place counts as half closed.
    fn look_for_close(&self, context: &mut Context<'_>) -> io::Result<()> {
        if !self.talk.is_calling.load(Ordering::Relaxed) {
            return Ok(());
        }
        let Some(stream) = &self.stream else { return Ok(()) };
        let ready = std::pin::pin!(stream.ready(Interest::READABLE));
        if let Poll::Ready(Ok(ready)) = ready.poll(context)
            && ready.is_read_closed()
        {
            // A reset leaves an error on the socket, and a client that closes its side does not.
            if let Some(error) = stream.take_error()? {
                return Err(error);
            }
            self.place.half_closed();
        }
        Ok(())
    }

    fn stream(&mut self) -> io::Result<Pin<&mut TcpStream>> {
        self.stream.as_mut().map(Pin::new).ok_or_else(|| io::ErrorKind::NotConnected.into())
    }

    fn watch<T>(
        &mut self,
        context: &mut Context<'_>,
        progress: Poll<io::Result<T>>,
    ) -> Poll<io::Result<T>> {
        if progress.is_ready() {
            self.waiting = None;
            return progress;
        }
        let (pressure, patience) = (self.pressure.times(), self.patience);
        let waiting = self.waiting.get_or_insert_with(|| Waiting {
            since: Instant::now(),
            pressure,
            sleep: Box::pin(tokio::time::sleep(PATIENCE_UNDER_PRESSURE.min(patience))),
        });
        while waiting.sleep.as_mut().poll(context).is_ready() {
            let now = Instant::now();
            let is_wanted = self.pressure.times() > waiting.pressure;
            if is_wanted || now.duration_since(waiting.since) >= patience {
                return Poll::Ready(Err(io::ErrorKind::TimedOut.into()));
            }
            let next = (now + PATIENCE_UNDER_PRESSURE).min(waiting.since + patience);
            waiting.sleep.as_mut().reset(next);
        }
        Poll::Pending
    }

    /// Sends the bytes that were held back.
    fn release(&mut self, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        while !self.held.is_empty() {
            let held = std::mem::take(&mut self.held);
            let progress = self.stream()?.poll_write(context, &held);
            let progress = self.watch(context, progress);
            self.held = held;
            match ready!(progress)? {
                0 => return Poll::Ready(Err(io::ErrorKind::WriteZero.into())),
                sent => drop(self.held.drain(..sent)),
            }
        }
        Poll::Ready(Ok(()))
    }

    /// How many of these bytes are sent now. The rest may be an error response of hyper. During a
    /// request nothing is held back.
    fn before_own_answer(&self, bytes: &[u8]) -> usize {
        match self.talk.is_calling.load(Ordering::Relaxed) {
            true => bytes.len(),
            false => own_answer(bytes).unwrap_or(bytes.len()),
        }
    }
}

/// Makes the first line of a head invalid if its target has a fragment. Returns whether the line
/// ends in these bytes.
///
/// A target has none (RFC 9112 section 3.2). The library cuts it off without a word, and another
/// key would be written.
fn spoil_fragment(bytes: &mut [u8]) -> bool {
    let end = bytes.iter().position(|byte| *byte == b'\n');
    let line = bytes.iter_mut().take_while(|byte| **byte != b'\n');
    for fragment in line.filter(|byte| **byte == b'#') {
        *fragment = 0x7f;
    }
    end.is_some()
}

/// The start of an error response of hyper at the end of these bytes, if there is one: a status 4xx
/// with `content-length: 0`.
fn own_answer(bytes: &[u8]) -> Option<usize> {
    if !bytes.ends_with(b"\r\n\r\n") {
        return None;
    }
    let from = bytes.len().saturating_sub(OWN_ANSWER_BYTES_MAX);
    let start = b"HTTP/1.1 4";
    let at = from + bytes[from..].windows(start.len()).rposition(|window| window == start)?;
    let empty = b"content-length: 0\r\n";
    bytes[at..].windows(empty.len()).any(|window| window == empty).then_some(at)
}

impl Drop for Patient {
    fn drop(&mut self) {
        let held = std::mem::take(&mut self.held);
        let is_stuck = self.waiting.is_some();
        let left = self.stream.take().map(|stream| Left { stream, held, is_stuck });
        *self.talk.left.lock().unwrap_or_else(PoisonError::into_inner) = left;
    }
}

impl AsyncRead for Patient {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        ready!(self.release(context))?;
        let before = buffer.filled().len();
        let read = self.stream()?.poll_read(context, buffer);
        if buffer.filled().len() > before {
            let begins = !self.talk.has_part.swap(true, Ordering::Relaxed)
                && !self.talk.is_calling.load(Ordering::Relaxed);
            if begins || self.in_first_line {
                self.in_first_line = !spoil_fragment(&mut buffer.filled_mut()[before..]);
            }
        }
        read
    }
}

impl AsyncWrite for Patient {
    fn poll_write(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        ready!(self.release(context))?;
        let now = self.before_own_answer(bytes);
        if now == 0 && !bytes.is_empty() {
            self.held = bytes.to_vec();
            return Poll::Ready(Ok(bytes.len()));
        }
        let progress = self.stream()?.poll_write(context, &bytes[..now]);
        self.watch(context, progress)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        parts: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        // An error response of hyper comes last, so it is in the last part.
        let last = parts.iter().rposition(|part| !part.is_empty());
        if let Some(last) = last
            && self.before_own_answer(&parts[last]) < parts[last].len()
        {
            if last == 0 {
                return self.poll_write(context, &parts[0]);
            }
            return self.poll_write_vectored(context, &parts[..last]);
        }
        ready!(self.release(context))?;
        let progress = self.stream()?.poll_write_vectored(context, parts);
        self.watch(context, progress)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.as_ref().is_some_and(TcpStream::is_write_vectored)
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.look_for_close(context)?;
        self.stream()?.poll_flush(context)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        // The answer is still to be sent on this stream.
        if !self.held.is_empty() {
            return Poll::Ready(Ok(()));
        }
        self.stream()?.poll_shutdown(context)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_fragment_makes_a_head_invalid() {
        let mut head = *b"PUT /v1/kv/a#b HTTP/1.1\r\nx: #\r\n";
        assert!(spoil_fragment(&mut head));
        assert_eq!(head, *b"PUT /v1/kv/a\x7fb HTTP/1.1\r\nx: #\r\n");
        let mut part = *b"PUT /v1/kv/a";
        assert!(!spoil_fragment(&mut part));
    }

    #[test]
    fn the_own_answers_of_the_library_are_known_by_their_form() {
        let own = b"HTTP/1.1 400 Bad Request\r\nconnection: close\r\ncontent-length: 0\r\n\r\n";
        assert_eq!(own_answer(own), Some(0));
        assert_eq!(own_answer(&[b"HTTP/1.1 200 OK\r\n\r\nabc".as_slice(), own].concat()), Some(22));
        assert_eq!(own_answer(&own[..own.len() - 1]), None);
        assert_eq!(own_answer(b"HTTP/1.1 400 Bad Request\r\ncontent-length: 7\r\n\r\n"), None);
        assert_eq!(own_answer(b"HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n"), None);
    }
}
