//! The recording of a run does not change the run, shows what happened, and survives a panic.
#![cfg(madsim)]

use simulator::checks::Check;
use simulator::random::Stream;
use simulator::timeline::{Ended, Fate, FlightKind};
use simulator::{ClientRequest, Plan, RegisterWorkload, Registers, Timeline, What, Workload, page};
use transport_sim::{Calls, Limits, Run, simulate_for};

/// A seed with crashes, cuts and snapshots.
const SEED: u64 = 8;

fn run(seed: u64, record: bool, events_max: u64) -> Run {
    let workload = Calls::new(RegisterWorkload::new(4, 0));
    simulate_for(&Plan::from_seed(seed), workload, Limits { record, events_max })
}

fn has(timeline: &Timeline, is_it: impl Fn(&What) -> bool) -> bool {
    timeline.moments.iter().any(|moment| is_it(&moment.what))
}

#[test]
fn a_recorded_run_is_the_same_run() {
    let mut moments = 0;
    for seed in [2, SEED, 15] {
        let (plain, recorded) = (run(seed, false, u64::MAX), run(seed, true, u64::MAX));
        assert_eq!((plain.trace, plain.events), (recorded.trace, recorded.events));
        assert_eq!(plain.timeline.moments.len() + plain.timeline.flights.len(), 0);
        moments += recorded.timeline.moments.len();
    }
    assert!(moments > 3_000, "hardly anything was recorded: {moments}");
}

#[test]
fn what_happens_in_a_run_is_recorded() {
    let shown = run(SEED, true, u64::MAX).timeline;
    assert!(has(&shown, |what| matches!(what, What::Start { .. })));
    assert!(has(&shown, |what| matches!(what, What::Down)));
    assert!(has(&shown, |what| matches!(what, What::Fault(_))));
    assert!(has(&shown, |what| matches!(what, What::Vote(..))));
    assert!(has(&shown, |what| matches!(what, What::Durable { .. })));
    assert!(has(&shown, |what| matches!(what, What::Applied(_))));
    assert!(has(&shown, |what| matches!(what, What::Calm)));
    let of_fate = |fate| shown.flights.iter().filter(move |flight| flight.fate == fate).count();
    let (arrived, open) = (of_fate(Fate::Arrived), of_fate(Fate::UnderWay));
    assert!(arrived > 1_000 && of_fate(Fate::Lost) > 0);
    assert!(open < 50, "{open} messages are on their way for ever, {arrived} arrived");
    assert!(shown.flights.iter().any(|flight| flight.kind == FlightKind::Granted));
    assert!(shown.spans.iter().any(|span| span.outcome == Ended::Done && !span.answer.is_empty()));
    // An entry may be on its way when the run ends.
    let ends = shown.logs.iter().filter_map(|log| log.entries.last());
    let shortest = ends.min().expect("there are entries");
    assert!(shown.logs.iter().all(|log| log.entries.contains(shortest)));
}

#[test]
fn a_run_is_ended_after_so_many_events() {
    let short = run(SEED, false, 500);
    assert_eq!((short.events, short.violation), (501, None));
}

/// Its clients panic at their hundredth request. A panic inside a node would be caught by its
/// driver, which stops the node.
struct Panics(RegisterWorkload, u32);

impl Workload for Panics {
    type Machine = Registers;

    fn machine(&self) -> Registers {
        self.0.machine()
    }

    fn request(&mut self, client: u64, draw: &mut Stream) -> ClientRequest {
        self.1 += 1;
        assert!(self.1 < 100, "a hundred is too much");
        self.0.request(client, draw)
    }
}

#[test]
fn what_led_to_a_panic_is_drawn() {
    let workload = || Calls::new(Panics(RegisterWorkload::new(4, 0), 0));
    let plan = Plan::from_seed(SEED);
    let run = simulate_for(&plan, workload(), Limits { record: true, events_max: u64::MAX });
    let violation = run.violation.clone().expect("it panicked");
    assert_eq!(violation.check, Check::NothingPanics);
    assert!(violation.detail.contains("a hundred is too much"), "{}", violation.detail);
    assert!(run.events > 100 && run.time_us > 0, "{} {}", run.events, run.time_us);
    assert!(matches!(
        run.timeline.moments.last().map(|moment| &moment.what),
        Some(What::Violation(Check::NothingPanics))
    ));
    let drawn = page::page(&plan, &run.into(), &[]);
    assert!(drawn.contains("An assertion failed") && drawn.contains("broken: nothing panics"));
}
