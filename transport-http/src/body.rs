//! Reads frames from the body of a request or a response, within limits of time and memory.
//!
//! A frame that is not complete holds memory, and the peer chooses how much. Each connection has an
//! allowance of its own, enough for the usual frames. Anything beyond it comes out of a budget that
//! all members' connections share. If the budget is used up, the stream that needs more is closed.
//! Waiting for memory instead could block all streams.
//!
//! Anybody can connect as a node that is no member as far as this node knows, and such a node may
//! be the leader, if this node's membership is old. So these strangers are heard, and have a budget
//! of their own. What they send is decoded by another thread, with little memory beyond its length,
//! and for a small part of the time: a message of many small values takes the time of a hundred
//! usual ones. The time counts and not the length, so that a leader that is not known as a member
//! yet can send its log, and its heartbeats after that. A stranger that leaves keeps its slot until
//! it would have been heard again: another connection does not begin with nothing owed.

use crate::frame::{FIRST_BYTES_MAX, FRAME_BYTES_MAX, FrameDecoder, FrameError, Frames};
use crate::net::{Deadline, Net};
use crate::places::Place;
use crate::shared::Shared;
use bytes::Bytes;
use http_body_util::BodyExt;
use hyper::body::Incoming;
use raft::Message;
use std::sync::Arc;
use std::task::Poll;
use std::time::Duration;
use storage::codec::{self, DecodeError};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

/// Unfinished bytes that each connection may hold without the shared budget. Larger than the usual
/// append.
pub(crate) const UNFINISHED_OWN_BYTES: usize = 1 << 20;
/// Unfinished bytes beyond [`UNFINISHED_OWN_BYTES`], for the connections of all members together.
pub(crate) const UNFINISHED_SHARED_BYTES: usize = 128 << 20;
/// The same for all strangers: one of the largest frames.
const UNFINISHED_STRANGERS_BYTES: usize = FRAME_BYTES_MAX;
/// Decoding the messages of all strangers takes at most one part in this many of a thread's time.
/// Each connection has an equal share.
const STRANGERS_PART: u32 = 10;
/// The rate in bytes a second at which their messages are decoded at least, all together, although
/// it takes longer than that part of the time: a busy machine may interrupt it.
const STRANGERS_BYTES_PER_SECOND: u64 = 4 << 20;
/// The bytes added to the length of each message of a stranger in that limit.
const MESSAGE_BYTES: u64 = 256;
/// A stranger's message of more bytes is decoded by another thread.
const INLINE_BYTES_MAX: usize = 16 << 10;
/// A stranger that may send on after a shorter time sends on at once, and waits later.
const PAUSE_LEAST: Duration = Duration::from_millis(5);
/// After this many frames the other tasks of the thread run. Keep-alives wait for nothing, so a
/// peer that sends nothing else could otherwise keep the core's thread to itself.
const FRAMES_PER_TURN: u32 = 64;
/// The most time from the first byte of a frame to its last, even if bytes keep arriving.
const FRAME_TIMEOUT: Duration = Duration::from_secs(30);

/// The budgets for unfinished frames: all of it is free at the start.
#[derive(Debug)]
pub(crate) struct Budgets {
    members: Arc<Semaphore>,
    strangers: Arc<Semaphore>,
}

impl Default for Budgets {
    fn default() -> Self {
        Budgets {
            members: Arc::new(Semaphore::new(UNFINISHED_SHARED_BYTES)),
            strangers: Arc::new(Semaphore::new(UNFINISHED_STRANGERS_BYTES)),
        }
    }
}

/// One connection's share of a budget. Dropping it returns the bytes.
#[derive(Debug, Default)]
struct Share {
    held: Option<OwnedSemaphorePermit>,
}

impl Share {
    /// Grows or shrinks the share to what a connection with `bytes` buffered needs. It grows out of
    /// `budget`, or until it is empty out of the one that it began with. Returns false if that is
    /// used up.
    fn fit(&mut self, bytes: usize, budget: &Arc<Semaphore>) -> bool {
        let needed = bytes.saturating_sub(UNFINISHED_OWN_BYTES);
        let held = self.held.as_ref().map_or(0, OwnedSemaphorePermit::num_permits);
        if needed == 0 {
            self.held = None;
            return true;
        }
        if needed <= held {
            if let Some(permit) = &mut self.held {
                drop(permit.split(held - needed));
            }
            return true;
        }
        let Ok(more) = u32::try_from(needed - held) else { return false };
        let budget = self.held.as_ref().map_or(budget, OwnedSemaphorePermit::semaphore);
        match budget.clone().try_acquire_many_owned(more) {
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
    /// The other end, of a connection that has come in.
    guest: Option<Guest<N>>,
    silence: Duration,
    /// The number of frames read, modulo 2^32.
    given: u32,
}

/// The other end of a connection that has come in.
struct Guest<N: Net> {
    shared: Arc<Shared<N>>,
    place: Arc<Place>,
    share: Share,
    is_stranger: bool,
}

impl<N: Net> Guest<N> {
    /// Whether it is no member. It may become one.
    fn is_stranger(&mut self) -> bool {
        if self.is_stranger
            && let Some((node, incarnation)) = self.place.who()
        {
            self.is_stranger = !self.shared.is_member(node, incarnation);
        }
        self.is_stranger
    }

    /// Waits until the next message of a stranger may be decoded.
    async fn pace(&self) {
        let owed = self.place.owed();
        if owed >= PAUSE_LEAST {
            self.shared.net.sleep(owed).await;
            self.place.pay(owed);
        }
    }
}

/// How long a stranger waits after a message of this length, which took this time to decode, if
/// there are this many strangers.
fn pause_after(bytes: usize, took: Duration, strangers: usize) -> Duration {
    let strangers = u32::try_from(strangers.max(1)).unwrap_or(u32::MAX);
    let by_length = (bytes as u64 + MESSAGE_BYTES) * 1_000_000 / STRANGERS_BYTES_PER_SECOND;
    let by_time = took.saturating_mul(STRANGERS_PART);
    by_time.min(Duration::from_micros(by_length)).saturating_mul(strangers)
}

impl<N: Net> FrameReader<N> {
    /// Reads the answer of a peer that this node has dialled: keep-alives. If no byte arrives for
    /// `silence`, reading ends with [`FrameError::Silent`].
    pub fn of_an_answer(net: &N, body: Incoming, silence: Duration) -> Self {
        let (net, deadline) = (net.clone(), Deadline::new(net.clone()));
        let decoder = FrameDecoder::default();
        FrameReader { net, deadline, body, decoder, guest: None, silence, given: 0 }
    }

    /// Reads what comes on an incoming connection.
    pub fn of_a_request(
        shared: &Arc<Shared<N>>,
        place: &Arc<Place>,
        body: Incoming,
        silence: Duration,
    ) -> Self {
        let (shared, place) = (shared.clone(), place.clone());
        let reader = FrameReader::of_an_answer(&shared.net, body, silence);
        let guest = Guest { shared, place, share: Share::default(), is_stranger: true };
        FrameReader { guest: Some(guest), ..reader }
    }

    /// Grows or shrinks the share of a budget to what `bytes` buffered bytes need. Returns false if
    /// there is no room.
    fn fits(&mut self, bytes: usize) -> bool {
        let Some(guest) = &mut self.guest else { return bytes <= UNFINISHED_OWN_BYTES };
        let is_stranger = guest.is_stranger();
        let budgets = &guest.shared.budgets;
        guest.share.fit(bytes, if is_stranger { &budgets.strangers } else { &budgets.members })
    }

    /// Reads the first frame, or another one of at most `bytes_max` bytes.
    async fn next_of(
        &mut self,
        is_first: bool,
        bytes_max: usize,
    ) -> Result<Option<Bytes>, FrameError> {
        // The caller is done with the previous frame, so only buffered bytes count.
        self.fits(self.decoder.len());
        let mut begun = (!self.decoder.is_empty()).then(|| self.net.now());
        loop {
            let taken = match is_first {
                true => self.decoder.take_first(bytes_max)?,
                false => self.decoder.take(bytes_max)?,
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
                    if !self.fits(self.decoder.len() + data.len()) {
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
pub(crate) async fn give_way() {
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
        self.next_of(true, FIRST_BYTES_MAX).await
    }

    async fn next_within(&mut self, bytes_max: usize) -> Result<Option<Bytes>, FrameError> {
        self.next_of(false, bytes_max).await
    }

    async fn message(&mut self, frame: Bytes) -> Result<Message, DecodeError> {
        let Some(guest) = &mut self.guest else { return codec::decode(&frame) };
        if !guest.is_stranger() {
            return codec::decode(&frame);
        }
        guest.pace().await;
        let (net, bytes) = (self.net.clone(), frame.len());
        let decode = move || {
            let begun = net.now();
            let decoded = codec::decode_sparingly(&frame);
            (decoded, net.now() - begun)
        };
        let done = match bytes <= INLINE_BYTES_MAX {
            true => Some(decode()),
            false => self.net.run(decode).await,
        };
        let Some((decoded, took)) = done else {
            return Err(DecodeError::Malformed("this node is stopping".to_owned()));
        };
        guest.place.owe(pause_after(bytes, took, guest.place.strangers()));
        decoded
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_stranger_pays_for_the_time_that_its_messages_take_and_not_for_their_length() {
        let ms = Duration::from_millis;
        // An append of a leader that is not known yet.
        assert_eq!(pause_after(1 << 20, ms(1), 1), ms(10));
        assert_eq!(pause_after(1 << 20, ms(1), 4), ms(40));
        // The thread was interrupted.
        assert!(pause_after(100, ms(50), 1) < ms(1));
        // A long message of small values.
        assert_eq!(pause_after(1 << 20, ms(200), 1).as_millis(), 250);
    }

    #[test]
    fn unfinished_frames_share_a_budget_beyond_what_each_connection_may_hold() {
        let Budgets { members, strangers } = &Budgets::default();
        let (mut large, mut other, mut small) =
            (Share::default(), Share::default(), Share::default());
        assert!(large.fit(UNFINISHED_OWN_BYTES + UNFINISHED_SHARED_BYTES, members));
        assert!(!other.fit(UNFINISHED_OWN_BYTES + 1, members), "the budget is used up");
        assert!(small.fit(UNFINISHED_OWN_BYTES, members), "usual frames pass");
        assert!(small.fit(UNFINISHED_OWN_BYTES + 1, strangers), "strangers have their own");
        assert!(large.fit(UNFINISHED_OWN_BYTES + 10, members));
        assert!(other.fit(UNFINISHED_OWN_BYTES + UNFINISHED_SHARED_BYTES - 10, members));
        drop(other);
        assert_eq!(members.available_permits(), UNFINISHED_SHARED_BYTES - 10);
        assert!(small.fit(UNFINISHED_OWN_BYTES + 2, members), "it has become a member's");
        assert_eq!(strangers.available_permits(), UNFINISHED_STRANGERS_BYTES - 2);
        assert!(small.fit(UNFINISHED_OWN_BYTES, members));
        assert!(small.fit(UNFINISHED_OWN_BYTES + 3, members));
        assert_eq!(strangers.available_permits(), UNFINISHED_STRANGERS_BYTES);
        assert_eq!(members.available_permits(), UNFINISHED_SHARED_BYTES - 13);
    }
}
