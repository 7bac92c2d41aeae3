//! What happens to files while nobody runs: rot, lost blocks, older copies.

use std::fs::OpenOptions;
use std::io;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

/// The unit in which a log is written.
const BLOCK_BYTES: usize = 4096;

/// How a block is damaged.
#[derive(Clone, Copy, Debug)]
pub enum How {
    /// Its bytes are zero: the write never reached the disk.
    Zeroed,
    /// Some of its bytes are others.
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

/// The files in a directory whose names end so, in the order of their names.
pub fn files(dir: &Path, end: &str) -> Vec<PathBuf> {
    let entries = std::fs::read_dir(dir).into_iter().flatten().flatten();
    let mut files: Vec<PathBuf> = entries
        .map(|entry| entry.path())
        .filter(|path| path.to_string_lossy().ends_with(end))
        .collect();
    files.sort();
    files
}

/// Damages the last block of a node's log that holds anything; false if there is none.
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

/// Flips bytes in the middle of a file.
pub fn rot(path: &Path) -> io::Result<()> {
    let middle = std::fs::metadata(path)?.len() / 2;
    let file = OpenOptions::new().read(true).write(true).open(path)?;
    let mut byte = [0];
    file.read_exact_at(&mut byte, middle)?;
    file.write_all_at(&[byte[0] ^ 0xff], middle)?;
    file.sync_all()
}
