//! Turns settings into a running node: listener, directory, cluster, assembly, threads.
//!
//! The order matters. The listener comes first, so that a port that is in use is detected before
//! anything is written. Then the data directory is opened. Then the node finds its cluster, if it
//! has none yet. A node sends nothing about itself to a peer before its incarnation is durable (see
//! [`Directory`](storage::Directory)).

use crate::assembly::{Assembled, Parts};
use crate::bootstrap::{self, Begin, BeginError};
use crate::builder::{OnWait, Settings};
use crate::threads::OwnThread;
use crate::{Node, StartError};
use driver::{Changes, DriverConfig, StateMachine, TokioClock};
use raft::{Membership, NodeId, check_address};
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;
use std::pin::Pin;
use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};
use storage::{
    ClaimError, ClusterId, Directory, Log, LogConfig, MemberDirectory, OpenError, RealDisk,
    SnapshotError, Snapshots, Unclaimed,
};
use transport_http::net::TokioNet;
use transport_http::{
    BootstrapService, Founder, HttpTransport, Listed, PeerServer, TransportConfig,
};

/// How often a start reads a snapshot on which the disk reports an error. After that, its peers
/// repair the node.
const BASE_TRIES: u32 = 10;
/// The pause between two such reads.
const BASE_PAUSE: Duration = Duration::from_secs(1);
/// A log has at least this many segments before it reaches its bound.
const SEGMENTS_MIN: u64 = 16;
/// But none is shorter for that than this.
const SEGMENT_BYTES_LEAST: u64 = 1 << 20;
/// Segments have a multiple of this size.
const BLOCK_BYTES: u64 = 4096;

pub(crate) async fn start<S: StateMachine>(
    machine: S,
    settings: Settings,
) -> Result<Node<S>, StartError> {
    let leader_wait = settings.wait_for_leader();
    let (core, ready) = prepare(settings).await?;
    let running = async {
        let Ready { id, peers, founder, member, snapshots, config, transport_config } = ready;
        let cluster = member.cluster();
        let clock = Arc::new(TokioClock::new());
        let parts = Parts {
            machine,
            member,
            snapshots,
            clock: clock.clone(),
            config,
            messages_max: None,
            inspect: Arc::new(()),
        };
        // It may read a large snapshot that was received in part. The transport works on the
        // runtime that this thread belongs to.
        let assembling = core.runtime().spawn_blocking(move || {
            parts.assemble(|inbox| Arc::new(HttpTransport::new(transport_config, inbox)))
        });
        let assembled =
            assembling.await.map_err(|error| StartError::Thread(io::Error::other(error)))?;
        let Assembled { driver, log, transport, .. } = assembled?;
        let spawning = core.runtime().spawn(async move { driver::spawn(driver, log, close) });
        let spawned = spawning.await.unwrap_or_else(|error| Err(io::Error::other(error)));
        let handle = spawned.map_err(StartError::Thread)?;
        peers.open(&transport);
        core.runtime().spawn(keep_introducing(
            peers.bootstrap_service().clone(),
            founder,
            cluster,
            handle.changes(),
        ));
        Ok((id, cluster, handle, clock, transport, peers))
    };
    let (core, running) = or_stop(running.await, core).await?;
    let (id, cluster, handle, clock, transport, peers) = running;
    Ok(Node { id, cluster, handle, clock, transport, peers, core, leader_wait })
}

/// After an error, returns once everything that the start had is released: its address and its
/// directory are free for the next one.
async fn or_stop<T>(
    result: Result<T, StartError>,
    core: OwnThread,
) -> Result<(OwnThread, T), StartError> {
    match result {
        Ok(begun) => Ok((core, begun)),
        Err(error) => {
            core.stop().await;
            Err(error)
        }
    }
}

/// Tells other nodes the present members, and not those of the start. A node that joined by a
/// membership that is not committed could be in none later, and nobody would tell it.
async fn keep_introducing(
    service: Arc<BootstrapService>,
    founder: Founder,
    cluster: ClusterId,
    mut changes: Changes,
) {
    while let Some(view) = changes.next().await {
        if view.is_committed {
            service.answer_as_member(founder.clone(), cluster, view.membership);
        }
    }
}

/// A node that is a member of its cluster and has no state machine yet.
struct Ready {
    id: NodeId,
    peers: PeerServer,
    founder: Founder,
    member: MemberDirectory<RealDisk>,
    snapshots: Snapshots<RealDisk>,
    config: DriverConfig,
    transport_config: TransportConfig,
}

/// The thread of the core, and what is to run on it.
type Prepared = Result<(OwnThread, Ready), StartError>;

/// All of the start that needs no state machine. The future is boxed here, so that it is compiled
/// with this crate, and not with each that starts a node.
fn prepare(settings: Settings) -> Pin<Box<dyn Future<Output = Prepared> + Send>> {
    Box::pin(async move {
        // The HTTP library renders the date, and panics before 1970.
        if SystemTime::now() < UNIX_EPOCH {
            return Err(StartError::WallClock);
        }
        let id = settings.id.ok_or(StartError::Missing("id()"))?;
        let data_dir = settings.data_dir.clone().ok_or(StartError::Missing("data_dir()"))?;
        if settings.members.is_empty() {
            return Err(StartError::Missing("members()"));
        }
        let own = settings.members.iter().find(|listed| listed.node == id).cloned();
        let own = own.ok_or(StartError::NotAMember(id))?;
        check_members(&settings.members)?;
        let listen = listen_address(settings.listen, &own)?;
        if !settings.insecure && !listen.ip().to_canonical().is_loopback() {
            return Err(StartError::Insecure(listen));
        }
        // Before a cluster is bootstrapped or joined.
        let config = settings.driver_config(id);
        config.check(HttpTransport::MESSAGE_BYTES_MAX, HttpTransport::QUEUE_MESSAGES_MAX)?;
        let core = OwnThread::start("raft-core", true).map_err(StartError::Thread)?;
        let readied = async {
            let connections_max = settings.connections_max;
            let binding = core.runtime().spawn(PeerServer::bind_limited(listen, connections_max));
            let peers =
                binding.await.map_err(|error| StartError::Thread(io::Error::other(error)))?;
            let peers = peers.map_err(|source| StartError::Listen { address: listen, source })?;

            let own_address = own.peer_address.clone();
            let starting = Starting { id, data_dir, own, settings: &settings, peers: &peers };
            let disk = RealDisk::new(&starting.data_dir);
            let directory = starting.open(disk.clone()).await?;
            tracing::info!(peers = %peers.local_addr(), "listening for peers");
            let member = match directory {
                Directory::Member(member) => starting.resume(member)?,
                Directory::Unclaimed(unclaimed) => starting.begin(unclaimed).await?,
            };
            let cluster = member.cluster();
            let founder = starting.introduce(member.who());
            starting.warn_of_other_members(member.membership());
            starting.warn_of_other_address(member.membership());
            peers.bootstrap_service().answer_as_member(
                founder.clone(),
                cluster,
                member.base_membership().clone(),
            );
            let (member, snapshots) = starting.check_base(member, disk).await?;

            let mut transport_config =
                TransportConfig::new(cluster, id, member.who().incarnation());
            // A peer's connection may be silent for at least as long as a leader.
            let election_timeout = config.tick * config.raft.election_ticks;
            transport_config.silence = transport_config.silence.max(election_timeout);
            transport_config.peer_address = own_address;
            let listed = settings.members.iter().filter(|listed| listed.node != id);
            transport_config.listed =
                listed.map(|listed| (listed.node, listed.peer_address.clone())).collect();
            transport_config.election_timeout = election_timeout;
            transport_config.heartbeat = config.tick * config.raft.heartbeat_ticks;
            if let Some(bytes) = settings.snapshot_bytes_per_second {
                transport_config.snapshot_bytes_per_second = bytes;
            }
            Ok(Ready { id, peers, founder, member, snapshots, config, transport_config })
        };
        or_stop(readied.await, core).await
    })
}

/// Rejects a list of members that no cluster can have.
fn check_members(members: &[Listed]) -> Result<(), StartError> {
    if members.len() > raft::CLUSTER_MEMBERS_MAX {
        return Err(StartError::TooManyMembers(members.len(), raft::CLUSTER_MEMBERS_MAX));
    }
    for (at, listed) in members.iter().enumerate() {
        let Listed { node, client_address, peer_address: address } = listed;
        for given in [address, client_address] {
            check_address(given).map_err(|why| StartError::BadAddress(*node, why))?;
        }
        let port = address.rsplit_once(':').filter(|(host, _)| !host.is_empty());
        let port = port.and_then(|(_, port)| port.parse::<u16>().ok());
        if port.is_none_or(|port| port == 0) {
            return Err(StartError::MemberAddress(listed.node, address.clone()));
        }
        for earlier in &members[..at] {
            if earlier.node == listed.node {
                return Err(StartError::DuplicateMember(listed.node));
            }
            if earlier.peer_address == *address {
                let nodes = (earlier.node, listed.node);
                return Err(StartError::DuplicateAddress(nodes.0, nodes.1, address.clone()));
            }
        }
    }
    Ok(())
}

fn listen_address(listen: Option<SocketAddr>, own: &Listed) -> Result<SocketAddr, StartError> {
    match listen {
        Some(address) => Ok(address),
        None => own
            .peer_address
            .parse()
            .map_err(|_| StartError::ListenAddress(own.peer_address.clone())),
    }
}

fn close(log: Log<RealDisk>) {
    if let Err(error) = log.close() {
        tracing::error!(%error, "the log could not be closed cleanly");
    }
}

/// A node that is starting.
struct Starting<'a> {
    id: NodeId,
    data_dir: PathBuf,
    own: Listed,
    settings: &'a Settings,
    peers: &'a PeerServer,
}

impl Starting<'_> {
    /// The identity that the node sends to founders.
    fn introduce(&self, who: storage::DurableIncarnation) -> Founder {
        Founder::new(who, self.own.peer_address.clone(), self.own.client_address.clone())
    }

    fn disk_error(&self, source: io::Error) -> StartError {
        StartError::Disk { directory: self.data_dir.clone(), source }
    }

    fn claim_error(&self, error: ClaimError) -> StartError {
        match error {
            ClaimError::Io(source) => self.disk_error(source),
            source => StartError::Claim { directory: self.data_dir.clone(), source },
        }
    }

    async fn open(&self, disk: RealDisk) -> Result<Directory<RealDisk>, StartError> {
        let mut config = self.settings.log.clone();
        config.segment_bytes = segment_bytes(&config);
        // Reading a long log takes a while. The listener answers meanwhile.
        let opened = tokio::task::spawn_blocking(move || Directory::open(disk, config));
        let opened = opened.await.map_err(|error| StartError::Thread(io::Error::other(error)))?;
        let (directory, cases) = opened.map_err(|error| match error {
            OpenError::Lock(error) => StartError::Lock(error),
            source => StartError::Open { directory: self.data_dir.clone(), source },
        })?;
        for case in &cases {
            if case.is_loss() {
                tracing::error!(directory = %self.data_dir.display(), "{case}");
            } else {
                tracing::debug!("{case}");
            }
        }
        Ok(directory)
    }

    /// Continues with the state in the directory, if it belongs to this node.
    fn resume(
        &self,
        member: MemberDirectory<RealDisk>,
    ) -> Result<MemberDirectory<RealDisk>, StartError> {
        let found = member.who().node();
        match found == self.id {
            true => Ok(member),
            false => Err(self.claim_error(ClaimError::OtherNode { found, expected: self.id })),
        }
    }

    /// Bootstraps or joins a cluster.
    async fn begin(
        &self,
        unclaimed: Unclaimed<RealDisk>,
    ) -> Result<MemberDirectory<RealDisk>, StartError> {
        if let Some(found) = unclaimed.node().filter(|found| *found != self.id) {
            return Err(self.claim_error(ClaimError::OtherNode { found, expected: self.id }));
        }
        let refused = || StartError::NoState { directory: self.data_dir.clone() };
        let how = self.settings.begin.ok_or_else(refused)?;
        let (net, service) = (TokioNet::current(), self.peers.bootstrap_service());
        let list = &self.settings.members;
        if how == Begin::Join {
            if list.iter().all(|listed| listed.node == self.id) {
                return Err(StartError::JoinsNobody(self.id));
            }
            if let Some(OnWait(notify)) = &self.settings.on_wait {
                notify();
            }
        }
        let begun = bootstrap::begin(&net, service, unclaimed, &self.own, list, how).await;
        begun.map_err(|error| match error {
            BeginError::Claim(error) => self.claim_error(error),
            BeginError::Bootstrap(error) => error.into(),
            BeginError::Disk(source) => self.disk_error(source),
        })
    }

    /// Reads the snapshot that the log begins after. If it is lost, the other nodes repair this
    /// one.
    async fn check_base(
        &self,
        mut member: MemberDirectory<RealDisk>,
        disk: RealDisk,
    ) -> Result<(MemberDirectory<RealDisk>, Snapshots<RealDisk>), StartError> {
        let snapshots = Snapshots::new(disk).map_err(|error| self.disk_error(error))?;
        // A large snapshot takes a while. The listener answers meanwhile.
        let checking = tokio::task::spawn_blocking(move || {
            let mut tries = 1;
            let again = |error: &SnapshotError| {
                tracing::warn!(%error, "the disk failed, try {tries} of {BASE_TRIES}");
                tries += 1;
                std::thread::sleep(BASE_PAUSE);
                tries <= BASE_TRIES
            };
            let case = member.check_base_patiently(&snapshots, again);
            case.map(|case| (member, snapshots, case))
        });
        let checked =
            checking.await.map_err(|error| StartError::Thread(io::Error::other(error)))?;
        let (member, snapshots, case) = checked
            .map_err(|source| StartError::Base { directory: self.data_dir.clone(), source })?;
        match case {
            Some(case) if case.is_loss() => {
                tracing::error!(directory = %self.data_dir.display(), "{case}");
            }
            Some(case) => tracing::warn!(directory = %self.data_dir.display(), "{case}"),
            None => {}
        }
        Ok((member, snapshots))
    }

    /// Warns if the list of members contradicts the membership in the log. The list has an effect
    /// only when a cluster is bootstrapped or joined, and an operator who changes it later should
    /// know that. A list that names some of the members is that of a node that has joined, or of a
    /// cluster that has grown.
    fn warn_of_other_members(&self, membership: &Membership) {
        let text = |listed: &[Listed]| {
            let mut listed: Vec<String> = listed.iter().map(Listed::to_string).collect();
            listed.sort();
            listed.join(",")
        };
        let given = &self.settings.members;
        let known = membership.members.iter().map(|(node, member)| Listed {
            node: *node,
            client_address: member.client_address.clone(),
            peer_address: member.peer_address.clone(),
        });
        let known: Vec<Listed> = known.collect();
        if !known.is_empty() && !given.iter().all(|listed| known.contains(listed)) {
            let (given, known) = (text(given), text(&known));
            tracing::warn!(
                "the node was started with members {given}, but the members in the log are {known}: the \
                 log counts, and the nodes reach one another at the addresses in it"
            );
        }
    }

    /// Warns if this node listens at another address than the one at which its peers reach it.
    fn warn_of_other_address(&self, membership: &Membership) {
        let Some(own) = membership.members.get(&self.id) else { return };
        let listens = self.peers.local_addr();
        if !reaches(&own.peer_address, listens) {
            tracing::warn!(
                "the node listens for peers at {listens}, but the members reach it at {}: unless that \
                 address leads here, correct the listen address, or declare the new address",
                own.peer_address
            );
        }
    }
}

/// Whether a connection to `address` arrives at a listener at `listens`, as far as that can be seen
/// without a name look-up.
fn reaches(address: &str, listens: SocketAddr) -> bool {
    let Some((host, port)) = address.rsplit_once(':') else { return false };
    let host = host.trim_start_matches('[').trim_end_matches(']');
    let is_same_host = match host.parse::<IpAddr>() {
        Ok(ip) => listens.ip().is_unspecified() || ip.to_canonical() == listens.ip().to_canonical(),
        Err(_) => true,
    };
    is_same_host && port.parse() == Ok(listens.port())
}

/// Segments that suit the bound of the log: with a few long ones, most of the room would be spent
/// on the segment in use, the next one and the reserve.
fn segment_bytes(config: &LogConfig) -> u64 {
    let suited =
        (config.bytes_max / SEGMENTS_MIN / BLOCK_BYTES * BLOCK_BYTES).max(SEGMENT_BYTES_LEAST);
    config.segment_bytes.min(suited)
}

#[cfg(test)]
mod tests {
    use super::{LogConfig, check_members, reaches, segment_bytes};
    use raft::NodeId;
    use transport_http::Listed;

    #[test]
    fn a_log_with_a_small_bound_has_short_segments() {
        let mut config = LogConfig::default();
        assert_eq!(segment_bytes(&config), config.segment_bytes, "the defaults suit each other");
        config.bytes_max = 64 << 20;
        assert_eq!(segment_bytes(&config), 4 << 20);
        config.bytes_max = 3 << 20;
        assert_eq!(segment_bytes(&config), 1 << 20);
        config.segment_bytes = 8 << 10;
        assert_eq!(segment_bytes(&config), 8 << 10, "as chosen");
    }

    #[test]
    fn an_address_that_no_host_has_is_refused_with_the_reason() {
        let check = |peer: &str, client: &str| {
            let (node, peer_address) = (NodeId(4), peer.to_owned());
            let listed = Listed { node, peer_address, client_address: client.to_owned() };
            check_members(&[listed]).map_err(|error| error.to_string())
        };
        assert_eq!(check("node-4.example:9080", ""), Ok(()));
        for (peer, client, why) in [
            ("node-4", "", "which is not host:port"),
            (&format!("{}:9080", "a".repeat(70_000)), "", "at most 261"),
            ("a\x1b[2J:9080", "", "contains '\\u{1b}'"),
            ("a:9080", "b\n:8080", "contains '\\n'"),
        ] {
            let error = check(peer, client).unwrap_err();
            assert!(error.contains("node 4") && error.contains(why), "{error}");
            assert!(error.len() < 300 && !error.contains(char::is_control), "{error}");
        }
    }

    #[test]
    fn a_listener_at_another_address_than_the_declared_one_is_noticed() {
        for (address, listens, expected) in [
            ("127.0.0.1:9080", "127.0.0.1:9080", true),
            ("10.0.0.1:9080", "0.0.0.0:9080", true),
            ("[::1]:9080", "[::1]:9080", true),
            ("node-1.example:9080", "10.0.0.1:9080", true),
            ("127.0.0.1:9080", "127.0.0.1:9081", false),
            ("node-1.example:9080", "10.0.0.1:9081", false),
            ("10.0.0.1:9080", "10.0.0.2:9080", false),
            ("10.0.0.1:9080", "0.0.0.0:9081", false),
        ] {
            assert_eq!(reaches(address, listens.parse().unwrap()), expected, "{address} {listens}");
        }
    }
}
