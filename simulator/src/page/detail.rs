//! The detailed picture: a lane for each node, faults above, clients below. Elements outside of the
//! initial window are present and hidden.

use super::lanes::{BAR, LANE};
use super::scale::{Scale, Svg, before, count, escape, lasting, time};
use super::strikes::{Strike, rows, strikes};
use super::{LEFT, PART_BYTES, Picture, RIGHT, WIDTH, words};
use std::fmt::Write as _;

const AXIS: f64 = 34.0;
const FAULT: f64 = 17.0;
const CLIENT: f64 = 13.0;

/// Characters of a request or an answer in the title of an operation.
const TITLE_CHARS: usize = 120;

/// The layers of the picture, one upon the other, and notes on what was left out.
struct Layers {
    first: Scale,
    notes: Vec<String>,
    out: String,
}

impl Layers {
    fn add(&mut self, name: &str, bytes_max: usize, draw: impl FnOnce(&mut Svg)) {
        let mut svg = Svg::new(self.first, bytes_max);
        draw(&mut svg);
        self.note(svg.left_out, name);
        let _ = write!(self.out, "<g>{}</g>", svg.out);
    }

    fn note(&mut self, left_out: u64, name: &str) {
        if left_out > 0 {
            self.notes.push(format!("{} {name}", count(left_out)));
        }
    }
}

impl Picture<'_> {
    pub(super) fn write_detail(&self, page: &mut String) {
        let apart_us = (self.first.to_us - self.first.from_us) / 5;
        let strikes = strikes(self.timeline, self.end_us, apart_us);
        let top = AXIS + 10.0 + FAULT * rows(&strikes) as f64;
        let clients_at = top + LANE * self.plan.nodes as f64;
        let clients = self.timeline.spans.iter().map(|span| span.client + 1).max().unwrap_or(0);
        let height = clients_at + CLIENT * clients as f64 + 12.0;
        let lane = |node: u64| top + LANE * node as f64;

        let mut layers = Layers { first: self.first, notes: Vec::new(), out: String::new() };
        layers.add("moments of faults", PART_BYTES, |svg| draw_strikes(svg, self, &strikes, lane));
        for node in 0..self.plan.nodes {
            let draw = |svg: &mut Svg| self.draw_lane(svg, node, lane(node));
            layers.add("moments of nodes", PART_BYTES / 2, draw);
        }
        layers.add("operations", PART_BYTES, |svg| self.draw_clients(svg, clients_at));
        let messages = self.messages(&lane);
        layers.note(messages.left_out, "messages");
        layers.out += &messages.out;
        layers.add("pins", PART_BYTES, |svg| self.draw_pins(svg, &lane));
        layers.note(self.timeline.left_out, "moments and messages");
        let Layers { notes, out, .. } = layers;

        self.write_controls(page, &notes);
        let _ = write!(
            page,
            "<svg id=\"detail\" viewBox=\"0 0 {WIDTH} {height:.0}\" data-from=\"{}\" data-to=\"{}\" \
             data-end=\"{}\" data-left=\"{LEFT}\" data-right=\"{}\">{}",
            self.first.from_us,
            self.first.to_us,
            self.end_us,
            WIDTH - RIGHT,
            include_str!("detail.svg")
        );
        page.push_str("<g id=\"axis\">");
        for at_us in self.first.ticks() {
            let x = self.first.x(at_us);
            let _ = write!(
                page,
                "<line class=\"grid\" x1=\"{x:.1}\" x2=\"{x:.1}\" y1=\"{AXIS}\" y2=\"{height:.0}\"/>\
                 <text class=\"sign axis\" x=\"{x:.1}\" y=\"12\">{}</text>\
                 <text class=\"sign axis faint\" x=\"{x:.1}\" y=\"26\">{}</text>",
                time(at_us),
                before(at_us, self.end_us)
            );
        }
        page.push_str("</g>");
        for node in 0..self.plan.nodes {
            self.write_name(page, node, lane(node));
        }
        for client in 0..clients {
            let y = clients_at + CLIENT * client as f64 + 9.0;
            let _ =
                write!(page, "<text class=\"axis\" x=\"4\" y=\"{y:.0}\">client {client}</text>");
        }
        page.push_str(&out);
        if self.run.violation.is_some() {
            let (x, t) = (self.first.x(self.end_us), self.end_us);
            let seen = if self.first.shows(t, t) { "" } else { " out" };
            let _ = write!(
                page,
                "<line class=\"broken{seen}\" data-t=\"{t}\" x1=\"{x:.1}\" x2=\"{x:.1}\" y1=\"{AXIS}\" \
                 y2=\"{height:.0}\"><title>here the promise was broken</title></line>"
            );
        }
        page.push_str("</svg>");
    }

    fn write_controls(&self, page: &mut String, notes: &[String]) {
        page.push_str(include_str!("controls.html"));
        if !notes.is_empty() {
            let _ = write!(
                page,
                "<p class=\"hint\">Left out, for they were too many, the earliest first: {}.</p>",
                escape(&notes.join(", "))
            );
        }
        page.push_str("<p class=\"hint\" id=\"hidden\"></p>");
    }

    fn draw_clients(&self, svg: &mut Svg, top: f64) {
        let spans = self.first.shown_first(&self.timeline.spans, |it| (it.begun_us, it.ended_us));
        for span in spans {
            if !svg.has_room() {
                continue;
            }
            let (class, outcome) = words::ended(span.outcome);
            let kind = if span.is_read { " read" } else { "" };
            let at = span.index.map_or(String::new(), |index| format!(" at index {index}"));
            let answer = match span.answer.is_empty() {
                true => String::new(),
                false => format!(", answer {}", cut(&span.answer)),
            };
            let title = format!(
                "client {} asks node {}: {}; {}{at}{answer} (event {}, {} after {})",
                span.client,
                span.node,
                cut(&span.request),
                outcome,
                span.event,
                time(span.ended_us),
                lasting(span.ended_us - span.begun_us)
            );
            let y = top + CLIENT * span.client as f64;
            let class = format!("{class}{kind}");
            svg.bar(&class, (span.begun_us, span.ended_us), (y, CLIENT - 3.0), &title);
        }
    }

    /// The numbers of the story.
    fn draw_pins(&self, svg: &mut Svg, lane: &dyn Fn(u64) -> f64) {
        let mut taken: Vec<(u64, Option<u64>)> = Vec::new();
        for (at, item) in self.story.items.iter().enumerate() {
            // Pins of one moment stand one above the other.
            let same = taken.iter().filter(|known| **known == (item.at_us, item.node)).count();
            taken.push((item.at_us, item.node));
            let y = item.node.map_or(AXIS + 2.0, |node| lane(node) + BAR + 34.0);
            let (number, title) = (at + 1, format!("{}: {}", at + 1, item.text));
            svg.sign("pin", item.at_us, y + 13.0 * same as f64, &number.to_string(), &title);
        }
    }
}

fn draw_strikes(
    svg: &mut Svg,
    picture: &Picture<'_>,
    strikes: &[Strike],
    lane: impl Fn(u64) -> f64,
) {
    let nodes = picture.plan.nodes;
    for strike in strikes {
        let (from, until) = (strike.from_us, strike.until_us);
        for node in 0..nodes {
            let Some(class) = strike.marks(node, nodes) else { continue };
            svg.bar(
                &format!("band {class}"),
                (from, until),
                (lane(node) - 6.0, 72.0),
                &strike.text,
            );
        }
        let y = AXIS + 6.0 + FAULT * strike.row as f64;
        svg.bar("fault", (from, until), (y, FAULT - 3.0), &strike.text);
        // The name may go on beyond the end of the bar: nothing else is in the row there.
        let room = (picture.first.to_us - picture.first.from_us) / 5;
        svg.label("faultname", (from, until.max(from + room)), y + 11.0, &strike.text);
    }
}

/// The beginning of a text, for the title of an element. The story has the whole text.
fn cut(text: &str) -> String {
    match text.char_indices().nth(TITLE_CHARS) {
        Some((at, _)) => format!("{}…", &text[..at]),
        None => text.to_owned(),
    }
}
