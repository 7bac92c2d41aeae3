//! A simulated machine for the product's transport: [`transport_http::net::Net`] on simulated
//! sockets, time and tasks.
//!
//! The transport has the timeouts of the product, which suit the product's election timeout. If a
//! plan's election timeout is shorter, the clock of the transport runs faster in the same
//! proportion, and so all its timeouts are scaled.

use crate::app::App;
use crate::clock::SimClock;
use crate::cluster::{Cluster, PRODUCT_ELECTION_US};
use crate::disk::Life;
use crate::sockets::{SimListener, SimStream};
use driver::Clock as _;
use madsim::runtime::NodeHandle;
use std::future::Future;
use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};
use transport_http::net::{Net, Running};
use transport_http::wire::Offload;
use transport_http::{PEER_CONNECTIONS_MAX, PeerServer};

/// The port for peers.
pub(crate) const PEER_PORT: u16 = 9080;
/// The port that connections come from.
const OWN_PORT: u16 = 40_000;

/// The address of a node for peers after this number of moves: `10.0.{moves}.{id + 1}:9080`.
pub(crate) fn peer_address(node: u64, moves: u8) -> SocketAddr {
    SocketAddr::from(([10, 0, moves, node as u8 + 1], PEER_PORT))
}

/// The node that has, or once had, this address for peers, and the number of its moves.
fn node_and_moves(address: SocketAddr) -> Option<(u64, u8)> {
    let SocketAddr::V4(v4) = address else { return None };
    let [10, 0, moves, last] = v4.ip().octets() else { return None };
    Some((u64::from(last.checked_sub(1)?), moves))
}

/// The machine of a node, for one life of the node.
pub(crate) struct SimNet<A: App> {
    cluster: Cluster<A>,
    node: u64,
    /// Its address for peers.
    address: SocketAddr,
    life: Life,
    machine: NodeHandle,
    clock: Arc<SimClock>,
    /// The origin of its time.
    begun: Instant,
    /// The run's election timeout, at most the product's.
    election_us: u64,
}

impl<A: App> Clone for SimNet<A> {
    fn clone(&self) -> Self {
        SimNet {
            cluster: self.cluster.clone(),
            life: self.life.clone(),
            machine: self.machine.clone(),
            clock: self.clock.clone(),
            ..*self
        }
    }
}

impl<A: App> SimNet<A> {
    pub fn new(
        cluster: Cluster<A>,
        node: u64,
        life: Life,
        machine: NodeHandle,
        clock: Arc<SimClock>,
    ) -> Self {
        let election_us = cluster.in_proportion(PRODUCT_ELECTION_US);
        // Only differences to it matter.
        let begun = Instant::now();
        let address = cluster.world().peer_address(node);
        SimNet { cluster, node, address, life, machine, clock, begun, election_us }
    }

    /// Listens for peers at the node's address.
    pub async fn listen(&self) -> io::Result<PeerServer<Self>> {
        PeerServer::bind_on(self.clone(), self.address, PEER_CONNECTIONS_MAX).await
    }
}

impl<A: App> Net for SimNet<A> {
    type Stream = SimStream<A>;
    type Listener = SimListener<A>;
    type Sleep = driver::Sleep;
    type Task = SimTask;

    async fn look_up(&self, name: &str) -> io::Result<Vec<SocketAddr>> {
        Err(io::Error::other(format!("there are no names here: {name}")))
    }

    async fn connect(&self, to: SocketAddr) -> io::Result<SimStream<A>> {
        let Some(to) = node_and_moves(to) else {
            return Err(io::ErrorKind::AddrNotAvailable.into());
        };
        let own = SocketAddr::new(self.address.ip(), OWN_PORT);
        self.cluster.connect(&self.life, self.node, to, own).await
    }

    async fn bind(&self, at: SocketAddr) -> io::Result<SimListener<A>> {
        self.cluster.bind(self.node, &self.life, at)
    }

    fn local_addr(&self, listener: &SimListener<A>) -> io::Result<SocketAddr> {
        Ok(listener.address)
    }

    async fn accept(&self, listener: &SimListener<A>) -> io::Result<(SimStream<A>, SocketAddr)> {
        listener.accept().await
    }

    fn now(&self) -> Instant {
        let own_ns = u128::from(self.clock.now().monotonic_ns);
        let ns = own_ns * u128::from(PRODUCT_ELECTION_US) / u128::from(self.election_us);
        self.begun + Duration::from_nanos(u64::try_from(ns).unwrap_or(u64::MAX))
    }

    fn sleep(&self, duration: Duration) -> driver::Sleep {
        let ns = duration.as_nanos() * u128::from(self.election_us);
        let ns = u64::try_from(ns / u128::from(PRODUCT_ELECTION_US)).unwrap_or(u64::MAX);
        // In whole microseconds, at least one.
        self.clock.sleep(Duration::from_micros(ns.div_ceil(1_000).max(1)))
    }

    fn spawn(&self, task: impl Future<Output = ()> + Send + 'static) -> SimTask {
        SimTask(Some(self.machine.spawn(task)))
    }

    fn draw(&self) -> u64 {
        self.cluster.world().link(self.node, self.node).draw()
    }
}

impl<A: App> Offload for SimNet<A> {
    /// Does blocking work at once.
    async fn run<T: Send + 'static>(&self, work: impl FnOnce() -> T + Send + 'static) -> Option<T> {
        Some(work())
    }
}

/// A task of a simulated machine.
pub(crate) struct SimTask(Option<madsim::task::JoinHandle<()>>);

impl Running for SimTask {
    fn is_finished(&self) -> bool {
        self.0.as_ref().is_none_or(madsim::task::JoinHandle::is_finished)
    }

    fn detach(mut self) {
        self.0 = None;
    }
}

impl Drop for SimTask {
    fn drop(&mut self) {
        if let Some(task) = &self.0 {
            task.abort();
        }
    }
}
