//! One connection of a client: its requests, and what keeps its place.

use crate::api::{self, Pressure, Source, is_short};
use crate::canned::{self, BadHead};
use crate::patient::{Left, Patient, Talk};
use crate::places::{Place, Work};
use axum::Router;
use axum::body::Body;
use bytes::Bytes;
use driver::report;
use hyper::Request;
use hyper::body::{Body as HttpBody, Frame, Incoming, SizeHint};
use hyper::header::{CONNECTION, HeaderValue};
use hyper::service::{Service, service_fn};
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::server::graceful::Watcher;
use hyper_util::service::TowerToHyperService;
use std::convert::Infallible;
use std::io;
use std::net::IpAddr;
use std::pin::Pin;
use std::sync::{Arc, OnceLock};
use std::task::{Context, Poll};
use std::time::Duration;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

/// The most bytes of the head of a request, and of an answer's that wait in front of the socket. A
/// little more than clients may send (`api::HEAD_BYTES_MAX`), so that a client that sends too much
/// gets an answer.
const HEAD_BYTES_MAX: usize = api::HEAD_BYTES_MAX + (4 << 10);
/// The time for which what a client sends after a refused head is read and discarded.
/// If it were left unread, the answer would be lost.
const LINGER: Duration = Duration::from_secs(1);
/// The most bytes that are read and discarded then.
const LINGER_BYTES_MAX: usize = 4 << 20;
/// How long a client in the overflow may take, for its request and for reading the answer.
const OVERFLOW_TIMEOUT: Duration = Duration::from_secs(2);

/// The interval at which a connection with a request in progress is checked for a client that has
/// closed its side.
const LOOK_EVERY: Duration = Duration::from_secs(1);

/// What all connections share.
#[derive(Debug)]
pub(crate) struct Common {
    /// Set once the node takes part in its cluster.
    pub router: OnceLock<TowerToHyperService<Router>>,
    /// Which node this is, as every answer says.
    pub node: HeaderValue,
    /// Where other nodes reach this one.
    pub peer_address: String,
    /// How long a client may take to send a head, or to go on reading an answer.
    pub client_timeout: Duration,
    /// Tells when long replies have to wait for room.
    pub pressure: Arc<Pressure>,
}

/// The place of a connection.
pub(crate) enum Seat {
    /// It may ask anything.
    Full(Place),
    /// The node is full: it gets short answers only.
    Overflow(Place),
}

impl Seat {
    /// The place.
    pub fn place(&self) -> &Place {
        match self {
            Seat::Full(place) | Seat::Overflow(place) => place,
        }
    }

    /// Whether the node was full when it came.
    pub fn is_overflow(&self) -> bool {
        matches!(self, Seat::Overflow(_))
    }

    /// How long the client may take to send a head, or to go on reading an answer.
    pub fn patience(&self, common: &Common) -> Duration {
        match self {
            Seat::Full(_) => common.client_timeout,
            Seat::Overflow(_) => OVERFLOW_TIMEOUT,
        }
    }
}

/// Serves a connection until it ends or loses its place.
pub(crate) async fn serve(stream: TcpStream, seat: Seat, common: Arc<Common>, watcher: Watcher) {
    let (patience, in_overflow) = (seat.patience(&common), seat.is_overflow());
    let (Seat::Full(place) | Seat::Overflow(place)) = seat;
    let source = stream.peer_addr().ok().map(|address| address.ip().to_canonical());
    let talk = Arc::new(Talk::default());
    let place = Arc::new(place);
    let patient =
        Patient::new(stream, patience, talk.clone(), place.clone(), common.pressure.clone());
    let visit = Arc::new(Visit { place, in_overflow, common, talk, source });
    let service = {
        let visit = visit.clone();
        service_fn(move |request| Visit::answer(visit.clone(), request))
    };
    let connection = hyper::server::conn::http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(patience)
        .max_buf_size(HEAD_BYTES_MAX)
        // A client may close its side when it has sent its request, and wait for the answer.
        .half_close(true)
        .serve_connection(TokioIo::new(patient), service);
    let ended = tokio::select! {
        biased;
        ended = watcher.watch(connection) => ended,
        () = visit.place.lost() => return,
        () = wake_now_and_then() => return,
    };
    let Some(left) = visit.talk.take_left() else { return };
    let answer = match ended {
        Ok(()) => left.held,
        Err(error) => {
            report(|| tracing::debug!(%error, "a client's connection ended"));
            let Some(why) = bad_head(&visit.talk, &error, &left) else { return };
            canned::bad_head(why, &visit.common.node)
        }
    };
    if !answer.is_empty() {
        // A client that does not read it has the time of the timeout, and no more.
        let _ = tokio::time::timeout(LINGER, tell(left.stream, &answer)).await;
    }
}

/// Has the connection polled now and then, so that it notices that the client has closed its side.
async fn wake_now_and_then() {
    let mut every = tokio::time::interval(LOOK_EVERY);
    every.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    loop {
        every.tick().await;
    }
}

/// Why a connection ended, if that was for a head that cannot be read.
fn bad_head(talk: &Talk, error: &hyper::Error, left: &Left) -> Option<BadHead> {
    match left.held.get(9..12) {
        Some(b"414") => Some(BadHead::UriTooLong),
        Some(b"431") => Some(BadHead::TooLarge),
        Some(_) => Some(BadHead::Malformed),
        None if error.is_parse_version_h2() => Some(BadHead::Http2),
        None if error.is_parse() => Some(BadHead::Malformed),
        // A connection may be idle, and end so.
        None if !talk.waits_for_head() => None,
        None if error.is_timeout() => Some(BadHead::Slow),
        None if error.is_incomplete_message() => Some(BadHead::Ends),
        None => None,
    }
}

/// Sends the last answer on a connection.
async fn tell(mut stream: TcpStream, answer: &[u8]) -> io::Result<()> {
    stream.write_all(answer).await?;
    stream.shutdown().await?;
    let (mut rest, mut read) = (vec![0; 16 << 10], 0);
    while read < LINGER_BYTES_MAX {
        match stream.read(&mut rest).await? {
            0 => break,
            more => read += more,
        }
    }
    Ok(())
}

struct Visit {
    place: Arc<Place>,
    in_overflow: bool,
    common: Arc<Common>,
    talk: Arc<Talk>,
    source: Option<IpAddr>,
}

impl Visit {
    async fn answer(
        visit: Arc<Visit>,
        mut request: Request<Incoming>,
    ) -> Result<hyper::Response<Held>, Infallible> {
        let work = visit.place.work();
        visit.talk.begin();
        let turn = Turn(visit.talk.clone());
        if let Some(address) = visit.source {
            request.extensions_mut().insert(Source(address));
        }
        let is_full = visit.in_overflow && !is_short(request.uri().path());
        let mut response = match visit.common.router.get() {
            _ if is_full => canned::full(&visit.common.node),
            Some(router) => match router.call(request.map(Body::new)).await {
                Ok(response) => response,
            },
            None => {
                let Common { peer_address, node, .. } = &*visit.common;
                canned::starting(request.uri().path(), peer_address, node)
            }
        };
        if visit.in_overflow || visit.place.is_lost() {
            response.headers_mut().insert(CONNECTION, HeaderValue::from_static("close"));
        }
        Ok(response.map(|body| Held { body, _work: work, _turn: turn }))
    }
}

/// The body of an answer, which keeps the connection from being idle until it is sent.
pub(crate) struct Held {
    body: Body,
    _work: Work,
    _turn: Turn,
}

/// A request is worked on, until this is dropped.
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
