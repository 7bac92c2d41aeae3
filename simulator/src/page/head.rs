//! The top of the page: the broken promise and its meaning, the time, the conditions, the commands
//! that repeat the run, and the story.

use super::scale::{before, count, escape, time};
use super::{Picture, words};
use std::fmt::Write as _;

impl Picture<'_> {
    pub(super) fn write_head(&self, page: &mut String, again: &[String]) {
        let run = self.run;
        match &run.violation {
            Some(broken) => {
                let _ = write!(page, "<h1>✕ {}</h1>", escape(broken.check.name()));
                let meaning = escape(broken.check.meaning());
                let _ = write!(page, "<p class=\"meaning\">{meaning}</p>");
                let _ = write!(page, "<pre class=\"detail\">{}</pre>", escape(&broken.detail));
                let _ = write!(
                    page,
                    "<p>At event <b>{}</b>, at <b>{}</b> of simulated time.</p>",
                    count(run.events),
                    time(run.time_us)
                );
            }
            None => {
                let _ = write!(
                    page,
                    "<h1 class=\"fine\">No promise was broken</h1><p>{} events in {} of simulated \
                     time.</p>",
                    count(run.events),
                    time(run.time_us)
                );
            }
        }
        let _ = write!(page, "<p><b>Swarm</b> (seed {}): {}</p>", self.plan.seed, {
            escape(&words::swarm(self.plan))
        });
        self.write_faults(page);
        for command in again {
            let _ = write!(
                page,
                "<div class=\"again\"><button type=\"button\">copy</button><code>{}</code></div>",
                escape(command)
            );
        }
    }

    fn write_faults(&self, page: &mut String) {
        let faults = &self.plan.faults;
        if faults.is_empty() {
            page.push_str(
                "<p><b>Faults</b>: none but what the swarm does to messages and syncs.</p>",
            );
            return;
        }
        let few = if faults.len() <= 8 { " open" } else { "" };
        let _ = write!(
            page,
            "<details{few}><summary><b>Faults</b> of the plan: {}</summary><ul class=\"plan\">",
            faults.len()
        );
        for fault in faults {
            let struck = if fault.at_us > self.end_us { " (not reached)" } else { "" };
            let _ = write!(
                page,
                "<li data-at=\"{}\"><a>{}</a> {}{struck}</li>",
                fault.at_us,
                time(fault.at_us),
                escape(&words::fault(fault, self.plan.nodes))
            );
        }
        page.push_str("</ul></details>");
    }

    pub(super) fn write_story(&self, page: &mut String) {
        if self.story.items.is_empty() {
            return;
        }
        match self.run.violation {
            Some(_) if !self.timeline.steps.is_empty() => page.push_str(
                "<h2>What led to it</h2><p class=\"hint\">The commands that go wrong on a \
                 fresh state machine, as few as a search found; or the latest ones, if it does not go \
                 wrong by its commands alone. The numbers are in the pictures too; click one to go \
                 there.</p>",
            ),
            Some(_) => page.push_str(
                "<h2>What led to it</h2><p class=\"hint\">What concerns the nodes, entries and terms \
                 that the check names; faults and elections beside. The numbers are in the pictures \
                 too; click one to go there.</p>",
            ),
            None => page.push_str("<h2>Elections and faults</h2>"),
        }
        page.push_str("<ol class=\"story\">");
        for (at, item) in self.story.items.iter().enumerate() {
            let who = item.node.map_or(String::new(), |node| format!("node {node}"));
            let is_named = item.node.is_some_and(|node| self.story.is_about(node));
            let is_last = self.run.violation.is_some() && at + 1 == self.story.items.len();
            let class = match (is_last, is_named) {
                (true, _) => "last",
                (_, true) => "named",
                _ => "beside",
            };
            let _ = write!(
                page,
                "<li class=\"{class}\" data-at=\"{}\"><a>{}</a><i>{}</i><b>{who}</b> {}</li>",
                item.at_us,
                time(item.at_us),
                before(item.at_us, self.end_us),
                escape(&item.text)
            );
        }
        page.push_str("</ol>");
    }
}
