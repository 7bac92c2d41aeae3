//! The settings of one node, from three sources: flags, environment variables and a TOML file.
//!
//! A flag takes precedence over its environment variable, and both over the file. A setting that
//! none of them gives has the default named in the help. If there is no default, it is an error
//! that names all three ways to give it.

use super::duration;
use kv::address::member;
use kv::plain::shown;
use kv::serve::{ELECTION_TIMEOUT, ELECTION_TIMEOUTS, Peer, ServeConfig};
use raft::{LeaseConfig, NodeId, check_address};
use serde::Deserialize;
use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;

/// The flags of `serve`, each with its environment variable.
#[derive(clap::Args, Default)]
pub struct Flags {
    /// A TOML file with settings, named like the options (`peer-listen = "127.0.0.1:9080"`)
    #[arg(long, env = "RAFT_KV_CONFIG")]
    pub config: Option<PathBuf>,
    /// This node's id, a number
    #[arg(long, env = "RAFT_KV_ID")]
    pub id: Option<u64>,
    /// Where to listen for clients [default: this node's client address in --peers, if an IP
    /// address]
    #[arg(long, env = "RAFT_KV_LISTEN", value_name = "IP:PORT")]
    pub listen: Option<SocketAddr>,
    /// Where to listen for the other nodes [default: its peer address in --peers, if an IP address]
    #[arg(long, env = "RAFT_KV_PEER_LISTEN", value_name = "IP:PORT")]
    pub peer_listen: Option<SocketAddr>,
    /// The members of the cluster, including this node: `ID=CLIENT_HOST:PORT/PEER_HOST:PORT`, with
    /// commas
    #[arg(long, env = "RAFT_KV_PEERS", value_delimiter = ',', value_parser = member)]
    pub peers: Option<Vec<Peer>>,
    /// The directory of this node's log and snapshots
    #[arg(long, env = "RAFT_KV_DATA_DIR", value_name = "DIR")]
    pub data_dir: Option<PathBuf>,
    /// On an empty directory: bootstrap a new cluster with these members
    #[arg(long, env = "RAFT_KV_BOOTSTRAP", num_args = 0..=1, require_equals = true, default_missing_value = "true", value_name = "BOOL")]
    pub bootstrap: Option<bool>,
    /// On an empty directory: wait to be added to an existing cluster (see `members add`). --peers
    /// has to list this node and at least one member
    #[arg(long, env = "RAFT_KV_JOIN", num_args = 0..=1, require_equals = true, default_missing_value = "true", value_name = "BOOL")]
    pub join: Option<bool>,
    /// Campaign as soon as the node starts
    #[arg(long, env = "RAFT_KV_CAMPAIGN_AT_START", num_args = 0..=1, require_equals = true, default_missing_value = "true", value_name = "BOOL")]
    pub campaign_at_start: Option<bool>,
    /// A leader that is silent for this time, or half as long again, is replaced. Must be longer
    /// than the usual stalls of network and disks, and the same on all nodes [default: 300ms]
    #[arg(long, env = "RAFT_KV_ELECTION_TIMEOUT", value_name = "DURATION", value_parser = election_timeout)]
    pub election_timeout: Option<Duration>,
    /// Leases: the leader answers reads with `consistency=lease` without asking the others. The
    /// percentage bounds the drift of each node's clock: set 10, or set the `maxslewrate` of chrony
    /// (8.3 by default) below a smaller value. The same on all nodes [default: no leases]
    #[arg(long, env = "RAFT_KV_LEASE_DRIFT", value_name = "PERCENT", value_parser = lease_drift)]
    pub lease_drift: Option<u32>,
    /// A leader gives way to a healthy voter with a higher priority, from 0 to 255 [default: 0]
    #[arg(long, env = "RAFT_KV_PRIORITY", value_name = "NUMBER")]
    pub priority: Option<u8>,
    /// Let clients cut and restore links between nodes (for tests only)
    #[arg(long, env = "RAFT_KV_FAULT_INJECTION", num_args = 0..=1, require_equals = true, default_missing_value = "true", value_name = "BOOL")]
    pub fault_injection: Option<bool>,
    /// Redirect clients to the leader instead of forwarding their requests
    #[arg(long, env = "RAFT_KV_NO_FORWARD", num_args = 0..=1, require_equals = true, default_missing_value = "true", value_name = "BOOL")]
    pub no_forward: Option<bool>,
    /// Host names by which clients may address this node, in addition to those in --peers,
    /// separated by commas; `*` accepts all. A request to another name is refused, because it may
    /// come from a web page
    #[arg(long, env = "RAFT_KV_HOSTS", value_name = "NAME", value_delimiter = ',', value_parser = host)]
    pub hosts: Option<Vec<String>>,
    /// Listen on addresses that other machines can reach, although there is no authentication and
    /// no TLS yet
    #[arg(long, env = "RAFT_KV_INSECURE", num_args = 0..=1, require_equals = true, default_missing_value = "true", value_name = "BOOL")]
    pub insecure: Option<bool>,
    /// What to log, as `info` or `warn,driver=debug` [default: info]
    #[arg(long, env = "RAFT_KV_LOG", value_name = "FILTER")]
    pub log: Option<String>,
    /// Stop when standard input ends, because the program that started this node has ended
    #[arg(long)]
    pub stop_on_stdin_eof: bool,
}

/// The settings in the file. Every key is optional. An unknown key is an error.
#[derive(Deserialize, Default)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
struct File {
    id: Option<u64>,
    listen: Option<SocketAddr>,
    peer_listen: Option<SocketAddr>,
    peers: Option<Vec<String>>,
    data_dir: Option<PathBuf>,
    bootstrap: Option<bool>,
    join: Option<bool>,
    campaign_at_start: Option<bool>,
    election_timeout: Option<String>,
    lease_drift: Option<f64>,
    priority: Option<u8>,
    fault_injection: Option<bool>,
    no_forward: Option<bool>,
    hosts: Option<Vec<String>>,
    insecure: Option<bool>,
    log: Option<String>,
}

/// Why the settings are not valid.
#[derive(Debug, thiserror::Error)]
pub enum SettingsError {
    /// The file cannot be read or parsed.
    #[error("{}: {why}", .path.display())]
    File { path: PathBuf, why: String },
    /// A required setting is missing in all three sources.
    #[error(
        "{0} is missing: give --{0}, or {env} in the environment, or {0} in the --config file",
        env = environment_name(.0)
    )]
    Missing(&'static str),
    /// The id is not among the peers.
    #[error("node {0} is not in --peers, which has to list every member, this node too")]
    NotAMember(u64),
    /// Two peers have the same id.
    #[error("node {0} stands twice in --peers")]
    Twice(u64),
    /// Two listeners have the same address.
    #[error("{address} stands twice in --peers, {first} and {second}: each needs its own")]
    AddressTwice { address: String, first: String, second: String },
    /// The list of peers is empty.
    #[error("--peers is empty: it has to list every member, this node too")]
    NoPeers,
    /// The advertised address is a name, so the listen address has to be given.
    #[error("{address} in --peers is no IP address to listen on: give --{flag}")]
    NoListenAddress { flag: &'static str, address: String },
    /// Both `bootstrap` and `join` are set.
    #[error("--bootstrap founds a new cluster and --join waits for an old one: give one of them")]
    BothBootstrapAndJoin,
}

fn environment_name(flag: &str) -> String {
    format!("RAFT_KV_{}", flag.to_uppercase().replace('-', "_"))
}

/// The complete settings of `serve`.
pub struct Settings {
    /// The configuration of the node.
    pub serve: ServeConfig,
    /// The filter of the log.
    pub log: String,
    /// Whether the end of standard input stops the node.
    pub stop_on_stdin_eof: bool,
}

/// Merges the three sources.
pub fn resolve(flags: Flags) -> Result<Settings, SettingsError> {
    let file = match &flags.config {
        Some(path) => read(path)?,
        None => File::default(),
    };
    let file_peers = match (file.peers, &flags.config) {
        (Some(texts), Some(path)) => Some(
            texts
                .iter()
                .map(|text| member(text))
                .collect::<Result<Vec<_>, _>>()
                .map_err(|why| SettingsError::File { path: path.clone(), why })?,
        ),
        _ => None,
    };
    let file_timeout = match (file.election_timeout, &flags.config) {
        (Some(text), Some(path)) => Some(election_timeout(&text).map_err(|why| {
            SettingsError::File { path: path.clone(), why: format!("election-timeout: {why}") }
        })?),
        _ => None,
    };
    let file_drift = match (file.lease_drift, &flags.config) {
        (Some(percent), Some(path)) => Some(lease_drift(&percent.to_string()).map_err(|why| {
            SettingsError::File { path: path.clone(), why: format!("lease-drift: {why}") }
        })?),
        _ => None,
    };
    let id = flags.id.or(file.id).ok_or(SettingsError::Missing("id"))?;
    let peers = flags.peers.or(file_peers).ok_or(SettingsError::Missing("peers"))?;
    let bootstrap = flags.bootstrap.or(file.bootstrap).unwrap_or(false);
    let join = flags.join.or(file.join).unwrap_or(false);
    if bootstrap && join {
        return Err(SettingsError::BothBootstrapAndJoin);
    }
    refuse_doubles(&peers)?;
    let me = peers.iter().find(|peer| peer.id.0 == id).ok_or(SettingsError::NotAMember(id))?;
    let listen = listen_address("listen", flags.listen.or(file.listen), &me.client_address)?;
    let peer_listen =
        listen_address("peer-listen", flags.peer_listen.or(file.peer_listen), &me.peer_address)?;
    let file_hosts = match (file.hosts, &flags.config) {
        (Some(texts), Some(path)) => {
            let hosts = texts.iter().map(|text| host(text)).collect::<Result<Vec<_>, _>>();
            let error = |why| SettingsError::File { path: path.clone(), why };
            Some(hosts.map_err(|why| error(format!("hosts: {why}")))?)
        }
        _ => None,
    };
    let data_dir = flags.data_dir.or(file.data_dir).ok_or(SettingsError::Missing("data-dir"))?;
    let serve = ServeConfig {
        bootstrap,
        join,
        campaign_at_start: flags.campaign_at_start.or(file.campaign_at_start).unwrap_or(false),
        election_timeout: flags.election_timeout.or(file_timeout).unwrap_or(ELECTION_TIMEOUT),
        lease_drift_ppm: flags.lease_drift.or(file_drift),
        priority: flags.priority.or(file.priority).unwrap_or(0),
        fault_injection: flags.fault_injection.or(file.fault_injection).unwrap_or(false),
        hosts: flags.hosts.or(file_hosts).unwrap_or_default(),
        insecure: flags.insecure.or(file.insecure).unwrap_or(false),
        forward: !flags.no_forward.or(file.no_forward).unwrap_or(false),
        ..ServeConfig::new(NodeId(id), listen, peer_listen, peers, data_dir)
    };
    Ok(Settings {
        serve,
        log: flags.log.or(file.log).unwrap_or_else(|| "info".to_owned()),
        stop_on_stdin_eof: flags.stop_on_stdin_eof,
    })
}

/// Rejects duplicate ids and addresses. A node that connects to another node's address by mistake
/// would not notice it.
fn refuse_doubles(peers: &[Peer]) -> Result<(), SettingsError> {
    let mut addresses = BTreeMap::<String, String>::new();
    for (position, peer) in peers.iter().enumerate() {
        if peers[..position].iter().any(|other| other.id == peer.id) {
            return Err(SettingsError::Twice(peer.id.0));
        }
        for (address, users) in [(&peer.client_address, "clients"), (&peer.peer_address, "peers")] {
            let second = format!("for the {users} of node {}", peer.id);
            if let Some(first) = addresses.insert(address.to_ascii_lowercase(), second.clone()) {
                let address = address.clone();
                return Err(SettingsError::AddressTwice { address, first, second });
            }
        }
    }
    match peers {
        [] => Err(SettingsError::NoPeers),
        _ => Ok(()),
    }
}

fn read(path: &Path) -> Result<File, SettingsError> {
    let error = |why: String| SettingsError::File { path: path.to_owned(), why };
    let text = std::fs::read_to_string(path).map_err(|why| error(why.to_string()))?;
    toml::from_str(&text).map_err(|why| error(why.to_string()))
}

fn listen_address(
    flag: &'static str,
    given: Option<SocketAddr>,
    advertised: &str,
) -> Result<SocketAddr, SettingsError> {
    match given {
        Some(address) => Ok(address),
        None => advertised
            .parse()
            .map_err(|_| SettingsError::NoListenAddress { flag, address: advertised.to_owned() }),
    }
}

/// Parses an election timeout, and checks that it is within [`ELECTION_TIMEOUTS`].
pub fn election_timeout(text: &str) -> Result<Duration, String> {
    let timeout = duration::parse(text)?;
    match ELECTION_TIMEOUTS.contains(&timeout) {
        true => Ok(timeout),
        false => {
            let (least, most) = (ELECTION_TIMEOUTS.start(), ELECTION_TIMEOUTS.end());
            Err(format!(
                "{text} is {timeout:?}: an election timeout is at least {least:?} and at most {most:?}; \
                 a number without a unit counts seconds"
            ))
        }
    }
}

/// Parses a bound on clock drift in percent. Returns it in parts per million.
pub fn lease_drift(text: &str) -> Result<u32, String> {
    let percent = text.trim().trim_end_matches('%').parse::<f64>();
    let ppm = percent.map_or(0.0, |percent| percent * 10_000.0).round();
    match (1.0..=f64::from(LeaseConfig::DRIFT_PPM_MAX)).contains(&ppm) {
        true => Ok(ppm as u32),
        false => {
            let most = LeaseConfig::DRIFT_PPM_MAX / 10_000;
            Err(format!("{text:?} is no bound on clock drift: expected a percentage up to {most}"))
        }
    }
}

/// Parses an entry of `--hosts`. A port is permitted and ignored.
fn host(text: &str) -> Result<String, String> {
    let name = text.trim();
    if name == "*" {
        return Ok(name.to_owned());
    }
    if name.is_empty() {
        return Err("a name of a host is empty: expected a name, or * for all".to_owned());
    }
    if let Err(why) = check_address(name) {
        let name = shown(name);
        return Err(format!("{name} is no name of a host, or * for all: it {why}"));
    }
    Ok(name.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Write;

    const PEERS: &str = "0=127.0.0.1:8080/127.0.0.1:9080,1=node1.example:8080/node1.example:9080";

    fn flags() -> Flags {
        Flags {
            id: Some(0),
            peers: Some(PEERS.split(',').map(|text| member(text).unwrap()).collect()),
            data_dir: Some("data".into()),
            ..Flags::default()
        }
    }

    #[test]
    fn a_node_listens_where_its_peers_expect_it() {
        let settings = resolve(flags()).unwrap().serve;
        assert_eq!(settings.listen, "127.0.0.1:8080".parse().unwrap());
        assert_eq!(settings.peer_listen, "127.0.0.1:9080".parse().unwrap());
        assert!(settings.forward);
    }

    #[test]
    fn a_node_known_by_name_has_to_be_told_where_to_listen() {
        let error = resolve(Flags { id: Some(1), ..flags() }).err().unwrap().to_string();
        assert!(error.contains("give --listen"), "{error}");
    }

    #[test]
    fn flags_beat_the_file() {
        let mut file = tempfile::NamedTempFile::new().unwrap();
        write!(
            file,
            "id = 1\nno-forward = true\nbootstrap = true\nlog = \"debug\"\n\
             election-timeout = \"2s\"\n\
             listen = \"127.0.0.1:7000\"\npeer-listen = \"127.0.0.1:7001\"\n"
        )
        .unwrap();
        let given = Flags {
            config: Some(file.path().to_owned()),
            bootstrap: Some(false),
            listen: Some("127.0.0.1:5000".parse().unwrap()),
            ..flags()
        };
        let settings = resolve(given).unwrap();
        assert_eq!(settings.serve.id, NodeId(0));
        assert_eq!(settings.serve.listen.port(), 5000);
        assert_eq!(settings.serve.peer_listen.port(), 7001);
        assert!(!settings.serve.bootstrap && !settings.serve.forward);
        assert_eq!(settings.log, "debug");
        assert_eq!(settings.serve.election_timeout, Duration::from_secs(2));
    }

    #[test]
    fn an_election_timeout_out_of_bounds_is_refused_with_the_bounds() {
        assert_eq!(election_timeout("1500ms"), Ok(Duration::from_millis(1500)));
        for text in ["99ms", "61s", "soon"] {
            assert!(election_timeout(text).is_err(), "{text}");
        }
        assert!(election_timeout("99ms").unwrap_err().contains("at least 100ms"));
        let mut file = tempfile::NamedTempFile::new().unwrap();
        writeln!(file, "election-timeout = \"1ms\"").unwrap();
        let given = Flags { config: Some(file.path().to_owned()), ..flags() };
        assert!(resolve(given).err().unwrap().to_string().contains("election-timeout"));
    }

    #[test]
    fn a_bound_on_clock_drift_is_a_percentage_and_a_priority_a_number() {
        for (text, ppm) in [("1", 10_000), ("0.05", 500), ("25%", 250_000), ("0.0001", 1)] {
            assert_eq!(lease_drift(text), Ok(ppm));
        }
        for text in ["0", "26", "-1", "NaN", "inf", "much", ""] {
            assert!(lease_drift(text).unwrap_err().contains("a percentage up to 25"), "{text}");
        }
        let mut file = tempfile::NamedTempFile::new().unwrap();
        writeln!(file, "lease-drift = 0.5\npriority = 3").unwrap();
        let given = Flags { config: Some(file.path().to_owned()), ..flags() };
        let settings = resolve(given).unwrap().serve;
        assert_eq!((settings.lease_drift_ppm, settings.priority), (Some(5_000), 3));
        assert_eq!(resolve(flags()).unwrap().serve.lease_drift_ppm, None);
    }

    #[test]
    fn a_misspelt_key_in_the_file_is_an_error_that_names_it() {
        let mut file = tempfile::NamedTempFile::new().unwrap();
        writeln!(file, "lissten = \"127.0.0.1:7000\"").unwrap();
        let given = Flags { config: Some(file.path().to_owned()), ..flags() };
        assert!(resolve(given).err().unwrap().to_string().contains("lissten"));
    }

    #[test]
    fn what_is_missing_is_named_with_all_ways_to_say_it() {
        let error = resolve(Flags { data_dir: None, ..flags() }).err().unwrap().to_string();
        assert!(error.contains("--data-dir") && error.contains("RAFT_KV_DATA_DIR"), "{error}");
    }

    #[test]
    fn a_doubled_id_or_address_is_refused_and_named() {
        for (list, why) in [
            ("0=a:1/a:2,0=b:1/b:2", "node 0 stands twice"),
            ("0=a:1/a:2,1=A:1/b:2", "for the clients of node 0 and for the clients of node 1"),
            ("0=a:1/a:2,1=b:1/a:2", "for the peers of node 0 and for the peers of node 1"),
            ("0=a:1/a:1,1=b:1/b:2", "for the clients of node 0 and for the peers of node 0"),
            ("1=a:1/a:2", "node 0 is not in --peers"),
        ] {
            let peers = list.split(',').map(|text| member(text).unwrap()).collect();
            let error = resolve(Flags { peers: Some(peers), ..flags() }).err().unwrap();
            assert!(error.to_string().contains(why), "{list}: {error}");
        }
        let none = resolve(Flags { peers: Some(Vec::new()), ..flags() }).err().unwrap();
        assert!(none.to_string().contains("empty"), "{none}");
    }

    #[test]
    fn names_of_hosts_come_from_flags_or_the_file() {
        let mut file = tempfile::NamedTempFile::new().unwrap();
        writeln!(file, "hosts = [\"store.example\"]\ninsecure = true").unwrap();
        let given = Flags { config: Some(file.path().to_owned()), ..flags() };
        let settings = resolve(given).unwrap().serve;
        assert!(settings.hosts == ["store.example"] && settings.insecure);
        for text in ["", "http://a", "a b", "*.example"] {
            assert!(host(text).is_err(), "{text}");
        }
        assert_eq!(host("*").unwrap(), "*");
    }
}
