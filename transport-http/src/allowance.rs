//! Limits what a peer may send on a connection before it has answered.
//!
//! The HTTP library reads interim answers (1xx) for as long as they come, and it shares a thread
//! with the core. Another process at a peer's address could so take all of that thread. A
//! connection that exceeds its allowance ends, and is dialled again after a pause.

use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Context, Poll, ready};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

/// The most bytes of a short answer, heads included: more than any peer sends.
pub(crate) const SHORT_ANSWER_BYTES_MAX: usize = 1 << 20;
/// The most bytes before the head of an answer is complete.
pub(crate) const ANSWER_HEAD_BYTES_MAX: usize = 64 << 10;

/// A connection whose reads fail once an allowance is used up.
#[derive(Debug)]
pub(crate) struct Allowed<S> {
    stream: S,
    left: usize,
    lifted: Arc<AtomicBool>,
}

/// Lifts the limit of an [`Allowed`].
#[derive(Debug)]
pub(crate) struct Lift(Arc<AtomicBool>);

impl Lift {
    /// From now on the peer may send without this limit.
    pub fn lift(&self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

impl<S> Allowed<S> {
    /// Allows `bytes` bytes to be read, until the limit is lifted.
    pub fn new(stream: S, bytes: usize) -> (Self, Lift) {
        let lifted = Arc::new(AtomicBool::new(false));
        (Allowed { stream, left: bytes, lifted: lifted.clone() }, Lift(lifted))
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for Allowed<S> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        if self.lifted.load(Ordering::Relaxed) {
            return Pin::new(&mut self.stream).poll_read(context, buffer);
        }
        let before = buffer.filled().len();
        ready!(Pin::new(&mut self.stream).poll_read(context, buffer))?;
        let read = buffer.filled().len() - before;
        if read > self.left {
            return Poll::Ready(Err(io::Error::other("it sends more than an answer")));
        }
        self.left -= read;
        Poll::Ready(Ok(()))
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Allowed<S> {
    fn poll_write(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write(context, bytes)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        parts: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write_vectored(context, parts)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(context)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(context)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use tokio::io::AsyncReadExt;

    #[tokio::test]
    async fn a_connection_ends_when_its_allowance_is_used_up_unless_that_is_lifted() {
        let endless = || tokio::io::repeat(7);
        let (mut limited, _lift) = Allowed::new(endless(), 1_000);
        let mut part = [0; 500];
        assert_eq!(limited.read(&mut part).await.unwrap(), 500);
        assert_eq!(limited.read(&mut part).await.unwrap(), 500);
        assert!(limited.read(&mut part).await.is_err());
        let (mut free, lift) = Allowed::new(endless(), 1_000);
        lift.lift();
        for _ in 0..100 {
            assert_eq!(free.read(&mut part).await.unwrap(), 500);
        }
    }
}
