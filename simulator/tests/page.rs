//! The page of a run: well-formed, whole, and not too large, whatever the plan.

use simulator::page::{PAGE_BYTES_MAX, page};
use simulator::{Plan, RegisterWorkload, Run, What, run};

fn drawn(plan: &Plan) -> (Run, String) {
    let run = run(plan, RegisterWorkload::new(4, plan.swarm.padding_bytes), true);
    let page = page(plan, &run, &["SIM_PLAN='this one' cargo test".to_owned()]);
    (run, page)
}

/// The first seed from `from` on with at least `least` kinds of faults.
fn seed_with_faults(from: u64, least: usize) -> Plan {
    let kinds = |plan: &Plan| {
        let kinds: std::collections::BTreeSet<_> = plan.faults.iter().map(|f| f.kind).collect();
        kinds.len()
    };
    (from..).map(Plan::from_seed).find(|plan| kinds(plan) >= least).expect("some seed has")
}

/// Elements that are opened and not closed, in HTML or in SVG.
const VOID: &[&str] = &["!doctype", "meta", "input"];

/// Cells and rows may be left open in HTML.
const LEFT_OPEN: &[&str] = &["td", "th"];

/// Whether tags are closed in the order in which they were opened. Returns what is wrong.
fn unbalanced(page: &str) -> Option<String> {
    let mut open: Vec<&str> = Vec::new();
    let mut rest = page;
    while let Some(at) = rest.find('<') {
        rest = &rest[at + 1..];
        let end = rest.find('>')?;
        let (tag, after) = (&rest[..end], &rest[end + 1..]);
        rest = after;
        let name = tag.split([' ', '/']).find(|word| !word.is_empty()).unwrap_or_default();
        if tag.starts_with('/') {
            while open.last().is_some_and(|last| LEFT_OPEN.contains(last) && *last != name) {
                open.pop();
            }
            if open.pop() != Some(name) {
                return Some(format!("</{name}> before {:?}", rest.get(..60)));
            }
            continue;
        }
        if !tag.ends_with('/') && !VOID.contains(&name) {
            open.push(name);
        }
        // The contents of these are not markup.
        if name == "script" || name == "style" {
            rest = &rest[rest.find(&format!("</{name}>"))?..];
        }
    }
    (!open.is_empty()).then(|| format!("{open:?} are left open"))
}

#[test]
fn pages_are_well_formed_and_of_bounded_size() {
    let plans = [Plan::from_seed(2), seed_with_faults(0, 4), seed_with_faults(100, 6)];
    for plan in plans {
        let (_, page) = drawn(&plan);
        assert_eq!(unbalanced(&page), None, "{plan}");
        assert!(page.len() <= PAGE_BYTES_MAX, "{} bytes for {plan}", page.len());
        for wrong in ["NaN", "inf\"", "=\"-inf", "http:", "https:"] {
            assert!(!page.contains(wrong), "{wrong} in the page of {plan}");
        }
    }
}

#[test]
fn what_is_left_open_is_noticed() {
    assert_eq!(unbalanced("<p>one<br/></p>"), None);
    assert!(unbalanced("<p><b>one</p>").is_some());
    assert!(unbalanced("<svg><g></svg>").is_some());
}

#[test]
fn every_crash_and_every_fault_that_struck_is_drawn() {
    let (run, page) = drawn(&seed_with_faults(200, 5));
    let of_kind = |is_it: fn(&What) -> bool| {
        run.timeline.moments.iter().filter(|moment| is_it(&moment.what)).count()
    };
    let struck = of_kind(|what| matches!(what, What::Fault(_)));
    let down = of_kind(|what| matches!(what, What::Down));
    assert!(struck >= 3 && down >= 1, "hardly anything went wrong");
    // Each once in the strip and once in detail.
    assert_eq!(page.matches("<rect class=\"fault\" x").count(), struck);
    assert_eq!(page.matches("<rect class=\"fault").count(), 2 * struck);
    assert_eq!(page.matches("<text class=\"sign down").count(), down);
}

#[test]
fn a_run_that_kept_every_promise_has_a_page_too() {
    let (run, page) = drawn(&Plan::from_seed(1));
    assert!(run.violation.is_none());
    assert!(page.contains("No promise was broken"));
    assert!(!page.contains("here the promise was broken"));
}

#[test]
fn recording_changes_nothing() {
    let plan = seed_with_faults(300, 3);
    let quiet = simulator::run(&plan, RegisterWorkload::new(4, plan.swarm.padding_bytes), false);
    let (recorded, _) = drawn(&plan);
    assert_eq!((quiet.trace, quiet.events), (recorded.trace, recorded.events));
    assert!(quiet.timeline.moments.is_empty() && quiet.timeline.flights.is_empty());
}
