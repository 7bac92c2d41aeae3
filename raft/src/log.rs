//! The log in memory: the entries since the last compaction, and how many of them are durable.
//!
//! Every decision uses this copy. The disk holds the same entries for recovery after a crash; they
//! are never read back while the node runs. A peer that needs an entry from before the first one
//! held here gets a snapshot.
//!
//! The log knows neither roles nor the commit index, and does no I/O. [`Log::fill_write`] returns
//! what must be written, and [`Log::written`] records that it is durable.

use crate::bounded::ENTRIES_MAX;
use crate::entries::Runs;
use crate::{
    CommandNumber, Entries, Entry, Index, LogId, LogTime, Membership, Payload, Snapshot, Term,
};

/// Invariants: `entries` are contiguous and follow `before`; their terms never decrease;
/// `before.index ≤ base.last.index ≤ last().index`; `durable ≤ handed ≤ last().index`;
/// `memberships` is never empty and ordered by index.
#[derive(Clone, Debug)]
pub(crate) struct Log {
    /// The snapshot that the durable log begins after.
    base: Snapshot,
    /// The entry right before the first one in `entries`. It is at or below `base.last`: some
    /// entries that the snapshot covers are retained for peers that are slightly behind.
    before: LogId,
    entries: Runs,
    /// The cost in bytes of the entries in memory that the snapshot covers.
    covered_bytes: usize,
    /// The membership as of `base.last`, then each later one in the log, with the indexes of their
    /// entries.
    memberships: Vec<(Index, Membership)>,
    /// The entries up to here are on disk.
    durable: Index,
    /// The entries up to here are on disk or in the pending write.
    handed: Index,
    /// The entries up to here are durable once the pending write is done. A truncation lowers it.
    /// `None` if no write is pending.
    proves: Option<Index>,
}

impl Log {
    /// A log whose entries are all on disk. The caller has checked that `entries` follow `base`.
    pub fn new(base: Snapshot, entries: Vec<Entry>) -> Self {
        let before = base.last;
        let mut log = Log {
            memberships: vec![(base.membership_index, (*base.membership).clone())],
            base,
            before,
            entries: Runs::default(),
            covered_bytes: 0,
            durable: before.index,
            handed: before.index,
            proves: None,
        };
        for entry in entries {
            log.append(entry);
        }
        log.durable = log.last().index;
        log.handed = log.durable;
        log
    }

    pub fn base(&self) -> &Snapshot {
        &self.base
    }

    pub fn before(&self) -> LogId {
        self.before
    }

    pub fn last(&self) -> LogId {
        self.entries.back().map_or(self.before, |entry| entry.id)
    }

    pub fn durable(&self) -> Index {
        self.durable
    }

    /// The id of the last entry that is on disk.
    pub fn durable_last(&self) -> LogId {
        self.id_at(self.durable).unwrap_or(LogId::ZERO)
    }

    /// The log time of the last entry.
    pub fn last_time(&self) -> LogTime {
        self.entries.back().map_or(self.base.time, |entry| entry.time)
    }

    /// The number that the next client command takes.
    pub fn next_number(&self) -> CommandNumber {
        self.entries.back().map_or(self.base.number, Entry::number_after)
    }

    /// The membership in force: the latest in the log, committed or not (§4.1).
    pub fn membership(&self) -> &Membership {
        &self.memberships.last().expect("there is always a membership").1
    }

    /// The membership as of `index`, which is not below the base, and the index of its entry.
    pub fn membership_at(&self, index: Index) -> (Index, &Membership) {
        let after = self.memberships.partition_point(|(at, _)| *at <= index);
        let (at, membership) = &self.memberships[after.saturating_sub(1)];
        (*at, membership)
    }

    /// The membership as of `index`, which is not below the base, and all later ones, each with the
    /// index of its entry.
    pub fn memberships_from(&self, index: Index) -> impl Iterator<Item = (Index, &Membership)> {
        let after = self.memberships.partition_point(|(at, _)| *at <= index);
        self.memberships[after.saturating_sub(1)..].iter().map(|(at, membership)| (*at, membership))
    }

    /// The index of the entry that holds the membership in force. 0 if it is that of the beginning.
    pub fn membership_index(&self) -> Index {
        self.memberships.last().expect("there is always a membership").0
    }

    /// The index of the planned change that the membership in force has ended, if it is in the log.
    /// A joint membership follows one that is not given up.
    pub fn given_up(&self) -> Option<Index> {
        let [.., (at, planned), (_, next)] = &self.memberships[..] else { return None };
        let is_given_up = planned.is_changing() && !planned.is_joint() && !next.is_changing();
        (is_given_up && *at > self.base().last.index).then_some(*at)
    }

    /// The membership as of `index`, if it comes from an entry. That of the beginning may be a
    /// later one that a node was given when it started with an empty log: it proves nothing.
    pub fn logged_membership(&self, index: Index) -> Option<&Membership> {
        let after = self.memberships.partition_point(|(at, _)| *at <= index);
        let (at, membership) = self.memberships.get(after.checked_sub(1)?)?;
        (*at > Index(0)).then_some(membership)
    }

    pub fn entry(&self, index: Index) -> Option<&Entry> {
        let offset = index.0.checked_sub(self.before.index.0 + 1)?;
        self.entries.get(usize::try_from(offset).ok()?)
    }

    /// The id of the entry at `index`, if that entry or its successor is in memory.
    pub fn id_at(&self, index: Index) -> Option<LogId> {
        if index == self.before.index {
            return Some(self.before);
        }
        self.entry(index).map(|entry| entry.id)
    }

    /// Whether the log in memory has exactly this entry.
    pub fn contains(&self, id: LogId) -> bool {
        self.id_at(id.index) == Some(id)
    }

    /// The last entry at or below `index` whose term is not above `term`. A log whose entry at
    /// `index` has that term can agree with this one up to there at most (§3.5, fast
    /// backtracking). Returns `before` if all entries in memory are of later terms.
    pub fn last_agreeing(&self, index: Index, term: Term) -> LogId {
        let index = index.min(self.last().index);
        let known = index.0.saturating_sub(self.before.index.0) as usize;
        // Terms never decrease along the log, so the entries that can agree are a prefix.
        let count = self.entries.partition_point(|entry| entry.id.term <= term).min(known);
        match count {
            0 => self.before,
            count => self.entries.get(count - 1).map_or(self.before, |entry| entry.id),
        }
    }

    /// Appends an entry. The caller has checked that it follows the last one.
    pub fn append(&mut self, entry: Entry) {
        self.note(self.last(), &entry);
        self.entries.push_back(entry);
    }

    /// Appends entries, which the log shares from then on. The caller has checked that they follow
    /// the last one.
    pub fn extend(&mut self, entries: Entries) {
        let mut last = self.last();
        for entry in &entries {
            self.note(last, entry);
            last = entry.id;
        }
        self.entries.extend(entries);
    }

    /// An entry is about to be appended after `last`.
    fn note(&mut self, last: LogId, entry: &Entry) {
        assert_eq!(entry.id.index, last.index.next(), "a gap in the log");
        assert!(entry.id.term >= last.term, "terms fall along the log");
        if let Payload::Membership(membership) = &entry.payload {
            self.memberships.push((entry.id.index, (**membership).clone()));
        }
    }

    /// The cost in bytes of the entries after `after` up to `to`, as far as they are in memory.
    pub fn cost_bytes(&self, after: Index, to: Index) -> usize {
        let held = |index: Index| (index.0.saturating_sub(self.before.index.0)) as usize;
        let entries = self.entries.iter_from(held(after));
        entries.take(held(to).saturating_sub(held(after))).map(Entry::cost_bytes).sum()
    }

    /// Removes the entry at `index`, which is above the base, and all later ones. If the pending
    /// write contains them, its receipt now proves only the entries before `index`.
    pub fn truncate_from(&mut self, index: Index) {
        assert!(index > self.base.last.index, "a snapshot stands for this entry");
        let keep = index.before();
        self.entries.truncate((keep.0 - self.before.index.0) as usize);
        self.memberships.retain(|(at, _)| *at < index);
        self.durable = self.durable.min(keep);
        self.handed = self.handed.min(keep);
        self.proves = self.proves.map(|proves| proves.min(keep));
    }

    /// Makes `snapshot` the base: it now covers the entries up to `snapshot.last`. [`Log::trim`]
    /// removes them from memory.
    pub fn compact(&mut self, snapshot: Snapshot) {
        assert!(self.contains(snapshot.last), "a snapshot of another log");
        let upto = snapshot.last.index;
        let covered = self.memberships.partition_point(|(at, _)| *at <= upto);
        self.memberships.drain(..covered.saturating_sub(1));
        self.covered_bytes += self.cost_bytes(self.base.last.index, upto);
        self.base = snapshot;
    }

    /// Removes entries that the snapshot covers from memory, oldest first. It keeps the latest
    /// `retained_bytes` of them. Of those after `needed_after`, which a peer has yet to receive, it
    /// keeps up to `needed_bytes` if that is more. It removes at most `entries_max` in one call,
    /// which bounds the time of a call.
    pub fn trim(
        &mut self,
        retained_bytes: usize,
        needed_after: Option<Index>,
        needed_bytes: usize,
        entries_max: usize,
    ) {
        for _ in 0..entries_max {
            let Some(first) = self.entries.front().map(|entry| entry.id) else { return };
            let needed = needed_after.is_some_and(|after| first.index > after);
            let limit = if needed { needed_bytes.max(retained_bytes) } else { retained_bytes };
            if first.index > self.base.last.index || self.covered_bytes <= limit {
                return;
            }
            self.covered_bytes -= self.entries.front().map_or(0, Entry::cost_bytes);
            self.before = first;
            self.entries.pop_front();
        }
    }

    /// Replaces the whole log by a snapshot. Nothing is durable until a write that starts after
    /// this is done.
    pub fn reset(&mut self, snapshot: Snapshot) {
        self.entries.clear();
        self.covered_bytes = 0;
        self.before = snapshot.last;
        self.memberships = vec![(snapshot.membership_index, (*snapshot.membership).clone())];
        self.handed = snapshot.last.index;
        self.durable = Index(0);
        self.proves = self.proves.map(|_| Index(0));
        self.base = snapshot;
    }

    /// The entries from `from` up to `to`, as long as they cost at most `bytes_max` in total. There
    /// are at most [`ENTRIES_MAX`] of them, and always the first. Also returns their cost in bytes.
    pub fn share(&self, from: Index, to: Index, bytes_max: usize) -> (Entries, usize) {
        let offset = |index: Index| index.0.checked_sub(self.before.index.0 + 1);
        let (Some(first), Some(last)) = (offset(from), offset(to)) else {
            return (Entries::default(), 0);
        };
        let end = usize::try_from(last + 1).unwrap_or(usize::MAX).min(self.entries.len());
        let first = usize::try_from(first).unwrap_or(usize::MAX).min(end);
        self.entries.share(first, end.min(first + ENTRIES_MAX), bytes_max)
    }

    /// Whether there are entries that are in no write yet.
    pub fn has_unwritten(&self) -> bool {
        self.handed < self.last().index
    }

    /// The entries of the next write: those that are in no write yet. The caller must issue the
    /// write at once.
    pub fn fill_write(&mut self, bytes_max: usize) -> Entries {
        assert!(self.proves.is_none(), "one write is out at a time");
        let (entries, _) = self.share(self.handed.next(), self.last().index, bytes_max);
        if let Some(entry) = entries.last() {
            self.handed = entry.id.index;
        }
        self.proves = Some(self.handed);
        entries
    }

    /// Instead of [`Log::fill_write`]: a write without entries is handed out.
    pub fn fill_nothing(&mut self) -> Entries {
        assert!(self.proves.is_none(), "one write is out at a time");
        self.proves = Some(self.handed);
        Entries::default()
    }

    /// Takes the pending write back, of which nothing is on disk.
    pub fn take_back(&mut self) {
        self.proves = None;
        // After a reset, nothing is durable, and the base comes with the write.
        self.handed = self.durable.max(self.base.last.index);
    }

    /// Records that the pending write is on disk.
    pub fn written(&mut self) {
        let proves = self.proves.take().expect("a write was out");
        self.durable = self.durable.max(proves);
    }

    /// The first invariant that does not hold, if any.
    pub fn broken_invariant(&self) -> Option<&'static str> {
        let rules = [
            ("the log begins after its base", self.before.index <= self.base.last.index),
            ("the log ends before its base", self.base.last.index <= self.last().index),
            ("more is durable than was handed out", self.durable <= self.handed),
            ("more was handed out than there is", self.handed <= self.last().index),
            ("there is no membership", !self.memberships.is_empty()),
            (
                "the base is not in the log",
                self.id_at(self.base.last.index).is_none_or(|id| id == self.base.last),
            ),
        ];
        rules.into_iter().find(|(_, holds)| !holds).map(|(name, _)| name)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn entry(index: u64, term: u64) -> Entry {
        Entry::test_command(index, term, b"x")
    }

    /// A log that is entirely on disk, with entries of these terms from index 1 on.
    fn log(terms: &[u64]) -> Log {
        let entries = (1..).zip(terms).map(|(index, term)| entry(index, *term)).collect();
        Log::new(Snapshot::initial(Membership::default()), entries)
    }

    fn snapshot(last: LogId) -> Snapshot {
        Snapshot { last, ..Snapshot::initial(Membership::default()) }
    }

    #[test]
    fn backtracking_skips_the_terms_that_cannot_agree() {
        let cases = [
            // (index and term asked for, the last position that can agree)
            (LogId::new(7, 3), LogId::new(7, 3)),
            (LogId::new(7, 2), LogId::new(4, 2)),
            (LogId::new(9, 2), LogId::new(4, 2)),
            (LogId::new(3, 9), LogId::new(3, 2)),
            (LogId::new(6, 1), LogId::new(2, 1)),
            (LogId::new(6, 0), LogId::ZERO),
            (LogId::ZERO, LogId::ZERO),
        ];
        let log = log(&[1, 1, 2, 2, 3, 3, 3]);
        for (asked, agreeing) in cases {
            assert_eq!(log.last_agreeing(asked.index, asked.term), agreeing, "{asked}");
        }
    }

    #[test]
    fn backtracking_ends_where_the_entries_in_memory_begin() {
        let mut log = log(&[1, 1, 2, 2]);
        log.compact(snapshot(LogId::new(3, 2)));
        log.trim(0, None, 0, usize::MAX);
        assert_eq!(log.before(), LogId::new(3, 2));
        assert_eq!(log.last_agreeing(Index(4), Term(1)), LogId::new(3, 2));
        assert_eq!(log.last_agreeing(Index(1), Term(9)), LogId::new(3, 2));
    }

    #[test]
    fn a_truncation_lowers_what_the_write_that_is_out_proves() {
        let mut log = log(&[1]);
        log.append(entry(2, 1));
        log.append(entry(3, 1));
        let _ = log.fill_write(1 << 20);
        log.truncate_from(Index(2));
        log.append(entry(2, 2));
        log.written();
        assert_eq!(log.durable(), Index(1), "2@1 is on disk, 2@2 is not");

        let write = log.fill_write(1 << 20);
        assert_eq!(write.to_vec(), [entry(2, 2)]);
        log.written();
        assert_eq!(log.durable(), Index(2));
    }

    #[test]
    fn a_truncation_of_what_is_on_disk_takes_it_back() {
        let mut log = log(&[1, 1, 1]);
        log.truncate_from(Index(2));
        assert_eq!((log.last(), log.durable()), (LogId::new(1, 1), Index(1)));
    }

    #[test]
    fn a_reset_is_durable_only_by_a_write_that_starts_after_it() {
        let mut log = log(&[1]);
        log.append(entry(2, 1));
        let _ = log.fill_write(1 << 20);
        log.reset(snapshot(LogId::new(9, 2)));
        log.written();
        assert_eq!(log.durable(), Index(0));
        let _ = log.fill_write(1 << 20);
        log.written();
        assert_eq!((log.durable(), log.last()), (Index(9), LogId::new(9, 2)));
    }

    #[test]
    fn compaction_retains_the_latest_entries_within_the_limit() {
        for (retained_bytes, before) in [(0, 3), (40, 3), (41, 2), (90, 1), (1_000, 0)] {
            let mut log = log(&[1, 1, 1, 1]);
            log.compact(snapshot(LogId::new(3, 1)));
            log.trim(retained_bytes, None, 0, usize::MAX);
            assert_eq!(log.before().index, Index(before), "{retained_bytes} bytes");
            assert_eq!(log.last(), LogId::new(4, 1));
            assert_eq!(log.broken_invariant(), None);
        }
    }

    #[test]
    fn what_a_peer_is_yet_to_receive_is_kept_within_its_own_limit() {
        // (retained bytes, matched index of a peer, bytes kept for it; `before` after the trim)
        let cases = [
            (0, Some(2), 1_000, 2),
            (0, Some(2), 41, 2),
            (0, Some(1), 41, 2),
            (0, Some(0), 0, 3),
            (82, Some(2), 0, 1),
            (0, None, 1_000, 3),
        ];
        for (retained, peer, needed_bytes, before) in cases {
            let mut log = log(&[1, 1, 1, 1]);
            log.compact(snapshot(LogId::new(3, 1)));
            log.trim(retained, peer.map(Index), needed_bytes, usize::MAX);
            assert_eq!(log.before().index, Index(before), "{retained} {peer:?} {needed_bytes}");
        }
    }

    #[test]
    fn a_trim_takes_no_more_steps_than_it_is_given() {
        let mut log = log(&[1, 1, 1, 1]);
        log.compact(snapshot(LogId::new(3, 1)));
        for before in [1, 2, 3, 3] {
            log.trim(0, None, 0, 1);
            assert_eq!(log.before().index, Index(before));
        }
        log.compact(snapshot(LogId::new(4, 1)));
        log.trim(0, None, 0, 9);
        assert_eq!((log.before(), log.covered_bytes), (LogId::new(4, 1), 0));
    }

    #[test]
    fn a_membership_is_rolled_back_with_its_entry() {
        let mut log = log(&[1]);
        let mut grown = Membership::default();
        grown.voters.insert(crate::NodeId(7));
        let payload = Payload::Membership(Box::new(grown.clone()));
        log.append(Entry { payload, ..entry(2, 1) });
        assert_eq!(log.membership(), &grown);
        assert_eq!(log.membership_at(Index(1)), (Index(0), &Membership::default()));
        log.truncate_from(Index(2));
        assert_eq!(log.membership(), &Membership::default());
    }

    #[test]
    fn a_membership_keeps_its_index_when_a_snapshot_covers_it() {
        let mut log = log(&[1]);
        let grown = Membership { voters: [crate::NodeId(7)].into(), ..Membership::default() };
        let payload = Payload::Membership(Box::new(grown.clone()));
        log.append(Entry { payload, ..entry(2, 1) });
        log.append(entry(3, 1));
        let taken = |log: &Log, index: u64| {
            let (membership_index, membership) = log.membership_at(Index(index));
            let membership = membership.clone();
            Snapshot {
                membership_index,
                membership: membership.into(),
                ..snapshot(LogId::new(index, 1))
            }
        };
        let (early, late) = (taken(&log, 1), taken(&log, 3));
        log.compact(early);
        assert_eq!(log.membership_index(), Index(2));
        log.compact(late.clone());
        assert_eq!(log.membership_index(), Index(2));
        assert_eq!(log.memberships.len(), 1);
        // After a restart, and on a node that was sent the snapshot.
        assert_eq!(Log::new(late.clone(), Vec::new()).membership_index(), Index(2));
        log.reset(late);
        assert_eq!((log.membership_index(), log.membership()), (Index(2), &grown));
    }

    #[test]
    fn a_change_is_given_up_if_a_final_membership_follows_the_planned_one() {
        let ids = |ids: &[u64]| ids.iter().copied().map(crate::NodeId).collect();
        let before = Membership { voters: ids(&[1]), ..Membership::default() };
        let planned = before.planned(Default::default(), ids(&[2]), LogTime(0));
        let (joint, given_up) = (planned.joint(), planned.given_up());
        let entered = joint.entered();
        for (memberships, expected) in [
            (vec![&planned], None),
            (vec![&planned, &joint], None),
            (vec![&planned, &joint, &entered], None),
            (vec![&planned, &given_up], Some(Index(2))),
            (vec![&planned, &given_up, &planned], None),
            (vec![&given_up, &entered], None),
        ] {
            let mut log = log(&[1]);
            for (at, membership) in memberships.into_iter().enumerate() {
                let payload = Payload::Membership(Box::new(membership.clone()));
                log.append(Entry { payload, ..entry(2 + at as u64, 1) });
            }
            assert_eq!(log.given_up(), expected);
        }
    }
}
