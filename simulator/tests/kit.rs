//! The report that a user of the kit gets for a state machine that is broken on purpose.

#![allow(clippy::disallowed_types, reason = "a planted mistake is the order of a hash map")]

use bytes::Bytes;
use driver::{ApplyContext, Frozen, LogTime, RestoreError, StateMachine};
use simulator::checks::Check;
use simulator::plan::{FaultKind, Plan};
use simulator::{Answered, ClientRequest, Failed, Objection, Simulation, random::Stream};
use std::io::{self, Read, Write};
use std::sync::atomic::{AtomicU64, Ordering};

/// For machines whose snapshots do not matter in their test.
macro_rules! has_empty_snapshots {
    () => {
        fn freeze(&self) -> Echo<false> {
            Echo::default()
        }

        fn restore(&mut self, _from: &mut dyn Read) -> Result<(), RestoreError> {
            Ok(())
        }
    };
}

/// For machines whose queries do not matter in their test.
macro_rules! answers_nothing {
    () => {
        fn query(&self, _time: LogTime, _query: &[u8]) -> Bytes {
            Bytes::new()
        }
    };
}

/// Answers each command with the one before it. `FORGETS`: that one is not in its snapshots.
#[derive(Clone, Default)]
struct Echo<const FORGETS: bool> {
    count: u64,
    latest: u8,
}

impl<const FORGETS: bool> StateMachine for Echo<FORGETS> {
    type Frozen = Self;

    fn apply(&mut self, _at: ApplyContext, command: Bytes) -> Bytes {
        self.count += 1;
        Bytes::copy_from_slice(&[std::mem::replace(&mut self.latest, command[0])])
    }

    fn query(&self, _time: LogTime, _query: &[u8]) -> Bytes {
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

fn request(_client: u64, draw: &mut Stream) -> ClientRequest {
    match draw.below(3) {
        0 => ClientRequest::Query(Bytes::new()),
        _ => ClientRequest::Command(Bytes::copy_from_slice(&[draw.below(200) as u8])),
    }
}

/// The failure that a simulation of a broken state machine must find.
fn broken<M: StateMachine>(simulation: &Simulation<M>) -> Failed {
    simulation.check().expect_err("it is broken").failed().expect("a promise is")
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
    let failed = broken(&simulation());
    assert!(failed.shrunk.plan.faults.len() <= 2, "{failed}");
    let said = failed.to_string();
    assert!(said.contains(&format!("SIM_PLAN='{}'", failed.shrunk.plan)), "{said}");

    let drawn = std::fs::read_to_string(&page).expect("there is a page");
    for part in
        ["<svg", failed.violation.check.name(), "leader in term", "here the promise was broken"]
    {
        assert!(drawn.contains(part), "the page lacks {part}");
    }
    assert!(!drawn.contains("http"), "the page needs nothing from elsewhere");

    let kept = std::fs::read_to_string(&plans).expect("the plan is kept");
    assert_eq!(kept.trim(), failed.shrunk.plan.to_string());
    let again = broken(&simulation().seeds(0..0));
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
    let simulation = Simulation::new(Echo::<false>::default, request)
        .seeds(0..1)
        .faults(&[])
        .timeline(&page)
        .invariant(|echo| if echo.count < 20 { Ok(()) } else { Err("it counts to 20".to_owned()) });
    let failed = broken(&simulation);
    assert_eq!(failed.violation.check, Check::InvariantOfTheStateMachine);
    assert!(failed.violation.detail.contains("it counts to 20"));
    // The command that broke it.
    assert!(failed.violation.detail.contains("@1: "), "{failed}");
    assert!(failed.shrunk.plan.faults.is_empty());
    let _ = std::fs::remove_file(page);
}

#[test]
fn all_checks_that_are_given_hold_and_the_requests_that_one_names_come_first() {
    let named = |history: &[Answered<'_>]| {
        let at = history.len().saturating_sub(1);
        Err(Objection::to("the last of many", history.get(at..).unwrap_or_default()))
    };
    let simulation = |page: &str| {
        Simulation::new(Echo::<false>::default, request)
            .seeds(0..1)
            .faults(&[])
            .timeline(path(page))
    };
    let mut failed = broken(
        &simulation("named.html")
            .history(move |history| if history.len() > 40 { named(history) } else { Ok(()) })
            .history(|_| Ok(())),
    );
    assert_eq!(failed.violation.check, Check::HistoryOfTheTest);
    assert_eq!(failed.named.len(), 1);
    // Of a long story only a part is printed, which may leave them out.
    failed.steps = (0..20).map(|number| format!("step {number}")).collect();
    let text = failed.to_string();
    assert!(text.contains(&format!("about:    {}", failed.named[0])), "{text}");
    let _ = std::fs::remove_file(path("named.html"));
    let second = simulation("first.html").invariant(|_| Err("the first".to_owned()));
    let failed = broken(&second.invariant(|_| Ok(())));
    let _ = std::fs::remove_file(path("first.html"));
    assert_eq!(failed.violation.check, Check::InvariantOfTheStateMachine);
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

#[test]
fn a_line_of_the_file_that_is_no_plan_is_an_error_that_names_it() {
    let plans = path("bad-plans");
    std::fs::write(&plans, "# kept\nseed=1 nodes=3\nseed=2 crsh:0@1+1\n").expect("it is writable");
    let error = Simulation::new(Echo::<false>::default, request)
        .regressions(&plans)
        .check()
        .expect_err("a regression that is not run is worse than none");
    let said = error.to_string();
    assert!(said.contains("line 3") && said.contains("crsh:0@1+1"), "{said}");
    std::fs::remove_file(plans).expect("it was made above");
}

#[test]
fn nodes_clients_and_the_swarm_are_as_chosen() {
    let seen = std::rc::Rc::new(std::cell::Cell::new(0_u64));
    let most = seen.clone();
    let passed = Simulation::new(Echo::<false>::default, move |client, draw| {
        most.set(most.get().max(client));
        request(client, draw)
    })
    .seeds(0..4)
    .nodes(5)
    .clients(2)
    .faults(&[])
    .swarm(|swarm| (swarm.snapshot_bytes, swarm.log_bytes) = (1 << 30, 0))
    .run();
    assert_eq!(seen.get(), 1, "two clients, 0 and 1");
    assert_eq!(passed.marks.count("a snapshot was taken"), 0);
}

/// Counts commands, and forgets in its snapshots how many there were. Only queries show that.
#[derive(Clone, Default)]
struct Counts(u64);

impl StateMachine for Counts {
    type Frozen = Echo<false>;

    fn apply(&mut self, _at: ApplyContext, _command: Bytes) -> Bytes {
        self.0 += 1;
        Bytes::new()
    }

    fn query(&self, _time: LogTime, _query: &[u8]) -> Bytes {
        Bytes::from(self.0.to_string())
    }

    has_empty_snapshots!();
}

#[test]
fn what_is_missing_from_a_snapshot_and_shows_only_in_queries_is_found() {
    let page = path("counts.html");
    let simulation = Simulation::new(Counts::default, request).seeds(0..20).timeline(&page);
    let failed = broken(&simulation);
    assert_eq!(failed.violation.check, Check::QueriesAreAnsweredAlike, "{failed}");
    let _ = std::fs::remove_file(page);
}

/// In the first run of the process, one of its answers differs.
#[derive(Clone, Default)]
struct Random(u64);

static DRAWN: AtomicU64 = AtomicU64::new(0);

impl StateMachine for Random {
    type Frozen = Echo<false>;

    fn apply(&mut self, _at: ApplyContext, _command: Bytes) -> Bytes {
        self.0 += 1;
        let drawn = DRAWN.fetch_add(1, Ordering::Relaxed);
        Bytes::from(if drawn == 100 { "odd" } else { "" })
    }

    answers_nothing!();
    has_empty_snapshots!();
}

#[test]
fn a_machine_that_does_not_repeat_is_told_from_a_broken_promise() {
    let page = path("random.html");
    let simulation = Simulation::new(Random::default, request).seeds(0..3).timeline(&page);
    let failed = broken(&simulation);
    assert_eq!(failed.violation.check, Check::RunRepeats, "{failed}");
    let drawn = std::fs::read_to_string(&page).expect("there is a page");
    assert!(drawn.contains("a run repeats") && !drawn.contains("No promise was broken"));
    std::fs::remove_file(page).expect("it was made above");
}

/// Keeps the latest command for each of its kinds, and writes them in the order of a hash map.
#[derive(Clone, Default)]
#[allow(clippy::disallowed_types, reason = "its order is the mistake")]
struct Unordered(std::collections::HashMap<u8, u8>);

impl StateMachine for Unordered {
    type Frozen = Self;

    fn apply(&mut self, _at: ApplyContext, command: Bytes) -> Bytes {
        self.0.insert(command[0] % 8, command[0]);
        Bytes::new()
    }

    answers_nothing!();

    fn freeze(&self) -> Self {
        self.clone()
    }

    fn restore(&mut self, from: &mut dyn Read) -> Result<(), RestoreError> {
        let mut bytes = Vec::new();
        from.read_to_end(&mut bytes)?;
        self.0 = bytes.chunks_exact(2).map(|pair| (pair[0], pair[1])).collect();
        Ok(())
    }
}

impl Frozen for Unordered {
    fn write(&self, to: &mut dyn Write) -> io::Result<()> {
        self.0.iter().try_for_each(|(kind, latest)| to.write_all(&[*kind, *latest]))
    }
}

/// Keeps the number of its latest command, counted over all machines of the process: as bad as a
/// clock. No answer shows it.
#[derive(Clone, Default)]
struct Stamped(u64);

static STAMPS: AtomicU64 = AtomicU64::new(1);

impl StateMachine for Stamped {
    type Frozen = Self;

    fn apply(&mut self, _at: ApplyContext, _command: Bytes) -> Bytes {
        self.0 = STAMPS.fetch_add(1, Ordering::Relaxed);
        Bytes::new()
    }

    answers_nothing!();

    fn freeze(&self) -> Self {
        self.clone()
    }

    fn restore(&mut self, from: &mut dyn Read) -> Result<(), RestoreError> {
        let mut bytes = [0; 8];
        from.read_exact(&mut bytes)?;
        self.0 = u64::from_le_bytes(bytes);
        Ok(())
    }
}

impl Frozen for Stamped {
    fn write(&self, to: &mut dyn Write) -> io::Result<()> {
        to.write_all(&self.0.to_le_bytes())
    }
}

/// Checks that a machine whose states differ in every run is found at the first commands, with the
/// commands, the bytes and the usual causes.
fn is_told<M: StateMachine + Default + 'static>(name: &str) {
    let page = path(name);
    let failed = broken(&Simulation::new(M::default, request).seeds(0..3).nodes(3).timeline(&page));
    assert_eq!(failed.violation.check, Check::EqualLogsMakeEqualStates, "{failed}");
    let index = failed.violation.about.indexes.first().expect("it names the entry");
    assert!(index.0 < 40, "the first entries differ already: {failed}");
    for part in
        ["is the first that differs", "the commands after index", "the order of a hash map?"]
    {
        assert!(failed.violation.detail.contains(part), "{failed}");
    }
    assert!(failed.shrunk.plan.faults.is_empty(), "{failed}");
    assert!(!failed.steps.is_empty(), "{failed}");
    let drawn = std::fs::read_to_string(&page).expect("there is a page");
    assert!(drawn.contains(failed.violation.check.name()));
    std::fs::remove_file(page).expect("it is there");
}

#[test]
fn a_state_in_the_order_of_a_hash_map_is_found_at_once() {
    is_told::<Unordered>("unordered.html");
}

#[test]
fn a_state_that_no_answer_shows_is_found_at_once() {
    is_told::<Stamped>("stamped.html");
}

#[test]
fn each_test_and_seed_has_a_page_of_its_own() {
    let pages = [5, 6].map(|seed| {
        let simulation = Simulation::new(Echo::<false>::default, request)
            .seeds(seed..seed + 1)
            .faults(&[])
            .invariant(|echo| if echo.count < 3 { Ok(()) } else { Err("three".to_owned()) });
        broken(&simulation).timeline.expect("it is written")
    });
    let of_seed_5 = "sim-failures/kit.each_test_and_seed_has_a_page_of_its_own.seed-5.html";
    assert!(pages[0].ends_with(of_seed_5), "{}", pages[0].display());
    assert_ne!(pages[0], pages[1]);
    for page in pages {
        std::fs::remove_file(page).expect("it is there");
    }
}

/// A state machine that fails an assertion after a while.
#[derive(Clone, Default)]
struct Panics(u64);

impl StateMachine for Panics {
    type Frozen = Echo<false>;

    fn apply(&mut self, _at: ApplyContext, _command: Bytes) -> Bytes {
        self.0 += 1;
        assert!(self.0 < 30, "thirty is too much");
        Bytes::new()
    }

    answers_nothing!();
    has_empty_snapshots!();
}

#[test]
fn a_panic_is_found_and_told_like_every_other_failure() {
    let page = path("panic.html");
    let simulation = Simulation::new(Panics::default, request).seeds(0..3).timeline(&page);
    let failed = broken(&simulation);
    assert_eq!(failed.violation.check, Check::NothingPanics);
    assert!(failed.violation.detail.contains("thirty is too much"), "{failed}");
    let drawn = std::fs::read_to_string(&page).expect("there is a page");
    assert!(drawn.contains("nothing panics"));
    std::fs::remove_file(page).expect("it was made above");
}

#[test]
fn members_change_leaders_hand_over_and_sessions_repeat_in_every_run_if_asked() {
    let one = |seed: u64, sessions: bool| {
        Simulation::new(Echo::<false>::default, request)
            .seeds(seed..seed + 1)
            .nodes(3)
            .faults(&[FaultKind::Crash])
            .always(&[FaultKind::Members, FaultKind::Transfer])
            .sessions(sessions)
            .run()
            .marks
    };
    for seed in 0..6 {
        let marks = one(seed, true);
        for mark in ["a change of the membership began", "a session was opened"] {
            assert!(marks.count(mark) > 0, "seed {seed}, never: {mark}");
        }
        assert_eq!(one(seed, false).count("a session was opened"), 0, "seed {seed}");
    }
    let plans = (0..50).map(|seed| {
        Plan::drawn_with(seed, None, &[FaultKind::Crash], &[FaultKind::Transfer, FaultKind::Wipe])
    });
    for plan in plans {
        let has = |kind| plan.faults.iter().any(|fault| fault.kind == kind);
        assert!(has(FaultKind::Transfer), "{plan}");
        assert!(has(FaultKind::Wipe) || plan.nodes < 3, "{plan}");
        assert!(plan.swarm.churn == 0, "{plan}");
    }
}
