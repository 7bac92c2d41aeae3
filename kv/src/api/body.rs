//! Reads request bodies whole, within limits of size, time and memory.

use super::App;
use axum::body::Body;
use bytes::{Bytes, BytesMut};
use futures_util::StreamExt;
use http_body_util::{BodyDataStream, BodyExt};
use hyper::body::Body as HttpBody;
use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;
use tokio::sync::{Notify, OwnedSemaphorePermit, Semaphore};

/// Up to this many bytes of a body do not count in the memory budget. The number of connections
/// bounds them.
const UNCOUNTED_BYTES: usize = 64 << 10;

/// The rest of an oversized body is read and discarded up to this many bytes. So a client that
/// sends the whole body before it reads gets its answer. Beyond this, the connection is closed.
const DISCARDED_BYTES_MAX: usize = 64 << 20;

/// A body keeps its share of the memory budget for at least this long while it arrives. After that
/// it is given up if another body needs room.
const ARRIVING_MIN: Duration = Duration::from_secs(1);
/// How long a body waits for the room of another one that is given up.
const ROOM_WAIT: Duration = Duration::from_millis(100);

/// The memory budget of all bodies, and the bodies that have a share of it and still arrive.
#[derive(Debug)]
pub struct Bodies {
    room: Arc<Semaphore>,
    arriving: Mutex<Arriving>,
}

#[derive(Debug, Default)]
struct Arriving {
    next: u64,
    /// In the order in which they got their first share.
    bodies: BTreeMap<u64, Slow>,
}

/// A body that arrives.
#[derive(Debug)]
struct Slow {
    since_ns: u64,
    give_up: Arc<Notify>,
}

/// An entry of [`Arriving`]. Dropping it removes the entry.
struct Entry<'a> {
    bodies: &'a Bodies,
    number: u64,
    give_up: Arc<Notify>,
}

impl Drop for Entry<'_> {
    fn drop(&mut self) {
        self.bodies.arriving().bodies.remove(&self.number);
    }
}

impl Bodies {
    /// A budget of this many bytes.
    pub fn new(bytes_max: usize) -> Self {
        Bodies { room: Arc::new(Semaphore::new(bytes_max)), arriving: Mutex::default() }
    }

    fn arriving(&self) -> MutexGuard<'_, Arriving> {
        self.arriving.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn enter(&self, now_ns: u64) -> Entry<'_> {
        let mut arriving = self.arriving();
        let (number, give_up) = (arriving.next, Arc::new(Notify::new()));
        arriving.next += 1;
        arriving.bodies.insert(number, Slow { since_ns: now_ns, give_up: give_up.clone() });
        Entry { bodies: self, number, give_up }
    }

    /// Gives up the body that has arrived for the longest, if that is long. Returns whether there
    /// is one.
    fn give_up_oldest(&self, now_ns: u64) -> bool {
        let mut arriving = self.arriving();
        let is_slow = |slow: &Slow| {
            Duration::from_nanos(now_ns.saturating_sub(slow.since_ns)) >= ARRIVING_MIN
        };
        match arriving.bodies.first_entry().filter(|oldest| is_slow(oldest.get())) {
            Some(oldest) => {
                oldest.remove().give_up.notify_one();
                true
            }
            None => false,
        }
    }
}

/// A body, and its share of the memory budget. The share is released on drop.
pub struct Held {
    /// The whole body.
    pub bytes: Bytes,
    _share: Option<OwnedSemaphorePermit>,
}

/// Returns the body that [`super::Api::answer`] has read within the limits.
pub async fn whole(body: Body) -> Bytes {
    // It is in memory, so this cannot fail.
    axum::body::to_bytes(body, usize::MAX).await.unwrap_or_default()
}

/// Why a body could not be read. The request has not been executed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum BodyError {
    /// The body is larger than its route allows.
    #[error("the body is larger than {limit_bytes} bytes")]
    TooLarge {
        /// The most bytes of a body on this route.
        limit_bytes: usize,
    },
    /// The body did not arrive within [`crate::limits::Limits::client_timeout`].
    #[error("the body did not arrive in time")]
    Slow,
    /// The connection broke, or the HTTP framing was wrong.
    #[error("the body cannot be read")]
    Broken,
    /// The body took long to arrive, and others needed its share of the memory budget.
    #[error("the body arrives slowly, and other requests need its room; try again later")]
    GivenUp,
    /// The memory budget for bodies is used up.
    #[error("this node has too many large requests under way; try again later")]
    Busy,
}

impl App {
    /// Reads a body of at most `limit_bytes`. `awaits_continue` says that the client sends the body
    /// only once it is asked for it, which the first read does (RFC 9110, 10.1.1).
    pub(super) async fn read_body<B>(
        &self,
        body: B,
        limit_bytes: usize,
        awaits_continue: bool,
    ) -> Result<Held, BodyError>
    where
        B: HttpBody<Data = Bytes> + Unpin,
    {
        if body.is_end_stream() {
            return Ok(Held { bytes: Bytes::new(), _share: None });
        }
        // A small body usually is available at once in one piece, and this timer is then never
        // polled.
        let claimed = body.size_hint().lower();
        let mut frames = body.into_data_stream();
        let mut late = self.sleep(self.limits.client_timeout);
        let read = async {
            if claimed > limit_bytes as u64 {
                if !awaits_continue {
                    discard(&mut frames, claimed).await;
                }
                return Err(BodyError::TooLarge { limit_bytes });
            }
            let mut share: Option<OwnedSemaphorePermit> = None;
            let mut entry: Option<Entry<'_>> = None;
            let mut first = Bytes::new();
            let mut all = BytesMut::new();
            loop {
                let frame = match &entry {
                    None => frames.next().await,
                    Some(entry) => tokio::select! {
                        biased;
                        frame = frames.next() => frame,
                        () = entry.give_up.notified() => return Err(BodyError::GivenUp),
                    },
                };
                let Some(frame) = frame else { break };
                let frame = frame.map_err(|_| BodyError::Broken)?;
                let len = first.len() + all.len() + frame.len();
                if len > limit_bytes {
                    discard(&mut frames, 0).await;
                    return Err(BodyError::TooLarge { limit_bytes });
                }
                if len > UNCOUNTED_BYTES {
                    let more = u32::try_from(frame.len()).map_err(|_| BodyError::Busy)?;
                    let taken = self.room_for_body(more).await?;
                    entry.get_or_insert_with(|| self.bodies.enter(self.clock.now().monotonic_ns));
                    match &mut share {
                        Some(share) => share.merge(taken),
                        None => share = Some(taken),
                    }
                }
                if first.is_empty() && all.is_empty() {
                    first = frame;
                } else {
                    if all.is_empty() {
                        // Reserve what has arrived, not what the header claims: only arrived bytes
                        // are counted in the budget.
                        all.reserve(len);
                        all.extend_from_slice(&first);
                        first = Bytes::new();
                    }
                    all.extend_from_slice(&frame);
                }
            }
            let bytes = if all.is_empty() { first } else { all.freeze() };
            Ok(Held { bytes, _share: share })
        };
        tokio::select! {
            biased;
            held = read => held,
            () = &mut late => Err(BodyError::Slow),
        }
    }
}

impl App {
    /// Takes a share of the memory budget. If there is no room, the body that has arrived for the
    /// longest is given up.
    async fn room_for_body(&self, bytes: u32) -> Result<OwnedSemaphorePermit, BodyError> {
        let room = &self.bodies.room;
        if let Ok(share) = room.clone().try_acquire_many_owned(bytes) {
            return Ok(share);
        }
        if !self.bodies.give_up_oldest(self.clock.now().monotonic_ns) {
            return Err(BodyError::Busy);
        }
        tokio::select! {
            biased;
            share = room.clone().acquire_many_owned(bytes) => share.map_err(|_| BodyError::Busy),
            () = self.sleep(ROOM_WAIT) => Err(BodyError::Busy),
        }
    }
}

async fn discard<B>(frames: &mut BodyDataStream<B>, claimed: u64)
where
    B: HttpBody<Data = Bytes> + Unpin,
{
    if claimed > DISCARDED_BYTES_MAX as u64 {
        return;
    }
    let mut discarded = 0;
    while let Some(Ok(frame)) = frames.next().await {
        discarded += frame.len();
        if discarded > DISCARDED_BYTES_MAX {
            return;
        }
    }
}
