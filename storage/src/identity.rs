//! The identity of a data directory: its node, incarnation and cluster.
//!
//! An empty directory never becomes a voter by itself. First an intent is made durable: the node, a
//! random incarnation, and the founders to contact. Once all founders have announced theirs, the
//! cluster is known and is written too. Both are in this small file, which is replaced atomically.

use crate::disk::{read_file, replace_file};
use crate::{Disk, codec};
use raft::{Incarnation, NodeId};
use serde::{Deserialize, Serialize};
use std::fmt;
use std::io;

/// The name of the identity file.
const FILE: &str = "IDENTITY";
const MAGIC: &[u8; 8] = b"raft-id\n";
/// The most bytes of the file.
const FILE_BYTES_MAX: u64 = 1 << 20;
/// Magic, version, checksum.
const HEAD_BYTES: usize = 8 + 1 + 4;

/// Identifies a cluster permanently.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct ClusterId(pub u64);

impl fmt::Display for ClusterId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:016x}", self.0)
    }
}

/// The content of the identity file.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Identity {
    /// The node that the directory belongs to.
    pub node: NodeId,
    /// The incarnation of the directory: drawn at random when it is created, and never changed.
    pub incarnation: Incarnation,
    /// The cluster; `None` until a cluster has been bootstrapped or joined.
    pub cluster: Option<ClusterId>,
    /// The founders of the cluster to bootstrap, this node included. Empty for a node that joins.
    pub peers: Vec<NodeId>,
}

impl Identity {
    /// Reads the identity of a directory; `None` if it has none yet.
    pub fn read(disk: &impl Disk) -> Result<Option<Identity>, IdentityError> {
        let file = match disk.open(FILE) {
            Ok(file) => file,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(IdentityError::Io(error)),
        };
        let content = read_file(&file, FILE_BYTES_MAX).map_err(IdentityError::Io)?;
        if content.len() < HEAD_BYTES || &content[..8] != MAGIC {
            return Err(IdentityError::Damaged);
        }
        let (head, body) = content.split_at(HEAD_BYTES);
        let (version, checksum) = (head[8], &head[9..]);
        if checksum != crc32c::crc32c_append(u32::from(version), body).to_le_bytes() {
            return Err(IdentityError::Damaged);
        }
        if version != codec::VERSION {
            return Err(IdentityError::OtherVersion { version });
        }
        codec::decode(body).map(Some).map_err(|_| IdentityError::Damaged)
    }

    /// Makes this the identity of a directory, durably.
    pub fn write(&self, disk: &impl Disk) -> io::Result<()> {
        let mut body = Vec::new();
        codec::encode(self, &mut body);
        let mut content = MAGIC.to_vec();
        content.push(codec::VERSION);
        let checksum = crc32c::crc32c_append(u32::from(codec::VERSION), &body);
        content.extend_from_slice(&checksum.to_le_bytes());
        content.extend_from_slice(&body);
        replace_file(disk, "", FILE, &content)
    }
}

/// Why the identity of a directory cannot be read.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum IdentityError {
    /// The file is damaged or foreign. It never changes once the cluster has begun, so any copy of
    /// it may be put back, however old.
    #[error(
        "the file IDENTITY is damaged; it never changes, so put it back from a backup. Without it this \
         member is lost: the cluster goes on while a majority of the members is up. Then remove it \
         from the cluster, and add it again with an empty directory"
    )]
    Damaged,
    /// The file was written by another version of this software. Run that version.
    #[error(
        "the file IDENTITY has format {version}, and this version of the software reads format \
         {ours} only; run the version that wrote it", ours = codec::VERSION
    )]
    OtherVersion {
        /// The format version of the file.
        version: u8,
    },
    /// The file cannot be read. See the cause.
    #[error("the file IDENTITY cannot be read: {0}")]
    Io(#[source] io::Error),
}
