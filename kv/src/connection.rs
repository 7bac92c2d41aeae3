//! One connection of a client, from its first request to its end.

use crate::api::{self, Api, Pressure};
use crate::canned::{self, BadHead};
use crate::leaving::Leaving;
use crate::patient::{Left, Patient, Talk};
use crate::places::{Place, Work};
use axum::body::Body;
use bytes::Bytes;
use driver::report;
use hyper::Request;
use hyper::body::{Body as HttpBody, Frame, Incoming, SizeHint};
use hyper::header::{CONNECTION, HeaderValue};
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::server::graceful::Watcher;
use std::convert::Infallible;
use std::io;
use std::net::IpAddr;
use std::pin::Pin;
use std::sync::{Arc, OnceLock};
use std::task::{Context, Poll};
use std::time::Duration;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::sync::Semaphore;

/// The most bytes that hyper buffers on a connection: of a head that it reads, and of an answer
/// that it writes. Slightly above `api::HEAD_BYTES_MAX`, so that a head beyond that limit still
/// reaches the API and gets its error.
const HEAD_BYTES_MAX: usize = api::HEAD_BYTES_MAX + (4 << 10);
/// After a refused head, how long the client's remaining bytes are read and discarded. If they
/// stayed unread, closing would reset the connection and lose the answer.
const LINGER: Duration = Duration::from_secs(1);
/// The most bytes that are discarded then.
const LINGER_BYTES_MAX: usize = 4 << 20;
/// The same after an answer that was sent before the whole body was read. The client may send the
/// rest of the body before it reads the answer.
const BODY_LINGER: Duration = Duration::from_secs(10);
/// The most bytes of such a body that are discarded.
const BODY_LINGER_BYTES_MAX: usize = 64 << 20;

/// The interval at which a connection with a request in progress is checked for a client that has
/// closed its side, or has reset the connection.
const LOOK_EVERY: Duration = Duration::from_secs(1);

/// Data that all connections share.
#[derive(Debug)]
pub(crate) struct Common {
    /// The API. Set once the node has joined its cluster.
    pub api: OnceLock<Api>,
    /// The node id, for the `raft-kv-node` header of every answer.
    pub node: HeaderValue,
    /// The address at which other nodes reach this one, for `/listen_addr`.
    pub peer_address: String,
    /// How far a stop has got. From its begin on, clients are asked to close their connections.
    pub leaving: Arc<Leaving>,
    /// What the node waits for, for an operator, if it waits to be added to its cluster.
    pub waits: OnceLock<String>,
    /// How long a client may take to send a head, or to read the next bytes of an answer.
    pub client_timeout: Duration,
    /// Counts long replies that were refused or delayed for lack of memory.
    pub pressure: Arc<Pressure>,
    /// The turn to answer `/metrics`, see [`MetricsTurns`].
    pub metrics: MetricsTurns,
}

/// The most answers of `/metrics` that wait for their turn. Beyond it the answer is 429.
const METRICS_WAITING_MAX: usize = 32;
/// The least time between two of these answers.
const METRICS_EVERY: Duration = Duration::from_millis(10);

/// The turns to answer `/metrics`, whose text is long. Without a bound, a client that asks for it
/// without end would delay `/healthz` and `/readyz` on the same thread.
#[derive(Debug)]
pub(crate) struct MetricsTurns {
    waiting: Semaphore,
    turn: Semaphore,
}

impl Default for MetricsTurns {
    fn default() -> Self {
        MetricsTurns { waiting: Semaphore::new(METRICS_WAITING_MAX), turn: Semaphore::new(1) }
    }
}

impl MetricsTurns {
    /// Waits for a turn. False if too many wait.
    pub async fn take(&self) -> bool {
        let Ok(_waiting) = self.waiting.try_acquire() else { return false };
        let _turn = self.turn.acquire().await;
        tokio::time::sleep(METRICS_EVERY).await;
        true
    }
}

/// Serves a connection until it ends or loses its place. A part of a request has arrived on it.
pub(crate) async fn serve(stream: TcpStream, place: Place, common: Arc<Common>, watcher: Watcher) {
    let patience = common.client_timeout;
    // At once. Only the runtime of this task does not know it yet.
    if stream.readable().await.is_err() {
        return;
    }
    let source = stream.peer_addr().ok().map(|address| address.ip().to_canonical());
    let talk = Arc::new(Talk::default());
    let place = Arc::new(place);
    let patient =
        Patient::new(stream, patience, talk.clone(), place.clone(), common.pressure.clone());
    let visit = Arc::new(Visit { place, common, talk, source });
    let service = {
        let visit = visit.clone();
        service_fn(move |request| Visit::answer(visit.clone(), request))
    };
    let mut connection = hyper::server::conn::http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(patience)
        .max_buf_size(HEAD_BYTES_MAX)
        // A client may close its side after sending a request, and still wait for the answer.
        .half_close(true)
        .serve_connection(TokioIo::new(patient), service);
    // A part of a request has arrived, and is read here. If the node stops, hyper would close a
    // connection on which it has read nothing.
    let ends = async move {
        let begun =
            std::future::poll_fn(|context| Poll::Ready(Pin::new(&mut connection).poll(context)));
        match begun.await {
            Poll::Ready(ended) => ended,
            Poll::Pending => watcher.watch(connection).await,
        }
    };
    let ended = tokio::select! {
        biased;
        ended = ends => Ended::ByHyper(ended),
        () = visit.place.lost() => Ended::Displaced { awaits_body: visit.place.awaits_body() },
        () = unanswered(&visit) => Ended::Unanswered,
        never = wake_now_and_then() => match never {},
    };
    let Some(left) = visit.talk.take_left() else { return };
    let answer = match ended {
        Ended::Displaced { awaits_body } => return give_up(&visit, &left, awaits_body),
        Ended::Unanswered => canned::unanswered(&visit.common.node),
        Ended::ByHyper(Ok(())) => left.held,
        Ended::ByHyper(Err(error)) => {
            report(|| tracing::debug!(%error, "a client's connection ended"));
            let Some(why) = bad_head(&visit.talk, &error, &left) else { return };
            canned::bad_head(why, &visit.common.node)
        }
    };
    if !answer.is_empty() {
        tell(left.stream, &answer).await;
    } else if visit.talk.has_unread() {
        tokio::select! {
            biased;
            _ = tokio::time::timeout(BODY_LINGER, discard(left.stream, BODY_LINGER_BYTES_MAX)) => {}
            () = visit.place.lost() => {}
        }
    }
}

/// How a connection ended.
enum Ended {
    /// hyper is done with it.
    ByHyper(hyper::Result<()>),
    /// It has lost its place. Whether the body of a request had not arrived.
    Displaced { awaits_body: bool },
    /// The node ends, and a request on it has no answer.
    Unanswered,
}

/// Returns when the node ends, if a request has no answer then.
async fn unanswered(visit: &Visit) {
    visit.common.leaving.ended().await;
    if !visit.talk.awaits_answer() {
        std::future::pending().await
    }
}

/// Ends a connection that has lost its place. If the body of a request had not arrived, its client
/// learns that the node is full. It sends slowly, so hardly any of it is unread, and it gets the
/// answer although nobody waits for that.
fn give_up(visit: &Visit, left: &Left, awaits_body: bool) {
    if awaits_body && !left.is_stuck && left.held.is_empty() {
        let _ = left.stream.try_write(&canned::full(&visit.common.node));
    }
}

/// Never returns. Its timer wakes the task, so that the connection is polled and notices a client
/// that has closed its side.
async fn wake_now_and_then() -> Infallible {
    let mut every = tokio::time::interval(LOOK_EVERY);
    every.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    loop {
        every.tick().await;
    }
}

/// The problem with the head, if the connection ended because of one.
fn bad_head(talk: &Talk, error: &hyper::Error, left: &Left) -> Option<BadHead> {
    match left.held.get(9..12) {
        Some(b"414") => Some(BadHead::UriTooLong),
        Some(b"431") => Some(BadHead::TooLarge),
        Some(_) => Some(BadHead::Malformed),
        None if error.is_parse_version_h2() => Some(BadHead::Http2),
        None if error.is_parse() => Some(BadHead::Malformed),
        // An idle connection may end without an answer.
        None if !talk.waits_for_head() => None,
        None if error.is_timeout() => Some(BadHead::Slow),
        None if error.is_incomplete_message() => Some(BadHead::Ends),
        None => None,
    }
}

/// Sends the last answer on a connection, then discards what the client still sends. Returns when
/// the client has closed its side, or after [`LINGER`].
pub(crate) async fn tell(stream: TcpStream, answer: &[u8]) {
    let _ = tokio::time::timeout(LINGER, tell_and_discard(stream, answer)).await;
}

async fn tell_and_discard(mut stream: TcpStream, answer: &[u8]) -> io::Result<()> {
    stream.write_all(answer).await?;
    discard(stream, LINGER_BYTES_MAX).await
}

/// Sends nothing further, and discards what the client still sends, at most `bytes_max` bytes. If
/// it stayed unread, closing would reset the connection, and the client could lose the answer.
async fn discard(mut stream: TcpStream, bytes_max: usize) -> io::Result<()> {
    stream.shutdown().await?;
    let (mut rest, mut read) = (vec![0; 16 << 10], 0);
    while read < bytes_max {
        match stream.read(&mut rest).await? {
            0 => break,
            more => read += more,
        }
    }
    Ok(())
}

struct Visit {
    place: Arc<Place>,
    common: Arc<Common>,
    talk: Arc<Talk>,
    source: Option<IpAddr>,
}

impl Visit {
    async fn answer(
        visit: Arc<Visit>,
        request: Request<Incoming>,
    ) -> Result<hyper::Response<Held>, Infallible> {
        let work = visit.place.work();
        visit.talk.begin();
        let turn = Turn(visit.talk.clone());
        let mut response = match visit.common.api.get() {
            Some(api) => {
                let mut request = request.map(|body| visit.arriving(body));
                request.extensions_mut().insert(visit.place.client());
                api.answer(request, visit.source).await
            }
            None => canned::starting(request.uri().path(), &visit.common),
        };
        visit.talk.answer();
        if visit.place.is_lost() || visit.common.leaving.has_begun() {
            response.headers_mut().insert(CONNECTION, HeaderValue::from_static("close"));
        }
        Ok(response.map(|body| Held { body, _work: work, _turn: turn }))
    }

    fn arriving(&self, body: Incoming) -> Arriving {
        let has_ended = body.is_end_stream();
        if !has_ended {
            self.place.body_begins();
        }
        Arriving { body, talk: self.talk.clone(), place: self.place.clone(), has_ended }
    }
}

/// The body of a request. If it is dropped before its end, the connection records that.
struct Arriving {
    body: Incoming,
    talk: Arc<Talk>,
    place: Arc<Place>,
    has_ended: bool,
}

impl Drop for Arriving {
    fn drop(&mut self) {
        if !self.has_ended {
            self.talk.leave_unread();
            self.place.body_ends();
        }
    }
}

impl HttpBody for Arriving {
    type Data = Bytes;
    type Error = hyper::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, hyper::Error>>> {
        let polled = Pin::new(&mut self.body).poll_frame(context);
        let is_over = matches!(polled, Poll::Ready(None | Some(Err(_))));
        if !self.has_ended && (is_over || self.body.is_end_stream()) {
            self.has_ended = true;
            self.place.body_ends();
        }
        polled
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

/// The body of an answer. The connection counts as busy until this is dropped, which is when the
/// answer has been sent.
pub(crate) struct Held {
    body: Body,
    _work: Work,
    _turn: Turn,
}

/// A request in progress. Dropping this ends the request.
struct Turn(Arc<Talk>);

impl Drop for Turn {
    fn drop(&mut self) {
        self.0.end();
    }
}

impl HttpBody for Held {
    type Data = Bytes;
    type Error = axum::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, axum::Error>>> {
        Pin::new(&mut self.body).poll_frame(context)
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn requests_for_metrics_take_turns_and_those_beyond_the_limit_are_refused() {
        let turns = MetricsTurns::default();
        let begun = tokio::time::Instant::now();
        let all = std::iter::repeat_with(|| turns.take()).take(METRICS_WAITING_MAX + 3);
        let taken = futures_util::future::join_all(all).await;
        assert_eq!(taken.iter().filter(|taken| **taken).count(), METRICS_WAITING_MAX);
        assert!(begun.elapsed() >= METRICS_EVERY * METRICS_WAITING_MAX as u32);
        assert!(turns.take().await);
    }
}
