//! The stream to one peer: dialled, kept alive, and dialled again when it is lost.

use crate::allowance::{ANSWER_HEAD_BYTES_MAX, Allowed};
use crate::body::FrameReader;
use crate::dial::{DialError, Trial};
use crate::frame::{FrameError, Frames, write_first, write_message, write_sign_of_life};
use crate::hello::Hello;
use crate::net::{Net, timeout};
use crate::repeats::Reach;
use crate::repeats::one_line;
use crate::shared::Shared;
use crate::signs::SignTimes;
use bytes::Bytes;
use driver::report;
use http_body_util::{BodyExt, Limited};
use hyper::body::{Body, Frame};
use hyper::client::conn::http1;
use hyper::{Method, Request, StatusCode};
use hyper_util::rt::TokioIo;
use raft::{Incarnation, Message, NodeId};

use std::convert::Infallible;
use std::net::SocketAddr;
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
    /// It was connected to this address.
    #[error("{why} (at {at})")]
    Stream { at: SocketAddr, why: StreamError },
}

/// Why a stream ended after it was connected.
#[derive(Debug, thiserror::Error)]
pub(crate) enum StreamError {
    #[error("no answer within {0:?}")]
    NoAnswer(Duration),
    #[error("the peer refuses the stream: {0}")]
    Refused(String),
    #[error("an HTTP server that is not a raft node answered (status {0})")]
    Foreign(StatusCode),
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
            LinkError::Stream { why, .. } => match why {
                StreamError::NoAnswer(_) => "no answer".to_owned(),
                StreamError::Refused(why) => why.clone(),
                StreamError::Foreign(_) => "foreign".to_owned(),
                StreamError::Broken(_) | StreamError::Ended => "broken".to_owned(),
            },
        }
    }
}

/// Keeps the stream to the peer with this number open, until its queue is closed and what was in it
/// is sent or lost. To a node that is no member, opens one stream.
pub(crate) async fn keep<N: Net>(
    shared: &Shared<N>,
    peer: NodeId,
    number: u64,
    messages: mpsc::Receiver<Message>,
) {
    let net = shared.net.clone();
    let mut messages = Some(messages);
    let mut pause = PAUSE_FIRST;
    let mut reach = Reach::new();
    let mut attempt = 0;
    // The contacts with the peer when it was last reported as gone.
    let mut gone_after = 0;
    while let Some(queue) = messages.take() {
        let member = shared.member(peer);
        let Some(address) = shared.address_at(peer, attempt) else { return };
        let forgotten = shared.forgotten(peer, member, &address);
        let (give_back, back) = tokio::sync::oneshot::channel();
        let body = Outgoing::new(&net, shared.hello(peer), queue, give_back, shared.signs);
        let mut connected_at = None;
        let connected = || {
            connected_at = Some(net.now());
            if shared.is_known(peer) {
                shared.note_contact(peer);
            }
            shared.set_open(peer, number, Some(&address));
            if let Some(away) = reach.is_back() {
                report(|| {
                    tracing::info!(%peer, %address, "peer is back after {} s", away.as_secs());
                });
            }
        };
        let result = stream(shared, peer, &address, body, connected, forgotten).await;
        shared.set_open(peer, number, None);
        // The body gives the queue back when hyper drops it.
        let Ok(mut queue) = back.await else { return };
        // The member was removed. If it was added again, another task speaks for its stream.
        if queue.is_closed() {
            return;
        }
        // A node that is no member is only answered, and dialled again for the next answer.
        if !shared.is_known(peer) {
            return;
        }
        // Messages left in the queue are stale by the time the peer is back.
        while queue.try_recv().is_ok() {}
        shared.inbox.unreachable(peer);
        let contacts = shared.contacts(peer);
        if matches!(&result, Err(LinkError::Dial(error)) if error.is_refused())
            && contacts != gone_after
            && shared.is_latest_address(peer, &address)
        {
            gone_after = contacts;
            shared.inbox.gone(peer);
        }
        let lasted = connected_at.is_some_and(|at| net.now().duration_since(at) > PAUSE_LAST);
        // Dialled again at once: that shows whether the process of the peer has ended, and each
        // moment counts if it was the leader.
        let is_elsewhere = result.is_ok();
        let at_once = is_elsewhere
            || lasted
                && matches!(
                    &result,
                    Err(LinkError::Stream { why: StreamError::Broken(_) | StreamError::Ended, .. })
                );
        if let Err(error) = result
            && reach.is_away(&error.kind())
        {
            report(|| tracing::warn!(%peer, %address, "peer cannot be reached: {error}"));
        }
        if lasted {
            pause = PAUSE_FIRST;
        }
        if is_elsewhere {
            attempt = 0;
        }
        if at_once {
            messages = Some(queue);
            continue;
        }
        attempt += 1;
        // The pause is between half of the backoff and all of it. A contact makes it shorter: the
        // peer is back, or its process may have ended.
        let jitter = net.draw() % (1 + pause.as_micros() as u64 / 2);
        let pause_now = pause / 2 + Duration::from_micros(jitter);
        let least = pause_now.min(PAUSE_FIRST);
        net.sleep(least).await;
        tokio::select! {
            biased;
            () = shared.other_contact(peer, contacts) => {}
            () = net.sleep(pause_now - least) => {}
        }
        pause = (pause * 2).min(PAUSE_LAST);
        messages = Some(queue);
    }
}

/// Opens a stream to a node that is not the member with its id, for one message.
pub(crate) async fn tell<N: Net>(
    shared: Arc<Shared<N>>,
    address: String,
    incarnation: Incarnation,
    message: Message,
) {
    let (net, peer, silence) = (shared.net.clone(), message.to, shared.config.silence);
    let (queue, messages) = mpsc::channel(1);
    // It has room for one. The stream ends with it, since the queue is closed.
    let _ = queue.try_send(message);
    drop(queue);
    let (give_back, _back) = tokio::sync::oneshot::channel();
    let body = Outgoing::new(&net, shared.hello(peer), messages, give_back, shared.signs);
    let told = stream(&shared, peer, &address, body, || (), std::future::pending());
    match timeout(&net, 2 * silence, told).await {
        Ok(Ok(()) | Err(LinkError::Stream { why: StreamError::Ended, .. })) => {}
        Ok(Err(error)) => {
            report(
                || tracing::debug!(%peer, address, %error, "a node with a member's id is not answered"),
            );
        }
        Err(_) => {
            report(|| tracing::debug!(%peer, address, "a node with a member's id is not answered"))
        }
    }
    shared.has_told_namesake(incarnation);
}

/// Opens a stream. `Ok` if the peer is to be dialled elsewhere.
async fn stream<N: Net>(
    shared: &Shared<N>,
    peer: NodeId,
    address: &str,
    body: Outgoing<N>,
    connected: impl FnOnce(),
    forgotten: impl Future<Output = ()>,
) -> Result<(), LinkError> {
    let mut forgotten = std::pin::pin!(forgotten);
    let (tcp, mut trial) = tokio::select! {
        biased;
        () = &mut forgotten => return Ok(()),
        dialled = shared.names.dial(address) => dialled?,
        () = shared.given_elsewhere(peer, address) => return Ok(()),
    };
    let at = trial.at();
    let ended = {
        let talk = stream_on(shared, peer, address, tcp, &mut trial, body, connected);
        tokio::select! {
            biased;
            ended = talk => ended,
            () = forgotten => Ok(()),
        }
    };
    if let Err(StreamError::NoAnswer(_)) = &ended {
        trial.distrust();
    }
    ended.map_err(|why| LinkError::Stream { at, why })
}

async fn stream_on<N: Net>(
    shared: &Shared<N>,
    peer: NodeId,
    address: &str,
    tcp: N::Stream,
    trial: &mut Trial,
    body: Outgoing<N>,
    connected: impl FnOnce(),
) -> Result<(), StreamError> {
    let (net, silence) = (&shared.net, shared.config.silence);
    let broken = |error: hyper::Error| StreamError::Broken(error.to_string());
    let (tcp, allowance) = Allowed::new(tcp, ANSWER_HEAD_BYTES_MAX);
    let (mut sender, connection) = http1::handshake(TokioIo::new(tcp)).await.map_err(broken)?;
    let request = Request::builder()
        .method(Method::POST)
        .uri("/raft/v1/stream")
        .header(hyper::header::HOST, address)
        .body(body)
        .map_err(|error| StreamError::Broken(error.to_string()))?;
    let talk = async {
        let answer = timeout(net, silence, sender.send_request(request))
            .await
            .map_err(|_| StreamError::NoAnswer(silence))?
            .map_err(broken)?;
        if answer.status() != StatusCode::OK {
            let status = answer.status();
            let text = Limited::new(answer.into_body(), REFUSAL_BYTES_MAX).collect();
            let text =
                timeout(net, silence, text).await.map_err(|_| StreamError::NoAnswer(silence))?;
            let text = text.map(|text| text.to_bytes()).unwrap_or_default();
            // A node answers this request neither with "not found" nor without a text.
            let is_foreign = status == StatusCode::NOT_FOUND || text.is_empty();
            return Err(match is_foreign {
                true => StreamError::Foreign(status),
                false => StreamError::Refused(one_line(&text)),
            });
        }
        allowance.lift();
        report(|| tracing::debug!(%peer, address, "connected"));
        connected();
        // The response body consists of keep-alives, for as long as the peer is up.
        let mut signs = FrameReader::of_an_answer(net, answer.into_body(), silence);
        loop {
            match signs.next().await {
                // The first frame shows that a raft node answers; its hello was accepted before.
                Ok(Some(_)) => trial.accept(),
                Ok(None) => return Err(StreamError::Ended),
                Err(FrameError::Silent(silence)) => return Err(StreamError::NoAnswer(silence)),
                Err(error) => {
                    shared.counters.count(&error);
                    return Err(StreamError::Broken(error.to_string()));
                }
            }
        }
    };
    tokio::select! {
        biased;
        result = talk => result,
        result = connection => result.map_err(broken).and(Err(StreamError::Ended)),
    }
}

/// The body of the request. When hyper can write, it takes all messages that are ready from the
/// queue, up to about [`CHUNK_BYTES`]. Dropping it gives the queue back.
struct Outgoing<N: Net> {
    net: N,
    hello: Option<Hello>,
    queue: Option<mpsc::Receiver<Message>>,
    give_back: Option<tokio::sync::oneshot::Sender<mpsc::Receiver<Message>>>,
    signs: SignTimes,
    /// Ready when the next keep-alive is due.
    sign: Pin<Box<N::Sleep>>,
    /// Whether something was sent since the last one was due.
    is_live: bool,
    capacity: usize,
}

impl<N: Net> Outgoing<N> {
    fn new(
        net: &N,
        hello: Hello,
        queue: mpsc::Receiver<Message>,
        give_back: tokio::sync::oneshot::Sender<mpsc::Receiver<Message>>,
        signs: SignTimes,
    ) -> Self {
        Outgoing {
            net: net.clone(),
            hello: Some(hello),
            queue: Some(queue),
            give_back: Some(give_back),
            signs,
            sign: Box::pin(net.sleep(signs.next_after(net.now()))),
            is_live: false,
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
        this.is_live |= !chunk.is_empty();
        while this.sign.as_mut().poll(context).is_ready() {
            // The new timer must be polled, too: only a pending timer wakes this task.
            this.sign = Box::pin(this.net.sleep(this.signs.next_after(this.net.now())));
            if !std::mem::take(&mut this.is_live) {
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

#[cfg(test)]
mod tests {
    use super::Outgoing;
    use crate::hello::Hello;
    use crate::net::{Net as _, TokioNet};
    use crate::signs::SignTimes;
    use crate::{HttpTransport, PeerServer, TransportConfig};
    use driver::{Transport as _, inbox};
    use http_body_util::BodyExt as _;
    use raft::{Incarnation, Member, Membership, NodeId};
    use std::io;
    use std::net::SocketAddr;
    use std::sync::{Arc, Mutex, PoisonError};
    use std::time::Duration;
    use storage::{ClusterId, RealDisk, Snapshots};
    use tokio::io::AsyncWriteExt as _;
    use tokio::net::TcpListener;
    use tokio::sync::mpsc;

    /// A mistake for which the test would wait for ever fails it after this time.
    const NEVER: Duration = Duration::from_secs(60);

    /// The addresses to which the name of the peer resolves.
    static PEER: Mutex<Vec<SocketAddr>> = Mutex::new(Vec::new());

    fn resolve(_name: &str) -> io::Result<Vec<SocketAddr>> {
        Ok(PEER.lock().unwrap_or_else(PoisonError::into_inner).clone())
    }

    fn resolves_to(addresses: &[SocketAddr]) {
        *PEER.lock().unwrap_or_else(PoisonError::into_inner) = addresses.to_vec();
    }

    fn transport(net: &TokioNet, node: u64) -> Arc<HttpTransport> {
        let directory = tempfile::tempdir().unwrap();
        let snapshots = Snapshots::new(RealDisk::new(directory.path())).unwrap();
        let (inbox, receiver) = inbox(Arc::new(snapshots));
        // The node takes nothing, and is there until the test ends.
        std::mem::forget(receiver);
        let config = TransportConfig::new(ClusterId(1), NodeId(node), Incarnation(100 + node));
        let transport = Arc::new(HttpTransport::on(net.clone(), config, inbox));
        let members = (0..2).map(|id| {
            let incarnation = Incarnation(100 + id);
            let peer_address = format!("n{id}:9080");
            (NodeId(id), Member { incarnation, peer_address, client_address: String::new() })
        });
        if node == 0 {
            transport.set_members(&Membership::of_voters(members.collect()));
        }
        transport
    }

    async fn until(what: &str, holds: impl Fn() -> bool) {
        let holds = async {
            while !holds() {
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
        };
        tokio::time::timeout(NEVER, holds).await.unwrap_or_else(|_| panic!("never: {what}"));
    }

    /// Accepts connections for ever, sends `answer`, and closes them.
    async fn foreign(at: SocketAddr, answer: &'static [u8]) {
        let listener = TcpListener::bind(at).await.unwrap();
        tokio::spawn(async move {
            while let Ok((mut stream, _)) = listener.accept().await {
                let _ = stream.write_all(answer).await;
            }
        });
    }

    #[tokio::test]
    async fn the_stream_to_a_removed_member_does_not_speak_for_that_to_its_successor() {
        let transport = transport(&TokioNet::current(), 1);
        let (shared, peer) = (transport.shared(), NodeId(7));
        let former = shared.begin_stream(peer);
        shared.set_open(peer, former, Some("former"));
        let present = shared.begin_stream(peer);
        assert!(!shared.is_connected(peer), "messages wait for the present stream");
        shared.set_open(peer, former, Some("former"));
        assert!(!shared.is_connected(peer));
        shared.set_open(peer, present, Some("present"));
        shared.set_open(peer, former, None);
        shared.end_stream(peer, former);
        assert_eq!(shared.connected_at(peer), Some("present".to_owned()));
        shared.end_stream(peer, present);
        assert!(!shared.is_connected(peer));
    }

    #[tokio::test(start_paused = true)]
    async fn two_processes_of_a_member_are_reported_and_one_that_restarts_or_moves_is_not() {
        let transport = transport(&TokioNet::current(), 0);
        let (shared, peer) = (transport.shared(), NodeId(1));
        let hello = |process, address: &str| Hello {
            from: peer,
            incarnation: Incarnation(101),
            process,
            address: address.to_owned(),
            ..shared.hello(peer)
        };
        let doubled = || shared.counters.figures().doubled_peers;
        let first = shared.arrives(&hello(1, "a:9080"));
        shared.look_for_a_copy(first).await;
        let same = shared.arrives(&hello(1, "elsewhere:9080"));
        shared.look_for_a_copy(same).await;
        assert_eq!(doubled(), 0, "one process under two names");
        shared.leaves(same);
        let second = shared.arrives(&hello(2, "a:9080"));
        let (looking, ends) = (shared.look_for_a_copy(second), async {
            tokio::time::sleep(shared.config.silence).await;
            shared.leaves(first);
        });
        tokio::join!(looking, ends);
        assert_eq!(doubled(), 0, "a restart");
        let third = shared.arrives(&hello(3, "a:9080"));
        shared.look_for_a_copy(third).await;
        assert_eq!(doubled(), 1);
    }

    #[tokio::test]
    async fn a_stream_that_has_sent_something_skips_the_next_keep_alive() {
        let net = TokioNet::current();
        let transport = transport(&net, 1);
        let (_sender, messages) = mpsc::channel(1);
        let (give_back, _given_back) = tokio::sync::oneshot::channel();
        let (began, every) = (net.now(), Duration::from_millis(100));
        let hello = transport.shared().hello(NodeId(0));
        let times = SignTimes::new(began, every * 4);
        let mut body = Outgoing::new(&net, hello, messages, give_back, times);
        assert!(body.frame().await.is_some(), "the hello");
        assert!(body.frame().await.is_some(), "a keep-alive");
        assert!(net.now() - began >= every * 2, "it was sent after {:?}", net.now() - began);
    }

    // Other systems have only one loopback address.
    #[cfg(target_os = "linux")]
    #[tokio::test]
    async fn a_peer_that_moves_is_reached_although_its_former_address_is_taken_by_others() {
        let net = TokioNet::resolved_by(resolve);
        let peer = transport(&net, 1);
        let mut server = PeerServer::bind(SocketAddr::from(([127, 0, 0, 2], 0))).await.unwrap();
        let port = server.local_addr().port();
        server.open(&peer);
        resolves_to(&[server.local_addr()]);
        let dialling = transport(&net, 0);
        let is_connected = || dialling.is_connected(NodeId(1));
        until("connected", is_connected).await;

        let empty = b"HTTP/1.1 404 Not Found\r\ncontent-length: 0\r\n\r\n";
        let page = b"HTTP/1.1 200 OK\r\ncontent-length: 6\r\n\r\n<html>";
        let answers: [&'static [u8]; 3] = [b"", empty, page];
        for (moves, answer) in answers.into_iter().enumerate() {
            let former = server.local_addr();
            drop(server);
            until("it is gone", || !is_connected()).await;
            foreign(former, answer).await;
            let next = SocketAddr::from(([127, 0, 0, 3 + moves as u8], port));
            server = PeerServer::bind(next).await.unwrap();
            server.open(&peer);
            // With the last move the name keeps its former address, in front of the new one.
            match moves {
                2 => resolves_to(&[former, next]),
                _ => resolves_to(&[next]),
            }
            let steady = async {
                let mut since = net.now();
                while net.now() - since < Duration::from_millis(300) {
                    tokio::time::sleep(Duration::from_millis(5)).await;
                    if !is_connected() {
                        since = net.now();
                    }
                }
            };
            let reached = tokio::time::timeout(NEVER, steady).await;
            assert!(reached.is_ok(), "it is not reached at its new address, {next}");
        }
    }
}
