//! How the file descriptors of the process are divided.
//!
//! A node without a free descriptor cannot begin a log segment, take a snapshot or connect to a
//! peer. So a number of descriptors is reserved for these, and clients get the rest. A node without
//! room for another client answers that it is full.

use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

/// Descriptors for the node itself: standard streams, runtimes, listeners, the log, snapshots that
/// are written and read, links to peers, and directories that are synced.
const OWN: u64 = 64;
/// Connections beyond the limit for clients, on which a full node answers that it is full, or
/// answers health requests.
pub(crate) const OVERFLOW: u64 = 48;
/// Connections to the leader, to ask it for its view of the cluster.
pub(crate) const ASKING: usize = 8;
/// Connections to new nodes and to members that have moved, one for each declaration of members
/// that is being checked.
pub(crate) const DECLARING: usize = 4;
/// One descriptor in this many is for connections from peers.
const PART: u64 = 8;
/// The least number of descriptors for connections from peers.
const PART_MIN: u64 = 16;
/// The least number of client connections.
const CLIENTS_MIN: u64 = 8;
/// All that is not for clients or connections from peers.
const RESERVE: u64 = OWN + OVERFLOW + (ASKING + DECLARING) as u64;
/// The least limit with which a node does not run out of descriptors: the sum of all these, of
/// which the connections from peers are a part.
pub(crate) const LEAST: u64 = ((RESERVE + CLIENTS_MIN) * PART).div_ceil(PART - 1);

/// Raises the soft limit on file descriptors to the hard limit. If that fails, the limit stays as
/// it was.
pub fn raise_limit() {
    let limit = getrlimit(Resource::Nofile);
    let raised = Rlimit { current: limit.maximum, maximum: limit.maximum };
    // Some systems without a hard limit refuse an unlimited soft limit. The soft limit then stays
    // as it was.
    let _ = setrlimit(Resource::Nofile, raised);
}

/// The most connections of each kind, within the descriptor limit.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Share {
    /// The most connections of clients.
    pub clients: usize,
    /// The most connections from peers.
    pub peers: usize,
}

impl Share {
    /// Divides the descriptors of this process. There are at most `clients_max` connections of
    /// clients. The error is the limit of the process, if it is below [`LEAST`].
    pub fn of_this_process(clients_max: usize) -> Result<Share, u64> {
        let limit = getrlimit(Resource::Nofile).current.unwrap_or(u64::MAX);
        if limit < LEAST { Err(limit) } else { Ok(Share::of(limit, clients_max)) }
    }

    fn of(descriptors: u64, clients_max: usize) -> Share {
        let part = (descriptors / PART).max(PART_MIN);
        let peers = part.min(transport_http::PEER_CONNECTIONS_MAX as u64);
        let clients = descriptors.saturating_sub(RESERVE + peers);
        Share {
            clients: usize::try_from(clients).unwrap_or(usize::MAX).min(clients_max),
            peers: peers as usize,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn all_shares_together_are_within_the_limit() {
        for descriptors in [LEAST, 160, 256, 1024, 4096, 1 << 20] {
            let share = Share::of(descriptors, usize::MAX);
            let all = (share.clients + share.peers) as u64 + RESERVE;
            assert!(all <= descriptors, "{descriptors}: {share:?}");
            assert!(share.clients >= 8, "{share:?}");
        }
        assert_eq!(Share::of(1 << 20, 4096).clients, 4096);
    }
}
