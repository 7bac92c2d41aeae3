//! Lanes: a node's roles and terms, its syncs, crashes and snapshots, and the progress of its
//! indexes.

use super::scale::{Svg, escape, time};
use super::{PART_BYTES, Picture, words};
use crate::timeline::What;
use raft::{Index, RoleKind, Term};
use std::fmt::Write as _;

/// A lane, the room for messages below it included.
pub(super) const LANE: f64 = 116.0;
/// The bar of the role.
pub(super) const BAR: f64 = 20.0;
/// Where in a lane the steps of the indexes are.
const STEPS: (f64, f64) = (34.0, 68.0);

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

/// The progress of a node's indexes: time, end of the log, commit index, applied index.
pub(super) type Steps = Vec<(u64, u64, u64, u64)>;

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

    fn steps(&self, node: u64) -> Steps {
        let mut steps = vec![(0, 0, 0, 0)];
        let mut now = (0, 0, 0);
        for moment in self.timeline.moments.iter().filter(|moment| moment.node == Some(node)) {
            match &moment.what {
                What::Start { base, last, .. } => now = (last.index.0, base.index.0, base.index.0),
                What::Log { cut, grown } => {
                    let cut = cut.as_ref().map(|(first, _)| Index(first.index.0.saturating_sub(1)));
                    let end = grown.last().map(|(_, last)| last.index).or(cut);
                    now.0 = end.map_or(now.0, |end| end.0);
                }
                What::Commit(commit) => now.1 = commit.0,
                What::Applied(applied) => now.2 = applied.0,
                What::Compacted(base) => now.0 = now.0.max(base.index.0),
                What::Down => now = (0, 0, 0),
                _ => continue,
            }
            let step = (moment.at_us, now.0, now.1, now.2);
            match steps.last_mut() {
                Some(last) if last.0 == moment.at_us => *last = step,
                _ => steps.push(step),
            }
        }
        let room = PART_BYTES / 24 / self.plan.nodes as usize;
        steps.drain(..steps.len().saturating_sub(room));
        steps
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
        self.draw_steps(svg, node, y);
    }

    /// Draws the three lines of a node's indexes: end of the log, commit index, applied index.
    fn draw_steps(&self, svg: &mut Svg, node: u64, y: f64) {
        let range = self.index_range();
        let steps = self.steps(node);
        let place = |index: u64| {
            let part = index.clamp(range.0, range.1) - range.0;
            let part = part as f64 / (range.1 - range.0).max(1) as f64;
            y + STEPS.1 - part * (STEPS.1 - STEPS.0)
        };
        for (class, which) in [("end", 0), ("commit", 1), ("applied", 2)] {
            let value = |step: &(u64, u64, u64, u64)| [step.1, step.2, step.3][which];
            let mut path = String::new();
            let mut before = None;
            for step in &steps {
                let (x, to) = (self.first.x(step.0), place(value(step)));
                match before {
                    Some(before) if before == to => {}
                    Some(_) if step.0 > self.first.from_us => {
                        let _ = write!(path, "H{x:.1}V{to:.1}");
                    }
                    _ => path = format!("M{:.1} {to:.1}", self.first.left),
                }
                before = Some(to);
            }
            let _ = write!(path, "H{:.1}", self.first.x(self.end_us));
            let _ = write!(
                svg.out,
                "<path class=\"steps {class}\" id=\"{class}{node}\" d=\"{path}\"/>"
            );
        }
    }

    /// The range of indexes in the initial window.
    fn index_range(&self) -> (u64, u64) {
        let mut range = (u64::MAX, 0);
        for node in 0..self.plan.nodes {
            let steps = self.steps(node);
            let from = steps.partition_point(|step| step.0 < self.first.from_us).saturating_sub(1);
            let to = steps.partition_point(|step| step.0 <= self.first.to_us);
            for (_, last, commit, applied) in &steps[from..to.max(from)] {
                for index in [last, commit, applied].into_iter().filter(|index| **index > 0) {
                    range = (range.0.min(*index), range.1.max(*index));
                }
            }
        }
        (range.0.min(range.1), range.1)
    }

    /// Writes the data from which the script redraws the lines for another window.
    pub(super) fn write_steps_for_script(&self, page: &mut String, lane: &dyn Fn(u64) -> f64) {
        page.push_str("<script type=\"application/json\" id=\"steps\">[");
        for node in 0..self.plan.nodes {
            let comma = if node > 0 { "," } else { "" };
            let (top, bottom) = (lane(node) + STEPS.0, lane(node) + STEPS.1);
            let _ = write!(page, "{comma}{{\"top\":{top:.0},\"bottom\":{bottom:.0},\"steps\":[");
            let steps: Vec<String> = self
                .steps(node)
                .iter()
                .map(|(at_us, last, commit, applied)| format!("{at_us},{last},{commit},{applied}"))
                .collect();
            let _ = write!(page, "{}]}}", steps.join(","));
        }
        page.push_str("]</script>");
    }
}
