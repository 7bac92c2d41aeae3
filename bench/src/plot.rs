//! Draws the first figure of each row as a bar, with the least and the greatest of all rounds as a
//! thin line over it.

use crate::rounds::Row;
use std::fmt::Write;

/// The places and lengths of everything, in pixels.
const WIDTH: f64 = 760.0;
const LABELS: f64 = 190.0;
const NUMBERS: f64 = 150.0;
const BAR: f64 = 16.0;
const GAP: f64 = 5.0;
const HEADING: f64 = 26.0;

const STYLE: &str = "text{font:12px sans-serif;fill:#222}.h{font-weight:bold}.n{fill:#555}\
                     .own{fill:#2b6cb0}.other{fill:#a0aec0}.range{stroke:#222;stroke-width:1.5}";

/// The rows as an SVG picture. Each setting is a group with a scale of its own, since settings
/// differ by orders of magnitude and systems are what is compared.
pub fn svg(title: &str, rows: &[Row]) -> String {
    let mut settings: Vec<&str> = Vec::new();
    for row in rows {
        if !settings.contains(&row.setting.as_str()) {
            settings.push(&row.setting);
        }
    }
    let unit = rows.first().map_or("", |row| row.figures[0].name);
    let mut body = String::new();
    let mut y = HEADING;
    text(&mut body, 8.0, y - 8.0, "h", &format!("{title}, {unit}"));
    for setting in settings {
        y += HEADING;
        text(&mut body, 8.0, y - 8.0, "h", setting);
        let group = || rows.iter().filter(|row| row.setting == setting);
        let greatest = group().map(|row| row.figures[0].max).fold(0.0, f64::max);
        for row in group() {
            let figure = row.figures[0];
            let long = |value: f64| (WIDTH - LABELS - NUMBERS) * value / greatest;
            let class = if row.is_own() { "own" } else { "other" };
            let middle = y + BAR / 2.0;
            let (start, end) = (LABELS + long(figure.min), LABELS + long(figure.max));
            let length = long(figure.median);
            text(&mut body, 16.0, y + BAR - 4.0, "", row.system);
            // Writing into a String does not fail.
            let _ = write!(
                body,
                "<rect class=\"{class}\" x=\"{LABELS}\" y=\"{y:.1}\" width=\"{length:.1}\" \
                 height=\"{BAR}\"/><line class=\"range\" x1=\"{start:.1}\" x2=\"{end:.1}\" \
                 y1=\"{middle:.1}\" y2=\"{middle:.1}\"/>"
            );
            text(&mut body, end + 6.0, y + BAR - 4.0, "n", &format!("{:.0}", figure.median));
            y += BAR + GAP;
        }
    }
    let height = y + GAP;
    format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {WIDTH} {height}\" \
         width=\"{WIDTH}\" height=\"{height}\"><style>{STYLE}</style>\
         <rect width=\"100%\" height=\"100%\" fill=\"#fff\"/>{body}</svg>\n"
    )
}

fn text(body: &mut String, x: f64, y: f64, class: &str, text: &str) {
    let text = text.replace('&', "&amp;").replace('<', "&lt;");
    // Writing into a String does not fail.
    let _ = write!(body, "<text class=\"{class}\" x=\"{x:.1}\" y=\"{y:.1}\">{text}</text>");
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::rounds::Figure;

    #[test]
    fn bars_are_as_long_as_their_figures_within_a_setting() {
        let row = |system, setting: &str, median, max| Row {
            system,
            setting: setting.into(),
            figures: vec![Figure { name: "a second", median, min: median, max }],
        };
        let rows = [
            row("quorate-core", "1 <at once>", 100.0, 200.0),
            row("raft-rs", "1 <at once>", 50.0, 50.0),
            row("quorate-core", "64", 9000.0, 9000.0),
        ];
        let svg = svg("core", &rows);
        let full = WIDTH - LABELS - NUMBERS;
        for (class, length) in [("own", full / 2.0), ("other", full / 4.0), ("own", full)] {
            let bar = format!("class=\"{class}\" x=\"{LABELS}\"");
            let width = format!("width=\"{length:.1}\"");
            assert!(svg.split("<rect").any(|r| r.contains(&bar) && r.contains(&width)), "{svg}");
        }
        assert!(svg.contains("1 &lt;at once>") && svg.contains("core, a second"), "{svg}");
    }
}
