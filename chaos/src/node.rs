//! One node: the `raft-kv serve` process, its directory, its log and its faults.

use crate::live;
use rustix::process::{Pid, Signal, kill_process, kill_process_group};
use std::fs::{File, OpenOptions};
use std::io::{self, PipeReader, Read};
use std::net::SocketAddr;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::Duration;

/// Where the log of a node goes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Stderr {
    /// To a file.
    #[default]
    File,
    /// Nowhere: descriptor 2 is closed.
    Closed,
    /// To a device that is always full.
    Full,
    /// To a pipe that nobody reads.
    Unread,
    /// To a pipe whose reader goes away after the start.
    Broken,
}

/// Settings of a node other than its id and addresses.
#[derive(Clone, Default)]
pub struct Settings {
    /// Further flags of `serve`.
    pub flags: Vec<String>,
    /// The library to preload.
    pub shim: Option<PathBuf>,
    /// The limit of open descriptors.
    pub descriptors_max: Option<u32>,
    /// Where the log goes.
    pub stderr: Stderr,
    /// If set, the directory of data and log is a separate file system of this size, in its own
    /// mount namespace. It is gone when the node ends.
    pub disk_bytes: Option<u64>,
}

/// A node, running or not.
pub struct Node {
    /// Its id.
    pub id: u64,
    /// Where clients reach it.
    pub client: SocketAddr,
    /// The address of its peer port, behind the proxy.
    pub peer: SocketAddr,
    /// The data directory. With `disk_bytes`, the file system that has data and log on it.
    pub dir: PathBuf,
    /// The log file.
    pub log: PathBuf,
    /// The directory of the files that switch its faults on.
    flags: PathBuf,
    /// The settings of the next start.
    pub settings: Settings,
    /// Whether it belongs to the cluster now. Spare and removed nodes do not.
    pub is_member: bool,
    /// Whether it joins a cluster that exists, if its directory is empty.
    pub joins: bool,
    /// Starts so far.
    pub starts: u64,
    /// Whether it is stopped by SIGSTOP.
    pub paused: bool,
    process: Option<Process>,
}

/// A process group that ends when this is dropped.
pub struct Process {
    child: Child,
    /// The reading end of its log, if that is a pipe.
    reader: Option<PipeReader>,
}

impl Process {
    /// Starts a command in a process group of its own.
    pub fn start(command: &mut Command) -> io::Result<Process> {
        let child = command.process_group(0).spawn()?;
        live::add(child.id());
        Ok(Process { child, reader: None })
    }

    /// Its id, and that of its group.
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// The exit status, if it has ended.
    pub fn ended(&mut self) -> Option<ExitStatus> {
        self.child.try_wait().ok().flatten()
    }

    /// Sends a signal to it, if it still runs.
    pub fn signal(&mut self, signal: Signal) {
        if self.ended().is_none()
            && let Some(pid) = Pid::from_raw(self.child.id() as i32)
        {
            // It may have ended meanwhile.
            let _ = kill_process(pid, signal);
        }
    }

    /// Waits for its end; `None` if it still runs after `limit`.
    pub fn wait(&mut self, limit: Duration) -> Option<ExitStatus> {
        let mut status = None;
        live::wait_until(limit, || {
            status = self.ended();
            status.is_some()
        });
        status
    }

    /// Takes the reading end of its log.
    pub fn take_reader(&mut self) -> Option<PipeReader> {
        self.reader.take()
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        if let Some(group) = Pid::from_raw(self.child.id() as i32) {
            // The group may be gone already.
            let _ = kill_process_group(group, Signal::KILL);
        }
        let _ = self.child.wait();
        live::remove(self.child.id());
    }
}

impl Node {
    /// A node that has not been started.
    pub fn new(
        root: &Path,
        id: u64,
        client: SocketAddr,
        peer: SocketAddr,
        settings: Settings,
    ) -> io::Result<Node> {
        let flags = root.join(format!("flags-{id}"));
        std::fs::create_dir_all(&flags)?;
        let (dir, log) = (root.join(format!("node-{id}")), root.join(format!("node-{id}.log")));
        let (starts, paused, process) = (0, false, None);
        let (is_member, joins) = (true, false);
        Ok(Node {
            id,
            client,
            peer,
            dir,
            log,
            flags,
            settings,
            is_member,
            joins,
            starts,
            paused,
            process,
        })
    }

    /// Starts it with this list of peers. Returns the id of its process.
    pub fn start(&mut self, binary: &Path, peers: &str) -> io::Result<u32> {
        let mut serve = vec![binary.as_os_str().to_owned()];
        for flag in [
            "serve".to_owned(),
            format!("--id={}", self.id),
            format!("--peers={peers}"),
            format!("--listen={}", self.client),
            format!("--peer-listen={}", self.peer),
            format!("--data-dir={}", self.data_dir().display()),
            if self.joins { "--join".to_owned() } else { "--bootstrap".to_owned() },
            // The node stops with this program, however this program ends.
            "--stop-on-stdin-eof".to_owned(),
        ] {
            serve.push(flag.into());
        }
        serve.extend(self.settings.flags.iter().map(Into::into));
        let mut shell = String::new();
        if let Some(max) = self.settings.descriptors_max {
            shell.push_str(&format!("ulimit -n {max} && "));
        }
        if let Some(bytes) = self.settings.disk_bytes {
            std::fs::create_dir_all(&self.dir)?;
            let dir = self.dir.display();
            shell.push_str(&format!("mount -t tmpfs -o size={bytes} chaos {dir} && "));
            shell.push_str(&format!("exec \"$@\" 2>{dir}/log"));
        } else {
            shell.push_str("exec \"$@\"");
        }
        if self.settings.stderr == Stderr::Closed {
            shell.push_str(" 2>&-");
        }
        let mut command = match self.settings.disk_bytes {
            Some(_) => Command::new("unshare"),
            None => Command::new("sh"),
        };
        if self.settings.disk_bytes.is_some() {
            command.args(["-m", "sh"]);
        }
        command.args(["-c", &shell, "sh"]).args(serve);
        for (name, _) in std::env::vars_os() {
            if name.to_str().is_some_and(|name| name.starts_with("RAFT_KV_")) {
                command.env_remove(name);
            }
        }
        if let Some(shim) = &self.settings.shim {
            command.env("LD_PRELOAD", shim);
            command.env("CHAOS_FLAGS", &self.flags).env("CHAOS_DIR", &self.dir);
        }
        let (stderr, reader) = self.stderr()?;
        command.stdin(Stdio::piped()).stdout(Stdio::null()).stderr(stderr);
        let mut process = Process::start(&mut command)?;
        process.reader = reader;
        let pid = process.pid();
        self.process = Some(process);
        self.starts += 1;
        self.paused = false;
        Ok(pid)
    }

    fn data_dir(&self) -> PathBuf {
        // The file system also holds the log then, so the data has its own directory.
        match self.settings.disk_bytes {
            Some(_) => self.dir.join("data"),
            None => self.dir.clone(),
        }
    }

    /// The node's directory, reached through its process: it may have a mount namespace of its own.
    /// `None` if it does not run.
    pub fn seen_dir(&mut self) -> Option<PathBuf> {
        let pid = self.pid()?;
        let dir = self.dir.strip_prefix("/").ok()?;
        Some(Path::new("/proc").join(pid.to_string()).join("root").join(dir))
    }

    fn stderr(&self) -> io::Result<(Stdio, Option<PipeReader>)> {
        Ok(match self.settings.stderr {
            Stderr::File | Stderr::Closed => {
                let file = OpenOptions::new().create(true).append(true).open(&self.log)?;
                (file.into(), None)
            }
            Stderr::Full => (OpenOptions::new().write(true).open("/dev/full")?.into(), None),
            Stderr::Unread | Stderr::Broken => {
                let (reader, writer) = io::pipe()?;
                (writer.into(), Some(reader))
            }
        })
    }

    /// Closes the reading end of its log's pipe.
    pub fn break_stderr(&mut self) {
        if let Some(process) = &mut self.process {
            process.take_reader();
        }
    }

    /// Its process, if it runs.
    pub fn pid(&mut self) -> Option<u32> {
        let process = self.process.as_mut()?;
        process.ended().is_none().then(|| process.pid())
    }

    /// Whether it runs.
    pub fn runs(&mut self) -> bool {
        self.pid().is_some()
    }

    /// The exit status; `None` while it runs or before it was started.
    pub fn ended(&mut self) -> Option<ExitStatus> {
        self.process.as_mut()?.ended()
    }

    /// Kills it (SIGKILL) and waits for its end.
    pub fn kill(&mut self) {
        self.process = None;
        self.paused = false;
    }

    /// Undoes the writes of a killed node that were not synced, as a loss of power does. Returns
    /// the number of writes.
    pub fn forget_unsynced(&self) -> io::Result<u64> {
        crate::damage::undo(&self.dir, &self.flags)
    }

    /// Stops its execution (SIGSTOP).
    pub fn pause(&mut self) {
        self.signal(Signal::STOP);
        self.paused = true;
    }

    /// Continues its execution (SIGCONT).
    pub fn resume(&mut self) {
        self.signal(Signal::CONT);
        self.paused = false;
    }

    /// Sends SIGTERM and waits for its end, for at most `limit`.
    pub fn stop(&mut self, limit: Duration) -> Option<ExitStatus> {
        self.resume();
        self.signal(Signal::TERM);
        let status = self.process.as_mut()?.wait(limit);
        self.process = None;
        status
    }

    fn signal(&mut self, signal: Signal) {
        if let Some(process) = &mut self.process {
            process.signal(signal);
        }
    }

    /// Waits for the process to end by itself.
    pub fn wait(&mut self, limit: Duration) -> Option<ExitStatus> {
        self.process.as_mut()?.wait(limit)
    }

    /// Switches a fault of the preloaded library on. `shim.c` defines the names, and the meaning of
    /// `size`.
    pub fn fault(&self, name: &str, size: i64) -> io::Result<()> {
        let temporary = self.flags.join(format!(".{name}"));
        std::fs::write(&temporary, size.to_string())?;
        std::fs::rename(temporary, self.flags.join(name))
    }

    /// Switches a fault off.
    pub fn heal(&self, name: &str) {
        // It may not be on.
        let _ = std::fs::remove_file(self.flags.join(name));
    }

    /// Switches all faults off.
    pub fn heal_all(&self) {
        for entry in std::fs::read_dir(&self.flags).into_iter().flatten().flatten() {
            let _ = std::fs::remove_file(entry.path());
        }
    }

    /// The content of the log file; empty if there is none.
    pub fn log_text(&self) -> String {
        let mut bytes = Vec::new();
        if let Ok(mut file) = File::open(&self.log) {
            let _ = file.read_to_end(&mut bytes);
        }
        String::from_utf8_lossy(&bytes).into_owned()
    }
}
