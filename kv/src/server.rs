//! The listener for clients: which connections get a place, and which are refused.
//!
//! It listens before the node takes part in its cluster, so that an operator can see that it is
//! alive. A client that is silent in the middle of a request, or does not read its answer, is cut
//! off: it costs a connection for a limited time, and nothing else.

use crate::api::Pressure;
use crate::canned;
use crate::connection::{Common, Seat};
use crate::descriptors::{self, Share};
use crate::front::{self, Visitor};
use crate::limits::Limits;
use crate::places::Places;
use axum::Router;
use driver::report;
use hyper_util::server::graceful::GracefulShutdown;
use hyper_util::service::TowerToHyperService;
use quorate::threads::OwnThread;
use raft::NodeId;
use std::io;
use std::net::SocketAddr;
use std::sync::{Arc, OnceLock};
use std::time::{Duration, Instant};
use tokio::net::{TcpListener, TcpStream};
use tokio::runtime::Handle;
use tokio::sync::watch;
use tokio::task::{JoinHandle, JoinSet};

/// The interval at which a free place is searched for while others are being given up.
const SEAT_TRIES: u32 = 16;
/// The pause between two tries. Other clients wait meanwhile.
const SEAT_PAUSE: Duration = Duration::from_millis(1);
/// A client's connection that was idle for less keeps its place when the node is full.
const IDLE_MIN: Duration = Duration::from_secs(1);
/// How long requests under way may take when the node stops.
const GRACE: Duration = Duration::from_secs(3);
/// Connections are accepted again if none has failed for this long.
const ACCEPT_STEADY: Duration = Duration::from_secs(5);
/// A pause after a connection could not be accepted, for instance for lack of file descriptors.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// Listens for clients. Dropped, it closes all connections.
#[derive(Debug)]
pub(crate) struct ClientServer {
    local_addr: SocketAddr,
    common: Arc<Common>,
    stop: watch::Sender<bool>,
    accepting: JoinHandle<()>,
    _front: OwnThread,
}

impl ClientServer {
    /// Binds the address and begins to answer that the node is starting.
    pub async fn bind(
        address: SocketAddr,
        node: NodeId,
        peer_address: String,
        limits: &Limits,
        share: Share,
    ) -> io::Result<Self> {
        let front = OwnThread::start("http-front", true)?;
        let listener = front.runtime().spawn(TcpListener::bind(address));
        let listener = listener.await.map_err(io::Error::other)??;
        let local_addr = listener.local_addr()?;
        let common = Arc::new(Common {
            router: OnceLock::new(),
            node: node.0.into(),
            peer_address,
            client_timeout: limits.client_timeout,
            pressure: Arc::default(),
        });
        let (stop, stopping) = watch::channel(false);
        let acceptor = Acceptor {
            listener,
            common: common.clone(),
            places: Places::new(share.clients, IDLE_MIN),
            // A client of the overflow that has asked for nothing yet makes way for the next.
            overflow: Places::new(descriptors::OVERFLOW as usize, Duration::ZERO),
            clients: Handle::current(),
            stopping,
            graceful: GracefulShutdown::new(),
            connections: JoinSet::new(),
        };
        let accepting = front.runtime().spawn(acceptor.run());
        Ok(ClientServer { local_addr, common, stop, accepting, _front: front })
    }

    /// Where it listens.
    pub fn local_addr(&self) -> SocketAddr {
        self.local_addr
    }

    /// The counter that rises when there is no room for a long reply.
    pub fn pressure(&self) -> Arc<Pressure> {
        self.common.pressure.clone()
    }

    /// Serves the whole API from now on.
    pub fn open(&self, router: Router) {
        // It is called once; a second router would be a bug, and the first one stays.
        let _ = self.common.router.set(TowerToHyperService::new(router));
    }

    /// Takes no more connections, answers what is under way, and returns when that is done or took
    /// too long.
    pub async fn stop(mut self) {
        self.stop.send_replace(true);
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
    common: Arc<Common>,
    places: Arc<Places>,
    overflow: Arc<Places>,
    /// Where requests are worked on.
    clients: Handle,
    stopping: watch::Receiver<bool>,
    graceful: GracefulShutdown,
    /// Dropped with the acceptor, and all connections with it.
    connections: JoinSet<()>,
}

impl Acceptor {
    async fn run(mut self) {
        let mut failed: Option<Instant> = None;
        let mut stopping = self.stopping.clone();
        loop {
            while self.connections.try_join_next().is_some() {}
            let accepted = tokio::select! {
                biased;
                _ = stopping.wait_for(|stopping| *stopping) => break,
                accepted = self.listener.accept() => accepted,
            };
            match accepted {
                Ok((stream, _)) => {
                    if failed.is_some_and(|failed| failed.elapsed() > ACCEPT_STEADY) {
                        failed = None;
                        report(|| tracing::info!("accepting clients' connections again"));
                    }
                    self.admit(stream).await;
                }
                Err(error) => {
                    // Once, not at each try.
                    if failed.replace(Instant::now()).is_none() {
                        report(|| tracing::warn!(%error, "cannot accept clients' connections"));
                    }
                    tokio::time::sleep(ACCEPT_PAUSE).await;
                }
            }
        }
        drop(self.listener);
        let _ = tokio::time::timeout(GRACE, self.graceful.shutdown()).await;
    }

    async fn admit(&mut self, stream: TcpStream) {
        let Some(seat) = self.seat().await else {
            // Nothing has been sent on it, so this fits into the socket's buffer.
            let _ = stream.try_write(&canned::full_bytes(&self.common.node));
            return;
        };
        let visitor = Visitor {
            stream,
            seat,
            common: self.common.clone(),
            clients: self.clients.clone(),
            stopping: self.stopping.clone(),
        };
        self.connections.spawn(front::receive(visitor, self.graceful.watcher()));
    }

    async fn seat(&self) -> Option<Seat> {
        for _ in 0..SEAT_TRIES {
            if let Some(place) = self.places.take() {
                return Some(Seat::Full(place));
            }
            if let Some(place) = self.overflow.take() {
                return Some(Seat::Overflow(place));
            }
            // Those that have lost their places take a moment to close.
            tokio::time::sleep(SEAT_PAUSE).await;
        }
        None
    }
}
