//! The seam between this crate and the disk.
//!
//! A [`Disk`] is one data directory. The methods are those that durability hangs on, and no more: what
//! is not synced may be lost, in any part and any order; a name that was made, changed or removed may
//! be as before until its directory is synced. Code above the seam relies on nothing else.
//!
//! Paths are relative, with `/` between their parts: `log/0000000000000001.seg`. The directory itself
//! is `""`.

use std::io;
use std::path::PathBuf;

/// A data directory. A clone is another handle to the same directory.
pub trait Disk: Clone + Send + 'static {
    /// A file of it.
    type File: DiskFile;

    /// Makes the directory if it is missing, and takes hold of it for this process, until the last
    /// clone of this handle is dropped.
    fn lock(&self) -> Result<(), LockError>;

    /// Makes the directory `dir` if it is missing.
    fn create_dir(&self, dir: &str) -> io::Result<()>;

    /// The names of the files in `dir`, sorted.
    fn list(&self, dir: &str) -> io::Result<Vec<String>>;

    /// Makes an empty file. It is an error if the name exists.
    fn create(&self, path: &str) -> io::Result<Self::File>;

    /// Opens a file that exists, to read and to write.
    fn open(&self, path: &str) -> io::Result<Self::File>;

    /// Gives a file another name, in the place of the file that has it, if there is one.
    fn rename(&self, from: &str, to: &str) -> io::Result<()>;

    /// Removes a file.
    fn remove(&self, path: &str) -> io::Result<()>;

    /// Makes the names in `dir` durable.
    fn sync_dir(&self, dir: &str) -> io::Result<()>;

    /// What an operator calls this file or directory: for error messages.
    fn describe(&self, path: &str) -> String {
        path.to_owned()
    }
}

/// An open file.
pub trait DiskFile: Send + 'static {
    /// How many bytes it has.
    fn len(&self) -> io::Result<u64>;

    /// Whether it has none.
    fn is_empty(&self) -> io::Result<bool> {
        Ok(self.len()? == 0)
    }

    /// Reads from `offset` on; returns how many bytes, 0 at the end and beyond it.
    fn read_at(&self, offset: u64, buf: &mut [u8]) -> io::Result<usize>;

    /// Writes all of `data` at `offset`. After an error any part of it may have been written.
    fn write_at(&mut self, offset: u64, data: &[u8]) -> io::Result<()>;

    /// Makes the content durable, and the length as far as the content needs it. After an error
    /// nobody knows what the disk holds: a second call that succeeds proves nothing.
    fn sync_data(&mut self) -> io::Result<()>;

    /// Cuts the file, or extends it with zeros.
    fn set_len(&mut self, len: u64) -> io::Result<()>;
}

/// Whether a file could not be opened or made for want of file descriptors or memory. That passes, and
/// says nothing about the disk.
pub(crate) fn is_want_of_resources(error: &io::Error) -> bool {
    // These three numbers are the same on Linux and macOS; `io::ErrorKind` has no names for all.
    const ENOMEM: i32 = 12;
    const ENFILE: i32 = 23;
    const EMFILE: i32 = 24;
    matches!(error.raw_os_error(), Some(ENOMEM | ENFILE | EMFILE))
}

/// Reads from `offset` until `buf` is full; an early end of the file is an error.
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

/// Reads a whole file that is at most `bytes_max` long.
pub(crate) fn read_file(file: &impl DiskFile, bytes_max: u64) -> io::Result<Vec<u8>> {
    let len = file.len()?;
    if len > bytes_max {
        return Err(io::Error::new(io::ErrorKind::InvalidData, "the file is too long"));
    }
    let mut content = vec![0; usize::try_from(len).map_err(io::Error::other)?];
    read_exact_at(file, 0, &mut content)?;
    Ok(content)
}

/// Writes a small file so that after a crash it is there whole, or its predecessor is: a temporary
/// file, a sync, a rename, a sync of the directory.
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

/// Why a data directory could not be taken hold of.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum LockError {
    /// Another process uses it. Stop that process, or name another directory.
    #[error("{}: another process holds this data directory; stop it first", .directory.display())]
    Held {
        /// Which directory.
        directory: PathBuf,
    },
    /// It cannot be made or written to. The cause says what to change.
    #[error(
        "{}: the data directory, or the file LOCK in it, cannot be made or written to: {source}",
        .directory.display()
    )]
    Io {
        /// Which directory.
        directory: PathBuf,
        /// The operating system's words.
        source: io::Error,
    },
}
