//! A workload of layer 1 on whole nodes.
#![cfg(madsim)]

use simulator::{Plan, RegisterWorkload};
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
