//! The names in the detail of a check: nodes, entries, terms and indexes.
//!
//! A check describes what it saw in a sentence. The picture should show first what that sentence
//! names, whatever the check.

use raft::{Index, LogId, Term};
use std::collections::BTreeSet;

/// The words before an index.
const BEFORE_INDEX: &[&str] = &["index", "of", "though", "at", "commits", "below", "after"];

#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Names {
    pub nodes: BTreeSet<u64>,
    pub ids: BTreeSet<LogId>,
    pub terms: BTreeSet<Term>,
    pub indexes: BTreeSet<Index>,
}

impl Names {
    /// The names in a text, for a cluster of this number of nodes.
    pub fn of(text: &str, nodes: u64) -> Self {
        let mut names = Names::default();
        let apart = |c: char| !c.is_alphanumeric() && c != '@';
        let words: Vec<&str> = text.split(apart).filter(|word| !word.is_empty()).collect();
        // How many of the next numbers may be nodes.
        let mut nodes_to_come = 0;
        for (at, word) in words.iter().enumerate() {
            let before = at.checked_sub(1).map_or("", |before| words[before]);
            if let Some((index, term)) = word.split_once('@')
                && let (Ok(index), Ok(term)) = (index.parse(), term.parse())
            {
                names.ids.insert(LogId { index: Index(index), term: Term(term) });
            }
            let Ok(number) = word.parse::<u64>() else {
                nodes_to_come = match *word {
                    "node" | "NodeId" => 1,
                    "nodes" => nodes,
                    "and" => nodes_to_come,
                    _ => 0,
                };
                continue;
            };
            if nodes_to_come > 0 {
                nodes_to_come -= 1;
                names.nodes.extend(Some(number).filter(|node| *node < nodes));
                continue;
            }
            match before {
                "term" | "Term" => {
                    names.terms.insert(Term(number));
                }
                before if BEFORE_INDEX.contains(&before) => {
                    names.indexes.insert(Index(number));
                }
                _ => {}
            }
        }
        names.indexes.extend(names.ids.iter().map(|id| id.index));
        names
    }

    /// The named entry in a range of one term; or else an entry at a named index, which may be
    /// there instead of the named one.
    pub fn within(&self, first: LogId, last: LogId) -> Option<LogId> {
        let covers = |index: Index| first.index <= index && index <= last.index;
        let known = self.ids.iter().find(|id| covers(id.index) && last.term == id.term);
        let other = self.indexes.iter().find(|index| covers(**index));
        known.copied().or(other.map(|index| LogId { index: *index, term: last.term }))
    }

    /// Whether the check names a different entry at the same index.
    pub fn is_rival(&self, id: LogId) -> bool {
        !self.ids.contains(&id) && self.ids.iter().any(|known| known.index == id.index)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn names(text: &str) -> (Vec<u64>, Vec<String>, Vec<u64>, Vec<u64>) {
        let names = Names::of(text, 5);
        let ids = names.ids.iter().map(ToString::to_string).collect();
        let terms = names.terms.iter().map(|term| term.0).collect();
        let indexes = names.indexes.iter().map(|index| index.0).collect();
        (names.nodes.into_iter().collect(), ids, terms, indexes)
    }

    #[test]
    fn what_a_check_names_is_found_in_its_words() {
        let none = || (vec![], vec![], vec![], vec![]);
        assert_eq!(names("nodes 0 and 3 in term 7"), (vec![0, 3], vec![], vec![7], vec![]),);
        assert_eq!(
            names(
                "node 2 answers 977@1 with 01; the reference machine answered 03; the command: 02"
            ),
            (vec![2], vec!["977@1".to_owned()], vec![], vec![977]),
        );
        assert_eq!(
            names("a read of 12, though 13 was answered"),
            (vec![], vec![], vec![], vec![12, 13])
        );
        assert_eq!(names("nodes [1, 4] serve, long after").0, [1, 4]);
        assert_eq!(names("2000001 events in 3 µs"), none());
        assert_eq!(names("node 9 of five").0, Vec::<u64>::new(), "there is no such node");
    }
}
