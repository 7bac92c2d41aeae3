//! The disk of a simulated machine, as used by one life of the node on it.
//!
//! The futures of a killed node are dropped some time later, when its next life may already run.
//! Their destructors clean up, which a real process could not do any more. So each life has its own
//! handle to the disk, which stops working when the life is over.

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

/// A life's handle to a disk.
#[derive(Clone, Debug)]
pub(crate) struct SimDisk {
    disk: MemDisk,
    life: Life,
}

impl SimDisk {
    pub fn new(disk: MemDisk, life: Life) -> Self {
        SimDisk { disk, life }
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
        self.disk()?.rename(from, to)
    }

    fn remove(&self, path: &str) -> io::Result<()> {
        self.disk()?.remove(path)
    }

    fn sync_dir(&self, dir: &str) -> io::Result<()> {
        self.disk()?.sync_dir(dir)
    }

    fn free_bytes(&self) -> Option<u64> {
        self.disk().ok()?.free_bytes()
    }
}
