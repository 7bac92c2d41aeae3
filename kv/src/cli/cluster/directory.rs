//! The data directory of a local cluster: a subdirectory and a log file for each node, a lock, and
//! the shape of the cluster.
//!
//! The members' addresses were fixed when the cluster was bootstrapped. So a directory belongs to
//! one first port and one number of nodes. Starting it with others is an error here; otherwise the
//! nodes would never find one another.
//!
//! If the file with the shape is lost, and there is data of nodes, the shape is recorded again only
//! once a node has confirmed it (`members.rs`).

use serde::{Deserialize, Serialize};
use std::fs::{self, DirBuilder, File, OpenOptions, TryLockError};
use std::io::{self, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
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
    bound: Bound,
    /// Closing the file releases the lock.
    _lock: File,
}

/// Whether the directory is bound to a shape.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Bound {
    /// No cluster has been started in it yet.
    New,
    /// It has data of nodes, but the file with the shape is gone or empty.
    Lost,
    Yes,
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
        "{}: {why}: restore the file, or remove it: then the members that the nodes know are \
         compared with --port and --nodes, and the file is written again", .path.display()
    )]
    Damaged { path: PathBuf, why: String },
    #[error(
        "the data directory {} has data of a cluster made with {made}, and no {SHAPE_FILE}: \
         start it so, or choose another with --data-dir", .path.display()
    )]
    OtherMembers { path: PathBuf, made: String },
}

impl Directory {
    /// Creates the directory if necessary, and locks it. Does not bind it to the ports yet: see
    /// [`Directory::keep`].
    pub async fn take(path: &Path, port: u16, nodes: u16) -> Result<Self, DirectoryError> {
        let unwritable = |why| DirectoryError::Unwritable { path: path.to_owned(), why };
        create(path).map_err(unwritable)?;
        let lock = private().create(true).open(path.join(LOCK_FILE)).map_err(unwritable)?;
        hold(&lock, path).await?;
        note_process(&lock).map_err(unwritable)?;
        let shape = Shape { port, nodes };
        let bound = bound(path, &shape)?;
        Ok(Directory { path: path.to_owned(), shape, bound, _lock: lock })
    }

    /// Binds a new directory to its ports and its number of nodes. Called once the ports are known
    /// to be free.
    pub fn keep(&self) -> Result<(), DirectoryError> {
        // Each node creates its own subdirectory, so a failure affects that node only.
        match self.bound {
            Bound::New => self.bind(),
            Bound::Lost | Bound::Yes => Ok(()),
        }
    }

    /// Whether the shape of the data is not known.
    pub fn is_lost(&self) -> bool {
        self.bound == Bound::Lost
    }

    /// Takes the result of the comparison with the members that a node knows. Binds the directory
    /// if they are the same.
    pub fn compared(&self, same: Result<(), String>) -> Result<(), DirectoryError> {
        let other = |made| DirectoryError::OtherMembers { path: self.path.clone(), made };
        same.map_err(other)?;
        self.bind()
    }

    fn bind(&self) -> Result<(), DirectoryError> {
        write_shape(&self.path, &self.shape)
            .map_err(|why| DirectoryError::Unwritable { path: self.path.clone(), why })
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

/// Options to write a file that only the user of this process may read: logs and data of the store
/// contain its values.
fn private() -> OpenOptions {
    let mut options = OpenOptions::new();
    options.write(true).truncate(false).mode(storage::FILE_MODE);
    options
}

/// Creates a directory that only the user of this process may enter. One that exists keeps its
/// mode.
fn create(path: &Path) -> io::Result<()> {
    let link = path.ancestors().find(|part| part.is_symlink() && !part.exists());
    if let Some(link) = link {
        let text =
            format!("{} is a symbolic link to something that does not exist", link.display());
        return Err(io::Error::new(io::ErrorKind::NotFound, text));
    }
    DirBuilder::new().recursive(true).mode(storage::DIRECTORY_MODE).create(path)
}

/// Opens the log of a node, to append to it.
pub fn open_log(path: &Path) -> io::Result<File> {
    private().create(true).append(true).open(path)
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

/// Whether the directory is bound to this shape. An error if it is bound to another one.
fn bound(path: &Path, asked: &Shape) -> Result<Bound, DirectoryError> {
    let file = path.join(SHAPE_FILE);
    let unwritable = |why| DirectoryError::Unwritable { path: path.to_owned(), why };
    match fs::read_to_string(&file) {
        Ok(text) if !text.trim().is_empty() => {
            let made: Shape = toml::from_str(&text).map_err(|why| DirectoryError::Damaged {
                path: file,
                why: why.message().to_owned(),
            })?;
            if made == *asked {
                return Ok(Bound::Yes);
            }
            Err(DirectoryError::OtherShape {
                path: path.to_owned(),
                port: made.port,
                nodes: made.nodes,
            })
        }
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(unwritable(error)),
        // The file is missing or empty.
        _ => match has_data(path).map_err(unwritable)? {
            true => Ok(Bound::Lost),
            false => Ok(Bound::New),
        },
    }
}

/// Whether a node has a subdirectory with something in it.
fn has_data(path: &Path) -> io::Result<bool> {
    for entry in fs::read_dir(path)? {
        let entry = entry?;
        let is_of_node = entry.file_name().to_string_lossy().starts_with("node-");
        if is_of_node && entry.path().is_dir() && fs::read_dir(entry.path())?.next().is_some() {
            return Ok(true);
        }
    }
    Ok(false)
}

fn write_shape(path: &Path, shape: &Shape) -> io::Result<()> {
    let text = format!("port = {}\nnodes = {}\n", shape.port, shape.nodes);
    // Written atomically, also if the power fails: an incomplete file would be of no use.
    let new = path.join("cluster.toml.new");
    let mut file = private().create(true).truncate(true).open(&new)?;
    file.write_all(text.as_bytes())?;
    file.sync_all()?;
    fs::rename(&new, path.join(SHAPE_FILE))?;
    File::open(path)?.sync_all()
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
    fn a_shape_that_is_lost_is_recorded_again_only_when_the_nodes_confirm_it() {
        let scratch = tempfile::tempdir().unwrap();
        let first = taken(scratch.path(), 7000, 3).unwrap_or_else(|error| panic!("{error}"));
        first.keep().unwrap();
        drop(first);
        fs::create_dir_all(scratch.path().join("node-1/log")).unwrap();
        let shape = scratch.path().join(SHAPE_FILE);
        for lose in [|path: &Path| fs::remove_file(path), |path: &Path| fs::write(path, "\n")] {
            lose(&shape).unwrap();
            let wrong = taken(scratch.path(), 8080, 3).unwrap_or_else(|error| panic!("{error}"));
            assert!(wrong.is_lost());
            wrong.keep().unwrap();
            let refused = wrong.compared(Err("--port 7000 --nodes 3".into())).err().unwrap();
            assert!(refused.to_string().contains("--port 7000 --nodes 3"), "{refused}");
            drop(wrong);
            let right = taken(scratch.path(), 7000, 3).unwrap_or_else(|error| panic!("{error}"));
            right.compared(Ok(())).unwrap();
            assert!(fs::read_to_string(&shape).unwrap().contains("7000"));
        }
    }

    #[test]
    fn only_the_user_of_the_cluster_may_read_its_files() {
        use std::os::unix::fs::PermissionsExt;
        let scratch = tempfile::tempdir().unwrap();
        let path = scratch.path().join("data");
        let directory = taken(&path, 7000, 3).unwrap_or_else(|error| panic!("{error}"));
        directory.keep().unwrap();
        open_log(&directory.log_of_node(0)).unwrap();
        let mode = |path: &Path| path.metadata().unwrap().permissions().mode() & 0o777;
        assert_eq!(mode(&path), 0o700);
        for file in ["node-0.log", SHAPE_FILE, LOCK_FILE] {
            assert_eq!(mode(&path.join(file)), 0o600, "{file}");
        }
    }

    #[test]
    fn a_link_to_nothing_is_named() {
        let scratch = tempfile::tempdir().unwrap();
        let link = scratch.path().join("data");
        std::os::unix::fs::symlink("nowhere", &link).unwrap();
        let error = taken(&link, 8080, 3).err().unwrap().to_string();
        assert!(error.contains("symbolic link to something that does not exist"), "{error}");
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
