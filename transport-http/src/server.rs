//! The listener for peers.

use crate::body::{FrameReader, give_way};
use crate::bootstrap::{self, BootstrapService, QUESTION_BYTES_MAX};
use crate::frame::{Frames, write_sign_of_life};
use crate::hello::Hello;
use crate::net::{Net, Running as _, TokioNet, timeout};
use crate::places::{HELLO_TIMEOUT, PEER_CONNECTIONS_MAX, Place, Places};
use crate::repeats::Repeats;
use crate::shared::Shared;
use crate::signs::SignTimes;
use crate::snapshot;
use crate::transport::HttpTransport;
use crate::wire::{StreamEnded, receive_messages};
use bytes::Bytes;
use driver::report;
use http_body_util::channel::{Channel, Sender};
use http_body_util::{BodyExt, Either, Full, Limited};
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper::{Method, Request, Response, StatusCode};
use hyper_util::rt::TokioIo;
use std::convert::Infallible;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::sync::{Arc, Mutex, OnceLock, PoisonError};
use std::time::Duration;

/// How long a sender may be silent during a snapshot transfer.
const SNAPSHOT_SILENCE: Duration = Duration::from_secs(5);
/// The most bytes that hyper may buffer for a connection.
const BUFFER_BYTES_MAX: usize = 256 << 10;
/// The pause after a failed accept, for instance for lack of file descriptors.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// The status and the reason with which a stream is rejected.
type Denied = (StatusCode, String);

type Answer = Response<Either<Full<Bytes>, Channel<Bytes, Infallible>>>;

/// Listens for peers. It answers bootstrap requests from the start, and accepts streams and
/// snapshots after [`PeerServer::open`]. Dropping it closes all connections.
pub struct PeerServer<N: Net = TokioNet> {
    local_addr: SocketAddr,
    listener: Arc<Listener<N>>,
    /// The accept loop, which owns the tasks of all connections.
    _accepting: N::Task,
}

/// The state that the connections of a listener share.
struct Listener<N> {
    net: N,
    service: Arc<BootstrapService>,
    transport: OnceLock<Arc<Shared<N>>>,
    places: Places,
    reported: Mutex<Repeats>,
}

impl PeerServer {
    /// Binds the address and begins to answer, on at most [`PEER_CONNECTIONS_MAX`] connections.
    pub async fn bind(address: SocketAddr) -> io::Result<PeerServer> {
        PeerServer::bind_limited(address, PEER_CONNECTIONS_MAX).await
    }

    /// Like [`PeerServer::bind`], with another limit on connections, for a process with few file
    /// descriptors.
    pub async fn bind_limited(
        address: SocketAddr,
        connections_max: usize,
    ) -> io::Result<PeerServer> {
        PeerServer::bind_on(TokioNet::current(), address, connections_max).await
    }
}

impl<N: Net> PeerServer<N> {
    /// Like [`PeerServer::bind_limited`], with a given [`Net`].
    pub async fn bind_on(net: N, address: SocketAddr, connections_max: usize) -> io::Result<Self> {
        let socket = net.bind(address).await?;
        let local_addr = net.local_addr(&socket)?;
        let listener = Arc::new(Listener {
            net: net.clone(),
            service: Arc::new(BootstrapService::new()),
            transport: OnceLock::new(),
            places: Places::new(connections_max),
            reported: Mutex::default(),
        });
        let accepting = net.spawn(accept(socket, listener.clone()));
        Ok(PeerServer { local_addr, listener, _accepting: accepting })
    }

    /// The address that it listens on.
    pub fn local_addr(&self) -> SocketAddr {
        self.local_addr
    }

    /// Answers the bootstrap requests that arrive here.
    pub fn bootstrap_service(&self) -> &Arc<BootstrapService> {
        &self.listener.service
    }

    /// Accepts streams and snapshots for `transport` from now on. Has no effect after the first
    /// call.
    pub fn open(&self, transport: &HttpTransport<N>) {
        let _ = self.listener.transport.set(transport.shared());
    }
}

impl<N: Net> Listener<N> {
    /// Logs a warning, unless one of this kind was logged lately. There are few kinds, so strangers
    /// can fill neither the log nor the memory of past reports.
    fn report(&self, kind: &str, text: &str) {
        if self.reported.lock().unwrap_or_else(PoisonError::into_inner).is_news(kind) {
            report(|| tracing::warn!("{text}"));
        }
    }

    /// Whether the sender is a member, with this incarnation. A node with the id of a member and
    /// another incarnation may not displace the member's connections.
    fn is_member(&self, hello: &Hello) -> bool {
        let shared = self.transport.get();
        shared.is_some_and(|shared| shared.is_member(hello.from, hello.incarnation))
    }

    /// Records that the peer has introduced itself. An error if there is no slot for it.
    fn introduce(&self, place: &Place, hello: &Hello) -> Result<(), Denied> {
        if place.introduce(hello.from, self.is_member(hello)) {
            place.name(hello.from, hello.incarnation);
            return Ok(());
        }
        Err((StatusCode::SERVICE_UNAVAILABLE, "too many connections of this node".to_owned()))
    }
}

async fn accept<N: Net>(socket: N::Listener, listener: Arc<Listener<N>>) {
    let net = listener.net.clone();
    // Dropping this task drops these, and closes all connections. There are at most as many as
    // slots.
    let mut connections: Vec<N::Task> = Vec::new();
    loop {
        let accepted = net.accept(&socket).await;
        connections.retain(|connection| !connection.is_finished());
        match accepted {
            Ok((stream, from)) => {
                let place = Arc::new(listener.places.take(from.ip()));
                let serve = serve(stream, from.ip(), place, listener.clone());
                connections.push(net.spawn(serve));
                // A connection that was displaced closes before the next one is accepted. Otherwise
                // a burst takes more descriptors than there are slots.
                give_way().await;
            }
            Err(error) => {
                // The pause comes before the report, which may block.
                net.sleep(ACCEPT_PAUSE).await;
                listener.report("accept", &format!("cannot accept a peer's connection: {error}"));
            }
        }
    }
}

/// Serves the one request of a connection, which has to introduce itself within [`HELLO_TIMEOUT`].
async fn serve<N: Net>(
    stream: N::Stream,
    from: IpAddr,
    place: Arc<Place>,
    listener: Arc<Listener<N>>,
) {
    let service = service_fn(|request| {
        let (listener, place) = (listener.clone(), place.clone());
        async move { Ok::<_, Infallible>(answer(request, from, &place, listener).await) }
    });
    let served = hyper::server::conn::http1::Builder::new()
        // No peer reads the date header, and it would need another clock.
        .auto_date_header(false)
        .max_buf_size(BUFFER_BYTES_MAX)
        // A bootstrap request, a stream and a snapshot have a connection each.
        .keep_alive(false)
        .serve_connection(TokioIo::new(stream), service);
    // This limits the time to read the head of the request, too.
    let overdue = async {
        listener.net.sleep(HELLO_TIMEOUT).await;
        if place.is_known() {
            std::future::pending::<()>().await;
        }
    };
    tokio::select! {
        biased;
        served = served => {
            if let Err(error) = served {
                report(|| tracing::debug!(%from, %error, "a peer's connection ended"));
            }
        }
        () = place.is_displaced() => {
            if !place.is_known() {
                let text = "many connections to the peer port do not introduce themselves";
                listener.report(text, text);
            }
        }
        () = overdue => {
            report(|| tracing::debug!(%from, "a connection did not introduce itself"));
        }
    }
    // Its slot is taken for as long as it would have waited.
    let owed = place.owed();
    if owed > Duration::ZERO {
        listener.net.sleep(owed).await;
    }
}

async fn answer<N: Net>(
    request: Request<Incoming>,
    from: IpAddr,
    place: &Arc<Place>,
    listener: Arc<Listener<N>>,
) -> Answer {
    let shared = listener.transport.get().cloned();
    let route = (request.method().clone(), request.uri().path().to_owned());
    match (&route.0, route.1.as_str(), shared) {
        (&Method::POST, bootstrap::PATH, _) => {
            answer_founder(request, &listener.net, &listener.service).await
        }
        (&Method::POST, "/raft/v1/stream", Some(shared)) => {
            let answer = stream(request, from, place, &listener, shared.clone()).await;
            answer.unwrap_or_else(|(status, why)| {
                shared.counters.refused();
                text(status, why)
            })
        }
        (
            &Method::POST,
            path @ ("/raft/v1/snapshot" | "/raft/v1/snapshot/prefix"),
            Some(shared),
        ) => {
            let body = request.into_body();
            let frames = FrameReader::of_a_request(&shared, place, body, SNAPSHOT_SILENCE);
            let introduce = |hello: &Hello| listener.introduce(place, hello).is_ok();
            let answered = match path {
                "/raft/v1/snapshot" => snapshot::receive(&shared, frames, introduce)
                    .await
                    .map(|()| Bytes::from_static(b"durable")),
                _ => snapshot::answer(&shared, frames, introduce).await.map(Bytes::from),
            };
            match answered {
                Ok(answer) => text(StatusCode::OK, answer),
                Err((status, why)) => {
                    if status == StatusCode::FORBIDDEN {
                        shared.counters.refused();
                        let text = format!("refused a snapshot from {from}: {why}");
                        listener.report("snapshot", &text);
                    }
                    text(status, why)
                }
            }
        }
        (
            &Method::POST,
            "/raft/v1/stream" | "/raft/v1/snapshot" | "/raft/v1/snapshot/prefix",
            None,
        ) => text(StatusCode::SERVICE_UNAVAILABLE, "this node does not take part yet"),
        _ => text(StatusCode::NOT_FOUND, "this port is for raft peers; clients use another"),
    }
}

fn text(status: StatusCode, why: impl Into<Bytes>) -> Answer {
    let mut answer = Response::new(Either::Left(Full::new(why.into())));
    *answer.status_mut() = status;
    answer
}

async fn answer_founder<N: Net>(
    request: Request<Incoming>,
    net: &N,
    service: &BootstrapService,
) -> Answer {
    let question = Limited::new(request.into_body(), QUESTION_BYTES_MAX).collect();
    match timeout(net, HELLO_TIMEOUT, question).await {
        Ok(Ok(question)) => {
            let (status, body) = service.answer(&question.to_bytes());
            text(status, body)
        }
        // The founder asks again. A rejection would end it.
        Ok(Err(_)) | Err(_) => text(StatusCode::REQUEST_TIMEOUT, "the question has not arrived"),
    }
}

/// Serves a peer's stream. The first frame is checked before the response begins. The response
/// consists of keep-alives, for as long as messages are received.
async fn stream<N: Net>(
    request: Request<Incoming>,
    from: IpAddr,
    place: &Arc<Place>,
    listener: &Listener<N>,
    shared: Arc<Shared<N>>,
) -> Result<Answer, Denied> {
    let net = shared.net.clone();
    let (body, silence) = (request.into_body(), shared.config.silence);
    let mut frames = FrameReader::of_a_request(&shared, place, body, silence);
    let Ok(Some(first)) = frames.first().await else {
        return Err((StatusCode::BAD_REQUEST, "no first frame".to_owned()));
    };
    let hello = Hello::check(&first, &shared.hello(shared.config.node)).map_err(|refusal| {
        let text = format!("refused a peer's stream from {from}: {refusal}");
        listener.report(&format!("stream {:?}", std::mem::discriminant(&refusal)), &text);
        (StatusCode::FORBIDDEN, refusal.to_string())
    })?;
    listener.introduce(place, &hello)?;
    shared.visited(&hello);
    shared.compare_settings(&hello);
    let (peer, incarnation) = (hello.from, hello.incarnation);
    if shared.is_member(peer, incarnation) {
        shared.note_contact(peer);
    }
    let number = shared.arrives(&hello);
    let looking = shared.clone();
    net.spawn(async move { looking.look_for_a_copy(number).await }).detach();
    let (signs, body) = Channel::new(1);
    let held = place.clone();
    // The task ends with the connection.
    let reading = net.spawn(async move {
        let _place = held;
        let passes = |peer| shared.passes(peer);
        let reading = receive_messages(&shared.inbox, hello, &mut frames, passes);
        tokio::select! {
            biased;
            ended = reading => {
                if let StreamEnded::Frame(error) = &ended {
                    shared.counters.count(error);
                }
                report(|| tracing::debug!(%peer, "a stream ended: {ended}"));
            }
            () = live(&shared.net, signs, shared.signs) => {}
        }
        shared.leaves(number);
        // It may have become one since.
        if shared.is_member(peer, incarnation) {
            shared.note_contact(peer);
        }
    });
    reading.detach();
    Ok(Response::new(Either::Right(body)))
}

async fn live<N: Net>(net: &N, mut signs: Sender<Bytes, Infallible>, times: SignTimes) {
    let mut sign = Vec::new();
    write_sign_of_life(&mut sign);
    let sign = Bytes::from(sign);
    while signs.send_data(sign.clone()).await.is_ok() {
        net.sleep(times.next_after(net.now())).await;
    }
}
