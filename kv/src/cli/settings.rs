//! The settings of one node, from three places: flags, then the environment, then a TOML file.
//!
//! A flag beats its environment variable, and both beat the file. What none of them says has the
//! default named in the help, or is asked for in an error that names all three ways.

use super::duration;
use kv::serve::{ELECTION_TIMEOUT, ELECTION_TIMEOUTS, Peer, ServeConfig};
use raft::NodeId;
use serde::Deserialize;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;

/// The flags of `serve`, each with its environment variable.
#[derive(clap::Args, Default)]
pub struct Flags {
    /// A TOML file with settings, named like the flags (`peer-listen = "127.0.0.1:9080"`)
    #[arg(long, env = "RAFT_KV_CONFIG")]
    pub config: Option<PathBuf>,
    /// This node's id, a number
    #[arg(long, env = "RAFT_KV_ID")]
    pub id: Option<u64>,
    /// Where to listen for clients [default: this node's client address in --peers, if an IP address]
    #[arg(long, env = "RAFT_KV_LISTEN", value_name = "IP:PORT")]
    pub listen: Option<SocketAddr>,
    /// Where to listen for the other nodes [default: its peer address in --peers, if an IP address]
    #[arg(long, env = "RAFT_KV_PEER_LISTEN", value_name = "IP:PORT")]
    pub peer_listen: Option<SocketAddr>,
    /// All members of the cluster, this node too: `ID=CLIENT_HOST:PORT/PEER_HOST:PORT`, with commas
    #[arg(long, env = "RAFT_KV_PEERS", value_delimiter = ',', value_parser = peer)]
    pub peers: Option<Vec<Peer>>,
    /// The directory of this node's log and snapshots
    #[arg(long, env = "RAFT_KV_DATA_DIR", value_name = "DIR")]
    pub data_dir: Option<PathBuf>,
    /// On an empty directory: found a new cluster together with the peers
    #[arg(long, env = "RAFT_KV_BOOTSTRAP", num_args = 0..=1, require_equals = true, default_missing_value = "true", value_name = "BOOL")]
    pub bootstrap: Option<bool>,
    /// On an empty directory: wait to be added to a cluster that exists
    #[arg(long, env = "RAFT_KV_JOIN", num_args = 0..=1, require_equals = true, default_missing_value = "true", value_name = "BOOL")]
    pub join: Option<bool>,
    /// Stand for election at once
    #[arg(long, env = "RAFT_KV_CAMPAIGN_AT_START", num_args = 0..=1, require_equals = true, default_missing_value = "true", value_name = "BOOL")]
    pub campaign_at_start: Option<bool>,
    /// A leader not heard of for so long, or up to twice as long, is replaced: above what the network
    /// and the disks stall for, and the same on all nodes [default: 300ms]
    #[arg(long, env = "RAFT_KV_ELECTION_TIMEOUT", value_name = "DURATION", value_parser = election_timeout)]
    pub election_timeout: Option<Duration>,
    /// Let clients cut and restore links between nodes (for tests only)
    #[arg(long, env = "RAFT_KV_FAULT_INJECTION", num_args = 0..=1, require_equals = true, default_missing_value = "true", value_name = "BOOL")]
    pub fault_injection: Option<bool>,
    /// Redirect clients to the leader instead of passing their requests on
    #[arg(long, env = "RAFT_KV_NO_FORWARD", num_args = 0..=1, require_equals = true, default_missing_value = "true", value_name = "BOOL")]
    pub no_forward: Option<bool>,
    /// What to log, as `info` or `warn,driver=debug` [default: info]
    #[arg(long, env = "RAFT_KV_LOG", value_name = "FILTER")]
    pub log: Option<String>,
    /// Stop when standard input ends: whoever started this node is gone
    #[arg(long)]
    pub stop_on_stdin_eof: bool,
}

/// The same in a file. Every key may be left out; an unknown one is an error.
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
    fault_injection: Option<bool>,
    no_forward: Option<bool>,
    log: Option<String>,
}

/// Why the settings do not describe a node.
#[derive(Debug, thiserror::Error)]
pub enum SettingsError {
    /// The file cannot be read or understood.
    #[error("{}: {why}", .path.display())]
    File { path: PathBuf, why: String },
    /// Nobody said it.
    #[error(
        "{0} is missing: give --{0}, or {env} in the environment, or {0} in the --config file",
        env = environment_name(.0)
    )]
    Missing(&'static str),
    /// The id is not among the peers.
    #[error("node {0} is not in --peers, which has to list every member, this node too")]
    NotAMember(u64),
    /// An id stands twice.
    #[error("node {0} stands twice in --peers")]
    Twice(u64),
    /// Not an address to listen on.
    #[error("{address} in --peers is no IP address to listen on: give --{flag}")]
    NoListenAddress { flag: &'static str, address: String },
    /// Both ways to begin.
    #[error("--bootstrap founds a new cluster and --join waits for an old one: give one of them")]
    BothBootstrapAndJoin,
}

fn environment_name(flag: &str) -> String {
    format!("RAFT_KV_{}", flag.to_uppercase().replace('-', "_"))
}

/// What a node is started with.
pub struct Settings {
    /// For the library.
    pub serve: ServeConfig,
    /// The filter of the log.
    pub log: String,
    /// Whether the end of standard input stops the node.
    pub stop_on_stdin_eof: bool,
}

/// Puts the three sources together.
pub fn resolve(flags: Flags) -> Result<Settings, SettingsError> {
    let file = match &flags.config {
        Some(path) => read(path)?,
        None => File::default(),
    };
    let file_peers = match (file.peers, &flags.config) {
        (Some(texts), Some(path)) => Some(
            texts
                .iter()
                .map(|text| peer(text))
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
    let id = flags.id.or(file.id).ok_or(SettingsError::Missing("id"))?;
    let peers = flags.peers.or(file_peers).ok_or(SettingsError::Missing("peers"))?;
    let bootstrap = flags.bootstrap.or(file.bootstrap).unwrap_or(false);
    let join = flags.join.or(file.join).unwrap_or(false);
    if bootstrap && join {
        return Err(SettingsError::BothBootstrapAndJoin);
    }
    for (position, peer) in peers.iter().enumerate() {
        if peers[..position].iter().any(|other| other.id == peer.id) {
            return Err(SettingsError::Twice(peer.id.0));
        }
    }
    let me = peers.iter().find(|peer| peer.id.0 == id).ok_or(SettingsError::NotAMember(id))?;
    let listen = listen_address("listen", flags.listen.or(file.listen), &me.client_address)?;
    let peer_listen =
        listen_address("peer-listen", flags.peer_listen.or(file.peer_listen), &me.peer_address)?;
    let data_dir = flags.data_dir.or(file.data_dir).ok_or(SettingsError::Missing("data-dir"))?;
    let serve = ServeConfig {
        bootstrap,
        join,
        campaign_at_start: flags.campaign_at_start.or(file.campaign_at_start).unwrap_or(false),
        election_timeout: flags.election_timeout.or(file_timeout).unwrap_or(ELECTION_TIMEOUT),
        fault_injection: flags.fault_injection.or(file.fault_injection).unwrap_or(false),
        forward: !flags.no_forward.or(file.no_forward).unwrap_or(false),
        ..ServeConfig::new(NodeId(id), listen, peer_listen, peers, data_dir)
    };
    Ok(Settings {
        serve,
        log: flags.log.or(file.log).unwrap_or_else(|| "info".to_owned()),
        stop_on_stdin_eof: flags.stop_on_stdin_eof,
    })
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

/// An election timeout within its bounds.
pub fn election_timeout(text: &str) -> Result<Duration, String> {
    let timeout = duration::parse(text)?;
    match ELECTION_TIMEOUTS.contains(&timeout) {
        true => Ok(timeout),
        false => {
            let (least, most) = (ELECTION_TIMEOUTS.start(), ELECTION_TIMEOUTS.end());
            Err(format!("{text}: an election timeout is at least {least:?} and at most {most:?}"))
        }
    }
}

/// One member as it is written: `0=host:8080/host:9080`.
fn peer(text: &str) -> Result<Peer, String> {
    let parts = text.split_once('=').and_then(|(id, addresses)| {
        let (client, peer) = addresses.split_once('/')?;
        Some((id.trim().parse().ok()?, client.trim(), peer.trim()))
    });
    let Some((id, client, peer)) = parts else {
        return Err(format!("{text}: expected ID=CLIENT_HOST:PORT/PEER_HOST:PORT"));
    };
    for address in [client, peer] {
        let port = address.rsplit_once(':').and_then(|(_, port)| port.parse::<u16>().ok());
        if port.is_none_or(|port| port == 0) {
            return Err(format!("{text}: {address} is no HOST:PORT"));
        }
    }
    Ok(Peer { id: NodeId(id), client_address: client.to_owned(), peer_address: peer.to_owned() })
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Write;

    const PEERS: &str = "0=127.0.0.1:8080/127.0.0.1:9080,1=node1.example:8080/node1.example:9080";

    fn flags() -> Flags {
        Flags {
            id: Some(0),
            peers: Some(PEERS.split(',').map(|text| peer(text).unwrap()).collect()),
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
    fn a_peer_without_both_addresses_is_refused() {
        assert!(peer("0=127.0.0.1:8080").is_err());
        assert!(peer("x=127.0.0.1:8080/127.0.0.1:9080").is_err());
        assert!(peer("0=127.0.0.1/127.0.0.1:9080").is_err());
    }
}
