//! A disk in memory that keeps, loses and breaks what it is told to.
//!
//! It tells what programs see (the volatile image) from what a power failure leaves (the durable
//! image). A write is volatile until its file is synced; a name that is made, changed or removed is
//! volatile until its directory is synced. [`MemDisk::crash`] asks its caller about everything that is
//! volatile, sector by sector and name by name, in a fixed order: the disk itself draws nothing, so
//! the same answers give the same disk. What a running program meets is decided by a hook that sees
//! every operation before it is done ([`MemDisk::set_faults`]).
//!
//! A clone is another handle to the same disk.

use crate::{Disk, DiskFile, LockError};
use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::io;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// What a disk writes whole or not at all, in bytes.
pub const SECTOR_BYTES: usize = 512;

/// The disk.
#[derive(Clone, Debug, Default)]
pub struct MemDisk {
    shared: Arc<Mutex<Shared>>,
}

#[derive(Default)]
struct Shared {
    files: BTreeMap<u64, Content>,
    next_file: u64,
    /// What programs see: paths to files.
    names: BTreeMap<String, u64>,
    /// What a power failure leaves.
    durable_names: BTreeMap<String, u64>,
    /// Changes of names that are not synced, oldest first.
    pending_names: Vec<NameChange>,
    /// Goes up with every crash, so that files opened before are known as such.
    life: u64,
    locked: bool,
    /// The most bytes that all files may have together.
    capacity_bytes: Option<u64>,
    faults: Option<Faults>,
}

/// Decides what becomes of each operation.
pub type Faults = Box<dyn FnMut(Operation<'_>) -> Verdict + Send>;

impl fmt::Debug for Shared {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("MemDisk").field("names", &self.names).finish_non_exhaustive()
    }
}

/// A file's two images.
#[derive(Clone, Debug, Default)]
struct Content {
    /// The name that programs know it by now, or last knew it by.
    path: String,
    volatile: Vec<u8>,
    durable: Vec<u8>,
    /// The sectors whose images may differ: ranges, oldest first, perhaps overlapping.
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

    /// Puts one sector of the volatile image, or `content` instead, into the durable one.
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

/// A change of the names, not yet synced.
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

/// An operation that is about to be done.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Operation<'a> {
    /// Of bytes from a file.
    Read {
        /// Which file.
        path: &'a str,
        /// From where.
        offset: u64,
        /// How many.
        len: usize,
    },
    /// Of bytes to a file.
    Write {
        /// Which file.
        path: &'a str,
        /// To where.
        offset: u64,
        /// How many.
        len: usize,
    },
    /// Of a file.
    Sync {
        /// Which file.
        path: &'a str,
    },
    /// Of the names in a directory.
    SyncDir {
        /// Which directory.
        dir: &'a str,
    },
    /// A name is made.
    Create {
        /// Which name.
        path: &'a str,
    },
    /// A name is changed.
    Rename {
        /// Which name.
        from: &'a str,
        /// Into what.
        to: &'a str,
    },
    /// A name is removed.
    Remove {
        /// Which name.
        path: &'a str,
    },
}

/// What becomes of an operation.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Verdict {
    /// It is done.
    Done,
    /// It fails. Of a write, the first `done_bytes` have been done all the same; of anything else,
    /// nothing.
    Fails {
        /// The error that the program sees.
        kind: io::ErrorKind,
        /// How much of a write is done.
        done_bytes: usize,
    },
    /// Of a sync: it fails, and what it should have written counts as clean from now on. Programs
    /// still see it, the next sync succeeds without writing it, and a power failure loses it.
    FailsAndForgets,
}

/// Something that a power failure may take.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Unsynced<'a> {
    /// Of the changes of names made since the last sync of a directory, the next one, oldest first.
    /// Once one is lost, the later ones of all directories are lost too, as in a journal.
    Name {
        /// The name it gives or takes.
        path: &'a str,
    },
    /// A sector of a file that was written.
    Sector {
        /// The file, by a name that survives.
        path: &'a str,
        /// Which sector of it, counted from 0.
        sector: u64,
    },
}

/// What a power failure does to something unsynced.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Fate {
    /// It is as before it was written.
    Lost,
    /// It is as written.
    Kept,
    /// Of a sector: it is as written, but one byte of it is changed by `mask`. Of a name: kept.
    Flipped {
        /// Which byte of the sector; taken modulo its length.
        at: usize,
        /// What it is combined with, by exclusive or.
        mask: u8,
    },
}

impl MemDisk {
    /// An empty disk.
    pub fn new() -> Self {
        Self::default()
    }

    /// From now on `faults` decides what becomes of each operation.
    pub fn set_faults(&self, faults: Faults) {
        self.shared().faults = Some(faults);
    }

    /// From now on every operation is done.
    pub fn clear_faults(&self) {
        self.shared().faults = None;
    }

    /// From now on writes that would make all files together longer than this fail for want of room.
    pub fn set_capacity(&self, capacity_bytes: Option<u64>) {
        self.shared().capacity_bytes = capacity_bytes;
    }

    /// How many bytes all files have together.
    pub fn used_bytes(&self) -> u64 {
        self.shared().used_bytes()
    }

    /// A power failure. `fate` is asked about everything unsynced: first the changes of names, oldest
    /// first, then the sectors, by path and number. Files that are open are of no use afterwards; the
    /// lock is free.
    pub fn crash(&self, mut fate: impl FnMut(Unsynced<'_>) -> Fate) {
        let mut shared = self.shared();
        let shared = &mut *shared;
        for change in std::mem::take(&mut shared.pending_names) {
            let path = match &change {
                NameChange::Set { path, .. } | NameChange::Remove { path } => path,
                NameChange::Rename { to, .. } => to,
            };
            if fate(Unsynced::Name { path }) == Fate::Lost {
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
                    Fate::Lost => {}
                    Fate::Kept => content.keep(sector, None),
                    Fate::Flipped { at, mask } => content.keep(sector, Some((at, mask))),
                }
            }
            content.volatile.clone_from(&content.durable);
        }
        shared.life += 1;
        shared.locked = false;
    }

    /// The process ends and the machine runs on: nothing is lost, the lock is free, and files that
    /// are open are of no use.
    pub fn kill(&self) {
        let mut shared = self.shared();
        shared.life += 1;
        shared.locked = false;
    }

    /// A copy of the disk as it is, both images, that goes its own way. It is not locked, and has no
    /// faults.
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
            faults: None,
        };
        MemDisk { shared: Arc::new(Mutex::new(fork)) }
    }

    /// The paths of all files, sorted.
    pub fn paths(&self) -> Vec<String> {
        self.shared().names.keys().cloned().collect()
    }

    /// What programs see in a file.
    pub fn read(&self, path: &str) -> Option<Vec<u8>> {
        let shared = self.shared();
        let file = shared.names.get(path)?;
        Some(shared.files.get(file)?.volatile.clone())
    }

    /// Rot, or a misdirected write: changes bytes of a file in both images. Bytes beyond its end are
    /// left out.
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

    /// Puts a file there, durably, whatever was there before.
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

    /// Takes a file away, durably.
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

    fn judge(&mut self, operation: Operation<'_>) -> Verdict {
        match &mut self.faults {
            Some(faults) => faults(operation),
            None => Verdict::Done,
        }
    }

    fn permit(&mut self, operation: Operation<'_>) -> io::Result<()> {
        match self.judge(operation) {
            Verdict::Done => Ok(()),
            Verdict::Fails { kind, .. } => Err(kind.into()),
            Verdict::FailsAndForgets => Err(io::Error::other("input/output error")),
        }
    }

    /// Forgets files that have no name any more, in either image.
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

    /// Directories are there because paths name them; making one is nothing to be synced.
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
        shared.permit(Operation::Create { path })?;
        if shared.names.contains_key(path) {
            return Err(io::ErrorKind::AlreadyExists.into());
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
        shared.permit(Operation::Rename { from, to })?;
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
        shared.permit(Operation::Remove { path })?;
        if !shared.names.contains_key(path) {
            return Err(io::ErrorKind::NotFound.into());
        }
        let change = NameChange::Remove { path: path.to_owned() };
        change.apply(&mut shared.names);
        shared.pending_names.push(change);
        shared.collect();
        Ok(())
    }

    fn sync_dir(&self, dir: &str) -> io::Result<()> {
        let mut shared = self.shared();
        let shared = &mut *shared;
        shared.permit(Operation::SyncDir { dir })?;
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
    /// The file's images, if it was opened in this life of the machine.
    fn content<'a>(&self, shared: &'a mut Shared) -> io::Result<&'a mut Content> {
        if self.life != shared.life {
            return Err(io::Error::other("the machine has crashed since the file was opened"));
        }
        // A file whose last name is gone lives on for those who have it open; here, as an empty one.
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
        shared.permit(Operation::Read { path: &path, offset, len: buf.len() })?;
        let content = self.content(shared)?;
        let from = usize::try_from(offset).unwrap_or(usize::MAX).min(content.volatile.len());
        let read = buf.len().min(content.volatile.len() - from);
        buf[..read].copy_from_slice(&content.volatile[from..from + read]);
        Ok(read)
    }

    fn write_at(&mut self, offset: u64, data: &[u8]) -> io::Result<()> {
        let mut shared = self.disk.shared();
        let path = self.content(&mut shared)?.path.clone();
        let verdict = shared.judge(Operation::Write { path: &path, offset, len: data.len() });
        let (mut len, mut result) = match verdict {
            Verdict::Done => (data.len(), Ok(())),
            Verdict::Fails { kind, done_bytes } => (done_bytes.min(data.len()), Err(kind.into())),
            Verdict::FailsAndForgets => (0, Err(io::Error::other("input/output error"))),
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
            // A write beyond the end makes the hole before it, too.
            let first = offset.min(old_len) / SECTOR_BYTES as u64;
            let end = (from + len).div_ceil(SECTOR_BYTES) as u64;
            content.unsynced.push((first, end));
        }
        result
    }

    fn sync_data(&mut self) -> io::Result<()> {
        let mut shared = self.disk.shared();
        let path = self.content(&mut shared)?.path.clone();
        let verdict = shared.judge(Operation::Sync { path: &path });
        let content = self.content(&mut shared)?;
        match verdict {
            Verdict::Done => {
                content.sync();
                Ok(())
            }
            Verdict::Fails { kind, .. } => Err(kind.into()),
            Verdict::FailsAndForgets => {
                content.unsynced.clear();
                Err(io::Error::other("input/output error"))
            }
        }
    }

    /// Cutting a file is durable at once: nothing here cuts a file whose content counts.
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
