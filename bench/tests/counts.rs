//! Runs every benchmark for a moment, and holds the bounds of the counts that do not depend on the
//! machine. No time is checked.

#![allow(clippy::unwrap_used, reason = "a test ends where it cannot go on")]

use serde_json::Value;
use std::process::Command;

fn run(arguments: &[&str]) -> Value {
    let directory = tempfile::tempdir().unwrap();
    let output = Command::new(env!("CARGO_BIN_EXE_bench"))
        .args(arguments)
        .args(["--json", "--rounds=1", "--dir"])
        .arg(directory.path())
        .output()
        .unwrap();
    assert!(output.status.success(), "{output:?}");
    serde_json::from_slice(&output.stdout).unwrap()
}

/// A figure of a system in a setting.
fn figure(report: &Value, system: &str, setting: &str, name: &str) -> f64 {
    let row = report["rows"].as_array().unwrap().iter();
    let mut row = row.filter(|row| row["system"] == system && row["setting"] == setting);
    let figures = row.next().unwrap_or_else(|| panic!("{system}, {setting}: {report}"))["figures"]
        .as_array()
        .unwrap();
    let found = figures.iter().find(|figure| figure["name"] == name);
    found.unwrap_or_else(|| panic!("{name}: {report}"))["median"].as_f64().unwrap()
}

#[track_caller]
fn within(name: &str, value: f64, least: f64, most: f64) {
    assert!((least..=most).contains(&value), "{name}: {value} is not within {least} and {most}");
}

#[test]
fn the_core_sends_one_append_and_one_reply_for_each_peer_and_batch() {
    let report = run(&["core", "--ops=65536"]);
    for batch in [1, 64, 1024] {
        let setting = format!("{batch} at once");
        let of = |name| figure(&report, "quorate-core", &setting, name) * f64::from(batch);
        // Two appends, two replies, and rarely a heartbeat. One write on each node.
        within("messages of a batch", of("messages/entry"), 4.0, 4.0 + 0.01 * f64::from(batch));
        within("writes of a batch", of("writes/entry"), 3.0, 3.0 + 0.01 * f64::from(batch));
    }
}

#[test]
fn the_core_allocates_for_runs_of_entries_and_not_for_each() {
    let report = run(&["core", "--ops=65536"]);
    let of = |setting| figure(&report, "quorate-core", setting, "allocations/entry");
    within("one at once", of("1 at once"), 0.0, ALLOCATIONS_OF_ONE);
    within("64 at once", of("64 at once"), 0.0, ALLOCATIONS_OF_64);
}

/// Allocations of three cores for an entry that is proposed alone, and for one of 64. A log begins
/// a new run of entries now and then.
const ALLOCATIONS_OF_ONE: f64 = 0.3;
const ALLOCATIONS_OF_64: f64 = 0.3;

#[test]
fn the_log_syncs_each_write_once() {
    let report = run(&["log", "--ops=200"]);
    for (setting, bytes) in [("1 a write", 4096.0), ("64 a write", 20480.0)] {
        let of = |name| figure(&report, "quorate-storage", setting, name);
        // A new segment takes a sync more, where it is not prepared in time.
        within("syncs", of("syncs/write"), 1.0, 1.1);
        within("bytes", of("bytes/write"), bytes, bytes);
    }
}

#[test]
fn the_driver_commits_what_many_clients_propose() {
    let report = run(&["driver", "--ops=2000"]);
    for setting in ["1 clients", "64 clients", "1024 clients"] {
        assert!(figure(&report, "quorate-driver", setting, "proposals/s") > 0.0, "{report}");
    }
}

/// The benchmark itself checks that each node has applied, or the log has, what is counted.
#[cfg(feature = "peers")]
#[test]
fn other_projects_take_their_turns() {
    for (bench, system, setting, name) in [
        ("core", "raft-rs", "1024 at once", "entries/s"),
        ("driver", "openraft", "64 clients", "proposals/s"),
        ("log", "raft-engine", "64 a write", "writes/s"),
    ] {
        let report = run(&[bench, "--ops=200"]);
        assert!(figure(&report, system, setting, name) > 0.0, "{report}");
    }
}

#[test]
fn a_write_over_http_costs_a_bounded_number_of_messages_and_syncs() {
    let report = run(&["counts", "--ops=500"]);
    let of = |setting, name| figure(&report, "raft-kv", setting, name);
    // One write on each node, two appends, two replies. A follower that is slow takes several at
    // once. What an idle cluster sends is subtracted, and that is inexact on a busy machine.
    within("syncs", of("1 at once", "syncs/put"), 1.5, 3.5);
    within("messages", of("1 at once", "messages/put"), 2.0, 7.0);
    within("allocations", of("1 at once", "allocations/put"), 1.0, ALLOCATIONS_OF_A_PUT);
    // Writes that come together share them. How many do depends on the machine.
    within("syncs of 64", of("64 at once", "syncs/put"), 0.0, 1.5);
    within("messages of 64", of("64 at once", "messages/put"), 0.0, 3.0);
}

/// Allocations of the three nodes for one write.
const ALLOCATIONS_OF_A_PUT: f64 = 120.0;
