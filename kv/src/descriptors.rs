//! File descriptors: how many the process may have, and what they are for.
//!
//! A node that has none left cannot begin a new segment of its log, take a snapshot, or dial a
//! peer. So clients get what is left after a reserve for all that, and a node that has no place for
//! another client says so instead.

use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

/// Descriptors for the node itself: standard streams, runtimes, listeners, the log, snapshots that
/// are written and read, links to peers, and directories that are synced.
const OWN: u64 = 64;
/// Connections beyond the places of clients, on which a full node answers that it is full, or how
/// it is.
pub(crate) const OVERFLOW: u64 = 16;
/// Connections to the leader, to ask it for its view of the cluster.
pub(crate) const ASKING: usize = 8;
/// One part in this many goes to connections of peers.
const PART: u64 = 8;
/// The least of them.
const PART_MIN: u64 = 16;
/// The least that clients get. A process with fewer descriptors than all this may run out of them.
const CLIENTS_MIN: u64 = 8;

/// Raises the limit on the descriptors of this process as far as it may. Where that is not possible
/// the process has what it had.
pub fn raise_limit() {
    let limit = getrlimit(Resource::Nofile);
    let raised = Rlimit { current: limit.maximum, maximum: limit.maximum };
    // Without a hard limit some systems refuse a soft one without end; the soft one stays then.
    let _ = setrlimit(Resource::Nofile, raised);
}

/// How many connections of each kind a node may have.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Share {
    /// Of clients.
    pub clients: usize,
    /// Of peers to this node.
    pub peers: usize,
}

impl Share {
    /// The shares of the descriptors that this process may have, with no more clients than
    /// `clients_max`.
    pub fn of_this_process(clients_max: usize) -> Share {
        Share::of(getrlimit(Resource::Nofile).current.unwrap_or(u64::MAX), clients_max)
    }

    fn of(descriptors: u64, clients_max: usize) -> Share {
        let part = (descriptors / PART).max(PART_MIN);
        let peers = part.min(transport_http::PEER_CONNECTIONS_MAX as u64);
        let reserve = OWN + OVERFLOW + ASKING as u64 + peers;
        let clients = descriptors.saturating_sub(reserve).max(CLIENTS_MIN);
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
        for descriptors in [160, 256, 1024, 4096, 1 << 20] {
            let share = Share::of(descriptors, usize::MAX);
            let all = share.clients + share.peers + ASKING;
            assert!(all as u64 + OWN + OVERFLOW <= descriptors, "{descriptors}: {share:?}");
            assert!(share.clients >= 8, "{share:?}");
        }
        assert_eq!(Share::of(1 << 20, 4096).clients, 4096);
    }
}
