//! Lanes: a node's roles and terms, its syncs, crashes and snapshots.

use super::scale::{Svg, escape, time};
use super::{Picture, words};
use crate::timeline::What;
use raft::{RoleKind, Term};
use std::fmt::Write as _;

/// A lane, the room for messages below it included.
pub(super) const LANE: f64 = 92.0;
/// The bar of the role.
pub(super) const BAR: f64 = 20.0;

/// A time in which a node had one role in one term.
pub(super) struct RoleSpan {
    pub role: RoleKind,
    pub term: Term,
    pub from_us: u64,
    pub until_us: u64,
}

impl RoleSpan {
    pub fn class(&self) -> &'static str {
        match self.role {
            RoleKind::Leader => "leader",
            RoleKind::Candidate => "candidate",
            RoleKind::PreCandidate => "precandidate",
            RoleKind::Follower => "follower",
        }
    }
}

impl Picture<'_> {
    /// The roles of a node, with gaps where it is down.
    pub(super) fn roles(&self, node: u64) -> Vec<RoleSpan> {
        let mut spans: Vec<RoleSpan> = Vec::new();
        let mut is_open = false;
        for moment in self.timeline.moments.iter().filter(|moment| moment.node == Some(node)) {
            if !matches!(moment.what, What::Role(..) | What::Down) {
                continue;
            }
            if is_open && let Some(last) = spans.last_mut() {
                last.until_us = moment.at_us;
            }
            is_open = false;
            if let What::Role(role, term) = moment.what {
                let from_us = moment.at_us;
                spans.push(RoleSpan { role, term, from_us, until_us: self.end_us });
                is_open = true;
            }
        }
        spans
    }

    /// The name of a lane, and the state of its node at the end.
    pub(super) fn write_name(&self, page: &mut String, node: u64, y: f64) {
        let _ =
            write!(page, "<text class=\"name\" x=\"4\" y=\"{:.0}\">node {node}</text>", y + 14.0);
        let Some(log) = self.timeline.logs.get(node as usize) else { return };
        for (at, line) in words::node(log).iter().enumerate() {
            let _ = write!(
                page,
                "<text class=\"axis\" x=\"4\" y=\"{:.0}\">{}</text>",
                y + 28.0 + 12.0 * at as f64,
                escape(line)
            );
        }
    }

    pub(super) fn draw_lane(&self, svg: &mut Svg, node: u64, y: f64) {
        for span in self.roles(node) {
            let RoleSpan { role, term, from_us, until_us } = span;
            let title = format!(
                "node {node}: {} in term {term}, {} to {}",
                words::role(role),
                time(from_us),
                time(until_us)
            );
            let class = format!("{} r{}", span.class(), term.0 % 2);
            svg.bar(&class, (from_us, until_us), (y, BAR), &title);
            svg.bar(&format!("t{}", term.0 % 8), (from_us, until_us), (y, 4.0), &title);
            let text = match role {
                RoleKind::Leader => format!("leads term {term}"),
                RoleKind::Candidate => format!("campaigns in term {term}"),
                RoleKind::PreCandidate => format!("asks, term {term}"),
                RoleKind::Follower => format!("term {term}"),
            };
            svg.label(&format!("on{}", span.class()), (from_us, until_us), y + 15.0, &text);
        }
        let moments = self.first.shown_first(&self.timeline.moments, |it| (it.at_us, it.at_us));
        for moment in moments.filter(|moment| moment.node == Some(node)) {
            let at = moment.at_us;
            let title = format!(
                "node {node}, event {}, {}: {}",
                moment.event,
                time(at),
                words::what(&moment.what, self.plan.nodes)
            );
            let frequent = moment.what.is_frequent();
            if frequent && !svg.has_room() {
                continue;
            }
            match &moment.what {
                What::Durable { .. } => svg.stroke("sync", at, (y + BAR, y + BAR + 7.0), &title),
                What::Log { cut: Some(_), .. } => {
                    svg.sign("cutoff", at, y + BAR + 12.0, "✂", &title);
                }
                What::Down => svg.sign("down", at, y + 15.0, "✕", &title),
                What::Start { .. } => svg.stroke("start", at, (y - 4.0, y + BAR + 7.0), &title),
                What::Installed(_) => svg.sign("installed", at, y + BAR + 13.0, "▼", &title),
                What::Compacted(_) => svg.sign("compacted", at, y + BAR + 13.0, "◆", &title),
                What::Vote(whom, _) => {
                    svg.sign("voted", at, y - 3.0, &format!("votes {whom}"), &title);
                }
                _ => {}
            }
        }
    }
}
