//! A client's connection as the HTTP library sees it: the client has to go on reading, and the
//! library's own refusals are not sent.
//!
//! The library answers a head that it cannot read with a status and no body, which is less than the
//! API promises. It writes such an answer last of all, so it is held back here until the connection
//! ends, and [`crate::connection`] sends a better one then. What only looks like it, the end of a
//! value perhaps, goes out as soon as the library reads on.

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

/// The library's own answers are no longer.
const OWN_ANSWER_BYTES_MAX: usize = 256;

/// A write that makes no progress fails after this time already if there is no room for the long
/// replies of other clients.
const PATIENCE_UNDER_PRESSURE: Duration = Duration::from_secs(2);

/// What a connection and the requests on it know of one another.
#[derive(Debug, Default)]
pub(crate) struct Talk {
    /// A request is worked on.
    is_calling: AtomicBool,
    /// Bytes have come since the last request was answered.
    has_part: AtomicBool,
    /// What is left of the connection when the library is done with it.
    left: Mutex<Option<Left>>,
}

/// What is left of a connection.
#[derive(Debug)]
pub(crate) struct Left {
    pub stream: TcpStream,
    /// What was held back.
    pub held: Vec<u8>,
}

impl Talk {
    /// The head of a request has been read, and it is worked on.
    pub fn begin(&self) {
        self.is_calling.store(true, Ordering::Relaxed);
    }

    /// It is answered.
    pub fn end(&self) {
        self.is_calling.store(false, Ordering::Relaxed);
        self.has_part.store(false, Ordering::Relaxed);
    }

    /// Whether part of a head has come, and not the rest.
    pub fn waits_for_head(&self) -> bool {
        !self.is_calling.load(Ordering::Relaxed) && self.has_part.load(Ordering::Relaxed)
    }

    /// What is left of the connection, once.
    pub fn take_left(&self) -> Option<Left> {
        self.left.lock().unwrap_or_else(PoisonError::into_inner).take()
    }
}

/// A write that waits.
struct Waiting {
    since: Instant,
    /// How often there had been no room for long replies by then.
    pressure: u64,
    sleep: Pin<Box<Sleep>>,
}

/// A connection on which a write that makes no progress for a while fails.
pub(crate) struct Patient {
    /// `None` only while it is dropped.
    stream: Option<TcpStream>,
    talk: Arc<Talk>,
    place: Arc<Place>,
    pressure: Arc<Pressure>,
    patience: Duration,
    /// Runs while a write waits.
    waiting: Option<Waiting>,
    /// What may be the library's own answer.
    held: Vec<u8>,
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
        Patient { stream, talk, place, pressure, patience, waiting: None, held }
    }

    /// Whether the client has closed its side while a request of it is worked on: it may be gone.
    fn look_for_close(&self, context: &mut Context<'_>) {
        if !self.talk.is_calling.load(Ordering::Relaxed) {
            return;
        }
        let Some(stream) = &self.stream else { return };
        let ready = std::pin::pin!(stream.ready(Interest::READABLE));
        if let Poll::Ready(Ok(ready)) = ready.poll(context)
            && ready.is_read_closed()
        {
            self.place.half_closed();
        }
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

    /// Sends what was held back.
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

    /// How many of these bytes are sent at once; the others may be the library's own answer.
    fn before_own_answer(&self, bytes: &[u8]) -> usize {
        match self.talk.is_calling.load(Ordering::Relaxed) {
            true => bytes.len(),
            false => own_answer(bytes).unwrap_or(bytes.len()),
        }
    }
}

/// Where, at the end of these bytes, an answer begins that looks like the library's own.
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
        let left =
            self.stream.take().map(|stream| Left { stream, held: std::mem::take(&mut self.held) });
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
            self.talk.has_part.store(true, Ordering::Relaxed);
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
        // The library's own answer comes last, and so in the last of the parts.
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
        self.look_for_close(context);
        self.stream()?.poll_flush(context)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        // Something is still to be sent.
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
    fn the_own_answers_of_the_library_are_known_by_their_form() {
        let own = b"HTTP/1.1 400 Bad Request\r\nconnection: close\r\ncontent-length: 0\r\n\r\n";
        assert_eq!(own_answer(own), Some(0));
        assert_eq!(own_answer(&[b"HTTP/1.1 200 OK\r\n\r\nabc".as_slice(), own].concat()), Some(22));
        assert_eq!(own_answer(&own[..own.len() - 1]), None);
        assert_eq!(own_answer(b"HTTP/1.1 400 Bad Request\r\ncontent-length: 7\r\n\r\n"), None);
        assert_eq!(own_answer(b"HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n"), None);
    }
}
