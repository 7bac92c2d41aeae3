//! The report: one HTML file that loads nothing else.
//!
//! The table comes first, then each round with a timeline: a lane per node with its faults and its
//! time as leader, a lane of the clients' writes, and a red line at each violation.

use crate::history::Heard;
use crate::outcome::Outcome;
use crate::summary::{COLUMNS, rows};
use crate::timeline::{Kind, Span};
use std::fmt::Write;
use std::time::Duration;

const LEFT: f64 = 70.0;
const WIDTH: f64 = 1100.0;
const LANE: f64 = 22.0;
/// The most rounds without a violation that are drawn, the first ones of each scenario. A browser
/// would not open a page of thousands.
const DRAWN_MAX: usize = 200;

/// Renders the report of a run.
pub fn report(outcomes: &[Outcome]) -> String {
    let mut page = String::from("<!doctype html><html lang=\"en\"><meta charset=\"utf-8\">");
    page.push_str("<meta name=\"viewport\" content=\"width=device-width\">");
    let _ = write!(
        page,
        "<title>raft-kv under attack</title><style>{}</style>",
        include_str!("page.css")
    );
    let bad = outcomes.iter().filter(|outcome| !outcome.violations.is_empty()).count();
    let _ = write!(
        page,
        "<h1>raft-kv under attack</h1><p>{} rounds, {bad} with a violation.</p>",
        outcomes.len()
    );
    table(&mut page, outcomes);
    page.push_str(concat!(
        "<p class=\"legend\">Lanes: <span style=\"background:#7fb3e6\">leads</span>",
        "<span style=\"background:#f3b25f\">fault</span>",
        "<span style=\"border:1px dashed #999\">down</span>",
        "writes: <span style=\"color:#2e8b57\">done</span>",
        "<span style=\"color:#999\">not done</span><span style=\"color:#7b3fa0\">unknown</span>",
        "<span style=\"color:#e00020\">violation</span></p>",
    ));
    let mut drawn = std::collections::BTreeMap::<&str, usize>::new();
    let each_max = (DRAWN_MAX / rows(outcomes).len()).max(1);
    for outcome in outcomes {
        let count = drawn.entry(outcome.scenario).or_default();
        *count += 1;
        if !outcome.violations.is_empty() || *count <= each_max {
            round(&mut page, outcome);
        }
    }
    page.push_str("</html>\n");
    page
}

fn table(page: &mut String, outcomes: &[Outcome]) {
    page.push_str("<table><tr>");
    for name in COLUMNS {
        let _ = write!(page, "<th>{name}</th>");
    }
    for cells in rows(outcomes) {
        let bad = cells.last().is_some_and(|verdict| verdict.contains("VIOLATED"));
        page.push_str(if bad { "</tr><tr class=\"bad\">" } else { "</tr><tr>" });
        for cell in cells {
            let _ = write!(page, "<td>{}</td>", escape(&cell));
        }
    }
    page.push_str("</tr></table>");
}

fn round(page: &mut String, outcome: &Outcome) {
    let open = if outcome.violations.is_empty() { "" } else { " open" };
    let verdict = match (&outcome.skipped, outcome.violations.len()) {
        (Some(why), _) => format!("skipped: {}", escape(why)),
        (None, 0) => "ok".to_owned(),
        (None, _) => "<span class=\"violation\">violated</span>".to_owned(),
    };
    let (name, seed, seconds) = (outcome.scenario, outcome.seed, outcome.time.as_secs_f64());
    let _ = write!(
        page,
        "<details{open}><summary>{name}, seed {seed}: {verdict}, {} operations done in \
         {seconds:.1} s</summary>",
        outcome.counts.done
    );
    page.push_str("<ul>");
    for violation in &outcome.violations {
        let _ = write!(page, "<li class=\"violation\">{}</li>", escape(violation));
    }
    page.push_str("</ul>");
    if outcome.nodes > 0 && outcome.skipped.is_none() {
        timeline(page, outcome);
    }
    page.push_str("</details>");
}

/// Maps a time to its x coordinate.
struct Scale {
    micros: f64,
}

impl Scale {
    fn x(&self, time: Duration) -> f64 {
        LEFT + (WIDTH - LEFT) * (time.as_micros() as f64 / self.micros).min(1.0)
    }
}

fn timeline(page: &mut String, outcome: &Outcome) {
    let scale = Scale { micros: (outcome.time.as_micros() as f64).max(1.0) };
    let lanes = outcome.nodes as f64 + 1.0;
    let height = lanes * LANE + 24.0;
    let _ = write!(page, "<svg viewBox=\"0 0 {WIDTH} {height}\" role=\"img\">");
    let top = |lane: f64| lane * LANE + 2.0;
    for lane in 0..outcome.nodes {
        let y = top(lane as f64);
        let _ = write!(page, "<text x=\"2\" y=\"{}\">node {lane}</text>", y + 14.0);
        rect(page, "lane", LEFT, WIDTH, y, LANE - 4.0, "");
    }
    let writes = top(outcome.nodes as f64);
    let _ = write!(page, "<text x=\"2\" y=\"{}\">writes</text>", writes + 14.0);
    // Leaders first, so that faults lie above them.
    for kind in [Kind::Leads, Kind::Down, Kind::Fault] {
        for span in outcome.spans.iter().filter(|span| span.kind == kind) {
            band(page, &scale, span, outcome);
        }
    }
    operations(page, &scale, outcome, writes);
    for span in &outcome.spans {
        let class = match span.kind {
            Kind::Note => "note",
            Kind::Violation => "wrong",
            _ => continue,
        };
        let x = scale.x(span.from);
        let (from, to) = match span.node {
            Some(node) if span.kind == Kind::Note => {
                (top(node as f64), top(node as f64) + LANE - 4.0)
            }
            _ => (0.0, lanes * LANE),
        };
        let _ = write!(
            page,
            "<line class=\"{class}\" x1=\"{x:.1}\" x2=\"{x:.1}\" y1=\"{from}\" y2=\"{to}\">\
             <title>{} ({:.2} s)</title></line>",
            escape(&span.text),
            span.from.as_secs_f64()
        );
    }
    let axis = lanes * LANE + 16.0;
    let seconds = outcome.time.as_secs().max(1);
    for second in (0..=seconds).step_by((seconds / 10 + 1) as usize) {
        let x = scale.x(Duration::from_secs(second));
        let _ = write!(page, "<text x=\"{x:.1}\" y=\"{axis}\">{second} s</text>");
    }
    page.push_str("</svg>");
}

fn band(page: &mut String, scale: &Scale, span: &Span, outcome: &Outcome) {
    let class = match span.kind {
        Kind::Leads => "leads",
        Kind::Down => "down",
        _ => "fault",
    };
    let (from, to) = (scale.x(span.from), scale.x(span.to.unwrap_or(outcome.time)));
    let nodes = span.node.map_or(0..outcome.nodes, |node| node..node + 1);
    for node in nodes {
        let y = node as f64 * LANE + if span.kind == Kind::Leads { 2.0 } else { 5.0 };
        let height = if span.kind == Kind::Leads { LANE - 4.0 } else { LANE - 10.0 };
        rect(page, class, from, to, y, height, &span.text);
    }
}

fn rect(page: &mut String, class: &str, from: f64, to: f64, y: f64, height: f64, title: &str) {
    let width = (to - from).max(1.0);
    let _ = write!(
        page,
        "<rect class=\"{class}\" x=\"{from:.1}\" y=\"{y}\" width=\"{width:.1}\" \
         height=\"{height}\"><title>{}</title></rect>",
        escape(title)
    );
}

/// Draws at most one mark per pixel and outcome, since more would cover one another.
fn operations(page: &mut String, scale: &Scale, outcome: &Outcome, y: f64) {
    let mut drawn = std::collections::BTreeSet::new();
    for (ended, heard) in &outcome.operations {
        let (class, row) = match heard {
            Heard::Done => ("done", 0.0),
            Heard::NotDone => ("refused", 6.0),
            Heard::Unknown => ("unknown", 12.0),
        };
        let x = scale.x(Duration::from_micros(*ended)).round();
        if drawn.insert((x as u64, class)) {
            let _ = write!(
                page,
                "<rect class=\"{class}\" x=\"{x}\" y=\"{}\" width=\"1\" height=\"5\"/>",
                y + row
            );
        }
    }
}

fn escape(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;").replace('"', "&quot;")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_violation_is_in_the_table_and_in_red_on_the_timeline() {
        let wrong = Span {
            kind: Kind::Violation,
            node: Some(1),
            from: Duration::from_secs(1),
            to: Some(Duration::from_secs(1)),
            text: "lost <everything>".to_owned(),
        };
        let outcome = Outcome {
            scenario: "kills",
            violations: vec!["lost <everything>".to_owned()],
            spans: vec![wrong],
            nodes: 3,
            time: Duration::from_secs(2),
            ..Outcome::default()
        };
        let page = report(&[outcome]);
        assert!(page.contains("1 VIOLATED"));
        assert!(page.contains("class=\"wrong\""));
        assert!(page.contains("lost &lt;everything&gt;"));
        assert!(!page.contains("http://") && !page.contains("https://"));
    }
}
