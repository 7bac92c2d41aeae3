//! The listener for clients: connections, their limits, and the router behind them.
//!
//! It listens before the node takes part in its cluster, so that whoever watches over it can see that
//! it is alive. A client that is silent in the middle of a request, or does not read its answer, is cut
//! off: it costs a connection for a limited time, and nothing else.

use crate::limits::Limits;
use axum::Router;
use axum::body::Body;
use axum::response::{IntoResponse, Response};
use hyper::header::{CONTENT_TYPE, HeaderValue, RETRY_AFTER};
use hyper::service::{Service, service_fn};
use hyper::{Request, StatusCode, body::Incoming};
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::server::graceful::GracefulShutdown;
use hyper_util::service::TowerToHyperService;
use std::convert::Infallible;
use std::future::Future;
use std::io;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::{Arc, OnceLock};
use std::task::{Context, Poll};
use std::time::Duration;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{Notify, Semaphore};
use tokio::task::{JoinHandle, JoinSet};
use tokio::time::{Instant, Sleep};

/// The most bytes of the head of a request.
const HEAD_BYTES_MAX: usize = 64 << 10;
/// How long requests under way may take when the node stops.
const GRACE: Duration = Duration::from_secs(3);
/// A pause after a connection could not be accepted, for instance for lack of file descriptors.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// Listens for clients. Dropped, it closes all connections.
#[derive(Debug)]
pub(crate) struct ClientServer {
    local_addr: SocketAddr,
    router: Arc<OnceLock<TowerToHyperService<Router>>>,
    stop: Arc<Notify>,
    accepting: JoinHandle<()>,
}

impl ClientServer {
    /// Binds the address and begins to answer that the node is starting.
    pub async fn bind(
        address: SocketAddr,
        peer_address: String,
        limits: &Limits,
    ) -> io::Result<Self> {
        let listener = TcpListener::bind(address).await?;
        let local_addr = listener.local_addr()?;
        let router = Arc::<OnceLock<_>>::default();
        let stop = Arc::<Notify>::default();
        let acceptor = Acceptor {
            listener,
            router: router.clone(),
            peer_address: peer_address.into(),
            room: Arc::new(Semaphore::new(limits.connections_max)),
            client_timeout: limits.client_timeout,
        };
        let accepting = tokio::spawn(acceptor.run(stop.clone()));
        Ok(ClientServer { local_addr, router, stop, accepting })
    }

    /// Where it listens.
    pub fn local_addr(&self) -> SocketAddr {
        self.local_addr
    }

    /// Serves the whole API from now on.
    pub fn open(&self, router: Router) {
        // It is called once; a second router would be a bug, and the first one stays.
        let _ = self.router.set(TowerToHyperService::new(router));
    }

    /// Takes no more connections, answers what is under way, and returns when that is done or took
    /// too long.
    pub async fn stop(mut self) {
        self.stop.notify_one();
        let _ = tokio::time::timeout(GRACE + GRACE, &mut self.accepting).await;
    }
}

impl Drop for ClientServer {
    fn drop(&mut self) {
        self.accepting.abort();
    }
}

struct Acceptor {
    listener: TcpListener,
    router: Arc<OnceLock<TowerToHyperService<Router>>>,
    peer_address: Arc<str>,
    room: Arc<Semaphore>,
    client_timeout: Duration,
}

impl Acceptor {
    async fn run(self, stop: Arc<Notify>) {
        let graceful = GracefulShutdown::new();
        // Dropped with this task, and all connections with it.
        let mut connections = JoinSet::new();
        loop {
            while connections.try_join_next().is_some() {}
            let accepted = tokio::select! {
                biased;
                () = stop.notified() => break,
                accepted = self.listener.accept() => accepted,
            };
            let stream = match accepted {
                Ok((stream, _)) => stream,
                Err(error) => {
                    tracing::warn!(%error, "cannot accept a client's connection");
                    tokio::time::sleep(ACCEPT_PAUSE).await;
                    continue;
                }
            };
            // Beyond the limit a connection is closed at once: the client sees it and can go elsewhere.
            let Ok(place) = self.room.clone().try_acquire_owned() else { continue };
            // Only slower without it.
            let _ = stream.set_nodelay(true);
            let (router, peer_address) = (self.router.clone(), self.peer_address.clone());
            let service = service_fn(move |request: Request<Incoming>| {
                let answer = match router.get() {
                    Some(router) => Ok(router.call(request.map(Body::new))),
                    None => Err(starting(request.uri().path(), &peer_address)),
                };
                async move {
                    match answer {
                        Ok(answer) => answer.await,
                        Err(response) => Ok::<Response, Infallible>(response),
                    }
                }
            });
            let connection = hyper::server::conn::http1::Builder::new()
                .timer(TokioTimer::new())
                .header_read_timeout(self.client_timeout)
                .max_buf_size(HEAD_BYTES_MAX)
                .serve_connection(TokioIo::new(Patient::new(stream, self.client_timeout)), service);
            let watched = graceful.watch(connection);
            connections.spawn(async move {
                let _place = place;
                if let Err(error) = watched.await {
                    tracing::debug!(%error, "a client's connection ended");
                }
            });
        }
        drop(self.listener);
        let _ = tokio::time::timeout(GRACE, graceful.shutdown()).await;
    }
}

/// What is answered before the node takes part in its cluster.
fn starting(path: &str, peer_address: &str) -> Response {
    let json = |body: String| {
        let mut response = body.into_response();
        let kind = HeaderValue::from_static("application/json");
        response.headers_mut().insert(CONTENT_TYPE, kind);
        response
    };
    match path {
        "/healthz" => "ok\n".into_response(),
        "/is_leader" => json("{\"is_leader\":false}".to_owned()),
        "/ready" => json("{\"ready\":true}".to_owned()),
        "/listen_addr" => json(serde_json::json!({ "address": peer_address }).to_string()),
        _ => {
            let detail = "this node is starting; it waits for the other nodes, or reads its log";
            let body = serde_json::json!({
                "type": "urn:raft-kv:problem:starting",
                "title": "Starting",
                "status": 503,
                "detail": detail,
                "error": detail,
                "outcome": "not_done",
            });
            let mut response = (StatusCode::SERVICE_UNAVAILABLE, body.to_string()).into_response();
            let headers = response.headers_mut();
            headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/problem+json"));
            headers.insert(RETRY_AFTER, HeaderValue::from_static("1"));
            response
        }
    }
}

/// A connection whose other end has to go on reading: a write that makes no progress for a while
/// fails.
struct Patient {
    stream: TcpStream,
    patience: Duration,
    /// Runs while a write waits.
    waiting: Option<Pin<Box<Sleep>>>,
}

impl Patient {
    fn new(stream: TcpStream, patience: Duration) -> Self {
        Patient { stream, patience, waiting: None }
    }

    fn watch<T>(
        &mut self,
        context: &mut Context<'_>,
        progress: Poll<io::Result<T>>,
    ) -> Poll<io::Result<T>> {
        if progress.is_ready() {
            self.waiting = None;
            return progress;
        }
        let deadline = Instant::now() + self.patience;
        let waiting =
            self.waiting.get_or_insert_with(|| Box::pin(tokio::time::sleep_until(deadline)));
        match waiting.as_mut().poll(context) {
            Poll::Ready(()) => Poll::Ready(Err(io::ErrorKind::TimedOut.into())),
            Poll::Pending => Poll::Pending,
        }
    }
}

impl AsyncRead for Patient {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_read(context, buffer)
    }
}

impl AsyncWrite for Patient {
    fn poll_write(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        let progress = Pin::new(&mut self.stream).poll_write(context, bytes);
        self.watch(context, progress)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        parts: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let progress = Pin::new(&mut self.stream).poll_write_vectored(context, parts);
        self.watch(context, progress)
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
