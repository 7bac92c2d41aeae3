//! A broken promise: which one, and which nodes, entries, terms and operations it is about.

use crate::checks::Check;
use crate::linearizability::Operation;
use raft::{Index, LogId, NodeId, Term};
use std::collections::BTreeSet;

/// A promise that was broken.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Violation {
    /// The promise.
    pub check: Check,
    /// The nodes, entries, terms and operations that it is about.
    pub about: Box<About>,
    /// A sentence for readers: the values that the check has compared.
    pub detail: String,
}

/// The nodes, entries, terms and operations that a violation is about. The page of a failure shows
/// them first.
///
/// It is made of its parts: `About::from((node, id))`, `About::from(([first, second], term))`.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct About {
    /// The nodes.
    pub nodes: BTreeSet<NodeId>,
    /// The entries.
    pub ids: BTreeSet<LogId>,
    /// The terms, in addition to those of the entries.
    pub terms: BTreeSet<Term>,
    /// The indexes, those of the entries included.
    pub indexes: BTreeSet<Index>,
    /// The operations of clients that do not fit together.
    pub operations: Vec<Operation>,
    /// The requests, by their client and when they were sent, in microseconds.
    pub requests: BTreeSet<(u64, u64)>,
}

/// Returns a [`Violation`] as an error.
pub fn violation<T>(
    check: Check,
    about: impl Into<About>,
    detail: impl Into<String>,
) -> Result<T, Violation> {
    Err(Violation::new(check, about, detail))
}

impl Violation {
    /// Creates a violation.
    pub fn new(check: Check, about: impl Into<About>, detail: impl Into<String>) -> Self {
        Violation { check, about: Box::new(about.into()), detail: detail.into() }
    }
}

impl About {
    fn and(mut self, other: About) -> Self {
        self.nodes.extend(other.nodes);
        self.ids.extend(other.ids);
        self.terms.extend(other.terms);
        self.indexes.extend(other.indexes);
        self.operations.extend(other.operations);
        self.requests.extend(other.requests);
        self
    }
}

/// Nothing in particular.
impl From<()> for About {
    fn from((): ()) -> Self {
        About::default()
    }
}

/// The node at this position.
impl From<usize> for About {
    fn from(node: usize) -> Self {
        NodeId(node as u64).into()
    }
}

impl From<NodeId> for About {
    fn from(node: NodeId) -> Self {
        About { nodes: [node].into(), ..About::default() }
    }
}

impl From<LogId> for About {
    fn from(id: LogId) -> Self {
        About { ids: [id].into(), indexes: [id.index].into(), ..About::default() }
    }
}

impl From<Term> for About {
    fn from(term: Term) -> Self {
        About { terms: [term].into(), ..About::default() }
    }
}

impl From<Index> for About {
    fn from(index: Index) -> Self {
        About { indexes: [index].into(), ..About::default() }
    }
}

impl From<Vec<Operation>> for About {
    fn from(operations: Vec<Operation>) -> Self {
        About { operations, ..About::default() }
    }
}

impl<A: Into<About>, B: Into<About>> From<(A, B)> for About {
    fn from((a, b): (A, B)) -> Self {
        a.into().and(b.into())
    }
}

impl<T: Into<About>> From<Option<T>> for About {
    fn from(part: Option<T>) -> Self {
        part.map_or_else(About::default, Into::into)
    }
}

impl<T: Into<About>, const N: usize> From<[T; N]> for About {
    fn from(parts: [T; N]) -> Self {
        parts.into_iter().map(Into::into).fold(About::default(), About::and)
    }
}

impl From<&[usize]> for About {
    fn from(nodes: &[usize]) -> Self {
        nodes.iter().map(|node| About::from(*node)).fold(About::default(), About::and)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_violation_is_about_all_of_its_parts() {
        let id = |index, term| LogId { index: Index(index), term: Term(term) };
        let about = About::from(([0_usize, 3], (id(9, 2), Term(7))));
        assert_eq!(about.nodes, [NodeId(0), NodeId(3)].into());
        assert_eq!((about.ids, about.terms), ([id(9, 2)].into(), [Term(7)].into()));
        assert_eq!(about.indexes, [Index(9)].into());
        assert_eq!(About::from((None::<LogId>, ())), About::default());
    }
}
