//! The story of a violation: the moments that concern the nodes, entries and terms that the
//! violation is about, and also elections and faults.
//!
//! It is a guess, but usually shows what a person who debugs the run looks for.

use super::scale::lasting;
use super::words;
use crate::linearizability::Operation;
use crate::timeline::{Flight, FlightKind, Moment, Span, Step, Timeline, What};
use crate::violation::About;
use crate::world::Run;
use raft::{Index, LogId, NodeId, RoleKind, Term};
use std::collections::{BTreeMap, BTreeSet};

/// Moments in the story, at most.
const ITEMS_MAX: usize = 28;

/// How many of the latest moments of each kind are shown for a named node.
const LATEST_OF_A_KIND: usize = 2;

/// A moment of the story.
#[derive(Clone, Debug)]
pub(super) struct Item {
    pub at_us: u64,
    pub event: u64,
    pub node: Option<u64>,
    pub text: String,
    /// Low weights matter most: items with 0 are left out last.
    weight: u32,
}

#[derive(Debug, Default)]
pub(super) struct Story {
    pub about: About,
    /// By time. The last one is the violation, if there is one.
    pub items: Vec<Item>,
    /// The time span of the clients' operations that the check names, if it names any. Then the
    /// cause is not at the end of the run.
    pub operations_us: Option<(u64, u64)>,
}

fn operation_item(operation: &Operation, timeline: &Timeline) -> Item {
    let (moments, at_us) = (&timeline.moments, operation.begun);
    let at = moments.partition_point(|moment| moment.at_us < at_us);
    let event = moments.get(at).map_or(0, |moment| moment.event);
    let answered = match operation.ended {
        Some(ended_us) => format!("answered after {}", lasting(ended_us - at_us)),
        None => "never answered".to_owned(),
    };
    let text = format!("a client: {}; {answered}", operation.words());
    Item { at_us, event, node: None, text, weight: 1 }
}

/// The operation of a client that began at a time.
fn span_of((client, begun_us): (u64, u64), timeline: &Timeline) -> Option<&Span> {
    let mut spans = timeline.spans.iter();
    spans.find(|span| span.client as u64 == client && span.begun_us == begun_us)
}

/// The time span of the requests that the check names.
fn requests_us(about: &About, timeline: &Timeline) -> Option<(u64, u64)> {
    let spans = || about.requests.iter().filter_map(|asked| span_of(*asked, timeline));
    spans().map(|span| span.begun_us).min().zip(spans().map(|span| span.ended_us).max())
}

fn step_item(step: &Step) -> Item {
    let Step { at_us, event, node, ref text, .. } = *step;
    Item { at_us, event, node, text: text.clone(), weight: 1 }
}

impl Story {
    pub fn of(run: &Run) -> Self {
        let timeline = &run.timeline;
        let mut about = About::default();
        if let Some(broken) = &run.violation {
            about = (*broken.about).clone();
            complete(&mut about, timeline);
        }
        let mut teller = Teller {
            timeline,
            about: &about,
            items: Vec::new(),
            told: BTreeSet::new(),
            ends: BTreeMap::new(),
        };
        teller.tell();
        let mut items = teller.items;
        items.extend(timeline.steps.iter().map(step_item));
        let operations = &about.operations;
        items.extend(operations.iter().map(|operation| operation_item(operation, timeline)));
        let from_us = operations.iter().map(|operation| operation.begun).min();
        let to_us = operations.iter().map(|it| it.ended.unwrap_or(it.begun)).max();
        let operations_us = from_us.zip(to_us).or_else(|| requests_us(&about, timeline));
        items.sort_by_key(|item| (item.weight, u64::MAX - item.event));
        items.truncate(ITEMS_MAX);
        items.sort_by_key(|item| (item.event, item.weight == 0));
        Story { about, items, operations_us }
    }

    /// Whether the violation is about a node.
    pub fn is_about(&self, node: u64) -> bool {
        self.about.nodes.contains(&NodeId(node))
    }

    /// Whether a message is part of it.
    pub fn has_flight(&self, flight: &Flight) -> bool {
        match flight.kind {
            FlightKind::Granted => self.about.terms.contains(&flight.term),
            FlightKind::Snapshot => self.is_about(flight.to),
            FlightKind::Entries => flight.entries.is_some_and(|(first, last)| {
                self.about.ids.iter().any(|id| {
                    first.index <= id.index && id.index <= last.index && last.term == id.term
                })
            }),
            _ => false,
        }
    }

    /// Whether a moment is part of it.
    pub fn has_moment(&self, moment: &Moment) -> bool {
        self.items.iter().any(|item| item.event == moment.event && item.node == moment.node)
    }
}

/// Completes what is known: without a node, the node of the last moment; without a term or an
/// entry, the terms of the nodes.
fn complete(about: &mut About, timeline: &Timeline) {
    if about.nodes.is_empty() {
        let last = timeline.moments.iter().rev().find_map(|moment| moment.node);
        about.nodes.extend(last.map(NodeId));
    }
    if about.ids.is_empty() && about.terms.is_empty() && about.indexes.is_empty() {
        let term = |node: &NodeId| timeline.logs.get(node.0 as usize).map(|log| log.term);
        about.terms.extend(about.nodes.iter().filter_map(term));
    }
}

/// The entry that the violation is about, in a range of one term; or else an entry at its index,
/// which may be there in its place.
fn within(about: &About, first: LogId, last: LogId) -> Option<LogId> {
    let covers = |index: Index| first.index <= index && index <= last.index;
    let known = about.ids.iter().find(|id| covers(id.index) && last.term == id.term);
    let other = about.indexes.iter().find(|index| covers(**index));
    known.copied().or(other.map(|index| LogId { index: *index, term: last.term }))
}

struct Teller<'a> {
    timeline: &'a Timeline,
    about: &'a About,
    items: Vec<Item>,
    /// The moments that the story already has about each entry, by node.
    told: BTreeSet<(LogId, u64, &'static str)>,
    /// Where the log of each node ends.
    ends: BTreeMap<u64, LogId>,
}

impl Teller<'_> {
    fn add(&mut self, moment: &Moment, weight: u32, text: String) {
        let Moment { at_us, event, node, .. } = *moment;
        self.items.push(Item { at_us, event, node, text, weight });
    }

    fn tell(&mut self) {
        let timeline = self.timeline;
        // From the end, so that the latest of a kind come first.
        let mut of_a_kind: BTreeMap<(u64, &str), usize> = BTreeMap::new();
        for moment in timeline.moments.iter().rev() {
            let kind = match moment.what {
                What::Start { .. } if moment.at_us > 0 => "start",
                What::Down => "down",
                What::Installed(_) => "installed",
                What::Compacted(_) => "compacted",
                _ => continue,
            };
            let Some(node) = moment.node.filter(|node| self.about.nodes.contains(&NodeId(*node)))
            else {
                continue;
            };
            let count = of_a_kind.entry((node, kind)).or_default();
            *count += 1;
            if *count <= LATEST_OF_A_KIND {
                self.add(moment, 2, words::what(&moment.what, timeline.nodes));
            }
        }
        let mut have: BTreeMap<u64, Vec<LogId>> = BTreeMap::new();
        for moment in &timeline.moments {
            self.tell_moment(moment, &mut have);
            if let Some(node) = moment.node {
                self.follow_end(node, &moment.what);
            }
        }
    }

    fn follow_end(&mut self, node: u64, what: &What) {
        let end = match what {
            What::Start { last, .. } => Some(*last),
            What::Log { grown, .. } => grown.last().map(|(_, last)| *last),
            What::Compacted(base) => Some(*base)
                .filter(|base| self.ends.get(&node).is_none_or(|end| end.index < base.index)),
            _ => None,
        };
        self.ends.extend(end.map(|end| (node, end)));
    }

    fn log_end(&self, moment: &Moment) -> String {
        let end = moment.node.and_then(|node| self.ends.get(&node));
        end.map_or(String::new(), |end| format!("; its log ends with {end}"))
    }

    fn tell_moment(&mut self, moment: &Moment, have: &mut BTreeMap<u64, Vec<LogId>>) {
        let nodes = self.timeline.nodes;
        // Of a fault in a state machine the commands tell the story; terms and syncs have no part.
        if !self.timeline.steps.is_empty()
            && !matches!(moment.what, What::Violation(_) | What::Fault(_))
        {
            return;
        }
        let text = || words::what(&moment.what, nodes);
        let named_term = |term: &Term| self.about.terms.contains(term);
        match &moment.what {
            What::Violation(_) => self.add(moment, 0, text()),
            What::Fault(_) => self.add(moment, 3, text()),
            What::Calm => self.add(moment, 5, text()),
            // The ends of the logs decide which candidate may win.
            What::Vote(_, term) if named_term(term) => {
                self.add(moment, 1, text() + &self.log_end(moment));
            }
            What::Role(RoleKind::Leader, term) if named_term(term) => self.add(moment, 1, text()),
            What::Role(RoleKind::Candidate, term) if named_term(term) => {
                self.add(moment, 2, text() + &self.log_end(moment));
            }
            What::Role(RoleKind::Leader, _) => self.add(moment, 4, text()),
            _ => {
                if let Some(node) = moment.node {
                    self.tell_entries(moment, node, have.entry(node).or_default());
                }
            }
        }
    }

    /// Adds what a moment means for the named entries, and for others at their indexes. `have` is
    /// the list of those that the node has.
    fn tell_entries(&mut self, moment: &Moment, node: u64, have: &mut Vec<LogId>) {
        let named = self.about.nodes.contains(&NodeId(node));
        match &moment.what {
            What::Log { cut, grown } => {
                if let Some((first, last)) = cut {
                    let gone = |id: &LogId| first.index <= id.index && id.index <= last.index;
                    for id in have.iter().copied().filter(gone).collect::<Vec<_>>() {
                        self.tell_once(moment, node, id, "cut", 1, format!("cuts off {id}"));
                    }
                    have.retain(|id| !gone(id));
                }
                for id in grown.iter().filter_map(|(first, last)| within(self.about, *first, *last))
                {
                    have.push(id);
                    let ids = &self.about.ids;
                    let rival = !ids.contains(&id) && ids.iter().any(|it| it.index == id.index);
                    let text = match rival {
                        true => format!("appends {id}, in the place of what is named"),
                        false => format!("appends {id}"),
                    };
                    self.tell_once(moment, node, id, "appends", 2, text);
                }
            }
            What::Durable { last, .. } => {
                for id in
                    have.iter().copied().filter(|id| id.index <= last.index).collect::<Vec<_>>()
                {
                    self.tell_once(moment, node, id, "disk", 3, format!("has {id} on its disk"));
                }
            }
            What::Commit(commit) => {
                self.tell_index(moment, node, named, *commit, "knows that", "is committed");
            }
            What::Applied(applied) => {
                self.tell_index(moment, node, named, *applied, "has applied", "");
            }
            _ => {}
        }
    }

    fn tell_index(
        &mut self,
        moment: &Moment,
        node: u64,
        named: bool,
        upto: Index,
        before: &'static str,
        after: &str,
    ) {
        for index in self.about.indexes.iter().copied().filter(|index| *index <= upto) {
            let id = LogId { index, term: Term(0) };
            let first = self.told.iter().all(|(known, _, what)| *known != id || *what != before);
            if (named || first) && self.told.insert((id, node, before)) {
                let text = format!("{before} index {index} {after}");
                self.add(moment, if named { 2 } else { 3 }, text.trim_end().to_owned());
            }
        }
    }

    fn tell_once(
        &mut self,
        moment: &Moment,
        node: u64,
        id: LogId,
        what: &'static str,
        weight: u32,
        text: String,
    ) {
        if self.told.insert((id, node, what)) {
            self.add(moment, weight, text);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::checks::Check;
    use crate::linearizability::Action;
    use crate::violation::Violation;
    use crate::{Plan, RegisterWorkload, run};

    #[test]
    fn a_history_is_shown_where_its_operations_are() {
        let mut broken = run(&Plan::from_seed(2), RegisterWorkload::new(4, 0), true);
        let operation = |begun, ended, action| Operation { begun, ended, action };
        let operations = vec![
            operation(40, Some(70), Action::Write(5, Some(Some(4)))),
            operation(60, None, Action::Write(6, None)),
        ];
        broken.violation = Some(Violation::new(Check::History, operations, "not linearizable"));
        let story = Story::of(&broken);
        assert_eq!(story.operations_us, Some((40, 70)));
        let texts: Vec<&str> = story.items.iter().map(|item| item.text.as_str()).collect();
        assert!(texts.contains(&"a client: write 5, found 4; answered after 30 µs"), "{texts:?}");
        assert!(texts.contains(&"a client: write 6, not heard; never answered"), "{texts:?}");
    }
}
