//! The end of a round: ends all faults, then checks that the copies are equal, that resources are
//! bounded and that every node exits.

use crate::bounds::{
    HEALTH_P99_MAX, LOG_LINES_PER_CHANGE, LOG_LINES_PER_S_MAX, MESSAGES_PER_S_MAX, RECOVERY_MAX,
};
use crate::clients::{key_name, parse_value};
use crate::history::{Heard, History, Record};
use crate::http::{Answer, Failed};
use crate::judge;
use crate::node::Stderr;
use crate::outcome::{Outcome, Step, Trouble};
use crate::probes::log_lines;
use crate::round::Round;
use crate::timeline::Kind;
use simulator::linearizability::Action;
use std::collections::BTreeMap;
use std::time::{Duration, Instant};

/// The pause before a request that a node had no place for is repeated.
const BUSY_PAUSE: Duration = Duration::from_millis(200);

impl Round<'_> {
    /// Ends all faults, starts what is down, and waits until all nodes serve and are equal.
    pub(crate) fn recover(&mut self, violations: &mut Vec<String>) -> Step {
        self.cluster.network.heal();
        self.timeline.end_faults();
        for id in self.cluster.ids() {
            let node = &mut self.cluster.nodes[id as usize];
            node.heal_all();
            if node.paused {
                self.resume(id);
            }
            let node = &mut self.cluster.nodes[id as usize];
            if let Some(status) = node.ended() {
                if !self.setup.nodes_may_end {
                    violations.push(format!("node {id} ended by itself: {status}"));
                }
                self.probes.runs(id, None);
                self.timeline.mark(Kind::Note, Some(id), format!("had ended: {status}"));
            }
            if !self.cluster.nodes[id as usize].runs() {
                self.start(id)?;
            }
        }
        self.timeline.mark(Kind::Note, None, "all faults are over");
        self.cluster.leader_within(&self.cluster.ids(), RECOVERY_MAX)?;
        for id in self.cluster.ids() {
            self.cluster.served_within(&[id], RECOVERY_MAX)?;
            self.cluster.caught_up_within(id, RECOVERY_MAX)?;
        }
        Ok(())
    }

    /// The listing of commits of a node. Listings of clients that have gone may still be under way,
    /// and a further one is then refused for a while.
    fn listing(&self, id: u64) -> Result<Answer, Failed> {
        let until = Instant::now() + RECOVERY_MAX;
        loop {
            let answer = self.cluster.listing(id);
            let is_busy = answer.as_ref().is_ok_and(|answer| answer.status == 429);
            if !is_busy || Instant::now() >= until {
                return answer;
            }
            std::thread::sleep(BUSY_PAUSE);
        }
    }

    /// Reads the listing of commits of every node. Also reads each key through each node, and adds
    /// these reads to the history.
    pub(crate) fn copies(
        &self,
        history: &History,
        violations: &mut Vec<String>,
    ) -> BTreeMap<u64, Vec<serde_json::Value>> {
        let mut copies = BTreeMap::new();
        for id in self.cluster.ids() {
            match self.listing(id) {
                Ok(answer) if answer.status == 200 => {
                    let commits = answer.json()["commits"].as_array().cloned().unwrap_or_default();
                    copies.insert(id, commits);
                }
                other => violations.push(format!("node {id} lists no commits: {other:?}")),
            }
            for key in judge::keys() {
                let begun = self.timeline.micros();
                let path = format!("/v1/kv/{}", key_name(key));
                let found = match self.cluster.get(id, &path) {
                    Ok(answer) if answer.status == 200 => {
                        parse_value(&String::from_utf8_lossy(&answer.body))
                    }
                    Ok(answer) if answer.status == 404 => None,
                    other => {
                        violations.push(format!("node {id} does not read at the end: {other:?}"));
                        continue;
                    }
                };
                let (ended, action) = (self.timeline.micros(), Action::Read(found));
                let (api, heard) = ("last read", Heard::Done);
                history.add(Record { key, api, node: id, begun, ended, action, heard });
            }
        }
        copies
    }

    /// Checks the resources that the nodes used against their limits.
    pub(crate) fn resources(&self, outcome: &mut Outcome, violations: &mut Vec<String>) {
        let mut seen = self.probes.seen();
        violations.append(&mut seen.violations);
        seen.latencies.sort_unstable();
        let p99 = seen.latencies.len() * 99 / 100;
        outcome.health_p99 = seen.latencies.get(p99).copied().unwrap_or_default();
        (outcome.rss_bytes, outcome.descriptors) = (seen.rss_bytes, seen.descriptors);
        outcome.messages_per_s = seen.messages_per_s;
        let seconds = self.timeline.now().as_secs() + 1;
        let spans = self.timeline.spans();
        let elections = spans.iter().filter(|span| span.kind == Kind::Leads).count() as u64;
        for node in &self.cluster.nodes {
            let free = LOG_LINES_PER_CHANGE * (node.starts + elections);
            let rate = log_lines(&node.log).saturating_sub(free) / seconds;
            outcome.log_lines_per_s = outcome.log_lines_per_s.max(rate);
        }
        let setup = &self.setup;
        for (what, value, max) in [
            ("bytes of resident memory", outcome.rss_bytes, setup.rss_bytes_max),
            ("descriptors", outcome.descriptors, setup.descriptors_max),
            ("log lines a second", outcome.log_lines_per_s, LOG_LINES_PER_S_MAX),
        ] {
            if value > max {
                violations.push(format!("a node had {value} {what}; the bound is {max}"));
            }
        }
        if setup.judge_rates && outcome.messages_per_s > MESSAGES_PER_S_MAX {
            let rate = outcome.messages_per_s;
            violations.push(format!(
                "a node sent {rate} messages in a second; the bound is {MESSAGES_PER_S_MAX}"
            ));
        }
        if setup.judge_rates && outcome.health_p99 > HEALTH_P99_MAX {
            let time = outcome.health_p99;
            violations.push(format!(
                "/healthz and /is_leader took {time:?} (p99); the bound is {HEALTH_P99_MAX:?}"
            ));
        }
    }

    /// Stops every node, and checks that it exits and has not panicked.
    pub(crate) fn end(&mut self, violations: &mut Vec<String>) {
        for id in self.cluster.ids() {
            if let Err(Trouble::Violated(text)) = self.stop(id) {
                violations.push(text);
            }
            let node = &self.cluster.nodes[id as usize];
            let logged = matches!(node.settings.stderr, Stderr::File | Stderr::Closed);
            if logged && let Some(line) = node.log_text().lines().find(|l| l.contains("panicked")) {
                violations.push(format!("node {id}: {line}"));
            }
        }
    }
}
