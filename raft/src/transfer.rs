//! Handing leadership over to another voter (§3.10).
//!
//! The leader takes no more proposals, sends the target what it lacks, and tells it to campaign at
//! once. The target then wins, unless it fails or messages are lost: its log is as long as the
//! leader's, and a vote for a transfer is granted although a leader is live. If the target does not
//! lead within two election timeouts, and no later term has begun, this leader goes on.
//!
//! A target whose disk began to hang while there was nothing to store is not recognised. It enters
//! the next term without being able to request votes, and its next reply removes the leader. Then
//! there is no leader until an election timeout is over.

use crate::core::Core;
use crate::leader::Leader;
use crate::progress::Progress;
use crate::{Body, NodeId};

/// Why leadership was not handed over.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum TransferRefused {
    /// Only a leader can hand over.
    #[error("this node does not lead")]
    NotLeader {
        /// The leader, if this node knows it.
        leader: Option<NodeId>,
    },
    /// The target is no voter.
    #[error("node {to} is not a voter")]
    NotAVoter {
        /// The target.
        to: NodeId,
    },
    /// The target is this node itself.
    #[error("node {to} leads already")]
    LeadsAlready {
        /// The target.
        to: NodeId,
    },
    /// The target has not replied lately.
    #[error("node {to} does not answer")]
    Silent {
        /// The target.
        to: NodeId,
    },
    /// No other voter replies.
    #[error("no other voter replies")]
    NoTarget,
    /// Leadership is being handed over to another target. Try again after two election timeouts.
    #[error("leadership is being handed over to node {to}")]
    UnderWay {
        /// The other target.
        to: NodeId,
    },
}

/// A target that has not replied for this many ticks is not waited for. More than two
/// heartbeats: one may be lost, and the reply to the next one takes its time.
pub(crate) fn silence_max(core: &Core) -> u32 {
    (core.config.election_ticks / 2).max(2 * core.config.heartbeat_ticks + 1)
}

/// A transfer in progress.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Transfer {
    pub to: NodeId,
    /// Ticks since it began.
    ticks: u32,
    /// The target was told to campaign at this tick.
    told_at: Option<u32>,
}

impl Leader {
    /// Begins to hand over, to the best voter if there is no `to`. Returns the target.
    pub fn transfer(
        &mut self,
        core: &mut Core,
        to: Option<NodeId>,
    ) -> Result<NodeId, TransferRefused> {
        if let Some(Transfer { to: known, .. }) = self.transfer {
            return match to.is_none_or(|to| to == known) {
                true => Ok(known),
                false => Err(TransferRefused::UnderWay { to: known }),
            };
        }
        let is_silent =
            |to| self.progress.get(&to).is_some_and(|p| p.silent_ticks >= silence_max(core));
        let to = match to {
            Some(to) if to == core.id() => return Err(TransferRefused::LeadsAlready { to }),
            Some(to) if is_silent(to) && core.log.membership().is_voter(to) => {
                return Err(TransferRefused::Silent { to });
            }
            Some(to) if !self.progress.contains_key(&to) || !core.log.membership().is_voter(to) => {
                return Err(TransferRefused::NotAVoter { to });
            }
            Some(to) => to,
            None => self.best_voter(core).ok_or(TransferRefused::NoTarget)?,
        };
        self.transfer = Some(Transfer { to, ticks: 0, told_at: None });
        self.hand_over(core);
        Ok(to)
    }

    /// Of the voters that have replied lately, and whose state does not differ: the one with the
    /// highest priority of those that have stored everything lately. If there is none, the one with
    /// the longest log.
    fn best_voter(&self, core: &Core) -> Option<NodeId> {
        let late_ticks_max = silence_max(core);
        let replies = self.progress.iter().filter(|(id, progress)| {
            core.log.membership().is_voter(**id)
                && progress.silent_ticks < late_ticks_max
                && progress.agrees != Some(false)
        });
        let worth = |progress: &Progress| {
            let keeps_up = progress.chase_ticks < late_ticks_max;
            (keeps_up.then_some(progress.priority), progress.matched)
        };
        replies.max_by_key(|(_, progress)| worth(progress)).map(|(id, _)| *id)
    }

    /// One tick of a transfer. It is given up once the target is silent, and after two of the
    /// shortest election timeouts.
    pub(crate) fn tick_transfer(&mut self, core: &mut Core) {
        let Some(transfer) = &mut self.transfer else { return };
        transfer.ticks += 1;
        let silent = self.progress.get(&transfer.to).map(|progress| progress.silent_ticks);
        let is_gone = silent.is_none_or(|silent| silent >= silence_max(core));
        if is_gone || transfer.ticks >= 2 * core.config.election_ticks {
            self.transfer = None;
            return;
        }
        self.hand_over(core);
    }

    /// Tells the target to campaign once it has the whole log, again after each heartbeat.
    pub(crate) fn hand_over(&mut self, core: &mut Core) {
        let last = core.log.last().index;
        let Some(transfer) = &mut self.transfer else { return };
        let is_whole = self.progress.get(&transfer.to).is_some_and(|p| p.matched == last);
        let every = core.config.heartbeat_ticks;
        let is_due = transfer.told_at.is_none_or(|told_at| transfer.ticks >= told_at + every);
        if is_whole && is_due {
            transfer.told_at = Some(transfer.ticks);
            self.lease.give_up();
            let message = core.message(transfer.to, Body::TimeoutNow);
            core.outbox.send(message);
        }
    }
}
