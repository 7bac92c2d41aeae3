//! The data directory of a local cluster: a subdirectory and a log file for each node, a lock, and
//! the shape of the cluster.
//!
//! The members' addresses were fixed when the cluster was bootstrapped. So a directory belongs to
//! one first port and one number of nodes. Starting it with others is an error here; otherwise the
//! nodes would never find one another.

use serde::{Deserialize, Serialize};
use std::fs::{self, File, OpenOptions, TryLockError};
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

/// Locked while the cluster runs. Contains the supervisor's process id, which is valid only while
/// the file is locked.
const LOCK_FILE: &str = "cluster.lock";
/// The first port and the number of nodes of the cluster.
const SHAPE_FILE: &str = "cluster.toml";
/// How long to wait for the lock, which a stopping supervisor may still hold.
const RELEASE_TIMEOUT: Duration = Duration::from_secs(3);
/// A log larger than this is renamed when its node is started. It replaces the log that was renamed
/// before.
const LOG_BYTES_MAX: u64 = 8 << 20;

/// The directory, locked by this process.
pub struct Directory {
    path: PathBuf,
    shape: Shape,
    /// No cluster has been started in it yet.
    is_new: bool,
    /// Closing the file releases the lock.
    _lock: File,
}

/// The settings that a directory is bound to.
#[derive(PartialEq, Eq, Serialize, Deserialize)]
struct Shape {
    port: u16,
    nodes: u16,
}

/// Why the directory cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum DirectoryError {
    #[error(
        "cannot write to the data directory {}: {why}: \
         make it writable, or choose another with --data-dir", .path.display()
    )]
    Unwritable { path: PathBuf, why: io::Error },
    #[error(
        "the data directory {} is held by another cluster (process {holder}): \
         stop that one, or choose another with --data-dir", .path.display()
    )]
    Held { path: PathBuf, holder: String },
    #[error(
        "the data directory {} belongs to a cluster started with --port {port} --nodes {nodes}: \
         start it so, or choose another with --data-dir", .path.display()
    )]
    OtherShape { path: PathBuf, port: u16, nodes: u16 },
    #[error(
        "{}: {why}: the file says what the cluster was made with (port = 8080, nodes = 3); \
         restore it, or choose another directory with --data-dir", .path.display()
    )]
    Damaged { path: PathBuf, why: String },
}

impl Directory {
    /// Creates the directory if necessary, and locks it. Does not bind it to the ports yet: see
    /// [`Directory::keep`].
    pub async fn take(path: &Path, port: u16, nodes: u16) -> Result<Self, DirectoryError> {
        let unwritable = |why| DirectoryError::Unwritable { path: path.to_owned(), why };
        fs::create_dir_all(path).map_err(unwritable)?;
        let lock = OpenOptions::new()
            .create(true)
            .truncate(false)
            .write(true)
            .open(path.join(LOCK_FILE))
            .map_err(unwritable)?;
        hold(&lock, path).await?;
        note_process(&lock).map_err(unwritable)?;
        let shape = Shape { port, nodes };
        let is_new = is_new(path, &shape)?;
        Ok(Directory { path: path.to_owned(), shape, is_new, _lock: lock })
    }

    /// Binds the directory to its ports and its number of nodes. Called once the ports are known to
    /// be free.
    pub fn keep(&self) -> Result<(), DirectoryError> {
        let unwritable = |why| DirectoryError::Unwritable { path: self.path.clone(), why };
        if self.is_new {
            write_shape(&self.path, &self.shape).map_err(unwritable)?;
        }
        // Each node creates its own subdirectory, so a failure affects that node only.
        Ok(())
    }

    /// The data directory of a node.
    pub fn of_node(&self, id: u16) -> PathBuf {
        self.path.join(format!("node-{id}"))
    }

    /// The log file of a node: its standard error.
    pub fn log_of_node(&self, id: u16) -> PathBuf {
        self.path.join(format!("node-{id}.log"))
    }
}

async fn hold(lock: &File, path: &Path) -> Result<(), DirectoryError> {
    let deadline = Instant::now() + RELEASE_TIMEOUT;
    loop {
        match lock.try_lock() {
            Ok(()) => return Ok(()),
            Err(TryLockError::Error(why)) => {
                return Err(DirectoryError::Unwritable { path: path.to_owned(), why });
            }
            Err(TryLockError::WouldBlock) if Instant::now() >= deadline => {
                let holder = fs::read_to_string(path.join(LOCK_FILE)).unwrap_or_default();
                let holder = holder.trim();
                let holder = if holder.is_empty() { "unknown" } else { holder }.to_owned();
                return Err(DirectoryError::Held { path: path.to_owned(), holder });
            }
            Err(TryLockError::WouldBlock) => tokio::time::sleep(Duration::from_millis(50)).await,
        }
    }
}

fn note_process(mut lock: &File) -> io::Result<()> {
    lock.set_len(0)?;
    writeln!(lock, "{}", std::process::id())
}

/// Whether no cluster has been started in the directory. An error if the directory belongs to a
/// cluster of another shape.
fn is_new(path: &Path, asked: &Shape) -> Result<bool, DirectoryError> {
    let file = path.join(SHAPE_FILE);
    match fs::read_to_string(&file) {
        Ok(text) => {
            let made: Shape = toml::from_str(&text).map_err(|why| DirectoryError::Damaged {
                path: file,
                why: why.message().to_owned(),
            })?;
            if made == *asked {
                return Ok(false);
            }
            Err(DirectoryError::OtherShape {
                path: path.to_owned(),
                port: made.port,
                nodes: made.nodes,
            })
        }
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(true),
        Err(why) => Err(DirectoryError::Unwritable { path: path.to_owned(), why }),
    }
}

fn write_shape(path: &Path, shape: &Shape) -> io::Result<()> {
    let text = format!("port = {}\nnodes = {}\n", shape.port, shape.nodes);
    // Written atomically: an incomplete file would make the directory unusable.
    let new = path.join("cluster.toml.new");
    fs::write(&new, text)?;
    fs::rename(&new, path.join(SHAPE_FILE))
}

/// Renames a log that has become too large. Called before each start of a node.
pub fn set_aside_long_log(path: &Path) -> io::Result<()> {
    match fs::metadata(path) {
        Ok(metadata) if metadata.len() > LOG_BYTES_MAX => {
            fs::rename(path, path.with_extension("log.old"))
        }
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn taken(path: &Path, port: u16, nodes: u16) -> Result<Directory, DirectoryError> {
        tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .unwrap()
            .block_on(Directory::take(path, port, nodes))
    }

    #[test]
    fn a_directory_is_held_by_one_cluster_only_and_freed_at_its_end() {
        let scratch = tempfile::tempdir().unwrap();
        let first = taken(scratch.path(), 8080, 3).unwrap_or_else(|error| panic!("{error}"));
        let second = taken(scratch.path(), 8080, 3).err().unwrap().to_string();
        assert!(second.contains(&std::process::id().to_string()), "{second}");
        assert!(second.contains("--data-dir"), "{second}");
        drop(first);
        assert!(taken(scratch.path(), 8080, 3).is_ok());
    }

    #[test]
    fn a_directory_keeps_its_ports_and_its_number_of_nodes() {
        let scratch = tempfile::tempdir().unwrap();
        let first = taken(scratch.path(), 7000, 5).unwrap_or_else(|error| panic!("{error}"));
        first.keep().unwrap();
        drop(first);
        let error = taken(scratch.path(), 8080, 3).err().unwrap().to_string();
        assert!(error.contains("--port 7000 --nodes 5"), "{error}");
    }

    #[test]
    fn a_directory_whose_cluster_never_started_takes_other_ports() {
        let scratch = tempfile::tempdir().unwrap();
        drop(taken(scratch.path(), 7000, 5));
        assert!(taken(scratch.path(), 8080, 3).is_ok());
    }

    #[test]
    fn a_file_in_the_place_of_the_directory_is_named() {
        let scratch = tempfile::tempdir().unwrap();
        let file = scratch.path().join("data");
        fs::write(&file, "").unwrap();
        let error = taken(&file, 8080, 3).err().unwrap().to_string();
        assert!(error.contains("data") && error.contains("--data-dir"), "{error}");
    }

    #[test]
    fn a_long_log_is_set_aside() {
        let scratch = tempfile::tempdir().unwrap();
        let log = scratch.path().join("node-0.log");
        File::create(&log).unwrap().set_len(LOG_BYTES_MAX + 1).unwrap();
        set_aside_long_log(&log).unwrap();
        assert!(!log.exists() && scratch.path().join("node-0.log.old").exists());
    }
}
