//! When old snapshots may be removed: once the log on disk begins after a later one, and nobody is
//! about to read what goes.
//!
//! While the state machine is yet to restore one snapshot, the one that it begins with among them, another
//! may be installed over it. The first is then older than all that the log needs, and still has to be
//! there: a state machine that finds it gone stops its node. So nothing is removed while a restore is
//! out. What is sent to peers is not waited for: a transfer whose snapshot is gone ends, and the peer is
//! sent the later one.

use raft::LogId;

pub(crate) struct Cleaning {
    /// Once the write that is out is durable, the log on disk begins after this.
    moving: Option<LogId>,
    /// The log on disk begins after this, and what is older has not been removed.
    due: Option<LogId>,
    restoring: bool,
}

impl Cleaning {
    /// The state machine begins with restoring what the log begins after.
    pub fn new() -> Self {
        Cleaning { moving: None, due: None, restoring: true }
    }

    /// A write is out that lets the log begin after `base`.
    pub fn moves(&mut self, base: LogId) {
        self.moving = Some(base);
    }

    /// The write that was out is durable.
    pub fn moved(&mut self) {
        self.due = self.moving.take().or(self.due);
    }

    /// The state machine has been told to restore a snapshot.
    pub fn restores(&mut self) {
        self.restoring = true;
    }

    /// The state machine has done what it was told, and all that it was told before.
    pub fn restored(&mut self) {
        self.restoring = false;
    }

    /// There was no room for the order to remove what is older than `base`.
    pub fn put_off(&mut self, base: LogId) {
        self.due = self.due.or(Some(base));
    }

    /// All that is older than this can be removed now. Says so once.
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
