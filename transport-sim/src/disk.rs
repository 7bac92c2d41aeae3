//! The disk of a simulated machine, as used by one life of the node on it.
//!
//! The futures of a killed node are dropped some time later, when its next life may already run.
//! Their destructors clean up, which a real process could not do any more. So each life has its own
//! handle to the disk, which stops working when the life is over.

use std::fmt;
use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use storage::testing::{MemDisk, MemFile};
use storage::{Disk, LockError};

/// The state of one life of a node: going on or over.
#[derive(Clone, Debug, Default)]
pub(crate) struct Life {
    over: Arc<AtomicBool>,
}

impl Life {
    pub fn is_over(&self) -> bool {
        self.over.load(Ordering::Relaxed)
    }

    pub fn end(&self) {
        self.over.store(true, Ordering::Relaxed);
    }
}

/// A change of the name of a file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum NameChange {
    /// A file has this name now.
    Renamed,
    /// No file has this name any more.
    Removed,
}

/// A function that is called after each change of a name.
type Watcher = Arc<dyn Fn(NameChange, &str) + Send + Sync>;

/// A life's handle to a disk.
#[derive(Clone)]
pub(crate) struct SimDisk {
    disk: MemDisk,
    life: Life,
    watcher: Option<Watcher>,
}

impl fmt::Debug for SimDisk {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let SimDisk { disk, life, watcher: _ } = self;
        f.debug_struct("SimDisk").field("disk", disk).field("life", life).finish_non_exhaustive()
    }
}

impl SimDisk {
    pub fn new(disk: MemDisk, life: Life) -> Self {
        SimDisk { disk, life, watcher: None }
    }

    /// Calls `watcher` after each change of a name.
    pub fn watched(self, watcher: impl Fn(NameChange, &str) + Send + Sync + 'static) -> Self {
        SimDisk { watcher: Some(Arc::new(watcher)), ..self }
    }

    fn changed(&self, change: NameChange, path: &str) {
        if let Some(watcher) = &self.watcher {
            watcher(change, path);
        }
    }

    fn disk(&self) -> io::Result<&MemDisk> {
        match self.life.is_over() {
            false => Ok(&self.disk),
            true => Err(io::Error::other("the process is gone")),
        }
    }
}

impl Disk for SimDisk {
    /// An open file fails by itself once the process or the machine has gone down.
    type File = MemFile;

    fn lock(&self) -> Result<(), LockError> {
        self.disk.lock()
    }

    fn create_dir(&self, dir: &str) -> io::Result<()> {
        self.disk()?.create_dir(dir)
    }

    fn list(&self, dir: &str) -> io::Result<Vec<String>> {
        self.disk()?.list(dir)
    }

    fn create(&self, path: &str) -> io::Result<MemFile> {
        self.disk()?.create(path)
    }

    fn open(&self, path: &str) -> io::Result<MemFile> {
        self.disk()?.open(path)
    }

    fn rename(&self, from: &str, to: &str) -> io::Result<()> {
        self.disk()?.rename(from, to)?;
        self.changed(NameChange::Renamed, to);
        Ok(())
    }

    fn remove(&self, path: &str) -> io::Result<()> {
        self.disk()?.remove(path)?;
        self.changed(NameChange::Removed, path);
        Ok(())
    }

    fn sync_dir(&self, dir: &str) -> io::Result<()> {
        self.disk()?.sync_dir(dir)
    }

    fn free_bytes(&self) -> Option<u64> {
        self.disk().ok()?.free_bytes()
    }
}
