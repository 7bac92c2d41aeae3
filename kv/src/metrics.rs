//! Counters of HTTP requests, and all metrics of a node in Prometheus' text format.

use crate::limits::Limits;
use crate::machine::Figures;
use driver::{DriverStatus, MetricsReading};
use hyper::StatusCode;
use raft::{PeerStatus, RoleKind};
use std::collections::BTreeMap;
use std::fmt::Write;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError};
use transport_http::TransportFigures;

/// A path of the API with its variable part replaced, as the label of a metric.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Route(&'static str);

/// The paths of the compatible API.
const COMPAT: [&str; 13] = [
    "/submit",
    "/wait_commit",
    "/is_leader",
    "/get_commit",
    "/get_commits_since",
    "/get",
    "/put",
    "/cas",
    "/listen_addr",
    "/ready",
    "/connect_peer",
    "/disconnect_peer",
    "/disconnect_all",
];
/// The other fixed paths.
const OTHER: [&str; 8] = [
    "/v1/batch",
    "/v1/cluster",
    "/v1/cluster/members",
    "/v1/cluster/transfer",
    SESSIONS,
    "/healthz",
    "/readyz",
    "/metrics",
];
const KEY: &str = "/v1/kv/{key}";
const SESSIONS: &str = "/v1/sessions";
const UNKNOWN: &str = "unknown";

impl Route {
    /// The route that a path belongs to.
    pub fn of(path: &str) -> Self {
        if path.starts_with("/v1/kv/") {
            return Route(KEY);
        }
        if path.starts_with("/v1/sessions/") {
            return Route(SESSIONS);
        }
        let known = COMPAT.iter().chain(&OTHER).find(|known| **known == path);
        Route(known.copied().unwrap_or(UNKNOWN))
    }

    /// Whether it is a call on one key, or `/v1/kv/` without a key.
    pub fn is_key(self) -> bool {
        self.0 == KEY
    }

    /// Whether it belongs to the compatible API.
    pub fn is_compat(self) -> bool {
        COMPAT.contains(&self.0)
    }

    /// Whether it is a liveness or readiness probe.
    pub fn is_probe(self) -> bool {
        self.is_watch() && self.0 != "/metrics"
    }

    /// Whether it is a single read or write, which takes a place for requests.
    pub fn is_work(self) -> bool {
        matches!(self.0, KEY | SESSIONS | "/submit" | "/get" | "/put" | "/cas")
    }

    /// Whether it is a batch, which takes a place for batches.
    pub fn is_batch(self) -> bool {
        self.0 == "/v1/batch"
    }

    /// The most bytes of a request's body.
    pub fn body_bytes_max(self, limits: &Limits) -> usize {
        match self.0 {
            KEY => limits.value_bytes_max,
            "/v1/batch" => limits.batch_json_bytes_max(),
            // Routes without a use for a body ignore it.
            _ => limits.command_json_bytes_max(),
        }
    }

    /// Whether it is for monitoring: a probe, or the metrics.
    pub fn is_watch(self) -> bool {
        matches!(self.0, "/healthz" | "/readyz" | "/metrics")
    }
}

/// Counts answers by route and status. Both have few values, so the map stays small.
#[derive(Debug, Default)]
pub struct Requests {
    puts_done: AtomicU64,
    others: Mutex<BTreeMap<(Route, u16), u64>>,
}

impl Requests {
    /// Counts one answer.
    pub fn count(&self, route: Route, status: StatusCode) {
        // By far the most common case, so it is counted without a lock.
        if route.0 == KEY && status == StatusCode::OK {
            self.puts_done.fetch_add(1, Ordering::Relaxed);
            return;
        }
        let mut others = self.others.lock().unwrap_or_else(PoisonError::into_inner);
        *others.entry((route, status.as_u16())).or_default() += 1;
    }

    fn read(&self) -> BTreeMap<(Route, u16), u64> {
        let mut all = self.others.lock().unwrap_or_else(PoisonError::into_inner).clone();
        all.insert((Route(KEY), 200), self.puts_done.load(Ordering::Relaxed));
        all
    }
}

/// A metric of a peer: name, help, kind, and the function that reads it.
type PeerFigure<'a> = (&'a str, &'a str, &'a str, &'a dyn Fn(&PeerStatus) -> u64);

/// Renders all metrics of a node.
pub fn render(
    status: &DriverStatus,
    counters: &MetricsReading,
    figures: &Figures,
    requests: &Requests,
    (places, taken): (usize, usize),
    peers: &TransportFigures,
) -> String {
    let mut text = String::with_capacity(8 << 10);
    let raft = &status.raft;
    let role = |kind| u64::from(raft.role == kind);
    let read = |figure: &AtomicU64| figure.load(Ordering::Relaxed);
    for (name, help, value) in [
        ("raft_term", "The current term.", raft.term.0),
        ("raft_is_leader", "1 if the node leads.", role(RoleKind::Leader)),
        ("raft_serving", "1 if it leads and takes proposals.", u64::from(status.serving())),
        ("raft_has_lease", "1 if it leads and holds a lease.", u64::from(raft.lease)),
        ("raft_has_leader", "1 if a leader is known.", u64::from(raft.leader.is_some())),
        ("raft_last_index", "The end of the log.", raft.last.index.0),
        ("raft_durable_index", "The end of the log on disk.", raft.durable.0),
        ("raft_commit_index", "The end of what is committed.", raft.commit.0),
        ("raft_applied_index", "The end of what is applied.", raft.applied.0),
        ("raft_snapshot_index", "Where the log begins.", raft.snapshot.last.index.0),
        ("raft_read_only", "1 if the disk has no room.", u64::from(status.read_only.is_some())),
        ("raft_lost", "1 if part of the log is lost.", u64::from(raft.lost.is_some())),
        (
            "raft_disk_stalled",
            "1 if a write has not returned. A full disk is shown as raft_read_only only.",
            u64::from(raft.disk_stalled && status.read_only.is_none()),
        ),
        ("raft_sessions", "Open sessions.", status.sessions as u64),
        ("raft_session_bytes", "The bytes of all sessions.", status.session_bytes),
        ("raft_ready", "1 if it is ready to serve.", u64::from(status.ready().is_ok())),
        ("raft_diverged", "1 if its copy differs.", u64::from(raft.diverged)),
        ("raft_not_a_member", "1 if it is no member any more.", u64::from(raft.not_a_member)),
        ("raft_is_voter", "1 if it votes.", u64::from(raft.membership.is_voter(raft.id))),
        ("raft_voters", "Members that vote.", raft.membership.voters.len() as u64),
        ("raft_members", "Members, learners included.", raft.membership.members.len() as u64),
        ("raft_membership_version", "Where the members are in the log.", raft.membership_index.0),
        (
            "raft_membership_changing",
            "1 while the members change.",
            u64::from(raft.membership.is_changing()),
        ),
        ("kv_http_places", "Requests that may be worked on at once now.", places as u64),
        ("kv_http_places_taken", "Requests that are worked on.", taken as u64),
        ("kv_keys", "Keys in the store.", read(&figures.keys)),
        ("kv_revision", "The version of the latest change.", read(&figures.revision)),
        ("kv_history_first", "The first retained command.", read(&figures.history_first)),
        ("kv_history_next", "The number of the next command.", read(&figures.history_next)),
        ("kv_history_bytes", "Bytes of retained commands.", read(&figures.history_bytes)),
    ] {
        metric(&mut text, name, help, "gauge", value);
    }
    for (name, help, waiting) in status.load.named() {
        let name = format!("driver_waiting_{name}");
        metric(&mut text, &name, help, "gauge", waiting as u64);
    }
    peers_of(&mut text, status, peers);
    let core = &raft.counters;
    for (name, help, value) in [
        ("misaddressed", "Messages for another node.", core.misaddressed),
        ("wrong_incarnation", "Messages of a node with another disk.", core.wrong_incarnation),
        ("strangers", "Messages of nodes that are not members.", core.strangers),
        ("invalid_messages", "Messages that no correct peer sends.", core.invalid_messages),
        (
            "stale_receipts",
            "Receipts of another node or start, or for no pending work.",
            core.stale_receipts,
        ),
        ("campaigns", "Times the node campaigned.", core.campaigns),
        ("elected", "Times the node was elected.", core.elected),
        ("stepped_down", "Times the node stepped down as leader.", core.stepped_down),
        ("disk_stepped_down", "Times it did so for its disk.", core.disk_stepped_down),
        (
            "quorum_stepped_down",
            "Times it did so because no majority of the voters answered.",
            core.quorum_stepped_down,
        ),
        ("states_differ", "Times the copy of a peer differed.", core.states_differ),
        ("gave_way", "Times it handed over to a preferred node.", core.gave_way),
        ("lease_reads", "Batches of reads answered from its lease.", core.lease_reads),
    ] {
        metric(&mut text, &format!("raft_{name}_total"), help, "counter", value);
    }
    for (name, help, value) in counters.named() {
        metric(&mut text, &format!("driver_{name}_total"), help, "counter", value);
    }
    for (name, help, value) in [
        ("damaged_frames", "Frames of peers whose checksum did not match.", peers.damaged_frames),
        ("frames_without_room", "Frames of peers given up for memory.", peers.frames_without_room),
        ("refused_streams", "Streams of peers that were refused.", peers.refused_streams),
        ("doubled", "Times that two processes ran as one peer.", peers.doubled_peers),
        (
            "snapshot_bytes_sent",
            "Bytes of state handed to connections, also if these broke before they had sent them.",
            peers.snapshot_bytes_sent,
        ),
        (
            "snapshot_bytes_received",
            "Bytes of state received in snapshots.",
            peers.snapshot_bytes_received,
        ),
    ] {
        metric(&mut text, &format!("peer_{name}_total"), help, "counter", value);
    }
    text.push_str("# HELP kv_http_requests_total HTTP requests answered.\n");
    text.push_str("# TYPE kv_http_requests_total counter\n");
    for ((route, status), count) in requests.read() {
        // Writing into a String does not fail.
        let _ = writeln!(
            text,
            "kv_http_requests_total{{route=\"{}\",status=\"{status}\"}} {count}",
            route.0
        );
    }
    text
}

/// Renders the metrics of the peers, which only a leader has.
fn peers_of(text: &mut String, status: &DriverStatus, transport: &TransportFigures) {
    let peers = &status.raft.peers;
    let silence = |peer: &PeerStatus| (status.tick * peer.silent_ticks).as_millis() as u64;
    let behind = |peer: &PeerStatus| status.raft.last.index.0.saturating_sub(peer.matched.0);
    let late = |peer: &PeerStatus| (status.tick * peer.behind_ticks).as_millis() as u64;
    let elsewhere = |peer: &PeerStatus| u64::from(transport.elsewhere.contains_key(&peer.id));
    let figures: [PeerFigure<'_>; 6] = [
        ("raft_peer_silent_ms", "Since the peer last answered.", "gauge", &silence),
        ("raft_peer_behind_entries", "What the peer has not stored.", "gauge", &behind),
        ("raft_peer_behind_ms", "Since the peer last had all of the log then.", "gauge", &late),
        ("raft_peer_differs", "1 if the copy of the peer differs.", "gauge", &|peer| {
            u64::from(peer.agrees == Some(false))
        }),
        (
            "raft_peer_elsewhere",
            "1 if the peer is reached at an address that is not declared.",
            "gauge",
            &elsewhere,
        ),
        (
            "raft_peer_lost_acknowledgements_total",
            "Times the peer had lost what it had acknowledged.",
            "counter",
            &|peer| peer.losses,
        ),
    ];
    for (name, help, kind, value) in figures.into_iter().filter(|_| !peers.is_empty()) {
        let _ = writeln!(text, "# HELP {name} {help}\n# TYPE {name} {kind}");
        for peer in peers {
            let _ = writeln!(text, "{name}{{peer=\"{}\"}} {}", peer.id, value(peer));
        }
    }
}

fn metric(text: &mut String, name: &str, help: &str, kind: &str, value: u64) {
    let _ = writeln!(text, "# HELP {name} {help}\n# TYPE {name} {kind}\n{name} {value}");
}
