//! `raft-kv members` on clusters of processes.

use crate::local::serve::Member;
use crate::local::{Cluster, PEER_PORT_OFFSET, PROGRAM, complaint, free_ports, scratch};
use std::fs;
use std::process::{Command, Output, Stdio};
use std::time::{Duration, Instant};

#[test]
fn the_promotion_of_a_learner_that_does_not_answer_is_given_up() {
    let (scratch, data) = scratch();
    let port = free_ports(4);
    let cluster = Cluster::start(&data, port);
    let entry = |id: u16| {
        let client = port + id;
        format!("{id}=127.0.0.1:{client}/127.0.0.1:{}", client + PEER_PORT_OFFSET)
    };
    let new = entry(3);
    let joins = Command::new(PROGRAM)
        .args(["serve", "--join", "--id=3", "--log=warn"])
        .arg(format!("--peers={},{new}", entry(0)))
        .arg(format!("--data-dir={}", scratch.path().join("joins").display()))
        .stdin(Stdio::null())
        .spawn()
        .unwrap();
    let joins = Member::of(joins);
    let ended = |output: &Output| (output.status.code(), complaint(output));
    let added = cluster.run(&["members", "add", &new, "--learner"]);
    assert!(added.status.success(), "{}", complaint(&added));
    joins.pause();
    let promoted = ended(&cluster.run(&["members", "add", &new, "--wait=1s"]));
    assert_eq!(promoted.0, Some(4), "{}", promoted.1);
    // It was a learner before the change.
    let removed = ended(&cluster.run(&["members", "remove", "3"]));
    assert!(removed.0 == Some(3) && removed.1.contains("add --learner"), "{}", removed.1);
    let given_up = ended(&cluster.run(&["members", "add", &new, "--learner"]));
    assert_eq!(given_up.0, Some(0), "{}", given_up.1);
}

#[test]
fn a_member_is_removed_and_added_again_with_an_empty_directory() {
    let (_scratch, data) = scratch();
    let port = free_ports(3);
    let mut cluster = Cluster::start(&data, port);
    assert!(cluster.run(&["put", "hello", "world"]).status.success());
    let address = cluster.address(2).to_string();
    let members = |cluster: &Cluster| {
        let listed = cluster.run(&["members"]);
        assert!(listed.status.success(), "{}", complaint(&listed));
        String::from_utf8(listed.stdout).unwrap()
    };
    assert!(members(&cluster).contains(&address));
    let twice = cluster.run(&["members", "remove", "2", "2"]);
    assert_eq!(twice.status.code(), Some(3));
    assert!(complaint(&twice).contains("given twice"), "{}", complaint(&twice));
    let removed = cluster.run(&["members", "remove", "2"]);
    assert!(removed.status.success(), "{}", complaint(&removed));
    let line = cluster.wait_for_line("node 2 stopped");
    assert!(line.contains("not a member of its cluster any more"), "{line}");
    assert!(!members(&cluster).contains(&address));
    // Nobody starts it again with that directory.
    let again = cluster.run(&["members", "remove", "2"]);
    assert_eq!(again.status.code(), Some(3), "{}", complaint(&again));
    assert!(cluster.stop().success());

    fs::remove_dir_all(data.join("node-2")).unwrap();
    let cluster = Cluster::start(&data, port);
    let peer = format!("127.0.0.1:{}", port + 2 + PEER_PORT_OFFSET);
    let entry = format!("2={address}/{peer}");
    let deadline = Instant::now() + Duration::from_secs(60);
    // The supervisor starts it with a pause, first to bootstrap and then to join.
    loop {
        let added = cluster.run(&["members", "add", &entry]);
        if added.status.success() {
            break;
        }
        assert!(Instant::now() < deadline, "{}", complaint(&added));
    }
    assert!(members(&cluster).contains(&address));
    let got = Command::new(PROGRAM).args(["get", "hello", "--server", &address]).output().unwrap();
    assert_eq!(got.stdout, b"world");
}
