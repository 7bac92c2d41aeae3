//! What a user of the kit is told of a state machine that is broken on purpose.

use bytes::Bytes;
use driver::{At, Frozen, RestoreError, StateMachine};
use simulator::plan::FaultKind;
use simulator::{Request, Simulation, random::Stream};
use std::io::{self, Read, Write};

/// Answers each command with the one before it. `FORGETS`: that one is not in its snapshots.
#[derive(Clone, Default)]
struct Echo<const FORGETS: bool> {
    count: u64,
    latest: u8,
}

impl<const FORGETS: bool> StateMachine for Echo<FORGETS> {
    type Frozen = Self;

    fn apply(&mut self, _at: At, command: &[u8]) -> Bytes {
        self.count += 1;
        Bytes::copy_from_slice(&[std::mem::replace(&mut self.latest, command[0])])
    }

    fn query(&self, _query: &[u8]) -> Bytes {
        Bytes::copy_from_slice(&[self.latest])
    }

    fn freeze(&self) -> Self {
        self.clone()
    }

    fn restore(&mut self, from: &mut dyn Read) -> Result<(), RestoreError> {
        let mut bytes = [0; 9];
        from.read_exact(&mut bytes)?;
        self.latest = bytes[8];
        self.count = u64::from_le_bytes(std::array::from_fn(|at| bytes[at]));
        Ok(())
    }
}

impl<const FORGETS: bool> Frozen for Echo<FORGETS> {
    fn write(&self, to: &mut dyn Write) -> io::Result<()> {
        to.write_all(&self.count.to_le_bytes())?;
        to.write_all(&[if FORGETS { 0 } else { self.latest }])
    }
}

fn request(_client: u64, draw: &mut Stream) -> Request {
    match draw.below(3) {
        0 => Request::Query(Bytes::new()),
        _ => Request::Command(Bytes::copy_from_slice(&[draw.below(200) as u8])),
    }
}

/// A file of this test's own.
fn path(name: &str) -> std::path::PathBuf {
    std::env::temp_dir().join(format!("simulator-{}-{name}", std::process::id()))
}

#[test]
fn a_field_missing_from_snapshots_is_found_shrunk_drawn_and_kept() {
    let (page, plans) = (path("page.html"), path("plans"));
    let simulation = || {
        Simulation::new(Echo::<true>::default, request)
            .seeds(0..100)
            .timeline(&page)
            .regressions(&plans)
    };
    let failed = simulation().check().expect_err("it is broken");
    assert!(failed.shrunk.faults.len() <= 2, "{failed}");
    let said = failed.to_string();
    assert!(said.contains(&format!("SIM_PLAN='{}'", failed.shrunk)), "{said}");

    let drawn = std::fs::read_to_string(&page).expect("there is a page");
    for part in ["<svg", failed.violation.check, "leader in term", "here the promise was broken"] {
        assert!(drawn.contains(part), "the page lacks {part}");
    }
    assert!(!drawn.contains("http"), "the page needs nothing from elsewhere");

    let kept = std::fs::read_to_string(&plans).expect("the plan is kept");
    assert_eq!(kept.trim(), failed.shrunk.to_string());
    let again = simulation().seeds(0..0).check().expect_err("the plan that was kept is run first");
    assert_eq!(again.violation.check, failed.violation.check);
    assert_eq!(
        std::fs::read_to_string(&plans).expect("it is there"),
        kept,
        "nothing is kept twice"
    );
    for path in [page, plans] {
        std::fs::remove_file(path).expect("it was made above");
    }
}

#[test]
fn the_same_machine_with_whole_snapshots_passes() {
    let passed = Simulation::new(Echo::<false>::default, request).seeds(0..10).nodes(3).run();
    assert_eq!(passed.runs, 10);
    assert!(passed.events > 100_000, "hardly anything was simulated");
    assert!(passed.marks.count("a snapshot was taken") > 0);
}

#[test]
fn an_invariant_of_the_user_is_checked_without_any_fault_too() {
    let page = path("invariant.html");
    let failed = Simulation::new(Echo::<false>::default, request)
        .seeds(0..1)
        .faults(&[])
        .timeline(&page)
        .invariant(|echo| if echo.count < 20 { Ok(()) } else { Err("it counts to 20".to_owned()) })
        .check()
        .expect_err("it is broken");
    assert_eq!(failed.violation.check, "the invariant of the state machine");
    assert!(failed.violation.detail.contains("it counts to 20"));
    assert!(failed.shrunk.faults.is_empty());
    let _ = std::fs::remove_file(page);
}

#[test]
fn only_the_kinds_of_faults_that_are_asked_for_strike() {
    let passed = Simulation::new(Echo::<false>::default, request)
        .seeds(0..12)
        .faults(&[FaultKind::Pause])
        .run();
    assert_eq!(passed.marks.count("a node crashed at an awkward moment"), 0);
    assert_eq!(passed.marks.count("a disk was full"), 0);
}
