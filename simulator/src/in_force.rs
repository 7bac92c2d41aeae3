//! The membership in force at a node: the latest in its log, committed or not (§4.1).
//!
//! It is read from the entries that the log gains and loses, so that a core that decides by another
//! membership is noticed. The base of a log is the only thing that is taken from the node.

use raft::{Index, LogId, Membership, Payload, RawNode, Term};
use std::collections::BTreeMap;

/// The memberships in a node's log, as of the latest look at it.
#[derive(Debug, Default)]
pub(crate) struct InForce {
    base: LogId,
    last: LogId,
    /// The term of every entry after `base`.
    terms: BTreeMap<Index, Term>,
    /// The membership as of `base`, then each later one in the log. Empty until the node starts.
    memberships: Vec<(LogId, Membership)>,
    /// The node has started since the latest look.
    is_fresh: bool,
    none: Membership,
}

/// The changes since the latest look.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct News {
    /// A membership has come or gone, or the base of the log has moved.
    pub changed: bool,
    /// Memberships that the log has gained.
    pub gained: usize,
    /// Entries with a membership were removed from the end of the log.
    pub rolled_back: bool,
    /// The base of the log has moved.
    pub rebased: bool,
}

impl InForce {
    /// The node has started: reads its whole log.
    pub fn started(&mut self, node: &RawNode) {
        *self = InForce { base: node.base().last, last: node.base().last, ..InForce::default() };
        self.memberships.push((self.base, (*node.base().membership).clone()));
        self.follow(node);
        self.is_fresh = true;
    }

    /// Reads what has changed in the log.
    pub fn follow(&mut self, node: &RawNode) -> News {
        let mut news = News { changed: std::mem::take(&mut self.is_fresh), ..News::default() };
        let (base, last) = (node.base().last, node.last());
        if (self.base, self.last) == (base, last) {
            return news;
        }
        // From the end back to the first entry that was here before.
        let mut entries = Vec::new();
        let mut index = last.index;
        while index > base.index
            && let Some(entry) = node.entry(index)
            && self.terms.get(&index) != Some(&entry.id.term)
        {
            entries.push(entry);
            index = index.before();
        }
        self.terms.split_off(&index.next());
        let kept = self.memberships.iter().take_while(|(id, _)| id.index <= index).count();
        news.rolled_back = kept < self.memberships.len() && index < self.last.index;
        self.memberships.truncate(kept.max(1));
        if base != self.base {
            news.rebased = true;
            self.rebase(node);
        }
        for entry in entries.into_iter().rev() {
            self.terms.insert(entry.id.index, entry.id.term);
            if let Payload::Membership(membership) = &entry.payload {
                self.memberships.push((entry.id, (**membership).clone()));
                news.gained += 1;
            }
        }
        (self.base, self.last) = (base, last);
        news.changed |= news.rolled_back || news.rebased || news.gained > 0;
        news
    }

    /// The base has moved: within the log, or to a snapshot that replaces the log.
    fn rebase(&mut self, node: &RawNode) {
        let base = node.base().last;
        let is_within = self.terms.get(&base.index) == Some(&base.term);
        self.terms = self.terms.split_off(&base.index.next());
        if !is_within {
            self.memberships = vec![(base, (*node.base().membership).clone())];
            return;
        }
        let covered = self.memberships.iter().take_while(|(id, _)| id.index <= base.index).count();
        self.memberships.drain(..covered.saturating_sub(1));
        if let Some(first) = self.memberships.first_mut() {
            first.0 = base;
        }
    }

    /// The membership in force, and the entry that it is from: the base of the log, or a later one.
    pub fn latest(&self) -> (LogId, &Membership) {
        self.memberships.last().map_or((LogId::ZERO, &self.none), |(id, latest)| (*id, latest))
    }

    /// The membership before the one in force, if the log has it, and its entry.
    pub fn previous(&self) -> Option<(LogId, &Membership)> {
        let at = self.memberships.len().checked_sub(2)?;
        self.memberships.get(at).map(|(id, membership)| (*id, membership))
    }

    /// The membership at the base of the log, as it follows from the log before.
    pub fn at_base(&self) -> Option<&Membership> {
        self.memberships.first().map(|(_, membership)| membership)
    }

    /// The memberships in the log after this index.
    pub fn after(&self, index: Index) -> impl Iterator<Item = &Membership> {
        self.memberships.iter().filter(move |(id, _)| id.index > index).map(|(_, one)| one)
    }
}
