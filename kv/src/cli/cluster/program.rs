//! The program that the nodes of a local cluster run.
//!
//! It is the one that the supervisor runs, even if its file was replaced in the meantime, as by a
//! package manager or by `cargo build`. So all nodes run one version, and an upgrade takes place
//! when the operator stops the cluster and starts it again. On Linux, `/proc/self/exe` is that
//! program whatever has become of its path. Elsewhere the path from the start is used.

use std::io;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command};

/// The running program, on Linux.
const RUNNING: &str = "/proc/self/exe";

/// The program of the nodes.
#[derive(Clone)]
pub struct Program {
    /// Its path when the supervisor was started.
    path: PathBuf,
    /// What is executed.
    executed: PathBuf,
}

impl Program {
    /// The program of this process.
    pub fn of_this_process() -> io::Result<Self> {
        let path = std::env::current_exe()?;
        let running = Path::new(RUNNING);
        let executed = if running.exists() { running.to_owned() } else { path.clone() };
        Ok(Program { path, executed })
    }

    /// A command that executes it.
    pub fn command(&self) -> Command {
        let mut command = Command::new(&self.executed);
        command.arg0(&self.path);
        command
    }

    /// Starts a command of [`Program::command`]. The error names the program.
    pub fn spawn(&self, command: &mut Command) -> io::Result<Child> {
        command.spawn().map_err(|error| {
            io::Error::new(error.kind(), format!("{}: {error}", self.path.display()))
        })
    }
}
