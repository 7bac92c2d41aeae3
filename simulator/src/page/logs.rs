//! The logs of all nodes side by side, as they were when the run ended.

use super::Picture;
use crate::timeline::LastLog;
use raft::{Index, Term};
use std::collections::BTreeSet;
use std::fmt::Write as _;

/// The most columns of the table.
const COLUMNS_MAX: usize = 26;

/// How many entries are shown on either side of an index that the check names.
const ABOUT: u64 = 4;

impl LastLog {
    fn last(&self) -> Index {
        self.entries.last().map_or(self.base, |entry| *entry).index
    }

    /// The term of the entry at an index, if there is one; `Some(None)` if a snapshot covers it.
    fn at(&self, index: Index) -> Option<Option<Term>> {
        if index < self.base.index {
            return Some(None);
        }
        if index == self.base.index {
            return Some(Some(self.base.term));
        }
        let at = (index.0 - self.base.index.0 - 1) as usize;
        self.entries.get(at).map(|entry| Some(entry.term))
    }
}

impl Picture<'_> {
    pub(super) fn write_logs(&self, page: &mut String) {
        let logs = &self.timeline.logs;
        let columns = self.columns(logs);
        if columns.is_empty() {
            return;
        }
        page.push_str(
            "<h2>The logs at the end</h2><p class=\"hint\">Each cell is the term of the entry. \
             <span class=\"cell disk\">3</span> on the node's disk, <span class=\"cell memory\">3</span> \
             in memory only, <span class=\"cell disk known\">3</span> the node knows that it is \
             committed, <span class=\"cell disk differs\">3</span> differs from another node's entry, \
             <span class=\"cell within\">·</span> within its snapshot. An index in bold is named by the \
             check.</p><div class=\"wide\"><table class=\"logs\"><tr><th>",
        );
        let mut before: Option<Index> = None;
        for index in &columns {
            let named = self.story.about.indexes.contains(index);
            let gap = if before.is_some_and(|it| it.next() != *index) { "gap" } else { "" };
            let class = format!("{gap}{}", if named { " named" } else { "" });
            let _ = write!(page, "<th class=\"{class}\">{index}");
            before = Some(*index);
        }
        page.push_str("</tr>");
        for (node, log) in logs.iter().enumerate() {
            let named = self.story.is_about(node as u64);
            let class = if named { "named" } else { "" };
            let _ = write!(page, "<tr><th class=\"{class}\">node {node}");
            let mut before: Option<Index> = None;
            for index in &columns {
                let gap = before.is_some_and(|before| before.next() != *index);
                before = Some(*index);
                write_cell(page, log, *index, gap, differ(logs, *index));
            }
            page.push_str("</tr>");
        }
        page.push_str("</table></div>");
    }

    /// The indexes to show: those that are named or differ, the ends of logs, commit indexes, and
    /// some around each. If these are too many, the latest.
    fn columns(&self, logs: &[LastLog]) -> Vec<Index> {
        let most = logs.iter().map(LastLog::last).max().unwrap_or(Index(0));
        let least = logs.iter().map(|log| log.base.index).min().unwrap_or(Index(0));
        let named = self.story.about.indexes.iter().copied();
        let differing = (least.0..=most.0).map(Index).filter(|index| differ(logs, *index));
        let mut columns: BTreeSet<Index> = BTreeSet::new();
        let mut add = |index: Index, about: u64| {
            let range = index.0.saturating_sub(about).max(1)..=(index.0 + about).min(most.0);
            columns.extend(range.map(Index));
        };
        named.for_each(|index| add(index, ABOUT));
        let ends = logs.iter().flat_map(|log| [Some(log.last()), log.commit]);
        let ends: BTreeSet<Index> = ends.flatten().collect();
        differing.take(COLUMNS_MAX / 2).for_each(|index| add(index, 1));
        for end in ends.into_iter().rev() {
            add(end, 2);
        }
        let mut columns: Vec<Index> = columns.into_iter().collect();
        if columns.len() > COLUMNS_MAX {
            // Named indexes stay; of the rest, the latest.
            let names = &self.story.about.indexes;
            let near = |index: &Index| names.iter().any(|name| name.0.abs_diff(index.0) <= ABOUT);
            let (mut kept, rest): (Vec<Index>, Vec<Index>) = columns.into_iter().partition(near);
            kept.drain(..kept.len().saturating_sub(COLUMNS_MAX));
            let room = COLUMNS_MAX - kept.len();
            kept.extend(&rest[rest.len().saturating_sub(room)..]);
            kept.sort_unstable();
            columns = kept;
        }
        columns
    }
}

/// Whether two nodes have entries of different terms at an index.
fn differ(logs: &[LastLog], index: Index) -> bool {
    let terms: BTreeSet<Term> = logs.iter().filter_map(|log| log.at(index).flatten()).collect();
    terms.len() > 1
}

fn write_cell(page: &mut String, log: &LastLog, index: Index, gap: bool, differs: bool) {
    let gap = if gap { " gap" } else { "" };
    let _ = match log.at(index) {
        None => write!(page, "<td class=\"none{gap}\">"),
        Some(None) => write!(page, "<td class=\"cell within{gap}\">·"),
        Some(Some(term)) => {
            let place = if index <= log.durable.index { "disk" } else { "memory" };
            let known =
                if log.commit.is_some_and(|commit| index <= commit) { " known" } else { "" };
            let differs = if differs { " differs" } else { "" };
            write!(page, "<td class=\"cell {place}{known}{differs}{gap} b{}\">{term}", term.0 % 8)
        }
    };
}
