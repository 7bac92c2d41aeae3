//! `raft-kv cluster`: a supervised cluster on this machine, with one process for each node.
//!
//! Each node is this same program, started as `serve`, so it behaves as in a real deployment. A
//! node that is killed is started again. Each node has its own process group, so Ctrl-C reaches
//! only the supervisor, which then stops the nodes. The standard input of each node is a pipe from
//! the supervisor: if the supervisor is killed, the pipe closes and the node stops.

mod directory;
mod leader;
mod members;
mod node;
mod ports;
mod program;

use super::exit;
use super::lines::Lines;
use super::settings::{election_timeout, lease_drift};
use super::signals::{Stop, StopSignals};
use super::threads;
use directory::Directory;
use leader::Found;
use node::NodeProcess;
use program::Program;
use std::path::PathBuf;
use std::sync::OnceLock;
use std::time::{Duration, Instant};

/// The interval at which the supervisor checks its processes.
const LOOK_EVERY: Duration = Duration::from_millis(50);
/// How long the nodes may take to stop before they are killed.
const STOP_TIMEOUT: Duration = Duration::from_secs(5);
/// How long there may be no leader before a message is printed.
const PATIENCE: Duration = Duration::from_secs(10);

#[derive(clap::Args)]
pub struct Args {
    /// The client port of node 0. Node i uses this port plus i. Peer ports are 1000 higher
    #[arg(long, env = "RAFT_KV_PORT", default_value_t = 8080, value_parser = clap::value_parser!(u16).range(1..))]
    port: u16,
    /// How many nodes, 1 to 9
    // More would only share the same two or three cores; larger clusters are for `serve`.
    #[arg(long, env = "RAFT_KV_NODES", default_value_t = 3, value_parser = clap::value_parser!(u16).range(1..=9))]
    nodes: u16,
    /// The data directory; node i uses its subdirectory node-i
    #[arg(long, env = "RAFT_KV_DATA_DIR", default_value = "./raft-kv-data", value_name = "DIR")]
    data_dir: PathBuf,
    /// A leader that is silent for this time (100ms to 60s), or half as long again, is replaced
    #[arg(long, env = "RAFT_KV_ELECTION_TIMEOUT", default_value = "300ms", value_name = "DURATION", value_parser = election_timeout)]
    election_timeout: Duration,
    /// Leases, with this bound on the drift of each node's clock; see `serve` [default: no leases]
    #[arg(long, env = "RAFT_KV_LEASE_DRIFT", value_name = "PERCENT", value_parser = lease_drift)]
    lease_drift: Option<u32>,
    /// Let clients cut and restore links between nodes (for tests only)
    #[arg(long)]
    fault_injection: bool,
    /// What the nodes log, as `info` or `warn,driver=debug`
    #[arg(long, env = "RAFT_KV_LOG", default_value = "info", value_name = "FILTER")]
    log: String,
}

/// Why the cluster does not start, or has ended.
#[derive(Debug, thiserror::Error)]
enum ClusterError {
    #[error(transparent)]
    Ports(#[from] ports::PortError),
    #[error(transparent)]
    Directory(#[from] directory::DirectoryError),
    #[error("no quorum can start: {0}")]
    NoQuorum(String),
    #[error("cannot listen to signals: {}", exit::with_limit(.0))]
    Signals(std::io::Error),
    #[error("cannot find the file of this program: {0}")]
    Program(std::io::Error),
    #[error(
        "killed: {nodes}, because {why}; no acknowledged write is lost, and the cluster can be \
         started again"
    )]
    Killed { nodes: String, why: String },
}

/// Runs the cluster until a signal stops it.
pub fn run(args: &Args) -> u8 {
    if let Err(error) = threads::check_supervisor() {
        exit::complain(error);
        return exit::CONFIGURATION;
    }
    let runtime = match tokio::runtime::Builder::new_current_thread().enable_all().build() {
        Ok(runtime) => runtime,
        Err(error) => {
            exit::complain(format_args!("cannot start: {}", exit::with_limit(&error)));
            return exit::FAILED;
        }
    };
    let ended = runtime.block_on(supervise(args));
    if let Some(lines) = output() {
        lines.flush();
    }
    match ended {
        Ok(stop) => stop.exit_code(),
        Err(error) => {
            let code = match &error {
                ClusterError::Killed { .. } => exit::FAILED,
                _ => exit::CONFIGURATION,
            };
            exit::complain(error);
            code
        }
    }
}

async fn supervise(args: &Args) -> Result<Stop, ClusterError> {
    // Before anything is started, so that a signal from here on stops all of it.
    let mut signals = StopSignals::listen().map_err(ClusterError::Signals)?;
    let program = Program::of_this_process().map_err(ClusterError::Program)?;
    let addresses = ports::addresses(args.port, args.nodes)?;
    let directory = Directory::take(&args.data_dir, args.port, args.nodes).await?;
    ports::check_free(&addresses).await?;
    directory.keep()?;

    let node = |id| NodeProcess::new(id, &program, args, &addresses, &directory);
    let mut nodes = Nodes((0..args.nodes).map(node).collect());
    let outcome = watch(&mut nodes, args, &addresses, &directory, &mut signals).await;
    let stopped = nodes.stop(&mut signals).await;
    let stop = outcome?;
    stopped.map(|()| stop)
}

/// Supervises the nodes until a signal arrives. A node that ends is reported and started again; the
/// others serve without it. It is an error only if, before the first leader, too few nodes can
/// start for a quorum.
async fn watch(
    nodes: &mut Nodes,
    args: &Args,
    addresses: &[ports::Addresses],
    directory: &Directory,
    signals: &mut StopSignals,
) -> Result<Stop, ClusterError> {
    let started = Instant::now();
    let mut patient = true;
    let mut leader = tokio::spawn(leader::find(addresses.to_vec()));
    let mut waiting = true;
    let compared = members::compare(addresses);
    tokio::pin!(compared);
    let mut comparing = directory.is_lost();
    loop {
        tokio::select! {
            biased;
            stop = signals.wait() => {
                say("\nStopping. A second signal, a second or more after the first, kills the nodes.");
                return Ok(stop);
            }
            found = &mut leader, if waiting => {
                waiting = false;
                // The task ends early only when the runtime does.
                nodes.0.iter_mut().for_each(NodeProcess::join_from_now_on);
                if let Ok(found) = found {
                    announce(&found, args, addresses, nodes);
                }
            }
            same = &mut compared, if comparing => {
                comparing = false;
                directory.compared(same)?;
            }
            () = tokio::time::sleep(LOOK_EVERY) => {}
        }
        for node in &mut nodes.0 {
            if let Some(line) = node.look_after() {
                say(&line);
            }
        }
        if waiting && let Some(why) = nodes.no_quorum() {
            return Err(ClusterError::NoQuorum(why));
        }
        if waiting && patient && started.elapsed() > PATIENCE {
            patient = false;
            say(&format!(
                "No leader yet; still waiting. What the nodes say is in {}/node-*.log",
                args.data_dir.display()
            ));
        }
    }
}

/// All node processes. Dropping this kills them, so none outlives the supervisor.
struct Nodes(Vec<NodeProcess>);

impl Nodes {
    /// The reasons, if too many nodes refuse to start for a quorum.
    fn no_quorum(&self) -> Option<String> {
        let refusals: Vec<_> = (self.0.iter())
            .filter_map(|node| Some(format!("node {}: {}", node.id(), node.refusal()?)))
            .collect();
        let can_run = self.0.len() - refusals.len();
        (can_run <= self.0.len() / 2).then(|| refusals.join("; "))
    }

    /// Stops all nodes gracefully. Kills those that still run after a timeout or at a second
    /// signal, which is an error. A signal soon after the first one changes nothing.
    async fn stop(&mut self, signals: &mut StopSignals) -> Result<(), ClusterError> {
        for node in &mut self.0 {
            node.ask_to_stop();
        }
        let asked = Instant::now();
        let mut why = format!("they did not stop within {} s", STOP_TIMEOUT.as_secs());
        while self.0.iter_mut().any(NodeProcess::is_running) && asked.elapsed() < STOP_TIMEOUT {
            tokio::select! {
                biased;
                () = signals.wait_again(asked) => {
                    why = "a second signal came".to_owned();
                    break;
                }
                () = tokio::time::sleep(LOOK_EVERY) => {}
            }
        }
        let mut killed = Vec::new();
        for node in &mut self.0 {
            if node.is_running() {
                killed.push(format!("node {}", node.id()));
            }
            node.kill();
        }
        match killed.is_empty() {
            true => Ok(()),
            false => Err(ClusterError::Killed { nodes: killed.join(", "), why }),
        }
    }
}

impl Drop for Nodes {
    fn drop(&mut self) {
        self.0.iter_mut().for_each(NodeProcess::kill);
    }
}

fn announce(found: &Found, args: &Args, addresses: &[ports::Addresses], nodes: &Nodes) {
    let leader = found.leader;
    let is_member = |id: u16| found.members.contains(&u64::from(id));
    let running = nodes.0.iter().filter(|node| node.pid().is_some() && is_member(node.id()));
    let (running, all) = (running.count(), found.members.len());
    let count = match running == all {
        true => running.to_string(),
        false => format!("{running} of {all}"),
    };
    let mut text = format!("{count} nodes are running; node {leader} leads.\n\n");
    let others = addresses.iter().filter(|node| node.id != leader);
    for node in addresses.iter().filter(|node| node.id == leader).chain(others) {
        let pid = nodes.0.iter().find(|process| process.id() == node.id).and_then(NodeProcess::pid);
        let pid = match pid {
            _ if !is_member(node.id) => "is not a member of the cluster".to_owned(),
            Some(pid) => format!("pid {pid}"),
            None => "does not run".to_owned(),
        };
        let role = if node.id == leader { "  leader" } else { "" };
        text += &format!("  node {}  http://{}  {pid}{role}\n", node.id, node.client);
    }
    let address = &addresses[usize::from(leader)].client;
    text += &format!(
        "\nTry it:\n  \
         curl -X PUT --data 'world' http://{address}/v1/kv/hello\n  \
         curl http://{address}/v1/kv/hello\n\n\
         Data and logs are in {}. Ctrl-C stops the cluster; started again, it has all its data.",
        args.data_dir.display()
    );
    say(&text);
}

/// Prints a line on standard output. Never blocks and never fails.
fn say(text: &str) {
    if let Some(lines) = output() {
        lines.add(format!("{text}\n").as_bytes());
    }
}

/// The writer to standard output. `None` if its thread could not be started.
fn output() -> Option<&'static Lines> {
    static OUTPUT: OnceLock<Option<Lines>> = OnceLock::new();
    OUTPUT.get_or_init(|| Lines::start("output", std::io::stdout()).ok()).as_ref()
}
