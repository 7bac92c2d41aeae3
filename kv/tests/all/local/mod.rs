//! A cluster for tests: the `raft-kv` program on free ports and in a temporary directory.

#![allow(clippy::unwrap_used, reason = "a test ends where it cannot go on")]

pub mod serve;

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Output, Stdio};
use std::sync::LazyLock;
use std::sync::atomic::{AtomicBool, AtomicU16, Ordering};
use std::sync::mpsc::{Receiver, channel};
use std::time::{Duration, Instant};

/// The program under test.
pub const PROGRAM: &str = env!("CARGO_BIN_EXE_raft-kv");
/// The timeout of all waits. Longer than a start or an election takes on a busy machine.
pub const PATIENCE: Duration = Duration::from_secs(60);
/// The distance between a node's client port and its peer port.
pub const PEER_PORT_OFFSET: u16 = 1000;

/// How many sets of ports there are.
const PORT_SETS: u16 = 300;
/// The number of the next set. Nodes that have stopped have their ports still: no other test gets
/// them.
static NEXT_PORTS: LazyLock<AtomicU16> = LazyLock::new(|| rand::random::<u16>().into());

/// The first of `nodes` consecutive client ports that are free, with free peer ports. Different in
/// each call, and none that the tests of the Python client take: those begin at 26,000.
pub fn free_ports(nodes: u16) -> u16 {
    for _ in 0..PORT_SETS {
        let set = NEXT_PORTS.fetch_add(1, Ordering::Relaxed) % PORT_SETS;
        // Client ports in even thousands, peer ports in odd ones.
        let first = 20_000 + (set / 100) * 2_000 + (set % 100) * 10;
        let all = (first..first + nodes).flat_map(|port| [port, port + PEER_PORT_OFFSET]);
        let taken: Result<Vec<_>, _> =
            all.map(|port| TcpListener::bind((Ipv4Addr::LOCALHOST, port))).collect();
        if taken.is_ok() {
            return first;
        }
    }
    panic!("no free ports found");
}

/// A running `raft-kv cluster`. Dropping it stops all its processes.
pub struct Cluster {
    process: Child,
    lines: Receiver<String>,
    said: Vec<String>,
    port: u16,
    pub nodes: u16,
}

impl Cluster {
    /// Starts three nodes, and waits until one is leader and each of them answers.
    pub fn start(directory: &Path, port: u16) -> Self {
        let mut cluster = Cluster::spawn(directory, port, 3);
        cluster.wait_until_it_serves();
        cluster
    }

    /// Waits until a node is leader and each of them answers.
    pub fn wait_until_it_serves(&mut self) {
        self.wait_for_line("Ctrl-C");
        // The supervisor reports as soon as there is a leader. Another node may still start.
        for id in 0..self.nodes {
            until("each node answers", || get(self.address(id), "/is_leader").is_some());
        }
    }

    /// Starts `nodes` nodes without waiting.
    pub fn spawn(directory: &Path, port: u16, nodes: u16) -> Self {
        Cluster::spawn_with(directory, port, nodes, |command| command)
    }

    /// Like [`Cluster::spawn`], with a change to the command.
    pub fn spawn_with(
        directory: &Path,
        port: u16,
        nodes: u16,
        wrap: impl FnOnce(Command) -> Command,
    ) -> Self {
        let mut command = cluster_command(directory, port);
        command.arg(format!("--nodes={nodes}"));
        let mut process = wrap(command)
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::inherit())
            .spawn()
            .unwrap();
        let output = BufReader::new(process.stdout.take().unwrap());
        let (line, lines) = channel();
        std::thread::spawn(move || {
            for text in output.lines().map_while(Result::ok) {
                // The test may have ended.
                let _ = line.send(text);
            }
        });
        Cluster { process, lines, said: Vec::new(), port, nodes }
    }

    /// Waits for a line of output that contains `part`, and returns it.
    pub fn wait_for_line(&mut self, part: &str) -> String {
        let deadline = Instant::now() + PATIENCE;
        loop {
            if let Some(line) = self.said.iter().find(|line| line.contains(part)) {
                return line.clone();
            }
            let left = deadline.saturating_duration_since(Instant::now());
            match self.lines.recv_timeout(left) {
                Ok(line) => self.said.push(line),
                Err(error) => panic!("never said {part:?} ({error}): {:#?}", self.said),
            }
        }
    }

    /// The number of lines so far that contain `part`.
    pub fn lines_with(&mut self, part: &str) -> usize {
        self.said.extend(self.lines.try_iter());
        self.said.iter().filter(|line| line.contains(part)).count()
    }

    /// The client address of node `id`.
    pub fn address(&self, id: u16) -> SocketAddr {
        SocketAddr::from((Ipv4Addr::LOCALHOST, self.port + id))
    }

    /// All client addresses, in the form of `--server`.
    pub fn servers(&self) -> String {
        let all: Vec<_> = (0..self.nodes).map(|id| self.address(id).to_string()).collect();
        all.join(",")
    }

    /// Waits until a node is leader, and returns its id.
    pub fn leader(&self) -> u16 {
        let deadline = Instant::now() + PATIENCE;
        loop {
            for id in 0..self.nodes {
                if get(self.address(id), "/is_leader").is_some_and(|body| body.contains("true")) {
                    return id;
                }
            }
            assert!(Instant::now() < deadline, "nobody leads");
            std::thread::sleep(Duration::from_millis(20));
        }
    }

    /// The process id of a node, from the output of the supervisor.
    pub fn pid(&mut self, id: u16) -> i32 {
        let line = self.wait_for_line(&format!("node {id}  http"));
        let pid = line.split("pid ").nth(1).and_then(|rest| rest.split_whitespace().next());
        pid.unwrap().parse().unwrap()
    }

    /// The process id of the supervisor.
    pub fn supervisor(&self) -> i32 {
        self.process.id() as i32
    }

    /// Waits for the end of the supervisor.
    pub fn wait(&mut self) -> ExitStatus {
        let deadline = Instant::now() + PATIENCE;
        loop {
            if let Some(status) = self.process.try_wait().unwrap() {
                return status;
            }
            assert!(Instant::now() < deadline, "the cluster does not end");
            std::thread::sleep(Duration::from_millis(20));
        }
    }

    /// How the supervisor has ended, if it has.
    pub fn try_wait(&mut self) -> Option<ExitStatus> {
        self.process.try_wait().unwrap()
    }

    /// Stops the cluster with SIGINT, as Ctrl-C does.
    pub fn stop(&mut self) -> ExitStatus {
        signal(self.supervisor(), rustix::process::Signal::INT);
        self.wait()
    }

    /// Runs a client command against all nodes.
    pub fn run(&self, arguments: &[&str]) -> Output {
        Command::new(PROGRAM)
            .args(arguments)
            .env("RAFT_KV_SERVER", self.servers())
            .stdin(Stdio::null())
            .output()
            .unwrap()
    }
}

impl Drop for Cluster {
    fn drop(&mut self) {
        if self.process.try_wait().unwrap().is_none() {
            // Gracefully first. The nodes stop with their supervisor in either case.
            signal(self.supervisor(), rustix::process::Signal::TERM);
            let deadline = Instant::now() + Duration::from_secs(10);
            while self.process.try_wait().unwrap().is_none() && Instant::now() < deadline {
                std::thread::sleep(Duration::from_millis(20));
            }
            let _ = self.process.kill();
            let _ = self.process.wait();
        }
    }
}

/// The command `raft-kv cluster`, independent of the environment of the test.
pub fn cluster_command(directory: &Path, port: u16) -> Command {
    let mut command = Command::new(PROGRAM);
    for name in ["RAFT_KV_PORT", "RAFT_KV_NODES", "RAFT_KV_DATA_DIR", "RAFT_KV_LOG"] {
        command.env_remove(name);
    }
    command
        .arg("cluster")
        .arg(format!("--port={port}"))
        // Long, so that a busy machine causes no elections. A flag takes precedence.
        .env("RAFT_KV_ELECTION_TIMEOUT", "1s")
        .arg(format!("--data-dir={}", directory.display()));
    command
}

/// Sends a signal to one process.
pub fn signal(pid: i32, signal: rustix::process::Signal) {
    let pid = rustix::process::Pid::from_raw(pid).unwrap();
    let _ = rustix::process::kill_process(pid, signal);
}

/// Waits until `holds`. Panics after [`PATIENCE`].
pub fn until(what: &str, mut holds: impl FnMut() -> bool) {
    let deadline = Instant::now() + PATIENCE;
    while !holds() {
        assert!(Instant::now() < deadline, "never: {what}");
        std::thread::sleep(Duration::from_millis(20));
    }
}

/// Sets a flag that ends other threads when it is dropped, also when an assertion fails.
pub struct SetOnDrop<'a>(pub &'a AtomicBool);

impl Drop for SetOnDrop<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

/// Whether a process exists.
pub fn is_alive(pid: i32) -> bool {
    let pid = rustix::process::Pid::from_raw(pid).unwrap();
    rustix::process::test_kill_process(pid).is_ok()
}

/// Waits until a process no longer exists.
pub fn wait_until_gone(pid: i32) {
    until(&format!("process {pid} is gone"), || !is_alive(pid));
}

/// The body of the answer to a GET. `None` if the node does not answer.
pub fn get(address: SocketAddr, path: &str) -> Option<String> {
    let mut stream = TcpStream::connect_timeout(&address, Duration::from_secs(1)).ok()?;
    stream.set_read_timeout(Some(Duration::from_secs(5))).ok()?;
    // In HTTP/1.0 the reply ends with the connection and is not chunked.
    write!(stream, "GET {path} HTTP/1.0\r\nHost: {address}\r\n\r\n").ok()?;
    let mut reply = String::new();
    stream.read_to_string(&mut reply).ok()?;
    let (_, body) = reply.split_once("\r\n\r\n")?;
    Some(body.to_owned())
}

/// The standard error of a program.
pub fn complaint(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).into_owned()
}

/// A temporary directory, and the path of a data directory in it.
pub fn scratch() -> (tempfile::TempDir, PathBuf) {
    let directory = tempfile::tempdir().unwrap();
    let data = directory.path().join("data");
    (directory, data)
}
