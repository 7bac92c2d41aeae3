//! The listener for peers.

use crate::body::FrameReader;
use crate::bootstrap::Desk;
use crate::frame::{Frames, SIGN_OF_LIFE};
use crate::hello::Hello;
use crate::link::passes;
use crate::snapshot;
use crate::transport::{HttpTransport, Shared};
use crate::wire::receive_messages;
use bytes::Bytes;
use driver::report;
use http_body_util::channel::{Channel, Sender};
use http_body_util::{BodyExt, Either, Full, Limited};
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper::{Method, Request, Response, StatusCode};
use hyper_util::rt::{TokioIo, TokioTimer};
use std::convert::Infallible;
use std::io;
use std::net::SocketAddr;
use std::sync::{Arc, OnceLock};
use std::time::Duration;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Semaphore;
use tokio::task::{AbortHandle, JoinSet};
use tokio::time::timeout;

/// Connections to the peer port at once: a few for each member, and room for confused diallers.
pub const PEER_CONNECTIONS_MAX: usize = 128;
/// A pause after a connection could not be accepted, for instance for lack of file descriptors.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);
/// How long the head of a request may take, and a short request as a whole.
const REQUEST_TIMEOUT: Duration = Duration::from_secs(5);
/// A stranger's frames are read only this far.
const QUESTION_BYTES_MAX: usize = 64 << 10;

type Answer = Response<Either<Full<Bytes>, Channel<Bytes, Infallible>>>;

/// Listens for peers. It answers founders from the first moment on, and streams and snapshots once it
/// is opened for a transport. Dropped, it closes all connections.
pub struct PeerServer {
    local_addr: SocketAddr,
    desk: Arc<Desk>,
    transport: Arc<OnceLock<Arc<Shared>>>,
    accepting: AbortHandle,
}

impl PeerServer {
    /// Binds the address and begins to answer, on at most [`PEER_CONNECTIONS_MAX`] connections.
    pub async fn bind(address: SocketAddr) -> io::Result<PeerServer> {
        PeerServer::bind_limited(address, PEER_CONNECTIONS_MAX).await
    }

    /// The same, with another limit on connections, for a process with few file descriptors.
    pub async fn bind_limited(
        address: SocketAddr,
        connections_max: usize,
    ) -> io::Result<PeerServer> {
        let listener = TcpListener::bind(address).await?;
        let local_addr = listener.local_addr()?;
        let (desk, transport) = (Arc::<Desk>::default(), Arc::<OnceLock<_>>::default());
        let room = Arc::new(Semaphore::new(connections_max));
        let accepting = tokio::spawn(accept(listener, room, desk.clone(), transport.clone()));
        let accepting = accepting.abort_handle();
        Ok(PeerServer { local_addr, desk, transport, accepting })
    }

    /// Where it listens.
    pub fn local_addr(&self) -> SocketAddr {
        self.local_addr
    }

    /// What it answers founders.
    pub fn desk(&self) -> &Desk {
        &self.desk
    }

    /// Lets streams and snapshots in from now on. Only the first transport counts.
    pub fn open(&self, transport: &HttpTransport) {
        let _ = self.transport.set(transport.shared());
    }
}

impl Drop for PeerServer {
    fn drop(&mut self) {
        self.accepting.abort();
    }
}

async fn accept(
    listener: TcpListener,
    room: Arc<Semaphore>,
    desk: Arc<Desk>,
    transport: Arc<OnceLock<Arc<Shared>>>,
) {
    // Dropped with this task, and all connections with it.
    let mut connections = JoinSet::new();
    let mut failing = false;
    loop {
        while connections.try_join_next().is_some() {}
        let stream = match listener.accept().await {
            Ok((stream, _)) => stream,
            Err(error) => {
                // Once, not at each try.
                if !std::mem::replace(&mut failing, true) {
                    report(|| tracing::warn!(%error, "cannot accept peers' connections"));
                }
                tokio::time::sleep(ACCEPT_PAUSE).await;
                continue;
            }
        };
        if std::mem::replace(&mut failing, false) {
            report(|| tracing::info!("accepting peers' connections again"));
        }
        // Beyond the limit a connection is closed at once.
        let Ok(place) = room.clone().try_acquire_owned() else { continue };
        let (desk, transport) = (desk.clone(), transport.clone());
        connections.spawn(async move {
            let _place = place;
            let _ = stream.set_nodelay(true);
            let service = service_fn(move |request| {
                let (desk, transport) = (desk.clone(), transport.get().cloned());
                async move { Ok::<_, Infallible>(answer(request, &desk, transport).await) }
            });
            let served = hyper::server::conn::http1::Builder::new()
                .timer(TokioTimer::new())
                .header_read_timeout(REQUEST_TIMEOUT)
                .serve_connection(TokioIo::new(stream), service)
                .await;
            if let Err(error) = served {
                report(|| tracing::debug!(%error, "a peer's connection ended"));
            }
        });
    }
}

async fn answer(request: Request<Incoming>, desk: &Desk, shared: Option<Arc<Shared>>) -> Answer {
    let route = (request.method().clone(), request.uri().path().to_owned());
    match (&route.0, route.1.as_str(), shared) {
        (&Method::POST, "/raft/v1/bootstrap", _) => bootstrap(request, desk).await,
        (&Method::POST, "/raft/v1/stream", Some(shared)) => stream(request, shared).await,
        (&Method::POST, "/raft/v1/snapshot", Some(shared)) => {
            let frames = FrameReader::new(request.into_body(), REQUEST_TIMEOUT);
            match snapshot::receive(&shared, frames).await {
                Ok(()) => text(StatusCode::OK, "durable"),
                Err((status, why)) => text(status, why),
            }
        }
        (&Method::POST, "/raft/v1/stream" | "/raft/v1/snapshot", None) => {
            text(StatusCode::SERVICE_UNAVAILABLE, "this node does not take part yet")
        }
        _ => text(StatusCode::NOT_FOUND, "this port is for raft peers; clients use another"),
    }
}

fn text(status: StatusCode, why: impl Into<Bytes>) -> Answer {
    let mut answer = Response::new(Either::Left(Full::new(why.into())));
    *answer.status_mut() = status;
    answer
}

async fn bootstrap(request: Request<Incoming>, desk: &Desk) -> Answer {
    // What the founder says of itself is not kept: whoever founds asks for itself.
    let question = Limited::new(request.into_body(), QUESTION_BYTES_MAX).collect();
    if timeout(REQUEST_TIMEOUT, question).await.is_err() {
        return text(StatusCode::REQUEST_TIMEOUT, "the question is cut off");
    }
    match desk.answer() {
        Some(bytes) => text(StatusCode::OK, bytes),
        None => text(StatusCode::SERVICE_UNAVAILABLE, "this node founds no cluster"),
    }
}

/// A peer's stream: the first frame is checked before anything is answered; then signs of life go
/// back for as long as messages come.
async fn stream(request: Request<Incoming>, shared: Arc<Shared>) -> Answer {
    let mut frames = FrameReader::new(request.into_body(), shared.config.silence);
    let first = match frames.first().await {
        Ok(Some(first)) => first,
        Ok(None) | Err(_) => return text(StatusCode::BAD_REQUEST, "no first frame"),
    };
    let hello = match Hello::check(&first, &shared.hello(shared.config.node)) {
        Ok(hello) => hello,
        Err(refusal) => return text(StatusCode::FORBIDDEN, refusal.to_string()),
    };
    let (signs, body) = Channel::new(1);
    tokio::spawn(async move {
        let passes = |peer| passes(&shared, peer);
        let reading = receive_messages(&shared.inbox, hello, &mut frames, passes);
        tokio::select! {
            biased;
            ended = reading => {
                report(|| tracing::debug!(peer = %hello.from, "a stream ended: {ended}"));
            }
            () = live(signs, shared.config.silence / 4) => {}
        }
    });
    Response::new(Either::Right(body))
}

async fn live(mut signs: Sender<Bytes, Infallible>, every: Duration) {
    while signs.send_data(Bytes::from_static(&SIGN_OF_LIFE)).await.is_ok() {
        tokio::time::sleep(every).await;
    }
}

/// Posts a short question to a peer; the answer, if one came with status 200.
pub(crate) async fn post(address: &str, path: &str, body: Bytes) -> Option<Bytes> {
    let ask = async {
        let tcp = TcpStream::connect(address).await.ok()?;
        let (mut sender, connection) =
            hyper::client::conn::http1::handshake(TokioIo::new(tcp)).await.ok()?;
        let connection = tokio::spawn(connection);
        let request =
            Request::post(path).header(hyper::header::HOST, address).body(Full::new(body)).ok()?;
        let answer = sender.send_request(request).await.ok()?;
        let status = answer.status();
        let bytes = Limited::new(answer.into_body(), QUESTION_BYTES_MAX).collect().await.ok()?;
        connection.abort();
        (status == StatusCode::OK).then(|| bytes.to_bytes())
    };
    timeout(Duration::from_secs(1), ask).await.ok()?
}
