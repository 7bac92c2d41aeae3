//! Changes of the membership that wait until a majority of their voters has replied.
//!
//! The leader's knowledge of its peers is up to an election timeout old. In that time a voter may
//! have stopped, and a change that needs it would stop the cluster. So each change waits for the
//! replies to a heartbeat that is sent after the change was requested. The check itself is the
//! core's ([`raft::Change::since`]). It also refuses a change whose voters reply and have stored
//! nothing for a while: their disks hang, or they are still catching up. A disk that has hung only
//! while there was nothing to store passes; the core then waits for it before the joint
//! configuration, as long as the change can still be given up.

use crate::error::MembersError;
use raft::{Change, ChangeError, Index, Now, RawNode};
use std::time::Duration;
use tokio::sync::oneshot;

/// The most changes that wait. Further ones are refused.
const WAITING_MAX: usize = 16;

#[derive(Default)]
pub(crate) struct Preflight {
    waiting: Vec<Waiting>,
}

pub(crate) type Begun = oneshot::Sender<Result<Index, MembersError>>;

struct Waiting {
    change: Change,
    begun: Begun,
    /// When it is refused, on the monotonic clock.
    until_ns: u64,
}

impl Preflight {
    /// Asks all peers for a reply. The change begins once enough of them have replied, and is
    /// refused if they have not done so within `limit`.
    pub fn add(
        &mut self,
        node: &mut RawNode,
        now: Now,
        limit: Duration,
        mut change: Change,
        begun: Begun,
    ) {
        if self.waiting.len() >= WAITING_MAX {
            let _ = begun.send(Err(MembersError::Busy));
            return;
        }
        change.since = node.ask_peers(now);
        let until_ns = now.monotonic_ns.saturating_add(limit.as_nanos() as u64);
        self.waiting.push(Waiting { change, begun, until_ns });
    }

    /// Whether no change waits.
    pub fn is_empty(&self) -> bool {
        self.waiting.is_empty()
    }

    /// Begins the changes of which enough voters have replied, and ends those that are refused.
    pub fn try_all(&mut self, node: &mut RawNode, now: Now) {
        let mut at = 0;
        while let Some(Waiting { change, begun, until_ns }) = self.waiting.get(at) {
            if begun.is_closed() {
                self.waiting.swap_remove(at);
                continue;
            }
            match node.set_members(now, change.clone()) {
                Err(ChangeError::NoQuorum { .. }) if now.monotonic_ns < *until_ns => at += 1,
                result => {
                    let Waiting { begun, .. } = self.waiting.swap_remove(at);
                    let _ = begun.send(result.map_err(MembersError::from));
                }
            }
        }
    }
}
