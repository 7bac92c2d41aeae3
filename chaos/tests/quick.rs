//! A short run over the quick scenarios, in the ordinary tests.

#![cfg(target_os = "linux")]

use chaos::{Stage, binary, run, scenarios, summary};
use std::time::{Duration, Instant};

/// New rounds begin for this long. One round takes some seconds.
const TIME: Duration = Duration::from_secs(20);

#[test]
fn the_binary_survives_a_short_attack() {
    let stage = Stage::new(binary::find().unwrap(), None).unwrap();
    let quick: Vec<_> = scenarios::all().into_iter().filter(|scenario| scenario.quick).collect();
    let (begun, mut outcomes) = (Instant::now(), Vec::new());
    // Each run begins with another scenario, so that over many runs all have their turn.
    let start = std::process::id() as usize;
    for turn in 0..quick.len() {
        if begun.elapsed() > TIME {
            break;
        }
        let at = (start + turn) % quick.len();
        outcomes.push(run(&stage, &quick[at], (start + turn) as u64));
    }
    println!("{}", summary::table(&outcomes));
    let violations: Vec<_> = outcomes
        .iter()
        .flat_map(|outcome| {
            let (name, seed) = (outcome.scenario, outcome.seed);
            outcome.violations.iter().map(move |text| format!("{name} (seed {seed}): {text}"))
        })
        .collect();
    assert!(violations.is_empty(), "{violations:#?}");
    let done: u64 = outcomes.iter().map(|outcome| outcome.counts.done).sum();
    assert!(done > 100, "only {done} operations were done: the run proves nothing");
}

#[test]
fn lost_writes_are_found() {
    let stage = Stage::new(binary::find().unwrap(), None).unwrap();
    for scenario in scenarios::must_be_found() {
        let outcome = run(&stage, &scenario, 7);
        if let Some(why) = &outcome.skipped {
            println!("{} is skipped: {why}", scenario.name);
            continue;
        }
        let violations = &outcome.violations;
        assert!(outcome.counts.lost > 0, "{}: {violations:#?}", scenario.name);
        assert!(violations.iter().any(|text| text.contains("lost: acknowledged")));
    }
}
