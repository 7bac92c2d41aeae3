//! Probation: for how long a node states no priority after it has failed as a leader (see
//! `priority.rs`).
//!
//! A leader judges the health of a preferred voter by its replies. It cannot see whether the voter
//! would fail as a leader: because its disk stalls now and then, or because it does not reach the
//! others. Without a pause, leadership would come back to such a node again and again, and each
//! time the cluster would be without a leader for a while. A node counts as failed when it loses
//! leadership without handing it over, or is not elected although a leader has ordered its
//! election.
//!
//! The pause doubles with each failure. It is counted in this node's memory only: a restart forgets
//! it, and no other node has a say.

/// The first pause lasts this many election timeouts.
const FIRST_ELECTIONS: u32 = 16;
/// The longest pause. A node that has led for as long is trusted again.
const LONGEST_ELECTIONS: u32 = 1024;

/// Invariant: the pause that the next failure brings is at most [`LONGEST_ELECTIONS`].
#[derive(Clone, Debug, Default)]
pub(crate) struct Probation {
    /// Ticks until the node states its priority again.
    left_ticks: u32,
    /// Failures since the node was last trusted, up to the longest pause.
    failures: u32,
    /// For how many ticks it has led.
    led_ticks: u32,
}

impl Probation {
    /// The node has failed as a leader, or as the target of a transfer.
    pub fn begin(&mut self, election_ticks: u32) {
        let elections = FIRST_ELECTIONS << self.failures;
        self.left_ticks = elections.saturating_mul(election_ticks);
        if elections < LONGEST_ELECTIONS {
            self.failures += 1;
        }
    }

    /// One tick of the clock has passed.
    pub fn tick(&mut self, leads: bool, election_ticks: u32) {
        self.left_ticks = self.left_ticks.saturating_sub(1);
        self.led_ticks = if leads { self.led_ticks.saturating_add(1) } else { 0 };
        if self.led_ticks >= LONGEST_ELECTIONS.saturating_mul(election_ticks) {
            self.failures = 0;
        }
    }

    /// The priority that the node has for now.
    pub fn priority(&self, configured: u8) -> u8 {
        if self.left_ticks > 0 { 0 } else { configured }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The ticks until the node has its priority again.
    fn pause_ticks(probation: &mut Probation) -> u32 {
        let mut ticks = 0;
        while probation.priority(7) == 0 {
            probation.tick(false, 10);
            ticks += 1;
        }
        ticks
    }

    #[test]
    fn each_failure_doubles_the_pause_up_to_the_longest() {
        let mut probation = Probation::default();
        assert_eq!(probation.priority(7), 7);
        for pause in [160, 320, 640, 1_280, 2_560, 5_120, 10_240, 10_240] {
            probation.begin(10);
            assert_eq!(pause_ticks(&mut probation), pause);
        }
    }

    #[test]
    fn a_node_that_leads_for_long_is_trusted_again() {
        let mut probation = Probation::default();
        probation.begin(10);
        probation.begin(10);
        (0..10_239).for_each(|_| probation.tick(true, 10));
        probation.tick(false, 10);
        probation.begin(10);
        assert_eq!(pause_ticks(&mut probation), 640, "it has led for one tick less");
        (0..10_240).for_each(|_| probation.tick(true, 10));
        probation.begin(10);
        assert_eq!(pause_ticks(&mut probation), 160);
    }
}
