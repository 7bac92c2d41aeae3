//! Decides when old snapshots may be removed: when the log on disk begins after a later one, and no
//! restore is about to read an older one.
//!
//! While the state machine is yet to restore a snapshot (the first one after a start included), a
//! later one may be installed. The earlier one is then older than everything the log needs, but
//! must still exist: a state machine that cannot read its snapshot stops the node. So nothing is
//! removed while a restore is pending. Transfers to peers are not waited for: a transfer fails if
//! its snapshot is removed, and the peer is sent the later one.

use raft::LogId;

pub(crate) struct Cleaning {
    /// The log on disk begins after this once the pending write is durable.
    moving: Option<LogId>,
    /// The log on disk begins after this, and older snapshots have not been removed yet.
    due: Option<LogId>,
    restoring: bool,
}

impl Cleaning {
    /// The state machine starts by restoring the snapshot that the log begins after.
    pub fn new() -> Self {
        Cleaning { moving: None, due: None, restoring: true }
    }

    /// A write is pending that makes the log begin after `base`.
    pub fn moves(&mut self, base: LogId) {
        self.moving = Some(base);
    }

    /// The pending write is durable.
    pub fn moved(&mut self) {
        self.due = self.moving.take().or(self.due);
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

    /// Snapshots older than the returned one may be removed now. Each is returned once.
    pub fn take(&mut self) -> Option<LogId> {
        match self.restoring {
            true => None,
            false => self.due.take(),
        }
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
        let mut cleaning = Cleaning::new();
        cleaning.restored();
        cleaning.moves(id(5));
        assert_eq!(cleaning.take(), None);
        cleaning.moved();
        assert_eq!(cleaning.take(), Some(id(5)));
        cleaning.put_off(id(5));
        assert_eq!(cleaning.take(), Some(id(5)));
        cleaning.moved();
        assert_eq!(cleaning.take(), None);
    }

    #[test]
    fn nothing_is_removed_while_a_snapshot_is_being_restored() {
        let mut cleaning = Cleaning::new();
        cleaning.moves(id(5));
        cleaning.moved();
        assert_eq!(cleaning.take(), None, "it may not have begun");
        cleaning.restored();
        cleaning.restores();
        cleaning.moves(id(9));
        cleaning.moved();
        assert_eq!(cleaning.take(), None);
        cleaning.restored();
        assert_eq!(cleaning.take(), Some(id(9)));
    }
}
