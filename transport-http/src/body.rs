//! Reads frames from the body of a request or a response, within limits of time and memory.
//!
//! A frame that is not complete holds memory, and the peer chooses how much. Each connection has an
//! allowance of its own, enough for the usual frames. Anything beyond it comes out of a budget that
//! all connections share. If the budget is used up, the stream that needs more is closed. Waiting
//! for memory instead could block all streams.

use crate::frame::{FIRST_BYTES_MAX, FRAME_BYTES_MAX, FrameDecoder, FrameError, Frames};
use crate::net::{Deadline, Net};
use bytes::Bytes;
use http_body_util::BodyExt;
use hyper::body::Incoming;
use std::sync::Arc;
use std::task::Poll;
use std::time::Duration;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

/// Unfinished bytes that each connection may hold without the shared budget. Larger than the usual
/// append.
pub(crate) const UNFINISHED_OWN_BYTES: usize = 1 << 20;
/// Unfinished bytes beyond [`UNFINISHED_OWN_BYTES`], for all connections together.
pub(crate) const UNFINISHED_SHARED_BYTES: usize = 128 << 20;
/// After this many frames the other tasks of the thread run. Keep-alives wait for nothing, so a
/// peer that sends nothing else could otherwise keep the core's thread to itself.
const FRAMES_PER_TURN: u32 = 64;
/// The most time from the first byte of a frame to its last, even if bytes keep arriving.
const FRAME_TIMEOUT: Duration = Duration::from_secs(30);

/// The shared budget for unfinished frames: [`UNFINISHED_SHARED_BYTES`] at the start.
#[derive(Clone, Debug)]
pub(crate) struct Budget(Arc<Semaphore>);

impl Default for Budget {
    fn default() -> Self {
        Budget(Arc::new(Semaphore::new(UNFINISHED_SHARED_BYTES)))
    }
}

/// One connection's share of the budget. Dropping it returns the bytes.
#[derive(Debug)]
struct Share {
    budget: Budget,
    held: Option<OwnedSemaphorePermit>,
}

impl Share {
    /// Grows or shrinks the share to what a connection with `bytes` buffered needs. Returns false
    /// if the budget is used up.
    fn fit(&mut self, bytes: usize) -> bool {
        let needed = bytes.saturating_sub(UNFINISHED_OWN_BYTES);
        let held = self.held.as_ref().map_or(0, OwnedSemaphorePermit::num_permits);
        if needed <= held {
            if let Some(permit) = &mut self.held {
                drop(permit.split(held - needed));
            }
            return true;
        }
        let Ok(more) = u32::try_from(needed - held) else { return false };
        match self.budget.0.clone().try_acquire_many_owned(more) {
            Ok(permit) => {
                match &mut self.held {
                    Some(held) => held.merge(permit),
                    None => self.held = Some(permit),
                }
                true
            }
            Err(_) => false,
        }
    }
}

/// Reads frames from a body.
pub(crate) struct FrameReader<N: Net> {
    net: N,
    deadline: Deadline<N>,
    body: Incoming,
    decoder: FrameDecoder,
    share: Share,
    silence: Duration,
    /// The number of frames read, modulo 2^32.
    given: u32,
}

impl<N: Net> FrameReader<N> {
    /// If no byte arrives for `silence`, reading ends with [`FrameError::Silent`].
    pub fn new(net: &N, body: Incoming, silence: Duration, budget: Budget) -> Self {
        let share = Share { budget, held: None };
        let (net, deadline) = (net.clone(), Deadline::new(net.clone()));
        let decoder = FrameDecoder::default();
        FrameReader { net, deadline, body, decoder, share, silence, given: 0 }
    }

    async fn next_of(&mut self, is_first: bool) -> Result<Option<Bytes>, FrameError> {
        // The caller is done with the previous frame, so only buffered bytes count.
        self.share.fit(self.decoder.len());
        let mut begun = (!self.decoder.is_empty()).then(|| self.net.now());
        loop {
            let taken = match is_first {
                true => self.decoder.take_first(FIRST_BYTES_MAX)?,
                false => self.decoder.take(FRAME_BYTES_MAX)?,
            };
            if let Some(frame) = taken {
                self.given = self.given.wrapping_add(1);
                if self.given.is_multiple_of(FRAMES_PER_TURN) {
                    give_way().await;
                }
                return Ok(Some(frame));
            }
            let silent_at = self.net.now() + self.silence;
            let slow_at = begun.map_or(silent_at, |begun| begun + FRAME_TIMEOUT);
            let next = self.deadline.limit(silent_at.min(slow_at), self.body.frame()).await;
            match next {
                Err(_) if slow_at < silent_at => return Err(FrameError::Slow(FRAME_TIMEOUT)),
                Err(_) => return Err(FrameError::Silent(self.silence)),
                Ok(Some(Ok(frame))) => {
                    let Ok(data) = frame.into_data() else { continue };
                    if !self.share.fit(self.decoder.len() + data.len()) {
                        return Err(FrameError::NoRoom);
                    }
                    self.decoder.push(&data);
                    begun = begun.or_else(|| Some(self.net.now()));
                }
                Ok(Some(Err(error))) => return Err(FrameError::Broken(error.to_string())),
                Ok(None) if self.decoder.is_empty() => return Ok(None),
                Ok(None) => return Err(FrameError::Cut),
            }
        }
    }
}

/// Lets the other tasks of this thread run once.
async fn give_way() {
    let mut has_waited = false;
    std::future::poll_fn(|context| {
        if has_waited {
            return Poll::Ready(());
        }
        has_waited = true;
        context.waker().wake_by_ref();
        Poll::Pending
    })
    .await;
}

impl<N: Net> Frames for FrameReader<N> {
    async fn first(&mut self) -> Result<Option<Bytes>, FrameError> {
        self.next_of(true).await
    }

    async fn next(&mut self) -> Result<Option<Bytes>, FrameError> {
        self.next_of(false).await
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn unfinished_frames_share_a_budget_beyond_what_each_connection_may_hold() {
        let budget = Budget::default();
        let share = || Share { budget: budget.clone(), held: None };
        let (mut large, mut other, mut small) = (share(), share(), share());
        assert!(large.fit(UNFINISHED_OWN_BYTES + UNFINISHED_SHARED_BYTES));
        assert!(!other.fit(UNFINISHED_OWN_BYTES + 1), "the budget is used up");
        assert!(small.fit(UNFINISHED_OWN_BYTES), "usual frames pass");
        assert!(large.fit(UNFINISHED_OWN_BYTES + 10));
        assert!(other.fit(UNFINISHED_OWN_BYTES + UNFINISHED_SHARED_BYTES - 10));
        drop(other);
        assert_eq!(budget.0.available_permits(), UNFINISHED_SHARED_BYTES - 10);
    }
}
