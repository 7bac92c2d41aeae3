//! The HTTP API of a node, as a `tower` service. It opens no sockets, and its only timers are those
//! of the given clock.
//!
//! `compat` has the calls of the compatible API; `v1`, `batch`, `sessions` and `write` those of the
//! v1 API.
//! [`Api`] assembles them. Every request gets an answer, and no request can stop a node.

mod batch;
mod batch_json;
mod body;
mod cluster;
mod compat;
mod conditions;
mod head;
mod health;
mod links;
mod members;
mod offload;
mod origin;
mod params;
mod problem;
mod reply;
mod routes;
mod sessions;
mod transfer;
mod v1;
mod waits;
mod write;

use body::Bodies;
pub use cluster::AskLeader;
pub(crate) use head::HEAD_BYTES_MAX;
pub use links::Links;
pub use offload::Offload;
pub use origin::Hosts;
pub(crate) use params::{SESSION_ID, SESSION_SEQ};
pub use reply::Pressure;
pub(crate) use routes::is_short;
use waits::Waits;
pub use write::{NODE, WAIT_MS};

use crate::admission::Admission;
use crate::answers::Answers;
use crate::descriptors::DECLARING;
use crate::leaving::Leaving;
use crate::limits::Limits;
use crate::machine::{Figures, Machine};
use crate::metrics::Requests;
use axum::Router;
use axum::routing::{any, delete, get, post, put};
use bytes::Bytes;
use driver::{Clock, Handle, Sleep};
use hyper::header::HeaderValue;
use raft::NodeId;
use std::sync::{Arc, Mutex};
use std::time::Duration;
use storage::ClusterId;
use tokio::sync::Semaphore;
use transport_http::TransportFigures;

/// The most requests that wait for the end of a change of the members.
const CHANGES_WAITING: usize = 16;

/// The parts of a node that the API uses.
pub struct Parts {
    /// The handle of the driver.
    pub handle: Handle<Machine>,
    /// The clock for timeouts.
    pub clock: Arc<dyn Clock>,
    /// The figures of the state machine.
    pub figures: Arc<Figures>,
    /// The results of queries to the state machine.
    pub answers: Arc<Answers>,
    /// The id of this node.
    pub id: NodeId,
    /// The id of its cluster, if it is known.
    pub cluster: Option<ClusterId>,
    /// The address at which the other nodes reach it, as `host:port`.
    pub peer_address: String,
    /// The host names under which clients may address it.
    pub hosts: Hosts,
    /// The limits on clients.
    pub limits: Limits,
    /// True: v1 writes are forwarded to the leader. False: clients are redirected to it.
    pub forward: bool,
    /// Fetches the leader's view for `/v1/cluster`. With `None` a node always answers with its own.
    pub leader: Option<Arc<dyn AskLeader>>,
    /// Asks nodes that are to be added for their identity. With `None` no node can be added.
    pub admission: Option<quorate::Admission>,
    /// Runs long computations on other threads. With `None` they run on the thread of the request.
    pub offload: Option<Arc<dyn Offload>>,
    /// Cuts and restores links. With `None` fault injection is off.
    pub links: Option<Arc<dyn Links>>,
    /// Reads the counters of the transport. With `None` they are reported as zero.
    pub peers: Option<PeerFigures>,
    /// Counts long replies that were refused or delayed for lack of memory.
    pub pressure: Arc<Pressure>,
    /// How far a stop has got.
    pub leaving: Arc<Leaving>,
}

/// Reads the counters of the transport.
pub type PeerFigures = Box<dyn Fn() -> TransportFigures + Send + Sync>;

/// The state that all handlers share.
pub(crate) struct App {
    handle: Handle<Machine>,
    clock: Arc<dyn Clock>,
    figures: Arc<Figures>,
    answers: Arc<Answers>,
    id: NodeId,
    /// The id, as the value of the header [`NODE`].
    node: HeaderValue,
    cluster: Option<ClusterId>,
    peer_address: String,
    hosts: Hosts,
    limits: Limits,
    forward: bool,
    leader: Option<Arc<dyn AskLeader>>,
    admission: Option<quorate::Admission>,
    offload: Option<Arc<dyn Offload>>,
    links: Option<Arc<dyn Links>>,
    peers: Option<PeerFigures>,
    /// Places for single reads and writes.
    work: Arc<Admission>,
    /// Places for batches.
    batches: Semaphore,
    /// Places for `wait_commit`. Each keeps a connection for up to a minute.
    waits: Waits,
    /// Places for declarations of members that are being checked.
    declarations: Semaphore,
    /// Places for requests that wait for the end of a change of the members, for up to an hour.
    changes: Semaphore,
    requests: Requests,
    /// The metrics as rendered last, and when.
    metrics: Mutex<Option<(u64, Bytes)>>,
    bodies: Bodies,
    /// The memory budget of long replies, in bytes.
    replies: Arc<Semaphore>,
    listings: Arc<Semaphore>,
    /// The one place to compute a part of a listing. Each may take a fraction of a second of a
    /// thread, and several at once would leave little for other requests.
    listing_work: Arc<Semaphore>,
    pressure: Arc<Pressure>,
    leaving: Arc<Leaving>,
}

impl App {
    fn new(parts: Parts) -> Self {
        let work = Admission::new(parts.limits.requests_max);
        let batches = Semaphore::new(parts.limits.batches_max);
        // The other half of the connections is left to requests that are answered soon.
        let waits = Waits::new((parts.limits.connections_max / 2).max(1));
        let bodies = Bodies::new(parts.limits.bodies_bytes_max);
        let replies = Arc::new(Semaphore::new(parts.limits.replies_bytes_max));
        let listings = Arc::new(Semaphore::new(parts.limits.listings_max));
        App {
            handle: parts.handle,
            clock: parts.clock,
            figures: parts.figures,
            answers: parts.answers,
            id: parts.id,
            node: parts.id.0.into(),
            cluster: parts.cluster,
            peer_address: parts.peer_address,
            hosts: parts.hosts,
            limits: parts.limits,
            forward: parts.forward,
            leader: parts.leader,
            admission: parts.admission,
            offload: parts.offload,
            work,
            batches,
            waits,
            declarations: Semaphore::new(DECLARING),
            changes: Semaphore::new(CHANGES_WAITING),
            links: parts.links,
            peers: parts.peers,
            requests: Requests::default(),
            metrics: Mutex::default(),
            bodies,
            replies,
            listings,
            listing_work: Arc::new(Semaphore::new(1)),
            pressure: parts.pressure,
            leaving: parts.leaving,
        }
    }

    fn sleep(&self, duration: Duration) -> Sleep {
        self.clock.sleep(duration)
    }

    /// The client address of a member, if this node knows it.
    fn client_address(&self, node: Option<NodeId>) -> Option<String> {
        let status = self.handle.status();
        let member = status.raft.membership.members.get(&node?)?;
        Some(member.client_address.clone())
    }
}

/// The API of a node.
#[derive(Clone)]
pub struct Api {
    app: Arc<App>,
    router: Router,
}

impl std::fmt::Debug for Api {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Api").field("node", &self.app.id).finish_non_exhaustive()
    }
}

impl Api {
    /// Assembles the API of a node.
    pub fn new(parts: Parts) -> Self {
        let app = Arc::new(App::new(parts));
        Api { router: router(app.clone()), app }
    }
}

fn router(app: Arc<App>) -> Router {
    // `Api::run` answers the other methods of a key. This is for HEAD, which axum makes of GET.
    let key = get(v1::head).fallback(routes::wrong_method);
    Router::new()
        .route("/is_leader", get(compat::is_leader).fallback(routes::wrong_method))
        .route("/submit", post(compat::submit).fallback(routes::wrong_method))
        .route("/wait_commit", post(compat::wait_commit).fallback(routes::wrong_method))
        .route("/get_commit", get(compat::get_commit).fallback(routes::wrong_method))
        .route("/get_commits_since", get(compat::get_commits_since).fallback(routes::wrong_method))
        .route("/listen_addr", get(compat::listen_addr).fallback(routes::wrong_method))
        .route("/ready", post(compat::ready).fallback(routes::wrong_method))
        .route("/connect_peer", post(links::connect_peer).fallback(routes::wrong_method))
        .route("/disconnect_peer", post(links::disconnect_peer).fallback(routes::wrong_method))
        .route("/disconnect_all", post(links::disconnect_all).fallback(routes::wrong_method))
        .route("/get", post(compat::get).fallback(routes::wrong_method))
        .route("/put", post(compat::put).fallback(routes::wrong_method))
        .route("/cas", post(compat::cas).fallback(routes::wrong_method))
        .route("/v1/kv/{*key}", key)
        .route("/v1/kv/", any(v1::no_key))
        .route("/v1/batch", post(batch::batch).fallback(routes::wrong_method))
        .route("/v1/cluster", get(cluster::cluster).fallback(routes::wrong_method))
        .route("/v1/cluster/members", put(members::members).fallback(routes::wrong_method))
        .route("/v1/cluster/transfer", post(transfer::transfer).fallback(routes::wrong_method))
        .route("/v1/sessions", post(sessions::open).fallback(routes::wrong_method))
        .route("/v1/sessions/{session}", delete(sessions::close).fallback(routes::wrong_method))
        .route("/healthz", get(health::healthz).fallback(routes::wrong_method))
        .route("/readyz", get(health::readyz).fallback(routes::wrong_method))
        .route("/metrics", get(health::metrics).fallback(routes::wrong_method))
        .fallback(routes::unknown)
        .with_state(app)
}
