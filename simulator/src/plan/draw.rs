//! How the plan of a seed is drawn.
//!
//! Each part has a stream of its own, so that a new parameter changes nothing else in the plans of
//! the seeds that are known. For the same reason the order of the draws within a part must not
//! change.

use super::fault::{Fault, FaultKind, LEADER, MEMBERS_FORCED, MEMBERS_HURRIED};
use super::{Plan, Swarm};
use crate::random::{Purpose, Stream};

/// Maximum number of faults in a drawn plan.
const FAULTS_MAX: u64 = 100;

/// Maximum number of changes of the membership in a drawn plan.
const CHANGES_MAX: u64 = 40;

/// The largest segments of a log in a drawn plan.
const SEGMENT_BYTES_MOST: u32 = 256 << 10;

/// Maximum number of times that clocks go back in a drawn plan.
const BACK_MAX: u64 = 20;

/// A fault that deposes leaders is this many times as likely as another.
const OFTEN: usize = 3;

impl Plan {
    /// The plan of a seed, with this number of nodes if given, and with faults of these kinds only.
    pub fn drawn(seed: u64, nodes: Option<u64>, among: &[FaultKind]) -> Plan {
        Plan::drawn_with(seed, nodes, among, &[])
    }

    /// As [`Plan::drawn`], but each kind in `always` strikes in the run, whatever the seed draws.
    /// One that loses data needs three nodes, and a change of the membership two.
    pub fn drawn_with(
        seed: u64,
        nodes: Option<u64>,
        among: &[FaultKind],
        always: &[FaultKind],
    ) -> Plan {
        let mut draw = Stream::new(seed, Purpose::Swarm, 0);
        let drawn = draw.pick(&[3, 3, 3, 5, 5, 1, 2, 4]);
        let nodes = nodes.unwrap_or(drawn);
        let tick_us = draw.pick(&[1_000, 10_000]);
        let heartbeat_ticks = draw.pick(&[1, 2, 5]);
        let off_or = |draw: &mut Stream, values: &[u32]| match draw.below(3) {
            0 => 0,
            _ => draw.pick(values),
        };
        let (delay_us, sync_us) = (draw.pick(&[100, 500, 5_000]), draw.pick(&[10, 200, 10_000]));
        // Raft's timing requirement: a round trip, syncs included, is much shorter than an election
        // timeout (§3.9).
        let round_us = 4 * (delay_us + sync_us);
        let least = (round_us * 2 / tick_us + 1).max(3 * heartbeat_ticks);
        let election_ticks = least * draw.pick(&[1, 2, 4]);
        // A number of election timeouts, independent of the drawn delays.
        let faults_until_us = election_ticks * tick_us * draw.pick(&[20, 60, 150]);
        let clients = draw.pick(&[1, 3, 6, 20]);
        // In most runs clients send requests so rarely that all faults strike before the run
        // reaches its limit of events.
        let operations = draw.pick(&[500, 2_000, 1 << 20]);
        let think_us = draw.pick(&[0, 1_000, 20_000]);
        let swarm = Swarm {
            faults_until_us,
            clients,
            think_us: think_us.max(faults_until_us / operations * clients),
            patience_us: draw.pick(&[50_000, 200_000, 1_000_000]),
            reads_ppm: draw.pick(&[100_000, 500_000]),
            loss_ppm: off_or(&mut draw, &[1_000, 20_000, 150_000]),
            report_ppm: off_or(&mut draw, &[100_000, 1_000_000]),
            duplicate_ppm: off_or(&mut draw, &[10_000, 100_000]),
            delay_us,
            tail_ppm: off_or(&mut draw, &[5_000, 50_000, 300_000]),
            tail_us: draw.pick(&[50_000, 500_000, 3_000_000]),
            sync_us,
            stall_ppm: off_or(&mut draw, &[1_000, 20_000]),
            stall_us: draw.pick(&[50_000, 1_000_000]),
            apply_us: draw.pick(&[0, 50, 10_000]),
            keep_ppm: draw.pick(&[0, 100_000, 500_000, 900_000, 1_000_000]),
            tear_ppm: off_or(&mut draw, &[50_000, 500_000]),
            tick_us,
            heartbeat_ticks,
            election_ticks,
            append_bytes: draw.pick(&[1, 200, 4_000, 1 << 20]),
            write_bytes: draw.pick(&[1, 500, 1 << 20]),
            apply_bytes: draw.pick(&[1, 500, 1 << 20]),
            inflight: draw.pick(&[1, 4, 64]),
            inflight_bytes: off_or(&mut draw, &[300, 5_000, 100_000]),
            snapshot_bytes: draw.pick(&[600, 3_000, 20_000, 1 << 30]),
            retained_bytes: draw.pick(&[0, 500, 10_000]),
            uncommitted_bytes: off_or(&mut draw, &[300, 5_000, 100_000]),
            reads_max: off_or(&mut draw, &[1, 4, 100]),
            queues_max: off_or(&mut draw, &[1, 4, 32]),
            segment_bytes: draw.pick(&[8 << 10, 32 << 10, SEGMENT_BYTES_MOST]),
            recycled_segments: draw.pick(&[0, 1, 2]),
            // The largest values exceed the smallest segment.
            padding_bytes: off_or(&mut draw, &[100, 5_000, 20_000]),
            lasting: draw.pick(&[0, 0, 1, 2, 3, 4, 5, 6]),
            catch_up_bytes: off_or(&mut draw, &[500, 5_000, 100_000]),
            clock_ticks: election_ticks * off_or(&mut draw, &[1, 10]),
            snapshot_bytes_max: off_or(&mut draw, &[5_000, 1 << 30]),
            churn: 0,
            sessions: 0,
            session_ttl_ms: 0,
            lease_drift_ppm: 0,
            lease_off_ppm: 0,
            priorities: 0,
            gone_us: 0,
            unread_ppm: 0,
            log_bytes: 0,
        };
        let mut plan = Plan { seed, nodes, swarm, faults: Vec::new() };
        let also = always.iter().filter(|kind| !among.contains(kind));
        let among: Vec<FaultKind> = among.iter().chain(also).copied().collect();
        plan.draw_faults(&among, always);
        plan.draw_churn(&among, always);
        plan.draw_sessions();
        plan.draw_leases();
        plan.draw_priorities();
        let mut draw = Stream::new(seed, Purpose::Gone, 0);
        plan.swarm.gone_us = draw.pick(&[0, 0, 20_000, 300_000]);
        plan.draw_clocks(&among, always);
        let mut draw = Stream::new(seed, Purpose::Unread, 0);
        plan.swarm.unread_ppm = draw.pick(&[0, 0, 0, 300_000]);
        let mut draw = Stream::new(seed, Purpose::LogBound, 0);
        // One segment is the reserve for elections: with small ones, a few restarts use it up.
        if plan.swarm.segment_bytes == SEGMENT_BYTES_MOST {
            plan.swarm.log_bytes = draw.pick(&[0, 0, 1 << 20, 4 << 20]);
        }
        // If no snapshot is due before the log is full, and each entry takes a block, another node
        // may have no room for all that a new leader has. As long as it has not stored all of it,
        // neither knows that it is committed, and no snapshot is taken.
        if plan.swarm.log_may_fill() && plan.swarm.goes_one_by_one() {
            plan.swarm.log_bytes = 0;
        }
        plan
    }

    fn draw_faults(&mut self, among: &[FaultKind], always: &[FaultKind]) {
        let mut draw = Stream::new(self.seed, Purpose::Faults, 0);
        // The kinds that occur in this run.
        let one_in = draw.pick(&[2, 2, 6]);
        let mut kinds: Vec<FaultKind> =
            among.iter().copied().filter(|kind| !kind.is_drawn_apart()).collect();
        kinds.retain(|kind| draw.below(one_in) == 0 || always.contains(kind));
        let always: Vec<FaultKind> =
            always.iter().copied().filter(|kind| !kind.is_drawn_apart()).collect();
        // Changes of leader exercise most of the protocol, so faults that cause them are more
        // likely.
        let often: Vec<FaultKind> = kinds.iter().copied().filter(|kind| kind.deposes()).collect();
        (1..OFTEN).for_each(|_| kinds.extend(&often));
        let election_us = self.election_us();
        let elections = u64::from(self.swarm.faults_until_us) / election_us.max(1);
        // Zero, or a number in proportion to the run's election timeouts. With too many faults the
        // cluster never makes enough progress to break a promise.
        let count = elections * draw.pick(&[0, 125, 250, 250, 500, 700]) / 1_000;
        let count = count.min(FAULTS_MAX).max(always.len() as u64);
        // Faults with time to recover in between find other bugs than faults that overlap.
        let paced = draw.below(2) == 0;
        let pause = draw.pick(&[2, 4, 8]);
        let mut free_us = 0;
        let at_leader_ppm = draw.pick(&[0, 300_000, 700_000, 900_000]);
        // Only one node may lose data: the others have copies of it.
        let victim = draw.below(self.nodes);
        let alone = self.nodes < 3;
        for n in 0..count {
            let mut draw = Stream::new(self.seed, Purpose::Faults, n + 1);
            let Some(kind) = (!kinds.is_empty()).then(|| draw.pick(&kinds)) else { break };
            let sure = always.get(n as usize).copied();
            let kind = sure.unwrap_or(kind);
            let until = u64::from(self.swarm.faults_until_us);
            let forgets = kind.forgets();
            if forgets && alone {
                continue;
            }
            let at_leader = draw.chance(match kind.deposes() {
                true => at_leader_ppm.max(500_000),
                false => at_leader_ppm,
            });
            let node = match kind {
                _ if forgets => victim,
                FaultKind::Split => 1 + draw.below((1 << self.nodes) - 1),
                FaultKind::Transfer => LEADER,
                _ if at_leader => LEADER,
                _ => draw.below(self.nodes),
            };
            let amount = match kind {
                FaultKind::Clock => draw.pick(&[100, 200, 900, 1_100, 5_000]),
                FaultKind::WallJump => draw.pick(&[10, 3_000, 3_600_000]) + draw.below(2),
                _ => (draw.pick(&[1, 8, 24, 80]) * election_us / 8) + draw.below(election_us),
            };
            let at_us = match paced {
                true => free_us + draw.below(pause * election_us),
                false => draw.below(until),
            };
            let at_us = if sure.is_some() { at_us % until.max(1) } else { at_us };
            free_us = at_us + if kind.lasts() { amount } else { 0 };
            if at_us < until {
                self.faults.push(Fault { at_us, node, amount, kind });
            }
        }
        self.faults.sort_by_key(|fault| fault.at_us);
    }

    /// Draws the sessions of clients. They have a stream of their own, so that they change nothing
    /// else in a plan.
    fn draw_sessions(&mut self) {
        let mut draw = Stream::new(self.seed, Purpose::Sessions, 0);
        self.swarm.sessions = draw.pick(&[0, 0, 1, 2]);
        if self.swarm.sessions > 0 {
            self.swarm.session_ttl_ms = draw.pick(&[60_000, 2_000, 300]);
        }
    }

    /// Draws the sessions of clients anew, so that there are some, or none.
    pub(crate) fn set_sessions(&mut self, used: bool) {
        let mut draw = Stream::new(self.seed, Purpose::Sessions, 1);
        self.swarm.sessions = if used { draw.pick(&[1, 2]) } else { 0 };
        self.swarm.session_ttl_ms = if used { draw.pick(&[60_000, 2_000, 300]) } else { 0 };
    }

    /// Draws the priorities of the nodes. If a disk fails for good, nobody else can tell that its
    /// node should not be preferred, until something is written.
    fn draw_priorities(&mut self) {
        let mut draw = Stream::new(self.seed, Purpose::Priority, 0);
        if draw.below(3) == 0 && self.swarm.lasting < 5 {
            self.swarm.priorities = draw.below(1 << 32) as u32;
        }
    }

    /// Draws the settings of leases. They have a stream of their own, so that they change nothing
    /// else in a plan.
    fn draw_leases(&mut self) {
        let mut draw = Stream::new(self.seed, Purpose::Lease, 0);
        if draw.below(2) == 0 {
            return;
        }
        let drift_ppm = draw.pick(&[10_000, 100_000, 250_000]);
        let off_ppm = draw.pick(&[0, 0, 300_000]);
        if self.swarm.has_room_for_leases(self.swarm.tick(), drift_ppm) {
            (self.swarm.lease_drift_ppm, self.swarm.lease_off_ppm) = (drift_ppm, off_ppm);
        }
    }

    /// Draws when monotonic clocks go back, in one plan with leases of three. These draws have
    /// streams of their own, so that they change nothing else in a plan.
    fn draw_clocks(&mut self, among: &[FaultKind], always: &[FaultKind]) {
        let mut draw = Stream::new(self.seed, Purpose::Clocks, 0);
        let may = among.contains(&FaultKind::ClockBack) && self.swarm.lease_drift_ppm > 0;
        if !(draw.below(3) == 0 && may || always.contains(&FaultKind::ClockBack)) {
            return;
        }
        let election_us = self.election_us();
        let until = u64::from(self.swarm.faults_until_us);
        let elections = until / election_us.max(1);
        let count = (elections * draw.pick(&[50, 200]) / 1_000).clamp(1, BACK_MAX);
        for n in 0..count {
            let mut draw = Stream::new(self.seed, Purpose::Clocks, n + 1);
            let at_us = draw.below(until);
            // Of a leader that is cut off, the lease has just ended then, and it has not yet
            // stepped down.
            let is_cut = draw.below(2) == 0 && among.contains(&FaultKind::Isolate);
            let (node, amount) = match is_cut {
                true => (LEADER, election_us * (80 + draw.below(120)) / 100),
                false => (draw.below(self.nodes), draw.pick(&[1, 8, 24]) * election_us / 4),
            };
            self.faults.push(Fault { at_us, node, amount, kind: FaultKind::ClockBack });
            if is_cut {
                let (amount, kind) = (4 * election_us, FaultKind::Isolate);
                self.faults.push(Fault { at_us, node, amount, kind });
            }
        }
        self.faults.sort_by_key(|fault| fault.at_us);
    }

    /// Draws changes of the membership, in one plan of three. They have streams of their own, so
    /// that they change nothing else in a plan.
    fn draw_churn(&mut self, among: &[FaultKind], always: &[FaultKind]) {
        let mut draw = Stream::new(self.seed, Purpose::Churn, 0);
        let always = always.iter().any(|kind| kind.changes_members());
        let may = among.contains(&FaultKind::Members);
        if !(draw.below(3) == 0 && may || always) || self.nodes < 2 {
            return;
        }
        self.swarm.churn = 1;
        let election_us = self.election_us();
        let until = u64::from(self.swarm.faults_until_us);
        let elections = until / election_us.max(1);
        let count = (elections * draw.pick(&[100, 250, 500]) / 1_000).clamp(1, CHANGES_MAX);
        // Faults that may strike the leader while its change is in progress.
        let deposing = [FaultKind::Crash, FaultKind::Kill, FaultKind::Isolate, FaultKind::Transfer];
        let deposing: Vec<FaultKind> =
            deposing.into_iter().filter(|kind| among.contains(kind)).collect();
        for n in 0..count {
            let mut draw = Stream::new(self.seed, Purpose::Churn, n + 1);
            let at_us = draw.below(until);
            let replaces = among.contains(&FaultKind::Replace) && draw.below(6) == 0;
            let node = if replaces { draw.below(self.nodes) } else { LEADER };
            let amount = match replaces {
                true => 0,
                false => {
                    let voters = draw.below(1 << self.nodes) | draw.below(1 << self.nodes);
                    let forced = if draw.below(4) == 0 { MEMBERS_FORCED } else { 0 };
                    let hurried = if draw.below(3) == 0 { MEMBERS_HURRIED } else { 0 };
                    voters | forced | hurried
                }
            };
            let kind = if replaces { FaultKind::Replace } else { FaultKind::Members };
            self.faults.push(Fault { at_us, node, amount, kind });
            if draw.below(2) == 0 && !deposing.is_empty() {
                let at_us = at_us + draw.below(election_us);
                let amount = draw.pick(&[1, 4]) * election_us;
                let kind = draw.pick(&deposing);
                self.faults.push(Fault { at_us, node: LEADER, amount, kind });
            }
        }
        self.faults.retain(|fault| fault.at_us < until);
        self.faults.sort_by_key(|fault| fault.at_us);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_kind_of_fault_is_drawn_and_so_is_a_run_without_any() {
        let plans: Vec<Plan> = (0..500).map(Plan::from_seed).collect();
        for kind in FaultKind::ALL {
            assert!(plans.iter().any(|plan| plan.faults.iter().any(|fault| fault.kind == *kind)));
        }
        assert!(plans.iter().any(|plan| plan.faults.is_empty()));
        assert!(plans.iter().any(|plan| plan.swarm.loss_ppm == 0));
    }
}
