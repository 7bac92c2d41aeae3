//! The pending requests of this node: commands that were forwarded to the leader, and reads.
//!
//! Their outcomes are queued here until the driver polls them.

use super::{Awaited, Core};
use crate::{Action, Body, Forwarded, Index, NodeId, ReadId, Request};

impl Core {
    /// Sends a request to the leader. Returns its number.
    pub fn forward(&mut self, leader: NodeId, request: Request) -> u64 {
        self.next_forward += 1;
        let number = self.next_forward;
        let repeatable = !matches!(request, Request::Command(_));
        self.forwards.insert(number, Awaited { leader, ticks: 0, repeatable });
        let start = self.config.start_nonce;
        let message = self.message(leader, Body::Forward { start, number, request });
        self.outbox.send(message);
        number
    }

    /// A node has replied to a forwarded command. A leader that has handed leadership over, or lost
    /// it, still knows what became of the command, so its reply counts in later terms too.
    pub fn forward_answered(&mut self, from: NodeId, start: u64, number: u64, outcome: Forwarded) {
        let is_awaited = self.forwards.get(&number).is_some_and(|it| it.leader == from);
        if is_awaited && start == self.config.start_nonce {
            self.forwards.remove(&number);
            self.forwarded(number, outcome);
        }
    }

    /// Reports commands as lost that have had no reply for too long. They may have been appended,
    /// so the core never sends them again. A driver may repeat a command of a session, and open
    /// another session, so such a request is reported as soon as there is another leader.
    pub(super) fn tick_forwards(&mut self, leader: Option<NodeId>) {
        let patience = 2 * self.config.election_ticks;
        let mut lost = Vec::new();
        for (number, awaited) in &mut self.forwards {
            awaited.ticks += 1;
            let has_moved = leader.is_some_and(|leader| leader != awaited.leader);
            if awaited.ticks > patience || (awaited.repeatable && has_moved) {
                lost.push(*number);
            }
        }
        for number in lost {
            self.forwards.remove(&number);
            self.forwarded(number, Forwarded::Lost);
        }
    }

    /// Replies to a follower with the outcome of a command that it forwarded.
    pub fn answer_forward(&mut self, to: NodeId, start: u64, number: u64, outcome: Forwarded) {
        let reply = self.message(to, Body::ForwardReply { start, number, outcome });
        self.outbox.send(reply);
    }

    pub fn new_read(&mut self) -> ReadId {
        self.next_read = ReadId(self.next_read.0.wrapping_add(1));
        self.next_read
    }

    /// Serves the read once `index` is applied.
    pub fn confirm_read(&mut self, read: ReadId, index: Index) {
        if index <= self.applied {
            self.answers.push_back(Action::Serve(read));
        } else {
            self.reads.insert((index, read));
        }
    }

    /// Queues the outcome of a forwarded command for the driver.
    pub(super) fn forwarded(&mut self, number: u64, outcome: Forwarded) {
        self.answers.push_back(Action::Forwarded { number, outcome });
    }

    pub fn refuse_read(&mut self, read: ReadId) {
        self.answers.push_back(Action::Refuse(read));
    }

    /// The number of reads that wait for an apply or for `poll`.
    pub fn reads_waiting(&self) -> usize {
        self.reads.len() + self.answers.len()
    }

    /// The next outcome of a read or of a forwarded command.
    pub fn next_answer(&mut self) -> Option<Action> {
        self.answers.pop_front()
    }
}
