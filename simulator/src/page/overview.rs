//! The whole run in a strip: faults, roles, outcomes of requests. It shows where in the run the
//! window of the detailed picture is.

use super::scale::{Scale, escape, time};
use super::strikes::{rows, strikes};
use super::{LEFT, Picture, RIGHT, WIDTH};
use crate::timeline::Ended;
use raft::RoleKind;
use std::fmt::Write as _;

const LANE: f64 = 12.0;
const FAULT: f64 = 7.0;
const TOP: f64 = 20.0;
/// Height of the part for the clients.
const CLIENTS: f64 = 26.0;
/// Number of pieces of time, each of which shows the outcomes of its operations.
const PIECES: usize = 240;
/// Bars narrower than this are not drawn, except those of leaders.
const NARROWEST: f64 = 0.4;

impl Picture<'_> {
    pub(super) fn write_overview(&self, page: &mut String) {
        let scale = Scale::new(0, self.first.to_us.max(self.end_us), LEFT, WIDTH - RIGHT);
        let strikes = strikes(self.timeline, self.end_us, 0);
        let lanes = TOP + 6.0 + FAULT * rows(&strikes) as f64;
        let clients = lanes + LANE * self.plan.nodes as f64 + 6.0;
        let height = clients + CLIENTS + 6.0;
        page.push_str(
            "<h2>The whole run</h2><p class=\"hint\">Click or drag to choose what is shown below.</p>",
        );
        let _ = write!(
            page,
            "<svg id=\"overview\" viewBox=\"0 0 {WIDTH} {height:.0}\" data-from=\"0\" data-to=\"{}\">",
            scale.to_us
        );
        for at_us in scale.ticks() {
            let (x, time) = (scale.x(at_us), time(at_us));
            let time = time.trim_end_matches(" s").trim_end_matches('0').trim_end_matches('.');
            let _ = write!(
                page,
                "<line class=\"grid\" x1=\"{x:.1}\" x2=\"{x:.1}\" y1=\"16\" y2=\"{height:.0}\"/>\
                 <text class=\"sign axis\" x=\"{x:.1}\" y=\"10\">{time} s</text>"
            );
        }
        for strike in &strikes {
            let (x, y) = (scale.x(strike.from_us), TOP + 3.0 + FAULT * strike.row as f64);
            let width = (scale.x(strike.until_us) - x).max(2.0);
            let _ = write!(
                page,
                "<rect class=\"fault\" x=\"{x:.1}\" y=\"{y:.0}\" width=\"{width:.1}\" \
                 height=\"{:.0}\"><title>{}</title></rect>",
                FAULT - 1.0,
                escape(&strike.text)
            );
        }
        for node in 0..self.plan.nodes {
            let y = lanes + LANE * node as f64;
            let _ = write!(
                page,
                "<text class=\"axis\" x=\"4\" y=\"{:.0}\">node {node}</text>",
                y + LANE - 3.0
            );
            self.write_roles(page, &scale, node, y);
        }
        self.write_outcomes(page, &scale, clients);
        for (at, item) in self.story.items.iter().enumerate() {
            let y = item.node.map_or(TOP, |node| lanes + LANE * node as f64 + LANE / 2.0);
            let _ = write!(
                page,
                "<circle class=\"pin\" cx=\"{:.1}\" cy=\"{y:.1}\" r=\"3\"><title>{}: {}</title></circle>",
                scale.x(item.at_us),
                at + 1,
                escape(&item.text)
            );
        }
        if self.run.violation.is_some() {
            let x = scale.x(self.end_us);
            let _ = write!(
                page,
                "<line class=\"broken\" x1=\"{x:.1}\" x2=\"{x:.1}\" y1=\"14\" y2=\"{height:.0}\"/>"
            );
        }
        let (from, to) = (scale.x(self.first.from_us), scale.x(self.first.to_us));
        let _ = write!(
            page,
            "<rect id=\"window\" x=\"{from:.1}\" y=\"14\" width=\"{:.1}\" height=\"{:.0}\"/></svg>",
            (to - from).max(2.0),
            height - 15.0
        );
    }

    fn write_roles(&self, page: &mut String, scale: &Scale, node: u64, y: f64) {
        let mut drawn = scale.left;
        for span in self.roles(node) {
            let (x, until) = (scale.x(span.from_us), scale.x(span.until_us));
            let leads = span.role == RoleKind::Leader;
            if until - x.max(drawn) < NARROWEST && !leads {
                continue;
            }
            drawn = until;
            let _ = write!(
                page,
                "<rect class=\"{} r{}\" x=\"{x:.1}\" y=\"{y:.1}\" width=\"{:.1}\" height=\"{:.0}\">\
                 <title>node {node}: {} in term {}</title></rect>",
                span.class(),
                span.term.0 % 2,
                (until - x).max(0.8),
                LANE - 2.0,
                super::words::role(span.role),
                span.term
            );
        }
    }

    /// The outcomes of requests, for each piece.
    fn write_outcomes(&self, page: &mut String, scale: &Scale, y: f64) {
        let piece = |at_us: u64| {
            let at = at_us as u128 * PIECES as u128 / u128::from(scale.to_us);
            (at as usize).min(PIECES - 1)
        };
        let mut pieces = vec![[0_u64; 3]; PIECES];
        for span in &self.timeline.spans {
            let kind = match span.outcome {
                Ended::Done => 0,
                Ended::NotDone => 1,
                Ended::Unknown | Ended::Open => 2,
            };
            pieces[piece(span.ended_us)][kind] += 1;
        }
        let most = pieces.iter().map(|kinds| kinds.iter().sum::<u64>()).max().unwrap_or(0).max(1);
        let wide = (scale.right - scale.left) / PIECES as f64;
        for (at, kinds) in pieces.iter().enumerate() {
            let mut bottom = y + CLIENTS;
            for (kind, class) in ["done", "notdone", "unknown"].into_iter().enumerate() {
                if kinds[kind] == 0 {
                    continue;
                }
                let tall = (kinds[kind] as f64 / most as f64 * CLIENTS).max(1.0);
                bottom -= tall;
                let _ = write!(
                    page,
                    "<rect class=\"{class}\" x=\"{:.1}\" y=\"{bottom:.1}\" width=\"{wide:.1}\" \
                     height=\"{tall:.1}\"/>",
                    scale.left + wide * at as f64
                );
            }
        }
        let y = y + CLIENTS - 8.0;
        let _ = write!(page, "<text class=\"axis\" x=\"4\" y=\"{y:.0}\">clients</text>");
    }
}
