//! Client commands against addresses without a server, servers that are not nodes, and a cluster
//! without a leader.

use crate::local::serve::Members;
use crate::local::{PATIENCE, PROGRAM, complaint, free_ports, get, scratch};
use std::io::{Read, Write};
use std::net::TcpListener;
use std::process::{Command, Output, Stdio};
use std::time::{Duration, Instant};

/// Exit codes, as in `cli/exit.rs`.
const NOT_DONE: i32 = 3;
/// A command that fails at once takes less than this, however busy the machine is. One that waits
/// takes [`TIMEOUT`].
const SOON: Duration = PATIENCE;

fn run(server: &str, arguments: &[&str]) -> (Output, Duration) {
    let began = Instant::now();
    let output = Command::new(PROGRAM)
        .args(arguments)
        .args(["--server", server])
        .stdin(Stdio::null())
        .output()
        .unwrap();
    (output, began.elapsed())
}

const TIMEOUT: &str = "300s";
const PUT: &[&str] = &["put", "a", "1", "--timeout", TIMEOUT];
const GET: &[&str] = &["get", "a", "--timeout", TIMEOUT];
const CAS: &[&str] = &["cas", "a", "1", "2", "--timeout", TIMEOUT];
const DELETE: &[&str] = &["delete", "a", "--timeout", TIMEOUT];
const STATUS: &[&str] = &["status", "--timeout", TIMEOUT];
const BENCH: &[&str] = &["bench", "--duration", "1s", "--timeout", TIMEOUT];

#[test]
fn where_nothing_listens_the_commands_say_so_at_once() {
    // Ports on which nothing listens.
    let bound =
        [TcpListener::bind("127.0.0.1:0").unwrap(), TcpListener::bind("127.0.0.1:0").unwrap()];
    let addresses: Vec<_> = bound.iter().map(|b| b.local_addr().unwrap().to_string()).collect();
    drop(bound);
    for arguments in [PUT, GET, CAS, DELETE, STATUS, BENCH] {
        let (output, time) = run(&addresses.join(","), arguments);
        assert_eq!(output.status.code(), Some(NOT_DONE), "{arguments:?}: {output:?}");
        assert!(complaint(&output).contains("refused"), "{arguments:?}: {output:?}");
        assert!(time < SOON, "{arguments:?}: {time:?}");
    }
    let (output, time) = run("no-such-host.invalid:8080", PUT);
    assert_eq!(output.status.code(), Some(NOT_DONE), "{output:?}");
    assert!(complaint(&output).contains("look-up failed") && time < SOON, "{output:?} {time:?}");
}

#[test]
fn variables_set_to_nothing_are_not_set_and_wrong_ones_are_named() {
    let serve = |variables: &[(&str, &str)]| {
        let peers = "--peers=0=127.0.0.1:1/127.0.0.1:2";
        let mut command = Command::new(PROGRAM);
        command.args(["serve", "--id=7", peers, "--data-dir=/nonexistent"]);
        let output = command.envs(variables.iter().copied()).output().unwrap();
        (output.status.code(), complaint(&output))
    };
    let empty = ["CONFIG", "INSECURE", "JOIN", "HOSTS", "LISTEN", "ELECTION_TIMEOUT"];
    let empty = empty.map(|name| (format!("RAFT_KV_{name}"), ""));
    let empty: Vec<_> = empty.iter().map(|(name, value)| (name.as_str(), *value)).collect();
    let (code, said) = serve(&empty);
    assert_eq!(code, serve(&[]).0, "{said}");
    assert!(said.contains("--peers"), "{said}");
    // The value stands inside of an argument too.
    let (code, said) = serve(&[("RAFT_KV_INSECURE", "1")]);
    assert!(code == Some(2) && said.contains("comes from RAFT_KV_INSECURE"), "{code:?}: {said}");
}

#[test]
fn a_server_that_is_no_node_stores_nothing() {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap().to_string();
    // This thread answers until the test ends.
    std::thread::spawn(move || {
        for stream in listener.incoming() {
            let Ok(mut stream) = stream else { break };
            let _ = stream.read(&mut [0; 4096]);
            let _ = stream.write_all(
                b"HTTP/1.1 200 OK\r\netag: \"1\"\r\ncontent-length: 2\r\nconnection: close\r\n\r\nok",
            );
        }
    });
    // A write opens a session first, so it was not sent.
    for arguments in [PUT, DELETE, GET, CAS, STATUS] {
        let (output, time) = run(&address, arguments);
        assert_eq!(output.status.code(), Some(NOT_DONE), "{arguments:?}: {output:?}");
        assert!(complaint(&output).contains("no raft-kv node"), "{arguments:?}: {output:?}");
        assert!(output.stdout.is_empty() && time < SOON, "{arguments:?}: {output:?}");
    }
}

#[test]
fn without_a_leader_nothing_is_done_and_that_is_certain() {
    let (_scratch, data) = scratch();
    let mut members = Members::new(&data, free_ports(3));
    for id in 0..3 {
        members.start(id, Stdio::null(), if id == 0 { &["--campaign-at-start"] } else { &[] });
    }
    members.wait_for_leader(0);
    members.must_put(0, "a", "1");
    members.kill(0);
    members.kill(1);
    let server = members.address(2).to_string();
    for time in ["700ms", "2s", "4"] {
        for command in
            [&["put", "a", "2"][..], &["cas", "a", "1", "2"], &["delete", "a"], &["get", "a"]]
        {
            let (output, _) = run(&server, &[command, &["--timeout", time]].concat());
            assert_eq!(output.status.code(), Some(NOT_DONE), "{command:?} {time}: {output:?}");
        }
    }
    let (output, _) = run(&server, &["status", "--timeout", "20s"]);
    assert_eq!(output.status.code(), Some(NOT_DONE), "{output:?}");
    let text = String::from_utf8_lossy(&output.stdout);
    assert!(text.contains("no leader in term"), "{text}");
    // A node that waits for the others at its first start.
    let (_scratch, data) = scratch();
    let mut members = Members::new(&data, free_ports(3));
    members.start(0, Stdio::null(), &[]);
    let server = members.address(0).to_string();
    let deadline = Instant::now() + PATIENCE;
    while std::net::TcpStream::connect(&server).is_err() {
        assert!(Instant::now() < deadline);
        std::thread::sleep(Duration::from_millis(20));
    }
    let metrics = get(members.address(0), "/metrics").expect("they are answered at any time");
    assert!(metrics.contains("\nraft_ready 0\n"), "{metrics}");
    for command in [&["put", "a", "2"][..], &["get", "a"], &["status"]] {
        let (output, _) = run(&server, &[command, &["--timeout", "1s"]].concat());
        assert_eq!(output.status.code(), Some(NOT_DONE), "{command:?}: {output:?}");
        assert!(complaint(&output).contains("starting"), "{command:?}: {output:?}");
    }
}

#[test]
fn a_server_that_hangs_or_is_no_node_does_not_hold_up_the_others() {
    let (_scratch, data) = scratch();
    let members = Members::serving(&data, free_ports(3));
    members.wait_for_followers(0);
    let own = members.address(0).to_string();
    // It accepts connections and never answers, as a stopped process does.
    let hangs = TcpListener::bind("127.0.0.1:0").unwrap();
    let foreign = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = |listener: &TcpListener| listener.local_addr().unwrap().to_string();
    let silent = TcpListener::bind("127.0.0.1:0").unwrap();
    let servers = [address(&hangs), address(&foreign), address(&silent), own].join(",");
    drop(silent);
    std::thread::spawn(move || {
        for stream in foreign.incoming() {
            let Ok(mut stream) = stream else { break };
            let _ = stream.read(&mut [0; 4096]);
            let answer = b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\nconnection: close\r\n\r\nok";
            let _ = stream.write_all(answer);
        }
    });
    for command in [
        &["put", "a", "1"][..],
        &["get", "a"],
        &["cas", "a", "1", "2"],
        &["status"],
        &["members"],
        &["delete", "a"],
        &["transfer"],
    ] {
        // Each server gets a quarter of the time. One that got all of it would make the command
        // fail. One that does not answer soon gets less.
        let began = std::time::Instant::now();
        let (output, _) = run(&servers, &[command, &["--timeout", "60s"]].concat());
        assert_eq!(output.status.code(), Some(0), "{command:?}: {output:?}");
        assert!(began.elapsed().as_secs() < 14, "{command:?}: {:?}", began.elapsed());
    }
}
