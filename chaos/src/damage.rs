//! Damage to the files of a node that is down: bit rot, lost blocks, older copies, lost writes.

use std::fs::OpenOptions;
use std::io;
use std::os::unix::fs::{FileExt, MetadataExt};
use std::path::{Path, PathBuf};

/// The unit in which a log is written.
const BLOCK_BYTES: usize = 4096;

/// How a block is damaged.
#[derive(Clone, Copy, Debug)]
pub enum How {
    /// Its bytes are zero: the write never reached the disk.
    Zeroed,
    /// Some of its bytes are overwritten.
    Rotten,
}

/// Copies a directory with all that is below it.
pub fn copy_tree(from: &Path, to: &Path) -> io::Result<()> {
    std::fs::create_dir_all(to)?;
    for entry in std::fs::read_dir(from)? {
        let (entry, name) = entry.map(|entry| (entry.path(), entry.file_name()))?;
        let target = to.join(name);
        if entry.is_dir() {
            copy_tree(&entry, &target)?;
        } else if entry.is_file() {
            std::fs::copy(&entry, target)?;
        }
    }
    Ok(())
}

/// The files in a directory whose names end with `end`, sorted by name.
pub fn files(dir: &Path, end: &str) -> Vec<PathBuf> {
    let entries = std::fs::read_dir(dir).into_iter().flatten().flatten();
    let mut files: Vec<PathBuf> = entries
        .map(|entry| entry.path())
        .filter(|path| path.to_string_lossy().ends_with(end))
        .collect();
    files.sort();
    files
}

/// Damages the last block of a node's log that is not all zero. Returns false if there is none.
pub fn last_block(node_dir: &Path, how: How) -> io::Result<bool> {
    for path in files(&node_dir.join("log"), ".seg").iter().rev() {
        let bytes = std::fs::read(path)?;
        let used = bytes.chunks(BLOCK_BYTES).rposition(|block| block.iter().any(|b| *b != 0));
        let Some(block) = used else { continue };
        let at = (block * BLOCK_BYTES) as u64;
        let file = OpenOptions::new().write(true).open(path)?;
        match how {
            How::Zeroed => file.write_all_at(&[0; BLOCK_BYTES], at)?,
            How::Rotten => file.write_all_at(&[0xff; 8], at + 100)?,
        }
        file.sync_all()?;
        return Ok(true);
    }
    Ok(false)
}

/// Inverts the byte in the middle of a file.
pub fn rot(path: &Path) -> io::Result<()> {
    let middle = std::fs::metadata(path)?.len() / 2;
    let file = OpenOptions::new().read(true).write(true).open(path)?;
    let mut byte = [0];
    file.read_exact_at(&mut byte, middle)?;
    file.write_all_at(&[byte[0] ^ 0xff], middle)?;
    file.sync_all()
}

/// Undoes every write below `dir` that was not synced, with the undo records that the preloaded
/// library (`shim.c`) has written to `flags`. Returns the number of writes.
pub fn undo(dir: &Path, flags: &Path) -> io::Result<u64> {
    let mut undone = 0;
    for entry in std::fs::read_dir(flags)? {
        let (notes, name) = entry.map(|entry| (entry.path(), entry.file_name()))?;
        let name = name.to_string_lossy().into_owned();
        let Some(inode) = name.strip_prefix("undo-").and_then(|digits| digits.parse().ok()) else {
            continue;
        };
        let records = records(&std::fs::read(&notes)?);
        if let Some(path) = with_inode(dir, inode)? {
            let file = OpenOptions::new().write(true).open(path)?;
            // The latest first: each record holds the bytes that its write has replaced.
            for (offset, size, bytes) in records.iter().rev() {
                file.write_all_at(bytes, *offset)?;
                file.set_len(*size)?;
                undone += 1;
            }
        }
        std::fs::remove_file(notes)?;
    }
    Ok(undone)
}

/// Decodes undo records: offset, size of the file before the write, replaced bytes. The last record
/// may be cut off: its write never began.
fn records(mut notes: &[u8]) -> Vec<(u64, u64, Vec<u8>)> {
    let mut records = Vec::new();
    while let Some((head, rest)) = notes.split_first_chunk::<24>() {
        let number = |at: usize| {
            head[at..].first_chunk().map_or(0, |bytes: &[u8; 8]| u64::from_ne_bytes(*bytes))
        };
        let Some((bytes, rest)) = rest.split_at_checked(number(8) as usize) else { break };
        records.push((number(0), number(16), bytes.to_vec()));
        notes = rest;
    }
    records
}

fn with_inode(dir: &Path, inode: u64) -> io::Result<Option<PathBuf>> {
    for entry in std::fs::read_dir(dir)? {
        let path = entry?.path();
        if path.is_dir() {
            if let Some(found) = with_inode(&path, inode)? {
                return Ok(Some(found));
            }
        } else if std::fs::metadata(&path)?.ino() == inode {
            return Ok(Some(path));
        }
    }
    Ok(None)
}
