//! Messages: an arrow each, from the lane of the sender to that of the receiver. The arrow of a
//! lost message ends early, in a cross.

use super::lanes::BAR;
use super::scale::{Svg, escape, lasting, time};
use super::{FAINT_BYTES, Picture, TELLING_BYTES, words};
use crate::timeline::{Fate, Flight, FlightKind};
use std::fmt::Write as _;

/// The size of the part that is drawn of an arrow far longer than the window.
const STUB: (f64, f64) = (12.0, 24.0);

/// The position of an arrow.
struct Line {
    x: (f64, f64),
    y: (f64, f64),
    /// Its end is beyond the window.
    leaves: bool,
}

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
        let ends = (sent_us, until_us);
        let Some(line) = self.line(ends, (begin, end)) else {
            class += " out";
            return self.write_message(
                svg,
                flight,
                &class,
                ends,
                &format!("y1=\"{begin:.0}\" y2=\"{end:.0}\""),
            );
        };
        if line.leaves {
            class += " leaving";
        }
        let place = format!(
            "x1=\"{:.1}\" y1=\"{:.0}\" x2=\"{:.1}\" y2=\"{:.0}\" data-y=\"{begin:.0} {end:.0}\"",
            line.x.0, line.y.0, line.x.1, line.y.1
        );
        self.write_message(svg, flight, &class, ends, &place);
    }

    fn write_message(
        &self,
        svg: &mut Svg,
        flight: &Flight,
        class: &str,
        (t, u): (u64, u64),
        place: &str,
    ) {
        let lasts = if u == t { String::new() } else { format!(" data-u=\"{u}\"") };
        let _ = write!(
            svg.out,
            "<line class=\"{class}\" data-t=\"{t}\"{lasts} data-n=\"{} {}\" {place}><title>{}</title></line>",
            flight.from,
            flight.to,
            escape(&self.flight_words(flight))
        );
    }

    /// The position of an arrow in the initial window; `None` if it is outside. Of a long flight
    /// that is only partly in the window, only the end inside is drawn: the whole arrow would cross
    /// the picture. The script does the same for other windows.
    fn line(&self, (t, u): (u64, u64), (begin, end): (f64, f64)) -> Option<Line> {
        let first = &self.first;
        let (from, to) = (first.from_us, first.to_us);
        if u < from || t > to {
            return None;
        }
        let (x1, x2) = (first.x(t), first.x(u));
        let whole = t >= from && u <= to;
        let stub = (end - begin).clamp(-STUB.1, STUB.1);
        if whole || u - t <= (to - from) / 4 {
            let at = |at_us: u64| match u - t {
                0 => begin,
                lasts => begin + (end - begin) * (at_us - t) as f64 / lasts as f64,
            };
            let (y1, y2) = (at(t.max(from)), if u > to { at(to) } else { end });
            return Some(Line { x: (x1, x2), y: (y1, y2), leaves: false });
        }
        if u <= to {
            return Some(Line { x: (x2 - STUB.0, x2), y: (end - stub, end), leaves: false });
        }
        let leaves = Line { x: (x1, x1 + STUB.0), y: (begin, begin + stub), leaves: true };
        (t >= from).then_some(leaves)
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
