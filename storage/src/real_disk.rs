//! A data directory in the file system.
//!
//! A data sync is `fdatasync` on Linux. On macOS the standard library's `sync_data` is
//! `F_FULLFSYNC`, the only call there that reaches the medium. The lock is the operating system's
//! (`flock`), so it is released when the process ends in any way. It is on the file LOCK and on the
//! directory itself: somebody may remove LOCK under a running node. Only Unix is supported.

use crate::disk::{is_want_of_resources, out_of_place};
use crate::{Disk, DiskFile, LockError};
use std::fs::{self, DirBuilder, File, OpenOptions, TryLockError};
use std::io;
use std::os::unix::fs::{DirBuilderExt, FileExt, MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

/// Attempts to open a file while the process or the system is out of file descriptors or memory.
const OPEN_TRIES: u32 = 20;
/// The pause between two attempts.
const OPEN_PAUSE: Duration = Duration::from_millis(50);

/// The mode of new directories: only the user of the node may enter them. The umask applies too.
pub const DIRECTORY_MODE: u32 = 0o700;
/// The mode of new files: only the user of the node may read them. The umask applies too.
pub const FILE_MODE: u32 = 0o600;

/// Creates a directory and its parents, with [`DIRECTORY_MODE`], and makes their names durable. One
/// that exists keeps its mode.
fn create_directory(path: &Path) -> io::Result<()> {
    let is_missing = |part: &&Path| !part.as_os_str().is_empty() && !part.exists();
    let created: Vec<&Path> = path.ancestors().take_while(is_missing).collect();
    DirBuilder::new().recursive(true).mode(DIRECTORY_MODE).create(path)?;
    for parent in created.into_iter().filter_map(Path::parent) {
        // The parent of a relative name is the current directory.
        let parent = if parent.as_os_str().is_empty() { Path::new(".") } else { parent };
        match patiently(|| File::open(parent)) {
            Ok(parent) => parent.sync_all()?,
            // A directory that may be written to and not read cannot be synced.
            Err(error) if error.kind() == io::ErrorKind::PermissionDenied => {}
            Err(error) => return Err(error),
        }
    }
    Ok(())
}

/// The name of the lock file.
const LOCK: &str = "LOCK";

/// Retries an open for a second while there are no file descriptors: a client's connection may hold
/// the last one for a moment.
fn patiently<T>(open: impl Fn() -> io::Result<T>) -> io::Result<T> {
    for _ in 1..OPEN_TRIES {
        match open() {
            Err(error) if is_want_of_resources(&error) => std::thread::sleep(OPEN_PAUSE),
            result => return result,
        }
    }
    open()
}

/// An error of the permissions or the form of the tree, with the path in its text. Others keep the
/// number of the operating system, by which callers tell want of resources from damage.
fn at(path: &Path, what: &str, error: io::Error) -> io::Error {
    match error.kind() {
        io::ErrorKind::PermissionDenied
        | io::ErrorKind::NotADirectory
        | io::ErrorKind::IsADirectory
        | io::ErrorKind::ReadOnlyFilesystem => {
            let text = format!("cannot {what} {}: {error}", path.display());
            io::Error::new(error.kind(), text)
        }
        _ => error,
    }
}

/// The part of a path that is a symbolic link to something that does not exist.
fn dangling_link(path: &Path) -> Option<&Path> {
    let is_dangling = |part: &&Path| part.is_symlink() && !part.exists();
    path.ancestors().find(is_dangling)
}

/// A data directory on a real disk. A clone is another handle to it.
#[derive(Clone, Debug)]
pub struct RealDisk {
    shared: Arc<Shared>,
}

#[derive(Debug)]
struct Shared {
    directory: PathBuf,
    lock: Mutex<Option<Locks>>,
}

/// The locks that are held.
#[derive(Debug)]
struct Locks {
    /// The file LOCK.
    file: File,
    /// The directory, unless the file system locks no directories.
    _directory: Option<File>,
}

/// Locks the directory itself, if the file system can do that.
fn lock_directory(path: &Path) -> Result<Option<File>, TryLockError> {
    let Ok(directory) = patiently(|| File::open(path)) else { return Ok(None) };
    match directory.try_lock() {
        Ok(()) => Ok(Some(directory)),
        Err(TryLockError::WouldBlock) => Err(TryLockError::WouldBlock),
        Err(TryLockError::Error(_)) => Ok(None),
    }
}

impl RealDisk {
    /// The directory at `directory`. It is not accessed before [`Disk::lock`].
    pub fn new(directory: impl Into<PathBuf>) -> Self {
        let shared = Shared { directory: directory.into(), lock: Mutex::new(None) };
        RealDisk { shared: Arc::new(shared) }
    }

    /// The path of the directory.
    pub fn directory(&self) -> &Path {
        &self.shared.directory
    }

    fn path(&self, path: &str) -> PathBuf {
        self.shared.directory.join(path)
    }
}

impl Disk for RealDisk {
    type File = RealFile;

    fn lock(&self) -> Result<(), LockError> {
        let directory = &self.shared.directory;
        let io = |source| LockError::Io { directory: directory.clone(), source };
        let mut lock = self.shared.lock.lock().unwrap_or_else(PoisonError::into_inner);
        if lock.is_some() {
            return Ok(());
        }
        create_directory(directory).map_err(|error| match error.kind() {
            io::ErrorKind::AlreadyExists | io::ErrorKind::NotADirectory => {
                let message = match dangling_link(directory) {
                    Some(link) => format!(
                        "{} is a symbolic link to something that does not exist",
                        link.display()
                    ),
                    None => "it, or a part of its path, is a file; a directory is needed".into(),
                };
                io(io::Error::new(io::ErrorKind::NotADirectory, message))
            }
            _ => io(error),
        })?;
        let mut options = OpenOptions::new();
        options.create(true).truncate(false).read(true).write(true).mode(FILE_MODE);
        let file = options.open(self.path(LOCK)).map_err(io)?;
        let why = |error| match error {
            TryLockError::WouldBlock => LockError::Held { directory: directory.clone() },
            TryLockError::Error(source) => io(source),
        };
        file.try_lock().map_err(why)?;
        let _directory = lock_directory(directory).map_err(why)?;
        *lock = Some(Locks { file, _directory });
        Ok(())
    }

    fn create_dir(&self, dir: &str) -> io::Result<()> {
        create_directory(&self.path(dir))
    }

    fn list(&self, dir: &str) -> io::Result<Vec<String>> {
        let mut names = Vec::new();
        let path = self.path(dir);
        let entries =
            patiently(|| fs::read_dir(&path)).map_err(|error| at(&path, "list", error))?;
        for entry in entries {
            let entry = entry?;
            // Our names are all UTF-8.
            if let (true, Ok(name)) =
                (entry.file_type()?.is_file(), entry.file_name().into_string())
            {
                names.push(name);
            }
        }
        names.sort_unstable();
        Ok(names)
    }

    fn create(&self, path: &str) -> io::Result<RealFile> {
        let mut options = OpenOptions::new();
        options.create_new(true).read(true).write(true).mode(FILE_MODE);
        let path = self.path(path);
        Ok(RealFile { file: patiently(|| options.open(&path))?, path })
    }

    fn open(&self, path: &str) -> io::Result<RealFile> {
        let path = self.path(path);
        let open = || OpenOptions::new().read(true).write(true).open(&path);
        let file = patiently(open).map_err(|error| at(&path, "open", error))?;
        Ok(RealFile { file, path })
    }

    fn rename(&self, from: &str, to: &str) -> io::Result<()> {
        let path = self.path(to);
        fs::rename(self.path(from), &path).map_err(|error| at(&path, "rename to", error))
    }

    fn remove(&self, path: &str) -> io::Result<()> {
        let path = self.path(path);
        fs::remove_file(&path).map_err(|error| at(&path, "remove", error))
    }

    fn sync_dir(&self, dir: &str) -> io::Result<()> {
        let path = self.path(dir);
        let directory =
            patiently(|| File::open(&path)).map_err(|error| at(&path, "open", error))?;
        directory.sync_all()
    }

    fn check_in_place(&self) -> io::Result<()> {
        let lock = self.shared.lock.lock().unwrap_or_else(PoisonError::into_inner);
        let Some(lock) = &*lock else { return Ok(()) };
        // The lock file belongs to the directory that was locked, so one comparison is enough.
        let of = |file: &fs::Metadata| (file.dev(), file.ino());
        let place = self.directory().display();
        match fs::metadata(self.path(LOCK)) {
            Ok(found) if of(&found) == of(&lock.file.metadata()?) => Ok(()),
            Ok(_) => Err(out_of_place(&format!("{place} was replaced"))),
            Err(error)
                if matches!(
                    error.kind(),
                    io::ErrorKind::NotFound | io::ErrorKind::NotADirectory
                ) =>
            {
                Err(out_of_place(&format!("{place}, or the file LOCK in it, was removed")))
            }
            // For instance want of memory: this is no proof of anything.
            Err(_) => Ok(()),
        }
    }

    fn free_bytes(&self) -> Option<u64> {
        let room = rustix::fs::statvfs(self.directory()).ok()?;
        // Some network file systems do not know their size, and report zeros.
        (room.f_blocks > 0).then(|| room.f_bavail.saturating_mul(room.f_frsize))
    }

    fn free_files(&self) -> Option<u64> {
        let room = rustix::fs::statvfs(self.directory()).ok()?;
        // Some file systems have no fixed number of inodes, and report zeros.
        (room.f_files > 0).then_some(room.f_favail)
    }

    fn describe(&self, path: &str) -> String {
        self.path(path).display().to_string()
    }
}

/// A file on a real disk.
#[derive(Debug)]
pub struct RealFile {
    file: File,
    /// The name under which it was opened.
    path: PathBuf,
}

impl RealFile {
    /// An error of a write. A file beyond the limit of the process is named, with the limit.
    fn named(&self, error: io::Error) -> io::Error {
        match error.kind() {
            io::ErrorKind::FileTooLarge => {
                let text = format!("{}: {error} (see ulimit -f)", self.path.display());
                io::Error::new(io::ErrorKind::FileTooLarge, text)
            }
            _ => error,
        }
    }
}

impl DiskFile for RealFile {
    fn len(&self) -> io::Result<u64> {
        Ok(self.file.metadata()?.len())
    }

    fn has_name(&self) -> io::Result<bool> {
        Ok(self.file.metadata()?.nlink() > 0)
    }

    fn read_at(&self, offset: u64, buf: &mut [u8]) -> io::Result<usize> {
        loop {
            match self.file.read_at(buf, offset) {
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                result => return result,
            }
        }
    }

    #[cfg(any(target_os = "linux", target_os = "android"))]
    fn reserve(&mut self, bytes: u64) -> io::Result<()> {
        use rustix::fs::{FallocateFlags, fallocate};
        use rustix::io::Errno;
        loop {
            match fallocate(&self.file, FallocateFlags::KEEP_SIZE, 0, bytes) {
                Err(Errno::INTR) => {}
                // The file system cannot reserve. The free bytes were checked.
                Err(Errno::OPNOTSUPP | Errno::NOSYS) => return Ok(()),
                result => return result.map_err(|error| self.named(error.into())),
            }
        }
    }

    fn write_at(&mut self, offset: u64, data: &[u8]) -> io::Result<()> {
        self.file.write_all_at(data, offset).map_err(|error| self.named(error))
    }

    fn sync_data(&mut self) -> io::Result<()> {
        self.file.sync_data()
    }

    fn set_len(&mut self, len: u64) -> io::Result<()> {
        self.file.set_len(len)
    }
}
