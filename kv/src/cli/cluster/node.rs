//! The process of one node: start, supervision, restart and stop.

use super::Args;
use super::directory::{Directory, open_log, set_aside_long_log};
use super::ports::Addresses;
use super::program::Program;
use crate::cli::exit;
use std::fs::File;
use std::io::{self, Read, Seek, SeekFrom};
use std::os::unix::process::{CommandExt as _, ExitStatusExt};
use std::path::PathBuf;
use std::process::{Child, ExitStatus, Stdio};
use std::time::{Duration, Instant};

/// The first backoff before a restart. It doubles with each consecutive failure.
const RESTART_PAUSE: Duration = Duration::from_millis(100);
/// The longest backoff.
const RESTART_PAUSE_MAX: Duration = Duration::from_secs(30);
/// A node that has run for this long has its backoff reset.
const RAN_WELL: Duration = Duration::from_secs(10);
/// The bytes at the end of a node's log that are searched for the reason of its exit.
const LOG_TAIL_BYTES: u64 = 16 << 10;

/// Why a node has no process.
enum End {
    /// The process with this id ended.
    Exited(u32, ExitStatus),
    /// It could not be started.
    NotStarted(io::Error),
}

/// A node of the cluster, running or waiting for its next start.
pub struct NodeProcess {
    id: u16,
    program: Program,
    arguments: Vec<String>,
    log: PathBuf,
    /// The length of the log when the process was started. Its own lines follow.
    log_start: u64,
    child: Option<Child>,
    was_started: bool,
    /// Whether it has to join a cluster that exists, should its directory be empty.
    joins: bool,
    started: Instant,
    failures: u32,
    restart_at: Option<Instant>,
    /// Why it cannot start with its settings. Cleared once the node has run for [`RAN_WELL`].
    refusal: Option<String>,
    /// The last reported reason, without process id and backoff.
    reported: String,
}

impl NodeProcess {
    /// Node `id` of the cluster. [`NodeProcess::look_after`] starts it.
    pub fn new(
        id: u16,
        program: &Program,
        args: &Args,
        addresses: &[Addresses],
        directory: &Directory,
    ) -> Self {
        let peers: Vec<_> = addresses
            .iter()
            .map(|node| format!("{}={}/{}", node.id, node.client, node.peer))
            .collect();
        let me = &addresses[usize::from(id)];
        let mut arguments = vec![
            format!("--id={id}"),
            format!("--listen={}", me.client),
            format!("--peer-listen={}", me.peer),
            format!("--peers={}", peers.join(",")),
            format!("--data-dir={}", directory.of_node(id).display()),
            format!("--election-timeout={}ms", args.election_timeout.as_millis()),
            format!("--log={}", args.log),
            "--stop-on-stdin-eof".to_owned(),
        ];
        if let Some(drift_ppm) = args.lease_drift {
            arguments.push(format!("--lease-drift={}", f64::from(drift_ppm) / 10_000.0));
        }
        if args.fault_injection {
            arguments.push("--fault-injection".to_owned());
        }
        NodeProcess {
            id,
            program: program.clone(),
            arguments,
            log: directory.log_of_node(id),
            log_start: 0,
            child: None,
            was_started: false,
            joins: false,
            started: Instant::now(),
            failures: 0,
            restart_at: Some(Instant::now()),
            refusal: None,
            reported: String::new(),
        }
    }

    /// The id of the node.
    pub fn id(&self) -> u16 {
        self.id
    }

    /// The process id, if the process was started and its end has not been noticed.
    pub fn pid(&self) -> Option<u32> {
        self.child.as_ref().map(Child::id)
    }

    /// Why it cannot start, if that is known.
    pub fn refusal(&self) -> Option<&str> {
        self.refusal.as_deref()
    }

    /// The cluster exists: should the node lose its directory, it must not found another one.
    pub fn join_from_now_on(&mut self) {
        self.joins = true;
    }

    /// Detects the end of the process, and starts it again after the backoff. Returns a line to
    /// print if there is something new.
    pub fn look_after(&mut self) -> Option<String> {
        let mut end = None;
        if self.restart_at.is_some_and(|at| at <= Instant::now()) {
            self.restart_at = None;
            // At its first start, node 0 campaigns at once, so that the first port serves soon. Not
            // at a restart, because another node leads by then.
            let is_first = self.id == 0 && !std::mem::replace(&mut self.was_started, true);
            let mut more = vec![if self.joins { "--join" } else { "--bootstrap" }];
            more.extend(is_first.then_some("--campaign-at-start"));
            end = self.spawn(&more).err().map(End::NotStarted);
        }
        if let Some(child) = &mut self.child {
            let pid = child.id();
            match child.try_wait() {
                Ok(None) => {}
                Ok(Some(status)) => end = Some(End::Exited(pid, status)),
                Err(why) => end = Some(End::NotStarted(why)),
            }
        }
        if end.is_none() && self.is_well() {
            self.failures = 0;
            self.refusal = None;
            self.reported.clear();
        }
        self.ended(end?)
    }

    fn is_well(&self) -> bool {
        self.child.is_some() && self.started.elapsed() > RAN_WELL
    }

    /// Schedules a restart. Returns a line to print, unless it repeats the last one: a node that
    /// ends at each start must not fill the terminal.
    fn ended(&mut self, end: End) -> Option<String> {
        if self.is_well() {
            self.failures = 0;
            self.reported.clear();
        }
        self.child = None;
        if let End::Exited(_, status) = &end
            && status.code() == Some(i32::from(exit::REMOVED))
        {
            // It is not a member any more, and is not started again.
            return Some(format!("node {} stopped: {}", self.id, self.last_words()));
        }
        let pause = (RESTART_PAUSE * 2_u32.pow(self.failures.min(16))).min(RESTART_PAUSE_MAX);
        self.failures += 1;
        self.restart_at = Some(Instant::now() + pause);
        let (pid, what) = match end {
            End::Exited(pid, status) if status.code() == Some(i32::from(exit::CONFIGURATION)) => {
                let why = self.last_words();
                self.refusal = Some(why.clone());
                (format!(" (pid {pid})"), format!("cannot start: {why}"))
            }
            End::Exited(pid, status) => (format!(" (pid {pid})"), self.describe(status)),
            End::NotStarted(why) => {
                self.refusal = Some(why.to_string());
                (String::new(), format!("cannot be started: {why}"))
            }
        };
        let line = format!(
            "node {}{pid} {what}; starting it again in {} ms{}",
            self.id,
            pause.as_millis(),
            if self.reported == what { ", and so on: only changes are reported" } else { "" }
        );
        let is_news = self.reported != what || self.failures == 2;
        self.reported = what;
        is_news.then_some(line)
    }

    /// Stops the node gracefully, and cancels any restart.
    pub fn ask_to_stop(&mut self) {
        self.restart_at = None;
        let Some(child) = &mut self.child else { return };
        // The end of its standard input or the signal: either is enough.
        drop(child.stdin.take());
        if let Some(pid) = i32::try_from(child.id()).ok().and_then(rustix::process::Pid::from_raw) {
            // It fails only if the process is gone already.
            let _ = rustix::process::kill_process(pid, rustix::process::Signal::TERM);
        }
    }

    /// Whether its process still runs.
    pub fn is_running(&mut self) -> bool {
        self.child.as_mut().is_some_and(|child| matches!(child.try_wait(), Ok(None)))
    }

    /// Kills its process, and cancels any restart.
    pub fn kill(&mut self) {
        self.restart_at = None;
        if let Some(mut child) = self.child.take() {
            // Both fail only if the process is gone already.
            let _ = child.kill();
            let _ = child.wait();
        }
    }

    fn spawn(&mut self, more: &[&str]) -> io::Result<()> {
        self.started = Instant::now();
        // A node that is restarted repeatedly must not fill the disk.
        let named = |error: io::Error| {
            io::Error::new(error.kind(), format!("{}: {error}", self.log.display()))
        };
        set_aside_long_log(&self.log).map_err(named)?;
        let log = open_log(&self.log).map_err(named)?;
        self.log_start = log.metadata().map_err(named)?.len();
        let mut command = self.program.command();
        // The flags define the node completely. Variables in the environment are meant for other
        // programs.
        for (name, _) in std::env::vars_os() {
            if name.to_string_lossy().starts_with("RAFT_KV_") {
                command.env_remove(name);
            }
        }
        command
            .arg("serve")
            .args(&self.arguments)
            .args(more)
            .stdin(Stdio::piped())
            .stdout(Stdio::null())
            .stderr(log)
            .process_group(0);
        self.child = Some(self.program.spawn(&mut command)?);
        Ok(())
    }

    fn describe(&self, status: ExitStatus) -> String {
        match (status.signal(), status.code()) {
            (Some(signal), _) => format!("was killed by signal {signal}"),
            (None, Some(0)) => "stopped".to_owned(),
            (None, code) => {
                format!("failed (exit code {}): {}", code.unwrap_or(-1), self.last_words())
            }
        }
    }

    /// The reason of its end: its last line that begins with `raft-kv: `, or else the last line of
    /// its log.
    fn last_words(&self) -> String {
        let text = File::open(&self.log).and_then(|mut log| {
            let length = log.metadata()?.len();
            let start = self.log_start.max(length.saturating_sub(LOG_TAIL_BYTES));
            log.seek(SeekFrom::Start(start))?;
            let mut tail = Vec::new();
            log.read_to_end(&mut tail)?;
            Ok(String::from_utf8_lossy(&tail).into_owned())
        });
        let text = text.unwrap_or_default();
        let lines = || text.lines().rev().filter(|line| !line.trim().is_empty());
        lines()
            .find_map(|line| line.strip_prefix("raft-kv: "))
            .or_else(|| lines().next())
            .map_or_else(|| format!("see {}", self.log.display()), str::to_owned)
    }
}
