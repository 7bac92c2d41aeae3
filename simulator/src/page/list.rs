//! The last moments and messages as text.

use super::scale::{before, escape, time};
use super::{Picture, words};
use crate::timeline::{Fate, What};
use std::fmt::Write as _;

/// Number of moments and messages in the list.
const LINES: usize = 200;

struct Line {
    event: u64,
    at_us: u64,
    node: String,
    text: String,
    class: &'static str,
}

impl Picture<'_> {
    pub(super) fn write_list(&self, page: &mut String) {
        let mut lines = self.lines();
        // The sort is stable: within an event, lines keep the order in which they were collected.
        lines.sort_by_key(|line| line.event);
        lines.drain(..lines.len().saturating_sub(LINES));
        let _ = write!(
            page,
            "<h2>The last {} things that happened</h2><p class=\"hint\">Marked: what is part of the \
             story above. Click one to go there.</p><table class=\"list\"><tr><th>event<th>time<th>\
             <th>node<th></tr>",
            lines.len()
        );
        for line in lines {
            let _ = write!(
                page,
                "<tr class=\"{}\" data-at=\"{}\"><td>{}<td>{}<td>{}<td>{}<td>{}</tr>",
                line.class,
                line.at_us,
                line.event,
                time(line.at_us),
                before(line.at_us, self.end_us),
                line.node,
                escape(&line.text)
            );
        }
        page.push_str("</table>");
    }

    /// The last ones of every kind: at least as many as are shown.
    fn lines(&self) -> Vec<Line> {
        let mut lines = Vec::new();
        let flights = self.timeline.flights.iter().rev();
        let arrived = flights.clone().filter(|flight| flight.arrived.is_some());
        for flight in arrived.take(4 * LINES) {
            let Some((at_us, event)) = flight.arrived else { continue };
            let failed = match flight.fate {
                Fate::Arrived => String::new(),
                _ => format!(" — {}", words::fate(flight)),
            };
            let node = format!("{} ← {}", flight.to, flight.from);
            let text = format!("{} (term {}){failed}", flight.says, flight.term);
            let class = self.class_of(flight, "in");
            lines.push(Line { event, at_us, node, text, class });
        }
        for moment in self.timeline.moments.iter().rev().take(4 * LINES) {
            let class = match moment.what {
                What::Violation(_) => "violation",
                _ if self.story.has_moment(moment) => "guilty",
                _ => "moment",
            };
            let node = moment.node.map_or(String::new(), |node| node.to_string());
            let text = words::what(&moment.what, self.plan.nodes);
            lines.push(Line { event: moment.event, at_us: moment.at_us, node, text, class });
        }
        for flight in flights.take(2 * LINES) {
            let fate = match flight.fate {
                Fate::Lost | Fate::Cut => format!(" — {}", words::fate(flight)),
                _ => String::new(),
            };
            let node = format!("{} → {}", flight.from, flight.to);
            let text = format!("{} (term {}){fate}", flight.says, flight.term);
            let (event, at_us) = (flight.event, flight.sent_us);
            lines.push(Line { event, at_us, node, text, class: self.class_of(flight, "sent") });
        }
        // The earliest first within a kind again: they were collected from the end.
        lines.reverse();
        lines.sort_by_key(|line| match line.class {
            "violation" => 2,
            "sent" => 1,
            _ => 0,
        });
        lines
    }

    fn class_of(&self, flight: &crate::timeline::Flight, otherwise: &'static str) -> &'static str {
        if self.story.has_flight(flight) { "guilty" } else { otherwise }
    }
}
