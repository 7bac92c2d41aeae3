//! Messages: an arrow each, from the lane of the sender to that of the receiver. The arrow of a
//! lost message ends early, in a cross.

use super::lanes::BAR;
use super::scale::{Svg, escape, lasting, time};
use super::{FAINT_BYTES, Picture, TELLING_BYTES, words};
use crate::timeline::{Fate, Flight, FlightKind};
use std::fmt::Write as _;

/// The arrows, and how many did not fit.
pub(super) struct Messages {
    pub out: String,
    pub left_out: u64,
}

impl Picture<'_> {
    /// Draws the faint messages first, so that they lie below the others.
    pub(super) fn messages(&self, lane: &dyn Fn(u64) -> f64) -> Messages {
        let mut out = String::from("<g id=\"messages\">");
        let mut left_out = 0;
        for (is_faint, bytes_max) in [(true, FAINT_BYTES), (false, TELLING_BYTES)] {
            let mut svg = Svg::new(self.first, bytes_max);
            let flights = self.first.shown_first(&self.timeline.flights, |it| {
                (it.sent_us, it.arrived.map_or(it.due_us, |(at_us, _)| at_us))
            });
            for flight in flights.filter(|flight| is_faint == flight.kind.is_faint()) {
                if svg.has_room() {
                    self.draw_message(&mut svg, flight, lane);
                }
            }
            left_out += svg.left_out;
            out += &svg.out;
        }
        out += "</g>";
        Messages { out, left_out }
    }

    fn draw_message(&self, svg: &mut Svg, flight: &Flight, lane: &dyn Fn(u64) -> f64) {
        let Flight { from, to, sent_us, .. } = *flight;
        let is_lost = !matches!(flight.fate, Fate::Arrived | Fate::UnderWay);
        let until_us = match (flight.arrived, flight.fate) {
            (Some((at_us, _)), _) => at_us,
            (None, Fate::UnderWay) => flight.due_us,
            (None, _) => sent_us,
        };
        let down = to > from;
        let (begin, end) = match down {
            true => (lane(from) + BAR, lane(to)),
            false => (lane(from), lane(to) + BAR),
        };
        // A lost message ends early: it never arrived.
        let end = match flight.fate {
            Fate::Lost | Fate::Cut => begin + (end - begin).clamp(-34.0, 34.0),
            _ => end,
        };
        let mut class = format!("m {}", flight.kind.class());
        for (is_so, more) in [
            (is_lost, " lost"),
            (flight.fate == Fate::UnderWay, " underway"),
            (self.story.has_flight(flight), " guilty"),
        ] {
            if is_so {
                class += more;
            }
        }
        if until_us > self.first.to_us {
            class += " leaving";
        }
        let place = self.place((sent_us, until_us), (begin, end));
        if place.is_none() {
            class += " out";
        }
        let place = place.unwrap_or_default();
        let lasts =
            if until_us == sent_us { String::new() } else { format!(" data-u=\"{until_us}\"") };
        let _ = write!(
            svg.out,
            "<line class=\"{class}\" data-t=\"{sent_us}\"{lasts} data-y=\"{begin:.0} {end:.0}\"{place}>\
             <title>{}</title></line>",
            escape(&self.flight_words(flight))
        );
    }

    /// The position of an arrow in the initial window, cut off at its edges; `None` if neither end
    /// is inside. The script does the same for other windows.
    fn place(&self, (t, u): (u64, u64), (begin, end): (f64, f64)) -> Option<String> {
        let (from, to) = (self.first.from_us, self.first.to_us);
        if u < from || t > to || (t < from && u > to) {
            return None;
        }
        let at = |at_us: u64| match u - t {
            0 => begin,
            lasts => begin + (end - begin) * (at_us - t) as f64 / lasts as f64,
        };
        let (x1, x2) = (self.first.x(t), self.first.x(u));
        let (y1, y2) = (at(t.max(from)), if u > to { at(to) } else { end });
        Some(format!(" x1=\"{x1:.1}\" y1=\"{y1:.0}\" x2=\"{x2:.1}\" y2=\"{y2:.0}\""))
    }

    /// A message in full.
    pub(super) fn flight_words(&self, flight: &Flight) -> String {
        let until = match flight.arrived {
            Some((at_us, event)) => {
                format!(
                    "{} after {} (event {event})",
                    words::fate(flight),
                    lasting(at_us - flight.sent_us)
                )
            }
            None => words::fate(flight).to_owned(),
        };
        format!(
            "{} → {}, term {}: {}\n{} (event {}); {until}",
            flight.from,
            flight.to,
            flight.term,
            flight.says,
            time(flight.sent_us),
            flight.event
        )
    }
}

impl FlightKind {
    /// The kinds of most messages, which are routine.
    fn is_faint(self) -> bool {
        matches!(self, FlightKind::Heartbeat | FlightKind::Matched | FlightKind::Read)
    }

    fn class(self) -> &'static str {
        match self {
            FlightKind::Heartbeat => "heartbeat",
            FlightKind::Entries => "entries",
            FlightKind::Matched => "matched",
            FlightKind::Rejected => "rejected",
            FlightKind::PreVote => "prevote",
            FlightKind::Vote => "vote",
            FlightKind::Granted => "granted",
            FlightKind::Read => "reading",
            FlightKind::Snapshot => "snapshot",
            FlightKind::Other => "other",
        }
    }
}
