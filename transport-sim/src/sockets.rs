//! Simulated sockets: connections that carry bytes in order, or break.
//!
//! The plan's network decides the fate of each piece that is written, as it does for messages on
//! the other kind of links. A late piece delays those behind it. After a loss, the piece is sent
//! again late, or the connection breaks at some byte of it: both ends are notified (a reset), or
//! neither is, and each keeps an end that receives nothing any more. While a link is cut, a
//! connection waits and continues after the cut, or dies silently. A process that ends resets its
//! connections; a machine whose power fails does not. As with the buffers of a real connection, the
//! bytes that are written and not yet read are limited: then the writer waits.
//!
//! This is not TCP. There are no acknowledgements, so a cut of one direction stops only that
//! direction.

use crate::app::App;
use crate::cluster::Cluster;
use crate::disk::Life;
use crate::time::{Pause, now_us, sleep_us};
use bytes::{Buf, Bytes};
use simulator::network::Passage;
use std::collections::VecDeque;
use std::future::Future;
use std::io;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, Waker};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::sync::mpsc;

/// Sizes of a connection's window, the bytes that are written and not read; each connection draws
/// one.
const WINDOW_BYTES: [usize; 3] = [2_000, 64 << 10, 256 << 10];
/// The largest command passes within one of this many parts of the election timeout.
const ELECTION_PARTS: u64 = 4;
/// The most connections that wait to be accepted; a further one gets no answer.
const BACKLOG: usize = 128;
/// Delay until a lost piece is sent again, in proportion to the run's election timeout.
const AGAIN_US: u64 = 50_000;
/// One in this many losses on a link that is not cut breaks the connection.
const BREAKS_ONE_IN: u64 = 4;
/// One write in this many accepts only a part of the bytes.
const PART_ONE_IN: u64 = 4;
/// Delay until an end is notified of a broken connection, if it is notified at all.
const TOLD_US: u64 = 1_000;

/// A connection, shared by both ends.
struct Connection {
    /// The direction in which end 0 writes, then that of end 1.
    ways: [Way; 2],
    window_bytes: usize,
}

/// One direction of a connection, and the state of its writer.
#[derive(Default)]
struct Way {
    pieces: VecDeque<Piece>,
    /// Total size of all pieces.
    bytes: usize,
    /// When the last piece arrives.
    last_us: u64,
    /// The writer has closed: the end arrives at this time, after all pieces.
    end_us: Option<u64>,
    /// The connection is dead in this direction: bytes written from now on do not arrive.
    silent: bool,
    /// From this time on, the writing end knows that the connection is broken.
    broken_us: Option<u64>,
    reader: Option<Waker>,
    writer: Option<Waker>,
}

/// The fate of bytes that are written.
enum Fate {
    /// They arrive; if `held`, not before the link is not cut any more.
    Arrives { after_us: u64, held: bool },
    /// The connection breaks after `left` of them. Both ends are notified, or neither is.
    Breaks { left: usize, told: bool },
}

struct Piece {
    due_us: u64,
    bytes: Bytes,
    /// It arrives when the link is not cut any more.
    held: bool,
}

impl Way {
    fn push(&mut self, bytes: &[u8], due_us: u64, held: bool) {
        if bytes.is_empty() {
            return;
        }
        self.last_us = self.last_us.max(due_us);
        let bytes = Bytes::copy_from_slice(bytes);
        self.pieces.push_back(Piece { due_us: self.last_us, bytes, held });
        self.reader.take().into_iter().for_each(Waker::wake);
    }
}

impl Connection {
    fn wake_all(&mut self) {
        for way in &mut self.ways {
            way.reader.take().into_iter().chain(way.writer.take()).for_each(Waker::wake);
        }
    }

    /// Notifies an end at this time that the connection is broken.
    fn breaks(&mut self, end: usize, at_us: u64) {
        let broken_us = &mut self.ways[end].broken_us;
        *broken_us = Some(broken_us.map_or(at_us, |before_us| before_us.min(at_us)));
    }
}

/// One end of a connection.
pub(crate) struct SimStream<A: App> {
    cluster: Cluster<A>,
    life: Life,
    /// The node of this end, and that of the other.
    link: (u64, u64),
    end: usize,
    connection: Arc<Mutex<Connection>>,
    reading: Option<(u64, Pause)>,
    writing: Option<(u64, Pause)>,
    is_closed: bool,
}

/// A bound address.
pub(crate) struct SimListener<A: App> {
    pub address: SocketAddr,
    connections: Mutex<mpsc::Receiver<(SimStream<A>, SocketAddr)>>,
}

/// The queue to which dialling nodes add their connections.
pub(crate) struct Bound<A: App> {
    life: Life,
    connections: mpsc::Sender<(SimStream<A>, SocketAddr)>,
}

impl<A: App> Cluster<A> {
    fn pass(&self, link: (u64, u64)) -> Passage {
        let mut world = self.world();
        let world = &mut *world;
        world.network.pass(now_us(), link, &world.plan.swarm, world.calm)
    }

    /// A window through which the largest command passes within a part of the election timeout.
    /// With a smaller one a leader that is well would be replaced, and rightly so.
    fn window_bytes_min(&self) -> usize {
        let world = self.world();
        let round_us = 2 * u64::from(world.plan.swarm.delay_us);
        let rounds = world.plan.election_us() / round_us.max(1) / ELECTION_PARTS;
        let bytes = self.shared.app.command_bytes_max(&world.plan);
        (bytes as u64).div_ceil(rounds.max(1)) as usize
    }

    fn is_link_cut(&self, link: (u64, u64)) -> bool {
        self.world().network.is_cut(link.0, link.1)
    }

    fn draw(&self, link: (u64, u64), below: u64) -> u64 {
        self.world().link(link.0, link.1).below(below)
    }

    /// Binds the address for peers of a node.
    pub(crate) fn bind(
        &self,
        node: u64,
        life: &Life,
        address: SocketAddr,
    ) -> io::Result<SimListener<A>> {
        let (sender, connections) = mpsc::channel(BACKLOG);
        let mut world = self.world();
        let bound = &mut world.hosts[node as usize].bound;
        if bound
            .as_ref()
            .is_some_and(|bound| !bound.life.is_over() && !bound.connections.is_closed())
        {
            return Err(io::ErrorKind::AddrInUse.into());
        }
        *bound = Some(Bound { life: life.clone(), connections: sender });
        Ok(SimListener { address, connections: Mutex::new(connections) })
    }

    /// Connects. The future never completes if there is no answer: the caller needs a timeout.
    pub(crate) async fn connect(
        &self,
        life: &Life,
        from: u64,
        (to, moves): (u64, u8),
        own: SocketAddr,
    ) -> io::Result<SimStream<A>> {
        if to >= self.world().plan.nodes {
            return Err(io::ErrorKind::HostUnreachable.into());
        }
        for link in [(from, to), (to, from)] {
            match self.pass(link) {
                Passage::Arrives { after_us, .. } => sleep_us(after_us).await,
                Passage::Lost { reported: true } => {
                    sleep_us(TOLD_US).await;
                    self.mark("a connection was refused");
                    return Err(io::ErrorKind::ConnectionRefused.into());
                }
                // The request to connect is sent again, unless the link is cut.
                Passage::Lost { reported: false } if !self.is_link_cut(link) => {
                    sleep_us(self.in_proportion(AGAIN_US)).await;
                }
                Passage::Lost { reported: false } => {
                    self.mark("nobody answered a connection");
                    return std::future::pending().await;
                }
            }
        }
        let target = {
            let world = self.world();
            let host = &world.hosts[to as usize];
            let bound = host.bound.as_ref().filter(|_| host.moves == moves);
            bound
                .filter(|bound| !bound.life.is_over())
                .map(|bound| (bound.life.clone(), bound.connections.clone()))
        };
        let Some((their_life, connections)) = target else {
            // Either the machine is up and no process listens, or it is down, or none has the
            // address any more.
            if self.draw((from, to), 2) == 0 {
                return std::future::pending().await;
            }
            self.mark("a connection was refused");
            return Err(io::ErrorKind::ConnectionRefused.into());
        };
        let window = self.draw((from, to), WINDOW_BYTES.len() as u64) as usize;
        let connection = Arc::new(Mutex::new(Connection {
            ways: Default::default(),
            window_bytes: WINDOW_BYTES[window].max(self.window_bytes_min()),
        }));
        let end = |life: &Life, link, end| SimStream {
            cluster: self.clone(),
            life: life.clone(),
            link,
            end,
            connection: connection.clone(),
            reading: None,
            writing: None,
            is_closed: false,
        };
        let (ours, theirs) = (end(life, (from, to), 0), end(&their_life, (to, from), 1));
        match connections.try_send((theirs, own)) {
            Ok(()) => Ok(ours),
            Err(mpsc::error::TrySendError::Full(_)) => std::future::pending().await,
            Err(mpsc::error::TrySendError::Closed(_)) => {
                Err(io::ErrorKind::ConnectionRefused.into())
            }
        }
    }
}

impl<A: App> SimListener<A> {
    /// The next connection.
    pub async fn accept(&self) -> io::Result<(SimStream<A>, SocketAddr)> {
        let next = std::future::poll_fn(|context| {
            let mut connections = self.connections.lock().unwrap_or_else(PoisonError::into_inner);
            connections.poll_recv(context)
        });
        next.await.ok_or_else(|| io::ErrorKind::NotConnected.into())
    }
}

impl<A: App> SimStream<A> {
    fn lock(&self) -> MutexGuard<'_, Connection> {
        self.connection.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Draws the fate of bytes that are written now.
    fn fate(&self, bytes: usize) -> Fate {
        let cluster = &self.cluster;
        let again_us = cluster.in_proportion(AGAIN_US);
        let reported = match cluster.pass(self.link) {
            Passage::Arrives { after_us, .. } => return Fate::Arrives { after_us, held: false },
            Passage::Lost { reported } => reported,
        };
        let is_cut = cluster.is_link_cut(self.link);
        match is_cut {
            true if cluster.draw(self.link, 2) == 0 => {
                return Fate::Arrives { after_us: again_us, held: true };
            }
            false if cluster.draw(self.link, BREAKS_ONE_IN) > 0 => {
                return Fate::Arrives { after_us: again_us, held: false };
            }
            _ => {}
        }
        let left = cluster.draw(self.link, bytes as u64) as usize;
        let told = reported && !is_cut;
        cluster.mark(match told {
            true => "a connection broke",
            false => "a connection died without a sign",
        });
        cluster.mark("a stream was cut off within a frame");
        if let Some(timeline) = cluster.world().shown() {
            timeline.connection_lost(self.link.0, self.link.1);
        }
        Fate::Breaks { left, told }
    }
}

impl<A: App> AsyncWrite for SimStream<A> {
    fn poll_write(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        let this = &mut *self;
        if this.life.is_over() || this.is_closed {
            return Poll::Ready(Err(io::ErrorKind::BrokenPipe.into()));
        }
        let room = {
            let mut connection = this.lock();
            let window_bytes = connection.window_bytes;
            let way = &mut connection.ways[this.end];
            let wake_us = way.broken_us;
            if wake_us.is_some_and(|at_us| at_us <= now_us()) {
                return Poll::Ready(Err(io::ErrorKind::BrokenPipe.into()));
            }
            let room = window_bytes.saturating_sub(way.bytes);
            if room == 0 {
                way.writer = Some(context.waker().clone());
                drop(connection);
                wait(&mut this.writing, wake_us, context);
                return Poll::Pending;
            }
            room
        };
        let mut taken = bytes.len().min(room);
        if taken > 1 && this.cluster.draw(this.link, PART_ONE_IN) == 0 {
            taken = 1 + this.cluster.draw(this.link, taken as u64) as usize;
        }
        let is_silent = this.lock().ways[this.end].silent;
        let fate = (!is_silent).then(|| this.fate(taken));
        let mut connection = this.lock();
        let way = &mut connection.ways[this.end];
        way.bytes += taken;
        match fate {
            None => {}
            Some(Fate::Arrives { after_us, held }) => {
                way.push(&bytes[..taken], now_us() + after_us, held);
            }
            Some(Fate::Breaks { left, told }) => {
                way.push(&bytes[..left], now_us() + 1, false);
                let at_us = way.last_us + TOLD_US;
                match told {
                    // Bytes that are written before the end is notified are lost too. On a TCP
                    // connection no byte arrives after one that was lost.
                    true => {
                        connection.ways[this.end].silent = true;
                        (0..2).for_each(|end| connection.breaks(end, at_us));
                    }
                    false => connection.ways.iter_mut().for_each(|way| way.silent = true),
                }
                connection.wake_all();
            }
        }
        Poll::Ready(Ok(taken))
    }

    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.close();
        Poll::Ready(Ok(()))
    }
}

impl<A: App> AsyncRead for SimStream<A> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        into: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let this = &mut *self;
        if this.life.is_over() {
            return Poll::Ready(Err(io::ErrorKind::ConnectionReset.into()));
        }
        let from = (this.link.1, this.link.0);
        let is_cut = this.cluster.is_link_cut(from);
        let again_us = this.cluster.in_proportion(AGAIN_US);
        let now_us = now_us();
        let mut connection = this.lock();
        let broken_us = connection.ways[this.end].broken_us;
        let way = &mut connection.ways[1 - this.end];
        if let Some(piece) = way.pieces.front_mut()
            && piece.held
            && piece.due_us <= now_us
        {
            match is_cut {
                true => piece.due_us = now_us + again_us,
                false => piece.held = false,
            }
        }
        if let Some(piece) = way.pieces.front_mut()
            && piece.due_us <= now_us
        {
            let read = piece.bytes.len().min(into.remaining());
            into.put_slice(&piece.bytes[..read]);
            piece.bytes.advance(read);
            if piece.bytes.is_empty() {
                way.pieces.pop_front();
            }
            way.bytes -= read;
            way.writer.take().into_iter().for_each(Waker::wake);
            drop(connection);
            this.cluster.world().note(12, this.link.0 as usize, this.link.1 << 24 ^ read as u64);
            return Poll::Ready(Ok(()));
        }
        if broken_us.is_some_and(|at_us| at_us <= now_us) {
            return Poll::Ready(Err(io::ErrorKind::ConnectionReset.into()));
        }
        let end_us = way.end_us.filter(|_| way.pieces.is_empty());
        if end_us.is_some_and(|at_us| at_us <= now_us) {
            return Poll::Ready(Ok(()));
        }
        way.reader = Some(context.waker().clone());
        let due_us = way.pieces.front().map(|piece| piece.due_us);
        let wake_us = due_us.into_iter().chain(broken_us).chain(end_us).min();
        drop(connection);
        wait(&mut this.reading, wake_us, context);
        Poll::Pending
    }
}

/// Wakes the task when it is time.
fn wait(timer: &mut Option<(u64, Pause)>, wake_us: Option<u64>, context: &mut Context<'_>) {
    let Some(wake_us) = wake_us else {
        *timer = None;
        return;
    };
    if timer.as_ref().is_none_or(|(at_us, _)| *at_us != wake_us) {
        *timer = Some((wake_us, sleep_us(wake_us.saturating_sub(now_us()).max(1))));
    }
    if let Some((_, pause)) = timer
        && Pin::new(pause).poll(context).is_ready()
    {
        // The time has already come: the task polls again.
        *timer = None;
        context.waker().wake_by_ref();
    }
}

impl<A: App> SimStream<A> {
    /// Closes for writing: the other end reads the bytes in flight, and then the end.
    fn close(&mut self) {
        if self.is_closed {
            return;
        }
        self.is_closed = true;
        let after_us = self.news_us();
        let mut connection = self.lock();
        let way = &mut connection.ways[self.end];
        if let Some(after_us) = after_us
            && !way.silent
        {
            way.last_us = way.last_us.max(now_us() + after_us);
            way.end_us = Some(way.last_us);
            way.reader.take().into_iter().for_each(Waker::wake);
        }
    }

    /// The delay until the other end is notified once; `None`, which means never, if the link is
    /// cut.
    fn news_us(&self) -> Option<u64> {
        match self.cluster.pass(self.link) {
            Passage::Arrives { after_us, .. } => Some(after_us),
            Passage::Lost { .. } if self.cluster.is_link_cut(self.link) => None,
            Passage::Lost { .. } => Some(self.cluster.in_proportion(AGAIN_US)),
        }
    }
}

impl<A: App> Drop for SimStream<A> {
    fn drop(&mut self) {
        // After a panic, and after the run, there is no runtime, and so no time.
        if std::thread::panicking() || madsim::time::TimeHandle::try_current().is_none() {
            return;
        }
        let other = 1 - self.end;
        if self.life.is_over() {
            // A process that ends resets its connections; a machine without power does not.
            let news_us = self.news_us().filter(|_| self.cluster.draw(self.link, 2) == 0);
            let mut connection = self.lock();
            match news_us.filter(|_| !connection.ways[self.end].silent) {
                Some(after_us) => connection.breaks(other, now_us() + after_us),
                None => connection.ways.iter_mut().for_each(|way| way.silent = true),
            }
            return connection.wake_all();
        }
        self.close();
        // The other end is notified if it writes to this end, which is gone.
        let news_us = self.news_us();
        let mut connection = self.lock();
        let heard = !connection.ways[self.end].silent;
        connection.ways[other].silent = true;
        if let Some(after_us) = news_us
            && heard
        {
            let at_us = connection.ways[self.end].last_us.max(now_us() + after_us) + TOLD_US;
            connection.breaks(other, at_us);
        }
        connection.wake_all();
    }
}
