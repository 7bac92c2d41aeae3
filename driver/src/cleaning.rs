//! Decides when old snapshots may be removed: when the log on disk begins after a later one, and no
//! restore is about to read an older one.
//!
//! While the state machine is yet to restore a snapshot (the first one after a start included), a
//! later one may be installed. The earlier one is then older than everything the log needs, but
//! must still exist: a state machine that cannot read its snapshot stops the node. So nothing is
//! removed while a restore is pending. A leader also keeps what it has offered to a peer: if the
//! transfer fails, it continues with the same snapshot (`raft::RawNode::offered_snapshots`).

use raft::LogId;

pub(crate) struct Cleaning {
    /// The log on disk begins after this.
    durable: LogId,
    /// The log on disk begins after this once the pending write is durable.
    moving: Option<LogId>,
    /// The log on disk begins after this, and older snapshots have not been removed yet.
    due: Option<LogId>,
    restoring: bool,
    /// The base and the older snapshots that were kept when others were last removed.
    last: Option<(LogId, Vec<LogId>)>,
}

impl Cleaning {
    /// The state machine starts by restoring the snapshot that the log begins after.
    pub fn new(base: LogId) -> Self {
        Cleaning { durable: base, moving: None, due: None, restoring: true, last: None }
    }

    /// A write is pending that makes the log begin after `base`.
    pub fn moves(&mut self, base: LogId) {
        self.moving = Some(base);
    }

    /// The pending write is durable.
    pub fn moved(&mut self) {
        if let Some(base) = self.moving.take() {
            self.durable = base;
            self.due = Some(base);
        }
    }

    /// A snapshot was received. If it came too late, the log begins after a later one, and nothing
    /// else would remove its file until the log moves again.
    pub fn received(&mut self, snapshot: LogId) {
        if snapshot.index < self.durable.index {
            self.due = self.due.or(Some(self.durable));
        }
    }

    /// The state machine has been ordered to restore a snapshot.
    pub fn restores(&mut self) {
        self.restoring = true;
    }

    /// The state machine has carried out its last order and all earlier ones.
    pub fn restored(&mut self) {
        self.restoring = false;
    }

    /// The queue had no room for the order to remove snapshots older than `base`.
    pub fn put_off(&mut self, base: LogId) {
        self.due = self.due.or(Some(base));
    }

    /// Snapshots older than the returned one may be removed now, but for those that are returned
    /// with it. `offered` are those that may still be sent. Each is returned once, and again when
    /// one of those that were kept is no longer offered.
    pub fn take(&mut self, offered: Vec<LogId>) -> Option<(LogId, Vec<LogId>)> {
        if self.restoring {
            return None;
        }
        let is_left = |kept: &Vec<LogId>| kept.iter().any(|id| !offered.contains(id));
        let again = self.last.as_ref().filter(|(_, kept)| is_left(kept)).map(|(base, _)| *base);
        let base = self.due.take().or(again)?;
        let kept: Vec<LogId> = offered.into_iter().filter(|id| id.index < base.index).collect();
        self.last = Some((base, kept.clone()));
        Some((base, kept))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use raft::{Index, Term};

    fn id(index: u64) -> LogId {
        LogId { index: Index(index), term: Term(1) }
    }

    #[test]
    fn nothing_is_removed_before_the_log_has_moved() {
        let mut cleaning = Cleaning::new(id(0));
        cleaning.restored();
        cleaning.moves(id(5));
        assert_eq!(cleaning.take(vec![]), None);
        cleaning.moved();
        assert_eq!(cleaning.take(vec![]), Some((id(5), vec![])));
        cleaning.put_off(id(5));
        assert_eq!(cleaning.take(vec![]), Some((id(5), vec![])));
        cleaning.moved();
        assert_eq!(cleaning.take(vec![]), None);
    }

    #[test]
    fn nothing_is_removed_while_a_snapshot_is_being_restored() {
        let mut cleaning = Cleaning::new(id(0));
        cleaning.moves(id(5));
        cleaning.moved();
        assert_eq!(cleaning.take(vec![]), None, "it may not have begun");
        cleaning.restored();
        cleaning.restores();
        cleaning.moves(id(9));
        cleaning.moved();
        assert_eq!(cleaning.take(vec![]), None);
        cleaning.restored();
        assert_eq!(cleaning.take(vec![]), Some((id(9), vec![])));
    }

    #[test]
    fn a_snapshot_that_was_received_too_late_is_removed() {
        let mut cleaning = Cleaning::new(id(3));
        cleaning.restored();
        cleaning.received(id(5));
        assert_eq!(cleaning.take(vec![]), None, "the log may soon begin after it");
        cleaning.moves(id(5));
        cleaning.received(id(2));
        assert_eq!(cleaning.take(vec![]), Some((id(3), vec![])), "the write is still pending");
        cleaning.moved();
        assert_eq!(cleaning.take(vec![]), Some((id(5), vec![])));
        cleaning.received(id(4));
        assert_eq!(cleaning.take(vec![]), Some((id(5), vec![])));
        assert_eq!(cleaning.take(vec![]), None);
    }

    #[test]
    fn what_was_offered_stays_until_it_is_delivered() {
        let mut cleaning = Cleaning::new(id(0));
        cleaning.restored();
        cleaning.put_off(id(5));
        assert_eq!(cleaning.take(vec![id(5)]), Some((id(5), vec![])), "the base stays anyway");
        assert_eq!(cleaning.take(vec![id(5)]), None);
        cleaning.put_off(id(9));
        assert_eq!(cleaning.take(vec![id(5)]), Some((id(9), vec![id(5)])));
        assert_eq!(cleaning.take(vec![id(5)]), None);
        assert_eq!(cleaning.take(vec![]), Some((id(9), vec![])), "it is removed now");
        assert_eq!(cleaning.take(vec![]), None);
    }
}
