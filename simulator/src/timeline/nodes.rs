//! Nodes as they were seen last, and what has changed since.

use super::What;
use crate::node::{Host, Running};
use raft::{Index, LogId, NodeId, RoleKind, Term};
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
    /// Up to here it knew the log to be committed, if it ran.
    pub commit: Option<Index>,
    /// Up to here its state machine had applied it, if it ran.
    pub applied: Option<Index>,
}

impl LastLog {
    pub(super) fn of<M>(host: &Host<M>) -> Self {
        let disk = &host.shadow;
        let Some(running) = &host.up else {
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
        let node = &running.node;
        let mut entries = Vec::new();
        let mut index = node.base().last.index.next();
        while let Some(entry) = node.entry(index) {
            entries.push(entry.id);
            index = index.next();
        }
        LastLog {
            is_up: true,
            role: Some(node.status().role),
            term: node.term(),
            vote: node.hard_state().vote,
            base: node.base().last,
            entries,
            durable: disk.last(),
            commit: Some(node.commit()),
            applied: Some(running.machine_at),
        }
    }
}

/// What was seen of a running node last.
#[derive(Clone, Debug, Default)]
pub(super) struct Seen {
    pub role: Option<(RoleKind, Term)>,
    vote: Option<(NodeId, Term)>,
    base: LogId,
    last: LogId,
    commit: Index,
    applied: Index,
    /// The term of every entry after `base`.
    terms: BTreeMap<Index, Term>,
}

impl Seen {
    /// What has changed since; remembers what is.
    pub fn changes<M>(&mut self, running: &Running<M>) -> Vec<What> {
        let node = &running.node;
        let mut changes = Vec::new();
        let status = node.status();
        let role = Some((status.role, status.term));
        if self.role != role {
            self.role = role;
            changes.push(What::Role(status.role, status.term));
        }
        let vote = node.hard_state().vote.map(|vote| (vote, node.term()));
        if self.vote != vote {
            self.vote = vote;
            changes.extend(vote.map(|(vote, term)| What::Vote(vote, term)));
        }
        if self.last != node.last() || self.base != node.base().last {
            changes.extend(self.log_change(running));
        }
        if self.commit != node.commit() {
            self.commit = node.commit();
            changes.push(What::Commit(self.commit));
        }
        if self.applied != running.machine_at {
            self.applied = running.machine_at;
            changes.push(What::Applied(self.applied));
        }
        changes
    }

    fn log_change<M>(&mut self, running: &Running<M>) -> Vec<What> {
        let node = &running.node;
        let (base, last) = (node.base().last, node.last());
        // From the end back to where the log is as it was.
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
