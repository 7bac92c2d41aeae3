//! The interface between the transport and its host: sockets, time, tasks and threads.
//!
//! All other code of this crate is the same on a real host and on a simulated one: HTTP, dialling,
//! timeouts, connection slots, bootstrap. [`TokioNet`] is the real host. The interface costs
//! nothing per message. The transport is generic over it, and it adds no box to a stream, timer or
//! task.
//!
//! tokio's timers, sockets and tasks work only within a tokio runtime. So, outside of tests, no
//! other file of this crate uses the timers of `tokio::time`, `tokio::net` or `tokio::spawn`;
//! `tokio::sync` works everywhere. (`repeats.rs` reads the time of `tokio::time`, for log lines
//! only.) No code in this crate waits on a `watch` channel that others wait on, too, or iterates
//! over a hash map: the order would differ from run to run.

use crate::transfer::Offload;
use std::future::Future;
use std::io;
use std::net::{SocketAddr, ToSocketAddrs};
use std::pin::{Pin, pin};
use std::task::{Context, Poll, ready};
use std::time::{Duration, Instant};
use tokio::io::{AsyncRead, AsyncWrite};

/// A host: the parts of the operating system and of the runtime that a transport uses. Clones stand
/// for the same host.
pub trait Net: Offload + Clone + Send + Sync + Unpin + 'static {
    /// A connection. Dropping it closes it.
    type Stream: AsyncRead + AsyncWrite + Send + Unpin + 'static;
    /// A listener. Dropping it frees its address.
    type Listener: Send + Sync + 'static;
    /// The future of [`Net::sleep`].
    type Sleep: Future<Output = ()> + Send + 'static;
    /// The handle of a task. Dropping it cancels the task at the await point that it has reached.
    type Task: Running;

    /// Looks up a name, `host:port`, without a timeout.
    fn look_up(&self, name: &str) -> impl Future<Output = io::Result<Vec<SocketAddr>>> + Send;
    /// Connects, without a timeout.
    fn connect(&self, to: SocketAddr) -> impl Future<Output = io::Result<Self::Stream>> + Send;
    /// Binds an address, and begins to queue connections.
    fn bind(&self, at: SocketAddr) -> impl Future<Output = io::Result<Self::Listener>> + Send;
    /// The address that a listener is bound to.
    fn local_addr(&self, listener: &Self::Listener) -> io::Result<SocketAddr>;
    /// Waits for the next connection, and returns it with the address that it comes from.
    fn accept(
        &self,
        listener: &Self::Listener,
    ) -> impl Future<Output = io::Result<(Self::Stream, SocketAddr)>> + Send;
    /// The time of the monotonic clock.
    fn now(&self) -> Instant;
    /// Returns a future that is ready after `duration`.
    fn sleep(&self, duration: Duration) -> Self::Sleep;
    /// Starts a task. May be called from any thread.
    fn spawn(&self, task: impl Future<Output = ()> + Send + 'static) -> Self::Task;
    /// A random number.
    fn draw(&self) -> u64;
}

/// The handle of a task.
pub trait Running: Send + Sync + 'static {
    /// Whether it has ended.
    fn is_finished(&self) -> bool;
    /// Lets the task run until it ends by itself.
    fn detach(self);
}

/// The real host of the process, with tokio.
#[derive(Clone, Debug)]
pub struct TokioNet {
    runtime: tokio::runtime::Handle,
    resolve: fn(&str) -> io::Result<Vec<SocketAddr>>,
}

impl TokioNet {
    /// Uses the runtime of the caller. Panics if there is none, which is a mistake in the program.
    pub fn current() -> Self {
        TokioNet { runtime: tokio::runtime::Handle::current(), resolve: look_up }
    }

    /// Like [`TokioNet::current`], with another resolver.
    #[cfg(test)]
    pub fn resolved_by(resolve: fn(&str) -> io::Result<Vec<SocketAddr>>) -> Self {
        TokioNet { resolve, ..TokioNet::current() }
    }
}

impl Net for TokioNet {
    type Stream = tokio::net::TcpStream;
    type Listener = tokio::net::TcpListener;
    type Sleep = tokio::time::Sleep;
    type Task = TokioTask;

    async fn look_up(&self, name: &str) -> io::Result<Vec<SocketAddr>> {
        let (resolve, name) = (self.resolve, name.to_owned());
        let found = self.run(move || resolve(&name)).await;
        found.unwrap_or_else(|| Err(io::Error::other("this node is stopping")))
    }

    async fn connect(&self, to: SocketAddr) -> io::Result<Self::Stream> {
        let stream = not_itself(tokio::net::TcpStream::connect(to).await?)?;
        // A failure only makes the stream slower.
        let _ = stream.set_nodelay(true);
        Ok(stream)
    }

    async fn bind(&self, at: SocketAddr) -> io::Result<Self::Listener> {
        tokio::net::TcpListener::bind(at).await
    }

    fn local_addr(&self, listener: &Self::Listener) -> io::Result<SocketAddr> {
        listener.local_addr()
    }

    async fn accept(&self, listener: &Self::Listener) -> io::Result<(Self::Stream, SocketAddr)> {
        let (stream, from) = listener.accept().await?;
        let _ = stream.set_nodelay(true);
        Ok((stream, from))
    }

    fn now(&self) -> Instant {
        // The clock of tokio, which tests can pause.
        tokio::time::Instant::now().into_std()
    }

    fn sleep(&self, duration: Duration) -> Self::Sleep {
        tokio::time::sleep(duration)
    }

    fn spawn(&self, task: impl Future<Output = ()> + Send + 'static) -> TokioTask {
        TokioTask::new(self.runtime.spawn(task))
    }

    fn draw(&self) -> u64 {
        rand::random()
    }
}

impl Offload for TokioNet {
    async fn run<T: Send + 'static>(&self, work: impl FnOnce() -> T + Send + 'static) -> Option<T> {
        self.runtime.spawn_blocking(work).await.ok()
    }
}

/// Refuses a connection that is connected to itself.
///
/// If nobody listens on a port of this machine, and the port is in the range from which the system
/// takes the ports of outgoing connections, then a connection to it may get that same port, and TCP
/// connects it to itself. It is reset, so that it leaves no TIME-WAIT: that would keep the node
/// whose port it is from listening for a minute.
pub fn not_itself(stream: tokio::net::TcpStream) -> io::Result<tokio::net::TcpStream> {
    match (stream.local_addr(), stream.peer_addr()) {
        (Ok(local), Ok(peer)) if local == peer => {
            stream.set_zero_linger()?;
            drop(stream);
            Err(io::ErrorKind::ConnectionRefused.into())
        }
        _ => Ok(stream),
    }
}

/// The handle of a tokio task. Dropping it aborts the task.
#[derive(Debug)]
pub struct TokioTask(Option<tokio::task::JoinHandle<()>>);

impl TokioTask {
    pub(crate) fn new(task: tokio::task::JoinHandle<()>) -> Self {
        TokioTask(Some(task))
    }
}

impl Running for TokioTask {
    fn is_finished(&self) -> bool {
        self.0.as_ref().is_none_or(tokio::task::JoinHandle::is_finished)
    }

    fn detach(mut self) {
        self.0 = None;
    }
}

impl Drop for TokioTask {
    fn drop(&mut self) {
        if let Some(task) = &self.0 {
            task.abort();
        }
    }
}

/// The resolver of the operating system. It blocks.
fn look_up(name: &str) -> io::Result<Vec<SocketAddr>> {
    Ok(name.to_socket_addrs()?.collect())
}

/// The time limit has passed before the work was done.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Elapsed;

/// Runs `work` for at most `limit`.
pub(crate) async fn timeout<N: Net, F: Future>(
    net: &N,
    limit: Duration,
    work: F,
) -> Result<F::Output, Elapsed> {
    let (mut work, mut over) = (pin!(work), pin!(net.sleep(limit)));
    std::future::poll_fn(|context| match work.as_mut().poll(context) {
        Poll::Ready(done) => Poll::Ready(Ok(done)),
        Poll::Pending => over.as_mut().poll(context).map(|()| Err(Elapsed)),
    })
    .await
}

/// A deadline that moves often, such as that of a connection that must not be silent.
///
/// It keeps one timer. It replaces the timer only after it has fired, or if the deadline moves to
/// an earlier time. So a deadline that moves with each message needs no timer per message.
pub(crate) struct Deadline<N: Net> {
    net: N,
    timer: Option<(Instant, Pin<Box<N::Sleep>>)>,
}

impl<N: Net> Deadline<N> {
    pub fn new(net: N) -> Self {
        Deadline { net, timer: None }
    }

    /// Ready at the time `at`. If it is pending, it wakes the task by then at the latest.
    pub fn poll(&mut self, at: Instant, context: &mut Context<'_>) -> Poll<()> {
        loop {
            let now = self.net.now();
            if at <= now {
                return Poll::Ready(());
            }
            match &mut self.timer {
                Some((rings, timer)) if *rings <= at => {
                    ready!(timer.as_mut().poll(context));
                    self.timer = None;
                }
                _ => self.timer = Some((at, Box::pin(self.net.sleep(at - now)))),
            }
        }
    }

    /// Waits until the time `at`.
    pub async fn wait_until(&mut self, at: Instant) {
        std::future::poll_fn(|context| self.poll(at, context)).await;
    }

    /// Runs `work` until the time `at` at the latest.
    pub async fn limit<F: Future>(&mut self, at: Instant, work: F) -> Result<F::Output, Elapsed> {
        let mut work = pin!(work);
        std::future::poll_fn(|context| match work.as_mut().poll(context) {
            Poll::Ready(done) => Poll::Ready(Ok(done)),
            Poll::Pending => self.poll(at, context).map(|()| Err(Elapsed)),
        })
        .await
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::future::pending;

    #[tokio::test(start_paused = true)]
    async fn a_deadline_that_moves_on_ends_a_wait_when_the_latest_one_has_passed() {
        let net = TokioNet::current();
        let mut deadline = Deadline::new(net.clone());
        let begun = net.now();
        for second in 1..=10 {
            let at = net.now() + Duration::from_secs(2);
            let pause = net.sleep(Duration::from_secs(1));
            assert_eq!(deadline.limit(at, pause).await, Ok(()), "after {second} s");
        }
        let at = net.now() + Duration::from_secs(2);
        assert_eq!(deadline.limit(at, pending::<()>()).await, Err(Elapsed));
        let passed = net.now() - begun;
        assert!(passed >= Duration::from_secs(12) && passed < Duration::from_secs(13));
    }

    #[tokio::test(start_paused = true)]
    async fn a_deadline_that_moves_back_ends_a_wait_at_once() {
        let net = TokioNet::current();
        let mut deadline = Deadline::new(net.clone());
        let begun = net.now();
        let (soon, late) = (begun + Duration::from_secs(1), begun + Duration::from_secs(60));
        let pause = net.sleep(Duration::from_millis(10));
        assert_eq!(deadline.limit(late, pause).await, Ok(()));
        assert_eq!(deadline.limit(soon, pending::<()>()).await, Err(Elapsed));
        assert!(net.now() - begun < Duration::from_secs(2));
    }

    #[tokio::test]
    async fn a_connection_to_itself_is_refused_and_leaves_the_port_free() {
        let socket = tokio::net::TcpSocket::new_v4().unwrap();
        socket.bind(([127, 0, 0, 1], 0).into()).unwrap();
        let at = socket.local_addr().unwrap();
        let stream = socket.connect(at).await.unwrap();
        let refused = not_itself(stream).err().unwrap();
        assert_eq!(refused.kind(), io::ErrorKind::ConnectionRefused);
        let listener = tokio::net::TcpListener::bind(at).await.unwrap();
        // A connection to somebody else is none to itself.
        not_itself(tokio::net::TcpStream::connect(at).await.unwrap()).unwrap();
        drop(listener);
    }

    #[tokio::test]
    async fn a_task_ends_with_its_owner_unless_it_is_detached() {
        let net = TokioNet::current();
        let (tell, mut told) = tokio::sync::mpsc::channel::<()>(1);
        let (held, other) = (tell.clone(), tell.clone());
        drop(tell);
        let task = net.spawn(async move {
            let _held = held;
            pending::<()>().await;
        });
        assert!(!task.is_finished());
        net.spawn(async move {
            let _ = other.send(()).await;
        })
        .detach();
        assert_eq!(told.recv().await, Some(()));
        drop(task);
        let gone = timeout(&net, Duration::from_secs(10), told.recv()).await;
        assert_eq!(gone, Ok(None), "both are gone");
    }
}
