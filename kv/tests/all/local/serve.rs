//! Members of a cluster that a test starts individually, each as `raft-kv serve`.

use super::{PATIENCE, PROGRAM, get};
use std::io::{Read, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::{Duration, Instant};

/// One running member. Killed on drop.
pub struct Member {
    process: Child,
}

impl Member {
    /// Starts member `id` of three, whose client ports begin at `port`.
    pub fn spawn(data: &Path, port: u16, id: u16, stderr: Stdio, more: &[&str]) -> Self {
        Member::spawn_after("", data, port, id, stderr, more)
    }

    /// Like [`Member::spawn`], but runs shell commands before.
    fn spawn_after(
        before: &str,
        data: &Path,
        port: u16,
        id: u16,
        stderr: Stdio,
        more: &[&str],
    ) -> Self {
        let peers: Vec<_> = (0..3)
            .map(|id| format!("{id}=127.0.0.1:{}/127.0.0.1:{}", port + id, port + id + 1000))
            .collect();
        // SIGXFSZ is ignored, so that a write beyond the file size limit fails with an error and
        // the signal does not kill the process.
        let process = Command::new("sh")
            .arg("-c")
            .arg(format!("trap '' XFSZ; {before}exec \"$@\""))
            .args(["sh", PROGRAM, "serve", "--bootstrap"])
            .arg(format!("--id={id}"))
            .arg(format!("--peers={}", peers.join(",")))
            .arg(format!("--data-dir={}", data.join(format!("node-{id}")).display()))
            // Long, so that a busy machine causes no elections. A test may override it.
            .env("RAFT_KV_ELECTION_TIMEOUT", "1s")
            .args(more)
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(stderr)
            .spawn()
            .unwrap();
        Member { process }
    }

    /// A member that a test has started by itself.
    pub fn of(process: Child) -> Self {
        Member { process }
    }

    /// Asks the process to end.
    pub fn terminate(&self) {
        super::signal(self.process.id() as i32, rustix::process::Signal::TERM);
    }

    /// Pauses the process.
    pub fn pause(&self) {
        super::signal(self.process.id() as i32, rustix::process::Signal::STOP);
    }

    /// Makes all further writes to files fail.
    pub fn let_writes_fail(&self) {
        let none = rustix::process::Rlimit { current: Some(0), maximum: Some(0) };
        let pid = rustix::process::Pid::from_raw(self.process.id() as i32);
        rustix::process::prlimit(pid, rustix::process::Resource::Fsize, none).unwrap();
    }

    /// The resident memory of the process.
    pub fn memory_bytes(&self) -> u64 {
        self.status_bytes("VmRSS:")
    }

    /// The virtual memory of the process, including pages without memory behind them.
    pub fn virtual_bytes(&self) -> u64 {
        self.status_bytes("VmSize:")
    }

    /// The number of open file descriptors of the process.
    pub fn descriptors(&self) -> usize {
        std::fs::read_dir(format!("/proc/{}/fd", self.process.id())).unwrap().count()
    }

    fn status_bytes(&self, name: &str) -> u64 {
        let status = format!("/proc/{}/status", self.process.id());
        let status = std::fs::read_to_string(status).unwrap();
        let line = status.lines().find_map(|line| line.strip_prefix(name)).unwrap();
        line.trim().trim_end_matches(" kB").parse::<u64>().unwrap() << 10
    }

    /// Waits for the end of the process.
    pub fn wait(&mut self) -> ExitStatus {
        let deadline = Instant::now() + PATIENCE;
        loop {
            if let Some(status) = self.process.try_wait().unwrap() {
                return status;
            }
            assert!(Instant::now() < deadline, "the node does not end");
            std::thread::sleep(Duration::from_millis(20));
        }
    }
}

impl Drop for Member {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

/// Three members. Each of them runs or does not.
pub struct Members {
    data: PathBuf,
    port: u16,
    members: [Option<Member>; 3],
}

impl Members {
    /// Three members whose client ports begin at `port`. None is started.
    pub fn new(data: &Path, port: u16) -> Self {
        Members { data: data.to_owned(), port, members: [None, None, None] }
    }

    /// Starts three members, of which the first is leader. They log warnings only.
    pub fn serving(data: &Path, port: u16) -> Self {
        let mut members = Members::new(data, port);
        members.start(0, Stdio::inherit(), &["--campaign-at-start", "--log=warn"]);
        members.start(1, Stdio::inherit(), &["--log=warn"]);
        members.start(2, Stdio::inherit(), &["--log=warn"]);
        members.wait_for_leader(0);
        members
    }

    /// Like [`Members::serving`], with a limit on the file descriptors of each.
    pub fn serving_limited(data: &Path, port: u16, descriptors: u64) -> Self {
        let mut members = Members::new(data, port);
        members.start_limited(0, descriptors, &["--campaign-at-start"]);
        members.start_limited(1, descriptors, &[]);
        members.start_limited(2, descriptors, &[]);
        members.wait_for_leader(0);
        members
    }

    /// Starts member `id`.
    pub fn start(&mut self, id: u16, stderr: Stdio, more: &[&str]) {
        let member = Member::spawn(&self.data, self.port, id, stderr, more);
        self.members[usize::from(id)] = Some(member);
    }

    /// Starts member `id` with a limit on file descriptors.
    pub fn start_limited(&mut self, id: u16, descriptors: u64, more: &[&str]) {
        let limit = format!("ulimit -n {descriptors}; ");
        let member = Member::spawn_after(&limit, &self.data, self.port, id, Stdio::inherit(), more);
        self.members[usize::from(id)] = Some(member);
    }

    /// Whether all started members still run.
    pub fn all_run(&mut self) -> bool {
        let mut started = self.members.iter_mut().flatten();
        started.all(|member| member.process.try_wait().unwrap().is_none())
    }

    /// Waits until all other members are ready, as followers of `leader`.
    pub fn wait_for_followers(&self, leader: u16) {
        let deadline = Instant::now() + PATIENCE;
        let follows =
            |id: u16| get(self.address(id), "/readyz").is_some_and(|body| body.contains("ready\n"));
        while !(0..3).filter(|id| *id != leader).all(follows) {
            assert!(Instant::now() < deadline, "not all follow");
            std::thread::sleep(Duration::from_millis(20));
        }
    }

    /// The value of a metric of member `id`.
    pub fn metric(&self, id: u16, name: &str) -> u64 {
        let text = get(self.address(id), "/metrics").unwrap();
        let line = text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(' '));
        line.unwrap().parse().unwrap()
    }

    /// Kills member `id`.
    pub fn kill(&mut self, id: u16) {
        self.members[usize::from(id)] = None;
    }

    /// Member `id`, which must run.
    pub fn member(&self, id: u16) -> &Member {
        self.members[usize::from(id)].as_ref().unwrap()
    }

    /// Waits for the end of member `id`.
    pub fn wait(&mut self, id: u16) -> ExitStatus {
        self.members[usize::from(id)].as_mut().unwrap().wait()
    }

    /// The client address of member `id`.
    pub fn address(&self, id: u16) -> SocketAddr {
        SocketAddr::from((Ipv4Addr::LOCALHOST, self.port + id))
    }

    /// Waits until member `id` is leader.
    pub fn wait_for_leader(&self, id: u16) {
        self.wait_for_leader_among(&[id]);
    }

    /// Waits until one of these members is leader, and returns its id.
    pub fn wait_for_leader_among(&self, ids: &[u16]) -> u16 {
        let deadline = Instant::now() + PATIENCE;
        loop {
            let leads = |id: &&u16| {
                get(self.address(**id), "/is_leader").is_some_and(|body| body.contains("true"))
            };
            if let Some(leader) = ids.iter().find(leads) {
                return *leader;
            }
            assert!(Instant::now() < deadline, "none of {ids:?} leads");
            std::thread::sleep(Duration::from_millis(20));
        }
    }

    /// Writes through member `id`, which must succeed. A failure shows what each member reports.
    pub fn must_put(&self, id: u16, key: &str, value: &str) {
        let answer = ask(self.address(id), "PUT", &format!("/v1/kv/{key}"), value.as_bytes());
        if answer.split(' ').nth(1) != Some("200") {
            let report = |id| get(self.address(id), "/v1/status").unwrap_or_default();
            panic!("{answer}\n{}\n{}\n{}", report(0), report(1), report(2));
        }
    }

    /// Writes through member `id`. Returns the status of the answer, or 0 if there is none.
    pub fn put(&self, id: u16, key: &str, value: &str) -> u16 {
        let answer = ask(self.address(id), "PUT", &format!("/v1/kv/{key}"), value.as_bytes());
        answer.split(' ').nth(1).and_then(|status| status.parse().ok()).unwrap_or(0)
    }
}

/// Sends a request on a new connection. Returns the answer, or the part of it that arrived.
pub fn ask(address: SocketAddr, method: &str, path: &str, body: &[u8]) -> String {
    let Ok(mut stream) = TcpStream::connect(address) else { return String::new() };
    stream.set_read_timeout(Some(Duration::from_secs(20))).unwrap();
    let length = body.len();
    let head = format!(
        "{method} {path} HTTP/1.1\r\nHost: {address}\r\nConnection: close\r\n\
         Content-Length: {length}\r\n\r\n"
    );
    // The node may answer and close before it has read everything.
    let _ = stream.write_all(head.as_bytes()).and_then(|()| stream.write_all(body));
    let (mut answer, mut part) = (Vec::new(), [0; 4096]);
    while let Ok(read @ 1..) = stream.read(&mut part) {
        answer.extend_from_slice(&part[..read]);
    }
    String::from_utf8_lossy(&answer).into_owned()
}
