//! The stream to one peer: dialled, kept alive, and dialled again when it is lost.

use crate::body::FrameReader;
use crate::dial::DialError;
use crate::frame::{FrameError, Frames, write_first, write_message, write_sign_of_life};
use crate::hello::Hello;
use crate::net::{Net, timeout};
use crate::repeats::Reach;
use crate::repeats::one_line;
use crate::shared::Shared;
use bytes::Bytes;
use driver::report;
use http_body_util::{BodyExt, Limited};
use hyper::body::{Body, Frame};
use hyper::client::conn::http1;
use hyper::{Method, Request, StatusCode};
use hyper_util::rt::TokioIo;
use raft::{Message, NodeId};
use std::convert::Infallible;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;
use tokio::sync::mpsc;

/// The most messages that may wait for a peer: more than a leader has in flight to one, and its
/// heartbeats.
pub(crate) const QUEUE_MESSAGES_MAX: usize = 256;
/// A write takes no further messages once it has this many bytes.
const CHUNK_BYTES: usize = 256 << 10;
/// The first backoff before a peer is dialled again. It doubles up to [`PAUSE_LAST`].
const PAUSE_FIRST: Duration = Duration::from_millis(20);
/// The longest backoff. A stream that has lasted longer than this resets the backoff.
const PAUSE_LAST: Duration = Duration::from_secs(1);
/// The most bytes that are read from the text of a rejection.
const REFUSAL_BYTES_MAX: usize = 4 << 10;

/// Why a stream ended.
#[derive(Debug, thiserror::Error)]
pub(crate) enum LinkError {
    #[error(transparent)]
    Dial(#[from] DialError),
    #[error("no answer within {0:?}")]
    NoAnswer(Duration),
    #[error("the peer refuses the stream: {0}")]
    Refused(String),
    #[error("the stream broke: {0}")]
    Broken(String),
    #[error("the peer closed the stream")]
    Ended,
}

impl LinkError {
    /// A key that is equal for errors of the same kind, so that an operator sees each kind once.
    fn kind(&self) -> String {
        match self {
            LinkError::Dial(error) => error.kind(),
            LinkError::NoAnswer(_) => "no answer".to_owned(),
            LinkError::Refused(why) => why.clone(),
            LinkError::Broken(_) | LinkError::Ended => "broken".to_owned(),
        }
    }
}

/// Keeps a stream to the peer open, until the peer is no longer a member or the queue is closed and
/// empty.
pub(crate) async fn keep<N: Net>(
    shared: Arc<Shared<N>>,
    peer: NodeId,
    messages: mpsc::Receiver<Message>,
) {
    let net = shared.net.clone();
    let mut messages = Some(messages);
    let mut pause = PAUSE_FIRST;
    let mut reach = Reach::new();
    while let Some(queue) = messages.take() {
        let Some(address) = shared.address(peer) else { return };
        let (give_back, back) = tokio::sync::oneshot::channel();
        let sign_every = shared.config.silence / 4;
        let body = Outgoing::new(&net, shared.hello(peer), queue, give_back, sign_every);
        let started = net.now();
        let connected = || {
            shared.set_connected(peer, true);
            if let Some(away) = reach.is_back() {
                report(|| {
                    tracing::info!(%peer, %address, "peer is back after {} s", away.as_secs());
                });
            }
        };
        let result = stream(&shared, peer, &address, body, connected).await;
        shared.set_connected(peer, false);
        // The body gives the queue back when hyper drops it.
        let Ok(mut queue) = back.await else { return };
        if queue.is_closed() && queue.is_empty() {
            return;
        }
        // Messages left in the queue are stale by the time the peer is back.
        while queue.try_recv().is_ok() {}
        shared.inbox.unreachable(peer);
        if let Err(error) = result
            && reach.is_away(&error.kind())
        {
            report(|| tracing::warn!(%peer, %address, "peer cannot be reached: {error}"));
        }
        if net.now().duration_since(started) > PAUSE_LAST {
            pause = PAUSE_FIRST;
        }
        // The pause is between half of the backoff and all of it.
        let jitter = net.draw() % (1 + pause.as_micros() as u64 / 2);
        net.sleep(pause / 2 + Duration::from_micros(jitter)).await;
        pause = (pause * 2).min(PAUSE_LAST);
        messages = Some(queue);
    }
}

async fn stream<N: Net>(
    shared: &Shared<N>,
    peer: NodeId,
    address: &str,
    body: Outgoing<N>,
    connected: impl FnOnce(),
) -> Result<(), LinkError> {
    let (net, silence) = (&shared.net, shared.config.silence);
    let tcp = tokio::select! {
        biased;
        tcp = shared.names.dial(address) => tcp?,
        () = shared.forgotten(peer) => return Ok(()),
    };
    let broken = |error: hyper::Error| LinkError::Broken(error.to_string());
    let (mut sender, connection) = http1::handshake(TokioIo::new(tcp)).await.map_err(broken)?;
    let request = Request::builder()
        .method(Method::POST)
        .uri("/raft/v1/stream")
        .header(hyper::header::HOST, address)
        .body(body)
        .map_err(|error| LinkError::Broken(error.to_string()))?;
    let talk = async {
        let answer = timeout(net, silence, sender.send_request(request))
            .await
            .map_err(|_| LinkError::NoAnswer(silence))?
            .map_err(broken)?;
        if answer.status() != StatusCode::OK {
            let text = Limited::new(answer.into_body(), REFUSAL_BYTES_MAX).collect();
            let text =
                timeout(net, silence, text).await.map_err(|_| LinkError::NoAnswer(silence))?;
            let text = text.map(|text| text.to_bytes()).unwrap_or_default();
            return Err(LinkError::Refused(one_line(&text)));
        }
        report(|| tracing::debug!(%peer, address, "connected"));
        connected();
        // The response body consists of keep-alives, for as long as the peer is up.
        let budget = shared.budget.clone();
        let mut signs = FrameReader::new(net, answer.into_body(), silence, budget);
        loop {
            match signs.next().await {
                Ok(Some(_)) => {}
                Ok(None) => return Err(LinkError::Ended),
                Err(FrameError::Silent(silence)) => return Err(LinkError::NoAnswer(silence)),
                Err(error) => {
                    shared.counters.count(&error);
                    return Err(LinkError::Broken(error.to_string()));
                }
            }
        }
    };
    let ended = tokio::select! {
        biased;
        result = talk => result,
        result = connection => result.map_err(broken).and(Err(LinkError::Ended)),
        () = shared.forgotten(peer) => Ok(()),
    };
    if let Err(LinkError::Refused(_) | LinkError::NoAnswer(_)) = &ended {
        shared.names.distrust(address);
    }
    ended
}

/// The body of the request. When hyper can write, it takes all messages that are ready from the
/// queue, up to about [`CHUNK_BYTES`]. Dropping it gives the queue back.
struct Outgoing<N: Net> {
    net: N,
    hello: Option<Hello>,
    queue: Option<mpsc::Receiver<Message>>,
    give_back: Option<tokio::sync::oneshot::Sender<mpsc::Receiver<Message>>>,
    sign_every: Duration,
    /// Ready when the next keep-alive is due.
    sign: Pin<Box<N::Sleep>>,
    capacity: usize,
}

impl<N: Net> Outgoing<N> {
    fn new(
        net: &N,
        hello: Hello,
        queue: mpsc::Receiver<Message>,
        give_back: tokio::sync::oneshot::Sender<mpsc::Receiver<Message>>,
        sign_every: Duration,
    ) -> Self {
        Outgoing {
            net: net.clone(),
            hello: Some(hello),
            queue: Some(queue),
            give_back: Some(give_back),
            sign_every,
            sign: Box::pin(net.sleep(sign_every)),
            capacity: 1 << 10,
        }
    }
}

impl<N: Net> Drop for Outgoing<N> {
    fn drop(&mut self) {
        if let (Some(queue), Some(give_back)) = (self.queue.take(), self.give_back.take()) {
            let _ = give_back.send(queue);
        }
    }
}

impl<N: Net> Body for Outgoing<N> {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        let this = &mut *self;
        let mut chunk = Vec::with_capacity(this.capacity);
        if let Some(hello) = this.hello.take() {
            write_first(&mut chunk, &hello.encode());
        }
        let Some(queue) = &mut this.queue else { return Poll::Ready(None) };
        while chunk.len() < CHUNK_BYTES {
            match queue.poll_recv(context) {
                Poll::Ready(Some(message)) => {
                    write_message(&mut chunk, &message);
                }
                Poll::Ready(None) if chunk.is_empty() => return Poll::Ready(None),
                Poll::Ready(None) | Poll::Pending => break,
            }
        }
        while this.sign.as_mut().poll(context).is_ready() {
            // The new timer must be polled, too: only a pending timer wakes this task.
            this.sign = Box::pin(this.net.sleep(this.sign_every));
            if chunk.is_empty() {
                write_sign_of_life(&mut chunk);
            }
        }
        if chunk.is_empty() {
            return Poll::Pending;
        }
        this.capacity = this.capacity.max(chunk.len().min(CHUNK_BYTES));
        Poll::Ready(Some(Ok(Frame::data(Bytes::from(chunk)))))
    }
}
