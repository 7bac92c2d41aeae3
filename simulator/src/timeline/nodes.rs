//! The last known state of each node, and what has changed since.

use super::What;
use crate::shadow::Shadow;
use raft::{Index, LogId, NodeId, RawNode, RoleKind, Term};
use std::collections::BTreeMap;

/// The log of a node when the run ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LastLog {
    /// Whether it ran. If it did not, this is what is on its disk.
    pub is_up: bool,
    /// Its role, if it ran.
    pub role: Option<RoleKind>,
    /// Its term.
    pub term: Term,
    /// Its vote.
    pub vote: Option<NodeId>,
    /// The snapshot that the log begins after.
    pub base: LogId,
    /// The entries after that.
    pub entries: Vec<LogId>,
    /// The end of the log on its disk.
    pub durable: LogId,
    /// Its commit index, if it ran.
    pub commit: Option<Index>,
    /// The last index that its state machine had applied, if it ran.
    pub applied: Option<Index>,
}

impl LastLog {
    /// The last known log of a running node, or the log on the disk of one that is down.
    pub(super) fn of(disk: &Shadow, seen: Option<&Seen>, is_up: bool) -> Self {
        let Some(seen) = seen.filter(|_| is_up) else {
            return LastLog {
                is_up: false,
                role: None,
                term: disk.hard_state.term,
                vote: disk.hard_state.vote,
                base: disk.base.last,
                entries: disk.entries.iter().map(|entry| entry.id).collect(),
                durable: disk.last(),
                commit: None,
                applied: None,
            };
        };
        let id = |(index, term): (&Index, &Term)| LogId { index: *index, term: *term };
        LastLog {
            is_up: true,
            role: Some(seen.role.map_or(RoleKind::Follower, |(role, _)| role)),
            term: seen.term,
            vote: seen.vote.map(|(vote, _)| vote),
            base: seen.base,
            entries: seen.terms.iter().map(id).collect(),
            durable: disk.last(),
            commit: Some(seen.commit),
            applied: Some(seen.applied),
        }
    }
}

/// The last known state of a running node.
#[derive(Clone, Debug, Default)]
pub(super) struct Seen {
    pub role: Option<(RoleKind, Term)>,
    term: Term,
    vote: Option<(NodeId, Term)>,
    base: LogId,
    last: LogId,
    commit: Index,
    pub applied: Index,
    /// The term of every entry after `base`.
    terms: BTreeMap<Index, Term>,
}

impl Seen {
    /// Returns what has changed since the last call, and remembers the current state.
    pub fn changes(&mut self, node: &RawNode, applied: Index) -> Vec<What> {
        let mut changes = Vec::new();
        let status = node.status();
        let role = Some((status.role, status.term));
        if self.role != role {
            self.role = role;
            changes.push(What::Role(status.role, status.term));
        }
        self.term = status.term;
        let vote = node.hard_state().vote.map(|vote| (vote, node.term()));
        if self.vote != vote {
            self.vote = vote;
            changes.extend(vote.map(|(vote, term)| What::Vote(vote, term)));
        }
        if self.last != node.last() || self.base != node.base().last {
            changes.extend(self.log_change(node));
        }
        if self.commit != node.commit() {
            self.commit = node.commit();
            changes.push(What::Commit(self.commit));
        }
        if self.applied != applied {
            self.applied = applied;
            changes.push(What::Applied(self.applied));
        }
        changes
    }

    fn log_change(&mut self, node: &RawNode) -> Vec<What> {
        let (base, last) = (node.base().last, node.last());
        // From the end back to the first entry that has not changed.
        let mut news = Vec::new();
        let mut index = last.index;
        while let Some(entry) = node.entry(index) {
            if self.terms.get(&index) == Some(&entry.id.term) {
                break;
            }
            news.push(entry.id);
            index = Index(index.0.saturating_sub(1));
        }
        let gone = self.terms.split_off(&Index(index.0 + 1));
        let id = |(index, term): (&Index, &Term)| LogId { index: *index, term: *term };
        let cut = gone.first_key_value().map(id).zip(gone.last_key_value().map(id));
        let mut grown: Vec<(LogId, LogId)> = Vec::new();
        for new in news.into_iter().rev() {
            self.terms.insert(new.index, new.term);
            match grown.last_mut() {
                Some((_, last)) if last.term == new.term => *last = new,
                _ => grown.push((new, new)),
            }
        }
        let mut changes = Vec::new();
        if cut.is_some() || !grown.is_empty() {
            changes.push(What::Log { cut, grown });
        }
        if self.base != base {
            self.terms = self.terms.split_off(&base.index.next());
            changes.push(What::Compacted(base));
        }
        (self.base, self.last) = (base, last);
        changes
    }
}
