//! Makes a failing plan smaller: first the faults are taken out, in halves and then one by one, then
//! the parameters of the swarm are switched off. Since every draw has a name of its own, what is left
//! goes on as before.

use crate::plan::Plan;

/// Runs after which it is small enough.
const RUNS_MAX: u32 = 300;

/// The smallest plan found for which `fails` still holds; it holds for `plan`.
pub fn shrink(plan: &Plan, fails: impl Fn(&Plan) -> bool) -> Plan {
    let mut smallest = plan.clone();
    let mut runs = 0;
    let mut attempt = |candidate: Plan, smallest: &mut Plan| {
        runs += 1;
        let smaller = runs <= RUNS_MAX && candidate != *smallest && fails(&candidate);
        if smaller {
            *smallest = candidate;
        }
        smaller
    };
    let mut chunk = smallest.faults.len();
    while chunk > 0 {
        let mut at = 0;
        while at < smallest.faults.len() {
            let mut candidate = smallest.clone();
            candidate.faults.drain(at..(at + chunk).min(candidate.faults.len()));
            if !attempt(candidate, &mut smallest) {
                at += chunk;
            }
        }
        chunk /= 2;
    }
    for name in ["loss_ppm", "duplicate_ppm", "tail_ppm", "stall_ppm", "tear_ppm", "padding_bytes"]
    {
        let mut candidate = smallest.clone();
        candidate.swarm.set(name, 0);
        attempt(candidate, &mut smallest);
    }
    let mut candidate = smallest.clone();
    candidate.swarm.clients = 1;
    attempt(candidate, &mut smallest);
    smallest
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_fault_that_matters_is_left() {
        let plan = (0..).map(Plan::from_seed).find(|plan| plan.faults.len() > 10);
        let plan = plan.expect("some seed has many faults");
        let culprit = plan.faults[7];
        let shrunk = shrink(&plan, |plan| plan.faults.contains(&culprit));
        assert_eq!(shrunk.faults, [culprit]);
        assert_eq!(shrunk.swarm.loss_ppm, 0);
    }
}
