//! A disk in memory with injected faults and power failures.
//!
//! It keeps two images: the volatile one, which programs see, and the durable one, which a power
//! failure leaves. A write is volatile until its file is synced. A created, changed or removed name
//! is volatile until its directory is synced. At [`MemDisk::crash`] a callback decides about
//! everything volatile, sector by sector and name by name, in a fixed order. The disk itself draws
//! no random numbers, so the same decisions result in the same disk. A hook decides about faults
//! before each operation ([`MemDisk::set_faults`]).
//!
//! A clone is another handle to the same disk.

use crate::{Disk, DiskFile, LockError};
use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::io;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// The size in bytes of a sector, which the disk writes completely or not at all.
pub const SECTOR_BYTES: usize = 512;

/// A disk in memory with injected faults.
#[derive(Clone, Debug, Default)]
pub struct MemDisk {
    shared: Arc<Mutex<Shared>>,
}

#[derive(Default)]
struct Shared {
    files: BTreeMap<u64, Content>,
    next_file: u64,
    /// The volatile names: paths to files.
    names: BTreeMap<String, u64>,
    /// The durable names: paths to files.
    durable_names: BTreeMap<String, u64>,
    /// Changes of names that are not synced, oldest first.
    pending_names: Vec<NameChange>,
    /// Increased at every crash, so that files opened earlier become invalid.
    life: u64,
    locked: bool,
    /// The most bytes of all files together.
    capacity_bytes: Option<u64>,
    files_max: Option<usize>,
    faults: Option<Faults>,
    /// Operations that have failed by a verdict of the faults.
    failed: u64,
}

/// Decides the result of each operation.
pub type Faults = Box<dyn FnMut(DiskOperation<'_>) -> DiskVerdict + Send>;

impl fmt::Debug for Shared {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("MemDisk").field("names", &self.names).finish_non_exhaustive()
    }
}

/// The two images of a file.
#[derive(Clone, Debug, Default)]
struct Content {
    /// The latest volatile name of the file.
    path: String,
    volatile: Vec<u8>,
    durable: Vec<u8>,
    /// Sectors whose images may differ: ranges, oldest first, possibly overlapping.
    unsynced: Vec<(u64, u64)>,
}

impl Content {
    fn sync(&mut self) {
        self.durable.resize(self.volatile.len(), 0);
        for (from, to) in std::mem::take(&mut self.unsynced) {
            let from = from as usize * SECTOR_BYTES;
            let to = (to as usize * SECTOR_BYTES).min(self.volatile.len());
            if from < to {
                self.durable[from..to].copy_from_slice(&self.volatile[from..to]);
            }
        }
    }

    /// Copies one sector from the volatile image to the durable one, with one byte changed by
    /// `flip`.
    fn keep(&mut self, sector: u64, flip: Option<(usize, u8)>) {
        let from = sector as usize * SECTOR_BYTES;
        let to = (from + SECTOR_BYTES).min(self.volatile.len());
        if from >= to {
            return;
        }
        if self.durable.len() < to {
            self.durable.resize(to, 0);
        }
        self.durable[from..to].copy_from_slice(&self.volatile[from..to]);
        if let Some((at, mask)) = flip {
            self.durable[from + at % (to - from)] ^= mask;
        }
    }
}

/// A change of names that is not synced yet.
#[derive(Clone, Debug)]
enum NameChange {
    Set { path: String, file: u64 },
    Rename { from: String, to: String },
    Remove { path: String },
}

impl NameChange {
    fn touches(&self, dir: &str) -> bool {
        match self {
            NameChange::Set { path, .. } | NameChange::Remove { path } => dir_of(path) == dir,
            NameChange::Rename { from, to } => dir_of(from) == dir || dir_of(to) == dir,
        }
    }

    fn apply(&self, names: &mut BTreeMap<String, u64>) {
        match self {
            NameChange::Set { path, file } => {
                names.insert(path.clone(), *file);
            }
            NameChange::Rename { from, to } => {
                if let Some(file) = names.remove(from) {
                    names.insert(to.clone(), file);
                }
            }
            NameChange::Remove { path } => {
                names.remove(path);
            }
        }
    }
}

fn dir_of(path: &str) -> &str {
    path.rsplit_once('/').map_or("", |(dir, _)| dir)
}

/// An operation that is about to be carried out.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum DiskOperation<'a> {
    /// Bytes are read from a file.
    Read {
        /// The path of the file.
        path: &'a str,
        /// The offset in the file.
        offset: u64,
        /// The number of bytes.
        len: usize,
    },
    /// Bytes are written to a file.
    Write {
        /// The path of the file.
        path: &'a str,
        /// The offset in the file.
        offset: u64,
        /// The number of bytes.
        len: usize,
    },
    /// A file is synced.
    Sync {
        /// The path of the file.
        path: &'a str,
    },
    /// The names in a directory are synced.
    SyncDir {
        /// The path of the directory.
        dir: &'a str,
    },
    /// A file is created.
    Create {
        /// The path of the file.
        path: &'a str,
    },
    /// A file is renamed.
    Rename {
        /// The old path.
        from: &'a str,
        /// The new path.
        to: &'a str,
    },
    /// A file is removed.
    Remove {
        /// The path of the file.
        path: &'a str,
    },
}

/// The result of an operation.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum DiskVerdict {
    /// The operation succeeds.
    Done,
    /// The operation fails. Of a write, the first `done_bytes` are written all the same.
    Fails {
        /// The error that the program receives.
        kind: io::ErrorKind,
        /// The bytes of a write that are written.
        done_bytes: usize,
    },
    /// A sync fails, and the unsynced content counts as clean from then on. Programs still see that
    /// content, the next sync succeeds without writing it, and a power failure loses it.
    FailsAndForgets,
}

/// Something volatile that a power failure may lose.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Unsynced<'a> {
    /// The oldest change of names that is not synced. Once one is lost, all later ones in all
    /// directories are lost too, as in a journal.
    Name {
        /// The path that is created, renamed to, or removed.
        path: &'a str,
    },
    /// A sector of a file that was written and not synced.
    Sector {
        /// The file, by its name after the crash.
        path: &'a str,
        /// The number of the sector, from 0.
        sector: u64,
    },
}

/// The effect of a power failure on something volatile.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum SectorFate {
    /// The write or the change is lost.
    Lost,
    /// The write or the change survives.
    Kept,
    /// A sector survives with one byte changed by `mask`. A name survives unchanged.
    Flipped {
        /// The byte of the sector, modulo its length.
        at: usize,
        /// The bits of the byte to flip.
        mask: u8,
    },
}

impl MemDisk {
    /// An empty disk.
    pub fn new() -> Self {
        Self::default()
    }

    /// Sets the hook that decides the result of each operation.
    pub fn set_faults(&self, faults: Faults) {
        self.shared().faults = Some(faults);
    }

    /// Removes the hook: from now on every operation succeeds.
    pub fn clear_faults(&self) {
        self.shared().faults = None;
    }

    /// Limits the total length of all files. Writes beyond it fail for lack of space.
    pub fn set_capacity(&self, capacity_bytes: Option<u64>) {
        self.shared().capacity_bytes = capacity_bytes;
    }

    /// The number of operations that [`MemDisk::set_faults`] has made to fail so far, but for syncs
    /// that lost data.
    pub fn failed_operations(&self) -> u64 {
        self.shared().failed
    }

    /// Limits the number of files. Creating more fails for lack of space, as without inodes.
    pub fn set_files_max(&self, files_max: Option<usize>) {
        self.shared().files_max = files_max;
    }

    /// The total length of all files in bytes.
    pub fn used_bytes(&self) -> u64 {
        self.shared().used_bytes()
    }

    /// A power failure. `fate` decides about everything volatile: first the changes of names,
    /// oldest first, then the sectors, by path and number. Open files become invalid, and the lock
    /// is released.
    pub fn crash(&self, mut fate: impl FnMut(Unsynced<'_>) -> SectorFate) {
        let mut shared = self.shared();
        let shared = &mut *shared;
        for change in std::mem::take(&mut shared.pending_names) {
            let path = match &change {
                NameChange::Set { path, .. } | NameChange::Remove { path } => path,
                NameChange::Rename { to, .. } => to,
            };
            if fate(Unsynced::Name { path }) == SectorFate::Lost {
                break;
            }
            change.apply(&mut shared.durable_names);
        }
        shared.names = shared.durable_names.clone();
        let named: BTreeSet<u64> = shared.names.values().copied().collect();
        shared.files.retain(|file, _| named.contains(file));
        for (path, file) in &shared.names {
            let Some(content) = shared.files.get_mut(file) else { continue };
            path.clone_into(&mut content.path);
            let mut sectors: Vec<u64> = std::mem::take(&mut content.unsynced)
                .into_iter()
                .flat_map(|(from, to)| from..to)
                .collect();
            sectors.sort_unstable();
            sectors.dedup();
            for sector in sectors {
                match fate(Unsynced::Sector { path, sector }) {
                    SectorFate::Lost => {}
                    SectorFate::Kept => content.keep(sector, None),
                    SectorFate::Flipped { at, mask } => content.keep(sector, Some((at, mask))),
                }
            }
            content.volatile.clone_from(&content.durable);
        }
        shared.life += 1;
        shared.locked = false;
    }

    /// The process is killed and the machine keeps running. Nothing is lost, the lock is released,
    /// and open files become invalid.
    pub fn kill(&self) {
        let mut shared = self.shared();
        shared.life += 1;
        shared.locked = false;
    }

    /// An independent copy of the disk, with both images. It is not locked and has no faults.
    #[must_use]
    pub fn fork(&self) -> MemDisk {
        let shared = self.shared();
        let fork = Shared {
            files: shared.files.clone(),
            next_file: shared.next_file,
            names: shared.names.clone(),
            durable_names: shared.durable_names.clone(),
            pending_names: shared.pending_names.clone(),
            life: 0,
            locked: false,
            capacity_bytes: shared.capacity_bytes,
            files_max: shared.files_max,
            faults: None,
            failed: 0,
        };
        MemDisk { shared: Arc::new(Mutex::new(fork)) }
    }

    /// The paths of all files, sorted.
    pub fn paths(&self) -> Vec<String> {
        self.shared().names.keys().cloned().collect()
    }

    /// The volatile content of a file.
    pub fn read(&self, path: &str) -> Option<Vec<u8>> {
        let shared = self.shared();
        let file = shared.names.get(path)?;
        Some(shared.files.get(file)?.volatile.clone())
    }

    /// Damages a file, like rot or a misdirected write: overwrites bytes in both images. Bytes
    /// beyond the end are ignored.
    pub fn damage(&self, path: &str, offset: u64, bytes: &[u8]) {
        let mut shared = self.shared();
        let Some(file) = shared.names.get(path).copied() else { return };
        let Some(content) = shared.files.get_mut(&file) else { return };
        for image in [&mut content.volatile, &mut content.durable] {
            let from = (offset as usize).min(image.len());
            let to = (from + bytes.len()).min(image.len());
            image[from..to].copy_from_slice(&bytes[..to - from]);
        }
    }

    /// Creates or replaces a file, durably.
    pub fn install(&self, path: &str, content: &[u8]) {
        let mut shared = self.shared();
        let shared = &mut *shared;
        let file = shared.next_file;
        shared.next_file += 1;
        let images = Content {
            path: path.to_owned(),
            volatile: content.to_vec(),
            durable: content.to_vec(),
            unsynced: Vec::new(),
        };
        shared.files.insert(file, images);
        shared.names.insert(path.to_owned(), file);
        shared.durable_names.insert(path.to_owned(), file);
    }

    /// Removes a file, durably.
    pub fn lose(&self, path: &str) {
        let mut shared = self.shared();
        shared.names.remove(path);
        shared.durable_names.remove(path);
    }

    fn shared(&self) -> MutexGuard<'_, Shared> {
        self.shared.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Shared {
    fn used_bytes(&self) -> u64 {
        self.files.values().map(|content| content.volatile.len() as u64).sum()
    }

    fn judge(&mut self, operation: DiskOperation<'_>) -> DiskVerdict {
        let verdict = match &mut self.faults {
            Some(faults) => faults(operation),
            None => DiskVerdict::Done,
        };
        self.failed += u64::from(matches!(verdict, DiskVerdict::Fails { .. }));
        verdict
    }

    fn permit(&mut self, operation: DiskOperation<'_>) -> io::Result<()> {
        match self.judge(operation) {
            DiskVerdict::Done => Ok(()),
            DiskVerdict::Fails { kind, .. } => Err(kind.into()),
            DiskVerdict::FailsAndForgets => Err(io::Error::other("input/output error")),
        }
    }

    /// Drops the files that have no name in either image.
    fn collect(&mut self) {
        let named: BTreeSet<u64> = (self.names.values().chain(self.durable_names.values()))
            .copied()
            .chain(self.pending_names.iter().filter_map(|change| match change {
                NameChange::Set { file, .. } => Some(*file),
                _ => None,
            }))
            .collect();
        self.files.retain(|file, _| named.contains(file));
    }
}

impl Disk for MemDisk {
    type File = MemFile;

    fn lock(&self) -> Result<(), LockError> {
        let mut shared = self.shared();
        if shared.locked {
            return Err(LockError::Held { directory: "memory".into() });
        }
        shared.locked = true;
        Ok(())
    }

    /// Directories are implicit in paths, so there is nothing to create or sync.
    fn create_dir(&self, _dir: &str) -> io::Result<()> {
        Ok(())
    }

    fn list(&self, dir: &str) -> io::Result<Vec<String>> {
        let shared = self.shared();
        let names = shared.names.keys().filter(|path| dir_of(path) == dir);
        Ok(names.map(|path| path.rsplit('/').next().unwrap_or(path).to_owned()).collect())
    }

    fn create(&self, path: &str) -> io::Result<MemFile> {
        let mut shared = self.shared();
        shared.permit(DiskOperation::Create { path })?;
        if shared.names.contains_key(path) {
            return Err(io::ErrorKind::AlreadyExists.into());
        }
        if shared.files_max.is_some_and(|max| shared.names.len() >= max) {
            return Err(io::ErrorKind::StorageFull.into());
        }
        let file = shared.next_file;
        shared.next_file += 1;
        shared.files.insert(file, Content { path: path.to_owned(), ..Content::default() });
        shared.names.insert(path.to_owned(), file);
        shared.pending_names.push(NameChange::Set { path: path.to_owned(), file });
        Ok(MemFile { disk: self.clone(), file, life: shared.life })
    }

    fn open(&self, path: &str) -> io::Result<MemFile> {
        let shared = self.shared();
        let file = *shared.names.get(path).ok_or(io::ErrorKind::NotFound)?;
        Ok(MemFile { disk: self.clone(), file, life: shared.life })
    }

    fn rename(&self, from: &str, to: &str) -> io::Result<()> {
        let mut shared = self.shared();
        shared.permit(DiskOperation::Rename { from, to })?;
        let file = *shared.names.get(from).ok_or(io::ErrorKind::NotFound)?;
        if let Some(content) = shared.files.get_mut(&file) {
            to.clone_into(&mut content.path);
        }
        let change = NameChange::Rename { from: from.to_owned(), to: to.to_owned() };
        change.apply(&mut shared.names);
        shared.pending_names.push(change);
        shared.collect();
        Ok(())
    }

    fn remove(&self, path: &str) -> io::Result<()> {
        let mut shared = self.shared();
        shared.permit(DiskOperation::Remove { path })?;
        if !shared.names.contains_key(path) {
            return Err(io::ErrorKind::NotFound.into());
        }
        let change = NameChange::Remove { path: path.to_owned() };
        change.apply(&mut shared.names);
        shared.pending_names.push(change);
        shared.collect();
        Ok(())
    }

    fn free_bytes(&self) -> Option<u64> {
        let shared = self.shared();
        Some(shared.capacity_bytes?.saturating_sub(shared.used_bytes()))
    }

    fn free_files(&self) -> Option<u64> {
        let shared = self.shared();
        Some(shared.files_max?.saturating_sub(shared.names.len()) as u64)
    }

    fn sync_dir(&self, dir: &str) -> io::Result<()> {
        let mut shared = self.shared();
        let shared = &mut *shared;
        shared.permit(DiskOperation::SyncDir { dir })?;
        let pending = std::mem::take(&mut shared.pending_names);
        for change in pending {
            if change.touches(dir) {
                change.apply(&mut shared.durable_names);
            } else {
                shared.pending_names.push(change);
            }
        }
        shared.collect();
        Ok(())
    }
}

/// An open file of a [`MemDisk`].
#[derive(Debug)]
pub struct MemFile {
    disk: MemDisk,
    file: u64,
    life: u64,
}

impl MemFile {
    /// The file's images, unless the machine has crashed since it was opened.
    fn content<'a>(&self, shared: &'a mut Shared) -> io::Result<&'a mut Content> {
        if self.life != shared.life {
            return Err(io::Error::other("the machine has crashed since the file was opened"));
        }
        // An open file whose last name was removed should live on. Here it does so as an empty
        // file.
        Ok(shared.files.entry(self.file).or_default())
    }
}

impl DiskFile for MemFile {
    fn len(&self) -> io::Result<u64> {
        let mut shared = self.disk.shared();
        Ok(self.content(&mut shared)?.volatile.len() as u64)
    }

    fn read_at(&self, offset: u64, buf: &mut [u8]) -> io::Result<usize> {
        let mut shared = self.disk.shared();
        let shared = &mut *shared;
        let path = self.content(shared)?.path.clone();
        shared.permit(DiskOperation::Read { path: &path, offset, len: buf.len() })?;
        let content = self.content(shared)?;
        let from = usize::try_from(offset).unwrap_or(usize::MAX).min(content.volatile.len());
        let read = buf.len().min(content.volatile.len() - from);
        buf[..read].copy_from_slice(&content.volatile[from..from + read]);
        Ok(read)
    }

    fn write_at(&mut self, offset: u64, data: &[u8]) -> io::Result<()> {
        let mut shared = self.disk.shared();
        let path = self.content(&mut shared)?.path.clone();
        let verdict = shared.judge(DiskOperation::Write { path: &path, offset, len: data.len() });
        let (mut len, mut result) = match verdict {
            DiskVerdict::Done => (data.len(), Ok(())),
            DiskVerdict::Fails { kind, done_bytes } => {
                (done_bytes.min(data.len()), Err(kind.into()))
            }
            DiskVerdict::FailsAndForgets => (0, Err(io::Error::other("input/output error"))),
        };
        let old_len = self.content(&mut shared)?.volatile.len() as u64;
        if let Some(capacity) = shared.capacity_bytes {
            let room = capacity.saturating_sub(shared.used_bytes());
            let possible = (old_len + room).saturating_sub(offset);
            if (len as u64) > possible {
                len = possible as usize;
                result = Err(io::ErrorKind::StorageFull.into());
            }
        }
        if len > 0 {
            let content = self.content(&mut shared)?;
            let from = offset as usize;
            if content.volatile.len() < from + len {
                content.volatile.resize(from + len, 0);
            }
            content.volatile[from..from + len].copy_from_slice(&data[..len]);
            // A write beyond the end also creates the hole before it.
            let first = offset.min(old_len) / SECTOR_BYTES as u64;
            let end = (from + len).div_ceil(SECTOR_BYTES) as u64;
            content.unsynced.push((first, end));
        }
        result
    }

    fn sync_data(&mut self) -> io::Result<()> {
        let mut shared = self.disk.shared();
        let path = self.content(&mut shared)?.path.clone();
        let verdict = shared.judge(DiskOperation::Sync { path: &path });
        let content = self.content(&mut shared)?;
        match verdict {
            DiskVerdict::Done => {
                content.sync();
                Ok(())
            }
            DiskVerdict::Fails { kind, .. } => Err(kind.into()),
            DiskVerdict::FailsAndForgets => {
                content.unsynced.clear();
                Err(io::Error::other("input/output error"))
            }
        }
    }

    /// Truncation is durable at once: no code here truncates a file whose content matters.
    fn set_len(&mut self, len: u64) -> io::Result<()> {
        let mut shared = self.disk.shared();
        if let Some(capacity) = shared.capacity_bytes {
            let old = self.content(&mut shared)?.volatile.len() as u64;
            if len > old && shared.used_bytes() + (len - old) > capacity {
                return Err(io::ErrorKind::StorageFull.into());
            }
        }
        let content = self.content(&mut shared)?;
        let len = usize::try_from(len).map_err(io::Error::other)?;
        content.volatile.resize(len, 0);
        content.durable.truncate(len);
        Ok(())
    }
}
