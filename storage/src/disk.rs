//! The interface between this crate and the disk.
//!
//! A [`Disk`] is one data directory. It has only the operations that durability depends on. Content
//! that is not synced may be lost, in any part and any order. A name that was created, changed or
//! removed may revert until its directory is synced. Code above this interface relies on nothing
//! else.
//!
//! Paths are relative, with `/` as the separator: `log/0000000000000001.seg`. The directory itself
//! is `""`.

use std::io;
use std::path::PathBuf;

/// A data directory. A clone is another handle to the same directory.
pub trait Disk: Clone + Send + 'static {
    /// An open file of the directory.
    type File: DiskFile;

    /// Creates the directory if it is missing, and locks it for this process until the last clone
    /// of this handle is dropped.
    fn lock(&self) -> Result<(), LockError>;

    /// Creates the subdirectory `dir` if it is missing.
    fn create_dir(&self, dir: &str) -> io::Result<()>;

    /// The names of the files in `dir`, sorted.
    fn list(&self, dir: &str) -> io::Result<Vec<String>>;

    /// Creates an empty file, open for reading and writing. Fails if the name exists.
    fn create(&self, path: &str) -> io::Result<Self::File>;

    /// Opens an existing file for reading and writing.
    fn open(&self, path: &str) -> io::Result<Self::File>;

    /// Renames a file. It replaces the file `to`, if there is one.
    fn rename(&self, from: &str, to: &str) -> io::Result<()>;

    /// Removes a file.
    fn remove(&self, path: &str) -> io::Result<()>;

    /// Makes the names in `dir` durable: files created, renamed and removed.
    fn sync_dir(&self, dir: &str) -> io::Result<()>;

    /// Fails if the directory that was locked is no longer at its place. Its open files can still
    /// be written, but no start would find them.
    fn check_in_place(&self) -> io::Result<()> {
        Ok(())
    }

    /// The bytes that are free for this process; `None` if that is not known. Quotas may leave
    /// less.
    fn free_bytes(&self) -> Option<u64> {
        None
    }

    /// The files that this process can still create (free inodes); `None` if that is not known.
    fn free_files(&self) -> Option<u64> {
        None
    }

    /// The name of this file or directory for an operator, for error messages.
    fn describe(&self, path: &str) -> String {
        path.to_owned()
    }
}

/// An open file.
pub trait DiskFile: Send + 'static {
    /// The length in bytes.
    fn len(&self) -> io::Result<u64>;

    /// Whether the length is 0.
    fn is_empty(&self) -> io::Result<bool> {
        Ok(self.len()? == 0)
    }

    /// Whether the file still has a name. If not, its content is gone once it is closed.
    fn has_name(&self) -> io::Result<bool> {
        Ok(true)
    }

    /// Reads from `offset` on. Returns the number of bytes read: 0 at or beyond the end.
    fn read_at(&self, offset: u64, buf: &mut [u8]) -> io::Result<usize>;

    /// Reserves room for the first `bytes` of the file, and writes nothing. It fails if there is no
    /// room. A success is no promise: not all file systems can reserve.
    fn reserve(&mut self, _bytes: u64) -> io::Result<()> {
        Ok(())
    }

    /// Writes all of `data` at `offset`. After an error any part of it may have been written.
    fn write_at(&mut self, offset: u64, data: &[u8]) -> io::Result<()>;

    /// Makes the content durable, and the length as far as the content needs it. After an error the
    /// content of the disk is unknown: a second call that succeeds proves nothing.
    fn sync_data(&mut self) -> io::Result<()>;

    /// Truncates the file, or extends it with zeros.
    fn set_len(&mut self, len: u64) -> io::Result<()>;
}

/// The error for something that was removed or replaced under a running node.
pub(crate) fn out_of_place(what: &str) -> io::Error {
    let text = format!(
        "{what} while the node was running; nothing that was written since is acknowledged. Put the \
         directory back before the node is started again"
    );
    io::Error::new(io::ErrorKind::NotFound, text)
}

/// An error of the operating system, with the file in its text. The error is its source, so that
/// its number is not lost: a disk that has failed (EIO) has no kind of its own.
#[derive(Debug, thiserror::Error)]
#[error("{text}")]
struct Named {
    text: String,
    source: io::Error,
}

/// The same error with another text.
pub(crate) fn with_text(error: io::Error, text: String) -> io::Error {
    io::Error::new(error.kind(), Named { text, source: error })
}

/// An error of creating or writing the file `path`, with the name of the file in its text. A file
/// system without room may have bytes, but no inodes.
pub(crate) fn named(disk: &impl Disk, path: &str, error: io::Error) -> io::Error {
    let file = disk.describe(path);
    let text = match (error.kind(), disk.free_files()) {
        // It is named already, with the limit of the process.
        (io::ErrorKind::FileTooLarge, _) => return error,
        (io::ErrorKind::StorageFull, Some(0)) => format!("{file}: {NO_INODES}"),
        _ => format!("{file}: {error}"),
    };
    with_text(error, text)
}

/// For an operator: there is no room for a further file, however many bytes are free.
pub(crate) const NO_INODES: &str = "the file system has no free inodes (see df -i): remove files";

/// Whether an operation failed because file descriptors or memory ran out. That is temporary, and
/// not a failure of the disk.
pub(crate) fn is_want_of_resources(error: &io::Error) -> bool {
    use rustix::io::Errno;
    const WANTS: [Errno; 4] = [Errno::NOMEM, Errno::NOBUFS, Errno::NFILE, Errno::MFILE];
    let number = error.raw_os_error();
    error.kind() == io::ErrorKind::OutOfMemory
        || WANTS.iter().any(|want| number == Some(want.raw_os_error()))
}

/// Reads from `offset` until `buf` is full. An early end of the file is an error.
pub(crate) fn read_exact_at(
    file: &impl DiskFile,
    mut offset: u64,
    mut buf: &mut [u8],
) -> io::Result<()> {
    while !buf.is_empty() {
        let read = file.read_at(offset, buf)?;
        if read == 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        offset += read as u64;
        buf = &mut buf[read..];
    }
    Ok(())
}

/// Reads a whole file. A file longer than `bytes_max` is an error.
pub(crate) fn read_file(file: &impl DiskFile, bytes_max: u64) -> io::Result<Vec<u8>> {
    let len = file.len()?;
    if len > bytes_max {
        return Err(io::Error::new(io::ErrorKind::InvalidData, "the file is too long"));
    }
    let mut content = vec![0; usize::try_from(len).map_err(io::Error::other)?];
    read_exact_at(file, 0, &mut content)?;
    Ok(content)
}

/// Replaces a small file atomically: after a crash either the new or the old content is there. It
/// writes and syncs a temporary file, renames it, and syncs the directory.
pub(crate) fn replace_file(
    disk: &impl Disk,
    dir: &str,
    path: &str,
    content: &[u8],
) -> io::Result<()> {
    let temporary = format!("{path}.tmp");
    match disk.remove(&temporary) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    let mut file = disk.create(&temporary)?;
    file.write_at(0, content)?;
    file.sync_data()?;
    drop(file);
    disk.rename(&temporary, path)?;
    disk.sync_dir(dir)
}

/// Why a data directory could not be locked.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum LockError {
    /// Another process uses the directory. Stop that process, or use another directory.
    #[error(
        "{}: another process holds this data directory, or a node of this process that has not ended \
         yet; stop it first",
        .directory.display()
    )]
    Held {
        /// The path of the directory.
        directory: PathBuf,
    },
    /// The directory cannot be created or written to. The cause says what to change.
    #[error(
        "{}: the data directory, or the file LOCK in it, cannot be made or written to: {source}",
        .directory.display()
    )]
    Io {
        /// The path of the directory.
        directory: PathBuf,
        /// The error of the operating system.
        source: io::Error,
    },
}
