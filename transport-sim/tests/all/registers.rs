//! A workload of layer 1 on whole nodes.
#![cfg(madsim)]

use simulator::random::Stream;
use simulator::{Answered, ClientRequest, Plan, RegisterWorkload, Workload};
use std::sync::Arc;
use transport_sim::{Calls, simulate};

#[test]
fn registers_stay_linearizable_on_whole_nodes() {
    for seed in 0..12 {
        let plan = Plan::from_seed(seed);
        let workload = RegisterWorkload::new(4, plan.swarm.padding_bytes);
        let run = simulate(&plan, Calls::new(workload));
        assert_eq!(run.violation, None, "{plan}");
        assert!(run.events > 100, "nothing was simulated");
    }
}

/// Registers that show whether they still exist, and report a broken promise after some answers.
struct Held {
    registers: RegisterWorkload,
    answers_left: u64,
    _held: Arc<()>,
}

impl Workload for Held {
    type Machine = <RegisterWorkload as Workload>::Machine;

    fn machine(&self) -> Self::Machine {
        self.registers.machine()
    }

    fn request(&mut self, client: u64, draw: &mut Stream) -> ClientRequest {
        self.registers.request(client, draw)
    }

    fn answered(&mut self, _: &Answered<'_>) {
        self.answers_left = self.answers_left.saturating_sub(1);
    }

    fn invariant(&self, _: &Self::Machine) -> Result<(), String> {
        if self.answers_left > 0 { Ok(()) } else { Err("enough".to_owned()) }
    }
}

#[test]
fn a_run_that_is_over_is_gone_from_memory() {
    for answers_left in [5, u64::MAX] {
        for seed in 0..6 {
            let held = Arc::new(());
            let registers = RegisterWorkload::new(4, 0);
            let workload = Held { registers, answers_left, _held: held.clone() };
            let run = simulate(&Plan::from_seed(seed), Calls::new(workload));
            assert!(run.events > 10, "nothing was simulated");
            assert_eq!(run.violation.is_some(), answers_left < u64::MAX);
            assert_eq!(Arc::strong_count(&held), 1, "seed {seed}: {:?}", run.violation);
        }
    }
}
