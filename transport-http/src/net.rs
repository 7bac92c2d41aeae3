//! The seam between the transport and the machine that it runs on: sockets, time, tasks, threads.
//!
//! Everything else in this crate is the same on a real machine and on a simulated one: HTTP,
//! dialling, silence, places, the founding of a cluster. [`TokioNet`] is the real machine. It costs
//! nothing per message: the transport is generic over the seam, and no stream, timer or task gets a
//! box that it would not have otherwise.
//!
//! A simulation needs more than other sockets. tokio's timers, sockets and tasks work only within a
//! tokio runtime, so no other file of this crate uses `tokio::time`, `tokio::net` or
//! `tokio::spawn`; `tokio::sync` works everywhere. Nothing in this crate waits for a `watch`
//! channel with several others or iterates over a hash map: the order would differ from run to run.

use crate::transfer::Offload;
use std::future::Future;
use std::io;
use std::net::{SocketAddr, ToSocketAddrs};
use std::pin::{Pin, pin};
use std::task::{Context, Poll, ready};
use std::time::{Duration, Instant};
use tokio::io::{AsyncRead, AsyncWrite};

/// A machine: what a transport uses of the operating system and its runtime. A clone is the same
/// machine.
pub trait Net: Offload + Clone + Send + Sync + Unpin + 'static {
    /// A connection. Dropped, it is closed.
    type Stream: AsyncRead + AsyncWrite + Send + Unpin + 'static;
    /// A bound address. Dropped, it is free again.
    type Listener: Send + Sync + 'static;
    /// A pause.
    type Sleep: Future<Output = ()> + Send + 'static;
    /// A running task. Dropped, the task is dropped, at the point where it waits.
    type Task: Running;

    /// Looks up a name, `host:port`, without a limit on the time that it takes.
    fn look_up(&self, name: &str) -> impl Future<Output = io::Result<Vec<SocketAddr>>> + Send;
    /// Connects, without a limit on the time that it takes.
    fn connect(&self, to: SocketAddr) -> impl Future<Output = io::Result<Self::Stream>> + Send;
    /// Binds an address, and begins to queue connections.
    fn bind(&self, at: SocketAddr) -> impl Future<Output = io::Result<Self::Listener>> + Send;
    /// The address that a listener is bound to.
    fn local_addr(&self, listener: &Self::Listener) -> io::Result<SocketAddr>;
    /// The next connection, and the address that it comes from.
    fn accept(
        &self,
        listener: &Self::Listener,
    ) -> impl Future<Output = io::Result<(Self::Stream, SocketAddr)>> + Send;
    /// The monotonic clock.
    fn now(&self) -> Instant;
    /// Waits.
    fn sleep(&self, duration: Duration) -> Self::Sleep;
    /// Runs a task, from any thread.
    fn spawn(&self, task: impl Future<Output = ()> + Send + 'static) -> Self::Task;
    /// A random number.
    fn draw(&self) -> u64;
}

/// A task that runs.
pub trait Running: Send + Sync + 'static {
    /// Whether it has ended.
    fn is_finished(&self) -> bool;
    /// Lets it run until it ends by itself.
    fn detach(self);
}

/// The machine that the process runs on, under tokio.
#[derive(Clone, Debug)]
pub struct TokioNet {
    runtime: tokio::runtime::Handle,
    resolve: fn(&str) -> io::Result<Vec<SocketAddr>>,
}

impl TokioNet {
    /// The runtime that this is called on. Panics outside of one, as a mistake of the program.
    pub fn current() -> Self {
        TokioNet { runtime: tokio::runtime::Handle::current(), resolve: look_up }
    }

    /// The same, with another resolver.
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
        let stream = tokio::net::TcpStream::connect(to).await?;
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
        // Tokio's, which its tests can stop.
        tokio::time::Instant::now().into_std()
    }

    fn sleep(&self, duration: Duration) -> Self::Sleep {
        tokio::time::sleep(duration)
    }

    fn spawn(&self, task: impl Future<Output = ()> + Send + 'static) -> TokioTask {
        TokioTask(Some(self.runtime.spawn(task)))
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

/// A task on tokio.
#[derive(Debug)]
pub struct TokioTask(Option<tokio::task::JoinHandle<()>>);

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

/// How the system looks up a name: it blocks.
fn look_up(name: &str) -> io::Result<Vec<SocketAddr>> {
    Ok(name.to_socket_addrs()?.collect())
}

/// The work was not done in time.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Elapsed;

/// Does the work, for at most this long.
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

/// A limit that moves on again and again, as with a connection that must not be silent.
///
/// One timer is kept and is renewed only when it has run out: so a limit that moves with each
/// message costs a message no timer.
pub(crate) struct Deadline<N: Net> {
    net: N,
    timer: Option<(Instant, Pin<Box<N::Sleep>>)>,
}

impl<N: Net> Deadline<N> {
    pub fn new(net: N) -> Self {
        Deadline { net, timer: None }
    }

    /// Ready once it is `at`. The task is woken by then at the latest.
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

    /// Waits until it is `at`.
    pub async fn wait_until(&mut self, at: Instant) {
        std::future::poll_fn(|context| self.poll(at, context)).await;
    }

    /// Does the work until it is `at`.
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
