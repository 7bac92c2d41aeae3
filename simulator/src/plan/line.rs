//! A plan as a line of text: how a failing run is reported, kept and repeated.

use super::fault::{Fault, FaultKind, LEADER};
use super::{NODES, Plan, Swarm};
use std::fmt;
use std::str::FromStr;

impl fmt::Display for Plan {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "seed={} nodes={}", self.seed, self.nodes)?;
        // Parameters that are 0 are left out and parse as 0: a small plan is a short line.
        for (name, value) in self.swarm.fields().into_iter().filter(|(_, value)| *value != 0) {
            write!(f, " {name}={value}")?;
        }
        for Fault { at_us, node, amount, kind } in &self.faults {
            match *node {
                LEADER => write!(f, " {}:leader@{at_us}+{amount}", kind.word())?,
                node => write!(f, " {}:{node}@{at_us}+{amount}", kind.word())?,
            }
        }
        Ok(())
    }
}

/// The word for which a line does not parse as a plan.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NoPlan(String);

impl fmt::Display for NoPlan {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "not understood in a plan: {}", self.0)
    }
}

impl std::error::Error for NoPlan {}

impl FromStr for Plan {
    type Err = NoPlan;

    fn from_str(line: &str) -> Result<Plan, NoPlan> {
        let mut plan = Plan { seed: 0, nodes: 3, swarm: Swarm::default(), faults: Vec::new() };
        for word in line.split_whitespace() {
            read_word(&mut plan, word).ok_or_else(|| NoPlan(word.to_owned()))?;
        }
        Ok(plan)
    }
}

fn read_word(plan: &mut Plan, word: &str) -> Option<()> {
    if let Some((name, value)) = word.split_once('=') {
        match name {
            "seed" => plan.seed = value.parse().ok()?,
            "nodes" => {
                plan.nodes = value.parse().ok().filter(|nodes| NODES.contains(nodes))?;
            }
            _ => return plan.swarm.set(name, value.parse().ok()?).then_some(()),
        }
        return Some(());
    }
    let (kind, rest) = word.split_once(':')?;
    let (node, rest) = rest.split_once('@')?;
    let (at_us, amount) = rest.split_once('+')?;
    plan.faults.push(Fault {
        at_us: at_us.parse().ok()?,
        node: if node == "leader" { LEADER } else { node.parse().ok()? },
        amount: amount.parse().ok()?,
        kind: *FaultKind::ALL.iter().find(|known| known.word() == kind)?,
    });
    Some(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_plan_is_read_back_from_its_line() {
        for seed in 0..200 {
            let plan = Plan::from_seed(seed);
            assert_eq!(plan.to_string().parse(), Ok(plan));
        }
    }

    #[test]
    fn a_line_that_is_no_plan_is_refused_with_the_word_that_is_wrong() {
        assert_eq!("seed=1 crsh:0@1+1".parse::<Plan>(), Err(NoPlan("crsh:0@1+1".to_owned())));
        assert_eq!("seed=x".parse::<Plan>(), Err(NoPlan("seed=x".to_owned())));
        for nodes in ["nodes=0", "nodes=16"] {
            assert_eq!(nodes.parse::<Plan>(), Err(NoPlan(nodes.to_owned())));
        }
    }
}
