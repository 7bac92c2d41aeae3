//! Consecutive entries that are shared, not copied.
//!
//! The log keeps its entries in runs. A write, an append and an order to apply are parts of the
//! same runs, so they cost the same however many entries they have, and copy none. A follower takes
//! over the runs of an append as they are, unless they are short.
//!
//! The log adds entries to its last run for as long as nobody shares it. Otherwise it begins
//! another one. So a run that is shared is constant, and needs no lock.
//!
//! A run is freed as a whole. So what an order holds stays in memory until the order is done, with
//! the rest of its runs, and the log frees an entry with the last one of its run.
//! [`RUN_ENTRIES_MAX`] and [`RUN_BYTES_MAX`] limit that, and the size of an append limits the runs
//! that a follower takes over.

use crate::Entry;
use serde::{Deserialize, Deserializer, Serialize, Serializer};
use std::collections::VecDeque;
use std::fmt;
use std::ops::Index;
use std::sync::Arc;

/// The log begins another run after this many entries.
const RUN_ENTRIES_MAX: usize = 256;
/// The log begins another run after this many bytes of entries.
const RUN_BYTES_MAX: usize = 64 << 10;
/// A log takes over runs of at least this many entries. Shorter ones are copied into its own, so
/// that it does not consist of runs of one entry.
const ADOPTED_ENTRIES_MIN: usize = 8;

/// Consecutive entries. Cloning it copies no entry.
///
/// Invariant: no run is empty, and none in `rest` if there is no `first`.
#[derive(Clone, Default)]
pub struct Entries {
    /// Most often there is only one run, which takes no allocation here.
    first: Option<Run>,
    rest: Vec<Run>,
}

/// A part of entries that may be shared.
///
/// Invariant: `from ≤ to ≤ entries.len()`.
#[derive(Clone, Debug)]
struct Run {
    entries: Arc<Vec<Entry>>,
    from: usize,
    to: usize,
}

impl Run {
    fn len(&self) -> usize {
        self.to - self.from
    }

    fn as_slice(&self) -> &[Entry] {
        &self.entries[self.from..self.to]
    }

    /// Its entries by value. They are copied if somebody else has the run too.
    fn into_vec(self) -> Vec<Entry> {
        match Arc::try_unwrap(self.entries) {
            Ok(mut entries) => {
                entries.truncate(self.to);
                entries.drain(..self.from);
                entries
            }
            Err(shared) => shared[self.from..self.to].to_vec(),
        }
    }
}

impl Entries {
    /// The number of entries.
    pub fn len(&self) -> usize {
        self.slices().map(<[Entry]>::len).sum()
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.first.is_none()
    }

    /// The first entry.
    pub fn first(&self) -> Option<&Entry> {
        self.first.as_ref()?.as_slice().first()
    }

    /// The last entry.
    pub fn last(&self) -> Option<&Entry> {
        self.rest.last().or(self.first.as_ref())?.as_slice().last()
    }

    /// The entries in order.
    pub fn iter(&self) -> Iter<'_> {
        let slice = self.first.as_ref().map_or(&[][..], Run::as_slice);
        Iter { slice: slice.iter(), rest: self.rest.iter() }
    }

    /// Copies of the entries.
    pub fn to_vec(&self) -> Vec<Entry> {
        self.iter().cloned().collect()
    }

    /// The entries in order, in as few slices as possible.
    pub fn slices(&self) -> impl Iterator<Item = &[Entry]> {
        self.first.iter().chain(&self.rest).map(Run::as_slice)
    }

    fn push(&mut self, run: Run) {
        match &self.first {
            None => self.first = Some(run),
            Some(_) => self.rest.push(run),
        }
    }
}

/// Passes through the entries of an [`Entries`].
#[derive(Clone, Debug)]
pub struct Iter<'a> {
    slice: std::slice::Iter<'a, Entry>,
    rest: std::slice::Iter<'a, Run>,
}

impl<'a> Iterator for Iter<'a> {
    type Item = &'a Entry;

    fn next(&mut self) -> Option<&'a Entry> {
        loop {
            if let Some(entry) = self.slice.next() {
                return Some(entry);
            }
            self.slice = self.rest.next()?.as_slice().iter();
        }
    }

    fn size_hint(&self) -> (usize, Option<usize>) {
        let left = self.slice.len() + self.rest.clone().map(Run::len).sum::<usize>();
        (left, Some(left))
    }
}

impl ExactSizeIterator for Iter<'_> {}

impl<'a> IntoIterator for &'a Entries {
    type Item = &'a Entry;
    type IntoIter = Iter<'a>;

    fn into_iter(self) -> Iter<'a> {
        self.iter()
    }
}

impl IntoIterator for Entries {
    type Item = Entry;
    type IntoIter = std::vec::IntoIter<Entry>;

    /// The entries by value: copies, as long as they are shared.
    fn into_iter(self) -> Self::IntoIter {
        let mut entries = self.first.map(Run::into_vec).unwrap_or_default();
        self.rest.into_iter().for_each(|run| entries.extend(run.into_vec()));
        entries.into_iter()
    }
}

impl From<Vec<Entry>> for Entries {
    fn from(entries: Vec<Entry>) -> Self {
        let to = entries.len();
        let first = (to > 0).then(|| Run { entries: Arc::new(entries), from: 0, to });
        Entries { first, rest: Vec::new() }
    }
}

impl FromIterator<Entry> for Entries {
    fn from_iter<I: IntoIterator<Item = Entry>>(entries: I) -> Self {
        Entries::from(Vec::from_iter(entries))
    }
}

impl Index<usize> for Entries {
    type Output = Entry;

    fn index(&self, at: usize) -> &Entry {
        self.iter().nth(at).expect("a position within the entries")
    }
}

impl PartialEq for Entries {
    fn eq(&self, other: &Entries) -> bool {
        self.iter().eq(other)
    }
}

impl Eq for Entries {}

impl fmt::Debug for Entries {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_list().entries(self).finish()
    }
}

impl Serialize for Entries {
    fn serialize<S: Serializer>(&self, to: S) -> Result<S::Ok, S::Error> {
        to.collect_seq(self)
    }
}

impl<'de> Deserialize<'de> for Entries {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        crate::bounded::entries(from).map(|entries: Vec<Entry>| Entries::from(entries))
    }
}

/// The entries of a log, in runs that [`Entries`] share. A queue of entries by position.
///
/// Invariants: no run is empty; the runs follow each other by `begin` without a gap.
#[derive(Clone, Default)]
pub(crate) struct Runs {
    runs: VecDeque<Placed>,
    /// How many entries have been removed at the front.
    removed: usize,
    /// The cost in bytes of the last run. `None` if the next entry begins another run in any case.
    last_bytes: Option<usize>,
}

#[derive(Clone, Debug)]
struct Placed {
    /// The position of its first entry, counted from the first one that was ever in the log.
    begin: usize,
    run: Run,
}

impl Placed {
    fn end(&self) -> usize {
        self.begin + self.run.len()
    }
}

impl Runs {
    pub fn len(&self) -> usize {
        self.end() - self.removed
    }

    pub fn get(&self, at: usize) -> Option<&Entry> {
        let at = at.checked_add(self.removed)?;
        let placed = self.runs.get(self.run_at(at)?)?;
        placed.run.as_slice().get(at - placed.begin)
    }

    pub fn front(&self) -> Option<&Entry> {
        self.runs.front()?.run.as_slice().first()
    }

    pub fn back(&self) -> Option<&Entry> {
        self.runs.back()?.run.as_slice().last()
    }

    /// The entries from the position `from` on.
    pub fn iter_from(&self, from: usize) -> impl Iterator<Item = &Entry> {
        let from = from.saturating_add(self.removed);
        let first = self.run_at(from).unwrap_or(self.runs.len());
        self.runs
            .range(first..)
            .flat_map(move |placed| &placed.run.as_slice()[from.saturating_sub(placed.begin)..])
    }

    /// The number of entries at the front for which `holds`. It holds for no entry after one for
    /// which it does not hold.
    pub fn partition_point(&self, holds: impl Fn(&Entry) -> bool) -> usize {
        let all_hold = |placed: &Placed| placed.run.as_slice().last().is_some_and(&holds);
        let Some(placed) = self.runs.get(self.runs.partition_point(all_hold)) else {
            return self.len();
        };
        placed.begin + placed.run.as_slice().partition_point(holds) - self.removed
    }

    /// The entries from the position `from` up to `to`, as long as they cost at most `bytes_max` in
    /// total. The first entry is always among them. Also returns their cost in bytes.
    pub fn share(&self, from: usize, to: usize, bytes_max: usize) -> (Entries, usize) {
        let (from, to) = (from + self.removed, to + self.removed);
        let (mut entries, mut bytes) = (Entries::default(), 0);
        let Some(first) = self.run_at(from) else { return (entries, 0) };
        let mut fits = |entry: &&Entry| {
            let with_it = bytes + entry.cost_bytes();
            let fits = bytes == 0 || with_it <= bytes_max;
            bytes = if fits { with_it } else { bytes };
            fits
        };
        for Placed { begin, run } in (first..self.runs.len()).map(|at| &self.runs[at]) {
            let (skipped, wanted) = (from.saturating_sub(*begin), to.saturating_sub(*begin));
            let wanted = &run.as_slice()[skipped..wanted.clamp(skipped, run.len())];
            let count = wanted.iter().take_while(&mut fits).count();
            if count > 0 {
                let from = run.from + skipped;
                entries.push(Run { entries: Arc::clone(&run.entries), from, to: from + count });
            }
            if count < wanted.len() || begin + run.len() >= to {
                break;
            }
        }
        (entries, bytes)
    }

    pub fn push_back(&mut self, entry: Entry) {
        let begin = self.end();
        let cost_bytes = entry.cost_bytes();
        let bytes = self.last_bytes.map(|bytes| bytes.saturating_add(cost_bytes));
        if let Some(Placed { run, .. }) = self.runs.back_mut()
            && bytes.is_some_and(|bytes| bytes <= RUN_BYTES_MAX)
            && run.to < RUN_ENTRIES_MAX
            && let Some(entries) = Arc::get_mut(&mut run.entries)
        {
            entries.push(entry);
            run.to += 1;
            self.last_bytes = bytes;
            return;
        }
        self.place(begin, Run { entries: Arc::new(vec![entry]), from: 0, to: 1 });
        self.last_bytes = Some(cost_bytes);
    }

    /// Adds entries to the end. Runs that are long enough are taken over as they are.
    pub fn extend(&mut self, entries: Entries) {
        for run in entries.first.into_iter().chain(entries.rest) {
            if run.len() >= ADOPTED_ENTRIES_MIN {
                self.place(self.end(), run);
                self.last_bytes = None;
            } else {
                run.as_slice().iter().for_each(|entry| self.push_back(entry.clone()));
            }
        }
    }

    fn place(&mut self, begin: usize, run: Run) {
        self.runs.push_back(Placed { begin, run });
    }

    pub fn pop_front(&mut self) {
        let Some(Placed { begin, run }) = self.runs.front_mut() else { return };
        (*begin, self.removed) = (*begin + 1, self.removed + 1);
        run.from += 1;
        if run.from == run.to {
            self.runs.pop_front();
        }
    }

    /// Keeps this many entries at the front.
    pub fn truncate(&mut self, len: usize) {
        self.last_bytes = None;
        let end = self.removed + len;
        while self.runs.back().is_some_and(|placed| placed.begin >= end) {
            self.runs.pop_back();
        }
        if let Some(Placed { begin, run }) = self.runs.back_mut() {
            run.to = run.to.min(run.from + (end - *begin));
        }
    }

    pub fn clear(&mut self) {
        *self = Runs::default();
    }

    /// The position after the last entry, counted from the first one that was ever in the log.
    fn end(&self) -> usize {
        self.runs.back().map_or(self.removed, Placed::end)
    }

    /// The run that holds the entry at this position, counted from the first one that was ever in
    /// the log. Most often that is the last run.
    fn run_at(&self, at: usize) -> Option<usize> {
        let last = self.runs.back()?;
        if at >= last.begin {
            return (at < last.end()).then(|| self.runs.len() - 1);
        }
        if at < self.removed {
            return None;
        }
        Some(self.runs.partition_point(|placed| placed.end() <= at))
    }
}

impl fmt::Debug for Runs {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_list().entries(self.iter_from(0)).finish()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{LogId, Payload};
    use bytes::Bytes;

    fn entry(index: u64, term: u64) -> Entry {
        Entry::test_command(index, term, &[7; 60])
    }

    fn entries(from: u64, to: u64) -> Entries {
        (from..=to).map(|index| entry(index, 1)).collect()
    }

    fn ids<'a>(entries: impl IntoIterator<Item = &'a Entry>) -> Vec<LogId> {
        entries.into_iter().map(|entry| entry.id).collect()
    }

    #[test]
    fn what_is_shared_stays_as_it_is() {
        let mut runs = Runs::default();
        (1..=20).for_each(|index| runs.push_back(entry(index, 1)));
        let (shared, _) = runs.share(4, 20, usize::MAX);
        let expected = ids(&entries(5, 20));
        runs.push_back(entry(21, 1));
        assert_eq!(ids(&shared), expected, "the log has grown");
        runs.truncate(10);
        (11..=30).for_each(|index| runs.push_back(entry(index, 2)));
        assert_eq!(ids(&shared), expected, "the log has another end");
        (0..15).for_each(|_| runs.pop_front());
        runs.clear();
        assert_eq!(ids(&shared), expected, "the log has let go of it");
    }

    #[test]
    fn two_copies_of_a_log_go_different_ways() {
        let mut one = Runs::default();
        one.push_back(entry(1, 1));
        let mut other = one.clone();
        one.push_back(entry(2, 1));
        other.push_back(entry(2, 2));
        assert_eq!(ids(one.iter_from(0)), [LogId::new(1, 1), LogId::new(2, 1)]);
        assert_eq!(ids(other.iter_from(0)), [LogId::new(1, 1), LogId::new(2, 2)]);
    }

    #[test]
    fn a_log_that_nobody_shares_allocates_by_the_run() {
        let mut runs = Runs::default();
        (1..=1024).for_each(|index| {
            runs.push_back(entry(index, 1));
            drop(runs.share(index as usize - 1, index as usize, usize::MAX));
        });
        assert_eq!(runs.runs.len(), 1024 / RUN_ENTRIES_MAX);
        assert!(runs.runs.iter().all(|placed| placed.run.len() <= RUN_ENTRIES_MAX));
    }

    #[test]
    fn a_run_has_a_bounded_number_of_bytes() {
        let mut runs = Runs::default();
        let payload = Payload::Command(Bytes::from(vec![0; RUN_BYTES_MAX / 3]));
        (1..=6).for_each(|index| {
            runs.push_back(Entry { payload: payload.clone(), ..entry(index, 1) });
        });
        assert_eq!(runs.runs.iter().map(|placed| placed.run.len()).collect::<Vec<_>>(), [2, 2, 2]);
    }

    #[test]
    fn long_runs_are_taken_over_and_short_ones_copied() {
        for (count, is_shared) in [(ADOPTED_ENTRIES_MIN as u64, true), (1, false)] {
            let (mut runs, given) = (Runs::default(), entries(1, count));
            runs.extend(given.clone());
            let own = runs.runs[0].run.as_slice().as_ptr();
            assert_eq!(given.slices().next().map(<[Entry]>::as_ptr) == Some(own), is_shared);
            assert_eq!(runs.share(0, count as usize, usize::MAX).0, given);
        }
    }

    #[test]
    fn the_first_entry_is_shared_whatever_it_costs() {
        let mut runs = Runs::default();
        (1..=9).for_each(|index| runs.push_back(entry(index, 1)));
        let each = entry(1, 1).cost_bytes();
        // (limit, entries)
        for (bytes_max, count) in [(0, 1), (1, 1), (each, 1), (2 * each, 2), (3 * each - 1, 2)] {
            let (shared, bytes) = runs.share(2, 9, bytes_max);
            assert_eq!((shared.len(), bytes), (count, count * each), "{bytes_max} bytes");
            assert_eq!(shared.first().map(|entry| entry.id.index.0), Some(3));
        }
    }

    /// Does the same to a log and to a vector, in many orders.
    #[test]
    fn a_log_in_runs_is_a_queue_of_entries() {
        for seed in 0..200_u64 {
            let mut state = seed;
            let mut random = |below: u64| {
                state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(seed | 1);
                (state >> 33) % below
            };
            let (mut runs, mut model) = (Runs::default(), Vec::new());
            let (mut next, mut term, mut held) = (1, 1, Vec::new());
            for _ in 0..100 {
                let len = model.len() as u64;
                match random(6) {
                    0 | 1 => {
                        let added: Vec<Entry> =
                            (0..random(20)).map(|at| entry(next + at, term)).collect();
                        next += added.len() as u64;
                        model.extend(added.iter().cloned());
                        match random(2) {
                            0 => runs.extend(Entries::from(added)),
                            _ => added.into_iter().for_each(|entry| runs.push_back(entry)),
                        }
                    }
                    2 => {
                        let keep = random(len + 1);
                        next -= len - keep;
                        term += 1;
                        runs.truncate(keep as usize);
                        model.truncate(keep as usize);
                    }
                    3 => (0..random(5).min(len)).for_each(|_| {
                        runs.pop_front();
                        model.remove(0);
                    }),
                    _ => {
                        let from = random(len + 1) as usize;
                        let to = from + random(len + 1 - from as u64) as usize;
                        let bytes_max = (random(30) * 100) as usize;
                        let mut bytes = 0;
                        let fits = |entry: &&Entry| {
                            bytes += entry.cost_bytes();
                            bytes <= bytes_max || bytes == entry.cost_bytes()
                        };
                        let count = model[from..to].iter().take_while(fits).count();
                        let (shared, _) = runs.share(from, to, bytes_max);
                        assert_eq!(shared.to_vec(), model[from..from + count], "seed {seed}");
                        assert_eq!(shared.len(), count);
                        assert_eq!(shared.last(), model[from..from + count].last());
                        held.push((shared, model[from..from + count].to_vec()));
                    }
                }
                assert_eq!(runs.len(), model.len(), "seed {seed}");
                assert_eq!((runs.front(), runs.back()), (model.first(), model.last()));
                let at = random(len + 2) as usize;
                assert_eq!(runs.get(at), model.get(at), "seed {seed}");
                assert_eq!(ids(runs.iter_from(at)), ids(model.iter().skip(at)), "seed {seed}");
                let of_a_term = random(term + 1);
                let holds = |entry: &Entry| entry.id.term.0 <= of_a_term;
                assert_eq!(runs.partition_point(holds), model.partition_point(holds));
            }
            assert!(held.into_iter().all(|(shared, expected)| shared.into_iter().eq(expected)));
        }
    }
}
