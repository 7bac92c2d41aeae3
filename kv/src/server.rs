//! The listener for clients. It gives each connection a place or refuses it.
//!
//! It listens before the node has joined its cluster, so that an operator can see that the node is
//! alive. The connection of a client that stops sending in the middle of a request, or does not
//! read its answer, is closed after a timeout.

use crate::api::{Api, Pressure};
use crate::canned;
use crate::connection::{Common, MetricsTurns};
use crate::descriptors::{self, Share};
use crate::front::{self, Seat, Visitor};
use crate::leaving::Leaving;
use crate::limits::Limits;
use crate::places::Places;
use driver::report;
use hyper_util::server::graceful::GracefulShutdown;
use quorate::threads::OwnThread;
use raft::NodeId;
use std::io;
use std::net::SocketAddr;
use std::sync::{Arc, OnceLock};
use std::time::{Duration, Instant};
use tokio::net::{TcpListener, TcpSocket, TcpStream};
use tokio::runtime::Handle;
use tokio::sync::watch;
use tokio::task::{JoinHandle, JoinSet};

/// The most connections that wait to be accepted. Beyond it, the system drops connection attempts,
/// and clients repeat them after a second. The system may have a lower limit of its own.
const BACKLOG: u32 = 4096;
/// How many times the acceptor tries to get a place for a new connection. In this time, connections
/// in the overflow have lost their places, see [`OVERFLOW_MIN`].
const SEAT_TRIES: u32 = 64;
/// The pause between two tries, in which old connections close. No other connection is accepted
/// meanwhile.
const SEAT_PAUSE: Duration = Duration::from_millis(1);
/// On a full node, a connection loses its place only if it has been idle for this long.
const IDLE_MIN: Duration = Duration::from_secs(1);
/// On a full node, a connection in the overflow loses its place after this time if there is no
/// other. Long enough for a client to read its answer.
const OVERFLOW_MIN: Duration = Duration::from_millis(25);
/// How long requests in progress may take when the node stops.
const GRACE: Duration = Duration::from_secs(3);
/// How long the answers to those that are left may take then.
const LAST_ANSWERS: Duration = Duration::from_secs(1);
/// How long before a stop clients are asked to close their connections. One that was closed by the
/// node could have a request under way, and its client would not know what became of it. A busy
/// client sends its next request sooner; one that is idle for longer notices the end first.
const LEAVE: Duration = Duration::from_millis(200);
/// The pause between two looks whether all have done so.
const LEAVE_LOOK: Duration = Duration::from_millis(5);
/// After an accept error, the listener counts as recovered if none has failed for this long.
const ACCEPT_STEADY: Duration = Duration::from_secs(5);
/// The pause after an accept error, for instance for lack of file descriptors.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// The running listener. Dropping it closes all connections.
#[derive(Debug)]
pub(crate) struct ClientServer {
    local_addr: SocketAddr,
    common: Arc<Common>,
    places: Arc<Places>,
    leaves: OnceLock<Instant>,
    stop: watch::Sender<bool>,
    accepting: JoinHandle<()>,
    /// Taken by [`ClientServer::close`].
    front: Option<OwnThread>,
}

impl ClientServer {
    /// Binds the address. Until [`ClientServer::open`], requests are answered that the node is
    /// starting.
    pub async fn bind(
        address: SocketAddr,
        node: NodeId,
        peer_address: String,
        limits: &Limits,
        share: Share,
    ) -> io::Result<Self> {
        let front = OwnThread::start("http-front", true)?;
        let listener = front.runtime().spawn(async move { listen(address) });
        let listener = listener.await.map_err(io::Error::other)??;
        let local_addr = listener.local_addr()?;
        let common = Arc::new(Common {
            api: OnceLock::new(),
            node: node.0.into(),
            peer_address,
            leaving: Arc::default(),
            waits: OnceLock::new(),
            client_timeout: limits.client_timeout,
            pressure: Arc::default(),
            metrics: MetricsTurns::default(),
        });
        let (stop, stopping) = watch::channel(false);
        let places = Places::new(share.clients, IDLE_MIN);
        let acceptor = Acceptor {
            common: common.clone(),
            places: places.clone(),
            overflow: Places::new(descriptors::OVERFLOW as usize, OVERFLOW_MIN),
            clients: Handle::current(),
            stopping,
            graceful: GracefulShutdown::new(),
            connections: JoinSet::new(),
        };
        let accepting = front.runtime().spawn(acceptor.run(listener));
        let leaves = OnceLock::new();
        let front = Some(front);
        Ok(ClientServer { local_addr, common, places, leaves, stop, accepting, front })
    }

    /// The bound address, with the actual port if port 0 was configured.
    pub fn local_addr(&self) -> SocketAddr {
        self.local_addr
    }

    /// The counter that rises when there is no room for a long reply.
    pub fn pressure(&self) -> Arc<Pressure> {
        self.common.pressure.clone()
    }

    /// How far a stop has got.
    pub fn leaving(&self) -> Arc<Leaving> {
        self.common.leaving.clone()
    }

    /// A function that makes requests be answered that the node waits to be added to its cluster,
    /// with this text for an operator. Call it once at most.
    pub fn waiting(&self, text: String) -> impl Fn() + Send + Sync + 'static {
        let common = self.common.clone();
        move || {
            report(|| tracing::info!("{text}"));
            // A second call would be a bug. It is ignored.
            let _ = common.waits.set(text.clone());
        }
    }

    /// Serves the whole API from now on. Call it once.
    pub fn open(&self, api: Api) {
        // A second one would be a bug. It is ignored.
        let _ = self.common.api.set(api);
    }

    /// The node is about to stop. From now on each answer asks the client to close its connection.
    pub fn leave(&self) {
        self.common.leaving.leave();
        self.leaves.get_or_init(Instant::now);
    }

    /// Accepts no further connections, once clients have had a moment to close theirs. Returns when
    /// all requests in progress are answered, or after a timeout.
    pub async fn stop(mut self) {
        self.leave();
        let began = self.leaves.get().copied();
        while !self.places.are_free() && began.is_some_and(|began| began.elapsed() < LEAVE) {
            tokio::time::sleep(LEAVE_LOOK).await;
        }
        self.stop.send_replace(true);
        let _ = tokio::time::timeout(GRACE + GRACE, &mut self.accepting).await;
    }
}

impl ClientServer {
    /// Closes everything at once, and returns when the address is free.
    pub async fn close(mut self) {
        self.accepting.abort();
        if let Some(front) = self.front.take() {
            front.stop().await;
        }
    }
}

impl Drop for ClientServer {
    fn drop(&mut self) {
        self.accepting.abort();
    }
}

/// Binds the address. Runs on the runtime that accepts.
fn listen(address: SocketAddr) -> io::Result<TcpListener> {
    let socket = if address.is_ipv4() { TcpSocket::new_v4()? } else { TcpSocket::new_v6()? };
    // A node that starts again listens although connections of its last run are still closing.
    socket.set_reuseaddr(true)?;
    socket.bind(address)?;
    socket.listen(BACKLOG)
}

/// Closes the listener. Returns the connections that the system has accepted for it: if they were
/// reset, their clients could not know what became of a request that is under way. No more of them
/// than descriptors are reserved for connections without a place.
fn last_connections(listener: TcpListener) -> Vec<TcpStream> {
    let mut last = Vec::new();
    // Does not block: it has been a socket of the runtime.
    if let Ok(listener) = listener.into_std() {
        while last.len() < descriptors::OVERFLOW as usize
            && let Ok((stream, _)) = listener.accept()
        {
            last.push(stream);
        }
    }
    last.into_iter()
        .filter_map(|stream| {
            stream.set_nonblocking(true).ok()?;
            TcpStream::from_std(stream).ok()
        })
        .collect()
}

struct Acceptor {
    common: Arc<Common>,
    places: Arc<Places>,
    overflow: Arc<Places>,
    /// The clients' runtime, which serves all requests but health requests.
    clients: Handle,
    stopping: watch::Receiver<bool>,
    graceful: GracefulShutdown,
    /// Dropping the acceptor drops this set, which closes all connections.
    connections: JoinSet<()>,
}

impl Acceptor {
    async fn run(mut self, listener: TcpListener) {
        let mut failed: Option<Instant> = None;
        let mut stopping = self.stopping.clone();
        loop {
            while self.connections.try_join_next().is_some() {}
            let accepted = tokio::select! {
                biased;
                _ = stopping.wait_for(|stopping| *stopping) => break,
                accepted = listener.accept() => accepted,
            };
            match accepted {
                Ok((stream, _)) => {
                    if failed.is_some_and(|failed| failed.elapsed() > ACCEPT_STEADY) {
                        failed = None;
                        report(|| tracing::info!("accepting clients' connections again"));
                    }
                    self.admit(stream, SEAT_TRIES).await;
                }
                Err(error) => {
                    // Reported once for a series of errors.
                    if failed.replace(Instant::now()).is_none() {
                        report(|| tracing::warn!(%error, "cannot accept clients' connections"));
                    }
                    tokio::time::sleep(ACCEPT_PAUSE).await;
                }
            }
        }
        for stream in last_connections(listener) {
            self.admit(stream, 1).await;
        }
        if tokio::time::timeout(GRACE, self.graceful.shutdown()).await.is_err() {
            self.common.leaving.end();
            let all = async { while self.connections.join_next().await.is_some() {} };
            let _ = tokio::time::timeout(LAST_ANSWERS, all).await;
        }
    }

    async fn admit(&mut self, stream: TcpStream, tries: u32) {
        let Some(seat) = self.seat(tries).await else {
            // Nothing else has been sent on this socket, so the answer fits into its send buffer.
            // The client may lose it, as its request stays unread.
            let _ = stream.try_write(&canned::full(&self.common.node));
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

    async fn seat(&self, tries: u32) -> Option<Seat> {
        for _ in 0..tries {
            if let Some(place) = self.places.take() {
                return Some(Seat::Full(place));
            }
            if let Some(place) = self.overflow.take() {
                return Some(Seat::Overflow(place));
            }
            // Connections that have lost their places take a moment to close.
            tokio::time::sleep(SEAT_PAUSE).await;
        }
        None
    }
}
