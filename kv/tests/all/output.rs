//! Nodes whose standard error cannot be written: its reader is gone, its disk is full, or it is a
//! pipe that is not read. Such a node works like any other.

use crate::local::serve::{Member, Members};
use crate::local::{free_ports, get, scratch, until};
use std::fs::File;
use std::io::{PipeReader, Write};
use std::process::Stdio;

/// The exit code of a node that failed while running.
const FAILED: i32 = 70;
/// The capacity of a pipe, unless it was enlarged.
const PIPE_BYTES: usize = 64 << 10;

/// A standard error that cannot be written, and the other end if that has to stay open.
fn broken(kind: &str) -> (Stdio, Option<PipeReader>) {
    match kind {
        "full disk" => (File::options().write(true).open("/dev/full").unwrap().into(), None),
        "reader gone" => {
            let (reader, writer) = std::io::pipe().unwrap();
            drop(reader);
            (writer.into(), None)
        }
        "nobody reads" => {
            let (reader, mut writer) = std::io::pipe().unwrap();
            writer.write_all(&[b'x'; PIPE_BYTES]).unwrap();
            (writer.into(), Some(reader))
        }
        _ => unreachable!("no such standard error: {kind}"),
    }
}

fn a_node_does_all_that_any_other_does(kind: &str) {
    let (_scratch, data) = scratch();
    let mut members = Members::new(&data, free_ports(3));
    let (stderr, _reader) = broken(kind);
    // Many lines, so that a write to standard error is always in progress.
    members.start(0, stderr, &["--campaign-at-start", "--log=trace"]);
    members.start(1, Stdio::null(), &[]);
    members.start(2, Stdio::null(), &[]);
    members.wait_for_leader(0);
    members.must_put(0, "a", "1");

    // A peer is killed and restarted. The node logs the lost stream and connects again.
    members.kill(1);
    until("the node notices that the peer is gone", || {
        let text = get(members.address(0), "/metrics").unwrap();
        let silent = "raft_peer_silent_ms{peer=\"1\"} ";
        let silent_ms = text.lines().find_map(|line| line.strip_prefix(silent)).unwrap();
        silent_ms.parse::<u64>().unwrap() > 500
    });
    members.must_put(0, "b", "2");
    members.start(1, Stdio::null(), &[]);
    until("the peer that came back is reached", || {
        get(members.address(1), "/v1/kv/b").as_deref() == Some("2")
    });
    assert!(get(members.address(0), "/is_leader").unwrap().contains("true"), "it leads no more");

    // Its disk fails. The node ends, although it cannot write its last line.
    members.member(0).let_writes_fail();
    members.put(0, "c", "3");
    assert_eq!(members.wait(0).code(), Some(FAILED));
    members.wait_for_leader_among(&[1, 2]);
    members.must_put(1, "d", "4");
}

#[test]
fn a_node_whose_log_has_no_reader_does_all_that_any_other_does() {
    a_node_does_all_that_any_other_does("reader gone");
}

#[test]
fn a_node_whose_log_is_on_a_full_disk_does_all_that_any_other_does() {
    a_node_does_all_that_any_other_does("full disk");
}

#[test]
fn a_node_whose_log_nobody_reads_does_all_that_any_other_does() {
    a_node_does_all_that_any_other_does("nobody reads");
}

#[test]
fn a_node_that_cannot_start_ends_although_nobody_reads_why() {
    for kind in ["reader gone", "full disk", "nobody reads"] {
        let (_scratch, data) = scratch();
        let (stderr, _reader) = broken(kind);
        let mut member =
            Member::spawn(&data, free_ports(3), 0, stderr, &["--peer-listen=192.0.2.1:1"]);
        assert_eq!(member.wait().code(), Some(78), "{kind}");
    }
}
