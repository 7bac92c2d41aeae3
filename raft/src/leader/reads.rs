//! Reads of a leader (§6.4): a round of heartbeats confirms them, or the lease does.
//!
//! A read joins only a round that starts after the read has arrived. Reads that arrive while a
//! round with reads is pending share the next one.

use super::{Asker, Leader};
use crate::core::Core;
use crate::lease::Relied;
use crate::{Body, NodeId, ReadId, ReadProof, ReadRefused, Round};

impl Leader {
    /// Starts a round, which the waiting reads join.
    pub(super) fn start_round(&mut self, core: &mut Core) {
        self.round = self.round.next();
        self.lease.round_begins(core, self.round);
        for progress in self.progress.values_mut() {
            progress.heartbeat_due = true;
        }
        if core.commit >= self.term_start {
            for asker in std::mem::take(&mut self.reads) {
                self.confirming.push_back((self.round, core.commit, asker));
            }
        }
        // Nobody replies to the only voter.
        self.confirm_reads(core);
    }

    /// The number of reads that wait in any state.
    fn reads_waiting(&self, core: &Core) -> usize {
        self.reads.len() + self.confirming.len() + core.reads_waiting()
    }

    pub fn read(&mut self, core: &mut Core, mode: ReadProof) -> Result<ReadId, ReadRefused> {
        if self.reads_waiting(core) >= core.config.reads_max {
            return Err(ReadRefused::Busy);
        }
        let read = core.new_read();
        if mode == ReadProof::Lease && self.holds_lease(core, core.now().monotonic_ns) {
            core.counters.lease_reads += 1;
            core.confirm_read(read, core.commit);
        } else {
            self.reads.push(Asker::Own(read));
        }
        Ok(read)
    }

    /// Whether this leader may answer reads without a round, at this reading of its clock. No
    /// other leader has been elected by then, so all that was ever acknowledged to a client is
    /// below this leader's commit index. A read that was requested before the reading sees all of
    /// it, however late it is served.
    pub fn holds_lease(&self, core: &Core, now_ns: u64) -> bool {
        let relied = |id: NodeId| self.progress.get(&id).map_or(Relied::default(), |p| p.relied);
        self.is_serving(core) && self.lease.holds(core, now_ns, core.log.membership(), relied)
    }

    /// A peer has replied to a round with a promise of this length.
    pub(super) fn rely_on(&mut self, core: &Core, from: NodeId, round: Round, promise_ms: u32) {
        if let Some(progress) = self.progress.get_mut(&from)
            && let Some(relied) = self.lease.relies_until(core, round, promise_ms)
        {
            progress.relied = progress.relied.or(relied);
        }
    }

    pub(super) fn peer_read(&mut self, core: &mut Core, from: NodeId, read: ReadId, lease: bool) {
        if lease && self.holds_lease(core, core.now().monotonic_ns) {
            core.counters.lease_reads += 1;
            let index = Some(core.commit);
            let reply = core.message(from, Body::ReadIndexReply { read, index });
            return core.outbox.send(reply);
        }
        let waits =
            |asker: &Asker| matches!(asker, Asker::Peer(id, r) if (*id, *r) == (from, read));
        let known =
            self.reads.iter().any(waits) || self.confirming.iter().any(|(_, _, a)| waits(a));
        if known {
            return;
        }
        if self.reads_waiting(core) >= core.config.reads_max {
            let reply = core.message(from, Body::ReadIndexReply { read, index: None });
            return core.outbox.send(reply);
        }
        self.reads.push(Asker::Peer(from, read));
    }

    /// Starts a round at once, and returns it.
    pub fn ask_peers(&mut self, core: &mut Core) -> Round {
        self.start_round(core);
        self.round
    }

    /// Starts a round for the waiting reads, unless a round with reads is pending: then they share
    /// the next one. A read only joins a round that starts after the read arrived.
    pub(super) fn start_read_round(&mut self, core: &mut Core) {
        let waiting = !self.reads.is_empty() && core.commit >= self.term_start;
        if waiting && self.confirming.is_empty() {
            self.start_round(core);
        }
    }

    /// The latest round to which a quorum has replied.
    pub(super) fn confirmed_round(&self, core: &Core) -> Round {
        core.log.membership().reached(|id| match self.progress.get(&id) {
            Some(progress) => progress.round,
            None if id == core.id() && core.votes() => self.round,
            None => Round(0),
        })
    }

    /// Confirms the reads of the rounds to which a quorum has replied.
    pub(crate) fn confirm_reads(&mut self, core: &mut Core) {
        if self.confirming.is_empty() {
            return;
        }
        let confirmed = self.confirmed_round(core);
        while self.confirming.front().is_some_and(|(round, _, _)| *round <= confirmed) {
            let Some((_, index, asker)) = self.confirming.pop_front() else { break };
            match asker {
                Asker::Own(read) => core.confirm_read(read, index),
                Asker::Peer(to, read) => {
                    let reply = core.message(to, Body::ReadIndexReply { read, index: Some(index) });
                    core.outbox.send(reply);
                }
            }
        }
    }
}
